//! Kubernetes, Istio, Envoy Gateway and the Prometheus operator: every document against the
//! fields of its kind (`tests/manifests`), and the plugin's configuration inside against ours.

use std::path::Path;

use ipwarden_e2e::root;
use serde_json::Value;

use crate::yaml;

/// Every error of a document, with its place; one for a kind that nobody knows.
fn errors(document: &Value) -> Vec<String> {
    let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
    let name = format!("{}_{}.json", text("apiVersion").replace('/', "_"), text("kind"));
    let path = root().join("tests/manifests/schemas").join(&name);
    let Ok(schema) = std::fs::read_to_string(&path) else {
        return vec![format!("no schema {name}: tests/manifests/make.mjs makes them")];
    };
    let schema = serde_json::from_str(&schema).expect("a schema");
    let validator = jsonschema::validator_for(&schema).expect("a sound schema");
    let mut found: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if document["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        found.push("/metadata/name: is missing".to_owned());
    }
    found
}

fn is_kustomization(document: &Value) -> bool {
    document["kind"] == "Kustomization"
}

/// Manifests: everything in the directories of the meshes.
fn manifests() -> Vec<(std::path::PathBuf, Value)> {
    let ours = ["kubernetes", "istio", "envoy-gateway"].map(|name| root().join("envoy").join(name));
    yaml::files("yaml")
        .into_iter()
        .filter(|path| ours.iter().any(|ours| path.starts_with(ours)))
        .flat_map(|path| yaml::read(&path).into_iter().map(move |found| (path.clone(), found)))
        .collect()
}

/// The configurations of our plugin in a document.
fn plugins(document: &Value) -> Vec<&Value> {
    let spec = &document["spec"];
    match document["kind"].as_str() {
        Some("WasmPlugin") => vec![&spec["pluginConfig"]],
        Some("TrafficExtension") => vec![&spec["wasm"]["pluginConfig"]],
        Some("EnvoyExtensionPolicy") => {
            spec["wasm"].as_array().expect("a list").iter().map(|wasm| &wasm["config"]).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn every_manifest_has_only_fields_that_its_kind_knows() {
    let mut checked = 0;
    for (path, document) in manifests() {
        if is_kustomization(&document) {
            continue;
        }
        assert_eq!(errors(&document), Vec::<String>::new(), "{}", path.display());
        checked += 1;
    }
    assert!(checked >= 20, "only {checked} documents were found");
}

/// Puts a value where a JSON patch wants it; as much of RFC 6902 as ours use.
fn patch(document: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().expect("a path");
    let (parent, last) = path.rsplit_once('/').expect("a place");
    let place = document.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}"));
    let value = operation["value"].clone();
    match (place, operation["op"].as_str().expect("an operation")) {
        (Value::Array(items), "add") if last == "-" => items.push(value),
        (Value::Object(members), "add") => {
            assert!(members.insert(last.to_owned(), value).is_none(), "{path} is there already");
        }
        (Value::Object(members), "replace") => {
            assert!(members.insert(last.to_owned(), value).is_some(), "{path} is not there");
        }
        (_, operation) => panic!("{operation} at {path}"),
    }
}

#[test]
fn what_the_variant_on_postgres_changes_fits_into_its_kinds() {
    let directory = root().join("envoy/kubernetes");
    let kustomization = yaml::read(&directory.join("postgres/kustomization.yaml"))[0].clone();
    let mut patched = Vec::new();
    for one in kustomization["patches"].as_array().expect("patches") {
        let kind = one["target"]["kind"].as_str().expect("a kind");
        let file = directory.join(format!("{}.yaml", kind.to_lowercase()));
        let mut document = yaml::read(&file)[0].clone();
        assert_eq!(document["metadata"]["name"], one["target"]["name"]);
        let text = one["patch"].as_str().expect("a patch");
        for operation in yaml::documents(&file, text)[0].as_array().expect("operations") {
            patch(&mut document, operation);
        }
        assert_eq!(errors(&document), Vec::<String>::new(), "{kind}");
        patched.push((kind.to_owned(), document));
    }
    let (_, set) = patched.iter().find(|(kind, _)| kind == "StatefulSet").expect("a StatefulSet");
    assert_eq!(set["spec"]["replicas"], 2);
    // Every variable is a setting that the service knows.
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let settings: Vec<String> = container["env"]
        .as_array()
        .expect("variables")
        .iter()
        .map(|variable| {
            let name = variable["name"].as_str().expect("a name").strip_prefix("IPWARDEN_");
            format!("{} = {}", name.expect("ours").to_lowercase(), variable["value"])
        })
        .collect();
    assert_eq!(yaml::check_config("ipwarden.toml", &settings.join("\n")), Ok(()));
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
    for mount in mounts.iter().filter(|mount| mount["name"] != "data") {
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
    }
}

#[test]
fn a_misspelt_field_in_any_manifest_is_an_error() {
    // In the specification of every document, one field after the other is misspelt.
    fn misspell(value: &mut Value, at: &mut usize) -> Option<String> {
        match value {
            Value::Object(members) => {
                // What follows is the plugin's own, a map of anything, or a selector's labels.
                const OPEN: [&str; 10] = [
                    "pluginConfig",
                    "config",
                    "matchLabels",
                    "data",
                    "labels",
                    "annotations",
                    "requests",
                    "limits",
                    "selector",
                    "value",
                ];
                let names: Vec<String> = members.keys().cloned().collect();
                for name in names {
                    if *at == 0 {
                        let taken = members.remove(&name)?;
                        members.insert(format!("{name}s"), taken);
                        return Some(name);
                    }
                    *at -= 1;
                    if OPEN.contains(&name.as_str()) {
                        continue;
                    }
                    if let Some(found) = misspell(members.get_mut(&name)?, at) {
                        return Some(found);
                    }
                }
                None
            }
            Value::Array(items) => items.iter_mut().find_map(|item| misspell(item, at)),
            _ => None,
        }
    }
    let mut tried = 0;
    for (path, document) in manifests() {
        if is_kustomization(&document) || document["spec"].is_null() {
            continue;
        }
        for nth in 0.. {
            let mut broken = document.clone();
            let mut at = nth;
            let Some(name) = misspell(&mut broken["spec"], &mut at) else { break };
            let found = errors(&broken);
            assert!(!found.is_empty(), "{}: '{name}' misspelt is no error", path.display());
            tried += 1;
        }
    }
    println!("{tried} misspelt fields, each an error");
    assert!(tried > 150, "only {tried}");
}

#[test]
fn the_plugin_understands_its_configuration_in_every_manifest() {
    let mut checked = 0;
    for (path, document) in manifests() {
        for config in plugins(&document) {
            let text = serde_json::to_string_pretty(config).expect("JSON");
            assert_eq!(yaml::check_config("plugin.json", &text), Ok(()), "{}", path.display());
            checked += 1;
        }
    }
    assert_eq!(checked, 4, "gateway, sidecar, traffic extension, Envoy Gateway");
    let refused = yaml::check_config("plugin.json", r#"{"recods": {}}"#);
    assert!(refused.is_err_and(|error| error.contains("did you mean 'records'?")));
}

#[test]
fn the_service_understands_its_configuration_in_the_config_map() {
    let maps = yaml::read(&root().join("envoy/kubernetes/configmap.yaml"));
    let text = maps[0]["data"]["ipwarden.toml"].as_str().expect("a file");
    assert_eq!(yaml::check_config("ipwarden.toml", text), Ok(()));
}

#[test]
fn kustomizations_name_files_that_are_there_and_leave_none_out() {
    for (path, document) in manifests().iter().filter(|(_, found)| is_kustomization(found)) {
        let directory = path.parent().expect("a directory");
        for field in document.as_object().expect("an object").keys() {
            let known = [
                "apiVersion",
                "kind",
                "namespace",
                "resources",
                "images",
                "configMapGenerator",
                "patches",
            ];
            assert!(known.contains(&field.as_str()), "{}: {field}", path.display());
        }
        let mut named: Vec<String> = names(&document["resources"])
            .chain(names(&document["configMapGenerator"][0]["files"]))
            // Another directory's kustomization is looked at on its own.
            .filter(|name| !directory.join(name).join("kustomization.yaml").is_file())
            .collect();
        named.sort();
        let mut present: Vec<String> = std::fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .filter(|name| {
                name != "kustomization.yaml"
                    && Path::new(name).extension().is_some_and(|e| e != "md")
            })
            .collect();
        present.sort();
        assert_eq!(named, present, "{}", path.display());
    }
}

fn names(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

/// The cluster that a plugin names exists in the bootstrap beside it.
#[test]
fn envoy_gateways_bootstrap_has_the_cluster_that_the_policy_names() {
    let directory = root().join("envoy/envoy-gateway");
    let gateway = yaml::read(&directory.join("gateway.yaml"));
    let proxy = gateway.iter().find(|found| found["kind"] == "EnvoyProxy").expect("an EnvoyProxy");
    let text = proxy["spec"]["bootstrap"]["value"].as_str().expect("a bootstrap");
    let bootstrap = &yaml::documents(Path::new("bootstrap"), text)[0];
    let cluster = &bootstrap["static_resources"]["clusters"][0];
    let policy = &yaml::read(&directory.join("policy.yaml"))[0];
    let config = &policy["spec"]["wasm"][0]["config"];
    assert_eq!(config["control_plane"]["cluster"], cluster["name"]);
    assert_eq!(config["geo"]["cluster"], cluster["name"]);
    // The labels of metrics are those of the bootstrap that the tests run.
    let ours = &yaml::read(&root().join("envoy/envoy.yaml"))[0];
    assert_eq!(bootstrap["stats_config"], ours["stats_config"]);
    let istio = &yaml::read(&root().join("envoy/istio/stats.yaml"))[0];
    let patch = &istio["spec"]["configPatches"][0]["patch"]["value"];
    assert_eq!(patch["stats_config"], ours["stats_config"]);
}
