//! The service's configuration: `ipwarden.toml`, then `IPWARDEN_*` of the environment, then
//! flags; a later source wins. A key `limits.polls` is `IPWARDEN_LIMITS_POLLS`.
//!
//! A variable that merely resembles a setting is an error, one that doesn't is somebody else's.
//!
//! One table (`keys`) says what there is. Everything is checked before anything starts,
//! and all errors are reported at once, each with its place, what was expected and how to
//! mend it. That is also why no configuration library is used: those stop at the first
//! error and don't know its line.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::detect::names::Server;
use crate::detect::pass;
use crate::detect::policy::Policy;
use crate::limits::fleet::url::FleetUrl;
use crate::notify::Hook;
use crate::store::clickhouse::ClickHouseUrl;
use crate::store::postgres::Location;

pub(crate) use self::keys::nearest;
use self::keys::{KEYS, Raw, apply, meant, variable};
pub use self::privacy::{AfterRaw, Keep, Privacy, words as duration_words};

mod keys;

/// Every setting: its path, its variable without `IPWARDEN_`, what it expects. For the
/// reference in the documentation.
#[cfg(test)]
pub(crate) fn reference() -> Vec<(&'static str, String, &'static str)> {
    KEYS.iter().map(|key| (key.path, variable(key.path), key.expected())).collect()
}
mod notify;
mod privacy;

/// The file that is read when none is named and it exists in the working directory.
pub const DEFAULT_FILE: &str = "ipwarden.toml";
/// Largest configuration file in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// The checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where state, records and the first tokens are kept.
    pub data_dir: PathBuf,
    /// The ClickHouse server with the log; a file in the data directory when absent.
    pub log: Option<ClickHouseUrl>,
    /// A file with the password of that server.
    pub log_password_file: Option<PathBuf>,
    /// Most bytes of batches that wait in the data directory while that server is away.
    pub log_spool: u64,
    /// The PostgreSQL database with the state; a file in the data directory when absent.
    pub state: Option<Location>,
    /// A file with the password of that database.
    pub state_password_file: Option<PathBuf>,
    /// A file with the proxies' token that the operator chose, instead of the one that the
    /// first start draws; written where it does not exist.
    pub proxy_token_file: Option<PathBuf>,
    /// Envoy's admin interface, for `ipwarden doctor`: `http://host:port`.
    pub envoy_admin: Option<String>,
    /// Whether the query string of a request is stored with its record.
    pub store_query: bool,
    /// How long a decision that ended is kept.
    pub history: Duration,
    /// Which log lines are written.
    pub log_level: LogLevel,
    /// How they look.
    pub log_format: LogFormat,
    /// Where geolocation data is.
    pub geo: GeoFiles,
    /// Where feeds' files and keys are; `feeds` in the data directory when absent.
    pub feeds_dir: Option<PathBuf>,
    /// What follows from flags.
    pub detect: Detect,
    /// How long what is kept of clients, and in what form.
    pub privacy: Privacy,
    /// Who is told of suspects and blocks.
    pub notify: Vec<Hook>,
    /// What the dashboard shows to whom.
    pub dashboard: Dashboard,
    /// What protects the service from too much.
    pub limits: Limits,
}

impl Config {
    /// The directory of feeds' files and keys.
    #[must_use]
    pub fn feeds_dir(&self) -> PathBuf {
        self.feeds_dir.clone().unwrap_or_else(|| self.data_dir.join(crate::feeds::DIRECTORY))
    }

    /// The directory of geolocation data.
    #[must_use]
    pub fn geo_dir(&self) -> PathBuf {
        self.geo.dir.clone().unwrap_or_else(|| self.data_dir.join(crate::geo::DIRECTORY))
    }
}

/// What the dashboard shows to whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dashboard {
    /// Whether viewers see whole addresses, here and in the API; otherwise their networks.
    pub viewers_see_addresses: bool,
}

/// Where geolocation data is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GeoFiles {
    /// The directory; `geo` in the data directory when absent.
    pub dir: Option<PathBuf>,
    /// Names in the directory, or paths, in the order in which they are asked; every
    /// `*.mmdb` of the directory when empty.
    pub files: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8088)),
            data_dir: PathBuf::from(".ipwarden"),
            log: None,
            log_password_file: None,
            log_spool: 1 << 30,
            state: None,
            state_password_file: None,
            proxy_token_file: None,
            envoy_admin: None,
            store_query: false,
            history: Duration::from_secs(30 * 86_400),
            log_level: LogLevel::Info,
            log_format: LogFormat::Human,
            geo: GeoFiles::default(),
            feeds_dir: None,
            detect: Detect::default(),
            privacy: Privacy::default(),
            notify: Vec::new(),
            dashboard: Dashboard::default(),
            limits: Limits::default(),
        }
    }
}

/// What follows from flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detect {
    /// The operator's rule file; the rules that ipwarden brings alone when absent.
    pub rules: Option<PathBuf>,
    /// Whom to ask for names of addresses; nobody when absent.
    pub resolver: Option<Server>,
    /// What each severity leads to.
    pub policy: Policy,
    /// The hourly pass.
    pub pass: pass::Settings,
    /// How long an open suspect without news is kept.
    pub open_for: Duration,
    /// How long the rules of a dismissed suspect are not heard, unless they get worse.
    pub dismissed_for: Duration,
}

impl Default for Detect {
    fn default() -> Self {
        Self {
            rules: None,
            resolver: None,
            policy: Policy::default(),
            pass: pass::Settings::default(),
            open_for: Duration::from_secs(14 * 86_400),
            dismissed_for: Duration::from_secs(30 * 86_400),
        }
    }
}

/// What protects the service from too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the listen queue.
    pub connections: usize,
    /// Polls of the decision stream that may wait at once; more get 503. Never more than
    /// four fifths of the connections: people must be able to connect.
    pub polls: usize,
    /// Subscribers of the live stream at once; more get 503.
    pub live: usize,
    /// Bytes of batches that may wait for the store; more get 503.
    pub ingest_bytes: usize,
    /// Largest import of decisions in bytes.
    pub import_bytes: usize,
    /// Most targets in one import.
    pub import_targets: usize,
    /// The Redis or Valkey in which limits over the fleet are counted; memory when absent.
    pub store: Option<FleetUrl>,
    /// A file with its password.
    pub store_password_file: Option<PathBuf>,
    /// A file with the key that names the buckets of limits over the fleet, written where it
    /// does not exist; one in the data directory when absent.
    pub fleet_key_file: Option<PathBuf>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_000,
            polls: 12_000,
            live: 100,
            ingest_bytes: 64 * 1024 * 1024,
            import_bytes: 64 * 1024 * 1024,
            import_targets: 2_000_000,
            store: None,
            store_password_file: None,
            fleet_key_file: None,
        }
    }
}

/// Which log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs a person.
    Error,
    /// And what may need one.
    Warn,
    /// And what happened to the service.
    Info,
    /// And every request, without addresses.
    Debug,
    /// Everything.
    Trace,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// One thing that is wrong; its place is `line 3: limits.polls`, `IPWARDEN_LISTEN` or
/// `--listen`.
pub use ipwarden::config::ConfigError;

/// Everything that is wrong, in the order of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What the command line says; absent where it says nothing. Values are text: they are
/// checked together with everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<String>,
    /// `--log`.
    pub log: Option<String>,
    /// `--state`.
    pub state: Option<String>,
    /// `--limits`.
    pub limits: Option<String>,
    /// `--envoy-admin`.
    pub envoy_admin: Option<String>,
    /// `--store-query`.
    pub store_query: bool,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
}

impl Config {
    /// Reads all sources. `file` is read if named, else [`DEFAULT_FILE`] if it exists.
    ///
    /// # Errors
    /// Everything that is wrong in any source.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut errors = Vec::new();
        if let Some((name, text)) = read_file(file, &mut errors) {
            apply_toml(&mut config, &text, &mut |place| format!("{name}, {place}"), &mut errors);
        }
        apply_environment(&mut config, environment, &mut errors);
        apply_flags(&mut config, flags, &mut errors);
        config.privacy.check(&mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// What is allowed but worth a second look, in words.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.listen.ip().is_loopback() {
            warnings.push(format!(
                "listening on {} without TLS: tokens and addresses can be read on the way; put a TLS proxy in front or listen on 127.0.0.1",
                self.listen
            ));
        }
        if let Some(url) = self.log.as_ref().filter(|url| url.is_exposed()) {
            warnings.push(format!(
                "log {url} is reached without TLS: its password and addresses can be read on the way; add ?secure=true"
            ));
        }
        warnings.extend(self.state.as_ref().and_then(Location::warning));
        if let Some(url) = self.limits.store.as_ref().filter(|url| url.is_exposed()) {
            warnings.push(format!(
                "limits.store {url} is reached without TLS: its password can be read on the way; use rediss://"
            ));
        }
        warnings.extend(self.privacy.warnings());
        warnings
    }
}

/// This process's environment, for [`Config::load`]. Variables that are not UTF-8 are not
/// ours and are left out.
#[must_use]
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Checks the text of a configuration file.
///
/// # Errors
/// Everything that is wrong, with places such as `line 3: limits.polls`.
pub fn check_toml(text: &str) -> Result<Config, Vec<ConfigError>> {
    let mut config = Config::default();
    let mut errors = Vec::new();
    apply_toml(&mut config, text, &mut |place| place, &mut errors);
    config.privacy.check(&mut errors);
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

fn read_file(file: Option<&Path>, errors: &mut Vec<ConfigError>) -> Option<(String, String)> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let name = path.display().to_string();
    let problem = match std::fs::read(path) {
        Ok(bytes) if bytes.len() > MAX_FILE_BYTES => {
            format!("file of {} bytes is no configuration: expected at most 1 MiB", bytes.len())
        }
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return Some((name, text)),
            Err(_) => "file is not UTF-8 text".to_owned(),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
            return None;
        }
        Err(error) => format!("file can't be read: {error}"),
    };
    errors.push(ConfigError { place: name, message: problem });
    None
}

fn apply_toml(
    config: &mut Config,
    text: &str,
    place: &mut dyn FnMut(String) -> String,
    errors: &mut Vec<ConfigError>,
) {
    let line =
        |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let (table, broken) = DeTable::parse_recoverable(text);
    for error in &broken {
        let at = error.span().map_or(0, |span| span.start);
        errors.push(ConfigError {
            place: place(format!("line {}", line(at))),
            message: format!("not TOML: {}", error.message().replace('\n', ", ")),
        });
    }
    if !broken.is_empty() {
        // What the parser made of the rest would only add noise.
        return;
    }
    if let Some((_, hooks)) =
        table.get_ref().iter().find(|(key, _)| key.get_ref() == notify::SECTION)
    {
        let mut at_line = |key: &str, at| place(format!("line {}: {key}", line(at)));
        config.notify = notify::read(hooks, &mut at_line, errors);
    }
    visit(table.get_ref(), "", &mut |key, at, raw| {
        if key == notify::SECTION {
            return;
        }
        let place = place(format!("line {}: {key}", line(at)));
        apply(config, key, &place, raw, errors);
    });
}

/// Calls `found` for each leaf with its dotted path and position.
fn visit(table: &DeTable<'_>, prefix: &str, found: &mut dyn FnMut(&str, usize, &Raw<'_>)) {
    // A table's keys are sorted by name; people read files by line.
    let mut items: Vec<_> = table.iter().collect();
    items.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in items {
        let name = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        let is_section = KEYS.iter().any(|key| {
            key.path.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.'))
        });
        match value.get_ref() {
            DeValue::Table(inner) if is_section => visit(inner, &name, found),
            _ => found(&name, key.span().start, &raw(value)),
        }
    }
}

fn raw<'a>(value: &'a Spanned<DeValue<'_>>) -> Raw<'a> {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text),
        DeValue::Boolean(yes) => Raw::Boolean(*yes),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.as_ref()),
                _ => None,
            });
            texts.collect::<Option<_>>().map_or(Raw::Other("array"), Raw::List)
        }
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("integer"), Raw::Integer),
        other => Raw::Other(other.type_str()),
    }
}

fn apply_environment(
    config: &mut Config,
    environment: impl IntoIterator<Item = (String, String)>,
    errors: &mut Vec<ConfigError>,
) {
    let mut ours: Vec<(String, String)> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("IPWARDEN_")?.to_owned(), value)))
        .collect();
    ours.sort();
    for (name, value) in ours {
        let place = format!("IPWARDEN_{name}");
        match KEYS.iter().find(|key| variable(key.path) == name) {
            Some(key) => apply(config, key.path, &place, &Raw::Text(&value), errors),
            None => {
                if let Some(meant) = meant(&name) {
                    let message = format!("not a setting: did you mean IPWARDEN_{meant}?");
                    errors.push(ConfigError { place, message });
                }
            }
        }
    }
}

fn apply_flags(config: &mut Config, flags: &Flags, errors: &mut Vec<ConfigError>) {
    let Flags {
        listen,
        data_dir,
        log,
        state,
        limits,
        envoy_admin,
        store_query,
        log_level,
        log_format,
    } = flags;
    let texts = [
        ("listen", listen),
        ("data_dir", data_dir),
        ("log", log),
        ("state", state),
        (keys::FLEET, limits),
        ("envoy_admin", envoy_admin),
        ("log_level", log_level),
        ("log_format", log_format),
    ];
    for (path, value) in texts {
        if let Some(value) = value {
            let place = match path {
                keys::FLEET => "--limits".to_owned(),
                path => format!("--{}", path.replace('_', "-")),
            };
            apply(config, path, &place, &Raw::Text(value), errors);
        }
    }
    if *store_query {
        config.store_query = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::policy::Response;

    #[track_caller]
    fn errors(text: &str) -> Vec<String> {
        check_toml(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(check_toml(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_is_read() {
        let config = check_toml(
            r#"
            listen = "[::1]:9000"
            data_dir = "/srv/ipwarden"
            log = "clickhouse://warden:secret@db.example/logs"
            log_password_file = "/run/secrets/log"
            log_spool = "2GiB"
            state = "postgres://warden:secret@db.example/ipwarden"
            state_password_file = "/run/secrets/state"
            proxy_token_file = "/run/secrets/proxy.token"
            envoy_admin = "http://127.0.0.1:9901/"
            store_query = true
            history = "7d"
            log_level = "debug"
            log_format = "json"
            [geo]
            dir = "/srv/geo"
            files = ["city.mmdb", "/opt/asn.mmdb"]
            [feeds]
            dir = "/srv/feeds"
            [detect]
            rules = "/etc/ipwarden/rules.toml"
            resolver = "192.0.2.53:5353"
            low = "none"
            medium = "review"
            high = "block"
            critical = "block"
            block_for = "1h"
            block_at_most = "2d"
            blocks_an_hour = 7
            never_block = ["198.51.100.0/24", "2001:db8::1"]
            hourly_requests = 500
            sensitive_paths = ["/wp-admin"]
            forest_requests = 30
            forest_percent = 70
            open_for = "3d"
            dismissed_for = "1w"
            [privacy]
            raw_for = "24h"
            address = "truncate"
            v4_bits = 16
            v6_bits = 32
            retention = "14d"
            retention_admitted = "7d"
            retention_refused = "60d"
            retention_sensitive = "90d"
            retention_suspects = "20d"
            retention_audit = "2w"
            max_store = "20GiB"
            old_keys_for = "10d"
            keep_security = ["decisions"]
            operator = "Example Ltd"
            contact = "privacy@example.com"
            [dashboard]
            viewers_see_addresses = true
            [limits]
            connections = 1_000
            polls = 900
            live = 5
            ingest_bytes = 16_777_216
            import_bytes = 0x100000
            import_targets = 10
            store = "rediss://warden:secret@cache.example/2"
            store_password_file = "/run/secrets/limits"
            fleet_key_file = "/run/secrets/fleet.key"
            "#,
        )
        .unwrap();
        assert_eq!(
            config,
            Config {
                listen: "[::1]:9000".parse().unwrap(),
                data_dir: "/srv/ipwarden".into(),
                log: ClickHouseUrl::parse("clickhouse://warden:secret@db.example/logs"),
                log_password_file: Some("/run/secrets/log".into()),
                log_spool: 2 << 30,
                state: Location::parse("postgres://warden:secret@db.example/ipwarden").ok(),
                state_password_file: Some("/run/secrets/state".into()),
                proxy_token_file: Some("/run/secrets/proxy.token".into()),
                envoy_admin: Some("http://127.0.0.1:9901".into()),
                store_query: true,
                history: Duration::from_secs(7 * 86_400),
                log_level: LogLevel::Debug,
                log_format: LogFormat::Json,
                geo: GeoFiles {
                    dir: Some("/srv/geo".into()),
                    files: vec!["city.mmdb".into(), "/opt/asn.mmdb".into()],
                },
                feeds_dir: Some("/srv/feeds".into()),
                detect: Detect {
                    rules: Some("/etc/ipwarden/rules.toml".into()),
                    resolver: Some(Server::At("192.0.2.53:5353".parse().unwrap())),
                    policy: Policy {
                        responses: [
                            Response::None,
                            Response::Review,
                            Response::Block,
                            Response::Block,
                        ],
                        block_for: Duration::from_secs(3_600),
                        block_at_most: Duration::from_secs(2 * 86_400),
                        blocks_an_hour: 7,
                        never_block: vec![
                            "198.51.100.0/24".parse().unwrap(),
                            "2001:db8::1/128".parse().unwrap(),
                        ],
                    },
                    pass: pass::Settings {
                        hourly_requests: 500,
                        sensitive_paths: vec!["/wp-admin".to_owned()],
                        forest_requests: 30,
                        forest_percent: 70,
                    },
                    open_for: Duration::from_secs(3 * 86_400),
                    dismissed_for: Duration::from_secs(7 * 86_400),
                },
                privacy: Privacy {
                    raw_for: Duration::from_secs(86_400),
                    address: AfterRaw::Truncate,
                    v4_bits: 16,
                    v6_bits: 32,
                    retention: Duration::from_secs(14 * 86_400),
                    retention_admitted: Some(Duration::from_secs(7 * 86_400)),
                    retention_refused: Some(Duration::from_secs(60 * 86_400)),
                    retention_sensitive: Some(Duration::from_secs(90 * 86_400)),
                    retention_suspects: Duration::from_secs(20 * 86_400),
                    retention_audit: Duration::from_secs(14 * 86_400),
                    max_store: Some(20 << 30),
                    old_keys_for: Duration::from_secs(10 * 86_400),
                    keep_security: vec![Keep::Decisions],
                    operator: Some("Example Ltd".to_owned()),
                    contact: Some("privacy@example.com".to_owned()),
                },
                notify: Vec::new(),
                dashboard: Dashboard { viewers_see_addresses: true },
                limits: Limits {
                    connections: 1_000,
                    polls: 900,
                    live: 5,
                    ingest_bytes: 16 << 20,
                    import_bytes: 1 << 20,
                    import_targets: 10,
                    store: FleetUrl::parse("rediss://warden:secret@cache.example/2"),
                    store_password_file: Some("/run/secrets/limits".into()),
                    fleet_key_file: Some("/run/secrets/fleet.key".into()),
                },
            }
        );
    }

    #[test]
    fn all_errors_come_at_once_with_line_expectation_and_mend() {
        assert_eq!(
            errors(
                "listen = \"localhost\"\nlissten = 1\n\n[limits]\npolls = 0\nlive = \"many\"\nconnections = [1]\n[extra]\na = 1\n[geo]\nfiles = [\"\"]\ndir = [\"a\"]\n"
            ),
            [
                "line 1: listen: expected an address with a port such as 127.0.0.1:8088 or [::1]:8088, found 'localhost'",
                "line 2: lissten: not a setting: did you mean 'listen'?",
                "line 5: limits.polls: expected a number from 1 to 1000000, found 0",
                "line 6: limits.live: expected a number from 0 to 10000, found 'many'",
                "line 7: limits.connections: expected a number from 10 to 1000000, found a value of type array",
                "line 8: extra: not a setting: remove it or see README for the settings there are",
                "line 11: geo.files: expected at most 32 names of MMDB files, in the directory or with their path, such as [\"city.mmdb\"], found a list of 1",
                "line 12: geo.dir: expected a path such as /var/lib/ipwarden/geo, found a list of 1",
            ]
        );
    }

    #[test]
    fn broken_toml_is_located() {
        let found = errors("listen = \"127.0.0.1:1\"\ndata_dir = \n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("line 2: not TOML: "), "{found:?}");
    }

    #[test]
    fn later_sources_win_and_every_source_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        std::fs::write(
            &file,
            "listen = \"127.0.0.1:1\"\ndata_dir = \"file\"\nlog_level = \"warn\"",
        )
        .unwrap();
        let environment = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let config = Config::load(
            Some(&file),
            environment(&[
                ("IPWARDEN_LISTEN", "127.0.0.1:2"),
                ("IPWARDEN_DATA_DIR", "environment"),
                ("IPWARDEN_LIMITS_POLLS", "7"),
                ("IPWARDEN_GEO_FILES", "a.mmdb, b.mmdb"),
                ("IPWARDEN_TOKEN", "of the command line"),
                ("IPWARDEN_PORT", "tcp://10.0.0.1:8088"),
                ("IPWARDEN_SERVICE_HOST", "10.0.0.1"),
                ("IPWARDEN_URL", "http://127.0.0.1:8088"),
                ("IPWARDEN_BIN", "target/debug/ipwarden"),
                ("HOME", "/"),
            ]),
            &Flags { listen: Some("127.0.0.1:3".into()), store_query: true, ..Flags::default() },
        )
        .unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.data_dir, PathBuf::from("environment"));
        assert_eq!(config.log_level, LogLevel::Warn);
        assert_eq!(config.limits.polls, 7);
        assert_eq!(config.geo.files, [PathBuf::from("a.mmdb"), PathBuf::from("b.mmdb")]);
        assert_eq!(config.geo_dir(), PathBuf::from("environment/geo"));
        assert!(config.store_query);

        let refused = Config::load(
            Some(&directory.path().join("missing.toml")),
            environment(&[
                ("IPWARDEN_LIMITS_POLS", "7"),
                ("IPWARDEN_HISTORY", "1y"),
                ("IPWARDEN_LISTEN_ADDR", "127.0.0.1:1"),
            ]),
            &Flags {
                limits: Some("redis:secret".into()),
                envoy_admin: Some("127.0.0.1:9901".into()),
                ..Flags::default()
            },
        )
        .unwrap_err();
        let lines: Vec<String> = refused.0.iter().map(ToString::to_string).collect();
        assert!(lines[0].contains("missing.toml: file can't be read: "), "{lines:?}");
        assert_eq!(
            lines[1..],
            [
                "IPWARDEN_HISTORY: expected a duration from 1h to 520w such as 30d, found '1y'",
                "IPWARDEN_LIMITS_POLS: not a setting: did you mean IPWARDEN_LIMITS_POLLS?",
                "IPWARDEN_LISTEN_ADDR: not a setting: did you mean IPWARDEN_LISTEN?",
                // It may hold a password.
                "--limits: expected memory, or a URL such as redis://user:password@host:6379/0 (rediss:// for TLS, redis+unix:///path for a socket, ?cluster=true, ?sentinel=NAME, &node=host:port for further nodes)",
                "--envoy-admin: expected the address of Envoy's admin interface such as http://127.0.0.1:9901, found '127.0.0.1:9901'",
            ]
        );
    }

    #[test]
    fn a_public_address_is_warned_about() {
        let config = check_toml("listen = \"0.0.0.0:8088\"").unwrap();
        assert_eq!(
            config.warnings(),
            [
                "listening on 0.0.0.0:8088 without TLS: tokens and addresses can be read on the way; put a TLS proxy in front or listen on 127.0.0.1"
            ]
        );
        assert!(Config::default().warnings().is_empty());
    }
}
