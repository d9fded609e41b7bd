//! What a worker that ends leaves to the others of its Envoy.
//!
//! When a module is replaced, Envoy tears the old VM down right after `on_done`: calls that are
//! under way are cancelled, and whether they arrived nobody learns. So what was not answered is
//! left in shared data, and another worker ships it as it stands: of the new module, or of any
//! instance with the same control plane. A batch keeps its stream and number, so it is stored
//! once however often it is sent, and the one who ships it need not know its format.
//!
//! ```text
//! <namespace>.left      changes whenever something was left
//! <namespace>.left.<n>  empty, or what one worker left:
//!                       "IPWH" | version u8 | crc32 u32 of what follows | (weight varint
//!                       | length varint | body)*
//! ```
//!
//! Shared data can't be deleted, so the places are fixed: an empty value costs its key.

use crate::bytes::{Reader, put_varint};
use crate::shared::{SharedData, SharedError};

/// First bytes of what was left.
pub const MAGIC: [u8; 4] = *b"IPWH";
/// Version written, and the only one read so far.
pub const VERSION: u8 = 1;
/// Workers that may end before another one has taken what they left.
pub const PLACES: u32 = 64;
/// Bytes before the checksummed part.
const PREFIX_BYTES: usize = 9;
/// Messages that one worker leaves at most; more are a damaged value.
const MAX_MESSAGES: usize = 16_384;

/// A message for the control plane, encoded by whoever recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Requests that its records stand for.
    pub weight: u64,
    /// The body of `POST /v1/requests`.
    pub body: Vec<u8>,
}

/// What happened since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages taken from workers that ended.
    pub taken: u64,
    /// Values that were nothing of ours; they are gone.
    pub damaged: u64,
}

/// The places, seen by one worker.
#[derive(Debug)]
pub struct Handover {
    hint_key: String,
    /// The hint when all places were last looked at.
    seen: Option<Vec<u8>>,
    value: Vec<u8>,
    counts: Counts,
}

impl Handover {
    /// `namespace` is shared by all workers with the same control plane.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        let hint_key = format!("{namespace}.left");
        Self { hint_key, seen: None, value: Vec::new(), counts: Counts::default() }
    }

    /// Makes sure that every key exists. A compare-and-swap on a missing key would insert
    /// whatever it names, so this is done before traffic, on Envoy's main thread.
    ///
    /// # Errors
    /// Those of the host.
    pub fn open(&mut self, shared: &mut dyn SharedData) -> Result<(), SharedError> {
        // Written last: where it is, all are.
        if shared.get(&self.hint_key, &mut self.value)?.is_some() {
            return Ok(());
        }
        for place in 0..PLACES {
            let key = self.key_of(place);
            if shared.get(&key, &mut self.value)?.is_none() {
                shared.set(&key, &[], None)?;
            }
        }
        shared.set(&self.hint_key, &0u64.to_le_bytes(), None)
    }

    /// Leaves messages, all of them or none. `false` when every place is taken or the host
    /// refuses.
    #[must_use]
    pub fn leave(&mut self, shared: &mut dyn SharedData, messages: &[Message]) -> bool {
        let value = encode(messages);
        for place in 0..PLACES {
            let key = self.key_of(place);
            let Ok(cas) = shared.get(&key, &mut self.value) else { return false };
            if !self.value.is_empty() {
                continue;
            }
            match shared.set(&key, &value, cas) {
                Ok(()) => {
                    self.hint(shared);
                    return true;
                }
                // Another worker that ends was faster.
                Err(SharedError::CasMismatch) => {}
                Err(SharedError::Host) => return false,
            }
        }
        false
    }

    /// Takes what one worker left, if any did. One read where none did since the last call.
    pub fn take(&mut self, shared: &mut dyn SharedData) -> Option<Vec<Message>> {
        shared.get(&self.hint_key, &mut self.value).ok()??;
        if self.seen.as_ref() == Some(&self.value) {
            return None;
        }
        let hint = self.value.clone();
        for place in 0..PLACES {
            let key = self.key_of(place);
            let Ok(Some(cas)) = shared.get(&key, &mut self.value) else { continue };
            // A mismatch: another worker has taken it.
            if self.value.is_empty() || shared.set(&key, &[], Some(cas)).is_err() {
                continue;
            }
            match decode(&self.value) {
                Some(messages) => {
                    self.counts.taken += messages.len() as u64;
                    return Some(messages);
                }
                None => self.counts.damaged += 1,
            }
        }
        // Only now: there may be more than what one call takes.
        self.seen = Some(hint);
        None
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        core::mem::take(&mut self.counts)
    }

    fn key_of(&self, place: u32) -> String {
        format!("{}.{place}", self.hint_key)
    }

    /// Tells the others that there is something. Should another write be faster each time, the
    /// hint has changed all the same.
    fn hint(&mut self, shared: &mut dyn SharedData) {
        let Ok(Some(cas)) = shared.get(&self.hint_key, &mut self.value) else { return };
        let number = self.value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let _ = shared.set(&self.hint_key, &number.wrapping_add(1).to_le_bytes(), Some(cas));
    }
}

fn encode(messages: &[Message]) -> Vec<u8> {
    let bytes: usize = messages.iter().map(|message| message.body.len() + 16).sum();
    let mut out = Vec::with_capacity(PREFIX_BYTES + bytes);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&[0; 4]);
    for message in messages {
        put_varint(&mut out, message.weight);
        put_varint(&mut out, message.body.len() as u64);
        out.extend_from_slice(&message.body);
    }
    let crc = out.get(PREFIX_BYTES..).map_or(0, crc32fast::hash);
    if let Some(place) = out.get_mut(5..PREFIX_BYTES) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<Message>> {
    let mut reader = Reader::new(bytes);
    if reader.array::<4>().ok()? != MAGIC || reader.u8().ok()? != VERSION {
        return None;
    }
    let crc = reader.u32().ok()?;
    if crc32fast::hash(reader.rest()) != crc {
        return None;
    }
    let mut messages = Vec::new();
    while !reader.is_empty() {
        let weight = reader.varint().ok()?;
        let body = reader.bytes(super::wire::MAX_BATCH_BYTES).ok()?.to_vec();
        if messages.len() >= MAX_MESSAGES {
            return None;
        }
        messages.push(Message { weight, body });
    }
    Some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::MemoryShared;

    fn message(weight: u64, body: &[u8]) -> Message {
        Message { weight, body: body.to_vec() }
    }

    fn opened(shared: &mut MemoryShared) -> Handover {
        let mut handover = Handover::new("ipwarden.test");
        handover.open(shared).unwrap();
        handover
    }

    #[test]
    fn what_workers_left_is_taken_once_by_whoever_comes_first() {
        let mut shared = MemoryShared::default();
        let (mut old, mut other) = (opened(&mut shared), opened(&mut shared));
        let (mut first, mut second) = (opened(&mut shared), opened(&mut shared));
        assert_eq!(first.take(&mut shared), None);
        let left = [message(3, b"one"), message(0, b"")];
        assert!(old.leave(&mut shared, &left));
        assert!(other.leave(&mut shared, &[message(7, b"two")]));
        assert_eq!(first.take(&mut shared).unwrap(), left);
        assert_eq!(second.take(&mut shared).unwrap(), [message(7, b"two")]);
        assert_eq!((first.take(&mut shared), second.take(&mut shared)), (None, None));
        assert_eq!(first.take_counts(), Counts { taken: 2, damaged: 0 });
        // Nothing of it stays.
        let keys = shared.keys().count();
        assert_eq!(shared.bytes(), 8, "the hint alone");
        assert!(old.leave(&mut shared, &left) && first.take(&mut shared).is_some());
        assert_eq!(shared.keys().count(), keys);
    }

    #[test]
    fn looking_costs_one_read_while_nobody_ends() {
        let mut shared = MemoryShared::default();
        let mut worker = opened(&mut shared);
        assert_eq!(worker.take(&mut shared), None);
        let (gets, sets) = (shared.gets, shared.sets);
        assert_eq!(worker.take(&mut shared), None);
        assert_eq!((shared.gets, shared.sets), (gets + 1, sets));
    }

    #[test]
    fn when_every_place_is_taken_nothing_is_left_and_nothing_overwritten() {
        let mut shared = MemoryShared::default();
        let mut worker = opened(&mut shared);
        for n in 0..PLACES {
            assert!(worker.leave(&mut shared, &[message(u64::from(n), b"x")]));
        }
        assert!(!worker.leave(&mut shared, &[message(999, b"x")]));
        let mut weights = Vec::new();
        while let Some(messages) = worker.take(&mut shared) {
            weights.extend(messages.iter().map(|message| message.weight));
        }
        assert_eq!(weights, (0..u64::from(PLACES)).collect::<Vec<_>>());
    }

    #[test]
    fn a_lost_race_for_a_place_takes_the_next_and_for_a_message_leaves_it_to_the_other() {
        let mut shared = MemoryShared::default();
        let mut worker = opened(&mut shared);
        shared.fail_next = 1;
        assert!(worker.leave(&mut shared, &[message(1, b"x")]));
        shared.fail_next = 1;
        assert_eq!(worker.take(&mut shared), None);
        // The hint that changed brings it back.
        assert!(worker.leave(&mut shared, &[message(2, b"y")]));
        let mut taken = 0;
        while let Some(messages) = worker.take(&mut shared) {
            taken += messages.len();
        }
        assert_eq!(taken, 2);
    }

    #[test]
    fn every_damaged_value_is_thrown_away_and_counted() {
        let whole = encode(&[message(3, b"body")]);
        for place in 0..whole.len() {
            let mut shared = MemoryShared::default();
            let mut worker = opened(&mut shared);
            assert!(worker.leave(&mut shared, &[message(3, b"body")]));
            assert!(shared.corrupt("ipwarden.test.left.0", |value| value[place] ^= 0x10));
            assert_eq!(worker.take(&mut shared), None, "{place}");
            assert_eq!(worker.take_counts(), Counts { taken: 0, damaged: 1 });
            assert_eq!(shared.bytes(), 8);
        }
        for length in 1..whole.len() {
            assert_eq!(decode(&whole[..length]).filter(|found| !found.is_empty()), None);
        }
    }
}
