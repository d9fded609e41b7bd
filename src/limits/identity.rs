//! Who the client is, from verified sources only.

use ipnet::IpNet;

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
        /// Who may set it.
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
