//! The five minutes of a newcomer, through the command line.

use std::process::Output;
use std::time::Duration;

use ipwarden_e2e::{Options, System, eventually};
use serde_json::Value;

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn block_check_requests_unblock() {
    let system = System::start(Options::default()).await;
    assert_eq!(system.status("203.0.113.7").await, 200);
    let blocked =
        system.cli(&["block", "203.0.113.0/24", "--for", "1h", "--reason", "scraping"]).await;
    assert_eq!(blocked.status.code(), Some(0), "{}", text(&blocked));
    let took = system.settles("203.0.113.7", 403).await;
    assert!(took < Duration::from_secs(2), "{took:?}");

    let check = system.cli(&["check", "203.0.113.7"]).await;
    let said = text(&check);
    assert_eq!(check.status.code(), Some(0), "{said}");
    assert!(said.contains("203.0.113.0/24") && said.contains("scraping"), "{said}");

    eventually("both requests are listed", async || {
        let listed = json(&system.cli(&["requests", "--ip", "203.0.113.7", "-o", "json"]).await);
        let listed = listed.as_array().expect("an array").clone();
        listed.iter().any(|record| record["verdict"] == "admitted" && record["path"] == "/")
            && listed.iter().any(|record| record["verdict"] == "blocked")
    })
    .await;

    let unblocked = system.cli(&["unblock", "203.0.113.0/24"]).await;
    assert_eq!(unblocked.status.code(), Some(0), "{}", text(&unblocked));
    system.settles("203.0.113.7", 200).await;
    let again = system.cli(&["unblock", "203.0.113.0/24"]).await;
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_target_and_an_unreachable_service_have_their_exit_codes() {
    let mut system = System::start(Options::default()).await;
    let bad = system.cli(&["block", "10.0.0.0/33", "192.0.2.1"]).await;
    assert_eq!(bad.status.code(), Some(2), "{}", text(&bad));
    assert!(
        text(&bad).contains("prefix length '/33' is out of range: expected /0 to /32"),
        "{}",
        text(&bad)
    );
    assert_eq!(system.status("192.0.2.1").await, 200, "nothing changed");
    system.kill_control_plane().await;
    let unreachable = system.cli(&["decisions"]).await;
    assert_eq!(unreachable.status.code(), Some(3), "{}", text(&unreachable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_blocked_as_a_whole() {
    let system = System::start(Options::default()).await;
    let list = system.data_dir().join("list.txt");
    let mut lines = String::from("# a list\n");
    for n in 0..100_000u32 {
        lines.push_str(&format!("{}\n", std::net::Ipv4Addr::from(0x2000_0000 + n * 7)));
    }
    std::fs::write(&list, &lines).expect("the list");
    let list = list.to_string_lossy().into_owned();
    let blocked = system.cli(&["block", "--from", &list, "--reason", "list"]).await;
    assert_eq!(blocked.status.code(), Some(0), "{}", text(&blocked));
    system.settles("32.0.0.7", 403).await;
    assert_eq!(system.status("32.0.0.8").await, 200);

    std::fs::write(&list, lines.replace("32.0.0.14\n", "32.0.0.14/99\n")).expect("the list");
    let refused = system.cli(&["block", "--from", &list]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("line 4"), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_nothing_wrong_with_a_sound_system() {
    let system = System::start(Options::default()).await;
    system.status("203.0.113.7").await;
    let admin = format!("http://127.0.0.1:{}", system.admin_port());
    let doctor = system.cli(&["doctor", "--envoy-admin", &admin, "-o", "json"]).await;
    let found = json(&doctor);
    assert_eq!(doctor.status.code(), Some(0), "{found}");
    assert!(found["data_dir"].is_string(), "{found}");
}
