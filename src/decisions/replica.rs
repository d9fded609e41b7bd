//! The decision set in shared data: one worker fetches, every worker keeps up.
//!
//! ```text
//! control plane ──long poll──► leader ──► <ns>.snap.<slot>.<i>   frames of a snapshot
//!                                    ├──► <ns>.log.<slot>.<k>    frames of deltas since
//!                                    ├──► <ns>.policy           changes to limits
//!                                    └──► <ns>.head              what is valid (written last)
//!                        every worker ◄── head, on its tick ──► own compiled table
//! ```
//!
//! Shared data can't be deleted, so keys are reused: two slots, the one not in use is
//! written, then the head names it. A reader trusts nothing but checksums and the revision
//! that each frame names; what does not fit makes it start over, and if that does not help
//! it asks the leader (through `<ns>.repair`) for a fresh snapshot. The old table serves
//! until a new one is complete.
//!
//! The leader holds a lease. Two leaders at once (a worker that slept past its lease) can
//! do no harm: the head is written by compare-and-swap against the head the work started
//! from, and a log chunk against the chunk that was read.

use crate::backoff::Backoff;
use crate::bytes::Reader as Bytes;
use crate::decisions::table::{Builder, Table};
use crate::decisions::wire::{self, DecodeError, Kind};
use crate::decisions::{Change, Entry, Revision};
use crate::limits::policy;
use crate::shared::{Cas, SharedData, SharedError};

/// How long a lease lasts without being renewed.
pub const LEASE_MS: u64 = 3_000;
/// How often the leader renews it and the others look at it.
pub const LEASE_CHECK_MS: u64 = 1_000;
/// How long the control plane may hold a poll.
pub const POLL_WAIT_SECONDS: u64 = 30;
/// A poll without any answer for so long is given up.
pub const POLL_GIVE_UP_MS: u64 = (POLL_WAIT_SECONDS + 15) * 1_000;
/// First and longest pause after a failed poll.
pub const BACKOFF_MS: (u64, u64) = (200, 5_000);
/// Longest pause after a poll that was refused (a wrong token does not mend itself).
pub const BACKOFF_REFUSED_MS: u64 = 30_000;
/// Frames of a snapshot that the leader takes in one callback: more would keep requests
/// waiting. A larger snapshot comes in steps ([`Replicator::advance`]).
pub const FRAMES_AT_ONCE: u32 = 2;
/// A log chunk is closed when it reaches this.
const CHUNK_BYTES: usize = 64 * 1024;
/// Past this length of the log the leader asks for a new snapshot.
const LOG_SOFT_BYTES: u64 = 512 * 1024;
/// Past this one it writes no more to the log until the snapshot has come.
const LOG_HARD_BYTES: u64 = 16 * 1024 * 1024;

/// The names of the keys of one decision set.
///
/// The namespace separates sets from one another (several plugin instances with different
/// control planes) and from foreign plugins (Istio leaves `vm_id` empty, so all plugins of
/// a proxy share one map).
#[derive(Debug, Clone)]
struct Keys {
    namespace: String,
    head: String,
    lease: String,
    repair: String,
    policy: String,
}

impl Keys {
    fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            head: format!("{namespace}.head"),
            lease: format!("{namespace}.lease"),
            repair: format!("{namespace}.repair"),
            policy: format!("{namespace}.policy"),
        }
    }

    fn snapshot(&self, slot: u32, index: u32) -> String {
        format!("{}.snap.{slot}.{index}", self.namespace)
    }

    fn log(&self, slot: u32, chunk: u32) -> String {
        format!("{}.log.{slot}.{chunk}", self.namespace)
    }
}

/// What is valid in shared data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    epoch: u64,
    /// Counts snapshots written; its lowest bit is the slot.
    generation: u32,
    /// Revision of the snapshot.
    snapshot: u64,
    /// Frames and entries of the snapshot.
    frames: u32,
    entries: u32,
    /// The log: complete chunks before the last, bytes used in the last, bytes in all.
    last_chunk: u32,
    last_chunk_bytes: u32,
    log_bytes: u64,
    /// Revision after the log.
    number: u64,
    /// Number of the last policy that arrived, 0 for none; the last one that could be used is
    /// in its key.
    policy: u64,
    /// Number of the last reset of a bucket that was done.
    resets: u64,
}

const HEAD_MAGIC: [u8; 4] = *b"IPWH";
const HEAD_VERSION: u8 = 2;

impl Head {
    const fn slot(&self) -> u32 {
        self.generation & 1
    }

    const fn revision(&self) -> Revision {
        Revision { epoch: self.epoch, number: self.number }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(88);
        out.extend_from_slice(&HEAD_MAGIC);
        out.push(HEAD_VERSION);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.snapshot.to_le_bytes());
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.last_chunk.to_le_bytes());
        out.extend_from_slice(&self.last_chunk_bytes.to_le_bytes());
        out.extend_from_slice(&self.log_bytes.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.policy.to_le_bytes());
        out.extend_from_slice(&self.resets.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` for anything that this version did not write: it is treated as absent.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..bytes.len().checked_sub(4)?)?;
        let mut reader = Bytes::new(bytes);
        if reader.array::<4>().ok()? != HEAD_MAGIC || reader.u8().ok()? != HEAD_VERSION {
            return None;
        }
        let head = Self {
            epoch: reader.u64().ok()?,
            generation: reader.u32().ok()?,
            snapshot: reader.u64().ok()?,
            frames: reader.u32().ok()?,
            entries: reader.u32().ok()?,
            last_chunk: reader.u32().ok()?,
            last_chunk_bytes: reader.u32().ok()?,
            log_bytes: reader.u64().ok()?,
            number: reader.u64().ok()?,
            policy: reader.u64().ok()?,
            resets: reader.u64().ok()?,
        };
        let crc = reader.u32().ok()?;
        (reader.is_empty() && crc == crc32fast::hash(covered)).then_some(head)
    }
}

/// A request that the leader wants sent to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// To be named with the answer: answers to polls that were given up are ignored.
    pub id: u64,
    /// The revision that is held; `None` asks for a snapshot at once.
    pub after: Option<Revision>,
    /// Number of the policy that is held, 0 for none.
    pub policy: u64,
}

/// Reads a policy's payload and does the resets in it that are newer than the number given,
/// before any worker sees the policy. Returns the number of its last reset; `None` for a
/// policy that can't be used.
pub type TakePolicy<'a> = &'a mut dyn FnMut(&mut dyn SharedData, &[u8], u64) -> Option<u64>;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A message.
    Message(&'a [u8]),
    /// Nothing newer within the wait.
    Unchanged,
    /// The control plane refuses us (401, 403 and the like).
    Refused,
    /// No answer, or an error that may pass.
    Failed,
}

/// What an answer led to; for metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A snapshot was written.
    Snapshot(Revision),
    /// A delta was appended.
    Delta(Revision),
    /// A large snapshot arrived: [`Replicator::advance`] takes it from here.
    Importing,
    /// Nothing newer.
    Unchanged,
    /// The control plane refused or did not answer; tried again later.
    Unreachable {
        /// Whether it was a refusal.
        refused: bool,
    },
    /// The message was bad and is thrown away.
    Bad(DecodeError),
    /// The same for the part about limits.
    BadPolicy(policy::DecodeError),
    /// Another worker leads now, or wrote in between; the answer is thrown away.
    Superseded,
    /// The answer belongs to no poll of ours.
    Unexpected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PollState {
    Idle { not_before_ms: u64 },
    InFlight { id: u64, since_ms: u64 },
}

/// One worker's part in fetching: takes the lease when it is free, polls while it holds it.
#[derive(Debug)]
pub struct Replicator {
    keys: Keys,
    /// Identifies this worker in the lease; never 0.
    id: u64,
    leads: bool,
    next_check_ms: u64,
    poll: PollState,
    polls: u64,
    backoff: Backoff,
    want_snapshot: bool,
    takeovers: u64,
    policies_refused: u64,
    import: Option<Import>,
    scratch: Vec<u8>,
}

/// A snapshot on its way into shared data, a few frames a step.
#[derive(Debug)]
struct Import {
    body: Vec<u8>,
    steps: wire::Steps,
    writing: Writing,
    /// The head that the work started from.
    cas: Option<Cas>,
    poll_since_ms: u64,
}

/// Writes a snapshot's frames into the slot that is not in use.
#[derive(Debug)]
struct Writing {
    /// Makes them valid, once it is written.
    next: Head,
    /// The last entry so far.
    last: Option<Entry>,
}

impl Replicator {
    /// `id` must be random and different in every worker.
    #[must_use]
    pub fn new(namespace: &str, id: u64) -> Self {
        let id = id | 1;
        Self {
            keys: Keys::new(namespace),
            id,
            leads: false,
            next_check_ms: 0,
            poll: PollState::Idle { not_before_ms: 0 },
            polls: 0,
            backoff: Backoff::new(BACKOFF_MS.0, id),
            want_snapshot: false,
            takeovers: 0,
            policies_refused: 0,
            import: None,
            scratch: Vec::new(),
        }
    }

    /// Makes sure that the keys exist: a compare-and-swap on a missing key would insert
    /// whatever number it names. To be called before the first tick.
    ///
    /// # Errors
    /// Those of the host.
    pub fn initialise(&mut self, shared: &mut dyn SharedData) -> Result<(), SharedError> {
        for key in [&self.keys.lease, &self.keys.head, &self.keys.repair] {
            if shared.get(key, &mut self.scratch)?.is_none() {
                shared.set(key, &[], None)?;
            }
        }
        Ok(())
    }

    /// Whether this worker leads, as far as it knows.
    #[must_use]
    pub const fn leads(&self) -> bool {
        self.leads
    }

    /// How often this worker became the leader.
    #[must_use]
    pub const fn takeovers(&self) -> u64 {
        self.takeovers
    }

    /// How many policies arrived that could not be used.
    #[must_use]
    pub const fn policies_refused(&self) -> u64 {
        self.policies_refused
    }

    /// To be called often (every tick). Returns a poll that has to be sent now, to be
    /// followed by [`Self::answered`] with its id.
    pub fn tick(&mut self, now_ms: u64, shared: &mut dyn SharedData) -> Option<Poll> {
        // A clock that jumped back must not keep us from looking.
        let due = now_ms >= self.next_check_ms
            || self.next_check_ms > now_ms.saturating_add(2 * LEASE_CHECK_MS);
        if due {
            self.next_check_ms = now_ms + LEASE_CHECK_MS;
            self.check_lease(now_ms, shared);
            if self.leads {
                self.look_for_repair(shared);
            }
        }
        if !self.leads {
            return None;
        }
        match self.poll {
            PollState::Idle { not_before_ms } => {
                let waits = now_ms < not_before_ms
                    && not_before_ms <= now_ms.saturating_add(BACKOFF_REFUSED_MS);
                if waits {
                    return None;
                }
            }
            PollState::InFlight { since_ms, .. } => {
                let elapsed = now_ms.checked_sub(since_ms).unwrap_or(POLL_GIVE_UP_MS);
                if elapsed < POLL_GIVE_UP_MS {
                    return None;
                }
            }
        }
        self.polls += 1;
        self.poll = PollState::InFlight { id: self.polls, since_ms: now_ms };
        let head = self.read_head(shared).ok().and_then(|(head, _)| head);
        let after = head.filter(|_| !self.want_snapshot).map(|head| head.revision());
        Some(Poll { id: self.polls, after, policy: head.map_or(0, |head| head.policy) })
    }

    /// Takes the answer to the poll `id`.
    pub fn answered(
        &mut self,
        id: u64,
        now_ms: u64,
        shared: &mut dyn SharedData,
        answer: Answer<'_>,
        take_policy: TakePolicy<'_>,
    ) -> Outcome {
        let since_ms = match self.poll {
            PollState::InFlight { id: waited_for, since_ms } if waited_for == id => since_ms,
            _ => return Outcome::Unexpected,
        };
        let outcome = match answer {
            Answer::Message(bytes) => {
                self.import = None;
                let poll = PollState::InFlight { id, since_ms };
                match self.begin_import(now_ms, shared, bytes, poll) {
                    Some(outcome) => outcome,
                    None => self.take_message(now_ms, shared, bytes, take_policy),
                }
            }
            Answer::Unchanged => Outcome::Unchanged,
            Answer::Refused => Outcome::Unreachable { refused: true },
            Answer::Failed => Outcome::Unreachable { refused: false },
        };
        self.pause_after(outcome, now_ms, since_ms);
        outcome
    }

    /// Whether a large snapshot is being taken in steps.
    #[must_use]
    pub const fn is_importing(&self) -> bool {
        self.import.is_some()
    }

    /// Takes the next few frames of a large snapshot. What became of it, once it is over.
    pub fn advance(
        &mut self,
        now_ms: u64,
        shared: &mut dyn SharedData,
        take_policy: TakePolicy<'_>,
    ) -> Option<Outcome> {
        let mut import = self.import.take()?;
        let since_ms = import.poll_since_ms;
        let outcome = if !self.leads {
            Outcome::Superseded
        } else {
            match import.take_frames(&self.keys, shared) {
                Ok(false) => {
                    self.import = Some(import);
                    return None;
                }
                Ok(true) => self.end_import(&import, shared, take_policy),
                Err(error) => self.not_written(error),
            }
        };
        self.pause_after(outcome, now_ms, since_ms);
        Some(outcome)
    }

    fn pause_after(&mut self, outcome: Outcome, now_ms: u64, since_ms: u64) {
        let pause_ms = match outcome {
            Outcome::Snapshot(_) | Outcome::Delta(_) => {
                self.backoff.reset();
                0
            }
            // The poll is not over: nothing else is asked for meanwhile.
            Outcome::Importing => return,
            Outcome::Unchanged => {
                self.backoff.reset();
                // An answer "nothing new" that does not take its time would make us spin.
                if now_ms.saturating_sub(since_ms) < 1_000 { self.backoff.spread(1_000) } else { 0 }
            }
            Outcome::Unreachable { refused } => {
                let longest = if refused { BACKOFF_REFUSED_MS } else { BACKOFF_MS.1 };
                self.backoff.fail(longest)
            }
            Outcome::Bad(_) | Outcome::BadPolicy(_) => self.backoff.fail(BACKOFF_MS.1),
            Outcome::Superseded | Outcome::Unexpected => self.backoff.spread(LEASE_CHECK_MS),
        };
        self.poll = PollState::Idle { not_before_ms: now_ms + pause_ms };
    }

    /// Gives the lease back, so that another worker need not wait for its end.
    pub fn release(&mut self, shared: &mut dyn SharedData) {
        if !self.leads {
            return;
        }
        self.leads = false;
        if let Ok(Some(cas)) = shared.get(&self.keys.lease, &mut self.scratch)
            && Lease::decode(&self.scratch).is_some_and(|lease| lease.holder == self.id)
        {
            // Whoever wrote in between has the lease already.
            let _ = shared.set(&self.keys.lease, &[], Some(cas));
        }
    }

    fn check_lease(&mut self, now_ms: u64, shared: &mut dyn SharedData) {
        let Ok(cas) = shared.get(&self.keys.lease, &mut self.scratch) else {
            self.leads = false;
            return;
        };
        let lease = Lease::decode(&self.scratch);
        let ours = lease.is_some_and(|lease| lease.holder == self.id);
        let free = lease.is_none_or(|lease| lease.is_over(now_ms));
        if !ours && !free {
            self.leads = false;
            return;
        }
        let renewed = Lease { holder: self.id, until_ms: now_ms + LEASE_MS }.encode();
        let held = shared.set(&self.keys.lease, &renewed, cas).is_ok();
        if held && !self.leads {
            self.takeovers += 1;
            // A poll of an earlier term may still be on its way; its answer is then used,
            // or the poll is given up in time.
        }
        self.leads = held;
    }

    fn look_for_repair(&mut self, shared: &mut dyn SharedData) {
        if self.want_snapshot || shared.get(&self.keys.repair, &mut self.scratch).is_err() {
            return;
        }
        let asked = <[u8; 4]>::try_from(self.scratch.as_slice()).ok().map(u32::from_le_bytes);
        if let Some(asked) = asked
            && let Ok((Some(head), _)) = self.read_head(shared)
            && head.generation == asked
        {
            self.want_snapshot = true;
            // The poll that waits for the next change would keep the repair waiting too.
            self.poll = PollState::Idle { not_before_ms: 0 };
        }
    }

    fn read_head(
        &mut self,
        shared: &mut dyn SharedData,
    ) -> Result<(Option<Head>, Option<Cas>), SharedError> {
        let cas = shared.get(&self.keys.head, &mut self.scratch)?;
        Ok((Head::decode(&self.scratch), cas))
    }

    fn take_message(
        &mut self,
        now_ms: u64,
        shared: &mut dyn SharedData,
        bytes: &[u8],
        take_policy: TakePolicy<'_>,
    ) -> Outcome {
        let body = match wire::decode_body(bytes) {
            Ok(body) => body,
            Err(error) => return Outcome::Bad(error),
        };
        let policy = match read_policy(body.rest) {
            Ok(policy) => policy,
            Err(outcome) => return outcome,
        };
        // We may have slept past the lease; only its holder writes.
        self.check_lease(now_ms, shared);
        if !self.leads {
            return Outcome::Superseded;
        }
        let Ok((head, cas)) = self.read_head(shared) else { return Outcome::Superseded };
        let kind = body.message.as_ref().map(|message| message.header.kind);
        let written = match (&body.message, head) {
            (None, Some(head)) => Ok(head),
            (Some(message), _) if message.header.kind == Kind::Snapshot => {
                self.write_snapshot(shared, message, head).and_then(|head| match &body.then {
                    Some(delta) => self.append_delta(shared, delta, head),
                    None => Ok(head),
                })
            }
            (Some(message), Some(head))
                if head.epoch == message.header.revision.epoch
                    && head.number == message.header.base =>
            {
                self.append_delta(shared, message, head)
            }
            // Not a step from where we are: ask for everything.
            (Some(_) | None, _) => {
                self.want_snapshot = true;
                return Outcome::Superseded;
            }
        };
        let written = written.and_then(|head| self.publish(shared, policy, head, cas, take_policy));
        match written {
            Ok(next) if kind == Some(Kind::Snapshot) => self.snapshot_written(next),
            Ok(next) => {
                self.want_snapshot |= next.log_bytes > LOG_SOFT_BYTES;
                Outcome::Delta(next.revision())
            }
            Err(error) => self.not_written(error),
        }
    }

    /// Starts to take a snapshot in steps; `None` for a body that is taken at once.
    fn begin_import(
        &mut self,
        now_ms: u64,
        shared: &mut dyn SharedData,
        bytes: &[u8],
        poll: PollState,
    ) -> Option<Outcome> {
        let steps = wire::Steps::begin(bytes).ok()?;
        if steps.header.kind != Kind::Snapshot || steps.header.frames <= FRAMES_AT_ONCE {
            return None;
        }
        self.check_lease(now_ms, shared);
        if !self.leads {
            return Some(Outcome::Superseded);
        }
        let Ok((head, cas)) = self.read_head(shared) else { return Some(Outcome::Superseded) };
        let PollState::InFlight { since_ms: poll_since_ms, .. } = poll else {
            return Some(Outcome::Unexpected);
        };
        let writing = Writing::start(&steps.header, head);
        self.import = Some(Import { body: bytes.to_vec(), steps, writing, cas, poll_since_ms });
        Some(Outcome::Importing)
    }

    /// All frames of a snapshot are written: what follows them in the body, then the head.
    fn end_import(
        &mut self,
        import: &Import,
        shared: &mut dyn SharedData,
        take_policy: TakePolicy<'_>,
    ) -> Outcome {
        let rest = import.steps.rest(&import.body);
        let (then, rest) = match wire::decode_rest(&import.steps.header, rest) {
            Ok(rest) => rest,
            Err(error) => return Outcome::Bad(error),
        };
        let policy = match read_policy(rest) {
            Ok(policy) => policy,
            Err(outcome) => return outcome,
        };
        let next = import.writing.next;
        let written = self
            .clear_beyond(shared, &next)
            .and_then(|()| match &then {
                Some(delta) => self.append_delta(shared, delta, next),
                None => Ok(next),
            })
            .and_then(|head| self.publish(shared, policy, head, import.cas, take_policy));
        match written {
            Ok(next) => self.snapshot_written(next),
            Err(error) => self.not_written(error),
        }
    }

    /// Writes the policy, then the head, last: only now does anybody look at the rest.
    fn publish(
        &mut self,
        shared: &mut dyn SharedData,
        policy: Option<policy::Message<'_>>,
        head: Head,
        cas: Option<Cas>,
        take_policy: TakePolicy<'_>,
    ) -> Result<Head, WriteError> {
        let next = match policy {
            Some(policy) => self.write_policy(shared, &policy, head, take_policy)?,
            None => head,
        };
        shared.set(&self.keys.head, &next.encode(), cas)?;
        Ok(next)
    }

    const fn snapshot_written(&mut self, next: Head) -> Outcome {
        self.want_snapshot = false;
        Outcome::Snapshot(next.revision())
    }

    const fn not_written(&self, error: WriteError) -> Outcome {
        match error {
            WriteError::Decode(error) => Outcome::Bad(error),
            WriteError::Shared => Outcome::Superseded,
        }
    }

    /// Writes a policy. One that can't be used is not asked for again: its number is noted
    /// and the one before stays in force.
    fn write_policy(
        &mut self,
        shared: &mut dyn SharedData,
        policy: &policy::Message<'_>,
        head: Head,
        take: TakePolicy<'_>,
    ) -> Result<Head, WriteError> {
        let mut next = Head { policy: policy.number, ..head };
        match take(shared, policy.payload, head.resets) {
            Some(resets) => {
                let message = policy::encode(policy.number, policy.payload);
                shared.set(&self.keys.policy, &message, None)?;
                next.resets = resets;
            }
            None => self.policies_refused += 1,
        }
        Ok(next)
    }

    /// Writes the frames of a snapshot into the slot that is not in use; returns the head
    /// that will make them valid.
    fn write_snapshot(
        &mut self,
        shared: &mut dyn SharedData,
        message: &wire::Message<'_>,
        head: Option<Head>,
    ) -> Result<Head, WriteError> {
        let mut writing = Writing::start(&message.header, head);
        for frame in &message.frames {
            writing.put(&self.keys, shared, frame)?;
        }
        self.clear_beyond(shared, &writing.next)?;
        Ok(writing.next)
    }

    /// A larger set stood in this slot before: its memory is given back, as far as a map
    /// without deletion allows.
    fn clear_beyond(&mut self, shared: &mut dyn SharedData, next: &Head) -> Result<(), WriteError> {
        for index in next.frames.. {
            let key = self.keys.snapshot(next.slot(), index);
            if shared.get(&key, &mut self.scratch)?.is_none() || self.scratch.is_empty() {
                break;
            }
            shared.set(&key, &[], None)?;
        }
        Ok(())
    }

    /// Appends the frames of a delta to the log; returns the head that will make them valid.
    fn append_delta(
        &mut self,
        shared: &mut dyn SharedData,
        message: &wire::Message<'_>,
        head: Head,
    ) -> Result<Head, WriteError> {
        let mut appended = Vec::new();
        for frame in &message.frames {
            frame.changes(|_| {})?;
            appended.extend_from_slice(frame.bytes);
        }
        if head.log_bytes + appended.len() as u64 > LOG_HARD_BYTES {
            self.want_snapshot = true;
            return Err(WriteError::Shared);
        }
        let mut next = head;
        if next.last_chunk_bytes as usize >= CHUNK_BYTES {
            next.last_chunk += 1;
            next.last_chunk_bytes = 0;
        }
        let key = self.keys.log(next.slot(), next.last_chunk);
        let mut chunk = Vec::new();
        let chunk_cas = shared.get(&key, &mut chunk)?;
        // What stands beyond the head's word is an attempt that was not completed, or a
        // chunk of the generation before the last.
        chunk.truncate(next.last_chunk_bytes as usize);
        if chunk.len() != next.last_chunk_bytes as usize {
            self.want_snapshot = true;
            return Err(WriteError::Shared);
        }
        chunk.extend_from_slice(&appended);
        shared.set(&key, &chunk, chunk_cas)?;
        next.last_chunk_bytes = chunk.len() as u32;
        next.log_bytes += appended.len() as u64;
        next.number = message.header.revision.number;
        Ok(next)
    }
}

impl Import {
    /// Takes [`FRAMES_AT_ONCE`] frames. Whether those were the last.
    fn take_frames(
        &mut self,
        keys: &Keys,
        shared: &mut dyn SharedData,
    ) -> Result<bool, WriteError> {
        for _ in 0..FRAMES_AT_ONCE {
            match self.steps.next(&self.body)? {
                Some(frame) => self.writing.put(keys, shared, &frame)?,
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

impl Writing {
    fn start(header: &wire::Header, head: Option<Head>) -> Self {
        let generation = head.map_or(0, |head| head.generation.wrapping_add(1));
        let next = Head {
            epoch: header.revision.epoch,
            generation,
            snapshot: header.revision.number,
            frames: header.frames,
            entries: header.entries,
            last_chunk: 0,
            last_chunk_bytes: 0,
            log_bytes: 0,
            number: header.revision.number,
            // Another control plane numbers its policies and resets on its own.
            policy: head.map_or(0, |head| head.policy),
            resets: head
                .filter(|head| head.epoch == header.revision.epoch)
                .map_or(0, |head| head.resets),
        };
        Self { next, last: None }
    }

    /// Writes one frame. It is decoded before: a worker must never find a set that it can't
    /// read where the head says there is one. Inside a frame the decoder checks the order;
    /// between two frames it is checked here.
    fn put(
        &mut self,
        keys: &Keys,
        shared: &mut dyn SharedData,
        frame: &wire::Frame<'_>,
    ) -> Result<(), WriteError> {
        let (mut first, mut last) = (None, self.last);
        frame.entries(|entry| {
            first.get_or_insert(entry);
            last = Some(entry);
        })?;
        if let (Some(before), Some(first)) = (self.last, first)
            && before.sort_key() >= first.sort_key()
        {
            return Err(WriteError::Decode(DecodeError::Unsorted));
        }
        self.last = last;
        shared.set(&keys.snapshot(self.next.slot(), frame.index), frame.bytes, None)?;
        Ok(())
    }
}

/// What follows the decisions in a body: a message about limits, or nothing.
fn read_policy(rest: &[u8]) -> Result<Option<policy::Message<'_>>, Outcome> {
    if rest.is_empty() {
        return Ok(None);
    }
    policy::decode(rest).map(Some).map_err(|error| match error {
        policy::DecodeError::NotLimits => Outcome::Bad(DecodeError::NotDecisions),
        error => Outcome::BadPolicy(error),
    })
}

#[derive(Debug)]
enum WriteError {
    Decode(DecodeError),
    Shared,
}

impl From<DecodeError> for WriteError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<SharedError> for WriteError {
    fn from(_: SharedError) -> Self {
        Self::Shared
    }
}

/// Who leads, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    holder: u64,
    until_ms: u64,
}

impl Lease {
    fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        let (holder, until) = out.split_at_mut(8);
        holder.copy_from_slice(&self.holder.to_le_bytes());
        until.copy_from_slice(&self.until_ms.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Bytes::new(bytes);
        let lease = Self { holder: reader.u64().ok()?, until_ms: reader.u64().ok()? };
        (reader.is_empty() && lease.holder != 0).then_some(lease)
    }

    /// A lease that ends further ahead than any lease can was written before the clock was
    /// set back: it is over.
    const fn is_over(&self, now_ms: u64) -> bool {
        self.until_ms <= now_ms || self.until_ms > now_ms.saturating_add(2 * LEASE_MS)
    }
}

/// What a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// The table is up to date (or no set has arrived yet).
    UpToDate,
    /// A new set is being loaded; call again soon.
    Loading,
    /// The table changed.
    Applied(Revision),
    /// Shared data does not hold what the head says; the leader was asked to mend it.
    Damaged,
}

/// One worker's table and its way to keep up with shared data.
#[derive(Debug)]
pub struct Follower {
    keys: Keys,
    table: Table,
    /// Where the table stands; `None` until the first set is complete.
    at: Option<Position>,
    /// The table may hold half a step: only a whole snapshot mends that.
    tainted: bool,
    /// The head as last read: equal bytes mean nothing to do.
    seen: Vec<u8>,
    loading: Option<Loading>,
    /// The policy that the head named last, and the one that was handed over last.
    policy_seen: u64,
    policy_taken: Option<u64>,
    policy: Option<Vec<u8>>,
    scratch: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    epoch: u64,
    generation: u32,
    number: u64,
    chunk: u32,
    offset: u32,
}

#[derive(Debug)]
struct Loading {
    head: Head,
    next_frame: u32,
    builder: Builder,
}

impl Follower {
    /// A follower without a set.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            keys: Keys::new(namespace),
            table: Table::default(),
            at: None,
            tainted: false,
            seen: Vec::new(),
            loading: None,
            policy_seen: 0,
            policy_taken: None,
            policy: None,
            scratch: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// The payload of a policy that came since the last call.
    pub const fn take_policy(&mut self) -> Option<Vec<u8>> {
        self.policy.take()
    }

    /// The table as it stands.
    #[inline]
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The revision that the table holds; `None` before the first.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.at.map(|at| Revision { epoch: at.epoch, number: at.number })
    }

    /// Catches up with shared data, reading at most `frames` frames of a snapshot.
    pub fn refresh(&mut self, shared: &mut dyn SharedData, frames: u32) -> Refresh {
        if shared.get(&self.keys.head, &mut self.scratch).is_err() {
            return Refresh::UpToDate;
        }
        if self.loading.is_none() && self.scratch == self.seen {
            return Refresh::UpToDate;
        }
        let Some(head) = Head::decode(&self.scratch) else { return Refresh::UpToDate };
        core::mem::swap(&mut self.seen, &mut self.scratch);
        self.look_for_policy(shared, &head);
        match self.catch_up(shared, head, frames) {
            Ok(refresh) => refresh,
            Err(Damage) => {
                self.loading = None;
                self.seen.clear();
                self.tainted = true;
                // The head may have moved on while we read; only if it did not is
                // something wrong.
                let moved = shared.get(&self.keys.head, &mut self.scratch).is_ok()
                    && Head::decode(&self.scratch) != Some(head);
                if moved {
                    return Refresh::Loading;
                }
                // The next call starts over from the snapshot; the leader fetches a new one.
                let _ = shared.set(&self.keys.repair, &head.generation.to_le_bytes(), None);
                Refresh::Damaged
            }
        }
    }

    /// Reads the policy where the head names another one than before. What can't be read is
    /// tried again with the next head; the policy in force stays.
    fn look_for_policy(&mut self, shared: &mut dyn SharedData, head: &Head) {
        if head.policy == self.policy_seen
            || shared.get(&self.keys.policy, &mut self.scratch).is_err()
        {
            return;
        }
        self.policy_seen = head.policy;
        if let Ok(message) = policy::decode(&self.scratch)
            && self.policy_taken != Some(message.number)
        {
            self.policy_taken = Some(message.number);
            self.policy = Some(message.payload.to_vec());
        }
    }

    fn catch_up(
        &mut self,
        shared: &mut dyn SharedData,
        head: Head,
        frames: u32,
    ) -> Result<Refresh, Damage> {
        let continues = !self.tainted
            && self.at.is_some_and(|at| at.epoch == head.epoch && at.generation == head.generation);
        if continues {
            self.loading = None;
        } else {
            // A new generation of the set we already hold needs no loading when nothing is
            // missing between: same epoch, and the snapshot is what we have.
            let same = !self.tainted
                && self.at.is_some_and(|at| at.epoch == head.epoch && at.number == head.snapshot);
            let rebuilt_anyway = self.table.len() > head.entries as usize * 2 + 64;
            if same && !rebuilt_anyway && self.loading.is_none() {
                self.at = Some(Position::start(&head));
            } else if !self.load(shared, head, frames)? {
                return Ok(Refresh::Loading);
            }
        }
        self.replay(shared, &head)?;
        Ok(Refresh::Applied(head.revision()))
    }

    /// Reads frames of the snapshot. Whether it is complete.
    fn load(
        &mut self,
        shared: &mut dyn SharedData,
        head: Head,
        frames: u32,
    ) -> Result<bool, Damage> {
        let fits = |loading: &Loading| {
            loading.head.epoch == head.epoch && loading.head.generation == head.generation
        };
        let mut loading = self.loading.take().filter(fits).unwrap_or_else(|| Loading {
            head,
            next_frame: 0,
            builder: Builder::new(head.entries as usize),
        });
        let revision = Revision { epoch: head.epoch, number: head.snapshot };
        for _ in 0..frames {
            if loading.next_frame == head.frames {
                break;
            }
            let key = self.keys.snapshot(head.slot(), loading.next_frame);
            shared.get(&key, &mut self.scratch).map_err(|_| Damage)?;
            let frame = wire::decode_frame(&self.scratch).map_err(|_| Damage)?;
            if frame.revision != revision || frame.index != loading.next_frame {
                return Err(Damage);
            }
            let builder = &mut loading.builder;
            let mut built = Ok(());
            frame
                .entries(|entry| {
                    if built.is_ok() {
                        built = builder.push(&entry);
                    }
                })
                .map_err(|_| Damage)?;
            built.map_err(|_| Damage)?;
            loading.next_frame += 1;
        }
        if loading.next_frame < head.frames {
            self.loading = Some(loading);
            return Ok(false);
        }
        self.table = loading.builder.finish();
        self.at = Some(Position::start(&head));
        self.tainted = false;
        Ok(true)
    }

    /// Applies what the log holds beyond our position.
    fn replay(&mut self, shared: &mut dyn SharedData, head: &Head) -> Result<(), Damage> {
        let Some(mut at) = self.at else { return Ok(()) };
        while at.number != head.number {
            let key = self.keys.log(head.slot(), at.chunk);
            shared.get(&key, &mut self.scratch).map_err(|_| Damage)?;
            let last = at.chunk == head.last_chunk;
            if last {
                self.scratch.truncate(head.last_chunk_bytes as usize);
            }
            let rest = self.scratch.get(at.offset as usize..).ok_or(Damage)?;
            let frames = wire::decode_frames(rest).map_err(|_| Damage)?;
            for frame in frames {
                let forward = frame.revision.epoch == head.epoch
                    && frame.revision.number <= head.number
                    && (frame.revision.number > at.number
                        || (frame.revision.number == at.number && frame.index > 0));
                if !forward {
                    return Err(Damage);
                }
                self.changes.clear();
                let changes = &mut self.changes;
                frame.changes(|change| changes.push(change)).map_err(|_| Damage)?;
                self.table.apply(&self.changes);
                at.number = frame.revision.number;
                at.offset += frame.bytes.len() as u32;
                // What was applied stays applied, whatever comes after it.
                self.at = Some(at);
            }
            if last {
                break;
            }
            at.chunk += 1;
            at.offset = 0;
        }
        if at.number == head.number {
            self.at = Some(at);
            Ok(())
        } else {
            Err(Damage)
        }
    }
}

impl Position {
    /// At the start of the log, right after the snapshot.
    const fn start(head: &Head) -> Self {
        Self {
            epoch: head.epoch,
            generation: head.generation,
            number: head.snapshot,
            chunk: 0,
            offset: 0,
        }
    }
}

/// Shared data does not hold what the head promises.
#[derive(Debug)]
struct Damage;
