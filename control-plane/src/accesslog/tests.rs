use ipwarden::record::bounds;
use proptest::prelude::*;

use super::*;

/// ip method path?query status agent host raw
#[track_caller]
fn read(line: &str) -> String {
    let mut entry = Entry::default();
    entry.read(line.as_bytes(), Format::Auto).unwrap_or_else(|error| panic!("{error}: {line}"));
    let seen = entry.observation();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{} {} {}?{} {} {} '{}' '{}'",
        seen.time_us / 1_000_000,
        seen.ip,
        text(seen.raw.unwrap_or(seen.path)),
        text(seen.query),
        seen.status,
        seen.bytes_out,
        text(seen.user_agent),
        text(seen.host)
    )
}

const COMBINED: &str = r#"203.0.113.7 - frank [22/Nov/2026:16:00:00 +0000] "GET /a?b=1 HTTP/1.1" 404 153 "-" "curl/8.0""#;
const SEEN: &str = "1795363200 203.0.113.7 /a?b=1 404 153 'curl/8.0' ''";

#[test]
fn combined_lines_are_read_behind_every_prefix() {
    for prefix in [
        "",
        "<134>Nov 22 16:00:00 web1 nginx: ",
        "Nov 22 16:00:00 10.0.0.1 nginx[12]: ",
        "<134>1 2026-11-22T16:00:00Z web1 nginx 12 - - ",
        "2026-11-22T16:00:00.1+00:00 web1 nginx[12]: ",
        "2026-11-22T16:00:00.123456789Z stdout F ",
    ] {
        assert_eq!(read(&format!("{prefix}{COMBINED}")), SEEN, "{prefix}");
    }
    let with_host = SEEN.replace("''", "'example.org:443'");
    assert_eq!(read(&format!("example.org:443 {COMBINED}")), with_host);
    let common = COMBINED.split(" \"-\"").next().unwrap();
    assert_eq!(read(common), SEEN.replace("curl/8.0", ""));
}

#[test]
fn a_user_name_cannot_play_an_address() {
    let line = r#"203.0.113.7 - x 9.9.9.9 - - [22/Nov/2026:16:00:00 +0000] "GET / HTTP/1.1" 200 1"#;
    assert!(read(line).contains(" 203.0.113.7 "));
}

#[test]
fn behind_a_proxy_of_the_house_the_client_is_the_one_it_was_told_of() {
    let line = |client: &str, forwarded: &str| {
        format!(
            r#"{client} - - [22/Nov/2026:16:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "x" "{forwarded}""#
        )
    };
    assert!(read(&line("10.0.0.1", "203.0.113.7")).contains(" 203.0.113.7 "));
    assert!(read(&line("10.0.0.1", "9.9.9.9, 203.0.113.7, 10.0.0.2")).contains(" 203.0.113.7 "));
    assert!(read(&line("10.0.0.1", "9.9.9.9, unknown, 10.0.0.2")).contains(" 10.0.0.1 "));
    assert!(read(&line("10.0.0.1", "-")).contains(" 10.0.0.1 "));
    // A client of the Internet is believed nothing.
    assert!(read(&line("203.0.113.7", "9.9.9.9")).contains(" 203.0.113.7 "));
    let object = r#"{"time":"2026-11-22T16:00:00Z","remote_addr":"10.0.0.1","http_x_forwarded_for":"203.0.113.7","request":"GET / HTTP/1.1","status":200}"#;
    assert!(read(object).contains(" 203.0.113.7 "));
}

#[test]
fn quotes_that_were_not_escaped_are_part_of_the_request() {
    let line = r#"203.0.113.7 - - [22/Nov/2026:16:00:00 +0000] "GET /?q=" or "a"="a HTTP/1.1" 404 153 "https://example.org/" "curl/8.0""#;
    assert_eq!(read(line), r#"1795363200 203.0.113.7 /?q=" or "a"="a 404 153 'curl/8.0' ''"#);
    let mut entry = Entry::default();
    entry.read(line.as_bytes(), Format::Auto).unwrap();
    assert_eq!(entry.observation().referer, b"https://example.org/");
}

#[test]
fn broken_requests_are_observations_with_their_bytes() {
    let line = r#"203.0.113.7 - - [22/Nov/2026:16:00:00 +0000] "\x16\x03\x01\x02" 400 0 "-" "-""#;
    let mut entry = Entry::default();
    entry.read(line.as_bytes(), Format::Auto).unwrap();
    assert_eq!(entry.observation().raw, Some(&b"\x16\x03\x01\x02"[..]));
    assert_eq!(entry.observation().user_agent, b"");
    entry.read(COMBINED.as_bytes(), Format::Auto).unwrap();
    assert_eq!(entry.observation().raw, None);
}

#[test]
fn the_formats_of_envoy_are_read() {
    assert_eq!(
        read(
            r#"[2026-11-22T16:00:00.500Z] "GET /a?b=1 HTTP/1.1" 404 - 0 153 5 4 "198.51.100.1, 203.0.113.7" "curl/8.0" "id" "example.org" "10.0.0.1:80""#
        ),
        SEEN.replace("''", "'example.org'")
    );
    assert_eq!(
        read(
            r#"[2026-11-22T16:00:00.500Z] "GET /a?b=1 HTTP/1.1" 404 - via_upstream - "-" 0 153 5 4 "-" "curl/8.0" "id" "example.org" "10.0.0.1:80" outbound|80||a.b 10.1.1.1:1 10.2.2.2:80 203.0.113.7:4711 - default"#
        ),
        SEEN.replace("''", "'example.org'")
    );
    assert_eq!(
        read(
            r#"{"start_time":"2026-11-22T16:00:00.500Z","method":"GET","path":"/a?b=1","response_code":404,"bytes_sent":153,"user_agent":"curl/8.0","authority":"example.org","downstream_remote_address":"203.0.113.7:4711","x_forwarded_for":"9.9.9.9"}"#
        ),
        SEEN.replace("''", "'example.org'")
    );
}

#[test]
fn caddy_traefik_nginx_and_load_balancers_are_read() {
    let with_host = SEEN.replace("''", "'example.org'");
    assert_eq!(
        read(
            r#"{"level":"info","ts":1795363200.5,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"10.0.0.1","client_ip":"203.0.113.7","proto":"HTTP/2.0","method":"GET","host":"example.org","uri":"/a?b=1","headers":{"User-Agent":["curl/8.0"]}},"duration":0.1,"size":153,"status":404,"resp_headers":{"Server":["Caddy"]}}"#
        ),
        with_host
    );
    assert_eq!(
        read(
            r#"{"ClientAddr":"203.0.113.7:1","ClientHost":"203.0.113.7","DownstreamContentSize":153,"DownstreamStatus":404,"RequestHost":"example.org","RequestMethod":"GET","RequestPath":"/a?b=1","StartUTC":"2026-11-22T16:00:00.5Z","request_User-Agent":"curl/8.0","time":"2026-11-22T16:00:00Z"}"#
        ),
        with_host
    );
    assert_eq!(
        read(
            r#"{"time_iso8601":"2026-11-22T16:00:00+00:00","remote_addr":"203.0.113.7","request":"GET /a?b=1 HTTP/1.1","status":"404","body_bytes_sent":"153","http_user_agent":"curl/8.0"}"#
        ),
        SEEN
    );
    assert_eq!(
        read(
            r#"https 2026-11-22T16:00:00.186641Z app/my-lb/50dc 203.0.113.7:2817 10.0.0.1:80 0.0 0.001 0.0 404 404 34 153 "GET https://example.org:443/a?b=1 HTTP/1.1" "curl/8.0" - -"#
        ),
        SEEN.replace("''", "'example.org:443'")
    );
}

#[test]
fn other_lines_say_why_they_are_none() {
    let reject = |line: &str| Entry::default().read(line.as_bytes(), Format::Auto).unwrap_err();
    assert_eq!(reject(""), Reject::Unknown);
    assert_eq!(reject("2026/11/22 16:00:00 [error] 7#7: *1 open() failed"), Reject::Unknown);
    assert_eq!(
        reject(r#"- - - [22/Nov/2026:16:00:00 +0000] "GET / HTTP/1.1" 200 1"#),
        Reject::Address
    );
    assert_eq!(
        reject(r#"1.2.3.4 - - [22/Nov/2026:16:00:00 +0000] "GET / HTTP/1.1"#),
        Reject::Truncated
    );
    assert_eq!(
        reject(r#"1.2.3.4 - - [22/Nov/2026:16:00:00 +0000] "GET / HTTP/1.1" - 1"#),
        Reject::Status
    );
    assert_eq!(reject(r#"{"a":1}"#), Reject::Time);
    assert_eq!(reject("{\"a\""), Reject::Json);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(line: Vec<u8>) {
        for format in [Format::Auto, Format::Combined, Format::Envoy, Format::Json, Format::Alb] {
            let _ = Entry::default().read(&line, format);
        }
    }

    #[test]
    fn no_damage_to_a_line_is_too_odd(at in 0_usize..110, bytes: [u8; 3], cut in 0_usize..110) {
        let mut line = COMBINED.as_bytes().to_vec();
        let at = at.min(line.len());
        line.splice(at..at, bytes);
        line.truncate(cut.max(1));
        let mut entry = Entry::default();
        if entry.read(&line, Format::Auto).is_ok() {
            let seen = entry.observation();
            prop_assert!(seen.path.len() <= bounds::PATH_BYTES);
        }
    }

    #[test]
    fn a_target_comes_through_whatever_it_is(target in "/[ -~]{0,60}") {
        let escaped = target.replace('\\', "\\\\").replace('"', "\\\"");
        let line = format!(r#"203.0.113.7 - - [22/Nov/2026:16:00:00 +0000] "GET {escaped} HTTP/1.1" 200 1 "-" "x""#);
        let mut entry = Entry::default();
        entry.read(line.as_bytes(), Format::Auto).unwrap();
        let seen = entry.observation();
        let mut whole = seen.path.to_vec();
        if target.contains('?') {
            whole.push(b'?');
            whole.extend_from_slice(seen.query);
        }
        prop_assert_eq!(String::from_utf8_lossy(&whole), target);
    }
}
