//! The keys of pseudonyms, in `keys/` of the data directory, readable by their owner only.
//!
//! | file | what |
//! |---|---|
//! | `<id>.key` | 64 hexadecimal digits; written once, never copied or moved |
//! | `<id>.retired` | when it was replaced: it reads its pseudonyms for `old_keys_for` more |
//! | `<id>.destroyed` | when it was destroyed; the key is gone |
//! | `subjects.secret` | what marks of erased addresses are made with |
//!
//! A key is destroyed by overwriting its file where it lies, and removing it: its pseudonyms
//! mean nothing to anybody then. That is as good as the disk: a copy in a backup, or kept by a
//! file system that never overwrites, is the operator's to destroy.
//!
//! What is refused: showing a key. It leaves this module as a [`Pseudonymizer`], or through
//! [`export`], which only a person on the machine calls.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ipwarden::address::fold;
use ipwarden::privacy::{AddressForm, Key, KeyError, KeyId, Pseudonymizer, Scheme};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::{Kept, Veil};

use crate::hex::{hex, short};

/// Name of the directory in the data directory.
pub const DIRECTORY: &str = "keys";
/// The file with the secret of marks.
const SECRET_FILE: &str = "subjects.secret";
/// Bytes of a key, and of the secret.
const KEY_BYTES: usize = 32;
/// Most keys that still read: a rotation beyond waits until one is destroyed.
pub const MAX_KEYS: usize = 64;

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file can't be read or written.
    #[error("key file {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is no key.
    #[error(
        "key file {path}: {error}; restore it from a backup, or move it away: its pseudonyms can't be read without it"
    )]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// A key under another key's name.
    #[error("key file {path} holds the key {found}: name it {found}.key")]
    Name {
        /// Which.
        path: PathBuf,
        /// What it holds.
        found: KeyId,
    },
    /// The system gives no random numbers.
    #[error("no random numbers from the system: {0}")]
    Random(String),
    /// There are enough.
    #[error(
        "there are {MAX_KEYS} keys that still read pseudonyms: destroy an old one first (ipwarden keys destroy ID)"
    )]
    TooMany,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// New pseudonyms are made with it.
    Current,
    /// It still reads those that it made.
    Retired,
    /// Nobody can read its pseudonyms any more.
    Destroyed,
}

/// A key as it is listed: never the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyInfo {
    /// Its id, eight hexadecimal digits: says nothing of the key.
    #[schema(example = "5ab1c0de")]
    pub id: String,
    /// What became of it.
    pub status: KeyStatus,
    /// When it was made, where known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
    /// When it was replaced.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retired_at: Option<Timestamp>,
    /// When it will be destroyed, or was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub destroyed_at: Option<Timestamp>,
}

/// All keys. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    old_for: Duration,
    known: RwLock<Known>,
    secret: [u8; KEY_BYTES],
}

struct Known {
    /// The current one first.
    versions: Vec<Version>,
    destroyed: Vec<KeyInfo>,
}

#[derive(Clone)]
struct Version {
    id: KeyId,
    prefix: Arc<Pseudonymizer>,
    /// For what an edge made that is configured so.
    deterministic: Arc<Pseudonymizer>,
    created_at: Option<Timestamp>,
    retired_at: Option<Timestamp>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

impl Keys {
    /// Reads the keys of a data directory and makes the first one. Ends destructions that were
    /// interrupted.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn open(data_dir: &Path, old_for: Duration, now: Timestamp) -> Result<Self, KeysError> {
        let directory = data_dir.join(DIRECTORY);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| KeysError::File { path: directory.clone(), error })?;
        let mut known = load(&directory)?;
        if known.versions.first().is_none_or(|first| first.retired_at.is_some()) {
            let version = make(&directory, now)?;
            tracing::info!(key = %version.id, "made a key for pseudonyms");
            known.versions.insert(0, version);
        }
        let secret = secret(&directory.join(SECRET_FILE))?;
        Ok(Self(Arc::new(Inner { directory, old_for, known: RwLock::new(known), secret })))
    }

    /// Reads the keys again: another control plane with the same directory may have made,
    /// replaced or destroyed some.
    ///
    /// # Errors
    /// [`KeysError`]; what was known stays in use.
    pub fn refresh(&self) -> Result<(), KeysError> {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = load(&self.0.directory)?;
        if !fresh.versions.is_empty() {
            *known = fresh;
        }
        Ok(())
    }

    /// What new pseudonyms are made with.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Pseudonymizer>> {
        self.known().versions.first().map(|version| Arc::clone(&version.prefix))
    }

    /// The address behind a pseudonym; `None` when its key is not here.
    #[must_use]
    pub fn reveal(&self, pseudonym: IpAddr, key: KeyId) -> Option<IpAddr> {
        let known = self.known();
        let mut all = known.versions.iter().flat_map(|v| [&v.prefix, &v.deterministic]);
        all.find(|made| made.key_id() == key).map(|made| made.reveal(pseudonym))
    }

    /// Everything that an address may be kept as and be found by: as it came, and under each
    /// key. What was cut can't be found.
    #[must_use]
    pub fn names_of(&self, ip: IpAddr) -> Vec<Kept> {
        let ip = fold(ip);
        let known = self.known();
        let made = known.versions.iter().flat_map(|v| [&v.prefix, &v.deterministic]);
        let pseudonyms =
            made.map(|key| Kept { ip: key.pseudonym(ip), veil: Veil::pseudonym(key.key_id()) });
        std::iter::once(Kept { ip, veil: Veil::NONE }).chain(pseudonyms).collect()
    }

    /// All keys, the current one first, then by age.
    #[must_use]
    pub fn list(&self) -> Vec<KeyInfo> {
        let known = self.known();
        let live = known.versions.iter().map(|version| KeyInfo {
            id: version.id.to_string(),
            status: if version.retired_at.is_some() {
                KeyStatus::Retired
            } else {
                KeyStatus::Current
            },
            created_at: version.created_at,
            retired_at: version.retired_at,
            destroyed_at: version.retired_at.and_then(|at| at.checked_add(self.0.old_for).ok()),
        });
        let mut destroyed = known.destroyed.clone();
        destroyed.sort_by_key(|key| std::cmp::Reverse(key.destroyed_at));
        live.chain(destroyed).collect()
    }

    /// Makes a new key; the present one is retired.
    ///
    /// # Errors
    /// [`KeysError`]; the present key stays current then.
    pub fn rotate(&self, now: Timestamp) -> Result<KeyId, KeysError> {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.versions.len() >= MAX_KEYS {
            return Err(KeysError::TooMany);
        }
        let fresh = make(&self.0.directory, now)?;
        let id = fresh.id;
        for version in &mut known.versions {
            if version.retired_at.is_none() {
                let path = self.0.directory.join(format!("{}.retired", version.id));
                write_new(&path, &now.to_string())?;
                version.retired_at = Some(now);
            }
        }
        known.versions.insert(0, fresh);
        Ok(id)
    }

    /// Destroys a retired key now. `None` when there is none of that id, or it is current.
    ///
    /// # Errors
    /// [`KeysError`]; at the next start it is tried again.
    pub fn destroy(&self, id: KeyId, now: Timestamp) -> Result<Option<KeyInfo>, KeysError> {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let found = known.versions.iter().position(|v| v.id == id && v.retired_at.is_some());
        let Some(at) = found else { return Ok(None) };
        let path = |ending: &str| self.0.directory.join(format!("{id}.{ending}"));
        write_new(&path("destroyed"), &now.to_string())?;
        let gone = known.versions.remove(at);
        let info = KeyInfo {
            id: id.to_string(),
            status: KeyStatus::Destroyed,
            created_at: gone.created_at,
            retired_at: gone.retired_at,
            destroyed_at: Some(now),
        };
        known.destroyed.push(info.clone());
        overwrite(&path("key"))?;
        Ok(Some(info))
    }

    /// Destroys every key that was retired longer ago than `old_keys_for`. Returns which.
    ///
    /// # Errors
    /// See [`Self::destroy`].
    pub fn destroy_old(&self, now: Timestamp) -> Result<Vec<KeyInfo>, KeysError> {
        let due: Vec<KeyId> = {
            let known = self.known();
            let is_due = |version: &&Version| {
                version
                    .retired_at
                    .and_then(|at| at.checked_add(self.0.old_for).ok())
                    .is_some_and(|end| end <= now)
            };
            known.versions.iter().filter(is_due).map(|version| version.id).collect()
        };
        let mut gone = Vec::new();
        for id in due {
            gone.extend(self.destroy(id, now)?);
        }
        Ok(gone)
    }

    /// What stands for an erased address in the audit log: whoever has the secret and the
    /// address can say that it was erased, nobody can tell the address from it.
    #[must_use]
    pub fn mark(&self, ip: IpAddr) -> String {
        let octets = match fold(ip) {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let digest = Sha256::new().chain_update(self.0.secret).chain_update(octets).finalize();
        format!("erased:{}", short(&digest, 8))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a directory holds. Ends destructions that were interrupted.
fn load(directory: &Path) -> Result<Known, KeysError> {
    let mut known = Known { versions: Vec::new(), destroyed: Vec::new() };
    for id in ids(directory)? {
        let path = |ending: &str| directory.join(format!("{id}.{ending}"));
        let destroyed_at = moment(&path("destroyed"));
        if let Some(at) = destroyed_at {
            // Said before it is done: a crash in between is made up for here.
            overwrite(&path("key"))?;
            known.destroyed.push(KeyInfo {
                id: id.to_string(),
                status: KeyStatus::Destroyed,
                created_at: None,
                retired_at: moment(&path("retired")),
                destroyed_at: Some(at),
            });
            continue;
        }
        let version = read(&path("key"), id)?;
        known.versions.push(Version { retired_at: moment(&path("retired")), ..version });
    }
    known.versions.sort_by_key(|v| (v.retired_at.is_some(), std::cmp::Reverse(v.created_at)));
    Ok(known)
}

/// The current key of a data directory as the filter's `privacy.key` takes it, with its id: for
/// whoever sits at the machine and may read the file.
///
/// # Errors
/// [`KeysError`]; [`KeysError::File`] when there is none yet.
pub fn export(data_dir: &Path) -> Result<(KeyId, String), KeysError> {
    let directory = data_dir.join(DIRECTORY);
    for id in ids(&directory)? {
        let path = |ending: &str| directory.join(format!("{id}.{ending}"));
        if moment(&path("retired")).is_none() && moment(&path("destroyed")).is_none() {
            let path = path("key");
            let text = std::fs::read_to_string(&path)
                .map_err(|error| KeysError::File { path: path.clone(), error })?;
            let key = Key::from_hex(&text).map_err(|error| KeysError::Key { path, error })?;
            return Ok((id, hex(key.bytes())));
        }
    }
    let error = std::io::Error::new(
        ErrorKind::NotFound,
        "no key yet: the service makes the first one when it starts",
    );
    Err(KeysError::File { path: directory, error })
}

fn ids(directory: &Path) -> Result<Vec<KeyId>, KeysError> {
    let failed = |error| KeysError::File { path: directory.to_owned(), error };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let id = name.to_str().and_then(|name| name.split_once('.')).and_then(|(stem, ending)| {
            matches!(ending, "key" | "destroyed").then(|| KeyId::from_hex(stem)).flatten()
        });
        found.extend(id);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn read(path: &Path, id: KeyId) -> Result<Version, KeysError> {
    let failed = |error| KeysError::File { path: path.to_owned(), error };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            "{} could be read by others: its mode is set to 600; consider ipwarden keys rotate",
            path.display()
        );
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let key =
        Key::from_hex(&text).map_err(|error| KeysError::Key { path: path.to_owned(), error })?;
    let created_at = metadata.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
    let version = version(&key, created_at);
    if version.id == id {
        Ok(version)
    } else {
        Err(KeysError::Name { path: path.to_owned(), found: version.id })
    }
}

fn version(key: &Key, created_at: Option<Timestamp>) -> Version {
    let prefix = Pseudonymizer::of(key, Scheme::Prefix);
    let deterministic = Arc::new(Pseudonymizer::of(key, Scheme::Deterministic));
    let id = prefix.key_id();
    Version { id, prefix: Arc::new(prefix), deterministic, created_at, retired_at: None }
}

fn make(directory: &Path, now: Timestamp) -> Result<Version, KeysError> {
    loop {
        let bytes = random()?;
        // Equal halves, or an id of zeros or one that is taken: once in four billion times.
        let Ok(key) = Key::new(bytes) else { continue };
        let version = version(&key, Some(now));
        if version.id.0 == [0; 4] {
            continue;
        }
        let path = directory.join(format!("{}.key", version.id));
        match write_new(&path, &hex(&bytes)) {
            Err(KeysError::File { error, .. }) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok(version),
        }
    }
}

fn random() -> Result<[u8; KEY_BYTES], KeysError> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| KeysError::Random(error.to_string()))?;
    Ok(bytes)
}

fn secret(path: &Path) -> Result<[u8; KEY_BYTES], KeysError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = hex(&random()?);
            write_new(path, &text)?;
            text
        }
        Err(error) => return Err(KeysError::File { path: path.to_owned(), error }),
    };
    let key =
        Key::from_hex(&text).map_err(|error| KeysError::Key { path: path.to_owned(), error })?;
    Ok(*key.bytes())
}

/// When something was noted in a file of ours; `None` when there is none. One that can't be
/// read as a time is noted all the same.
fn moment(path: &Path) -> Option<Timestamp> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Writes a file that only its owner can read and that survives a power cut.
fn write_new(path: &Path, text: &str) -> Result<(), KeysError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        sync_directory(path)
    };
    write().map_err(|error| KeysError::File { path: path.to_owned(), error })
}

/// Overwrites a file where it lies, then removes it. One that is not there is done.
fn overwrite(path: &Path) -> Result<(), KeysError> {
    let shred = |passes: [u8; 2]| {
        let mut file = match OpenOptions::new().write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(4_096);
        for byte in passes {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&vec![byte; length])?;
            file.sync_all()?;
        }
        std::fs::remove_file(path)?;
        sync_directory(path)
    };
    shred([0xff, 0]).map_err(|error| KeysError::File { path: path.to_owned(), error })
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Reads `100.115.72.131` or `100.115.72.131@5ab1c0de`.
#[must_use]
pub fn parse_pseudonym(text: &str) -> Option<(IpAddr, Option<KeyId>)> {
    match text.split_once('@') {
        None => Some((text.parse().ok()?, None)),
        Some((ip, key)) => Some((ip.parse().ok()?, Some(KeyId::from_hex(key)?))),
    }
}

/// What a kept address is called: as it is, `203.0.113.0 (cut)`, or `100.115.72.131@5ab1c0de`.
#[must_use]
pub fn display(text: &str, form: AddressForm, key: Option<&str>) -> String {
    match (form, key) {
        (AddressForm::Full, _) => text.to_owned(),
        (AddressForm::Truncated, _) => format!("{text} (cut)"),
        (AddressForm::Pseudonym, Some(key)) => format!("{text}@{key}"),
        (AddressForm::Pseudonym, None) => format!("{text}@?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn files(data: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(data.join(DIRECTORY)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_another_does_in_the_same_directory_is_seen_when_it_is_read_again() {
        let data = tempfile::tempdir().unwrap();
        let now = at("2026-11-22T16:00:00Z");
        let one = Keys::open(data.path(), DAY, now).unwrap();
        let other = Keys::open(data.path(), DAY, now).unwrap();
        let first = one.current().unwrap().key_id();
        assert_eq!(other.current().unwrap().key_id(), first);
        let second = one.rotate(at("2026-11-22T17:00:00Z")).unwrap();
        other.refresh().unwrap();
        assert_eq!(other.current().unwrap().key_id(), second);
        let pseudonym = one.current().unwrap().pseudonym("203.0.113.7".parse().unwrap());
        assert_eq!(other.reveal(pseudonym, second), Some("203.0.113.7".parse().unwrap()));
        one.destroy(first, at("2026-11-22T18:00:00Z")).unwrap().unwrap();
        other.refresh().unwrap();
        let known = |keys: &Keys| -> Vec<_> {
            keys.list().into_iter().map(|key| (key.id, key.status)).collect()
        };
        assert_eq!(known(&other), known(&one));
    }

    #[test]
    fn the_first_key_is_private_and_stays() {
        let data = tempfile::tempdir().unwrap();
        let now = at("2026-11-22T16:00:00Z");
        let keys = Keys::open(data.path(), DAY, now).unwrap();
        let id = keys.current().unwrap().key_id();
        for name in files(data.path()) {
            let path = data.path().join(DIRECTORY).join(name);
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let ip = "203.0.113.7".parse().unwrap();
        let mark = keys.mark(ip);
        assert!(mark.starts_with("erased:") && mark.len() == 23, "{mark}");
        drop(keys);
        let again = Keys::open(data.path(), DAY, now).unwrap();
        assert_eq!(again.current().unwrap().key_id(), id);
        assert_eq!(again.mark(ip), mark);
        let (exported, text) = export(data.path()).unwrap();
        assert_eq!(exported, id);
        let edge = Pseudonymizer::of(&Key::from_hex(&text).unwrap(), Scheme::Deterministic);
        assert_eq!(again.reveal(edge.pseudonym(ip), edge.key_id()), Some(ip));
    }

    #[test]
    fn an_old_key_reads_for_a_while_and_is_gone_then() {
        let data = tempfile::tempdir().unwrap();
        let start = at("2026-11-22T16:00:00Z");
        let keys = Keys::open(data.path(), DAY, start).unwrap();
        let ip: IpAddr = "2001:db8::7".parse().unwrap();
        let first = keys.current().unwrap();
        let old = first.pseudonym(ip);
        let second = keys.rotate(start).unwrap();
        assert_ne!(second, first.key_id());
        assert_eq!(keys.reveal(old, first.key_id()), Some(ip));
        assert_eq!(keys.names_of(ip).len(), 5);
        // The current one is never destroyed.
        assert_eq!(keys.destroy(second, start).unwrap(), None);
        let almost = start + Duration::from_secs(86_399);
        assert_eq!(keys.destroy_old(almost).unwrap(), []);
        let path = data.path().join(DIRECTORY).join(format!("{}.key", first.key_id()));
        let text = std::fs::read(&path).unwrap();
        // What lies under another name is the same bytes on the disk.
        let link = data.path().join("link");
        std::fs::hard_link(&path, &link).unwrap();
        let gone = keys.destroy_old(start + DAY).unwrap();
        assert_eq!(gone.len(), 1);
        assert_eq!(keys.reveal(old, first.key_id()), None);
        assert!(!path.exists());
        assert_eq!(std::fs::read(&link).unwrap(), vec![0; text.len()]);
        let listed = |keys: &Keys| {
            keys.list().into_iter().map(|key| (key.id, key.status)).collect::<Vec<_>>()
        };
        let expected = [
            (second.to_string(), KeyStatus::Current),
            (first.key_id().to_string(), KeyStatus::Destroyed),
        ];
        assert_eq!(listed(&keys), expected);
        assert_eq!(listed(&Keys::open(data.path(), DAY, start).unwrap()), expected);
    }

    #[test]
    fn a_destruction_that_was_interrupted_is_ended_at_the_next_start() {
        let data = tempfile::tempdir().unwrap();
        let now = at("2026-11-22T16:00:00Z");
        let keys = Keys::open(data.path(), DAY, now).unwrap();
        let first = keys.current().unwrap().key_id();
        keys.rotate(now).unwrap();
        drop(keys);
        let file = |ending: &str| data.path().join(DIRECTORY).join(format!("{first}.{ending}"));
        std::fs::write(file("destroyed"), now.to_string()).unwrap();
        std::fs::write(file("key"), [0xff; 20]).unwrap();
        let keys = Keys::open(data.path(), DAY, now).unwrap();
        assert!(!file("key").exists());
        assert_eq!(keys.reveal("192.0.2.1".parse().unwrap(), first), None);
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let data = tempfile::tempdir().unwrap();
        let now = at("2026-11-22T16:00:00Z");
        std::fs::create_dir(data.path().join(DIRECTORY)).unwrap();
        let path = data.path().join(DIRECTORY).join("00c0ffee.key");
        std::fs::write(&path, "secretly short").unwrap();
        let error = Keys::open(data.path(), DAY, now).unwrap_err().to_string();
        assert!(error.contains("found a key of 14 characters"), "{error}");
        assert!(!error.contains("secretly"), "{error}");
        std::fs::write(&path, "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301")
            .unwrap();
        let error = Keys::open(data.path(), DAY, now).unwrap_err().to_string();
        assert!(error.contains("holds the key"), "{error}");
    }

    #[test]
    fn pseudonyms_are_written_with_their_key() {
        let id = KeyId([0x5a, 0xb1, 0xc0, 0xde]);
        let ip: IpAddr = "100.115.72.131".parse().unwrap();
        assert_eq!(parse_pseudonym("100.115.72.131@5ab1c0de"), Some((ip, Some(id))));
        assert_eq!(parse_pseudonym("100.115.72.131"), Some((ip, None)));
        assert_eq!(parse_pseudonym("100.115.72.131@xyz"), None);
        let shown = display("100.115.72.131", AddressForm::Pseudonym, Some("5ab1c0de"));
        assert_eq!(shown, "100.115.72.131@5ab1c0de");
    }
}
