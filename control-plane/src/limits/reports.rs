//! What the proxies say they configure, kept while they are connected.
//!
//! A proxy reports when it begins to follow the stream, and again after a poll that failed:
//! after a restart of the service everything is known again within one poll. Hundreds of
//! proxies have one configuration: equal reports are kept once, and the sum has a bound.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use jiff::Timestamp;
use serde_json::Value;

/// Largest report of one proxy.
pub const MAX_REPORT_BYTES: usize = 256 * 1024;
/// Bytes of all different reports together.
pub const MAX_REPORTS_BYTES: usize = 64 * 1024 * 1024;

/// No place for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many different reports of limits are kept already")]
pub struct Full;

/// The last report of each proxy.
#[derive(Debug, Default)]
pub struct Reports {
    by_proxy: HashMap<String, Report>,
    /// Each text once.
    texts: HashSet<Arc<str>>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Report {
    /// The limits as a JSON list.
    text: Arc<str>,
    heard: Timestamp,
}

/// Proxies with one configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Configured {
    /// Their limits.
    pub limits: Vec<Value>,
    /// Their names, in order.
    pub proxies: Vec<String>,
}

impl Configured {
    /// Reads reports, in an order that does not depend on chance.
    #[must_use]
    pub fn read(live: Vec<(Arc<str>, Vec<String>)>) -> Vec<Self> {
        let mut configured: Vec<Self> = live
            .into_iter()
            .map(|(text, mut proxies)| {
                proxies.sort();
                // Written by us.
                Self { limits: serde_json::from_str(&text).unwrap_or_default(), proxies }
            })
            .collect();
        configured.sort_by(|a, b| a.proxies.cmp(&b.proxies));
        configured
    }
}

impl Reports {
    /// Notes a report of at most `most_proxies` proxies. `is_gone` says of which ones it is
    /// worth forgetting where there is no place.
    ///
    /// # Errors
    /// [`Full`]; nothing was noted.
    pub fn note(
        &mut self,
        proxy: &str,
        limits: &[Value],
        now: Timestamp,
        most_proxies: usize,
        is_gone: impl Fn(&str, Timestamp) -> bool,
    ) -> Result<(), Full> {
        // Made of values: it can't fail, and a list that is none would read as an empty one.
        let text = serde_json::to_string(limits).unwrap_or_default();
        if !self.has_place(proxy, &text, most_proxies) {
            let gone: Vec<String> = self
                .by_proxy
                .iter()
                .filter(|(name, report)| is_gone(name, report.heard))
                .map(|(name, _)| name.clone())
                .collect();
            for name in gone {
                self.forget(&name);
            }
            if !self.has_place(proxy, &text, most_proxies) {
                return Err(Full);
            }
        }
        self.forget(proxy);
        let text = match self.texts.get(text.as_str()) {
            Some(kept) => Arc::clone(kept),
            None => {
                let text: Arc<str> = text.into();
                self.bytes += text.len();
                self.texts.insert(Arc::clone(&text));
                text
            }
        };
        self.by_proxy.insert(proxy.to_owned(), Report { text, heard: now });
        Ok(())
    }

    /// The reports of all proxies that are not gone, equal ones together, still to be read
    /// (see [`Configured::read`]).
    pub fn live(&self, is_gone: impl Fn(&str, Timestamp) -> bool) -> Vec<(Arc<str>, Vec<String>)> {
        let mut proxies_of: HashMap<&Arc<str>, Vec<String>> = HashMap::new();
        for (name, report) in &self.by_proxy {
            if !is_gone(name, report.heard) {
                proxies_of.entry(&report.text).or_default().push(name.clone());
            }
        }
        proxies_of.into_iter().map(|(text, proxies)| (Arc::clone(text), proxies)).collect()
    }

    fn has_place(&self, proxy: &str, text: &str, most_proxies: usize) -> bool {
        let is_known = self.by_proxy.contains_key(proxy);
        let more = if self.texts.contains(text) { 0 } else { text.len() };
        (is_known || self.by_proxy.len() < most_proxies) && self.bytes + more <= MAX_REPORTS_BYTES
    }

    fn forget(&mut self, proxy: &str) {
        let Some(Report { text, .. }) = self.by_proxy.remove(proxy) else { return };
        // The set's own and this one: nobody else has it.
        if Arc::strong_count(&text) == 2 {
            self.texts.remove(&text);
            self.bytes -= text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MOST: usize = 1_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn nobody(_: &str, _: Timestamp) -> bool {
        false
    }

    #[test]
    fn equal_reports_are_kept_once_and_forgotten_with_their_last_proxy() {
        let mut reports = Reports::default();
        let (one, other) = ([json!({"name": "a"})], [json!({"name": "b"})]);
        for proxy in ["edge-2", "edge-1", "edge-3"] {
            reports.note(proxy, &one, at(0), MOST, nobody).unwrap();
        }
        reports.note("edge-3", &other, at(1), MOST, nobody).unwrap();
        assert_eq!((reports.texts.len(), reports.bytes), (2, 2 * r#"[{"name":"a"}]"#.len()));
        assert_eq!(
            Configured::read(reports.live(nobody)),
            [
                Configured {
                    limits: one.to_vec(),
                    proxies: vec!["edge-1".into(), "edge-2".into()]
                },
                Configured { limits: other.to_vec(), proxies: vec!["edge-3".into()] },
            ]
        );
        reports.note("edge-3", &one, at(2), MOST, nobody).unwrap();
        assert_eq!(reports.texts.len(), 1);
        assert_eq!(reports.live(|name, _| name != "edge-1")[0].1, ["edge-1"]);
    }

    #[test]
    fn memory_is_bounded_and_the_gone_make_room() {
        let mut reports = Reports::default();
        let large = |n: usize| [json!({"name": "a", "n": n, "fill": "x".repeat(200_000)})];
        let mut kept = 0;
        while reports.note(&format!("edge-{kept}"), &large(kept), at(0), MOST, nobody).is_ok() {
            kept += 1;
        }
        assert!(reports.bytes <= MAX_REPORTS_BYTES && kept > 300, "{kept}");
        // One that is kept already takes nothing.
        reports.note("same", &large(0), at(0), MOST, nobody).unwrap();
        let early = |_: &str, heard| heard < at(10);
        reports.note("late", &large(kept), at(10), MOST, early).unwrap();
        assert_eq!(reports.by_proxy.len(), 1);

        let mut few = Reports::default();
        few.note("a", &[], at(0), 1, nobody).unwrap();
        assert_eq!(few.note("b", &[], at(0), 1, nobody), Err(Full));
        assert_eq!(few.note("a", &[], at(0), 1, nobody), Ok(()));
    }
}
