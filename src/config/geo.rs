//! The sections `geo` and `localize`.

use core::time::Duration;

use super::json::{Json, printable};
use super::limits::{limit_name, mode};
use super::matches;
use super::reader::{Errors, Field, Section};
use super::sections::{MAX_NAME_BYTES, checked, header_name, is_graphic, optional_token};
use super::{ControlPlane, Geo};
use crate::decisions::NEVER;
use crate::geo::Country;
use crate::geo::localize::{PATH, Rule};
use crate::geo::provider::{Fields, Provider};
use crate::geo::regions::{self, Region};
use crate::limits::Mode;
use crate::record::bounds::PATH_BYTES;

/// Every request is compared with each.
const MAX_RULES: usize = 64;
const MAX_COUNTRIES: usize = 250;
const MAX_ASNS: usize = 256;
const MAX_LANGUAGES: usize = 16;
const MAX_POINTER_BYTES: usize = 256;
const MAX_WAIT_MS: u32 = 2_000;
const STAY_COOKIE: &str = "ipwarden_stay=1";
const STAY_QUERY: &str = "stay=1";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ipwarden,
    Ipinfo,
    Generic,
}

pub(super) fn geo(
    field: &Field<'_>,
    control_plane: Option<&ControlPlane>,
    errors: &mut Errors,
) -> Option<Geo> {
    let mut section = field.section(errors)?;
    let kinds =
        [("ipwarden", Kind::Ipwarden), ("ipinfo", Kind::Ipinfo), ("generic", Kind::Generic)];
    let kind = match section.take("provider") {
        Some(field) => field.choice(&kinds, errors),
        None => Some(Kind::Ipwarden),
    };
    // The control plane is a provider that is known already.
    let known = control_plane.filter(|_| kind == Some(Kind::Ipwarden));
    let cluster = match section.take("cluster") {
        Some(field) => field.text(MAX_NAME_BYTES, errors).map(str::to_owned),
        None => known.map(|known| known.cluster.clone()).or_else(|| {
            let message = "missing: name the Envoy cluster that leads to the provider";
            errors.add(&section.path("cluster"), message);
            None
        }),
    };
    let authority = match section.take("authority") {
        Some(field) => field
            .text(MAX_NAME_BYTES, errors)
            .and_then(|text| checked(text, is_graphic, &field, "a host name", errors)),
        None => match (known, kind) {
            (Some(known), _) => Some(known.authority.clone()),
            (None, Some(Kind::Ipinfo)) => Some("ipinfo.io".to_owned()),
            _ => cluster.clone(),
        },
    };
    let token = optional_token(&mut section, errors).or_else(|| known.map(|k| k.token.clone()));
    let (path, fields) = (section.take("path"), section.take("fields"));
    let provider = match kind {
        Some(Kind::Generic) => generic(&section, path, fields, errors),
        Some(kind) => {
            for field in [path, fields].iter().flatten() {
                errors.add(&field.place, "only provider 'generic' has this setting: remove it");
            }
            Some(if kind == Kind::Ipinfo { Provider::Ipinfo } else { Provider::Ipwarden })
        }
        None => None,
    };
    let mut time = |name: &'static str, range: [u64; 2], default: u64, errors: &mut Errors| {
        let range = Duration::from_millis(range[0])..=Duration::from_millis(range[1]);
        let found = section.take(name).and_then(|field| field.duration(range, errors));
        found.unwrap_or(Duration::from_millis(default))
    };
    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;
    let cache = time("cache", [MINUTE, 28 * DAY], DAY, errors);
    let negative_cache = time("negative_cache", [1_000, DAY], 10 * MINUTE, errors);
    let timeout = time("timeout", [100, 10_000], 2_000, errors);
    let quota_per_day = section.take("quota_per_day").and_then(|f| f.whole(1..=u32::MAX, errors));
    let wait = section.take("wait_ms").and_then(|field| field.whole(0..=MAX_WAIT_MS, errors));
    let headers = match section.take("headers") {
        Some(field) => headers(&field, errors),
        None => Geo::default_headers(),
    };
    section.finish(errors);
    Some(Geo {
        cluster: cluster?,
        authority: authority?,
        token,
        provider: provider?,
        cache,
        negative_cache,
        timeout,
        quota_per_day,
        wait: Duration::from_millis(wait.unwrap_or(0).into()),
        headers,
    })
}

fn generic(
    section: &Section<'_>,
    path: Option<Field<'_>>,
    fields: Option<Field<'_>>,
    errors: &mut Errors,
) -> Option<Provider> {
    let path = match path {
        Some(field) => path_template(&field, errors),
        None => {
            errors.add(
                &section.path("path"),
                "missing: give path and query with {ip} in them, such as \
                 \"/ipgeo?apiKey={token}&ip={ip}\"",
            );
            None
        }
    };
    let Some(field) = fields else {
        errors.add(
            &section.path("fields"),
            "missing: say where an answer has what, such as {\"country\": \"/country_code2\"}",
        );
        return None;
    };
    let fields = pointers(&field, errors)?;
    Some(Provider::Generic { path: path?, fields })
}

fn path_template(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(PATH_BYTES, errors)?;
    if text.starts_with('/') && text.contains("{ip}") && text.bytes().all(is_graphic) {
        return Some(text.to_owned());
    }
    errors.add(
        &field.place,
        format!(
            "found '{}': expected a path that starts with / and contains {{ip}}",
            printable(text)
        ),
    );
    None
}

fn pointers(field: &Field<'_>, errors: &mut Errors) -> Option<Fields> {
    let mut section = field.section(errors)?;
    let mut pointer = |name: &'static str, errors: &mut Errors| {
        let field = section.take(name)?;
        let text = field.text(MAX_POINTER_BYTES, errors)?;
        if text.starts_with('/') {
            return Some(text.to_owned());
        }
        errors.add(
            &field.place,
            format!(
                "found '{}': expected a JSON pointer (RFC 6901), such as /location/country",
                printable(text)
            ),
        );
        None
    };
    let fields = Fields {
        country: pointer("country", errors),
        city: pointer("city", errors),
        asn: pointer("asn", errors),
        network: pointer("network", errors),
    };
    if matches!(field.value, Json::Object(members) if members.is_empty()) {
        errors
            .add(&field.place, "found no field: expected at least one of 'country', 'city', 'asn'");
    }
    section.finish(errors);
    Some(fields)
}

/// A name, or `false` where the upstream is not to be told.
fn headers(field: &Field<'_>, errors: &mut Errors) -> [Option<String>; 3] {
    let mut headers = Geo::default_headers();
    let Some(mut section) = field.section(errors) else { return headers };
    for (name, header) in ["country", "city", "asn"].into_iter().zip(&mut headers) {
        let Some(field) = section.take(name) else { continue };
        *header = match field.value {
            Json::Bool(false) => None,
            _ => field
                .text(MAX_NAME_BYTES, errors)
                .and_then(|text| header_name(text, &field, errors)),
        };
    }
    let mut given: Vec<&String> = headers.iter().flatten().collect();
    let all = given.len();
    given.sort();
    given.dedup();
    if given.len() < all {
        errors.add(&field.place, "found one name twice: give each header its own");
    }
    section.finish(errors);
    headers
}

pub(super) fn localize(field: &Field<'_>, errors: &mut Errors) -> Vec<Rule> {
    let items = field.items(MAX_RULES, errors).unwrap_or_default();
    let mut rules: Vec<Rule> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let Some(rule) = rule(item, at, errors) else { continue };
        if rules.iter().any(|earlier| earlier.name == rule.name) {
            let place = format!("{}.name", item.place);
            errors.add(&place, format!("found '{}' more than once: give each its own", rule.name));
        }
        rules.push(rule);
    }
    rules
}

fn rule(field: &Field<'_>, at: usize, errors: &mut Errors) -> Option<Rule> {
    let mut section = field.section(errors)?;
    let name = match section.take("name") {
        Some(field) => limit_name(&field, errors),
        None => Some(format!("localize-{at}")),
    };
    let countries = match section.take("countries") {
        Some(field) => countries(&field, errors),
        None => Vec::new(),
    };
    let languages = match section.take("languages") {
        Some(field) => languages(&field, errors),
        None => Vec::new(),
    };
    if !["countries", "languages"].iter().any(|name| has(field, name)) {
        errors.add(
            &section.path("countries"),
            "missing: list the countries that the rule is for, such as [\"FR\", \"BE\"]",
        );
    }
    let matches = match section.take("match") {
        Some(field) => matches::matches(&field, errors),
        None => Default::default(),
    };
    let target = match section.take("redirect") {
        Some(field) => target(&field, errors),
        None => {
            errors.add(
                &section.path("redirect"),
                "missing: give the URL to redirect to, such as \"https://fr.example.com/\"",
            );
            None
        }
    };
    let (mut stay_cookie, mut stay_query) = (STAY_COOKIE.to_owned(), STAY_QUERY.to_owned());
    if let Some(mut stay) = section.take("stay").and_then(|field| field.section(errors)) {
        for (name, value) in [("cookie", &mut stay_cookie), ("query", &mut stay_query)] {
            if let Some(field) = stay.take(name) {
                *value = pair(&field, errors).unwrap_or_default();
            }
        }
        stay.finish(errors);
    }
    let mode = mode(&mut section, errors).unwrap_or(Mode::Enforce);
    section.finish(errors);
    let (target, host) = target?;
    Some(Rule {
        name: name?,
        mode,
        countries,
        languages,
        matches,
        host,
        target,
        stay_cookie,
        stay_query,
    })
}

fn has(field: &Field<'_>, name: &str) -> bool {
    matches!(field.value, Json::Object(members) if members.iter().any(|(member, _)| member == name))
}

/// One country or a list of them.
pub(super) fn countries(field: &Field<'_>, errors: &mut Errors) -> Vec<Country> {
    let items = field.one_or_more(MAX_COUNTRIES, errors).unwrap_or_default();
    let read = |item: &Field<'_>| {
        let text = item.text(MAX_NAME_BYTES, errors)?;
        let found = Country::new(text);
        if found.is_none() {
            errors.add(
                &item.place,
                format!(
                    "found '{}': expected a country's code of two letters, such as FR",
                    printable(text)
                ),
            );
        }
        found
    };
    items.iter().filter_map(read).collect()
}

/// One number of an autonomous system or a list of them.
pub(super) fn asns(field: &Field<'_>, errors: &mut Errors) -> Vec<u32> {
    if let Json::Number(_) = field.value {
        return field.whole(1..=u32::MAX, errors).into_iter().collect();
    }
    let items = field.items(MAX_ASNS, errors).unwrap_or_default();
    if matches!(field.value, Json::List(items) if items.is_empty()) {
        errors.add(&field.place, "found an empty list: write a value or leave it out");
    }
    items.iter().filter_map(|item| item.whole(1..=u32::MAX, errors)).collect()
}

/// Decisions by region, as the control plane sends them.
pub(super) fn regions(field: &Field<'_>, errors: &mut Errors) -> Vec<regions::Rule> {
    let items = field.items(regions::MAX_RULES, errors).unwrap_or_default();
    items.iter().filter_map(|item| region(item, errors)).collect()
}

fn region(field: &Field<'_>, errors: &mut Errors) -> Option<regions::Rule> {
    let mut section = field.section(errors)?;
    let mut required = |name: &'static str, why: &str, errors: &mut Errors| {
        let found = section.take(name);
        if found.is_none() {
            errors.add(&section.path(name), format!("missing: {why}"));
        }
        found
    };
    let id = required("id", "number the rule", errors);
    let region = required("region", "say who is refused", errors);
    let id = id.and_then(|field| field.whole(1..=u32::MAX - 1, errors));
    let region = region.and_then(|field| {
        let text = field.text(regions::MAX_REGION_BYTES, errors)?;
        Region::parse(text).map_err(|error| errors.add(&field.place, error.to_string())).ok()
    });
    let path = section.take("path").map(|field| {
        let text = field.text(regions::MAX_PATH_BYTES, errors)?;
        regions::check_path(text).map_err(|error| errors.add(&field.place, error.to_string())).ok()
    });
    let mode = if section.has("mode") { mode(&mut section, errors) } else { Some(Mode::Enforce) };
    let until = section.take("until").map(|field| field.whole(0..=NEVER - 1, errors));
    section.finish(errors);
    Some(regions::Rule {
        id: id?,
        region: region?,
        // A path that can't be read must not become the whole site.
        path: path.map_or(Some(None), |path| path.map(Some))?,
        mode: mode?,
        expires_at: until.unwrap_or(Some(NEVER))?,
    })
}

fn languages(field: &Field<'_>, errors: &mut Errors) -> Vec<String> {
    let items = field.one_or_more(MAX_LANGUAGES, errors).unwrap_or_default();
    let read = |item: &Field<'_>| {
        let text = item.text(MAX_NAME_BYTES, errors)?;
        if (2..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Some(text.to_ascii_lowercase());
        }
        errors.add(
            &item.place,
            format!(
                "found '{}': expected a language without a region, such as fr",
                printable(text)
            ),
        );
        None
    };
    items.iter().filter_map(read).collect()
}

/// A URL and its host: nothing of the request but its path and query goes into it, and those
/// only behind the host.
fn target(field: &Field<'_>, errors: &mut Errors) -> Option<(String, String)> {
    let text = field.text(PATH_BYTES, errors)?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let site = text.strip_suffix(PATH).unwrap_or(text);
    let host = rest.map(|rest| rest.strip_suffix(PATH).unwrap_or(rest));
    let host = host.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    let fits = |byte: u8| is_graphic(byte) && !b"\"<>\\^`{|}".contains(&byte);
    // The path of a request can only stand directly behind the host.
    let is_whole = site.len() == text.len() || site.ends_with(host);
    if !host.is_empty() && host.bytes().all(word) && site.bytes().all(fits) && is_whole {
        return Some((text.to_owned(), host.to_ascii_lowercase()));
    }
    errors.add(
        &field.place,
        format!(
            "found '{}': expected a URL such as https://fr.example.com/, or \
             https://fr.example.com{PATH} to keep path and query",
            printable(text)
        ),
    );
    None
}

/// `name=value` as it stands in a cookie or a query.
fn pair(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(MAX_NAME_BYTES, errors)?;
    let fits = |byte: u8| is_graphic(byte) && !b";,&\"".contains(&byte);
    let is_pair =
        text.split_once('=').is_some_and(|(name, value)| !name.is_empty() && !value.is_empty());
    if is_pair && text.bytes().all(fits) {
        return Some(text.to_owned());
    }
    errors.add(
        &field.place,
        format!("found '{}': expected a name and a value, such as {STAY_QUERY}", printable(text)),
    );
    None
}

#[cfg(test)]
#[path = "geo_tests.rs"]
mod tests;
