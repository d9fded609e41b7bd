//! A certificate authority for tests: Envoy's own certificate and those of clients.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::raw::{Reply, exchange};

/// Name in the certificate of the site.
const SITE: &str = "site.example";

/// Who signs.
#[derive(Debug)]
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// An authority with a fresh key.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// `transport_socket` of a listener that accepts clients without a certificate and those
    /// with one of this authority's.
    ///
    /// # Panics
    /// When no certificate can be made.
    #[must_use]
    pub fn transport_socket(&self) -> Value {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![SITE.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": false,
                "common_tls_context": {
                    "tls_certificates": [{
                        "certificate_chain": {"inline_string": certificate.pem()},
                        "private_key": {"inline_string": key.serialize_pem()},
                    }],
                    "validation_context": {"trusted_ca": {"inline_string": self.certificate.pem()}},
                },
            },
        })
    }

    /// One request over TLS; the client shows a certificate with this URI if one is given.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn request(&self, port: u16, uri: Option<&str>, request: &str) -> Reply {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("an authority");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match uri {
            None => config.with_no_client_auth(),
            Some(uri) => {
                let key = KeyPair::generate().expect("a key");
                let mut params = CertificateParams::default();
                params.subject_alt_names =
                    vec![SanType::URI(uri.try_into().expect("an ASCII URI"))];
                params.distinguished_name.push(DnType::CommonName, "a client");
                let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
                let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
                config
                    .with_client_auth_cert(vec![certificate.der().clone()], key)
                    .expect("a certificate and its key")
            }
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the site listens");
        let name = ServerName::try_from(SITE).expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        exchange(stream.expect("a TLS connection"), request.as_bytes()).await
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
