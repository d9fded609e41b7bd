//! The decision set as it is sent out: an encoded snapshot, the steps since, and the choice
//! between them; beside it the limits' policy, always whole. Pure: no locks, no clock, no
//! store.
//!
//! A change of limits is a step without changes of decisions: one revision orders both.
//!
//! Invariants: steps are numbered without a gap and end at the present revision; the
//! snapshot's revision is never before the first step's base. So whatever revision a proxy
//! has, either the steps or the snapshot lead it to the present.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::decisions::wire::{self, DecodeError};
use ipwarden::decisions::{Change, DecisionId, Entry, NEVER, Revision, Tier, UnixSeconds};
use ipwarden::limits::policy;

/// A delta up to this size is always sent, however small the snapshot.
pub(super) const SMALL_DELTA_BYTES: usize = 1024 * 1024;
/// A stale snapshot up to this size is made anew while the proxy waits: a millisecond.
const FRESHEN_BYTES: usize = 128 * 1024;
/// What a step costs beside its changes: those of limits have none, and are no free memory.
const STEP_BYTES: u64 = 16;
/// Most steps remembered, whatever their size.
const MAX_STEPS: usize = 65_536;

/// What to tell a proxy.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// The whole set as it was, and the steps from there to the present (none when it is
    /// the present). Sent as one body: no proxy ever sees an older set than it had.
    Snapshot(Bytes, Option<Arc<Delta>>),
    /// The steps since what it has.
    Delta(Arc<Delta>),
    /// Nothing yet: it has everything, or a snapshot is being made that is cheaper than
    /// the steps.
    Wait,
}

/// A delta, encoded by whoever needs it first and shared by all others.
#[derive(Debug)]
pub(super) struct Delta {
    base: u64,
    revision: Revision,
    steps: Vec<Arc<[Change]>>,
    encoded: OnceLock<Bytes>,
    limits: Bytes,
    with_limits: OnceLock<Bytes>,
}

impl Delta {
    /// The message. The first caller pays for it.
    pub(super) fn bytes(&self, now: UnixSeconds) -> Bytes {
        let encode = || {
            let changes: Vec<Change> =
                self.steps.iter().flat_map(|step| step.iter().copied()).collect();
            wire::encode_delta(self.base, self.revision, now, &changes).into()
        };
        self.encoded.get_or_init(encode).clone()
    }

    /// The message, followed by that of the limits. The first caller pays for it.
    pub(super) fn bytes_with_limits(&self, now: UnixSeconds) -> Bytes {
        let join = || [self.bytes(now), self.limits.clone()].concat().into();
        self.with_limits.get_or_init(join).clone()
    }
}

/// The limits' policy as it is sent out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    number: u64,
    message: Bytes,
    /// The same in version 1, for filters that know no scopes: every limit counts in each proxy.
    first: Bytes,
}

impl Limits {
    pub(super) fn new(number: u64, payload: &[u8]) -> Self {
        let first = without_scopes(payload);
        let message = |version, payload: &[u8]| policy::encode_in(version, number, payload).into();
        match first {
            None => {
                let message: Bytes = message(1, payload);
                Self { number, first: message.clone(), message }
            }
            Some(first) => Self {
                number,
                message: message(policy::VERSION, payload),
                first: message(1, &first),
            },
        }
    }
}

/// A payload as version 1 knows it; `None`: it is that already.
fn without_scopes(payload: &[u8]) -> Option<Vec<u8>> {
    let mut value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let limits = value.get_mut("limits")?.as_array_mut()?;
    let mut removed = false;
    for limit in limits.iter_mut().filter_map(|limit| limit.as_object_mut()) {
        removed |= limit.remove("scope").is_some();
    }
    removed.then(|| value.to_string().into_bytes())
}

#[derive(Debug)]
struct Step {
    number: u64,
    changes: Arc<[Change]>,
    /// Upper bound of the encoded size of all steps up to and with this one.
    end: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    revision: Revision,
    snapshot_number: u64,
    snapshot: Bytes,
    limits: Limits,
    steps: VecDeque<Step>,
    /// Encoded size of everything before the first step.
    start: u64,
    /// Deltas to the present revision by their base.
    deltas: HashMap<u64, Arc<Delta>>,
    compacting: bool,
    small_delta_bytes: usize,
}

/// Steps do not follow each other: what is in memory is not what is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap;

impl Stream {
    /// Starts from the whole set, `entries` in wire order. A delta of up to
    /// `small_delta_bytes` is always sent.
    pub(super) fn new(
        revision: Revision,
        entries: &[Entry],
        limits: Limits,
        now: UnixSeconds,
        small_delta_bytes: usize,
    ) -> Self {
        Self {
            revision,
            limits,
            snapshot_number: revision.number,
            snapshot: wire::encode_snapshot(revision, now, entries).into(),
            steps: VecDeque::new(),
            start: 0,
            deltas: HashMap::new(),
            compacting: false,
            small_delta_bytes,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Upper bound of the size of a snapshot of the present set.
    pub(super) fn size_bound(&self) -> usize {
        self.snapshot.len() + self.bytes_since(self.snapshot_number)
    }

    /// Appends the step to `revision`; `limits` where it changes them.
    pub(super) fn publish(
        &mut self,
        revision: Revision,
        changes: Vec<Change>,
        limits: Option<Limits>,
    ) -> Result<(), Gap> {
        if revision == self.revision {
            return Ok(());
        }
        if revision.epoch != self.revision.epoch || revision.number != self.revision.number + 1 {
            return Err(Gap);
        }
        let end = self.end() + STEP_BYTES + changes.iter().map(change_bound).sum::<usize>() as u64;
        self.steps.push_back(Step { number: revision.number, changes: changes.into(), end });
        self.revision = revision;
        if let Some(limits) = limits {
            self.limits = limits;
        }
        self.deltas.clear();
        Ok(())
    }

    /// What a proxy is told of the limits: it is at `after` and has the policy `number`.
    /// `None`: it has the present one.
    pub(super) fn limits(&self, after: Option<Revision>, number: u64) -> Option<Bytes> {
        let has_it = match self.comparable(after) {
            Some(_) => number == self.limits.number,
            // Equal numbers of different lives mean nothing, but that there never was one.
            None => number == 0 && self.limits.number == 0,
        };
        (!has_it).then(|| self.limits.message.clone())
    }

    /// The same in the version of the policy's message that the proxy reads.
    pub(super) fn limits_in(
        &self,
        after: Option<Revision>,
        number: u64,
        version: u8,
    ) -> Option<Bytes> {
        let newest = self.limits(after, number)?;
        Some(if version == 1 { self.limits.first.clone() } else { newest })
    }

    /// Takes another message of the same policy into use (resets grow old). Nobody is told.
    pub(super) fn renew_limits(&mut self, limits: Limits) {
        if limits.number == self.limits.number && limits != self.limits {
            self.limits = limits;
            self.deltas.clear();
        }
    }

    /// What a proxy at `after` is told of the decisions.
    pub(super) fn answer(&mut self, after: Option<Revision>, now: UnixSeconds) -> Answer {
        let Some(after) = self.comparable(after) else {
            self.freshen(now);
            return self.snapshot_to_the_present();
        };
        if after.number == self.revision.number {
            return Answer::Wait;
        }
        if self.has_steps_after(after.number)
            && self.bytes_since(after.number) <= self.small_delta_bytes.max(self.snapshot.len() / 2)
        {
            return Answer::Delta(self.delta(after.number));
        }
        if self.snapshot_number > after.number {
            return self.snapshot_to_the_present();
        }
        // So many steps since the snapshot that a new one is being made (see `compaction`,
        // whose threshold is lower): cheaper for both sides, and there in a moment.
        Answer::Wait
    }

    /// The work of making a newer snapshot, when it is due and not under way.
    pub(super) fn compaction(&mut self) -> Option<Compaction> {
        let since = self.bytes_since(self.snapshot_number);
        if self.compacting || since <= self.small_delta_bytes.max(self.snapshot.len() / 4) {
            return None;
        }
        self.compacting = true;
        Some(self.projection())
    }

    /// Brings a small snapshot up to date at once, so that a new proxy has everything with
    /// its first answer. A large one is followed by a delta, in the same body.
    fn freshen(&mut self, now: UnixSeconds) {
        let is_stale = self.snapshot_number < self.revision.number;
        if is_stale
            && self.size_bound() <= FRESHEN_BYTES
            && let Ok((revision, snapshot)) = self.projection().run(now)
        {
            let compacting = self.compacting;
            self.install(revision, snapshot);
            self.compacting = compacting;
        }
    }

    /// What a compaction would do now, for measuring.
    pub(super) fn projection(&self) -> Compaction {
        let steps = self.steps.iter().filter(|step| step.number > self.snapshot_number);
        Compaction {
            base: self.snapshot.clone(),
            steps: steps.map(|step| Arc::clone(&step.changes)).collect(),
            revision: self.revision,
        }
    }

    /// Takes a finished snapshot into use and forgets steps that nobody will need.
    pub(super) fn install(&mut self, revision: Revision, snapshot: Bytes) {
        self.compacting = false;
        if revision.epoch != self.revision.epoch || revision.number < self.snapshot_number {
            return;
        }
        self.snapshot_number = revision.number;
        self.snapshot = snapshot;
        // A proxy that is a little behind still gets a delta.
        let keep = self.small_delta_bytes.max(self.snapshot.len() / 2);
        while let Some(first) = self.steps.front() {
            let kept = usize::try_from(self.end() - self.start).unwrap_or(usize::MAX);
            if first.number > self.snapshot_number
                || (kept <= keep && self.steps.len() <= MAX_STEPS)
            {
                break;
            }
            self.start = first.end;
            self.steps.pop_front();
        }
    }

    /// The snapshot could not be made.
    pub(super) fn compaction_failed(&mut self) {
        self.compacting = false;
    }

    /// A revision that ours follow from; none of another life, or of a future that a restored
    /// database has forgotten.
    fn comparable(&self, after: Option<Revision>) -> Option<Revision> {
        after.filter(|after| {
            after.epoch == self.revision.epoch && after.number <= self.revision.number
        })
    }

    fn snapshot_to_the_present(&mut self) -> Answer {
        let is_stale = self.snapshot_number < self.revision.number;
        let delta = is_stale.then(|| self.delta(self.snapshot_number));
        Answer::Snapshot(self.snapshot.clone(), delta)
    }

    fn has_steps_after(&self, number: u64) -> bool {
        self.steps.front().is_some_and(|first| first.number <= number + 1)
    }

    fn end(&self) -> u64 {
        self.steps.back().map_or(self.start, |last| last.end)
    }

    /// Upper bound of the encoded size of the steps after `number`; of all when some are
    /// forgotten.
    fn bytes_since(&self, number: u64) -> usize {
        let before = match self.steps.front() {
            Some(first) if first.number <= number => {
                let index = usize::try_from(number - first.number).unwrap_or(usize::MAX);
                self.steps.get(index).map_or_else(|| self.end(), |step| step.end)
            }
            _ => self.start,
        };
        usize::try_from(self.end() - before).unwrap_or(usize::MAX)
    }

    fn delta(&mut self, base: u64) -> Arc<Delta> {
        let build = || {
            let steps = self.steps.iter().filter(|step| step.number > base);
            Arc::new(Delta {
                base,
                revision: self.revision,
                steps: steps.map(|step| Arc::clone(&step.changes)).collect(),
                encoded: OnceLock::new(),
                limits: self.limits.message.clone(),
                with_limits: OnceLock::new(),
            })
        };
        Arc::clone(self.deltas.entry(base).or_insert_with(build))
    }
}

/// A newer snapshot to be made, away from any lock.
#[derive(Debug)]
pub(super) struct Compaction {
    base: Bytes,
    steps: Vec<Arc<[Change]>>,
    revision: Revision,
}

impl Compaction {
    /// Applies the steps to the old snapshot; what has ended is left out. A million entries
    /// take a fraction of a second, far less than reading them from the store.
    pub(super) fn run(self, now: UnixSeconds) -> Result<(Revision, Bytes), DecodeError> {
        let entries = self.entries(now)?;
        Ok((self.revision, wire::encode_snapshot(self.revision, now, &entries).into()))
    }

    /// Size of a snapshot with these targets added; nothing is changed.
    pub(super) fn size_with(
        self,
        added: Vec<(IpNet, Tier)>,
        now: UnixSeconds,
    ) -> Result<usize, DecodeError> {
        let mut entries = self.entries(now)?;
        let first_id = entries.iter().map(|entry| entry.id).max().unwrap_or(0);
        entries.extend(added.into_iter().zip(first_id..).map(|((target, tier), id)| Entry {
            target,
            tier,
            id,
            expires_at: NEVER - 1,
        }));
        entries.sort_by_key(Entry::sort_key);
        Ok(wire::encode_snapshot(self.revision, now, &entries).len())
    }

    fn entries(&self, now: UnixSeconds) -> Result<Vec<Entry>, DecodeError> {
        let mut changed: HashMap<DecisionId, Option<Entry>> = HashMap::new();
        for change in self.steps.iter().flat_map(|step| step.iter()) {
            match change {
                Change::Add(entry) => changed.insert(entry.id, Some(*entry)),
                Change::Remove { id, .. } => changed.insert(*id, None),
            };
        }
        let message = wire::decode(&self.base)?;
        let mut entries = Vec::with_capacity(message.header.entries as usize + changed.len());
        for frame in message.frames {
            frame.entries(|entry| {
                if entry.is_live(now) && !changed.contains_key(&entry.id) {
                    entries.push(entry);
                }
            })?;
        }
        entries.extend(changed.into_values().flatten().filter(|entry| entry.is_live(now)));
        // Mostly sorted already, which the sort makes use of.
        entries.sort_by_key(Entry::sort_key);
        Ok(entries)
    }
}

/// Most bytes that a change takes in a delta, or its entry in a snapshot.
pub(super) fn change_bound(change: &Change) -> usize {
    let target = match change {
        Change::Add(entry) => &entry.target,
        Change::Remove { target, .. } => target,
    };
    entry_bound(target)
}

/// Most bytes that an entry for this target takes.
pub(super) fn entry_bound(target: &IpNet) -> usize {
    let address = match target {
        IpNet::V4(_) => 5,
        IpNet::V6(_) => 19,
    };
    // Tag and prefix length, the address (7 bits a byte), expiry and number.
    2 + address + 5 + 5
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_800_000_000;
    const SMALL: usize = 10_000;

    fn at(number: u64) -> Revision {
        Revision { epoch: 7, number }
    }

    fn none() -> Limits {
        Limits::new(0, b"{}")
    }

    fn entry(id: DecisionId) -> Entry {
        let address = std::net::Ipv4Addr::from(id.wrapping_mul(2_654_435_761));
        Entry {
            target: IpNet::from(std::net::IpAddr::from(address)),
            tier: Tier::Manual,
            id,
            expires_at: NEVER,
        }
    }

    fn add(ids: std::ops::Range<DecisionId>) -> Vec<Change> {
        ids.map(|id| Change::Add(entry(id))).collect()
    }

    /// A proxy as the wire format prescribes it, without its table.
    #[derive(Default)]
    struct Model {
        at: Option<Revision>,
        entries: std::collections::BTreeMap<DecisionId, Entry>,
    }

    impl Model {
        fn take(&mut self, bytes: &[u8]) {
            let message = wire::decode(bytes).unwrap();
            if message.header.kind == wire::Kind::Snapshot {
                self.entries.clear();
            } else {
                assert_eq!(Some(message.header.base), self.at.map(|at| at.number));
            }
            for frame in message.frames {
                match message.header.kind {
                    wire::Kind::Snapshot => {
                        frame
                            .entries(|entry| {
                                assert!(self.entries.insert(entry.id, entry).is_none())
                            })
                            .unwrap();
                    }
                    wire::Kind::Delta => frame
                        .changes(|change| match change {
                            Change::Add(entry) => drop(self.entries.insert(entry.id, entry)),
                            Change::Remove { id, .. } => drop(self.entries.remove(&id)),
                        })
                        .unwrap(),
                }
            }
            self.at = Some(message.header.revision);
        }

        /// Polls until it has everything; runs due compactions in between.
        fn catch_up(&mut self, stream: &mut Stream) -> usize {
            let mut answers = 0;
            while self.at != Some(stream.revision()) {
                match stream.answer(self.at, NOW) {
                    Answer::Snapshot(bytes, delta) => {
                        self.take(&bytes);
                        if let Some(delta) = delta {
                            self.take(&delta.bytes(NOW));
                        }
                        assert_eq!(
                            self.at,
                            Some(stream.revision()),
                            "one answer leads to the present"
                        );
                    }
                    Answer::Delta(delta) => self.take(&delta.bytes(NOW)),
                    Answer::Wait => {
                        let work = stream.compaction().expect("a wait without work never ends");
                        let (revision, bytes) = work.run(NOW).unwrap();
                        stream.install(revision, bytes);
                    }
                }
                answers += 1;
                assert!(answers < 10, "no progress");
            }
            answers
        }
    }

    #[test]
    fn a_proxy_that_has_everything_waits() {
        let mut stream = Stream::new(at(5), &[entry(1)], none(), NOW, SMALL);
        assert!(matches!(stream.answer(Some(at(5)), NOW), Answer::Wait));
    }

    #[test]
    fn a_new_foreign_or_future_revision_gets_a_snapshot() {
        let mut stream = Stream::new(at(5), &[entry(1)], none(), NOW, SMALL);
        for after in [None, Some(at(6)), Some(Revision { epoch: 8, number: 5 }), Some(at(4))] {
            assert!(matches!(stream.answer(after, NOW), Answer::Snapshot(..)), "{after:?}");
        }
    }

    #[test]
    fn limits_are_told_to_whoever_has_another_number_of_the_same_life() {
        let mut stream = Stream::new(at(5), &[], Limits::new(3, b"old"), NOW, SMALL);
        let told = |stream: &Stream, after, number| {
            let message = stream.limits(after, number)?;
            Some(policy::decode(&message).unwrap().payload.to_vec())
        };
        assert_eq!(told(&stream, Some(at(5)), 3), None);
        assert_eq!(told(&stream, Some(at(4)), 2).as_deref(), Some(b"old".as_slice()));
        stream.publish(at(6), vec![], Some(Limits::new(6, b"new"))).unwrap();
        for (after, number) in [
            (Some(at(5)), 3),
            (None, 0),
            // Another life, or one that a restored database has forgotten: the same number
            // is another policy.
            (None, 6),
            (Some(Revision { epoch: 8, number: 6 }), 6),
            (Some(at(7)), 6),
        ] {
            let told = told(&stream, after, number);
            assert_eq!(told.as_deref(), Some(b"new".as_slice()), "{after:?} {number}");
        }
        assert_eq!(told(&stream, Some(at(6)), 6), None);
    }

    #[test]
    fn limits_that_were_never_changed_are_told_only_to_who_has_others() {
        let stream = Stream::new(at(5), &[], none(), NOW, SMALL);
        let foreign = Some(Revision { epoch: 8, number: 5 });
        assert_eq!((stream.limits(None, 0), stream.limits(foreign, 0)), (None, None));
        assert!(stream.limits(None, 4).is_some() && stream.limits(foreign, 4).is_some());
    }

    #[test]
    fn a_change_of_limits_is_an_empty_step() {
        let mut stream = Stream::new(at(5), &[entry(1)], none(), NOW, SMALL);
        stream.publish(at(6), vec![], Some(Limits::new(6, b"new"))).unwrap();
        let Answer::Delta(delta) = stream.answer(Some(at(5)), NOW) else {
            panic!("expected a delta")
        };
        let message = wire::decode(&delta.bytes(NOW)).unwrap().header;
        assert_eq!((message.base, message.revision, message.entries), (5, at(6), 0));
        let both = delta.bytes_with_limits(NOW);
        let limits = &both[delta.bytes(NOW).len()..];
        assert_eq!(policy::decode(limits), Ok(policy::Message { number: 6, payload: b"new" }));
        assert_eq!(both.as_ptr(), delta.bytes_with_limits(NOW).as_ptr());
    }

    #[test]
    fn any_number_of_empty_steps_takes_bounded_memory() {
        let mut stream = Stream::new(at(0), &[], none(), NOW, SMALL);
        for number in 1..10_000 {
            stream.publish(at(number), vec![], Some(Limits::new(number, b"{}"))).unwrap();
            if let Some(work) = stream.compaction() {
                let (revision, bytes) = work.run(NOW).unwrap();
                stream.install(revision, bytes);
            }
        }
        let most = 2 * SMALL / STEP_BYTES as usize + 2;
        assert!(stream.steps.len() <= most, "{}", stream.steps.len());
    }

    #[test]
    fn renewed_limits_wake_nobody() {
        let mut stream = Stream::new(at(5), &[], Limits::new(3, b"old"), NOW, SMALL);
        stream.renew_limits(Limits::new(3, b"new"));
        assert_eq!(stream.limits(Some(at(5)), 3), None);
        let message = stream.limits(Some(at(5)), 0).unwrap();
        assert_eq!(policy::decode(&message).unwrap().payload, b"new");
        stream.renew_limits(Limits::new(4, b"later"));
        assert_eq!(stream.limits(Some(at(5)), 3), None);
    }

    #[test]
    fn a_delta_is_encoded_once_for_all() {
        let mut stream = Stream::new(at(5), &[], none(), NOW, SMALL);
        stream.publish(at(6), add(1..3), None).unwrap();
        let (Answer::Delta(one), Answer::Delta(other)) =
            (stream.answer(Some(at(5)), NOW), stream.answer(Some(at(5)), NOW))
        else {
            panic!("expected deltas")
        };
        assert_eq!(one.bytes(NOW).as_ptr(), other.bytes(NOW).as_ptr());
    }

    #[test]
    fn a_gap_is_noticed_and_a_repeat_ignored() {
        let mut stream = Stream::new(at(5), &[], none(), NOW, SMALL);
        assert_eq!(stream.publish(at(7), vec![], None), Err(Gap));
        assert_eq!(stream.publish(Revision { epoch: 8, number: 6 }, vec![], None), Err(Gap));
        assert_eq!(stream.publish(at(5), add(1..2), None), Ok(()));
        assert_eq!(stream.revision(), at(5));
    }

    #[test]
    fn a_large_change_is_sent_as_a_snapshot_not_as_a_larger_delta() {
        let mut stream = Stream::new(at(1), &[], none(), NOW, SMALL);
        let mut proxy = Model::default();
        proxy.catch_up(&mut stream);
        stream.publish(at(2), add(1..2_001), None).unwrap();
        assert!(matches!(stream.answer(Some(at(1)), NOW), Answer::Wait));
        assert_eq!(proxy.catch_up(&mut stream), 2, "a wait, then one snapshot");
        assert_eq!(proxy.entries.len(), 2_000);
        // The next small change is a small delta again.
        stream.publish(at(3), add(3_000..3_001), None).unwrap();
        let Answer::Delta(delta) = stream.answer(Some(at(2)), NOW) else {
            panic!("expected a delta")
        };
        assert!(delta.bytes(NOW).len() < 200);
    }

    #[test]
    fn a_snapshot_leaves_out_what_has_ended() {
        let ended = Entry { expires_at: NOW, ..entry(1) };
        let mut stream = Stream::new(at(1), &[ended], none(), NOW - 10, SMALL);
        stream.publish(at(2), add(2..2_000), None).unwrap();
        let (_, bytes) = stream.compaction().unwrap().run(NOW).unwrap();
        assert_eq!(wire::decode(&bytes).unwrap().header.entries, 1_998);
    }

    #[test]
    fn a_projection_measures_without_changing_anything() {
        let mut stream = Stream::new(at(1), &[entry(1)], none(), NOW, SMALL);
        stream.publish(at(2), add(2..3), None).unwrap();
        let before = stream.projection().run(NOW).unwrap().1.len();
        let targets = (3..1_003).map(|id| (entry(id).target, Tier::Manual)).collect();
        let size = stream.projection().size_with(targets, NOW).unwrap();
        assert!((before + 1_000 * 5..before + 1_000 * 12).contains(&size), "{size}");
        assert_eq!(stream.revision(), at(2));
    }

    #[test]
    fn change_bounds_hold() {
        for target in ["255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let entry = Entry {
                target: ipwarden::address::parse_target(target).unwrap(),
                tier: Tier::Feed,
                id: u32::MAX,
                expires_at: NEVER - 1,
            };
            let change = Change::Add(entry);
            let size = |changes: &[Change]| wire::encode_delta(0, at(1), 0, changes).len();
            let one = size(&[change, change]) - size(&[change]);
            assert!(one <= change_bound(&change), "{one} {target}");
            let empty = wire::encode_snapshot(at(1), 0, &[]).len() + wire::FRAME_HEADER_BYTES;
            let alone = wire::encode_snapshot(at(1), 0, &[entry]).len() - empty;
            assert!(alone <= change_bound(&change), "{alone} {target}");
        }
    }

    mod laws {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(200))]

            /// Whatever happens and whenever proxies ask, each ends with the same set.
            #[test]
            fn every_proxy_converges(
                events in proptest::collection::vec((0u8..6, 0usize..4, 0u32..400, 1u32..1_500), 1..25)
            ) {
                let mut stream = Stream::new(at(1), &[], none(), NOW, SMALL);
                let mut truth = std::collections::BTreeMap::new();
                let mut proxies: [Model; 4] = Default::default();
                let mut next = 1;
                for (kind, proxy, some, many) in events {
                    let number = stream.revision().number + 1;
                    match kind {
                        0 | 1 => {
                            let count = if kind == 0 { some + 1 } else { many };
                            let changes = add(next..next + count);
                            truth.extend((next..next + count).map(|id| (id, entry(id))));
                            next += count;
                            stream.publish(at(number), changes, None).unwrap();
                        }
                        2 => {
                            let gone: Vec<DecisionId> = truth.keys().copied().filter(|id| id % 400 == some).collect();
                            let changes = gone.iter().map(|id| Change::Remove { target: truth.remove(id).unwrap().target, id: *id }).collect();
                            stream.publish(at(number), changes, None).unwrap();
                        }
                        3 => if let Some(work) = stream.compaction() {
                            let (revision, bytes) = work.run(NOW).unwrap();
                            stream.install(revision, bytes);
                        },
                        4 => proxies[proxy] = Model::default(),
                        _ => { proxies[proxy].catch_up(&mut stream); }
                    }
                }
                for mut proxy in proxies {
                    proxy.catch_up(&mut stream);
                    prop_assert!(proxy.entries == truth);
                }
            }
        }
    }
}
