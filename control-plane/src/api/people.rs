//! `/v1/retention`, `/v1/keys`, `/v1/pseudonyms`, `/v1/subjects`: what is kept of people, and
//! what they may ask for.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use ipwarden::privacy::AddressForm;
use ipwarden::privacy::KeyId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, fault, json, json_or_default};
use crate::app::uncancelled;
use crate::auth::Identity;
use crate::privacy::keys::{KeyInfo, KeysError, parse_pseudonym};
use crate::privacy::retention::{RetentionError, RetentionStatus};
use crate::privacy::subjects::{SubjectErased, SubjectError, SubjectExport, parse_cursor};
use crate::store::aging::Due;
use crate::store::{NewAudit, RecordQuery, StoreError};

/// Most records on a page of an export.
pub const MAX_SUBJECT_PAGE: usize = 10_000;
/// Longest reason in characters.
const REASON_CHARS: usize = 500;

/// What retention does, is doing and did last.
#[utoipa::path(
    get, path = "/v1/retention", tag = "privacy",
    responses((status = 200, body = RetentionStatus))
)]
pub(crate) async fn retention(
    State(app): AppState,
    params: Params,
) -> Result<Json<RetentionStatus>, Problem> {
    params.finish()?;
    Ok(Json(app.retention.status()))
}

/// How to run retention.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionRequest {
    /// Only say what it would do.
    #[serde(default)]
    dry_run: bool,
}

/// What a run would do, or that it was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetentionAnswer {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The moment that ages count from.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// What it would do; of a dry run only.
    pub due: Option<Due>,
    /// The settings, the run under way and the last one.
    pub status: RetentionStatus,
}

/// Runs retention now, or says what it would do. A run is only begun: `GET /v1/retention` says
/// how far it is.
#[utoipa::path(
    post, path = "/v1/retention/run", tag = "privacy", request_body = RetentionRequest,
    responses(
        (status = 200, body = RetentionAnswer, description = "a dry run"),
        (status = 202, body = RetentionAnswer, description = "the run begins"),
        (status = 400, body = ProblemBody),
    )
)]
pub(crate) async fn run(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<RetentionAnswer>), Problem> {
    params.finish()?;
    let request: RetentionRequest = json_or_default(&headers, body).await?;
    let now = app.clock.now();
    let (status, due) = if request.dry_run {
        (StatusCode::OK, Some(app.retention.due().await?))
    } else {
        let audit = NewAudit {
            actor: identity.name,
            action: "retention.run",
            subject: "everything".to_owned(),
            detail: String::new(),
        };
        app.state.audit(audit, now).await?;
        app.retention.ask();
        (StatusCode::ACCEPTED, None)
    };
    let dry_run = request.dry_run;
    let answer = RetentionAnswer { dry_run, now, due, status: app.retention.status() };
    Ok((status, Json(answer)))
}

/// All keys, without the keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// The current one first.
    pub keys: Vec<KeyInfo>,
}

/// Lists the keys of pseudonyms: ids and dates.
#[utoipa::path(
    get, path = "/v1/keys", tag = "privacy",
    responses((status = 200, body = KeyList))
)]
pub(crate) async fn keys(State(app): AppState, params: Params) -> Result<Json<KeyList>, Problem> {
    params.finish()?;
    Ok(Json(KeyList { keys: app.keys.list() }))
}

/// Makes a new key: new pseudonyms are made with it. The old one reads its own for
/// `privacy.old_keys_for`, then it is destroyed.
#[utoipa::path(
    post, path = "/v1/keys/rotate", tag = "privacy",
    responses((status = 201, body = KeyList))
)]
pub(crate) async fn rotate(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
) -> Result<(StatusCode, Json<KeyList>), Problem> {
    params.finish()?;
    let now = app.clock.now();
    let keys = app.keys.clone();
    let id = blocking(move || keys.rotate(now)).await?;
    let audit = NewAudit {
        actor: identity.name,
        action: "key.rotate",
        subject: format!("key {id}"),
        detail: "new pseudonyms are made with it".to_owned(),
    };
    app.state.audit(audit, now).await?;
    Ok((StatusCode::CREATED, Json(KeyList { keys: app.keys.list() })))
}

/// Destroys a retired key now: nobody can read its pseudonyms any more.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "privacy",
    params(("id" = String, Path, description = "id of the key, eight hexadecimal digits")),
    responses(
        (status = 200, body = KeyInfo),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody, description = "there is no retired key of that id"),
    )
)]
pub(crate) async fn destroy(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<KeyInfo>, Problem> {
    params.finish()?;
    let id = KeyId::from_hex(&id).ok_or_else(|| {
        Problem::parameters(vec![fault("id", "expected eight hexadecimal digits such as 5ab1c0de")])
    })?;
    let now = app.clock.now();
    let keys = app.keys.clone();
    let gone = blocking(move || keys.destroy(id, now)).await?.ok_or_else(|| {
        let detail = format!(
            "there is no retired key {id}: a current key is replaced first (POST /v1/keys/rotate)"
        );
        Problem::new(StatusCode::NOT_FOUND, detail)
    })?;
    let audit = NewAudit {
        actor: identity.name,
        action: "key.destroy",
        subject: format!("key {id}"),
        detail: String::new(),
    };
    app.state.audit(audit, now).await?;
    Ok(Json(gone))
}

/// What to reveal, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevealRequest {
    /// The pseudonym, with the id of its key behind an @ where known.
    #[schema(example = "100.115.72.131@5ab1c0de")]
    pseudonym: String,
    /// Why somebody needs the address: goes into the audit log.
    reason: String,
}

/// The address behind a pseudonym.
#[derive(Debug, Serialize, ToSchema)]
pub struct Revealed {
    /// The pseudonym.
    #[schema(value_type = String)]
    pub pseudonym: IpAddr,
    /// The id of its key.
    pub key: String,
    /// The address.
    #[schema(value_type = String)]
    pub ip: IpAddr,
}

/// Reads a pseudonym. Who did it, and why, is in the audit log before the answer is given.
#[utoipa::path(
    post, path = "/v1/pseudonyms/reveal", tag = "privacy", request_body = RevealRequest,
    responses(
        (status = 200, body = Revealed),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody, description = "its key is not here"),
        (status = 422, body = ProblemBody),
    )
)]
pub(crate) async fn reveal(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Revealed>, Problem> {
    params.finish()?;
    let request: RevealRequest = json(&headers, body).await?;
    let reason: String = request.reason.trim().chars().take(REASON_CHARS).collect();
    let parsed = parse_pseudonym(request.pseudonym.trim());
    let mut faults = Vec::new();
    if reason.chars().count() < 4 {
        faults.push(fault("reason", "say why the address is needed: it goes into the audit log"));
    }
    let Some((pseudonym, key)) = parsed.filter(|_| faults.is_empty()) else {
        if parsed.is_none() {
            let message = "expected a pseudonym such as 100.115.72.131@5ab1c0de";
            faults.push(fault("pseudonym", message));
        }
        return Err(Problem::unacceptable(faults));
    };
    let key = match key {
        Some(key) => key,
        None => key_of_record(&app, pseudonym).await?,
    };
    let Some(ip) = app.keys.reveal(pseudonym, key) else {
        let detail = format!(
            "the key {key} is not here: it was destroyed, or belongs to a proxy that was configured with a key of its own"
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let audit = NewAudit {
        actor: identity.name,
        action: "pseudonym.reveal",
        subject: format!("{pseudonym}@{key}"),
        detail: reason,
    };
    app.state.audit(audit, app.clock.now()).await?;
    Ok(Json(Revealed { pseudonym, key: key.to_string(), ip }))
}

/// The key under which records hold a pseudonym.
async fn key_of_record(app: &crate::app::App, pseudonym: IpAddr) -> Result<KeyId, Problem> {
    let query = RecordQuery {
        net: Some(ipwarden::address::host_net(pseudonym)),
        form: Some(AddressForm::Pseudonym),
        limit: 1,
        ..RecordQuery::default()
    };
    let found = app.log.search(&query).await?;
    let key = found.first().and_then(|record| KeyId::from_hex(record.key.as_deref()?));
    key.ok_or_else(|| {
        let message = "no record holds it: give the id of its key behind an @, as it was shown";
        Problem::unacceptable(vec![fault("pseudonym", message)])
    })
}

/// Tells everything that is held on an address, also under its pseudonyms. Records come in
/// pages; the rest is on the first one. Each export is in the audit log.
#[utoipa::path(
    get, path = "/v1/subjects/{ip}", tag = "privacy",
    params(
        ("ip" = String, Path, description = "the address"),
        ("limit" = Option<usize>, Query, description = "records, 1 to 10000, 100 if absent"),
        ("before" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = SubjectExport), (status = 400, body = ProblemBody))
)]
pub(crate) async fn export(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(ip): Path<String>,
    mut params: Params,
) -> Result<Json<SubjectExport>, Problem> {
    let limit = params.limit(MAX_SUBJECT_PAGE);
    let cursor = params.parsed("before", "`next` of the page before", parse_cursor);
    params.finish()?;
    let ip = address(&ip)?;
    let now = app.clock.now();
    let export = app.subjects.export(ip, cursor, limit, now).await?;
    if cursor.is_none() {
        let audit = NewAudit {
            actor: identity.name,
            action: "subject.export",
            subject: ip.to_string(),
            detail: String::new(),
        };
        app.state.audit(audit, now).await?;
    }
    Ok(Json(export))
}

/// Erases an address: records, counts, suspects, decisions, and every mention of it, the audit
/// log included. The answer says what was left and why.
#[utoipa::path(
    delete, path = "/v1/subjects/{ip}", tag = "privacy",
    params(("ip" = String, Path, description = "the address")),
    responses((status = 200, body = SubjectErased), (status = 400, body = ProblemBody))
)]
pub(crate) async fn erase(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(ip): Path<String>,
    params: Params,
) -> Result<Json<SubjectErased>, Problem> {
    params.finish()?;
    let ip = address(&ip)?;
    let erased =
        uncancelled(async move { app.subjects.erase(ip, identity.name, app.clock.now()).await });
    Ok(Json(erased.await?))
}

/// The text is not repeated: it may be an address with a slip in it.
fn address(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map(ipwarden::address::fold).map_err(|_| {
        let message = "expected an address such as 203.0.113.7 or 2001:db8::7";
        Problem::parameters(vec![fault("ip", message)])
    })
}

/// Work on files, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeysError> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(StoreError::from)??)
}

impl From<KeysError> for Problem {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::TooMany => Self::new(StatusCode::CONFLICT, error.to_string()),
            error => Self::internal(error),
        }
    }
}

impl From<SubjectError> for Problem {
    fn from(error: SubjectError) -> Self {
        match error {
            SubjectError::Store(error) => error.into(),
            SubjectError::Change(error) => error.into(),
            SubjectError::Retention(RetentionError::Store(error)) => error.into(),
            SubjectError::Retention(RetentionError::Stopping) => {
                Self::busy("the service stops: erase again, it does what is missing", 5)
            }
            SubjectError::Retention(error) => Self::internal(error),
        }
    }
}
