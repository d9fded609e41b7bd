//! What a refused client is told.
//!
//! A person gets a reference (the decision's number) and the operator's contact link, in the
//! form that their client asked for: problem+json (RFC 9457), plain text or a small page. The
//! reason of a decision is never told, and neither is the address that matched: both help an
//! attacker more than a person who asks the operator.

use core::fmt::Write as _;

use serde_json::json;

use crate::decisions::DecisionId;

/// After how many seconds a client may try again while no decision set has arrived.
pub const UNREADY_RETRY_SECONDS: u32 = 5;

/// Bytes of an `accept` header that are read.
const MAX_ACCEPT_BYTES: usize = 2_048;

/// The page may load nothing, run nothing, be framed by nobody; its one style is named by its
/// hash (see the test that computes it).
const PAGE_POLICY: &str = "default-src 'none'; \
    style-src 'sha256-8YL2xT50SZGrvX5VLyopoBDDqXeO9TiLcCbrXYYPw/8='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;\
font:1rem/1.5 system-ui,sans-serif;background:#fff;color:#1b1b1f}\
main{box-sizing:border-box;width:100%;max-width:34rem;padding:1.5rem}\
h1{font-size:1.5rem;line-height:1.25;margin:0 0 1rem}\
p{margin:0 0 1rem}\
code{font:600 1rem ui-monospace,monospace}\
a{color:#0b57d0}\
@media(prefers-color-scheme:dark){body{background:#1b1b1f;color:#e6e6ea}a{color:#a8c7fa}}";

/// A request that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// Why, as far as the client may know.
    pub kind: Kind,
}

/// Why a request is refused, as far as the client may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A decision covers the client's address.
    Blocked {
        /// Number of the decision: the reference a person can quote.
        decision: DecisionId,
    },
    /// No decision set has arrived yet and the operator wants to wait for one.
    Unready,
}

impl Refusal {
    /// Refused by a decision, with the configured status.
    #[must_use]
    pub const fn blocked(status: u16, decision: DecisionId) -> Self {
        Self { status, kind: Kind::Blocked { decision } }
    }

    /// Refused until a decision set has arrived: 503.
    #[must_use]
    pub const fn unready() -> Self {
        Self { status: 503, kind: Kind::Unready }
    }
}

/// A local reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status. For gRPC one that Envoy itself maps to [`Response::grpc_status`] (403 and
    /// 503), whatever was configured for HTTP.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body; for gRPC the `grpc-message`, which is how Envoy turns a local reply to a
    /// gRPC client into trailers.
    pub body: Vec<u8>,
    /// The status that a gRPC client gets; `None` for every other client.
    pub grpc_status: Option<GrpcStatus>,
}

/// The two gRPC statuses of a refusal, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcStatus {
    /// Refused for good.
    PermissionDenied = 7,
    /// Worth another try.
    Unavailable = 14,
}

/// Writes the reply for a client that sent these `accept` and `content-type` values (empty
/// where it sent none). `contact` is the operator's link.
#[must_use]
pub fn respond(
    refusal: &Refusal,
    accept: &[u8],
    content_type: &[u8],
    contact: Option<&str>,
) -> Response {
    if is_grpc(content_type) {
        return respond_grpc(refusal);
    }
    let representation = negotiate(accept);
    let mut headers = vec![
        ("content-type", representation.content_type().to_owned()),
        ("cache-control", "no-store".to_owned()),
        ("vary", "accept".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
    ];
    if representation == Representation::Html {
        headers.push(("content-security-policy", PAGE_POLICY.to_owned()));
        headers.push(("referrer-policy", "no-referrer".to_owned()));
    }
    if refusal.kind == Kind::Unready {
        headers.push(("retry-after", UNREADY_RETRY_SECONDS.to_string()));
    }
    let body = match representation {
        Representation::Problem => problem(refusal, contact),
        Representation::Text => text(refusal, contact),
        Representation::Html => page(refusal, contact),
    };
    Response { status: refusal.status, headers, body: body.into_bytes(), grpc_status: None }
}

/// Whether Envoy treats a request with this content type as gRPC. The same rule as Envoy's:
/// a reply that only one of the two takes for gRPC would be broken. (gRPC-Web is not gRPC
/// here; its clients read the HTTP status.)
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    matches!(content_type.strip_prefix(b"application/grpc"), Some([] | [b'+', ..]))
}

fn respond_grpc(refusal: &Refusal) -> Response {
    let (status, grpc_status, message) = match refusal.kind {
        Kind::Blocked { decision } => {
            (403, GrpcStatus::PermissionDenied, format!("refused, reference {decision}"))
        }
        Kind::Unready => (503, GrpcStatus::Unavailable, "not ready yet, try again".to_owned()),
    };
    Response {
        status,
        headers: Vec::new(),
        body: message.into_bytes(),
        grpc_status: Some(grpc_status),
    }
}

impl Kind {
    const fn title(self) -> &'static str {
        match self {
            Self::Blocked { .. } => "Request refused",
            Self::Unready => "Not ready yet",
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::Blocked { .. } => "Requests from your network address are refused here.",
            Self::Unready => "This site is starting. Please try again in a few seconds.",
        }
    }
}

fn problem(refusal: &Refusal, contact: Option<&str>) -> String {
    let kind = match refusal.kind {
        Kind::Blocked { .. } => "https://ipwarden.dev/problems#blocked",
        Kind::Unready => "https://ipwarden.dev/problems#unready",
    };
    let mut problem = json!({
        "type": kind,
        "title": refusal.kind.title(),
        "status": refusal.status,
        "detail": refusal.kind.detail(),
    });
    if let Some(members) = problem.as_object_mut() {
        if let Kind::Blocked { decision } = refusal.kind {
            members.insert("reference".to_owned(), json!(decision.to_string()));
        }
        if let Some(contact) = contact {
            members.insert("contact".to_owned(), json!(contact));
        }
    }
    let mut body = problem.to_string();
    body.push('\n');
    body
}

fn text(refusal: &Refusal, contact: Option<&str>) -> String {
    let mut body = format!("{}. {}\n", refusal.kind.title(), refusal.kind.detail());
    if let Kind::Blocked { decision } = refusal.kind {
        body.push_str(&format!("Reference: {decision}\n"));
    }
    if let Some(contact) = contact {
        body.push_str(&format!("Contact: {contact}\n"));
    }
    body
}

fn page(refusal: &Refusal, contact: Option<&str>) -> String {
    let title = refusal.kind.title();
    let mut body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n\
         <title>{title}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n<p>{}</p>\n",
        refusal.kind.detail()
    );
    if let Kind::Blocked { decision } = refusal.kind {
        let _ = writeln!(body, "<p>Reference: <code>{decision}</code></p>");
    }
    if let Some(contact) = contact {
        let link = escape(contact);
        let quote = match refusal.kind {
            Kind::Blocked { .. } => " and quote the reference",
            Kind::Unready => "",
        };
        let _ = writeln!(
            body,
            "<p>If you think this is a mistake, <a href=\"{link}\">contact us</a>{quote}.</p>"
        );
    }
    body.push_str("</main>\n</body>\n</html>\n");
    body
}

/// Escapes for HTML text and quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The forms of a refusal, in the order of preference where a client has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Representation {
    Problem,
    Text,
    Html,
}

impl Representation {
    const ALL: [Self; 3] = [Self::Problem, Self::Text, Self::Html];

    const fn content_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
        }
    }

    /// How closely a media range names this form: 3 exactly, 2 nearly, 1 by `*/*`, 0 not.
    /// A client that takes any JSON can read a problem.
    fn specificity(self, range: &[u8]) -> u8 {
        let (exact, nearly): (&[&[u8]], &[u8]) = match self {
            Self::Problem => {
                (&[b"application/problem+json", b"application/json"], b"application/*")
            }
            Self::Text => (&[b"text/plain"], b"text/*"),
            Self::Html => (&[b"text/html"], b"text/*"),
        };
        if exact.iter().any(|name| range.eq_ignore_ascii_case(name)) {
            3
        } else if range.eq_ignore_ascii_case(nearly) {
            2
        } else {
            u8::from(range == b"*/*")
        }
    }
}

/// Chooses by RFC 9110 §12.5.1: for each form the closest range decides its weight; the
/// heaviest form wins, then the one that was named more closely, then our own order. A client
/// that takes none of them gets a problem: a refusal without a body helps nobody.
fn negotiate(accept: &[u8]) -> Representation {
    let accept = accept.get(..MAX_ACCEPT_BYTES).unwrap_or(accept);
    let mut best = (0, 0, Representation::Problem);
    for form in Representation::ALL {
        let (specificity, weight) = accept
            .split(|byte| *byte == b',')
            .filter_map(media_range)
            .map(|(range, weight)| (form.specificity(range), weight))
            .filter(|(specificity, _)| *specificity > 0)
            .fold((0, 0), |best, found| if found.0 > best.0 { found } else { best });
        if (weight, specificity) > (best.0, best.1) {
            best = (weight, specificity, form);
        }
    }
    best.2
}

/// A media range and its weight in thousandths; `None` when its weight is malformed.
fn media_range(text: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = text.split(|byte| *byte == b';');
    let range = parts.next()?.trim_ascii();
    let mut weight = 1_000;
    for parameter in parts {
        if let [b'q' | b'Q', b'=', value @ ..] = parameter.trim_ascii() {
            weight = thousandths(value)?;
        }
    }
    Some((range, weight))
}

/// A qvalue of RFC 9110 §12.4.2: `0`, `1`, `0.8`, at most three decimals.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole] | [whole, b'.'] => (whole, &b""[..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut value: u16 = match whole {
        b'0' => 0,
        b'1' => 1,
        _ => return None,
    };
    for place in 0..3 {
        let digit = decimals.get(place).copied().unwrap_or(b'0');
        value = value * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    (value <= 1_000).then_some(value)
}

#[cfg(test)]
mod tests;
