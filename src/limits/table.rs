//! The bounded table of buckets in shared data.
//!
//! ```text
//! ipwarden.limits.<n>       one set: up to 64 entries of 16 bytes
//! ipwarden.limits.secret    the key of the hash, and how many sets exist
//! entry                   = (tag, 56 bits | scale, 8 bits) u64 | arrival time u64
//! ```
//!
//! Shared data can't be deleted, so the keys are fixed: a client's bucket lives in the set
//! that a keyed hash names, and a set is read and written as a whole, by compare-and-swap.
//! An entry whose arrival time has passed equals a full bucket: overwriting it loses nothing.
//! Only when all entries of a set are in debt does a new client take the place of
//! another: of the one that owes least of what it can owe. A client that stays over its limit
//! owes nearly all of it, so no number of fresh addresses pushes it out.
//!
//! The hash is keyed with a secret of this Envoy process: nobody outside can aim at a set.
//!
//! A step of the work on a set is a value ([`Attempt`]), the loop around it is trivial
//! ([`Table::run`]): the simulation interleaves the same steps of many workers in any order.

use siphasher::sip128::{Hasher128, SipHasher13};

use super::gcra::{Bucket, Nanos, Outcome};
use crate::bytes::{Reader, decimal};
use crate::shared::{Cas, SharedData, SharedError};

/// Entries of a set. Clients spread over the sets by chance: with 16 entries some set runs
/// over when a fifth of the table is in use, with 64 none does up to half of it, which is what
/// [`bits_for`] makes room for.
pub const WAYS: usize = 64;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 16;
/// Compare-and-swaps that may be lost before an attempt ends as [`Done::Contended`]. Each
/// loss means that another worker won, so this takes more than sixteen workers in one set.
pub const MAX_TRIES: u32 = 16;
/// Fewest and most sets, as powers of two.
const BITS: core::ops::RangeInclusive<u32> = 5..=18;

/// A full bucket's entry is free only after this time: a worker that read the clock a moment
/// ago must still find it.
const GRACE: Nanos = 1_000_000_000;
/// The share of an entry that owes nothing and is free.
const FREE: u64 = 0;
/// The share of an entry that owes nothing any more.
const PAID: u64 = 1;

const SECRET_KEY: &str = "ipwarden.limits.secret";
const SECRET_BYTES: usize = 16;

/// How many sets (as a power of two) a table for `keys` clients in debt has: twice the room
/// that they need, so that a set runs over only when the whole table is close to full.
#[must_use]
pub fn bits_for(keys: u32) -> u32 {
    let sets = (u64::from(keys) * 2).div_ceil(WAYS as u64).next_power_of_two();
    sets.trailing_zeros().clamp(*BITS.start(), *BITS.end())
}

/// Where a bucket is: its set and its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub(super) set: u64,
    pub(super) tag: u64,
}

/// The keyed hash of what a bucket belongs to.
#[derive(Debug, Clone)]
pub struct PlaceHasher(SipHasher13);

impl PlaceHasher {
    /// Adds a part. Parts are told apart by their length.
    pub fn part(&mut self, bytes: &[u8]) {
        use core::hash::Hasher as _;
        self.0.write(&(bytes.len() as u64).to_le_bytes());
        self.0.write(bytes);
    }

    /// A hasher with another key than the table's.
    #[must_use]
    pub fn with_key(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    /// The hash itself.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.0.finish128().as_u128()
    }

    /// The place of the bucket that all parts name.
    #[must_use]
    pub fn finish(&self) -> Place {
        let hash = self.0.finish128();
        Place { set: hash.h1, tag: (hash.h2 | 1) << 8 }
    }
}

/// What happened in a table since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Compare-and-swaps that were lost and tried again.
    pub retries: u64,
    /// Attempts that were given up after [`MAX_TRIES`].
    pub contended: u64,
    /// Clients in debt that lost their entry to another: 0 until sets are truly full.
    pub evicted_in_debt: u64,
    /// Sets whose bytes were no entries, started over.
    pub damaged: u64,
    /// Calls that the host refused.
    pub host_errors: u64,
}

/// How full a table is, by a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Entries in debt, estimated.
    pub live: u64,
    /// Entries that there is room for.
    pub slots: u64,
}

/// The table, seen by one worker.
#[derive(Debug)]
pub struct Table {
    bits: u32,
    secret: Option<[u8; SECRET_BYTES]>,
    counts: Counts,
    /// The next set that a sample looks at.
    sample_at: u64,
    value: Vec<u8>,
    key: KeyName,
}

impl Table {
    /// A table of 2^`bits` sets. To be made ready by [`Self::open`].
    #[must_use]
    pub fn new(bits: u32) -> Self {
        Self {
            bits: bits.clamp(*BITS.start(), *BITS.end()),
            secret: None,
            counts: Counts::default(),
            sample_at: 0,
            value: Vec::new(),
            key: KeyName::default(),
        }
    }

    /// Makes sure that every set's key exists and reads the secret; `random` becomes the
    /// secret where there is none yet. Cheap when all is there.
    ///
    /// A compare-and-swap on a missing key would insert whatever it names, so the keys are
    /// made before traffic, on Envoy's main thread.
    ///
    /// # Errors
    /// Those of the host; the table stays closed.
    pub fn open(
        &mut self,
        shared: &mut dyn SharedData,
        random: [u8; SECRET_BYTES],
    ) -> Result<(), SharedError> {
        let cas = shared.get(SECRET_KEY, &mut self.value)?;
        let found = Reader::new(&self.value)
            .array::<SECRET_BYTES>()
            .ok()
            .zip(self.value.get(SECRET_BYTES).copied());
        let (secret, ready_bits) = found.unwrap_or((random, 0));
        if u32::from(ready_bits) < self.bits {
            for set in 0..1u64 << self.bits {
                let key = self.key.of(set);
                if shared.get(key, &mut self.value)?.is_none() {
                    shared.set(key, &[], None)?;
                }
            }
            let mut value = secret.to_vec();
            value.push(self.bits as u8);
            match shared.set(SECRET_KEY, &value, cas) {
                Ok(()) => {}
                // Somebody did the same: theirs counts.
                Err(SharedError::CasMismatch) => return self.open(shared, random),
                Err(error) => return Err(error),
            }
        }
        self.secret = Some(secret);
        Ok(())
    }

    /// Whether [`Self::open`] succeeded.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.secret.is_some()
    }

    /// A hasher for places in this table; `None` before it is open.
    #[must_use]
    pub fn hasher(&self) -> Option<PlaceHasher> {
        self.secret.as_ref().map(|secret| PlaceHasher(SipHasher13::new_with_key(secret)))
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        core::mem::take(&mut self.counts)
    }

    /// Entries that there is room for.
    #[must_use]
    pub const fn slots(&self) -> u64 {
        (WAYS as u64) << self.bits
    }

    /// Works an attempt off. At most one read and one write, unless another worker writes to
    /// the same set in between.
    pub fn run(&mut self, shared: &mut dyn SharedData, mut attempt: Attempt) -> Done {
        loop {
            let key = self.key.of(attempt.place.set & ((1 << self.bits) - 1));
            let found = shared.get(key, &mut self.value);
            match attempt.read(found, &mut self.value, &mut self.counts) {
                Next::Done(done) => return done,
                Next::Write(cas) => {
                    let written = shared.set(key, &self.value, cas);
                    if let Some(done) = attempt.written(written, &mut self.counts) {
                        return done;
                    }
                }
            }
        }
    }

    /// The key of the set that an attempt works on; for those who run its steps themselves.
    #[must_use]
    pub fn set_key(&self, attempt: &Attempt) -> String {
        let mut name = KeyName::default();
        name.of(attempt.place.set & ((1 << self.bits) - 1)).to_owned()
    }

    /// Looks at `sets` sets, others each time, and estimates from them.
    pub fn sample(&mut self, shared: &mut dyn SharedData, sets: u64, now: Nanos) -> Fill {
        let all = 1u64 << self.bits;
        let (mut live, mut seen) = (0u64, 0u64);
        for _ in 0..sets.min(all) {
            // An odd step visits every set of a power of two.
            self.sample_at = self.sample_at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let key = self.key.of(self.sample_at & (all - 1));
            if shared.get(key, &mut self.value).is_ok() {
                seen += 1;
                live += entries(&self.value).filter(|entry| entry.arrival > now).count() as u64;
            }
        }
        let live = (live * all).checked_div(seen).unwrap_or(0);
        Fill { live, slots: self.slots() }
    }
}

/// What is to be done with a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Take tokens if they are there.
    Take(u32),
    /// Take tokens in any case.
    Charge(u32),
    /// Give tokens back.
    Refund(u32),
    /// Fill it.
    Reset,
    /// Others took from it: it owes at least so much.
    Advance(Nanos),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Done; for a `Take`: admitted. The bucket's arrival time now.
    Stored(Nanos),
    /// A `Take` that is refused: when it would be admitted.
    Refused(Nanos),
    /// Other workers won every time.
    Contended,
    /// The host refused a call.
    HostError,
}

/// What an attempt needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The value is to be written with this number, then [`Attempt::written`].
    Write(Option<Cas>),
    /// Nothing.
    Done(Done),
}

/// One operation on one bucket, step by step: read, write, and again where the write lost.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    place: Place,
    bucket: Bucket,
    operation: Operation,
    now: Nanos,
    tries: u32,
    arrival: Nanos,
    /// How it ends if the write succeeds.
    done: Done,
}

impl Attempt {
    /// An operation on the bucket at `place`, at `now`.
    #[must_use]
    pub const fn new(place: Place, bucket: Bucket, operation: Operation, now: Nanos) -> Self {
        Self { place, bucket, operation, now, tries: 0, arrival: 0, done: Done::HostError }
    }

    /// Takes the set as it was read, and changes `value` to what is to be written.
    pub fn read(
        &mut self,
        found: Result<Option<Cas>, SharedError>,
        value: &mut Vec<u8>,
        counts: &mut Counts,
    ) -> Next {
        let Ok(cas) = found else {
            counts.host_errors += 1;
            return Next::Done(Done::HostError);
        };
        self.done = Done::HostError;
        if cas.is_none() {
            value.clear();
        }
        if !value.len().is_multiple_of(ENTRY_BYTES) || value.len() > WAYS * ENTRY_BYTES {
            counts.damaged += 1;
            value.clear();
        }
        let mut place = None;
        let mut least = (u64::MAX, 0);
        for (at, entry) in entries(value).enumerate() {
            if entry.tag() == self.place.tag {
                place = Some((at, entry.arrival));
                break;
            }
            let share = entry.share(self.now);
            if share < least.0 {
                least = (share, at);
            }
        }
        let arrival = place.map_or(0, |(_, arrival)| arrival);
        self.arrival = match self.operation {
            Operation::Take(cost) => match self.bucket.take(arrival, self.now, cost) {
                Outcome::Admitted { arrival } => arrival,
                Outcome::Refused { until } => {
                    self.done = Done::Refused(until);
                    let settled = self.bucket.settle(arrival, self.now);
                    if arrival.saturating_sub(settled) < GRACE {
                        return Next::Done(self.done);
                    }
                    // It owes more than a bucket can: the clock went back, or the limit is
                    // another now. Unless that is written down, it goes on owing it.
                    settled
                }
            },
            Operation::Charge(cost) => self.bucket.charge(arrival, self.now, cost),
            Operation::Refund(cost) => self.bucket.refund(arrival, self.now, cost),
            Operation::Reset => self.now,
            Operation::Advance(debt) => self.bucket.advance(arrival, self.now, debt),
        };
        if !matches!(self.done, Done::Refused(_)) {
            self.done = Done::Stored(self.arrival);
            if self.arrival == self.bucket.settle(arrival, self.now) {
                // Nothing changed; a full bucket needs no entry.
                return Next::Done(self.done);
            }
        }
        let entry = Entry::new(self.place.tag, &self.bucket, self.arrival).encode();
        let at = match place {
            Some((at, _)) => at,
            // Somebody whose bucket is full again makes room; else a free place; else
            // whoever owes least.
            None if least.0 == FREE => least.1,
            None if value.len() < WAYS * ENTRY_BYTES => value.len() / ENTRY_BYTES,
            None => {
                counts.evicted_in_debt += u64::from(least.0 > PAID);
                least.1
            }
        };
        match value.get_mut(at * ENTRY_BYTES..(at + 1) * ENTRY_BYTES) {
            Some(bytes) => bytes.copy_from_slice(&entry),
            None => value.extend_from_slice(&entry),
        }
        Next::Write(cas)
    }

    /// Takes the result of the write. `None`: read again.
    pub const fn written(
        &mut self,
        result: Result<(), SharedError>,
        counts: &mut Counts,
    ) -> Option<Done> {
        match result {
            Ok(()) => Some(self.done),
            Err(SharedError::CasMismatch) => {
                self.tries += 1;
                if self.tries < MAX_TRIES {
                    counts.retries += 1;
                    return None;
                }
                counts.contended += 1;
                Some(Done::Contended)
            }
            Err(SharedError::Host) => {
                counts.host_errors += 1;
                Some(Done::HostError)
            }
        }
    }
}

/// One entry of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Tag in the upper 56 bits; in the lower 8 the scale: binary logarithm of the bucket's
    /// capacity, which tells how much of what it can owe an entry owes.
    word: u64,
    arrival: Nanos,
}

impl Entry {
    const fn new(tag: u64, bucket: &Bucket, arrival: Nanos) -> Self {
        let scale = 63 - (bucket.capacity | 1).leading_zeros() as u64;
        Self { word: tag | scale, arrival }
    }

    const fn tag(&self) -> u64 {
        self.word & !0xff
    }

    /// How much of what it can owe it owes, in 65536ths, to a factor of two between limits
    /// and exactly inside one. [`FREE`] and [`PAID`] are below every debt.
    const fn share(&self, now: Nanos) -> u64 {
        let debt = self.arrival.saturating_sub(now);
        if debt == 0 {
            return if self.arrival.saturating_add(GRACE) <= now { FREE } else { PAID };
        }
        let scale = self.word & 0x3f;
        let share = if scale > 16 { debt >> (scale - 16) } else { debt << (16 - scale) };
        share.saturating_add(PAID + 1)
    }

    fn encode(self) -> [u8; ENTRY_BYTES] {
        (u128::from(self.word) | u128::from(self.arrival) << 64).to_le_bytes()
    }
}

fn entries(value: &[u8]) -> impl Iterator<Item = Entry> + '_ {
    value.as_chunks::<ENTRY_BYTES>().0.iter().map(|bytes| {
        let both = u128::from_le_bytes(*bytes);
        Entry { word: both as u64, arrival: (both >> 64) as u64 }
    })
}

/// Writes the name of a set's key without allocating.
#[derive(Debug, Clone, Default)]
struct KeyName(String);

impl KeyName {
    const PREFIX: &str = "ipwarden.limits.";

    fn of(&mut self, set: u64) -> &str {
        self.0.clear();
        self.0.push_str(Self::PREFIX);
        // At most 2^18 sets.
        let set = u32::try_from(set).unwrap_or(u32::MAX);
        self.0.extend(decimal(set).map(char::from));
        &self.0
    }
}

#[cfg(test)]
mod tests;
