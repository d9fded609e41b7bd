// Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

const BLOCKED: Refusal = Refusal::blocked(403, 17);
const CONTACT: Option<&str> = Some("https://example.com/help?a=1&b=2");

fn body(refusal: &Refusal, accept: &str, contact: Option<&str>) -> String {
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
