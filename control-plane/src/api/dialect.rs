//! Which version of a message is spoken with a proxy.
//!
//! The version is a parameter of the media type; without one it is 1, which is what filters of
//! 0.1 send and read. Who polls names the versions that it reads in `accept` and is answered in
//! the highest that both know; a filter sends batches in the lowest version that it writes
//! until it learns that more is read. So a service and its filters may be a minor version
//! apart, in both directions, in whatever order they are updated.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Problem;

/// The version to answer in, of 1 to `newest`.
///
/// # Errors
/// 406 when `accept` names only others.
pub(crate) fn answer_in(
    headers: &HeaderMap,
    content_type: &str,
    newest: u8,
) -> Result<u8, Problem> {
    let lines: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| HeaderValue::to_str(line).ok())
        .collect();
    if lines.is_empty() {
        return Ok(1);
    }
    let ranges = lines.iter().flat_map(|line| line.split(','));
    let versions = ranges.filter_map(|range| version_in(range, content_type));
    versions.filter(|version| (1..=newest).contains(version)).max().ok_or_else(|| {
        let detail = format!(
            "none of the accepted versions is spoken here: expected {content_type};version={}",
            versions_up_to(newest)
        );
        Problem::new(StatusCode::NOT_ACCEPTABLE, detail)
    })
}

/// Whether a body of this content type can be read: the type, and a version of 1 to `newest`.
///
/// # Errors
/// 415.
pub(crate) fn check_content(
    headers: &HeaderMap,
    content_type: &str,
    newest: u8,
) -> Result<(), Problem> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let refused = |detail| Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    match found.and_then(|found| version_in(found, content_type)) {
        Some(version) if (1..=newest).contains(&version) => Ok(()),
        Some(version) => refused(format!(
            "version {version} of {content_type} is not known here: expected {}",
            versions_up_to(newest)
        )),
        None => refused(format!("expected content type {content_type}")),
    }
}

/// The version that a media range names for this type; `None` for other types.
fn version_in(range: &str, content_type: &str) -> Option<u8> {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next()?;
    if !(kind.eq_ignore_ascii_case(content_type) || matches!(kind, "*/*" | "application/*")) {
        return None;
    }
    let mut named = parts.filter_map(|part| part.split_once('='));
    match named.find(|(name, _)| name.trim().eq_ignore_ascii_case("version")) {
        None => Some(1),
        // One that can't be read is one that nobody speaks.
        Some((_, version)) => Some(version.trim().trim_matches('"').parse().unwrap_or(0)),
    }
}

fn versions_up_to(newest: u8) -> String {
    if newest == 1 { "1".to_owned() } else { format!("1 to {newest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.example";

    fn accepting(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn answered(lines: &[&str], newest: u8) -> Option<u8> {
        answer_in(&accepting(lines), TYPE, newest).ok()
    }

    #[test]
    fn the_highest_version_that_both_know_is_spoken() {
        let both =
            ["application/vnd.example;version=2, Application/vnd.example; version=\"1\";q=0.5"];
        assert_eq!(
            (answered(&both, 1), answered(&both, 2), answered(&both, 3)),
            (Some(1), Some(2), Some(2))
        );
        let lines = ["application/vnd.example;version=3", "application/vnd.example"];
        assert_eq!((answered(&lines, 2), answered(&lines, 3)), (Some(1), Some(3)));
    }

    #[test]
    fn who_names_none_speaks_the_first() {
        assert_eq!(answered(&[], 2), Some(1));
        assert_eq!(answered(&["*/*"], 2), Some(1));
        assert_eq!(answered(&["text/html, */*;q=0.8"], 2), Some(1));
    }

    #[test]
    fn who_knows_none_of_ours_is_refused() {
        for line in [
            "application/vnd.example;version=3",
            "application/vnd.example;version=0",
            "application/vnd.example;version=x",
            "text/html",
        ] {
            assert_eq!(answered(&[line], 2), None, "{line}");
        }
    }

    #[test]
    fn a_body_has_the_type_and_a_known_version() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            check_content(&headers, TYPE, 1).is_ok()
        };
        assert!(check("application/vnd.example") && check("application/vnd.example; version=1"));
        assert!(!check("application/vnd.example;version=2") && !check("text/plain"));
        assert!(check_content(&HeaderMap::new(), TYPE, 1).is_err());
    }
}
