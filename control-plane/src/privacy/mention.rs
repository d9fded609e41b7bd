//! Addresses in texts: clients write them into paths and headers, people into reasons, the
//! audit log repeats what was asked.
//!
//! An address is found as people and programs write it: in any notation of IPv6, with a port or
//! a prefix length behind it, percent-encoded, IPv4-mapped. `203.0.113.70` does not mention
//! `203.0.113.7`. Nothing else is guessed: other encodings (decimal, hexadecimal, base64) are
//! not looked for.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use ipwarden::address::fold;

/// Longest piece of a text that can be an address: a mapped one with each colon encoded.
const LONGEST: usize = 160;

/// Whether a text mentions an address.
#[must_use]
pub fn mentions(text: &str, ip: IpAddr) -> bool {
    find(text, 0, ip).is_some()
}

/// The text with another one in the place of an address; `None` when it is not mentioned.
#[must_use]
pub fn replaced(text: &str, ip: IpAddr, with: &str) -> Option<String> {
    let mut found = find(text, 0, ip)?;
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    loop {
        out.push_str(text.get(at..found.start)?);
        out.push_str(with);
        at = found.end;
        match find(text, at, ip) {
            Some(next) => found = next,
            None => break,
        }
    }
    out.push_str(text.get(at..)?);
    Some(out)
}

fn find(text: &str, from: usize, ip: IpAddr) -> Option<Range<usize>> {
    match fold(ip) {
        v4 @ IpAddr::V4(_) => {
            find_v4(text, from, &v4.to_string()).or_else(|| find_run(text, from, v4))
        }
        v6 => find_run(text, from, v6),
    }
}

/// Digits and dots, neither part of a longer number nor of a longer row of them.
fn find_v4(text: &str, from: usize, written: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        let start = at + text.get(at..)?.find(written)?;
        let end = start + written.len();
        let digit =
            |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
        let dot = |at: Option<usize>| at.and_then(|at| bytes.get(at)) == Some(&b'.');
        let before = start.checked_sub(1);
        let longer_before = digit(before) || dot(before) && digit(start.checked_sub(2));
        let longer_after = digit(Some(end)) || dot(Some(end)) && digit(Some(end + 1));
        if !longer_before && !longer_after {
            return Some(start..end);
        }
        at = end;
    }
}

/// A run of what addresses are written with that reads as this one.
fn find_run(text: &str, from: usize, ip: IpAddr) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let of_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'%');
    let mut at = from;
    while at < bytes.len() {
        let start = at + bytes.get(at..)?.iter().position(of_address)?;
        let length = bytes.get(start..)?.iter().take_while(|byte| of_address(byte)).count();
        let end = start + length;
        at = end;
        let run = text.get(start..end)?;
        if length > LONGEST || !(run.contains(':') || run.contains('%')) {
            continue;
        }
        if let Some(found) = inside_run(run, ip) {
            return Some(start + found.start..start + found.end);
        }
    }
    None
}

/// The part of a run that reads as an address: all of it, or without dots and colons of the
/// sentence around it, or without a port.
fn inside_run(run: &str, ip: IpAddr) -> Option<Range<usize>> {
    let trimmed_start = run.trim_start_matches(['.', '%']);
    let start = run.len() - trimmed_start.len();
    let trimmed = trimmed_start.trim_end_matches(['.', '%']);
    let reads = |piece: &str| decoded(piece).parse::<IpAddr>().is_ok_and(|found| fold(found) == ip);
    let range = |piece: &str, skip: usize| start + skip..start + skip + piece.len();
    if reads(trimmed) {
        return Some(range(trimmed, 0));
    }
    // A word before it (`ip:2001:db8::7`, `=` encoded as %3D) or a port behind it.
    let colons = trimmed.match_indices(':').map(|(at, _)| at);
    let ends: Vec<usize> = std::iter::once(trimmed.len()).chain(colons).collect();
    let starts = std::iter::once(0)
        .chain(trimmed.match_indices(':').map(|(at, _)| at + 1))
        .chain(trimmed.match_indices('%').map(|(at, _)| at + 3));
    for from in starts {
        for &to in &ends {
            let Some(piece) = trimmed.get(from..to) else { continue };
            if piece.len() >= 2 && reads(piece) {
                return Some(range(piece, from));
            }
        }
    }
    None
}

/// Percent-encoded colons and dots as they are meant.
fn decoded(piece: &str) -> Cow<'_, str> {
    if !piece.contains('%') {
        return Cow::Borrowed(piece);
    }
    let piece = piece.replace("%3A", ":").replace("%3a", ":");
    Cow::Owned(piece.replace("%2E", ".").replace("%2e", "."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn after(text: &str, ip: &str) -> String {
        replaced(text, ip.parse().unwrap(), "…").unwrap_or_else(|| "not there".to_owned())
    }

    #[test]
    fn an_address_is_found_as_it_is_written() {
        let v4 = "203.0.113.7";
        assert_eq!(after("ip=203.0.113.7&x", v4), "ip=…&x");
        assert_eq!(after("203.0.113.7:4711, 203.0.113.7.", v4), "…:4711, ….");
        assert_eq!(after("suspect 3 (203.0.113.7)", v4), "suspect 3 (…)");
        assert_eq!(after("::ffff:203.0.113.7/128", v4), "::ffff:…/128");
        let v6 = "2001:db8::7";
        assert_eq!(after("[2001:db8::7]:443", v6), "[…]:443");
        assert_eq!(after("ip=2001%3Adb8%3A%3A7&a", v6), "ip=…&a");
        assert_eq!(after("2001:0DB8:0:0::7/128 and 2001:db8::7", v6), "…/128 and …");
        assert_eq!(after("client:2001:db8::7.", v6), "client:….");
    }

    #[test]
    fn its_neighbours_are_not_taken_for_it() {
        for text in ["203.0.113.70", "1203.0.113.7", "203.0.113.7.5", "9.203.0.113.7", "203.0.113"]
        {
            assert_eq!(after(text, "203.0.113.7"), "not there", "{text}");
        }
        for text in ["2001:db8::70", "2001:db8::", "2001:db8:7", "2001:db8:1::7"] {
            assert_eq!(after(text, "2001:db8::7"), "not there", "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_what_is_replaced_is_gone(
            text in "[0-9a-f:.%é]{0,40}",
            before in "[a-z=(\\[ ]{0,4}",
            ip in prop_oneof![
                any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)
            ],
        ) {
            let ip = fold(ip);
            if let Some(rest) = replaced(&text, ip, "…") {
                prop_assert!(!mentions(&rest, ip));
            }
            let said = format!("{text} {before}[{ip}] {text}");
            let rest = replaced(&said, ip, "…").expect("it is mentioned");
            let shown = format!("[{ip}]");
            prop_assert!(!rest.contains(&shown));
        }
    }
}
