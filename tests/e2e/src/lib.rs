//! The whole system for tests: the built `ipwarden` binary, the built module, a real Envoy
//! with the bootstrap that users get, each on free ports and in a temporary directory.
//!
//! Readiness is polled; nothing waits for a fixed time. A test fails with the last lines of
//! both programs' logs.

mod burst;
mod jwt;
mod load;
mod places;
mod processor;
mod raw;
mod redis;
mod spray;
mod tls;
mod upstream;
mod vm;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::Instant;

pub use burst::burst;
pub use jwt::Issuer;
pub use load::{Load, Sent};
pub use places::{Behaviour, Places};
pub use processor::{processor_time, resident_kib};
pub use raw::{Reply, exchange, raw_request};
pub use redis::Redis;
pub use spray::{Answers, Shape, Sprayed, spray, spray_timed};
pub use tls::Authority;
pub use upstream::Upstream;
pub use vm::{Calls, Judged, Process, Vm};

/// How long anything may take to become true before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `condition` until it holds or patience ends; returns how long it took.
///
/// # Panics
/// When it does not come true.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) -> Duration {
    let start = now();
    loop {
        if condition().await {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "did not come true within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The monotonic clock of a test.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// What differs from the bootstrap that users get.
#[derive(Debug, Clone)]
pub struct Options {
    /// Envoy's worker threads.
    pub concurrency: u32,
    /// The plugin's configuration instead of the demo's.
    pub plugin: Option<Value>,
    /// Whether the site goes without the ipwarden filter: what the others cost.
    pub bare: bool,
    /// HTTP filters of the site before ipwarden.
    pub filters_before: Vec<Value>,
    /// Routes of the site before the one for everything.
    pub site_routes: Vec<Value>,
    /// Routes of the upstream before the one for everything.
    pub upstream_routes: Vec<Value>,
    /// `transport_socket` of the site's listener: plain text without one.
    pub site_tls: Option<Value>,
    /// Further replacements in the bootstrap, text by text; each must occur.
    pub replace: Vec<(String, String)>,
    /// The token Envoy gets instead of the right one.
    pub token: Option<String>,
    /// Whether Envoy is expected to start at all.
    pub envoy_starts: bool,
    /// Whether the site's listener comes from a file that can be replaced (LDS).
    pub dynamic: bool,
    /// Another module than the built one.
    pub module: Option<PathBuf>,
    /// Port of an upstream on 127.0.0.1 instead of Envoy's own.
    pub upstream: Option<u16>,
    /// Whether Envoy may be replaced by a new process that takes its sockets over.
    pub hot_restart: bool,
    /// `ipwarden.toml` of the control plane; none when empty.
    pub settings: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 2,
            plugin: None,
            bare: false,
            filters_before: Vec::new(),
            site_routes: Vec::new(),
            upstream_routes: Vec::new(),
            site_tls: None,
            replace: Vec::new(),
            token: None,
            envoy_starts: true,
            dynamic: false,
            module: None,
            upstream: None,
            hot_restart: false,
            settings: String::new(),
        }
    }
}

impl Options {
    /// Whether an Envoy with these options gets decisions from the control plane.
    fn polls(&self) -> bool {
        let connected =
            self.plugin.as_ref().is_none_or(|plugin| plugin.get("control_plane").is_some());
        self.envoy_starts && self.token.is_none() && !self.bare && connected
    }
}

/// The demo's plugin configuration, to be changed by tests.
#[must_use]
pub fn plugin() -> Value {
    json!({
        "proxy": "edge-1",
        "control_plane": {"cluster": "ipwarden", "token_env": "IPWARDEN_TOKEN"},
    })
}

/// A control plane and an Envoy.
#[derive(Debug)]
pub struct System {
    directory: tempfile::TempDir,
    options: Options,
    control_plane: Option<Child>,
    envoy: Option<Child>,
    /// Ports on 127.0.0.1.
    pub site_port: u16,
    upstream_port: u16,
    admin_port: u16,
    api_port: u16,
    /// The data directory of another system's control plane, where this one has none.
    home: Option<PathBuf>,
    http: reqwest::Client,
}

impl System {
    /// Starts both and waits until the site answers and the filter has its first set.
    ///
    /// # Panics
    /// When either does not start.
    pub async fn start(options: Options) -> Self {
        let mut system = Self::new(options);
        system.start_control_plane().await;
        system.start_envoy_with_a_set().await;
        system
    }

    /// Another Envoy on the same control plane, started the same way.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn another_edge(&self) -> Self {
        self.join(self.options.clone()).await
    }

    /// The same with options of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn join(&self, options: Options) -> Self {
        let mut system = Self::new(options);
        system.api_port = self.api_port;
        system.home = Some(self.data_dir());
        system.start_envoy_with_a_set().await;
        system
    }

    fn new(options: Options) -> Self {
        let [site_port, upstream_port, admin_port, api_port] = free_ports();
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            options,
            control_plane: None,
            envoy: None,
            site_port,
            upstream_port,
            admin_port,
            api_port,
            home: None,
            http: reqwest::Client::builder()
                .no_proxy()
                .pool_max_idle_per_host(0)
                .timeout(Duration::from_secs(30))
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client"),
        }
    }

    async fn start_envoy_with_a_set(&mut self) {
        self.start_envoy().await;
        if self.options.polls() {
            eventually("the filter has its first decision set", async || {
                self.stat("ipwarden_polls", "snapshot").await >= 1
            })
            .await;
        }
    }

    /// Starts the control plane on the same data and port as before.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_control_plane(&mut self) {
        if !self.options.settings.is_empty() {
            let file = self.directory.path().join("ipwarden.toml");
            std::fs::write(file, &self.options.settings).expect("the settings");
        }
        let child = Command::new(program("E2E_BIN", "target/debug/ipwarden"))
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.api_port), "--data-dir"])
            .arg(self.data_dir())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&self.directory.path().join("control-plane.log")))
            .kill_on_drop(true)
            .spawn()
            .expect("the ipwarden binary: `cargo build` first, or set E2E_BIN");
        self.control_plane = Some(child);
        let url = self.api_url("/readyz");
        eventually("the control plane is ready", async || {
            self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    /// Starts Envoy on the same ports as before.
    ///
    /// # Panics
    /// When it does not become live although it should.
    pub async fn start_envoy(&mut self) {
        let bootstrap = self.directory.path().join("envoy.yaml");
        let mut text = self.bootstrap();
        if self.options.dynamic {
            text = self.move_listener_to_a_file(&text);
        }
        std::fs::write(&bootstrap, text).expect("the bootstrap");
        self.envoy = Some(self.spawn_envoy(0));
        if !self.options.envoy_starts {
            return;
        }
        let url = format!("http://127.0.0.1:{}/ready", self.admin_port);
        let mut envoy = self.envoy.take().expect("just started");
        eventually("Envoy is live", async || {
            let ended = envoy.try_wait().expect("its state");
            assert_eq!(ended, None, "Envoy ended: see its log");
            self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        self.envoy = Some(envoy);
    }

    fn spawn_envoy(&self, epoch: u32) -> Child {
        let directory = self.directory.path();
        let base_id = directory.join("base-id");
        let token = self.options.token.clone().unwrap_or_else(|| self.token("proxy"));
        let mut command = Command::new(program("E2E_ENVOY", ".tools/envoy/bin/envoy"));
        match (self.options.hot_restart, epoch) {
            (false, _) => {
                command.arg("--disable-hot-restart");
            }
            // One that nobody else on this machine has.
            (true, 0) => {
                command.args(["--use-dynamic-base-id", "--base-id-path"]).arg(&base_id);
            }
            (true, _) => {
                let base_id = std::fs::read_to_string(base_id).expect("the base id");
                command.args(["--base-id", base_id.trim()]);
                command.args(["--restart-epoch", &epoch.to_string()]);
            }
        }
        command
            .arg("-c")
            .arg(directory.join("envoy.yaml"))
            .args(["--drain-time-s", "1", "--drain-strategy", "immediate"])
            .args(["--parent-shutdown-time-s", "4"])
            .args(["-l", "warning", "--component-log-level", "wasm:info"])
            .args(["--concurrency", &self.options.concurrency.to_string()])
            .env("IPWARDEN_TOKEN", token)
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&directory.join("envoy.log")))
            .kill_on_drop(true)
            .spawn()
            .expect("Envoy: `make tools` first, or set E2E_ENVOY")
    }

    /// Starts a new Envoy that takes the sockets of the running one over, and waits until that
    /// one has ended. Returns how long the new one took until it was live.
    ///
    /// # Panics
    /// When the system was not started with `hot_restart`, or the old one goes on.
    pub async fn restart_envoy_hot(&mut self) -> Duration {
        assert!(self.options.hot_restart, "Envoy was started without it");
        let mut old = self.envoy.take().expect("a running Envoy");
        let new = self.spawn_envoy(1);
        let url = format!("http://127.0.0.1:{}/server_info", self.admin_port);
        let live = eventually("the new Envoy is live", async || {
            let Ok(answer) = self.http.get(&url).send().await else { return false };
            let text = answer.text().await.unwrap_or_default();
            let info: Value = serde_json::from_str(&text).unwrap_or_default();
            info["command_line_options"]["restart_epoch"] == 1 && info["state"] == "LIVE"
        })
        .await;
        eventually("the old Envoy has ended", async || {
            old.try_wait().expect("its state").is_some()
        })
        .await;
        self.envoy = Some(new);
        live
    }

    fn bootstrap(&self) -> String {
        let mut text =
            std::fs::read_to_string(root().join("envoy/envoy.yaml")).expect("envoy/envoy.yaml");
        for (from, to) in [
            (10000, self.site_port),
            (10001, self.upstream_port),
            (9901, self.admin_port),
            (8088, self.api_port),
        ] {
            text = replace(&text, &format!("port_value: {from}}}"), &format!("port_value: {to}}}"));
        }
        if let Some(port) = self.options.upstream {
            // The listener of Envoy's own upstream comes first, the cluster last.
            let from = format!("port_value: {}}}", self.upstream_port);
            let at = text.rfind(&from).expect("the cluster `upstream`");
            text.replace_range(at..at + from.len(), &format!("port_value: {port}}}"));
        }
        let built = || program("E2E_MODULE", "target/wasm32-wasip1/wasm/ipwarden.wasm");
        let module = self.options.module.clone().unwrap_or_else(built);
        text = replace(&text, "target/wasm32-wasip1/wasm/ipwarden.wasm", &module.to_string_lossy());
        if let Some(plugin) = &self.options.plugin {
            let start = text.find("value: |").expect("the plugin's configuration");
            let end = start + text[start..].find("          - name:").expect("the next filter");
            // JSON is YAML: a quoted string holds it.
            let value = Value::String(plugin.to_string());
            text.replace_range(start..end, &format!("value: {value}\n"));
        }
        for (from, to) in &self.options.replace {
            text = replace(&text, from, to);
        }
        insert_items(&mut text, "          - name: ipwarden\n", &self.options.filters_before);
        insert_items(
            &mut text,
            "              - match: {prefix: \"/\"}\n                route: {cluster: upstream}\n",
            &self.options.site_routes,
        );
        insert_items(
            &mut text,
            "              - match: {prefix: \"/\"}\n                direct_response:",
            &self.options.upstream_routes,
        );
        if self.options.bare {
            let start = text.find("          - name: ipwarden\n").expect("the filter");
            let end = start + text[start..].find("          - name: envoy").expect("the router");
            text.replace_range(start..end, "");
        }
        if let Some(tls) = &self.options.site_tls {
            let chain = "    - filters:\n";
            let at = text.find(chain).expect("the site's filter chain");
            text.replace_range(
                at..at + chain.len(),
                &format!("    - transport_socket: {tls}\n      filters:\n"),
            );
        }
        text
    }

    /// Replaces the plugin's configuration in the running Envoy.
    ///
    /// # Panics
    /// When the system was not started with `dynamic`.
    pub fn reconfigure(&mut self, plugin: Value) {
        assert!(self.options.dynamic, "the listener comes with the bootstrap");
        self.options.plugin = Some(plugin);
        let _ = self.move_listener_to_a_file(&self.bootstrap());
    }

    /// Writes the site's listener as a resource file (replacing it in one step, which is what
    /// Envoy watches for) and returns the bootstrap that reads it.
    fn move_listener_to_a_file(&self, bootstrap: &str) -> String {
        let directory = self.directory.path().join("lds");
        std::fs::create_dir_all(&directory).expect("a directory");
        let start = bootstrap.find("  - name: site\n").expect("the site's listener");
        let end = bootstrap.find("  - name: upstream\n").expect("the upstream's listener");
        let mut resources = "resources:\n".to_owned();
        for line in bootstrap[start..end].lines() {
            match line.strip_prefix("  - name: site") {
                Some(_) => resources.push_str(
                    "- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n  name: site\n",
                ),
                None => {
                    resources.push_str(line.strip_prefix("  ").unwrap_or(line));
                    resources.push('\n');
                }
            }
        }
        std::fs::write(directory.join("next.yaml"), resources).expect("the listener");
        std::fs::rename(directory.join("next.yaml"), directory.join("listener.yaml"))
            .expect("the listener");
        let mut text = bootstrap.to_owned();
        text.replace_range(start..end, "");
        let path = directory.join("listener.yaml");
        text.push_str(&format!(
            "\ndynamic_resources:\n  lds_config: {{path_config_source: {{path: {}}}}}\n",
            path.display()
        ));
        text
    }

    /// The control plane's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// A token that the first start wrote.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn token(&self, role: &str) -> String {
        let path = self.data_dir().join(format!("{role}.token"));
        std::fs::read_to_string(path).expect("a token").trim().to_owned()
    }

    /// Kills the control plane as a power cut would.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill_control_plane(&mut self) {
        self.control_plane.take().expect("a running control plane").kill().await.expect("SIGKILL");
    }

    /// Kills Envoy as a power cut would.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill_envoy(&mut self) {
        self.envoy.take().expect("a running Envoy").kill().await.expect("SIGKILL");
    }

    /// Lets Envoy finish what is under way and take no new connections, and waits until it
    /// does.
    ///
    /// # Panics
    /// When it goes on listening.
    pub async fn drain_envoy(&self) {
        let url = format!("http://127.0.0.1:{}/drain_listeners?graceful", self.admin_port);
        self.http.post(url).send().await.expect("Envoy's admin interface");
        eventually("the site takes no new connections", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.site_port)).await.is_err()
        })
        .await;
    }

    /// Whether Envoy has ended by itself.
    ///
    /// # Panics
    /// When it was never started.
    pub fn envoy_has_ended(&mut self) -> bool {
        self.envoy.as_mut().expect("an Envoy").try_wait().expect("its state").is_some()
    }

    /// Port of Envoy's admin interface.
    #[must_use]
    pub const fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Process id of Envoy.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn envoy_pid(&self) -> u32 {
        self.envoy.as_ref().and_then(Child::id).expect("a running Envoy")
    }

    /// Changes what the next [`Self::start_envoy`] uses.
    pub const fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Envoy's log so far.
    #[must_use]
    pub fn envoy_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("envoy.log")).unwrap_or_default()
    }

    /// Where a path of the control plane is.
    #[must_use]
    pub fn api_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.api_port)
    }

    /// A request to the control plane's API as admin; the body of the answer, which must be
    /// a success.
    ///
    /// # Panics
    /// On any other answer.
    pub async fn api(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, value) = self.api_raw(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {value}");
        value
    }

    /// The same for an answer of any status.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn api_raw(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request =
            self.http.request(method, self.api_url(path)).bearer_auth(self.token("admin"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer of the control plane");
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.expect("a body");
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Blocks or allows targets; the revision.
    pub async fn decide(&self, action: &str, targets: &[&str], more: Value) -> u64 {
        let mut body = json!({"targets": targets, "action": action, "reason": "test"});
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        self.api("POST", "/v1/decisions", Some(body)).await["revision"].as_u64().unwrap_or(0)
    }

    /// Removes decisions.
    pub async fn undecide(&self, action: &str, targets: &[&str]) {
        let body = json!({"targets": targets, "action": action});
        self.api("DELETE", "/v1/decisions", Some(body)).await;
    }

    /// The status of a request that `client` makes, over a connection of its own (and so on
    /// either worker).
    pub async fn status(&self, client: &str) -> u16 {
        self.request(client, "/", &[]).await.status
    }

    /// A GET request by `client` over a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn request(&self, client: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut text =
            format!("GET {path} HTTP/1.1\r\nhost: site.example\r\nconnection: close\r\n");
        if !client.is_empty() {
            let _ = write!(text, "x-forwarded-for: {client}\r\n");
        }
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        raw_request(self.site_port, text.as_bytes()).await
    }

    /// Waits until every worker answers `client` with `status`: twenty connections in a row.
    /// Returns how long it took until the first of them.
    pub async fn settles(&self, client: &str, status: u16) -> Duration {
        let start = now();
        let mut since = None;
        let what = format!("every worker answers {client} with {status}");
        eventually(&what, async || {
            for _ in 0..20 {
                if self.status(client).await != status {
                    since = None;
                    return false;
                }
                since.get_or_insert(start.elapsed());
            }
            true
        })
        .await;
        since.unwrap_or_default()
    }

    /// Runs the command line against this control plane.
    ///
    /// # Panics
    /// When it can't be started.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(program("E2E_BIN", "target/debug/ipwarden"))
            .args(["--url", &self.api_url(""), "--data-dir"])
            .arg(self.data_dir())
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .await
            .expect("the ipwarden binary")
    }

    /// Connections that each of Envoy's workers has accepted for the site.
    pub async fn connections_by_worker(&self) -> Vec<u64> {
        let url = format!(
            "http://127.0.0.1:{}/stats?filter=worker_.*downstream_cx_total",
            self.admin_port
        );
        let Ok(answer) = self.http.get(url).send().await else { return Vec::new() };
        let text = answer.text().await.unwrap_or_default();
        let listener = format!("127.0.0.1_{}.", self.site_port);
        text.lines()
            .filter(|line| line.contains(&listener))
            .filter_map(|line| line.rsplit_once(": ")?.1.parse().ok())
            .collect()
    }

    /// Everything that the control plane's `/metrics` says.
    pub async fn service_metrics(&self) -> String {
        let answer = self.http.get(self.api_url("/metrics")).send().await;
        answer.expect("an answer").text().await.unwrap_or_default()
    }

    /// The filter's metrics as Prometheus reads them from Envoy.
    pub async fn envoy_metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/stats/prometheus?filter=ipwarden", self.admin_port);
        let Ok(answer) = self.http.get(url).send().await else { return String::new() };
        answer.text().await.unwrap_or_default()
    }

    /// Sum of a metric of the filter over its tags that contain `tag`.
    pub async fn stat(&self, name: &str, tag: &str) -> u64 {
        let text = self.envoy_metrics().await;
        text.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with('{') && rest.contains(tag))
            .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum()
    }

    /// Records found by a query.
    pub async fn records(&self, query: &str) -> Vec<Value> {
        let found = self.api("GET", &format!("/v1/requests?limit=10000&{query}"), None).await;
        found["records"].as_array().cloned().unwrap_or_default()
    }

    /// What the control plane knows of the proxy `edge-1`.
    pub async fn proxy(&self) -> Value {
        let fleet = self.api("GET", "/v1/proxies", None).await;
        fleet["proxies"]
            .as_array()
            .and_then(|proxies| proxies.iter().find(|proxy| proxy["name"] == "edge-1").cloned())
            .unwrap_or(Value::Null)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["control-plane.log", "envoy.log"] {
                let text = std::fs::read_to_string(self.directory.path().join(name));
                let text = text.unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(25).collect();
                eprintln!("--- last lines of {name}");
                for line in tail.iter().rev() {
                    eprintln!("{line}");
                }
            }
        }
    }
}

fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the bootstrap does not contain: {from}");
    text.replace(from, to)
}

/// Puts items of a YAML list before the item that starts with `before`, as deep as that one.
/// JSON is YAML.
fn insert_items(text: &mut String, before: &str, items: &[Value]) {
    let at =
        text.find(before).unwrap_or_else(|| panic!("the bootstrap does not contain: {before}"));
    let depth = before.len() - before.trim_start().len();
    let items: String = items.iter().map(|item| format!("{:depth$}- {item}\n", "")).collect();
    text.insert_str(at, &items);
}

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// A program that was built: by its path in `variable`, or where `default` says.
#[must_use]
pub fn program(variable: &str, default: &str) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "the Makefile says which build is tested")]
    let given = std::env::var(variable).ok();
    let path = given.map_or_else(|| PathBuf::from(default), PathBuf::from);
    if path.is_absolute() { path } else { root().join(path) }
}

fn log_file(path: &Path) -> Stdio {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.expect("a log file").into()
}

/// Ports that are free now. All are held at once so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.each_ref().map(|listener| listener.local_addr().expect("its address").port())
}
