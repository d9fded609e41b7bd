//! One MMDB file in memory.
//!
//! Read whole and never mapped: a mapped file that somebody truncates is a SIGBUS, and one
//! that somebody overwrites gives wrong answers; a private copy can't change. What that
//! costs is the file's size in memory (the free city data: 135 MB; country: 8 MB).

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::IpNet;
use jiff::Timestamp;
use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fields::Fields;
use super::place::Place;

/// Largest file that is read. The largest on the market are half of that.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Why a file can't be used. Complete sentences but for the file's name, which the caller
/// puts before them.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Read(#[from] std::io::Error),
    /// Nothing in it: somebody may be writing it.
    #[error("is empty: expected an MMDB file")]
    Empty,
    /// Larger than [`MAX_FILE_BYTES`].
    #[error("has {bytes} bytes: at most {MAX_FILE_BYTES} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// No MMDB file, or one that was cut off or damaged.
    #[error("is not a whole MMDB file ({0}): bring it again")]
    Damaged(String),
    /// An MMDB file of something else.
    #[error(
        "is a database of the type '{database_type}' without country, city or AS number in a layout that is known: expected country.iso_code, country_code, city or autonomous_system_number"
    )]
    OtherContents {
        /// Its type as it names itself.
        database_type: String,
    },
}

impl From<MaxMindDbError> for DatabaseError {
    fn from(error: MaxMindDbError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// What a database knows of most addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Country and city.
    City,
    /// Country.
    Country,
    /// Autonomous system only.
    Asn,
}

impl Kind {
    /// All of them, the one that knows most of a place first.
    pub const ALL: [Self; 3] = [Self::City, Self::Country, Self::Asn];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::City => "city",
            Self::Country => "country",
            Self::Asn => "asn",
        }
    }
}

/// A database in memory.
#[derive(Debug)]
pub struct Database {
    reader: Reader<Vec<u8>>,
    /// What it knows.
    pub kind: Kind,
    /// Whether it knows autonomous systems, too.
    pub has_asn: bool,
    /// Whether it knows anything of IPv4 addresses.
    pub has_v4: bool,
    /// Whether it knows anything of IPv6 addresses.
    pub has_v6: bool,
    /// Size of its file.
    pub bytes: u64,
}

impl Database {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        Self::read(&mut File::open(path)?)
    }

    /// Reads and checks an open file.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn read(file: &mut File) -> Result<Self, DatabaseError> {
        let bytes = file.metadata()?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(DatabaseError::TooLarge { bytes });
        }
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
        Self::new(content)
    }

    /// Checks the content of a file: the whole tree, and every record that it leads to.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn new(content: Vec<u8>) -> Result<Self, DatabaseError> {
        let bytes = content.len() as u64;
        if bytes == 0 {
            return Err(DatabaseError::Empty);
        }
        if bytes > MAX_FILE_BYTES {
            return Err(DatabaseError::TooLarge { bytes });
        }
        let reader = Reader::from_source(content)?;
        let known = survey(&reader)?;
        let kind = match known {
            Known { city: true, .. } => Kind::City,
            Known { country: true, .. } => Kind::Country,
            Known { asn: true, .. } => Kind::Asn,
            _ => {
                let database_type = super::tidy_name(&reader.metadata().database_type);
                return Err(DatabaseError::OtherContents { database_type });
            }
        };
        let Known { asn: has_asn, v4: has_v4, v6: has_v6, .. } = known;
        Ok(Self { reader, kind, has_asn, has_v4, has_v6, bytes })
    }

    /// What it calls itself.
    #[must_use]
    pub fn type_name(&self) -> String {
        super::tidy_name(&self.reader.metadata().database_type)
    }

    /// When its data was put together.
    #[must_use]
    pub fn built_at(&self) -> Option<Timestamp> {
        let seconds = i64::try_from(self.reader.metadata().build_epoch).ok()?;
        Timestamp::from_second(seconds).ok()
    }

    /// Whether it knows anything of addresses of this family.
    #[must_use]
    pub const fn serves(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(_) => self.has_v4,
            IpAddr::V6(_) => self.has_v6,
        }
    }

    /// Which families it knows, for people.
    #[must_use]
    pub const fn families(&self) -> &'static str {
        families(self.has_v4, self.has_v6)
    }

    /// What it knows of a folded address, and the network that this holds for: of the
    /// address's own family, and containing it.
    ///
    /// # Errors
    /// [`DatabaseError::Damaged`] when the record can't be decoded.
    pub fn look_up(&self, ip: IpAddr) -> Result<(Option<Place>, IpNet), DatabaseError> {
        let found = self.reader.lookup(ip)?;
        let network = found.network()?;
        match (ip, network.network()) {
            (IpAddr::V4(_), IpAddr::V6(_)) => {
                // A file without any IPv4 part: the same for all of IPv4.
                let all = IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0);
                Ok((None, all))
            }
            (_, first) => {
                let network = IpNet::new(first, network.prefix())
                    .map_err(|error| DatabaseError::Damaged(error.to_string()))?;
                let fields = found.decode::<Fields<'_>>()?;
                Ok((fields.map(|fields| fields.place()), network))
            }
        }
    }
}

/// Families of addresses in words.
#[must_use]
pub const fn families(v4: bool, v6: bool) -> &'static str {
    match (v4, v6) {
        (true, true) => "IPv4, IPv6",
        (true, false) => "IPv4",
        (false, true) => "IPv6",
        (false, false) => "",
    }
}

#[derive(Debug, Default)]
struct Known {
    country: bool,
    city: bool,
    asn: bool,
    v4: bool,
    v6: bool,
}

/// Walks through a whole database so that nothing in it is a surprise later, decodes every
/// record once, and learns what it knows.
///
/// The reader's own `verify` refuses databases without a description, which
/// ip-location-db's are.
fn survey(reader: &Reader<Vec<u8>>) -> Result<Known, DatabaseError> {
    let mut known = Known::default();
    let mut seen = HashSet::new();
    // A tree of n nodes has n + 1 leaves. Branches that are used twice make more, branches
    // that lead back make no end of them; in between the reader's own bound is as good as any.
    let most = u64::from(reader.metadata().node_count).saturating_mul(3) + 3;
    let mut leaves = 0;
    for found in reader.networks(WithinOptions::default().include_networks_without_data())? {
        let found = found?;
        leaves += 1;
        if leaves > most {
            return Err(DatabaseError::Damaged("its search tree has no end".to_owned()));
        }
        if found.has_data() {
            let is_v4 = found.network()?.is_ipv4();
            known.v4 |= is_v4;
            known.v6 |= !is_v4;
        }
        if found.offset().is_some_and(|offset| seen.insert(offset))
            && let Some(fields) = found.decode::<Fields<'_>>()?
        {
            let place = fields.place();
            known.country |= place.country.is_some();
            known.city |= place.city.is_some();
            known.asn |= place.asn.is_some();
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::mmdb::{Mmdb, map};

    fn refused(content: Vec<u8>) -> String {
        Database::new(content).unwrap_err().to_string()
    }

    fn country(version: u16) -> Mmdb {
        Mmdb::new("country ipv4", version)
    }

    #[test]
    fn a_look_up_answers_with_the_network_that_it_holds_for() {
        let content = country(4)
            .net("81.2.69.0/24", map([("country_code", "GB".into())]))
            .net("81.2.69.160/27", map([("country_code", "FR".into())]))
            .build();
        let database = Database::new(content).unwrap();
        assert_eq!((database.kind, database.has_asn), (Kind::Country, false));
        assert_eq!(database.built_at().unwrap().to_string(), "2026-06-05T13:00:00Z");
        let look = |ip: &str| {
            let (place, network) = database.look_up(ip.parse().unwrap()).unwrap();
            (
                place.and_then(|place| place.country).map(|country| country.to_string()),
                network.to_string(),
            )
        };
        assert_eq!(look("81.2.69.161"), (Some("FR".into()), "81.2.69.160/27".into()));
        assert_eq!(look("81.2.69.1"), (Some("GB".into()), "81.2.69.0/25".into()));
        assert_eq!(look("200.0.0.1"), (None, "128.0.0.0/1".into()));
        assert!(!database.serves("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn one_file_may_hold_both_families() {
        let content = country(6)
            .net("81.2.69.0/24", map([("country_code", "GB".into())]))
            .net("2a00:1450::/32", map([("country_code", "IE".into())]))
            .build();
        let database = Database::new(content).unwrap();
        let look = |ip: &str| database.look_up(ip.parse().unwrap()).unwrap().1.to_string();
        assert_eq!(look("81.2.69.161"), "81.2.69.0/24");
        assert_eq!(look("2a00:1450::1"), "2a00:1450::/32");
    }

    #[test]
    fn a_file_without_an_ipv4_part_says_nothing_of_ipv4() {
        let content =
            country(6).net("2a00:1450::/32", map([("country_code", "IE".into())])).build();
        let database = Database::new(content).unwrap();
        assert!(!database.serves("81.2.69.160".parse().unwrap()));
        assert_eq!(database.families(), "IPv6");
        let (place, network) = database.look_up("81.2.69.160".parse().unwrap()).unwrap();
        assert_eq!((place, network.to_string()), (None, "0.0.0.0/0".to_owned()));
    }

    #[test]
    fn what_is_no_database_is_refused_in_words() {
        assert_eq!(refused(Vec::new()), "is empty: expected an MMDB file");
        assert!(refused(b"<html>404</html>".to_vec()).starts_with("is not a whole MMDB file ("));
        let content = country(4).net("81.2.69.0/24", map([("country_code", "GB".into())])).build();
        for cut in [1, content.len() / 2, content.len() - 40] {
            let cut = refused(content[..content.len() - cut].to_vec());
            assert!(cut.starts_with("is not a whole MMDB file ("), "{cut}");
        }
        let other = Mmdb::new("Anonymous-IP", 4)
            .net("81.2.69.0/24", map([("is_anonymous_vpn", true.into())]))
            .build();
        assert_eq!(
            refused(other),
            "is a database of the type 'Anonymous-IP' without country, city or AS number in a layout that is known: expected country.iso_code, country_code, city or autonomous_system_number"
        );
    }

    #[test]
    fn a_tree_that_leads_back_to_itself_is_refused() {
        let mut content =
            country(4).net("81.2.69.0/24", map([("country_code", "GB".into())])).build();
        // Both records of the first node lead to the node itself.
        content[..6].fill(0);
        assert!(refused(content).contains("appears to have a cycle"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

        #[test]
        fn damage_is_refused_or_harmless(
            changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 1..8),
            ip in proptest::prelude::any::<u32>(),
        ) {
            let mut content = country(4)
                .net("81.2.69.0/24", map([("country_code", "GB".into()), ("city", "London".into())]))
                .net("8.8.8.0/24", map([("country_code", "US".into())]))
                .build();
            for (at, byte) in changes {
                let at = at.index(content.len());
                content[at] = byte;
            }
            // What counts is that nothing panics and nothing runs without end.
            if let Ok(database) = Database::new(content) {
                let _ = database.look_up(Ipv4Addr::from(ip).into());
            }
        }
    }
}
