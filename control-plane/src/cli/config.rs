//! `ipwarden check-config`: the filter's configuration (JSON) by the filter's own code, the
//! service's (TOML) by the service's.

use std::io::Read as _;

use clap::Args;
use ipwarden::client_ip::Source;
use ipwarden::config::{Config, MAX_CONFIG_BYTES, OnContention, OnStart};
use ipwarden::limits::identity::{self, CertificateField};

use super::error::{CliError, Place, Result};
use super::limits::words;
use super::output::{Format, GOOD, STRONG, Session};
use super::sight;
use super::text::{bytes, clean, counted};
use crate::config::{AfterRaw, Config as ServiceConfig, Privacy, duration_words};

/// Which file.
#[derive(Debug, Clone, Args)]
pub struct CheckConfigArgs {
    /// The filter's configuration in JSON, or the service's ipwarden.toml; '-' reads standard input
    pub file: String,
}

/// What a file configures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Filter,
    Service,
    Rules,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Service => "service",
            Self::Rules => "detectors",
        }
    }
}

/// Runs `check-config`.
///
/// # Errors
/// [`CliError::Invalid`] with every error found; [`CliError::File`].
pub fn run(session: &mut Session, args: &CheckConfigArgs) -> Result<()> {
    let name = args.file.as_str();
    let content = read(name)?;
    let kind = kind(name, &content);
    let checked = match kind {
        Kind::Filter => check_filter(name, &content).map(|config| summary(&config)),
        Kind::Service => check_service(name, &content).map(|config| service_summary(&config)),
        Kind::Rules => {
            let text = String::from_utf8_lossy(&content);
            super::rules::parse(shown(name), &text).map(|rules| rules_summary(&rules))
        }
    };
    if session.format == Format::Json {
        let (errors, valid) = match &checked {
            Ok(_) => (&[][..], true),
            Err(error) => (error.places().0, false),
        };
        session.json(&serde_json::json!({
            "file": name, "kind": kind.as_str(), "valid": valid, "errors": errors,
        }))?;
        return checked.map(drop);
    }
    let summary = checked?;
    if session.format == Format::Raw {
        return session.raw(&[name, kind.as_str(), "valid"]);
    }
    session.say(format!(
        "{GOOD}Valid{GOOD:#}: {STRONG}{}{STRONG:#} configures the {} as follows.",
        clean(shown(name)),
        kind.as_str()
    ))?;
    summary.iter().try_for_each(|(what, how)| session.say(format!("  {what:<14}  {}", clean(how))))
}

/// Reads and checks the filter's configuration.
///
/// # Errors
/// As [`run`].
pub fn filter_config(path: &str) -> Result<Config> {
    check_filter(path, &read(path)?)
}

fn shown(name: &str) -> &str {
    if name == "-" { "standard input" } else { name }
}

fn read(name: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    // One byte more than allowed, so that the check itself can say that it is too much.
    let most = MAX_CONFIG_BYTES as u64 + 1;
    let done = if name == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut content)
    } else {
        std::fs::File::open(name).and_then(|file| file.take(most).read_to_end(&mut content))
    };
    done.map(|_| content).map_err(|source| CliError::File { path: shown(name).to_owned(), source })
}

/// By the name's extension; where it says nothing, JSON starts with a brace.
fn kind(name: &str, content: &[u8]) -> Kind {
    let extension = std::path::Path::new(name).extension().and_then(|ext| ext.to_str());
    let is_rules = || std::str::from_utf8(content).is_ok_and(super::rules::is_rule_file);
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("toml") if is_rules() => Kind::Rules,
        Some("toml") => Kind::Service,
        Some("json") => Kind::Filter,
        _ if content.trim_ascii_start().starts_with(b"{") => Kind::Filter,
        _ if is_rules() => Kind::Rules,
        _ => Kind::Service,
    }
}

fn check_filter(name: &str, content: &[u8]) -> Result<Config> {
    ipwarden::config::check(content).map_err(|errors| {
        invalid(name, errors.into_iter().map(|error| (error.place, error.message)).collect())
    })
}

fn check_service(name: &str, content: &[u8]) -> Result<ServiceConfig> {
    let text = std::str::from_utf8(content).map_err(|error| {
        let message = format!("not UTF-8 from byte {} on: expected TOML", error.valid_up_to());
        invalid(name, vec![(String::new(), message)])
    })?;
    crate::config::check_toml(text).map_err(|errors| {
        invalid(name, errors.into_iter().map(|error| (error.place, error.message)).collect())
    })
}

/// A file with errors, as [`CliError::Invalid`].
#[must_use]
pub fn invalid_file(name: &str, errors: Vec<ipwarden::config::ConfigError>) -> CliError {
    invalid(name, errors.into_iter().map(|error| (error.place, error.message)).collect())
}

/// What a rule file, over the rules that ipwarden brings, adds up to.
fn rules_summary(rules: &crate::detect::Rules) -> Vec<(&'static str, String)> {
    let examples: usize = rules.list().iter().map(|rule| rule.examples.len()).sum();
    vec![
        ("rules", counted(rules.list().len() as u64, "rule", "rules")),
        ("examples", format!("{examples}: run them with `ipwarden rules test FILE`")),
        ("known", counted(rules.known().len() as u64, "crawler", "crawlers")),
    ]
}

/// Every error is named: a configuration has few.
fn invalid(name: &str, errors: Vec<(String, String)>) -> CliError {
    let total = errors.len() as u64;
    CliError::Invalid {
        message: format!("{} has {}", shown(name), counted(total, "error", "errors")),
        places: places(errors),
        total,
    }
}

/// Errors of a configuration with their places; one without a place is about the whole.
#[must_use]
pub fn places(errors: impl IntoIterator<Item = (String, String)>) -> Vec<Place> {
    let whole = |place: String| if place.is_empty() { "configuration".to_owned() } else { place };
    errors.into_iter().map(|(place, message)| Place { place: whole(place), message }).collect()
}

/// What the service will do, in words.
fn service_summary(config: &ServiceConfig) -> Vec<(&'static str, String)> {
    let mut summary = vec![
        ("listens on", config.listen.to_string()),
        ("data directory", config.data_dir.display().to_string()),
        ("query strings", if config.store_query { "stored" } else { "not stored" }.to_owned()),
        ("Envoy admin", config.envoy_admin.clone().unwrap_or_else(|| "not named".to_owned())),
        ("addresses", address_words(&config.privacy)),
        ("records kept", retention_words(&config.privacy)),
    ];
    summary.extend(config.warnings().into_iter().map(|warning| ("warning", warning)));
    summary
}

/// In what form addresses are kept.
fn address_words(privacy: &Privacy) -> String {
    let raw_for = duration_words(privacy.raw_for);
    match privacy.address {
        AfterRaw::Pseudonym => format!("as they came for {raw_for}, then as pseudonyms"),
        AfterRaw::Truncate => format!(
            "as they came for {raw_for}, then cut to /{} and /{}",
            privacy.v4_bits, privacy.v6_bits
        ),
    }
}

/// How long records are kept.
fn retention_words(privacy: &Privacy) -> String {
    let classes = [
        ("admitted", privacy.admitted()),
        ("refused", privacy.refused()),
        ("of sensitive paths", privacy.sensitive()),
    ];
    let mut words = if classes.iter().all(|(_, time)| *time == classes[0].1) {
        duration_words(classes[0].1)
    } else {
        classes.map(|(class, time)| format!("{class} {}", duration_words(time))).join(", ")
    };
    if let Some(most) = privacy.max_store {
        words.push_str(&format!("; at most {}, the oldest admitted go first", bytes(most)));
    }
    words
}

/// What the filter will do, in words.
fn summary(config: &Config) -> Vec<(&'static str, String)> {
    let proxy = config.proxy.clone().unwrap_or_else(|| "the id of the Envoy node".to_owned());
    let control_plane = config.control_plane.as_ref().map_or_else(
        || "none: no decisions are fetched, no records are shipped".to_owned(),
        |place| format!("cluster {}, authority {}", place.cluster, place.authority),
    );
    let client_ip = match &config.client_ip {
        Source::Envoy => "Envoy's own address".to_owned(),
        Source::TrustedProxies { proxies, header, max_hops } => format!(
            "{} behind {}, at most {}",
            header.name(),
            counted(proxies.len() as u64, "trusted network", "trusted networks"),
            counted(u64::from(*max_hops), "hop", "hops")
        ),
        Source::Header { name, trusted_peers } => format!(
            "header {name} from {}",
            counted(trusted_peers.len() as u64, "trusted network", "trusted networks")
        ),
    };
    let decisions = format!(
        "refuse with {}; until the first set arrives, {}",
        config.decisions.refuse_status,
        match config.decisions.on_start {
            OnStart::Open => "requests pass",
            OnStart::Closed => "requests are refused",
        }
    );
    let records = format!(
        "batches of {} or {}, {} buffered per worker, {} ordinary records kept",
        config.records.max_batch,
        ipwarden::duration::display(config.records.max_age),
        bytes(config.records.buffer_bytes as u64),
        if config.records.sample == 1 {
            "all".to_owned()
        } else {
            format!("one in {} of the", config.records.sample)
        }
    );
    let mut summary = vec![
        ("proxy", proxy),
        ("control plane", control_plane),
        ("client address", client_ip),
        ("decisions", decisions),
        ("identity", identities(&config.identity)),
    ];
    if config.limits.is_empty() {
        summary.push(("limits", "none".to_owned()));
    }
    summary.extend(config.limits.iter().map(|limit| ("limit", words::line(&limit.to_json()))));
    let contention = match config.limits_table.on_contention {
        OnContention::Refuse => "refused",
        OnContention::Admit => "admitted",
    };
    let keys = counted(u64::from(config.limits_table.keys), "key", "keys");
    summary
        .push(("limits table", format!("{keys}; a request that can't be counted is {contention}")));
    summary.push(("records", records));
    summary.extend(sight::words(config));
    summary
}

/// Where a verified identity comes from, in order.
fn identities(sources: &[identity::Source]) -> String {
    let told: Vec<String> = sources
        .iter()
        .map(|source| match source {
            identity::Source::Jwt { metadata_key, claim } => {
                format!("claim {} of the token in {metadata_key}", claim.join("."))
            }
            identity::Source::Certificate(CertificateField::SanUri) => {
                "URI of the client's certificate".to_owned()
            }
            identity::Source::Certificate(CertificateField::SanDns) => {
                "DNS name of the client's certificate".to_owned()
            }
            identity::Source::Certificate(CertificateField::Subject) => {
                "subject of the client's certificate".to_owned()
            }
            identity::Source::Header { name, trusted_peers } => format!(
                "header {name} from {}",
                counted(trusted_peers.len() as u64, "trusted network", "trusted networks")
            ),
        })
        .collect();
    if told.is_empty() {
        "none: every client is anonymous".to_owned()
    } else {
        told.join(", else ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_is_seen() {
        assert_eq!(kind("ipwarden.toml", b"{"), Kind::Service);
        assert_eq!(kind("edge.JSON", b"x = 1"), Kind::Filter);
        assert_eq!(kind("-", b" \n{}"), Kind::Filter);
        assert_eq!(kind("-", b"listen = 1"), Kind::Service);
        assert_eq!(kind("rules.toml", b"[[rule]]\nname = 1"), Kind::Rules);
    }

    #[test]
    fn every_error_of_a_configuration_is_named() {
        let error = check_filter(
            "edge.json",
            br#"{"client_ip": {"source": "guess"}, "records": {"max_batch": 0}, "colour": 1}"#,
        )
        .unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert_eq!(error.to_string(), "edge.json has 3 errors");
        let places: Vec<&str> = error.places().0.iter().map(|place| place.place.as_str()).collect();
        assert_eq!(places, ["client_ip.source", "records.max_batch", "colour"]);
    }

    #[test]
    fn identities_and_limits_are_told_in_order() {
        let config = check_filter(
            "-",
            br#"{
                "identity": [
                    {"jwt": {"metadata_key": "jwt", "claim": ["realm", "user"]}},
                    {"certificate": {"san": "uri"}},
                    {"header": {"name": "x-user", "trusted_peers": ["10.0.0.0/8"]}}
                ],
                "limits": []
            }"#,
        )
        .unwrap();
        let told = summary(&config);
        let of = |name| told.iter().find(|(what, _)| *what == name).unwrap().1.as_str();
        assert_eq!(
            of("identity"),
            "claim realm.user of the token in jwt, else URI of the client's certificate, else header x-user from 1 trusted network"
        );
        assert_eq!(of("limits"), "none");
    }

    #[test]
    fn a_valid_configuration_is_told_in_words() {
        let config = check_filter("-", br#"{"records": {"sample": 10}}"#).unwrap();
        assert_eq!(
            summary(&config)
                .into_iter()
                .map(|(what, how)| format!("{what}: {how}"))
                .collect::<Vec<_>>(),
            [
                "proxy: the id of the Envoy node",
                "control plane: none: no decisions are fetched, no records are shipped",
                "client address: Envoy's own address",
                "decisions: refuse with 403; until the first set arrives, requests pass",
                "identity: none: every client is anonymous",
                "limit: login: 5/1m, 10/1m where authenticated, for each address, for /login*, /admin*; enforced",
                "limits table: 500 000 keys; a request that can't be counted is refused",
                "records: batches of 500 or 1s, 4.0 MiB buffered per worker, one in 10 of the ordinary records kept",
                "addresses: as they come",
                "user agents: as they come",
                "queries: travel with the record",
                "opt-out: Sec-GPC: 1, cookie ipwarden_optout=1: address cut to /24 and /48, no user agent, no identity",
            ]
        );
    }
}
