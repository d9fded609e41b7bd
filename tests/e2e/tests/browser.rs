//! The dashboard in a real browser: Debian's Chromium through playwright-core, before the real
//! control plane and a real Envoy. What is done in the browser is in
//! `control-plane/ui/browser/shows.mjs`; needs the dashboard in the binary (`make ui`).

#[path = "../../../control-plane/tests/fixtures/mmdb.rs"]
mod mmdb;

use std::process::Stdio;

use ipwarden_e2e::{Options, System, eventually, plugin, root};
use serde_json::json;

use mmdb::{Mmdb, map};

/// A key for pseudonyms that nobody uses.
const KEY: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301";

/// Three countries.
fn geography(directory: &std::path::Path) {
    let country = |code: &str| map([("country_code", code.into())]);
    let databases = [
        Mmdb::new("country ipv4", 4)
            .net("81.2.69.0/24", country("GB"))
            .net("90.0.0.0/16", country("FR")),
        Mmdb::new("country ipv6", 6).net("2a02:8100::/32", country("DE")),
    ];
    for (at, database) in databases.into_iter().enumerate() {
        std::fs::write(directory.join(format!("{at}.mmdb")), database.build()).expect("written");
    }
}

async fn show(name: &str) {
    show_with(name, json!({})).await;
}

async fn show_with(name: &str, privacy: serde_json::Value) {
    let places = tempfile::tempdir().expect("a directory");
    geography(places.path());
    let mut config = plugin();
    config["records"] = json!({"max_age": "200ms"});
    config["privacy"] = privacy;
    let system = System::start(Options {
        plugin: Some(config),
        settings: format!("[geo]\ndir = {:?}\n", places.path()),
        ..Options::default()
    })
    .await;
    let made =
        system.api("POST", "/v1/tokens", Some(json!({"name": "guest", "role": "viewer"}))).await;
    let world = json!({
        "api": system.api_url(""),
        "site": format!("http://127.0.0.1:{}", system.site_port),
        "admin": system.token("admin"),
        "viewer": made["secret"],
        "feeds": system.data_dir().join("feeds"),
    });
    eventually("the geography is loaded", async || {
        let geo = system.api("GET", "/v1/geo/90.0.0.7", None).await;
        geo["country"] == "FR"
    })
    .await;
    let ui = root().join("control-plane/ui");
    let ended = tokio::process::Command::new("node")
        .args(["browser/shows.mjs", name])
        .current_dir(ui)
        .env("DASHBOARD_WORLD", world.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("node runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", text(&ended.stdout));
    assert!(ended.status.success(), "{name}: {}", text(&ended.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn from_login_over_map_and_chart_to_a_block_and_its_undoing() {
    show("from_login_to_undo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_send_is_shown_as_text_and_breaks_no_policy() {
    show("hostile_strings_are_only_text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_exported_as_a_file_and_erased_after_a_yes() {
    show("what_is_held_on_an_address_is_exported_and_erased").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pseudonyms_are_listed_as_pseudonyms_and_narrow_by_a_click() {
    let privacy = json!({"address": "pseudonym", "key": KEY});
    show_with("hidden_addresses_are_counted_as_what_they_are", privacy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_is_zoomed_and_compared_and_an_outage_is_said_and_survived() {
    show("the_span_is_zoomed_and_compared_and_the_stream_comes_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_added_a_sharp_change_taken_and_its_decisions_go_with_it() {
    show("a_feed_is_added_withheld_taken_and_removed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_is_opened_again_where_it_was() {
    show("a_session_that_ends_brings_the_login_and_the_page_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_has_a_serious_accessibility_problem() {
    show("no_serious_accessibility_problem").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_networks_and_can_change_nothing() {
    show("a_viewer_looks_and_does_not_touch").await;
}
