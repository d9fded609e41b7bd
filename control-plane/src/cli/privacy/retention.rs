//! `ipwarden retention`: what is hidden and deleted when, and running it now.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::client::Client;
use crate::cli::error::{CliError, Result};
use crate::cli::output::{Format, GOOD, STRONG, Session};
use crate::cli::progress::Progress;
use crate::cli::replies::RetentionAnswer;
use crate::cli::table::{Grid, cell, fixed, flexible, number};
use crate::cli::text::{bytes, clean, count, relative};
use crate::config::duration_words;
use crate::privacy::retention::{RetentionStatus, Run};
use crate::store::aging::Due;

/// How often it is asked how far a run is.
const LOOK: Duration = Duration::from_millis(250);

/// What about retention.
#[derive(Debug, Clone, Args)]
pub struct RetentionArgs {
    /// What to do; without it: what is in force
    #[command(subcommand)]
    pub command: Option<RetentionCommand>,
}

/// What about retention.
#[derive(Debug, Clone, Subcommand)]
pub enum RetentionCommand {
    /// Hide and delete what is old now, as it happens every hour by itself
    Run(RunArgs),
    /// Say what is in force, and what the last run did
    Show,
}

/// How to run.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden retention run --dry-run
  ipwarden retention run

-o raw: what, how many, after how many seconds.")]
pub struct RunArgs {
    /// Say what it would do, do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs `retention`.
///
/// # Errors
/// Those of the service; [`CliError::Refused`] when a run did not end.
pub async fn run(session: &mut Session, client: &Client, args: &RetentionArgs) -> Result<()> {
    match &args.command {
        None | Some(RetentionCommand::Show) => {
            let status = client.retention().await?;
            show(session, &status)
        }
        Some(RetentionCommand::Run(RunArgs { dry_run: true })) => {
            let answer = client.run_retention(true).await?;
            dry(session, &answer)
        }
        Some(RetentionCommand::Run(_)) => now(session, client).await,
    }
}

fn show(session: &mut Session, status: &RetentionStatus) -> Result<()> {
    if session.format == Format::Json {
        return session.json(status);
    }
    let rows = rules(status);
    if session.format == Format::Raw {
        return rows
            .iter()
            .try_for_each(|(what, seconds, _)| session.raw(&[what, &seconds.to_string()]));
    }
    let mut grid = Grid::new(&[fixed("what"), fixed("after"), flexible("what happens")], "UTC");
    for (what, seconds, happens) in &rows {
        grid.row(vec![cell(what), cell(words(*seconds)), cell(happens)]);
    }
    session.table(grid)?;
    if let Some(most) = status.max_store {
        session.say(format!(
            "Beyond {} the oldest admitted records go before their time.",
            bytes(most)
        ))?;
    }
    match (&status.running, &status.last) {
        (Some(running), _) => session.say(format!("A run is {}.", clean(&running.phase))),
        (None, Some(last)) => {
            let when = relative(last.finished_at, session.now());
            session.say(format!("Last run {when}: {}", sentence(last)))
        }
        (None, None) => session.say("No run since the service started; one is made every hour."),
    }
}

/// What is in force: what, after how many seconds, what happens.
fn rules(status: &RetentionStatus) -> Vec<(&'static str, u64, String)> {
    let hidden = match status.address.as_str() {
        "truncate" => "cut to their network",
        _ => "replaced by pseudonyms",
    };
    vec![
        ("addresses", status.raw_for_s, hidden.to_owned()),
        ("admitted requests", status.admitted_s, "deleted".to_owned()),
        ("refused requests", status.refused_s, "deleted".to_owned()),
        ("sensitive paths", status.sensitive_s, "deleted".to_owned()),
        ("judged suspects", status.suspects_s, "deleted".to_owned()),
        ("audit log", status.audit_s, "deleted".to_owned()),
    ]
}

fn dry(session: &mut Session, answer: &RetentionAnswer) -> Result<()> {
    let due = answer.due.unwrap_or_default();
    let status = &answer.status;
    let rows = [
        ("records: address hidden", due.hide, status.raw_for_s),
        ("records of admitted requests: deleted", due.admitted, status.admitted_s),
        ("records of refused requests: deleted", due.refused, status.refused_s),
        ("records of sensitive paths: deleted", due.sensitive, status.sensitive_s),
        ("hourly counts of addresses: hidden", due.hide_rollups, status.raw_for_s),
        (
            "hourly counts of addresses: deleted",
            due.rollups,
            status.admitted_s.max(status.refused_s).max(status.sensitive_s),
        ),
    ];
    match session.format {
        Format::Json => session.json(answer),
        Format::Raw => rows.iter().try_for_each(|(what, rows, seconds)| {
            session.raw(&[what, &rows.to_string(), &seconds.to_string()])
        }),
        Format::Human => {
            let mut grid =
                Grid::new(&[flexible("what"), number("how many"), fixed("older than")], "UTC");
            for (what, rows, seconds) in rows {
                grid.row(vec![cell(what), cell(count(rows)), cell(words(seconds))]);
            }
            session.table(grid)?;
            let all = due == Due::default();
            session.say(if all {
                "Nothing is old enough. Nothing was done."
            } else {
                "Nothing was done: leave --dry-run away to do it now, or wait for the hourly run."
            })
        }
    }
}

async fn now(session: &mut Session, client: &Client) -> Result<()> {
    let before = client.retention().await?.last.map(|run| run.finished_at);
    client.run_retention(false).await?;
    let progress = Progress::new(session.shows_progress);
    progress.wait("counting");
    let mut shown = 0;
    let mut total = None;
    let last = loop {
        let status = client.retention().await?;
        if let Some(running) = &status.running {
            if total != running.total
                && let Some(all) = running.total
            {
                progress.things("aging", all);
                total = Some(all);
                shown = 0;
            }
            progress.advance(running.done.saturating_sub(shown));
            shown = running.done.max(shown);
        } else if let Some(last) = status.last.filter(|run| Some(run.finished_at) != before) {
            break last;
        }
        tokio::time::sleep(LOOK).await;
    };
    progress.finish();
    if let Some(error) = &last.error {
        return Err(CliError::Refused {
            status: 0,
            message: format!("the run did not end: {error}; what was done stays done"),
            places: Vec::new(),
            total: 0,
        });
    }
    match session.format {
        Format::Json => session.json(&last),
        Format::Raw => {
            let records = deleted(&last);
            session.raw(&[&last.hidden.to_string(), &records.to_string(), &last.capped.to_string()])
        }
        Format::Human => session.say(format!("{GOOD}Done{GOOD:#}: {}", sentence(&last))),
    }
}

fn deleted(run: &Run) -> u64 {
    run.admitted + run.refused + run.sensitive + run.all
}

fn sentence(run: &Run) -> String {
    let mut text = format!(
        "{STRONG}{}{STRONG:#} addresses hidden, {STRONG}{}{STRONG:#} records deleted, {} hourly counts hidden and {} deleted, {} texts and {} audit lines deleted, {} given back; the log takes {}.",
        count(run.hidden),
        count(deleted(run)),
        count(run.hidden_rollups),
        count(run.rollups),
        count(run.texts),
        count(run.audit),
        bytes(run.reclaimed_bytes),
        bytes(run.log_bytes),
    );
    if run.capped > 0 {
        text.push_str(&format!(
            " {} records went before their time: the log was beyond privacy.max_store.",
            count(run.capped)
        ));
    }
    if run.keys > 0 {
        text.push_str(&format!(" {} old keys were destroyed.", run.keys));
    }
    if !run.settled && run.error.is_none() {
        text.push_str(" Write-ahead logs could not be emptied: the next run does it.");
    }
    text
}

fn words(seconds: u64) -> String {
    duration_words(Duration::from_secs(seconds))
}
