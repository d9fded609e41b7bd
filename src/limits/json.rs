//! A limit as the configuration writes it.

use core::time::Duration;

use serde_json::{Map, Value, json};

use super::matching::{Header, Host, Match};
use super::{Apply, Cost, GrpcStatus, Key, Limit, Mode, Rate, Scope};

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
        if self.scope != Scope::Proxy {
            put("scope", json!(self.scope.as_str()));
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
        put("countries", self.countries.iter().map(ToString::to_string).collect());
        if !self.headers.is_empty() {
            let headers = self.headers.iter().map(|header| (header.name.clone(), values(header)));
            members.insert("headers".to_owned(), Value::Object(headers.collect()));
        }
        match &self.asns[..] {
            [] => None,
            [asn] => members.insert("asn".to_owned(), json!(asn)),
            asns => members.insert("asn".to_owned(), json!(asns)),
        };
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

#[cfg(test)]
mod tests {
    // Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::{check_limit, default_limits};

    /// What is written is what stands there, and it reads back as the same limit.
    #[track_caller]
    fn canonical(json: &str) {
        let limit = check_limit(json.as_bytes()).expect(json);
        let expected: Value = serde_json::from_str(json).unwrap();
        assert_eq!(limit.to_json(), expected);
    }

    #[test]
    fn defaults_are_left_out() {
        let written = check_limit(
            br#"{"name": "a", "match": {}, "apply": "specific", "key": "ip", "cost": {"default": 1},
                 "anonymous": {"requests": 5, "per": "60s", "burst": 5}, "exempt": {},
                 "authenticated": {"requests": 5, "per": "1m"}, "ipv4_prefix": 32, "ipv6_prefix": 64,
                 "headers": false, "grpc_status": "resource_exhausted", "scope": "proxy",
                 "mode": "enforce"}"#,
        )
        .unwrap();
        let expected = json!({"name": "a", "anonymous": {"requests": 5, "per": "1m"}});
        assert_eq!(written.to_json(), expected);
        assert_eq!(
            default_limits()[0].to_json(),
            json!({
                "name": "login",
                "match": {"path_prefix": ["/login", "/admin"]},
                "anonymous": {"requests": 5, "per": "1m"},
                "authenticated": {"requests": 10, "per": "1m"},
            })
        );
    }

    #[test]
    fn what_is_given_is_written_as_it_is() {
        canonical(
            r#"{"name": "all", "apply": "all", "key": "header:x-api-key",
                "match": {"path": "/a", "path_prefix": ["/b", "/c"], "path_regex": "/d.*",
                          "methods": "GET", "hosts": ["a.com", "*.b.com"], "routes": "r",
                          "headers": {"x-a": true, "x-b": "1", "x-c": ["1", "2"]},
                          "ignore_case": true},
                "anonymous": {"requests": 5, "per": "90s", "burst": 9}, "authenticated": "unlimited",
                "tiers": {"claim": ["realm", "plan"], "free": {"requests": 1, "per": "1d"},
                          "pro": "unlimited"},
                "ceiling": "unlimited",
                "cost": {"default": 0, "status": {"401": 5, "4xx": 2, "2xx": 0, "500-510": 1}},
                "exempt": {"addresses": ["10.0.0.0/8", "192.0.2.1"], "identities": "monitor"},
                "ipv4_prefix": 24, "ipv6_prefix": 48, "headers": true,
                "grpc_status": "unavailable", "scope": "fleet", "mode": "shadow"}"#,
        );
        canonical(
            r#"{"name": "a", "apply": "route", "key": "ip+route", "anonymous": "unlimited"}"#,
        );
        canonical(
            r#"{"name": "a", "key": "identity", "anonymous": {"requests": 5, "per": "1h"},
                "authenticated": {"requests": 7, "per": "7d"},
                "ceiling": {"requests": 70, "per": "7d", "burst": 71}}"#,
        );
    }

    #[test]
    fn a_ceiling_that_is_the_default_one_is_left_out() {
        let limit = check_limit(
            br#"{"name": "a", "key": "identity", "anonymous": {"requests": 5, "per": "1m"},
                 "ceiling": {"requests": 50, "per": "1m"}}"#,
        )
        .unwrap();
        assert_eq!(limit.to_json().get("ceiling"), None);
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use ipnet::{IpNet, Ipv4Net, Ipv6Net};
        use proptest::collection::vec;
        use proptest::option;
        use proptest::prelude::*;

        use super::*;
        use crate::geo::Country;
        use crate::limits::matching::Pattern;
        use crate::limits::{Exempt, Tiers};

        fn any_rate() -> impl Strategy<Value = Rate> {
            (
                1..=Rate::MAX_REQUESTS,
                prop_oneof![1..=604_800u64, Just(60), Just(3_600), Just(86_400)],
                option::of(1..=Rate::MAX_REQUESTS),
            )
                .prop_map(|(requests, per, burst)| Rate {
                    requests,
                    per: Duration::from_secs(per),
                    burst: burst.unwrap_or(requests),
                })
        }

        fn any_match() -> impl Strategy<Value = Match> {
            let path = "(/[a-zA-Z0-9é_-]{1,8}){1,3}/?";
            let names = || vec("[a-z]{1,9}", 0..3);
            (
                (vec(path, 0..3), vec(path, 0..3), vec("/[a-z]{0,5}(\\.\\*)?", 0..3)),
                vec("[A-Z]{3,7}", 0..3),
                vec((any::<bool>(), "[a-z]{1,5}\\.[a-z]{2,3}"), 0..3),
                proptest::collection::btree_map(
                    "x-[a-z]{1,4}",
                    option::of(vec("[a-z]{1,4}", 1..3)),
                    0..3,
                ),
                (names(), vec("[A-W]{2}", 0..3), vec(1..=u32::MAX, 0..3)),
                any::<bool>(),
            )
                .prop_map(|(paths, methods, hosts, headers, places, ignore_case)| {
                    Match {
                        paths: paths.0,
                        prefixes: paths.1,
                        patterns: paths
                            .2
                            .iter()
                            .map(|source| Pattern::new(source, ignore_case).unwrap())
                            .collect(),
                        methods,
                        hosts: hosts
                            .into_iter()
                            .map(|(exact, name)| {
                                if exact {
                                    Host::Exact(name)
                                } else {
                                    Host::Suffix(format!(".{name}"))
                                }
                            })
                            .collect(),
                        headers: headers
                            .into_iter()
                            .map(|(name, values)| Header { name, values })
                            .collect(),
                        routes: places.0,
                        countries: places.1.iter().filter_map(|c| Country::new(c)).collect(),
                        asns: places.2,
                        ignore_case,
                    }
                })
        }

        fn any_key() -> impl Strategy<Value = Key> {
            prop_oneof![
                Just(Key::Ip),
                Just(Key::Identity),
                Just(Key::IpAndRoute),
                "[a-z-]{1,9}".prop_map(Key::Header),
            ]
        }

        fn any_cost() -> impl Strategy<Value = Cost> {
            // Of distinct widths, so that none is as narrow as another.
            let ranges =
                proptest::collection::btree_map(0..=150u16, (100..=449u16, 0..=9u32), 0..4);
            (0..=1u32, ranges).prop_map(|(default, ranges)| {
                let mut status: Vec<(u16, u16, u32)> = ranges
                    .into_iter()
                    .map(|(width, (first, cost))| (first, first + width, cost))
                    .collect();
                status.sort_unstable();
                Cost { default, status }
            })
        }

        fn any_exempt() -> impl Strategy<Value = Exempt> {
            let v4 = (any::<u32>(), 0..=32u8)
                .prop_map(|(bits, len)| IpNet::V4(Ipv4Net::new(bits.into(), len).unwrap().trunc()));
            // Outside of the mapped addresses, which are folded.
            let v6 = (any::<u128>(), 8..=128u8).prop_map(|(bits, len)| {
                IpNet::V6(Ipv6Net::new((bits | 1 << 127).into(), len).unwrap().trunc())
            });
            (vec(prop_oneof![v4, v6], 0..4), vec("[a-z:/ é]{1,20}", 0..3))
                .prop_map(|(addresses, identities)| Exempt { addresses, identities })
        }

        prop_compose! {
            fn any_limit()(
                name in "[a-z0-9_-]{1,64}",
                shadow in any::<bool>(),
                apply in prop::sample::select(vec![Apply::Specific, Apply::All, Apply::Route]),
                matches in any_match(),
                key in any_key(),
                anonymous in option::of(any_rate()),
                authenticated in option::of(any_rate()),
                tiers in option::of((
                    vec("[a-z]{1,9}", 1..3),
                    proptest::collection::btree_map("[d-z]{1,9}", option::of(any_rate()), 1..4),
                )),
                ceiling in option::of(option::of(any_rate())),
                cost in any_cost(),
                exempt in any_exempt(),
                prefixes in (1..=32u8, 1..=128u8),
                headers in any::<bool>(),
                unavailable in any::<bool>(),
                fleet in any::<bool>(),
            ) -> Limit {
                let mut limit = Limit {
                    name,
                    mode: if shadow { Mode::Shadow } else { Mode::Enforce },
                    apply,
                    matches,
                    key,
                    anonymous,
                    authenticated,
                    tiers: tiers.map(|(claim, rates)| Tiers {
                        claim,
                        rates: rates.into_iter().collect(),
                    }),
                    ceiling: None,
                    cost,
                    exempt,
                    ipv4_prefix: prefixes.0,
                    ipv6_prefix: prefixes.1,
                    headers,
                    grpc_status: if unavailable {
                        GrpcStatus::Unavailable
                    } else {
                        GrpcStatus::ResourceExhausted
                    },
                    scope: if fleet { Scope::Fleet } else { Scope::Proxy },
                };
                limit.ceiling = match ceiling {
                    Some(ceiling) if !limit.counts_by_address() => ceiling,
                    _ => limit.default_ceiling(),
                };
                limit
            }
        }

        proptest! {
            #[test]
            fn a_limit_reads_back_as_it_was(limit in any_limit()) {
                let written = limit.to_json();
                let read = check_limit(written.to_string().as_bytes());
                prop_assert_eq!(read.as_ref(), Ok(&limit), "{}", written);
                prop_assert_eq!(read.unwrap().to_json(), written);
            }
        }
    }
}
