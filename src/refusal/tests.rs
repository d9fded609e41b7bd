// Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

use core::time::Duration;

use super::*;
use crate::limits::Rate;

const BLOCKED: Refusal<'static> = Refusal::blocked(403, 17);
const CONTACT: Option<&str> = Some("https://example.com/help?a=1&b=2");

fn body(refusal: &Refusal<'_>, accept: &str, contact: Option<&str>) -> String {
    String::from_utf8(respond(refusal, accept.as_bytes(), b"", contact).body).unwrap()
}

fn header(response: &Response, name: &str) -> Option<String> {
    let (_, value) = response.headers.iter().find(|(header, _)| *header == name)?;
    Some(value.clone())
}

#[track_caller]
fn chooses(accept: &str, expected: &str) {
    let response = respond(&BLOCKED, accept.as_bytes(), b"", None);
    assert_eq!(header(&response, "content-type").as_deref(), Some(expected), "{accept}");
}

#[test]
fn a_problem_names_the_reference_and_the_contact() {
    assert_eq!(
        body(&BLOCKED, "application/json", CONTACT),
        "{\"contact\":\"https://example.com/help?a=1&b=2\",\
         \"detail\":\"Requests from your network address are refused here.\",\
         \"reference\":\"17\",\"status\":403,\"title\":\"Request refused\",\
         \"type\":\"https://ipwarden.dev/problems#blocked\"}\n"
    );
    assert_eq!(
        body(&Refusal::unready(), "", None),
        "{\"detail\":\"This site is starting. Please try again in a few seconds.\",\
         \"status\":503,\"title\":\"Not ready yet\",\
         \"type\":\"https://ipwarden.dev/problems#unready\"}\n"
    );
}

#[test]
fn plain_text_is_short() {
    assert_eq!(
        body(&BLOCKED, "text/plain", CONTACT),
        "Request refused. Requests from your network address are refused here.\n\
         Reference: 17\nContact: https://example.com/help?a=1&b=2\n"
    );
    assert_eq!(
        body(&Refusal::unready(), "text/plain", None),
        "Not ready yet. This site is starting. Please try again in a few seconds.\n"
    );
}

#[test]
fn the_page_carries_the_reference_and_an_escaped_link() {
    let page = body(&BLOCKED, "text/html", CONTACT);
    let (head, main) = page.split_once("<body>").unwrap();
    assert_eq!(
        head,
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"robots\" content=\"noindex\">\n<title>Request refused</title>\n\
             <style>{PAGE_STYLE}</style>\n</head>\n"
        )
    );
    assert_eq!(
        main,
        "\n<main>\n<h1>Request refused</h1>\n\
         <p>Requests from your network address are refused here.</p>\n\
         <p>Reference: <code>17</code></p>\n\
         <p>If you think this is a mistake, \
         <a href=\"https://example.com/help?a=1&amp;b=2\">contact us</a> and quote the \
         reference.</p>\n</main>\n</body>\n</html>\n"
    );
    let hostile = body(&BLOCKED, "text/html", Some("https://a/\"'><script>"));
    assert!(hostile.contains("href=\"https://a/&quot;&#39;&gt;&lt;script&gt;\""), "{hostile}");
}

#[test]
fn no_reply_is_stored_or_sniffed() {
    for accept in ["application/json", "text/plain", "text/html"] {
        let response = respond(&BLOCKED, accept.as_bytes(), b"", None);
        assert_eq!(response.status, 403);
        assert_eq!(header(&response, "cache-control").as_deref(), Some("no-store"));
        assert_eq!(header(&response, "vary").as_deref(), Some("accept"));
        assert_eq!(header(&response, "x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(header(&response, "retry-after"), None);
        let has_policy = header(&response, "content-security-policy").is_some();
        assert_eq!(has_policy, accept == "text/html");
    }
    let unready = respond(&Refusal::unready(), b"", b"", None);
    assert_eq!(unready.status, 503);
    assert_eq!(header(&unready, "retry-after").as_deref(), Some("5"));
}

#[cfg(not(target_family = "wasm"))]
#[test]
fn the_policy_allows_exactly_the_page_s_style() {
    assert_eq!(
        PAGE_POLICY,
        format!(
            "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            base64_sha256(PAGE_STYLE.as_bytes())
        )
    );
}

#[test]
fn the_form_is_the_one_the_client_likes_most() {
    const PROBLEM: &str = "application/problem+json";
    const TEXT: &str = "text/plain; charset=utf-8";
    const HTML: &str = "text/html; charset=utf-8";
    chooses("", PROBLEM);
    chooses("*/*", PROBLEM);
    chooses("application/json, text/plain, */*", PROBLEM);
    chooses("application/*", PROBLEM);
    chooses("TEXT/HTML", HTML);
    chooses("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8", HTML);
    chooses("text/html, */*", HTML);
    chooses("text/*", TEXT);
    chooses("text/plain;q=0.5, text/html;q=0.4", TEXT);
    chooses("text/*;q=0.9, text/plain;q=0.1", HTML);
    chooses("*/*;q=0.5, application/json;q=0", TEXT);
    chooses("text/html;level=1;q=0.3, text/plain; Q=0.301", TEXT);
    // None acceptable, or nothing readable: a problem.
    chooses("image/png", PROBLEM);
    chooses("*/*;q=0", PROBLEM);
    chooses("text/html;q=2, text/html;q=x, text/html;q=0.1234, ;;,", PROBLEM);
}

#[test]
fn a_huge_accept_is_read_to_its_bound() {
    let late = format!("{}text/html", "image/png,".repeat(1_000));
    chooses(&late, "application/problem+json");
}

#[test]
fn grpc_clients_get_a_grpc_status() {
    for content_type in [&b"application/grpc"[..], b"application/grpc+proto"] {
        let refused = respond(&Refusal::blocked(429, 17), b"text/html", content_type, CONTACT);
        assert_eq!(
            refused,
            Response {
                status: 403,
                headers: Vec::new(),
                body: b"refused, reference 17".to_vec(),
                grpc_status: Some(GrpcStatus::PermissionDenied),
            }
        );
        let unready = respond(&Refusal::unready(), b"", content_type, None);
        assert_eq!(unready.status, 503);
        assert_eq!(unready.body, b"not ready yet, try again");
        assert_eq!(unready.grpc_status, Some(GrpcStatus::Unavailable));
    }
    assert_eq!((GrpcStatus::PermissionDenied as u8, GrpcStatus::Unavailable as u8), (7, 14));
    for other in [&b"application/grpc-web"[..], b"application/grpcx", b"application/json", b""] {
        assert_eq!(respond(&BLOCKED, b"", other, None).grpc_status, None);
    }
}

const LOGIN: Standing<'static> = Standing {
    name: "login",
    rate: Rate::new(5, Duration::from_secs(60)),
    remaining: 0,
    reset_seconds: 12,
    violated: true,
};
const API: Standing<'static> = Standing {
    name: "api_v1-all",
    rate: Rate { requests: 100, per: Duration::from_secs(3_600), burst: 120 },
    remaining: 119,
    reset_seconds: 36,
    violated: false,
};
const EXHAUSTED: limits::GrpcStatus = limits::GrpcStatus::ResourceExhausted;

#[test]
fn a_refusal_by_a_limit_names_it_and_when_to_come_back() {
    let standings = [LOGIN, API];
    let refusal = Refusal::limited(&standings, EXHAUSTED);
    let response = respond(&refusal, b"", b"", CONTACT);
    assert_eq!(response.status, 429);
    assert_eq!(response.grpc_status, None);
    let headers: Vec<(&str, &str)> =
        response.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(
        headers,
        [
            ("content-type", "application/problem+json"),
            ("cache-control", "no-store"),
            ("vary", "accept"),
            ("x-content-type-options", "nosniff"),
            ("retry-after", "12"),
            ("ratelimit-policy", "\"login\";q=5;w=60, \"api_v1-all\";q=100;w=3600"),
            ("ratelimit", "\"login\";r=0;t=12, \"api_v1-all\";r=119;t=36"),
        ]
    );
    assert_eq!(
        String::from_utf8(response.body).unwrap(),
        "{\"contact\":\"https://example.com/help?a=1&b=2\",\
         \"detail\":\"Please try again in 12 seconds.\",\"status\":429,\
         \"title\":\"Too many requests\",\
         \"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
         \"violated-policies\":[\"login\"]}\n"
    );
    assert_eq!(
        body(&refusal, "text/plain", None),
        "Too many requests. Please try again in 12 seconds.\n"
    );
}

#[test]
fn the_page_says_in_words_when_to_come_back() {
    let standings = [Standing { reset_seconds: 3_500, ..LOGIN }];
    let page = body(&Refusal::limited(&standings, EXHAUSTED), "text/html", CONTACT);
    let (head, main) = page.split_once("<body>").unwrap();
    assert!(head.contains("<title>Too many requests</title>"), "{head}");
    assert_eq!(
        main,
        "\n<main>\n<h1>Too many requests</h1>\n<p>Please try again in 59 minutes.</p>\n\
         <p>If you think this is a mistake, \
         <a href=\"https://example.com/help?a=1&amp;b=2\">contact us</a>.</p>\n\
         </main>\n</body>\n</html>\n"
    );
}

#[test]
fn a_time_in_words_is_never_too_early() {
    for (seconds, words) in [
        (1, "1 second"),
        (2, "2 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (121, "3 minutes"),
        (3_600, "60 minutes"),
        (7_199, "120 minutes"),
        (7_200, "2 hours"),
        (90_000, "25 hours"),
        (172_800, "2 days"),
        (604_800, "7 days"),
        (u32::MAX, "49711 days"),
    ] {
        assert_eq!(ratelimit::in_words(seconds), words);
    }
}

#[test]
fn retry_after_is_the_latest_of_the_violated_limits_and_of_no_other() {
    let later = Standing { name: "later", reset_seconds: 90, ..LOGIN };
    let idle = Standing { reset_seconds: 600_000, ..API };
    let retry = |standings: &[Standing<'_>]| {
        let refusal = Refusal::limited(standings, EXHAUSTED);
        let response = respond(&refusal, b"", b"", None);
        let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        (header(&response, "retry-after").unwrap(), problem["violated-policies"].clone())
    };
    assert_eq!(retry(&[LOGIN, idle, later]), ("90".to_owned(), json!(["login", "later"])));
    // A client that may come back "in 0 seconds" comes back at once.
    let now = Standing { reset_seconds: 0, ..LOGIN };
    assert_eq!(retry(&[now]), ("1".to_owned(), json!(["login"])));
    assert_eq!(ratelimit_headers(&[now])[1].1, "\"login\";r=0;t=1");
    let fresh = Standing { remaining: 120, reset_seconds: 0, ..API };
    assert_eq!(ratelimit_headers(&[fresh])[1].1, "\"api_v1-all\";r=120;t=0");
}

#[test]
fn other_refusals_carry_no_limit() {
    for refusal in [BLOCKED, Refusal::unready()] {
        let response = respond(&refusal, b"", b"", None);
        assert_eq!(header(&response, "ratelimit"), None);
        assert_eq!(header(&response, "ratelimit-policy"), None);
    }
}

#[test]
fn limited_grpc_clients_are_told_how_long_to_hold_back() {
    let standings = [LOGIN];
    for (grpc_status, expected, number) in [
        (EXHAUSTED, GrpcStatus::ResourceExhausted, 8),
        (limits::GrpcStatus::Unavailable, GrpcStatus::Unavailable, 14),
    ] {
        let refusal = Refusal::limited(&standings, grpc_status);
        assert_eq!(
            respond(&refusal, b"text/html", b"application/grpc", CONTACT),
            Response {
                status: 429,
                headers: vec![("grpc-retry-pushback-ms", "12000".to_owned())],
                body: b"too many requests, try again in 12 seconds".to_vec(),
                grpc_status: Some(expected),
            }
        );
        assert_eq!(expected as u8, number);
    }
}

/// A parser of RFC 9651 §4.2 for lists of strings with integer parameters, and of nothing
/// else: what it reads is a structured field.
#[cfg(not(target_family = "wasm"))]
mod structured {
    pub(super) type Member = (String, Vec<(String, u64)>);

    pub(super) fn list(mut rest: &str) -> Option<Vec<Member>> {
        let mut members = Vec::new();
        loop {
            let (member, after) = member(rest)?;
            members.push(member);
            // Optional white space around the comma; none at the end.
            let after = after.trim_start_matches([' ', '\t']);
            if after.is_empty() {
                return Some(members);
            }
            rest = after.strip_prefix(',')?.trim_start_matches([' ', '\t']);
        }
    }

    fn member(text: &str) -> Option<(Member, &str)> {
        let (name, mut rest) = text.strip_prefix('"')?.split_once('"')?;
        if name.bytes().any(|byte| byte == b'\\' || !(0x20..=0x7e).contains(&byte)) {
            return None;
        }
        let mut parameters = Vec::new();
        while let Some(after) = rest.strip_prefix(';') {
            let (key, after) = after.trim_start_matches(' ').split_once('=')?;
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_lowercase()) {
                return None;
            }
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = after.split_at(digits);
            if digits > 15 {
                return None;
            }
            parameters.push((key.to_owned(), number.parse().ok()?));
            rest = after;
        }
        Some(((name.to_owned(), parameters), rest))
    }

    mod laws {
        use core::time::Duration;

        use proptest::prelude::*;

        use super::super::{Rate, Standing, ratelimit_headers};
        use super::{Member, list};

        proptest! {
            #[test]
            fn the_fields_are_structured_and_say_what_was_given(
                given in proptest::collection::vec(
                    (
                        "[a-z0-9_-]{1,64}",
                        1..=Rate::MAX_REQUESTS,
                        1..=Rate::MAX_PER.as_secs(),
                        any::<u32>(),
                        1..=u32::MAX,
                    ),
                    1..8,
                ),
            ) {
                let standings: Vec<Standing<'_>> = given
                    .iter()
                    .map(|(name, requests, per, remaining, reset_seconds)| Standing {
                        name,
                        rate: Rate::new(*requests, Duration::from_secs(*per)),
                        remaining: *remaining,
                        reset_seconds: *reset_seconds,
                        violated: true,
                    })
                    .collect();
                let [(_, policy), (_, state)] = ratelimit_headers(&standings);
                let member = |name: &str, first: (&str, u64), second: (&str, u64)| -> Member {
                    let parameters = [first, second].map(|(key, value)| (key.to_owned(), value));
                    (name.to_owned(), parameters.to_vec())
                };
                let policies: Vec<Member> = given
                    .iter()
                    .map(|(name, q, w, _, _)| member(name, ("q", u64::from(*q)), ("w", *w)))
                    .collect();
                let states: Vec<Member> = given
                    .iter()
                    .map(|(name, _, _, r, t)| {
                        member(name, ("r", u64::from(*r)), ("t", u64::from(*t)))
                    })
                    .collect();
                prop_assert_eq!(list(&policy), Some(policies));
                prop_assert_eq!(list(&state), Some(states));
            }
        }
    }
}

#[cfg(not(target_family = "wasm"))]
fn base64_sha256(message: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(message);
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in digest.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}
