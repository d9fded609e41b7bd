//! A suspect in sentences.

use ipwarden::address::display_target;

use super::{Reason, Suspect};
use crate::privacy::keys::display;

/// Longest reason of a decision, in bytes.
const REASON_BYTES: usize = 1_000;

/// All reasons on one line, the worst first: the reason of the decision that follows.
#[must_use]
pub fn reasons(suspect: &Suspect) -> String {
    let mut text = String::new();
    for (n, reason) in suspect.reasons.iter().enumerate() {
        let next = one_line(&reason_words(reason));
        let separator = if n == 0 { "" } else { "; " };
        let left = suspect.reasons.len() - n;
        let more = format!("{separator}and {left} more");
        // Room for the words that say that there is more.
        if text.len() + separator.len() + next.len() + 16 > REASON_BYTES && n > 0 {
            text.push_str(&more);
            break;
        }
        text.push_str(separator);
        text.push_str(&next);
    }
    cut(text, REASON_BYTES)
}

/// `rule: what was seen`.
#[must_use]
pub fn reason_words(reason: &Reason) -> String {
    if reason.detail.is_empty() {
        reason.rule.clone()
    } else {
        format!("{}: {}", reason.rule, reason.detail)
    }
}

/// `Paris, FR, AS3215`; empty when nothing is known.
#[must_use]
pub fn place(suspect: &Suspect) -> String {
    let asn = suspect.asn.map(|asn| format!("AS{asn}"));
    let parts = [suspect.city.clone(), suspect.country.clone(), asn];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Its target as people read it: `203.0.113.7`, `203.0.113.0 (cut)`, `100.115.72.131@5ab1c0de`.
#[must_use]
pub fn target(suspect: &Suspect) -> String {
    display(&display_target(&suspect.target), suspect.form, suspect.key.as_deref())
}

/// `suspect 12 (203.0.113.7)`, for the audit log.
#[must_use]
pub fn subject(suspect: &Suspect) -> String {
    format!("suspect {} ({})", suspect.id, target(suspect))
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples::flag;
    use super::*;
    use crate::detect::Severity;

    #[test]
    fn reasons_fit_a_decision_whatever_detectors_say() {
        let mut sighting = flag("203.0.113.7", "probing", Severity::High, 1);
        sighting.flag.detail = "12 pages\nthat are not there".to_owned();
        let mut suspect = Suspect::new(&sighting);
        assert_eq!(reasons(&suspect), "probing: 12 pages that are not there");
        for n in 0..40 {
            let mut more = flag("203.0.113.7", &format!("rule-{n}"), Severity::Medium, 2);
            more.flag.detail = "é".repeat(100);
            suspect.absorb(&more);
        }
        let text = reasons(&suspect);
        assert!(text.len() <= REASON_BYTES && text.ends_with("; and 36 more"), "{text}");
        let mut long = flag("203.0.113.7", "long", Severity::High, 1);
        long.flag.detail = "é".repeat(600);
        let text = reasons(&Suspect::new(&long));
        assert!(text.len() <= REASON_BYTES && text.ends_with('…'), "{}", text.len());
    }

    #[test]
    fn a_place_says_what_is_known() {
        let mut suspect = Suspect::new(&flag("203.0.113.7", "probing", Severity::High, 1));
        assert_eq!(place(&suspect), "");
        suspect.country = Some("FR".to_owned());
        suspect.asn = Some(3_215);
        assert_eq!(place(&suspect), "FR, AS3215");
    }
}
