//! Where addresses are: from MMDB files in a directory, in memory, replaced while running.
//!
//! | module | owns |
//! |---|---|
//! | [`place`] | the words: place, answer |
//! | `fields` | the layouts of records |
//! | [`database`] | one file in memory |
//! | [`set`] | all databases in use, and the answer that they give together |
//! | [`files`] | which files, what changed, what can't be used |
//! | [`origin`] | where data comes from and what its licence asks for |
//! | [`cache`] | what ingest remembers |
//!
//! Refuses: to ask anybody outside, to fetch anything (that is `ipwarden geo update`), and
//! to fail: without data every address is unknown, and everything else goes on.

pub mod cache;
pub mod database;
mod fields;
pub mod files;
pub mod origin;
pub mod place;
pub mod set;

#[cfg(test)]
#[path = "../../tests/fixtures/mmdb.rs"]
pub(crate) mod mmdb;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::cache::Places;
pub use self::database::Kind;
pub use self::files::Refreshed;
pub use self::origin::Attribution;
pub use self::place::{Country, Located, Place, Spot};
pub use self::set::Set;

use self::files::{Entry, Files, Sources};

/// Directory below the data directory where nothing else is configured.
pub const DIRECTORY: &str = "geo";

/// No database is loaded: nothing can be said of any address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no geolocation data: `ipwarden geo update` brings some")]
pub struct NoData;

/// The databases. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Geo(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    present: RwLock<Arc<Set>>,
    /// The list as of the last look, without ages: whoever asks for it never waits for a
    /// file that is being read.
    listed: RwLock<Databases>,
    /// Held while files are looked at and read.
    files: Mutex<Files>,
}

/// A database in use, or a file that should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseInfo {
    /// Name of the file.
    pub file: String,
    /// The data in use; absent when the file could never be used.
    pub data: Option<DataInfo>,
    /// Why the file that is there now is not in use; the data before it still is.
    pub problem: Option<String>,
    /// Since when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub problem_since: Option<Timestamp>,
}

/// Data in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataInfo {
    /// What it knows most of: city, country or asn.
    pub kind: Kind,
    /// Whether it knows autonomous systems.
    pub asn: bool,
    /// What the database calls itself.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Whether it knows anything of IPv4 addresses.
    pub ipv4: bool,
    /// Whether it knows anything of IPv6 addresses.
    pub ipv6: bool,
    /// When the data was put together.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub built_at: Option<Timestamp>,
    /// How long ago that was, in seconds.
    pub age_seconds: Option<u64>,
    /// When it was loaded.
    #[schema(value_type = String, format = DateTime)]
    pub loaded_at: Timestamp,
    /// Size in bytes, on disk and in memory.
    pub bytes: u64,
    /// Where it came from, as far as known.
    pub source: Option<String>,
    /// What its licence asks to show.
    pub attribution: Option<Attribution>,
}

/// All databases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Databases {
    /// Where the files are.
    pub dir: String,
    /// In the order in which they are asked.
    pub databases: Vec<DatabaseInfo>,
    /// What is wrong with the directory.
    pub problem: Option<String>,
}

impl Databases {
    /// Data in use.
    pub fn in_use(&self) -> impl Iterator<Item = &DataInfo> {
        self.databases.iter().filter_map(|database| database.data.as_ref())
    }

    /// Everything that is wrong, each with the file or directory.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self
            .databases
            .iter()
            .filter_map(|database| Some((database.file.as_str(), database.problem.as_deref()?)));
        files.chain(self.problem.as_deref().map(|problem| (self.dir.as_str(), problem)))
    }
}

impl Geo {
    /// Of the files in a directory, or only of those named (in the directory, or by path).
    /// Loads nothing yet: see [`Geo::refresh`].
    #[must_use]
    pub fn new(directory: PathBuf, named: Vec<PathBuf>) -> Self {
        let files = Files::new(Sources { directory, named });
        let listed = RwLock::new(list(&files));
        Self(Arc::new(Inner { present: RwLock::default(), listed, files: Mutex::new(files) }))
    }

    /// The databases in use at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Set> {
        Arc::clone(&self.0.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where an address is.
    ///
    /// # Errors
    /// [`NoData`], unless the address is one that has no place anyhow.
    pub fn locate(&self, ip: IpAddr) -> Result<Located, NoData> {
        let set = self.current();
        let located = set.locate(ip);
        if set.is_empty() && !located.reserved { Err(NoData) } else { Ok(located) }
    }

    /// Looks at the files and loads what changed; what was in use before is in use until
    /// everything is ready. Blocks for as long as reading takes.
    pub fn refresh(&self, now: Timestamp) -> Refreshed {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        let refreshed = files.refresh(now);
        if refreshed.changed() {
            let databases = ordered(&files).filter_map(|entry| entry.loaded.as_ref());
            let databases = databases.map(|loaded| Arc::clone(&loaded.database)).collect();
            let mut present = self.0.present.write().unwrap_or_else(PoisonError::into_inner);
            *present = Arc::new(Set::new(databases, present.generation + 1));
        }
        *self.0.listed.write().unwrap_or_else(PoisonError::into_inner) = list(&files);
        for file in &refreshed.loaded {
            tracing::info!(file, "geolocation data loaded");
        }
        for file in &refreshed.gone {
            tracing::warn!(file, "geolocation data is gone with its file");
        }
        for (file, problem) in &refreshed.failed {
            tracing::warn!(file, "geolocation data can't be used: {file} {problem}");
        }
        refreshed
    }

    /// What is in use, how old it is, and what is wrong.
    #[must_use]
    pub fn databases(&self, now: Timestamp) -> Databases {
        let mut listed = self.0.listed.read().unwrap_or_else(PoisonError::into_inner).clone();
        for data in listed.databases.iter_mut().filter_map(|database| database.data.as_mut()) {
            let age = data.built_at.map(|built| now.duration_since(built).as_secs());
            data.age_seconds = age.map(|age| u64::try_from(age).unwrap_or(0));
        }
        listed
    }
}

/// The list, without ages.
fn list(files: &Files) -> Databases {
    Databases {
        dir: shown(&files.sources.directory),
        databases: ordered(files).map(info).collect(),
        problem: files.directory_problem.as_ref().map(|problem| problem.message.clone()),
    }
}

/// In order of precedence: as named, else cities before countries before AS numbers.
fn ordered(files: &Files) -> impl Iterator<Item = &Entry> {
    let mut entries: Vec<&Entry> = files.entries.iter().collect();
    if files.sources.named.is_empty() {
        let rank = |entry: &&Entry| {
            let kind = entry.loaded.as_ref().map(|loaded| loaded.database.kind);
            kind.and_then(|kind| Kind::ALL.iter().position(|other| *other == kind))
        };
        // Stable: by name among equals. What could never be loaded comes last.
        entries.sort_by_key(|entry| rank(entry).unwrap_or(usize::MAX));
    }
    entries.into_iter()
}

fn info(entry: &Entry) -> DatabaseInfo {
    let data = entry.loaded.as_ref().map(|loaded| {
        let database = &loaded.database;
        DataInfo {
            kind: database.kind,
            asn: database.has_asn,
            type_name: database.type_name(),
            ipv4: database.has_v4,
            ipv6: database.has_v6,
            built_at: database.built_at(),
            age_seconds: None,
            loaded_at: loaded.at,
            bytes: database.bytes,
            source: loaded.source.clone(),
            attribution: loaded.attribution.clone(),
        }
    });
    DatabaseInfo {
        file: files::name(&entry.path),
        data,
        problem: entry.problem.as_ref().map(|problem| problem.message.clone()),
        problem_since: entry.problem.as_ref().map(|problem| problem.since),
    }
}

fn shown(directory: &Path) -> String {
    // One that does not exist yet has no canonical name.
    let whole = std::fs::canonicalize(directory).or_else(|_| std::path::absolute(directory));
    whole.unwrap_or_else(|_| directory.to_owned()).display().to_string()
}

/// A database's name for itself: short, without control characters.
fn tidy_name(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests;
