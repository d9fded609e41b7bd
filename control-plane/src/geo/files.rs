//! Which files are used, and what changed since they were last looked at.
//!
//! A file that can't be used never takes away what its predecessor gave: the old data stays
//! in use, and the problem is kept until the file is in order or gone. A file that is gone
//! takes its data with it.
//!
//! Files are looked at every few seconds instead of being watched: that works on network
//! file systems and through symbolic links that are swapped (Kubernetes), where watching
//! does not, and costs a few system calls.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::database::Database;
use super::origin::{Attribution, Origin, recognise};

/// Most files that are used.
pub const MAX_FILES: usize = 32;
/// How the files are found that nobody named.
const EXTENSION: &str = "mmdb";

/// Where to look.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) directory: PathBuf,
    /// Names in the directory or paths; all of the directory when empty.
    pub(super) named: Vec<PathBuf>,
}

impl Sources {
    /// The files in order: as they are named, else by name.
    fn list(&self) -> std::io::Result<Vec<PathBuf>> {
        if !self.named.is_empty() {
            return Ok(self.named.iter().map(|name| self.directory.join(name)).collect());
        }
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let hidden =
                path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|extension| extension == EXTENSION) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// What tells a file from its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// As it was when it was last read, in use or not.
    seen: Option<Fingerprint>,
    pub(super) loaded: Option<Loaded>,
    pub(super) problem: Option<Problem>,
}

/// Data in use.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) database: Arc<Database>,
    pub(super) at: Timestamp,
    pub(super) attribution: Option<Attribution>,
    pub(super) source: Option<String>,
}

/// Why the present file is not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) since: Timestamp,
}

/// What a look at the files found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Files that were loaded.
    pub loaded: Vec<String>,
    /// Files that can't be used and could be before, or are new, each with the reason.
    pub failed: Vec<(String, String)>,
    /// Files that are gone.
    pub gone: Vec<String>,
}

impl Refreshed {
    /// Whether the databases in use are others than before.
    #[must_use]
    pub fn changed(&self) -> bool {
        !self.loaded.is_empty() || !self.gone.is_empty()
    }
}

/// All files, between two looks.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) sources: Sources,
    pub(super) entries: Vec<Entry>,
    /// Why the directory can't be read.
    pub(super) directory_problem: Option<Problem>,
}

impl Files {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources, entries: Vec::new(), directory_problem: None }
    }

    /// Looks at every file and reads those that changed. Blocks.
    pub(super) fn refresh(&mut self, now: Timestamp) -> Refreshed {
        let mut refreshed = Refreshed::default();
        let paths = match self.sources.list() {
            Ok(paths) => paths,
            Err(error) => {
                let directory = self.sources.directory.display().to_string();
                note(
                    &mut self.directory_problem,
                    format!("can't be read: {error}"),
                    now,
                    &directory,
                    &mut refreshed,
                );
                return refreshed;
            }
        };
        self.directory_problem = None;
        if paths.len() > MAX_FILES {
            let directory = self.sources.directory.display().to_string();
            let message =
                format!("holds {} files: only the first {MAX_FILES} are used", paths.len());
            note(&mut self.directory_problem, message, now, &directory, &mut refreshed);
        }
        let mut before = std::mem::take(&mut self.entries);
        for path in paths.into_iter().take(MAX_FILES) {
            let known = before.iter().position(|entry| entry.path == path);
            let mut entry = match known {
                Some(index) => before.swap_remove(index),
                None => Entry { path, seen: None, loaded: None, problem: None },
            };
            entry.refresh(now, &mut refreshed);
            self.entries.push(entry);
        }
        let gone = before.into_iter().filter(|entry| entry.loaded.is_some());
        refreshed.gone.extend(gone.map(|entry| name(&entry.path)));
        refreshed
    }
}

impl Entry {
    fn refresh(&mut self, now: Timestamp, refreshed: &mut Refreshed) {
        let name = name(&self.path);
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.loaded.take().is_some() {
                    refreshed.gone.push(name.clone());
                }
                self.seen = None;
                note(&mut self.problem, "is not there".to_owned(), now, &name, refreshed);
                return;
            }
            Err(error) => {
                self.seen = None;
                note(&mut self.problem, format!("can't be read: {error}"), now, &name, refreshed);
                return;
            }
        };
        let Ok(present) = file.metadata().map(|metadata| Fingerprint::from(&metadata)) else {
            return;
        };
        if self.seen == Some(present) {
            return;
        }
        let read = Database::read(&mut file);
        // Written to while it was read: whatever was read is no file of anybody's. The next
        // look finds the rest.
        let after = std::fs::metadata(&self.path).map(|metadata| Fingerprint::from(&metadata)).ok();
        if after != Some(present) && self.loaded.is_some() {
            return;
        }
        self.seen = Some(present);
        match read {
            Ok(database) => {
                let origin = Origin::of(&self.path, database.bytes);
                let attribution = match &origin {
                    Some(Origin { attribution: Some(attribution), .. }) => {
                        Some(attribution.clone())
                    }
                    _ => recognise(&name, &database.type_name()),
                };
                self.loaded = Some(Loaded {
                    database: Arc::new(database),
                    at: now,
                    attribution,
                    source: origin.map(|origin| origin.source),
                });
                self.problem = None;
                refreshed.loaded.push(name);
            }
            Err(error) => note(&mut self.problem, error.to_string(), now, &name, refreshed),
        }
    }
}

/// Keeps a problem, and since when it is the same.
fn note(
    place: &mut Option<Problem>,
    message: String,
    now: Timestamp,
    name: &str,
    refreshed: &mut Refreshed,
) {
    if place.as_ref().is_none_or(|problem| problem.message != message) {
        refreshed.failed.push((name.to_owned(), message.clone()));
        *place = Some(Problem { message, since: now });
    }
}

/// The name of a file as people know it.
pub(super) fn name(path: &Path) -> String {
    path.file_name()
        .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
