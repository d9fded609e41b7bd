//! `POST /v1/decisions/import`: a list of targets as text, all or nothing.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use hashbrown::HashSet;
use ipnet::IpNet;
use ipwarden::address::{display_target, parse_target};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::decisions::{Warning, parse_action, without_effect};
use super::terms::{RawTerms, Terms};
use super::{AppState, Params, Problem, ProblemBody, fault, read_body, summary};
use crate::app::App;
use crate::auth::Identity;
use crate::feeds::overlap::Allows;
use crate::model::Action;
use crate::problem::{Fault, MAX_LISTED};
use crate::store::NewAudit;

/// Most warnings that are listed; the rest are counted.
pub const MAX_WARNINGS: usize = 20;

/// What was imported.
#[derive(Debug, Serialize, ToSchema)]
pub struct Imported {
    /// Number of the decision set after it.
    pub revision: u64,
    /// Decisions made.
    pub added: u64,
    /// Earlier decisions of the same target, action and origin that these replace.
    pub replaced: u64,
    /// Lines that repeat an earlier line's target.
    pub duplicates: u64,
    /// The first 20 that have no effect, and why.
    pub warnings: Vec<Warning>,
    /// How many have no effect.
    pub warnings_total: u64,
}

/// Adds a list: one target a line; `#` starts a comment; blank lines are ignored.
#[utoipa::path(
    post, path = "/v1/decisions/import", tag = "decisions",
    request_body(content = String, content_type = "text/plain", example = "203.0.113.7\n2001:db8::/32 # a comment\n"),
    params(
        ("action" = Action, Query, description = "block or allow"),
        ("reason" = Option<String>, Query, description = "why, for operators only"),
        ("for" = Option<String>, Query, description = "how long: 30s, 4h, 7d"),
        ("expires_at" = Option<String>, Query, description = "until when, RFC 3339"),
        ("origin" = Option<String>, Query, description = "manual if absent"),
    ),
    responses(
        (status = 200, body = Imported),
        (status = 400, body = ProblemBody),
        (status = 413, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was changed; the first 100 bad lines are named"),
    )
)]
pub(crate) async fn import(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Imported>, Problem> {
    let now = app.clock.now();
    let action = params.parsed("action", "block or allow", parse_action);
    let raw = RawTerms {
        reason: params.text("reason").unwrap_or_default(),
        lifetime: params.text("for"),
        expires_at: params.text("expires_at"),
        origin: params.text("origin"),
    };
    let mut faults = Vec::new();
    let terms = raw.check(action.unwrap_or(Action::Block), now, &mut faults);
    faults.into_iter().for_each(|fault| params.refuse(fault));
    params.finish()?;
    let (Some(terms), Some(_)) = (terms, action) else {
        return Err(Problem::parameters(vec![fault("action", "missing: give block or allow")]));
    };
    // A permit is held for as long as the list is in memory.
    let _permit = app.imports.acquire().await.map_err(Problem::internal)?;
    let text = read_body(&headers, body, app.config.limits.import_bytes).await?;
    let most = app.config.limits.import_targets;
    let list = in_background(move || read_list(&text, most)).await??;
    if list.targets.is_empty() {
        return Err(Problem::unacceptable(vec![fault(
            "body",
            "empty: expected at least one target",
        )]));
    }
    let (list, warnings, warnings_total) = find_without_effect(&app, &terms, list, now).await?;
    let audit = NewAudit {
        actor: identity.name,
        action: "decisions.import",
        subject: summary(&list.targets, display_target),
        detail: terms.in_words(),
    };
    let new = list.targets.iter().map(|target| terms.decide(*target)).collect();
    let added = app.hub.add(new, audit, now).await?;
    Ok(Json(Imported {
        revision: added.revision.number,
        added: added.ids.len() as u64,
        replaced: added.replaced.len() as u64,
        duplicates: list.duplicates,
        warnings,
        warnings_total,
    }))
}

/// A list without errors.
#[derive(Debug, PartialEq, Eq)]
struct List {
    /// In order, each once.
    targets: Vec<IpNet>,
    duplicates: u64,
}

fn read_list(text: &[u8], most: usize) -> Result<List, Problem> {
    let mut seen = HashSet::new();
    let mut list = List { targets: Vec::new(), duplicates: 0 };
    let mut faults: Vec<Fault> = Vec::new();
    let mut faults_total = 0;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (n, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            continue;
        }
        let target = match std::str::from_utf8(line) {
            Ok(line) => parse_target(line).map_err(|error| error.to_string()),
            Err(_) => Err("not UTF-8: expected an IP address or a CIDR".to_owned()),
        };
        match target {
            Ok(target) if seen.insert(target) => list.targets.push(target),
            Ok(_) => list.duplicates += 1,
            Err(message) => {
                faults_total += 1;
                if faults.len() < MAX_LISTED {
                    faults.push(fault(format!("line {}", n + 1), message));
                }
            }
        }
        if list.targets.len() > most {
            let message = format!("more than {most} targets: split the list");
            return Err(Problem::unacceptable(vec![fault("body", message)]));
        }
    }
    if faults.is_empty() {
        Ok(list)
    } else {
        Err(Problem::unacceptable(faults).listed(faults_total))
    }
}

/// Which new blocks an allow covers: the first few, and how many.
async fn find_without_effect(
    app: &App,
    terms: &Terms,
    list: List,
    now: Timestamp,
) -> Result<(List, Vec<Warning>, u64), Problem> {
    if terms.action == Action::Allow {
        return Ok((list, Vec::new(), 0));
    }
    let allows = Allows::load(app.state.as_ref(), now).await?;
    in_background(move || {
        let mut warnings = Vec::new();
        let mut total = 0;
        for target in &list.targets {
            if let Some(allow) = allows.covering(target) {
                total += 1;
                if warnings.len() < MAX_WARNINGS {
                    warnings.push(without_effect(target, allow.clone()));
                }
            }
        }
        (list, warnings, total)
    })
    .await
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_repeats_are_folded() {
        let text = b"\xef\xbb\xbf# a list\r\n203.0.113.7\r\n\n::ffff:203.0.113.7 # mapped\n 10.0.0.0/8\t\n";
        let list = read_list(text, 10).unwrap();
        let targets: Vec<String> = list.targets.iter().map(display_target).collect();
        assert_eq!(
            (targets, list.duplicates),
            (vec!["203.0.113.7".into(), "10.0.0.0/8".into()], 1)
        );
    }
}
