//! `ipwarden block` and `ipwarden allow`.

use std::fs::File;
use std::io::{self, BufReader};
use std::time::Duration;

use clap::Args;
use ipwarden::address::display_target;
use ipwarden::geo::regions::Region;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::client::{Client, MAX_TARGETS, Query};
use super::error::{CliError, Result};
use super::lists::{self, TargetList};
use super::output::{Format, GOOD, STRONG, Session};
use super::progress::Progress;
use super::regions::{self, RegionArgs};
use super::replies::{Added, Imported, Warning};
use super::table::{Grid, cell, fixed, number};
use super::text::{absolute, clean, count, counted, span, zone_name};
use crate::model::{Action, Decision};

/// Most decisions told one by one.
const MAX_TOLD: usize = 50;
/// Bytes sent between two movements of the progress bar.
const PIECE_BYTES: usize = 64 * 1024;

/// What to add.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// IP addresses or CIDRs, such as 203.0.113.7 or 2001:db8::/32 (block: also country:FR, asn:64496)
    #[arg(value_name = "TARGET", required_unless_present = "from")]
    pub targets: Vec<String>,

    /// End after this long: 30s, 4h, 1h30m, 7d [default: no end]
    #[arg(long = "for", value_name = "DURATION", value_parser = ipwarden::duration::parse, conflicts_with = "until")]
    pub duration: Option<Duration>,

    /// End at this time: 2026-11-22T18:00:00Z, or 2026-11-22 18:00 in the local zone
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,

    /// Why, in words for other operators; clients never see it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,

    /// Read targets from a file ('-': standard input), one a line, '#' comments; all or nothing
    #[arg(long, value_name = "FILE", conflicts_with = "targets")]
    pub from: Option<String>,
}

/// What stands below the help of `allow`.
pub const ALLOW_HELP: &str = "\
Examples:
  ipwarden allow 203.0.113.7
  ipwarden allow 203.0.113.0/24 --for 4h --reason office

An allow wins over every block. Lists may have 2 000 000 lines.
-o raw: id, target, action, origin, made, ends, reason; with --from: added, replaced, duplicates, revision.";

/// What stands below the help of `block`.
pub const BLOCK_HELP: &str = "\
Examples:
  ipwarden block 203.0.113.0/24 --for 4h --reason scraping
  curl -s https://lists.example/drop.txt | ipwarden block --from - --for 1d --reason drop
  ipwarden block country:FR,BE asn:64496 --path /admin --for 4h
  ipwarden block country:FR --yes-whole-region            (in shadow: look first)
  ipwarden block country:FR --yes-whole-region --enforce  (switches it on)

An allow wins over every block. Lists may have 2 000 000 lines.
-o raw: id, target, action, origin, made, ends, reason (regions: and path); with --from: added, replaced, duplicates, revision.";

/// What `block` takes.
#[derive(Debug, Clone, Args)]
pub struct BlockArgs {
    /// As `allow` has it.
    #[command(flatten)]
    pub add: AddArgs,

    /// For regions.
    #[command(flatten)]
    pub region: RegionArgs,
}

/// Runs `block`.
///
/// # Errors
/// Those of [`run`] and of [`regions::block`].
pub async fn block(session: &mut Session, client: &Client, args: &BlockArgs) -> Result<()> {
    match regions::of_targets(&args.add.targets, args.region.is_given())? {
        Some(found) => regions::block(session, client, &found, &args.region, &args.add).await,
        None => run(session, client, Action::Block, &args.add).await,
    }
}

/// Runs `block` for addresses, or `allow`.
///
/// # Errors
/// Those of reading the targets and of the service.
pub async fn run(
    session: &mut Session,
    client: &Client,
    action: Action,
    args: &AddArgs,
) -> Result<()> {
    if action == Action::Allow && args.targets.iter().any(|text| Region::is_meant(text)) {
        return Err(CliError::Usage(
            "only block knows countries and autonomous systems: an allow by place would let in whoever rents an address there; allow addresses".to_owned(),
        ));
    }
    let end = End::of(args, session.now(), &session.zone)?;
    let progress = Progress::new(session.shows_progress);
    let list = match &args.from {
        Some(name) => read(name, &progress)?,
        None => lists::from_arguments(&args.targets)?,
    };
    if args.from.is_none() && list.targets.len() <= MAX_TARGETS {
        let added = client.add(&request(action, &list, &end, &args.reason)).await?;
        return told(session, action, &added, list.duplicates);
    }
    let sent = import(client, action, &list, &end, &args.reason, &progress).await;
    progress.finish();
    let mut imported = sent?;
    imported.duplicates += list.duplicates;
    told_import(session, action, &imported, &end)
}

/// Reads a list from a file or from standard input.
///
/// # Errors
/// Those of [`lists::from_reader`].
pub fn read(name: &str, progress: &Progress) -> Result<TargetList> {
    let read = if name == "-" {
        progress.bytes("reading", None);
        lists::from_reader(&mut io::stdin().lock(), "standard input", |n| progress.advance(n))
    } else {
        let refused = |source| CliError::File { path: name.to_owned(), source };
        let file = File::open(name).map_err(refused)?;
        let about = file.metadata().map_err(refused)?;
        progress.bytes("reading", about.is_file().then_some(about.len()));
        lists::from_reader(&mut BufReader::with_capacity(1 << 16, file), name, |n| {
            progress.advance(n);
        })
    };
    progress.finish();
    read
}

/// When new decisions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Never,
    After(Duration),
    At(Timestamp),
}

impl End {
    pub(super) fn of(args: &AddArgs, now: Timestamp, zone: &TimeZone) -> Result<Self> {
        match (args.duration, &args.until) {
            (Some(Duration::ZERO), _) => Err(CliError::Usage(
                "--for 0s ends at once: expected a duration such as 30s, 4h or 7d, or no --for at all for a decision without an end".to_owned(),
            )),
            (Some(duration), _) => Ok(Self::After(duration)),
            (None, Some(text)) => {
                let time = parse_time(text, zone)?;
                if time <= now {
                    return Err(CliError::Usage(format!(
                        "--until {} is in the past: it is {} now",
                        absolute(time, zone),
                        absolute(now, zone)
                    )));
                }
                Ok(Self::At(time))
            }
            (None, None) => Ok(Self::Never),
        }
    }

    pub(super) fn parameter(self) -> Option<(&'static str, String)> {
        match self {
            Self::Never => None,
            // Milliseconds are whole for every duration that can be written.
            Self::After(duration) => Some(("for", format!("{}ms", duration.as_millis()))),
            Self::At(time) => Some(("expires_at", time.to_string())),
        }
    }
}

/// Reads a time: RFC 3339, or a date with a time of day in `zone`.
///
/// # Errors
/// [`CliError::Usage`] with the expected forms.
pub fn parse_time(text: &str, zone: &TimeZone) -> Result<Timestamp> {
    let local = || {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        Some(local.to_zoned(zone.clone()).ok()?.timestamp())
    };
    text.parse::<Timestamp>().ok().or_else(local).ok_or_else(|| {
        CliError::Usage(format!(
            "'{}' is not a time: expected one such as 2026-11-22T18:00:00Z, or 2026-11-22T18:00 in the local zone",
            clean(text)
        ))
    })
}

fn request(action: Action, list: &TargetList, end: &End, reason: &str) -> serde_json::Value {
    let targets: Vec<String> = list.targets.iter().map(display_target).collect();
    let mut body = serde_json::json!({ "targets": targets, "action": action, "reason": reason });
    if let Some((name, value)) = end.parameter() {
        body[name] = value.into();
    }
    body
}

async fn import(
    client: &Client,
    action: Action,
    list: &TargetList,
    end: &End,
    reason: &str,
    progress: &Progress,
) -> Result<Imported> {
    let body = list.body()?;
    // Ask before sending megabytes: whoever may not even read hears so at once.
    client.status().await?;
    let mut query: Query =
        vec![("action", action.as_str().to_owned()), ("reason", reason.to_owned())];
    query.extend(end.parameter());
    progress.bytes("sending", Some(body.len() as u64));
    let moved = progress.clone();
    let pieces = futures_util::stream::unfold((body, 0), move |(body, start)| {
        let moved = moved.clone();
        async move {
            let end = (start + PIECE_BYTES).min(body.len());
            let piece = body.get(start..end).unwrap_or(&[]).to_vec();
            if piece.is_empty() {
                moved.wait("storing");
                return None;
            }
            moved.advance(piece.len() as u64);
            Some((Ok::<_, io::Error>(piece), (body, end)))
        }
    });
    client.import(&query, reqwest::Body::wrap_stream(pieces)).await
}

fn done(action: Action) -> &'static str {
    match action {
        Action::Block => "Blocked",
        Action::Allow => "Allowed",
    }
}

fn told(session: &mut Session, action: Action, added: &Added, folded: u64) -> Result<()> {
    match session.format {
        Format::Json => return session.json(added),
        Format::Raw => {
            for decision in &added.decisions {
                session.raw(&super::decisions::raw_row(decision).each_ref().map(String::as_str))?;
            }
        }
        Format::Human => match added.decisions.as_slice() {
            [one] => {
                let line = sentence(one, added, &session.zone);
                session.say(line)?;
            }
            many => {
                session.say(summary(action, many, added, folded))?;
                if many.len() <= MAX_TOLD {
                    let zone = zone_name(session.now(), &session.zone);
                    let mut grid =
                        Grid::new(&[number("id"), fixed("target"), fixed("until")], &zone);
                    for decision in many {
                        grid.row(vec![
                            cell(decision.id.to_string()),
                            cell(display_target(&decision.target)),
                            cell(until(decision, &session.zone)),
                        ]);
                    }
                    session.table(grid)?;
                }
            }
        },
    }
    warnings(session, &added.warnings, added.warnings.len() as u64)
}

/// `Blocked 203.0.113.0/24 until … (1h): decision 12, revision 34.`
fn sentence(decision: &Decision, added: &Added, zone: &TimeZone) -> String {
    let mut text = format!(
        "{GOOD}{}{GOOD:#} {STRONG}{}{STRONG:#} {}: decision {}, revision {}.",
        done(decision.action),
        display_target(&decision.target),
        ending(decision, zone),
        decision.id,
        added.revision,
    );
    if !added.replaced.is_empty() {
        let ids: Vec<String> = added.replaced.iter().map(ToString::to_string).collect();
        text.push_str(&format!(" It replaces decision {}.", ids.join(", ")));
    }
    text
}

fn summary(action: Action, decisions: &[Decision], added: &Added, folded: u64) -> String {
    let mut text = format!(
        "{GOOD}{}{GOOD:#} {}, revision {}",
        done(action),
        counted(decisions.len() as u64, "target", "targets"),
        added.revision
    );
    let replaced = added.replaced.len() as u64;
    if replaced > 0 {
        text.push_str(&format!(
            "; {} replaced",
            counted(replaced, "earlier decision", "earlier decisions")
        ));
    }
    if folded > 0 {
        text.push_str(&format!("; {} folded", counted(folded, "duplicate", "duplicates")));
    }
    text.push('.');
    text
}

fn ending(decision: &Decision, zone: &TimeZone) -> String {
    match decision.expires_at {
        None => "without an end".to_owned(),
        Some(_) => format!("until {}", until(decision, zone)),
    }
}

/// `2026-11-22 17:00:00 UTC (1h)`, counted from when the decision was made.
fn until(decision: &Decision, zone: &TimeZone) -> String {
    decision.expires_at.map_or_else(
        || "no end".to_owned(),
        |end| {
            let length: SignedDuration = end.duration_since(decision.created_at);
            format!("{} ({})", absolute(end, zone), span(length))
        },
    )
}

fn told_import(
    session: &mut Session,
    action: Action,
    imported: &Imported,
    end: &End,
) -> Result<()> {
    match session.format {
        Format::Json => return session.json(imported),
        Format::Raw => {
            let values =
                [imported.added, imported.replaced, imported.duplicates, imported.revision]
                    .map(|value| value.to_string());
            session.raw(&values.each_ref().map(String::as_str))?;
        }
        Format::Human => {
            let ending = match end {
                End::Never => "without an end".to_owned(),
                End::After(duration) => format!("for {}", ipwarden::duration::display(*duration)),
                End::At(time) => format!("until {}", absolute(*time, &session.zone)),
            };
            session.say(format!(
                "{GOOD}{}{GOOD:#} {STRONG}{}{STRONG:#} {ending}: revision {}; {} folded, {} replaced.",
                done(action),
                counted(imported.added, "target", "targets"),
                imported.revision,
                counted(imported.duplicates, "duplicate", "duplicates"),
                counted(imported.replaced, "earlier decision", "earlier decisions"),
            ))?;
        }
    }
    warnings(session, &imported.warnings, imported.warnings_total)
}

/// Tells what has no effect.
fn warnings(session: &mut Session, warnings: &[Warning], total: u64) -> Result<()> {
    for warning in warnings.iter().take(super::error::MAX_PLACES) {
        session.warn(clean(&warning.message))?;
    }
    let unnamed = total.saturating_sub(warnings.len().min(super::error::MAX_PLACES) as u64);
    if unnamed > 0 {
        session
            .warn(format!("{} more blocks have no effect for the same reason", count(unnamed)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn args(duration: Option<Duration>, until: Option<&str>) -> AddArgs {
        AddArgs {
            targets: Vec::new(),
            duration,
            until: until.map(str::to_owned),
            reason: String::new(),
            from: None,
        }
    }

    fn end(duration: Option<Duration>, until: Option<&str>) -> Result<End> {
        End::of(&args(duration, until), at("2026-11-22T16:00:00Z"), &TimeZone::UTC)
    }

    #[test]
    fn an_end_is_a_duration_or_a_time_to_come() {
        assert_eq!(end(None, None).unwrap(), End::Never);
        assert_eq!(
            end(Some(Duration::from_secs(60)), None).unwrap().parameter(),
            Some(("for", "60000ms".to_owned()))
        );
        let six = End::At(at("2026-11-22T18:00:00Z"));
        for text in ["2026-11-22T18:00:00Z", "2026-11-22 18:00", "2026-11-22T19:00:00+01:00"] {
            assert_eq!(end(None, Some(text)).unwrap(), six, "{text}");
        }
    }

    #[test]
    fn an_end_that_is_none_says_what_is_expected() {
        assert_eq!(
            end(None, Some("2026-11-22 15:00")).unwrap_err().to_string(),
            "--until 2026-11-22 15:00:00 UTC is in the past: it is 2026-11-22 16:00:00 UTC now"
        );
        assert_eq!(
            end(None, Some("tea time")).unwrap_err().to_string(),
            "'tea time' is not a time: expected one such as 2026-11-22T18:00:00Z, or 2026-11-22T18:00 in the local zone"
        );
        assert!(
            end(Some(Duration::ZERO), None)
                .unwrap_err()
                .to_string()
                .starts_with("--for 0s ends at once")
        );
    }

    #[test]
    fn one_decision_is_told_in_a_sentence() {
        let decision: Decision = serde_json::from_str(
            r#"{"id":12,"target":"203.0.113.0/24","action":"block","origin":"manual","reason":"",
                "created_at":"2026-11-22T16:00:00Z","expires_at":"2026-11-22T17:00:00Z"}"#,
        )
        .unwrap();
        let added = Added {
            revision: 34,
            decisions: vec![decision.clone()],
            replaced: vec![11],
            warnings: Vec::new(),
        };
        assert_eq!(
            anstream::adapter::strip_str(&sentence(&decision, &added, &TimeZone::UTC)).to_string(),
            "Blocked 203.0.113.0/24 until 2026-11-22 17:00:00 UTC (1h): decision 12, revision 34. It replaces decision 11."
        );
    }
}
