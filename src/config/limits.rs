//! The sections `limits` and `limits_table`, one limit on its own, and the payload of a
//! policy.

use core::time::Duration;

use super::json::{Json, printable};
use super::reader::{Errors, Field, Section};
use super::sections::{MAX_NAME_BYTES, MAX_NETWORKS, header_name};
use super::{LimitsTable, OnContention, identity, matches};
use crate::address;
use crate::limits::identity::{MAX_IDENTITY_BYTES, Source};
use crate::limits::policy::{MAX_RESETS, Override, Policy, Reset};
use crate::limits::{
    Apply, Cost, Exempt, GrpcStatus, Key, Limit, MAX_APPLIED, MAX_LIMITS,
    MAX_NAME_BYTES as MAX_LIMIT_NAME_BYTES, Match, Mode, Rate, Scope, Tiers,
};

/// Tiers of one limit, and the longest value of their claim.
const MAX_TIERS: usize = 16;
const MAX_TIER_BYTES: usize = 64;
/// Ranges of statuses with a cost of their own.
const MAX_STATUS_COSTS: usize = 32;
const MAX_IDENTITIES: usize = 256;
/// Longest key of a reset: an identity and the word before it.
const MAX_RESET_KEY_BYTES: usize = MAX_IDENTITY_BYTES + 16;

/// The limits in force where the configuration says nothing of any: on the paths where
/// people log in, 10 requests a minute for clients whose identity is verified, 5 for others.
#[must_use]
pub fn default_limits() -> Vec<Limit> {
    let minute = Duration::from_secs(60);
    let mut limit = undecided("login".to_owned());
    limit.matches.prefixes = vec!["/login".to_owned(), "/admin".to_owned()];
    limit.anonymous = Some(Rate::new(5, minute));
    limit.authenticated = Some(Rate::new(10, minute));
    vec![limit]
}

/// A limit with every default, and no rate yet.
fn undecided(name: String) -> Limit {
    Limit {
        name,
        mode: Mode::Enforce,
        apply: Apply::Specific,
        matches: Match::default(),
        key: Key::Ip,
        anonymous: None,
        authenticated: None,
        tiers: None,
        ceiling: None,
        cost: Cost::default(),
        exempt: Exempt::default(),
        ipv4_prefix: 32,
        ipv6_prefix: 64,
        headers: false,
        grpc_status: GrpcStatus::ResourceExhausted,
        scope: Scope::Proxy,
    }
}

pub(super) fn list(field: &Field<'_>, sources: &[Source], errors: &mut Errors) -> Vec<Limit> {
    let items = field.items(MAX_LIMITS, errors).unwrap_or_default();
    let has_token = sources.iter().any(|source| matches!(source, Source::Jwt { .. }));
    let mut limits: Vec<Limit> = Vec::with_capacity(items.len());
    let mut names = Names::default();
    for item in items {
        let Some(limit) = limit(&item, errors) else { continue };
        names.add(&limit.name, &item.place, errors);
        if limit.tiers.is_some() && !has_token {
            errors.add(
                &format!("{}.tiers", item.place),
                "found no source of kind 'jwt' in 'identity': a tier is read from the verified \
                 token",
            );
        }
        limits.push(limit);
    }
    check_applied(&limits, field, errors);
    limits
}

/// Names that were seen, and where.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn add(&mut self, name: &str, place: &str, errors: &mut Errors) {
        if name.is_empty() {
            return;
        }
        if let Some((_, earlier)) = self.0.iter().find(|(earlier, _)| earlier == name) {
            errors.add(
                &format!("{place}.name"),
                format!("found '{name}', the name of {earlier} too: give each limit its own"),
            );
        }
        self.0.push((name.to_owned(), place.to_owned()));
    }
}

/// One request is charged to a bounded number of limits; what would silently not be looked
/// at is refused here.
fn check_applied(limits: &[Limit], field: &Field<'_>, errors: &mut Errors) {
    let everywhere = limits.iter().filter(|limit| limit.apply == Apply::All).count();
    let beside = usize::from(everywhere < limits.len());
    if everywhere + beside > MAX_APPLIED {
        let most = MAX_APPLIED - beside;
        let others = if beside == 1 { " beside one that applies alone" } else { "" };
        errors.add(
            &field.place,
            format!("found {everywhere} with apply 'all': expected at most {most}{others}"),
        );
    }
}

/// One limit; `None` where it is no object.
pub(super) fn limit(field: &Field<'_>, errors: &mut Errors) -> Option<Limit> {
    let mut section = field.section(errors)?;
    let name = name(&mut section, errors).unwrap_or_default();
    let mut limit = undecided(name);
    if let Some(field) = section.take("match") {
        limit.matches = matches::matches(&field, errors);
    }
    if let Some(field) = section.take("apply") {
        let choices = [("specific", Apply::Specific), ("all", Apply::All), ("route", Apply::Route)];
        limit.apply = field.choice(&choices, errors).unwrap_or(limit.apply);
    }
    if let Some(field) = section.take("key") {
        limit.key = key(&field, errors).unwrap_or(limit.key);
    }
    let mut rates = Rates::default();
    match section.take("anonymous") {
        Some(field) => limit.anonymous = rates.read(&field, errors),
        None => errors.add(
            &section.path("anonymous"),
            "missing: give the rate of clients whose identity is not known, such as \
             {\"requests\": 5, \"per\": \"1m\"}, or \"unlimited\"",
        ),
    }
    limit.authenticated = match section.take("authenticated") {
        Some(field) => rates.read(&field, errors),
        None => limit.anonymous,
    };
    if let Some(field) = section.take("tiers") {
        limit.tiers = tiers(&field, &mut rates, errors);
    }
    limit.ceiling = ceiling(&mut section, &limit, &mut rates, errors);
    if let Some(field) = section.take("cost") {
        limit.cost = cost(&field, errors);
    }
    if let Some(field) = section.take("exempt") {
        limit.exempt = exempt(&field, errors);
    }
    let mut prefix = |name: &'static str, max: u32, default: u8, errors: &mut Errors| {
        let found = section.take(name).and_then(|field| field.whole(1..=max, errors));
        found.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(default)
    };
    limit.ipv4_prefix = prefix("ipv4_prefix", 32, limit.ipv4_prefix, errors);
    limit.ipv6_prefix = prefix("ipv6_prefix", 128, limit.ipv6_prefix, errors);
    if let Some(field) = section.take("headers") {
        limit.headers = field.boolean(errors).unwrap_or_default();
    }
    if let Some(field) = section.take("grpc_status") {
        let choices = [
            ("resource_exhausted", GrpcStatus::ResourceExhausted),
            ("unavailable", GrpcStatus::Unavailable),
        ];
        limit.grpc_status = field.choice(&choices, errors).unwrap_or(limit.grpc_status);
    }
    if let Some(field) = section.take("scope") {
        let choices = [Scope::Proxy, Scope::Fleet].map(|scope| (scope.as_str(), scope));
        limit.scope = field.choice(&choices, errors).unwrap_or(limit.scope);
    }
    if let Some(mode) = mode(&mut section, errors) {
        limit.mode = mode;
    }
    section.finish(errors);
    rates.check(limit.cost.default, errors);
    Some(limit)
}

fn name(section: &mut Section<'_>, errors: &mut Errors) -> Option<String> {
    let Some(field) = section.take("name") else {
        errors.add(&section.path("name"), "missing: name the limit, such as \"login\"");
        return None;
    };
    limit_name(&field, errors)
}

pub(super) fn limit_name(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(MAX_LIMIT_NAME_BYTES, errors)?;
    let word =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if text == "reset" {
        errors.add(
            &field.place,
            "found 'reset', which the API needs for itself: choose another name",
        );
        return None;
    }
    let expected = "lower-case letters, digits, - and _";
    super::sections::checked(text, word, field, expected, errors)
}

pub(super) fn mode(section: &mut Section<'_>, errors: &mut Errors) -> Option<Mode> {
    let choices = [Mode::Enforce, Mode::Shadow].map(|mode| (mode.as_str(), mode));
    section.take("mode")?.choice(&choices, errors)
}

fn key(field: &Field<'_>, errors: &mut Errors) -> Option<Key> {
    if let Json::Text(text) = field.value
        && let Some(name) = text.strip_prefix("header:")
    {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            errors.add(
                &field.place,
                format!("found '{}': expected a name such as 'header:x-api-key'", printable(text)),
            );
            return None;
        }
        return header_name(name, field, errors).map(Key::Header);
    }
    // The last one stands for all headers: it is not a word that anybody would write.
    let choices = [
        ("ip", Some(Key::Ip)),
        ("identity", Some(Key::Identity)),
        ("ip+route", Some(Key::IpAndRoute)),
        ("header:<name>", None),
    ];
    let words: Vec<(&'static str, usize)> =
        choices.iter().enumerate().map(|(at, (word, _))| (*word, at)).collect();
    let at = field.choice(&words, errors)?;
    choices.into_iter().nth(at).and_then(|(_, key)| key)
}

/// The rates of a limit with their places: what a request costs is known only later.
#[derive(Default)]
struct Rates(Vec<(String, Rate)>);

impl Rates {
    /// A rate, or `None` for "unlimited" (and for what is reported as an error).
    fn read(&mut self, field: &Field<'_>, errors: &mut Errors) -> Option<Rate> {
        if let Json::Text(text) = field.value {
            if text != "unlimited" {
                errors.add(
                    &field.place,
                    format!(
                        "found '{}': expected a rate such as {{\"requests\": 5, \"per\": \"1m\"}}, \
                         or \"unlimited\"",
                        printable(text)
                    ),
                );
            }
            return None;
        }
        let rate = rate(field, errors)?;
        self.0.push((field.place.clone(), rate));
        Some(rate)
    }

    /// A bucket that never holds the price of one request refuses them all.
    fn check(&self, cost: u32, errors: &mut Errors) {
        for (place, rate) in &self.0 {
            if rate.burst < cost {
                errors.add(
                    place,
                    format!(
                        "a burst of {} never admits a request that costs {cost}: raise 'burst' or \
                         lower 'cost.default'",
                        rate.burst
                    ),
                );
            }
        }
    }
}

fn rate(field: &Field<'_>, errors: &mut Errors) -> Option<Rate> {
    let mut section = field.section(errors)?;
    let requests = match section.take("requests") {
        Some(field) => field.whole(1..=Rate::MAX_REQUESTS, errors),
        None => {
            errors.add(&section.path("requests"), "missing: give a number of requests");
            None
        }
    };
    let per = match section.take("per") {
        Some(field) => per(&field, errors),
        None => {
            errors.add(&section.path("per"), "missing: give a duration in quotes, such as \"1m\"");
            None
        }
    };
    let burst = match section.take("burst") {
        Some(field) => field.whole(1..=Rate::MAX_REQUESTS, errors),
        None => requests,
    };
    section.finish(errors);
    Some(Rate { requests: requests?, per: per?, burst: burst? })
}

/// Whole seconds: the unit of the headers that tell a client of it.
fn per(field: &Field<'_>, errors: &mut Errors) -> Option<Duration> {
    let per = field.duration(Duration::from_secs(1)..=Rate::MAX_PER, errors)?;
    if per.subsec_nanos() != 0 {
        errors
            .add(&field.place, format!("found {}: expected whole seconds", field.value.describe()));
        return None;
    }
    Some(per)
}

fn tiers(field: &Field<'_>, rates: &mut Rates, errors: &mut Errors) -> Option<Tiers> {
    let mut entries = field.entries(MAX_TIERS + 1, errors)?;
    // 'claim' is a setting; every other member is a tier.
    entries.retain(|(name, _)| *name != "claim");
    let mut section = field.section(errors)?;
    let claim = identity::claim(&mut section, errors);
    if entries.is_empty() {
        errors.add(
            &field.place,
            "found no tier: name at least one value of the claim and its rate, such as \
             \"free\": {\"requests\": 100, \"per\": \"1h\"}",
        );
    }
    let mut found = Vec::with_capacity(entries.len());
    for (name, field) in entries {
        if name.is_empty() || name.len() > MAX_TIER_BYTES {
            errors.add(
                &field.place,
                format!("found a name of {} bytes: expected 1 to {MAX_TIER_BYTES}", name.len()),
            );
        }
        found.push((name.to_owned(), rates.read(&field, errors)));
    }
    // The order of a JSON object's members means nothing.
    found.sort_by(|left, right| left.0.cmp(&right.0));
    Some(Tiers { claim: claim?, rates: found })
}

fn ceiling(
    section: &mut Section<'_>,
    limit: &Limit,
    rates: &mut Rates,
    errors: &mut Errors,
) -> Option<Rate> {
    let Some(field) = section.take("ceiling") else { return limit.default_ceiling() };
    if limit.counts_by_address() {
        errors.add(
            &field.place,
            "the limit counts by address already: remove it, or set 'key' to 'identity' or \
             'header:<name>'",
        );
        return None;
    }
    rates.read(&field, errors)
}

fn cost(field: &Field<'_>, errors: &mut Errors) -> Cost {
    let mut cost = Cost::default();
    let Some(mut section) = field.section(errors) else { return cost };
    if let Some(field) = section.take("default") {
        cost.default = field.whole(0..=Cost::MAX, errors).unwrap_or(cost.default);
    }
    if let Some(field) = section.take("status") {
        for (name, field) in field.entries(MAX_STATUS_COSTS, errors).unwrap_or_default() {
            let Some((first, last)) = statuses(name) else {
                errors.add(
                    &field.place,
                    "expected a status from 100 to 599, a class such as 4xx, or a range such as \
                     200-299",
                );
                continue;
            };
            let Some(price) = field.whole(0..=Cost::MAX, errors) else { continue };
            let rival = cost
                .status
                .iter()
                .find(|(from, to, _)| to - from == last - first && *from <= last && first <= *to);
            if let Some((from, to, _)) = rival {
                errors.add(
                    &field.place,
                    format!(
                        "overlaps {from}-{to}, which is as wide: which of them counts would not be \
                         clear"
                    ),
                );
            }
            cost.status.push((first, last, price));
        }
        cost.status.sort_unstable();
    }
    section.finish(errors);
    cost
}

/// `401`, `4xx` or `200-299`.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let status = |text: &str| {
        let known = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|status| known && (100..=599).contains(status))
    };
    if let Some(class) = text.strip_suffix("xx") {
        let first = status(&format!("{class}00"))?;
        return Some((first, first + 99));
    }
    match text.split_once('-') {
        Some((first, last)) => {
            let range = (status(first)?, status(last)?);
            (range.0 <= range.1).then_some(range)
        }
        None => status(text).map(|status| (status, status)),
    }
}

fn exempt(field: &Field<'_>, errors: &mut Errors) -> Exempt {
    let mut exempt = Exempt::default();
    let Some(mut section) = field.section(errors) else { return exempt };
    if let Some(field) = section.take("addresses") {
        exempt.addresses = field.networks(MAX_NETWORKS, errors).unwrap_or_default();
    }
    if let Some(field) = section.take("identities") {
        let items = field.one_or_more(MAX_IDENTITIES, errors).unwrap_or_default();
        let read = |item: &Field<'_>| item.text(MAX_IDENTITY_BYTES, errors).map(str::to_owned);
        exempt.identities = items.iter().filter_map(read).collect();
    }
    section.finish(errors);
    exempt
}

pub(super) fn table(field: &Field<'_>, errors: &mut Errors) -> LimitsTable {
    let mut table = LimitsTable::default();
    let Some(mut section) = field.section(errors) else { return table };
    if let Some(field) = section.take("keys") {
        table.keys = field.whole(1_000..=16_000_000, errors).unwrap_or(table.keys);
    }
    if let Some(field) = section.take("on_contention") {
        let choices = [("refuse", OnContention::Refuse), ("admit", OnContention::Admit)];
        table.on_contention = field.choice(&choices, errors).unwrap_or(table.on_contention);
    }
    section.finish(errors);
    table
}

pub(super) fn policy(field: &Field<'_>, errors: &mut Errors) -> Option<Policy> {
    let mut section = field.section(errors)?;
    let mut policy = Policy::default();
    if let Some(field) = section.take("limits") {
        let mut names = Names::default();
        let mut whole = Vec::new();
        for item in field.items(MAX_LIMITS, errors).unwrap_or_default() {
            let Some(change) = change(&item, errors) else { continue };
            match &change {
                Override::Whole(limit) => {
                    names.add(&limit.name, &item.place, errors);
                    whole.push(Limit::clone(limit));
                }
                Override::Mode { name, .. } => names.add(name, &item.place, errors),
            }
            policy.limits.push(change);
        }
        let everywhere = whole.iter().filter(|limit| limit.apply == Apply::All).count();
        if everywhere > MAX_APPLIED {
            check_applied(&whole, &field, errors);
        }
    }
    if let Some(field) = section.take("resets") {
        let items = field.items(MAX_RESETS, errors).unwrap_or_default();
        policy.resets = items.iter().filter_map(|item| reset(item, errors)).collect();
    }
    if let Some(field) = section.take("regions") {
        policy.regions = super::geo::regions(&field, errors);
    }
    section.finish(errors);
    Some(policy)
}

/// An entry with no other members than `name` and `mode` changes the mode; every other one is
/// a limit.
fn change(field: &Field<'_>, errors: &mut Errors) -> Option<Override> {
    let Json::Object(members) = field.value else {
        return limit(field, errors).map(|limit| Override::Whole(Box::new(limit)));
    };
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if names != ["mode", "name"] {
        return limit(field, errors).map(|limit| Override::Whole(Box::new(limit)));
    }
    let mut section = field.section(errors)?;
    let name = name(&mut section, errors);
    let mode = mode(&mut section, errors);
    section.finish(errors);
    Some(Override::Mode { name: name?, mode: mode? })
}

fn reset(field: &Field<'_>, errors: &mut Errors) -> Option<Reset> {
    let mut section = field.section(errors)?;
    let id = match section.take("id") {
        Some(field) => field.counter(errors),
        None => {
            errors.add(&section.path("id"), "missing: number the reset");
            None
        }
    };
    let key = match section.take("key") {
        Some(field) => reset_key(&field, errors),
        None => {
            errors.add(&section.path("key"), "missing: say whose bucket is to be full again");
            None
        }
    };
    let limit = match section.take("limit") {
        Some(field) => Some(limit_name(&field, errors)?),
        None => None,
    };
    section.finish(errors);
    Some(Reset { id: id?, key: key?, limit })
}

fn reset_key(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(MAX_RESET_KEY_BYTES, errors)?;
    let value = ["identity:", "header:"].iter().find_map(|kind| text.strip_prefix(kind));
    let fits = match value {
        Some(value) => !value.is_empty(),
        None => address::parse_target(text).is_ok(),
    };
    if !fits {
        errors.add(
            &field.place,
            format!(
                "found '{}': expected an address, a CIDR, identity:<identity> or header:<value>",
                printable(text)
            ),
        );
    }
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
