//! Bytes that clients sent, as text that is safe to show.
//!
//! The form is unambiguous: two different byte strings never look the same, and the bytes
//! can be told from the text.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Shows bytes as text.
///
/// Valid UTF-8 stays as it is, but for characters that would act on a terminal or turn the
/// direction of the text around. Those, and bytes that are no UTF-8, are shown as `\xnn`
/// (one for each byte, lower-case hex). A backslash stays a backslash, unless what follows
/// would make it look like such an escape: then it is shown as `\x5c`.
#[must_use]
pub fn display_bytes(bytes: &[u8]) -> Cow<'_, str> {
    // Nearly everything that arrives is printable ASCII.
    if bytes.iter().all(|&b| matches!(b, b' '..=b'~') && b != b'\\')
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    let mut offset = 0;
    for chunk in bytes.utf8_chunks() {
        for (at, character) in chunk.valid().char_indices() {
            let after = offset + at + character.len_utf8();
            if is_unsafe(character) || (character == '\\' && looks_like_an_escape(&bytes[after..]))
            {
                let mut utf8 = [0; 4];
                escape(&mut out, character.encode_utf8(&mut utf8).as_bytes());
            } else {
                out.push(character);
            }
        }
        escape(&mut out, chunk.invalid());
        offset += chunk.valid().len() + chunk.invalid().len();
    }
    Cow::Owned(out)
}

/// Characters that do something instead of showing something: controls, line separators,
/// and the marks that turn the direction of what follows.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a backslash before `rest` would be read as the start of an escape.
fn looks_like_an_escape(rest: &[u8]) -> bool {
    matches!(rest, [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

fn escape(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn shown(bytes: &[u8], expected: &str) {
        assert_eq!(display_bytes(bytes), expected);
    }

    #[test]
    fn what_can_be_read_stays() {
        shown(b"/shop?item=7", "/shop?item=7");
        shown("/Größe/寿司".as_bytes(), "/Größe/寿司");
        shown(br"\\server\share", r"\\server\share");
        shown(b"", "");
    }

    #[test]
    fn what_can_not_be_read_is_shown_as_hex() {
        shown(b"/a\xff\xfe", r"/a\xff\xfe");
        shown(b"\x1b[31m\r\n\x7f", r"\x1b[31m\x0d\x0a\x7f");
        shown("a\u{85}b\u{202e}c".as_bytes(), r"a\xc2\x85b\xe2\x80\xaec");
        shown(b"\xe5\xaf", r"\xe5\xaf");
    }

    #[test]
    fn a_backslash_is_escaped_only_where_it_would_be_misread() {
        shown(br"\xff", r"\x5cxff");
        shown(br"\xFF", r"\x5cxFF");
        shown(br"\x5", r"\x5");
        shown(b"\\x5\xff", r"\x5\xff");
        shown(b"\\\xff", r"\\xff");
    }

    /// The bytes that a text shows.
    fn bytes_of(text: &str) -> Vec<u8> {
        let mut rest = text.as_bytes();
        let mut out = Vec::new();
        while let [first, tail @ ..] = rest {
            if *first == b'\\' && looks_like_an_escape(tail) {
                let hex = std::str::from_utf8(&tail[1..3]).unwrap();
                out.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &tail[3..];
            } else {
                out.push(*first);
                rest = tail;
            }
        }
        out
    }

    proptest! {
        #[test]
        fn the_bytes_can_be_told_from_the_text(
            bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), proptest::sample::select(b"\\x05fF".to_vec())], 0..24),
        ) {
            let text = display_bytes(&bytes);
            prop_assert_eq!(bytes_of(&text), bytes.as_slice());
            prop_assert!(!text.chars().any(is_unsafe));
        }
    }
}
