//! The table of settings: what each is called, what it expects, how it is set.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{AfterRaw, Config, ConfigError, Keep, LogFormat, LogLevel};
use crate::detect::names::Server;
use crate::detect::policy::Response;
use crate::geo::files::MAX_FILES;
use crate::limits::fleet::url::{self, FleetUrl};
use crate::store::clickhouse::{self, ClickHouseUrl};
use crate::store::postgres::Location;

/// A value as a source gives it.
pub(super) enum Raw<'a> {
    /// A string of a file, or anything of the environment and the flags.
    Text(&'a str),
    Integer(i64),
    Boolean(bool),
    /// A list of strings of a file.
    List(Vec<&'a str>),
    /// Something else, by the name of its type.
    Other(&'static str),
}

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => {
                let short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
                write!(f, "'{short}'")
            }
            Self::Integer(number) => write!(f, "{number}"),
            Self::Boolean(yes) => write!(f, "{yes}"),
            Self::List(items) => write!(f, "a list of {}", items.len()),
            Self::Other(kind) => write!(f, "a value of type {kind}"),
        }
    }
}

impl Raw<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number within bounds; text is read for the environment's sake.
    fn number(&self, min: usize, max: usize) -> Option<usize> {
        let number = match self {
            Self::Integer(number) => usize::try_from(*number).ok()?,
            Self::Text(text) => text.parse().ok()?,
            _ => return None,
        };
        (min..=max).contains(&number).then_some(number)
    }

    /// Texts of a list; one text is read as a list with commas for the environment's sake.
    fn list(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(items) => Some(items.clone()),
            Self::Text("") => Some(Vec::new()),
            Self::Text(text) => Some(text.split(',').map(str::trim).collect()),
            _ => None,
        }
    }

    fn boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(yes) => Some(*yes),
            Self::Text("true") => Some(true),
            Self::Text("false") => Some(false),
            _ => None,
        }
    }
}

/// One key: its path, what it expects in words, and how it is set (`None`: refused).
pub(super) struct Key {
    pub(super) path: &'static str,
    expected: &'static str,
    set: fn(&mut Config, &Raw<'_>) -> Option<()>,
}

#[cfg(test)]
impl Key {
    pub(super) const fn expected(&self) -> &'static str {
        self.expected
    }
}

/// Where the log is.
const LOG: &str = "log";
/// Where the state is.
const STATE: &str = "state";
/// Where limits over the fleet are counted.
pub(super) const FLEET: &str = "limits.store";

const MIB: usize = 1024 * 1024;

fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

/// A duration of at least so many seconds.
fn duration(raw: &Raw<'_>, least_seconds: u64) -> Option<Duration> {
    let found = ipwarden::duration::parse(raw.text()?).ok()?;
    (found.as_secs() >= least_seconds).then_some(found)
}

/// Bits of a prefix.
fn bits(raw: &Raw<'_>, least: usize, most: usize) -> Option<u8> {
    raw.number(least, most).and_then(|bits| u8::try_from(bits).ok())
}

/// A line of text for a page.
fn line(raw: &Raw<'_>) -> Option<String> {
    let text = raw.text()?.trim();
    let fits = (1..=200).contains(&text.chars().count()) && !text.contains(char::is_control);
    fits.then(|| text.to_owned())
}

/// A size of at least 64 MiB: a number of bytes, or one with a unit of 1024s.
fn size(raw: &Raw<'_>) -> Option<u64> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let bytes = match raw {
        Raw::Integer(number) => u64::try_from(*number).ok()?,
        Raw::Text(text) => {
            let unit =
                UNITS.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
            let (number, shift) = unit.unwrap_or((text, 0));
            number.trim().parse::<u64>().ok()?.checked_mul(1 << shift)?
        }
        _ => return None,
    };
    (64 << 20..=1 << 50).contains(&bytes).then_some(bytes)
}

/// What a severity leads to, by its place in the policy.
fn response(config: &mut Config, severity: usize, raw: &Raw<'_>) -> Option<()> {
    let place = config.detect.policy.responses.get_mut(severity)?;
    put(place, Response::from_word(raw.text()?))
}

/// Every key there is.
pub(super) const KEYS: &[Key] = &[
    Key {
        path: "listen",
        expected: "an address with a port such as 127.0.0.1:8088 or [::1]:8088",
        set: |config, raw| put(&mut config.listen, raw.text()?.parse().ok()),
    },
    Key {
        path: "data_dir",
        expected: "a path such as /var/lib/ipwarden",
        set: |config, raw| put(&mut config.data_dir, raw.text().and_then(path)),
    },
    Key {
        path: LOG,
        expected: clickhouse::EXPECTED,
        set: |config, raw| match raw.text()? {
            "sqlite" => put(&mut config.log, Some(None)),
            url => put(&mut config.log, ClickHouseUrl::parse(url).map(Some)),
        },
    },
    Key {
        path: "log_password_file",
        expected: "the path of a file with the password of the server of `log`",
        set: |config, raw| put(&mut config.log_password_file, raw.text().and_then(path).map(Some)),
    },
    Key {
        path: "log_spool",
        expected: "a size from 64MiB to 1024TiB such as 1GiB, or a number of bytes",
        set: |config, raw| put(&mut config.log_spool, size(raw)),
    },
    Key {
        path: STATE,
        expected: "sqlite, or the URL of a PostgreSQL database such as postgres://ipwarden@db.example/ipwarden",
        set: |config, raw| match raw.text()? {
            "sqlite" => put(&mut config.state, Some(None)),
            url => put(&mut config.state, Location::parse(url).ok().map(Some)),
        },
    },
    Key {
        path: "state_password_file",
        expected: "the path of a file with the password of the database of `state`",
        set: |config, raw| {
            put(&mut config.state_password_file, raw.text().and_then(path).map(Some))
        },
    },
    Key {
        path: "proxy_token_file",
        expected: "the path of a file with a token such as /run/secrets/proxy.token",
        set: |config, raw| put(&mut config.proxy_token_file, raw.text().and_then(path).map(Some)),
    },
    Key {
        path: "envoy_admin",
        expected: "the address of Envoy's admin interface such as http://127.0.0.1:9901",
        set: |config, raw| put(&mut config.envoy_admin, Some(Some(admin_address(raw.text()?)?))),
    },
    Key {
        path: "store_query",
        expected: "true or false",
        set: |config, raw| put(&mut config.store_query, raw.boolean()),
    },
    Key {
        path: "history",
        expected: "a duration from 1h to 520w such as 30d",
        set: |config, raw| {
            let history = ipwarden::duration::parse(raw.text()?).ok()?;
            let enough = history >= Duration::from_secs(3_600);
            put(&mut config.history, enough.then_some(history))
        },
    },
    Key {
        path: "log_level",
        expected: "one of error, warn, info, debug, trace",
        set: |config, raw| {
            let level = match raw.text()? {
                "error" => LogLevel::Error,
                "warn" => LogLevel::Warn,
                "info" => LogLevel::Info,
                "debug" => LogLevel::Debug,
                "trace" => LogLevel::Trace,
                _ => return None,
            };
            put(&mut config.log_level, Some(level))
        },
    },
    Key {
        path: "log_format",
        expected: "human or json",
        set: |config, raw| {
            let format = match raw.text()? {
                "human" => LogFormat::Human,
                "json" => LogFormat::Json,
                _ => return None,
            };
            put(&mut config.log_format, Some(format))
        },
    },
    Key {
        path: "geo.dir",
        expected: "a path such as /var/lib/ipwarden/geo",
        set: |config, raw| put(&mut config.geo.dir, raw.text().and_then(path).map(Some)),
    },
    Key {
        path: "geo.files",
        expected: "at most 32 names of MMDB files, in the directory or with their path, such as [\"city.mmdb\"]",
        set: |config, raw| {
            let names = raw.list().filter(|names| names.len() <= MAX_FILES)?;
            put(&mut config.geo.files, names.into_iter().map(path).collect())
        },
    },
    Key {
        path: "feeds.dir",
        expected: "a path such as /var/lib/ipwarden/feeds",
        set: |config, raw| put(&mut config.feeds_dir, raw.text().and_then(path).map(Some)),
    },
    Key {
        path: "detect.rules",
        expected: "the path of a rule file such as /etc/ipwarden/rules.toml",
        set: |config, raw| put(&mut config.detect.rules, raw.text().and_then(path).map(Some)),
    },
    Key {
        path: "detect.resolver",
        expected: "system, or the address of a name server such as 127.0.0.1 or 192.0.2.53:5353",
        set: |config, raw| {
            let server = raw.text().and_then(Server::from_word);
            put(&mut config.detect.resolver, server.map(Some))
        },
    },
    Key {
        path: "detect.low",
        expected: "none, review or block",
        set: |config, raw| response(config, 0, raw),
    },
    Key {
        path: "detect.medium",
        expected: "none, review or block",
        set: |config, raw| response(config, 1, raw),
    },
    Key {
        path: "detect.high",
        expected: "none, review or block",
        set: |config, raw| response(config, 2, raw),
    },
    Key {
        path: "detect.critical",
        expected: "none, review or block",
        set: |config, raw| response(config, 3, raw),
    },
    Key {
        path: "detect.block_for",
        expected: "a duration from 1m to 520w such as 4h",
        set: |config, raw| put(&mut config.detect.policy.block_for, duration(raw, 60)),
    },
    Key {
        path: "detect.block_at_most",
        expected: "a duration from 1m to 520w such as 7d",
        set: |config, raw| put(&mut config.detect.policy.block_at_most, duration(raw, 60)),
    },
    Key {
        path: "detect.blocks_an_hour",
        expected: "a number from 0 to 1000000",
        set: |config, raw| {
            let blocks = raw.number(0, 1_000_000).and_then(|blocks| u32::try_from(blocks).ok());
            put(&mut config.detect.policy.blocks_an_hour, blocks)
        },
    },
    Key {
        path: "detect.never_block",
        expected: "at most 1000 addresses and networks such as [\"198.51.100.0/24\"]",
        set: |config, raw| {
            let targets = raw.list().filter(|targets| targets.len() <= 1_000)?;
            let target = |text: &str| ipwarden::address::parse_target(text).ok();
            put(&mut config.detect.policy.never_block, targets.into_iter().map(target).collect())
        },
    },
    Key {
        path: "detect.hourly_requests",
        expected: "a number from 1 to 1000000000",
        set: |config, raw| {
            let requests = raw.number(1, 1_000_000_000).map(|requests| requests as u64);
            put(&mut config.detect.pass.hourly_requests, requests)
        },
    },
    Key {
        path: "detect.sensitive_paths",
        expected: "at most 100 paths such as [\"/admin\", \"/login\"]",
        set: |config, raw| {
            let paths = raw.list().filter(|paths| paths.len() <= 100)?;
            let path = |path: &str| {
                let path = path.strip_suffix('/').unwrap_or(path);
                (path.len() > 1 && path.starts_with('/')).then(|| path.to_owned())
            };
            put(&mut config.detect.pass.sensitive_paths, paths.into_iter().map(path).collect())
        },
    },
    Key {
        path: "detect.forest_requests",
        expected: "a number from 2 to 1000000",
        set: |config, raw| {
            let requests = raw.number(2, 1_000_000).map(|requests| requests as u64);
            put(&mut config.detect.pass.forest_requests, requests)
        },
    },
    Key {
        path: "detect.forest_percent",
        expected: "a number from 50 to 100 (100: off)",
        set: |config, raw| {
            let percent = raw.number(50, 100).and_then(|percent| u8::try_from(percent).ok());
            put(&mut config.detect.pass.forest_percent, percent)
        },
    },
    Key {
        path: "detect.open_for",
        expected: "a duration from 1h to 520w such as 14d",
        set: |config, raw| put(&mut config.detect.open_for, duration(raw, 3_600)),
    },
    Key {
        path: "detect.dismissed_for",
        expected: "a duration from 1h to 520w such as 30d",
        set: |config, raw| put(&mut config.detect.dismissed_for, duration(raw, 3_600)),
    },
    Key {
        path: "privacy.raw_for",
        expected: "a duration from 1h to 520w such as 72h",
        set: |config, raw| put(&mut config.privacy.raw_for, duration(raw, 3_600)),
    },
    Key {
        path: "privacy.address",
        expected: "pseudonym or truncate",
        set: |config, raw| put(&mut config.privacy.address, AfterRaw::from_word(raw.text()?)),
    },
    Key {
        path: "privacy.v4_bits",
        expected: "a number from 8 to 31",
        set: |config, raw| put(&mut config.privacy.v4_bits, bits(raw, 8, 31)),
    },
    Key {
        path: "privacy.v6_bits",
        expected: "a number from 16 to 64",
        set: |config, raw| put(&mut config.privacy.v6_bits, bits(raw, 16, 64)),
    },
    Key {
        path: "privacy.retention",
        expected: "a duration from 1h to 520w such as 30d",
        set: |config, raw| put(&mut config.privacy.retention, duration(raw, 3_600)),
    },
    Key {
        path: "privacy.retention_admitted",
        expected: "a duration from 1h to 520w such as 7d",
        set: |config, raw| {
            put(&mut config.privacy.retention_admitted, duration(raw, 3_600).map(Some))
        },
    },
    Key {
        path: "privacy.retention_refused",
        expected: "a duration from 1h to 520w such as 90d",
        set: |config, raw| {
            put(&mut config.privacy.retention_refused, duration(raw, 3_600).map(Some))
        },
    },
    Key {
        path: "privacy.retention_sensitive",
        expected: "a duration from 1h to 520w such as 90d",
        set: |config, raw| {
            put(&mut config.privacy.retention_sensitive, duration(raw, 3_600).map(Some))
        },
    },
    Key {
        path: "privacy.retention_suspects",
        expected: "a duration from 1h to 520w such as 30d",
        set: |config, raw| put(&mut config.privacy.retention_suspects, duration(raw, 3_600)),
    },
    Key {
        path: "privacy.retention_audit",
        expected: "a duration from 1d to 520w such as 52w",
        set: |config, raw| put(&mut config.privacy.retention_audit, duration(raw, 86_400)),
    },
    Key {
        path: "privacy.max_store",
        expected: "a size from 64MiB to 1024TiB such as 20GiB, or a number of bytes",
        set: |config, raw| put(&mut config.privacy.max_store, size(raw).map(Some)),
    },
    Key {
        path: "privacy.old_keys_for",
        expected: "a duration from 1h to 520w such as 30d",
        set: |config, raw| put(&mut config.privacy.old_keys_for, duration(raw, 3_600)),
    },
    Key {
        path: "privacy.keep_security",
        expected: "some of decisions, suspects such as [\"decisions\"]",
        set: |config, raw| {
            let words = raw.list()?.into_iter().map(Keep::from_word);
            put(&mut config.privacy.keep_security, words.collect())
        },
    },
    Key {
        path: "dashboard.viewers_see_addresses",
        expected: "true or false",
        set: |config, raw| put(&mut config.dashboard.viewers_see_addresses, raw.boolean()),
    },
    Key {
        path: "privacy.operator",
        expected: "a name of 1 to 200 characters such as \"Example Ltd\"",
        set: |config, raw| put(&mut config.privacy.operator, line(raw).map(Some)),
    },
    Key {
        path: "privacy.contact",
        expected: "a mail address or an https URL such as \"privacy@example.com\"",
        set: |config, raw| {
            let contact = line(raw).filter(|contact| {
                let is_plain = !contact.contains(char::is_whitespace);
                let is_mail = contact.contains('@') && !contact.contains([':', '/', '?']);
                is_plain && (contact.starts_with("https://") || is_mail)
            });
            put(&mut config.privacy.contact, contact.map(Some))
        },
    },
    Key {
        path: "limits.connections",
        expected: "a number from 10 to 1000000",
        set: |config, raw| put(&mut config.limits.connections, raw.number(10, 1_000_000)),
    },
    Key {
        path: "limits.polls",
        expected: "a number from 1 to 1000000",
        set: |config, raw| put(&mut config.limits.polls, raw.number(1, 1_000_000)),
    },
    Key {
        path: "limits.live",
        expected: "a number from 0 to 10000",
        set: |config, raw| put(&mut config.limits.live, raw.number(0, 10_000)),
    },
    Key {
        path: "limits.ingest_bytes",
        // Less than the largest batch could never take that batch.
        expected: "a number of bytes from 8388608 (one batch) to 4294967296",
        set: |config, raw| {
            let least = ipwarden::record::wire::MAX_BATCH_BYTES;
            put(&mut config.limits.ingest_bytes, raw.number(least, 4096 * MIB))
        },
    },
    Key {
        path: "limits.import_bytes",
        expected: "a number of bytes from 1024 to 1073741824",
        set: |config, raw| put(&mut config.limits.import_bytes, raw.number(1024, 1024 * MIB)),
    },
    Key {
        path: "limits.import_targets",
        expected: "a number from 1 to 8388608",
        set: |config, raw| {
            let most = ipwarden::decisions::wire::MAX_ENTRIES;
            put(&mut config.limits.import_targets, raw.number(1, most))
        },
    },
    Key {
        path: FLEET,
        expected: url::EXPECTED,
        set: |config, raw| match raw.text()? {
            "memory" => put(&mut config.limits.store, Some(None)),
            url => put(&mut config.limits.store, FleetUrl::parse(url).map(Some)),
        },
    },
    Key {
        path: "limits.store_password_file",
        expected: "the path of a file with the password of the server of `limits.store`",
        set: |config, raw| {
            put(&mut config.limits.store_password_file, raw.text().and_then(path).map(Some))
        },
    },
    Key {
        path: "limits.fleet_key_file",
        expected: "the path of a file with 32 hexadecimal digits such as /run/secrets/fleet.key",
        set: |config, raw| {
            put(&mut config.limits.fleet_key_file, raw.text().and_then(path).map(Some))
        },
    },
];

pub(super) fn apply(
    config: &mut Config,
    path: &str,
    place: &str,
    raw: &Raw<'_>,
    errors: &mut Vec<ConfigError>,
) {
    let message = match KEYS.iter().find(|key| key.path == path) {
        Some(key) => match (key.set)(config, raw) {
            Some(()) => return,
            // A URL may hold a password: it is not repeated.
            None if [LOG, FLEET].contains(&key.path) => format!("expected {}", key.expected),
            // A URL may hold a password: what is wrong with it is said without repeating it.
            None if key.path == STATE => {
                let why = raw.text().and_then(|url| Location::parse(url).err());
                let why = why.unwrap_or_else(|| "it is no text".to_owned());
                format!("expected {}: {why}", key.expected)
            }
            None => format!("expected {}, found {raw}", key.expected),
        },
        None => unknown(path),
    };
    errors.push(ConfigError { place: place.to_owned(), message });
}

fn unknown(path: &str) -> String {
    match nearest(path, KEYS.iter().map(|key| key.path.to_owned())) {
        Some(name) => format!("not a setting: did you mean '{name}'?"),
        None => "not a setting: remove it or see README for the settings there are".to_owned(),
    }
}

/// The known name that somebody who wrote `name` probably meant.
pub(crate) fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    known
        .map(|known| (distance(name, &known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .map(|(_, known)| known)
}

/// Levenshtein's distance, for hints only.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, right) in b.chars().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(left != right)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

fn admin_address(text: &str) -> Option<String> {
    let authority = text.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    (port != 0 && (is_v6 || is_name)).then(|| format!("http://{authority}"))
}

/// The variable that somebody who wrote `name` probably meant. None for what is not ours:
/// the command line's (`IPWARDEN_TOKEN`), and what Kubernetes sets in every pod beside a
/// Service of our name (`IPWARDEN_PORT=tcp://…`).
pub(super) fn meant(name: &str) -> Option<String> {
    let variables = KEYS.iter().map(|key| variable(key.path));
    let extended = variables
        .clone()
        .find(|known| name.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('_')));
    extended.or_else(|| nearest(name, variables))
}

pub(super) fn variable(path: &str) -> String {
    path.to_ascii_uppercase().replace('.', "_")
}
