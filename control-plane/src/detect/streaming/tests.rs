use ipwarden::record::Verdict;
use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000_000;
const START: u64 = 1_795_363_200_000_000;

fn seen<'a>(ip: &str, at_us: u64, method: &'a str, path: &'a str, status: u16) -> Observation<'a> {
    crate::detect::samples::seen(ip, START + at_us, method, path, status)
}

fn detectors() -> Detectors {
    let small = Limits { addresses: 4_096, groups: 256, bucket_bytes: 16 << 20 };
    Detectors::with_limits(Rules::default_rules(), small)
}

/// Names of rules that flagged, with the worst severity.
fn names(flags: &[Flag]) -> Vec<String> {
    let mut names: Vec<String> = flags.iter().map(|flag| flag.rule.clone()).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn twelve_missing_pages_in_five_seconds_are_probing_with_evidence() {
    let mut detectors = detectors();
    let mut flags = Vec::new();
    for n in 0..12 {
        let path = format!("/page{n}");
        flags.extend(detectors.observe(&seen("203.0.113.7", n * 400_000, "GET", &path, 404)));
    }
    assert_eq!(names(&flags), ["probing"]);
    let flag = &flags[0];
    assert_eq!(flag.target.to_string(), "203.0.113.7/32");
    assert_eq!(flag.count, 11);
    assert!(flag.evidence.len() >= 5);
    assert_eq!(flag.evidence.last().unwrap().path, "/page10");
}

#[test]
fn a_slow_scanner_adds_up() {
    let mut detectors = detectors();
    let mut flags = Vec::new();
    for n in 0..120 {
        let path = format!("/old{n}.php");
        flags.extend(detectors.observe(&seen("203.0.113.7", n * 2 * MINUTE, "GET", &path, 404)));
    }
    assert_eq!(names(&flags), [SLOW_RULE]);
    assert!(flags[0].detail.contains("odd requests within"), "{}", flags[0].detail);
}

#[test]
fn a_distributed_login_attack_flags_those_who_took_part_and_nobody_else() {
    let mut detectors = detectors();
    let mut flags = Vec::new();
    // A neighbour who mistypes once.
    flags.extend(detectors.observe(&seen("203.0.113.250", 0, "POST", "/login", 401)));
    for minute in 0..10 {
        for host in 1..=60 {
            let at = minute * MINUTE + host * 900_000;
            flags.extend(detectors.observe(&seen(
                &format!("203.0.113.{host}"),
                at,
                "POST",
                "/login",
                401,
            )));
        }
    }
    let network: Vec<_> = flags.iter().filter(|flag| flag.rule == "login-attack-network").collect();
    assert!(network.len() >= 50, "{}", network.len());
    assert!(flags.iter().all(|flag| flag.target.to_string() != "203.0.113.250/32"));
}

#[test]
fn hopping_inside_a_64_does_not_help() {
    let mut detectors = detectors();
    let mut flags = Vec::new();
    for n in 0..12 {
        let (ip, path) = (format!("2001:db8:1:2::{n:x}"), format!("/page{n}"));
        flags.extend(detectors.observe(&seen(&ip, n * 400_000, "GET", &path, 404)));
    }
    assert_eq!(flags[0].target.to_string(), "2001:db8:1:2::/64");
}

#[test]
fn counts_of_flags_add_up() {
    let mut detectors = detectors();
    let mut flags = Vec::new();
    for n in 0..500 {
        let path = format!("/page{n}");
        flags.extend(detectors.observe(&seen("203.0.113.7", n * 1_000_000, "GET", &path, 404)));
    }
    flags.extend(detectors.flush());
    let counted: u64 =
        flags.iter().filter(|flag| flag.rule == "probing").map(|flag| flag.count).sum();
    assert_eq!(counted, 500);
}

#[test]
fn our_own_refusals_are_no_probing() {
    let mut detectors = detectors();
    for n in 0..200 {
        let path = format!("/page{n}");
        let mut refused = seen("203.0.113.7", n * 100_000, "GET", &path, 403);
        refused.verdict = Verdict::Blocked;
        assert_eq!(names(&detectors.observe(&refused)), Vec::<String>::new());
    }
}

#[test]
fn a_known_crawler_is_spared_and_its_user_agent_alone_is_not() {
    let mut detectors = detectors();
    let agent = b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    let mut crawl = |ip: &str| -> usize {
        let mut flags = 0;
        for n in 0..300 {
            let path = format!("/product/{n}");
            let mut one = seen(ip, n * 200_000, "GET", &path, if n % 3 == 0 { 404 } else { 200 });
            one.user_agent = agent;
            flags += detectors.observe(&one).len();
        }
        flags
    };
    assert_eq!(crawl("66.249.66.1"), 0);
    assert!(crawl("203.0.113.7") > 0);
}

#[test]
fn a_known_crawler_is_spared_at_the_end_too() {
    let mut detectors = detectors();
    let mut flags = Vec::new();
    for n in 0..60 {
        let path = format!("/page{n}");
        flags.extend(detectors.observe(&seen("66.249.66.1", n * 1_000, "GET", &path, 404)));
    }
    flags.extend(detectors.flush());
    assert_eq!(names(&flags), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn memory_stays_in_its_bound_whatever_comes(
        seeds in proptest::collection::vec((any::<u32>(), any::<u16>(), 0_u8..6, any::<u32>()), 200..600),
    ) {
        let limits = Limits { addresses: 64, groups: 32, bucket_bytes: 64 << 10 };
        let mut detectors = Detectors::with_limits(Rules::default_rules(), limits);
        for (address, path, kind, jump) in seeds {
            let ip = IpAddr::from((address % 5_000).wrapping_mul(2_654_435_761).to_be_bytes());
            let path = match kind {
                0 => format!("/page{path}"),
                1 => format!("/.env{path}"),
                2 => "/wp-login.php".to_owned(),
                3 => format!("/../../etc/passwd{path}"),
                _ => format!("/item/{path}"),
            };
            let mut one = seen("192.0.2.1", u64::from(jump % 1_000) * 1_000, "POST", &path, 401);
            one.ip = ip;
            if kind == 5 {
                one.time_us = u64::from(jump) << 20;
                one.method = b"GET";
            }
            detectors.observe(&one);
            prop_assert!(detectors.figures().bucket_bytes <= limits.bucket_bytes);
            prop_assert!(detectors.figures().addresses <= 64);
        }
        let counted = detectors.figures().bucket_bytes;
        let really: usize = (0..detectors.addresses.sets()).map(|n| {
            detectors.addresses.set(n).iter().map(Slot::bucket_bytes).sum::<usize>()
        }).sum::<usize>() + (0..detectors.groups.sets()).map(|n| {
            detectors.groups.set(n).iter().map(Slot::bucket_bytes).sum::<usize>()
        }).sum::<usize>();
        prop_assert_eq!(counted, really);
        detectors.flush();
        prop_assert_eq!(detectors.figures().bucket_bytes, 0);
    }
}

/// What harmless clients are listed for; none of it may be critical, which is what blocks.
mod benign {
    use super::*;
    use crate::detect::Severity;

    fn browser(n: u64) -> String {
        format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/{}.0.{n}.0 Safari/537.36",
            100 + n % 40
        )
    }

    #[track_caller]
    fn listed(flags: &[Flag]) -> Vec<String> {
        for flag in flags {
            assert!(flag.severity < Severity::Critical, "{}: {}", flag.rule, flag.detail);
        }
        names(flags)
    }

    #[test]
    fn an_office_behind_one_address_is_not_listed() {
        let mut detectors = detectors();
        let mut flags = Vec::new();
        // Eight hours, 600 requests an hour, 40 programs; now and then a missing page or icon
        // and a mistyped password.
        for n in 0..4_800_u64 {
            let agent = browser(n * 7 % 40);
            let (path, status, method) = match n % 100 {
                3 | 57 => (format!("/missing/{n}"), 404, "GET"),
                11..=20 => (format!("/img/{n}.png"), 404, "GET"),
                31 => ("/login".to_owned(), 401, "POST"),
                n_in => (format!("/page/{}", n * n_in % 300), 200, "GET"),
            };
            let mut one = seen("203.0.113.7", n * 6_000_000, method, &path, status);
            one.user_agent = agent.as_bytes();
            flags.extend(detectors.observe(&one));
        }
        assert_eq!(listed(&flags), Vec::<String>::new());
    }

    #[test]
    fn monitors_clients_of_an_api_and_broken_bookmarks_are_not_listed() {
        let mut detectors = detectors();
        let mut flags = Vec::new();
        for n in 0..2_880 {
            let mut one = seen("203.0.113.1", n * 30_000_000, "GET", "/healthz", 200);
            one.user_agent = b"kube-probe/1.31";
            flags.extend(detectors.observe(&one));
        }
        for n in 0..7_200 {
            let path = format!("/api/v1/orders/{n}");
            flags.extend(detectors.observe(&seen("203.0.113.2", n * 4_000_000, "GET", &path, 200)));
        }
        for n in 0..20 {
            flags.extend(detectors.observe(&seen(
                "203.0.113.3",
                n * 60_000_000,
                "GET",
                "/old/bookmark",
                404,
            )));
        }
        assert_eq!(listed(&flags), Vec::<String>::new());
    }

    #[test]
    fn missing_icons_and_maps_are_the_sites_affair() {
        let mut detectors = detectors();
        let mut flags = Vec::new();
        for (n, path) in [
            "/favicon.ico",
            "/apple-touch-icon.png",
            "/apple-touch-icon-precomposed.png",
            "/apple-touch-icon-120x120.png",
            "/static/app.js.map",
            "/static/style.css.map",
            "/browserconfig.xml",
            "/.well-known/security.txt",
            "/.well-known/assetlinks.json",
            "/robots.txt",
            "/sitemap.xml",
            "/ads.txt",
            "/manifest.json",
            "/fonts/a.woff2",
        ]
        .iter()
        .enumerate()
        {
            flags.extend(detectors.observe(&seen(
                "203.0.113.7",
                n as u64 * 100_000,
                "GET",
                path,
                404,
            )));
        }
        assert_eq!(listed(&flags), Vec::<String>::new());
    }

    /// A page that loads sixty parts at once looks like a crawler for a moment: listed (low),
    /// because field notes' 40 pages at two a second are what crawlers are found by.
    #[test]
    fn a_single_page_application_is_listed_as_crawling_at_most() {
        let mut detectors = detectors();
        let mut flags = Vec::new();
        for page in 0..5_u64 {
            for part in 0..60_u64 {
                let path = format!("/api/part/{part}");
                let at = page * 20_000_000 + part * 20_000;
                flags.extend(detectors.observe(&seen("203.0.113.7", at, "GET", &path, 200)));
            }
        }
        let listed = listed(&flags);
        assert!(listed.is_empty() || listed == ["crawling"], "{listed:?}");
    }

    #[test]
    fn wordpress_itself_and_words_of_sql_are_not_listed() {
        let mut detectors = detectors();
        let mut flags = Vec::new();
        for n in 0..200 {
            let at = n * 15_000_000;
            flags.extend(detectors.observe(&seen(
                "203.0.113.1",
                at,
                "POST",
                "/wp-admin/admin-ajax.php",
                200,
            )));
            let mut cron = seen("203.0.113.2", at, "POST", "/wp-cron.php", 200);
            cron.query = b"doing_wp_cron=1795363200.1234567890";
            flags.extend(detectors.observe(&cron));
        }
        for (n, (path, query)) in [
            ("/search", "q=select+a+union+representative"),
            ("/blog/how-to-select-a-script", ""),
            ("/search", "q=drop+table+lamp"),
            ("/shop", "sort=price&order=asc&filter=1%20and%202"),
            ("/search", "q=%22black+or+white%22+shoes"),
            ("/people/o%27brien", "tab=and"),
            ("/a", "next=%2Faccount%2Flogin&msg=caf%C3%A9+%26+bar"),
            ("/articles/union-square-selects-new-script-director", "utm_source=a&utm_medium=b"),
            ("/search", "q=rock+%27n%27+roll"),
            ("/search", "q=cats+%26+dogs%3B+birds"),
            ("/calc", "expr=1%3D1"),
            ("/search", "q=c%2B%2B+%3Ciostream%3E"),
            ("/redirect", "url=https%3A%2F%2Fexample.org%2F%3Fa%3D1%26b%3D2"),
            ("/docs/etc/passwd", ""),
        ]
        .iter()
        .enumerate()
        {
            let mut one = seen("203.0.113.9", n as u64 * 5_000_000, "GET", path, 200);
            one.query = query.as_bytes();
            let found = detectors.observe(&one);
            assert!(found.is_empty(), "{path}?{query}: {found:?}");
        }
        assert_eq!(listed(&flags), Vec::<String>::new());
    }

    #[test]
    fn what_clients_of_products_and_readers_of_code_ask_for_is_not_listed() {
        let mut detectors = detectors();
        for (n, (method, path, query)) in [
            ("POST", "/Telerik.Web.UI.WebResource.axd", "type=rau"),
            ("GET", "/_layouts/15/Picker.aspx", "PickerDialogType=Microsoft.SharePoint"),
            ("GET", "/_fragment", "_hash=abc%3D&_path=_controller%3DApp"),
            ("POST", "/ssl-vpn/hipreport.esp", ""),
            ("POST", "/mgmt/tm/util/bash", ""),
            ("GET", "/plugins/servlet/gadgets/makeRequest", "url=https%3A%2F%2Fexample.org"),
            ("POST", "/rest/tinymce/1/macro/preview", ""),
            ("POST", "/ajax/render/widget_tabbedcontainer_tab_panel", ""),
            ("POST", "/samlResponseServlet", ""),
            ("GET", "/search", "q=python+__class__"),
            ("GET", "/search", "q=__init__+__globals__"),
            ("GET", "/appsettings.json", ""),
            ("GET", "/appsettings.Production.json", ""),
            ("GET", "/team/app/src/branch/main/docker-compose.yml", ""),
            ("GET", "/team/app/src/branch/main/settings.py", ""),
            ("GET", "/team/app/src/branch/main/.travis.yml", ""),
            ("GET", "/team/app/src/branch/main/.gitlab-ci.yml", ""),
            ("GET", "/team/app/src/branch/main/.vscode/settings.json", ""),
            ("GET", "/cars/alfa.php", ""),
        ]
        .iter()
        .enumerate()
        {
            let mut one = seen("203.0.113.9", n as u64 * 1_000_000, method, path, 200);
            one.query = query.as_bytes();
            let found = detectors.observe(&one);
            assert!(found.is_empty(), "{path}?{query}: {found:?}");
        }
    }
}
