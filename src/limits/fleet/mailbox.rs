//! What workers leave for the one that reports, and the secret that it learned for them.
//!
//! ```text
//! <namespace>.fleet.secret  empty, or the key of the hash that names buckets
//! <namespace>.fleet.box     empty, or what was taken since somebody last looked:
//!                           "IPWB" | version u8 | since, Unix ms u64 | (bucket u128 | place u64 × 2
//!                           | interval, capacity, horizon, ns u64 × 3 | taken, ns i64)*
//!                           | crc32 u32 of all before it
//! ```
//!
//! Workers write on their ticks, not with requests: one read and one write for all that they
//! took in between. A box without entries asks for the secret.

use super::{BucketId, Consumed, Consumption, MAX_NOTED, SECRET_BYTES, Secret, add};
use crate::bytes::{Malformed, Reader};
use crate::limits::gcra::Bucket;
use crate::limits::table::Place;
use crate::shared::{SharedData, SharedError};

const MAGIC: [u8; 4] = *b"IPWB";
const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 64;
/// Most buckets in the box.
pub const MAX_BUCKETS: usize = MAX_NOTED;
/// Writes that may be lost to other workers before the next tick tries again.
const MAX_TRIES: u32 = 4;

/// What was in the box.
#[derive(Debug, Default)]
pub struct Mail {
    /// When the first of it was put there.
    pub since_ms: u64,
    /// What was taken from which buckets.
    pub consumed: Consumed,
}

/// The box, seen by one worker.
#[derive(Debug)]
pub struct Mailbox {
    box_key: String,
    secret_key: String,
    value: Vec<u8>,
}

impl Mailbox {
    /// `namespace` is shared by all workers with the same control plane.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            box_key: format!("{namespace}.fleet.box"),
            secret_key: format!("{namespace}.fleet.secret"),
            value: Vec::new(),
        }
    }

    /// Makes sure that the keys exist: a compare-and-swap on a missing one would insert
    /// whatever it names. To be called before traffic.
    ///
    /// # Errors
    /// Those of the host.
    pub fn open(&mut self, shared: &mut dyn SharedData) -> Result<(), SharedError> {
        for key in [&self.box_key, &self.secret_key] {
            if shared.get(key, &mut self.value)?.is_none() {
                shared.set(key, &[], None)?;
            }
        }
        Ok(())
    }

    /// The secret, if somebody learned it.
    pub fn secret(&mut self, shared: &mut dyn SharedData) -> Option<Secret> {
        shared.get(&self.secret_key, &mut self.value).ok()??;
        Secret::try_from(self.value.as_slice()).ok()
    }

    /// Tells the other workers the secret.
    pub fn tell(&mut self, shared: &mut dyn SharedData, secret: &Secret) {
        if self.secret(shared) != Some(*secret) {
            // Where the host refuses, the next answer brings it again.
            let _ = shared.set(&self.secret_key, secret, None);
        }
    }

    /// Puts what was taken into the box; what could not be put stays in `consumed`. Returns how
    /// many buckets there was no room for: they are forgotten.
    pub fn put(
        &mut self,
        shared: &mut dyn SharedData,
        consumed: &mut Consumed,
        now_ms: u64,
    ) -> u64 {
        for _ in 0..MAX_TRIES {
            let Ok(cas) = shared.get(&self.box_key, &mut self.value) else { return 0 };
            let mut mail = decode(&self.value).unwrap_or_default();
            if mail.since_ms == 0 {
                mail.since_ms = now_ms;
            }
            let mut left_out = 0;
            for (id, more) in consumed.iter() {
                left_out += u64::from(!add(&mut mail.consumed, *id, *more, MAX_BUCKETS));
            }
            match shared.set(&self.box_key, &encode(&mail), cas) {
                Ok(()) => {
                    consumed.clear();
                    return left_out;
                }
                Err(SharedError::CasMismatch) => {}
                Err(SharedError::Host) => return 0,
            }
        }
        0
    }

    /// Empties the box. `None`: it is empty, or another worker was faster. One read where
    /// nobody put anything.
    pub fn take(&mut self, shared: &mut dyn SharedData) -> Option<Mail> {
        let cas = shared.get(&self.box_key, &mut self.value).ok()??;
        if self.value.is_empty() {
            return None;
        }
        shared.set(&self.box_key, &[], Some(cas)).ok()?;
        // What nobody can read is gone: a second of consumption.
        decode(&self.value).ok()
    }
}

fn encode(mail: &Mail) -> Vec<u8> {
    let mut out = Vec::with_capacity(17 + ENTRY_BYTES * mail.consumed.len());
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&mail.since_ms.to_le_bytes());
    for (id, Consumption { place, bucket, nanos }) in &mail.consumed {
        out.extend_from_slice(&id.0.to_le_bytes());
        for number in [place.set, place.tag, bucket.interval, bucket.capacity, bucket.horizon] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&nanos.to_le_bytes());
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Result<Mail, Malformed> {
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed)?;
    let mut reader = Reader::new(covered);
    let is_ours = reader.array::<4>()? == MAGIC && reader.u8()? == VERSION;
    if !is_ours || crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return Err(Malformed);
    }
    let mut mail = Mail { since_ms: reader.u64()?, consumed: Consumed::default() };
    while !reader.is_empty() {
        let id = BucketId(u128::from_le_bytes(reader.array()?));
        let place = Place { set: reader.u64()?, tag: reader.u64()? };
        let (interval, capacity, horizon) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let bucket = Bucket { interval: interval.max(1), capacity, horizon };
        let nanos = i64::from_le_bytes(reader.array()?);
        if !add(&mut mail.consumed, id, Consumption { place, bucket, nanos }, MAX_BUCKETS) {
            return Err(Malformed);
        }
    }
    Ok(mail)
}

const _: () = assert!(SECRET_BYTES == size_of::<Secret>());

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::limits::Rate;
    use crate::shared::testing::MemoryShared;

    fn taken(n: u128, nanos: i64) -> (BucketId, Consumption) {
        let bucket = Bucket::new(&Rate::new(60, Duration::from_secs(60))).of_fleet();
        let place = Place { set: n as u64, tag: 0x100 };
        (BucketId(n), Consumption { place, bucket, nanos })
    }

    fn opened(shared: &mut MemoryShared) -> Mailbox {
        let mut mailbox = Mailbox::new("ipwarden.test");
        mailbox.open(shared).unwrap();
        mailbox
    }

    #[test]
    fn what_workers_put_is_summed_and_taken_once() {
        let mut shared = MemoryShared::default();
        let (mut one, mut other) = (opened(&mut shared), opened(&mut shared));
        assert!(one.take(&mut shared).is_none());
        let mut consumed = Consumed::from_iter([taken(1, 5), taken(2, -3)]);
        assert_eq!(one.put(&mut shared, &mut consumed, 100), 0);
        assert!(consumed.is_empty());
        let mut consumed = Consumed::from_iter([taken(1, 7)]);
        assert_eq!(other.put(&mut shared, &mut consumed, 200), 0);
        let mail = one.take(&mut shared).unwrap();
        assert_eq!(mail.since_ms, 100);
        assert_eq!(mail.consumed, Consumed::from_iter([taken(1, 12), taken(2, -3)]));
        assert!(other.take(&mut shared).is_none());
        assert_eq!(shared.bytes(), 0, "nothing of it stays");
    }

    #[test]
    fn a_box_without_entries_is_a_word_too() {
        let mut shared = MemoryShared::default();
        let mut mailbox = opened(&mut shared);
        mailbox.put(&mut shared, &mut Consumed::default(), 100);
        assert_eq!(mailbox.take(&mut shared).unwrap().consumed.len(), 0);
        assert_eq!(mailbox.secret(&mut shared), None);
        mailbox.tell(&mut shared, &[7; 16]);
        let sets = shared.sets;
        mailbox.tell(&mut shared, &[7; 16]);
        assert_eq!((mailbox.secret(&mut shared), shared.sets), (Some([7; 16]), sets));
    }

    #[test]
    fn a_lost_race_is_run_again_and_a_full_box_leaves_out_what_is_new() {
        let mut shared = MemoryShared::default();
        let mut mailbox = opened(&mut shared);
        shared.fail_next = 2;
        let mut consumed: Consumed = (0..MAX_BUCKETS as u128).map(|n| taken(n, 1)).collect();
        assert_eq!(mailbox.put(&mut shared, &mut consumed, 100), 0);
        let mut consumed = Consumed::from_iter([taken(0, 1), taken(1 << 90, 1)]);
        assert_eq!(mailbox.put(&mut shared, &mut consumed, 100), 1);
        // Lost as often as it may be: all stays for the next tick.
        shared.fail_next = MAX_TRIES;
        let mut consumed = Consumed::from_iter([taken(0, 1)]);
        assert_eq!((mailbox.put(&mut shared, &mut consumed, 100), consumed.len()), (0, 1));
        shared.fail_next = 1;
        assert!(mailbox.take(&mut shared).is_none());
        let mail = mailbox.take(&mut shared).unwrap();
        assert_eq!((mail.consumed.len(), mail.consumed[&BucketId(0)].nanos), (MAX_BUCKETS, 2));
    }

    #[test]
    fn a_damaged_box_is_emptied_and_used_again() {
        let mut shared = MemoryShared::default();
        let mut mailbox = opened(&mut shared);
        for at in 0..17 + ENTRY_BYTES {
            mailbox.put(&mut shared, &mut Consumed::from_iter([taken(1, 5)]), 100);
            assert!(shared.corrupt("ipwarden.test.fleet.box", |value| value[at] ^= 4));
            assert!(mailbox.take(&mut shared).is_none(), "byte {at}");
            assert_eq!(shared.bytes(), 0);
        }
        mailbox.put(&mut shared, &mut Consumed::from_iter([taken(1, 5)]), 100);
        assert_eq!(mailbox.take(&mut shared).unwrap().consumed.len(), 1);
    }
}
