//! `ipwarden decisions`: list and export.

use std::io::Write as _;

use clap::{Args, ValueEnum};
use ipwarden::address::{display_target, parse_target};
use jiff::{Timestamp, tz::TimeZone};

use super::client::{Client, MAX_DECISIONS, Query};
use super::error::{CliError, Result};
use super::output::{Format, Session};
use super::regions;
use super::replies::Decisions;
use super::table::{Cell, Grid, cell, fixed, flexible, moment, number};
use super::text::{absolute, clean, column_time, count, counted, relative, zone_name};
use crate::model::{Action, Decision, Origin};
use crate::regions::Rule;

/// What to do with the decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Verb {
    /// The newest ones
    #[default]
    List,
    /// All of them, as a list that `ipwarden block --from` reads
    Export,
}

/// Which decisions.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden decisions --action block --inside 203.0.113.0/24
  ipwarden decisions export --origin manual > blocks.txt
  ipwarden decisions export --format nginx > refused.conf

Decisions by country and autonomous system are listed where no condition leaves them out; they
are not exported: a list is of addresses.
-o raw: id, target, action, origin, made, ends (empty: never), reason, and of regions the path.")]
pub struct DecisionsArgs {
    /// The newest ones, or all of them as a list that `ipwarden block --from` reads
    #[arg(value_enum, default_value_t, value_name = "list|export", hide_possible_values = true)]
    pub verb: Verb,

    /// Made by: manual, feed:NAME or detector:RULE
    #[arg(long)]
    pub origin: Option<Origin>,

    /// Of this action: block or allow
    #[arg(long, hide_possible_values = true)]
    pub action: Option<ActionWord>,

    /// Whose target lies inside this network, or equals it
    #[arg(long, value_name = "CIDR")]
    pub inside: Option<String>,

    /// As the list of another program, allows taken off: plain, netset, json, nginx or haproxy (export)
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["origin", "action", "inside"])]
    pub format: Option<String>,

    /// With the entries of feeds, whose publishers may not want that (export --format)
    #[arg(long, requires = "format")]
    pub with_feeds: bool,

    /// At most this many, newest first (list)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// An action as a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ActionWord {
    /// Blocks
    Block,
    /// Allows
    Allow,
}

impl From<ActionWord> for Action {
    fn from(word: ActionWord) -> Self {
        match word {
            ActionWord::Block => Self::Block,
            ActionWord::Allow => Self::Allow,
        }
    }
}

/// Runs `decisions`.
///
/// # Errors
/// A bad `--inside`, and those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &DecisionsArgs) -> Result<()> {
    if let Some(format) = &args.format {
        if args.verb == Verb::List {
            let why = "--format is for lists of other programs: `ipwarden decisions export --format plain`";
            return Err(CliError::Usage(why.to_owned()));
        }
        return published(session, client, format, args.with_feeds).await;
    }
    let mut query = Query::new();
    if let Some(origin) = &args.origin {
        query.push(("origin", origin.to_string()));
    }
    if let Some(action) = args.action {
        query.push(("action", Action::from(action).as_str().to_owned()));
    }
    if let Some(text) = &args.inside {
        let net =
            parse_target(text).map_err(|error| CliError::Usage(format!("--inside: {error}")))?;
        query.push(("inside", net.to_string()));
    }
    match args.verb {
        Verb::List => list(session, client, query, args.limit as usize).await,
        Verb::Export => export(session, client, query).await,
    }
}

async fn list(session: &mut Session, client: &Client, query: Query, limit: usize) -> Result<()> {
    let mut page = page(client, &query, None, limit).await?;
    while page.decisions.len() < limit
        && let Some(next) = page.next
    {
        let more = self::page(client, &query, Some(next), limit - page.decisions.len()).await?;
        page.decisions.extend(more.decisions);
        page.next = more.next;
    }
    // They have no origin but people, no address, and are blocks.
    let conditions = |(name, value): &(&str, String)| match *name {
        "action" => value == Action::Block.as_str(),
        "origin" => value == "manual",
        _ => false,
    };
    if query.iter().all(conditions) {
        page.regions = client.regions().await?.regions;
    }
    match session.format {
        Format::Json => session.json(&page),
        Format::Raw => {
            page.decisions.iter().try_for_each(|decision| row(session, decision))?;
            regions::raw(session, &page.regions)
        }
        Format::Human if page.decisions.is_empty() && !page.regions.is_empty() => {
            by_region(session, &page.regions)
        }
        Format::Human if page.decisions.is_empty() => session.say(if query.is_empty() {
            "No decisions: every request passes. `ipwarden block 203.0.113.0/24 --for 1h` makes one."
        } else {
            "No decision matches. `ipwarden decisions` without conditions lists all."
        }),
        Format::Human => {
            let now = session.now();
            let zone = zone_name(now, &session.zone);
            session.table(grid(&page.decisions, now, &session.zone, &zone))?;
            let shown = page.decisions.len() as u64;
            if shown < page.total {
                session.note(format!(
                    "{} of {}, newest first; --limit N shows more, `ipwarden decisions export` all",
                    count(shown),
                    counted(page.total, "decision", "decisions")
                ))?;
            }
            by_region(session, &page.regions)
        }
    }
}

fn by_region(session: &mut Session, rules: &[Rule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let now = session.now();
    session.say("By country and autonomous system:")?;
    session.table(regions::grid(rules, now, &session.zone))
}

/// Writes everything that matches, page by page.
async fn export(session: &mut Session, client: &Client, query: Query) -> Result<()> {
    let mut page = page(client, &query, None, MAX_DECISIONS).await?;
    if session.format == Format::Json {
        while let Some(next) = page.next {
            let more = self::page(client, &query, Some(next), MAX_DECISIONS).await?;
            page.decisions.extend(more.decisions);
            page.next = more.next;
        }
        return session.json(&page);
    }
    if session.format == Format::Human {
        session.say(format!(
            "# ipwarden: {} at revision {}, {}",
            counted(page.total, "decision", "decisions"),
            page.revision,
            absolute(session.now(), &TimeZone::UTC)
        ))?;
    }
    // A list names targets only: where blocks and allows stand together, allows are
    // comments, so that `block --from` can't block them.
    let mixed = !query.iter().any(|(name, _)| *name == "action");
    loop {
        for decision in &page.decisions {
            if session.format == Format::Raw {
                row(session, decision)?;
            } else {
                session.say(export_line(decision, mixed))?;
            }
        }
        let Some(next) = page.next else { return Ok(()) };
        page = self::page(client, &query, Some(next), MAX_DECISIONS).await?;
    }
}

/// Writes the list that the service makes, as it comes.
async fn published(
    session: &mut Session,
    client: &Client,
    format: &str,
    with_feeds: bool,
) -> Result<()> {
    if session.format != Format::Human {
        let why = "--format says how the list looks: leave -o out";
        return Err(CliError::Usage(why.to_owned()));
    }
    let query = vec![("format", format.to_owned()), ("feeds", with_feeds.to_string())];
    let mut answer = client.export(&query).await?;
    loop {
        let piece = answer.chunk().await.map_err(|error| CliError::Unreachable {
            url: client.url(),
            cause: super::client::cause(&error),
        })?;
        // Targets, numbers and words of ours: nothing to clean.
        let Some(piece) = piece else { return Ok(()) };
        session.stdout.write_all(&piece)?;
    }
}

async fn page(
    client: &Client,
    query: &Query,
    before: Option<u32>,
    limit: usize,
) -> Result<Decisions> {
    let mut query = query.clone();
    query.push(("limit", limit.min(MAX_DECISIONS).to_string()));
    query.extend(before.map(|before| ("before", before.to_string())));
    client.decisions(&query).await
}

fn export_line(decision: &Decision, mixed: bool) -> String {
    let comment = if mixed && decision.action == Action::Allow { "# " } else { "" };
    let until = decision.expires_at.map_or_else(String::new, |end| format!(", until {end}"));
    let reason = if decision.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", clean(&decision.reason))
    };
    format!(
        "{comment}{}  # {} {} ({}){until}{reason}",
        display_target(&decision.target),
        decision.action.as_str(),
        decision.id,
        decision.origin
    )
}

fn grid(decisions: &[Decision], now: Timestamp, zone: &TimeZone, zone_name: &str) -> Grid {
    let mut grid = Grid::new(
        &[
            number("id"),
            fixed("target"),
            fixed("action"),
            fixed("origin"),
            fixed("made").expendable(2),
            fixed("ends"),
            moment("until").expendable(3),
            flexible("reason").expendable(1),
        ],
        zone_name,
    );
    for decision in decisions {
        grid.row(vec![
            cell(decision.id.to_string()),
            cell(display_target(&decision.target)),
            action_cell(decision.action),
            cell(decision.origin.to_string()),
            cell(relative(decision.created_at, now)),
            cell(decision.expires_at.map_or_else(|| "never".to_owned(), |end| relative(end, now))),
            cell(decision.expires_at.map_or_else(String::new, |end| column_time(end, zone))),
            cell(&decision.reason),
        ]);
    }
    grid
}

fn action_cell(action: Action) -> Cell {
    match action {
        Action::Block => cell("block").bad(),
        Action::Allow => cell("allow").good(),
    }
}

fn row(session: &mut Session, decision: &Decision) -> Result<()> {
    session.raw(&raw_row(decision).each_ref().map(String::as_str))
}

/// id, target, action, origin, made, ends (empty for never), reason.
#[must_use]
pub fn raw_row(decision: &Decision) -> [String; 7] {
    [
        decision.id.to_string(),
        display_target(&decision.target),
        decision.action.as_str().to_owned(),
        decision.origin.to_string(),
        decision.created_at.to_string(),
        decision.expires_at.map_or_else(String::new, |end| end.to_string()),
        decision.reason.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples::{decision, now};

    #[test]
    fn an_exported_list_never_turns_allows_into_blocks() {
        let allow = decision(3, "10.0.0.0/8", "allow", "manual");
        assert_eq!(
            export_line(&allow, true),
            "# 10.0.0.0/8  # allow 3 (manual), until 2026-11-22T17:00:00Z: scraping"
        );
        assert!(export_line(&allow, false).starts_with("10.0.0.0/8  # allow"));
        let mut block = decision(4, "203.0.113.7", "block", "manual");
        block.reason = "a\nb".to_owned();
        block.expires_at = None;
        let line = export_line(&block, true);
        assert_eq!(line, "203.0.113.7  # block 4 (manual): a\\nb");
        let list = crate::cli::lists::from_reader(&mut line.as_bytes(), "x", |_| {}).unwrap();
        assert_eq!(list.targets, [block.target]);
    }

    #[test]
    fn decisions_are_a_table() {
        let grid = grid(
            &[decision(12, "203.0.113.0/24", "block", "manual")],
            now(),
            &TimeZone::UTC,
            "UTC",
        );
        assert_eq!(
            anstream::adapter::strip_str(&grid.render(None).text).to_string(),
            "id  target          action  origin  made    ends   until (UTC)          reason\n\
             12  203.0.113.0/24  block   manual  2m ago  in 1h  2026-11-22 17:00:00  scraping"
        );
    }
}
