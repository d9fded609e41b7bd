//! `ipwarden limits`: what is in force where, and changes to it that every proxy gets at once.
//!
//! | module | owns |
//! |---|---|
//! | [`set`] | a limit from flags or a file |
//! | [`words`] | a limit in words |

pub mod set;
pub mod words;

use clap::{Args, Subcommand};
use ipwarden::limits::Mode;
use jiff::{Timestamp, tz::TimeZone};

use self::set::ModeWord;
use self::words::{anonymous, applies_to, authenticated, key, on_proxies, particulars};
use super::client::Client;
use super::error::{CliError, Result};
use super::output::{FAINT, Format, GOOD, STRONG, Session, WARN};
use super::replies::{LimitMode, LimitRemoved, Limits, ResetMade};
use super::table::{Grid, cell, fixed, flexible};
use super::text::{clean, counted, when, zone_name};
use super::unblock::confirm;
use crate::limits::view::{ConfiguredLimit, LimitInForce, Source};
use crate::limits::{NAME_EXPECTED, is_name, keys, parse_mode};

/// Most proxies named in a table's cell; more are counted.
const MAX_NAMED: usize = 2;

/// What to do with limits.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden limits
  ipwarden limits shadow login                       record what it would refuse, refuse nothing
  ipwarden limits set login --match-prefix /login --anonymous 5/1m --authenticated 10/1m
  ipwarden limits reset 203.0.113.7 --limit login    its bucket is full again

The plugin's own configuration is the default; what is changed here lies over it on every proxy,
within a second, and survives restarts. `ipwarden limits remove NAME` takes a change back.
-o raw: name, mode, source, key, anonymous, authenticated, how many proxies, changed, by whom.")]
pub struct LimitsArgs {
    /// What to do; list if absent
    #[command(subcommand)]
    pub command: Option<LimitsCommand>,
}

/// A command.
#[derive(Debug, Clone, Subcommand)]
pub enum LimitsCommand {
    /// List the limits in force
    #[command(
        after_help = "-o raw: name, mode, source, key, anonymous, authenticated, how many proxies, changed, by whom."
    )]
    List,
    /// Show one limit with everything it says
    #[command(
        after_help = "-o raw: the limit in JSON, as `ipwarden limits set NAME --from -` reads it."
    )]
    Show {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Set a whole limit for every proxy
    Set(Box<set::SetArgs>),
    /// Let a limit count and record what it would refuse, but refuse nothing
    #[command(after_help = "-o raw: name, mode, how many proxies, revision.")]
    Shadow {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Let a limit refuse again
    #[command(after_help = "-o raw: name, mode, how many proxies, revision.")]
    Enforce {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Take a change back: the configured limit is in force again, if there is one
    #[command(after_help = "-o raw: name, how many proxies configure it, revision.")]
    Remove {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
        /// Don't ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Fill a client's bucket, so that it may make requests again at once
    #[command(after_help = "\
Examples:
  ipwarden limits reset 203.0.113.7
  ipwarden limits reset identity:alice --limit api
  ipwarden limits reset header:key-1

-o raw: key, limit (empty: all), number of the reset, how many proxies, revision.")]
    Reset {
        /// An address, a CIDR, identity:IDENTITY or header:VALUE
        #[arg(value_parser = keys::check)]
        key: String,
        /// In this limit only [default: in all]
        #[arg(long, value_name = "NAME", value_parser = name)]
        limit: Option<String>,
    },
}

/// Runs `limits`.
///
/// # Errors
/// [`CliError::NotFound`] when nobody knows a name; those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &LimitsArgs) -> Result<()> {
    match &args.command {
        None | Some(LimitsCommand::List) => {
            let limits = client.limits().await?;
            list(session, &limits)
        }
        Some(LimitsCommand::Show { name }) => {
            let limits = client.limits().await?;
            show(session, &limits, name)
        }
        Some(LimitsCommand::Set(args)) => set::run(session, client, args).await,
        Some(LimitsCommand::Shadow { name }) => {
            change_mode(session, client, name, ModeWord::Shadow).await
        }
        Some(LimitsCommand::Enforce { name }) => {
            change_mode(session, client, name, ModeWord::Enforce).await
        }
        Some(LimitsCommand::Remove { name, yes }) => {
            if !yes {
                let question = format!("Take the change of limit {name} back on every proxy?");
                confirm(session, &question)?;
            }
            let removed = client.remove_limit(name).await?;
            match session.format {
                Format::Json => session.json(&removed),
                Format::Raw => {
                    let (proxies, revision) =
                        (removed.proxies.to_string(), removed.revision.to_string());
                    session.raw(&[&removed.name, &proxies, &revision])
                }
                Format::Human => session.say(removed_sentence(&removed)),
            }
        }
        Some(LimitsCommand::Reset { key, limit }) => {
            let reset = client.reset_limit(key, limit.as_deref()).await?;
            match session.format {
                Format::Json => session.json(&reset),
                Format::Raw => {
                    let numbers = [reset.id, reset.proxies, reset.revision].map(|n| n.to_string());
                    let [id, proxies, revision] = &numbers;
                    let limit = reset.limit.as_deref().unwrap_or_default();
                    session.raw(&[&reset.key, limit, id, proxies, revision])
                }
                Format::Human => session.say(reset_sentence(&reset)),
            }
        }
    }
}

/// Reads the name of a limit.
fn name(text: &str) -> Result<String, String> {
    if !is_name(text) {
        return Err(format!("expected {NAME_EXPECTED}"));
    }
    // `/v1/limits/reset` is taken: such a limit can be configured, but not changed here.
    if text == "reset" {
        return Err("'reset' is a word of the API: give the limit another name".to_owned());
    }
    Ok(text.to_owned())
}

async fn change_mode(
    session: &mut Session,
    client: &Client,
    name: &str,
    mode: ModeWord,
) -> Result<()> {
    let changed = client.set_limit_mode(name, mode.as_str()).await?;
    match session.format {
        Format::Json => session.json(&changed),
        Format::Raw => {
            let (proxies, revision) = (changed.proxies.to_string(), changed.revision.to_string());
            session.raw(&[&changed.name, &changed.mode, &proxies, &revision])
        }
        Format::Human => session.say(mode_sentence(&changed)),
    }
}

fn list(session: &mut Session, limits: &Limits) -> Result<()> {
    match session.format {
        Format::Json => session.json(limits),
        Format::Raw => limits
            .limits
            .iter()
            .try_for_each(|limit| session.raw(&raw_row(limit).each_ref().map(String::as_str))),
        Format::Human if limits.limits.is_empty() => session.say(
            "No limits are known. Proxies say which they configure when they begin to follow this service; `ipwarden limits set login --match-prefix /login --anonymous 5/1m` sets one on all of them.",
        ),
        Format::Human => {
            let zone = zone_name(session.now(), &session.zone);
            session.table(grid(&limits.limits, &zone))?;
            match limits.resets.len() as u64 {
                0 => Ok(()),
                some => session.note(format!(
                    "{} in the last 7 days; -o json names them",
                    counted(some, "reset", "resets")
                )),
            }
        }
    }
}

fn grid(limits: &[LimitInForce], zone: &str) -> Grid {
    let mut grid = Grid::new(
        &[
            fixed("name"),
            fixed("mode"),
            flexible("applies to"),
            fixed("key").expendable(3),
            fixed("anonymous"),
            fixed("authenticated"),
            fixed("source").expendable(2),
            flexible("proxies").expendable(1),
        ],
        zone,
    );
    for row in limits {
        let mode = cell(&row.mode);
        let says = |words: fn(&serde_json::Value) -> String| {
            cell(row.limit.as_ref().map(words).unwrap_or_default())
        };
        let proxies = match row.proxies.len() {
            0 => "none".to_owned(),
            few if few <= MAX_NAMED => row.proxies.join(", "),
            many => counted(many as u64, "proxy", "proxies"),
        };
        grid.row(vec![
            cell(&row.name),
            if parse_mode(&row.mode) == Some(Mode::Shadow) { mode.warn() } else { mode },
            says(applies_to),
            says(key),
            says(anonymous),
            says(authenticated),
            cell(source(row)),
            cell(proxies),
        ]);
    }
    grid
}

fn source(row: &LimitInForce) -> &'static str {
    match (row.source, row.overridden) {
        (Source::Configuration, false) => "configuration",
        (Source::Configuration, true) => "configuration, mode set here",
        (Source::ControlPlane, false) => "set here",
        (Source::ControlPlane, true) => "set here over configuration",
    }
}

/// name, mode, source, key, anonymous, authenticated, proxies, changed, by whom.
fn raw_row(row: &LimitInForce) -> [String; 9] {
    let says = |words: fn(&serde_json::Value) -> String| row.limit.as_ref().map(words);
    [
        row.name.clone(),
        row.mode.clone(),
        match row.source {
            Source::Configuration => "configuration".to_owned(),
            Source::ControlPlane => "control-plane".to_owned(),
        },
        says(key).unwrap_or_default(),
        says(anonymous).unwrap_or_default(),
        says(authenticated).unwrap_or_default(),
        row.proxies.len().to_string(),
        row.changed_at.map_or_else(String::new, |time| time.to_string()),
        row.changed_by.clone().unwrap_or_default(),
    ]
}

fn show(session: &mut Session, limits: &Limits, name: &str) -> Result<()> {
    let rows: Vec<&LimitInForce> = limits.limits.iter().filter(|row| row.name == name).collect();
    if rows.is_empty() {
        return Err(unknown(limits, name));
    }
    match session.format {
        Format::Json => session.json(&serde_json::json!({ "limits": rows })),
        Format::Raw => {
            rows.iter().filter_map(|row| row.limit.as_ref()).try_for_each(|l| session.json_line(l))
        }
        Format::Human => {
            let (now, zone) = (session.now(), session.zone.clone());
            for (at, row) in rows.iter().enumerate() {
                if at > 0 {
                    session.say("")?;
                }
                for line in lines(row, now, &zone) {
                    session.say(line)?;
                }
            }
            Ok(())
        }
    }
}

fn unknown(limits: &Limits, name: &str) -> CliError {
    let mut names: Vec<&str> = limits.limits.iter().map(|row| row.name.as_str()).collect();
    names.dedup();
    CliError::not_found(match names.as_slice() {
        [] => format!("no limit is named {name}: none is known yet"),
        names => format!("no limit is named {name}: known are {}", names.join(", ")),
    })
}

/// One limit with everything it says.
fn lines(row: &LimitInForce, now: Timestamp, zone: &TimeZone) -> Vec<String> {
    let done = match parse_mode(&row.mode) {
        Some(mode) => words::mode(mode),
        None => row.mode.as_str(),
    };
    let mut out = vec![format!(
        "{STRONG}{}{STRONG:#} is {done} {} ({})",
        clean(&row.name),
        on_proxies(row.proxies.len() as u64),
        source(row)
    )];
    let mut told = Vec::new();
    if let Some(limit) = &row.limit {
        told.push(("applies to", applies_to(limit)));
        told.push(("key", key(limit)));
        told.push(("anonymous", anonymous(limit)));
        told.push(("authenticated", authenticated(limit)));
        told.extend(particulars(limit));
    }
    if !row.proxies.is_empty() {
        told.push(("proxies", row.proxies.join(", ")));
    }
    if let (Some(time), Some(who)) = (row.changed_at, &row.changed_by) {
        told.push(("changed", format!("{} by {who}", when(time, now, zone))));
    }
    if row.source == Source::ControlPlane {
        told.extend(row.configured.iter().map(|own| ("configured", configured(own))));
    }
    out.extend(
        told.iter().map(|(what, how)| format!("  {FAINT}{what:<13}{FAINT:#}  {}", clean(how))),
    );
    out
}

/// What is in force again once the change is gone.
fn configured(own: &ConfiguredLimit) -> String {
    format!(
        "{} anonymous, {} authenticated, for {}, {}",
        anonymous(&own.limit),
        authenticated(&own.limit),
        applies_to(&own.limit),
        on_proxies(own.proxies.len() as u64)
    )
}

fn mode_sentence(changed: &LimitMode) -> String {
    let on = on_proxies(changed.proxies);
    let name = clean(&changed.name);
    let waits = if changed.proxies == 0 {
        " It holds for every proxy that connects later, too."
    } else {
        ""
    };
    match parse_mode(&changed.mode) {
        Some(Mode::Shadow) => format!(
            "{STRONG}{name}{STRONG:#} is {WARN}in shadow mode{WARN:#} {on}: it counts and records what it would refuse, and refuses nothing. Revision {}.{waits}",
            changed.revision
        ),
        _ => format!(
            "{STRONG}{name}{STRONG:#} is {GOOD}enforced{GOOD:#} {on}: what is over the limit is refused. Revision {}.{waits}",
            changed.revision
        ),
    }
}

fn removed_sentence(removed: &LimitRemoved) -> String {
    let now = match removed.proxies {
        0 => "no connected proxy configures a limit of that name, so it limits nothing any more"
            .to_owned(),
        some => format!("the configured limit is in force again {}", on_proxies(some)),
    };
    format!(
        "{GOOD}Removed{GOOD:#} the change of {STRONG}{}{STRONG:#}: {now}, revision {}.",
        clean(&removed.name),
        removed.revision
    )
}

fn reset_sentence(reset: &ResetMade) -> String {
    let limit = reset.limit.as_deref().map_or_else(|| "all limits".to_owned(), clean_name);
    format!(
        "{GOOD}Reset{GOOD:#} {STRONG}{}{STRONG:#} in {limit}: its bucket is full again {}, revision {}.",
        clean(&reset.key),
        on_proxies(reset.proxies),
        reset.revision
    )
}

fn clean_name(name: &str) -> String {
    clean(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn rows() -> Vec<LimitInForce> {
        serde_json::from_value(json!([
            {
                "name": "api", "mode": "shadow", "source": "configuration", "overridden": true,
                "limit": {"name": "api", "key": "identity", "anonymous": {"requests": 60, "per": "1m", "burst": 120}, "mode": "shadow"},
                "configured": [], "proxies": ["edge-1", "edge-2"],
                "changed_at": "2026-11-22T15:00:00Z", "changed_by": "admin",
            },
            {
                "name": "login", "mode": "enforce", "source": "control-plane", "overridden": true,
                "limit": {"name": "login", "match": {"path_prefix": ["/login", "/admin"]}, "anonymous": {"requests": 3, "per": "1m"}, "authenticated": {"requests": 10, "per": "1m"}},
                "configured": [{"limit": {"name": "login", "match": {"path_prefix": "/login"}, "anonymous": {"requests": 5, "per": "1m"}}, "proxies": ["edge-1"]}],
                "proxies": ["edge-1", "edge-2", "edge-3"],
                "changed_at": "2026-11-22T15:59:00Z", "changed_by": "admin",
            },
            {
                "name": "search", "mode": "enforce", "source": "configuration", "overridden": true,
                "limit": null, "proxies": [], "changed_at": null, "changed_by": null,
            },
        ]))
        .unwrap()
    }

    #[test]
    fn limits_are_a_table() {
        assert_eq!(
            plain(&grid(&rows(), "UTC").render(None).text),
            "name    mode     applies to        key       anonymous        authenticated    source                        proxies\n\
             api     shadow   every request     identity  60/1m,burst=120  60/1m,burst=120  configuration, mode set here  edge-1, edge-2\n\
             login   enforce  /login*, /admin*  ip        3/1m             10/1m            set here over configuration   3 proxies\n\
             search  enforce                                                                configuration, mode set here  none"
        );
    }

    #[test]
    fn a_limit_is_shown_with_what_it_takes_the_place_of() {
        let now = "2026-11-22T16:00:00Z".parse().unwrap();
        let told: Vec<String> =
            lines(&rows()[1], now, &TimeZone::UTC).iter().map(|line| plain(line)).collect();
        assert_eq!(
            told,
            [
                "login is enforced on 3 proxies (set here over configuration)",
                "  applies to     /login*, /admin*",
                "  key            ip",
                "  anonymous      3/1m",
                "  authenticated  10/1m",
                "  proxies        edge-1, edge-2, edge-3",
                "  changed        2026-11-22 15:59:00 UTC (1m ago) by admin",
                "  configured     5/1m anonymous, 5/1m authenticated, for /login*, on 1 proxy",
            ]
        );
    }

    #[test]
    fn a_name_that_nobody_knows_is_answered_with_known_ones() {
        let limits = Limits { revision: 1, number: 0, limits: rows(), resets: Vec::new() };
        assert_eq!(
            unknown(&limits, "logn").to_string(),
            "no limit is named logn: known are api, login, search"
        );
    }

    #[test]
    fn what_happens_now_is_told() {
        let mode = |mode: &str, proxies| LimitMode {
            revision: 8,
            name: "login".to_owned(),
            mode: mode.to_owned(),
            proxies,
        };
        assert_eq!(
            plain(&mode_sentence(&mode("shadow", 3))),
            "login is in shadow mode on 3 proxies: it counts and records what it would refuse, and refuses nothing. Revision 8."
        );
        assert_eq!(
            plain(&mode_sentence(&mode("enforce", 0))),
            "login is enforced on no connected proxy: what is over the limit is refused. Revision 8. It holds for every proxy that connects later, too."
        );
        let removed = |proxies| LimitRemoved { revision: 9, name: "login".to_owned(), proxies };
        assert_eq!(
            plain(&removed_sentence(&removed(1))),
            "Removed the change of login: the configured limit is in force again on 1 proxy, revision 9."
        );
        assert_eq!(
            plain(&removed_sentence(&removed(0))),
            "Removed the change of login: no connected proxy configures a limit of that name, so it limits nothing any more, revision 9."
        );
        let reset = ResetMade {
            revision: 10,
            id: 4,
            key: "203.0.113.7".to_owned(),
            limit: None,
            proxies: 2,
        };
        assert_eq!(
            plain(&reset_sentence(&reset)),
            "Reset 203.0.113.7 in all limits: its bucket is full again on 2 proxies, revision 10."
        );
    }
}
