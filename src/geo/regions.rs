//! Decisions by region: whom a country's or a network operator's rule refuses, and where.
//!
//! A rule is about one country or one autonomous system, and about one path with everything
//! below it (`/admin` is for `/admin`, `/admin/` and `/admin/users`, not for `/administrator`)
//! or, without a path, about the whole site. Rules come from the control plane in the policy
//! ([`crate::limits::policy`]) and end here by themselves.
//!
//! A request whose place is not known is admitted and counted. So is one from a private or
//! reserved address, uncounted: it has no place. A path is compared as it was sent and in its
//! normal form, as limits are; the case of its letters matters.
//!
//! What this module does not do: it does not look places up, and it knows nothing of decisions
//! by address: an allow wins, and [`crate::engine`] sees to that.

use core::fmt;
use core::net::IpAddr;
use std::rc::Rc;

use super::{Country, Place};
use crate::address;
use crate::decisions::{DecisionId, NEVER, UnixSeconds};
use crate::limits::Mode;
use crate::limits::matching::{Request, normalise};

/// Most rules in force at one time: a request is compared with each.
pub const MAX_RULES: usize = 256;
/// Longest path of a rule.
pub const MAX_PATH_BYTES: usize = 256;
/// Longest text of a region: `country:FR`, `asn:4294967295`.
pub const MAX_REGION_BYTES: usize = 16;

const COUNTRY: &str = "country:";
const ASN: &str = "asn:";

/// A country or an autonomous system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Region {
    /// Clients in this country.
    Country(Country),
    /// Clients in networks of this operator.
    Asn(u32),
}

impl Region {
    /// Whether a text is meant as a region, well formed or not.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        [COUNTRY, ASN].iter().any(|prefix| strip(text, prefix).is_some())
    }

    /// Reads `country:FR` or `asn:64496` (or `asn:AS64496`), in any case.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn parse(text: &str) -> Result<Self, RegionError> {
        if let Some(code) = strip(text, COUNTRY) {
            return Country::new(code).map(Self::Country).ok_or(RegionError::Country);
        }
        let number = strip(text, ASN).ok_or(RegionError::Kind)?;
        let digits = strip(number, "AS").unwrap_or(number);
        let known = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|number| known && *number != 0);
        number.map(Self::Asn).ok_or(RegionError::Asn)
    }

    /// Whether a place is in it; `None` where that can't be told.
    fn holds(self, place: Option<&Place>) -> Option<bool> {
        match self {
            Self::Country(country) => Some(place?.country()? == country),
            Self::Asn(asn) => Some(place?.asn()? == asn),
        }
    }
}

fn strip<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Country(country) => write!(f, "{COUNTRY}{country}"),
            Self::Asn(asn) => write!(f, "{ASN}{asn}"),
        }
    }
}

/// Why a text is no region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionError {
    /// Neither a country nor an autonomous system.
    Kind,
    /// No code of a country.
    Country,
    /// No number of an autonomous system.
    Asn,
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "not a region: expected country:FR or asn:64496",
            Self::Country => "not a country: expected its code of two letters, such as country:FR",
            Self::Asn => {
                "not an autonomous system: expected its number from 1 to 4294967295, such as asn:64496"
            }
        })
    }
}

impl core::error::Error for RegionError {}

/// Why a text can't be the path of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathError {
    /// It is the root: that is the whole site.
    Root,
    /// No path, or one with a query or a fragment.
    NoPath,
    /// Longer than [`MAX_PATH_BYTES`].
    TooLong {
        /// Length of the input in bytes.
        bytes: usize,
    },
    /// Written in a way that no request is compared with.
    Spelling {
        /// How to write it.
        meant: String,
    },
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("'/' is the whole site: leave the path out to mean that"),
            Self::NoPath => f.write_str(
                "not a path: expected one that starts with /, without a query, such as /admin",
            ),
            Self::TooLong { bytes } => {
                write!(f, "path of {bytes} bytes: expected at most {MAX_PATH_BYTES}")
            }
            Self::Spelling { meant } => {
                write!(f, "no request is compared with this spelling: write it as '{meant}'")
            }
        }
    }
}

impl core::error::Error for PathError {}

/// Reads the path of a rule: without a slash at its end, which says nothing.
///
/// # Errors
/// [`PathError`].
pub fn check_path(text: &str) -> Result<String, PathError> {
    if text.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong { bytes: text.len() });
    }
    if !text.starts_with('/') || text.contains(['?', '#']) || text.chars().any(char::is_control) {
        return Err(PathError::NoPath);
    }
    let path = text.trim_end_matches('/');
    if path.is_empty() {
        return Err(PathError::Root);
    }
    let normal = normalise(path.as_bytes());
    if normal.as_ref() != path.as_bytes() {
        let meant = String::from_utf8_lossy(&normal);
        let meant = meant.strip_suffix('/').unwrap_or(&meant);
        return Err(if meant.is_empty() {
            PathError::Root
        } else {
            PathError::Spelling { meant: meant.chars().flat_map(char::escape_debug).collect() }
        });
    }
    Ok(path.to_owned())
}

/// Whether a rule for the path `own` is for `path`, given in one spelling.
#[must_use]
pub fn covers(own: &str, path: &[u8]) -> bool {
    path.strip_prefix(own.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number among all decisions.
    pub id: DecisionId,
    /// Who is refused.
    pub region: Region,
    /// This path and everything below it (see [`check_path`]); `None`: the whole site.
    pub path: Option<String>,
    /// Whether it refuses, or is only recorded.
    pub mode: Mode,
    /// Its end; [`NEVER`] for none.
    pub expires_at: UnixSeconds,
}

impl Rule {
    fn covers(&self, path: &[u8]) -> bool {
        self.path.as_deref().is_none_or(|own| covers(own, path))
    }

    const fn is_live(&self, now: UnixSeconds) -> bool {
        self.expires_at == NEVER || now < self.expires_at
    }
}

/// What a rule says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Number of the rule.
    pub id: DecisionId,
    /// Its region, as records name it.
    pub name: Rc<str>,
    /// Whether it refuses, or only would.
    pub mode: Mode,
}

/// Requests since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Refused.
    pub refused: u64,
    /// Not refused, because the rule is in shadow mode.
    pub shadow: u64,
    /// Admitted because it is not known where they come from.
    pub unknown: u64,
}

/// The rules in force in one worker.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<(Rule, Rc<str>)>,
    counts: Counts,
}

impl Rules {
    /// Takes these in the place of those before; counts stay.
    pub fn replace(&mut self, rules: &[Rule]) {
        let named = |rule: &Rule| (rule.clone(), Rc::from(rule.region.to_string()));
        self.rules = rules.iter().map(named).collect();
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule that applies to a request of `ip`, whose place is in the request: one that
    /// refuses, else one in shadow mode. Of several the first counts.
    pub fn judge(
        &mut self,
        ip: Option<IpAddr>,
        request: &Request<'_>,
        now: UnixSeconds,
    ) -> Option<Hit> {
        let place = request.place().map(|place| &**place);
        let mut shadow = None;
        let mut is_unknown = false;
        let mut refused = None;
        for (rule, name, holds) in self.about(place, request, now) {
            let Some(true) = holds else {
                is_unknown = true;
                continue;
            };
            let hit = || Hit { id: rule.id, name: Rc::clone(name), mode: rule.mode };
            match rule.mode {
                Mode::Enforce => {
                    refused = Some(hit());
                    break;
                }
                Mode::Shadow => drop(shadow.get_or_insert_with(hit)),
            }
        }
        let counts = &mut self.counts;
        match (&refused, &shadow) {
            (Some(_), _) => counts.refused += 1,
            (None, Some(_)) => counts.shadow += 1,
            (None, None) if is_unknown && ip.is_some_and(address::is_global) => counts.unknown += 1,
            (None, None) => {}
        }
        refused.or(shadow)
    }

    /// Whether a rule would refuse the request, were its place known and in that region.
    #[must_use]
    pub fn needs_place(&self, request: &Request<'_>, now: UnixSeconds) -> bool {
        !self.is_empty()
            && self.about(None, request, now).any(|(rule, _, _)| rule.mode == Mode::Enforce)
    }

    /// The live rules for the request's path, but for those whose region it is not in.
    fn about<'a>(
        &'a self,
        place: Option<&'a Place>,
        request: &Request<'a>,
        now: UnixSeconds,
    ) -> impl Iterator<Item = (&'a Rule, &'a Rc<str>, Option<bool>)> + use<'a> {
        let sent = request.path;
        let normal = normalise(sent);
        self.rules.iter().filter_map(move |(rule, name)| {
            let holds = rule.region.holds(place);
            let applies = holds != Some(false)
                && rule.is_live(now)
                && (rule.covers(sent) || rule.covers(&normal));
            applies.then_some((rule, name, holds))
        })
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        core::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    // Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::geo::Located;
    use crate::limits::matching::testing::{Lines, Properties};

    fn rule(region: &str, path: Option<&str>, mode: Mode) -> Rule {
        Rule {
            id: 7,
            region: Region::parse(region).unwrap(),
            path: path.map(|path| check_path(path).unwrap()),
            mode,
            expires_at: 500,
        }
    }

    /// What the rules say of a path of a client in FR, AS 64496, at second 499.
    fn judged(rules: &mut Rules, path: &str, located: Option<Located>) -> Option<Mode> {
        let (lines, properties) = (Lines(&[]), Properties::new(&[]));
        let request = Request::new(b"GET", b"a.example", path.as_bytes(), &lines, &properties);
        if let Some(located) = located {
            request.set_located(located);
        }
        let ip = "81.2.69.160".parse().ok();
        rules.judge(ip, &request, 499).map(|hit| hit.mode)
    }

    fn in_france() -> Option<Located> {
        let place = Place::new(Country::new("FR"), "", Some(64_496)).unwrap();
        Some(Located::Known(Rc::new(place)))
    }

    fn rules(all: &[Rule]) -> Rules {
        let mut rules = Rules::default();
        rules.replace(all);
        rules
    }

    #[test]
    fn a_region_reads_back_as_it_is_written() {
        for (text, written) in
            [("country:fr", "country:FR"), ("ASN:AS64496", "asn:64496"), ("asn:1", "asn:1")]
        {
            assert!(Region::is_meant(text));
            let region = Region::parse(text).unwrap();
            assert_eq!(region.to_string(), written);
            assert_eq!(Region::parse(written), Ok(region));
        }
        for (text, error) in [
            ("country:", RegionError::Country),
            ("country:XX", RegionError::Country),
            ("country:FRA", RegionError::Country),
            ("asn:0", RegionError::Asn),
            ("asn:+5", RegionError::Asn),
            ("asn:4294967296", RegionError::Asn),
            ("FR", RegionError::Kind),
            ("203.0.113.7", RegionError::Kind),
        ] {
            assert_eq!(Region::parse(text), Err(error), "{text}");
        }
        assert_eq!(
            RegionError::Country.to_string(),
            "not a country: expected its code of two letters, such as country:FR"
        );
        assert!(!Region::is_meant("cöuntry:FR"));
    }

    #[test]
    fn a_path_is_for_itself_and_what_is_below_it_in_every_spelling() {
        let mut rules = rules(&[rule("country:FR", Some("/admin/"), Mode::Enforce)]);
        for path in
            ["/admin", "/admin/", "/admin/users", "//admin", "/x/../admin", "/%61dmin;a=b/users"]
        {
            assert_eq!(judged(&mut rules, path, in_france()), Some(Mode::Enforce), "{path}");
        }
        for path in ["/administrator", "/", "/Admin", "/x/admin", ""] {
            assert_eq!(judged(&mut rules, path, in_france()), None, "{path}");
        }
        assert_eq!(rules.take_counts(), Counts { refused: 6, ..Counts::default() });
        assert_eq!(rules.take_counts(), Counts::default());
    }

    #[test]
    fn a_path_that_no_request_has_is_refused_with_what_is_meant() {
        let refused = |text: &str| check_path(text).unwrap_err().to_string();
        assert_eq!(refused("/"), "'/' is the whole site: leave the path out to mean that");
        assert_eq!(refused("//"), refused("/"));
        assert_eq!(
            refused("/a/../%61dmin"),
            "no request is compared with this spelling: write it as '/admin'"
        );
        for none in ["admin", "", "/admin?x=1", "/a#b", "/a\nb"] {
            assert_eq!(check_path(none), Err(PathError::NoPath), "{none:?}");
        }
        let long = format!("/{}", "a".repeat(MAX_PATH_BYTES));
        assert_eq!(refused(&long), "path of 257 bytes: expected at most 256");
    }

    #[test]
    fn a_rule_ends_by_itself_and_a_later_request_passes() {
        let mut rules = rules(&[rule("asn:64496", None, Mode::Enforce)]);
        assert_eq!(judged(&mut rules, "/", in_france()), Some(Mode::Enforce));
        let ended = Rule { expires_at: 499, ..rule("asn:64496", None, Mode::Enforce) };
        let endless = Rule { expires_at: NEVER, ..ended.clone() };
        rules.replace(&[ended]);
        assert_eq!(judged(&mut rules, "/", in_france()), None);
        rules.replace(&[endless]);
        assert_eq!(judged(&mut rules, "/", in_france()), Some(Mode::Enforce));
    }

    #[test]
    fn a_rule_that_refuses_counts_before_one_in_shadow_mode() {
        let mut rules = rules(&[
            rule("country:FR", None, Mode::Shadow),
            rule("asn:64496", Some("/admin"), Mode::Enforce),
        ]);
        assert_eq!(judged(&mut rules, "/admin", in_france()), Some(Mode::Enforce));
        assert_eq!(judged(&mut rules, "/", in_france()), Some(Mode::Shadow));
        assert_eq!(rules.take_counts(), Counts { refused: 1, shadow: 1, unknown: 0 });
    }

    #[test]
    fn who_is_nowhere_is_admitted_and_counted_only_where_a_rule_asks() {
        let mut rules = rules(&[rule("country:FR", Some("/admin"), Mode::Enforce)]);
        let nameless = Place::new(None, "", Some(1)).unwrap();
        for located in [None, Some(Located::Pending), Some(Located::Known(Rc::new(nameless)))] {
            assert_eq!(judged(&mut rules, "/admin", located.clone()), None);
            assert_eq!(judged(&mut rules, "/", located), None);
        }
        assert_eq!(rules.take_counts(), Counts { unknown: 3, ..Counts::default() });
        let (lines, properties) = (Lines(&[]), Properties::new(&[]));
        let request = Request::new(b"GET", b"a.example", b"/admin", &lines, &properties);
        for private in ["10.0.0.1", "::1"] {
            assert_eq!(rules.judge(private.parse().ok(), &request, 1), None);
        }
        assert_eq!(rules.judge(None, &request, 1), None);
        assert_eq!(rules.take_counts(), Counts::default());
        assert!(rules.needs_place(&request, 499) && !rules.needs_place(&request, 500));
        rules.replace(&[rule("country:FR", None, Mode::Shadow)]);
        assert!(!rules.needs_place(&request, 1), "what refuses nobody makes nobody wait");
    }
}
