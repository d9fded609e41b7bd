//! Sessions of the dashboard: a token given once, a cookie from then on.
//!
//! The cookie is a secret of 256 random bits; only its hash is kept, in memory: a restart ends
//! every session, a revoked token ends its sessions with the next request. Failed logins are
//! limited by the address that they come from. Refuses to be a way in for other sites: see
//! [`foreign`].

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, HeaderValue, Method, header};
use hashbrown::HashMap;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::auth::AuthError;
use crate::hex::hex;

/// How long a session lasts after the login.
pub const LIFETIME: SignedDuration = SignedDuration::from_hours(12);
/// Sessions at once; the oldest ends when there are more.
const MAX_SESSIONS: usize = 10_000;
/// Name of the cookie where the page came over plain HTTP.
const COOKIE: &str = "ipwarden_session";
/// Its name where it came over TLS: browsers then refuse it from anywhere else.
const HOST_COOKIE: &str = "__Host-ipwarden_session";
/// What requests that change something must carry beside the cookie: a page of another site
/// can't add it without being asked.
pub const PROOF_HEADER: &str = "x-ipwarden-dashboard";
/// Failed logins of one address that are answered as such; then it must wait.
const FAILURES: u32 = 10;
/// After so long one more is.
const FAILURE_PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// Addresses whose failures are remembered; more share what is left.
const MAX_SOURCES: usize = 4_096;

type Hash = [u8; 32];

/// Where a connection comes from, as the service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// One that is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Number of the token.
    pub token: i64,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    known: Mutex<HashMap<Hash, Session>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// Up to here pauses were counted.
    at: Timestamp,
}

impl Sessions {
    /// Starts one, and gives the cookie's value.
    ///
    /// # Errors
    /// [`AuthError::Random`].
    pub fn open(&self, token: i64, now: Timestamp) -> Result<(String, Timestamp), AuthError> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| AuthError::Random(error.to_string()))?;
        let secret = hex(&bytes);
        let expires_at = now.checked_add(LIFETIME).unwrap_or(Timestamp::MAX);
        let mut known = locked(&self.known);
        known.retain(|_, session| now < session.expires_at);
        if known.len() >= MAX_SESSIONS {
            let oldest =
                known.iter().min_by_key(|(_, session)| session.expires_at).map(|(hash, _)| *hash);
            oldest.and_then(|hash| known.remove(&hash));
        }
        known.insert(hash(&secret), Session { token, expires_at });
        Ok((secret, expires_at))
    }

    /// The session of a request.
    #[must_use]
    pub fn find(&self, headers: &HeaderMap, now: Timestamp) -> Option<Session> {
        let known = locked(&self.known);
        let session = cookies(headers).find_map(|secret| known.get(&hash(secret)))?;
        (now < session.expires_at).then(|| session.clone())
    }

    /// Ends the session of a request.
    pub fn close(&self, headers: &HeaderMap) {
        let mut known = locked(&self.known);
        for secret in cookies(headers) {
            known.remove(&hash(secret));
        }
    }

    /// Whether somebody may try to log in; otherwise after how many seconds.
    ///
    /// # Errors
    /// Seconds to wait.
    pub fn may_try(&self, source: Option<IpAddr>, now: Timestamp) -> Result<(), u32> {
        let mut failures = locked(&self.failures);
        let Some(found) = source.and_then(|source| failures.get_mut(&source)) else {
            return if failures.len() < MAX_SOURCES { Ok(()) } else { Err(pause_seconds()) };
        };
        found.forgive(now);
        if found.count < FAILURES { Ok(()) } else { Err(pause_seconds()) }
    }

    /// Notes a failed login.
    pub fn failed(&self, source: Option<IpAddr>, now: Timestamp) {
        let Some(source) = source else { return };
        let mut failures = locked(&self.failures);
        if failures.len() >= MAX_SOURCES {
            failures.retain(|_, found| {
                found.forgive(now);
                found.count > 0
            });
        }
        if failures.len() < MAX_SOURCES || failures.contains_key(&source) {
            let found = failures.entry(source).or_insert(Failures { count: 0, at: now });
            found.forgive(now);
            found.count += 1;
        }
    }
}

impl Failures {
    fn forgive(&mut self, now: Timestamp) {
        if self.count == 0 {
            self.at = now;
            return;
        }
        let pauses = now.duration_since(self.at).as_secs() / FAILURE_PAUSE.as_secs();
        let pauses = u32::try_from(pauses.max(0)).unwrap_or(u32::MAX);
        self.count = self.count.saturating_sub(pauses);
        let counted = FAILURE_PAUSE.saturating_mul(i32::try_from(pauses).unwrap_or(i32::MAX));
        self.at = self.at.checked_add(counted).unwrap_or(now);
    }
}

fn pause_seconds() -> u32 {
    u32::try_from(FAILURE_PAUSE.as_secs()).unwrap_or(u32::MAX)
}

/// The value of the header that gives a browser its cookie; without a secret it takes it away.
#[must_use]
pub fn set_cookie(secret: Option<&str>, is_secure: bool) -> Option<HeaderValue> {
    let (name, secure) = if is_secure { (HOST_COOKIE, "; Secure") } else { (COOKIE, "") };
    let (value, age) = secret.map_or(("", 0), |secret| (secret, LIFETIME.as_secs()));
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}");
    HeaderValue::from_str(&text).ok()
}

/// Whether the browser speaks TLS with the proxy before us. Believed because a lie only hurts
/// who tells it: the cookie gets a stricter name.
#[must_use]
pub fn is_secure(headers: &HeaderMap) -> bool {
    let proto = headers.get("x-forwarded-proto").map(HeaderValue::as_bytes);
    proto.is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"))
        || origin(headers).is_some_and(|origin| origin.starts_with("https://"))
}

/// Why a request with a session's cookie is refused although the session is good: it comes
/// from a page of another site.
#[must_use]
pub fn foreign(method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    // Browsers say where a request comes from, and pages can't change that.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return Some("the request comes from another site");
    }
    if method.is_safe() {
        return None;
    }
    // Older browsers and plain HTTP have only the origin, which a proxy that renames the host
    // makes look foreign: it counts where nothing better is said.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if site.is_none()
        && let Some(origin) = origin(headers)
        && origin.split_once("://").map(|(_, host)| host) != host
    {
        return Some("the request's origin is not this service");
    }
    if !headers.contains_key(PROOF_HEADER) {
        return Some("a session may change something only with the header x-ipwarden-dashboard");
    }
    None
}

fn origin(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ORIGIN)?.to_str().ok()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, value)| {
            (*name == COOKIE || *name == HOST_COOKIE) && (1..=128).contains(&value.len())
        })
        .map(|(_, value)| value)
}

fn hash(secret: &str) -> Hash {
    Sha256::digest(secret.as_bytes()).into()
}

/// What is behind these locks is whole at any time, even if a thread panicked there.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_session_is_found_by_its_cookie_until_it_ends_or_is_closed() {
        let sessions = Sessions::default();
        let (secret, expires_at) = sessions.open(7, at(0)).unwrap();
        let cookie = headers(&[("cookie", &format!("a=b; ipwarden_session={secret}"))]);
        assert_eq!(sessions.find(&cookie, at(1)), Some(Session { token: 7, expires_at }));
        assert_eq!(sessions.find(&cookie, expires_at), None);
        assert_eq!(sessions.find(&headers(&[("cookie", "ipwarden_session=00")]), at(1)), None);
        sessions.close(&cookie);
        assert_eq!(sessions.find(&cookie, at(1)), None);
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        assert_eq!(
            set_cookie(Some("ab"), true).unwrap(),
            "__Host-ipwarden_session=ab; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200; Secure"
        );
        assert_eq!(
            set_cookie(None, false).unwrap(),
            "ipwarden_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
        );
    }

    #[test]
    fn who_guesses_waits_and_others_do_not() {
        let sessions = Sessions::default();
        let (guesser, other) = ("192.0.2.1".parse().ok(), "192.0.2.2".parse().ok());
        for _ in 0..10 {
            assert_eq!(sessions.may_try(guesser, at(0)), Ok(()));
            sessions.failed(guesser, at(0));
        }
        assert_eq!(sessions.may_try(guesser, at(29)), Err(30));
        assert_eq!(sessions.may_try(other, at(29)), Ok(()));
        assert_eq!(sessions.may_try(guesser, at(30)), Ok(()), "one more try");
        sessions.failed(guesser, at(30));
        assert_eq!(sessions.may_try(guesser, at(31)), Err(30));
        assert_eq!(sessions.may_try(guesser, at(3_000)), Ok(()));
    }

    #[test]
    fn pages_of_other_sites_can_do_nothing() {
        let host = ("host", "warden.example:8088");
        let proof = (PROOF_HEADER, "1");
        let refused = |method: &Method, pairs: &[_]| foreign(method, &headers(pairs)).is_some();
        assert!(!refused(&Method::GET, &[host]));
        assert!(!refused(&Method::POST, &[host, proof]));
        let own = ("origin", "http://warden.example:8088");
        assert!(!refused(&Method::POST, &[host, proof, own, ("sec-fetch-site", "same-origin")]));
        assert!(refused(&Method::POST, &[host]));
        assert!(refused(&Method::POST, &[host, proof, ("origin", "https://evil.example")]));
        assert!(refused(&Method::POST, &[host, proof, ("origin", "null")]));
        for site in ["cross-site", "same-site"] {
            assert!(refused(&Method::POST, &[host, proof, ("sec-fetch-site", site)]));
            assert!(refused(&Method::GET, &[host, ("sec-fetch-site", site)]));
        }
    }
}
