//! Words and numbers for people: cleaning of foreign text, times, counts.
//!
//! Invariant: a text that came from a client, a list or a remote service passes [`clean`]
//! before it is written anywhere. A path may hold any byte, and a terminal obeys escape
//! sequences.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// Makes a foreign text harmless on a terminal and keeps it on one line.
///
/// Control characters (C0, DEL, C1), bidirectional overrides, invisible characters and line
/// separators are shown as escapes (`\t`, `\u{1b}`), everything else as it is. A backslash
/// stays: bytes that are no UTF-8 arrive as `\xNN` already.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Makes serialised JSON harmless on a terminal without changing what it says.
///
/// JSON escapes C0 by itself; the rest of what [`clean`] escapes can only stand inside
/// strings, where `\uXXXX` means the same character.
#[must_use]
pub fn clean_json(json: String) -> String {
    // Line breaks between members are ours.
    let unsafe_here = |c: char| c != '\n' && is_unsafe(c);
    if !json.chars().any(unsafe_here) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if unsafe_here(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character can move the cursor, hide, or reorder what is around it.
const fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A count with its thousands apart: `1 000 000`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun: `1 address`, `2 000 addresses`.
#[must_use]
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A number of bytes in the largest unit that keeps it readable: `1.4 GiB`.
#[must_use]
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shown = number as f64;
    while shown >= 1024.0 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 { format!("{number} {name}") } else { format!("{shown:.1} {name}") }
}

/// How far a time is from now, in its two largest units: `2m5s ago`, `in 3h59m`, `now`.
#[must_use]
pub fn relative(time: Timestamp, now: Timestamp) -> String {
    let away = time.duration_since(now);
    if away.unsigned_abs() < std::time::Duration::from_secs(1) {
        return "now".to_owned();
    }
    let span = span(away);
    if away.is_negative() { format!("{span} ago") } else { format!("in {span}") }
}

/// The length of a span of time in whole seconds, two largest units, without its sign.
#[must_use]
pub fn span(length: SignedDuration) -> String {
    let rounded = length.unsigned_abs() + std::time::Duration::from_millis(500);
    ipwarden::duration::display(std::time::Duration::from_secs(rounded.as_secs()))
}

/// A time to the second with its zone: `2026-11-22 17:00:03 UTC`.
#[must_use]
pub fn absolute(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// A time to the second for a column whose header names the zone.
#[must_use]
pub fn column_time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time to the millisecond for a column whose header names the zone.
#[must_use]
pub fn column_time_ms(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S.%3f").to_string()
}

/// A time of day to the millisecond for a column whose header names the zone.
#[must_use]
pub fn time_of_day_ms(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%H:%M:%S.%3f").to_string()
}

/// The zone's short name at a time, for headers: `UTC`, `CET`.
#[must_use]
pub fn zone_name(now: Timestamp, zone: &TimeZone) -> String {
    now.to_zoned(zone.clone()).strftime("%Z").to_string()
}

/// Both at once: `2026-11-22 17:00:03 UTC (in 3h59m)`.
#[must_use]
pub fn when(time: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    format!("{} ({})", absolute(time, zone), relative(time, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn escape_sequences_never_leave() {
        assert_eq!(clean("/a\u{1b}[31mred\u{7}"), "/a\\u{1b}[31mred\\u{7}");
        assert_eq!(clean("a\tb\nc\rd"), "a\\tb\\nc\\rd");
        // The one-character CSI of 8-bit terminals.
        assert_eq!(clean("\u{9b}2J"), "\\u{9b}2J");
        // Text that reads backwards, and text that is not there.
        assert_eq!(clean("exe\u{202e}gpj.\u{200b}"), "exe\\u{202e}gpj.\\u{200b}");
        assert_eq!(clean("\u{e0041}"), "\\u{e0041}");
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in ["/käse/日本語?x=1", "a\\xffb", "", "🦀"] {
            assert!(matches!(clean(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn json_is_cleaned_without_changing_its_value() {
        let value = serde_json::json!({"path": "/\u{1b}[0m\u{9b}\u{7f}\u{202e}\u{e0041}é"});
        let text = clean_json(serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert!(text.chars().all(|c| c == '\n' || !is_unsafe(c)), "{text}");
    }

    #[test]
    fn times_are_told_both_ways() {
        let now = at("2026-11-22T16:00:00Z");
        for (time, expected) in [
            ("2026-11-22T16:00:00.4Z", "now"),
            ("2026-11-22T15:57:55Z", "2m5s ago"),
            ("2026-11-22T19:59:59.6Z", "in 4h"),
            ("2026-11-29T16:00:00Z", "in 1w"),
        ] {
            assert_eq!(relative(at(time), now), expected, "{time}");
        }
        assert_eq!(
            when(at("2026-11-22T17:00:00Z"), now, &TimeZone::UTC),
            "2026-11-22 17:00:00 UTC (in 1h)"
        );
        assert_eq!(
            column_time_ms(at("2026-11-22T16:00:00.1239Z"), &TimeZone::UTC),
            "2026-11-22 16:00:00.123"
        );
        assert_eq!(zone_name(now, &TimeZone::UTC), "UTC");
    }

    #[test]
    fn counts_and_sizes_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000_000), "1 000 000");
        assert_eq!(counted(1, "address", "addresses"), "1 address");
        assert_eq!(counted(2_000, "address", "addresses"), "2 000 addresses");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_503_238_554), "1.4 GiB");
    }
}
