//! Since when a text says what it says.
//!
//! The version of a text is a digest of it; the date is when it was first published. Both
//! survive a restart in a small file of the data directory: a restart changes no policy.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The file in the data directory.
pub const FILE: &str = "privacy-notices.json";
/// Texts that are remembered; the oldest goes first.
const MOST: usize = 64;
/// Largest file read.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A text that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Published {
    version: String,
    at: Timestamp,
}

/// The texts published so far.
#[derive(Debug)]
pub struct Editions {
    file: PathBuf,
    published: Mutex<Vec<Published>>,
}

impl Editions {
    /// Reads what is known; a file that can't be read is begun anew.
    #[must_use]
    pub fn open(data_dir: &Path) -> Self {
        let file = data_dir.join(FILE);
        let read = || {
            let size = std::fs::metadata(&file).ok()?.len();
            if size > MAX_FILE_BYTES {
                return None;
            }
            serde_json::from_slice::<Vec<Published>>(&std::fs::read(&file).ok()?).ok()
        };
        let mut published = read().unwrap_or_default();
        published.truncate(MOST);
        Self { file, published: Mutex::new(published) }
    }

    /// When the text of this version was first published: now, if it is new. Writes a file of
    /// a few kilobytes when it is.
    pub fn published(&self, version: &str, now: Timestamp) -> Timestamp {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = published.iter().find(|known| known.version == version) {
            return known.at;
        }
        if published.len() >= MOST {
            published.remove(0);
        }
        published.push(Published { version: version.to_owned(), at: now });
        if let Err(error) = self.write(&published) {
            // The page is right all the same; after a restart its date is a later one.
            tracing::warn!("can't write {FILE} in the data directory: {error}");
        }
        now
    }

    fn write(&self, published: &[Published]) -> std::io::Result<()> {
        let next = self.file.with_extension("json.next");
        std::fs::write(&next, serde_json::to_vec(published)?)?;
        std::fs::rename(next, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_text_keeps_its_date_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let editions = Editions::open(directory.path());
        assert_eq!(editions.published("a", at(1)), at(1));
        assert_eq!(editions.published("b", at(2)), at(2));
        assert_eq!(editions.published("a", at(3)), at(1));
        let again = Editions::open(directory.path());
        assert_eq!((again.published("b", at(9)), again.published("c", at(9))), (at(2), at(9)));
    }

    #[test]
    fn memory_is_bounded_and_a_damaged_file_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let editions = Editions::open(directory.path());
        for n in 0..1_000 {
            editions.published(&n.to_string(), at(n));
        }
        assert_eq!(editions.published.lock().unwrap().len(), MOST);
        assert_eq!(editions.published("999", at(5_000)), at(999));
        std::fs::write(directory.path().join(FILE), b"{").unwrap();
        assert_eq!(Editions::open(directory.path()).published("999", at(7)), at(7));
    }
}
