//! `ipwarden suspects`: whom detectors flagged, why, and what a person says to it.

use clap::{Args, Subcommand, ValueEnum};
use ipwarden::address::{display_target, parse_target};
use ipwarden::privacy::AddressForm;
use jiff::{Timestamp, tz::TimeZone};

use super::client::{Client, MAX_SUSPECTS, Query};
use super::error::{CliError, Result};
use super::output::{BAD, FAINT, Format, GOOD, STRONG, Session, WARN};
use super::replies::{JudgedSuspect, SuspectsPage};
use super::table::{Cell, Grid, cell, fixed, flexible, number};
use super::text::{clean, column_time, count, counted, relative, when, zone_name};
use crate::detect::Severity;
use crate::model::{Action, Decision};
use crate::suspects::{Reason, Status, Suspect, words};

/// Which suspects, and what to do.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  ipwarden suspects
  ipwarden suspects show 12
  ipwarden suspects confirm 12 --for 1d
  ipwarden suspects dismiss 12 --allow 7d

-o raw: id, target, status, severity, score, rules (with commas), place, first seen, last seen, decision."
)]
pub struct SuspectsArgs {
    /// What to do
    #[command(subcommand)]
    pub command: Option<SuspectsCommand>,

    #[command(flatten)]
    pub list: ListArgs,
}

/// What to do with suspects.
#[derive(Debug, Clone, Subcommand)]
pub enum SuspectsCommand {
    /// List them (the same as no word)
    List(ListArgs),
    /// Tell all that is known of one
    Show {
        /// Number of the suspect
        id: i64,
    },
    /// Agree: block it
    Confirm {
        /// Number of the suspect
        id: i64,
        /// How long, such as 4h or 7d [default: as the policy would, longer each time]
        #[arg(long = "for", value_name = "DURATION")]
        lifetime: Option<String>,
        /// Of a suspect that is known by a cut address only: the network to block whole
        #[arg(long, value_name = "CIDR")]
        network: Option<String>,
    },
    /// Disagree: take blocks by detectors back, and don't hear the same again for a while
    Dismiss {
        /// Number of the suspect
        id: i64,
        /// And allow it for so long, such as 7d, whatever blocks it
        #[arg(long, value_name = "DURATION")]
        allow: Option<String>,
    },
}

/// Which suspects to list.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Of this status: open, confirmed, dismissed or all
    #[arg(long, default_value_t, value_enum, hide_possible_values = true)]
    pub status: StatusWord,

    /// That lie in this address or network, or that it lies in
    #[arg(long, value_name = "IP|CIDR")]
    pub target: Option<String>,

    /// At most this many, newest first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// A status as a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum StatusWord {
    /// Nobody has judged them
    #[default]
    Open,
    /// Blocked by a person
    Confirmed,
    /// False alarms
    Dismissed,
    /// Whatever became of them
    All,
}

impl StatusWord {
    const fn status(self) -> Option<Status> {
        match self {
            Self::Open => Some(Status::Open),
            Self::Confirmed => Some(Status::Confirmed),
            Self::Dismissed => Some(Status::Dismissed),
            Self::All => None,
        }
    }
}

impl std::fmt::Display for StatusWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.status().map_or("all", Status::as_str))
    }
}

/// Runs `suspects`.
///
/// # Errors
/// [`CliError::NotFound`] for a number that no suspect has; a bad `--target` or duration;
/// those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &SuspectsArgs) -> Result<()> {
    match &args.command {
        None => list(session, client, &args.list).await,
        Some(SuspectsCommand::List(args)) => list(session, client, args).await,
        Some(SuspectsCommand::Show { id }) => {
            let suspect = client.suspect(*id).await?;
            show(session, &suspect)
        }
        Some(SuspectsCommand::Confirm { id, lifetime, network }) => {
            let lifetime = checked("--for", lifetime.as_deref())?;
            if let Some(text) = network {
                parse_target(text)
                    .map_err(|error| CliError::Usage(format!("--network: {error}")))?;
            }
            let network = network.as_deref();
            let judged = client.judge_suspect(*id, "confirm", "for", lifetime, network).await?;
            told(session, &judged)
        }
        Some(SuspectsCommand::Dismiss { id, allow }) => {
            let allow = checked("--allow", allow.as_deref())?;
            let judged = client.judge_suspect(*id, "dismiss", "allow", allow, None).await?;
            told(session, &judged)
        }
    }
}

fn checked<'a>(flag: &str, text: Option<&'a str>) -> Result<Option<&'a str>> {
    if let Some(text) = text {
        ipwarden::duration::parse(text)
            .map_err(|error| CliError::Usage(format!("{flag}: '{}' is {error}", clean(text))))?;
    }
    Ok(text)
}

async fn list(session: &mut Session, client: &Client, args: &ListArgs) -> Result<()> {
    let mut query = Query::new();
    if let Some(status) = args.status.status() {
        query.push(("status", status.as_str().to_owned()));
    }
    if let Some(text) = &args.target {
        let net =
            parse_target(text).map_err(|error| CliError::Usage(format!("--target: {error}")))?;
        query.push(("target", net.to_string()));
    }
    let limit = args.limit as usize;
    let mut page = SuspectsPage::default();
    loop {
        let mut query = query.clone();
        query.push(("limit", (limit - page.suspects.len()).min(MAX_SUSPECTS).to_string()));
        query.extend(page.next.map(|before| ("before", before.to_string())));
        let more = client.suspects(&query).await?;
        page.total = more.total;
        page.next = more.next;
        page.suspects.extend(more.suspects);
        if page.next.is_none() || page.suspects.len() >= limit {
            break;
        }
    }
    match session.format {
        Format::Json => session.json(&page),
        Format::Raw => page
            .suspects
            .iter()
            .try_for_each(|suspect| session.raw(&raw_row(suspect).each_ref().map(String::as_str))),
        Format::Human if page.suspects.is_empty() => session.say(match args.status {
            StatusWord::Open => "No open suspects: nobody was flagged that is not judged.",
            _ => "No suspect matches.",
        }),
        Format::Human => {
            let now = session.now();
            let zone = zone_name(now, &session.zone);
            session.table(grid(&page.suspects, now, &zone))?;
            let shown = page.suspects.len() as u64;
            if shown < page.total {
                session.note(format!(
                    "{} of {}, newest first; --limit N shows more",
                    count(shown),
                    counted(page.total, "suspect", "suspects")
                ))?;
            }
            session.note(format!(
                "{FAINT}`ipwarden suspects show ID` tells more, `confirm ID` blocks, `dismiss ID` takes a false alarm back{FAINT:#}"
            ))
        }
    }
}

fn grid(suspects: &[Suspect], now: Timestamp, zone: &str) -> Grid {
    let mut grid = Grid::new(
        &[
            number("id"),
            fixed("target"),
            fixed("status"),
            fixed("severity"),
            number("score"),
            fixed("last seen"),
            fixed("place").expendable(1),
            flexible("why"),
        ],
        zone,
    )
    .one_line_rows();
    for suspect in suspects {
        grid.row(vec![
            cell(suspect.id.to_string()),
            cell(words::target(suspect)),
            status_cell(suspect),
            severity_cell(suspect.severity),
            cell(format!("{:.2}", suspect.score)),
            cell(relative(suspect.last_seen, now)),
            cell(words::place(suspect)),
            cell(words::reasons(suspect)),
        ]);
    }
    grid
}

fn status_cell(suspect: &Suspect) -> Cell {
    match (suspect.status, suspect.decision) {
        (Status::Open, Some(_)) => cell("blocked").bad(),
        (Status::Open, None) => cell("open"),
        (Status::Confirmed, _) => cell("confirmed").bad(),
        (Status::Dismissed, _) => cell("dismissed").good(),
    }
}

fn severity_cell(severity: Severity) -> Cell {
    let word = cell(severity.as_str());
    if severity >= Severity::High { word.bad() } else { word }
}

fn show(session: &mut Session, suspect: &Suspect) -> Result<()> {
    match session.format {
        Format::Json => session.json(suspect),
        Format::Raw => session.raw(&raw_row(suspect).each_ref().map(String::as_str)),
        Format::Human => {
            let lines = told_of(suspect, session.now(), &session.zone);
            lines.iter().try_for_each(|line| session.say(line))
        }
    }
}

/// Everything about a suspect, one line each.
fn told_of(suspect: &Suspect, now: Timestamp, zone: &TimeZone) -> Vec<String> {
    let target = words::target(suspect);
    let mut lines = vec![format!(
        "{STRONG}Suspect {}: {target}{STRONG:#}, {}, severity {}, score {:.2}",
        suspect.id,
        suspect.status.as_str(),
        suspect.severity.as_str(),
        suspect.score
    )];
    let place = words::place(suspect);
    lines.push(format!(
        "  place       {}",
        if place.is_empty() { "unknown".into() } else { clean(&place) }
    ));
    lines.push(format!("  first seen  {}", when(suspect.first_seen, now, zone)));
    lines.push(format!("  last seen   {}", when(suspect.last_seen, now, zone)));
    if let (Some(at), Some(by)) = (suspect.closed_at, &suspect.closed_by) {
        lines.push(format!("  judged      {}, by {}", when(at, now, zone), clean(by)));
    }
    if let Some(decision) = suspect.decision {
        lines.push(format!(
            "  decision    {decision} (`ipwarden check {}` says whether it still applies)",
            if suspect.form == AddressForm::Full {
                suspect.target.addr().to_string()
            } else {
                "ADDRESS".to_owned()
            }
        ));
    }
    for reason in &suspect.reasons {
        lines.extend(told_reason(reason, now, zone));
    }
    if suspect.status == Status::Open {
        lines.push(format!(
            "`ipwarden suspects confirm {0}` blocks it, `ipwarden suspects dismiss {0}` takes it for a false alarm.",
            suspect.id
        ));
    }
    lines
}

fn told_reason(reason: &Reason, now: Timestamp, zone: &TimeZone) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!(
            "{STRONG}{}{STRONG:#} ({}, {}): {}",
            clean(&reason.rule),
            reason.severity.as_str(),
            reason.source.as_str(),
            clean(&reason.detail)
        ),
        format!(
            "  {}, last {}",
            counted(reason.count, "request", "requests"),
            relative(reason.last_seen, now)
        ),
    ];
    for (name, value) in &reason.features {
        lines.push(format!("  {}  {value:.3}", clean(name)));
    }
    for seen in &reason.evidence {
        let matched = if seen.matched.is_empty() {
            String::new()
        } else {
            format!("  {WARN}{}{WARN:#}", clean(&seen.matched))
        };
        lines.push(format!(
            "  {}  {} {} {}{matched}",
            column_time(seen.time, zone),
            seen.status,
            clean(&seen.method),
            clean(&seen.path),
        ));
    }
    lines
}

fn told(session: &mut Session, judged: &JudgedSuspect) -> Result<()> {
    match session.format {
        Format::Json => session.json(judged),
        Format::Raw => session.raw(&raw_row(&judged.suspect).each_ref().map(String::as_str)),
        Format::Human => {
            let line = sentence(judged, session.now(), &session.zone);
            session.say(line)?;
            judged.warnings.iter().try_for_each(|warning| session.warn(clean(&warning.message)))
        }
    }
}

fn sentence(judged: &JudgedSuspect, now: Timestamp, zone: &TimeZone) -> String {
    let suspect = &judged.suspect;
    let target = words::target(suspect);
    let until = |decision: &Decision| {
        decision.expires_at.map_or_else(
            || "without an end".to_owned(),
            |end| format!("until {}", when(end, now, zone)),
        )
    };
    match &judged.decision {
        Some(block) if block.action == Action::Block => format!(
            "Confirmed suspect {}: {BAD}{} is blocked{BAD:#} {}, decision {}, revision {}.",
            suspect.id,
            // Not what it was known by: the address behind it, or its whole network.
            display_target(&block.target),
            until(block),
            block.id,
            judged.revision
        ),
        decision => {
            let unblocked = match judged.unblocked.len() as u64 {
                0 => String::new(),
                some => format!(", {} taken back", counted(some, "block", "blocks")),
            };
            let allowed = decision.as_ref().map_or_else(String::new, |allow| {
                format!(", {GOOD}allowed{GOOD:#} {}, decision {}", until(allow), allow.id)
            });
            format!(
                "Dismissed suspect {} ({target}){unblocked}{allowed}, revision {}.",
                suspect.id, judged.revision
            )
        }
    }
}

fn raw_row(suspect: &Suspect) -> [String; 10] {
    let rules: Vec<&str> = suspect.reasons.iter().map(|reason| reason.rule.as_str()).collect();
    [
        suspect.id.to_string(),
        words::target(suspect),
        suspect.status.as_str().to_owned(),
        suspect.severity.as_str().to_owned(),
        format!("{:.3}", suspect.score),
        rules.join(","),
        words::place(suspect),
        suspect.first_seen.to_string(),
        suspect.last_seen.to_string(),
        suspect.decision.map_or_else(String::new, |decision| decision.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples::now;
    use crate::suspects::samples::flag;

    fn suspect() -> Suspect {
        let mut suspect = Suspect::new(&flag("203.0.113.7", "probing", Severity::High, 1));
        suspect.absorb(&flag("203.0.113.7", "odd", Severity::Low, 2));
        Suspect { id: 12, country: Some("FR".to_owned()), ..suspect }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn suspects_are_a_table_with_reasons_in_words() {
        assert_eq!(
            plain(&grid(&[suspect()], now(), "UTC").render(None).text),
            "id  target       status  severity  score  last seen  place  why\n\
             12  203.0.113.7  open    high       0.76  in 2s      FR     probing: probing at 1; odd: odd at 2"
        );
    }

    #[test]
    fn all_that_is_known_is_told() {
        let lines: Vec<String> =
            told_of(&suspect(), now(), &TimeZone::UTC).iter().map(|line| plain(line)).collect();
        assert_eq!(
            lines,
            [
                "Suspect 12: 203.0.113.7, open, severity high, score 0.76",
                "  place       FR",
                "  first seen  2026-11-22 16:00:01 UTC (in 1s)",
                "  last seen   2026-11-22 16:00:02 UTC (in 2s)",
                "",
                "probing (high, streaming): probing at 1",
                "  3 requests, last in 1s",
                "  2026-11-22 16:00:01  404 GET /1",
                "",
                "odd (low, streaming): odd at 2",
                "  3 requests, last in 2s",
                "  2026-11-22 16:00:02  404 GET /2",
                "`ipwarden suspects confirm 12` blocks it, `ipwarden suspects dismiss 12` takes it for a false alarm.",
            ]
        );
    }
}
