//! Signatures of webhooks, after Standard Webhooks (version 1.0.0, standardwebhooks.com), for
//! which there are libraries in most languages.
//!
//! Three headers: `webhook-id` (the same when a message is sent again), `webhook-timestamp`
//! (Unix seconds of this attempt) and `webhook-signature: v1,BASE64`, where BASE64 is
//! HMAC-SHA256 with the secret over `ID.TIMESTAMP.BODY`. A receiver computes the same over the
//! body as it arrived, compares in constant time, refuses a timestamp that is more than five
//! minutes off, and ignores an id that it has seen.
//!
//! A secret `whsec_BASE64` is that key; any other text is the key as it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Starts a secret that holds its key in base 64.
const PREFIX: &str = "whsec_";

/// What webhooks are signed with.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// The key of a secret.
    ///
    /// # Errors
    /// What is wrong with it, in words that don't repeat it.
    pub fn of_secret(secret: &str) -> Result<Self, String> {
        let bytes = match secret.strip_prefix(PREFIX) {
            Some(text) => STANDARD
                .decode(text)
                .map_err(|_| "the secret is not base 64 after whsec_".to_owned())?,
            None => secret.as_bytes().to_vec(),
        };
        if bytes.len() < super::MIN_SECRET_BYTES {
            return Err(format!(
                "the secret has {} bytes: expected at least {}, such as the output of `openssl rand -base64 32`",
                bytes.len(),
                super::MIN_SECRET_BYTES
            ));
        }
        Hmac::new_from_slice(&bytes).map(Self).map_err(|_| "the secret is no key".to_owned())
    }

    /// The value of `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(id, timestamp, body).finalize().into_bytes()))
    }

    /// Whether a signature (or one of several, with spaces between them) is right; in constant
    /// time.
    #[must_use]
    pub fn verifies(&self, signature: &str, id: &str, timestamp: i64, body: &[u8]) -> bool {
        signature.split(' ').filter_map(|one| one.strip_prefix("v1,")).any(|text| {
            STANDARD
                .decode(text)
                .is_ok_and(|bytes| self.mac(id, timestamp, body).verify_slice(&bytes).is_ok())
        })
    }

    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        mac
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn the_specifications_example_is_signed_as_there() {
        let key = Key::of_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#);
        let signature = key.sign(id, 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(key.verifies(&format!("v1a,x {signature}"), id, 1_614_265_330, body));
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let key = Key::of_secret("a secret of some length").unwrap();
        let signature = key.sign("msg_1", 1_800_000_000, b"{}");
        assert!(key.verifies(&signature, "msg_1", 1_800_000_000, b"{}"));
        assert!(!key.verifies(&signature, "msg_2", 1_800_000_000, b"{}"));
        assert!(!key.verifies(&signature, "msg_1", 1_800_000_001, b"{}"));
        assert!(!key.verifies(&signature, "msg_1", 1_800_000_000, b"{ }"));
        let other = Key::of_secret("another secret, as long").unwrap();
        assert!(!other.verifies(&signature, "msg_1", 1_800_000_000, b"{}"));
        assert!(!key.verifies("", "msg_1", 1_800_000_000, b"{}"));
    }

    #[test]
    fn short_and_broken_secrets_are_refused_without_repeating_them() {
        assert_eq!(
            Key::of_secret("short").unwrap_err(),
            "the secret has 5 bytes: expected at least 16, such as the output of `openssl rand -base64 32`"
        );
        assert_eq!(
            Key::of_secret("whsec_!!").unwrap_err(),
            "the secret is not base 64 after whsec_"
        );
    }
}
