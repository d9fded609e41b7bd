// Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| crate::address::parse_target(text).expect(text)).collect()
}

fn behind(header: ForwardingHeader) -> Source {
    Source::TrustedProxies {
        proxies: nets(&["10.0.0.0/8", "2001:db8:aaaa::/48"]),
        header,
        max_hops: MAX_ENTRIES,
    }
}

/// Resolves behind 10.0.0.1 and checks that the explanation says the same.
#[track_caller]
fn client(source: &Source, lines: &[&str], expected: &str) {
    let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    let peer = Some(ip("10.0.0.1"));
    assert_eq!(resolve(source, peer, &lines), Some(ip(expected)), "{lines:?}");
    assert_eq!(explain(source, peer, &lines).client, Some(ip(expected)), "{lines:?}");
}

#[track_caller]
fn xff(lines: &[&str], expected: &str) {
    client(&behind(ForwardingHeader::XForwardedFor), lines, expected);
}

#[track_caller]
fn forwarded(lines: &[&str], expected: &str) {
    client(&behind(ForwardingHeader::Forwarded), lines, expected);
}

#[test]
fn envoys_address_is_taken_and_folded() {
    let resolved = resolve(&Source::Envoy, Some(ip("::ffff:203.0.113.7")), &[b"6.6.6.6"]);
    assert_eq!(resolved, Some(ip("203.0.113.7")));
    assert_eq!(resolve(&Source::Envoy, None, &[]), None);
}

#[test]
fn an_untrusted_peer_is_the_client_whatever_it_sends() {
    let header =
        Source::Header { name: "x-real-ip".to_owned(), trusted_peers: nets(&["10.0.0.0/8"]) };
    for source in
        [behind(ForwardingHeader::XForwardedFor), behind(ForwardingHeader::Forwarded), header]
    {
        let lines: [&[u8]; 1] = [b"6.6.6.6"];
        assert_eq!(resolve(&source, Some(ip("192.0.2.9")), &lines), Some(ip("192.0.2.9")));
        assert_eq!(resolve(&source, None, &lines), None);
    }
}

#[test]
fn a_mapped_peer_is_trusted_by_its_ipv4_network() {
    let source = behind(ForwardingHeader::XForwardedFor);
    let resolved = resolve(&source, Some(ip("::ffff:10.0.0.1")), &[b"203.0.113.7"]);
    assert_eq!(resolved, Some(ip("203.0.113.7")));
}

#[test]
fn the_first_untrusted_address_from_the_right_is_the_client() {
    xff(&["203.0.113.7"], "203.0.113.7");
    xff(&["6.6.6.6, 203.0.113.7, 10.1.2.3"], "203.0.113.7");
    xff(&["6.6.6.6,203.0.113.7 ,\t2001:db8:aaaa::5"], "203.0.113.7");
    xff(&["::ffff:203.0.113.7, ::ffff:10.9.9.9"], "203.0.113.7");
}

#[test]
fn field_lines_are_one_list_in_their_order() {
    xff(&["6.6.6.6", "203.0.113.7", "10.1.2.3"], "203.0.113.7");
    xff(&["203.0.113.7, 10.1.2.3", "10.1.2.4"], "203.0.113.7");
    xff(&["203.0.113.7", ""], "203.0.113.7");
}

#[test]
fn a_header_of_trusted_proxies_only_ends_at_its_leftmost() {
    xff(&["10.0.0.9, 10.0.0.8"], "10.0.0.9");
    xff(&[], "10.0.0.1");
    xff(&[""], "10.0.0.1");
    xff(&[" , ,"], "10.0.0.1");
}

#[test]
fn an_entry_that_is_no_address_ends_the_walk() {
    for junk in [
        "banana",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.4:",
        "1.2.3.4:123456",
        "1.2.3.4:x",
        "[::1",
        "[::1]x",
        "[1.2.3.4]:5",
        "1.2.3.04",
        "::1%eth0",
        "unknown",
        "_hidden",
        "\u{e9}",
        "1.2.3.4 5.6.7.8",
    ] {
        xff(&[&format!("203.0.113.7, {junk}, 10.1.2.3")], "10.1.2.3");
        xff(&[&format!("203.0.113.7, {junk}")], "10.0.0.1");
    }
}

#[test]
fn ports_and_brackets_are_read() {
    xff(&["203.0.113.7:55"], "203.0.113.7");
    xff(&["[2001:db8::1]:55"], "2001:db8::1");
    xff(&["[2001:db8::1]"], "2001:db8::1");
    xff(&["2001:db8::1"], "2001:db8::1");
    xff(&["[::ffff:203.0.113.7]:55"], "203.0.113.7");
}

#[test]
fn no_more_entries_are_read_than_allowed() {
    let source = Source::TrustedProxies {
        proxies: nets(&["10.0.0.0/8"]),
        header: ForwardingHeader::XForwardedFor,
        max_hops: 2,
    };
    client(&source, &["203.0.113.7, 10.0.0.2"], "203.0.113.7");
    client(&source, &["203.0.113.7, 10.0.0.3, 10.0.0.2"], "10.0.0.3");
    let many = vec!["10.0.0.2"; 100].join(",");
    let explanation =
        explain(&behind(ForwardingHeader::XForwardedFor), Some(ip("10.0.0.1")), &[many.as_bytes()]);
    // The peer, the entries, the end.
    assert_eq!(explanation.steps.len(), MAX_ENTRIES as usize + 2);
    assert_eq!(explanation.steps.last().unwrap().finding, Finding::HopsExhausted);
}

#[test]
fn an_entry_has_a_longest_length() {
    for header in [ForwardingHeader::XForwardedFor, ForwardingHeader::Forwarded] {
        for filler in ["x", " ", "\"", "\\", "\\\""] {
            let line = format!("{},10.0.0.2", filler.repeat(1_000_000 / filler.len()));
            let prefix = if header == ForwardingHeader::Forwarded { "for=" } else { "" };
            let line = line.replace("10.0.0.2", &format!("{prefix}10.0.0.2"));
            let explanation = explain(&behind(header), Some(ip("10.0.0.1")), &[line.as_bytes()]);
            assert_eq!(explanation.client, Some(ip("10.0.0.2")));
            let last = explanation.steps.last().unwrap();
            assert_eq!(last.finding, Finding::EntryTooLong);
            assert!(last.text.len() <= 4 * MAX_ENTRY_BYTES);
        }
    }
    let padded = |bytes: usize| format!("{:>bytes$}", "203.0.113.7");
    xff(&[&padded(MAX_ENTRY_BYTES)], "203.0.113.7");
    xff(&[&format!("6.6.6.6,{}", padded(MAX_ENTRY_BYTES))], "203.0.113.7");
    xff(&[&padded(MAX_ENTRY_BYTES + 1)], "10.0.0.1");
    xff(&[&format!("6.6.6.6,{}", padded(MAX_ENTRY_BYTES + 1))], "10.0.0.1");
}

#[test]
fn forwarded_elements_are_read() {
    forwarded(&["for=203.0.113.7"], "203.0.113.7");
    forwarded(&["FOR=203.0.113.7;proto=https"], "203.0.113.7");
    forwarded(&["proto=https; by=10.0.0.1 ;For=\"203.0.113.7:55\""], "203.0.113.7");
    forwarded(&["for=\"[2001:db8::1]:4711\""], "2001:db8::1");
    forwarded(&["for=\"[2001:db8::1]:_port\";;"], "2001:db8::1");
    forwarded(&["for=203.0.113.7;host=\"a,b;c=\\\"d\\\\\", for=10.0.0.2"], "203.0.113.7");
    forwarded(&["for=\"203\\.0.113\\.7\""], "203.0.113.7");
    forwarded(&["for=6.6.6.6", "for=203.0.113.7, for=10.0.0.2"], "203.0.113.7");
    forwarded(&["for=[2001:db8::1]"], "2001:db8::1");
}

#[test]
fn a_forwarded_element_without_an_address_ends_the_walk() {
    let long = format!("for=\"{}\"", "\\1".repeat(100));
    for element in [
        "for=unknown",
        "for=\"UNKNOWN\"",
        "for=_hidden",
        "for=\"_SEVKISEK\"",
        "proto=https",
        "for",
        "for=",
        "for=\"\"",
        "for=\"203.0.113.9",
        "for=203.0.113.9\"",
        "for=\"203.0.113.9\"x",
        "for = 203.0.113.9",
        "for=203.0.113.9;for=203.0.113.10",
        "203.0.113.9",
        "=203.0.113.9",
        long.as_str(),
    ] {
        forwarded(&["for=203.0.113.7", &format!("{element}, for=10.0.0.2")], "10.0.0.2");
        forwarded(&["for=203.0.113.7", element], "10.0.0.1");
    }
}

#[test]
fn an_open_quote_on_the_left_swallows_nothing() {
    forwarded(&["for=6.6.6.6;x=\", for=203.0.113.7;proto=http, for=10.0.0.2"], "203.0.113.7");
    forwarded(&["for=6.6.6.6;x=\", for=\"[2001:db8::7]:1\""], "2001:db8::7");
    forwarded(&["for=6.6.6.6;x=\"\\, for=203.0.113.7"], "203.0.113.7");
}

#[test]
fn one_header_counts_when_it_comes_once_with_one_address() {
    let source = Source::Header {
        name: "cf-connecting-ip".to_owned(),
        trusted_peers: nets(&["10.0.0.0/8"]),
    };
    client(&source, &["203.0.113.7"], "203.0.113.7");
    client(&source, &[" 2001:db8::1 "], "2001:db8::1");
    client(&source, &["::ffff:203.0.113.7"], "203.0.113.7");
    for unusable in [&[][..], &[""], &["203.0.113.7, 203.0.113.8"], &["banana"], &["a", "b"]] {
        client(&source, unusable, "10.0.0.1");
    }
    let long = " ".repeat(MAX_ENTRY_BYTES + 1);
    client(&source, &[&long], "10.0.0.1");
}

#[test]
fn an_explanation_reads_step_by_step() {
    let explanation = explain(
        &behind(ForwardingHeader::XForwardedFor),
        Some(ip("10.0.0.1")),
        &[b"6.6.6.6, 203.0.113.7", b"10.0.0.2"],
    );
    assert_eq!(
        explanation.to_string(),
        "peer 10.0.0.1: a trusted peer: its header counts\n\
         entry 1 from the right '10.0.0.2': a trusted proxy: skipped\n\
         entry 2 from the right '203.0.113.7': not a trusted proxy: this is the client\n\
         client 203.0.113.7"
    );
    let explanation = explain(
        &behind(ForwardingHeader::XForwardedFor),
        Some(ip("10.0.0.1")),
        &[b"203.0.113.7, \x1b[31m\xff, "],
    );
    assert_eq!(
        explanation.to_string(),
        "peer 10.0.0.1: a trusted peer: its header counts\n\
         entry 1 from the right: empty: skipped\n\
         entry 2 from the right '\\x1b[31m\\xff': not an address: the walk ends at the address \
         before it\n\
         client 10.0.0.1"
    );
    assert_eq!(
        explain(&Source::Envoy, None, &[]).to_string(),
        "peer: the listener has no peer address: the client is not known\nclient unknown"
    );
}

#[cfg(not(target_family = "wasm"))]
mod laws {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            // Often a proxy, so that walks get somewhere.
            (0u32..0x0100_0000).prop_map(|low| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | low))),
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
            any::<u128>().prop_map(|bits| fold(IpAddr::V6(Ipv6Addr::from(bits)))),
        ]
    }

    fn header() -> impl Strategy<Value = ForwardingHeader> {
        prop_oneof![Just(ForwardingHeader::XForwardedFor), Just(ForwardingHeader::Forwarded)]
    }

    /// An entry as a proxy writes it.
    fn written(ip: IpAddr, header: ForwardingHeader, port: Option<u16>) -> String {
        let node = match (ip, port) {
            (_, Some(port)) => core::net::SocketAddr::new(ip, port).to_string(),
            (IpAddr::V6(_), None) => format!("[{ip}]"),
            (IpAddr::V4(_), None) => ip.to_string(),
        };
        match header {
            ForwardingHeader::XForwardedFor => node,
            ForwardingHeader::Forwarded => format!("for=\"{node}\";proto=https"),
        }
    }

    /// Bytes that the grammars care about, and others.
    fn junk() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![prop::sample::select(b",;=\"\\ []:._for1".to_vec()), any::<u8>(),], 0..120)
    }

    /// What the rule says, without any parsing: the model of the walk.
    fn model(peer: IpAddr, hops: &[IpAddr]) -> IpAddr {
        let trusted = nets(&["10.0.0.0/8", "2001:db8:aaaa::/48"]);
        if !covers(&trusted, peer) {
            return peer;
        }
        let from_right = || hops.iter().rev().copied();
        from_right()
            .find(|hop| !covers(&trusted, *hop))
            .or_else(|| from_right().last())
            .unwrap_or(peer)
    }

    proptest! {
        #[test]
        fn what_proxies_write_resolves_by_the_rule(
            peer in address(), header in header(), cut in 0usize..20,
            hops in vec((address(), any::<Option<u16>>()), 0..20),
        ) {
            let entries: Vec<String> =
                hops.iter().map(|(ip, port)| written(*ip, header, *port)).collect();
            let addresses: Vec<IpAddr> = hops.iter().map(|(ip, _)| *ip).collect();
            // One list, however it is spread over field lines.
            let (first, second) = entries.split_at(cut.min(entries.len()));
            let lines = [first.join(", "), second.join(",")];
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            prop_assert_eq!(
                resolve(&behind(header), Some(peer), &lines),
                Some(model(peer, &addresses))
            );
        }

        #[test]
        fn nothing_on_the_left_changes_a_client_that_was_found(
            header in header(), left in junk(), own_line: bool,
            proxies in vec(any::<[u8; 3]>(), 0..5), untrusted in 0xc633_6400u32..0xc633_6500,
        ) {
            let client = IpAddr::V4(Ipv4Addr::from(untrusted));
            let mut entries = vec![written(client, header, None)];
            entries.extend(proxies.iter().map(|[a, b, c]| {
                written(IpAddr::V4(Ipv4Addr::new(10, *a, *b, *c)), header, Some(1))
            }));
            let right = entries.join(", ");
            let mut joined = left.clone();
            joined.extend_from_slice(b",");
            joined.extend_from_slice(right.as_bytes());
            let lines: Vec<&[u8]> =
                if own_line { vec![&left, right.as_bytes()] } else { vec![&joined] };
            prop_assert_eq!(
                resolve(&behind(header), Some(ip("10.0.0.1")), &lines),
                Some(client)
            );
        }

        #[test]
        fn junk_resolves_to_the_peer_or_to_something_that_was_read(
            header in header(), lines in vec(junk(), 0..4), peer in address(),
        ) {
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            for source in [
                behind(header),
                Source::Header { name: "x".to_owned(), trusted_peers: nets(&["10.0.0.0/8"]) },
            ] {
                let explanation = explain(&source, Some(peer), &lines);
                let client = resolve(&source, Some(peer), &lines);
                prop_assert_eq!(client, explanation.client);
                let read = explanation.steps.iter().any(|step| step.address == client);
                prop_assert!(read || client == Some(fold(peer)));
                prop_assert!(explanation.steps.len() <= MAX_ENTRIES as usize + 2);
            }
        }
    }
}
