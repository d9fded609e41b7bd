//! User agents reduced to families.
//!
//! A family tells a browser from a program and programs from one another, without version,
//! system or device: what detectors need of most user agents, and nothing that tells one
//! visitor from another. Known scanners keep their name: they are what a detector looks for.

/// Bytes of a user agent that are looked at; records carry no more
/// ([`crate::record::bounds::USER_AGENT_BYTES`]).
const LOOKED_AT_BYTES: usize = 512;

/// What stands for the family when a word of a user agent is this one, in lower case, up to
/// its slash.
const PROGRAMS: [(&[u8], &str); 26] = [
    (b"curl", "curl"),
    (b"wget", "Wget"),
    (b"python-requests", "Python"),
    (b"python-urllib", "Python"),
    (b"python", "Python"),
    (b"python-httpx", "Python"),
    (b"aiohttp", "Python"),
    (b"go-http-client", "Go"),
    (b"java", "Java"),
    (b"okhttp", "okhttp"),
    (b"apache-httpclient", "Java"),
    (b"node-fetch", "Node.js"),
    (b"node", "Node.js"),
    (b"axios", "Node.js"),
    (b"undici", "Node.js"),
    (b"libwww-perl", "Perl"),
    (b"lwp::simple", "Perl"),
    (b"ruby", "Ruby"),
    (b"faraday", "Ruby"),
    (b"guzzlehttp", "PHP"),
    (b"php", "PHP"),
    (b"dart", "Dart"),
    (b"postmanruntime", "Postman"),
    (b"reqwest", "Rust"),
    (b"headlesschrome", "headless browser"),
    (b"phantomjs", "headless browser"),
];

/// The same of browsers, the more telling first: they name one another for compatibility.
const BROWSERS: [(&[u8], &str); 14] = [
    (b"edg", "Edge"),
    (b"edga", "Edge"),
    (b"edgios", "Edge"),
    (b"edge", "Edge"),
    (b"opr", "Opera"),
    (b"samsungbrowser", "Samsung Internet"),
    (b"vivaldi", "Vivaldi"),
    (b"yabrowser", "Yandex Browser"),
    (b"fxios", "Firefox"),
    (b"firefox", "Firefox"),
    (b"crios", "Chrome"),
    (b"chrome", "Chrome"),
    (b"chromium", "Chrome"),
    (b"safari", "Safari"),
];

/// Scanners by what a word of their user agent starts with, in lower case: a name of its own each, so that the
/// rule `scanner-user-agent` sees them as before.
const SCANNERS: [&str; 36] = [
    "sqlmap",
    "nikto",
    "nessus",
    "openvas",
    "acunetix",
    "netsparker",
    "w3af",
    "wpscan",
    "dirbuster",
    "gobuster",
    "feroxbuster",
    "ffuf/",
    "fuzz faster u fool",
    "wfuzz",
    "nuclei",
    "masscan",
    "zgrab",
    "nmap scripting engine",
    "joomscan",
    "whatweb",
    "skipfish",
    "arachni",
    "jaeles",
    "commix",
    "havij",
    "zmeu",
    "morfeus",
    "jorgee",
    "dirsearch",
    "xsstrike",
    "dalfox",
    "whatwaf",
    "wafw00f",
    "owasp zap",
    "libredtail-http",
    "leakix",
];

/// The family of a user agent: a browser's or a program's name, a known scanner's, `bot`,
/// `other`, or nothing where there was nothing.
#[must_use]
pub fn family(user_agent: &[u8]) -> &'static str {
    let mut lower = [0u8; LOOKED_AT_BYTES];
    let mut len = 0;
    for (to, from) in lower.iter_mut().zip(user_agent) {
        *to = from.to_ascii_lowercase();
        len += 1;
    }
    let text = lower.get(..len).unwrap_or_default().trim_ascii();
    if text.is_empty() {
        return "";
    }
    let scanner = starts(text)
        .find_map(|rest| SCANNERS.into_iter().find(|name| rest.starts_with(name.as_bytes())));
    if let Some(name) = scanner {
        return name;
    }
    let is_part = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
    if [&b"bot"[..], b"crawl", b"spider", b"slurp"].into_iter().any(is_part) {
        return "bot";
    }
    let named = |table: &[(&[u8], &'static str)]| {
        table.iter().find(|(name, _)| words(text).any(|word| word == *name)).map(|(_, name)| *name)
    };
    named(&PROGRAMS).or_else(|| named(&BROWSERS)).unwrap_or("other")
}

/// A user agent from each of its words on.
fn starts(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_start = |at: &usize| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        before.is_none_or(|byte| !byte.is_ascii_alphanumeric())
    };
    (0..text.len()).filter(is_start).filter_map(|at| text.get(at..))
}

/// The words of a user agent, each up to its slash.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| b" ;,()".contains(byte))
        .filter_map(|word| word.split(|byte| *byte == b'/').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn of(user_agent: &str, expected: &str) {
        assert_eq!(family(user_agent.as_bytes()), expected, "{user_agent}");
    }

    #[test]
    fn browsers_are_told_apart_though_they_name_one_another() {
        const MOZILLA: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)";
        const WEBKIT: &str = "AppleWebKit/537.36 (KHTML, like Gecko)";
        of(&format!("{MOZILLA} {WEBKIT} Chrome/142.0.0.0 Safari/537.36"), "Chrome");
        of(&format!("{MOZILLA} {WEBKIT} Chrome/142.0.0.0 Safari/537.36 Edg/142.0.1"), "Edge");
        of(&format!("{MOZILLA} {WEBKIT} Chrome/142.0.0.0 Safari/537.36 OPR/99"), "Opera");
        of(
            &format!("{MOZILLA} {WEBKIT} SamsungBrowser/28 Chrome/130 Safari/9"),
            "Samsung Internet",
        );
        of("Mozilla/5.0 (Macintosh) AppleWebKit/605 Version/18 Safari/605", "Safari");
        of("Mozilla/5.0 (iPhone) AppleWebKit/605 CriOS/142 Mobile Safari/604", "Chrome");
        of("Mozilla/5.0 (iPhone) AppleWebKit/605 FxiOS/145 Mobile Safari/604", "Firefox");
        of("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox");
    }

    #[test]
    fn programs_bots_and_scanners_keep_what_detectors_look_for() {
        of("curl/8.5.0", "curl");
        of("Wget/1.21", "Wget");
        of("python-requests/2.32", "Python");
        of("Go-http-client/2.0", "Go");
        of("Mozilla/5.0 (X11) AppleWebKit HeadlessChrome/142 Safari/1", "headless browser");
        of("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "bot");
        of("sqlmap/1.8#stable (https://sqlmap.org)", "sqlmap");
        of("Mozilla/5.0 zgrab/0.x", "zgrab");
        of("Fuzz Faster U Fool v2.1", "fuzz faster u fool");
    }

    #[test]
    fn anything_else_is_other_and_nothing_is_nothing() {
        of("Mozilla/5.0", "other");
        of("my-own-thing/1.0 (alice@example.com)", "other");
        of("", "");
        of("   ", "");
        assert_eq!(family(b"\xff\xfe\x00"), "other");
        assert_eq!(family(&vec![b'x'; 100_000]), "other");
    }

    #[test]
    fn a_family_is_its_own_family_or_none_of_a_persons() {
        // Reducing again keeps what rules compare: a control plane may do so, too.
        for name in SCANNERS {
            of(name, name);
        }
    }
}
