//! Who does what must not be done twice, where several control planes share their state.
//!
//! One of them leads: it makes the hourly pass over a shared log, judges suspects, tells hooks,
//! sweeps the state, fetches feeds. Whoever has its state alone always leads.
//!
//! A lease lasts until a moment of this process's own monotonic clock, counted from before the
//! store was asked: who was stopped for longer than that (SIGSTOP, a suspended machine) finds
//! itself without it, and the store never gives it to another one earlier. What is begun under
//! a lease may still end after it: everything done so is also safe to be done twice, or is
//! noted in one transaction with its result.

use tokio::sync::watch;
use tokio::time::Instant;

/// Says whether this process leads. Cheap to clone; all clones say the same.
#[derive(Debug, Clone)]
pub struct Leadership(Option<watch::Receiver<Option<Instant>>>);

impl Leadership {
    /// Of a process that has its state alone.
    #[must_use]
    pub const fn always() -> Self {
        Self(None)
    }

    /// Of a process that shares its state: the sender says until when it leads.
    #[must_use]
    pub fn leased() -> (watch::Sender<Option<Instant>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(Some(receiver)))
    }

    /// Whether this process leads now. To be asked again before each piece of work.
    #[must_use]
    pub fn leads(&self) -> bool {
        let Some(lease) = &self.0 else { return true };
        // Nobody asks for it any more: it was given back, or is about to be.
        if lease.has_changed().is_err() {
            return false;
        }
        let until = *lease.borrow();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Resolves when this process leads.
    pub async fn gained(&self) {
        let Some(lease) = &self.0 else { return };
        let mut lease = lease.clone();
        loop {
            if self.leads() {
                return;
            }
            if lease.changed().await.is_err() {
                // Nobody will ever give it the lead.
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn a_lease_ends_by_itself() {
        assert!(Leadership::always().leads());
        let (sender, leadership) = Leadership::leased();
        assert!(!leadership.leads());
        sender.send_replace(Some(Instant::now() + LONG));
        leadership.gained().await;
        assert!(leadership.leads());
        // Whose end is now has ended.
        sender.send_replace(Some(Instant::now()));
        assert!(!leadership.leads());
    }

    #[test]
    fn who_no_longer_asks_for_a_lease_has_none() {
        let (sender, leadership) = Leadership::leased();
        sender.send_replace(Some(Instant::now() + LONG));
        assert!(leadership.leads());
        drop(sender);
        assert!(!leadership.leads());
    }
}
