//! `ipwarden check`: the verdict on one address in words.

use std::net::IpAddr;

use clap::Args;
use ipwarden::address::{display_target, parse_target};
use ipwarden::limits::Mode;
use jiff::{Timestamp, tz::TimeZone};

use super::client::Client;
use super::decisions::raw_row;
use super::error::{CliError, Place, Result};
use super::output::{BAD, Format, GOOD, STRONG, Session};
use super::regions;
use super::replies::{Checked, RegionChecked};
use super::text::{clean, counted, when};
use crate::model::Action;
use crate::regions::Rule;

/// Which address.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "-o raw: ip, verdict (blocked, allowed, none), then the decision's id, target, action, origin, made, ends, reason."
)]
pub struct CheckArgs {
    /// One IP address
    #[arg(value_name = "IP")]
    pub ip: String,

    /// Also say what happens at this path, which decisions by country and autonomous system may
    /// be about
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
}

/// Runs `check`.
///
/// # Errors
/// A text that is no single address, and those of the service.
pub async fn run(session: &mut Session, client: &Client, args: &CheckArgs) -> Result<()> {
    let ip = single_address(&args.ip)?;
    let checked = client.check(ip, args.path.as_deref()).await?;
    match session.format {
        Format::Json => session.json(&checked),
        Format::Raw => {
            let mut values = vec![checked.ip.clone(), checked.verdict.clone()];
            match &checked.decision {
                Some(decision) => values.extend(raw_row(decision)),
                None if refusing(&checked).is_some() => {
                    let row = refusing(&checked).map(regions::raw_row);
                    values.extend(row.into_iter().flatten().take(7));
                }
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
        let first = match refusing(checked) {
            Some(rule) => format!(
                "{STRONG}{ip}{STRONG:#} is {} (revision {}).",
                regions::verdict(rule, true),
                checked.revision
            ),
            None => format!(
                "{STRONG}{ip}{STRONG:#} is {GOOD}not blocked{GOOD:#}: no decision covers it (revision {}).",
                checked.revision
            ),
        };
        return core::iter::once(first).chain(by_region(checked)).collect();
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
    lines.extend(by_region(checked));
    lines
}

/// The decision by region that refuses it where none about addresses says anything.
fn refusing(checked: &Checked) -> Option<&Rule> {
    let refuses = |one: &&RegionChecked| one.applies && one.rule.mode == Mode::Enforce;
    let decides = checked.decision.is_none();
    checked.regions.iter().find(refuses).filter(|_| decides).map(|one| &one.rule)
}

/// All other decisions that are about its region.
fn by_region(checked: &Checked) -> Vec<String> {
    let told = refusing(checked).map(|rule| rule.id);
    let others: Vec<&RegionChecked> =
        checked.regions.iter().filter(|one| Some(one.rule.id) != told).collect();
    if others.is_empty() {
        return Vec::new();
    }
    let allowed = checked.decision.as_ref().is_some_and(|one| one.action == Action::Allow);
    let mut lines = vec!["Where it is, as far as this service knows:".to_owned()];
    lines.extend(others.iter().map(|one| {
        let hidden = if allowed { "; the allow wins" } else { "" };
        format!("  {}{hidden}", regions::verdict(&one.rule, false))
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replies::Hidden;
    use crate::cli::samples::{decision, now};

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
            regions: Vec::new(),
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
            regions: Vec::new(),
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
}
