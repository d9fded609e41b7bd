//! What is said: pure, from events to JSON.
//!
//! Words of detectors hold pieces of requests. In chat they stand between back ticks, without
//! any of their own, and with Slack's three characters escaped: nobody is called, nothing is
//! linked. In JSON they are strings.

use ipnet::IpNet;
use ipwarden::address::display_target;
use ipwarden::privacy::{AddressForm, truncate};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Addresses, EventKind, Pending};
use crate::suspects::{Suspect, words};

/// Most events in one message to a webhook.
pub const WEBHOOK_EVENTS: usize = 100;
/// Most events in one message to chat.
pub const SLACK_EVENTS: usize = 20;
/// Most reasons of a suspect in one message.
const REASONS: usize = 8;
/// Longest words of a reason in chat, in characters.
const SLACK_WORDS: usize = 200;
/// Masked addresses keep so many bits.
const MASKED_BITS: (u8, u8) = (24, 48);

/// The body for a webhook. `id` names the message: the same events have the same one.
#[must_use]
pub fn webhook(id: &str, events: &[Pending], addresses: Addresses, now: Timestamp) -> Value {
    json!({
        "type": "ipwarden.events",
        "id": id,
        "timestamp": now.to_string(),
        "events": events.iter().map(|event| event_json(event, addresses)).collect::<Vec<_>>(),
    })
}

/// The body for chat. `more` is how many further events wait.
#[must_use]
pub fn slack(events: &[Pending], more: u64, addresses: Addresses) -> Value {
    let mut lines: Vec<String> = events.iter().map(|event| line(event, addresses)).collect();
    if more > 0 {
        lines.push(format!("and {more} more: see `ipwarden suspects`"));
    }
    chat(&lines.join("\n"))
}

/// A message that only says that it arrived.
#[must_use]
pub fn test_webhook(id: &str, hook: &str, now: Timestamp) -> Value {
    json!({
        "type": "ipwarden.test",
        "id": id,
        "timestamp": now.to_string(),
        "hook": hook,
        "events": [],
    })
}

/// The same for chat.
#[must_use]
pub fn test_slack(hook: &str) -> Value {
    chat(&format!("ipwarden: a test of the notification {}", code(hook)))
}

/// An address as a message may name it.
#[must_use]
pub fn target(target: &IpNet, addresses: Addresses) -> String {
    let (v4, v6) = MASKED_BITS;
    let most = if matches!(target, IpNet::V4(_)) { v4 } else { v6 };
    if addresses == Addresses::Full || target.prefix_len() <= most {
        return display_target(target);
    }
    let masked = IpNet::new(truncate(target.addr(), v4, v6), most);
    masked.map_or_else(|_| "an address".to_owned(), |net| net.to_string())
}

/// A suspect's target: one that is no address is named as what it is.
fn target_of(suspect: &Suspect, addresses: Addresses) -> String {
    if suspect.form == AddressForm::Full {
        target(&suspect.target, addresses)
    } else {
        words::target(suspect)
    }
}

fn event_json(pending: &Pending, addresses: Addresses) -> Value {
    let mut event = json!({
        "id": pending.id.to_string(),
        "type": pending.event.as_str(),
        "time": pending.time.to_string(),
        "suspect": suspect_json(&pending.suspect, addresses),
    });
    if let (Some(decision), Some(event)) = (pending.decision, event.as_object_mut()) {
        let until = pending.blocked_until.map(|time| time.to_string());
        event.insert("block".to_owned(), json!({"decision": decision, "expires_at": until}));
    }
    event
}

fn suspect_json(suspect: &Suspect, addresses: Addresses) -> Value {
    let reasons: Vec<Value> = suspect
        .reasons
        .iter()
        .take(REASONS)
        .map(|reason| {
            json!({
                "rule": reason.rule,
                "severity": reason.severity.as_str(),
                "source": reason.source.as_str(),
                "detail": reason.detail,
                "count": reason.count,
                "first_seen": reason.first_seen.to_string(),
                "last_seen": reason.last_seen.to_string(),
            })
        })
        .collect();
    json!({
        "id": suspect.id,
        "target": target_of(suspect, addresses),
        "status": suspect.status.as_str(),
        "severity": suspect.severity.as_str(),
        "score": suspect.score,
        "first_seen": suspect.first_seen.to_string(),
        "last_seen": suspect.last_seen.to_string(),
        "country": suspect.country,
        "asn": suspect.asn,
        "reasons": reasons,
    })
}

fn line(pending: &Pending, addresses: Addresses) -> String {
    let suspect = &pending.suspect;
    let place = words::place(suspect);
    let place = if place.is_empty() { String::new() } else { format!(" ({})", escape(&place)) };
    let what = match (pending.event, pending.blocked_until) {
        (EventKind::Opened, _) => "is a new suspect".to_owned(),
        (EventKind::Worse, _) => format!("got worse: now {}", suspect.severity.as_str()),
        (EventKind::Blocked, Some(until)) => {
            format!("was blocked until {}", until.strftime("%Y-%m-%d %H:%M UTC"))
        }
        (EventKind::Blocked, None) => "was blocked".to_owned(),
    };
    let why = suspect.reasons.first().map(words::reason_words).unwrap_or_default();
    let more = match suspect.reasons.len() {
        0 | 1 => String::new(),
        many => format!(" and {} more", many - 1),
    };
    format!(
        "{}{place} {what} (suspect {}, {}, score {:.2}): {}{more}",
        code(&target_of(suspect, addresses)),
        suspect.id,
        suspect.severity.as_str(),
        suspect.score,
        code(&why),
    )
}

fn chat(text: &str) -> Value {
    json!({"text": text, "unfurl_links": false, "unfurl_media": false})
}

/// Between back ticks, where nothing means anything.
fn code(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() || c == '`' { ' ' } else { c })
        .take(SLACK_WORDS)
        .collect();
    format!("`{}`", escape(&plain))
}

/// Slack's own escapes: nothing else begins a link or calls somebody.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Severity;
    use crate::suspects::samples::flag;

    fn pending(target: &str, event: EventKind) -> Pending {
        let mut sighting = flag(target, "probing", Severity::High, 1);
        sighting.flag.detail = "12 pages such as /<!channel>`@here`".to_owned();
        let mut suspect = Suspect::new(&sighting);
        suspect.id = 12;
        let time: Timestamp = "2026-11-22T16:00:05Z".parse().unwrap();
        let blocked = event == EventKind::Blocked;
        Pending {
            id: 7,
            event,
            time,
            decision: blocked.then_some(3),
            blocked_until: blocked.then(|| "2026-11-22T20:00:05Z".parse().unwrap()),
            suspect,
        }
    }

    #[test]
    fn chat_calls_nobody_whatever_a_client_asks_for() {
        let events = [
            pending("203.0.113.7", EventKind::Opened),
            pending("2001:db8:1:2::/64", EventKind::Blocked),
        ];
        let message = slack(&events, 3, Addresses::Masked);
        assert_eq!(
            message["text"],
            "`203.0.113.0/24` is a new suspect (suspect 12, high, score 0.70): `probing: 12 pages such as /&lt;!channel&gt; @here `\n\
             `2001:db8:1::/48` was blocked until 2026-11-22 20:00 UTC (suspect 12, high, score 0.70): `probing: 12 pages such as /&lt;!channel&gt; @here `\n\
             and 3 more: see `ipwarden suspects`"
        );
    }

    #[test]
    fn a_webhook_says_everything_but_the_evidence() {
        let now = "2026-11-22T16:00:06Z".parse().unwrap();
        let events = [pending("203.0.113.7", EventKind::Blocked)];
        let body = webhook("msg_1", &events, Addresses::Full, now);
        let event = &body["events"][0];
        assert_eq!((&body["id"], &event["id"]), (&json!("msg_1"), &json!("7")));
        assert_eq!(event["type"], "suspect.blocked");
        assert_eq!(event["block"], json!({"decision": 3, "expires_at": "2026-11-22T20:00:05Z"}));
        assert_eq!(event["suspect"]["target"], "203.0.113.7");
        assert_eq!(event["suspect"]["reasons"][0]["rule"], "probing");
        assert!(event["suspect"]["reasons"][0]["evidence"].is_null());
    }

    #[test]
    fn masked_addresses_are_networks() {
        let masked =
            |text: &str| target(&ipwarden::address::parse_target(text).unwrap(), Addresses::Masked);
        assert_eq!(masked("203.0.113.7"), "203.0.113.0/24");
        assert_eq!(masked("203.0.0.0/16"), "203.0.0.0/16");
        assert_eq!(masked("2001:db8:1:2::/64"), "2001:db8:1::/48");
    }
}
