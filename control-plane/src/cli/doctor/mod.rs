//! `ipwarden doctor`: what is wrong, and how to mend each.
//!
//! Facts are gathered by asking the service, Envoy's admin interface and the file system;
//! they are judged by the pure functions of `judge` and `envoy`. A question that can't
//! be asked is skipped and said to be, never passed over.

mod envoy;
mod judge;
mod local;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::client::Client;
use super::error::{CliError, EXIT_REFUSED, EXIT_UNREACHABLE, Result};
use super::output::{BAD, FAINT, Format, GOOD, STRONG, Session, WARN};
use super::place::{DATA_DIR, Place};
use super::replies::{Proxies, Status};
use super::text::{clean, counted};

/// Where Envoy's admin interface usually is.
const DEFAULT_ENVOY_ADMIN: &str = "http://127.0.0.1:9901";

/// How often, and how long apart, a proxy that seems to be behind is looked at again.
const SETTLING_LOOKS: u32 = 12;
const SETTLING_PAUSE: Duration = Duration::from_millis(250);

/// What to look at.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Envoy's admin interface [default: the one that the service names, or http://127.0.0.1:9901]
    #[arg(long, value_name = "URL")]
    pub envoy_admin: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// In order.
    Ok,
    /// Works, but somebody should look.
    Warn,
    /// Does not work.
    Fail,
    /// Could not be looked at.
    Skip,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, a stable word.
    pub name: &'static str,
    /// How it ended.
    pub status: Outcome,
    /// What was found.
    pub detail: String,
    /// How to mend it; absent where nothing needs mending.
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Outcome::Ok, detail: detail.into(), mend: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, status: Outcome::Warn, detail: detail.into(), mend: Some(mend.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, status: Outcome::Fail, detail: detail.into(), mend: Some(mend.into()) }
    }

    fn skip(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Outcome::Skip, detail: detail.into(), mend: None }
    }
}

/// The document of `-o json`.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    url: String,
    data_dir: String,
    version: &'static str,
    checks: Vec<Check>,
}

/// Runs `doctor`.
///
/// # Errors
/// [`CliError::Usage`] for URLs that are none; [`CliError::Exit`] when a check fails or the
/// service can't be reached.
pub async fn run(
    session: &mut Session,
    place: &Place,
    here: &Path,
    args: &DoctorArgs,
) -> Result<()> {
    let client = Client::new(place, here)?;
    let mut checks = Vec::new();
    let (status, reached) = service(session, &client, &mut checks).await;
    let data_dir = match &status {
        Some(status) => here.join(&status.data_dir),
        None => place.data_dir(here).unwrap_or_else(|| here.join(DATA_DIR)),
    };
    checks.push(local::data_dir(&data_dir, client.is_local()));
    let (admin, named) = match (&args.envoy_admin, &status) {
        (Some(url), _) => (url.clone(), true),
        (None, Some(Status { envoy_admin: Some(url), .. })) => (url.clone(), true),
        (None, _) => (DEFAULT_ENVOY_ADMIN.to_owned(), false),
    };
    let revision = status.as_ref().map(|status| status.revision);
    checks.extend(envoy::look(&admin, named, revision, session.now()).await?);
    let failed = checks.iter().any(|check| check.status == Outcome::Fail);
    let report = Report {
        ok: !failed,
        url: client.url(),
        data_dir: data_dir.display().to_string(),
        version: ipwarden::VERSION,
        checks,
    };
    told(session, &report)?;
    match (reached, failed) {
        (false, _) => Err(CliError::Exit(EXIT_UNREACHABLE)),
        (true, true) => Err(CliError::Exit(EXIT_REFUSED)),
        (true, false) => Ok(()),
    }
}

/// Everything that the service itself can tell. Returns its status, and whether it answered.
async fn service(
    session: &Session,
    client: &Client,
    checks: &mut Vec<Check>,
) -> (Option<Status>, bool) {
    let asked_at = session.now();
    let answer = client.status().await;
    let answered_at = session.now();
    let status = match answer {
        Ok(status) => status,
        Err(CliError::Refused { status: refused @ (401 | 403), message, .. }) => {
            checks.push(Check::ok("service", format!("answers at {}", client.url())));
            checks.push(judge::refused_token(refused, &message));
            for name in [
                "version",
                "clock",
                "disk",
                "ingest",
                "detection",
                "retention",
                "notify",
                "geo",
                "proxies",
            ] {
                checks.push(Check::skip(name, "needs a token that may read"));
            }
            return (None, true);
        }
        Err(error) => {
            let reached = !matches!(error, CliError::Unreachable { .. });
            let mend = if reached {
                "see what the service logs"
            } else {
                "start it with `ipwarden serve`, or name another with --url or IPWARDEN_URL"
            };
            checks.push(Check::fail("service", error.to_string(), mend));
            for name in [
                "token",
                "version",
                "clock",
                "disk",
                "ingest",
                "detection",
                "retention",
                "notify",
                "geo",
                "proxies",
            ] {
                checks.push(Check::skip(name, "the service does not answer"));
            }
            return (None, reached);
        }
    };
    checks.push(Check::ok("service", format!("answers at {}", client.url())));
    checks.push(judge::token(client, client.tokens().await.err()));
    checks.push(judge::version(&status.version));
    checks.push(judge::clock(status.now, asked_at, answered_at));
    checks.push(judge::disk(&status));
    checks.push(judge::ingest(&status));
    checks.push(judge::detection(&status));
    checks.push(judge::retention(&status));
    match client.hooks().await {
        Ok(found) => checks.extend(judge::hooks(&found.hooks, answered_at)),
        // A service of a version without them.
        Err(error) => checks.push(Check::skip("notify", error.to_string())),
    }
    match client.feeds().await {
        Ok(found) => checks.extend(judge::feeds(&found.feeds)),
        Err(error) => checks.push(Check::skip("feeds", error.to_string())),
    }
    checks.extend(judge::geo(&status));
    match settled_fleet(client).await {
        Ok(fleet) => checks.extend(judge::proxies(&fleet.proxies, answered_at)),
        Err(error) => {
            checks.push(Check::fail("proxies", error.to_string(), "see what the service logs"))
        }
    }
    (Some(status), true)
}

/// The fleet. A worker says which revision it has applied up to a second after it did, so a
/// proxy that seems to be behind is looked at again for a moment.
async fn settled_fleet(client: &Client) -> Result<Proxies> {
    let mut left = SETTLING_LOOKS;
    loop {
        let fleet = client.proxies().await?;
        if left == 0 || fleet.proxies.iter().all(|proxy| proxy.revision_lag == 0) {
            return Ok(fleet);
        }
        left -= 1;
        tokio::time::sleep(SETTLING_PAUSE).await;
    }
}

fn told(session: &mut Session, report: &Report) -> Result<()> {
    match session.format {
        Format::Json => session.json(report),
        Format::Raw => report.checks.iter().try_for_each(|check| {
            let status = match check.status {
                Outcome::Ok => "ok",
                Outcome::Warn => "warn",
                Outcome::Fail => "fail",
                Outcome::Skip => "skip",
            };
            session.raw(&[check.name, status, &check.detail, check.mend.as_deref().unwrap_or("")])
        }),
        Format::Human => {
            session.say(format!("data directory {STRONG}{}{STRONG:#}", clean(&report.data_dir)))?;
            for check in &report.checks {
                let (style, word) = match check.status {
                    Outcome::Ok => (GOOD, "ok"),
                    Outcome::Warn => (WARN, "warn"),
                    Outcome::Fail => (BAD, "FAIL"),
                    Outcome::Skip => (FAINT, "skip"),
                };
                session.say(format!(
                    "  {style}{word:<4}{style:#}  {:<11} {}",
                    check.name,
                    clean(&check.detail)
                ))?;
                if let Some(mend) = &check.mend {
                    session.say(format!(
                        "        {:<11} {STRONG}→{STRONG:#} {}",
                        "",
                        clean(mend)
                    ))?;
                }
            }
            session.say(summary(&report.checks))
        }
    }
}

fn summary(checks: &[Check]) -> String {
    let of = |status| checks.iter().filter(|check| check.status == status).count() as u64;
    let (fails, warns, skips) = (of(Outcome::Fail), of(Outcome::Warn), of(Outcome::Skip));
    let skipped = if skips > 0 {
        format!(", {} skipped", counted(skips, "check", "checks"))
    } else {
        String::new()
    };
    match (fails, warns) {
        (0, 0) => format!("{GOOD}Nothing to mend{GOOD:#}{skipped}."),
        (0, _) => {
            format!("{WARN}{} to look at{WARN:#}{skipped}.", counted(warns, "thing", "things"))
        }
        (_, 0) => format!("{BAD}{} to mend{BAD:#}{skipped}.", counted(fails, "thing", "things")),
        _ => format!(
            "{BAD}{} to mend{BAD:#}, {warns} to look at{skipped}.",
            counted(fails, "thing", "things")
        ),
    }
}
