//! `[privacy]`: how long what is kept of clients, and in what form.
//!
//! What the edge does before a record leaves Envoy is the filter's configuration; this is what
//! happens to what arrived. `history` keeps its own word: how long a decision that ended stays.

use std::time::Duration;

use super::ConfigError;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// What becomes of an address after [`Privacy::raw_for`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRaw {
    /// A pseudonym that keeps prefixes and can be read with its key (ipcrypt-pfx).
    Pseudonym,
    /// Its network; the rest is gone for ever.
    Truncate,
}

impl AfterRaw {
    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pseudonym => "pseudonym",
            Self::Truncate => "truncate",
        }
    }

    /// The meaning of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pseudonym, Self::Truncate].into_iter().find(|known| known.as_str() == word)
    }
}

/// What an erasure leaves because security needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Live decisions about exactly the address.
    Decisions,
    /// Its suspects that are open or confirmed.
    Suspects,
}

impl Keep {
    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Suspects => "suspects",
        }
    }

    /// The meaning of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Decisions, Self::Suspects].into_iter().find(|known| known.as_str() == word)
    }
}

/// How long what is kept of clients, and in what form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privacy {
    /// How long an address is kept as it came.
    pub raw_for: Duration,
    /// What it becomes then.
    pub address: AfterRaw,
    /// Bits that a truncated IPv4 address keeps.
    pub v4_bits: u8,
    /// Bits that a truncated IPv6 address keeps.
    pub v6_bits: u8,
    /// How long records are kept, where their class has no time of its own.
    pub retention: Duration,
    /// Records of admitted requests.
    pub retention_admitted: Option<Duration>,
    /// Records of refused requests.
    pub retention_refused: Option<Duration>,
    /// Records of requests of `detect.sensitive_paths`, refused or not.
    pub retention_sensitive: Option<Duration>,
    /// Suspects that were judged; open ones have `detect.open_for`.
    pub retention_suspects: Duration,
    /// Lines of the audit log.
    pub retention_audit: Duration,
    /// Bytes that the log may take: beyond it the oldest admitted records go first.
    pub max_store: Option<u64>,
    /// How long a key that was replaced still reads its pseudonyms; then it is destroyed.
    pub old_keys_for: Duration,
    /// What an erasure leaves; nothing by default.
    pub keep_security: Vec<Keep>,
    /// Who answers for the site, for the page that visitors read.
    pub operator: Option<String>,
    /// How visitors reach them: a mail address or an https URL.
    pub contact: Option<String>,
}

impl Default for Privacy {
    fn default() -> Self {
        Self {
            raw_for: Duration::from_secs(72 * 3_600),
            address: AfterRaw::Pseudonym,
            v4_bits: 24,
            v6_bits: 48,
            retention: Duration::from_secs(30 * DAY),
            retention_admitted: None,
            retention_refused: None,
            retention_sensitive: None,
            retention_suspects: Duration::from_secs(30 * DAY),
            retention_audit: Duration::from_secs(52 * 7 * DAY),
            max_store: None,
            old_keys_for: Duration::from_secs(30 * DAY),
            keep_security: Vec::new(),
            operator: None,
            contact: None,
        }
    }
}

impl Privacy {
    /// How long records of admitted requests are kept.
    #[must_use]
    pub fn admitted(&self) -> Duration {
        self.retention_admitted.unwrap_or(self.retention)
    }

    /// How long records of refused requests are kept.
    #[must_use]
    pub fn refused(&self) -> Duration {
        self.retention_refused.unwrap_or(self.retention)
    }

    /// How long records of requests of sensitive paths are kept.
    #[must_use]
    pub fn sensitive(&self) -> Duration {
        self.retention_sensitive.unwrap_or(self.retention)
    }

    /// The longest time that any record is kept.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.admitted().max(self.refused()).max(self.sensitive())
    }

    /// Whether an erasure leaves something.
    #[must_use]
    pub fn keeps(&self, what: Keep) -> bool {
        self.keep_security.contains(&what)
    }

    /// What contradicts itself.
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        if self.raw_for > self.longest() {
            errors.push(ConfigError {
                place: "privacy.raw_for".to_owned(),
                message: format!(
                    "expected at most the longest retention, {}, found {}: records are deleted before their address would change; shorten raw_for or lengthen a retention",
                    words(self.longest()),
                    words(self.raw_for)
                ),
            });
        }
    }

    /// What is allowed but worth a second look.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.raw_for > Duration::from_secs(30 * DAY) {
            warnings.push(format!(
                "full addresses are kept for {} (privacy.raw_for): a few days are enough for what needs them",
                words(self.raw_for)
            ));
        }
        if self.longest() > Duration::from_secs(366 * DAY) {
            warnings.push(format!(
                "records are kept for {} (privacy.retention): supervisory authorities speak of 6 to 12 months for logs at most",
                words(self.longest())
            ));
        }
        warnings
    }
}

/// A duration as settings write it.
#[must_use]
pub fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        _ if seconds.is_multiple_of(DAY) => format!("{}d", seconds / DAY),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_toml;

    #[track_caller]
    fn errors(text: &str) -> Vec<String> {
        check_toml(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_class_without_a_time_of_its_own_has_the_common_one() {
        let config =
            check_toml("[privacy]\nretention = \"10d\"\nretention_refused = \"90d\"\n").unwrap();
        let days = |time: std::time::Duration| time.as_secs() / 86_400;
        let privacy = &config.privacy;
        assert_eq!(
            (days(privacy.admitted()), days(privacy.refused()), days(privacy.sensitive())),
            (10, 90, 10)
        );
        assert_eq!(days(privacy.longest()), 90);
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        let size = |text: &str| {
            check_toml(&format!("[privacy]\nmax_store = {text}\n")).map(|c| c.privacy.max_store)
        };
        assert_eq!(size("\"64MiB\""), Ok(Some(64 << 20)));
        assert_eq!(size("\"3 TiB\""), Ok(Some(3 << 40)));
        assert_eq!(size("100_000_000"), Ok(Some(100_000_000)));
        for bad in ["\"63MiB\"", "\"20GB\"", "1", "\"18446744073709551615TiB\"", "true"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_outliving_its_record_is_a_contradiction() {
        assert_eq!(
            errors("[privacy]\nraw_for = \"72h\"\nretention = \"2d\"\n"),
            [
                "privacy.raw_for: expected at most the longest retention, 2d, found 3d: records are deleted before their address would change; shorten raw_for or lengthen a retention"
            ]
        );
    }

    #[test]
    fn each_setting_says_what_it_expects() {
        assert_eq!(
            errors(
                "[privacy]\nraw_for = \"5m\"\naddress = \"hash\"\nv4_bits = 32\nmax_store = \"1GB\"\nkeep_security = [\"all\"]\n"
            ),
            [
                "line 2: privacy.raw_for: expected a duration from 1h to 520w such as 72h, found '5m'",
                "line 3: privacy.address: expected pseudonym or truncate, found 'hash'",
                "line 4: privacy.v4_bits: expected a number from 8 to 31, found 32",
                "line 5: privacy.max_store: expected a size from 64MiB to 1024TiB such as 20GiB, or a number of bytes, found '1GB'",
                "line 6: privacy.keep_security: expected some of decisions, suspects such as [\"decisions\"], found a list of 1",
            ]
        );
    }
}
