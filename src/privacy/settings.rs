//! What a proxy is configured to keep to itself, and whose choice it respects.

use super::{AddressForm, Key, Scheme};

/// The variable that holds the key of pseudonyms unless another is named.
pub const KEY_VARIABLE: &str = "IPWARDEN_PRIVACY_KEY";
/// The cookie by which a visitor opts out unless another is named.
pub const OPT_OUT_COOKIE: &str = "ipwarden_optout";

/// What leaves the proxy of a request. The defaults tell the control plane everything that
/// security can use, and respect GPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of the client's address.
    pub address: Address,
    /// Bits that a truncated IPv4 address keeps, 0 to 30.
    pub ipv4_prefix: u8,
    /// Bits that a truncated IPv6 address keeps, 0 to 60.
    pub ipv6_prefix: u8,
    /// What becomes of the user agent.
    pub user_agent: UserAgent,
    /// Whether the query travels with the record.
    pub keep_query: bool,
    /// Which ways to opt out are respected.
    pub choices: Choices,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: Address::Full,
            ipv4_prefix: 24,
            ipv6_prefix: 48,
            user_agent: UserAgent::Full,
            keep_query: true,
            choices: Choices::default(),
        }
    }
}

/// What becomes of the client's address before a record leaves the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// It goes out as it is.
    Full,
    /// Cut to its network.
    Truncate,
    /// Replaced by a pseudonym.
    Pseudonym {
        /// How it is made.
        scheme: Scheme,
        /// With what.
        key: KeySource,
    },
}

impl Address {
    /// The form that it has in a record.
    #[must_use]
    pub const fn form(&self) -> AddressForm {
        match self {
            Self::Full => AddressForm::Full,
            Self::Truncate => AddressForm::Truncated,
            Self::Pseudonym { .. } => AddressForm::Pseudonym,
        }
    }

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Truncate => "truncate",
            Self::Pseudonym { .. } => "pseudonym",
        }
    }
}

/// Where the key of pseudonyms is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In the configuration itself, or read from where it was.
    Given(Key),
    /// In this environment variable of the VM (`vm_config.environment_variables`).
    Env(String),
}

/// What becomes of the user agent before a record leaves the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UserAgent {
    /// It goes out as it is.
    Full,
    /// Reduced to its [`super::agent::family`].
    Family,
    /// Left out.
    None,
}

impl UserAgent {
    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Family => "family",
            Self::None => "none",
        }
    }
}

/// The ways to opt out that are respected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// `Sec-GPC: 1` (Global Privacy Control).
    pub gpc: bool,
    /// `DNT: 1`.
    pub dnt: bool,
    /// The cookie of this name with the value `1`.
    pub cookie: Option<String>,
}

impl Default for Choices {
    fn default() -> Self {
        Self { gpc: true, dnt: false, cookie: Some(OPT_OUT_COOKIE.to_owned()) }
    }
}

impl Choices {
    /// Whether one line of a request's headers opts out. Only the exact value `1` does; where
    /// there are several lines, each is asked for itself. The name is in lower case.
    #[inline]
    #[must_use]
    pub fn opts_out(&self, name: &[u8], value: &[u8]) -> bool {
        match name {
            b"sec-gpc" => self.gpc && value == b"1",
            b"dnt" => self.dnt && value == b"1",
            b"cookie" => self.cookie.as_ref().is_some_and(|name| has_cookie(value, name)),
            _ => false,
        }
    }
}

/// Whether a line of cookies has this one with the value `1`.
fn has_cookie(line: &[u8], name: &str) -> bool {
    line.split(|byte| *byte == b';').any(|pair| {
        pair.trim_ascii()
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest == b"=1" || rest == b"=\"1\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn all() -> Choices {
        Choices { dnt: true, ..Choices::default() }
    }

    #[test]
    fn only_the_exact_value_one_opts_out() {
        for name in ["sec-gpc", "dnt"] {
            assert!(all().opts_out(name.as_bytes(), b"1"));
            for value in ["", "0", "01", "1 ", " 1", "1, 1", "true", "?1", "11"] {
                assert!(!all().opts_out(name.as_bytes(), value.as_bytes()), "{name}: {value}");
            }
        }
    }

    #[test]
    fn a_choice_that_is_not_respected_is_none() {
        let none = Choices { gpc: false, dnt: false, cookie: None };
        for (name, value) in [("sec-gpc", "1"), ("dnt", "1"), ("cookie", "ipwarden_optout=1")] {
            assert!(all().opts_out(name.as_bytes(), value.as_bytes()), "{name}");
            assert!(!none.opts_out(name.as_bytes(), value.as_bytes()), "{name}");
        }
        assert!(!Choices::default().opts_out(b"dnt", b"1"), "legacy: only where asked for");
    }

    #[test]
    fn the_cookie_is_found_among_others_and_by_its_whole_name() {
        for line in ["ipwarden_optout=1", "a=b; ipwarden_optout=1; c", "a=b;ipwarden_optout=\"1\""]
        {
            assert!(all().opts_out(b"cookie", line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "ipwarden_optout",
            "ipwarden_optout=0",
            "ipwarden_optout=11",
            "xipwarden_optout=1",
            "ipwarden_optout2=1",
            "a=ipwarden_optout=1",
            "Ipwarden_Optout=1",
        ] {
            assert!(!all().opts_out(b"cookie", line.as_bytes()), "{line}");
        }
    }
}
