//! The service's clock: the only place where the control plane learns the time.
//!
//! Everything else is handed a [`Clock`] or a [`Timestamp`], so that tests move time by hand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ipwarden::decisions::{NEVER, UnixSeconds};
use jiff::Timestamp;

/// Tells the time. Cheap to clone; all clones tell the same.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        // Microseconds are what stores keep: what is answered is what will be read later.
        Self(Arc::new(|| {
            let now = Timestamp::now();
            Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
        }))
    }

    /// A clock that stands still until it is moved through the handle.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, ManualClock) {
        let handle = ManualClock(Arc::new(AtomicI64::new(start.as_microsecond())));
        let micros = Arc::clone(&handle.0);
        let now = move || {
            Timestamp::from_microsecond(micros.load(Ordering::Relaxed)).unwrap_or(Timestamp::MAX)
        };
        (Self(Arc::new(now)), handle)
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// The present moment as the wire formats write it.
    #[must_use]
    pub fn unix_seconds(&self) -> UnixSeconds {
        UnixSeconds::try_from(self.now().as_second().max(0)).unwrap_or(NEVER - 1)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// Moves a manual clock.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}
