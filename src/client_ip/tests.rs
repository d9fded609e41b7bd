use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

#[test]
fn envoys_address_is_taken_and_folded() {
    let resolved = resolve(&Source::Envoy, Some(ip("::ffff:203.0.113.7")), &[b"6.6.6.6"]);
    assert_eq!(resolved, Some(ip("203.0.113.7")));
    assert_eq!(resolve(&Source::Envoy, None, &[]), None);
}
