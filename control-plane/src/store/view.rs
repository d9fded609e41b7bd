//! A shipped record as it is stored and shown: one conversion for every store and for the
//! live stream, so that a record looks the same wherever it comes from.

use std::net::IpAddr;

use ipnet::IpNet;
use ipwarden::decisions::{NEVER, UnixSeconds};
use ipwarden::privacy::AddressForm;
use ipwarden::record::{Record, Verdict};
use jiff::Timestamp;

use super::text::display_bytes;
use super::{IncomingBatch, RecordQuery, StatusFilter, flags};
use crate::geo::Spot;
use crate::model::StoredRecord;
use crate::privacy::Veil;

/// A time of the wire as a timestamp; one beyond the calendar is its last microsecond.
#[must_use]
pub fn timestamp_of_us(us: u64) -> Timestamp {
    let last = Timestamp::MAX.as_microsecond();
    let us = i64::try_from(us).map_or(last, |us| us.min(last));
    time_of_us(us).unwrap_or(Timestamp::MAX)
}

/// The inverse of [`Timestamp::as_microsecond`] over the whole calendar
/// ([`Timestamp::from_microsecond`] leaves out its last second).
pub(super) fn time_of_us(us: i64) -> Option<Timestamp> {
    let nanosecond = i32::try_from(us.rem_euclid(1_000_000) * 1_000).ok()?;
    Timestamp::new(us.div_euclid(1_000_000), nanosecond).ok()
}

/// The end of a decision as proxies know it: whole seconds, rounded up, so that none ends
/// early there.
#[must_use]
pub fn wire_expiry(expires_at: Option<Timestamp>) -> UnixSeconds {
    let Some(end) = expires_at else { return NEVER };
    let seconds = end.as_second() + i64::from(end.subsec_nanosecond() > 0);
    UnixSeconds::try_from(seconds.max(0)).map_or(NEVER - 1, |seconds| seconds.min(NEVER - 1))
}

/// The records of a batch as [`super::LogStore::search`] returns them once they are stored
/// with numbers from `first_id` on.
pub fn stored_records<'a>(
    incoming: &'a IncomingBatch<'a>,
    first_id: i64,
) -> impl Iterator<Item = StoredRecord> + 'a {
    let proxy = display_bytes(incoming.batch.header.proxy);
    (first_id..).zip(incoming.batch.records.iter().enumerate()).map(move |(id, (n, record))| {
        let veil = Veil::of(record.form, incoming.batch.header.key);
        stored_record(id, record, veil, incoming.places.get(n), &proxy, incoming.store_query)
    })
}

fn stored_record(
    id: i64,
    record: &Record<'_>,
    veil: Veil,
    place: Option<&Spot>,
    proxy: &str,
    store_query: bool,
) -> StoredRecord {
    let text = |bytes| display_bytes(bytes).into_owned();
    StoredRecord {
        id,
        time: timestamp_of_us(record.time_us),
        ip: record.ip,
        form: veil.form,
        key: veil.key.map(|key| key.to_string()),
        method: text(record.method),
        host: text(record.host),
        path: text(record.path),
        query: (store_query && !record.query.is_empty()).then(|| text(record.query)),
        status: record.status,
        verdict: record.verdict.as_str().to_owned(),
        decision: (record.decision != 0).then_some(record.decision),
        rule: (!record.rule.is_empty()).then(|| text(record.rule)),
        weight: record.weight,
        duration_ms: milliseconds(clamped(record.duration_us)),
        bytes_in: clamped(record.bytes_in).unsigned_abs(),
        bytes_out: clamped(record.bytes_out).unsigned_abs(),
        flags: flags::short_names(record.flags),
        user_agent: text(record.user_agent),
        request_id: text(record.request_id),
        country: place.and_then(|place| place.country).map(|country| country.to_string()),
        city: place.and_then(|place| place.city.as_deref()).map(ToOwned::to_owned),
        asn: place.and_then(|place| place.asn),
        proxy: proxy.to_owned(),
    }
}

/// The first microsecond that is not before a time: both ends of a span are met by it,
/// since records are kept to the microsecond.
pub(super) fn next_us(time: Timestamp) -> i64 {
    let us = time.as_microsecond();
    // Whole microseconds are cut towards zero.
    if time.as_nanosecond() > i128::from(us) * 1_000 { us + 1 } else { us }
}

/// A count as databases hold it: signed, so that one over 2^63 is cut to that.
pub(super) fn clamped(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Microseconds as milliseconds with a fraction.
pub(super) fn milliseconds(us: i64) -> f64 {
    us as f64 / 1_000.0
}

impl RecordQuery {
    /// Whether a record meets all conditions (`before` and `limit` aside).
    #[must_use]
    pub fn matches(&self, record: &StoredRecord) -> bool {
        let equal = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let form = match self.form {
            Some(form) => record.form == form,
            // A pseudonym is no address: it lies in no network.
            None => self.net.is_none() || record.form != AddressForm::Pseudonym,
        };
        form && self.net.is_none_or(|net| record.ip.is_some_and(|ip| contains(net, ip)))
            && self.path_prefix.as_deref().is_none_or(|prefix| record.path.starts_with(prefix))
            && equal(&self.host, &record.host)
            && equal(&self.method, &record.method)
            && equal(&self.proxy, &record.proxy)
            && equal(&self.user_agent, &record.user_agent)
            && self.rule.as_deref().is_none_or(|rule| record.rule.as_deref() == Some(rule))
            && self.asn.is_none_or(|asn| record.asn == Some(asn))
            && self
                .country
                .is_none_or(|country| record.country.as_deref() == Some(country.as_str()))
            && self.status.is_none_or(|status| status.matches(record.status))
            && (self.verdicts.is_empty()
                || Verdict::from_word(&record.verdict)
                    .is_some_and(|verdict| self.verdicts.contains(&verdict)))
            && self.since.is_none_or(|since| since <= record.time)
            && self.until.is_none_or(|until| record.time < until)
    }
}

impl StatusFilter {
    /// Whether a status meets the condition.
    #[must_use]
    pub fn matches(self, status: u16) -> bool {
        let (first, last) = self.range();
        (first..=last).contains(&status)
    }

    /// First and last status that meets the condition.
    #[must_use]
    pub fn range(self) -> (u16, u16) {
        match self {
            Self::Code(code) => (code, code),
            Self::Class(class) => {
                let first = class.saturating_mul(100);
                (first, first.saturating_add(99))
            }
        }
    }
}

fn contains(net: IpNet, ip: IpAddr) -> bool {
    ipwarden::address::fold_net(net).contains(&ipwarden::address::fold(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_rounded_up_and_kept_apart_from_never() {
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        assert_eq!(wire_expiry(None), NEVER);
        assert_eq!(wire_expiry(at("1970-01-01T00:00:10Z")), 10);
        assert_eq!(wire_expiry(at("1970-01-01T00:00:10.000000001Z")), 11);
        assert_eq!(wire_expiry(at("1969-01-01T00:00:00Z")), 0);
        assert_eq!(wire_expiry(at("2222-01-01T00:00:00Z")), NEVER - 1);
    }

    #[test]
    fn times_beyond_the_calendar_are_its_last_moment() {
        assert_eq!(timestamp_of_us(1_700_000_000_000_001).as_microsecond(), 1_700_000_000_000_001);
        assert_eq!(timestamp_of_us(u64::MAX).as_microsecond(), Timestamp::MAX.as_microsecond());
        let before_1970 = Timestamp::from_microsecond(-1_500_001).unwrap();
        assert_eq!(time_of_us(before_1970.as_microsecond()), Some(before_1970));
        assert_eq!(time_of_us(i64::MAX), None);
    }

    #[test]
    fn spans_begin_and_end_with_the_next_microsecond() {
        let at = |nanosecond| Timestamp::from_nanosecond(nanosecond).unwrap();
        assert_eq!(next_us(at(1_000)), 1);
        assert_eq!(next_us(at(1_001)), 2);
        assert_eq!(next_us(at(-1_001)), -1);
        assert_eq!(next_us(at(-1_000)), -1);
    }

    #[test]
    fn a_class_is_a_hundred_codes() {
        assert!(StatusFilter::Class(4).matches(400));
        assert!(StatusFilter::Class(4).matches(499));
        assert!(!StatusFilter::Class(4).matches(500));
        assert!(StatusFilter::Code(404).matches(404));
        assert!(!StatusFilter::Class(999).matches(404));
    }
}
