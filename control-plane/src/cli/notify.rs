//! `ipwarden notify`: who is told of suspects and blocks, and whether that works.

use clap::{Args, Subcommand};

use super::client::Client;
use super::error::{CliError, EXIT_REFUSED, Result};
use super::output::{Format, Session};
use super::replies::{Hook, HookTest};
use super::table::{Grid, cell, fixed, flexible, number};
use super::text::{clean, count, relative, zone_name};

/// What about hooks.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden notify
  ipwarden notify test
  ipwarden notify test chat

Hooks are configured in ipwarden.toml, as [[notify]].
-o raw: name, kind, to, waiting, given up, last sent, failures, problem; of a test: name, ok or failed, status, problem.")]
pub struct NotifyArgs {
    /// What to do [default: list]
    #[command(subcommand)]
    pub command: Option<NotifyCommand>,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum NotifyCommand {
    /// List hooks and how they are doing
    List,
    /// Send a message that says that it is a test
    Test {
        /// To this hook only
        #[arg(value_name = "NAME")]
        hook: Option<String>,
    },
}

const NOBODY: &str = "Nobody is told of suspects: add a [[notify]] to ipwarden.toml.";

/// Runs `notify`.
///
/// # Errors
/// Those of the service; [`CliError::Exit`] when a test failed, or there is nobody to tell.
pub async fn run(session: &mut Session, client: &Client, args: &NotifyArgs) -> Result<()> {
    match &args.command {
        None | Some(NotifyCommand::List) => list(session, client).await,
        Some(NotifyCommand::Test { hook }) => test(session, client, hook.as_deref()).await,
    }
}

async fn list(session: &mut Session, client: &Client) -> Result<()> {
    let found = client.hooks().await?;
    match session.format {
        Format::Json => session.json(&found),
        Format::Raw => found.hooks.iter().try_for_each(|hook| {
            let numbers = [hook.waiting, hook.dropped].map(|number| number.to_string());
            let sent = hook.sent_at.map(|time| time.to_string()).unwrap_or_default();
            let failures = hook.failures.to_string();
            let problem = hook.problem.as_deref().unwrap_or_default();
            let [waiting, dropped] = &numbers;
            session.raw(&[
                &hook.name, &hook.kind, &hook.to, waiting, dropped, &sent, &failures, problem,
            ])
        }),
        Format::Human if found.hooks.is_empty() => session.say(NOBODY),
        Format::Human => {
            let now = session.now();
            let mut grid = Grid::new(
                &[
                    fixed("hook"),
                    fixed("kind"),
                    flexible("to"),
                    number("waiting"),
                    number("given up").expendable(1),
                    fixed("last sent"),
                    flexible("problem"),
                ],
                &zone_name(now, &session.zone),
            );
            for hook in &found.hooks {
                let sent = hook.sent_at.map_or_else(|| "-".to_owned(), |time| relative(time, now));
                grid.row(vec![
                    cell(&hook.name),
                    cell(&hook.kind),
                    cell(&hook.to),
                    cell(count(hook.waiting)),
                    cell(count(hook.dropped)),
                    cell(sent),
                    cell(problem(hook)),
                ]);
            }
            session.table(grid)
        }
    }
}

fn problem(hook: &Hook) -> String {
    match &hook.problem {
        Some(problem) => format!("{problem}, {} attempts", hook.failures),
        None => String::new(),
    }
}

async fn test(session: &mut Session, client: &Client, hook: Option<&str>) -> Result<()> {
    let tested = client.test_hooks(hook).await?;
    match session.format {
        Format::Json => session.json(&tested)?,
        Format::Raw => tested.results.iter().try_for_each(|test| {
            let status = test.status.map(|status| status.to_string()).unwrap_or_default();
            let word = if test.ok { "ok" } else { "failed" };
            session.raw(&[&test.hook, word, &status, test.problem.as_deref().unwrap_or_default()])
        })?,
        Format::Human if tested.results.is_empty() => session.say(NOBODY)?,
        Format::Human => {
            tested.results.iter().try_for_each(|test| session.say(sentence(test)))?;
        }
    }
    if !tested.results.is_empty() && tested.results.iter().all(|test| test.ok) {
        Ok(())
    } else {
        Err(CliError::Exit(EXIT_REFUSED))
    }
}

fn sentence(test: &HookTest) -> String {
    let name = clean(&test.hook);
    match (&test.problem, test.status) {
        (Some(problem), _) => format!("{name} did not take the message: {}.", clean(problem)),
        (None, Some(status)) => format!("{name} took the message (status {status})."),
        (None, None) => format!("{name} took the message."),
    }
}
