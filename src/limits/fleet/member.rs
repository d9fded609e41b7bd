//! One worker's part in fleet limits: every worker hands over what it took, the leading one
//! reports it and moves buckets forward.

use super::Consumed;
use super::mailbox::Mailbox;
use super::reporter::{Counts, INTERVAL_MS, Reporter};
use crate::limits::gcra::Nanos;
use crate::limits::limiter::Limiter;
use crate::shared::SharedData;

/// Buckets that one tick moves forward: each costs a read and a write of shared data.
const ADVANCED_PER_TICK: usize = 256;
/// How often the secret is looked up once it is known: the control plane may have another.
const SECRET_AGAIN_MS: u64 = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Member {
    mailbox: Mailbox,
    reporter: Reporter,
    next_secret_ms: u64,
    next_word_ms: u64,
    next_look_ms: u64,
}

impl Member {
    /// `namespace` is shared by all workers with the same control plane; `worker` is the random
    /// number of this worker's life.
    #[must_use]
    pub fn new(namespace: &str, worker: u64) -> Self {
        Self {
            mailbox: Mailbox::new(namespace),
            reporter: Reporter::new(worker),
            next_secret_ms: 0,
            next_word_ms: 0,
            next_look_ms: 0,
        }
    }

    /// Prepares shared data; to be called before traffic.
    pub fn open(&mut self, shared: &mut dyn SharedData) {
        // Where the host refuses, every proxy counts for itself.
        let _ = self.mailbox.open(shared);
    }

    /// Keeps up; to be called with every tick. A worker without fleet limits has nothing to do.
    pub fn tick(
        &mut self,
        shared: &mut dyn SharedData,
        limiter: &mut Limiter,
        leads: bool,
        now_ms: u64,
        clock: &mut dyn FnMut() -> Nanos,
    ) {
        self.advance(shared, limiter, clock);
        if !limiter.counts_fleet() {
            return;
        }
        if is_due(now_ms, self.next_secret_ms, SECRET_AGAIN_MS) {
            if let Some(secret) = self.mailbox.secret(shared) {
                limiter.tally().learn(secret);
                self.next_secret_ms = now_ms.saturating_add(SECRET_AGAIN_MS);
            } else if leads {
                self.reporter.ask();
            } else if is_due(now_ms, self.next_word_ms, INTERVAL_MS) {
                // An empty box is a word to the one that leads.
                self.mailbox.put(shared, &mut Consumed::default(), now_ms);
                self.next_word_ms = now_ms.saturating_add(INTERVAL_MS);
            }
        }
        if !leads {
            self.leave(shared, limiter, now_ms);
        }
    }

    /// Hands over what was taken here: another worker reports it.
    pub fn leave(&mut self, shared: &mut dyn SharedData, limiter: &mut Limiter, now_ms: u64) {
        let mut left_out = 0;
        for consumed in [limiter.tally().consumed(), self.reporter.pending()] {
            if !consumed.is_empty() {
                left_out += self.mailbox.put(shared, consumed, now_ms);
            }
        }
        self.reporter.counts.left_out += left_out;
    }

    /// The next report to send now, if any, of the worker that leads: its number and body.
    pub fn next(
        &mut self,
        shared: &mut dyn SharedData,
        limiter: &mut Limiter,
        now_ms: u64,
    ) -> Option<(u64, Vec<u8>)> {
        if !is_due(now_ms, self.next_look_ms, INTERVAL_MS) || !self.reporter.is_due(now_ms) {
            return None;
        }
        if let Some(mut mail) = self.mailbox.take(shared) {
            if mail.consumed.is_empty() {
                self.reporter.ask();
            }
            self.reporter.take(&mut mail.consumed, mail.since_ms);
        }
        self.reporter.take(limiter.tally().consumed(), now_ms);
        let origin = limiter.origin(shared);
        let report = origin.and_then(|origin| self.reporter.next(now_ms, origin));
        if report.is_none() {
            // There was nothing: one look a second finds the next.
            self.next_look_ms = now_ms.saturating_add(INTERVAL_MS);
        }
        report
    }

    /// Takes the answer to the report `number`; `true`: it was taken.
    pub fn answered(
        &mut self,
        shared: &mut dyn SharedData,
        number: u64,
        status: u16,
        body: &[u8],
        now_ms: u64,
    ) -> bool {
        let Some(secret) = self.reporter.answered(number, status, body, now_ms) else {
            return false;
        };
        self.mailbox.tell(shared, &secret);
        true
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self, limiter: &mut Limiter) -> Counts {
        let mut counts = self.reporter.take_counts();
        counts.left_out += limiter.tally().take_left_out();
        counts
    }

    fn advance(
        &mut self,
        shared: &mut dyn SharedData,
        limiter: &mut Limiter,
        clock: &mut dyn FnMut() -> Nanos,
    ) {
        let Some(mut owed) = self.reporter.next_owed() else { return };
        let now = clock();
        for left in (0..ADVANCED_PER_TICK).rev() {
            let own = limiter.tally().consumed().get(&owed.id).map_or(0, |own| own.nanos);
            let debt = owed.nanos.saturating_add_signed(own);
            limiter.advance(shared, &owed.consumption, debt, now);
            self.reporter.counts.advanced += 1;
            if left == 0 {
                return;
            }
            match self.reporter.next_owed() {
                Some(next) => owed = next,
                None => return,
            }
        }
    }
}

/// Whether a time has come that is never further away than `every_ms`: a clock that was set back
/// must not keep us from going on.
const fn is_due(now_ms: u64, at_ms: u64, every_ms: u64) -> bool {
    now_ms >= at_ms || at_ms > now_ms.saturating_add(2 * every_ms)
}
