//! The path as a server will most likely understand it.
//!
//! A limit on `/login` that `//login` or `/%6cogin` slips past protects nothing. What is here
//! errs on the side of the limit: a spelling that only some servers resolve is resolved.
//!
//! What this module does not do: it changes no request. Envoy routes, and the upstream gets,
//! the path as it came (see `normalize_path` and `merge_slashes` of Envoy's connection
//! manager for that).

use std::borrow::Cow;

use crate::record::bounds::PATH_BYTES;

/// The normal form of a path without its query. In this order:
///
/// 1. every valid `%xx` is decoded, once (an invalid one stays as it is);
/// 2. `\` is `/`;
/// 3. the parameters of a segment (`;` and what follows) are dropped;
/// 4. several slashes are one;
/// 5. `.` and `..` are resolved as RFC 3986 §5.2.4 says, never above the root;
/// 6. what is longer than [`PATH_BYTES`] is cut to that.
///
/// The result starts with `/`, or is empty, or is `*` (of `OPTIONS *`). A path that is in its
/// normal form already is borrowed. Give it the whole path: one that was cut before could hide
/// behind a long detour such as `/aaa…/../login`.
#[must_use]
pub fn normalise(path: &[u8]) -> Cow<'_, [u8]> {
    if is_normal(path) {
        return Cow::Borrowed(path);
    }
    let mut segments = resolve(&decode(path));
    segments.truncate(PATH_BYTES);
    Cow::Owned(segments)
}

/// Whether [`normalise`] would change nothing. It may say no where nothing changes (a `%`
/// that is no escape): that costs time only.
fn is_normal(path: &[u8]) -> bool {
    let [b'/', rest @ ..] = path else { return matches!(path, [] | [b'*']) };
    if path.len() > PATH_BYTES {
        return false;
    }
    // One pass: the bytes that stand for something else, and, at the start of a segment, the
    // slash or the dots that are to be resolved.
    let mut segment: &[u8] = rest;
    let mut at_start = true;
    while let [byte, after @ ..] = segment {
        match byte {
            b'%' | b'\\' | b';' => return false,
            b'/' if at_start => return false,
            b'.' if at_start && matches!(after, [] | [b'/', ..] | [b'.'] | [b'.', b'/', ..]) => {
                return false;
            }
            _ => at_start = *byte == b'/',
        }
        segment = after;
    }
    true
}

/// Decodes every valid escape, once, and turns `\` into `/`.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        let mut byte = *byte;
        if byte == b'%'
            && let [high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (nibble(*high), nibble(*low))
        {
            byte = high << 4 | low;
            rest = after;
        }
        decoded.push(if byte == b'\\' { b'/' } else { byte });
    }
    decoded
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Drops parameters, merges slashes and resolves dot segments.
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut resolved = Vec::with_capacity(path.len() + 1);
    // Whether the path ends in a slash: it does after an empty last segment and after dots.
    let mut open = true;
    for segment in path.split(|byte| *byte == b'/') {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        open = match name {
            b"" | b"." => true,
            b".." => {
                let parent = resolved.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                resolved.truncate(parent);
                true
            }
            _ => {
                resolved.push(b'/');
                resolved.extend_from_slice(name);
                false
            }
        };
    }
    if open {
        resolved.push(b'/');
    }
    resolved
}
