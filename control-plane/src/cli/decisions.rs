//! `ipwarden decisions` and `ipwarden check`.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use ipwarden::address::{display_target, parse_target};
use jiff::{Timestamp, tz::TimeZone};

use super::client::{Checked, Client, Decisions, MAX_DECISIONS, Query};
use super::error::{CliError, Place, Result};
use super::output::{
    BAD, Cell, Format, GOOD, Grid, STRONG, Session, cell, fixed, flexible, moment, number,
};
use super::text::{absolute, clean, column_time, count, counted, relative, when, zone_name};
use crate::model::{Action, Decision, Origin};

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

-o raw: id, target, action, origin, made, ends (empty: never), reason.")]
pub struct DecisionsArgs {
    /// The newest ones, or all of them as a list that `ipwarden block --from` reads
    #[arg(value_enum, default_value_t, value_name = "list|export", hide_possible_values = true)]
    pub verb: Verb,

    /// Made by: manual, feed:<name> or detector:<rule>
    #[arg(long)]
    pub origin: Option<Origin>,

    /// Of this action: block or allow
    #[arg(long, hide_possible_values = true)]
    pub action: Option<ActionWord>,

    /// Whose target lies inside this network, or equals it
    #[arg(long, value_name = "CIDR")]
    pub inside: Option<String>,

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
    match session.format {
        Format::Json => session.json(&page),
        Format::Raw => {
            page.decisions.iter().try_for_each(|decision| row(session, decision))
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
            Ok(())
        }
    }
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

/// Which address.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "-o raw: ip, verdict (blocked, allowed, none), then the decision's id, target, action, origin, made, ends, reason."
)]
pub struct CheckArgs {
    /// One IP address
    #[arg(value_name = "IP")]
    pub ip: String,
}

/// Runs `check`.
///
/// # Errors
/// A text that is no single address, and those of the service.
pub async fn check(session: &mut Session, client: &Client, args: &CheckArgs) -> Result<()> {
    let ip = single_address(&args.ip)?;
    let checked = client.check(ip).await?;
    match session.format {
        Format::Json => session.json(&checked),
        Format::Raw => {
            let mut values = vec![checked.ip.clone(), checked.verdict.clone()];
            match &checked.decision {
                Some(decision) => values.extend(raw_row(decision)),
                None => values.extend(std::iter::repeat_n(String::new(), 7)),
            }
            session.raw(&values.iter().map(String::as_str).collect::<Vec<_>>())
        }
        Format::Human => {
            let lines = explained(&checked, session.now(), &session.zone);
            lines.iter().try_for_each(|line| session.say(line))
        }
    }
}

/// Reads one address where a network makes no sense.
///
/// # Errors
/// [`CliError::Input`] with what is expected.
pub fn single_address(text: &str) -> Result<IpAddr> {
    let bad = |message: String| CliError::Input {
        message: "the address is not valid; nothing was sent".to_owned(),
        places: vec![Place { place: clean(text).into_owned(), message }],
        total: 1,
    };
    let net = parse_target(text).map_err(|error| bad(error.to_string()))?;
    if net.prefix_len() != net.max_prefix_len() {
        return Err(bad(format!(
            "a network, but one address is expected: try {}, or `ipwarden decisions --inside {net}` for all decisions in it",
            net.addr()
        )));
    }
    Ok(net.addr())
}

/// The verdict in words, one line each.
fn explained(checked: &Checked, now: Timestamp, zone: &TimeZone) -> Vec<String> {
    let ip = clean(&checked.ip);
    let Some(decision) = &checked.decision else {
        return vec![format!(
            "{STRONG}{ip}{STRONG:#} is {GOOD}not blocked{GOOD:#}: no decision covers it (revision {}).",
            checked.revision
        )];
    };
    let verdict = match decision.action {
        Action::Block => format!("{BAD}blocked{BAD:#}"),
        Action::Allow => format!("{GOOD}allowed{GOOD:#}"),
    };
    let mut lines = vec![
        format!(
            "{STRONG}{ip}{STRONG:#} is {verdict} by decision {}: {} {} (revision {}).",
            decision.id,
            decision.action.as_str(),
            display_target(&decision.target),
            checked.revision
        ),
        format!(
            "  reason  {}",
            if decision.reason.is_empty() { "none given".into() } else { clean(&decision.reason) }
        ),
        format!("  origin  {}", decision.origin),
        format!("  made    {}", when(decision.created_at, now, zone)),
        format!(
            "  ends    {}",
            decision.expires_at.map_or_else(|| "never".to_owned(), |end| when(end, now, zone))
        ),
    ];
    if !checked.hidden.is_empty() {
        lines.push(format!(
            "It hides {}:",
            counted(checked.hidden.len() as u64, "other decision", "other decisions")
        ));
        for hidden in &checked.hidden {
            let other = &hidden.decision;
            let ends = other.expires_at.map_or_else(
                || "without an end".to_owned(),
                |end| format!("until {}", when(end, now, zone)),
            );
            lines.push(format!(
                "  decision {}: {} {} ({}) {ends}: {}",
                other.id,
                other.action.as_str(),
                display_target(&other.target),
                other.origin,
                clean(&hidden.why)
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::Hidden;

    fn decision(id: u32, target: &str, action: &str, origin: &str) -> Decision {
        serde_json::from_value(serde_json::json!({
            "id": id, "target": target, "action": action, "origin": origin, "reason": "scraping",
            "created_at": "2026-11-22T15:58:00Z", "expires_at": "2026-11-22T17:00:00Z",
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-22T16:00:00Z".parse().unwrap()
    }

    fn plain(lines: &[String]) -> String {
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    #[test]
    fn a_check_is_told_in_words_with_what_it_hides() {
        let checked = Checked {
            ip: "203.0.113.7".to_owned(),
            verdict: "blocked".to_owned(),
            decision: Some(decision(12, "203.0.113.0/24", "block", "manual")),
            hidden: vec![Hidden {
                decision: decision(9, "203.0.113.7", "block", "feed:drop"),
                why: "hidden by a manual block".to_owned(),
            }],
            revision: 34,
        };
        assert_eq!(
            plain(&explained(&checked, now(), &TimeZone::UTC)),
            "203.0.113.7 is blocked by decision 12: block 203.0.113.0/24 (revision 34).\n  \
               reason  scraping\n  \
               origin  manual\n  \
               made    2026-11-22 15:58:00 UTC (2m ago)\n  \
               ends    2026-11-22 17:00:00 UTC (in 1h)\n\
             It hides 1 other decision:\n  \
               decision 9: block 203.0.113.7 (feed:drop) until 2026-11-22 17:00:00 UTC (in 1h): hidden by a manual block"
        );
    }

    #[test]
    fn an_address_without_decisions_is_said_to_be_free() {
        let checked = Checked {
            ip: "203.0.113.7".to_owned(),
            verdict: "none".to_owned(),
            decision: None,
            hidden: Vec::new(),
            revision: 34,
        };
        assert_eq!(
            plain(&explained(&checked, now(), &TimeZone::UTC)),
            "203.0.113.7 is not blocked: no decision covers it (revision 34)."
        );
    }

    #[test]
    fn a_network_is_no_address_to_check() {
        assert_eq!(single_address("::ffff:203.0.113.7").unwrap().to_string(), "203.0.113.7");
        let error = single_address("203.0.113.0/24").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(
            error.places().0[0].message,
            "a network, but one address is expected: try 203.0.113.0, or `ipwarden decisions --inside 203.0.113.0/24` for all decisions in it"
        );
    }

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
