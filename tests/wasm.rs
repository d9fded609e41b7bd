//! The pure modules on `wasm32-unknown-unknown`, run by wasm-bindgen-test under Node: 32-bit
//! sizes and another code generator than the native tests have, the same as inside Envoy.
//!
//! The bodies run natively too (`cargo test --test wasm`): what differs between the two is a
//! bug of the target, not of the test. The modules `client_ip`, `config` and `refusal` run
//! their own unit tests on both targets; here are the parts that meet on the way from the
//! control plane's bytes to a verdict and back.

#[cfg(test)]
mod pure {
    use std::net::IpAddr;
    use std::time::Duration;

    use ipwarden::decisions::table::{Builder, Table};
    use ipwarden::decisions::wire::{self, DecodeError};
    use ipwarden::decisions::{Change, Entry, NEVER, Revision, Tier};
    use ipwarden::limits::identity::{self, Identity};
    use ipwarden::limits::matching::{Attributes, HeaderSource, Request, normalise};
    use ipwarden::limits::{GrpcStatus, Rate, Standing};
    use ipwarden::record::{self, BatchHeader, Record, Verdict, bounds};
    use ipwarden::{address, client_ip, config, duration, refusal};

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: u32 = 1_800_000_000;
    const REVISION: Revision = Revision { epoch: 0xfeed_f00d_dead_beef, number: u64::MAX - 1 };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn entry(target: &str, tier: Tier, id: u32, expires_at: u32) -> Entry {
        Entry { target: address::parse_target(target).expect(target), tier, id, expires_at }
    }

    fn entries() -> Vec<Entry> {
        let mut entries = vec![
            entry("203.0.113.0/24", Tier::Manual, 1, NEVER),
            entry("203.0.113.7", Tier::Allow, 2, NOW + 10),
            entry("198.51.100.0/24", Tier::Feed, 3, NOW + 10),
            entry("198.51.100.128/25", Tier::Detector, 4, NOW + 5),
            entry("2001:db8::/32", Tier::Manual, 5, NEVER),
            entry("2001:db8:1::/48", Tier::Allow, 6, NEVER),
            entry("255.255.255.255", Tier::Manual, 7, NEVER),
            entry("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Tier::Manual, 8, NEVER),
        ];
        entries.sort_by_key(Entry::sort_key);
        entries
    }

    fn load(message: &[u8]) -> Result<Table, DecodeError> {
        let message = wire::decode(message)?;
        let mut builder = Builder::new(message.header.entries as usize);
        for frame in &message.frames {
            let mut fits = true;
            frame.entries(|entry| fits &= builder.push(&entry).is_ok())?;
            assert!(fits, "what the decoder lets through is in order");
        }
        Ok(builder.finish())
    }

    #[track_caller]
    fn decided(table: &Table, text: &str, now: u32, expected: Option<(Tier, u32)>) {
        let found = table.lookup(address::fold(ip(text)), now).map(|found| (found.tier, found.id));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn targets_and_durations_are_read() {
        for (text, expected) in [
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("ffff::/16", "ffff::/16"),
        ] {
            let net = address::parse_target(text).expect(text);
            assert_eq!(net.to_string(), expected);
            let bits = address::first_bits(&net);
            let is_v4 = net.addr().is_ipv4();
            assert_eq!(address::net_from_bits(is_v4, bits, net.prefix_len()), Some(net));
        }
        assert_eq!(
            address::parse_target("10.0.0.0/33").unwrap_err().to_string(),
            "prefix length '/33' is out of range: expected /0 to /32"
        );
        // Ten years in milliseconds need more than 32 bits.
        assert_eq!(duration::parse("3650d").unwrap().as_secs(), duration::MAX_SECONDS);
    }

    #[test]
    fn a_snapshot_becomes_a_table() {
        let table = load(&wire::encode_snapshot(REVISION, NOW, &entries())).unwrap();
        assert_eq!(table.len(), 8);
        decided(&table, "203.0.113.8", NOW, Some((Tier::Manual, 1)));
        decided(&table, "203.0.113.7", NOW, Some((Tier::Allow, 2)));
        decided(&table, "::ffff:203.0.113.8", NOW, Some((Tier::Manual, 1)));
        decided(&table, "198.51.100.1", NOW, Some((Tier::Feed, 3)));
        decided(&table, "198.51.100.200", NOW, Some((Tier::Detector, 4)));
        decided(&table, "2001:db8::1", NOW, Some((Tier::Manual, 5)));
        decided(&table, "2001:db8:1::1", NOW, Some((Tier::Allow, 6)));
        decided(&table, "255.255.255.255", NOW, Some((Tier::Manual, 7)));
        decided(&table, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NOW, Some((Tier::Manual, 8)));
        decided(&table, "192.0.2.1", NOW, None);
    }

    #[test]
    fn an_expiry_uncovers_what_it_hid() {
        let table = load(&wire::encode_snapshot(REVISION, NOW, &entries())).unwrap();
        decided(&table, "203.0.113.7", NOW + 9, Some((Tier::Allow, 2)));
        decided(&table, "203.0.113.7", NOW + 10, Some((Tier::Manual, 1)));
        decided(&table, "198.51.100.200", NOW + 5, Some((Tier::Feed, 3)));
        decided(&table, "198.51.100.200", NOW + 10, None);
    }

    #[test]
    fn a_delta_changes_the_table() {
        let mut table = load(&wire::encode_snapshot(REVISION, NOW, &entries())).unwrap();
        let sent = [
            Change::Remove { target: "203.0.113.0/24".parse().unwrap(), id: 1 },
            Change::Add(entry("192.0.2.0/24", Tier::Manual, 9, NEVER)),
        ];
        let next = Revision { number: u64::MAX, ..REVISION };
        let bytes = wire::encode_delta(REVISION.number, next, NOW, &sent);
        let message = wire::decode(&bytes).unwrap();
        assert_eq!((message.header.base, message.header.revision), (REVISION.number, next));
        let mut changes = Vec::new();
        for frame in &message.frames {
            frame.changes(|change| changes.push(change)).unwrap();
        }
        assert_eq!(changes, sent);
        table.apply(&changes);
        decided(&table, "203.0.113.8", NOW, None);
        decided(&table, "192.0.2.1", NOW, Some((Tier::Manual, 9)));
    }

    #[test]
    fn a_large_set_keeps_every_entry() {
        let entries: Vec<Entry> = (0..100_000u32)
            .map(|n| Entry {
                target: address::host_net(IpAddr::V4((n * 40_000 + 3).into())),
                tier: Tier::Feed,
                id: n + 1,
                expires_at: NEVER,
            })
            .collect();
        let table = load(&wire::encode_snapshot(REVISION, NOW, &entries)).unwrap();
        assert_eq!(table.len(), entries.len());
        for entry in entries.iter().step_by(997) {
            let found = table.lookup(entry.target.addr(), NOW).map(|found| found.id);
            assert_eq!(found, Some(entry.id));
        }
        decided(&table, "0.0.0.4", NOW, None);
    }

    #[test]
    fn damaged_messages_are_refused() {
        let bytes = wire::encode_snapshot(REVISION, NOW, &entries());
        for len in 0..bytes.len() {
            assert!(wire::decode(&bytes[..len]).is_err(), "{len}");
        }
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x20;
            assert!(wire::decode(&damaged).is_err(), "{place}");
        }
    }

    #[test]
    fn a_batch_round_trips() {
        let sent = Record {
            time_us: 1_800_000_000_000_001,
            ip: Some(ip("2001:db8::1")),
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Blocked,
            weight: u32::MAX,
            decision: 17,
            rule: b"login",
            method: b"GET",
            host: b"example.com",
            path: b"/\xff",
            query: b"a=1",
            status: 403,
            flags: 1 << 40,
            duration_us: 5_000_000_000,
            bytes_in: u64::MAX,
            bytes_out: 1 << 33,
            user_agent: b"curl",
            request_id: b"id",
            country: Some(*b"FR"),
            city: "Orl\u{e9}ans".as_bytes(),
            asn: Some(u32::MAX),
            identity: b"alice",
        };
        let header = BatchHeader {
            stream: u64::MAX,
            number: 1,
            started_us: sent.time_us,
            sent_us: sent.time_us + 1,
            proxy: b"edge-1",
            version: b"0.1.0",
            key: None,
            applied: REVISION,
            seen: 1 << 40,
            lost: 0,
            skipped: 3,
        };
        let mut records = Vec::new();
        record::wire::put_record(&mut records, sent.time_us, &sent);
        let long = vec![b'a'; 100_000];
        record::wire::put_record(&mut records, sent.time_us, &Record { path: &long, ..sent });
        let bytes = record::wire::encode(&header, sent.time_us, 2, &records);
        let batch = record::wire::decode(&bytes).unwrap();
        assert_eq!(batch.header, header);
        assert_eq!(batch.records[0], sent);
        assert_eq!(batch.records[1].path.len(), bounds::PATH_BYTES);
        assert!(record::wire::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn a_configured_client_is_found_decided_and_told() {
        let config = config::check(
            br#"{"client_ip": {"source": "trusted_proxies", "proxies": ["10.0.0.0/8"]},
                 "decisions": {"refuse_status": 451, "contact": "mailto:help@example.com"},
                 "records": {"buffer_bytes": 268435456}}"#,
        )
        .unwrap();
        let client = client_ip::resolve(
            &config.client_ip,
            Some(ip("10.0.0.1")),
            &[b"6.6.6.6", b"203.0.113.8, 10.0.0.2"],
        )
        .unwrap();
        let table = load(&wire::encode_snapshot(REVISION, NOW, &entries())).unwrap();
        let found = table.lookup(client, NOW).unwrap();
        let reply = refusal::respond(
            &refusal::Refusal::blocked(config.decisions.refuse_status, found.id),
            b"text/plain",
            b"",
            config.decisions.contact.as_deref(),
        );
        assert_eq!(reply.status, 451);
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            "Request refused. Requests from your network address are refused here.\n\
             Reference: 1\nContact: mailto:help@example.com\n"
        );
    }
    /// What the proxy tells of one request.
    struct Told;

    impl HeaderSource for Told {
        fn each(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
            if name == b"x-plan" {
                visit(b"free");
            }
        }
    }

    impl Attributes for Told {
        fn attribute(&self, path: &[u8]) -> Option<Vec<u8>> {
            let claim = b"metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0payload\0sub";
            match path {
                b"xds\0route_name" => Some(b"shop".to_vec()),
                path if path == claim => Some(b"alice".to_vec()),
                _ => None,
            }
        }
    }

    #[test]
    fn a_disguised_request_is_matched_identified_and_told() {
        let config = config::check(
            br#"{"identity": [{"header": {"name": "x-user", "trusted_peers": ["10.0.0.0/8"]}},
                              {"jwt": {"metadata_key": "payload", "claim": "sub"}}],
                 "limits": [{"name": "login", "key": "identity",
                     "match": {"path_prefix": "/login", "path_regex": "/v[0-9]+/.*",
                               "methods": "POST", "hosts": "*.example.com",
                               "headers": {"x-plan": "free"}, "routes": "shop"},
                     "anonymous": {"requests": 1000000, "per": "7d", "burst": 1}}]}"#,
        )
        .unwrap();
        let [limit] = &config.limits[..] else { panic!("one limit") };
        assert_eq!(config::check_limit(limit.to_json().to_string().as_bytes()).as_ref(), Ok(limit));
        let week = Duration::from_secs(604_800);
        let rate = Rate { requests: 1_000_000, per: week, burst: 1 };
        assert_eq!(
            (limit.authenticated, limit.ceiling),
            (Some(rate), Some(Rate { burst: 10, ..rate }),)
        );
        let matched = |path: &[u8]| {
            let path = normalise(path);
            let request = Request::new(b"POST", b"www.Example.com:443", &path, &Told, &Told);
            limit.matches.matches(&request)
        };
        let (prefix, pattern) = (matched(b"/x/..//%6cogin;v=1"), matched(b"/v12/\xff%0a"));
        assert!(prefix > pattern && pattern.is_some(), "{prefix:?} {pattern:?}");
        assert_eq!(matched(b"/logi"), None);
        let identity = identity::resolve(&config.identity, &Told, &Told, Some(ip("192.0.2.1")));
        assert_eq!(identity, Some(Identity { source: 1, value: b"alice".to_vec() }));
        let standings = [Standing {
            name: &limit.name,
            rate,
            remaining: 0,
            reset_seconds: u32::MAX,
            violated: true,
        }];
        let refused = refusal::Refusal::limited(&standings, GrpcStatus::ResourceExhausted);
        let reply = refusal::respond(&refused, b"text/plain", b"", None);
        assert_eq!(reply.status, 429);
        assert_eq!(
            reply.headers[4..],
            [
                ("retry-after", "4294967295".to_owned()),
                ("ratelimit-policy", "\"login\";q=1000000;w=604800".to_owned()),
                ("ratelimit", "\"login\";r=0;t=4294967295".to_owned()),
            ]
        );
        // Milliseconds of that need more than 32 bits.
        let reply = refusal::respond(&refused, b"", b"application/grpc", None);
        assert_eq!(reply.headers, [("grpc-retry-pushback-ms", "4294967295000".to_owned())]);
    }
}
