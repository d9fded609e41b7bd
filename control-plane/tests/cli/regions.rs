//! Countries and autonomous systems on the command line.

use crate::bench::Bench;
use crate::mmdb::{Mmdb, map};

#[test]
fn a_country_is_blocked_at_a_path_listed_checked_and_unblocked() {
    let bench = Bench::start();
    let geo = bench.data_dir().join("geo");
    std::fs::create_dir_all(&geo).unwrap();
    let gb = map([("country_code", "GB".into())]);
    let data = Mmdb::new("country ipvAll", 6).net("81.2.0.0/16", gb).build();
    std::fs::write(geo.join("country.mmdb"), data).unwrap();
    bench.app().geo.refresh(bench.app().clock.now());

    let blocked =
        ["block", "country:gb,FR", "--path", "/admin", "--for", "4h", "--reason", "scans"];
    let blocked = bench.run(&blocked).expect(0);
    let lines: Vec<&str> = blocked.stdout.lines().collect();
    assert!(lines[0].starts_with("Blocked country:GB at /admin and below until 20"), "{blocked:?}");
    assert!(lines[0].ends_with(" UTC (4h): decision 1, revision 1."), "{blocked:?}");
    assert!(lines[1].starts_with("Blocked country:FR at /admin and below until"), "{blocked:?}");
    assert_eq!(blocked.stderr, "");

    let listed = bench.run(&["decisions"]).expect(0);
    let expected = "By country and autonomous system:\nid  region      path    mode   made";
    assert!(listed.stdout.starts_with(expected), "{listed:?}");
    assert_eq!(bench.json(&["decisions"])["regions"][1]["target"], "country:FR");
    assert_eq!(bench.json(&["decisions", "--action", "allow"]).get("regions"), None);
    let raw = bench.run(&["decisions", "-o", "raw"]).expect(0);
    assert!(raw.stdout.starts_with("1\tcountry:GB\tblock\tmanual\t"), "{raw:?}");
    assert!(raw.stdout.contains("\tscans\t/admin\n"), "{raw:?}");

    let checked = bench.run(&["check", "81.2.69.160", "--path", "/admin/users"]).expect(0);
    assert_eq!(
        checked.stdout,
        "81.2.69.160 is blocked by decision 1: country:GB at /admin and below (revision 1).\n"
    );
    let checked = bench.run(&["check", "81.2.69.160"]).expect(0);
    assert_eq!(
        checked.stdout,
        "81.2.69.160 is not blocked: no decision covers it (revision 1).\n\
         Where it is, as far as this service knows:\n  \
           covered by decision 1: country:GB at /admin and below\n"
    );
    bench.run(&["allow", "81.2.69.0/24"]).expect(0);
    let allowed = bench.run(&["check", "81.2.69.160", "--path", "/admin"]).expect(0);
    assert!(
        allowed.stdout.contains("country:GB at /admin and below; the allow wins"),
        "{allowed:?}"
    );

    let gone = bench.run(&["unblock", "country:GB", "--path", "/admin"]).expect(0);
    assert!(
        gone.stdout.starts_with("Unblocked country:GB at /admin and below: decision 1 is gone"),
        "{gone:?}"
    );
    let missing = bench.run(&["unblock", "country:GB", "--path", "/admin"]).expect(1);
    assert_eq!(
        missing.stderr,
        "error: no decision is about country:GB at /admin: `ipwarden decisions` lists all\n"
    );
}

#[test]
fn a_whole_site_is_thought_of_twice() {
    let bench = Bench::start();
    let asked = bench.run(&["block", "country:FR"]).expect(2);
    assert!(
        asked.stderr.starts_with(
            "error: where? Add --path /admin to refuse country:FR there, or --yes-whole-region for the whole site, which starts in shadow. Think of this first: refusing a whole country"
        ),
        "{asked:?}"
    );
    let early = bench.run(&["block", "country:FR", "--yes-whole-region", "--enforce"]).expect(1);
    assert_eq!(
        early.stderr,
        "error: no decision is about country:FR at the whole site: `ipwarden decisions` lists all\n"
    );
    let shadow = bench.run(&["block", "country:FR", "--yes-whole-region", "--for", "2h"]).expect(0);
    assert!(
        shadow.stdout.starts_with("In shadow: country:FR at the whole site until 20"),
        "{shadow:?}"
    );
    assert!(shadow.stderr.contains("warning: refusing a whole country"), "{shadow:?}");
    assert!(
        shadow
            .stderr
            .contains("`ipwarden block country:FR --yes-whole-region --enforce` switches it on"),
        "{shadow:?}"
    );
    let on = bench.run(&["block", "country:FR", "--yes-whole-region", "--enforce"]).expect(0);
    assert!(on.stdout.starts_with("Blocked country:FR at the whole site until 20"), "{on:?}");
    assert!(on.stdout.contains("(2h): decision 1, "), "its end stays: {on:?}");
}

#[test]
fn regions_and_addresses_are_not_mixed_up() {
    let bench = Bench::start();
    let usage = |arguments: &[&str]| bench.run(arguments).expect(2).stderr;
    assert!(usage(&["allow", "country:FR"]).contains("only block knows countries"));
    assert!(
        usage(&["block", "country:FR", "203.0.113.7", "--path", "/a"]).contains("two commands")
    );
    assert!(usage(&["block", "203.0.113.7", "--path", "/a"]).contains("is for every path"));
    assert!(usage(&["block", "country:F", "--path", "/a"]).contains("not a country"));
    assert!(usage(&["block", "country:FR", "--path", "/a/../b"]).contains("write it as '/b'"),);
    let slip = bench.run(&["block", "country:UK", "--path", "/a"]).expect(1);
    assert!(slip.stderr.contains("did you mean country:GB?"), "{slip:?}");
    assert_eq!(bench.revision(), 0);
}
