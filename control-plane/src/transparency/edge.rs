//! What a proxy reports of its settings (see `ipwarden::privacy::report`), read leniently: a
//! later filter may say more, and what it does not say is taken as the most that it could tell.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// One configuration of proxies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Edge {
    /// What becomes of addresses before records leave the proxy: full, truncate or pseudonym.
    pub address: String,
    /// Bits that a truncated IPv4 address keeps.
    pub ipv4_prefix: u8,
    /// Bits that a truncated IPv6 address keeps.
    pub ipv6_prefix: u8,
    /// What becomes of user agents: full, family or none.
    pub user_agent: String,
    /// What becomes of queries: keep or drop.
    pub query: String,
    /// Whether records name the verified identity.
    pub identity: bool,
    /// Whether `Sec-GPC: 1` is respected.
    pub respect_gpc: bool,
    /// Whether `DNT: 1` is respected.
    pub respect_dnt: bool,
    /// The cookie that opts out.
    pub opt_out_cookie: Option<String>,
    /// Who is asked where addresses are.
    pub geo: Option<Place>,
}

/// Who is asked where addresses are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A control plane: nobody else.
    Own,
    /// Somebody else.
    Third {
        /// Host name.
        name: String,
    },
}

/// Longest text of a report that is shown.
const MAX_TEXT_BYTES: usize = 255;

impl Edge {
    /// Reads a report.
    #[must_use]
    pub fn read(told: &Value) -> Self {
        let text = |name: &str| {
            told.get(name)
                .and_then(Value::as_str)
                .filter(|text| text.len() <= MAX_TEXT_BYTES)
                .map(str::to_owned)
        };
        let bits = |name: &str, most: u8| {
            let found = told.get(name).and_then(Value::as_u64);
            found.and_then(|bits| u8::try_from(bits).ok()).map_or(most, |bits| bits.min(most))
        };
        let yes = |name: &str| told.get(name).and_then(Value::as_bool);
        let word = |name: &str, known: &[&str], most: &str| {
            text(name).filter(|word| known.contains(&word.as_str())).unwrap_or(most.to_owned())
        };
        let is_token = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let geo = told.get("geo").filter(|geo| geo.is_object()).map(|geo| {
            let of = |name: &str| geo.get(name).and_then(Value::as_str).unwrap_or_default();
            if of("provider") == "ipwarden" {
                Place::Own
            } else {
                Place::Third { name: of("authority").chars().take(MAX_TEXT_BYTES).collect() }
            }
        });
        Self {
            address: word("address", &["full", "truncate", "pseudonym"], "full"),
            ipv4_prefix: bits("ipv4_prefix", 32),
            ipv6_prefix: bits("ipv6_prefix", 128),
            user_agent: word("user_agent", &["full", "family", "none"], "full"),
            query: word("query", &["keep", "drop"], "keep"),
            identity: yes("identity").unwrap_or(true),
            respect_gpc: yes("respect_gpc").unwrap_or(false),
            respect_dnt: yes("respect_dnt").unwrap_or(false),
            opt_out_cookie: text("opt_out_cookie").filter(is_token),
            geo,
        }
    }

    /// What becomes of a request's data before it leaves the proxy, in sentences.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let bits = format!("{} bits of IPv4, {} of IPv6", self.ipv4_prefix, self.ipv6_prefix);
        let mut told = vec![match self.address.as_str() {
            "truncate" => {
                format!(
                    "Your address is cut to its network (the first {bits}) before it is stored."
                )
            }
            "pseudonym" => {
                "Your address is replaced by a pseudonym before it is stored.".to_owned()
            }
            _ => "Your address is stored as it came, for the time below.".to_owned(),
        }];
        match self.user_agent.as_str() {
            "family" => told.push(
                "Of your browser only its family is noted (such as Firefox), no version and no system."
                    .to_owned(),
            ),
            "none" => told.push("Your browser's name is not noted.".to_owned()),
            _ => {}
        }
        if self.query == "drop" {
            told.push("Queries are not noted.".to_owned());
        }
        if self.respect_gpc || self.respect_dnt || self.opt_out_cookie.is_some() {
            told.push(format!("Of visitors who opt out, the first {bits} are stored."));
        }
        told
    }
}

/// Whether some proxy does so, as far as known: before the first report it is assumed.
#[must_use]
pub fn some(edges: &[Edge], does: impl Fn(&Edge) -> bool) -> bool {
    edges.is_empty() || edges.iter().any(does)
}

/// Whether every proxy does so, which can be promised; before the first report nothing is.
#[must_use]
pub fn every(edges: &[Edge], does: impl Fn(&Edge) -> bool) -> bool {
    !edges.is_empty() && edges.iter().all(does)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_filter_reports_is_read_back() {
        let config = br#"{"privacy": {"address": "truncate", "ipv4_prefix": 16, "ipv6_prefix": 32,
            "user_agent": "family", "query": "drop", "respect_dnt": true, "opt_out_cookie": "no"},
            "geo": {"cluster": "g", "provider": "ipinfo"}}"#;
        let config = ipwarden::config::check(config).unwrap();
        assert_eq!(
            Edge::read(&ipwarden::privacy::report::of(&config, None)),
            Edge {
                address: "truncate".into(),
                ipv4_prefix: 16,
                ipv6_prefix: 32,
                user_agent: "family".into(),
                query: "drop".into(),
                identity: false,
                respect_gpc: true,
                respect_dnt: true,
                opt_out_cookie: Some("no".into()),
                geo: Some(Place::Third { name: "ipinfo.io".into() }),
            }
        );
    }

    #[test]
    fn what_is_not_said_or_not_understood_is_the_most_that_could_be_told() {
        for told in [json!({}), json!([]), json!({"address": "<b>", "ipv4_prefix": -1})] {
            let edge = Edge::read(&told);
            assert_eq!(
                (edge.address.as_str(), edge.identity, edge.respect_gpc),
                ("full", true, false)
            );
            assert_eq!((edge.ipv4_prefix, edge.ipv6_prefix), (32, 128));
        }
        let bad = json!({"opt_out_cookie": "a=1; Path=/x"});
        assert_eq!(Edge::read(&bad).opt_out_cookie, None);
    }
}
