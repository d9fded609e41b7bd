//! Where an address is: the words of the API.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
pub use ipwarden::geo::Country;
use ipwarden::privacy::AddressForm;
use ipwarden::record::Record;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is known of the place and the network operator of an address. Absent: unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// ISO 3166-1 alpha-2 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "GB")]
    pub country: Option<Country>,
    /// Region or state, in English where the data has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// City, in English where the data has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// Degrees north, of the city or the country's middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    /// Degrees east.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    /// Time zone such as `Europe/London`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Number of the autonomous system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// Who runs the autonomous system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_org: Option<String>,
}

impl Place {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An answer to where an address is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Located {
    /// The address, folded.
    #[schema(value_type = String, example = "81.2.69.160")]
    pub ip: IpAddr,
    /// The answer is the same for every address in here.
    #[schema(value_type = String, example = "81.2.69.160/27")]
    pub network: IpNet,
    /// No client on the Internet can have this address, so nothing was looked up. Absent
    /// for all others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reserved: bool,
    /// What is known.
    #[serde(flatten)]
    pub place: Place,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a record keeps of a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spot {
    /// Country.
    pub country: Option<Country>,
    /// City; shared by all records of a network.
    pub city: Option<Arc<str>>,
    /// Number of the autonomous system.
    pub asn: Option<u32>,
}

impl Spot {
    /// What the proxy said of the same address where it said anything; this where it did not.
    /// A city goes with the country that named it: two sources are not mixed within a place.
    #[must_use]
    pub fn over(self, record: &Record<'_>) -> Self {
        let told = record.country.and_then(|code| Country::new(std::str::from_utf8(&code).ok()?));
        let city = std::str::from_utf8(record.city).ok().filter(|city| !city.is_empty());
        let agrees = told.is_none() || told == self.country;
        // A network's first address lies where it lies; its clients may be elsewhere. And of
        // who opted out, the country is enough.
        let is_exact = record.form == AddressForm::Full && !record.opted_out;
        Self {
            country: told.or(self.country),
            city: match city.filter(|_| !record.opted_out) {
                // Nearly always the same: then the one that is shared.
                Some(city) if self.city.as_deref() == Some(city) => self.city,
                Some(city) => Some(Arc::from(city)),
                None => self.city.filter(|_| agrees && is_exact),
            },
            asn: record.asn.or(self.asn),
        }
    }
}

impl From<&Place> for Spot {
    fn from(place: &Place) -> Self {
        Self { country: place.country, city: place.city.as_deref().map(Arc::from), asn: place.asn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_proxy_did_not_know_is_completed() {
        let known = Spot {
            country: Country::new("GB"),
            city: Some(Arc::from("London")),
            asn: Some(20_712),
        };
        let batch = batch();
        let record = ipwarden::record::wire::decode(&batch).unwrap().records[0];
        assert_eq!(known.clone().over(&record), known);
        for told in [
            Record { opted_out: true, city: b"Leeds", ..record },
            Record { form: AddressForm::Truncated, ..record },
        ] {
            let spot = known.clone().over(&told);
            assert_eq!((spot.country, spot.city, spot.asn), (known.country, None, known.asn));
        }
        let told = Record { country: Some(*b"FR"), ..record };
        let spot = known.clone().over(&told);
        assert_eq!((spot.country, spot.city), (Country::new("FR"), None), "no London in France");
        assert_eq!(spot.asn, Some(20_712));
        let told = Record { country: Some(*b"GB"), city: b"Leeds", asn: Some(7), ..record };
        let spot = known.over(&told);
        assert_eq!(spot.city.as_deref(), Some("Leeds"));
        assert_eq!((spot.country, spot.asn), (Country::new("GB"), Some(7)));
        let spot = Spot::default().over(&Record { country: Some(*b"ZZ"), city: b"\xff", ..record });
        assert_eq!(spot, Spot::default());
    }

    /// A batch of one record that knows nothing of its client.
    fn batch() -> Vec<u8> {
        let header = ipwarden::record::BatchHeader {
            stream: 1,
            number: 1,
            started_us: 0,
            sent_us: 0,
            proxy: b"edge",
            version: b"0.1.0",
            key: None,
            applied: Default::default(),
            seen: 1,
            lost: 0,
            skipped: 0,
        };
        // Verdict and family, then zeros: a record's fields are all empty or 0.
        ipwarden::record::wire::encode(&header, 1, 1, &[0; 20])
    }

    #[test]
    fn unknown_fields_are_left_out_of_json() {
        let reserved = Located {
            ip: "10.1.2.3".parse().unwrap(),
            network: "10.0.0.0/8".parse().unwrap(),
            reserved: true,
            place: Place::default(),
        };
        let json = serde_json::json!({"ip": "10.1.2.3", "network": "10.0.0.0/8", "reserved": true});
        assert_eq!(serde_json::to_value(&reserved).unwrap(), json);
        assert_eq!(serde_json::from_value::<Located>(json).unwrap(), reserved);
    }
}
