//! The fields of a database's record, in every layout that is known:
//!
//! - MaxMind's, nested: `country.iso_code`, `city.names.en`, `subdivisions[0].names.en`,
//!   `location.time_zone`, `autonomous_system_number`;
//! - ip-location-db's, flat: `country_code`, `city`, `state1`, `timezone`,
//!   `autonomous_system_number`;
//! - IPinfo's, flat: `country` or `country_code`, `region`, `asn` as `AS64496`, `as_name`.
//!
//! A field of an unexpected type counts as absent: a database is not refused for it. All
//! text is bounded and freed of control characters here, because it goes into headers.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::place::{Country, Place};

/// Longest text that is kept of a field, in bytes.
const MAX_TEXT_BYTES: usize = 128;

/// A record of any layout.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    country_code: Value<'a>,
    #[serde(borrow)]
    country: Value<'a>,
    #[serde(borrow)]
    city: Value<'a>,
    #[serde(borrow)]
    state1: Value<'a>,
    #[serde(borrow)]
    region: Value<'a>,
    #[serde(borrow)]
    subdivisions: Value<'a>,
    #[serde(borrow)]
    location: Value<'a>,
    #[serde(borrow)]
    latitude: Value<'a>,
    #[serde(borrow)]
    longitude: Value<'a>,
    #[serde(borrow)]
    timezone: Value<'a>,
    #[serde(borrow)]
    autonomous_system_number: Value<'a>,
    #[serde(borrow)]
    autonomous_system_organization: Value<'a>,
    #[serde(borrow)]
    asn: Value<'a>,
    #[serde(borrow)]
    as_name: Value<'a>,
}

impl Fields<'_> {
    /// What they say.
    pub(super) fn place(&self) -> Place {
        let first = |values: [Option<&str>; 2]| values.into_iter().flatten().find_map(tidy);
        let code = [self.country_code.text, self.country.code, self.country.text];
        let location = &self.location;
        let asn = [&self.autonomous_system_number, &self.asn];
        Place {
            country: code.into_iter().flatten().find_map(Country::new),
            region: first([self.subdivisions.name, self.state1.text])
                .or_else(|| first([self.region.name, self.region.text])),
            city: first([self.city.name, self.city.text]),
            latitude: degrees(location.latitude.or(self.latitude.degrees()), 90.0),
            longitude: degrees(location.longitude.or(self.longitude.degrees()), 180.0),
            timezone: first([location.time_zone, self.timezone.text]),
            asn: asn.into_iter().find_map(|value| value.system()),
            as_org: first([self.autonomous_system_organization.text, self.as_name.text]),
        }
    }
}

fn tidy(text: &str) -> Option<String> {
    let mut out = String::new();
    for c in text.trim().chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        out.push(c);
    }
    // `-` is how some databases write that they don't know.
    (!out.is_empty() && out != "-").then_some(out)
}

fn degrees(value: Option<f64>, most: f64) -> Option<f64> {
    value.filter(|degrees| degrees.abs() <= most)
}

/// A value of any type, as far as one of the layouts gives it a meaning.
#[derive(Debug, Default)]
struct Value<'a> {
    /// A bare text.
    text: Option<&'a str>,
    /// A bare number.
    number: Option<f64>,
    /// `iso_code` of a map.
    code: Option<&'a str>,
    /// `names.en` of a map, or of the first map of a list; any other language where there
    /// is no English.
    name: Option<&'a str>,
    /// `latitude`, `longitude` and `time_zone` of a map.
    latitude: Option<f64>,
    longitude: Option<f64>,
    time_zone: Option<&'a str>,
}

impl Value<'_> {
    fn degrees(&self) -> Option<f64> {
        self.number.or_else(|| self.text?.trim().parse().ok())
    }

    /// `64496` or `AS64496`; 0 is nobody's.
    fn system(&self) -> Option<u32> {
        let from_text = || {
            let text = self.text?.trim();
            let digits = text.strip_prefix("AS").or_else(|| text.strip_prefix("as"));
            digits.unwrap_or(text).parse().ok()
        };
        let whole = |number: f64| {
            // Every u32 is exact in an f64.
            (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number))
                .then_some(number as u32)
        };
        self.number.and_then(whole).or_else(from_text).filter(|&asn| asn != 0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor(PhantomData))
    }
}

struct ValueVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ValueVisitor<'a> {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'a>, E> {
        Ok(Value { text: Some(text), ..Value::default() })
    }

    fn visit_str<E>(self, _: &str) -> Result<Value<'a>, E> {
        Ok(Value::default())
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value<'a>, E> {
        Ok(Value::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'a>, E> {
        Ok(Value::default())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'a>, E> {
        Ok(Value { number: Some(number as f64), ..Value::default() })
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'a>, E> {
        Ok(Value { number: Some(number as f64), ..Value::default() })
    }

    fn visit_f32<E>(self, number: f32) -> Result<Value<'a>, E> {
        // The shortest text of 51.5142 as an f32 is 51.5142; its bits as an f64 are not.
        Ok(Value { number: number.to_string().parse().ok(), ..Value::default() })
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value<'a>, E> {
        Ok(Value::default())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'a>, E> {
        Ok(Value { number: Some(number), ..Value::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'a>, A::Error> {
        let mut value = Value::default();
        while let Some(key) = map.next_key::<&'de str>()? {
            match key {
                "iso_code" => value.code = map.next_value::<Value<'a>>()?.text,
                "names" => value.name = map.next_value::<Names<'a>>()?.0,
                "latitude" => value.latitude = map.next_value::<Value<'a>>()?.degrees(),
                "longitude" => value.longitude = map.next_value::<Value<'a>>()?.degrees(),
                "time_zone" => value.time_zone = map.next_value::<Value<'a>>()?.text,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value<'a>, A::Error> {
        let first = list.next_element::<Value<'a>>()?.unwrap_or_default();
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

/// One name of a map from languages to names: English, else the first there is.
struct Names<'a>(Option<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesVisitor<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for NamesVisitor<'a> {
            type Value = Names<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from languages to names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<'a>, A::Error> {
                let mut name = None;
                while let Some(language) = map.next_key::<&'de str>()? {
                    if language == "en" || name.is_none() {
                        name = map.next_value::<Value<'a>>()?.text.or(name);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Names(name))
            }
        }

        deserializer.deserialize_map(NamesVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(json: &str) -> Place {
        serde_json::from_str::<Fields<'_>>(json).unwrap().place()
    }

    fn country(code: &str) -> Option<Country> {
        Country::new(code)
    }

    #[test]
    fn the_nested_layout_is_read() {
        let read = place(
            r#"{"country": {"geoname_id": 2635167, "iso_code": "GB", "names": {"de": "Vereinigtes Königreich", "en": "United Kingdom"}},
                "city": {"names": {"de": "Londinium", "en": "London", "fr": "Londres"}},
                "subdivisions": [{"iso_code": "ENG", "names": {"en": "England"}}, {"names": {"en": "Other"}}],
                "location": {"accuracy_radius": 100, "latitude": 51.5142, "longitude": -0.0931, "time_zone": "Europe/London"},
                "traits": {"is_anycast": true}}"#,
        );
        assert_eq!(
            read,
            Place {
                country: country("GB"),
                region: Some("England".into()),
                city: Some("London".into()),
                latitude: Some(51.5142),
                longitude: Some(-0.0931),
                timezone: Some("Europe/London".into()),
                ..Place::default()
            }
        );
        let read = place(
            r#"{"autonomous_system_number": 20712, "autonomous_system_organization": "Andrews & Arnold Ltd"}"#,
        );
        assert_eq!((read.asn, read.as_org.as_deref()), (Some(20712), Some("Andrews & Arnold Ltd")));
    }

    #[test]
    fn the_flat_layouts_are_read() {
        let read = place(
            r#"{"country_code": "FR", "state1": "Île-de-France", "state2": "", "city": "Paris",
                "postcode": "75001", "latitude": 48.8534, "longitude": "2.3488", "timezone": ""}"#,
        );
        assert_eq!(
            read,
            Place {
                country: country("FR"),
                region: Some("Île-de-France".into()),
                city: Some("Paris".into()),
                latitude: Some(48.8534),
                longitude: Some(2.3488),
                ..Place::default()
            }
        );
        let read = place(r#"{"country": "us", "asn": "AS15169", "as_name": "Google LLC"}"#);
        assert_eq!((read.country, read.asn), (country("US"), Some(15169)));
        let read = place(r#"{"country": "United States", "country_code": "US"}"#);
        assert_eq!(read.country, country("US"));
    }

    #[test]
    fn odd_values_count_as_absent() {
        let read = place(
            r#"{"country": ["x"], "country_code": 7, "city": {"names": {}}, "state1": true,
                "latitude": 91.0, "longitude": "east", "asn": -1, "autonomous_system_number": 0,
                "subdivisions": [], "location": "here", "timezone": "-"}"#,
        );
        assert_eq!(read, Place::default());
    }

    #[test]
    fn text_is_short_and_has_no_control_characters() {
        let city = tidy(&format!(" Par\u{1b}[31mis\r\nx-evil: 1{}", "é".repeat(200))).unwrap();
        assert!(city.starts_with("Par[31misx-evil: 1é"), "{city}");
        assert!(city.len() <= MAX_TEXT_BYTES && !city.chars().any(char::is_control));
    }

    #[test]
    fn a_name_is_english_where_there_is_english() {
        let named = |names: &str| place(&format!(r#"{{"city": {{"names": {names}}}}}"#)).city;
        assert_eq!(named(r#"{"de": "Wien", "en": "Vienna"}"#).as_deref(), Some("Vienna"));
        assert_eq!(named(r#"{"de": "Wien", "fr": "Vienne"}"#).as_deref(), Some("Wien"));
    }
}
