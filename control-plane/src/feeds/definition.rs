//! What an admin asks for: texts of the API, checked all at once.

use std::time::Duration;

use minisign_verify::PublicKey;
use reqwest::Url;
use reqwest::header::HeaderName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fetch::refused_host;
use crate::model::{Action, Origin};
use crate::problem::{Fault, fault};

/// Shortest time between two fetches over HTTP where the publisher asks for nothing else.
const LEAST_HTTP: Duration = Duration::from_secs(300);
/// Shortest time between two looks at a file.
const LEAST_FILE: Duration = Duration::from_secs(10);
/// Shortest time between two polls of a CrowdSec.
const LEAST_CROWDSEC: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// Shortest and usual bound of staleness.
const LEAST_STALE: Duration = Duration::from_secs(3_600);
const USUAL_STALE: Duration = Duration::from_secs(7 * 86_400);
/// Publishers that say how often they want to be asked at most.
const PUBLISHERS: [(&str, Duration); 1] = [("spamhaus.org", Duration::from_secs(3_600))];
/// Most fields that are looked at for targets.
const MAX_FIELDS: usize = 8;
const MAX_TEXT_BYTES: usize = 2_000;

/// How a document is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A target a line; `#` and `;` begin comments. FireHOL's netsets, Spamhaus' DROP as text.
    #[default]
    List,
    /// A JSON object a line. Spamhaus' DROP.
    JsonLines,
    /// One JSON document.
    Json,
    /// Columns.
    Csv,
    /// The local API of a CrowdSec.
    Crowdsec,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::List, Self::JsonLines, Self::Json, Self::Csv, Self::Crowdsec];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::JsonLines => "json-lines",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Crowdsec => "crowdsec",
        }
    }
}

/// A feed as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// `https://…`, `http://…`, or `file:NAME` in the feeds directory. Of a CrowdSec, the URL of
    /// its local API.
    #[schema(example = "https://www.spamhaus.org/drop/drop_v4.json")]
    pub location: String,
    /// How it is read; `list` if absent.
    #[serde(default)]
    pub format: Format,
    /// What its decisions do; block if absent.
    #[serde(default = "block")]
    pub action: Action,
    /// How often it is fetched: `1h` if absent, `10s` for a CrowdSec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "6h")]
    pub every: Option<String>,
    /// Its decisions end when it was not heard of for so long: `7d` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<String>,
    /// Of JSON: a pointer to the array of items; the document itself if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/prefixes")]
    pub items: Option<String>,
    /// Where in an item the target stands: names or pointers of JSON, names or numbers (from 1)
    /// of columns. Several: each that is there counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// A file in the feeds directory with the key that the publisher wants to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// The header that the key is sent in; `x-api-key` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_header: Option<String>,
    /// A minisign public key: what is not signed with it is not taken. The signature is fetched
    /// from the location with `.minisig` after its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minisign_key: Option<String>,
    /// Whether it may be fetched from private addresses, such as this machine's.
    #[serde(default)]
    pub private_addresses: bool,
    /// Whether private and reserved networks are taken.
    #[serde(default)]
    pub include_reserved: bool,
    /// Whose work it is, where the document does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<String>,
}

const fn block() -> Action {
    Action::Block
}

/// Where a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Over HTTP.
    Http(Url),
    /// A name in the feeds directory.
    File(String),
}

/// A definition that was checked.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Where the document is.
    pub location: Location,
    /// How often it is fetched.
    pub every: Duration,
    /// After how long without news its decisions end.
    pub stale_after: Duration,
    /// The header of the key.
    pub key_header: HeaderName,
    /// The key that signatures are checked with.
    pub minisign: Option<PublicKey>,
}

/// Whether a text can name a feed: as part of an origin.
///
/// # Errors
/// What is expected.
pub fn check_name(name: &str) -> Result<(), Fault> {
    let fits = format!("feed:{name}").parse::<Origin>().is_ok();
    let message = "expected 1 to 64 letters, digits, '-', '_' and '.'";
    if fits { Ok(()) } else { Err(fault("name", message)) }
}

impl Definition {
    /// The definition as it is used.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(&self) -> Result<Checked, Vec<Fault>> {
        let mut faults = Vec::new();
        let location = self.check_location(&mut faults);
        let least = location.as_ref().map_or(LEAST_FILE, |location| self.least(location));
        let usual = match (self.format, location.as_ref()) {
            (Format::Crowdsec, _) => Duration::from_secs(10),
            _ => Duration::from_secs(3_600),
        };
        let every = duration("every", self.every.as_deref(), usual, least, LONGEST, &mut faults);
        let stale_least = LEAST_STALE.max(every * 4);
        let stale_after = duration(
            "stale_after",
            self.stale_after.as_deref(),
            USUAL_STALE.max(stale_least),
            stale_least,
            Duration::MAX,
            &mut faults,
        );
        self.check_fields(&mut faults);
        if let Some(name) = &self.key_file {
            check_file("key_file", name, &mut faults);
        }
        if self.key_file.is_some() && matches!(location, Some(Location::File(_))) {
            faults.push(fault("key_file", "a file needs no key: remove it"));
        }
        if self.format == Format::Crowdsec && self.key_file.is_none() {
            let message = "missing: expected a file in the feeds directory with the key that `cscli bouncers add ipwarden` printed";
            faults.push(fault("key_file", message));
        }
        let key_header = match self.key_header.as_deref().unwrap_or("x-api-key").parse() {
            Ok(name) => name,
            Err(_) => {
                faults.push(fault("key_header", "expected the name of a header"));
                HeaderName::from_static("x-api-key")
            }
        };
        let minisign = self.minisign_key.as_deref().and_then(|key| {
            let read = PublicKey::from_base64(key.trim()).ok();
            if read.is_none() {
                let message = "expected a minisign public key: the line after the comment in minisign.pub, 56 characters";
                faults.push(fault("minisign_key", message));
            }
            read
        });
        if self.format == Format::Crowdsec && self.action == Action::Allow {
            faults.push(fault("action", "a CrowdSec says whom to block: expected block"));
        }
        if self.format == Format::Crowdsec && self.minisign_key.is_some() {
            faults.push(fault("minisign_key", "a CrowdSec signs nothing: remove it"));
        }
        let texts = [("attribution", &self.attribution), ("items", &self.items)];
        for (place, text) in texts {
            if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT_BYTES) {
                faults.push(fault(place, format!("too long: at most {MAX_TEXT_BYTES} bytes")));
            }
        }
        match location {
            Some(location) if faults.is_empty() => {
                Ok(Checked { location, every, stale_after, key_header, minisign })
            }
            _ => Err(faults),
        }
    }

    /// How often it may be asked at most.
    fn least(&self, location: &Location) -> Duration {
        match location {
            Location::File(_) => LEAST_FILE,
            Location::Http(_) if self.format == Format::Crowdsec => LEAST_CROWDSEC,
            Location::Http(url) => publishers_bound(url).unwrap_or(LEAST_HTTP),
        }
    }

    fn check_location(&self, faults: &mut Vec<Fault>) -> Option<Location> {
        if let Some(name) = self.location.strip_prefix("file:") {
            let before = faults.len();
            if self.format == Format::Crowdsec {
                faults.push(fault("location", "expected the URL of a CrowdSec's local API"));
            }
            check_file("location", name, faults);
            return (faults.len() == before).then(|| Location::File(name.to_owned()));
        }
        match self.check_url() {
            Ok(url) => Some(Location::Http(url)),
            Err(message) => {
                faults.push(fault("location", message));
                None
            }
        }
    }

    fn check_url(&self) -> Result<Url, String> {
        if self.location.len() > MAX_TEXT_BYTES {
            return Err(format!("too long: at most {MAX_TEXT_BYTES} bytes"));
        }
        let expected = "expected https://…, http://… or file:NAME";
        let url = Url::parse(&self.location)
            .map_err(|error| format!("is no URL ({error}): {expected}"))?;
        if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
            return Err(expected.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "holds a password, which would be kept in the clear: put it into a file in the feeds directory and name that with key_file".to_owned(),
            );
        }
        match refused_host(&url) {
            Some(why) if !self.private_addresses => Err(why),
            _ => Ok(url),
        }
    }

    fn check_fields(&self, faults: &mut Vec<Fault>) {
        let count = self.fields.len();
        if count > MAX_FIELDS {
            faults.push(fault("fields", format!("expected at most {MAX_FIELDS}, found {count}")));
        }
        if self.fields.iter().any(|field| field.is_empty() || field.len() > 200) {
            faults.push(fault("fields", "expected names of 1 to 200 bytes"));
        }
        let none = self.fields.is_empty();
        match self.format {
            Format::Csv if none => {
                let message = "missing: expected the name or number of the column with the targets";
                faults.push(fault("fields", message));
            }
            Format::List | Format::Crowdsec if !none => {
                let message =
                    format!("the format {} has no fields: remove them", self.format.as_str());
                faults.push(fault("fields", message));
            }
            _ => {}
        }
        match &self.items {
            Some(_) if self.format != Format::Json => {
                faults.push(fault("items", "only the format json has items: remove it"));
            }
            Some(items) if !items.is_empty() && !items.starts_with('/') => {
                faults.push(fault("items", "expected a JSON pointer such as /prefixes"));
            }
            _ => {}
        }
    }

    /// The location without what may be secret: the values of a query.
    #[must_use]
    pub fn shown_location(&self) -> String {
        match self.location.split_once('?') {
            Some((path, _)) => format!("{path}?…"),
            None => self.location.clone(),
        }
    }
}

/// How long its publisher wants to be left alone between two fetches.
#[must_use]
pub fn publishers_bound(url: &Url) -> Option<Duration> {
    let host = url.host_str()?;
    let is_of = |publisher: &str| {
        host.strip_suffix(publisher).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    PUBLISHERS.iter().find(|(publisher, _)| is_of(publisher)).map(|(_, bound)| *bound)
}

/// A plain name: what is outside the feeds directory is none of a feed's business.
fn check_file(place: &str, name: &str, faults: &mut Vec<Fault>) {
    let plain = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !plain {
        let message = "expected the name of a file in the feeds directory: letters, digits, '-', '_' and '.', no path";
        faults.push(fault(place, message));
    }
}

fn duration(
    place: &str,
    text: Option<&str>,
    usual: Duration,
    least: Duration,
    most: Duration,
    faults: &mut Vec<Fault>,
) -> Duration {
    let Some(text) = text else { return usual.max(least) };
    let words = crate::config::duration_words;
    let expected = if most == Duration::MAX {
        format!("expected a duration of at least {}", words(least))
    } else {
        format!("expected a duration from {} to {}", words(least), words(most))
    };
    match ipwarden::duration::parse(text) {
        Ok(found) if (least..=most).contains(&found) => found,
        Ok(_) => {
            let why = if place == "every" && least > LEAST_HTTP {
                " (its publisher wants to be asked no more often)"
            } else {
                ""
            };
            faults.push(fault(place, format!("{expected}, found {text}{why}")));
            usual
        }
        Err(error) => {
            faults.push(fault(place, format!("{expected}: {error}")));
            usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(json: serde_json::Value) -> Definition {
        serde_json::from_value(json).unwrap()
    }

    #[track_caller]
    fn refused(json: serde_json::Value) -> Vec<String> {
        let faults = definition(json).check().unwrap_err();
        faults.iter().map(|fault| format!("{}: {}", fault.place, fault.message)).collect()
    }

    #[test]
    fn defaults_are_those_of_the_publisher_and_the_kind() {
        let seconds = |json| {
            let checked = definition(json).check().unwrap();
            (checked.every.as_secs(), checked.stale_after.as_secs())
        };
        let week = 7 * 86_400;
        assert_eq!(
            seconds(serde_json::json!({"location": "https://example.com/x"})),
            (3_600, week)
        );
        assert_eq!(
            seconds(serde_json::json!({"location": "file:x.txt", "every": "10s"})),
            (10, week)
        );
        let crowdsec = serde_json::json!({"location": "http://127.0.0.1:8080", "format": "crowdsec", "key_file": "cs.key", "private_addresses": true});
        assert_eq!(seconds(crowdsec), (10, week));
        let rare = serde_json::json!({"location": "https://example.com/x", "every": "10d"});
        assert_eq!(seconds(rare), (864_000, 4 * 864_000));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        assert_eq!(
            refused(serde_json::json!({
                "location": "https://www.spamhaus.org/drop/drop_v4.json", "every": "30m",
                "stale_after": "10m", "items": "x", "key_file": "../admin.token",
                "minisign_key": "RW", "fields": ["cidr"]
            })),
            [
                "every: expected a duration from 1h to 30d, found 30m (its publisher wants to be asked no more often)",
                "stale_after: expected a duration of at least 4h, found 10m",
                "fields: the format list has no fields: remove them",
                "items: only the format json has items: remove it",
                "key_file: expected the name of a file in the feeds directory: letters, digits, '-', '_' and '.', no path",
                "minisign_key: expected a minisign public key: the line after the comment in minisign.pub, 56 characters",
            ]
        );
        for (location, expected) in [
            ("ftp://example.com/", "location: expected https://…, http://… or file:NAME"),
            (
                "file:/etc/passwd",
                "location: expected the name of a file in the feeds directory: letters, digits, '-', '_' and '.', no path",
            ),
            (
                "https://u:p@example.com/",
                "location: holds a password, which would be kept in the clear: put it into a file in the feeds directory and name that with key_file",
            ),
            (
                "http://169.254.169.254/latest",
                "location: 169.254.169.254 is a private or reserved address: a feed may be fetched from one only if it is added with private_addresses",
            ),
            (
                "http://[::ffff:10.0.0.1]/",
                "location: 10.0.0.1 is a private or reserved address: a feed may be fetched from one only if it is added with private_addresses",
            ),
            (
                "http://localhost/",
                "location: localhost is this machine: a feed may be fetched from it only if it is added with private_addresses",
            ),
        ] {
            assert_eq!(refused(serde_json::json!({"location": location})), [expected]);
        }
    }

    #[test]
    fn a_query_is_not_shown_and_publishers_are_known_by_their_domain() {
        let shown = definition(serde_json::json!({"location": "https://example.com/x?key=secret"}));
        assert_eq!(shown.shown_location(), "https://example.com/x?…");
        let bound = |url: &str| publishers_bound(&url.parse().unwrap()).is_some();
        assert!(bound("https://www.spamhaus.org/x") && bound("https://spamhaus.org/x"));
        assert!(!bound("https://notspamhaus.org/x"));
    }
}
