//! An issuer of JSON Web Tokens, and the filter of Envoy's that verifies them.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// An end of a token's life that no test will see.
const YEAR_2100: u64 = 4_102_444_800;

/// Someone who signs tokens (ES256) with a key of its own.
#[derive(Debug)]
pub struct Issuer {
    key: EcdsaKeyPair,
}

impl Issuer {
    /// An issuer with a fresh key.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { key }
    }

    /// A signed token that is valid until 2100; `claims` are added to issuer and expiry, or
    /// take their place.
    ///
    /// # Panics
    /// When it can't be signed.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        let unsigned = unsigned(&json!({"alg": "ES256", "typ": "JWT"}), claims);
        let signature = self.key.sign(&SystemRandom::new(), unsigned.as_bytes()).expect("signed");
        format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The same claims with `alg: none` and no signature.
    #[must_use]
    pub fn unsigned_token(&self, claims: &Value) -> String {
        format!("{}.", unsigned(&json!({"alg": "none", "typ": "JWT"}), claims))
    }

    /// Envoy's `jwt_authn` as a filter before ipwarden: it verifies a token where there is
    /// one, writes its payload to the metadata `jwt_payload` and lets every request go on.
    ///
    /// # Panics
    /// Never: the key has the form that it was made with.
    #[must_use]
    pub fn filter(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let keys = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
        }]});
        json!({
            "name": "envoy.filters.http.jwt_authn",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": {"tests": {
                    "issuer": "tests",
                    "forward": true,
                    "payload_in_metadata": "jwt_payload",
                    "local_jwks": {"inline_string": keys.to_string()},
                }},
                "rules": [{
                    "match": {"prefix": "/"},
                    "requires": {"requires_any": {"requirements": [
                        {"provider_name": "tests"},
                        {"allow_missing_or_failed": {}},
                    ]}},
                }],
            },
        })
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let mut payload = json!({"iss": "tests", "exp": YEAR_2100});
    if let (Some(payload), Some(claims)) = (payload.as_object_mut(), claims.as_object()) {
        payload.extend(claims.clone());
    }
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(&payload))
}
