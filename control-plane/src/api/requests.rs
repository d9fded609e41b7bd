//! `/v1/requests`: batches in, records out.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::Stream;
use ipwarden::address::parse_target;
use ipwarden::privacy::AddressForm;
use ipwarden::record::Verdict;
use ipwarden::record::wire::{self, DecodeError};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, dialect, read_body};
use crate::auth::Identity;
use crate::geo::Country;
use crate::ingest::IngestError;
use crate::live::{Seen, Subscription};
use crate::model::StoredRecord;
use crate::store::{NewAudit, RecordQuery, StatusFilter, StoreError};

/// Most records on a page.
pub const MAX_RECORDS_PAGE: usize = 10_000;
/// A live stream says something at least this often.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Longest query that the audit log repeats.
const AUDITED_QUERY_BYTES: usize = 1_000;

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct Shipped {
    /// Records that were stored now.
    pub stored: u64,
    /// Whether the same batch had been stored before.
    pub duplicate: bool,
}

/// Stores a batch of records. Answered after the durable commit; the same batch twice is
/// stored once.
#[utoipa::path(
    post, path = "/v1/requests", tag = "proxies",
    request_body(content = Vec<u8>, content_type = "application/vnd.ipwarden.records"),
    responses(
        (status = 200, body = Shipped),
        (status = 400, body = ProblemBody, description = "the batch can't be read: don't send it again"),
        (status = 413, body = ProblemBody),
        (status = 415, body = ProblemBody, description = "another type, or a version that is not known here: send it again after an update"),
        (status = 503, body = ProblemBody, description = "send it again later"),
    )
)]
pub(crate) async fn ship(
    State(app): AppState,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Shipped>, Problem> {
    params.finish()?;
    let body = read_batch(&headers, body).await?;
    let accepted = app.ingest.submit(body, app.clock.now()).await?;
    Ok(Json(Shipped { stored: accepted.stored, duplicate: accepted.duplicate }))
}

/// The body of a message with records.
pub(super) async fn read_batch(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    dialect::check_content(headers, wire::CONTENT_TYPE, wire::VERSION)?;
    read_body(headers, body, wire::MAX_BATCH_BYTES).await
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        match error {
            // Whoever sends it may keep it until this service is updated.
            IngestError::Undecodable(error @ DecodeError::Version { .. }) => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.to_string())
            }
            IngestError::Undecodable(error) => Self::bad_request(error.to_string()),
            IngestError::QueueFull => Self::busy("too many batches wait for the store", 1),
            IngestError::Stopping => Self::busy("the service stops", 1),
            // Logged once for all batches of a commit, by the writer.
            IngestError::Store(StoreError::Unavailable(_)) => {
                Self::busy("the store is unavailable for the moment: send it again", 1)
            }
            // Whatever it is, the filter shall keep the batch.
            IngestError::Store(_) => Self::busy("the store failed: send it again", 5),
        }
    }
}

/// A page of records.
#[derive(Debug, Serialize, ToSchema)]
pub struct RecordPage {
    /// Newest first.
    pub records: Vec<StoredRecord>,
    /// Give this as `before` for the next page; absent on the last.
    pub next: Option<i64>,
}

/// Finds records, newest first. Each search is in the audit log.
#[utoipa::path(
    get, path = "/v1/requests", tag = "requests",
    params(
        ("ip" = Option<String>, Query, description = "address or CIDR; pseudonyms are looked at with form=pseudonym only"),
        ("form" = Option<String>, Query, description = "what the address is: full, truncated or pseudonym"),
        ("path" = Option<String>, Query, description = "start of the path"),
        ("host" = Option<String>, Query),
        ("method" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "404 or 4xx"),
        ("verdict" = Option<String>, Query, description = "some of admitted, blocked, limited, shadow, unready, redirected, unseen, with commas between them"),
        ("country" = Option<String>, Query, description = "two letters: FR"),
        ("asn" = Option<u32>, Query, description = "number of the autonomous system"),
        ("user_agent" = Option<String>, Query, description = "exactly"),
        ("rule" = Option<String>, Query, description = "name of a limit or rule"),
        ("proxy" = Option<String>, Query),
        ("since" = Option<String>, Query, description = "RFC 3339, or how long ago: 1h"),
        ("until" = Option<String>, Query, description = "RFC 3339, or how long ago"),
        ("limit" = Option<usize>, Query, description = "1 to 10000, 100 if absent"),
        ("before" = Option<i64>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = RecordPage), (status = 400, body = ProblemBody))
)]
pub(crate) async fn search(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    mut params: Params,
) -> Result<Json<RecordPage>, Problem> {
    let now = app.clock.now();
    let mut query = record_query(&mut params, now);
    query.net = app.masked_net(&identity, query.net);
    query.before = params.before();
    let limit = params.limit(MAX_RECORDS_PAGE);
    params.finish()?;
    app.state.audit(looked(identity, "requests.search", &uri), now).await?;
    query.limit = limit + 1;
    let mut records = app.log.search(&query).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().map(|record| record.id).filter(|_| more);
    Ok(Json(RecordPage { records, next }))
}

/// Follows records as they are stored: server-sent events `record` (a record) and `lagged`
/// (`{"missed": n}` when the reader was too slow for n records).
#[utoipa::path(
    get, path = "/v1/requests/live", tag = "requests",
    params(
        ("ip" = Option<String>, Query, description = "address or CIDR; pseudonyms are looked at with form=pseudonym only"),
        ("form" = Option<String>, Query, description = "what the address is: full, truncated or pseudonym"),
        ("path" = Option<String>, Query, description = "start of the path"),
        ("host" = Option<String>, Query),
        ("method" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "404 or 4xx"),
        ("verdict" = Option<String>, Query, description = "words with commas between them"),
        ("country" = Option<String>, Query, description = "two letters: FR"),
        ("asn" = Option<u32>, Query, description = "number of the autonomous system"),
        ("user_agent" = Option<String>, Query, description = "exactly"),
        ("rule" = Option<String>, Query, description = "name of a limit or rule"),
        ("proxy" = Option<String>, Query),
        ("since" = Option<String>, Query, description = "RFC 3339, or how long ago: 1h"),
        ("until" = Option<String>, Query, description = "RFC 3339, or how long ago"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = StoredRecord),
        (status = 400, body = ProblemBody),
        (status = 503, body = ProblemBody, description = "too many watch"),
    )
)]
pub(crate) async fn live(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    mut params: Params,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, Problem> {
    let now = app.clock.now();
    let mut query = record_query(&mut params, now);
    params.finish()?;
    query.net = app.masked_net(&identity, query.net);
    let subscription = app
        .live
        .subscribe()
        .ok_or_else(|| Problem::busy("too many watch the live stream: see limits.live", 10))?;
    app.state.audit(looked(identity, "requests.live", &uri), now).await?;
    let hub = app.hub.clone();
    let events = futures_util::stream::unfold(
        (subscription, query, hub),
        |(mut subscription, query, hub)| async move {
            let event = tokio::select! {
                event = next_event(&mut subscription, &query) => event?,
                () = hub.stopping() => return None,
            };
            Some((Ok(event), (subscription, query, hub)))
        },
    );
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

async fn next_event(subscription: &mut Subscription, query: &RecordQuery) -> Option<Event> {
    loop {
        match subscription.next().await? {
            Seen::Record(record) if query.matches(&record) => {
                // Our own types always serialise; were one not to, the stream would end.
                return Event::default().event("record").json_data(&*record).ok();
            }
            Seen::Record(_) => {}
            Seen::Missed(missed) => {
                let data = serde_json::json!({ "missed": missed });
                return Event::default().event("lagged").json_data(data).ok();
            }
        }
    }
}

/// The conditions that search and live stream share.
pub(super) fn record_query(params: &mut Params, now: Timestamp) -> RecordQuery {
    let moment = "RFC 3339 such as 2026-11-22T16:00:00Z, or how long ago such as 1h";
    RecordQuery {
        net: params.checked("ip", parse_target),
        form: params.parsed("form", "full, truncated or pseudonym", AddressForm::from_word),
        path_prefix: params.text("path"),
        host: params.text("host"),
        method: params.text("method"),
        status: params.parsed("status", "a status such as 404, or a class such as 4xx", parse_status),
        verdicts: params
            .parsed("verdict", "some of admitted, blocked, limited, shadow, unready, redirected, unseen, with commas between them", parse_verdicts)
            .unwrap_or_default(),
        country: params.parsed("country", "a country's code of two letters such as FR", Country::new),
        asn: params.parsed("asn", "the number of an autonomous system such as 3215", parse_asn),
        user_agent: params.text("user_agent"),
        rule: params.text("rule"),
        proxy: params.text("proxy"),
        since: params.parsed("since", moment, |text| parse_moment(text, now)),
        until: params.parsed("until", moment, |text| parse_moment(text, now)),
        before: None,
        limit: 0,
    }
}

fn parse_status(text: &str) -> Option<StatusFilter> {
    if let Some(class) = text.strip_suffix("xx") {
        let class = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some(StatusFilter::Class(class));
    }
    // 0 is what a request without a response has.
    text.parse().ok().filter(|code| *code < 1_000).map(StatusFilter::Code)
}

fn parse_asn(text: &str) -> Option<u32> {
    text.strip_prefix("AS").unwrap_or(text).parse().ok()
}

fn parse_verdicts(text: &str) -> Option<Vec<Verdict>> {
    text.split(',').map(|word| Verdict::from_word(word.trim())).collect()
}

fn parse_moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(ago) = ipwarden::duration::parse(text) {
        return now.checked_sub(SignedDuration::try_from(ago).ok()?).ok();
    }
    text.parse().ok()
}

/// Who looked at raw addresses, with the conditions as they were given.
pub(super) fn looked(identity: Identity, action: &'static str, uri: &Uri) -> NewAudit {
    let query = uri.query().unwrap_or_default();
    let subject: String = query.chars().take(AUDITED_QUERY_BYTES).collect();
    let subject = if subject.is_empty() { "everything".to_owned() } else { subject };
    NewAudit { actor: identity.name, action, subject, detail: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_codes_or_classes() {
        assert_eq!(parse_status("404"), Some(StatusFilter::Code(404)));
        assert_eq!(parse_status("0"), Some(StatusFilter::Code(0)));
        assert_eq!(parse_status("4xx"), Some(StatusFilter::Class(4)));
        for bad in ["", "xx", "6xx", "0xx", "4xy", "1000", "-1"] {
            assert_eq!(parse_status(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments_are_times_or_how_long_ago() {
        let now: Timestamp = "2026-11-22T16:00:00Z".parse().unwrap();
        let hour_ago = "2026-11-22T15:00:00Z".parse().unwrap();
        assert_eq!(parse_moment("1h", now), Some(hour_ago));
        assert_eq!(parse_moment("2026-11-22T16:00:00+01:00", now), Some(hour_ago));
        assert_eq!(parse_moment("yesterday", now), None);
    }

    #[test]
    fn an_unknown_verdict_refuses_the_whole_list() {
        assert_eq!(
            parse_verdicts("blocked, limited"),
            Some(vec![Verdict::Blocked, Verdict::Limited])
        );
        assert_eq!(parse_verdicts("blocked,banned"), None);
    }
}
