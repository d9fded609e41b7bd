//! What a flag says, in words, bounded and escaped.

use jiff::Timestamp;

use super::{Bucket, SLOW_RULE};
use crate::detect::rules::{Rule, Rules};
use crate::detect::table::{Slot, key_address};
use crate::detect::{
    DETAIL_BYTES, EVIDENCE_TEXT_BYTES, Evidence, Flag, Observation, Source, target_of,
};
use crate::privacy::Veil;

/// Bytes as text for people: what is not printable is escaped, at most `most` bytes.
pub(super) fn shown(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            // Direction marks and the like would change how the rest reads.
            let plain = letter == ' ' || (letter.is_alphanumeric() || letter.is_ascii_graphic());
            if plain && letter != '\\' {
                text.push(letter);
            } else {
                text.extend(letter.escape_default());
            }
            if text.len() >= most {
                return cut(text, most);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    cut(text, most)
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most.saturating_sub(3);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A request as evidence.
pub(super) fn evidence(seen: &Observation<'_>, matched: &[u8]) -> Evidence {
    Evidence {
        time_us: seen.time_us,
        method: shown(seen.method, 32),
        path: shown(seen.raw.unwrap_or(seen.path), EVIDENCE_TEXT_BYTES),
        status: seen.status,
        matched: shown(matched, EVIDENCE_TEXT_BYTES),
    }
}

/// What a bucket says.
pub(super) fn detail(rule: &Rule, bucket: &Bucket) -> String {
    let matched = bucket.evidence.last().map_or("", |one| {
        if one.matched.is_empty() { one.path.as_str() } else { one.matched.as_str() }
    });
    let text = rule
        .says
        .replace("{n}", &bucket.count.to_string())
        .replace("{addresses}", &bucket.members.len().to_string())
        .replace("{span}", &span(bucket.at_us.saturating_sub(bucket.began_us) / 1_000_000))
        .replace("{matched}", matched);
    cut(text, DETAIL_BYTES)
}

/// A time in words.
fn span(seconds: u64) -> String {
    match seconds {
        0 | 1 => "a second".to_owned(),
        2..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3_600),
    }
}

/// What the slow memory says.
pub(super) fn slow(rules: &Rules, slot: &Slot, time_us: u64) -> Flag {
    let memory = rules.memory();
    let since = Timestamp::from_second(i64::from(slot.first_s)).unwrap_or_default();
    let over = u64::from(slot.at_s.saturating_sub(slot.first_s));
    Flag {
        time_us,
        target: target_of(key_address(slot.key)),
        veil: Veil::NONE,
        rule: SLOW_RULE.to_owned(),
        severity: memory.severity,
        detail: format!(
            "{} odd requests within {}, since {since}: slow, but they add up",
            slot.odd,
            span(over)
        ),
        count: u64::from(slot.pending),
        evidence: Vec::new(),
        source: Source::Streaming,
        score: memory.severity.weight(),
        features: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        assert_eq!(shown(b"/a\x1b[31m\xff\\", 100), "/a\\u{1b}[31m\\xff\\\\");
        assert_eq!(shown("\u{202e}x".as_bytes(), 100), "\\u{202e}x");
        assert!(shown(&[b'a'; 600], 256).len() <= 256);
        assert!(shown("é".repeat(600).as_bytes(), 255).len() <= 255);
    }
}
