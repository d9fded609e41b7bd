//! What is known of where an address is, and the words for it.

use core::fmt;

use serde_core::de::Error as _;
use serde_core::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::bounds::CITY_BYTES;

/// An ISO 3166-1 alpha-2 code in capitals: `FR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// Reads two letters in either case. `None` for anything else, and for `ZZ` and `XX`, by
    /// which databases mean that they don't know.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let &[first, second] = text.trim().as_bytes() else { return None };
        let code = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
        let known = code.iter().all(u8::is_ascii_uppercase) && &code != b"ZZ" && &code != b"XX";
        known.then_some(Self(code))
    }

    /// The two letters.
    #[must_use]
    pub const fn code(self) -> [u8; 2] {
        self.0
    }

    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Two ASCII letters are always text.
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| D::Error::custom("expected a country's code of two letters"))
    }
}

/// Where a network is. Absent: not known. A place of which nothing is known is none at all:
/// see [`Place::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    country: Option<Country>,
    city: Box<str>,
    /// The city as a header's value, where that is another text.
    city_header: Option<Box<str>>,
    asn: Option<u32>,
    asn_header: Box<str>,
}

impl Place {
    /// A place; `None` where nothing is known. A city is cut at [`CITY_BYTES`] and freed of
    /// control characters; AS 0 is nobody's (RFC 7607).
    #[must_use]
    pub fn new(country: Option<Country>, city: &str, asn: Option<u32>) -> Option<Self> {
        let mut kept = String::new();
        for character in city.trim().chars().filter(|character| !character.is_control()) {
            if kept.len() + character.len_utf8() > CITY_BYTES {
                break;
            }
            kept.push(character);
        }
        let asn = asn.filter(|asn| *asn != 0);
        if country.is_none() && kept.is_empty() && asn.is_none() {
            return None;
        }
        let as_header = header_value(&kept);
        Some(Self {
            country,
            city_header: (as_header != kept).then(|| as_header.into_boxed_str()),
            city: kept.into_boxed_str(),
            asn,
            asn_header: asn.map(|asn| asn.to_string()).unwrap_or_default().into_boxed_str(),
        })
    }

    /// Country.
    #[must_use]
    pub const fn country(&self) -> Option<Country> {
        self.country
    }

    /// City, in English where the source has it; empty where it is not known.
    #[must_use]
    pub fn city(&self) -> &str {
        &self.city
    }

    /// Number of the autonomous system.
    #[must_use]
    pub const fn asn(&self) -> Option<u32> {
        self.asn
    }

    /// The values of the headers that an upstream gets: country, city, autonomous system;
    /// each empty where it is not known.
    #[must_use]
    pub fn headers(&self) -> [&str; 3] {
        let country = self.country.as_ref().map_or("", Country::as_str);
        [country, self.city_header.as_deref().unwrap_or(&self.city), &self.asn_header]
    }
}

/// A text as a header's value: bytes beyond visible ASCII (and `%`) as `%XX` of their UTF-8.
/// Raw UTF-8 is read as Latin-1 by one server and refused by the next.
fn header_value(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte != b'%' && (byte == b' ' || byte.is_ascii_graphic()) {
            value.push(char::from(byte));
        } else {
            value.push_str(&format!("%{byte:02X}"));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_is_two_letters_that_mean_one() {
        assert_eq!(Country::new("fr").map(|country| country.to_string()).as_deref(), Some("FR"));
        for none in ["", "F", "FRA", "1A", "ZZ", "xx", "É", "--"] {
            assert_eq!(Country::new(none), None, "{none}");
        }
    }

    #[test]
    fn a_country_is_a_text_in_json() {
        let country = Country::new("fr").unwrap();
        assert_eq!(serde_json::to_string(&country).unwrap(), r#""FR""#);
        assert_eq!(serde_json::from_str::<Country>(r#""FR""#).unwrap(), country);
        let error = serde_json::from_str::<Country>(r#""FRA""#).unwrap_err().to_string();
        assert!(error.starts_with("expected a country's code of two letters"), "{error}");
    }

    #[test]
    fn nothing_known_is_no_place() {
        assert_eq!(Place::new(None, " \u{7} ", Some(0)), None);
        assert!(Place::new(None, "", Some(1)).is_some());
    }

    #[test]
    fn headers_are_ascii_and_bounded() {
        let place = Place::new(Country::new("BR"), "São Paulo 100%\r\nx: y", Some(64_500)).unwrap();
        assert_eq!(place.headers(), ["BR", "S%C3%A3o Paulo 100%25x: y", "64500"]);
        assert_eq!(place.city(), "São Paulo 100%x: y");
        let long = Place::new(None, &"é".repeat(1_000), None).unwrap();
        assert_eq!(long.city().len(), CITY_BYTES);
        assert_eq!(long.headers(), ["", "%C3%A9".repeat(CITY_BYTES / 2).as_str(), ""]);
    }
}
