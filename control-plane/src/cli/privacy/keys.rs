//! `ipwarden keys` and `ipwarden reveal`: the keys of pseudonyms, never shown but for the edge
//! and by the machine itself.

use std::path::Path;

use clap::{Args, Subcommand};

use crate::cli::client::Client;
use crate::cli::error::{CliError, Result};
use crate::cli::output::{Format, GOOD, STRONG, Session};
use crate::cli::place::Place;
use crate::cli::table::{Grid, cell, fixed, flexible};
use crate::cli::text::{clean, when};
use crate::cli::unblock::confirm;
use crate::privacy::keys::{KeyInfo, KeyStatus, export, parse_pseudonym};

/// What about keys.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden keys
  ipwarden keys rotate
  ipwarden keys destroy 5ab1c0de --yes
  ipwarden keys export-edge > edge.key

-o raw: id, status, created, retired, destroyed.")]
pub struct KeysArgs {
    /// What to do; without it: list
    #[command(subcommand)]
    pub command: Option<KeysCommand>,
}

/// What about keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysCommand {
    /// List keys: ids and dates
    List,
    /// Make a new key; the old one reads its pseudonyms for privacy.old_keys_for, then it is
    /// destroyed
    Rotate,
    /// Destroy a retired key now: nobody can read its pseudonyms any more
    Destroy {
        /// Its id
        id: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Print the current key for the filter's privacy.key; reads the data directory itself and
    /// works on the machine of the service only
    ExportEdge,
}

/// Which pseudonym, and why.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  ipwarden reveal 100.115.72.131@5ab1c0de --reason 'abuse report 4711'

The audit log says who revealed what, and why. -o raw: the address.")]
pub struct RevealArgs {
    /// The pseudonym as it was shown, with the id of its key behind an @
    #[arg(value_name = "PSEUDONYM")]
    pub pseudonym: String,

    /// Why the address is needed
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Runs `keys` where the service is asked.
///
/// # Errors
/// Those of the service; a refusal to confirm.
pub async fn run(session: &mut Session, client: &Client, args: &KeysArgs) -> Result<()> {
    let keys = match &args.command {
        None | Some(KeysCommand::List) | Some(KeysCommand::ExportEdge) => client.keys().await?.keys,
        Some(KeysCommand::Rotate) => {
            let keys = client.rotate_keys().await?.keys;
            if session.format == Format::Human {
                let id = keys.first().map_or("", |key| key.id.as_str());
                session.say(format!(
                    "{GOOD}Made{GOOD:#} the key {STRONG}{}{STRONG:#}. Proxies that make pseudonyms keep the old one until they are given this one (ipwarden keys export-edge).",
                    clean(id)
                ))?;
            }
            keys
        }
        Some(KeysCommand::Destroy { id, yes }) => {
            if !yes {
                confirm(
                    session,
                    &format!(
                        "Destroy the key {id}? Nobody can read its pseudonyms any more, ever."
                    ),
                )?;
            }
            let gone = client.destroy_key(id).await?;
            if session.format == Format::Human {
                return session
                    .say(format!("{GOOD}Destroyed{GOOD:#} the key {}.", clean(&gone.id)));
            }
            vec![gone]
        }
    };
    match session.format {
        Format::Json => session.json(&serde_json::json!({ "keys": keys })),
        Format::Raw => keys.iter().try_for_each(|key| {
            let moment =
                |time: Option<jiff::Timestamp>| time.map_or(String::new(), |t| t.to_string());
            session.raw(&[
                &key.id,
                status(key.status),
                &moment(key.created_at),
                &moment(key.retired_at),
                &moment(key.destroyed_at),
            ])
        }),
        Format::Human => table(session, &keys),
    }
}

fn table(session: &mut Session, keys: &[KeyInfo]) -> Result<()> {
    let mut grid = Grid::new(
        &[fixed("key"), fixed("status"), flexible("since"), flexible("destroyed")],
        "UTC",
    );
    let now = session.now();
    let told = |time: Option<jiff::Timestamp>| {
        time.map_or_else(|| "-".to_owned(), |time| when(time, now, &session.zone))
    };
    for key in keys {
        let since = if key.retired_at.is_some() { key.retired_at } else { key.created_at };
        grid.row(vec![
            cell(&key.id),
            cell(status(key.status)),
            cell(told(since)),
            cell(told(key.destroyed_at)),
        ]);
    }
    session.table(grid)
}

const fn status(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Current => "current",
        KeyStatus::Retired => "retired",
        KeyStatus::Destroyed => "destroyed",
    }
}

/// Runs `keys export-edge`: prints the key and nothing else.
///
/// # Errors
/// [`CliError::Start`] where the key can't be read.
pub fn export_edge(session: &mut Session, place: &Place, here: &Path) -> Result<()> {
    let directory = place.data_dir(here).ok_or_else(|| {
        CliError::Usage(
            "no data directory: name the service's with --data-dir, on its machine".to_owned(),
        )
    })?;
    let (id, key) = export(&directory).map_err(|error| CliError::Start(error.to_string()))?;
    if session.format == Format::Json {
        return session.json(&serde_json::json!({ "id": id.to_string(), "key": key }));
    }
    session.say(&key)?;
    if session.format == Format::Human {
        session.note(format!(
            "This is the secret of the key {id}: keep it in a secret of Envoy's (privacy.key of the filter), and nowhere else."
        ))?;
    }
    Ok(())
}

/// Runs `reveal`.
///
/// # Errors
/// [`CliError::Usage`] for a text that is no pseudonym; those of the service.
pub async fn reveal(session: &mut Session, client: &Client, args: &RevealArgs) -> Result<()> {
    if parse_pseudonym(&args.pseudonym).is_none() {
        return Err(CliError::Usage(format!(
            "'{}' is no pseudonym: expected one such as 100.115.72.131@5ab1c0de",
            clean(&args.pseudonym)
        )));
    }
    let found = client.reveal(&args.pseudonym, &args.reason).await?;
    match session.format {
        Format::Json => session.json(&found),
        Format::Raw => session.raw(&[&found.ip.to_string()]),
        Format::Human => session.say(format!(
            "{} of the key {} is {STRONG}{}{STRONG:#}. The audit log says that you asked.",
            found.pseudonym,
            clean(&found.key),
            found.ip
        )),
    }
}
