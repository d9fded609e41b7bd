//! What all workers of one Envoy share: answers, and how many look-ups the day has seen.
//!
//! ```text
//! ipwarden.geo.<n>     one set: up to 8 answers, the newest last
//! ipwarden.geo.quota   (account u32, day u32, look-ups u32) of up to 16 accounts
//! answer             = source u32 | first address, 4 or 16 bytes | family and length u8
//!                      | expiry u32 | country 2 | asn u32 | city, length-prefixed
//! ```
//!
//! Shared data can't be deleted, so the keys are fixed. An answer lies in the set of the block
//! that it fits into: of the lengths `V4_BLOCKS` or `V6_BLOCKS` the longest that is not
//! longer than its network. A look-up therefore reads at most three sets, and only when the
//! worker itself knows nothing. Answers are idempotent: whose write is lost has lost nothing
//! but a share for others, and gives up after `MAX_TRIES`. The count of look-ups is exact:
//! who can't count does not ask.

use core::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use super::cache::Answer;
use super::{Country, Place};
use crate::address;
use crate::bytes::{Reader, fnv1a, put_bytes};
use crate::record::bounds::CITY_BYTES;
use crate::shared::{SharedData, SharedError};

/// Sets of answers: with eight in each, 32 768 networks in at most 4 MiB.
pub const SETS: u32 = 4_096;
const WAYS: usize = 8;
const MAX_TRIES: u32 = 8;
/// Accounts whose look-ups are counted.
const MAX_ACCOUNTS: usize = 16;
/// Blocks by which answers are found; a shorter network is cut to the last.
const V4_BLOCKS: [u8; 3] = [24, 16, 8];
const V6_BLOCKS: [u8; 3] = [48, 32, 16];
const QUOTA_KEY: &str = "ipwarden.geo.quota";
const ACCOUNT_BYTES: usize = 12;

/// What happened in shared data since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommonCounts {
    /// Values that were no answers, started over.
    pub damaged: u64,
    /// Calls that the host refused, and writes given up.
    pub host_errors: u64,
}

/// The shared part, seen by one worker.
#[derive(Debug)]
pub struct Common {
    /// Told apart in answers: instances with different providers do not mix them.
    source: u32,
    /// Whom the quota belongs to.
    account: u32,
    value: Vec<u8>,
    /// What happened.
    pub counts: CommonCounts,
}

/// Whether the day's quota has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// One look-up was counted; so many are counted today.
    Counted(u32),
    /// The quota is used up until the next day (UTC).
    Exhausted,
    /// It could not be counted.
    Uncounted,
}

impl Common {
    /// `source` names the provider with all its settings, `account` what the quota is for.
    #[must_use]
    pub fn new(source: &[u8], account: &[u8]) -> Self {
        let short = |bytes| {
            let hash = fnv1a(bytes);
            (hash ^ hash >> 32) as u32
        };
        let counts = CommonCounts { damaged: 0, host_errors: 0 };
        Self { source: short(source), account: short(account), value: Vec::new(), counts }
    }

    /// Makes sure that every key exists. A compare-and-swap on a missing key would insert
    /// whatever it names, so this is done before traffic, on Envoy's main thread.
    ///
    /// # Errors
    /// Those of the host.
    pub fn open(&mut self, shared: &mut dyn SharedData) -> Result<(), SharedError> {
        // Written last: where it is, all are.
        if shared.get(QUOTA_KEY, &mut self.value)?.is_some() {
            return Ok(());
        }
        for set in 0..SETS {
            let key = key_of(set);
            if shared.get(&key, &mut self.value)?.is_none() {
                shared.set(&key, &[], None)?;
            }
        }
        shared.set(QUOTA_KEY, &[], None)
    }

    /// An answer that covers the address, with its network and expiry.
    pub fn find(
        &mut self,
        shared: &mut dyn SharedData,
        ip: IpAddr,
        now: u32,
    ) -> Option<(IpNet, Answer, u32)> {
        for length in blocks(ip) {
            let Ok(block) = IpNet::new(ip, length) else { continue };
            match shared.get(&key_of(set_of(&block.trunc())), &mut self.value) {
                Ok(_) => {}
                Err(_) => {
                    self.counts.host_errors += 1;
                    return None;
                }
            }
            let mut found = None;
            if !self.each(|entry| {
                if entry.network.contains(&ip) && now < entry.expires_at {
                    found = Some((entry.network, entry.answer(), entry.expires_at));
                }
            }) {
                self.counts.damaged += 1;
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Shares an answer. The network is at most as large as [`cut`] makes it.
    pub fn insert(
        &mut self,
        shared: &mut dyn SharedData,
        network: IpNet,
        answer: &Answer,
        expires_at: u32,
        now: u32,
    ) {
        let ip = network.addr();
        let Some(length) = blocks(ip).into_iter().find(|length| *length <= network.prefix_len())
        else {
            return;
        };
        let Ok(block) = IpNet::new(ip, length) else { return };
        let key = key_of(set_of(&block.trunc()));
        for _ in 0..MAX_TRIES {
            let Ok(Some(cas)) = shared.get(&key, &mut self.value) else { break };
            let mut kept: Vec<Vec<u8>> = Vec::with_capacity(WAYS);
            let readable = self.each(|entry| {
                let replaced = entry.source == self.source
                    && (network.contains(&entry.network) || entry.network.contains(&network));
                if now < entry.expires_at && !replaced {
                    kept.push(entry.bytes.to_vec());
                }
            });
            if !readable {
                self.counts.damaged += 1;
            }
            // The oldest goes where there is no room.
            let surplus = (kept.len() + 1).saturating_sub(WAYS);
            let mut value: Vec<u8> = kept.iter().skip(surplus).flatten().copied().collect();
            put_entry(&mut value, self.source, network, answer, expires_at);
            match shared.set(&key, &value, Some(cas)) {
                Ok(()) => return,
                Err(SharedError::CasMismatch) => {}
                Err(SharedError::Host) => break,
            }
        }
        self.counts.host_errors += 1;
    }

    /// Counts one look-up of the day, if the quota allows it.
    pub fn spend(&mut self, shared: &mut dyn SharedData, quota: u32, now: u32) -> Spent {
        let today = now / 86_400;
        for _ in 0..MAX_TRIES * 4 {
            let Ok(Some(cas)) = shared.get(QUOTA_KEY, &mut self.value) else { break };
            let mut accounts = self.accounts();
            let at = accounts.iter().position(|(account, _, _)| *account == self.account);
            let (_, day, used) =
                at.and_then(|at| accounts.get(at).copied()).unwrap_or((self.account, today, 0));
            // A clock that was set back by a moment must not give a day's quota twice; one that
            // was far ahead must not take the quota for ever.
            let (day, used) = if today > day || day > today + 1 { (today, 0) } else { (day, used) };
            if used >= quota {
                return Spent::Exhausted;
            }
            let entry = (self.account, day, used + 1);
            match at.and_then(|at| accounts.get_mut(at)) {
                Some(known) => *known = entry,
                None => {
                    if accounts.len() >= MAX_ACCOUNTS {
                        // Accounts of configurations that are gone: the one idle longest.
                        let oldest =
                            accounts.iter().enumerate().min_by_key(|(_, (_, day, _))| *day);
                        if let Some(at) = oldest.map(|(at, _)| at) {
                            accounts.swap_remove(at);
                        }
                    }
                    accounts.push(entry);
                }
            }
            let mut value = Vec::with_capacity(accounts.len() * ACCOUNT_BYTES);
            for (account, day, used) in accounts {
                for number in [account, day, used] {
                    value.extend_from_slice(&number.to_le_bytes());
                }
            }
            match shared.set(QUOTA_KEY, &value, Some(cas)) {
                Ok(()) => return Spent::Counted(used + 1),
                Err(SharedError::CasMismatch) => {}
                Err(SharedError::Host) => break,
            }
        }
        self.counts.host_errors += 1;
        Spent::Uncounted
    }

    fn accounts(&self) -> Vec<(u32, u32, u32)> {
        let mut reader = Reader::new(&self.value);
        let mut accounts = Vec::new();
        while accounts.len() < MAX_ACCOUNTS
            && let (Ok(account), Ok(day), Ok(used)) = (reader.u32(), reader.u32(), reader.u32())
        {
            accounts.push((account, day, used));
        }
        accounts
    }

    /// Hands over every answer of this source and others in the value read last; `false` where
    /// the rest is no answer.
    fn each<'a>(&'a self, mut visit: impl FnMut(&Entry<'a>)) -> bool {
        let mut reader = Reader::new(&self.value);
        for _ in 0..WAYS {
            if reader.is_empty() {
                return true;
            }
            let Some(entry) = take_entry(&mut reader) else { return false };
            if entry.source == self.source {
                visit(&entry);
            }
        }
        reader.is_empty()
    }
}

/// A network around an address that is not larger than what can be shared.
#[must_use]
pub fn cut(network: IpNet, ip: IpAddr) -> IpNet {
    let [.., widest] = blocks(ip);
    if network.prefix_len() >= widest {
        return network.trunc();
    }
    IpNet::new(ip, widest).map_or(network, |net| net.trunc())
}

struct Entry<'a> {
    bytes: &'a [u8],
    source: u32,
    network: IpNet,
    expires_at: u32,
    country: [u8; 2],
    asn: u32,
    city: &'a [u8],
}

impl Entry<'_> {
    fn answer(&self) -> Answer {
        let country = core::str::from_utf8(&self.country).ok().and_then(Country::new);
        let city = core::str::from_utf8(self.city).unwrap_or_default();
        Place::new(country, city, Some(self.asn)).map(Rc::new)
    }
}

fn put_entry(out: &mut Vec<u8>, source: u32, network: IpNet, answer: &Answer, expires_at: u32) {
    out.extend_from_slice(&source.to_le_bytes());
    match network.addr() {
        IpAddr::V4(ip) => {
            out.push(network.prefix_len());
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(network.prefix_len() | 0x80);
            // /128 is the one length that needs the bit that says IPv6.
            out.push(u8::from(network.prefix_len() == 128));
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&expires_at.to_le_bytes());
    let place = answer.as_deref();
    let country = place.and_then(Place::country).map_or([0; 2], Country::code);
    out.extend_from_slice(&country);
    out.extend_from_slice(&place.and_then(Place::asn).unwrap_or(0).to_le_bytes());
    put_bytes(out, place.map_or("", Place::city).as_bytes(), CITY_BYTES);
}

fn take_entry<'a>(reader: &mut Reader<'a>) -> Option<Entry<'a>> {
    let start = reader.rest();
    let source = reader.u32().ok()?;
    let tag = reader.u8().ok()?;
    let network = if tag & 0x80 == 0 {
        let bits = u32::from_be_bytes(reader.array().ok()?);
        address::net_from_bits(true, bits.into(), tag)?
    } else {
        let length = if reader.u8().ok()? == 1 { 128 } else { tag & 0x7f };
        let bits = u128::from_be_bytes(reader.array().ok()?);
        address::net_from_bits(false, bits, length)?
    };
    let expires_at = reader.u32().ok()?;
    let country = reader.array().ok()?;
    let asn = reader.u32().ok()?;
    let city = reader.bytes(CITY_BYTES).ok()?;
    let bytes = start.get(..start.len() - reader.rest().len())?;
    Some(Entry { bytes, source, network, expires_at, country, asn, city })
}

const fn blocks(ip: IpAddr) -> [u8; 3] {
    match ip {
        IpAddr::V4(_) => V4_BLOCKS,
        IpAddr::V6(_) => V6_BLOCKS,
    }
}

fn key_of(set: u32) -> String {
    format!("ipwarden.geo.{set}")
}

fn set_of(block: &IpNet) -> u32 {
    let mut bytes = [0; 17];
    let (bits, length) = bytes.split_at_mut(16);
    bits.copy_from_slice(&address::first_bits(block).to_be_bytes());
    length.fill(block.prefix_len());
    let hash = fnv1a(&bytes);
    // The lower bits of FNV hang on the last bytes alone.
    ((hash ^ hash >> 29) % u64::from(SETS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::testing::MemoryShared;

    fn answer(city: &str) -> Answer {
        Place::new(Country::new("GB"), city, Some(20_712)).map(Rc::new)
    }

    fn common(shared: &mut MemoryShared) -> Common {
        let mut common = Common::new(b"provider", b"account");
        common.open(shared).unwrap();
        common
    }

    fn find(common: &mut Common, shared: &mut MemoryShared, ip: &str, now: u32) -> Option<String> {
        let (_, answer, _) = common.find(shared, ip.parse().unwrap(), now)?;
        Some(answer.map_or_else(String::new, |place| place.city().to_owned()))
    }

    #[test]
    fn an_answer_of_any_length_is_found_by_every_address_that_it_covers() {
        let mut shared = MemoryShared::default();
        let (mut writer, mut reader) = (common(&mut shared), common(&mut shared));
        for (net, city, inside) in [
            ("81.2.69.160/27", "London", ["81.2.69.160", "81.2.69.191"]),
            ("81.2.68.0/23", "Leeds", ["81.2.68.1", "81.2.69.1"]),
            ("9.0.0.0/8", "Armonk", ["9.0.0.0", "9.255.255.255"]),
            ("2a00:1:2:3::/64", "Paris", ["2a00:1:2:3::1", "2a00:1:2:3:ffff::"]),
            ("2a01::/16", "Lyon", ["2a01::1", "2a01:ffff::1"]),
            ("2a02::1/128", "São Paulo", ["2a02::1", "2a02::1"]),
        ] {
            let network: IpNet = net.parse().unwrap();
            writer.insert(&mut shared, network, &answer(city), 100, 0);
            for ip in inside {
                // The wider one was asked first where they overlap: it is written first here.
                let found = find(&mut reader, &mut shared, ip, 99);
                assert!(found.is_some(), "{ip}");
                if net != "81.2.68.0/23" {
                    assert_eq!(found.as_deref(), Some(city), "{ip}");
                }
                assert_eq!(find(&mut reader, &mut shared, ip, 100), None, "expired");
            }
        }
        assert_eq!(find(&mut reader, &mut shared, "81.2.70.1", 0), None);
        writer.insert(&mut shared, "7.7.7.0/24".parse().unwrap(), &None, 100, 0);
        assert_eq!(find(&mut reader, &mut shared, "7.7.7.7", 0).as_deref(), Some(""));
        let mut other = Common::new(b"another provider", b"account");
        assert_eq!(find(&mut other, &mut shared, "9.0.0.1", 0), None);
    }

    #[test]
    fn memory_is_fixed_and_damage_is_counted_and_mended() {
        let mut shared = MemoryShared::default();
        let mut common = common(&mut shared);
        for n in 0..100_000u32 {
            let net = format!("{}/24", core::net::Ipv4Addr::from(n << 8));
            common.insert(&mut shared, net.parse().unwrap(), &answer("London"), u32::MAX, 0);
        }
        assert_eq!(shared.keys().count(), SETS as usize + 1);
        assert!(shared.bytes() < 2 * 1024 * 1024, "{}", shared.bytes());
        let net: IpNet = "1.1.1.0/24".parse().unwrap();
        shared.corrupt(&key_of(set_of(&net)), |value| *value = vec![0xff; 300]);
        assert_eq!(find(&mut common, &mut shared, "1.1.1.1", 0), None);
        assert_eq!(common.counts.damaged, 1);
        common.insert(&mut shared, net, &answer("London"), 100, 0);
        assert_eq!(find(&mut common, &mut shared, "1.1.1.1", 0).as_deref(), Some("London"));
    }

    #[test]
    fn a_quota_holds_across_workers_and_until_the_next_day() {
        let mut shared = MemoryShared::default();
        shared.fail_every = 3;
        let mut workers = [common(&mut shared), common(&mut shared), common(&mut shared)];
        let day = 20_000 * 86_400;
        let spend_all = |shared: &mut MemoryShared, workers: &mut [Common; 3], now| {
            let spent = (0..60)
                .filter(|n| matches!(workers[n % 3].spend(shared, 20, now), Spent::Counted(_)));
            spent.count()
        };
        assert_eq!(spend_all(&mut shared, &mut workers, day + 86_399), 20);
        // A moment back, across midnight.
        assert_eq!(spend_all(&mut shared, &mut workers, day - 1), 0);
        assert_eq!(spend_all(&mut shared, &mut workers, day + 86_400), 20);
        // The clock had been ahead by a year.
        assert_eq!(spend_all(&mut shared, &mut workers, day - 365 * 86_400), 20);
        let mut other = Common::new(b"provider", b"another account");
        assert_eq!(other.spend(&mut shared, 1, day), Spent::Counted(1));
        for n in 0..100u8 {
            let mut gone = Common::new(b"provider", &[n]);
            assert_eq!(gone.spend(&mut shared, 1, day), Spent::Counted(1));
        }
        assert!(shared.bytes() <= MAX_ACCOUNTS * ACCOUNT_BYTES);
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
                let mut common = Common::new(b"p", b"a");
                common.value = bytes;
                common.each(|entry| drop(entry.answer()));
                common.accounts();
            }

            #[test]
            fn any_answer_round_trips(v4: bool, bits: u128, length in 16u8..=128, city: String, asn: u32, expires_at in 1u32..) {
                let ip = if v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
                let length = if v4 { length.min(32) } else { length };
                let network = IpNet::new(ip, length).unwrap().trunc();
                let answer = Place::new(Country::new("FR"), &city, Some(asn)).map(Rc::new);
                let mut common = Common::new(b"p", b"a");
                put_entry(&mut common.value, common.source, network, &answer, expires_at);
                let mut found = None;
                assert!(common.each(|entry| found = Some((entry.network, entry.answer(), entry.expires_at))));
                prop_assert_eq!(found, Some((network, answer, expires_at)));
            }
        }
    }
}
