//! From what is kept of an hour to flags. Pure: the same hour gives the same flags.

use ipnet::IpNet;
use jiff::Timestamp;

use super::features;
use super::{Settings, robust};
use crate::detect::forest::Forest;
use crate::detect::policy::FOREST_RULE;
use crate::detect::{Flag, Severity, Source, target_of};
use crate::privacy::Veil;
use crate::store::rollup::Rollup;
use crate::store::text::display_bytes;
use crate::store::{HourRollups, IdentityHour, PastHour};

/// Hours that the present one is compared with: the same of the week, and those beside it, of
/// the weeks before.
pub const WEEKS: i64 = 8;
/// With fewer of them nothing is usual yet.
const LEAST_HISTORY: usize = 3;
/// How many robust deviations above the usual are a surge.
const DEVIATIONS: f64 = 6.0;
/// And at least so many times the usual.
const TIMES: f64 = 3.0;
/// And at least so many times `hourly_requests`.
const SURGE_REQUESTS: u64 = 3;
/// Whoever makes so much of what is beyond the site's usual is part of its surge.
const SITE_SHARE: f64 = 0.1;
/// Targets whose past is looked up: those with the most requests.
const MOST_COMPARED: usize = 1_000;
/// Most flags of the forest in an hour: the oddest.
const MOST_ODD: usize = 50;
/// With fewer addresses nothing is ordinary.
const LEAST_POPULATION: usize = 64;
/// Most addresses that the forest looks at: those with the most requests.
const MOST_SCORED: usize = 200_000;
/// Threads that score.
const MOST_THREADS: usize = 4;
/// With fewer points for each a thread does not pay.
const POINTS_PER_THREAD: usize = 5_000;
/// Faster than a passenger aircraft.
const MAX_KM_H: f64 = 1_000.0;
/// Databases are wrong by so much; shorter ways are none.
const LEAST_KM: f64 = 500.0;

/// Where somebody was, as far as known.
pub type Locate<'a> = &'a dyn Fn(IpNet) -> Option<Position>;

/// A point on the earth and its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// City or country.
    pub name: String,
}

/// The hours that an hour is compared with, the latest first.
#[must_use]
pub fn compared_hours(hour: i64) -> Vec<i64> {
    (1..=WEEKS).flat_map(|week| [1, 0, -1].map(|beside| hour - 168 * week + beside)).collect()
}

/// Whose past is worth a look: everybody who could surge, those with the most requests.
#[must_use]
pub fn compared_targets(rollups: &HourRollups, settings: &Settings) -> Vec<IpNet> {
    let least = settings.hourly_requests.saturating_mul(SURGE_REQUESTS);
    let mut found: Vec<&(IpNet, Rollup)> =
        rollups.rollups.iter().filter(|(_, rollup)| rollup.requests >= least).collect();
    found.sort_by_key(|(target, rollup)| (std::cmp::Reverse(rollup.requests), *target));
    found.iter().take(MOST_COMPARED).map(|(target, _)| *target).collect()
}

/// Everything that the pass finds in an hour. `targets` are those of [`compared_targets`], in
/// the order of `past`.
#[must_use]
pub fn flags(
    hour: i64,
    rollups: &HourRollups,
    targets: &[IpNet],
    past: &[PastHour],
    settings: &Settings,
    locate: Locate<'_>,
) -> Vec<Flag> {
    let mut flags = Vec::new();
    for (target, rollup) in &rollups.rollups {
        volume(hour, *target, rollup, settings, &mut flags);
        sensitive(*target, rollup, &mut flags);
    }
    surge(rollups, targets, past, settings, &mut flags);
    for identity in &rollups.identities {
        identity_volume(hour, identity, settings, &mut flags);
        travel(identity, locate, &mut flags);
    }
    odd(hour, rollups, settings, &mut flags);
    flags
}

fn flag(
    target: IpNet,
    rule: &str,
    severity: Severity,
    detail: String,
    count: u64,
    last_us: i64,
) -> Flag {
    Flag {
        time_us: last_us.max(0).cast_unsigned(),
        target,
        veil: Veil::NONE,
        rule: rule.to_owned(),
        severity,
        detail,
        count,
        evidence: Vec::new(),
        source: Source::Hourly,
        score: severity.weight(),
        features: Vec::new(),
    }
}

fn volume(hour: i64, target: IpNet, rollup: &Rollup, settings: &Settings, flags: &mut Vec<Flag>) {
    if rollup.requests <= settings.hourly_requests {
        return;
    }
    let detail = format!(
        "{} requests in the hour from {}, more than {}",
        rollup.requests,
        hour_words(hour),
        settings.hourly_requests
    );
    let (count, last) = (rollup.requests, rollup.last_us);
    flags.push(flag(target, "hourly-volume", Severity::Low, detail, count, last));
}

fn sensitive(target: IpNet, rollup: &Rollup, flags: &mut Vec<Flag>) {
    if rollup.sensitive == 0 {
        return;
    }
    let path = display_bytes(&rollup.sensitive_path);
    let path: String = path.chars().filter(|c| !c.is_control()).collect();
    let detail = match rollup.sensitive {
        1 => format!("visited the sensitive path {path}"),
        more => format!("{more} requests of sensitive paths such as {path}"),
    };
    let (count, last) = (rollup.sensitive, rollup.last_us);
    flags.push(flag(target, "sensitive-path", Severity::Low, detail, count, last));
}

fn surge(
    rollups: &HourRollups,
    targets: &[IpNet],
    past: &[PastHour],
    settings: &Settings,
    flags: &mut Vec<Flag>,
) {
    if past.len() < LEAST_HISTORY {
        return;
    }
    let site: Vec<u64> = past.iter().map(|hour| hour.requests).collect();
    let (site_usual, site_spread) = robust(&site);
    let site_most = (site_usual + DEVIATIONS * site_spread).max(TIMES * site_usual);
    let beyond = rollups.requests as f64 - site_usual;
    let site_surges = rollups.requests as f64 > site_most;
    for (place, target) in targets.iter().enumerate() {
        let Ok(found) = rollups.rollups.binary_search_by(|(other, _)| other.cmp(target)) else {
            continue;
        };
        let Some((_, rollup)) = rollups.rollups.get(found) else { continue };
        let own: Vec<u64> =
            past.iter().filter_map(|hour| hour.by_target.get(place).copied()).collect();
        let requests = rollup.requests as f64;
        // Who was never here has no usual.
        if own.iter().filter(|&&requests| requests > 0).count() >= LEAST_HISTORY {
            let (usual, spread) = robust(&own);
            let least = (settings.hourly_requests * SURGE_REQUESTS) as f64;
            if requests > (usual + DEVIATIONS * spread).max(TIMES * usual).max(least) {
                let detail = format!(
                    "{} requests, where {usual:.0} are usual for this address at this hour of the week ({} hours compared)",
                    rollup.requests,
                    own.len()
                );
                let (count, last) = (rollup.requests, rollup.last_us);
                flags.push(flag(*target, "surge", Severity::Medium, detail, count, last));
            }
        }
        if site_surges && requests >= SITE_SHARE * beyond {
            let detail = format!(
                "{} of the site's {} requests, where {site_usual:.0} are usual for all together at this hour of the week",
                rollup.requests, rollups.requests
            );
            let (count, last) = (rollup.requests, rollup.last_us);
            flags.push(flag(*target, "site-surge", Severity::Medium, detail, count, last));
        }
    }
}

fn identity_volume(hour: i64, seen: &IdentityHour, settings: &Settings, flags: &mut Vec<Flag>) {
    let Some(last) = seen.places.iter().max_by_key(|place| place.last_us) else { return };
    if seen.requests <= settings.hourly_requests {
        return;
    }
    let detail = format!(
        "an identity made {} requests in the hour from {}, more than {}, here last of {}",
        seen.requests,
        hour_words(hour),
        settings.hourly_requests,
        places(seen.places.len())
    );
    let target = target_of(last.ip);
    flags.push(flag(
        target,
        "hourly-volume-identity",
        Severity::Low,
        detail,
        seen.requests,
        last.last_us,
    ));
}

/// One identity in two places that nobody gets between in the time.
fn travel(seen: &IdentityHour, locate: Locate<'_>, flags: &mut Vec<Flag>) {
    let mut stays = seen.places.clone();
    stays.sort_by_key(|stay| stay.first_us);
    for (n, to) in stays.iter().enumerate() {
        let Some(there) = locate(target_of(to.ip)) else { continue };
        for from in stays.iter().take(n) {
            let Some(here) = locate(target_of(from.ip)) else { continue };
            let kilometres = distance(&here, &there);
            // At both at once where the stays overlap.
            let hours = to.first_us.saturating_sub(from.last_us).max(0) as f64 / 3.6e9;
            if kilometres < LEAST_KM || kilometres <= MAX_KM_H * hours {
                continue;
            }
            let minutes = (hours * 60.0).ceil();
            let detail = format!(
                "an identity was in {} and {minutes:.0} min later in {}, {kilometres:.0} km away",
                here.name, there.name
            );
            let target = target_of(to.ip);
            flags.push(flag(target, "impossible-travel", Severity::High, detail, 1, to.last_us));
            // One way is enough.
            return;
        }
    }
}

/// The score of each point. Of many, on several threads: most of the pass's time goes here.
fn scores(forest: &Forest<{ features::COUNT }>, points: &[[f64; features::COUNT]]) -> Vec<f64> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = cores.min(MOST_THREADS).min(points.len() / POINTS_PER_THREAD);
    if threads < 2 {
        return forest.scores(points);
    }
    std::thread::scope(|scope| {
        let pieces = points.chunks(points.len().div_ceil(threads));
        let workers: Vec<_> =
            pieces.map(|piece| scope.spawn(move || forest.scores(piece))).collect();
        let ended = |worker: std::thread::ScopedJoinHandle<'_, Vec<f64>>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().flat_map(ended).collect()
    })
}

/// What the isolation forest finds odd, and why.
fn odd(hour: i64, rollups: &HourRollups, settings: &Settings, flags: &mut Vec<Flag>) {
    let threshold = f64::from(settings.forest_percent) / 100.0;
    if settings.forest_percent >= 100 {
        return;
    }
    let mut looked_at: Vec<&(IpNet, Rollup)> = rollups
        .rollups
        .iter()
        .filter(|(_, rollup)| rollup.requests >= settings.forest_requests)
        .collect();
    if looked_at.len() < LEAST_POPULATION {
        return;
    }
    if looked_at.len() > MOST_SCORED {
        looked_at.sort_by_key(|(_, rollup)| std::cmp::Reverse(rollup.requests));
        looked_at.truncate(MOST_SCORED);
    }
    let points: Vec<[f64; features::COUNT]> =
        looked_at.iter().map(|(_, rollup)| features::of(rollup)).collect();
    let Some(forest) = Forest::new(&points, hour.cast_unsigned()) else { return };
    let mut scored: Vec<(f64, usize)> = scores(&forest, &points)
        .into_iter()
        .enumerate()
        .map(|(place, score)| (score, place))
        .filter(|(score, _)| *score >= threshold)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.truncate(MOST_ODD);
    if scored.is_empty() {
        return;
    }
    let usual = features::medians(&points);
    for (score, place) in scored {
        let (Some(point), Some((target, rollup))) = (points.get(place), looked_at.get(place))
        else {
            continue;
        };
        let mut made: Vec<(usize, f64)> =
            forest.explain(point, &usual).into_iter().enumerate().collect();
        made.sort_by(|a, b| b.1.total_cmp(&a.1));
        made.retain(|(_, part)| *part > 0.0);
        made.truncate(4);
        let words: Vec<String> = made
            .iter()
            .filter_map(|(feature, _)| {
                let name = features::NAMES.get(*feature)?.replace('_', " ");
                let (own, median) = (point.get(*feature)?, usual.get(*feature)?);
                let than = if own > median { "high" } else { "low" };
                Some(format!("{name} ({than})"))
            })
            .collect();
        let detail = format!(
            "unlike the other {} addresses of the hour (score {score:.2}): {}",
            points.len(),
            words.join(", ")
        );
        let found = made.iter().filter_map(|(feature, part)| {
            Some(((*features::NAMES.get(*feature)?).to_owned(), *part))
        });
        let (count, last) = (rollup.requests, rollup.last_us);
        flags.push(Flag {
            // How odd, not how bad: never more than a reason to look.
            score: Severity::Medium.weight() * score,
            features: found.collect(),
            ..flag(*target, FOREST_RULE, Severity::Medium, detail, count, last)
        });
    }
}

fn places(count: usize) -> String {
    if count == 1 { "one address".to_owned() } else { format!("{count} addresses") }
}

/// `2026-11-22T16:00Z`.
fn hour_words(hour: i64) -> String {
    let start = Timestamp::from_second(hour.saturating_mul(3_600)).unwrap_or_default();
    start.strftime("%Y-%m-%dT%H:%MZ").to_string()
}

/// Kilometres over the sphere.
fn distance(from: &Position, to: &Position) -> f64 {
    let (lat1, lat2) = (from.latitude.to_radians(), to.latitude.to_radians());
    let across = ((lat2 - lat1) / 2.0).sin().powi(2)
        + lat1.cos()
            * lat2.cos()
            * ((to.longitude - from.longitude).to_radians() / 2.0).sin().powi(2);
    2.0 * 6_371.0 * across.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::forest::samples::Numbers;
    use crate::store::IdentitySeen;
    use crate::store::rollup::Seen;

    const HOUR: i64 = 500_000;

    fn net(n: u32) -> IpNet {
        target_of(std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
    }

    fn rollup(requests: u64) -> Rollup {
        let mut rollup = Rollup::default();
        (rollup.requests, rollup.last_us) = (requests, HOUR * 3_600_000_000 + 1);
        rollup
    }

    fn hour_of(rollups: Vec<(IpNet, Rollup)>) -> HourRollups {
        let requests = rollups.iter().map(|(_, rollup)| rollup.requests).sum();
        let addresses = rollups.len() as u64;
        HourRollups { addresses, requests, rollups, ..HourRollups::default() }
    }

    fn found(rollups: &HourRollups, past: &[PastHour]) -> Vec<(String, String)> {
        let settings = Settings::default();
        let targets = compared_targets(rollups, &settings);
        flags(HOUR, rollups, &targets, past, &settings, &|_| None)
            .into_iter()
            .map(|flag| (flag.rule, flag.detail))
            .collect()
    }

    #[test]
    fn more_than_a_hundred_requests_and_a_visit_of_admin_are_flagged() {
        let mut visit = rollup(1);
        (visit.sensitive, visit.sensitive_path) = (1, b"/admin".to_vec());
        let hour = hour_of(vec![(net(1), rollup(101)), (net(2), rollup(100)), (net(3), visit)]);
        assert_eq!(
            found(&hour, &[]),
            [
                (
                    "hourly-volume".to_owned(),
                    "101 requests in the hour from 2027-01-15T08:00Z, more than 100".to_owned()
                ),
                ("sensitive-path".to_owned(), "visited the sensitive path /admin".to_owned()),
            ]
        );
    }

    fn past(own: u64, site: u64, hours: usize) -> Vec<PastHour> {
        (0..hours)
            .map(|n| PastHour {
                hour: n as i64,
                requests: site + n as u64,
                by_target: vec![own + n as u64 % 3],
            })
            .collect()
    }

    #[test]
    fn a_surge_needs_a_usual_and_is_told_against_it() {
        let hour = hour_of(vec![(net(1), rollup(4_000))]);
        let rules = |past: &[PastHour]| -> Vec<String> {
            found(&hour, past).into_iter().map(|(rule, _)| rule).collect()
        };
        assert_eq!(rules(&past(50, 9_000, 2)), ["hourly-volume"], "too little history");
        assert_eq!(rules(&past(3_900, 9_000, 9)), ["hourly-volume"], "as usual");
        assert_eq!(rules(&past(50, 9_000, 9)), ["hourly-volume", "surge"]);
        // Never here before: no usual of its own, but the whole site has one.
        let mut never = past(0, 900, 9);
        never.iter_mut().for_each(|hour| hour.by_target = vec![0]);
        assert_eq!(rules(&never), ["hourly-volume", "site-surge"]);
    }

    #[test]
    fn nobody_is_in_two_places_at_once() {
        let seen = |ip: &str, minute: i64| IdentitySeen {
            ip: ip.parse().unwrap(),
            first_us: minute * 60_000_000,
            last_us: minute * 60_000_000,
        };
        let locate = |target: IpNet| {
            let (latitude, longitude, name) = match target.to_string().as_str() {
                "192.0.2.1/32" => (48.85, 2.35, "Paris"),
                "192.0.2.2/32" => (40.71, -74.0, "New York"),
                "192.0.2.3/32" => (50.85, 4.35, "Brussels"),
                _ => return None,
            };
            Some(Position { latitude, longitude, name: name.to_owned() })
        };
        let flagged = |places: Vec<IdentitySeen>| {
            let identity = IdentityHour { identity: "alice".to_owned(), requests: 2, places };
            let hour = HourRollups { identities: vec![identity], ..HourRollups::default() };
            flags(HOUR, &hour, &[], &[], &Settings::default(), &locate)
        };
        let found = flagged(vec![seen("192.0.2.1", 0), seen("192.0.2.2", 30)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].target.to_string(), "192.0.2.2/32");
        let detail = "an identity was in Paris and 30 min later in New York, 5837 km away";
        assert_eq!(found[0].detail, detail);
        assert!(flagged(vec![seen("192.0.2.1", 0), seen("192.0.2.3", 1)]).is_empty(), "too near");
        assert!(flagged(vec![seen("192.0.2.1", 0), seen("192.0.2.9", 1)]).is_empty(), "unknown");
    }

    /// An hour of `ordinary` people and `odd` ones; the odd ones are the last.
    fn synthetic(seed: u64, ordinary: u32, odd: u32) -> HourRollups {
        let mut numbers = Numbers::new(seed);
        let start = HOUR * 3_600_000_000;
        let rollups = (0..ordinary + odd).map(|n| {
            let is_odd = n >= ordinary;
            let kind = n % 4;
            let mut rollup = Rollup::default();
            // Some people are busy: volume alone tells little.
            let requests = if is_odd {
                80 + (numbers.share() * 120.0) as u64
            } else {
                (25.0 * (0.7 * numbers.normal()).exp()).clamp(20.0, 600.0) as u64
            };
            let mut time_us = start + (numbers.share() * 6e8) as i64;
            for request in 0..requests {
                let mean = if is_odd { 2e6 } else { 3.0e9 / requests as f64 };
                time_us += (-(1.0 - numbers.share()).ln() * mean) as i64;
                let (path, method, status): (String, &[u8], u16) = match (is_odd, kind) {
                    (true, 0) => (format!("/probe/{n}/{request}.php"), b"GET", 404),
                    (true, 1) => ("/session".to_owned(), b"POST", 401),
                    (true, 2) => (format!("/a/b/c/d/e/{request}"), b"HEAD", 200),
                    (true, _) => (format!("/search/{request}"), b"OPTIONS", 500),
                    (false, _) if numbers.share() < 0.4 => {
                        (format!("/static/{}.css", request % 9), b"GET", 200)
                    }
                    (false, _) => {
                        let status = if numbers.share() < 0.03 { 404 } else { 200 };
                        let page = (numbers.share() * 40.0) as u32;
                        (format!("/articles/{page}"), b"GET", status)
                    }
                };
                let agent = if is_odd && kind == 3 {
                    format!("agent/{request}")
                } else {
                    "Mozilla/5.0".to_owned()
                };
                rollup.add(
                    &Seen {
                        time_us: time_us.min(start + 3_599_999_999),
                        weight: 1,
                        method,
                        path: path.as_bytes(),
                        user_agent: agent.as_bytes(),
                        status,
                        bytes_out: (8_000.0 * (0.5 * numbers.normal()).exp()) as u64,
                    },
                    false,
                );
            }
            (net(n), rollup)
        });
        hour_of(rollups.collect())
    }

    /// Precision and recall of the first `count` by a measure.
    fn hits(mut scored: Vec<(f64, u32)>, count: usize, ordinary: u32) -> usize {
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.iter().take(count).filter(|(_, n)| *n >= ordinary).count()
    }

    #[test]
    fn the_forest_finds_planted_anomalies_better_than_a_threshold() {
        let (ordinary, odd) = (4_980, 20);
        let hour = synthetic(11, ordinary, odd);
        let points: Vec<_> = hour.rollups.iter().map(|(_, rollup)| features::of(rollup)).collect();
        let forest = Forest::new(&points, 1).unwrap();
        let by_forest = (0..).zip(&points).map(|(n, point)| (forest.score(point), n)).collect();
        let by_volume =
            (0..).zip(&hour.rollups).map(|(n, (_, rollup))| (rollup.requests as f64, n)).collect();
        let of_forest = hits(by_forest, odd as usize, ordinary);
        let of_volume = hits(by_volume, odd as usize, ordinary);
        let settings = Settings::default();
        let flagged: Vec<Flag> = flags(HOUR, &hour, &[], &[], &settings, &|_| None)
            .into_iter()
            .filter(|flag| flag.rule == FOREST_RULE)
            .collect();
        let right = flagged.iter().filter(|flag| flag.target >= net(ordinary)).count();
        let over: Vec<&IpNet> = hour
            .rollups
            .iter()
            .filter(|(_, rollup)| rollup.requests > 100)
            .map(|(target, _)| target)
            .collect();
        let over_right = over.iter().filter(|target| ***target >= net(ordinary)).count();
        println!(
            "forest: of its first {odd} {of_forest} are planted; at the threshold it flags {}, {right} of them planted: precision {:.2}, recall {:.2}",
            flagged.len(),
            right as f64 / flagged.len().max(1) as f64,
            right as f64 / f64::from(odd),
        );
        println!(
            "volume: of the first {odd} {of_volume} are planted; over 100 requests there are {}, {over_right} of them planted: precision {:.2}, recall {:.2}",
            over.len(),
            over_right as f64 / over.len().max(1) as f64,
            over_right as f64 / f64::from(odd),
        );
        assert!(of_forest >= 14 && of_forest > of_volume, "{of_forest} {of_volume}");
        assert!(right >= 10, "{right} of {}", flagged.len());
        assert!(flagged.iter().all(|flag| !flag.features.is_empty()), "each says why");
        agrees_with_scikit_learn(&points, &forest);
    }

    /// Ranks as scikit-learn does, about as well as it agrees with itself under another seed.
    /// Needs a Python with scikit-learn in `.tools/sklearn` (`python3 -m venv .tools/sklearn`,
    /// `.tools/sklearn/bin/pip install scikit-learn`), or named by IPWARDEN_SKLEARN.
    fn agrees_with_scikit_learn(
        points: &[[f64; features::COUNT]],
        forest: &Forest<{ features::COUNT }>,
    ) {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("IPWARDEN_SKLEARN")
            .map_or_else(|| root.join("../.tools/sklearn/bin/python"), Into::into);
        if !python.exists() {
            eprintln!("SKIPPED: no scikit-learn at {}: not compared", python.display());
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("points.csv");
        write_for_comparison(&file, points, forest);
        let output = std::process::Command::new(python)
            .arg(root.join("tests/fixtures/forest.py"))
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<f64> =
            text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [both, itself] = numbers[..] else {
            panic!("{text} {}", String::from_utf8_lossy(&output.stderr))
        };
        println!("rank correlation with scikit-learn {both:.3}; of it with itself {itself:.3}");
        assert!(both > 0.85 && both > itself - 0.06, "{both} {itself}");
    }

    /// Points and scores as CSV, for the comparison with scikit-learn.
    fn write_for_comparison(
        file: &std::path::Path,
        points: &[[f64; features::COUNT]],
        forest: &Forest<{ features::COUNT }>,
    ) {
        let lines: Vec<String> = points
            .iter()
            .map(|point| {
                let mut row: Vec<String> = point.iter().map(ToString::to_string).collect();
                row.push(forest.score(point).to_string());
                row.join(",")
            })
            .collect();
        std::fs::write(file, lines.join("\n")).unwrap();
    }
}
