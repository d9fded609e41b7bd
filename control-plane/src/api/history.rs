//! `/v1/import`: what another system knew before, stored and not judged.
//!
//! Records come as the filter's batches do, so an import is as idempotent as shipping is: a
//! (stream, number) is stored once. They do not pass the detectors: a burst of last month must
//! block nobody now.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use ipwarden::address::parse_target;
use ipwarden::record::wire;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::requests::{Shipped, read_batch};
use super::{AppState, Params, Problem, ProblemBody, fault, json};
use crate::auth::Identity;
use crate::detect::DETAIL_BYTES;
use crate::store::NewAudit;
use crate::store::text::display_bytes;
use crate::suspects::judge::{Heard, Hearsay};

/// Most suspects in one request.
pub const MAX_SUSPECTS: usize = 1_000;
/// Longest name of a source in bytes.
const SOURCE_BYTES: usize = 64;

/// Stores a batch of past records: as `POST /v1/requests` does, but detectors do not see them.
/// Answered after the durable commit; the same batch twice is stored once.
#[utoipa::path(
    post, path = "/v1/import/requests", tag = "requests",
    request_body(content = Vec<u8>, content_type = "application/vnd.ipwarden.records"),
    responses(
        (status = 200, body = Shipped),
        (status = 400, body = ProblemBody, description = "the batch can't be read: don't send it again"),
        (status = 413, body = ProblemBody),
        (status = 415, body = ProblemBody),
        (status = 503, body = ProblemBody, description = "send it again later"),
    )
)]
pub(crate) async fn requests(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Shipped>, Problem> {
    params.finish()?;
    let body = read_batch(&headers, body).await?;
    let now = app.clock.now();
    let batch = wire::decode(&body).map_err(|error| Problem::bad_request(error.to_string()))?;
    let audit = NewAudit {
        actor: identity.name,
        action: "requests.import",
        subject: display_bytes(batch.header.proxy).into_owned(),
        detail: format!("batch {} of {} records", batch.header.number, batch.records.len()),
    };
    drop(batch);
    app.state.audit(audit, now).await?;
    let accepted = app.ingest.submit_past(body, now).await?;
    Ok(Json(Shipped { stored: accepted.stored, duplicate: accepted.duplicate }))
}

/// What another system said of addresses.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SuspectsImport {
    /// Which system, for the reason: 1 to 64 bytes.
    #[schema(example = "ip_tracking")]
    source: String,
    /// 1 to 1000.
    suspects: Vec<ImportedSuspect>,
    /// Only say what it would do.
    #[serde(default)]
    dry_run: bool,
}

/// One of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedSuspect {
    /// The address.
    #[schema(example = "203.0.113.7")]
    ip: String,
    /// Why, in the other system's words; what is longer than 400 bytes is cut.
    reason: String,
    /// When it was noticed; now if absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    seen_at: Option<Timestamp>,
}

/// What became of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuspectsImported {
    /// Open suspects that are new, or have a reason more.
    pub added: u64,
    /// Whose suspect says the same already.
    pub known: u64,
    /// Of which a person said before that the like is a false alarm.
    pub dismissed: u64,
}

/// Notes suspects of another system for review. The same twice is noted once, and nobody is
/// ever blocked for it without a person's word.
#[utoipa::path(
    post, path = "/v1/import/suspects", tag = "suspects", request_body = SuspectsImport,
    responses(
        (status = 200, body = SuspectsImported),
        (status = 400, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was noted"),
    )
)]
pub(crate) async fn suspects(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SuspectsImported>, Problem> {
    params.finish()?;
    let asked: SuspectsImport = json(&headers, body).await?;
    let now = app.clock.now();
    let mut faults = Vec::new();
    let source = asked.source.trim();
    if source.is_empty() || source.len() > SOURCE_BYTES {
        faults.push(fault("source", format!("expected 1 to {SOURCE_BYTES} bytes")));
    }
    let found = asked.suspects.len();
    if found == 0 || found > MAX_SUSPECTS {
        faults.push(fault("suspects", format!("found {found}: expected 1 to {MAX_SUSPECTS}")));
    }
    let mut heard = Vec::new();
    for (at, suspect) in asked.suspects.iter().enumerate().take(MAX_SUSPECTS) {
        match parse_target(&suspect.ip) {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => heard.push(Hearsay {
                ip: net.addr(),
                detail: detail(source, &suspect.reason),
                // A clock that goes wrong must not keep a suspect the latest for ever.
                seen_at: suspect.seen_at.map_or(now, |seen_at| seen_at.min(now)),
            }),
            Ok(_) => faults.push(fault(
                format!("suspects[{at}].ip"),
                "a network: expected one address such as 203.0.113.7",
            )),
            Err(error) => faults.push(fault(format!("suspects[{at}].ip"), error.to_string())),
        }
    }
    if !faults.is_empty() {
        return Err(Problem::unacceptable(faults));
    }
    let Heard { added, known, dismissed } =
        app.suspects.hear(heard, &app.geo, asked.dry_run, now).await?;
    if added > 0 && !asked.dry_run {
        let audit = NewAudit {
            actor: identity.name,
            action: "suspects.import",
            subject: source.to_owned(),
            detail: format!("{added} added, {known} known, {dismissed} dismissed before"),
        };
        app.state.audit(audit, now).await?;
    }
    Ok(Json(SuspectsImported { added, known, dismissed }))
}

/// The reason in words, within the bound of every reason.
fn detail(source: &str, reason: &str) -> String {
    let said = display_bytes(reason.trim().as_bytes());
    let mut detail = if said.is_empty() {
        format!("{} calls it suspicious", display_bytes(source.as_bytes()))
    } else {
        format!("{}: {said}", display_bytes(source.as_bytes()))
    };
    if detail.len() > DETAIL_BYTES {
        let end = detail.floor_char_boundary(DETAIL_BYTES - '…'.len_utf8());
        detail.truncate(end);
        detail.push('…');
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_its_source_is_safe_to_show_and_bounded() {
        assert_eq!(detail("shop", " many requests\n"), "shop: many requests");
        assert_eq!(detail("shop", ""), "shop calls it suspicious");
        assert_eq!(detail("shop", "\u{1b}[2J"), r"shop: \x1b[2J");
        let long = detail("shop", &"é".repeat(1_000));
        assert!(long.len() <= DETAIL_BYTES && long.ends_with("é…"), "{}", long.len());
    }
}
