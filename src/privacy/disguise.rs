//! What leaves a worker of a request: the last step before a record is written down.

use core::net::IpAddr;

use super::settings::{Address, KeySource, Settings, UserAgent};
use super::{AddressForm, KeyId, Pseudonymizer, agent, truncate};
use crate::record::Record;

/// Pseudonyms remembered: each costs up to 256 encryptions, and clients come back.
const REMEMBERED: usize = 1_024;

/// Applies [`Settings`] to the records of one worker.
#[derive(Debug)]
pub struct Disguise {
    settings: Settings,
    pseudonyms: Option<Pseudonyms>,
}

impl Disguise {
    /// A key must have been resolved to [`KeySource::Given`]; without one, addresses are cut to
    /// their networks instead: never more is told than was meant to be.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let pseudonyms = match &settings.address {
            Address::Pseudonym { scheme, key: KeySource::Given(key) } => {
                Some(Pseudonyms::new(Pseudonymizer::of(key, *scheme)))
            }
            Address::Pseudonym { .. } | Address::Full | Address::Truncate => None,
        };
        Self { settings, pseudonyms }
    }

    /// The key of the pseudonyms, if any are made.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.pseudonyms.as_ref().map(|pseudonyms| pseudonyms.made.key_id())
    }

    /// The record as it may be written down. `record` has the address as it came and says
    /// whether the client opted out.
    ///
    /// Of a client that opted out, the address is truncated whatever the settings say, and what
    /// could lead back to it is left out: user agent, verified identity, city, and the
    /// request's id, by which other logs could be joined.
    #[must_use]
    pub fn apply<'a>(&mut self, record: &Record<'a>) -> Record<'a> {
        let mut told = *record;
        if !self.settings.keep_query {
            told.query = b"";
        }
        if record.opted_out {
            told.ip = record.ip.map(|ip| self.truncated(ip));
            told.form = record.ip.map_or(AddressForm::Full, |_| AddressForm::Truncated);
            (told.user_agent, told.identity) = (b"", b"");
            (told.city, told.request_id) = (b"", b"");
            return told;
        }
        match self.settings.user_agent {
            UserAgent::Full => {}
            UserAgent::Family => told.user_agent = agent::family(record.user_agent).as_bytes(),
            UserAgent::None => told.user_agent = b"",
        }
        if let Some(ip) = record.ip {
            (told.ip, told.form) = match (&self.settings.address, &mut self.pseudonyms) {
                (Address::Full, _) => (Some(ip), AddressForm::Full),
                (Address::Pseudonym { .. }, Some(pseudonyms)) => {
                    (Some(pseudonyms.of(ip)), AddressForm::Pseudonym)
                }
                (Address::Truncate | Address::Pseudonym { .. }, _) => {
                    (Some(self.truncated(ip)), AddressForm::Truncated)
                }
            };
        }
        told
    }

    fn truncated(&self, ip: IpAddr) -> IpAddr {
        truncate(ip, self.settings.ipv4_prefix, self.settings.ipv6_prefix)
    }
}

impl Default for Disguise {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

/// Pseudonyms, the last ones remembered in a table of fixed size.
#[derive(Debug)]
struct Pseudonyms {
    made: Pseudonymizer,
    /// Address and pseudonym, each at one place.
    remembered: Box<[Option<(IpAddr, IpAddr)>]>,
}

impl Pseudonyms {
    fn new(made: Pseudonymizer) -> Self {
        Self { made, remembered: vec![None; REMEMBERED].into_boxed_slice() }
    }

    fn of(&mut self, ip: IpAddr) -> IpAddr {
        let hash = match ip {
            IpAddr::V4(ip) => crate::bytes::fnv1a(&ip.octets()),
            IpAddr::V6(ip) => crate::bytes::fnv1a(&ip.octets()),
        };
        let place = self.remembered.get_mut(hash as usize % REMEMBERED);
        if let Some(Some((known, pseudonym))) = &place
            && *known == ip
        {
            return *pseudonym;
        }
        let pseudonym = self.made.pseudonym(ip);
        if let Some(place) = place {
            *place = Some((ip, pseudonym));
        }
        pseudonym
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::{Key, Scheme};
    use crate::record::Verdict;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const KEY: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301";

    fn record() -> Record<'static> {
        Record {
            time_us: 1,
            ip: Some("203.0.113.7".parse().unwrap()),
            form: AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"shop.example",
            path: b"/a",
            query: b"q=1",
            status: 200,
            flags: 0,
            duration_us: 1,
            bytes_in: 1,
            bytes_out: 1,
            user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
            request_id: b"5c3a",
            country: Some(*b"GB"),
            city: b"London",
            asn: Some(20_712),
            identity: b"alice",
        }
    }

    fn pseudonym(key: KeySource) -> Settings {
        let address = Address::Pseudonym { scheme: Scheme::Prefix, key };
        Settings { address, ..Settings::default() }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn by_default_everything_is_told() {
        assert_eq!(Disguise::default().apply(&record()), record());
        let nobody = Record { ip: None, ..record() };
        assert_eq!(Disguise::default().apply(&nobody), nobody);
    }

    #[test]
    fn an_address_takes_its_form_before_it_is_written() {
        let truncate = Settings { address: Address::Truncate, ..Settings::default() };
        let told = Disguise::new(truncate).apply(&record());
        assert_eq!((told.ip, told.form), (ip("203.0.113.0"), AddressForm::Truncated));

        let mut disguise = Disguise::new(pseudonym(KeySource::Given(Key::from_hex(KEY).unwrap())));
        for address in ["192.0.2.1", "203.0.113.7", "192.0.2.1", "2001:db8::1"] {
            let told = disguise.apply(&Record { ip: ip(address), ..record() });
            assert_eq!(told.form, AddressForm::Pseudonym);
            let key = Key::from_hex(KEY).unwrap();
            let made = Pseudonymizer::with_id(&key, disguise.key_id().unwrap()).unwrap();
            assert_eq!(told.ip, Some(made.pseudonym(ip(address).unwrap())));
        }
    }

    #[test]
    fn a_key_that_is_missing_tells_less_not_more() {
        let mut disguise = Disguise::new(pseudonym(KeySource::Env("NOT_READ".to_owned())));
        let told = disguise.apply(&record());
        assert_eq!((told.ip, told.form), (ip("203.0.113.0"), AddressForm::Truncated));
        assert_eq!(disguise.key_id(), None);
    }

    #[test]
    fn user_agents_and_queries_are_reduced_by_choice() {
        let family =
            Settings { user_agent: UserAgent::Family, keep_query: false, ..Settings::default() };
        let told = Disguise::new(family).apply(&record());
        assert_eq!((told.user_agent, told.query), (&b"Firefox"[..], &b""[..]));
        assert_eq!(told.identity, b"alice", "what was not asked for stays");
        let none = Settings { user_agent: UserAgent::None, ..Settings::default() };
        assert_eq!(Disguise::new(none).apply(&record()).user_agent, b"");
    }

    #[test]
    fn who_opts_out_is_truncated_in_every_mode_and_nothing_leads_back() {
        let key = KeySource::Given(Key::from_hex(KEY).unwrap());
        for settings in [Settings::default(), pseudonym(key)] {
            let settings = Settings { ipv4_prefix: 16, ..settings };
            let told = Disguise::new(settings).apply(&Record { opted_out: true, ..record() });
            assert_eq!(
                told,
                Record {
                    ip: ip("203.0.0.0"),
                    form: AddressForm::Truncated,
                    opted_out: true,
                    user_agent: b"",
                    request_id: b"",
                    identity: b"",
                    city: b"",
                    ..record()
                }
            );
        }
        let nobody = Record { ip: None, opted_out: true, ..record() };
        assert_eq!(Disguise::default().apply(&nobody).form, AddressForm::Full);
    }
}
