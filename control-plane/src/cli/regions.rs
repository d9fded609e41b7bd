//! `ipwarden block` and `unblock` for countries and autonomous systems.

use clap::Args;
use ipwarden::geo::regions::{Region, check_path};
use ipwarden::limits::Mode;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::block::{AddArgs, End};
use super::client::Client;
use super::error::{CliError, Place, Result};
use super::output::{BAD, Format, GOOD, STRONG, Session};
use super::replies::RegionsChanged;
use super::table::{Grid, cell, fixed, flexible, moment, number};
use super::text::{absolute, clean, column_time, counted, relative, span, zone_name};
use super::unblock::confirm;
use crate::regions::{Rule, WHOLE_SITE};

/// Where regions are refused, and how.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "For countries (country:FR) and autonomous systems (asn:64496)")]
pub struct RegionArgs {
    /// Refuse them at this path and below it, everywhere else they pass
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,

    /// Refuse them on the whole site: starts in shadow, where it only records whom it would refuse
    #[arg(long, conflicts_with = "path")]
    pub yes_whole_region: bool,

    /// Only record whom it would refuse
    #[arg(long, conflicts_with = "enforce")]
    pub shadow: bool,

    /// Switch on what is in shadow; its end and reason stay
    #[arg(long, conflicts_with_all = ["duration", "until", "reason"])]
    pub enforce: bool,
}

impl RegionArgs {
    /// Whether any of it is given.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        self.path.is_some() || self.yes_whole_region || self.shadow || self.enforce
    }
}

/// The regions among the targets of a command, `country:FR,BE` being two; `None` where all of
/// them are addresses.
///
/// # Errors
/// [`CliError`] for regions beside addresses, for what is no region, and for options of regions
/// (`is_given`) without one.
pub fn of_targets(targets: &[String], is_given: bool) -> Result<Option<Vec<Region>>> {
    let (meant, others): (Vec<_>, Vec<_>) =
        targets.iter().partition(|text| Region::is_meant(text.trim()));
    if meant.is_empty() {
        if is_given {
            return Err(CliError::Usage(
                "--path, --yes-whole-region, --shadow and --enforce are for countries and autonomous systems, such as country:FR; a decision about an address is for every path".to_owned(),
            ));
        }
        return Ok(None);
    }
    if let Some(other) = others.first() {
        return Err(CliError::Usage(format!(
            "'{}' is an address beside a region: give addresses and regions in two commands",
            clean(other)
        )));
    }
    let mut regions: Vec<Region> = Vec::new();
    let mut places = Vec::new();
    for text in meant {
        let text = text.trim();
        let (kind, values) = text.split_once(':').unwrap_or((text, ""));
        for value in values.split(',') {
            match Region::parse(&format!("{kind}:{}", value.trim())) {
                Ok(region) if !regions.contains(&region) => regions.push(region),
                Ok(_) => {}
                Err(error) => {
                    let place = clean(text).into_owned();
                    places.push(Place { place, message: error.to_string() });
                }
            }
        }
    }
    if places.is_empty() {
        return Ok(Some(regions));
    }
    let total = places.len() as u64;
    let message = format!(
        "{}; nothing was sent",
        counted(total, "region is not valid", "regions are not valid")
    );
    Err(CliError::Input { message, places, total })
}

/// Refuses regions, or switches rules between shadow and enforced.
///
/// # Errors
/// [`CliError::Usage`] where it is not said where, and those of the service.
pub async fn block(
    session: &mut Session,
    client: &Client,
    regions: &[Region],
    args: &RegionArgs,
    terms: &AddArgs,
) -> Result<()> {
    let end = End::of(terms, session.now(), &session.zone)?;
    let mut body = about(regions, args.path.as_deref())?;
    if args.path.is_none() && !args.yes_whole_region {
        return Err(CliError::Usage(format!(
            "where? Add --path /admin to refuse {} there, or --yes-whole-region for the whole site, which starts in shadow. Think of this first: {WHOLE_SITE}",
            named(regions)
        )));
    }
    if args.yes_whole_region {
        body["whole_site"] = true.into();
    }
    if args.enforce {
        body["mode"] = Mode::Enforce.as_str().into();
        let changed = client.set_region_mode(&body).await?;
        told(session, &changed)?;
        return missing(&changed, args.path.as_deref());
    }
    if args.shadow {
        body["mode"] = Mode::Shadow.as_str().into();
    }
    body["reason"] = terms.reason.as_str().into();
    if let Some((name, value)) = end.parameter() {
        body[name] = value.into();
    }
    let changed = client.add_regions(&body).await?;
    told(session, &changed)
}

/// Takes rules back.
///
/// # Errors
/// [`CliError::NotFound`] for regions without a rule there, and those of the service.
pub async fn unblock(
    session: &mut Session,
    client: &Client,
    regions: &[Region],
    path: Option<&str>,
    yes: bool,
) -> Result<()> {
    let body = about(regions, path)?;
    if regions.len() > 1 && !yes {
        confirm(session, &format!("Unblock {}?", named(regions)))?;
    }
    let removed = client.remove_regions(&body).await?;
    match session.format {
        Format::Json => session.json(&removed)?,
        Format::Raw => raw(session, &removed.regions)?,
        Format::Human => {
            for rule in &removed.regions {
                session.say(format!(
                    "{GOOD}Unblocked{GOOD:#} {STRONG}{}{STRONG:#} at {}: decision {} is gone, revision {}.",
                    rule.region,
                    clean(&rule.place_in_words()),
                    rule.id,
                    removed.revision
                ))?;
            }
        }
    }
    missing(&removed, path)
}

fn about(regions: &[Region], path: Option<&str>) -> Result<Value> {
    let targets: Vec<String> = regions.iter().map(Region::to_string).collect();
    let mut body = json!({ "targets": targets });
    if let Some(path) = path {
        let path = check_path(path)
            .map_err(|error| CliError::Usage(format!("--path {}: {error}", clean(path))))?;
        body["path"] = path.into();
    }
    Ok(body)
}

fn named(regions: &[Region]) -> String {
    regions.iter().map(Region::to_string).collect::<Vec<_>>().join(", ")
}

fn told(session: &mut Session, changed: &RegionsChanged) -> Result<()> {
    match session.format {
        Format::Json => return session.json(changed),
        Format::Raw => raw(session, &changed.regions)?,
        Format::Human => {
            for rule in &changed.regions {
                let line = sentence(rule, changed, &session.zone);
                session.say(line)?;
            }
        }
    }
    for warning in &changed.warnings {
        session.warn(clean(warning))?;
    }
    let shadow = changed.regions.iter().find(|rule| rule.mode == Mode::Shadow);
    if let (Some(rule), Format::Human) = (shadow, session.format) {
        let place = match &rule.path {
            Some(path) => format!("--path {}", clean(path)),
            None => "--yes-whole-region".to_owned(),
        };
        session.note(format!(
            "nobody is refused yet: `ipwarden requests --verdict shadow` shows whom it would be, and `ipwarden block {} {place} --enforce` switches it on",
            rule.region
        ))?;
    }
    Ok(())
}

/// `Blocked country:FR at /admin and below until … (4h): decision 12, revision 34.`
fn sentence(rule: &Rule, changed: &RegionsChanged, zone: &TimeZone) -> String {
    let done = match rule.mode {
        Mode::Enforce => format!("{GOOD}Blocked{GOOD:#}"),
        Mode::Shadow => format!("{STRONG}In shadow{STRONG:#}:"),
    };
    let end = rule.expires_at.map_or_else(
        || "without an end".to_owned(),
        |end| {
            let length = span(end.duration_since(rule.created_at));
            format!("until {} ({length})", absolute(end, zone))
        },
    );
    let mut text = format!(
        "{done} {STRONG}{}{STRONG:#} at {} {end}: decision {}, revision {}.",
        rule.region,
        clean(&rule.place_in_words()),
        rule.id,
        changed.revision
    );
    if let [replaced] = changed.replaced.as_slice()
        && changed.regions.len() == 1
    {
        text.push_str(&format!(" It replaces decision {replaced}."));
    }
    text
}

fn missing(changed: &RegionsChanged, path: Option<&str>) -> Result<()> {
    if changed.missing.is_empty() {
        return Ok(());
    }
    let place = path.map_or("the whole site".into(), clean);
    Err(CliError::not_found(format!(
        "no decision is about {} at {place}: `ipwarden decisions` lists all",
        clean(&changed.missing.join(", "))
    )))
}

/// The table of decisions by region.
#[must_use]
pub fn grid(rules: &[Rule], now: Timestamp, zone: &TimeZone) -> Grid {
    let mut grid = Grid::new(
        &[
            number("id"),
            fixed("region"),
            flexible("path"),
            fixed("mode"),
            fixed("made").expendable(2),
            fixed("ends"),
            moment("until").expendable(3),
            flexible("reason").expendable(1),
        ],
        &zone_name(now, zone),
    );
    for rule in rules {
        let never = || "never".to_owned();
        grid.row(vec![
            cell(rule.id.to_string()),
            cell(rule.region.to_string()),
            cell(rule.path.as_deref().unwrap_or("whole site")),
            match rule.mode {
                Mode::Enforce => cell("block").bad(),
                Mode::Shadow => cell("shadow"),
            },
            cell(relative(rule.created_at, now)),
            cell(rule.expires_at.map_or_else(never, |end| relative(end, now))),
            cell(rule.expires_at.map_or_else(String::new, |end| column_time(end, zone))),
            cell(&rule.reason),
        ]);
    }
    grid
}

/// What `check` says of one that is about the address.
#[must_use]
pub fn verdict(rule: &Rule, refuses: bool) -> String {
    let mode = if rule.mode == Mode::Shadow { ", in shadow" } else { "" };
    let what = if refuses { format!("{BAD}blocked{BAD:#}") } else { "covered".to_owned() };
    format!(
        "{what} by decision {}: {} at {}{mode}",
        rule.id,
        rule.region,
        clean(&rule.place_in_words())
    )
}

/// Tab-separated: the columns of a decision, then the path.
///
/// # Errors
/// Those of writing.
pub fn raw(session: &mut Session, rules: &[Rule]) -> Result<()> {
    rules.iter().try_for_each(|rule| {
        let row = raw_row(rule);
        session.raw(&row.each_ref().map(String::as_str))
    })
}

/// id, target, block or shadow, origin, made, ends (empty for never), reason, path (empty for
/// the whole site).
#[must_use]
pub fn raw_row(rule: &Rule) -> [String; 8] {
    let mode = match rule.mode {
        Mode::Enforce => "block",
        Mode::Shadow => "shadow",
    };
    [
        rule.id.to_string(),
        rule.region.to_string(),
        mode.to_owned(),
        "manual".to_owned(),
        rule.created_at.to_string(),
        rule.expires_at.map_or_else(String::new, |end| end.to_string()),
        rule.reason.clone(),
        rule.path.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(targets: &[&str]) -> Result<Option<Vec<Region>>> {
        let targets: Vec<String> = targets.iter().map(|text| (*text).to_owned()).collect();
        of_targets(&targets, false)
    }

    #[test]
    fn several_regions_are_one_word_or_several() {
        let found = regions(&["country:fr,BE", "asn:64496", "country:FR"]).unwrap().unwrap();
        assert_eq!(named(&found), "country:FR, country:BE, asn:64496");
        assert_eq!(regions(&["203.0.113.7"]).unwrap(), None);
        assert_eq!(
            regions(&["country:FR", "203.0.113.7"]).unwrap_err().to_string(),
            "'203.0.113.7' is an address beside a region: give addresses and regions in two commands"
        );
        let error = regions(&["country:FR,", "asn:x"]).unwrap_err();
        assert_eq!(error.to_string(), "2 regions are not valid; nothing was sent");
        let error = of_targets(&["192.0.2.1".to_owned()], true).unwrap_err().to_string();
        assert!(error.ends_with("a decision about an address is for every path"), "{error}");
    }

    #[test]
    fn a_rule_is_told_in_a_sentence_and_in_a_table() {
        let rule: Rule = serde_json::from_value(json!({
            "id": 12, "target": "country:FR", "path": "/admin", "mode": "enforce",
            "reason": "scans", "created_at": "2026-11-22T16:00:00Z", "created_by": "ops",
            "expires_at": "2026-11-22T20:00:00Z",
        }))
        .unwrap();
        let changed = RegionsChanged {
            revision: 34,
            regions: vec![rule.clone()],
            replaced: vec![9],
            missing: Vec::new(),
            warnings: Vec::new(),
            proxies: 1,
        };
        let text = sentence(&rule, &changed, &TimeZone::UTC);
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "Blocked country:FR at /admin and below until 2026-11-22 20:00:00 UTC (4h): decision 12, revision 34. It replaces decision 9."
        );
        let grid = grid(&[rule], "2026-11-22T16:02:00Z".parse().unwrap(), &TimeZone::UTC);
        assert_eq!(
            anstream::adapter::strip_str(&grid.render(None).text).to_string(),
            "id  region      path    mode   made    ends      until (UTC)          reason\n\
             12  country:FR  /admin  block  2m ago  in 3h58m  2026-11-22 20:00:00  scans"
        );
    }
}
