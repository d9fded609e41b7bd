//! Which limits a request falls under.
//!
//! # Which of several matches is the closest
//!
//! [`Specificity`] compares, in this order:
//!
//! 1. the path: an exact path, then the longer prefix, then the shorter one, then a regular
//!    expression, then no condition on the path at all;
//! 2. the number of further conditions: the methods, the hosts, the routes, the countries and
//!    the autonomous systems count one each, every header counts one.
//!
//! Between equals the configuration's order decides (the caller keeps the first).
//!
//! A request whose path is not in its normal form is judged twice, by both spellings, and
//! falls under what either names ([`Request::with_path`]): the closest match of the two
//! together would let a client choose a lax limit by the way it writes the path.
//!
//! What this module does not do: it looks at no body and no query, and it decides no request:
//! [`super::limiter`] does.

use core::cell::OnceCell;
use core::fmt;
use std::rc::Rc;

use crate::geo::{Country, Located, Place};

pub use super::path::normalise;

/// Longest regular expression, in bytes.
pub const MAX_PATTERN_BYTES: usize = 512;
/// Bound of a compiled regular expression in bytes: the time for a path grows with it.
const MAX_COMPILED_BYTES: usize = 16 * 1024;

/// The property that holds the name of the request's route.
const ROUTE_NAME: &[u8] = b"xds\0route_name";

/// What is known of a request when it is judged.
pub struct Request<'a> {
    /// Method.
    pub method: &'a [u8],
    /// Host (`:authority`), as sent.
    pub host: &'a [u8],
    /// Path without the query, as sent or in its normal form (see [`normalise`]).
    pub path: &'a [u8],
    /// Other headers.
    pub headers: &'a dyn HeaderSource,
    /// What the proxy knows beside the headers.
    pub attributes: &'a dyn Attributes,
    /// Asking the proxy has a price: once for each request, and only if somebody needs it.
    route: OnceCell<Option<Vec<u8>>>,
    located: OnceCell<Located>,
}

impl<'a> Request<'a> {
    /// A request. `path` is without its query.
    #[must_use]
    pub const fn new(
        method: &'a [u8],
        host: &'a [u8],
        path: &'a [u8],
        headers: &'a dyn HeaderSource,
        attributes: &'a dyn Attributes,
    ) -> Self {
        Self {
            method,
            host,
            path,
            headers,
            attributes,
            route: OnceCell::new(),
            located: OnceCell::new(),
        }
    }

    /// The same request under another spelling of its path.
    #[must_use]
    pub fn with_path(&self, path: &'a [u8]) -> Self {
        Self { path, route: self.route.clone(), located: self.located.clone(), ..*self }
    }

    /// Tells what is known of where the client is; the first word counts.
    pub fn set_located(&self, located: Located) {
        let _ = self.located.set(located);
    }

    /// What is known of where the client is; `None` where nobody was to be asked.
    pub fn located(&self) -> Option<&Located> {
        self.located.get()
    }

    /// Where the client is; `None` where that is not known.
    pub fn place(&self) -> Option<&Rc<Place>> {
        self.located().and_then(Located::place)
    }

    /// Name of the Envoy route that the request takes; `None` where it has none.
    pub fn route(&self) -> Option<&[u8]> {
        self.route
            .get_or_init(|| self.attributes.attribute(ROUTE_NAME).filter(|name| !name.is_empty()))
            .as_deref()
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method.escape_ascii().to_string())
            .field("host", &self.host.escape_ascii().to_string())
            .field("path", &self.path.escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

/// The headers of a request.
pub trait HeaderSource {
    /// Hands over each value of the header `name` (lower case), in order.
    fn each(&self, name: &[u8], visit: &mut dyn FnMut(&[u8]));
}

/// What the proxy knows of a request and its connection.
pub trait Attributes {
    /// The value of a property; the parts of its path are separated by zero bytes, such as
    /// `xds\0route_name`. `None` where there is none, or the proxy does not tell.
    fn attribute(&self, path: &[u8]) -> Option<Vec<u8>>;
}

/// Which requests a limit is for. Every condition that is given must hold; of several values
/// of one condition one is enough. Paths, prefixes and patterns are one condition: the path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// Whole paths, in their normal form. `/login` is not `/login/`: a server that takes them
    /// for the same needs both, or a prefix.
    pub paths: Vec<String>,
    /// What the path starts with, in its normal form. As Envoy's `prefix` it knows nothing of
    /// segments: `/login` is also for `/login/`, `/login.php` and `/logins`.
    pub prefixes: Vec<String>,
    /// What the whole path looks like.
    pub patterns: Vec<Pattern>,
    /// Methods, case-sensitive as HTTP has them.
    pub methods: Vec<String>,
    /// Hosts.
    pub hosts: Vec<Host>,
    /// Headers, each of which must be there, by name.
    pub headers: Vec<Header>,
    /// Names of Envoy routes.
    pub routes: Vec<String>,
    /// Countries of clients. A client whose place is not known (yet) is in none.
    pub countries: Vec<Country>,
    /// Autonomous systems of clients; the same holds.
    pub asns: Vec<u32>,
    /// Whether the case of ASCII letters in the path does not matter. (In patterns it was
    /// decided when they were compiled.)
    pub ignore_case: bool,
}

/// How closely a match names a request; the greatest wins. See the module's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    path: Closeness,
    /// Further conditions.
    conditions: usize,
}

/// How closely a path is named; the order of the variants is the precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    Unnamed,
    Pattern,
    /// By a prefix of so many bytes.
    Prefix(usize),
    Exact,
}

impl Match {
    /// Whether the request falls under it, and how closely.
    #[must_use]
    pub fn matches(&self, request: &Request<'_>) -> Option<Specificity> {
        let path = self.path(request.path)?;
        // The cheap conditions first: a route's name must be asked for.
        let holds = one_of(&self.methods, |method| method.as_bytes() == request.method)
            && one_of(&self.hosts, |host| host.matches(request.host))
            && self.headers.iter().all(|header| header.matches(request.headers))
            && self.place_holds(request.place())
            && one_of(&self.routes, |route| request.route() == Some(route.as_bytes()));
        let lists = [
            self.methods.is_empty(),
            self.hosts.is_empty(),
            self.routes.is_empty(),
            self.countries.is_empty(),
            self.asns.is_empty(),
        ];
        let conditions = lists.iter().filter(|empty| !**empty).count() + self.headers.len();
        holds.then_some(Specificity { path, conditions })
    }

    /// Whether a condition is about where the client is.
    #[must_use]
    pub const fn needs_place(&self) -> bool {
        !self.countries.is_empty() || !self.asns.is_empty()
    }

    fn place_holds(&self, place: Option<&Rc<Place>>) -> bool {
        one_of(&self.countries, |country| place.and_then(|p| p.country()) == Some(*country))
            && one_of(&self.asns, |asn| place.and_then(|p| p.asn()) == Some(*asn))
    }

    /// Whether the request would fall under it, but for conditions about a place that is not
    /// known yet. A route is not asked for.
    #[must_use]
    pub fn awaits_place(&self, request: &Request<'_>) -> bool {
        self.needs_place()
            && self.path(request.path).is_some()
            && one_of(&self.methods, |method| method.as_bytes() == request.method)
            && one_of(&self.hosts, |host| host.matches(request.host))
            && self.headers.iter().all(|header| header.matches(request.headers))
    }

    /// How closely the path is named; `None` where it is not.
    fn path(&self, path: &[u8]) -> Option<Closeness> {
        if self.paths.is_empty() && self.prefixes.is_empty() && self.patterns.is_empty() {
            return Some(Closeness::Unnamed);
        }
        let same = |left: &[u8], right: &[u8]| {
            if self.ignore_case { left.eq_ignore_ascii_case(right) } else { left == right }
        };
        if self.paths.iter().any(|exact| same(exact.as_bytes(), path)) {
            return Some(Closeness::Exact);
        }
        let starts = |prefix: &&String| {
            path.get(..prefix.len()).is_some_and(|start| same(prefix.as_bytes(), start))
        };
        if let Some(length) = self.prefixes.iter().filter(starts).map(String::len).max() {
            return Some(Closeness::Prefix(length));
        }
        if self.patterns.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(path);
        self.patterns.iter().any(|pattern| pattern.matches(&text)).then_some(Closeness::Pattern)
    }
}

/// Whether a condition holds: it does where it is not given.
fn one_of<T>(values: &[T], holds: impl Fn(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(holds)
}

/// Hosts that a limit is for, in lower case and without a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// This one.
    Exact(String),
    /// Every host that ends in this and is longer (`.example.com` of `*.example.com`): the
    /// names below `example.com`, at any depth, but not itself.
    Suffix(String),
}

impl Host {
    /// Whether a host, with or without a port, in any case, is meant. A dot at its end is the
    /// root of the DNS and says nothing.
    #[must_use]
    pub fn matches(&self, host: &[u8]) -> bool {
        let name = without_port(host);
        let name = name.strip_suffix(b".").unwrap_or(name);
        match self {
            Self::Exact(exact) => name.eq_ignore_ascii_case(exact.as_bytes()),
            Self::Suffix(suffix) => name
                .len()
                .checked_sub(suffix.len())
                .filter(|start| *start > 0)
                .and_then(|start| name.get(start..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes())),
        }
    }
}

/// `example.com` of `example.com:8080`, `[2001:db8::1]` of `[2001:db8::1]:8080`.
fn without_port(host: &[u8]) -> &[u8] {
    let end = match host {
        [b'[', ..] => host.iter().position(|byte| *byte == b']').map(|at| at + 1),
        _ => host.iter().position(|byte| *byte == b':'),
    };
    end.and_then(|end| host.get(..end)).unwrap_or(host)
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// Its name in lower case.
    pub name: String,
    /// Its values, compared exactly with each field line; `None`: it only has to be there.
    pub values: Option<Vec<String>>,
}

impl Header {
    fn matches(&self, headers: &dyn HeaderSource) -> bool {
        let mut found = false;
        headers.each(self.name.as_bytes(), &mut |line| {
            found |= match &self.values {
                None => true,
                Some(values) => values.iter().any(|value| value.as_bytes() == line),
            };
        });
        found
    }
}

/// A regular expression over the whole path, anchored at both ends as Envoy's `safe_regex`,
/// in linear time. `.` also stands for a line break (a decoded path may hold one); bytes that
/// are no UTF-8 are U+FFFD. The syntax is that of the crate `regex-lite`: no look-around, no
/// back references, no Unicode classes.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    ignore_case: bool,
    regex: regex_lite::Regex,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// A [`PatternError`] that says what is wrong with it.
    pub fn new(source: &str, ignore_case: bool) -> Result<Self, PatternError> {
        if source.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong { bytes: source.len() });
        }
        let compile = |source: &str| {
            regex_lite::RegexBuilder::new(source)
                .case_insensitive(ignore_case)
                .dot_matches_new_line(true)
                .size_limit(MAX_COMPILED_BYTES)
                .build()
        };
        // On its own first: `a)|(?:b` would turn into a pattern that is anchored nowhere.
        compile(source).map_err(PatternError::Syntax)?;
        let regex = compile(&format!(r"\A(?:{source})\z")).map_err(PatternError::Syntax)?;
        Ok(Self { source: source.to_owned(), ignore_case, regex })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole text looks like it.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.ignore_case == other.ignore_case
    }
}

impl Eq for Pattern {}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    /// Longer than [`MAX_PATTERN_BYTES`].
    TooLong {
        /// Length of the input in bytes.
        bytes: usize,
    },
    /// No regular expression of the supported syntax, or too large once compiled.
    Syntax(regex_lite::Error),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(
                f,
                "regular expression of {bytes} bytes: expected at most {MAX_PATTERN_BYTES}"
            ),
            Self::Syntax(error) => write!(f, "not a regular expression: {error}"),
        }
    }
}

impl core::error::Error for PatternError {}

#[cfg(test)]
mod tests;

/// Requests for tests.
#[cfg(test)]
pub(crate) mod testing {
    use core::cell::Cell;

    use super::{Attributes, HeaderSource};

    /// Header lines: name and value.
    pub(crate) struct Lines<'a>(pub(crate) &'a [(&'a str, &'a [u8])]);

    impl HeaderSource for Lines<'_> {
        fn each(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
            for (line, value) in self.0 {
                if line.as_bytes() == name {
                    visit(value);
                }
            }
        }
    }

    /// Properties: path and value, and how often one was asked for.
    pub(crate) struct Properties<'a> {
        values: &'a [(&'a [u8], &'a [u8])],
        pub(crate) asked: Cell<u32>,
    }

    impl<'a> Properties<'a> {
        pub(crate) const fn new(values: &'a [(&'a [u8], &'a [u8])]) -> Self {
            Self { values, asked: Cell::new(0) }
        }
    }

    impl Attributes for Properties<'_> {
        fn attribute(&self, path: &[u8]) -> Option<Vec<u8>> {
            self.asked.set(self.asked.get() + 1);
            let (_, value) = self.values.iter().find(|(name, _)| *name == path)?;
            Some(value.to_vec())
        }
    }
}
