//! What a refused client is told.
//!
//! A person gets a reference (the decision's number) and the operator's contact link, in the
//! form that their client asked for: problem+json (RFC 9457), plain text or a small page. The
//! reason of a decision is never told, and neither is the address that matched: both help an
//! attacker more than a person who asks the operator. Who went beyond a limit is told which
//! one, and when to come back.

mod negotiation;
mod ratelimit;
mod replies;

use core::fmt::Write as _;
use std::borrow::Cow;

use serde_json::json;

use self::negotiation::{Representation, negotiate};
use crate::decisions::DecisionId;
use crate::limits::{self, Standing};

pub use self::ratelimit::ratelimit_headers;
pub use self::replies::{Replies, Reply};

/// After how many seconds a client may try again while no decision set has arrived.
pub const UNREADY_RETRY_SECONDS: u32 = 5;

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
pub struct Refusal<'a> {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// Why, as far as the client may know.
    pub kind: Kind<'a>,
}

/// Why a request is refused, as far as the client may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A decision covers the client's address.
    Blocked {
        /// Number of the decision: the reference a person can quote.
        decision: DecisionId,
    },
    /// No decision set has arrived yet and the operator wants to wait for one.
    Unready,
    /// One or more limits are used up.
    Limited {
        /// Every limit that applied and is enforced, the violated ones marked.
        standings: &'a [Standing<'a>],
        /// What a gRPC client is told.
        grpc_status: limits::GrpcStatus,
    },
}

impl<'a> Refusal<'a> {
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

    /// Refused by limits: 429. `standings` are all that applied and are enforced (a shadow
    /// leaves no trace at the client), the violated ones marked.
    #[must_use]
    pub const fn limited(standings: &'a [Standing<'a>], grpc_status: limits::GrpcStatus) -> Self {
        Self { status: 429, kind: Kind::Limited { standings, grpc_status } }
    }
}

/// A local reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status. For gRPC the one that Envoy itself maps closest to
    /// [`Response::grpc_status`] (403, 429 and 503), whatever was configured for HTTP.
    pub status: u16,
    /// Headers, names in lower case; for gRPC metadata.
    pub headers: Vec<(&'static str, String)>,
    /// The body; for gRPC the `grpc-message`, which is how Envoy turns a local reply to a
    /// gRPC client into trailers.
    pub body: Vec<u8>,
    /// The status that a gRPC client gets; `None` for every other client.
    pub grpc_status: Option<GrpcStatus>,
}

/// The gRPC statuses of a refusal, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcStatus {
    /// Refused for good.
    PermissionDenied = 7,
    /// A quota is used up.
    ResourceExhausted = 8,
    /// Worth another try.
    Unavailable = 14,
}

/// Writes the reply for a client that sent these `accept` and `content-type` values (empty
/// where it sent none). `contact` is the operator's link.
#[must_use]
pub fn respond(
    refusal: &Refusal<'_>,
    accept: &[u8],
    content_type: &[u8],
    contact: Option<&str>,
) -> Response {
    if is_grpc(content_type) {
        return respond_grpc(refusal);
    }
    write_reply(refusal, negotiate(accept), contact)
}

fn write_reply(
    refusal: &Refusal<'_>,
    representation: Representation,
    contact: Option<&str>,
) -> Response {
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
    match refusal.kind {
        Kind::Blocked { .. } => {}
        Kind::Unready => headers.push(("retry-after", UNREADY_RETRY_SECONDS.to_string())),
        Kind::Limited { standings, .. } => {
            headers.push(("retry-after", ratelimit::retry_seconds(standings).to_string()));
            headers.extend(ratelimit_headers(standings));
        }
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

fn respond_grpc(refusal: &Refusal<'_>) -> Response {
    let mut headers = Vec::new();
    let (status, grpc_status, message) = match refusal.kind {
        Kind::Blocked { decision } => {
            (403, GrpcStatus::PermissionDenied, format!("refused, reference {decision}"))
        }
        Kind::Unready => (503, GrpcStatus::Unavailable, "not ready yet, try again".to_owned()),
        Kind::Limited { standings, grpc_status } => {
            let seconds = ratelimit::retry_seconds(standings);
            // What gRPC clients that retry by themselves obey (gRFC A6).
            headers.push(("grpc-retry-pushback-ms", (u64::from(seconds) * 1_000).to_string()));
            let status = match grpc_status {
                limits::GrpcStatus::ResourceExhausted => GrpcStatus::ResourceExhausted,
                limits::GrpcStatus::Unavailable => GrpcStatus::Unavailable,
            };
            let wait = ratelimit::in_words(seconds);
            (429, status, format!("too many requests, try again in {wait}"))
        }
    };
    Response { status, headers, body: message.into_bytes(), grpc_status: Some(grpc_status) }
}

impl Kind<'_> {
    const fn title(&self) -> &'static str {
        match self {
            Self::Blocked { .. } => "Request refused",
            Self::Unready => "Not ready yet",
            Self::Limited { .. } => "Too many requests",
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Blocked { .. } => {
                Cow::Borrowed("Requests from your network address are refused here.")
            }
            Self::Unready => {
                Cow::Borrowed("This site is starting. Please try again in a few seconds.")
            }
            Self::Limited { standings, .. } => {
                let wait = ratelimit::in_words(ratelimit::retry_seconds(standings));
                Cow::Owned(format!("Please try again in {wait}."))
            }
        }
    }

    /// The problem's type (RFC 9457 §3.1.1).
    const fn uri(&self) -> &'static str {
        match self {
            Self::Blocked { .. } => "https://ipwarden.dev/problems#blocked",
            Self::Unready => "https://ipwarden.dev/problems#unready",
            // draft-ietf-httpapi-ratelimit-headers registers it.
            Self::Limited { .. } => {
                "https://iana.org/assignments/http-problem-types#quota-exceeded"
            }
        }
    }
}

fn problem(refusal: &Refusal<'_>, contact: Option<&str>) -> String {
    let mut problem = json!({
        "type": refusal.kind.uri(),
        "title": refusal.kind.title(),
        "status": refusal.status,
        "detail": refusal.kind.detail(),
    });
    if let Some(members) = problem.as_object_mut() {
        match refusal.kind {
            Kind::Blocked { decision } => {
                members.insert("reference".to_owned(), json!(decision.to_string()));
            }
            Kind::Unready => {}
            Kind::Limited { standings, .. } => {
                let violated = standings.iter().filter(|standing| standing.violated);
                let names: Vec<&str> = violated.map(|standing| standing.name).collect();
                members.insert("violated-policies".to_owned(), json!(names));
            }
        }
        if let Some(contact) = contact {
            members.insert("contact".to_owned(), json!(contact));
        }
    }
    let mut body = problem.to_string();
    body.push('\n');
    body
}

fn text(refusal: &Refusal<'_>, contact: Option<&str>) -> String {
    let mut body = format!("{}. {}\n", refusal.kind.title(), refusal.kind.detail());
    if let Kind::Blocked { decision } = refusal.kind {
        body.push_str(&format!("Reference: {decision}\n"));
    }
    if let Some(contact) = contact {
        body.push_str(&format!("Contact: {contact}\n"));
    }
    body
}

fn page(refusal: &Refusal<'_>, contact: Option<&str>) -> String {
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
            Kind::Unready | Kind::Limited { .. } => "",
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

#[cfg(test)]
mod tests;
