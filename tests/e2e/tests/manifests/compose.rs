//! docker-compose: its own program understands the file, and what it mounts is what was tested.

use std::path::Path;
use std::process::Command;

use ipwarden_e2e::{program, root};
use serde_json::Value;

use crate::yaml;

fn compose() -> Value {
    yaml::read(&root().join("envoy/docker-compose.yaml"))[0].clone()
}

#[test]
fn docker_compose_understands_its_file() {
    let file = root().join("envoy/docker-compose.yaml");
    match Command::new("docker-compose").arg("-f").arg(&file).args(["config", "--quiet"]).output() {
        Ok(ended) => {
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        }
        Err(_) => println!("SKIPPED: docker-compose is not installed"),
    }
}

#[test]
fn the_mounted_bootstrap_is_the_tested_one_but_for_addresses() {
    let mounts = compose()["services"]["envoy"]["volumes"].clone();
    let mount = mounts[0].as_str().expect("a mount");
    assert_eq!(mount, "./compose/envoy.yaml:/etc/envoy/envoy.yaml:ro");
    let mounted = std::fs::read_to_string(root().join("envoy/compose/envoy.yaml")).expect("it");
    let mut expected = std::fs::read_to_string(root().join("envoy/envoy.yaml")).expect("it");
    for (from, to) in [
        ("address: 127.0.0.1, port_value: 10000", "address: 0.0.0.0, port_value: 10000"),
        ("target/wasm32-wasip1/wasm/ipwarden.wasm", "/etc/ipwarden/plugin.wasm"),
        ("  - name: ipwarden\n    type: STATIC", "  - name: ipwarden\n    type: STRICT_DNS"),
        ("address: 127.0.0.1, port_value: 8088", "address: control-plane, port_value: 8088"),
    ] {
        assert_eq!(expected.matches(from).count(), 1, "{from}");
        expected = expected.replace(from, to);
    }
    let read = |text: &str| yaml::documents(Path::new("envoy.yaml"), text);
    assert_eq!(read(&mounted), read(&expected));
}

#[test]
fn containers_run_as_nobody_on_a_read_only_file_system() {
    let compose = compose();
    for (name, service) in compose["services"].as_object().expect("services") {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["user"], "65532:65532", "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        assert!(service["healthcheck"]["test"].is_array(), "{name}");
        for port in service["ports"].as_array().expect("ports") {
            assert!(port.as_str().expect("a port").starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
}

/// The files with records on ClickHouse.
#[test]
fn docker_compose_understands_the_files_with_clickhouse() {
    let files = ["envoy/docker-compose.yaml", "envoy/compose/clickhouse.yaml"];
    let mut command = Command::new("docker-compose");
    for file in files {
        command.arg("-f").arg(root().join(file));
    }
    match command.arg("config").env("CLICKHOUSE_PASSWORD", "secret").output() {
        Ok(done) => {
            let text = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let url = "IPWARDEN_LOG: clickhouse://ipwarden:secret@clickhouse:8123/ipwarden";
            assert_eq!(text.matches(url).count(), 1, "{text}");
        }
        Err(_) => println!("SKIPPED: docker-compose is not installed"),
    }
    let service = yaml::read(&root().join(files[1]))[0]["services"]["clickhouse"].clone();
    assert_eq!(service["read_only"], true);
    assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]));
    assert!(service["user"].is_string() && service["user"] != "0:0");
    let image = service["image"].as_str().expect("an image");
    assert!(image.contains(':') && !image.ends_with(":latest"), "{image}");
}

/// The files with two control planes on one PostgreSQL.
#[test]
fn docker_compose_understands_the_files_with_postgres() {
    let files = ["envoy/docker-compose.yaml", "envoy/compose/postgres.yaml"];
    let mut command = Command::new("docker-compose");
    for file in files {
        command.arg("-f").arg(root().join(file));
    }
    match command.arg("config").env("POSTGRES_PASSWORD", "secret").output() {
        Ok(done) => {
            let text = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let url =
                "IPWARDEN_STATE: postgres://ipwarden:secret@postgres/ipwarden?sslmode=disable";
            assert_eq!(text.matches(url).count(), 2, "{text}");
        }
        Err(_) => println!("SKIPPED: docker-compose is not installed"),
    }
    let over = yaml::read(&root().join(files[1]))[0].clone();
    for (name, service) in over["services"].as_object().expect("services") {
        if name == "control-plane" {
            continue;
        }
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        assert!(service["user"].is_string() && service["user"] != "0:0", "{name}");
        assert!(service["healthcheck"]["test"].is_array(), "{name}");
        let image = service["image"].as_str().expect("an image");
        assert!(
            image == "ipwarden" || image.contains(':') && !image.ends_with(":latest"),
            "{image}"
        );
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().expect("a port").starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
}

/// The tests' Envoy, the image's and the one that `.ci/tools` installs are of one version.
#[test]
fn the_image_has_the_version_of_envoy_that_is_tested() {
    let dockerfile = std::fs::read_to_string(root().join("envoy/Dockerfile")).expect("it");
    let tools = std::fs::read_to_string(root().join(".ci/tools")).expect("it");
    let version =
        tools.lines().find_map(|line| line.strip_prefix("ENVOY_VERSION=")).expect("a version");
    assert!(dockerfile.contains(&format!("FROM envoyproxy/envoy:v{version} AS edge")), "{version}");
}

/// What the container would run, in a network and a file system view of its own: the mounted
/// bootstrap byte for byte, at its ports, with the control plane under its name.
#[test]
fn the_mounted_bootstrap_works_as_it_is() {
    let compose = compose();
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    let service = &compose["services"]["control-plane"];
    let environment: String = service["environment"]
        .as_object()
        .expect("variables")
        .iter()
        .map(|(name, value)| format!("{name}={} ", value.as_str().expect("a text")))
        .collect();
    let script = compose["services"]["envoy"]["command"][0].as_str().expect("a script");
    std::fs::write(place.join("envoy.sh"), script.replace("$$", "$")).expect("a file");
    std::fs::write(place.join("hosts"), "127.0.0.1 localhost control-plane\n").expect("a file");
    let [binary, module, envoy] = [
        ("E2E_BIN", "target/debug/ipwarden"),
        ("E2E_MODULE", "target/wasm32-wasip1/wasm/ipwarden.wasm"),
        ("E2E_ENVOY", ".tools/envoy/bin/envoy"),
    ]
    .map(|(variable, default)| program(variable, default));
    let sandbox = format!(
        r#"set -eu
ip link set lo up
for directory in /data /run/ipwarden /etc/ipwarden /etc/envoy; do
  mkdir -p "$PLACE/root$directory"
done
# The container's paths, over what this machine has in their place.
mkdir -p "$PLACE/upper" "$PLACE/work"
mount -t tmpfs none /run
mkdir -p /run/ipwarden
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$PLACE/upper,workdir=$PLACE/work" /etc
mkdir -p /etc/ipwarden /etc/envoy
cp "$PLACE/hosts" /etc/hosts
cp "$MODULE" /etc/ipwarden/plugin.wasm
cp "$BOOTSTRAP" /etc/envoy/envoy.yaml
cmp "$BOOTSTRAP" /etc/envoy/envoy.yaml
env {environment} IPWARDEN_DATA_DIR="$PLACE/data" "$BIN" serve 2>"$PLACE/service.log" &
service=$!
trap 'kill $service $envoy 2>/dev/null || true' EXIT
envoy=
for try in $(seq 200); do "$BIN" health >/dev/null 2>&1 && break; sleep 0.05; done
"$BIN" health
PATH="$(dirname "$ENVOY"):$PATH" bash -ec "$(cat "$PLACE/envoy.sh")" 2>"$PLACE/envoy.log" &
envoy=$!
status() {{
  curl -s -o /dev/null -w '%{{http_code}}' -H 'x-forwarded-for: 203.0.113.7' http://127.0.0.1:10000/ || true
}}
for try in $(seq 400); do [ "$(status)" = 200 ] && break; sleep 0.05; done
echo "before $(status)"
"$BIN" block 203.0.113.0/24 --data-dir "$PLACE/data" >/dev/null
# Every worker has it after a tick of its own: twenty connections in a row.
refused=0
for try in $(seq 400); do
  if [ "$(status)" = 403 ]; then refused=$((refused + 1)); else refused=0; sleep 0.05; fi
  [ "$refused" -lt 20 ] || break
done
echo "after $(status)"
# The container's health check.
eval "$HEALTH" && echo healthy
"#
    );
    let check = &compose["services"]["envoy"]["healthcheck"]["test"];
    assert_eq!((&check[1], &check[2]), (&Value::from("/bin/bash"), &Value::from("-c")));
    let health = check[3].as_str().expect("a command").replace("$$", "$");
    let allowed = Command::new("unshare")
        .args(["--net", "--mount", "--map-root-user", "ip", "link", "set", "lo", "up"])
        .output()
        .is_ok_and(|ended| ended.status.success());
    if !allowed {
        println!("SKIPPED: this machine permits no network namespaces (unshare, iproute2)");
        return;
    }
    let ended = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--map-root-user", "bash", "-c", &sandbox])
        .env("PLACE", place)
        .env("BIN", binary)
        .env("MODULE", module)
        .env("ENVOY", envoy)
        .env("BOOTSTRAP", root().join("envoy/compose/envoy.yaml"))
        .env("HEALTH", health)
        .output()
        .expect("unshare");
    let log = |name: &str| std::fs::read_to_string(place.join(name)).unwrap_or_default();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        said.contains("before 200\nafter 403\nhealthy\n"),
        "{said}\n{}\n{}\n{}",
        String::from_utf8_lossy(&ended.stderr),
        log("service.log"),
        log("envoy.log"),
    );
}
