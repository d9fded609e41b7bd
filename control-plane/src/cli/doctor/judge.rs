//! What the service's facts mean.

use jiff::Timestamp;

use super::Check;
use crate::api::feeds::FeedView;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::feeds::trouble;
use crate::cli::fleet::{CLOCK_OFF_MS, SILENT_SECONDS};
use crate::cli::geo::{in_words, is_stale};
use crate::cli::place::Found;
use crate::cli::replies::{Hook, Status};
use crate::cli::text::{bytes, clean, count, counted, relative, span};
use crate::model::Proxy;

/// Free disk below this is a warning.
const MIN_FREE_BYTES: u64 = 1024 * 1024 * 1024;
/// Free disk below this share of it is a warning, in percent.
const MIN_FREE_PERCENT: u64 = 10;
/// Batches waiting to be stored beyond this are a warning: a healthy store keeps it near 0.
const MAX_QUEUE: u64 = 1_000;

/// The token does not open what was asked.
pub(super) fn refused_token(status: u16, message: &str) -> Check {
    let mend = if status == 401 {
        "use the admin token of the service's data directory: --data-dir DIR, --token-file FILE or IPWARDEN_TOKEN"
    } else {
        "use a token of the role viewer or admin: `ipwarden token create NAME --role viewer` makes one"
    };
    Check::fail("token", message, mend)
}

/// The token may read; `refused` is what asking for the list of tokens ended with.
pub(super) fn token(client: &Client, refused: Option<CliError>) -> Check {
    let from = match client.found() {
        Found::Token { from, .. } => from.as_str(),
        Found::Nothing { .. } => "nowhere",
    };
    let role = match refused {
        None => "admin",
        Some(CliError::Refused { status: 403, .. }) => "viewer",
        Some(error) => {
            return Check::fail("token", error.to_string(), "see what the service logs");
        }
    };
    if !client.is_encrypted() && !client.is_local() {
        return Check::warn(
            "token",
            format!("of {from}, role {role}; it travels unencrypted to {}", client.url()),
            "put TLS in front of the service and use an https URL, or reach it through a tunnel",
        );
    }
    Check::ok("token", format!("of {from}, role {role}"))
}

/// The service's version against this command's.
pub(super) fn version(service: &str) -> Check {
    let ours = ipwarden::VERSION;
    if service == ours {
        return Check::ok("version", format!("service and command are {ours}"));
    }
    Check::warn(
        "version",
        format!("the service is {service}, this command {ours}"),
        "restart the service after an update, or use the command that belongs to it",
    )
}

/// The service's clock, read somewhere between two moments of ours.
pub(super) fn clock(service: Timestamp, asked_at: Timestamp, answered_at: Timestamp) -> Check {
    // Only what the way there and back can't explain is an offset.
    let early = asked_at.duration_since(service).as_millis();
    let late = service.duration_since(answered_at).as_millis();
    let off = early.max(late).max(0);
    if off <= i128::from(CLOCK_OFF_MS) {
        return Check::ok("clock", "the service's clock agrees with this machine's");
    }
    Check::warn(
        "clock",
        format!(
            "the service's clock is {:.1} s {}",
            off as f64 / 1_000.0,
            if early > late { "behind this machine's" } else { "ahead of this machine's" }
        ),
        "synchronise both machines (chrony, systemd-timesyncd): expiries are absolute times",
    )
}

/// Room on the service's disk.
pub(super) fn disk(status: &Status) -> Check {
    let (Some(free), Some(total)) = (status.disk_free_bytes, status.disk_total_bytes) else {
        return Check::skip("disk", "the service does not know");
    };
    let percent = if total == 0 { 0 } else { u128::from(free) * 100 / u128::from(total) };
    let detail = format!("{} free of {} ({percent} %)", bytes(free), bytes(total));
    if free < MIN_FREE_BYTES || percent < u128::from(MIN_FREE_PERCENT) {
        return Check::warn(
            "disk",
            detail,
            format!(
                "make room under {}: when the disk is full, records can't be stored and proxies drop them",
                status.data_dir
            ),
        );
    }
    Check::ok("disk", detail)
}

/// Records on their way into the store.
pub(super) fn ingest(status: &Status) -> Check {
    let detail = format!(
        "{} stored, {} waiting",
        counted(status.records_stored, "record", "records"),
        counted(status.ingest_queue, "batch", "batches")
    );
    if status.ingest_queue > MAX_QUEUE {
        return Check::warn(
            "ingest",
            detail,
            "the store does not keep up: look at the disk's load, or let proxies sample (`records.sample`)",
        );
    }
    Check::ok("ingest", detail)
}

/// Geolocation data: what can't be used, what is old.
pub(super) fn geo(status: &Status) -> Vec<Check> {
    let Some(geo) = &status.geo else {
        return vec![Check::skip("geo", "the service does not know")];
    };
    let mut checks: Vec<Check> = geo
        .databases
        .iter()
        .filter_map(|database| {
            let problem = database.problem.as_deref()?;
            let kept = match database.data.as_ref().and_then(|data| data.built_at) {
                Some(built) => format!("; the data of {} stays in use", built.strftime("%Y-%m-%d")),
                None if database.data.is_some() => "; the data before it stays in use".to_owned(),
                None => String::new(),
            };
            Some(Check::warn(
                "geo",
                format!("{} {problem}{kept}", database.file),
                format!("bring it again with `ipwarden geo update`, or take it out of {}", geo.dir),
            ))
        })
        .collect();
    if let Some(problem) = &geo.problem {
        let mend = "let the service's user read it, and keep in it only what is used";
        checks.push(Check::warn("geo", format!("{} {problem}", geo.dir), mend));
    }
    for database in &geo.databases {
        let Some(data) = &database.data else { continue };
        if is_stale(data.age_seconds) {
            let age = span(jiff::SignedDuration::from_secs(
                i64::try_from(data.age_seconds.unwrap_or(0)).unwrap_or(i64::MAX),
            ));
            checks.push(Check::warn(
                "geo",
                format!("{} is {age} old: networks have moved since", database.file),
                "bring newer data: `ipwarden geo update`, or `--from` where there is newer",
            ));
        }
    }
    if checks.is_empty() {
        checks.push(match geo.databases.len() {
            0 => Check::skip(
                "geo",
                format!("no data in {}: `ipwarden geo update` brings some", geo.dir),
            ),
            some => Check::ok("geo", format!("{} in use", in_words(some))),
        });
    }
    checks
}

/// Whether what is old goes, and nothing else.
pub(super) fn retention(status: &Status) -> Check {
    if let Some(error) = &status.retention_error {
        return Check::warn(
            "retention",
            format!("the last run did not end: {}", clean(error)),
            "addresses and records are kept longer than configured: mend what is said, then `ipwarden retention run`",
        );
    }
    match status.retention_capped {
        0 => Check::ok("retention", "what is old is hidden and deleted every hour"),
        capped => Check::warn(
            "retention",
            format!(
                "the log was beyond privacy.max_store: {} went before their time",
                counted(capped, "record", "records")
            ),
            "raise privacy.max_store, or shorten a retention",
        ),
    }
}

/// What the policy does by itself.
pub(super) fn detection(status: &Status) -> Check {
    let open = counted(status.suspects_open, "open suspect", "open suspects");
    if let Some(problem) = &status.rules_problem {
        return Check::warn(
            "detection",
            format!("{open}; the rule file can't be used, the rules before it stay: {problem}"),
            "mend the file: `ipwarden check-config FILE` says the same; it is read again by itself",
        );
    }
    match status.blocks_withheld {
        None => Check::ok("detection", open),
        Some(withheld) => Check::warn(
            "detection",
            format!(
                "{open}; the brake withheld {} within the hour",
                counted(withheld, "automatic block", "automatic blocks")
            ),
            "look at `ipwarden suspects`: confirm what is right, and raise detect.blocks_an_hour if all of it is",
        ),
    }
}

/// Who is told of suspects and blocks: each hook that can't be told, and what it missed.
pub(super) fn hooks(hooks: &[Hook], now: Timestamp) -> Vec<Check> {
    let mut checks = Vec::new();
    for hook in hooks {
        let waiting = counted(hook.waiting, "event waits", "events wait");
        if let Some(problem) = &hook.problem {
            let since = hook
                .failing_since
                .map_or_else(String::new, |since| format!(", first {}", relative(since, now)));
            checks.push(Check::warn(
                "notify",
                format!("'{}' ({}) can't be told{since}: {problem}; {waiting}", hook.name, hook.to),
                format!("mend the receiver or the hook in ipwarden.toml, then `ipwarden notify test {}`", hook.name),
            ));
        } else if hook.dropped > 0 {
            checks.push(Check::warn(
                "notify",
                format!("'{}' ({}) was never told of {}", hook.name, hook.to, counted(hook.dropped, "event", "events")),
                "look at `ipwarden suspects`; what waits for more than three days, or beyond 10 000, is given up",
            ));
        }
    }
    if checks.is_empty() {
        checks.push(match hooks.len() as u64 {
            0 => Check::skip("notify", "nobody is told of suspects: [[notify]] in ipwarden.toml"),
            some => Check::ok("notify", counted(some, "hook in order", "hooks in order")),
        });
    }
    checks
}

/// Lists of others: each that could not be had or was not taken.
pub(super) fn feeds(feeds: &[FeedView]) -> Vec<Check> {
    let mut checks: Vec<Check> = feeds
        .iter()
        .filter_map(|feed| {
            let mend = format!("`ipwarden feeds show {}` says more", clean(&feed.name));
            Some(Check::warn("feeds", trouble(feed)?, mend))
        })
        .collect();
    if checks.is_empty() && !feeds.is_empty() {
        let text = counted(feeds.len() as u64, "feed in force", "feeds in force");
        checks.push(Check::ok("feeds", text));
    }
    checks
}

/// The fleet: each proxy's silence, lag, losses and clock.
pub(super) fn proxies(proxies: &[Proxy], now: Timestamp) -> Vec<Check> {
    if proxies.is_empty() {
        return vec![Check::warn(
            "proxies",
            "none was heard of yet",
            "start Envoy with the filter; its configuration needs `control_plane` with a cluster that leads here and a token of the role proxy",
        )];
    }
    let mut checks: Vec<Check> = proxies.iter().flat_map(|proxy| one_proxy(proxy, now)).collect();
    if checks.is_empty() {
        checks.push(Check::ok(
            "proxies",
            format!(
                "{}, up to date, nothing lost",
                counted(proxies.len() as u64, "proxy", "proxies")
            ),
        ));
    }
    checks
}

fn one_proxy(proxy: &Proxy, now: Timestamp) -> Vec<Check> {
    let name = &proxy.name;
    let mut checks = Vec::new();
    let silent = now.duration_since(proxy.last_seen).as_secs() > SILENT_SECONDS;
    if silent {
        checks.push(Check::warn(
            "proxies",
            format!("{name} was last heard of {}", relative(proxy.last_seen, now)),
            "if it should run: look at its log, and at the cluster and token in its `control_plane`",
        ));
    }
    if proxy.revision_lag > 0 && !silent {
        checks.push(Check::warn(
            "proxies",
            format!("{name} is {} behind", counted(proxy.revision_lag, "revision", "revisions")),
            "look again in a moment; if it stays behind, its log says why it can't take the decisions",
        ));
    }
    if proxy.requests_lost > 0 {
        checks.push(Check::warn(
            "proxies",
            format!("{name} lost the records of {} requests", count(proxy.requests_lost)),
            "its buffer overflowed while records could not be delivered: raise `records.buffer_bytes`, or lower the amount with `records.sample`",
        ));
    }
    if proxy.clock_offset_ms.abs() > CLOCK_OFF_MS && !silent {
        checks.push(Check::warn(
            "proxies",
            format!(
                "the clock of {name} is off by {:.1} s",
                proxy.clock_offset_ms as f64 / 1_000.0
            ),
            "synchronise it (chrony, systemd-timesyncd): the proxy ends decisions by its own clock",
        ));
    }
    if proxy.version != ipwarden::VERSION {
        checks.push(Check::warn(
            "proxies",
            format!("{name} runs filter {}, this command is {}", proxy.version, ipwarden::VERSION),
            "load the module of the same version into Envoy",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn status(free: u64, total: u64) -> Status {
        serde_json::from_value(serde_json::json!({
            "version": "0.1.0", "now": "2026-11-22T16:00:00Z", "revision": 3,
            "data_dir": "/var/lib/ipwarden", "disk_free_bytes": free, "disk_total_bytes": total,
        }))
        .unwrap()
    }

    fn proxy() -> Proxy {
        serde_json::from_value(serde_json::json!({
            "name": "edge-1", "version": ipwarden::VERSION, "last_seen": "2026-11-22T16:00:00Z",
            "revision": 33, "revision_lag": 0, "requests_seen": 10, "requests_stored": 10,
            "requests_lost": 0, "requests_skipped": 0, "clock_offset_ms": 3, "workers": 2,
        }))
        .unwrap()
    }

    #[test]
    fn a_clock_is_off_only_beyond_what_the_way_explains() {
        let (asked, answered) = (at("2026-11-22T16:00:00Z"), at("2026-11-22T16:00:04Z"));
        for service in ["2026-11-22T15:59:58Z", "2026-11-22T16:00:02Z", "2026-11-22T16:00:06Z"] {
            assert_eq!(clock(at(service), asked, answered).status, Outcome::Ok, "{service}");
        }
        assert_eq!(
            clock(at("2026-11-22T15:59:57Z"), asked, answered).detail,
            "the service's clock is 3.0 s behind this machine's"
        );
        assert_eq!(
            clock(at("2026-11-22T16:00:10Z"), asked, answered).detail,
            "the service's clock is 6.0 s ahead of this machine's"
        );
    }

    #[test]
    fn little_room_is_a_warning_by_size_and_by_share() {
        const GIB: u64 = 1 << 30;
        assert_eq!(disk(&status(50 * GIB, 100 * GIB)).status, Outcome::Ok);
        assert_eq!(disk(&status(9 * GIB, 100 * GIB)).status, Outcome::Warn);
        assert_eq!(disk(&status(GIB - 1, 2 * GIB)).status, Outcome::Warn);
        assert_eq!(
            disk(&status(9 * GIB, 100 * GIB)).mend.unwrap(),
            "make room under /var/lib/ipwarden: when the disk is full, records can't be stored and proxies drop them"
        );
    }

    #[test]
    fn a_healthy_fleet_is_one_line_and_every_trouble_has_its_own() {
        let now = at("2026-11-22T16:00:05Z");
        let healthy = proxies(&[proxy(), proxy()], now);
        assert_eq!(healthy.len(), 1);
        assert_eq!(healthy[0].detail, "2 proxies, up to date, nothing lost");
        let ill =
            Proxy { revision_lag: 2, requests_lost: 1_000, clock_offset_ms: -2_500, ..proxy() };
        let details: Vec<String> =
            proxies(&[ill, proxy()], now).into_iter().map(|check| check.detail).collect();
        assert_eq!(
            details,
            [
                "edge-1 is 2 revisions behind",
                "edge-1 lost the records of 1 000 requests",
                "the clock of edge-1 is off by -2.5 s",
            ]
        );
        let silent = proxies(&[proxy()], at("2026-11-22T16:10:00Z"));
        assert_eq!(silent[0].detail, "edge-1 was last heard of 10m ago");
        assert_eq!(proxies(&[], now)[0].status, Outcome::Warn);
    }

    #[test]
    fn whatever_is_not_ok_says_how_to_mend_it() {
        let now = at("2026-11-22T16:10:00Z");
        let mut checks =
            proxies(&[Proxy { requests_lost: 1, version: "9".to_owned(), ..proxy() }], now);
        checks.push(disk(&status(0, 0)));
        checks.push(version("9.9.9"));
        checks.push(refused_token(401, "no"));
        checks.push(refused_token(403, "no"));
        for check in checks {
            assert!(check.status == Outcome::Ok || check.mend.is_some(), "{check:?}");
        }
    }
}
