//! Pauses between attempts: doubling, bounded, and spread so that a fleet that lost its
//! control plane does not come back in step.

/// A growing pause, in whatever unit its first pause has.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: u64,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// `first` is the longest pause after the first failure; `seed` differs between workers.
    #[must_use]
    pub const fn new(first: u64, seed: u64) -> Self {
        // The generator below would stay at 0 for ever.
        Self { first, failures: 0, random: seed | 1 }
    }

    /// Something succeeded.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Something failed: the pause until the next attempt, at most `longest`.
    pub fn fail(&mut self, longest: u64) -> u64 {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.spread(doubled.min(longest))
    }

    /// Between a half and the whole of `pause`.
    pub fn spread(&mut self, pause: u64) -> u64 {
        // xorshift64 (Marsaglia 2003): spread is all that is asked of it.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        pause / 2 + self.random % (pause / 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(200, 0);
        for whole in [200, 400, 800, 1_000, 1_000] {
            let pause = backoff.fail(1_000);
            assert!((whole / 2..whole).contains(&pause), "{pause} of {whole}");
        }
        backoff.reset();
        assert!(!backoff.is_failing());
        assert!(backoff.fail(1_000) < 200);
    }

    #[test]
    fn two_workers_do_not_pause_alike() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(200, seed);
            (0..8).map(|_| backoff.fail(5_000)).collect::<Vec<_>>()
        };
        assert_ne!(pauses(7), pauses(9));
    }
}
