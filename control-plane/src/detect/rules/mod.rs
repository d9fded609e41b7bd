//! The rules as data: what each matches, how much of it is too much, and why it is a rule.
//!
//! A rule is a leaky bucket over the requests that match its conditions: `capacity` events fit,
//! one leaks away every `leak`; the event that no longer fits raises a flag. With capacity 0 one
//! request is enough. That is all the machinery there is: what rules differ in is TOML.
//!
//! [`parse`] reads a file and reports everything that is wrong with it, each with its line and
//! field; [`matcher`] compiles the conditions so that a request is looked at once, however many
//! rules there are.

pub mod matcher;
pub mod parse;

use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use ipwarden::config::ConfigError;

use self::matcher::Matcher;
use super::Severity;

/// The rules that ipwarden brings.
pub const DEFAULT_TOML: &str = include_str!("../../../rules/default.toml");
/// Largest rule file in bytes.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Most rules.
pub const MAX_RULES: usize = 1_000;
/// Largest capacity of a rule: a bucket with distinct values remembers as many of them.
pub const MAX_CAPACITY: u32 = 1_000;

/// Checked rules, ready to be used. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rules(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    rules: Vec<Rule>,
    memory: Memory,
    known: Vec<Known>,
    innocents: Vec<Innocent>,
    matcher: Matcher,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `[a-z0-9-]`, unique.
    pub name: String,
    /// What it finds and why that is suspicious, for people.
    pub description: String,
    /// What a flag says; `{n}`, `{span}` and `{matched}` are filled in.
    pub says: String,
    /// How bad it is.
    pub severity: Severity,
    /// Events that fit; the next one raises a flag.
    pub capacity: u32,
    /// One event leaks away in so many microseconds.
    pub leak_us: u64,
    /// Count a value once, not each request.
    pub distinct: Option<Distinct>,
    /// Whose requests are counted together.
    pub group_by: GroupBy,
    /// At least this part of all that the address asks meanwhile must match.
    pub portion: f32,
    /// With a group: so many addresses must have taken part.
    pub spread: u32,
    /// With a group: an address is flagged once it took part so often.
    pub share: u32,
    /// What a matching request adds to the address's slow memory.
    pub memory: f32,
    /// CVE numbers, RFCs, advisories.
    pub references: Vec<String>,
    /// Lines and what they lead to.
    pub examples: Vec<Example>,
    /// What it can't do without.
    pub needs: Needs,
}

/// What of a request a rule looks at beyond method, path and status: what it loses sight of
/// where the proxies keep it to themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The user agent, in at least one of its alternatives.
    pub user_agent: bool,
    /// The query, in at least one of its alternatives.
    pub query: bool,
}

/// Which values are counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinct {
    /// Paths.
    Path,
    /// Paths with their status.
    PathStatus,
    /// Queries of a path.
    Query,
    /// Queries, whatever the path.
    QueryAlone,
    /// User agents.
    UserAgent,
    /// Addresses, in a group.
    Address,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupBy {
    /// An address; IPv6: its /64.
    Address,
    /// The /24 or /48.
    Network,
    /// The autonomous system; requests without one are not counted.
    Asn,
}

/// What a slow attacker fills: a bucket per address over a day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// Points that fit.
    pub capacity: f32,
    /// One point leaks away in so many seconds.
    pub leak_s: u32,
    /// How bad it is.
    pub severity: Severity,
}

/// Networks whose requests are never flagged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who it is.
    pub name: String,
    /// Published networks.
    pub networks: Vec<IpNet>,
    /// Domains in which the verified name of an address may lie.
    pub domains: Vec<String>,
}

/// Lines of an access log and the address that they should lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Lines; `{n}` is the number of the repetition.
    pub lines: Vec<String>,
    /// How often the lines come.
    pub repeat: u32,
    /// Time between repetitions in microseconds, added to the lines' own time.
    pub every_us: u64,
    /// The address that is flagged, or none.
    pub expect: Option<IpNet>,
    /// Line of the rule file.
    pub line: usize,
}

/// What a harmless client sends: no rule may flag it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Innocent {
    /// Who it is, for people.
    pub name: String,
    /// Lines; `{n}` is the number of the repetition.
    pub lines: Vec<String>,
    /// How often the lines come.
    pub repeat: u32,
    /// Time between repetitions in microseconds, added to the lines' own time.
    pub every_us: u64,
    /// Line of the rule file.
    pub line: usize,
}

/// Why a rule file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It can't be read.
    #[error("rule file {path} can't be read: {error}")]
    Read {
        /// Which.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is not in order.
    #[error("rule file {path} has {}: {}", errors_in_words(errors), first(errors))]
    Invalid {
        /// Which.
        path: String,
        /// Everything that is wrong, by line.
        errors: Vec<ConfigError>,
    },
}

fn errors_in_words(errors: &[ConfigError]) -> String {
    match errors.len() {
        1 => "one error".to_owned(),
        many => format!("{many} errors, the first"),
    }
}

fn first(errors: &[ConfigError]) -> String {
    errors.first().map(ToString::to_string).unwrap_or_default()
}

impl Rules {
    /// The rules that ipwarden brings.
    ///
    /// # Panics
    /// Never: a test proves that they are in order.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the text is part of the program and proven by a test")]
    pub fn default_rules() -> Self {
        Self::parse_alone(DEFAULT_TOML).expect("the embedded rules are in order")
    }

    /// Checks the text of an operator's rule file. The default rules stay, unless it says
    /// `defaults = false`; a rule of the same name takes a default's place.
    ///
    /// # Errors
    /// Everything that is wrong, with places such as `line 3: rule probing: leak`.
    pub fn parse(text: &str) -> Result<Self, Vec<ConfigError>> {
        parse::file(text, Some(DEFAULT_TOML)).map(Self::compiled)
    }

    /// Checks a text that stands for itself.
    ///
    /// # Errors
    /// As [`Rules::parse`].
    pub fn parse_alone(text: &str) -> Result<Self, Vec<ConfigError>> {
        parse::file(text, None).map(Self::compiled)
    }

    /// Reads an operator's rule file.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn read(path: &Path) -> Result<Self, RulesError> {
        use std::io::Read as _;
        let name = path.display().to_string();
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(|error| RulesError::Read { path: name.clone(), error })?;
        Self::parse(&text).map_err(|errors| RulesError::Invalid { path: name, errors })
    }

    fn compiled(file: parse::Parsed) -> Self {
        let parse::Parsed { rules, memory, known, innocents, matcher } = file;
        Self(Arc::new(Compiled { rules, memory, known, innocents, matcher }))
    }

    /// The rules, in the order of the file.
    #[must_use]
    pub fn list(&self) -> &[Rule] {
        &self.0.rules
    }

    /// The slow memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.0.memory
    }

    /// Networks whose requests are never flagged.
    #[must_use]
    pub fn known(&self) -> &[Known] {
        &self.0.known
    }

    /// What harmless clients send.
    #[must_use]
    pub fn innocents(&self) -> &[Innocent] {
        &self.0.innocents
    }

    /// Whether an address lies in a network that a known crawler publishes.
    #[must_use]
    pub fn knows(&self, ip: std::net::IpAddr) -> bool {
        self.0.known.iter().any(|known| known.networks.iter().any(|net| net.contains(&ip)))
    }

    /// The compiled conditions.
    #[must_use]
    pub fn matcher(&self) -> &Matcher {
        &self.0.matcher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_rules_are_in_order() {
        let errors = Rules::parse_alone(DEFAULT_TOML).err().unwrap_or_default();
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(told.is_empty(), "{}", told.join("\n"));
        let rules = Rules::default_rules();
        for rule in rules.list() {
            assert!(!rule.references.is_empty(), "{}: no reference", rule.name);
            assert!(!rule.examples.is_empty(), "{}: no example", rule.name);
        }
    }
}
