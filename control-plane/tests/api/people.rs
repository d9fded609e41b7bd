//! What is kept of people: hidden, forgotten, told, erased, and what detection still sees.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipwarden::decisions::Revision;
use ipwarden::privacy::{AddressForm, KeyId};
use ipwarden::record::{BatchHeader, Record, Verdict, wire};
use ipwarden_control_plane::api::status::LOG_FILE;
use ipwarden_control_plane::store::LogStore as _;
use ipwarden_control_plane::store::aging::AgingLog as _;
use ipwarden_control_plane::store::sqlite::SqliteLog;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Running, START, faults, ok, problem};

const HOUR: Duration = Duration::from_secs(3_600);

fn record(ip: &str) -> Record<'static> {
    Record {
        time_us: START.parse::<Timestamp>().unwrap().as_microsecond().cast_unsigned(),
        ip: Some(ip.parse().unwrap()),
        form: AddressForm::Full,
        opted_out: false,
        verdict: Verdict::Admitted,
        weight: 1,
        decision: 0,
        rule: b"",
        method: b"GET",
        host: b"shop.example",
        path: b"/a",
        query: b"",
        status: 200,
        flags: 0,
        duration_us: 1_500,
        bytes_in: 100,
        bytes_out: 200,
        user_agent: b"Mozilla/5.0",
        request_id: b"",
        country: Some(*b"FR"),
        city: b"",
        asn: None,
        identity: b"",
    }
}

fn batch(number: u64, key: Option<KeyId>, records: &[Record<'_>]) -> Vec<u8> {
    let start = records[0].time_us;
    let header = BatchHeader {
        stream: 1,
        number,
        started_us: start - 60_000_000,
        sent_us: start,
        proxy: b"edge-1",
        version: b"0.1.0",
        key,
        applied: Revision::default(),
        seen: records.len() as u64,
        lost: 0,
        skipped: 0,
    };
    let mut encoded = Vec::new();
    let mut previous = start;
    for record in records {
        wire::put_record(&mut encoded, previous, record);
        previous = record.time_us;
    }
    wire::encode(&header, start, records.len() as u32, &encoded)
}

async fn ship(running: &Running, number: u64, key: Option<KeyId>, records: &[Record<'_>]) {
    assert!(running.ship(batch(number, key, records)).await.status().is_success());
}

async fn run(running: &Running) {
    let app = running.service.app();
    let done = app.retention.run(app.clock.now(), false).await.unwrap();
    assert!(done.settled, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_a_pseudonym_after_three_days_and_gone_after_thirty() {
    let running = Running::start().await;
    ship(&running, 1, None, &[record("203.0.113.7"), record("2001:db8::7")]).await;
    running.clock.advance(71 * HOUR);
    run(&running).await;
    let page = running.get("/v1/requests").await;
    assert_eq!(
        (&page["records"][1]["ip"], &page["records"][1]["form"]),
        (&json!("203.0.113.7"), &json!("full"))
    );

    running.clock.advance(2 * HOUR);
    let due = running.post("/v1/retention/run", json!({"dry_run": true})).await;
    assert_eq!((&due["due"]["hide"], &due["due"]["hide_rollups"]), (&json!(2), &json!(2)));
    run(&running).await;
    let page = running.get("/v1/requests").await;
    let hidden = &page["records"][1];
    assert_eq!((&hidden["form"], &hidden["country"]), (&json!("pseudonym"), &json!("FR")));
    assert_ne!(hidden["ip"], "203.0.113.7");
    assert_eq!(running.get("/v1/requests?ip=203.0.113.7").await["records"], json!([]));
    // Its key reads it, for a reason, and that is noted.
    let shown = format!("{}@{}", hidden["ip"].as_str().unwrap(), hidden["key"].as_str().unwrap());
    let asked = json!({"pseudonym": shown, "reason": "abuse report 4711"});
    assert_eq!(running.post("/v1/pseudonyms/reveal", asked).await["ip"], "203.0.113.7");
    let line = &running.get("/v1/audit?limit=1").await["entries"][0];
    assert_eq!(
        (&line["action"], &line["subject"], &line["detail"]),
        (&json!("pseudonym.reveal"), &json!(shown), &json!("abuse report 4711"))
    );
    let silent = running
        .admin(Method::POST, "/v1/pseudonyms/reveal")
        .json(&json!({"pseudonym": shown, "reason": ""}));
    assert_eq!(
        faults(&problem(silent, 422).await),
        ["reason: say why the address is needed: it goes into the audit log"]
    );

    running.clock.advance(28 * 24 * HOUR);
    run(&running).await;
    assert_eq!(running.get("/v1/requests").await["records"], json!([]));
    // Nobody's address is there in any form; what everybody did together is.
    running.service.stop().await;
    let log = SqliteLog::open(&running.directory.path().join(LOG_FILE)).unwrap();
    let hour = START.parse::<Timestamp>().unwrap().as_second() / 3_600;
    let kept = log.rollups(hour, 1).await.unwrap();
    assert_eq!((kept.requests, kept.rollups.len(), kept.veiled.len()), (2, 0, 0));
    let countries = log.country_hours(hour, hour).await.unwrap();
    assert_eq!((countries[0].country.as_deref(), countries[0].requests), (Some("FR"), 2));
}

/// Every file under a directory that holds some bytes.
fn files_with(directory: &Path, needle: &[u8], not_before: fn(u8) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle, not_before));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let holds = bytes.windows(needle.len()).enumerate().any(|(at, window)| {
            window == needle && !bytes.get(at + needle.len()).is_some_and(|&next| not_before(next))
        });
        if holds {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Every form in which an address could lie in a file.
fn traces(directory: &Path, ip: &str) -> Vec<String> {
    let ip: IpAddr = ip.parse().unwrap();
    let mut needles = vec![ip.to_string().into_bytes()];
    match ip {
        IpAddr::V4(ip) => {
            // Also the end of the mapped and compatible forms of IPv6.
            needles.push(ip.octets().to_vec());
            needles.push(u32::from(ip).to_le_bytes().to_vec());
        }
        IpAddr::V6(ip) => {
            needles.push(ip.octets().to_vec());
            needles.push(u128::from(ip).to_le_bytes().to_vec());
            needles.push(ip.to_string().replace(':', "%3A").into_bytes());
        }
    }
    needles
        .iter()
        .enumerate()
        .flat_map(|(kind, needle)| {
            // 203.0.113.70 is somebody else.
            let text = kind == 0 || kind == 3;
            let longer = |next: u8| next.is_ascii_hexdigit();
            files_with(directory, needle, if text { longer } else { |_| false })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_address_is_in_no_byte_of_any_file() {
    let running = Running::start().await;
    let people = ["203.0.113.7", "2001:db8::7"];
    let mut number = 0;
    // Old ones that become pseudonyms, young ones, and those of others between them.
    for age in 0..2 {
        for round in 0..40u64 {
            number += 1;
            let time_us = record("192.0.2.1").time_us + age * 80 * 3_600_000_000 + round;
            let others = (0..25).map(|n| format!("198.51.100.{}", 100 + n)).collect::<Vec<_>>();
            let mut records = Vec::new();
            for (n, other) in others.iter().enumerate() {
                let who = people[n % 2];
                let path: &[u8] = if n == 7 { b"/whois?203.0.113.7" } else { b"/a" };
                records.push(Record { time_us, path: b"/only/hers", ..record(who) });
                records.push(Record { time_us, path, request_id: b"2001:db8::7", ..record(other) });
            }
            records.push(Record { time_us, ..record("203.0.113.70") });
            ship(&running, number, None, &records).await;
        }
        if age == 0 {
            running.clock.advance(80 * HOUR);
            run(&running).await;
        }
    }
    for who in people {
        running
            .post(
                "/v1/decisions",
                json!({"targets": [who], "action": "block", "reason": format!("abuse by {who}")}),
            )
            .await;
        running.get(&format!("/v1/requests?ip={}", who.replace(':', "%3A"))).await;
        running.post("/v1/limits/reset", json!({"key": who})).await;
    }
    let told = running.get("/v1/subjects/203.0.113.7?limit=10000").await;
    assert_eq!(
        told["held"].as_array().unwrap().len(),
        2,
        "as it came and as a pseudonym: {}",
        told["held"]
    );
    assert_eq!(told["records"].as_array().unwrap().len(), 2 * 40 * 13);
    assert_eq!(told["decisions"].as_array().unwrap().len(), 1);
    assert!(told["audit"].as_array().unwrap().len() >= 2, "{}", told["audit"]);
    assert!(!told["hours"].as_array().unwrap().is_empty());
    let directory = running.directory.path().to_owned();
    for who in people {
        assert!(!traces(&directory, who).is_empty());
        let erased = ok(running.admin(Method::DELETE, &format!("/v1/subjects/{who}"))).await;
        assert_eq!(erased["settled"], true);
        assert!(erased["records"].as_u64().unwrap() >= 2 * 40 * 12, "{erased}");
        assert_eq!(erased["decisions"], 1);
        assert_eq!(traces(&directory, who), Vec::<String>::new());
        let check =
            running.get(&format!("/v1/decisions/check?ip={}", who.replace(':', "%3A"))).await;
        assert_ne!(check["verdict"], "blocked", "{check}");
    }
    assert!(!traces(&directory, "203.0.113.70").is_empty(), "others stay");
    // The audit log says that somebody was erased, and by whom; not who it was.
    let lines = running.get("/v1/audit").await;
    let erasures: Vec<&Value> = lines["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["action"] == "subject.erase")
        .collect();
    assert_eq!(erasures.len(), 2);
    assert!(erasures[0]["subject"].as_str().unwrap().starts_with("erased:"));
    // Nothing comes back with a restart.
    let running = running.restart().await;
    for who in people {
        assert_eq!(traces(&directory, who), Vec::<String>::new());
        let told = running.get(&format!("/v1/subjects/{who}")).await;
        assert_eq!(
            (&told["held"], &told["records"], &told["suspects"]),
            (&json!([]), &json!([]), &json!([]))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_security_needs_is_kept_where_configured_and_told() {
    use ipwarden_control_plane::config::Keep;
    let running =
        Running::start_with(|config| config.privacy.keep_security = vec![Keep::Decisions]).await;
    running
        .post(
            "/v1/decisions",
            json!({"targets": ["203.0.113.7", "203.0.113.0/24"], "action": "block"}),
        )
        .await;
    let erased = ok(running.admin(Method::DELETE, "/v1/subjects/203.0.113.7")).await;
    let left: Vec<(&str, &str)> = erased["left"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| (left["what"].as_str().unwrap(), left["why"].as_str().unwrap()))
        .collect();
    assert_eq!(left[0], ("decision 1", "privacy.keep_security says that decisions are kept"));
    assert_eq!(left[1].1, "it is about a network, not about this address alone");
    let check = running.get("/v1/decisions/check?ip=203.0.113.7").await;
    assert!(check.to_string().contains("\"block"), "{check}");
}

/// Requests that no innocent client makes, as a proxy shipped them.
async fn attack(
    running: &Running,
    number: u64,
    ip: IpAddr,
    form: AddressForm,
    key: Option<KeyId>,
) -> Value {
    let paths: [&'static [u8]; 6] = [
        b"/.env",
        b"/.git/config",
        b"/wp-config.php.bak",
        b"/.aws/credentials",
        b"/id_rsa",
        b"/dump.sql",
    ];
    let records: Vec<Record<'_>> = paths
        .into_iter()
        .map(|path| Record {
            ip: Some(ip),
            form,
            path,
            status: 404,
            user_agent: b"sqlmap/1.7.2#stable (https://sqlmap.org)",
            ..record("192.0.2.1")
        })
        .collect();
    ship(running, number, key, &records).await;
    let word = form.as_str();
    let found = async {
        loop {
            let page = running.get("/v1/suspects").await;
            let mut all = page["suspects"].as_array().unwrap().iter();
            let is_new = |found: &&Value| {
                found["status"] == "open" && found["form"].as_str().unwrap_or("full") == word
            };
            if let Some(found) = all.find(is_new) {
                return found.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_seen_as_a_pseudonym_only_is_blocked_by_its_address() {
    let running = Running::start().await;
    let key = running.service.app().keys.current().unwrap();
    let ip: IpAddr = "203.0.113.7".parse().unwrap();
    let pseudonym = key.pseudonym(ip);
    let suspect = attack(&running, 1, pseudonym, AddressForm::Pseudonym, Some(key.key_id())).await;
    assert_eq!(suspect["target"], pseudonym.to_string());
    assert_eq!((&suspect["status"], &suspect["decision"]), (&json!("open"), &Value::Null));
    assert_eq!(running.get("/v1/decisions").await["total"], 0, "a pseudonym is never blocked");
    let path = format!("/v1/suspects/{}/confirm", suspect["id"]);
    let judged = running.post(&path, json!({})).await;
    assert_eq!(judged["decision"]["target"], "203.0.113.7");
    assert_eq!(judged["suspect"]["target"], pseudonym.to_string());
    let decisions = running.get("/v1/decisions").await;
    assert_eq!(
        (&decisions["total"], &decisions["decisions"][0]["target"]),
        (&json!(1), &json!("203.0.113.7"))
    );
    let lines = running.get("/v1/audit").await;
    let revealed = format!("suspect {} ({pseudonym}@{})", suspect["id"], key.key_id());
    assert!(lines["entries"].as_array().unwrap().iter().any(|line| {
        line["action"] == "pseudonym.reveal" && line["subject"] == revealed.as_str()
    }));
    // Whose key is not here stays unknown.
    let foreign = attack(&running, 2, pseudonym, AddressForm::Pseudonym, Some(KeyId([1, 2, 3, 4])));
    let _ = foreign.await;
    let page = running.get("/v1/suspects?status=open").await;
    let id = &page["suspects"][0]["id"];
    let asked = running.admin(Method::POST, &format!("/v1/suspects/{id}/confirm")).json(&json!({}));
    let refused = problem(asked, 422).await;
    assert!(faults(&refused)[0].contains("key 01020304, which is not here"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_seen_as_a_cut_address_needs_a_network_to_be_named() {
    let running = Running::start().await;
    let cut = "203.0.113.0".parse().unwrap();
    let suspect = attack(&running, 1, cut, AddressForm::Truncated, None).await;
    let path = format!("/v1/suspects/{}/confirm", suspect["id"]);
    let confirm = |body: Value| running.admin(Method::POST, &path).json(&body);
    assert_eq!(
        faults(&problem(confirm(json!({})), 422).await),
        [
            "network: this suspect is known by a cut address only: name the network to block whole, such as 203.0.113.0/24 (`network`, or --network on the command line)"
        ]
    );
    assert_eq!(
        faults(&problem(confirm(json!({"network": "198.51.100.0/24"})), 422).await),
        [
            "network: the cut address 203.0.113.0 does not lie in 198.51.100.0/24: name the network that it was cut from"
        ]
    );
    let judged = ok(confirm(json!({"network": "203.0.113.0/24"}))).await;
    assert_eq!(judged["decision"]["target"], "203.0.113.0/24");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_replaced_and_destroyed_but_never_shown() {
    let running = Running::start().await;
    let secret = std::fs::read_dir(running.directory.path().join("keys"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "key"))
        .map(|path| std::fs::read_to_string(path).unwrap().trim().to_owned())
        .unwrap();
    let first = running.get("/v1/keys").await;
    let id = first["keys"][0]["id"].as_str().unwrap().to_owned();
    problem(running.admin(Method::DELETE, &format!("/v1/keys/{id}")), 404).await;
    let rotated = running.post("/v1/keys/rotate", json!({})).await;
    assert_eq!(
        (&rotated["keys"][0]["status"], &rotated["keys"][1]["status"]),
        (&json!("current"), &json!("retired"))
    );
    let gone = ok(running.admin(Method::DELETE, &format!("/v1/keys/{id}"))).await;
    assert_eq!(gone["status"], "destroyed");
    let lines = running.get("/v1/audit").await;
    for answer in [&first, &rotated, &gone, &lines] {
        assert!(!answer.to_string().contains(&secret));
    }
    assert!(files_with(running.directory.path(), secret.as_bytes(), |_| false).is_empty());
}
