//! What a filter's configuration keeps to itself, and which detectors lose sight by it.

use ipwarden::config::Config;
use ipwarden::geo::provider::Provider;
use ipwarden::privacy::settings::{Address, KeySource, UserAgent};

use crate::detect::Rules;
use crate::detect::rules::Needs;

/// The settings in words, with what they cost.
#[must_use]
pub(super) fn words(config: &Config) -> Vec<(&'static str, String)> {
    let settings = &config.privacy;
    let bits = format!("/{} and /{}", settings.ipv4_prefix, settings.ipv6_prefix);
    let addresses = match &settings.address {
        Address::Full => "as they come".to_owned(),
        Address::Truncate => format!("cut to {bits} before they leave Envoy"),
        Address::Pseudonym { scheme, key } => format!(
            "pseudonyms ({}) before they leave Envoy, key {}",
            scheme.as_str(),
            match key {
                KeySource::Given(_) => "in this configuration".to_owned(),
                KeySource::Env(name) => format!("in the environment variable {name}"),
            }
        ),
    };
    let agents = match settings.user_agent {
        UserAgent::Full => "as they come",
        UserAgent::Family => "family only (Firefox, curl, bot, …)",
        UserAgent::None => "left out",
    };
    let queries = if settings.keep_query { "travel with the record" } else { "left out" };
    let choices = &settings.choices;
    let cookie = choices.cookie.as_ref().map(|name| format!("cookie {name}=1"));
    let respected: Vec<String> = [
        choices.gpc.then(|| "Sec-GPC: 1".to_owned()),
        choices.dnt.then(|| "DNT: 1".to_owned()),
        cookie,
    ]
    .into_iter()
    .flatten()
    .collect();
    let opt_out = if respected.is_empty() {
        "none is respected".to_owned()
    } else {
        format!("{}: address cut to {bits}, no user agent, no identity", respected.join(", "))
    };
    let mut words = vec![
        ("addresses", addresses),
        ("user agents", agents.to_owned()),
        ("queries", queries.to_owned()),
        ("opt-out", opt_out),
    ];
    words.extend(losses(config).into_iter().map(|loss| ("loses sight", loss)));
    if let Some(warning) = unseen_places(config) {
        words.push(("warning", warning));
    }
    words
}

/// The rules that see less, by what they miss.
fn losses(config: &Config) -> Vec<String> {
    let settings = &config.privacy;
    let rules = Rules::default_rules();
    let names = |looks: fn(&Needs) -> bool| {
        let names: Vec<&str> = rules
            .list()
            .iter()
            .filter(|rule| looks(&rule.needs))
            .map(|rule| rule.name.as_str())
            .collect();
        names.join(", ")
    };
    let mut losses = Vec::new();
    let agents = names(|needs| needs.user_agent);
    match settings.user_agent {
        UserAgent::Full => {}
        UserAgent::Family => losses.push(format!("rules that see the family only: {agents}")),
        UserAgent::None => losses.push(format!("rules without user agents: {agents}")),
    }
    if !settings.keep_query {
        let queries = names(|needs| needs.query);
        losses.push(format!("rules without queries, paths only: {queries}"));
    }
    match settings.address {
        Address::Full => {}
        Address::Truncate => losses.push(
            "every detector counts networks instead of clients; a suspect is a network".to_owned(),
        ),
        Address::Pseudonym { .. } => losses.push(
            "detectors count by pseudonym; known crawlers, places and lists of addresses are not \
             recognised there"
                .to_owned(),
        ),
    }
    losses
}

/// Rules about places where opted-out clients are not asked about.
fn unseen_places(config: &Config) -> Option<String> {
    let choices = &config.privacy.choices;
    let some = choices.gpc || choices.dnt || choices.cookie.is_some();
    let third = config.geo.as_ref().is_some_and(|geo| geo.provider != Provider::Ipwarden);
    let limits = config.limits.iter().any(|limit| limit.matches.needs_place());
    (some && third && limits).then(|| {
        "limits by place hold for a client that opted out only where its network is known \
         already: a third party is not asked about it; geo.provider 'ipwarden' has no such gap"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(section: &str) -> Vec<(&'static str, String)> {
        let config = ipwarden::config::check(section.as_bytes()).unwrap();
        words(&config)
    }

    #[test]
    fn the_defaults_lose_nothing() {
        assert_eq!(
            told("{}"),
            [
                ("addresses", "as they come".to_owned()),
                ("user agents", "as they come".to_owned()),
                ("queries", "travel with the record".to_owned()),
                (
                    "opt-out",
                    "Sec-GPC: 1, cookie ipwarden_optout=1: address cut to /24 and /48, no user \
                     agent, no identity"
                        .to_owned()
                ),
            ]
        );
    }

    #[test]
    fn detectors_that_lose_sight_are_named() {
        let told =
            told(r#"{"privacy": {"address": "pseudonym", "user_agent": "none", "query": "drop"}}"#);
        let losses: Vec<&str> = told
            .iter()
            .filter(|(what, _)| *what == "loses sight")
            .map(|(_, how)| how.as_str())
            .collect();
        assert!(losses[0].starts_with("rules without user agents: "), "{losses:?}");
        for name in ["scanner-user-agent", "log4shell", "shellshock"] {
            assert!(losses[0].contains(name), "{name}: {losses:?}");
        }
        assert!(!losses[0].contains("crawling"), "{losses:?}");
        assert!(
            losses[1].contains("sql-injection") && losses[1].contains("log4shell"),
            "{losses:?}"
        );
        assert!(losses[2].contains("pseudonym"), "{losses:?}");
        assert_eq!(
            told[0].1,
            "pseudonyms (pfx) before they leave Envoy, key in the environment variable \
             IPWARDEN_PRIVACY_KEY"
        );
    }

    #[test]
    fn a_gap_in_rules_by_place_is_named() {
        let config = |provider| {
            format!(
                r#"{{"geo": {{"cluster": "geo", "provider": "{provider}"}},
                    "limits": [{{"name": "abroad", "match": {{"countries": ["GB"]}},
                                "anonymous": {{"requests": 1, "per": "1h"}}}}]}}"#
            )
        };
        let warns = |provider| told(&config(provider)).iter().any(|(what, _)| *what == "warning");
        assert_eq!((warns("ipinfo"), warns("ipwarden")), (true, false));
    }
}
