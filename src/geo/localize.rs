//! Who is sent to the site of their country or language.
//!
//! A rule redirects with 302, and never
//!
//! - anything but `GET` and `HEAD`, nor a request whose place is not known;
//! - a crawler ([`is_crawler`]): it must see each site as it is;
//! - who said that they want to stay, by a cookie or in the query;
//! - who comes from the site that they would be sent to: they chose to leave it;
//! - to the host that was asked: no loop.
//!
//! Where a rule names languages, `accept-language` comes first: what a person asks for counts
//! more than where they are. A request without that header is judged by its country.

use super::{Country, Place};
use crate::limits::Mode;
use crate::limits::matching::{HeaderSource, Match, Request, normalise};

/// What the answer depends on besides the address; the value of `vary`.
pub const VARY: &str = "accept-language, cookie, referer, user-agent";
/// The place of the request's path and query in a target.
pub const PATH: &str = "{path}";
/// Most entries of `accept-language` that are read.
const MAX_LANGUAGES: usize = 32;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What records and metrics call it.
    pub name: String,
    /// Whether it redirects, or only records that it would.
    pub mode: Mode,
    /// Clients in one of these countries.
    pub countries: Vec<Country>,
    /// Clients who prefer one of these languages (primary tags in lower case: `fr`).
    pub languages: Vec<String>,
    /// Which requests it is for.
    pub matches: Match,
    /// Host of the target, in lower case, as it stands in the URL.
    pub host: String,
    /// The target: a URL; ends in [`PATH`] where path and query are to be kept.
    pub target: String,
    /// A cookie (`name=value`) that says stay.
    pub stay_cookie: String,
    /// A parameter of the query (`name=value`) that says stay.
    pub stay_query: String,
}

/// The rule that redirects a request, and where to: the first that applies.
#[must_use]
pub fn redirect<'r>(
    rules: &'r [Rule],
    request: &Request<'_>,
    place: Option<&Place>,
) -> Option<(&'r Rule, String)> {
    if !matches!(request.method, b"GET" | b"HEAD") {
        return None;
    }
    let mut target = Target::default();
    rules.iter().find_map(|rule| {
        if !rule.matches(request) || !rule.wants(request.headers, place) {
            return None;
        }
        let target = target.read(request.headers);
        if is_host(request.host, &rule.host) || rule.stays(request.headers, target) {
            return None;
        }
        Some((rule, rule.location(target)?))
    })
}

/// Whether a rule would judge the request by a place that is not known yet.
#[must_use]
pub fn needs_place(rules: &[Rule], request: &Request<'_>) -> bool {
    matches!(request.method, b"GET" | b"HEAD")
        && rules.iter().any(|rule| {
            rule.matches(request)
                && rule.by_language(request.headers).is_none()
                && !is_host(request.host, &rule.host)
                && !any_line(request.headers, b"user-agent", is_crawler)
        })
}

/// Path and query of the request, read once.
#[derive(Default)]
struct Target(Option<Vec<u8>>);

impl Target {
    fn read(&mut self, headers: &dyn HeaderSource) -> &[u8] {
        self.0.get_or_insert_with(|| {
            let mut found = Vec::new();
            headers.each(b":path", &mut |path| found = path.to_vec());
            found
        })
    }
}

impl Rule {
    fn matches(&self, request: &Request<'_>) -> bool {
        let path = normalise(request.path);
        self.matches.matches(&request.with_path(&path)).is_some()
    }

    /// Whether the client is one of those whom the rule is for.
    fn wants(&self, headers: &dyn HeaderSource, place: Option<&Place>) -> bool {
        self.by_language(headers).unwrap_or_else(|| {
            place.and_then(Place::country).is_some_and(|country| self.countries.contains(&country))
        })
    }

    /// What the client's languages say; `None` where they say nothing.
    fn by_language(&self, headers: &dyn HeaderSource) -> Option<bool> {
        if self.languages.is_empty() {
            return None;
        }
        let mut preferred = None;
        headers.each(b"accept-language", &mut |line| {
            if preferred.is_none() {
                preferred = preferred_language(line);
            }
        });
        preferred.map(|language| self.languages.contains(&language))
    }

    fn stays(&self, headers: &dyn HeaderSource, target: &[u8]) -> bool {
        let query = target.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
        let wanted = self.stay_query.as_bytes();
        query.split(|byte| *byte == b'&').any(|parameter| parameter == wanted)
            || any_line(headers, b"cookie", |line| {
                let wanted = self.stay_cookie.as_bytes();
                line.split(|byte| *byte == b';').any(|pair| pair.trim_ascii() == wanted)
            })
            || any_line(headers, b"user-agent", is_crawler)
            || any_line(headers, b"referer", |line| {
                referer_host(line).is_some_and(|host| is_host(host, &self.host))
            })
    }

    /// The value of `location`; `None` where the request's path can't stand in one.
    fn location(&self, target: &[u8]) -> Option<String> {
        let Some(site) = self.target.strip_suffix(PATH) else { return Some(self.target.clone()) };
        // `//evil.example` behind a host is a path; only what begins with / is one at all.
        let is_path = target.starts_with(b"/") && target.iter().all(u8::is_ascii_graphic);
        let path = core::str::from_utf8(target).ok().filter(|_| is_path)?;
        Some(format!("{site}{path}"))
    }
}

/// Whether a user agent says that it is a crawler, a previewer or a monitor: one of a few
/// words in it, in any case. It errs on the side of not redirecting.
#[must_use]
pub fn is_crawler(user_agent: &[u8]) -> bool {
    const WORDS: [&[u8]; 16] = [
        b"bot",
        b"crawl",
        b"spider",
        b"slurp",
        b"facebookexternalhit",
        b"mediapartners",
        b"inspectiontool",
        b"lighthouse",
        b"archive.org",
        b"feedfetcher",
        b"preview",
        b"embedly",
        b"whatsapp",
        b"validator",
        b"monitor",
        b"pingdom",
    ];
    WORDS
        .iter()
        .any(|word| user_agent.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word)))
}

/// The primary tag of the language with the highest quality (RFC 9110 §12.5.4), in lower
/// case; of equals the first. `None` for none, or `*`.
fn preferred_language(line: &[u8]) -> Option<String> {
    let line = core::str::from_utf8(line).ok()?;
    let mut best: Option<(u16, &str)> = None;
    for entry in line.split(',').take(MAX_LANGUAGES) {
        let mut parts = entry.split(';');
        let tag = parts.next().unwrap_or_default().trim();
        let quality = parts.find_map(|part| part.trim().strip_prefix("q=")).map_or(1_000, quality);
        if !tag.is_empty() && quality > 0 && best.is_none_or(|(most, _)| quality > most) {
            best = Some((quality, tag));
        }
    }
    let (_, tag) = best?;
    let primary = tag.split('-').next().unwrap_or(tag);
    (primary != "*").then(|| primary.to_ascii_lowercase())
}

/// A quality in thousandths; one that can't be read is none.
fn quality(text: &str) -> u16 {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if !matches!(whole, "0" | "1") || fraction.len() > 3 {
        return 0;
    }
    let thousandths = format!("{fraction:0<3}").parse::<u16>().unwrap_or(0);
    if whole == "1" { 1_000 } else { thousandths.min(1_000) }
}

/// The host (with its port) of a `referer`.
fn referer_host(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"https://").or_else(|| line.strip_prefix(b"http://"))?;
    rest.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next()
}

/// Whether two hosts are one: case does not matter, nor does a port that only one names.
fn is_host(found: &[u8], host: &str) -> bool {
    let host = host.as_bytes();
    found.eq_ignore_ascii_case(host)
        || without_port(found).eq_ignore_ascii_case(host)
        || found.eq_ignore_ascii_case(without_port(host))
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        // Not one of the colons of an IPv6 address.
        Some(at) if host.get(at + 1..).is_some_and(|port| !port.contains(&b']')) => {
            host.get(..at).unwrap_or(host)
        }
        _ => host,
    }
}

fn any_line(headers: &dyn HeaderSource, name: &[u8], holds: impl Fn(&[u8]) -> bool) -> bool {
    let mut found = false;
    headers.each(name, &mut |line| found |= holds(line));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::limits::matching::testing::{Lines, Properties};

    const BROWSER: (&str, &[u8]) = ("user-agent", b"Mozilla/5.0 (X11; Linux) Firefox/140.0");

    fn rules(more: &str) -> Vec<Rule> {
        let json = format!(
            r#"{{"geo": {{"cluster": "geo", "provider": "ipinfo"}},
                 "localize": [{{"countries": ["FR", "BE"], "redirect": "https://fr.example.com/" {more}}}]}}"#
        );
        config::check(json.as_bytes()).unwrap().localize
    }

    struct Asked<'a> {
        method: &'a str,
        host: &'a str,
        path: &'a str,
        country: &'a str,
    }

    const FRENCH: Asked<'static> =
        Asked { method: "GET", host: "example.com", path: "/", country: "FR" };

    fn goes(rules: &[Rule], asked: &Asked<'_>, lines: &[(&str, &[u8])]) -> Option<String> {
        let mut lines = lines.to_vec();
        lines.push((":path", asked.path.as_bytes()));
        let (lines, properties) = (Lines(&lines), Properties::new(&[]));
        let path = asked.path.split('?').next().unwrap();
        let (method, host) = (asked.method.as_bytes(), asked.host.as_bytes());
        let request = Request::new(method, host, path.as_bytes(), &lines, &properties);
        let place = Country::new(asked.country).and_then(|code| Place::new(Some(code), "", None));
        redirect(rules, &request, place.as_ref()).map(|(_, location)| location)
    }

    #[test]
    fn a_french_address_goes_to_the_french_site() {
        let rules = rules("");
        let french = Some("https://fr.example.com/".to_owned());
        assert_eq!(goes(&rules, &FRENCH, &[BROWSER]), french);
        assert_eq!(goes(&rules, &Asked { country: "BE", ..FRENCH }, &[]), french);
        assert_eq!(goes(&rules, &Asked { method: "HEAD", ..FRENCH }, &[]), french);
        for elsewhere in [
            Asked { country: "DE", ..FRENCH },
            Asked { country: "", ..FRENCH },
            Asked { method: "POST", ..FRENCH },
            Asked { host: "fr.example.com", ..FRENCH },
            Asked { host: "FR.example.com:443", ..FRENCH },
            Asked { path: "/?stay=1", ..FRENCH },
            Asked { path: "/?a=b&stay=1", ..FRENCH },
        ] {
            let Asked { method, host, path, country } = elsewhere;
            assert_eq!(
                goes(&rules, &elsewhere, &[BROWSER]),
                None,
                "{method} {host} {path} {country}"
            );
        }
        assert_eq!(goes(&rules, &Asked { path: "/?stay=10", ..FRENCH }, &[]), french);
    }

    #[test]
    fn who_said_so_stays_and_crawlers_see_every_site() {
        let rules = rules("");
        let googlebot = b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
        for line in [
            ("cookie", &b"a=b; ipwarden_stay=1; c=d"[..]),
            ("user-agent", googlebot),
            ("user-agent", b"facebookexternalhit/1.1"),
            ("referer", b"https://fr.example.com/page?x"),
        ] {
            assert_eq!(goes(&rules, &FRENCH, &[line]), None, "{line:?}");
        }
        for line in [
            ("cookie", &b"ipwarden_stay=0; xipwarden_stay=1"[..]),
            ("user-agent", b"curl/8.5.0"),
            ("referer", b"https://fr.example.com.evil.example/"),
        ] {
            assert!(goes(&rules, &FRENCH, &[line]).is_some(), "{line:?}");
        }
    }

    #[test]
    fn what_a_person_reads_comes_before_where_they_are() {
        let rules = rules(r#", "languages": ["fr"]"#);
        let german = Asked { country: "DE", ..FRENCH };
        let speaks = |line: &'static str| [("accept-language", line.as_bytes())];
        assert!(goes(&rules, &german, &speaks("fr-CA, en;q=0.8")).is_some());
        assert!(goes(&rules, &german, &speaks("en;q=0.3, FR;q=0.9")).is_some());
        assert!(goes(&rules, &FRENCH, &speaks("en-US,en;q=0.5,fr;q=0.1")).is_none());
        assert!(goes(&rules, &FRENCH, &speaks("fr;q=0, de")).is_none());
        // No wish: the country decides.
        for line in ["*", "", ";;;", "fr;q=nonsense"] {
            assert!(goes(&rules, &FRENCH, &speaks(line)).is_some(), "{line}");
            assert!(goes(&rules, &german, &speaks(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn path_and_query_are_kept_where_the_rule_says_so() {
        let mut rules = rules(r#", "match": {"path_prefix": "/shop"}"#);
        rules[0].target = "https://fr.example.com{path}".to_owned();
        let asked = Asked { path: "/shop//evil.example?a=1", ..FRENCH };
        let location = goes(&rules, &asked, &[]);
        assert_eq!(location.as_deref(), Some("https://fr.example.com/shop//evil.example?a=1"));
        assert_eq!(goes(&rules, &FRENCH, &[]), None, "another path");
        let asked = Asked { path: "/shop\u{e9}", ..FRENCH };
        assert_eq!(goes(&rules, &asked, &[]), None, "no path of a URL");
    }
}
