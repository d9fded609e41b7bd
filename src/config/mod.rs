//! The plugin's configuration: JSON in, checked values out.
//!
//! [`check`] finds all errors at once, each with its place, what was found, what was
//! expected and how to mend it. Unknown settings and settings given twice are errors: a
//! misspelt protection must not be silently absent. The filter and
//! `ipwarden check-config` run the same code.
//!
//! What this module does not do: it reads no environment (a [`Token`] may only name a
//! variable) and knows nothing of Envoy (a missing [`Config::proxy`] is for the host to fill).

mod geo;
mod identity;
mod json;
mod limits;
mod matches;
mod privacy;
mod reader;
mod sections;

use core::fmt;
use core::time::Duration;

use self::json::Json;
use self::reader::{Errors, Field, Section};
use crate::client_ip::Source;
use crate::geo::localize;
use crate::geo::provider::Provider;
use crate::limits::policy::{MAX_PAYLOAD_BYTES, Policy};
use crate::limits::{Limit, identity as verified};
use crate::privacy::settings::Settings as Privacy;

pub use self::identity::MAX_SOURCES as MAX_IDENTITY_SOURCES;
pub use self::limits::default_limits;
pub use self::reader::ConfigError;

/// Largest configuration read, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1024 * 1024;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this proxy in records and in the fleet. `None`: the id of the Envoy node.
    pub proxy: Option<String>,
    /// Where decisions come from and records go. `None`: nothing is fetched or shipped.
    pub control_plane: Option<ControlPlane>,
    /// Which address is the client.
    pub client_ip: Source,
    /// How decisions are enforced.
    pub decisions: Decisions,
    /// Where a verified identity comes from; the first source that yields one wins.
    pub identity: Vec<verified::Source>,
    /// How many requests a client may make, in the order of the configuration.
    pub limits: Vec<Limit>,
    /// The table of buckets.
    pub limits_table: LimitsTable,
    /// Who knows where clients are. `None`: nobody is asked.
    pub geo: Option<Geo>,
    /// Who is sent to the site of their country, in the order of the configuration.
    pub localize: Vec<localize::Rule>,
    /// What is recorded and how it is shipped.
    pub records: Records,
    /// What records say of people, and whose choice is respected.
    pub privacy: Privacy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            proxy: None,
            control_plane: None,
            client_ip: Source::default(),
            decisions: Decisions::default(),
            identity: Vec::new(),
            limits: default_limits(),
            limits_table: LimitsTable::default(),
            geo: None,
            localize: Vec::new(),
            records: Records::default(),
            privacy: Privacy::default(),
        }
    }
}

/// How the control plane is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Name of the Envoy cluster.
    pub cluster: String,
    /// `:authority` of the requests; the cluster's name unless given.
    pub authority: String,
    /// The bearer token of role `proxy`.
    pub token: Token,
}

/// Where the token is.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// In the configuration itself.
    Literal(String),
    /// In this environment variable of the VM (`vm_config.environment_variables`).
    Env(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(…)"),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
        }
    }
}

/// How decisions are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decisions {
    /// What happens to requests until the first decision set has arrived.
    pub on_start: OnStart,
    /// Status of a refused request, 400 to 599.
    pub refuse_status: u16,
    /// A link that a refused person may follow: `https:` or `mailto:`.
    pub contact: Option<String>,
}

impl Default for Decisions {
    fn default() -> Self {
        Self { on_start: OnStart::Open, refuse_status: 403, contact: None }
    }
}

/// What happens to requests until the first decision set has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnStart {
    /// They pass.
    Open,
    /// They are refused with 503.
    Closed,
}

/// The table of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitsTable {
    /// Keys that it holds, 1000 to 16 000 000: what its memory is fixed by.
    pub keys: u32,
    /// What happens to a request whose bucket other workers kept changing for as long as this
    /// one tried.
    pub on_contention: OnContention,
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self { keys: 500_000, on_contention: OnContention::Refuse }
    }
}

/// What happens to a request that could not be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnContention {
    /// It is refused: a limit is never exceeded.
    Refuse,
    /// It passes.
    Admit,
}

/// Who knows where clients are, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geo {
    /// Name of the Envoy cluster.
    pub cluster: String,
    /// `:authority` of the requests.
    pub authority: String,
    /// What the provider is shown, if it wants something.
    pub token: Option<Token>,
    /// Whom to ask, and how.
    pub provider: Provider,
    /// How long a place is remembered, 1 min to 4 weeks.
    pub cache: Duration,
    /// How long it is remembered that nothing is known of a network, 1 s to 1 day.
    pub negative_cache: Duration,
    /// How long the provider may take, 100 ms to 10 s.
    pub timeout: Duration,
    /// Look-ups of all workers of one Envoy in one day (UTC) at most.
    pub quota_per_day: Option<u32>,
    /// How long a request that a rule about places is for waits for an answer, at most 2 s.
    /// Zero: it goes on at once, as every other request does.
    pub wait: Duration,
    /// Names of the headers by which the upstream learns country, city and autonomous system;
    /// `None`: it is not told.
    pub headers: [Option<String>; 3],
}

impl Geo {
    fn default_headers() -> [Option<String>; 3] {
        ["country", "city", "asn"].map(|name| Some(format!("x-ipwarden-{name}")))
    }
}

/// What is recorded and how it is shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Most records in a batch, 1 to 5000.
    pub max_batch: u32,
    /// A batch is shipped at the latest after this time, 100 ms to 1 min.
    pub max_age: Duration,
    /// Memory bound of one worker's buffer in bytes, 64 KiB to 256 MiB.
    pub buffer_bytes: usize,
    /// One in this many ordinary records is kept, 1 to 10000.
    pub sample: u32,
    /// Path prefixes whose records are always kept.
    pub sensitive_paths: Vec<String>,
    /// Path prefixes that are not recorded (counted as skipped).
    pub skip_paths: Vec<String>,
    /// Whether a record names the client's verified identity.
    pub identity: bool,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            max_batch: 500,
            max_age: Duration::from_secs(1),
            buffer_bytes: 4 * 1024 * 1024,
            sample: 1,
            sensitive_paths: vec!["/admin".to_owned(), "/login".to_owned()],
            skip_paths: Vec::new(),
            identity: false,
        }
    }
}

/// Reads and checks a configuration. Nothing at all (or only white space) is the default one.
///
/// # Errors
/// Every error found, in the order of the sections; never empty.
pub fn check(bytes: &[u8]) -> Result<Config, Vec<ConfigError>> {
    let mut errors = Errors::default();
    let config = read(bytes, &mut errors);
    if errors.0.is_empty() { Ok(config) } else { Err(errors.0) }
}

/// Reads and checks one limit on its own, as in an item of `limits`. Places are relative to
/// it. Whether its tiers have a token to come from only the plugin's configuration knows.
///
/// # Errors
/// Every error found; never empty.
pub fn check_limit(bytes: &[u8]) -> Result<Limit, Vec<ConfigError>> {
    let mut errors = Errors::default();
    let limit = parse(bytes, MAX_PAYLOAD_BYTES, &mut errors)
        .and_then(|json| limits::limit(&Field { place: String::new(), value: &json }, &mut errors));
    match limit {
        Some(limit) if errors.0.is_empty() => Ok(limit),
        _ => Err(errors.0),
    }
}

/// Reads and checks the payload of a policy (see [`crate::limits::policy`]). An entry of
/// `limits` with no other members than `name` and `mode` changes the mode only.
///
/// # Errors
/// Every error found; never empty.
pub fn check_policy(bytes: &[u8]) -> Result<Policy, Vec<ConfigError>> {
    let mut errors = Errors::default();
    let policy = parse(bytes, MAX_PAYLOAD_BYTES, &mut errors).and_then(|json| {
        limits::policy(&Field { place: String::new(), value: &json }, &mut errors)
    });
    match policy {
        Some(policy) if errors.0.is_empty() => Ok(policy),
        _ => Err(errors.0),
    }
}

fn parse(bytes: &[u8], max_bytes: usize, errors: &mut Errors) -> Option<Json> {
    if bytes.len() > max_bytes {
        errors.add("", format!("found {} bytes: expected at most {max_bytes}", bytes.len()));
        return None;
    }
    serde_json::from_slice(bytes).map_err(|error| errors.add("", format!("not JSON: {error}"))).ok()
}

fn read(bytes: &[u8], errors: &mut Errors) -> Config {
    let mut config = Config::default();
    if bytes.len() <= MAX_CONFIG_BYTES && bytes.trim_ascii().is_empty() {
        return config;
    }
    let Some(json) = parse(bytes, MAX_CONFIG_BYTES, errors) else { return config };
    let Some(mut root) = Section::open("", &json, errors) else { return config };
    if let Some(field) = root.take("proxy") {
        config.proxy = sections::proxy(&field, errors);
    }
    if let Some(field) = root.take("control_plane") {
        config.control_plane = sections::control_plane(&field, errors);
    }
    if let Some(field) = root.take("client_ip") {
        config.client_ip = sections::client_ip(&field, errors).unwrap_or_default();
    }
    if let Some(field) = root.take("decisions") {
        config.decisions = sections::decisions(&field, errors);
    }
    if let Some(field) = root.take("identity") {
        config.identity = identity::sources(&field, errors);
    }
    if let Some(field) = root.take("limits") {
        config.limits = limits::list(&field, &config.identity, errors);
    }
    if let Some(field) = root.take("limits_table") {
        config.limits_table = limits::table(&field, errors);
    }
    let places = root.take("geo");
    if let Some(field) = &places {
        config.geo = geo::geo(field, config.control_plane.as_ref(), errors);
    }
    if let Some(field) = root.take("localize") {
        config.localize = geo::localize(&field, errors);
    }
    if places.is_none() {
        check_no_places(&config, errors);
    }
    if let Some(field) = root.take("records") {
        config.records = sections::records(&field, errors);
    }
    if let Some(field) = root.take("privacy") {
        config.privacy = privacy::privacy(&field, errors);
    }
    root.finish(errors);
    config
}

/// A rule about places does nothing where nobody knows them.
fn check_no_places(config: &Config, errors: &mut Errors) {
    for (at, limit) in config.limits.iter().enumerate() {
        if limit.matches.needs_place() {
            let place = format!("limits[{at}].match");
            let message = "found a condition on places: the section 'geo' says who knows them";
            errors.add(&place, message);
        }
    }
    if !config.localize.is_empty() {
        let message = "found redirects by place: the section 'geo' says who knows them";
        errors.add("localize", message);
    }
}

#[cfg(test)]
mod tests;
