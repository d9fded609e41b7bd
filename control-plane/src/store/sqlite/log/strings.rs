//! Interned texts: methods, hosts, paths, user agents, rules, cities, proxies.

use hashbrown::HashMap;
use rusqlite::{OptionalExtension as _, Transaction};

use crate::store::sqlite::database::Work;
use crate::store::text::display_bytes;

/// Entries in one generation of the cache.
const GENERATION_ENTRIES: usize = 64 * 1024;
/// Bytes of text in one generation of the cache; two are kept.
const GENERATION_BYTES: usize = 8 * 1024 * 1024;

/// An interned text as the cache knows it.
#[derive(Debug, Clone, Copy)]
struct Interned {
    id: i64,
    last_hour: i64,
}

/// The writer's cache of texts, by the bytes as they came. When a generation is full it
/// becomes the old one and the one before it is dropped: what is used stays.
///
/// Holds what committed transactions wrote and what the present one writes: after a
/// failure it must be thrown away.
#[derive(Debug, Default)]
pub(super) struct Strings {
    young: HashMap<Box<[u8]>, Interned>,
    old: HashMap<Box<[u8]>, Interned>,
    young_bytes: usize,
}

impl Strings {
    /// The number of a text that a record of `hour` uses.
    pub(super) fn intern(&mut self, tx: &Transaction<'_>, bytes: &[u8], hour: i64) -> Work<i64> {
        if let Some(known) = self.young.get_mut(bytes) {
            if known.last_hour < hour {
                *known = write(tx, bytes, hour)?;
            }
            return Ok(known.id);
        }
        let interned = match self.old.get(bytes) {
            Some(known) if hour <= known.last_hour => *known,
            _ => write(tx, bytes, hour)?,
        };
        if self.young.len() >= GENERATION_ENTRIES || self.young_bytes >= GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes.len();
        self.young.insert(bytes.into(), interned);
        Ok(interned.id)
    }
}

/// Writes a text, or only its hour when it is there.
fn write(tx: &Transaction<'_>, bytes: &[u8], hour: i64) -> Work<Interned> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO strings (text, last_hour) VALUES (?1, ?2) \
         ON CONFLICT (text) DO UPDATE SET last_hour = max(last_hour, excluded.last_hour) \
         RETURNING id, last_hour",
    )?;
    Ok(statement.query_row((display_bytes(bytes), hour), |row| {
        Ok(Interned { id: row.get(0)?, last_hour: row.get(1)? })
    })?)
}

/// The number of a text as shown, if any record ever used it.
pub(super) fn find(tx: &Transaction<'_>, text: &str) -> Work<Option<i64>> {
    let mut statement = tx.prepare_cached("SELECT id FROM strings WHERE text = ?1")?;
    Ok(statement.query_row([text], |row| row.get(0)).optional()?)
}

/// Texts by number while reading, remembered up to a bound.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: HashMap<i64, Box<str>>,
    bytes: usize,
}

impl Texts {
    /// The text of a number.
    pub(super) fn get(&mut self, tx: &Transaction<'_>, id: i64) -> Work<String> {
        if let Some(text) = self.known.get(&id) {
            return Ok(text.as_ref().to_owned());
        }
        let mut statement = tx.prepare_cached("SELECT text FROM strings WHERE id = ?1")?;
        let text: String = statement.query_row([id], |row| row.get(0))?;
        if self.known.len() >= GENERATION_ENTRIES || self.bytes >= GENERATION_BYTES {
            self.known.clear();
            self.bytes = 0;
        }
        self.bytes += text.len();
        self.known.insert(id, text.as_str().into());
        Ok(text)
    }
}
