//! Envoy's own filters for the same job: geoip on the same data, RBAC with an IP trie, a
//! local limit with a bucket for each address, a JSON access log.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

/// Adds the headers that ipwarden adds.
pub(crate) fn geoip(data: &Path) -> Value {
    let file = |name: &str| data.join(name).to_string_lossy().into_owned();
    json!({
        "name": "envoy.filters.http.geoip",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.geoip.v3.Geoip",
            "provider": {
                "name": "envoy.geoip_providers.maxmind",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.geoip_providers.maxmind.v3.MaxMindConfig",
                    "city_db_path": file("city.mmdb"),
                    "asn_db_path": file("asn.mmdb"),
                    "common_provider_config": {"geo_headers_to_add": {
                        "country": "x-ipwarden-country", "city": "x-ipwarden-city",
                        "asn": "x-ipwarden-asn",
                    }},
                },
            },
        },
    })
}

/// Denies these addresses: the fastest that RBAC has. Its trie takes 262 144 entries at most.
pub(crate) fn rbac(addresses: impl Iterator<Item = Ipv4Addr>) -> Value {
    let action = |name: &str| {
        json!({"action": {"name": name, "typed_config": {
            "@type": "type.googleapis.com/envoy.config.rbac.v3.Action",
            "name": name, "action": name.to_uppercase(),
        }}})
    };
    let ranges: Vec<Value> = addresses
        .map(|address| json!({"address_prefix": address.to_string(), "prefix_len": 32}))
        .collect();
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "matcher": {
                "matcher_tree": {
                    "input": {
                        "name": "envoy.matching.inputs.source_ip",
                        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput"},
                    },
                    "custom_match": {
                        "name": "envoy.matching.custom_matchers.trie_matcher",
                        "typed_config": {
                            "@type": "type.googleapis.com/xds.type.matcher.v3.IPMatcher",
                            "range_matchers": [{"ranges": ranges, "on_match": action("deny")}],
                        },
                    },
                },
                "on_no_match": action("allow"),
            },
        },
    })
}

/// A bucket for each address.
pub(crate) fn local_ratelimit(tokens: u32, per: &str, addresses: u64) -> Value {
    let all = json!({"default_value": {"numerator": 100}});
    json!({
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "native",
            "token_bucket": {
                "max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s",
            },
            "filter_enabled": all,
            "filter_enforced": all,
            "rate_limits": [{"actions": [{"remote_address": {}}]}],
            "max_dynamic_descriptors": 2 * addresses,
            "descriptors": [{
                "entries": [{"key": "remote_address"}],
                "token_bucket": {
                    "max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": per,
                },
            }],
        },
    })
}

/// A replacement in the bootstrap: the site logs what ipwarden records.
pub(crate) fn json_log() -> (String, String) {
    let log = json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "/dev/null",
            "log_format": {"json_format": {
                "time": "%START_TIME%", "ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                "method": "%REQ(:METHOD)%", "host": "%REQ(:AUTHORITY)%", "path": "%REQ(:PATH)%",
                "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%",
                "duration": "%DURATION%", "in": "%BYTES_RECEIVED%", "out": "%BYTES_SENT%",
                "agent": "%REQ(USER-AGENT)%", "id": "%REQ(X-REQUEST-ID)%",
                "country": "%REQ(X-IPWARDEN-COUNTRY)%", "city": "%REQ(X-IPWARDEN-CITY)%",
                "asn": "%REQ(X-IPWARDEN-ASN)%",
            }},
        },
    }]);
    ("stat_prefix: site\n".to_owned(), format!("stat_prefix: site\n          access_log: {log}\n"))
}

/// A proxy-wasm module that does nothing in each callback that a filter has.
pub(crate) const EMPTY_MODULE: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 1024)
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) i32.const 1)
  (func (export "proxy_on_configure") (param i32 i32) (result i32) i32.const 1)
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) i32.const 0)
  (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) i32.const 0)
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) i32.const 0)
  (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) i32.const 0)
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_done") (param i32) (result i32) i32.const 1)
  (func (export "proxy_on_delete") (param i32)))"#;

/// The filter of [`EMPTY_MODULE`].
pub(crate) fn empty_filter(module: &Path) -> Value {
    json!({
        "name": "empty",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "empty",
                "vm_config": {
                    "vm_id": "empty",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": module}},
                },
            },
        },
    })
}

/// Modules that do nothing but cross the border between Envoy and the VM, each in a way of its
/// own: what each kind of crossing costs is the difference.
pub(crate) fn crossings() -> Vec<(&'static str, String)> {
    let time = "(drop (call $time (i32.const 16)))";
    let address =
        "(drop (call $property (i32.const 64) (i32.const 14) (i32.const 32) (i32.const 36)))";
    let code =
        "(drop (call $property (i32.const 80) (i32.const 13) (i32.const 32) (i32.const 36)))";
    let pairs = "(drop (call $pairs (i32.const 0) (i32.const 32) (i32.const 36)))";
    let create = "(func (export \"proxy_on_context_create\") (param i32 i32))
        (func (export \"proxy_on_delete\") (param i32))";
    let request = |work: &str| {
        format!(
            "(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) {work} i32.const 0)"
        )
    };
    let response = "(func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32) i32.const 0)";
    let log = |work: &str| format!("(func (export \"proxy_on_log\") (param i32) {work})");
    let done = "(func (export \"proxy_on_done\") (param i32) (result i32) i32.const 1)";
    let four = |at_request: &str, at_log: &str, more: &str| {
        [&request(at_request), response, &log(at_log), done, more].concat()
    };
    let module = |callbacks: &str| {
        format!(
            "(module
               (import \"env\" \"proxy_get_current_time_nanoseconds\" (func $time (param i32) (result i32)))
               (import \"env\" \"proxy_get_property\" (func $property (param i32 i32 i32 i32) (result i32)))
               (import \"env\" \"proxy_get_header_map_pairs\" (func $pairs (param i32 i32 i32) (result i32)))
               (memory (export \"memory\") 2)
               (data (i32.const 64) \"source\\00address\")
               (data (i32.const 80) \"response\\00code\")
               (func (export \"proxy_abi_version_0_2_1\"))
               (func (export \"proxy_on_memory_allocate\") (param i32) (result i32) i32.const 1024)
               (func (export \"proxy_on_vm_start\") (param i32 i32) (result i32) i32.const 1)
               (func (export \"proxy_on_configure\") (param i32 i32) (result i32) i32.const 1)
               {callbacks})"
        )
    };
    vec![
        ("no callback", module("")),
        ("request", module(&request(""))),
        ("response", module(response)),
        ("log", module(&log(""))),
        ("request, log", module(&[request(""), log("")].concat())),
        ("request, log, done", module(&[&request(""), &log(""), done].concat())),
        ("4 callbacks", module(&four("", "", ""))),
        ("6 callbacks", module(&four("", "", create))),
        ("4, 20 x time", module(&four(&time.repeat(20), "", ""))),
        ("4, 10 x address", module(&four(&address.repeat(10), "", ""))),
        ("4, 10 x code", module(&four("", &code.repeat(10), ""))),
        ("4, 5 x headers", module(&four(&pairs.repeat(5), "", ""))),
    ]
}
