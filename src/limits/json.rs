//! A limit as the configuration writes it.

use core::time::Duration;

use serde_json::{Map, Value, json};

use super::matching::{Header, Host, Match};
use super::{Apply, Cost, GrpcStatus, Key, Limit, Mode, Rate};

/// How much more than one known client all clients of an address may do together, unless the
/// configuration says.
const CEILING_FACTOR: u32 = 10;

impl Limit {
    /// The limit as a JSON object, canonical: what has its default is left out, one value of
    /// a list stands alone. [`crate::config::check_limit`] reads it back as the same limit.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
        put("name", json!(self.name));
        if self.matches != Match::default() {
            put("match", self.matches.to_json());
        }
        match self.apply {
            Apply::Specific => None,
            Apply::All => put("apply", json!("all")),
            Apply::Route => put("apply", json!("route")),
        };
        match &self.key {
            Key::Ip => None,
            Key::Identity => put("key", json!("identity")),
            Key::IpAndRoute => put("key", json!("ip+route")),
            Key::Header(name) => put("key", json!(format!("header:{name}"))),
        };
        put("anonymous", rate(self.anonymous));
        if self.authenticated != self.anonymous {
            put("authenticated", rate(self.authenticated));
        }
        if let Some(tiers) = &self.tiers {
            let mut all: Map<String, Value> =
                tiers.rates.iter().map(|(name, value)| (name.clone(), rate(*value))).collect();
            all.insert("claim".to_owned(), one_or_more(&tiers.claim));
            put("tiers", Value::Object(all));
        }
        if self.ceiling != self.default_ceiling() {
            put("ceiling", rate(self.ceiling));
        }
        if self.cost != Cost::default() {
            put("cost", self.cost.to_json());
        }
        let mut exempt = Map::new();
        if !self.exempt.addresses.is_empty() {
            let all: Vec<String> = self.exempt.addresses.iter().map(address).collect();
            exempt.insert("addresses".to_owned(), json!(all));
        }
        if !self.exempt.identities.is_empty() {
            exempt.insert("identities".to_owned(), one_or_more(&self.exempt.identities));
        }
        if !exempt.is_empty() {
            put("exempt", Value::Object(exempt));
        }
        if self.ipv4_prefix != 32 {
            put("ipv4_prefix", json!(self.ipv4_prefix));
        }
        if self.ipv6_prefix != 64 {
            put("ipv6_prefix", json!(self.ipv6_prefix));
        }
        if self.headers {
            put("headers", json!(true));
        }
        if self.grpc_status == GrpcStatus::Unavailable {
            put("grpc_status", json!("unavailable"));
        }
        if self.mode != Mode::Enforce {
            put("mode", json!(self.mode.as_str()));
        }
        Value::Object(members)
    }

    /// Whether every request is counted by its address, so that a ceiling would say nothing.
    #[must_use]
    pub const fn counts_by_address(&self) -> bool {
        matches!(self.key, Key::Ip | Key::IpAndRoute)
    }

    /// The ceiling where none is configured: ten times what the fastest known client may do
    /// (the fastest anonymous one where no known client has a rate). `None` where the limit
    /// counts by address, or knows no rate at all.
    #[must_use]
    pub fn default_ceiling(&self) -> Option<Rate> {
        if self.counts_by_address() {
            return None;
        }
        let tiers = self.tiers.iter().flat_map(|tiers| &tiers.rates).filter_map(|(_, rate)| *rate);
        let known: Vec<Rate> = self.authenticated.into_iter().chain(tiers).collect();
        let all = if known.is_empty() { self.anonymous.into_iter().collect() } else { known };
        let burst = all.iter().map(|rate| rate.burst).max()?;
        // Of equally fast ones the first, so that the authenticated rate gives the form.
        let fastest = all
            .into_iter()
            .reduce(|best, rate| if speed(rate, best) > speed(best, rate) { rate } else { best })?;
        let tenfold = |number: u32| number.saturating_mul(CEILING_FACTOR).min(Rate::MAX_REQUESTS);
        Some(Rate { requests: tenfold(fastest.requests), burst: tenfold(burst), ..fastest })
    }
}

/// What `left` gives in the time of both: comparable with the same of the other.
fn speed(left: Rate, right: Rate) -> u128 {
    u128::from(left.requests) * right.per.as_nanos()
}

fn rate(rate: Option<Rate>) -> Value {
    let Some(rate) = rate else { return json!("unlimited") };
    let mut value = json!({"requests": rate.requests, "per": duration(rate.per)});
    if rate.burst != rate.requests
        && let Some(members) = value.as_object_mut()
    {
        members.insert("burst".to_owned(), json!(rate.burst));
    }
    value
}

/// Exact, unlike the one for people: the largest unit that leaves no rest.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    match units.into_iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

/// A network as people write it: a single address without its prefix length.
fn address(net: &ipnet::IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn one_or_more(values: &[String]) -> Value {
    match values {
        [value] => json!(value),
        values => json!(values),
    }
}

impl Match {
    fn to_json(&self) -> Value {
        let mut members = Map::new();
        let mut put = |name: &str, values: Vec<String>| {
            if !values.is_empty() {
                members.insert(name.to_owned(), one_or_more(&values));
            }
        };
        put("path", self.paths.clone());
        put("path_prefix", self.prefixes.clone());
        put("path_regex", self.patterns.iter().map(|p| p.source().to_owned()).collect());
        put("methods", self.methods.clone());
        put("hosts", self.hosts.iter().map(host).collect());
        put("routes", self.routes.clone());
        if !self.headers.is_empty() {
            let headers = self.headers.iter().map(|header| (header.name.clone(), values(header)));
            members.insert("headers".to_owned(), Value::Object(headers.collect()));
        }
        if self.ignore_case {
            members.insert("ignore_case".to_owned(), json!(true));
        }
        Value::Object(members)
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Exact(name) => name.clone(),
        Host::Suffix(suffix) => format!("*{suffix}"),
    }
}

fn values(header: &Header) -> Value {
    header.values.as_deref().map_or(json!(true), one_or_more)
}

impl Cost {
    fn to_json(&self) -> Value {
        let mut members = Map::new();
        if self.default != Self::default().default {
            members.insert("default".to_owned(), json!(self.default));
        }
        if !self.status.is_empty() {
            let all = self.status.iter().map(|(first, last, cost)| {
                let name = match (first, last) {
                    _ if first == last => first.to_string(),
                    _ if first % 100 == 0 && *last == first + 99 => format!("{}xx", first / 100),
                    _ => format!("{first}-{last}"),
                };
                (name, json!(cost))
            });
            members.insert("status".to_owned(), Value::Object(all.collect()));
        }
        Value::Object(members)
    }
}
