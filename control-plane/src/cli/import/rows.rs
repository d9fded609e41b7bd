//! A row of a foreign table as what is stored here, or why it is not.

use std::net::IpAddr;

use ipwarden::geo::Country;
use jiff::{Timestamp, civil, tz::TimeZone};

use super::source::Row;
use crate::cli::text::clean;
use crate::regions::countries;

/// Words for "nobody knows" in a column of places.
const UNKNOWN: [&str; 8] = ["unknown", "none", "null", "n/a", "-", "?", "zz", "xx"];
/// Longest foreign text that a message repeats, in characters.
const SHOWN_CHARS: usize = 60;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When.
    pub time: Timestamp,
    /// From where.
    pub ip: IpAddr,
    /// Path without the query.
    pub path: String,
    /// What followed the question mark.
    pub query: String,
    /// The country, where it is known and named so that it is understood.
    pub country: Option<Country>,
    /// The city, empty when unknown.
    pub city: String,
}

/// A suspicious address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// Whose.
    pub ip: IpAddr,
    /// Why.
    pub reason: String,
    /// When it was noticed, where the table says so.
    pub time: Option<Timestamp>,
}

/// Reads the number of a row.
///
/// # Errors
/// What is wrong and what was expected.
pub fn id(row: &Row) -> Result<u64, String> {
    let text = row.text(0).unwrap_or_default();
    // Numbers are kept as signed ones.
    text.parse().ok().filter(|id| (1..=i64::MAX as u64).contains(id)).ok_or_else(|| {
        format!("id {}: expected a number from 1 on, as Django gives by default", shown(text))
    })
}

/// Reads the address of a row.
///
/// # Errors
/// What is wrong and what was expected.
pub fn ip(row: &Row) -> Result<IpAddr, String> {
    let text = row.text(1).ok_or("ip_address is empty: expected an IP address")?;
    let ip = text.parse().map_err(|_| {
        format!("ip_address {} is no IP address: expected one such as 203.0.113.7", shown(text))
    })?;
    Ok(ipwarden::address::fold(ip))
}

/// Reads a request. The second value says what of it could not be understood although it is
/// taken.
///
/// # Errors
/// Why the row can't be taken.
pub fn request(
    row: &Row,
    zone: &TimeZone,
    now: Timestamp,
) -> Result<(Request, Option<String>), String> {
    let ip = ip(row)?;
    let text = row.text(2).ok_or("timestamp is empty: expected a time")?;
    let time = time(text, zone).ok_or_else(|| {
        format!(
            "timestamp {} is no time: expected one such as 2026-11-22 16:00:00.123456 or 2026-11-22T16:00:00Z",
            shown(text)
        )
    })?;
    if time > now {
        return Err(format!(
            "timestamp {} lies in the future: is --zone the zone of the database?",
            shown(text)
        ));
    }
    let full = row.text(3).unwrap_or("/");
    let (path, query) = full.split_once('?').unwrap_or((full, ""));
    let (country, note) = match row.text(4).filter(|text| !is_unknown(text)) {
        None => (None, None),
        Some(text) => match country(text) {
            Some(country) => (Some(country), None),
            None => {
                let note = format!(
                    "country {} is not known: expected a code such as FR or an English name; stored without",
                    shown(text)
                );
                (None, Some(note))
            }
        },
    };
    let city = row.text(5).filter(|text| !is_unknown(text)).unwrap_or_default().to_owned();
    let request =
        Request { time, ip, path: path.to_owned(), query: query.to_owned(), country, city };
    Ok((request, note))
}

/// Reads a suspicious address.
///
/// # Errors
/// Why the row can't be taken.
pub fn suspicion(row: &Row, zone: &TimeZone) -> Result<Suspicion, String> {
    let ip = ip(row)?;
    let reason = row.text(2).unwrap_or_default().to_owned();
    let time = row.text(3).and_then(|text| time(text, zone));
    Ok(Suspicion { ip, reason, time })
}

/// A time with its zone, or as Django writes it into SQLite: without one.
fn time(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let local: civil::DateTime = text.parse().ok()?;
    Some(local.to_zoned(zone.clone()).ok()?.timestamp())
}

fn country(text: &str) -> Option<Country> {
    let code = Country::new(&text.to_ascii_uppercase());
    let code = code.and_then(|code| {
        if countries::is_assigned(code) {
            Some(code)
        } else {
            countries::meant(code).and_then(Country::new)
        }
    });
    code.or_else(|| countries::named(text))
}

fn is_unknown(text: &str) -> bool {
    UNKNOWN.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_CHARS).collect();
    format!("'{}'", clean(&short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Row {
        let values = values.iter().map(|text| Some((*text).to_owned())).collect();
        Row { place: "t row 1".to_owned(), values }
    }

    fn read(values: &[&str]) -> Result<(Request, Option<String>), String> {
        request(&row(values), &TimeZone::UTC, "2026-11-22T16:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_request_is_read_as_django_writes_it() {
        let (found, note) = read(&[
            "7",
            " ::ffff:203.0.113.7",
            "2026-11-21 08:09:10.123456",
            "/shop?item=1",
            "United States",
            "New York",
        ])
        .unwrap();
        assert_eq!(note, None);
        assert_eq!(found.ip.to_string(), "203.0.113.7");
        assert_eq!(found.time.to_string(), "2026-11-21T08:09:10.123456Z");
        assert_eq!((found.path.as_str(), found.query.as_str()), ("/shop", "item=1"));
        assert_eq!(found.country.unwrap().as_str(), "US");
        assert_eq!(found.city, "New York");
        // PostgreSQL's own way of writing, an empty path, nothing known.
        let (found, note) =
            read(&["7", "2001:db8::1", "2026-11-21 08:09:10+02", "", "Unknown", ""]).unwrap();
        assert_eq!((found.time.to_string().as_str(), note), ("2026-11-21T06:09:10Z", None));
        assert_eq!((found.path.as_str(), found.country), ("/", None));
    }

    #[test]
    fn what_is_odd_is_said() {
        let odd = |values: &[&str]| read(values).unwrap_err();
        assert_eq!(
            odd(&["1", "10.0.0.300", "2026-11-21 08:00:00", "/"]),
            "ip_address '10.0.0.300' is no IP address: expected one such as 203.0.113.7"
        );
        assert_eq!(
            odd(&["1", "10.0.0.3", "21.11.2026", "/"]),
            "timestamp '21.11.2026' is no time: expected one such as 2026-11-22 16:00:00.123456 or 2026-11-22T16:00:00Z"
        );
        assert_eq!(
            odd(&["1", "10.0.0.3", "2026-11-22 16:00:01", "/"]),
            "timestamp '2026-11-22 16:00:01' lies in the future: is --zone the zone of the database?"
        );
        assert_eq!(
            read(&["1", "10.0.0.3", "2026-11-22 15:00:00", "/", "Narnia"]).unwrap().1.unwrap(),
            "country 'Narnia' is not known: expected a code such as FR or an English name; stored without"
        );
        assert_eq!(
            id(&row(&["b0c1"])).unwrap_err(),
            "id 'b0c1': expected a number from 1 on, as Django gives by default"
        );
    }

    #[test]
    fn countries_are_codes_or_names() {
        for (text, code) in [
            ("fr", "FR"),
            ("UK", "GB"),
            ("Côte d'Ivoire", "CI"),
            ("Korea, Republic of", "KR"),
            ("The Netherlands", "NL"),
            ("Bosnia & Herzegovina", "BA"),
            ("TÜRKIYE", "TR"),
            ("St. Lucia", "LC"),
        ] {
            assert_eq!(
                country(text).map(|c| c.as_str().to_owned()).as_deref(),
                Some(code),
                "{text}"
            );
        }
        assert_eq!(country("ZZ"), None);
    }
}
