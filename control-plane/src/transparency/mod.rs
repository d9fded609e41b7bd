//! What visitors are told: what is collected, why, for how long, who receives it, and how to
//! say no. Made from the configuration in force, never written by hand.
//!
//! | module | owns |
//! |---|---|
//! | here | [`Notice`]: the facts, from the service's configuration and the proxies' reports |
//! | [`edge`] | what a proxy reports of its settings |
//! | [`page`] | the facts as a page, and the page to opt out |
//! | [`template`] | the facts as a text for the site's own policy |
//! | [`editions`] | since when a text says what it says |
//!
//! What this module does not do: it gives no legal advice, names no proxy and no address, and
//! promises nothing that it does not read from a configuration.

pub mod edge;
pub mod editions;
pub mod page;
pub mod template;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::config::{AfterRaw, Config, Keep, duration_words};
use crate::hex::short;
use crate::notify::{Addresses, Kind};
use edge::{Edge, Place, every, some};

/// Everything that the page says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Notice {
    /// Who answers for the site, as configured (`privacy.operator`).
    pub operator: Option<String>,
    /// How to reach them (`privacy.contact`): a mail address or a URL.
    pub contact: Option<String>,
    /// What is noted of a request, and why.
    pub collected: Vec<Collected>,
    /// What becomes of it before it is stored; one entry for each configuration of proxies.
    pub edges: Vec<Edge>,
    /// How long what is kept, and in what form.
    pub kept: Vec<Kept>,
    /// Who else learns of it.
    pub recipients: Vec<Recipient>,
    /// What a visitor can do.
    pub choices: Vec<Choice>,
    /// The cookies that opt out; several where proxies differ.
    pub cookies: Vec<String>,
}

/// Something that is noted of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Collected {
    /// What.
    pub what: String,
    /// What for.
    pub why: String,
}

/// Something that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Kept {
    /// What.
    pub what: String,
    /// For how long, such as `30 days`.
    pub time: String,
    /// In what form.
    pub form: String,
}

/// Somebody who receives something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Recipient {
    /// Who.
    pub who: String,
    /// What they learn.
    pub what: String,
}

/// A way to say no, or to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Choice {
    /// How.
    pub how: String,
    /// What follows.
    pub then: String,
}

/// The text with its date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Edition {
    /// Names the content: another text has another version.
    pub version: String,
    /// When this text was first published.
    #[schema(value_type = String, format = DateTime)]
    pub published: Timestamp,
    /// The software that wrote it.
    pub software: String,
    /// What it says.
    #[serde(flatten)]
    pub notice: Notice,
}

impl Notice {
    /// The facts of a configuration and of what the connected proxies reported.
    #[must_use]
    pub fn new(config: &Config, edges: Vec<Edge>) -> Self {
        let mut cookies: Vec<String> =
            edges.iter().filter_map(|edge| edge.opt_out_cookie.clone()).collect();
        cookies.sort();
        cookies.dedup();
        Self {
            operator: config.privacy.operator.clone(),
            contact: config.privacy.contact.clone(),
            collected: collected(config, &edges),
            kept: kept(config, &edges),
            recipients: recipients(config, &edges),
            choices: choices(config, &edges),
            cookies,
            edges,
        }
    }

    /// Names the content, the same for the same words.
    #[must_use]
    pub fn version(&self) -> String {
        // Made of values: it can't fail, and an empty text has a version, too.
        let text = serde_json::to_vec(self).unwrap_or_default();
        short(&Sha256::digest(&text), 6)
    }

    /// Whether every proxy respects Global Privacy Control; `None` where none has reported.
    #[must_use]
    pub fn respects_gpc(&self) -> Option<bool> {
        (!self.edges.is_empty()).then(|| self.edges.iter().all(|edge| edge.respect_gpc))
    }
}

fn collected(config: &Config, edges: &[Edge]) -> Vec<Collected> {
    let of = |what: &str, why: &str| Collected { what: what.to_owned(), why: why.to_owned() };
    let mut items = vec![
        of(
            "Your network (IP) address",
            "to refuse known attackers, to slow clients that ask too often, and to find attacks that last minutes or hours",
        ),
        of(
            "Time, method, host, path, status, size and duration of each request",
            "to see attacks, faults and overload",
        ),
    ];
    if some(edges, |edge| edge.user_agent != "none") {
        items.push(of(
            "The name by which your browser or program calls itself (user agent)",
            "to tell known scanners from browsers",
        ));
    }
    if some(edges, |edge| edge.query != "drop") {
        items.push(of(
            "The query of a request (what follows the question mark)",
            if config.store_query {
                "to find attacks hidden in it; it is stored with the request"
            } else {
                "to find attacks hidden in it; it is looked at and not stored, but for the fragment that matched an attack"
            },
        ));
    }
    items.push(of("A number that we give the request", "to find it again in other logs of ours"));
    items.push(of(
        "Country, city and network operator of your address, as far as known",
        "to see where attacks come from and, where configured, to offer the site of your country",
    ));
    if some(edges, |edge| edge.identity) {
        items.push(of(
            "The account you are signed in with, as the site verified it",
            "to count requests by account instead of by address",
        ));
    }
    items
}

fn kept(config: &Config, edges: &[Edge]) -> Vec<Kept> {
    let privacy = &config.privacy;
    let of = |what: &str, time: std::time::Duration, form: &str| Kept {
        what: what.to_owned(),
        time: words(time),
        form: form.to_owned(),
    };
    let later = match privacy.address {
        AfterRaw::Pseudonym => {
            "afterwards replaced by a pseudonym, which only who has the key can turn back"
                .to_owned()
        }
        AfterRaw::Truncate => format!(
            "afterwards cut to its network (the first {} bits of IPv4, {} of IPv6) for good",
            privacy.v4_bits, privacy.v6_bits
        ),
    };
    let mut kept = Vec::new();
    if some(edges, |edge| edge.address == "full") {
        kept.push(of("Your address as we received it", privacy.raw_for, &later));
    }
    kept.push(of("Requests that were admitted", privacy.admitted(), "then deleted"));
    kept.push(of("Requests that were refused", privacy.refused(), "then deleted"));
    if privacy.retention_sensitive.is_some() {
        kept.push(of(
            "Requests to sign-in and administration pages",
            privacy.sensitive(),
            "then deleted",
        ));
    }
    kept.push(of(
        "Addresses suspected of an attack, with the reasons",
        privacy.retention_suspects,
        "counted from when they were judged; then deleted",
    ));
    kept.push(of("Blocks and exceptions", config.history, "counted from their end; then deleted"));
    kept.push(of(
        "The log of what our administrators did",
        privacy.retention_audit,
        "then deleted",
    ));
    kept
}

fn recipients(config: &Config, edges: &[Edge]) -> Vec<Recipient> {
    let mut recipients: Vec<Recipient> = Vec::new();
    for edge in edges {
        let Some(place) = &edge.geo else { continue };
        let recipient = match place {
            Place::Own => Recipient {
                who: "Nobody, for places".to_owned(),
                what: "where an address is, is looked up in a database of our own".to_owned(),
            },
            Place::Third { name } => Recipient {
                who: name.clone(),
                what: "one address of each network that visits us, to learn its country, city and operator; not those of visitors who opted out".to_owned(),
            },
        };
        if !recipients.contains(&recipient) {
            recipients.push(recipient);
        }
    }
    // Neither their names nor their URLs are for the public: the latter may be secret.
    for (kind, who) in [
        (Kind::Slack, "The chat service through which our administrators are alerted"),
        (Kind::Webhook, "The system through which our administrators are alerted"),
    ] {
        let hooks = || config.notify.iter().filter(|hook| hook.kind == kind);
        let Some(_) = hooks().next() else { continue };
        let form = if hooks().any(|hook| hook.addresses == Addresses::Full) {
            "in full"
        } else {
            "cut to its network"
        };
        recipients.push(Recipient {
            who: who.to_owned(),
            what: format!("an address suspected of an attack, {form}, with the reasons"),
        });
    }
    recipients.push(Recipient {
        who: "Publishers of block lists".to_owned(),
        what: "nothing: we read their lists and send nothing about visitors".to_owned(),
    });
    recipients
}

fn choices(config: &Config, edges: &[Edge]) -> Vec<Choice> {
    let then = "Protection goes on as for everybody. Your address is cut to its network before it is stored, your browser's name, account and city are not noted, no other company is asked where you are, and you are no part of statistics about visitors.";
    let of = |how: String| Choice { how, then: then.to_owned() };
    let mut choices = Vec::new();
    if every(edges, |edge| edge.respect_gpc) {
        choices.push(of("Switch on Global Privacy Control (GPC) in your browser".to_owned()));
    }
    if every(edges, |edge| edge.respect_dnt) {
        choices.push(of("Switch on Do Not Track (DNT) in your browser".to_owned()));
    }
    if every(edges, |edge| edge.opt_out_cookie.is_some()) {
        choices.push(of(
            "Opt out on this site, which sets a cookie that says nothing else".to_owned()
        ));
    }
    let kept = match config.privacy.keep_security.as_slice() {
        [] => String::new(),
        kept => {
            let words: Vec<&str> = kept
                .iter()
                .map(|keep| match keep {
                    Keep::Decisions => "blocks in force",
                    Keep::Suspects => "suspicions that are open or confirmed",
                })
                .collect();
            format!(" For security we keep {}.", words.join(" and "))
        }
    };
    choices.push(Choice {
        how: match &config.privacy.contact {
            Some(contact) => format!("Ask what we hold on an address of yours: {contact}"),
            None => "Ask whoever runs this site what is held on an address of yours".to_owned(),
        },
        then: format!("We can show everything that is held on it, and erase it.{kept}"),
    });
    choices
}

/// A duration for people.
fn words(duration: std::time::Duration) -> String {
    let short = duration_words(duration);
    let (number, unit) = short.split_at(short.len() - 1);
    let name = match unit {
        "d" => "day",
        "h" => "hour",
        _ => "second",
    };
    format!("{number} {name}{}", if number == "1" { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn notice(toml: &str, edges: &[serde_json::Value]) -> Notice {
        let config = crate::config::check_toml(toml).unwrap();
        Notice::new(&config, edges.iter().map(Edge::read).collect())
    }

    fn edge() -> serde_json::Value {
        json!({
            "address": "full", "ipv4_prefix": 24, "ipv6_prefix": 48, "user_agent": "full",
            "query": "keep", "identity": false, "respect_gpc": true, "respect_dnt": false,
            "opt_out_cookie": "ipwarden_optout",
        })
    }

    fn says(notice: &Notice, text: &str) -> bool {
        serde_json::to_string(notice).unwrap().contains(text)
    }

    #[test]
    fn the_version_changes_with_what_is_said_and_only_then() {
        let first = notice("", &[edge()]);
        assert_eq!(first.version(), notice("[limits]\npolls = 7\n", &[edge()]).version());
        for toml in [
            "history = \"1d\"\n",
            "store_query = true\n",
            "[privacy]\nraw_for = \"24h\"\n",
            "[privacy]\nretention = \"10d\"\n",
            "[privacy]\naddress = \"truncate\"\n",
            "[privacy]\ncontact = \"privacy@example.com\"\n",
        ] {
            assert_ne!(first.version(), notice(toml, &[edge()]).version(), "{toml}");
        }
        let mut truncated = edge();
        truncated["address"] = json!("truncate");
        assert_ne!(first.version(), notice("", &[truncated]).version());
    }

    #[test]
    fn times_are_those_of_the_configuration() {
        let notice = notice(
            "[privacy]\nraw_for = \"24h\"\nretention = \"20d\"\nretention_refused = \"90d\"\n",
            &[edge()],
        );
        let of = |what: &str| &notice.kept.iter().find(|kept| kept.what == what).unwrap().time;
        assert_eq!(of("Your address as we received it"), "1 day");
        assert_eq!(of("Requests that were admitted"), "20 days");
        assert_eq!(of("Requests that were refused"), "90 days");
        // Where no address arrives as it is, none is kept.
        let mut cut = edge();
        cut["address"] = json!("truncate");
        assert!(!says(&self::notice("", &[cut]), "as we received it"));
    }

    #[test]
    fn a_third_party_is_named_and_our_own_database_is_not_one() {
        let mut third = edge();
        third["geo"] = json!({"provider": "ipinfo", "authority": "ipinfo.io"});
        assert!(notice("", &[third]).recipients.iter().any(|r| r.who == "ipinfo.io"));
        let mut own = edge();
        own["geo"] = json!({"provider": "ipwarden", "authority": "ipwarden"});
        assert!(!says(&notice("", &[own.clone()]), "\"who\":\"ipwarden\""));
        assert!(says(&notice("", &[own]), "database of our own"));
    }

    #[test]
    fn who_is_alerted_is_told_without_names_and_secrets() {
        let toml = "[[notify]]\nname = \"ops-room\"\nkind = \"slack\"\nurl = \"https://hooks.example/T0/secret\"\n";
        let told = notice(toml, &[edge()]);
        assert!(says(&told, "chat service") && says(&told, "suspected of an attack"), "{told:?}");
        assert!(!says(&told, "secret") && !says(&told, "ops-room"), "{told:?}");
    }

    #[test]
    fn only_choices_that_count_are_offered() {
        assert!(says(&notice("", &[edge()]), "GPC"));
        let mut deaf = edge();
        deaf["respect_gpc"] = json!(false);
        deaf.as_object_mut().unwrap().remove("opt_out_cookie");
        let told = notice("", &[deaf.clone()]);
        assert!(!says(&told, "GPC") && !says(&told, "sets a cookie"), "{told:?}");
        assert_eq!(told.respects_gpc(), Some(false));
        // One that does not respect it is enough to promise nothing.
        let mixed = notice("", &[edge(), deaf]);
        assert_eq!((mixed.respects_gpc(), says(&mixed, "GPC")), (Some(false), false));
        assert_eq!(notice("", &[]).respects_gpc(), None);
    }
}
