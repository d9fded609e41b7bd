//! The path as a server will most likely understand it.
//!
//! A limit on `/login` that `//login` or `/%6cogin` slips past protects nothing. What is here
//! errs on the side of the limit: a spelling that only some servers resolve is resolved.
//!
//! No normal form is every server's: `/api/..;/x` is `/x` for one and something below `/api`
//! for another. A request whose path is not in its normal form is therefore judged by both
//! spellings (see [`super::matching::Request::with_path`]); neither gets it out of a limit.
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

#[cfg(test)]
mod tests {
    // Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[track_caller]
    fn becomes(path: &str, expected: &str) {
        let normal = normalise(path.as_bytes());
        assert_eq!(normal.escape_ascii().to_string(), expected, "{path}");
    }

    #[test]
    fn no_spelling_of_a_path_hides_it() {
        for disguise in [
            "/login",
            "/%6cogin",
            "/%6C%6f%67%69%6E",
            "//login",
            "///.//login",
            "/./login",
            "/x/../login",
            "/x/%2e%2e/login",
            "/x/.%2E/login",
            "/../../login",
            "/a/b/../../login",
            "/login;v=1",
            "/login;v=1;w=%20",
            "/login;",
            "/;x/login",
            "/x;y/..;z/login",
            "/%3bx/login",
            "\\login",
            "/%5clogin",
            "/x\\..\\login",
            "%2flogin",
            "%2Flogin",
            "login",
            "/x/..%2Flogin",
        ] {
            becomes(disguise, "/login");
        }
    }

    #[test]
    fn what_is_ordinary_is_borrowed() {
        for path in [
            "",
            "*",
            "/",
            "/login",
            "/a/b.c/",
            "/.well-known/x",
            "/..a/...",
            "/a.",
            "/a/..b",
            "/\u{e9}",
        ] {
            assert!(matches!(normalise(path.as_bytes()), Cow::Borrowed(_)), "{path}");
            assert_eq!(normalise(path.as_bytes()), path.as_bytes());
        }
    }

    #[test]
    fn the_end_of_a_path_keeps_its_slash() {
        becomes("/login/", "/login/");
        becomes("/login//", "/login/");
        becomes("/login/;v=1", "/login/");
        becomes("/login/.", "/login/");
        becomes("/login/x/..", "/login/");
        becomes("/login/..", "/");
        becomes("/..", "/");
        becomes("/.", "/");
        becomes("/;", "/");
        becomes("//", "/");
    }

    #[test]
    fn escapes_are_decoded_once_and_broken_ones_stay() {
        becomes("/%256cogin", "/%6cogin");
        becomes("/100%", "/100%");
        becomes("/%6", "/%6");
        becomes("/%zz%g0%0g/%41", "/%zz%g0%0g/A");
        becomes("/%%41", "/%A");
        becomes("/a%00b%ff%3f", "/a\\x00b\\xff?");
        becomes("/%c3%a9", "/\\xc3\\xa9");
    }

    #[test]
    fn a_path_is_cut_only_after_its_detours() {
        let detour = format!("/{}/../login", "a".repeat(10 * PATH_BYTES));
        becomes(&detour, "/login");
        becomes(&format!("{}login", "/.".repeat(PATH_BYTES) + "/"), "/login");
        let long = format!("/{}", "a".repeat(PATH_BYTES));
        assert_eq!(normalise(long.as_bytes()), &long.as_bytes()[..PATH_BYTES]);
        let longest = &long.as_bytes()[..PATH_BYTES];
        assert!(matches!(normalise(longest), Cow::Borrowed(_)));
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use proptest::prelude::*;

        use super::*;

        /// remove_dot_segments of RFC 3986 §5.2.4, as it stands there.
        fn remove_dot_segments(path: &str) -> String {
            let mut input = path.to_owned();
            let mut output = String::new();
            while !input.is_empty() {
                if let Some(rest) = input.strip_prefix("../").or(input.strip_prefix("./")) {
                    input = rest.to_owned();
                } else if let Some(rest) = input.strip_prefix("/./") {
                    input = format!("/{rest}");
                } else if input == "/." {
                    input = "/".to_owned();
                } else if let Some(rest) = input.strip_prefix("/../") {
                    input = format!("/{rest}");
                    output.truncate(output.rfind('/').unwrap_or(0));
                } else if input == "/.." {
                    input = "/".to_owned();
                    output.truncate(output.rfind('/').unwrap_or(0));
                } else if input == "." || input == ".." {
                    input.clear();
                } else {
                    let next = input.char_indices().skip(1).find(|(_, letter)| *letter == '/');
                    let (segment, rest) = input.split_at(next.map_or(input.len(), |(at, _)| at));
                    output.push_str(segment);
                    input = rest.to_owned();
                }
            }
            output
        }

        /// One spelling of a byte of a segment.
        fn spelled(byte: char, how: u8) -> String {
            match how % 4 {
                0 => format!("%{:02x}", byte as u32),
                1 => format!("%{:02X}", byte as u32),
                _ => byte.to_string(),
            }
        }

        proptest! {
            #[test]
            fn dots_are_resolved_as_the_rfc_does(
                segments in proptest::collection::vec("[ab.]{0,3}", 0..8),
            ) {
                let path = format!("/{}", segments.join("/"));
                let mut merged = path.clone();
                while merged.contains("//") {
                    merged = merged.replace("//", "/");
                }
                let normal = normalise(path.as_bytes());
                prop_assert_eq!(
                    String::from_utf8_lossy(&normal).into_owned(),
                    remove_dot_segments(&merged)
                );
            }

            #[test]
            fn a_normal_form_is_normal(bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(b"/.;\\%25efab".to_vec())],
                0..64,
            )) {
                let normal = normalise(&bytes).into_owned();
                prop_assert!(matches!(&normal[..], [] | [b'*'] | [b'/', ..]));
                prop_assert!(!normal.contains(&b'\\') && !normal.contains(&b';'));
                prop_assert!(!normal.windows(2).any(|pair| pair == b"//"));
                let mut segments = normal.split(|byte| *byte == b'/');
                prop_assert!(!segments.any(|name| name == b"." || name == b".."));
                // Once more changes nothing, unless an escape was itself escaped.
                if !normal.contains(&b'%') {
                    let again = normalise(&normal);
                    prop_assert!(matches!(again, Cow::Borrowed(_)));
                    prop_assert_eq!(&again[..], &normal[..]);
                }
            }

            #[test]
            fn every_disguise_of_a_path_is_seen_through(
                segments in proptest::collection::vec("[a-z0-9_-]{1,6}", 1..5),
                slash in any::<bool>(),
                noise in proptest::collection::vec((0..8u8, any::<u8>()), 64),
            ) {
                let plain = format!("/{}{}", segments.join("/"), if slash { "/" } else { "" });
                let mut noise = noise.into_iter().cycle();
                let mut disguised = String::new();
                for segment in &segments {
                    let (detour, how) = noise.next().unwrap();
                    disguised.push_str(match detour {
                        0 => "//",
                        1 => "/./",
                        2 => "/x/../",
                        3 => "/%2E/;p/",
                        4 => "\\",
                        5 => "/y;q=1/.%2e;r/",
                        6 => "%2f",
                        _ => "/",
                    });
                    for byte in segment.chars() {
                        disguised.push_str(&spelled(byte, noise.next().unwrap().1));
                    }
                    if how % 3 == 0 {
                        disguised.push_str(";jsessionid=1");
                    }
                }
                if slash {
                    disguised.push_str("//");
                }
                let normal = normalise(disguised.as_bytes());
                prop_assert_eq!(&normal[..], plain.as_bytes(), "{}", disguised);
            }
        }
    }
}
