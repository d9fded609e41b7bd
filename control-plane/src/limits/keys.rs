//! Whose bucket a reset fills: an address, a CIDR, `identity:<identity>` or
//! `header:<value>`.

use ipwarden::address::{TargetError, display_target, parse_target};

/// Longest identity or header value, in bytes.
pub const MAX_VALUE_BYTES: usize = 256;

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither an address nor one of the words.
    #[error(
        "{0}; a key is an address, a CIDR, identity:<identity> or header:<value>, such as 203.0.113.7, 2001:db8::/64 or identity:alice"
    )]
    Address(TargetError),
    /// Nothing after the colon.
    #[error("nothing after '{kind}:': expected {kind}:<{what}>, such as {kind}:{example}")]
    Empty {
        /// The word before the colon.
        kind: &'static str,
        /// What belongs after it.
        what: &'static str,
        /// An example of that.
        example: &'static str,
    },
    /// More than [`MAX_VALUE_BYTES`].
    #[error("{found} bytes after '{kind}:': expected at most {MAX_VALUE_BYTES}")]
    TooLong {
        /// The word before the colon.
        kind: &'static str,
        /// Length found.
        found: usize,
    },
}

/// Reads a key and writes it in its one form: addresses folded, networks truncated.
///
/// # Errors
/// [`KeyError`] with what was expected.
pub fn check(text: &str) -> Result<String, KeyError> {
    let words = [("identity", "identity", "alice"), ("header", "value", "key-1")];
    for (kind, what, example) in words {
        let Some(value) = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix(':')) else {
            continue;
        };
        return match value.len() {
            0 => Err(KeyError::Empty { kind, what, example }),
            found if found > MAX_VALUE_BYTES => Err(KeyError::TooLong { kind, found }),
            _ => Ok(text.to_owned()),
        };
    }
    match parse_target(text) {
        Ok(target) => Ok(display_target(&target)),
        Err(error) => Err(KeyError::Address(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, message: &str) {
        assert_eq!(check(text).unwrap_err().to_string(), message);
    }

    #[test]
    fn keys_have_one_form() {
        for (text, key) in [
            ("203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("2001:DB8::/64", "2001:db8::/64"),
            ("identity:spiffe://a/b", "identity:spiffe://a/b"),
            ("header:a b", "header:a b"),
        ] {
            assert_eq!(check(text).unwrap(), key);
        }
    }

    #[test]
    fn what_is_no_key_is_told_what_is_expected() {
        refused(
            "alice",
            "'alice' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24; a key is an address, a CIDR, identity:<identity> or header:<value>, such as 203.0.113.7, 2001:db8::/64 or identity:alice",
        );
        refused(
            "identity:",
            "nothing after 'identity:': expected identity:<identity>, such as identity:alice",
        );
        refused(
            "header:",
            "nothing after 'header:': expected header:<value>, such as header:key-1",
        );
        refused(
            &format!("header:{}", "x".repeat(257)),
            "257 bytes after 'header:': expected at most 256",
        );
    }
}
