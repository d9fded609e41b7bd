//! CrowdSec as a peer, in both directions: its own programs from Debian's packages, unpacked by
//! `.ci/tools crowdsec`, with configurations of their own on loopback.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use ipwarden_e2e::{Options, System, eventually, program};
use serde_json::json;
use tokio::process::{Child, Command};

/// A program of the packages; says loudly where it is missing.
fn crowdsecs(name: &str) -> Option<PathBuf> {
    let path = program("E2E_CROWDSEC", ".tools/crowdsec/usr/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is missing: run .ci/tools crowdsec", path.display());
    None
}

fn free_port() -> u16 {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    held.local_addr().expect("its address").port()
}

/// The local API alone: no logs are read, no hub, nobody outside is asked.
struct LocalApi {
    _process: Child,
    directory: tempfile::TempDir,
    port: u16,
    cscli: PathBuf,
}

impl LocalApi {
    async fn start() -> Option<Self> {
        let (crowdsec, cscli) = (crowdsecs("crowdsec")?, crowdsecs("cscli")?);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (place, port) = (directory.path().to_owned(), free_port());
        for name in ["data", "hub", "notifications", "plugins"] {
            std::fs::create_dir(place.join(name)).expect("a directory");
        }
        let at = |name: &str| place.join(name);
        let configuration = json!({
            "common": {"daemonize": false, "log_media": "stdout", "log_level": "info", "working_dir": place},
            "config_paths": {
                "config_dir": place, "data_dir": at("data"), "simulation_path": at("simulation.yaml"),
                "hub_dir": at("hub"), "index_path": at("hub/.index.json"),
                "notification_dir": at("notifications"), "plugin_dir": at("plugins"),
            },
            "crowdsec_service": {"acquisition_path": at("acquis.yaml")},
            "cscli": {"output": "raw"},
            "db_config": {"type": "sqlite", "db_path": at("data/crowdsec.db"), "use_wal": true},
            "api": {
                "client": {"credentials_path": at("credentials.yaml")},
                "server": {"listen_uri": format!("127.0.0.1:{port}"), "profiles_path": at("profiles.yaml")},
            },
            "prometheus": {"enabled": false},
        });
        let profile = json!({
            "name": "default", "filters": ["Alert.Remediation == true"],
            "decisions": [{"type": "ban", "duration": "4h"}], "on_success": "break",
        });
        for (name, text) in [
            // JSON is YAML.
            ("config.yaml", configuration.to_string()),
            ("profiles.yaml", profile.to_string()),
            ("simulation.yaml", json!({"simulation": false}).to_string()),
            ("hub/.index.json", "{}".to_owned()),
            ("acquis.yaml", String::new()),
            ("credentials.yaml", String::new()),
        ] {
            std::fs::write(at(name), text).expect("a configuration");
        }
        let log = std::fs::File::create(at("crowdsec.log")).expect("a log file");
        let url = format!("http://127.0.0.1:{port}");
        let credentials = at("credentials.yaml");
        let credentials = credentials.to_str().expect("a path of UTF-8");
        let machine = [
            "machines",
            "add",
            "test",
            "--password",
            "of this test",
            "--force",
            "--url",
            &url,
            "-f",
        ];
        let made = run(&cscli, &place, &[&machine[..], &[credentials]].concat()).await;
        assert!(made.status.success(), "{made:?}");
        let process = Command::new(crowdsec)
            .arg("-c")
            .arg(at("config.yaml"))
            .arg("-no-cs")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("crowdsec");
        let api = Self { _process: process, directory, port, cscli };
        eventually("the local API answers", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Some(api)
    }

    /// Runs `cscli`; what it printed.
    async fn cscli(&self, arguments: &[&str]) -> String {
        let ran = run(&self.cscli, self.directory.path(), arguments).await;
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

async fn run(cscli: &Path, place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(cscli);
    command.arg("-c").arg(place.join("config.yaml")).args(["-o", "raw"]).args(arguments);
    command.stdin(Stdio::null()).output().await.expect("cscli")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_made_with_cscli_reaches_envoy_and_goes_again() {
    let Some(api) = LocalApi::start().await else { return };
    let system = System::start(Options::default()).await;
    let key = api.cscli(&["bouncers", "add", "ipwarden"]).await;
    let feeds = system.data_dir().join("feeds");
    std::fs::create_dir(&feeds).unwrap();
    std::fs::write(feeds.join("crowdsec.key"), key).unwrap();
    api.cscli(&["decisions", "add", "--ip", "203.0.113.7", "--duration", "1h"]).await;
    let url = format!("http://127.0.0.1:{}/", api.port);
    let added = system
        .cli(&[
            "feeds",
            "add",
            "crowdsec",
            &url,
            "--format",
            "crowdsec",
            "--key-file",
            "crowdsec.key",
            "--private-addresses",
            "--include-reserved",
            "--every",
            "1s",
            "-o",
            "json",
        ])
        .await;
    assert!(added.status.success(), "{added:?}");
    system.settles("203.0.113.7", 403).await;
    // What comes later comes as a change.
    let start = ipwarden_e2e::now();
    api.cscli(&["decisions", "add", "--range", "198.51.100.0/24", "--duration", "1h"]).await;
    api.cscli(&["decisions", "add", "--ip", "203.0.113.8", "--type", "captcha"]).await;
    system.settles("198.51.100.9", 403).await;
    let took = start.elapsed();
    api.cscli(&["decisions", "delete", "--ip", "203.0.113.7"]).await;
    system.settles("203.0.113.7", 200).await;
    assert_eq!(system.status("203.0.113.8").await, 200, "a captcha is no ban");
    assert_eq!(system.status("198.51.100.9").await, 403);
    let feed = system.api("GET", "/v1/feeds/crowdsec", None).await;
    assert_eq!((&feed["state"], &feed["entries"]), (&"ok".into(), &1.into()), "{feed}");
    eprintln!("from cscli to all workers, polled every second: {took:?}");
    // CrowdSec gone: what it decided goes on until it ends.
    drop(api);
    eventually("the feed fails", async || {
        system.api("GET", "/v1/feeds/crowdsec", None).await["state"] == "failing"
    })
    .await;
    assert_eq!(system.status("198.51.100.9").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_bouncer_receives_blocks_and_unblocks() {
    let Some(bouncer) = crowdsecs("crowdsec-custom-bouncer") else { return };
    let system = System::start(Options::default()).await;
    system.decide("block", &["203.0.113.7"], json!({"for": "1h"})).await;
    let made = system
        .api("POST", "/v1/tokens", Some(json!({"name": "custom-bouncer", "role": "bouncer"})))
        .await;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let heard = place.join("heard");
    let script = place.join("hear");
    let text = format!("#!/bin/sh\necho \"$1 $2 $3\" >> {}\n", heard.display());
    std::fs::write(&script, text).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let configuration = json!({
        "bin_path": script, "feed_via_stdin": false, "total_retries": 0,
        "scenarios_containing": [], "scenarios_not_containing": [], "origins": [],
        "piddir": place, "update_frequency": "1s", "cache_retention_duration": "1s",
        "daemonize": false, "log_mode": "stdout", "log_level": "info",
        "api_url": system.api_url("/crowdsec/"), "api_key": made["secret"],
        "prometheus": {"enabled": false, "listen_addr": "127.0.0.1", "listen_port": "60602"},
    });
    std::fs::write(place.join("bouncer.yaml"), configuration.to_string()).unwrap();
    let log = std::fs::File::create(place.join("bouncer.log")).unwrap();
    let mut running = Command::new(bouncer)
        .arg("-c")
        .arg(place.join("bouncer.yaml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut hears = async |line: &str| {
        let what = format!("the bouncer hears '{line}'");
        eventually(&what, async || {
            if let Some(ended) = running.try_wait().unwrap() {
                let log = std::fs::read_to_string(place.join("bouncer.log")).unwrap();
                panic!("the bouncer ended: {ended}\n{log}");
            }
            let text = std::fs::read_to_string(&heard).unwrap_or_default();
            text.lines().any(|heard| heard.starts_with(line))
        })
        .await
    };
    hears("add 203.0.113.7 ").await;
    let took = {
        system.decide("block", &["198.51.100.0/24"], json!({"for": "1h"})).await;
        hears("add 198.51.100.0/24 ").await
    };
    system.undecide("block", &["203.0.113.7"]).await;
    hears("del 203.0.113.7 ").await;
    // An allow takes a block's effect, and with it the bouncer's.
    system.decide("allow", &["198.51.100.0/25"], json!({})).await;
    hears("del 198.51.100.0/24 ").await;
    hears("add 198.51.100.128/25 ").await;
    eprintln!("from a block to the bouncer's script, polled every second: {took:?}");
}
