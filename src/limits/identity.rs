//! Who the client is, from verified sources only.
//!
//! "Authenticated" is what Envoy, or a peer that the operator trusts, has verified: never the
//! presence of a header. Otherwise everybody could mint identities, and with each a full
//! bucket.
//!
//! | source | what has to have verified it |
//! |---|---|
//! | [`Source::Jwt`] | Envoy's `jwt_authn` filter, which stands before this one and writes a payload into its metadata only once the token's signature, issuer and times are right |
//! | [`Source::Certificate`] | the listener: `require_client_certificate` with a `validation_context`. Envoy tells whether a certificate was *presented*; a listener that accepts any certificate lets every client name itself |
//! | [`Source::Header`] | a peer in `trusted_peers`. From everybody else's requests the header must be removed ([`untrusted_headers`]) |
//!
//! What this module does not do: it verifies no signature and reads no token.
//!
//! # What counts as an identity
//!
//! A text: 1 to [`MAX_IDENTITY_BYTES`] bytes of UTF-8 without control characters. Anything
//! else is none, and the next source is asked:
//!
//! - A longer one is refused rather than cut or hashed: two clients must not share an
//!   identity, and what names a client in `exempt` and in resets must be what was verified.
//! - Envoy hands over a claim that is a number as the eight bytes of a double and a list or an
//!   object as serialised protobuf, and does not say which it was. Nearly all of these hold
//!   control characters, which tells them apart; a claim that is to be an identity should be
//!   a text, as `sub` is (RFC 7519 §4.1.2).

use core::net::IpAddr;

use ipnet::IpNet;

use super::matching::{Attributes, HeaderSource};
use crate::address;

/// Longest identity, and longest claim that names a tier.
pub const MAX_IDENTITY_BYTES: usize = 256;

/// Metadata namespace of Envoy's JWT filter, as the start of a property's path.
const JWT_METADATA: &str = "metadata\0filter_metadata\0envoy.filters.http.jwt_authn";

/// Where a verified identity may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The payload that Envoy's `jwt_authn` filter wrote into its metadata after it had
    /// verified the token.
    Jwt {
        /// `payload_in_metadata` of the provider.
        metadata_key: String,
        /// The claim: a path through nested objects.
        claim: Vec<String>,
    },
    /// The certificate that the client presented and Envoy validated.
    Certificate(CertificateField),
    /// A request header, from these peers only; it is removed from everybody else's requests.
    Header {
        /// Its name in lower case.
        name: String,
        /// Who may set it, folded.
        trusted_peers: Vec<IpNet>,
    },
}

/// A field of a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateField {
    /// The first URI in the subject alternative names (a SPIFFE id, say).
    SanUri,
    /// The first DNS name in the subject alternative names.
    SanDns,
    /// The subject.
    Subject,
}

impl CertificateField {
    /// The property that holds it.
    const fn property(self) -> &'static [u8] {
        match self {
            Self::SanUri => b"connection\0uri_san_peer_certificate",
            Self::SanDns => b"connection\0dns_san_peer_certificate",
            Self::Subject => b"connection\0subject_peer_certificate",
        }
    }
}

/// A verified identity. Equal values of different sources are different identities: the
/// `alice` of a token is not the `alice` of a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Which source of the configuration yielded it, from 0.
    pub source: usize,
    /// What it says: text, see the module's header.
    pub value: Vec<u8>,
}

/// The identity that the first of the sources yields; `None`: the client is anonymous.
///
/// `peer` is the address that the request came from, the same that decides about
/// [`crate::client_ip::Source::Header`]. Without one no header is trusted.
#[must_use]
pub fn resolve(
    sources: &[Source],
    attributes: &dyn Attributes,
    headers: &dyn HeaderSource,
    peer: Option<IpAddr>,
) -> Option<Identity> {
    sources.iter().enumerate().find_map(|(at, source)| {
        let value = match source {
            Source::Jwt { metadata_key, claim } => token_claim(attributes, metadata_key, claim),
            Source::Certificate(field) => certificate(attributes, *field),
            Source::Header { name, trusted_peers } => {
                if !is_trusted(trusted_peers, peer) {
                    return None;
                }
                only_line(headers, name)
            }
        };
        value.map(|value| Identity { source: at, value })
    })
}

/// A claim of the token that the identity came from, for tiers. `None` where the identity
/// came from no token: another token of the same request may be somebody else's.
#[must_use]
pub fn claim(
    sources: &[Source],
    identity: &Identity,
    attributes: &dyn Attributes,
    claim: &[String],
) -> Option<Vec<u8>> {
    match sources.get(identity.source)? {
        Source::Jwt { metadata_key, .. } => token_claim(attributes, metadata_key, claim),
        Source::Certificate(_) | Source::Header { .. } => None,
    }
}

/// Names of the headers that must be removed from a request of this peer: everybody behind
/// this filter may take them for verified.
pub fn untrusted_headers(sources: &[Source], peer: Option<IpAddr>) -> impl Iterator<Item = &str> {
    sources.iter().filter_map(move |source| match source {
        Source::Header { name, trusted_peers } if !is_trusted(trusted_peers, peer) => {
            Some(name.as_str())
        }
        _ => None,
    })
}

fn is_trusted(trusted_peers: &[IpNet], peer: Option<IpAddr>) -> bool {
    let Some(peer) = peer.map(address::fold) else { return false };
    trusted_peers.iter().any(|net| net.contains(&peer))
}

fn token_claim(
    attributes: &dyn Attributes,
    metadata_key: &str,
    claim: &[String],
) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(128);
    path.extend_from_slice(JWT_METADATA.as_bytes());
    for part in core::iter::once(metadata_key).chain(claim.iter().map(String::as_str)) {
        path.push(0);
        path.extend_from_slice(part.as_bytes());
    }
    attributes.attribute(&path).filter(|value| is_text(value))
}

fn certificate(attributes: &dyn Attributes, field: CertificateField) -> Option<Vec<u8>> {
    // Envoy gives a boolean as one byte.
    if attributes.attribute(b"connection\0mtls")? != [1] {
        return None;
    }
    attributes.attribute(field.property()).filter(|value| is_text(value))
}

/// The value of a header that came exactly once: of two, one may be the client's own.
fn only_line(headers: &dyn HeaderSource, name: &str) -> Option<Vec<u8>> {
    let mut lines = 0;
    let mut value = None;
    headers.each(name.as_bytes(), &mut |line| {
        lines += 1;
        value = (lines == 1 && is_text(line)).then(|| line.to_vec());
    });
    value
}

fn is_text(value: &[u8]) -> bool {
    (1..=MAX_IDENTITY_BYTES).contains(&value.len())
        && core::str::from_utf8(value).is_ok_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    // Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::limits::matching::testing::{Lines, Properties};

    const TRUSTED: Option<IpAddr> = Some(IpAddr::V4(core::net::Ipv4Addr::new(10, 1, 2, 3)));
    const STRANGER: Option<IpAddr> = Some(IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 7)));

    fn jwt(metadata_key: &str, claim: &[&str]) -> Source {
        Source::Jwt {
            metadata_key: metadata_key.to_owned(),
            claim: claim.iter().map(|part| (*part).to_owned()).collect(),
        }
    }

    fn header(name: &str) -> Source {
        Source::Header { name: name.to_owned(), trusted_peers: vec!["10.0.0.0/8".parse().unwrap()] }
    }

    const SUB: &[u8] = b"metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0payload\0sub";

    #[track_caller]
    fn identified(
        sources: &[Source],
        properties: &[(&[u8], &[u8])],
        lines: &[(&str, &[u8])],
        peer: Option<IpAddr>,
        expected: Option<(usize, &[u8])>,
    ) {
        let found = resolve(sources, &Properties::new(properties), &Lines(lines), peer);
        let found = found.as_ref().map(|identity| (identity.source, &identity.value[..]));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_verified_claim_is_an_identity() {
        let sources = [jwt("payload", &["sub"])];
        identified(&sources, &[(SUB, b"alice")], &[], None, Some((0, b"alice")));
        identified(&sources, &[], &[("authorization", b"Bearer x.y.z")], TRUSTED, None);
        let nested =
            b"metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0payload\0realm\0user";
        let sources = [jwt("payload", &["realm", "user"])];
        identified(&sources, &[(nested, b"bob")], &[], None, Some((0, b"bob")));
    }

    #[test]
    fn what_is_no_text_is_no_identity() {
        let sources = [jwt("payload", &["sub"])];
        let number = 42f64.to_le_bytes();
        let object = [0x0a, 0x03, b'a', b'b', b'c'];
        for value in [&b""[..], &number, &object, b"a\nb", b"\xff\xfe", b"\x01"] {
            identified(&sources, &[(SUB, value)], &[], None, None);
        }
        identified(&sources, &[(SUB, "josé".as_bytes())], &[], None, Some((0, "josé".as_bytes())));
        let longest = [b'a'; MAX_IDENTITY_BYTES];
        identified(&sources, &[(SUB, &longest)], &[], None, Some((0, &longest)));
        identified(&sources, &[(SUB, &[b'a'; MAX_IDENTITY_BYTES + 1])], &[], None, None);
    }

    #[test]
    fn a_certificate_counts_only_where_tls_is_mutual() {
        let uri: (&[u8], &[u8]) =
            (b"connection\0uri_san_peer_certificate", b"spiffe://example.com/shop");
        let sources = [Source::Certificate(CertificateField::SanUri)];
        identified(&sources, &[uri, (b"connection\0mtls", &[1])], &[], None, Some((0, uri.1)));
        identified(&sources, &[uri, (b"connection\0mtls", &[0])], &[], None, None);
        identified(&sources, &[uri], &[], None, None);
        let mutual: (&[u8], &[u8]) = (b"connection\0mtls", &[1]);
        for (field, property) in [
            (CertificateField::SanDns, &b"connection\0dns_san_peer_certificate"[..]),
            (CertificateField::Subject, b"connection\0subject_peer_certificate"),
        ] {
            let sources = [Source::Certificate(field)];
            identified(&sources, &[mutual, (property, b"x")], &[], None, Some((0, b"x")));
            identified(&sources, &[mutual, uri], &[], None, None);
        }
    }

    #[test]
    fn a_header_counts_only_from_a_trusted_peer_and_only_once() {
        let sources = [header("x-user")];
        let line: (&str, &[u8]) = ("x-user", b"alice");
        identified(&sources, &[], &[line], TRUSTED, Some((0, b"alice")));
        identified(
            &sources,
            &[],
            &[line],
            Some("::ffff:10.0.0.1".parse().unwrap()),
            Some((0, b"alice")),
        );
        identified(&sources, &[], &[line], STRANGER, None);
        identified(&sources, &[], &[line], None, None);
        identified(&sources, &[], &[line, ("x-user", b"bob")], TRUSTED, None);
        identified(&sources, &[], &[line, line, line], TRUSTED, None);
        identified(&sources, &[], &[("x-user", b"")], TRUSTED, None);
        identified(&sources, &[], &[("x-other", b"alice")], TRUSTED, None);
    }

    #[test]
    fn the_first_source_that_yields_one_wins_and_sources_do_not_meet() {
        let sources = [jwt("payload", &["sub"]), header("x-user")];
        let line: (&str, &[u8]) = ("x-user", b"alice");
        identified(&sources, &[(SUB, b"alice")], &[line], TRUSTED, Some((0, b"alice")));
        identified(&sources, &[], &[line], TRUSTED, Some((1, b"alice")));
        identified(&[], &[(SUB, b"alice")], &[line], TRUSTED, None);
    }

    #[test]
    fn a_tier_comes_from_the_token_of_the_identity() {
        let sources = [jwt("payload", &["sub"]), header("x-user")];
        let plan = b"metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0payload\0plan";
        let properties: [(&[u8], &[u8]); 2] = [(SUB, b"alice"), (plan, b"pro")];
        let attributes = Properties::new(&properties);
        let plan = ["plan".to_owned()];
        let of = |source| {
            let identity = Identity { source, value: b"alice".to_vec() };
            claim(&sources, &identity, &attributes, &plan)
        };
        assert_eq!(of(0), Some(b"pro".to_vec()));
        assert_eq!(of(1), None);
        assert_eq!(of(2), None);
    }

    #[test]
    fn headers_of_strangers_are_named_for_removal() {
        let sources = [header("x-user"), jwt("payload", &["sub"]), header("x-account")];
        let named = |peer| untrusted_headers(&sources, peer).collect::<Vec<_>>();
        assert_eq!(named(TRUSTED), [""; 0]);
        assert_eq!(named(STRANGER), ["x-user", "x-account"]);
        assert_eq!(named(None), ["x-user", "x-account"]);
    }
}
