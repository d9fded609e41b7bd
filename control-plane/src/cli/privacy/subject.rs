//! `ipwarden subject`: everything that is held on an address, told or erased.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use ipwarden::address::display_target;

use crate::cli::client::Client;
use crate::cli::error::Result;
use crate::cli::output::{Format, GOOD, STRONG, Session, WARN};
use crate::cli::progress::Progress;
use crate::cli::table::{Grid, cell, fixed, flexible, number};
use crate::cli::text::{clean, column_time, count, counted, zone_name};
use crate::cli::unblock::confirm;
use crate::privacy::subjects::{SubjectErased, SubjectExport};
use crate::suspects::words;

/// Records asked for at once.
const PAGE: usize = 10_000;
/// Records shown to people; the rest is in JSON.
const SHOWN: usize = 50;

/// What about a subject.
#[derive(Debug, Clone, Args)]
pub struct SubjectArgs {
    /// What to do
    #[command(subcommand)]
    pub command: SubjectCommand,
}

/// What about a subject.
#[derive(Debug, Clone, Subcommand)]
pub enum SubjectCommand {
    /// Tell everything that is held on an address, also under its pseudonyms
    #[command(after_help = "\
-o json is everything, machine-readable; people see the 50 latest records.
-o raw: the records: id, time, method, host, path, status, verdict.")]
    Export {
        /// The address
        ip: IpAddr,
    },
    /// Erase everything that is held on an address
    #[command(after_help = "\
What privacy.keep_security names is left, and told. -o raw: records, hours, suspects,
decisions, texts, mentions.")]
    Erase {
        /// The address
        ip: IpAddr,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs `subject`.
///
/// # Errors
/// Those of the service; a refusal to confirm.
pub async fn run(session: &mut Session, client: &Client, args: &SubjectArgs) -> Result<()> {
    match &args.command {
        SubjectCommand::Export { ip } => export(session, client, *ip).await,
        SubjectCommand::Erase { ip, yes } => {
            if !yes {
                confirm(
                    session,
                    &format!("Erase everything that is held on {ip}? It can't be taken back."),
                )?;
            }
            let erased = client.erase_subject(*ip).await?;
            told(session, &erased)
        }
    }
}

async fn export(session: &mut Session, client: &Client, ip: IpAddr) -> Result<()> {
    let progress = Progress::new(session.shows_progress);
    progress.wait("reading");
    let mut all = client.subject(ip, None, PAGE).await?;
    while let Some(next) = all.next.take() {
        // People see the latest ones only.
        if session.format == Format::Human && all.records.len() >= SHOWN {
            break;
        }
        let page = client.subject(ip, Some(&next), PAGE).await?;
        all.records.extend(page.records);
        all.next = page.next;
    }
    progress.finish();
    match session.format {
        Format::Json => session.json(&all),
        Format::Raw => all.records.iter().try_for_each(|record| {
            session.raw(&[
                &record.id.to_string(),
                &record.time.to_string(),
                &record.method,
                &record.host,
                &record.path,
                &record.status.to_string(),
                &record.verdict,
            ])
        }),
        Format::Human => people(session, &all),
    }
}

fn people(session: &mut Session, all: &SubjectExport) -> Result<()> {
    let held: u64 = all.held.iter().map(|held| held.records).sum();
    session.say(format!("{STRONG}What is held on {}{STRONG:#}", all.ip))?;
    for held in &all.held {
        let key = held.key.as_deref().map_or_else(String::new, |key| format!(" of the key {key}"));
        let records = counted(held.records, "record", "records");
        session.say(format!(
            "  {records} with the address as {}{}",
            clean(&held.form),
            clean(&key)
        ))?;
    }
    let lines = [
        (all.hours.len() as u64, "hour of counts", "hours of counts"),
        (all.suspects.len() as u64, "suspect", "suspects"),
        (all.decisions.len() as u64, "decision about it alone", "decisions about it alone"),
        (all.automatic_blocks, "automatic block remembered", "automatic blocks remembered"),
        (all.limit_resets, "reset of limits", "resets of limits"),
        (all.audit.len() as u64, "line of the audit log", "lines of the audit log"),
    ];
    for (number, one, many) in lines {
        if number > 0 {
            session.say(format!("  {}", counted(number, one, many)))?;
        }
    }
    if held == 0 && lines.iter().all(|(number, ..)| *number == 0) {
        session.say("  nothing")?;
    }
    for suspect in &all.suspects {
        session.say(format!(
            "  suspect {} ({}, {}): {}",
            suspect.id,
            suspect.status.as_str(),
            words::target(suspect),
            clean(&words::reasons(suspect))
        ))?;
    }
    for decision in &all.decisions {
        session.say(format!(
            "  decision {}: {} {} by {}: {}",
            decision.id,
            decision.action.as_str(),
            display_target(&decision.target),
            clean(&decision.origin.to_string()),
            clean(&decision.reason)
        ))?;
    }
    if !all.records.is_empty() {
        let now = session.now();
        let mut grid = Grid::new(
            &[
                fixed("time"),
                fixed("method"),
                flexible("host"),
                flexible("path"),
                number("status"),
                fixed("verdict"),
                fixed("address as"),
            ],
            &zone_name(now, &session.zone),
        );
        for record in all.records.iter().take(SHOWN) {
            grid.row(vec![
                cell(column_time(record.time, &session.zone)),
                cell(&record.method),
                cell(&record.host),
                cell(&record.path),
                cell(record.status.to_string()),
                cell(&record.verdict),
                cell(record.form.as_str()),
            ]);
        }
        session.table(grid)?;
    }
    if held > SHOWN as u64 {
        session.note(format!("-o json tells all {} records", count(held)))?;
    }
    all.notes.iter().try_for_each(|note| session.note(format!("note: {}", clean(note))))
}

fn told(session: &mut Session, erased: &SubjectErased) -> Result<()> {
    match session.format {
        Format::Json => session.json(erased),
        Format::Raw => {
            let numbers = [
                erased.records,
                erased.hours,
                erased.suspects,
                erased.decisions,
                erased.texts,
                erased.redacted,
            ];
            session.raw(&numbers.map(|number| number.to_string()).each_ref().map(String::as_str))
        }
        Format::Human => {
            session.say(format!(
                "{GOOD}Erased{GOOD:#}: {}, {}, {}, {}, {}; {} changed that mentioned it.",
                counted(erased.records, "record", "records"),
                counted(erased.hours, "hour of counts", "hours of counts"),
                counted(erased.suspects, "suspect", "suspects"),
                counted(erased.decisions, "decision", "decisions"),
                counted(erased.texts, "text that only it used", "texts that only it used"),
                counted(erased.redacted, "text", "texts"),
            ))?;
            session.say(format!(
                "In the audit log {STRONG}{}{STRONG:#} stands for the address from now on.",
                clean(&erased.mark)
            ))?;
            for left in &erased.left {
                session.note(format!("left: {}: {}", clean(&left.what), clean(&left.why)))?;
            }
            if !erased.settled {
                session.note(format!(
                    "{WARN}warning:{WARN:#} readers kept write-ahead logs from being emptied: what was erased is in them until the next hourly run"
                ))?;
            }
            Ok(())
        }
    }
}
