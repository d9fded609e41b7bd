//! The circuit breaker: a provider that fails is left alone, and tried again with one probe.

use crate::backoff::Backoff;

/// Failures in a row that open it.
const MAX_FAILURES: u32 = 5;
/// The longest pause after the first opening, and ever, in milliseconds.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 60_000;

/// What it lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing before this time (Unix milliseconds).
    Open {
        /// When a probe may be sent.
        until_ms: u64,
    },
    /// One probe is on its way.
    HalfOpen,
}

/// One worker's breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    backoff: Backoff,
    opened: u64,
    closed: u64,
}

impl Breaker {
    /// Closed. `seed` differs between workers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE_MS, seed);
        Self { state: State::Closed, failures: 0, backoff, opened: 0, closed: 0 }
    }

    /// What it lets through.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether a call may be sent now. It does not change the state: [`Self::sent`] does.
    #[must_use]
    pub const fn allows(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed => true,
            // A clock that was set back must not keep it open beyond the longest pause.
            State::Open { until_ms } => now_ms >= until_ms || until_ms - now_ms > LONGEST_PAUSE_MS,
            State::HalfOpen => false,
        }
    }

    /// A call was sent: in an open breaker it is the probe.
    pub const fn sent(&mut self) {
        if let State::Open { .. } = self.state {
            self.state = State::HalfOpen;
        }
    }

    /// A call was answered.
    pub const fn succeeded(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.closed += 1;
        }
        self.state = State::Closed;
        self.failures = 0;
        self.backoff.reset();
    }

    /// A call failed; `for_good` when more of them would fail alike.
    pub fn failed(&mut self, now_ms: u64, for_good: bool) {
        self.failures = self.failures.saturating_add(1);
        let trips = match self.state {
            State::Closed => for_good || self.failures >= MAX_FAILURES,
            State::HalfOpen => true,
            // Calls that were on their way when it opened.
            State::Open { .. } => false,
        };
        if trips {
            if self.state == State::Closed {
                self.opened += 1;
            }
            let pause = self.backoff.fail(LONGEST_PAUSE_MS);
            self.state = State::Open { until_ms: now_ms.saturating_add(pause) };
        }
    }

    /// How often it opened and closed since the last call.
    pub const fn take_changes(&mut self) -> (u64, u64) {
        let changes = (self.opened, self.closed);
        (self.opened, self.closed) = (0, 0);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_probes_once_and_closes_with_an_answer() {
        let mut breaker = Breaker::new(7);
        for _ in 0..MAX_FAILURES - 1 {
            breaker.failed(0, false);
        }
        breaker.succeeded();
        for _ in 0..MAX_FAILURES {
            assert!(breaker.allows(0));
            breaker.failed(0, false);
        }
        assert!(!breaker.allows(0));
        let State::Open { until_ms } = breaker.state() else { panic!("open") };
        assert!((500..1_000).contains(&until_ms), "{until_ms}");
        assert!(breaker.allows(until_ms));
        breaker.sent();
        assert!(!breaker.allows(until_ms), "one probe");
        breaker.failed(until_ms, false);
        let State::Open { until_ms: later } = breaker.state() else { panic!("open") };
        assert!(later - until_ms >= 1_000, "twice as long");
        breaker.sent();
        breaker.succeeded();
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(breaker.take_changes(), (1, 1));
    }

    #[test]
    fn a_refusal_opens_it_at_once_and_a_clock_set_back_does_not_keep_it_open() {
        let mut breaker = Breaker::new(7);
        breaker.failed(1_000_000, true);
        assert!(!breaker.allows(1_000_000));
        assert!(breaker.allows(10), "by a quarter of an hour");
    }
}
