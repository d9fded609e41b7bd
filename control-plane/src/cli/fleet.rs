//! `ipwarden proxies`, `ipwarden audit` and `ipwarden token`.

use clap::{Args, Subcommand, ValueEnum};
use jiff::{Timestamp, tz::TimeZone};

use super::client::{Client, Query};
use super::error::Result;
use super::output::{Format, GOOD, STRONG, Session};
use super::table::{Grid, cell, fixed, flexible, moment, number};
use super::text::{clean, column_time, count, counted, relative, when, zone_name};
use super::unblock::confirm;
use crate::model::{Proxy, Role};

/// A proxy that was not heard of for this long is told in yellow, in seconds: two long
/// polls of the filter.
pub const SILENT_SECONDS: i64 = 70;
/// A clock that is off by more than this is told in yellow, in milliseconds.
pub const CLOCK_OFF_MS: i64 = 2_000;
/// Largest page of the audit log that the service gives.
const MAX_AUDIT: usize = 1_000;

/// Runs `proxies`.
///
/// # Errors
/// Those of the service.
pub async fn proxies(session: &mut Session, client: &Client) -> Result<()> {
    let fleet = client.proxies().await?;
    match session.format {
        Format::Json => session.json(&fleet),
        Format::Raw => fleet
            .proxies
            .iter()
            .try_for_each(|proxy| session.raw(&raw_row(proxy).each_ref().map(String::as_str))),
        Format::Human if fleet.proxies.is_empty() => session.say(
            "No proxy has been heard of. One shows up here when its filter asks for decisions for the first time: start Envoy with the filter and the proxy token, then try `ipwarden doctor`.",
        ),
        Format::Human => {
            let now = session.now();
            session.table(grid(&fleet.proxies, now, &zone_name(now, &session.zone)))?;
            session.note(format!("decision set: revision {}", fleet.revision))
        }
    }
}

fn grid(proxies: &[Proxy], now: Timestamp, zone: &str) -> Grid {
    let mut grid = Grid::new(
        &[
            flexible("proxy"),
            fixed("version").expendable(3),
            fixed("last seen"),
            number("revision").expendable(1),
            number("behind"),
            number("workers").expendable(5),
            number("seen").expendable(2),
            number("stored").expendable(4),
            number("lost"),
            number("skipped").expendable(6),
            number("clock").expendable(7),
        ],
        zone,
    );
    for proxy in proxies {
        let seen = cell(relative(proxy.last_seen, now));
        let behind = cell(count(proxy.revision_lag));
        let lost = cell(count(proxy.requests_lost));
        let clock = cell(format!("{:+} ms", proxy.clock_offset_ms));
        grid.row(vec![
            cell(&proxy.name),
            cell(&proxy.version),
            if now.duration_since(proxy.last_seen).as_secs() > SILENT_SECONDS {
                seen.warn()
            } else {
                seen
            },
            cell(proxy.revision.to_string()),
            if proxy.revision_lag > 0 { behind.warn() } else { behind },
            cell(proxy.workers.to_string()),
            cell(count(proxy.requests_seen)),
            cell(count(proxy.requests_stored)),
            if proxy.requests_lost > 0 { lost.bad() } else { lost },
            cell(count(proxy.requests_skipped)),
            if proxy.clock_offset_ms.abs() > CLOCK_OFF_MS { clock.warn() } else { clock },
        ]);
    }
    grid
}

/// name, version, last seen, revision, revisions behind, workers, seen, stored, lost,
/// skipped, clock offset in ms.
fn raw_row(proxy: &Proxy) -> [String; 11] {
    [
        proxy.name.clone(),
        proxy.version.clone(),
        proxy.last_seen.to_string(),
        proxy.revision.to_string(),
        proxy.revision_lag.to_string(),
        proxy.workers.to_string(),
        proxy.requests_seen.to_string(),
        proxy.requests_stored.to_string(),
        proxy.requests_lost.to_string(),
        proxy.requests_skipped.to_string(),
        proxy.clock_offset_ms.to_string(),
    ]
}

/// How much of the audit log.
#[derive(Debug, Clone, Args)]
#[command(after_help = "-o raw: time, actor, action, subject, detail.")]
pub struct AuditArgs {
    /// At most this many entries, newest first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Runs `audit`.
///
/// # Errors
/// Those of the service.
pub async fn audit(session: &mut Session, client: &Client, args: &AuditArgs) -> Result<()> {
    let limit = args.limit as usize;
    let mut entries = Vec::new();
    let mut before: Option<i64> = None;
    let next = loop {
        let mut query: Query = vec![("limit", (limit - entries.len()).min(MAX_AUDIT).to_string())];
        query.extend(before.map(|before| ("before", before.to_string())));
        let page = client.audit(&query).await?;
        entries.extend(page.entries);
        match page.next {
            Some(next) if entries.len() < limit => before = Some(next),
            next => break next,
        }
    };
    match session.format {
        Format::Json => session.json(&serde_json::json!({ "entries": entries, "next": next })),
        Format::Raw => entries.iter().try_for_each(|entry| {
            let time = entry.time.to_string();
            session.raw(&[&time, &entry.actor, &entry.action, &entry.subject, &entry.detail])
        }),
        Format::Human if entries.is_empty() => {
            session.say("The audit log is empty: nobody changed anything yet.")
        }
        Format::Human => {
            let now = session.now();
            let mut grid = Grid::new(
                &[
                    moment("time"),
                    fixed("age").expendable(1),
                    fixed("actor"),
                    fixed("action"),
                    flexible("subject"),
                    flexible("detail"),
                ],
                &zone_name(now, &session.zone),
            );
            for entry in &entries {
                grid.row(vec![
                    cell(column_time(entry.time, &session.zone)),
                    cell(relative(entry.time, now).trim_end_matches(" ago")),
                    cell(&entry.actor),
                    cell(&entry.action),
                    cell(&entry.subject),
                    cell(&entry.detail),
                ]);
            }
            session.table(grid)?;
            if next.is_some() {
                session.note(format!(
                    "the newest {}; --limit N shows more",
                    counted(entries.len() as u64, "entry", "entries")
                ))?;
            }
            Ok(())
        }
    }
}

/// What to do with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print its secret once
    Create {
        /// A name for people, such as edge-paris
        name: String,
        /// proxy: pull decisions, ship records; viewer: read everything; bouncer: read what is refused; admin: everything
        #[arg(
            long,
            value_enum,
            value_name = "proxy|viewer|bouncer|admin",
            hide_possible_values = true
        )]
        role: RoleWord,
    },
    /// List tokens, without their secrets
    List,
    /// Take a token's rights away at once
    Revoke {
        /// Its name
        name: String,
        /// Don't ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
}

/// A role as a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    /// Pull decisions, ship records: for the filter
    Proxy,
    /// Read everything, change nothing
    Viewer,
    /// Read what is refused: for lists and CrowdSec's bouncers
    Bouncer,
    /// Everything an operator does
    Admin,
}

impl From<RoleWord> for Role {
    fn from(word: RoleWord) -> Self {
        match word {
            RoleWord::Proxy => Self::Proxy,
            RoleWord::Viewer => Self::Viewer,
            RoleWord::Bouncer => Self::Bouncer,
            RoleWord::Admin => Self::Admin,
        }
    }
}

/// Runs `token`.
///
/// # Errors
/// Those of the service.
pub async fn token(
    session: &mut Session,
    client: &Client,
    command: Option<&TokenCommand>,
) -> Result<()> {
    match command {
        None | Some(TokenCommand::List) => list_tokens(session, client).await,
        Some(TokenCommand::Create { name, role }) => {
            let made = client.create_token(name, (*role).into()).await?;
            match session.format {
                Format::Json => session.json(&made),
                Format::Raw => session.raw(&[&made.secret]),
                Format::Human => {
                    session.say(format!(
                        "{GOOD}Created{GOOD:#} token {STRONG}{}{STRONG:#} with the role {}. Its secret, shown this once:",
                        clean(&made.token.name),
                        made.token.role.as_str()
                    ))?;
                    session.say(clean(&made.secret))
                }
            }
        }
        Some(TokenCommand::Revoke { name, yes }) => {
            if !yes {
                confirm(
                    session,
                    &format!("Revoke token {name}? Whoever uses it is locked out at once."),
                )?;
            }
            client.revoke_token(name).await?;
            match session.format {
                Format::Json => session.json(&serde_json::json!({ "revoked": name })),
                Format::Raw => session.raw(&[name]),
                Format::Human => session
                    .say(format!("{GOOD}Revoked{GOOD:#} token {STRONG}{}{STRONG:#}.", clean(name))),
            }
        }
    }
}

async fn list_tokens(session: &mut Session, client: &Client) -> Result<()> {
    let tokens = client.tokens().await?;
    let used = |time: Option<Timestamp>| time.map_or_else(String::new, |time| time.to_string());
    match session.format {
        Format::Json => session.json(&tokens),
        Format::Raw => tokens.tokens.iter().try_for_each(|token| {
            let (made, used) = (token.created_at.to_string(), used(token.last_used_at));
            session.raw(&[&token.name, token.role.as_str(), &made, &used])
        }),
        Format::Human if tokens.tokens.is_empty() => {
            session.say("No tokens. `ipwarden token create NAME --role proxy` makes one.")
        }
        Format::Human => {
            let (now, zone) = (session.now(), session.zone.clone());
            session.table(token_grid(&tokens.tokens, now, &zone))
        }
    }
}

fn token_grid(tokens: &[crate::model::Token], now: Timestamp, zone: &TimeZone) -> Grid {
    let mut grid = Grid::new(
        &[flexible("name"), fixed("role"), fixed("made"), fixed("last used")],
        &zone_name(now, zone),
    );
    for token in tokens {
        grid.row(vec![
            cell(&token.name),
            cell(token.role.as_str()),
            cell(when(token.created_at, now, zone)),
            cell(token.last_used_at.map_or_else(|| "never".to_owned(), |time| relative(time, now))),
        ]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_a_table() {
        let proxy: Proxy = serde_json::from_value(serde_json::json!({
            "name": "edge-1", "version": "0.1.0", "last_seen": "2026-11-22T16:00:00Z",
            "revision": 33, "revision_lag": 1, "requests_seen": 120_000, "requests_stored": 119_000,
            "requests_lost": 1_000, "requests_skipped": 0, "clock_offset_ms": -12, "workers": 2,
        }))
        .unwrap();
        let text = grid(&[proxy], "2026-11-22T16:00:05Z".parse().unwrap(), "UTC").render(None).text;
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "proxy   version  last seen  revision  behind  workers     seen   stored   lost  skipped   clock\n\
             edge-1  0.1.0    5s ago           33       1        2  120 000  119 000  1 000        0  -12 ms"
        );
    }
}
