//! `/v1/feeds`: lists that are fetched from elsewhere.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, json};
use crate::auth::Identity;
use crate::config::duration_words;
use crate::feeds::definition::{Definition, Format, check_name};
use crate::feeds::keeper::{Feed, FeedError};
use crate::feeds::status::{LeftOut, Overlap};
use crate::model::Action;

/// All feeds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedList {
    /// By name.
    pub feeds: Vec<FeedView>,
}

/// How a feed is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeedState {
    /// Not fetched yet.
    New,
    /// Its list is in force.
    Ok,
    /// The newest list is not taken, the last good one is in force.
    Withheld,
    /// It can't be fetched, the last good list is in force.
    Failing,
    /// It was not heard of for so long that its decisions have ended.
    Stale,
}

/// A feed and what became of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedView {
    /// Its name; its decisions have the origin `feed:<name>`.
    pub name: String,
    /// How it is doing.
    pub state: FeedState,
    /// Where it is fetched; values of a query are not shown.
    pub location: String,
    /// How it is read.
    pub format: Format,
    /// What its decisions do.
    pub action: Action,
    /// How often it is fetched.
    #[schema(example = "1h")]
    pub every: String,
    /// Its decisions end when it was not heard of for so long.
    #[schema(example = "7d")]
    pub stale_after: String,
    /// Whether a signature is asked for.
    pub signed: bool,
    /// Whether private addresses may be asked.
    pub private_addresses: bool,
    /// Whether private and reserved networks are taken.
    pub include_reserved: bool,
    /// When it was made, or made anew.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Decisions in force.
    pub entries: u64,
    /// When it was tried last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked_at: Option<Timestamp>,
    /// When its publisher last said what it holds, changed or not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub succeeded_at: Option<Timestamp>,
    /// When its decisions changed last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub changed_at: Option<Timestamp>,
    /// When it will be tried next.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Timestamp>,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// Why the last one did.
    pub problem: Option<String>,
    /// Why the newest list was not taken.
    pub withheld: Option<String>,
    /// What of the list was not taken.
    pub left_out: LeftOut,
    /// The first items that name no target.
    pub samples: Vec<String>,
    /// Entries that allows take the effect from, in whole or in part.
    pub overlaps: u64,
    /// The first 20 of them.
    pub overlap_samples: Vec<Overlap>,
    /// Whose work it is.
    pub attribution: Option<String>,
}

fn view(feed: Feed, now: Timestamp) -> FeedView {
    let Feed { name, created_at, definition, status } = feed;
    // It was checked when it was made; a bound that grew since then must not hide it.
    let (every, stale_after) = definition
        .check()
        .map_or_else(|_| (None, None), |checked| (Some(checked.every), Some(checked.stale_after)));
    let ends = status.succeeded_at.zip(stale_after).and_then(|(at, by)| at.checked_add(by).ok());
    let state = if ends.is_some_and(|ends| ends <= now) {
        FeedState::Stale
    } else if status.withheld.is_some() {
        FeedState::Withheld
    } else if status.failures > 0 {
        FeedState::Failing
    } else if status.succeeded_at.is_none() {
        FeedState::New
    } else {
        FeedState::Ok
    };
    let words =
        |duration: Option<std::time::Duration>| duration.map(duration_words).unwrap_or_default();
    FeedView {
        name,
        state,
        location: definition.shown_location(),
        format: definition.format,
        action: definition.action,
        every: words(every),
        stale_after: words(stale_after),
        signed: definition.minisign_key.is_some(),
        private_addresses: definition.private_addresses,
        include_reserved: definition.include_reserved,
        created_at,
        entries: status.size.entries,
        checked_at: status.checked_at,
        succeeded_at: status.succeeded_at,
        changed_at: status.changed_at,
        next_at: status.next_at,
        failures: status.failures,
        problem: status.problem,
        withheld: status.withheld,
        left_out: status.left_out,
        samples: status.samples,
        overlaps: status.overlaps,
        overlap_samples: status.overlap_samples,
        attribution: status.attribution.or(definition.attribution),
    }
}

impl From<FeedError> for Problem {
    fn from(error: FeedError) -> Self {
        let detail = error.to_string();
        match error {
            FeedError::Store(error) => error.into(),
            FeedError::Change(error) => error.into(),
            FeedError::Missing => Self::new(StatusCode::NOT_FOUND, detail),
            FeedError::Exists | FeedError::TooMany | FeedError::NothingWithheld => {
                Self::new(StatusCode::CONFLICT, detail)
            }
            FeedError::Definition(faults) => Self::unacceptable(faults),
            FeedError::TooSoon(seconds) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, detail).after(seconds)
            }
        }
    }
}

/// Lists feeds and how they are doing.
#[utoipa::path(get, path = "/v1/feeds", tag = "feeds", responses((status = 200, body = FeedList)))]
pub(crate) async fn list(State(app): AppState, params: Params) -> Result<Json<FeedList>, Problem> {
    params.finish()?;
    let (feeds, now) = (app.feeds.list().await?, app.clock.now());
    Ok(Json(FeedList { feeds: feeds.into_iter().map(|feed| view(feed, now)).collect() }))
}

/// Shows a feed.
#[utoipa::path(
    get, path = "/v1/feeds/{name}", tag = "feeds",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = FeedView), (status = 404, body = ProblemBody))
)]
pub(crate) async fn show(
    State(app): AppState,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<FeedView>, Problem> {
    params.finish()?;
    Ok(Json(view(app.feeds.get(&name).await?, app.clock.now())))
}

/// Adds a feed. It is fetched soon; `POST /v1/feeds/{name}/refresh` fetches it at once.
#[utoipa::path(
    put, path = "/v1/feeds/{name}", tag = "feeds", request_body = Definition,
    params(
        ("name" = String, Path, description = "its name: letters, digits, '-', '_' and '.'"),
        ("replace" = Option<bool>, Query, description = "whether one of that name is made anew; its decisions stay until it is fetched"),
    ),
    responses(
        (status = 200, body = FeedView),
        (status = 409, body = ProblemBody, description = "there is one of that name, or there are too many"),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn put(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FeedView>, Problem> {
    let replace = params.parsed("replace", "true or false", |text| text.parse().ok());
    params.finish()?;
    let definition: Definition = json(&headers, body).await?;
    check_name(&name).map_err(|fault| Problem::unacceptable(vec![fault]))?;
    let feed = app.feeds.put(&name, &definition, replace.unwrap_or(false), &identity.name).await?;
    Ok(Json(view(feed, app.clock.now())))
}

/// What was removed with a feed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedRemoved {
    /// Its name.
    pub name: String,
    /// Decisions that are gone with it.
    pub decisions: u64,
}

/// Removes a feed and all its decisions.
#[utoipa::path(
    delete, path = "/v1/feeds/{name}", tag = "feeds",
    params(("name" = String, Path, description = "its name")),
    responses((status = 200, body = FeedRemoved), (status = 404, body = ProblemBody))
)]
pub(crate) async fn remove(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<FeedRemoved>, Problem> {
    params.finish()?;
    let decisions = app.feeds.remove(&name, &identity.name).await?;
    Ok(Json(FeedRemoved { name, decisions }))
}

/// Fetches a feed now and says what became of it: a problem of the publisher's is no error here.
#[utoipa::path(
    post, path = "/v1/feeds/{name}/refresh", tag = "feeds",
    params(
        ("name" = String, Path, description = "its name"),
        ("accept" = Option<bool>, Query, description = "takes the list that is withheld"),
    ),
    responses(
        (status = 200, body = FeedView),
        (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody, description = "no list is withheld"),
        (status = 429, body = ProblemBody, description = "its publisher wants to be asked no more often"),
    )
)]
pub(crate) async fn refresh(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    mut params: Params,
) -> Result<Json<FeedView>, Problem> {
    let accept = params.parsed("accept", "true or false", |text| text.parse().ok());
    params.finish()?;
    let feed = app.feeds.refresh(&name, accept.unwrap_or(false), &identity.name).await?;
    Ok(Json(view(feed, app.clock.now())))
}
