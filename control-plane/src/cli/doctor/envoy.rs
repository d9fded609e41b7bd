//! Envoy as its admin interface shows it: alive, filter loaded, which version and revision,
//! what its virtual machines went through.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;

use super::Check;
use crate::cli::client::{cause, http};
use crate::cli::error::{CliError, Result};
use crate::cli::fleet::SILENT_SECONDS;
use crate::cli::text::{count, counted, relative};

/// How long the admin interface may take: it answers from memory.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// All our metrics, as Envoy names what a module defines.
const OURS: &str = "wasmcustom.ipwarden_";
/// Carries the filter's version in its name.
const BUILD_INFO: &str = "wasmcustom.ipwarden_build_info";
/// The decision set that is enforced.
const REVISION: &str = "wasmcustom.ipwarden_decisions_revision";
/// Unix time of the last answer of the control plane; 0 for none yet.
const SYNCED: &str = "wasmcustom.ipwarden_decisions_synced_seconds";
/// Counters that stay at 0 in a healthy filter: what each counts, and what to do.
const TROUBLES: [(&str, &str, &str); 4] = [
    (
        "wasmcustom.ipwarden_polls.result=refused",
        "polls were refused by the control plane",
        "its token is not valid or not of the role proxy: `ipwarden token create NAME --role proxy` makes one",
    ),
    (
        "wasmcustom.ipwarden_batches.result=rejected",
        "batches of records were refused by the control plane",
        "load the module of the control plane's version; the service's log says why it refused them",
    ),
    (
        "wasmcustom.ipwarden_shared_data_damaged",
        "times shared data was found damaged and written anew",
        "another plugin of this Envoy writes into the same `vm_id`: give ipwarden one of its own",
    ),
    (
        "wasmcustom.ipwarden_host_errors",
        "requests were judged although Envoy refused to tell something",
        "Envoy's log (component wasm) says more; please report it",
    ),
];

#[derive(Debug, Deserialize)]
struct ServerInfo {
    version: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Stats {
    stats: Vec<Stat>,
}

/// One statistic. Histograms and text read-outs have no number and stand empty here.
#[derive(Debug, Clone, Deserialize)]
struct Stat {
    #[serde(default)]
    name: String,
    value: Option<serde_json::Value>,
}

impl Stat {
    fn number(&self) -> Option<u64> {
        self.value.as_ref().and_then(serde_json::Value::as_u64)
    }
}

/// Looks at the Envoy behind `admin`. `named` says whether somebody named it, so that it
/// must be there; `revision` is the service's.
///
/// # Errors
/// [`CliError::Usage`] when `admin` is no URL.
pub(super) async fn look(
    admin: &str,
    named: bool,
    revision: Option<u64>,
    now: Timestamp,
) -> Result<Vec<Check>> {
    let base = Url::parse(admin)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some())
        .ok_or_else(|| {
            CliError::Usage(format!(
                "'{admin}' is not the URL of an Envoy admin interface: expected one such as {}",
                super::DEFAULT_ENVOY_ADMIN
            ))
        })?;
    let http = http(&base)?;
    let info: ServerInfo = match ask(&http, &base, "/server_info", &[]).await {
        Ok(info) => info,
        Err(why) => {
            let detail = format!("no Envoy admin interface at {admin}: {why}");
            let mend = "start Envoy, or name its admin interface with --envoy-admin URL; on another machine, reach it through a tunnel";
            let envoy = if named {
                Check::fail("envoy", detail, mend)
            } else {
                Check::warn("envoy", detail, mend)
            };
            return Ok(vec![
                envoy,
                Check::skip("filter", "Envoy does not answer"),
                Check::skip("filter_vms", "Envoy does not answer"),
            ]);
        }
    };
    let mut checks = vec![server(admin, &info)];
    match ask::<Stats>(&http, &base, "/stats", &[("format", "json"), ("filter", "^wasm")]).await {
        Ok(stats) => {
            checks.push(filter(&stats.stats, revision, now));
            checks.extend(troubles(&stats.stats));
            checks.push(machines(&stats.stats));
        }
        Err(why) => checks.push(Check::fail(
            "filter",
            format!("Envoy's statistics can't be read: {why}"),
            "look at Envoy's log; its version must be 1.36 or later",
        )),
    }
    Ok(checks)
}

async fn ask<T: serde::de::DeserializeOwned>(
    http: &reqwest::Client,
    base: &Url,
    path: &str,
    query: &[(&str, &str)],
) -> std::result::Result<T, String> {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    let request = http.get(url).query(query).timeout(ADMIN_TIMEOUT);
    let response = request.send().await.map_err(|error| cause(&error))?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()));
    }
    let body = response.bytes().await.map_err(|error| cause(&error))?;
    serde_json::from_slice(&body).map_err(|error| format!("its answer is not Envoy's: {error}"))
}

fn server(admin: &str, info: &ServerInfo) -> Check {
    // <commit>/<version>/<state of the sources>/<build>/<TLS library>
    let version = info.version.split('/').nth(1).unwrap_or(&info.version);
    let detail = format!("{version} at {admin}, {}", info.state);
    if info.state == "LIVE" {
        return Check::ok("envoy", detail);
    }
    Check::warn(
        "envoy",
        detail,
        "it does not serve yet, or not any more: its log says what it waits for",
    )
}

/// Whether the filter runs, which version, and whether it has the service's decisions.
fn filter(stats: &[Stat], revision: Option<u64>, now: Timestamp) -> Check {
    if !stats.iter().any(|stat| stat.name.starts_with(OURS)) {
        return Check::fail(
            "filter",
            "Envoy runs without the filter",
            "load the module in Envoy's HTTP filters (envoy/envoy.yaml shows how); if it is there, Envoy's log says why it was rejected, and `ipwarden check-config FILE` checks its configuration",
        );
    }
    let mut versions: Vec<&str> = stats
        .iter()
        .filter(|stat| stat.number() != Some(0))
        .filter_map(|stat| version(&stat.name))
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let shown =
        if versions.is_empty() { "of unknown version".to_owned() } else { versions.join(" and ") };
    let value = |name: &str| stats.iter().find(|stat| stat.name == name).and_then(Stat::number);
    let synced = value(SYNCED).and_then(|seconds| {
        Timestamp::from_second(i64::try_from(seconds).ok()?).ok().filter(|_| seconds > 0)
    });
    let ours = ipwarden::VERSION;
    if !versions.contains(&ours) {
        return Check::warn(
            "filter",
            format!("{shown}, this command is {ours}"),
            "load the module of the same version into Envoy and restart it",
        );
    }
    let connection = "look at the cluster and token in its `control_plane`, and at Envoy's log";
    let Some(synced) = synced else {
        return Check::warn(
            "filter",
            format!("{shown}, no decision set yet"),
            format!("{connection}; until a set arrives `decisions.on_start` holds"),
        );
    };
    let applied = value(REVISION).unwrap_or(0);
    match revision {
        // Its last answer is older than two long polls.
        _ if now.duration_since(synced).as_secs() > SILENT_SECONDS => Check::warn(
            "filter",
            format!(
                "{shown}, at revision {applied}; the control plane last answered it {}",
                relative(synced, now)
            ),
            format!("{connection}; it goes on with the decisions that it has until they end"),
        ),
        Some(revision) if applied < revision => Check::warn(
            "filter",
            format!("{shown}, at revision {applied} of {revision}"),
            format!("look again in a moment; if it stays behind, {connection}"),
        ),
        Some(revision) if applied > revision => Check::warn(
            "filter",
            format!("{shown}, at revision {applied}, the service is at {revision}"),
            "this Envoy follows another control plane, or the service's data was replaced: compare its `control_plane` with --url",
        ),
        _ => Check::ok("filter", format!("{shown}, at revision {applied}")),
    }
}

/// What the filter counts and a healthy one does not have.
fn troubles(stats: &[Stat]) -> impl Iterator<Item = Check> {
    TROUBLES.iter().filter_map(|(name, what, mend)| {
        let times = stats.iter().find(|stat| stat.name == *name).and_then(Stat::number)?;
        (times > 0).then(|| {
            Check::warn("filter", format!("since Envoy started, {} {what}", count(times)), *mend)
        })
    })
}

/// `wasmcustom.ipwarden_build_info.version=0.1.0` → `0.1.0`.
fn version(name: &str) -> Option<&str> {
    let (_, rest) = name.strip_prefix(BUILD_INFO)?.split_once("version=")?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".+-".contains(c)));
    Some(rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest))
}

/// What the virtual machines went through.
fn machines(stats: &[Stat]) -> Check {
    let wasm = || stats.iter().filter(|stat| stat.name.starts_with("wasm."));
    let sum = |end: &str| -> u64 {
        wasm().filter(|stat| stat.name.ends_with(end)).filter_map(Stat::number).sum()
    };
    let (created, active) = (sum(".created"), sum(".active"));
    let failures: Vec<String> = wasm()
        .filter(|stat| stat.name.contains("fail"))
        .filter_map(|stat| Some((stat.name.as_str(), stat.number().filter(|&count| count > 0)?)))
        .map(|(name, count)| format!("{name} = {count}"))
        .collect();
    let detail = format!("{} active, {created} created", counted(active, "VM", "VMs"));
    if !failures.is_empty() {
        return Check::fail(
            "filter_vms",
            format!("{detail}; {}", failures.join(", ")),
            "a VM could not be loaded or started again: Envoy's log (component wasm) says why",
        );
    }
    let reloads = sum(".vm_reload_success");
    if reloads > 0 {
        return Check::warn(
            "filter_vms",
            format!("{detail}; started again {}", counted(reloads, "time", "times")),
            "a VM ended unexpectedly: Envoy's log (component wasm) says why; please report it",
        );
    }
    if active == 0 {
        return Check::fail(
            "filter_vms",
            detail,
            "no filter is running: Envoy's log (component wasm) says why",
        );
    }
    Check::ok("filter_vms", detail)
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn stats(pairs: &[(&str, u64)]) -> Vec<Stat> {
        let mut list: Vec<serde_json::Value> = pairs
            .iter()
            .map(|(name, value)| serde_json::json!({"name": name, "value": value}))
            .collect();
        // As Envoy ends the list.
        list.push(serde_json::json!({"histograms": {"computed_quantiles": []}}));
        serde_json::from_value::<Stats>(serde_json::json!({ "stats": list })).unwrap().stats
    }

    fn loaded() -> String {
        format!("{BUILD_INFO}.version={}", ipwarden::VERSION)
    }

    /// A filter that heard from the control plane ten seconds before [`now`].
    fn judged(pairs: &[(&str, u64)], revision: u64) -> Check {
        let synced = u64::try_from(now().as_second() - 10).unwrap();
        let pairs = [pairs, &[(SYNCED, synced)]].concat();
        filter(&stats(&pairs), Some(revision), now())
    }

    fn now() -> Timestamp {
        "2026-11-22T16:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_filter_is_recognised_by_its_metrics() {
        let none = filter(&stats(&[("wasm.envoy.wasm.runtime.v8.created", 1)]), Some(3), now());
        assert_eq!(
            (none.status, none.detail.as_str()),
            (Outcome::Fail, "Envoy runs without the filter")
        );
        let here = judged(&[(&loaded(), 1), (REVISION, 3)], 3);
        assert_eq!(here, Check::ok("filter", format!("{}, at revision 3", ipwarden::VERSION)));
    }

    #[test]
    fn another_version_or_revision_is_told() {
        let old = format!("{BUILD_INFO}.version=0.0.9");
        assert_eq!(
            judged(&[(&old, 1), (REVISION, 3)], 3).detail,
            format!("0.0.9, this command is {}", ipwarden::VERSION)
        );
        for (applied, expected) in
            [(2, "at revision 2 of 3"), (4, "at revision 4, the service is at 3")]
        {
            let check = judged(&[(&loaded(), 1), (REVISION, applied)], 3);
            assert_eq!(check.status, Outcome::Warn);
            assert!(check.detail.ends_with(expected), "{}", check.detail);
        }
    }

    #[test]
    fn a_filter_that_hears_nothing_is_told() {
        let never = filter(&stats(&[(&loaded(), 1), (REVISION, 0), (SYNCED, 0)]), Some(0), now());
        assert_eq!(never.detail, format!("{}, no decision set yet", ipwarden::VERSION));
        let synced = u64::try_from(now().as_second() - 600).unwrap();
        let silent =
            filter(&stats(&[(&loaded(), 1), (REVISION, 3), (SYNCED, synced)]), Some(3), now());
        assert_eq!(
            silent.detail,
            format!(
                "{}, at revision 3; the control plane last answered it 10m ago",
                ipwarden::VERSION
            )
        );
        assert_eq!(silent.status, Outcome::Warn);
    }

    #[test]
    fn what_a_healthy_filter_does_not_count_is_told() {
        let refused = "wasmcustom.ipwarden_polls.result=refused";
        let fine = "wasmcustom.ipwarden_polls.result=delta";
        let host = "wasmcustom.ipwarden_host_errors";
        let found: Vec<Check> =
            troubles(&stats(&[(refused, 1_200), (fine, 9), (host, 0)])).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].detail,
            "since Envoy started, 1 200 polls were refused by the control plane"
        );
    }

    #[test]
    fn versions_are_read_from_the_name() {
        assert_eq!(version("wasmcustom.ipwarden_build_info.version=0.1.0"), Some("0.1.0"));
        assert_eq!(
            version("wasmcustom.ipwarden_build_info_version=1.0.0-rc.1_x=y"),
            Some("1.0.0-rc.1")
        );
        assert_eq!(version("wasmcustom.ipwarden_decisions_revision"), None);
    }

    #[test]
    fn failures_of_virtual_machines_are_named() {
        let created = ("wasm.envoy.wasm.runtime.v8.created", 3);
        let active = ("wasm.envoy.wasm.runtime.v8.active", 3);
        assert_eq!(machines(&stats(&[created, active])).detail, "3 VMs active, 3 created");
        let failed = machines(&stats(&[
            created,
            active,
            ("wasm.envoy.wasm.runtime.v8.ipwarden.vm_reload_failure", 2),
        ]));
        assert_eq!(failed.status, Outcome::Fail);
        assert_eq!(
            failed.detail,
            "3 VMs active, 3 created; wasm.envoy.wasm.runtime.v8.ipwarden.vm_reload_failure = 2"
        );
        let again = machines(&stats(&[created, active, ("wasm.x.vm_reload_success", 1)]));
        assert_eq!(again.status, Outcome::Warn);
        assert_eq!(
            machines(&stats(&[created, ("wasm.envoy.wasm.runtime.v8.active", 0)])).status,
            Outcome::Fail
        );
    }
}
