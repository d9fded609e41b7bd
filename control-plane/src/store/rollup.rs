//! What an address did in an hour, in a few hundred bytes: kept at ingest, so that the hourly
//! pass need not read records.
//!
//! Pure. Counts are weights; what is distinct is estimated by linear counting (Whang,
//! Vander-Zanden, Taylor, 1990), exact enough up to a few thousand paths. Two rollups of the
//! same hour merge to what one over all of their requests would be, but for the gap between
//! requests that arrive out of order.

use std::net::IpAddr;

use ipnet::IpNet;
use ipwarden::bytes::{Malformed, Reader, put_varint};

use super::IdentitySeen;
use crate::detect::target_of;

/// Pieces of five minutes.
pub const PIECES: usize = 12;
/// Longest sensitive path kept, in bytes.
pub(super) const SENSITIVE_BYTES: usize = 64;
/// Paths with these endings are files that pages pull in.
pub(super) const STATIC: [&[u8]; 16] = [
    b".css", b".js", b".mjs", b".png", b".jpg", b".jpeg", b".gif", b".svg", b".webp", b".avif",
    b".ico", b".woff", b".woff2", b".ttf", b".map", b".mp4",
];
pub(super) const METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"];
/// Places of an identity in an hour; the first ones and the latest stay.
const IDENTITY_PLACES: usize = 16;
pub(super) const HOUR_US: i64 = 3_600_000_000;
const FIRST_FORMAT: u64 = 1;
/// Hashes of paths and of user agents that are told apart.
pub(super) const PATH_BITS: u64 = Bits::<8>::ALL;
/// See [`PATH_BITS`].
pub(super) const AGENT_BITS: u64 = Bits::<4>::ALL;

/// One request as far as rollups go.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Start, Unix microseconds.
    pub time_us: i64,
    /// How many requests it stands for.
    pub weight: u32,
    /// Method.
    pub method: &'a [u8],
    /// Path.
    pub path: &'a [u8],
    /// User agent.
    pub user_agent: &'a [u8],
    /// Status.
    pub status: u16,
    /// Bytes sent.
    pub bytes_out: u64,
}

/// What one request adds to a rollup: without its texts, so small that hundreds of thousands of
/// them can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Start, Unix microseconds.
    pub time_us: i64,
    bytes: u64,
    weight: u32,
    depth: u16,
    /// Hashes of path and user agent.
    path: u16,
    agent: u16,
    /// Place in [`METHODS`], or behind it.
    method: u8,
    outcome: Outcome,
    is_static: bool,
    is_sensitive: bool,
}

/// As far as rollups tell answers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fine,
    ClientError,
    ServerError,
}

impl Visit {
    /// What is kept of a request.
    #[must_use]
    pub fn of(seen: &Seen<'_>, is_sensitive: bool) -> Self {
        let depth = seen.path.iter().filter(|&&byte| byte == b'/').count();
        let method = METHODS.iter().position(|method| *method == seen.method);
        Self {
            time_us: seen.time_us,
            bytes: seen.bytes_out,
            weight: seen.weight.max(1),
            depth: u16::try_from(depth).unwrap_or(u16::MAX),
            path: (hash(seen.path) % PATH_BITS) as u16,
            agent: (hash(seen.user_agent) % AGENT_BITS) as u16,
            method: method.unwrap_or(METHODS.len()) as u8,
            outcome: match seen.status {
                400..=499 => Outcome::ClientError,
                500.. => Outcome::ServerError,
                _ => Outcome::Fine,
            },
            is_static: STATIC.iter().any(|ending| ends_with(seen.path, ending)),
            is_sensitive,
        }
    }
}

/// What an address did in an hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollup {
    /// Requests.
    pub requests: u64,
    /// Requests of sensitive paths.
    pub sensitive: u64,
    /// One of those paths.
    pub sensitive_path: Vec<u8>,
    /// Answers 400 to 499.
    pub client_errors: u64,
    /// Answers from 500.
    pub server_errors: u64,
    /// Requests of files that pages pull in.
    pub statics: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Sum of the depths of all paths.
    pub depth: u64,
    /// First request, Unix microseconds.
    pub first_us: i64,
    /// Last request, Unix microseconds.
    pub last_us: i64,
    /// Requests in each five minutes.
    pub pieces: [u32; PIECES],
    /// How many gaps between requests there were.
    pub gaps: u64,
    /// Sum of the gaps in milliseconds.
    pub gap_ms: u64,
    /// Sum of their squares, in square seconds.
    pub gap_squares: f64,
    methods: u64,
    paths: Bits<8>,
    agents: Bits<4>,
}

/// Whether a path is one of `prefixes` or lies below it.
#[must_use]
pub fn is_sensitive(prefixes: &[String], path: &[u8]) -> bool {
    sensitive_prefix(prefixes, path).is_some()
}

/// The first of `prefixes` that a path is or lies below.
#[must_use]
pub fn sensitive_prefix<'p>(prefixes: &'p [String], path: &[u8]) -> Option<&'p str> {
    let is_below = |prefix: &&str| {
        let prefix = prefix.as_bytes();
        path.len() >= prefix.len()
            && path.iter().zip(prefix).all(|(a, b)| a.eq_ignore_ascii_case(b))
            && path.get(prefix.len()).is_none_or(|&next| matches!(next, b'/' | b'?' | b'.' | b';'))
    };
    prefixes.iter().map(String::as_str).find(is_below)
}

/// One after the other by address: a stay is from the first request to the last.
pub(super) fn put_place(places: &mut Vec<IdentitySeen>, next: IdentitySeen) {
    if let Some(place) = places.iter_mut().rev().find(|place| place.ip == next.ip) {
        place.first_us = place.first_us.min(next.first_us);
        place.last_us = place.last_us.max(next.last_us);
        return;
    }
    if places.len() >= IDENTITY_PLACES {
        places.remove(IDENTITY_PLACES / 2);
    }
    places.push(next);
}

/// The key of an address: 4 bytes, or the first 8 of IPv6.
#[must_use]
pub fn key_of(ip: IpAddr) -> ([u8; 8], usize) {
    let mut key = [0; 8];
    match ipwarden::address::fold(ip) {
        IpAddr::V4(ip) => {
            key[..4].copy_from_slice(&ip.octets());
            (key, 4)
        }
        IpAddr::V6(ip) => {
            key.copy_from_slice(&ip.octets()[..8]);
            (key, 8)
        }
    }
}

/// The target of a key; `None` for bytes that are none.
#[must_use]
pub fn target_of_key(key: &[u8]) -> Option<IpNet> {
    if let Ok(octets) = <[u8; 4]>::try_from(key) {
        return Some(target_of(IpAddr::from(octets)));
    }
    let first = <[u8; 8]>::try_from(key).ok()?;
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&first);
    Some(target_of(IpAddr::from(octets)))
}

impl Rollup {
    /// Takes one more request.
    pub fn add(&mut self, seen: &Seen<'_>, sensitive: bool) {
        self.take(&Visit::of(seen, sensitive));
        if sensitive {
            self.name_sensitive(seen.path);
        }
    }

    /// Takes one more request; of a sensitive path the path itself is told by
    /// [`Rollup::name_sensitive`].
    pub fn take(&mut self, visit: &Visit) {
        let weight = u64::from(visit.weight);
        let count = |sum: &mut u64, holds: bool| {
            *sum = sum.saturating_add(if holds { weight } else { 0 });
        };
        self.follow(visit.time_us, visit.time_us);
        count(&mut self.requests, true);
        count(&mut self.sensitive, visit.is_sensitive);
        count(&mut self.client_errors, visit.outcome == Outcome::ClientError);
        count(&mut self.server_errors, visit.outcome == Outcome::ServerError);
        count(&mut self.statics, visit.is_static);
        self.bytes = self.bytes.saturating_add(visit.bytes);
        self.depth = self.depth.saturating_add(u64::from(visit.depth).saturating_mul(weight));
        let piece = visit.time_us.rem_euclid(HOUR_US) / (HOUR_US / PIECES as i64);
        if let Some(piece) =
            usize::try_from(piece).ok().and_then(|piece| self.pieces.get_mut(piece))
        {
            *piece = piece.saturating_add(visit.weight);
        }
        self.methods |= 1 << visit.method;
        self.paths.set(visit.path.into());
        self.agents.set(visit.agent.into());
    }

    /// Notes a sensitive path that was asked for; the first stays.
    pub fn name_sensitive(&mut self, path: &[u8]) {
        if self.sensitive_path.is_empty() {
            self.sensitive_path = path.iter().copied().take(SENSITIVE_BYTES).collect();
        }
    }

    /// Takes what another rollup of the same address and hour holds.
    pub fn merge(&mut self, other: &Self) {
        if other.requests == 0 {
            return;
        }
        self.gaps += other.gaps;
        self.gap_ms = self.gap_ms.saturating_add(other.gap_ms);
        self.gap_squares += other.gap_squares;
        self.follow(other.first_us, other.last_us);
        self.requests = self.requests.saturating_add(other.requests);
        self.sensitive = self.sensitive.saturating_add(other.sensitive);
        self.name_sensitive(&other.sensitive_path);
        self.client_errors = self.client_errors.saturating_add(other.client_errors);
        self.server_errors = self.server_errors.saturating_add(other.server_errors);
        self.statics = self.statics.saturating_add(other.statics);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.depth = self.depth.saturating_add(other.depth);
        for (piece, more) in self.pieces.iter_mut().zip(other.pieces) {
            *piece = piece.saturating_add(more);
        }
        self.methods |= other.methods;
        self.paths.merge(&other.paths);
        self.agents.merge(&other.agents);
    }

    /// Notes the gap from the last request to those from `first_us` on.
    fn follow(&mut self, first_us: i64, last_us: i64) {
        if self.requests == 0 {
            (self.first_us, self.last_us) = (first_us, last_us);
            return;
        }
        let gap_ms = first_us.saturating_sub(self.last_us).unsigned_abs() / 1_000;
        self.gaps += 1;
        self.gap_ms = self.gap_ms.saturating_add(gap_ms);
        let seconds = gap_ms as f64 / 1_000.0;
        self.gap_squares += seconds * seconds;
        self.first_us = self.first_us.min(first_us);
        self.last_us = self.last_us.max(last_us);
    }

    /// Distinct paths, about.
    #[must_use]
    pub fn paths(&self) -> f64 {
        self.paths.estimate()
    }

    /// Distinct user agents, about.
    #[must_use]
    pub fn agents(&self) -> f64 {
        self.agents.estimate()
    }

    /// Distinct methods.
    #[must_use]
    pub fn methods(&self) -> u32 {
        self.methods.count_ones()
    }

    /// Takes over what was distinct where something else counted: methods as bits in the order
    /// of [`METHODS`], the last for others; hashes of paths and user agents.
    pub(super) fn set_distinct(&mut self, methods: u64, paths: &[u16], agents: &[u16]) {
        self.methods = methods;
        paths.iter().for_each(|path| self.paths.set((*path).into()));
        agents.iter().for_each(|agent| self.agents.set((*agent).into()));
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        let head = [
            FIRST_FORMAT,
            self.requests,
            self.sensitive,
            self.client_errors,
            self.server_errors,
            self.statics,
            self.bytes,
            self.depth,
            self.first_us.cast_unsigned(),
            (self.last_us - self.first_us).max(0).cast_unsigned(),
            self.gaps,
            self.gap_ms,
            self.gap_squares.to_bits(),
            self.methods,
            self.sensitive_path.len() as u64,
        ];
        for number in head {
            put_varint(&mut out, number);
        }
        out.extend_from_slice(&self.sensitive_path);
        for piece in self.pieces {
            put_varint(&mut out, piece.into());
        }
        self.paths.encode(&mut out);
        self.agents.encode(&mut out);
        out
    }

    /// The inverse of [`Rollup::encode`].
    ///
    /// # Errors
    /// [`Malformed`] for bytes that no rollup encodes to.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.varint()? != FIRST_FORMAT {
            return Err(Malformed);
        }
        let mut rollup = Self {
            requests: reader.varint()?,
            sensitive: reader.varint()?,
            client_errors: reader.varint()?,
            server_errors: reader.varint()?,
            statics: reader.varint()?,
            bytes: reader.varint()?,
            depth: reader.varint()?,
            first_us: reader.varint()?.cast_signed(),
            ..Self::default()
        };
        rollup.last_us = rollup.first_us.saturating_add(reader.varint()?.cast_signed());
        rollup.gaps = reader.varint()?;
        rollup.gap_ms = reader.varint()?;
        rollup.gap_squares = f64::from_bits(reader.varint()?);
        rollup.methods = reader.varint()?;
        let length = usize::try_from(reader.varint()?).map_err(|_| Malformed)?;
        rollup.sensitive_path = reader.take(length)?.to_vec();
        for piece in &mut rollup.pieces {
            *piece = u32::try_from(reader.varint()?).map_err(|_| Malformed)?;
        }
        rollup.paths = Bits::decode(&mut reader)?;
        rollup.agents = Bits::decode(&mut reader)?;
        Ok(rollup)
    }
}

/// Linear counting over `N` words of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bits<const N: usize>([u64; N]);

impl<const N: usize> Default for Bits<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Bits<N> {
    const ALL: u64 = N as u64 * 64;

    fn set(&mut self, hash: u64) {
        let bit = hash % Self::ALL;
        if let Some(word) = self.0.get_mut((bit / 64) as usize) {
            *word |= 1 << (bit % 64);
        }
    }

    fn merge(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn estimate(&self) -> f64 {
        let all = Self::ALL as f64;
        let empty = (all - f64::from(self.count())).max(0.5);
        all * (all / empty).ln()
    }

    /// Few bits as distances from each to the next, many as they are.
    fn encode(&self, out: &mut Vec<u8>) {
        let count = self.count();
        if u64::from(count) > Self::ALL / 10 {
            out.push(u8::MAX);
            self.0.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            return;
        }
        // At most 51 of 512 bits.
        out.push(u8::try_from(count).unwrap_or(u8::MAX - 1));
        let mut last = 0;
        for (at, &word) in (0u64..).zip(&self.0) {
            let mut left = word;
            while left != 0 {
                let bit = at * 64 + u64::from(left.trailing_zeros());
                put_varint(out, bit - last);
                last = bit;
                left &= left - 1;
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut bits = Self::default();
        let &[kind] = reader.take(1)? else { return Err(Malformed) };
        if kind == u8::MAX {
            for word in &mut bits.0 {
                let bytes = <[u8; 8]>::try_from(reader.take(8)?).map_err(|_| Malformed)?;
                *word = u64::from_le_bytes(bytes);
            }
            return Ok(bits);
        }
        let mut bit = 0u64;
        for _ in 0..kind {
            bit = bit.checked_add(reader.varint()?).ok_or(Malformed)?;
            bits.set(bit);
        }
        Ok(bits)
    }
}

fn ends_with(path: &[u8], ending: &[u8]) -> bool {
    path.len() >= ending.len() && path[path.len() - ending.len()..].eq_ignore_ascii_case(ending)
}

/// FNV-1a with a last mix: kept on disk, so it must never change.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(n: u64) -> (i64, String, u16) {
        let statuses = [200, 404, 500, 302];
        (
            1_700_000_000_000_000 + (n * 1_700_000).cast_signed(),
            format!("/a/{}", n % 97),
            statuses[(n % 4) as usize],
        )
    }

    fn over(range: std::ops::Range<u64>) -> Rollup {
        let mut rollup = Rollup::default();
        for n in range {
            let (time_us, path, status) = seen(n);
            let seen = Seen {
                time_us,
                weight: 1,
                method: b"GET",
                path: path.as_bytes(),
                user_agent: b"curl/8",
                status,
                bytes_out: 100,
            };
            rollup.add(&seen, n % 10 == 0);
        }
        rollup
    }

    #[test]
    fn what_is_distinct_is_estimated_within_a_few_percent() {
        let mut bits = Bits::<8>::default();
        for (count, within) in [(10u64, 1.0), (100, 15.0), (1_000, 150.0)] {
            (0..count).for_each(|n| bits.set(hash(format!("/page/{n}").as_bytes())));
            assert!(
                (bits.estimate() - count as f64).abs() <= within,
                "{} {count}",
                bits.estimate()
            );
        }
    }

    #[test]
    fn sensitive_paths_are_whole_words() {
        let prefixes = ["/admin".to_owned()];
        for path in ["/admin", "/Admin/", "/admin/users", "/admin.php"] {
            assert!(is_sensitive(&prefixes, path.as_bytes()), "{path}");
        }
        for path in ["/", "/administration-of-time", "/x/admin"] {
            assert!(!is_sensitive(&prefixes, path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn keys_are_targets() {
        for (ip, target) in [("192.0.2.7", "192.0.2.7/32"), ("2001:db8::7", "2001:db8::/64")] {
            let (key, length) = key_of(ip.parse().unwrap());
            assert_eq!(target_of_key(&key[..length]).unwrap().to_string(), target);
        }
        assert_eq!(target_of_key(b"abc"), None);
    }

    proptest! {
        #[test]
        fn merging_is_as_if_there_had_been_one(split in 1u64..400) {
            let mut merged = over(0..split);
            merged.merge(&over(split..400));
            let whole = over(0..400);
            prop_assert!((merged.gap_squares - whole.gap_squares).abs() < 1e-6);
            merged.gap_squares = whole.gap_squares;
            prop_assert_eq!(merged, whole);
        }

        #[test]
        fn requests_that_waited_count_as_they_would_have_at_once(count in 0u64..400) {
            let mut waited = Rollup::default();
            let path = |n: u64| format!("/admin/{n}");
            let mut direct = Rollup::default();
            for n in 0..count {
                let (time_us, _, status) = seen(n);
                let path = path(n);
                let seen = Seen {
                    time_us,
                    weight: (n % 3) as u32,
                    method: METHODS.get((n % 11) as usize).copied().unwrap_or(b"BREW"),
                    path: path.as_bytes(),
                    user_agent: b"curl/8",
                    status,
                    bytes_out: n,
                };
                direct.add(&seen, n > 5);
                waited.take(&Visit::of(&seen, n > 5));
            }
            if count > 6 {
                waited.name_sensitive(b"/admin/6");
            }
            prop_assert_eq!(waited, direct);
        }

        #[test]
        fn rollups_round_trip(count in 0u64..900) {
            let rollup = over(0..count);
            prop_assert_eq!(Rollup::decode(&rollup.encode()), Ok(rollup));
        }

        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Rollup::decode(&bytes);
        }
    }
}
