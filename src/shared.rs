//! Shared data as the pure code sees it: a map of byte values with compare-and-swap, the
//! same for all threads of one Envoy.
//!
//! The host's rules (measured): a value can't be deleted; a set with a number on a missing
//! key inserts whatever the number; number 0 writes unconditionally; the number after a
//! set is unknown until the next get.

/// The number that a compare-and-swap names.
pub type Cas = u32;

/// Why a write did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedError {
    /// Somebody else wrote in between.
    CasMismatch,
    /// The host refused the call.
    Host,
}

/// A process-wide map that any worker can read and write.
pub trait SharedData {
    /// Copies the value of `key` into `out` (cleared first) and returns its number, or
    /// `None` when the key is missing.
    ///
    /// # Errors
    /// [`SharedError::Host`] when the host refuses.
    fn get(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<Cas>, SharedError>;

    /// Writes a value; with `cas` only if nobody wrote since that number was read.
    ///
    /// # Errors
    /// [`SharedError`].
    fn set(&mut self, key: &str, value: &[u8], cas: Option<Cas>) -> Result<(), SharedError>;
}

#[cfg(not(target_os = "wasi"))]
pub mod testing {
    //! An in-memory map with the host's rules, for tests and simulations.

    use super::{Cas, SharedData, SharedError};
    use hashbrown::HashMap;

    /// Behaves like Envoy's shared data; can be told to lose compare-and-swaps.
    #[derive(Debug, Default)]
    pub struct MemoryShared {
        values: HashMap<String, (Vec<u8>, Cas)>,
        next: Cas,
        /// Every n-th compare-and-swap fails as if another worker had written; 0 for none.
        pub fail_every: u32,
        /// So many compare-and-swaps from now on fail.
        pub fail_next: u32,
        attempts: u32,
        /// Reads so far.
        pub gets: u64,
        /// Writes so far.
        pub sets: u64,
    }

    impl MemoryShared {
        /// Overwrites a value as a foreign plugin or a broken worker would.
        pub fn corrupt(&mut self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
            self.values.get_mut(key).map(|(value, _)| change(value)).is_some()
        }

        /// Names of all keys.
        pub fn keys(&self) -> impl Iterator<Item = &str> {
            self.values.keys().map(String::as_str)
        }

        /// Sum of all values' lengths.
        #[must_use]
        pub fn bytes(&self) -> usize {
            self.values.values().map(|(value, _)| value.len()).sum()
        }
    }

    impl SharedData for MemoryShared {
        fn get(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<Cas>, SharedError> {
            self.gets += 1;
            out.clear();
            Ok(self.values.get(key).map(|(value, cas)| {
                out.extend_from_slice(value);
                *cas
            }))
        }

        fn set(&mut self, key: &str, value: &[u8], cas: Option<Cas>) -> Result<(), SharedError> {
            self.sets += 1;
            if let (Some(cas), Some((_, current))) = (cas, self.values.get(key)) {
                self.attempts = self.attempts.wrapping_add(1);
                let injected = self.fail_next > 0
                    || (self.fail_every != 0 && self.attempts.is_multiple_of(self.fail_every));
                self.fail_next = self.fail_next.saturating_sub(1);
                if injected || (cas != 0 && cas != *current) {
                    return Err(SharedError::CasMismatch);
                }
            }
            self.next = self.next.wrapping_add(1).max(1);
            self.values.insert(key.to_owned(), (value.to_vec(), self.next));
            Ok(())
        }
    }
}
