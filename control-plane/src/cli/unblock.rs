//! `ipwarden unblock` and `ipwarden unallow`: what is not there is explained by what is
//! nearby.

use std::io::BufRead as _;

use clap::Args;
use ipnet::IpNet;
use ipwarden::address::{display_target, parse_target};

use super::client::{Client, MAX_TARGETS};
use super::error::{CliError, MAX_PLACES, Place, Result};
use super::lists;
use super::output::{Format, GOOD, STRONG, Session};
use super::progress::Progress;
use super::regions;
use super::replies::{Decisions, Removed};
use super::text::{clean, counted};
use crate::model::{Action, Decision};

/// Most removed decisions told one by one.
const MAX_TOLD: usize = 20;

/// What to remove.
#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    /// IP addresses or CIDRs, exactly as they were added
    #[arg(value_name = "TARGET", required_unless_present = "from")]
    pub targets: Vec<String>,

    /// Read targets from a file ('-': standard input), one a line, '#' comments
    #[arg(long, value_name = "FILE", conflicts_with = "targets")]
    pub from: Option<String>,

    /// Don't ask before removing several
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// What stands below the help of both.
pub const HELP: &str = "-o raw: id, target, action, origin, made, ends, reason of what is gone.";

/// What `unblock` takes.
#[derive(Debug, Clone, Args)]
pub struct UnblockArgs {
    /// As `unallow` has it.
    #[command(flatten)]
    pub remove: RemoveArgs,

    /// Of countries (country:FR) and autonomous systems (asn:64496): the block at this path;
    /// the one for the whole site if not given
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
}

/// Runs `unblock`.
///
/// # Errors
/// Those of [`run`] and of [`regions::unblock`].
pub async fn unblock(session: &mut Session, client: &Client, args: &UnblockArgs) -> Result<()> {
    let UnblockArgs { remove, path } = args;
    match regions::of_targets(&remove.targets, path.is_some())? {
        Some(found) => regions::unblock(session, client, &found, path.as_deref(), remove.yes).await,
        None => run(session, client, Action::Block, remove).await,
    }
}

/// Runs `unblock` for addresses, or `unallow`.
///
/// # Errors
/// [`CliError::NotFound`] when a target has no such decision, and those of the service.
pub async fn run(
    session: &mut Session,
    client: &Client,
    action: Action,
    args: &RemoveArgs,
) -> Result<()> {
    let progress = Progress::new(session.shows_progress);
    let list = match &args.from {
        Some(name) => super::block::read(name, &progress)?,
        None => lists::from_arguments(&args.targets)?,
    };
    let targets: Vec<String> = list.targets.iter().map(display_target).collect();
    if (targets.len() > 1 || args.from.is_some()) && !args.yes {
        let what = counted(targets.len() as u64, "target", "targets");
        let shown = targets.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if targets.len() > 3 { ", …" } else { "" };
        confirm(session, &format!("{} {what} ({shown}{more})?", verb(action)))?;
    }
    let mut all = Removed { revision: 0, removed: Vec::new(), missing: Vec::new() };
    if targets.len() > MAX_TARGETS {
        progress.things("removing", targets.len() as u64);
    }
    for piece in targets.chunks(MAX_TARGETS) {
        let removed = match client.remove(piece, action).await {
            Ok(removed) => removed,
            Err(error) => {
                progress.finish();
                if !all.removed.is_empty() {
                    let gone = counted(all.removed.len() as u64, "decision was", "decisions were");
                    session.warn(format!("{gone} removed before this"))?;
                }
                return Err(error);
            }
        };
        all.revision = removed.revision;
        all.removed.extend(removed.removed);
        all.missing.extend(removed.missing);
        progress.advance(piece.len() as u64);
    }
    progress.finish();
    told(session, action, &all)?;
    if all.missing.is_empty() {
        return Ok(());
    }
    Err(missing(client, action, &all.missing, targets.len()).await?)
}

/// Asks a person; goes on where nobody can be asked.
///
/// # Errors
/// [`CliError::Usage`]-like refusal when the answer is not yes.
pub fn confirm(session: &mut Session, question: &str) -> Result<()> {
    if !session.can_ask {
        return Ok(());
    }
    session.stdout.flush()?;
    write!(session.stderr, "{} [y/N] ", clean(question))?;
    session.stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(CliError::Refused {
        status: 0,
        message: "not confirmed: nothing was changed".to_owned(),
        places: Vec::new(),
        total: 0,
    })
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Block => "Unblock",
        Action::Allow => "Unallow",
    }
}

fn told(session: &mut Session, action: Action, removed: &Removed) -> Result<()> {
    match session.format {
        Format::Json => session.json(removed),
        Format::Raw => {
            for decision in &removed.removed {
                session.raw(&super::decisions::raw_row(decision).each_ref().map(String::as_str))?;
            }
            Ok(())
        }
        Format::Human => {
            let done = format!("{GOOD}{}ed{GOOD:#}", verb(action));
            match removed.removed.len() {
                0 => Ok(()),
                count if count <= MAX_TOLD => {
                    for decision in &removed.removed {
                        session.say(format!(
                            "{done} {STRONG}{}{STRONG:#}: decision {} ({}) is gone, revision {}.",
                            display_target(&decision.target),
                            decision.id,
                            clean(&decision.origin.to_string()),
                            removed.revision
                        ))?;
                    }
                    Ok(())
                }
                count => session.say(format!(
                    "{done} {}: revision {}.",
                    counted(count as u64, "decision", "decisions"),
                    removed.revision
                )),
            }
        }
    }
}

/// Says of each missing target what is nearby.
async fn missing(
    client: &Client,
    action: Action,
    missing: &[String],
    asked: usize,
) -> Result<CliError> {
    let mut places = Vec::new();
    for text in missing.iter().take(MAX_PLACES) {
        let message = match parse_target(text) {
            Ok(target) => {
                let first = client.check(target.addr(), None).await?;
                let covering = first
                    .decision
                    .into_iter()
                    .chain(first.hidden.into_iter().map(|hidden| hidden.decision))
                    .filter(|other| other.action == action && other.target.contains(&target))
                    .collect();
                let query = vec![
                    ("action", action.as_str().to_owned()),
                    ("inside", target.to_string()),
                    ("limit", "1".to_owned()),
                ];
                nearby(&target, action, covering, &client.decisions(&query).await?)
            }
            Err(error) => error.to_string(),
        };
        places.push(Place { place: text.clone(), message });
    }
    if let ([place], 1) = (places.as_slice(), missing.len())
        && asked == 1
    {
        return Ok(CliError::not_found(place.message.clone()));
    }
    let what = match action {
        Action::Block => "a block",
        Action::Allow => "an allow",
    };
    let message = format!(
        "{} of {} {} not have {what} of their own",
        missing.len(),
        counted(asked as u64, "target", "targets"),
        if missing.len() == 1 { "does" } else { "do" },
    );
    Ok(CliError::NotFound { message, places, total: missing.len() as u64 })
}

/// `203.0.113.7 has no block of its own; 203.0.113.0/24 (decision 12) covers it: …`
fn nearby(target: &IpNet, action: Action, covering: Vec<Decision>, inside: &Decisions) -> String {
    let target = display_target(target);
    let (what, back) = match action {
        Action::Block => ("block", format!(", or allow {target}")),
        Action::Allow => ("allow", String::new()),
    };
    let mut text = format!("{target} has no {what} of its own");
    let named: Vec<String> = covering
        .iter()
        .map(|other| format!("{} (decision {})", display_target(&other.target), other.id))
        .collect();
    match named.as_slice() {
        [] => {}
        [one] => text.push_str(&format!("; {one} covers it: un{what} that{back}")),
        many => text.push_str(&format!("; {} cover it: un{what} those{back}", many.join(" and "))),
    }
    if let Some(first) = inside.decisions.first() {
        let decisions = match action {
            Action::Block => counted(inside.total, "block lies", "blocks lie"),
            Action::Allow => counted(inside.total, "allow lies", "allows lie"),
        };
        text.push_str(&format!(
            "; {decisions} inside it, such as {} (decision {}): `ipwarden decisions --action {what} --inside {target}` lists them",
            display_target(&first.target),
            first.id
        ));
    }
    if covering.is_empty() && inside.decisions.is_empty() {
        text.push_str(", and none covers it or lies inside it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: u32, target: &str) -> Decision {
        serde_json::from_value(serde_json::json!({
            "id": id, "target": target, "action": "block", "origin": "manual", "reason": "",
            "created_at": "2026-11-22T16:00:00Z", "expires_at": null,
        }))
        .unwrap()
    }

    fn inside(decisions: Vec<Decision>, total: u64) -> Decisions {
        Decisions { revision: 1, total, decisions, next: None, regions: Vec::new() }
    }

    fn told(target: &str, covering: Vec<Decision>, inside: &Decisions) -> String {
        nearby(&parse_target(target).unwrap(), Action::Block, covering, inside)
    }

    #[test]
    fn what_covers_a_missing_target_is_named() {
        let none = inside(Vec::new(), 0);
        assert_eq!(
            told("203.0.113.7", vec![decision(12, "203.0.113.0/24")], &none),
            "203.0.113.7 has no block of its own; 203.0.113.0/24 (decision 12) covers it: unblock that, or allow 203.0.113.7"
        );
        assert_eq!(
            told(
                "203.0.113.7",
                vec![decision(12, "203.0.113.0/24"), decision(3, "203.0.0.0/16")],
                &none
            ),
            "203.0.113.7 has no block of its own; 203.0.113.0/24 (decision 12) and 203.0.0.0/16 (decision 3) cover it: unblock those, or allow 203.0.113.7"
        );
    }

    #[test]
    fn what_lies_inside_a_missing_target_is_counted() {
        assert_eq!(
            told("203.0.113.0/24", Vec::new(), &inside(vec![decision(9, "203.0.113.7")], 2)),
            "203.0.113.0/24 has no block of its own; 2 blocks lie inside it, such as 203.0.113.7 (decision 9): `ipwarden decisions --action block --inside 203.0.113.0/24` lists them"
        );
    }

    #[test]
    fn nothing_nearby_is_said_too() {
        assert_eq!(
            told("203.0.113.7", Vec::new(), &inside(Vec::new(), 0)),
            "203.0.113.7 has no block of its own, and none covers it or lies inside it"
        );
    }
}
