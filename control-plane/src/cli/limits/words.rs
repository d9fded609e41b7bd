//! A limit in words. Reads its JSON as it is: a proxy's filter may be of another version, and
//! what is not known here is not shown rather than refused.

use ipwarden::limits::{Mode, Scope};
use serde_json::Value;

use crate::cli::text::counted;
use crate::limits::mode_of;

/// A rate as the command line reads it: `5/1m`, `5/1m,burst=20`, `unlimited`.
#[must_use]
pub fn rate(rate: &Value) -> String {
    let text = |name| rate.get(name).map(plain);
    match (rate.as_str(), text("requests"), text("per"), text("burst")) {
        (Some(word), ..) => word.to_owned(),
        (None, Some(requests), Some(per), None) => format!("{requests}/{per}"),
        (None, Some(requests), Some(per), Some(burst)) => format!("{requests}/{per},burst={burst}"),
        _ => String::new(),
    }
}

/// The rate of anonymous clients.
#[must_use]
pub fn anonymous(limit: &Value) -> String {
    limit.get("anonymous").map(rate).unwrap_or_default()
}

/// The rate of authenticated clients; that of anonymous ones unless it has its own.
#[must_use]
pub fn authenticated(limit: &Value) -> String {
    limit.get("authenticated").map_or_else(|| anonymous(limit), rate)
}

/// What it counts by.
#[must_use]
pub fn key(limit: &Value) -> String {
    limit.get("key").map_or_else(|| "ip".to_owned(), plain)
}

/// What it counts by, for a sentence: `for each address`.
#[must_use]
pub fn for_each(limit: &Value) -> String {
    match key(limit).as_str() {
        "ip" => "for each address".to_owned(),
        "identity" => "for each identity".to_owned(),
        "ip+route" => "for each address on each route".to_owned(),
        key => match key.strip_prefix("header:") {
            Some(name) => format!("for each value of {name}"),
            None => format!("for each {key}"),
        },
    }
}

/// Whether it counts over all proxies together.
fn counts_over_fleet(limit: &Value) -> bool {
    limit.get("scope").and_then(Value::as_str) == Some(Scope::Fleet.as_str())
}

/// Which requests it is for: `POST /login*, /admin* on shop.example`.
#[must_use]
pub fn applies_to(limit: &Value) -> String {
    let values = |name| limit.pointer(&format!("/match/{name}")).map(list).unwrap_or_default();
    let mut paths = values("path");
    paths.extend(values("path_prefix").into_iter().map(|prefix| format!("{prefix}*")));
    paths.extend(values("path_regex").into_iter().map(|regex| format!("~{regex}")));
    let mut parts = Vec::new();
    let (methods, hosts, routes) = (values("methods"), values("hosts"), values("routes"));
    if !methods.is_empty() {
        parts.push(methods.join("|"));
    }
    if !paths.is_empty() {
        parts.push(paths.join(", "));
    }
    if !hosts.is_empty() {
        parts.push(format!("on {}", hosts.join(", ")));
    }
    let headers = limit.pointer("/match/headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        parts.push(match value {
            Value::Bool(_) => format!("with {name}"),
            value => format!("with {name}={}", list(value).join("|")),
        });
    }
    if !routes.is_empty() {
        parts.push(format!("in route {}", routes.join(", ")));
    }
    let mut text = parts.join(" ");
    if text.is_empty() {
        "every request".clone_into(&mut text);
    }
    match limit.get("apply").and_then(Value::as_str) {
        Some("all") => text.push_str(" (beside others)"),
        Some("route") => text.push_str(" (where a route names it)"),
        _ => {}
    }
    text
}

/// Rates, key and match in one sentence: `5/1m for each address, for /login*`.
#[must_use]
pub fn in_short(limit: &Value) -> String {
    let (anonymous, authenticated) = (anonymous(limit), authenticated(limit));
    let rates = if anonymous == authenticated {
        anonymous
    } else {
        format!("{anonymous}, {authenticated} where authenticated,")
    };
    let fleet = if counts_over_fleet(limit) { " over the fleet" } else { "" };
    format!("{rates} {}{fleet}, for {}", for_each(limit), applies_to(limit))
}

/// A whole limit on one line: `login: 5/1m for each address, for /login*; enforced`.
#[must_use]
pub fn line(limit: &Value) -> String {
    let name = limit.get("name").map(plain).unwrap_or_default();
    format!("{name}: {}; {}", in_short(limit), mode(mode_of(limit)))
}

/// What a mode does, in a sentence about a limit.
#[must_use]
pub const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforced",
        Mode::Shadow => "in shadow mode",
    }
}

/// Everything else that a limit says, each with its name.
#[must_use]
pub fn particulars(limit: &Value) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if let Some(tiers) = limit.get("tiers").and_then(Value::as_object) {
        let rates: Vec<String> = tiers
            .iter()
            .filter(|(name, _)| *name != "claim")
            .map(|(name, value)| format!("{name} {}", rate(value)))
            .collect();
        let claim = tiers.get("claim").map(list).unwrap_or_default().join(".");
        out.push(("tiers", format!("{} (claim {claim})", rates.join(", "))));
    }
    if let Some(ceiling) = limit.get("ceiling") {
        out.push(("ceiling", format!("{} for each address", rate(ceiling))));
    }
    if let Some(cost) = limit.get("cost") {
        let default = cost.get("default").map_or_else(|| "1".to_owned(), plain);
        let by_status = cost.get("status").and_then(Value::as_object).into_iter().flatten();
        let by_status: String =
            by_status.map(|(status, cost)| format!(", {} for {status}", plain(cost))).collect();
        out.push(("cost", format!("{default}{by_status}")));
    }
    if let Some(exempt) = limit.get("exempt") {
        let named = |name| exempt.get(name).map(list).unwrap_or_default();
        let all: Vec<String> = named("addresses").into_iter().chain(named("identities")).collect();
        out.push(("exempt", all.join(", ")));
    }
    for (name, label) in [("ipv4_prefix", "IPv4 networks"), ("ipv6_prefix", "IPv6 networks")] {
        if let Some(prefix) = limit.get(name) {
            out.push((label, format!("/{} share a bucket", plain(prefix))));
        }
    }
    if limit.get("headers") == Some(&Value::Bool(true)) {
        out.push(("headers", "RateLimit on admitted responses, too".to_owned()));
    }
    if let Some(status) = limit.get("grpc_status") {
        out.push(("gRPC status", plain(status)));
    }
    if counts_over_fleet(limit) {
        out.push(("scope", "all proxies together".to_owned()));
    }
    out
}

/// `on 3 proxies`, `on no connected proxy`.
#[must_use]
pub fn on_proxies(proxies: u64) -> String {
    match proxies {
        0 => "on no connected proxy".to_owned(),
        some => format!("on {}", counted(some, "proxy", "proxies")),
    }
}

/// One value or several.
fn list(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().map(plain).collect(),
        value => vec![plain(value)],
    }
}

/// A text without its quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn matches_are_told_in_few_words() {
        for (limit, expected) in [
            (json!({}), "every request"),
            (json!({"apply": "all"}), "every request (beside others)"),
            (json!({"match": {"path_prefix": ["/login", "/admin"]}}), "/login*, /admin*"),
            (
                json!({"match": {"path": "/a", "path_regex": "^/b", "methods": ["POST", "PUT"], "hosts": "*.example.com"}}),
                "POST|PUT /a, ~^/b on *.example.com",
            ),
            (
                json!({"apply": "route", "match": {"headers": {"x-key": true, "x-plan": ["a", "b"]}, "routes": "api"}}),
                "with x-key with x-plan=a|b in route api (where a route names it)",
            ),
        ] {
            assert_eq!(applies_to(&limit), expected, "{limit}");
        }
    }

    #[test]
    fn rates_are_written_as_they_are_read() {
        let limit = json!({
            "anonymous": {"requests": 5, "per": "1m"},
            "authenticated": {"requests": 10, "per": "1m", "burst": 20},
        });
        assert_eq!(
            (anonymous(&limit), authenticated(&limit)),
            ("5/1m".into(), "10/1m,burst=20".into())
        );
        assert_eq!(authenticated(&json!({"anonymous": "unlimited"})), "unlimited");
    }

    #[test]
    fn everything_else_is_named() {
        let limit = json!({
            "tiers": {"claim": ["realm", "plan"], "free": {"requests": 1, "per": "1s"}, "pro": "unlimited"},
            "ceiling": "unlimited", "cost": {"status": {"401": 5}},
            "exempt": {"addresses": ["10.0.0.0/8"], "identities": "monitor"},
            "ipv6_prefix": 56, "headers": true, "grpc_status": "unavailable",
            "scope": "fleet",
        });
        assert!(in_short(&limit).contains("for each address over the fleet, for every request"));
        let told: Vec<String> =
            particulars(&limit).iter().map(|(name, text)| format!("{name}: {text}")).collect();
        assert_eq!(
            told,
            [
                "tiers: free 1/1s, pro unlimited (claim realm.plan)",
                "ceiling: unlimited for each address",
                "cost: 1, 5 for 401",
                "exempt: 10.0.0.0/8, monitor",
                "IPv6 networks: /56 share a bucket",
                "headers: RateLimit on admitted responses, too",
                "gRPC status: unavailable",
                "scope: all proxies together",
            ]
        );
        assert_eq!(particulars(&json!({"name": "login"})), []);
    }
}
