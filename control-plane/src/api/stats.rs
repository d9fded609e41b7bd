//! `/v1/stats/…`: how many requests, when, by whom, to what.
//!
//! All questions share the conditions of `GET /v1/requests`, so that a chart and the records
//! behind it are found by the same words.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use hashbrown::HashMap;
use ipwarden::record::Verdict;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::requests::{looked, record_query};
use super::{AppState, Params, Problem, ProblemBody, fault};
use crate::app::App;
use crate::auth::Identity;
use crate::mask;
use crate::store::stats::{
    Dimension, MAX_BUCKETS, MAX_TOP, SLOT_SECONDS, Stats, StatsQuery, Totals, slot_start,
};

/// What is looked at when the request doesn't say.
const DEFAULT_SPAN: SignedDuration = SignedDuration::from_hours(1);
/// Widths of buckets in seconds that a series may get by itself.
const STEPS: [i64; 13] =
    [10, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400];
/// Buckets that a series gets by itself, at most.
const BUCKETS: i64 = 240;
/// Rows of a top list when the request doesn't say.
const ROWS: usize = 10;
/// Countries there may be.
const COUNTRIES: usize = MAX_TOP;
/// A look at addresses is noted again after so long.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(1);
/// Looks remembered; more are all noted.
const MAX_LOOKS: usize = 1_000;

/// Requests by what became of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// Those that were refused: blocked, limited or unready.
    pub refused: u64,
    /// By verdict; those that did not occur are absent.
    pub verdicts: BTreeMap<&'static str, u64>,
}

/// Requests over time: bucket n begins at `since` plus n times `step_seconds`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Series {
    /// Width of a bucket.
    pub step_seconds: i64,
    /// Requests in each bucket, by verdict; those that did not occur are absent.
    pub verdicts: BTreeMap<&'static str, Vec<u64>>,
    /// All requests in each bucket of the span before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<u64>>,
}

/// One row of a top list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Row {
    /// The value; empty for unknown.
    pub key: String,
    /// Requests.
    pub requests: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// Requests in the span before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// A top list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List {
    /// The most requests first.
    pub rows: Vec<Row>,
    /// How many different values there are; a lower bound when `approximate`.
    pub distinct: u64,
    /// So many values that rare ones were dropped: counts can be too low.
    pub approximate: bool,
}

/// An answer; what was not asked for is absent.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer {
    /// First moment that is counted, to ten seconds.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// First moment that is not.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Everything.
    pub total: Counts,
    /// Everything in the span of the same length before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Counts>,
    /// Over time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
    /// Top lists by what they count by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tops: BTreeMap<&'static str, List>,
}

/// What a path answers with.
#[derive(Clone, Copy)]
struct Wanted {
    series: bool,
    tops: bool,
    map: bool,
}

/// Requests over time, by verdict.
#[utoipa::path(
    get, path = "/v1/stats/series", tag = "requests",
    params(
        ("since" = Option<String>, Query, description = "RFC 3339, or how long ago: 1h, which is what it is if absent"),
        ("until" = Option<String>, Query, description = "RFC 3339, or how long ago; now if absent"),
        ("step" = Option<String>, Query, description = "width of a bucket from 10s to 52w; chosen if absent"),
        ("compare" = Option<bool>, Query, description = "count the span before, too"),
        ("ip" = Option<String>, Query, description = "conditions: those of GET /v1/requests"),
    ),
    responses((status = 200, body = Answer), (status = 400, body = ProblemBody))
)]
pub(crate) async fn series(
    state: AppState,
    identity: Extension<Identity>,
    uri: Uri,
    params: Params,
) -> Result<Json<Answer>, Problem> {
    answer(state, identity, uri, params, Wanted { series: true, tops: false, map: false }).await
}

/// Who and what there is most of.
#[utoipa::path(
    get, path = "/v1/stats/tops", tag = "requests",
    params(
        ("by" = Option<String>, Query, description = "some of address, network, pseudonym, pseudonym_network, asn, country, path, host, method, status, user_agent, rule, verdict, proxy, with commas between them; all if absent"),
        ("limit" = Option<usize>, Query, description = "rows of each list, 1 to 1000, 10 if absent"),
        ("since" = Option<String>, Query, description = "RFC 3339, or how long ago: 1h, which is what it is if absent"),
        ("until" = Option<String>, Query, description = "RFC 3339, or how long ago; now if absent"),
        ("compare" = Option<bool>, Query, description = "count the span before, too"),
        ("ip" = Option<String>, Query, description = "conditions: those of GET /v1/requests"),
    ),
    responses((status = 200, body = Answer), (status = 400, body = ProblemBody))
)]
pub(crate) async fn tops(
    state: AppState,
    identity: Extension<Identity>,
    uri: Uri,
    params: Params,
) -> Result<Json<Answer>, Problem> {
    answer(state, identity, uri, params, Wanted { series: false, tops: true, map: false }).await
}

/// Requests by country, all of them.
#[utoipa::path(
    get, path = "/v1/stats/map", tag = "requests",
    params(
        ("since" = Option<String>, Query, description = "RFC 3339, or how long ago: 1h, which is what it is if absent"),
        ("until" = Option<String>, Query, description = "RFC 3339, or how long ago; now if absent"),
        ("compare" = Option<bool>, Query, description = "count the span before, too"),
        ("ip" = Option<String>, Query, description = "conditions: those of GET /v1/requests"),
    ),
    responses((status = 200, body = Answer), (status = 400, body = ProblemBody))
)]
pub(crate) async fn map(
    state: AppState,
    identity: Extension<Identity>,
    uri: Uri,
    params: Params,
) -> Result<Json<Answer>, Problem> {
    answer(state, identity, uri, params, Wanted { series: false, tops: false, map: true }).await
}

/// Series, top lists and map in one answer, of one moment.
#[utoipa::path(
    get, path = "/v1/stats/overview", tag = "requests",
    params(
        ("by" = Option<String>, Query, description = "top lists as for /v1/stats/tops; all if absent"),
        ("limit" = Option<usize>, Query, description = "rows of each list but countries, 1 to 1000, 10 if absent"),
        ("step" = Option<String>, Query, description = "width of a bucket from 10s to 52w; chosen if absent"),
        ("since" = Option<String>, Query, description = "RFC 3339, or how long ago: 1h, which is what it is if absent"),
        ("until" = Option<String>, Query, description = "RFC 3339, or how long ago; now if absent"),
        ("compare" = Option<bool>, Query, description = "count the span before, too"),
        ("ip" = Option<String>, Query, description = "conditions: those of GET /v1/requests"),
    ),
    responses((status = 200, body = Answer), (status = 400, body = ProblemBody))
)]
pub(crate) async fn overview(
    state: AppState,
    identity: Extension<Identity>,
    uri: Uri,
    params: Params,
) -> Result<Json<Answer>, Problem> {
    answer(state, identity, uri, params, Wanted { series: true, tops: true, map: true }).await
}

async fn answer(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    mut params: Params,
    wanted: Wanted,
) -> Result<Json<Answer>, Problem> {
    let now = app.clock.now();
    let query = stats_query(&mut params, now, wanted);
    params.finish()?;
    let names_addresses = query.tops.iter().any(|(by, _)| *by == Dimension::Address);
    let is_masked = app.masks(identity.role);
    let query = if is_masked { masked(query) } else { query };
    if names_addresses && !is_masked && app.looks.is_new(&identity.name, now) {
        app.state.audit(looked(identity, "stats.addresses", &uri), now).await?;
    }
    let stats = app.log.stats(&query).await?;
    Ok(Json(view(&query, stats)))
}

/// The question of a viewer: never narrower than what a viewer sees, or counting would tell
/// addresses apart.
fn masked(mut query: StatsQuery) -> StatsQuery {
    query.filter.net = query.filter.net.map(mask::network);
    for (by, _) in &mut query.tops {
        *by = match *by {
            Dimension::Address => Dimension::Network,
            Dimension::Pseudonym => Dimension::PseudonymNetwork,
            other => other,
        };
    }
    // A viewer's list of addresses is the one of networks, which may be asked for already.
    let mut seen = Vec::new();
    query.tops.retain(|(by, _)| {
        let is_new = !seen.contains(by);
        seen.push(*by);
        is_new
    });
    query
}

fn stats_query(params: &mut Params, now: Timestamp, wanted: Wanted) -> StatsQuery {
    let mut filter = record_query(params, now);
    let until = *filter.until.get_or_insert(now);
    let since = *filter
        .since
        .get_or_insert_with(|| until.checked_sub(DEFAULT_SPAN).unwrap_or(Timestamp::MIN));
    if since >= until {
        params.refuse(fault("since", "expected a moment before until"));
    }
    let seconds = until.duration_since(since).as_secs().max(SLOT_SECONDS);
    let compare =
        params.parsed("compare", "true or false", |text| text.parse().ok()).unwrap_or_default();
    let step_slots = if wanted.series { step(params, seconds) } else { 0 };
    let mut tops = Vec::new();
    if wanted.tops {
        let expected = "some of address, network, pseudonym, pseudonym_network, asn, country, path, host, method, status, user_agent, rule, verdict, proxy, with commas between them";
        let by = params.parsed("by", expected, dimensions);
        let limit = params
            .parsed("limit", "a number from 1 to 1000", |text| {
                text.parse().ok().filter(|limit| (1..=MAX_TOP).contains(limit))
            })
            .unwrap_or(ROWS);
        tops.extend(by.unwrap_or(Dimension::ALL.to_vec()).into_iter().map(|by| (by, limit)));
    }
    if wanted.map {
        tops.retain(|(by, _)| *by != Dimension::Country);
        tops.push((Dimension::Country, COUNTRIES));
    }
    StatsQuery { filter, step_slots, tops, compare }
}

/// Width of a bucket in slots.
fn step(params: &mut Params, seconds: i64) -> i64 {
    let expected =
        format!("a duration from 10s to 52w that makes at most {MAX_BUCKETS} buckets such as 5m");
    let given = params.parsed("step", &expected, |text| {
        let step = i64::try_from(ipwarden::duration::parse(text).ok()?.as_secs()).ok()?;
        let fits = (SLOT_SECONDS..=52 * 7 * 86_400).contains(&step) && seconds / step < MAX_BUCKETS;
        fits.then_some(step)
    });
    let step = given.unwrap_or_else(|| {
        let fits = STEPS.into_iter().find(|step| seconds / step <= BUCKETS);
        fits.unwrap_or(seconds / BUCKETS)
    });
    step.div_euclid(SLOT_SECONDS).max(1)
}

fn dimensions(text: &str) -> Option<Vec<Dimension>> {
    let mut found: Vec<Dimension> = Vec::new();
    for word in text.split(',') {
        let dimension = Dimension::from_word(word.trim())?;
        if !found.contains(&dimension) {
            found.push(dimension);
        }
    }
    Some(found)
}

fn view(query: &StatsQuery, stats: Stats) -> Answer {
    let series = (query.step_slots > 0).then(|| Series {
        step_seconds: query.step_slots * SLOT_SECONDS,
        verdicts: by_verdict(&stats.total, |verdict| {
            stats
                .series
                .iter()
                .map(|bucket| bucket.verdicts.get(verdict).copied().unwrap_or_default())
                .collect()
        }),
        before: query.compare.then(|| stats.series_before.iter().map(Totals::requests).collect()),
    });
    let list = |top: crate::store::stats::Top| List {
        distinct: top.distinct,
        approximate: top.approximate,
        rows: top
            .rows
            .into_iter()
            .map(|row| Row {
                key: row.key,
                requests: row.requests,
                refused: row.refused,
                before: row.before,
            })
            .collect(),
    };
    Answer {
        since: slot_start(stats.first_slot),
        until: slot_start(stats.end_slot),
        total: counts(&stats.total),
        before: stats.before.as_ref().map(counts),
        series,
        tops: query
            .tops
            .iter()
            .zip(stats.tops)
            .map(|((by, _), top)| (by.as_str(), list(top)))
            .collect(),
    }
}

fn counts(totals: &Totals) -> Counts {
    let refused = Verdict::ALL.into_iter().filter(|verdict| verdict.is_refusal());
    Counts {
        requests: totals.requests(),
        refused: refused
            .filter_map(|verdict| totals.verdicts.get(verdict as usize))
            .fold(0, |sum, count| sum.saturating_add(*count)),
        verdicts: by_verdict(totals, |verdict| {
            totals.verdicts.get(verdict).copied().unwrap_or_default()
        }),
    }
}

/// Something for each verdict that occurs.
fn by_verdict<T>(totals: &Totals, of: impl Fn(usize) -> T) -> BTreeMap<&'static str, T> {
    Verdict::ALL
        .into_iter()
        .filter(|verdict| totals.verdicts.get(*verdict as usize).is_some_and(|count| *count > 0))
        .map(|verdict| (verdict.as_str(), of(verdict as usize)))
        .collect()
}

/// Who looked at addresses through statistics, and when: a dashboard asks every few seconds, and
/// the audit log shall say who looked, not how often.
#[derive(Debug, Default)]
pub struct Looks(Mutex<HashMap<String, Timestamp>>);

impl Looks {
    /// Whether a look is to be noted; it counts as noted then.
    #[must_use]
    pub fn is_new(&self, actor: &str, now: Timestamp) -> bool {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &Timestamp| now.duration_since(*at) < LOOK_AGAIN;
        if looks.get(actor).is_some_and(recent) {
            return false;
        }
        if looks.len() >= MAX_LOOKS {
            looks.retain(|_, at| recent(at));
        }
        if looks.len() < MAX_LOOKS {
            looks.insert(actor.to_owned(), now);
        }
        true
    }
}

impl App {
    /// A search as a role may make it.
    pub(crate) fn masked_net(
        &self,
        identity: &Identity,
        net: Option<ipnet::IpNet>,
    ) -> Option<ipnet::IpNet> {
        if self.masks(identity.role) { net.map(mask::network) } else { net }
    }
}
