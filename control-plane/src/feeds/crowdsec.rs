//! The JSON of CrowdSec's local API: what we read of one, and what we say to its bouncers.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::address::{display_target, parse_target};
use ipwarden::decisions::{Tier, UnixSeconds};
use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::effective::Effective;
use super::guard;
use super::status::LeftOut;
use crate::store::Listed;

/// Bad decisions that are named.
const SAMPLES: usize = 5;
/// Longest part of a scenario's name that is kept.
const MAX_SCENARIO: usize = 120;
/// What a bouncer is told of a decision without an end: it can't say "for ever".
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// What a local API said.
#[derive(Debug, Default)]
pub struct Change {
    /// Decisions that are new: of one target the one that lasts longest.
    pub new: Vec<Listed>,
    /// Targets whose decision is gone.
    pub deleted: Vec<IpNet>,
    /// What was not taken.
    pub left_out: LeftOut,
    /// The first decisions that could not be read.
    pub samples: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    new: Option<Vec<Theirs>>,
    #[serde(default)]
    deleted: Option<Vec<Theirs>>,
}

#[derive(Deserialize)]
struct Theirs {
    #[serde(default)]
    scope: String,
    #[serde(default)]
    value: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    duration: String,
    #[serde(default)]
    scenario: String,
    #[serde(default)]
    simulated: Option<bool>,
}

/// Where a local API tells what changed, or everything.
#[must_use]
pub fn stream_url(base: &Url, whole: bool) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/v1/decisions/stream", base.path().trim_end_matches('/')));
    url.set_fragment(None);
    url.set_query(whole.then_some("startup=true"));
    url
}

/// Reads what a local API said at `now`.
///
/// # Errors
/// Why it can't be one.
pub fn read(
    bytes: &[u8],
    include_reserved: bool,
    protected: &[IpNet],
    now: Timestamp,
) -> Result<Change, String> {
    let answer: Answer = serde_json::from_slice(bytes)
        .map_err(|error| format!("its answer is not that of a CrowdSec: {error}"))?;
    let mut change = Change::default();
    let mut longest: HashMap<IpNet, usize> = HashMap::new();
    let mut scenarios: HashMap<String, Arc<str>> = HashMap::new();
    for theirs in answer.new.unwrap_or_default() {
        let Some(target) = taken(&theirs, &mut change) else { continue };
        let Some(duration) = go_duration(&theirs.duration) else {
            reject(&mut change, format!("'{}' is no duration", short(&theirs.duration)));
            continue;
        };
        // One that has ended is none.
        let Some(duration) = duration else { continue };
        match guard::sift(vec![target], include_reserved, protected) {
            Ok(sifted) if sifted.targets.is_empty() => {
                change.left_out.reserved += sifted.reserved;
                change.left_out.protected += sifted.protected;
                continue;
            }
            Ok(_) => {}
            Err(wide) => {
                reject(&mut change, wide.to_string());
                continue;
            }
        }
        let listed = Listed {
            target,
            reason: Arc::clone(scenarios.entry(theirs.scenario).or_insert_with_key(|scenario| {
                let scenario: String = scenario.chars().take(MAX_SCENARIO).collect();
                Arc::from(format!("CrowdSec: {}", scenario.replace(char::is_control, " ")))
            })),
            expires_at: Some(now.checked_add(duration).unwrap_or(Timestamp::MAX)),
        };
        match longest.get(&target).and_then(|at| change.new.get_mut(*at)) {
            Some(other) if other.expires_at < listed.expires_at => *other = listed,
            Some(_) => {}
            None => {
                longest.insert(target, change.new.len());
                change.new.push(listed);
            }
        }
    }
    for theirs in answer.deleted.unwrap_or_default() {
        let before = change.left_out;
        if let Some(target) = taken(&theirs, &mut change) {
            change.deleted.push(target);
        }
        // What was never taken is not counted when it goes.
        change.left_out = before;
    }
    Ok(change)
}

/// The target of a decision that we can carry out.
fn taken(theirs: &Theirs, change: &mut Change) -> Option<IpNet> {
    let of_address = ["ip", "range"].iter().any(|scope| theirs.scope.eq_ignore_ascii_case(scope));
    if !of_address || !theirs.kind.eq_ignore_ascii_case("ban") || theirs.simulated == Some(true) {
        change.left_out.others += 1;
        return None;
    }
    match parse_target(&theirs.value) {
        Ok(target) => Some(target),
        Err(error) => {
            reject(change, error.to_string());
            None
        }
    }
}

fn reject(change: &mut Change, sample: String) {
    change.left_out.rejected += 1;
    if change.samples.len() < SAMPLES {
        change.samples.push(sample);
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// A duration as Go writes it: `3h59m58.5s`. `Some(None)` for one that is over.
fn go_duration(text: &str) -> Option<Option<Duration>> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        let scale = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    Some((!negative && !duration.is_zero()).then_some(duration))
}

/// What a bouncer is told that asks for changes.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct BouncerChanges {
    /// What it is to refuse from now on.
    pub new: Vec<BouncerDecision>,
    /// What it is to refuse no more.
    pub deleted: Vec<BouncerDecision>,
}

/// A decision as a bouncer reads it.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BouncerDecision {
    /// Number; of a decision that is gone, 0.
    pub id: u32,
    /// `ipwarden`.
    pub origin: &'static str,
    /// `ban`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `Ip` or `Range`.
    pub scope: &'static str,
    /// The address or the CIDR.
    #[schema(example = "203.0.113.7")]
    pub value: String,
    /// How long it lasts from now.
    #[schema(example = "3h59m58s")]
    pub duration: String,
    /// Who decided: `ipwarden/manual`, `ipwarden/detector`, `ipwarden/feed`.
    pub scenario: &'static str,
}

/// A network that is refused, as a bouncer reads it.
#[must_use]
pub fn refused(net: &Effective, now: UnixSeconds) -> BouncerDecision {
    // `NEVER` is a hundred years away.
    let left = Duration::from_secs(net.expires_at.saturating_sub(now).into()).min(FOR_EVER);
    let scenario = match net.tier {
        Tier::Detector => "ipwarden/detector",
        Tier::Feed => "ipwarden/feed",
        _ => "ipwarden/manual",
    };
    of(&net.net, net.id, in_go(left), scenario)
}

/// A network that is refused no more.
#[must_use]
pub fn gone(net: &IpNet) -> BouncerDecision {
    of(net, 0, "-1s".to_owned(), "ipwarden")
}

fn of(net: &IpNet, id: u32, duration: String, scenario: &'static str) -> BouncerDecision {
    BouncerDecision {
        id,
        origin: "ipwarden",
        kind: "ban",
        scope: if net.prefix_len() == net.max_prefix_len() { "Ip" } else { "Range" },
        value: display_target(net),
        duration,
        scenario,
    }
}

fn in_go(duration: Duration) -> String {
    let seconds = duration.as_secs().max(1);
    format!("{}h{}m{}s", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T16:00:00Z";

    #[test]
    fn durations_of_go_are_read() {
        let read = |text| go_duration(text).map(|duration| duration.map(|d| d.as_millis()));
        assert_eq!(read("3h59m58.5s"), Some(Some(14_398_500)));
        assert_eq!(read("10m0s"), Some(Some(600_000)));
        assert_eq!(read("1.5ms"), Some(Some(1)));
        assert_eq!(read("-2m1s"), Some(None));
        assert_eq!(read("0s"), Some(None));
        for bad in ["", "4", "4x", "h", "-", "1..2s", "4h 2m"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn bans_of_addresses_are_taken_and_the_rest_is_counted() {
        let body = serde_json::json!({
            "new": [
                {"id": 1, "origin": "cscli", "type": "ban", "scope": "Ip", "value": "8.8.8.8", "duration": "3h0m0s", "scenario": "manual 'ban'"},
                {"id": 2, "origin": "crowdsec", "type": "ban", "scope": "ip", "value": "8.8.8.8", "duration": "4h", "scenario": "crowd/ssh-bf"},
                {"id": 3, "origin": "CAPI", "type": "ban", "scope": "Range", "value": "2a00:1450::/32", "duration": "24h0m1.5s", "scenario": "crowd/x", "simulated": false},
                {"id": 4, "type": "captcha", "scope": "Ip", "value": "9.9.9.9", "duration": "4h"},
                {"id": 5, "type": "ban", "scope": "Country", "value": "FR", "duration": "4h"},
                {"id": 6, "type": "ban", "scope": "Ip", "value": "9.9.9.10", "duration": "4h", "simulated": true},
                {"id": 7, "type": "ban", "scope": "Ip", "value": "10.0.0.1", "duration": "4h"},
                {"id": 8, "type": "ban", "scope": "Ip", "value": "1.2.3.4.5", "duration": "4h"},
                {"id": 9, "type": "ban", "scope": "Range", "value": "0.0.0.0/0", "duration": "4h"},
                {"id": 10, "type": "ban", "scope": "Ip", "value": "9.9.9.11", "duration": "-4h"},
            ],
            "deleted": [
                {"id": 11, "type": "ban", "scope": "Ip", "value": "9.9.9.9", "duration": "-1s"},
                {"id": 12, "type": "captcha", "scope": "Ip", "value": "9.9.9.12", "duration": "-1s"},
            ],
        });
        let now: Timestamp = NOW.parse().unwrap();
        let change = read(body.to_string().as_bytes(), false, &[], now).unwrap();
        let new: Vec<String> = change
            .new
            .iter()
            .map(|listed| {
                format!(
                    "{} {} {}",
                    display_target(&listed.target),
                    listed.expires_at.unwrap(),
                    listed.reason
                )
            })
            .collect();
        assert_eq!(
            new,
            [
                "8.8.8.8 2026-11-22T20:00:00Z CrowdSec: crowd/ssh-bf",
                "2a00:1450::/32 2026-11-23T16:00:01.5Z CrowdSec: crowd/x",
            ]
        );
        assert_eq!(change.deleted, [parse_target("9.9.9.9").unwrap()]);
        let LeftOut { rejected, reserved, others, .. } = change.left_out;
        assert_eq!((rejected, reserved, others), (2, 1, 3));
        let empty = read(br#"{"new":null,"deleted":null}"#, false, &[], now).unwrap();
        assert!(empty.new.is_empty() && empty.deleted.is_empty());
        assert!(read(b"<html>", false, &[], now).is_err());
    }

    #[test]
    fn what_bouncers_are_told_is_crowdsecs_json() {
        let now = 1_795_363_200;
        let mut net = Effective {
            net: parse_target("203.0.113.0/24").unwrap(),
            id: 7,
            tier: Tier::Detector,
            expires_at: now + 4 * 3_600 + 62,
        };
        assert_eq!(
            serde_json::to_value(refused(&net, now)).unwrap(),
            serde_json::json!({"id": 7, "origin": "ipwarden", "type": "ban", "scope": "Range", "value": "203.0.113.0/24", "duration": "4h1m2s", "scenario": "ipwarden/detector"})
        );
        net.expires_at = ipwarden::decisions::NEVER;
        assert_eq!(refused(&net, now).duration, "8760h0m0s");
        assert_eq!(gone(&parse_target("192.0.2.1").unwrap()).scope, "Ip");
    }

    #[test]
    fn a_local_api_may_lie_below_a_path() {
        let url = |base: &str| stream_url(&base.parse().unwrap(), true).to_string();
        assert_eq!(
            url("http://127.0.0.1:8080"),
            "http://127.0.0.1:8080/v1/decisions/stream?startup=true"
        );
        assert_eq!(
            url("https://a.example/cs/"),
            "https://a.example/cs/v1/decisions/stream?startup=true"
        );
    }
}
