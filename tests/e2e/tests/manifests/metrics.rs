//! Dashboard and alerts name only metrics that exist, and Prometheus understands the rules.

use std::collections::BTreeSet;
use std::process::Command;

use ipwarden_e2e::{Options, System, eventually, root};
use serde_json::{Value, json};

use crate::yaml;

/// Names of ours in an expression. Labels follow in braces and never begin with our prefix.
fn metrics(expression: &str) -> BTreeSet<String> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("ipwarden_"))
        .map(str::to_owned)
        .collect()
}

fn rules() -> Value {
    yaml::read(&root().join("envoy/kubernetes/monitoring/prometheusrule.yaml"))[0]["spec"].clone()
}

fn expressions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("envoy/kubernetes/monitoring/dashboard.json"));
    let dashboard: Value = serde_json::from_str(&text.expect("a dashboard")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("targets");
        targets.iter().map(|target| (panel["title"].to_string(), target["expr"].clone()))
    });
    let rules = rules();
    let alerts = rules["groups"].as_array().expect("groups").iter().flat_map(|group| {
        let rules = group["rules"].as_array().expect("rules");
        rules.iter().map(|rule| (rule["alert"].to_string(), rule["expr"].clone()))
    });
    panels
        .chain(alerts)
        .map(|(name, expression)| (name, expression.as_str().expect("an expression").to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_dashboard_and_the_alerts_exists() {
    let system = System::start(Options::default()).await;
    // Feeds have series when there are feeds.
    let feeds = system.data_dir().join("feeds");
    std::fs::create_dir(&feeds).expect("a directory");
    std::fs::write(feeds.join("list.txt"), "198.51.100.0/24\n").expect("a list");
    let feed = json!({"location": "file:list.txt", "include_reserved": true});
    system.api("PUT", "/v1/feeds/list", Some(feed)).await;
    system.api("POST", "/v1/feeds/list/refresh", None).await;
    for _ in 0..8 {
        system.request("203.0.113.7", "/login", &[]).await;
    }
    eventually("limits are counted", async || {
        system.stat("ipwarden_limit_requests", "refused").await > 0
    })
    .await;
    let mut known = BTreeSet::new();
    let service = system.service_metrics().await;
    for line in service.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a kind");
        match kind {
            "counter" => known.insert(format!("{name}_total")),
            "histogram" => {
                ["bucket", "count", "sum"].iter().all(|part| known.insert(format!("{name}_{part}")))
            }
            "info" => known.insert(format!("{name}_info")),
            _ => known.insert(name.to_owned()),
        };
    }
    let filter = system.envoy_metrics().await;
    known.extend(filter.lines().filter_map(|line| Some(line.split_once('{')?.0.to_owned())));
    let mut used = BTreeSet::new();
    for (name, expression) in expressions() {
        let found = metrics(&expression);
        assert!(!found.is_empty(), "{name} asks for nothing of ours: {expression}");
        for metric in &found {
            assert!(
                known.contains(metric),
                "{name}: there is no metric {metric}; there are {known:?}"
            );
        }
        used.extend(found);
    }
    println!("{} metrics in use of {}", used.len(), known.len());
}

#[test]
fn every_alert_says_what_it_is_and_how_bad() {
    let rules = rules();
    for rule in rules["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules").iter())
    {
        let severity = rule["labels"]["severity"].as_str();
        assert!(severity.is_some_and(|found| ["info", "warning", "critical"].contains(&found)));
        for field in ["summary", "description"] {
            assert!(
                rule["annotations"][field].as_str().is_some_and(|text| text.len() > 10),
                "{rule}"
            );
        }
    }
}

#[test]
fn prometheus_understands_the_rules() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("rules.json");
    // JSON is YAML.
    std::fs::write(&file, rules().to_string()).expect("a file");
    match Command::new("promtool").args(["check", "rules"]).arg(&file).output() {
        Ok(ended) => {
            let text = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success(), "{text}{}", String::from_utf8_lossy(&ended.stderr));
        }
        Err(_) => println!("SKIPPED: promtool is not installed (Debian: prometheus)"),
    }
}
