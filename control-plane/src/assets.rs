//! The dashboard's files, in the binary: no CDN, no directory to install.
//!
//! `build.rs` collects what `make ui` built, with the compressed forms that were made there.
//! Without a build there is no file, and the front page says how to get them.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};

use crate::hex::short;

/// Name and bytes of each file; compressed forms end in `.br` and `.gz`.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));

static BY_NAME: LazyLock<HashMap<&str, &[u8]>> = LazyLock::new(|| FILES.iter().copied().collect());

/// The page that every path of the dashboard is answered with.
const PAGE: &str = "index.html";

/// What the dashboard's page may do: run and load what comes from here, talk to us, be framed by
/// nobody. No script or style in the page itself, no text that becomes code.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
);

/// Whether the dashboard was built.
#[must_use]
pub fn is_built() -> bool {
    BY_NAME.contains_key(PAGE)
}

/// The dashboard's page; `None` when it was not built.
#[must_use]
pub fn page(headers: &HeaderMap) -> Option<Response> {
    let mut response = file(PAGE, headers)?;
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    // Looked at again each time, and sent again only when it changed.
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    Some(response)
}

/// A file with a hash in its name, which never changes.
#[must_use]
pub fn asset(name: &str, headers: &HeaderMap) -> Option<Response> {
    let mut response = file(&format!("assets/{name}"), headers)?;
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, forever);
    Some(response)
}

fn file(name: &str, headers: &HeaderMap) -> Option<Response> {
    let (&known, plain) = BY_NAME.get_key_value(name)?;
    let (bytes, encoding) = encoded(known, plain, headers);
    let tag = tag(bytes)?;
    let is_known =
        headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { bytes.into_response() };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(known)));
    answer.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    answer.insert(header::ETAG, tag);
    if let Some(encoding) = encoding {
        answer.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Some(response)
}

/// The smallest form that a browser takes.
fn encoded(
    name: &str,
    plain: &'static [u8],
    headers: &HeaderMap,
) -> (&'static [u8], Option<&'static str>) {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let takes = |encoding: &str| {
        let word = |part: &str| part.split(';').next().unwrap_or_default().trim() == encoding;
        accepted.is_some_and(|accepted| accepted.split(',').any(word))
    };
    for (encoding, ending) in [("br", "br"), ("gzip", "gz")] {
        if takes(encoding)
            && let Some(bytes) = BY_NAME.get(format!("{name}.{ending}").as_str())
        {
            return (bytes, Some(encoding));
        }
    }
    (plain, None)
}

fn tag(bytes: &[u8]) -> Option<HeaderValue> {
    let hash = Sha256::digest(bytes);
    HeaderValue::from_str(&format!("\"{}\"", short(&hash, 12))).ok()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}
