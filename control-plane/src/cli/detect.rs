//! `ipwarden detect`: the hourly pass, now.

use clap::Args;

use super::client::Client;
use super::error::{CliError, Result};
use super::output::{Format, Session};
use super::replies::Detected;
use super::table::{Grid, cell, fixed, flexible, number};
use super::text::{clean, count, counted};

/// Which hour.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden detect --dry-run
  ipwarden detect --hour 2026-11-22T16

-o raw: target, rule, severity, requests, score, words.")]
pub struct DetectArgs {
    /// The hour in UTC, such as 2026-11-22T16 [default: the last one that is over]
    #[arg(long, value_name = "HOUR")]
    pub hour: Option<String>,

    /// Tell what would be found, note nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs `detect`.
///
/// # Errors
/// [`CliError::Usage`] for a text that is no hour; those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &DetectArgs) -> Result<()> {
    if let Some(text) = &args.hour
        && crate::api::detect::parse_hour(text).is_none()
    {
        return Err(CliError::Usage(format!(
            "--hour: '{}' is no hour: expected one in UTC such as 2026-11-22T16",
            clean(text)
        )));
    }
    let found = client.detect(args.hour.as_deref(), args.dry_run).await?;
    match session.format {
        Format::Json => session.json(&found),
        Format::Raw => found.flags.iter().try_for_each(|flag| {
            let (count, score) = (flag.count.to_string(), format!("{:.3}", flag.score));
            session.raw(&[&flag.target, &flag.rule, &flag.severity, &count, &score, &flag.detail])
        }),
        Format::Human => {
            if !found.flags.is_empty() {
                let mut grid = Grid::new(
                    &[
                        fixed("target"),
                        fixed("rule"),
                        fixed("severity"),
                        number("requests").expendable(1),
                        flexible("why"),
                    ],
                    "UTC",
                );
                for flag in &found.flags {
                    grid.row(vec![
                        cell(&flag.target),
                        cell(&flag.rule),
                        cell(&flag.severity),
                        cell(count(flag.count)),
                        cell(&flag.detail),
                    ]);
                }
                session.table(grid)?;
            }
            session.say(sentence(&found))
        }
    }
}

fn sentence(found: &Detected) -> String {
    let hour = clean(&found.hour).into_owned();
    let looked = format!(
        "{} by {}",
        counted(found.requests, "request", "requests"),
        counted(found.addresses, "address", "addresses")
    );
    if found.already_done {
        return format!(
            "The hour from {hour} was done before ({looked}): nothing was noted again. --dry-run tells what is found in it."
        );
    }
    let flags = counted(found.flags.len() as u64, "flag", "flags");
    let noted = if found.dry_run { ", nothing noted" } else { "" };
    let again =
        if found.complete { "" } else { "; the hour is not over and is done again when it is" };
    format!("The hour from {hour}: {looked}, {flags}{noted}{again}.")
}
