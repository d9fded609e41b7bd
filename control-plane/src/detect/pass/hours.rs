//! The pass over the hours of a log: rollups in memory, for those who have no store.
//!
//! The same rules over the same rollups as in the running system. Memory is bounded by addresses
//! and hours together: beyond that the earliest hour is passed over and only its counts stay, to
//! compare later hours with. Lines of an hour that come after that are passed over for themselves.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::{Settings, rules};
use crate::detect::table::{address_key, key_address};
use crate::detect::{Flag, Observation, target_of};
use crate::store::rollup::{Rollup, Seen, is_sensitive};
use crate::store::{HourRollups, PastHour};

const HOUR_US: i64 = 3_600_000_000;

/// Bounds of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Rollups, of about 300 bytes each.
    pub rollups: usize,
    /// Counts of addresses in hours that are done, of 16 bytes each.
    pub counts: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { rollups: 128 * 1024, counts: 512 * 1024 }
    }
}

/// The hours of a log.
#[derive(Debug)]
pub struct Hours {
    settings: Settings,
    bounds: Bounds,
    open: BTreeMap<i64, Hour>,
    rollups: usize,
    done: BTreeMap<i64, Counts>,
    counts: usize,
}

#[derive(Debug, Default)]
struct Hour {
    places: HashMap<u64, usize>,
    rollups: Vec<(u64, Rollup)>,
}

/// What is kept of an hour that is done.
#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    /// Sorted by address.
    by_address: Vec<(u64, u64)>,
}

impl Hours {
    /// No hour yet.
    #[must_use]
    pub fn new(settings: Settings, bounds: Bounds) -> Self {
        let (open, done) = (BTreeMap::new(), BTreeMap::new());
        Self { settings, bounds, open, rollups: 0, done, counts: 0 }
    }

    /// Takes one request; what is found in an hour that had to make room.
    pub fn observe(&mut self, seen: &Observation<'_>) -> Vec<Flag> {
        let time_us = i64::try_from(seen.time_us).unwrap_or(i64::MAX);
        let key = address_key(seen.ip);
        let Hour { places, rollups } = self.open.entry(time_us.div_euclid(HOUR_US)).or_default();
        let place = *places.entry(key).or_insert_with(|| {
            rollups.push((key, Rollup::default()));
            self.rollups += 1;
            rollups.len() - 1
        });
        if let Some((_, rollup)) = rollups.get_mut(place) {
            let request = Seen {
                time_us,
                weight: seen.weight,
                method: seen.method,
                path: seen.path,
                user_agent: seen.user_agent,
                status: seen.status,
                bytes_out: seen.bytes_out,
            };
            rollup.add(&request, is_sensitive(&self.settings.sensitive_paths, seen.path));
        }
        let mut flags = Vec::new();
        while self.rollups > self.bounds.rollups {
            match self.pass_over_first() {
                Some(found) => flags.extend(found),
                None => break,
            }
        }
        flags
    }

    /// Passes over all hours that are left: the end of a log.
    pub fn finish(&mut self) -> Vec<Flag> {
        let mut flags = Vec::new();
        while let Some(found) = self.pass_over_first() {
            flags.extend(found);
        }
        flags
    }

    /// Rollups in memory.
    #[must_use]
    pub const fn rollups(&self) -> usize {
        self.rollups
    }

    fn pass_over_first(&mut self) -> Option<Vec<Flag>> {
        let (hour, Hour { rollups, .. }) = self.open.pop_first()?;
        self.rollups -= rollups.len();
        let counts: Vec<(u64, u64)> =
            rollups.iter().map(|(key, rollup)| (*key, rollup.requests)).collect();
        let mut rollups: Vec<(IpNet, Rollup)> = rollups
            .into_iter()
            .map(|(key, rollup)| (target_of(key_address(key)), rollup))
            .collect();
        rollups.sort_unstable_by_key(|(target, _)| *target);
        let all = HourRollups {
            addresses: rollups.len() as u64,
            requests: rollups.iter().map(|(_, rollup)| rollup.requests).sum(),
            rollups,
            ..HourRollups::default()
        };
        let targets = rules::compared_targets(&all, &self.settings);
        let past = self.past(hour, &targets);
        let flags = rules::flags(hour, &all, &targets, &past, &self.settings, &|_| None);
        self.keep(hour, all.requests, counts);
        Some(flags)
    }

    fn past(&self, hour: i64, targets: &[IpNet]) -> Vec<PastHour> {
        let past = |hour: i64| {
            let counts = self.done.get(&hour)?;
            let of = |target: &IpNet| {
                let key = address_key(target.addr());
                let found = counts.by_address.binary_search_by_key(&key, |(known, _)| *known);
                found.ok().and_then(|at| counts.by_address.get(at)).map_or(0, |(_, count)| *count)
            };
            let by_target = targets.iter().map(of).collect();
            Some(PastHour { hour, requests: counts.requests, by_target })
        };
        rules::compared_hours(hour).into_iter().filter_map(past).collect()
    }

    /// Keeps the counts of an hour that is done, and forgets the oldest beyond the bound.
    fn keep(&mut self, hour: i64, requests: u64, counts: Vec<(u64, u64)>) {
        let kept = self.done.entry(hour).or_default();
        self.counts -= kept.by_address.len();
        let mut whole: BTreeMap<u64, u64> =
            std::mem::take(&mut kept.by_address).into_iter().collect();
        for (key, count) in counts {
            *whole.entry(key).or_default() += count;
        }
        kept.requests += requests;
        kept.by_address = whole.into_iter().collect();
        self.counts += kept.by_address.len();
        while self.counts > self.bounds.counts {
            match self.done.pop_first() {
                Some((_, gone)) => self.counts -= gone.by_address.len(),
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_795_363_200_000_000;

    fn seen<'a>(ip: &str, hour: u64, second: u64, path: &'a str) -> Observation<'a> {
        let time_us = START + (hour * 3_600 + second) * 1_000_000;
        crate::detect::samples::seen(ip, time_us, "GET", path, 200)
    }

    fn told(flags: &[Flag]) -> Vec<(String, &str, u64)> {
        flags.iter().map(|flag| (flag.target.to_string(), flag.rule.as_str(), flag.count)).collect()
    }

    #[test]
    fn each_hour_is_passed_over_at_the_end_whatever_the_order_of_its_lines() {
        let mut hours = Hours::new(Settings::default(), Bounds::default());
        for n in 0..101 {
            for hour in [1, 0] {
                assert!(hours.observe(&seen("2001:db8::1", hour, n, "/")).is_empty());
            }
        }
        hours.observe(&seen("192.0.2.1", 0, 5, "/admin/users"));
        let flags = hours.finish();
        let volume = ("2001:db8::/64".to_owned(), "hourly-volume", 101);
        let visit = ("192.0.2.1/32".to_owned(), "sensitive-path", 1);
        assert_eq!(told(&flags), [visit, volume.clone(), volume]);
        assert!(flags[1].detail.contains("from 2026-11-22T16:00Z"), "{}", flags[1].detail);
        assert!(hours.finish().is_empty());
    }

    #[test]
    fn a_surge_is_told_against_the_same_hours_of_the_weeks_before() {
        let mut hours = Hours::new(Settings::default(), Bounds::default());
        for week in 0..3 {
            for n in 0..20 {
                hours.observe(&seen("192.0.2.1", week * 168, n, "/"));
            }
        }
        for n in 0..900 {
            hours.observe(&seen("192.0.2.1", 3 * 168, n, "/"));
        }
        let flags = hours.finish();
        assert!(flags.iter().any(|flag| flag.rule == "surge" && flag.count == 900), "{flags:?}");
    }

    #[test]
    fn memory_stays_in_its_bounds_and_the_earliest_hour_makes_room() {
        let bounds = Bounds { rollups: 64, counts: 100 };
        let mut hours = Hours::new(Settings::default(), bounds);
        let mut flags = Vec::new();
        for n in 0..1_000_u64 {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap()).to_string();
            flags.extend(hours.observe(&seen(&ip, n / 40, n % 40, "/admin")));
            assert!(hours.rollups() <= bounds.rollups && hours.counts <= bounds.counts);
        }
        flags.extend(hours.finish());
        assert_eq!(flags.len(), 1_000, "each is passed over once");
    }
}
