//! What is refused, for programs that poll: lists, kept while they are the same, and what each
//! CrowdSec bouncer was told.
//!
//! A bouncer asks for everything once and for changes afterwards; what it was told is known by
//! the name of its token. Memory holds the latest changes only. A bouncer that is behind them,
//! or that another control plane served before, is told everything again, together with what
//! may have to go: everything that ended within [`LOOK_BACK`] and what allows change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use ipwarden::decisions::{NEVER, Revision, UnixSeconds};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::effective::{Effective, Refused, refused};
use super::publish::{ListFormat, write};
use crate::hex::short;
use crate::hub::Hub;
use crate::store::{StateStore, StoreError};

/// How far back ended decisions are looked for, for a bouncer of which nothing is known.
pub const LOOK_BACK: Duration = Duration::from_secs(86_400);
/// Most ended targets that such a bouncer is told.
const MAX_ENDED: usize = 100_000;
/// Changes that are remembered.
const MAX_CHANGES: usize = 200_000;
/// Lists that are kept.
const MAX_LISTS: usize = 4;

/// What is published. One at a time: a large set takes a second and some hundred bytes an entry.
pub struct Bouncers {
    state: Arc<dyn StateStore>,
    hub: Hub,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// With feeds and without.
    sets: [Option<Present>; 2],
    lists: VecDeque<((ListFormat, bool), List)>,
    log: Log,
}

/// What is refused at a revision.
#[derive(Clone)]
struct Present {
    revision: Revision,
    refused: Arc<Refused>,
}

/// A list as it is sent.
#[derive(Debug, Clone)]
pub struct List {
    /// Its bytes.
    pub body: Bytes,
    /// A name for exactly these.
    pub etag: String,
    /// Until when it stays the same if nobody decides anything.
    pub valid_until: UnixSeconds,
}

/// Changes in order, and how much of them each bouncer was told.
#[derive(Default)]
struct Log {
    last: Option<Arc<Refused>>,
    /// Number of the latest step.
    number: u64,
    steps: VecDeque<(u64, Vec<IpNet>)>,
    told: HashMap<String, u64>,
}

/// What a bouncer is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What it refuses from now on.
    pub new: Vec<Effective>,
    /// What it refuses no more.
    pub deleted: Vec<IpNet>,
    /// startup, changes or again.
    pub kind: &'static str,
}

impl Bouncers {
    /// Nothing is read before somebody asks.
    #[must_use]
    pub fn new(state: Arc<dyn StateStore>, hub: Hub) -> Self {
        Self { state, hub, inner: Mutex::default() }
    }

    /// What is refused now as a list; `with_feeds`: other people's lists, too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(
        &self,
        format: ListFormat,
        with_feeds: bool,
        now: Timestamp,
    ) -> Result<List, StoreError> {
        let mut inner = self.inner.lock().await;
        let (present, is_new) = self.present(&mut inner, with_feeds, now).await?;
        if is_new {
            inner.lists.retain(|((_, feeds), _)| *feeds != with_feeds);
        }
        let key = (format, with_feeds);
        if let Some((_, list)) = inner.lists.iter().find(|(known, _)| *known == key) {
            return Ok(list.clone());
        }
        let list = tokio::task::spawn_blocking(move || {
            let body = write(&present.refused, present.revision, format);
            let digest = Sha256::digest(body.as_bytes());
            List {
                etag: format!("\"{}\"", short(&digest, 16)),
                valid_until: present.refused.valid_until,
                body: body.into(),
            }
        })
        .await?;
        inner.lists.push_back((key, list.clone()));
        if inner.lists.len() > MAX_LISTS {
            inner.lists.pop_front();
        }
        Ok(list)
    }

    /// What a bouncer is to be told: everything at its start, then what changed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn tell(
        &self,
        bouncer: &str,
        startup: bool,
        now: Timestamp,
    ) -> Result<Told, StoreError> {
        let mut inner = self.inner.lock().await;
        let (present, _) = self.present(&mut inner, true, now).await?;
        let refused = present.refused;
        inner.log.follow(&refused);
        let told = if startup {
            Told { new: refused.nets.clone(), deleted: Vec::new(), kind: "startup" }
        } else if let Some(changed) = inner.log.since(bouncer) {
            let (mut told, mut seen) =
                (Told { kind: "changes", ..Told::default() }, HashSet::new());
            for net in changed {
                if seen.insert(net) {
                    match find(&refused, &net) {
                        Some(found) => told.new.push(*found),
                        None => told.deleted.push(net),
                    }
                }
            }
            told
        } else {
            let since = now.checked_sub(LOOK_BACK).unwrap_or(Timestamp::MIN);
            let mut ended = self.state.ended_since(since, MAX_ENDED, now).await?;
            ended.extend(&refused.changed);
            ended.sort_unstable();
            ended.dedup();
            ended.retain(|net| find(&refused, net).is_none());
            Told { new: refused.nets.clone(), deleted: ended, kind: "again" }
        };
        let number = inner.log.number;
        inner.log.told.insert(bouncer.to_owned(), number);
        Ok(told)
    }

    /// What is refused now and covers an address or network, or lies in it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn about(&self, net: &IpNet, now: Timestamp) -> Result<Vec<Effective>, StoreError> {
        let mut inner = self.inner.lock().await;
        let (present, _) = self.present(&mut inner, true, now).await?;
        let refused = &present.refused;
        let wider = (0..net.prefix_len())
            .filter_map(|length| IpNet::new(net.addr(), length).ok())
            .filter_map(|wider| find(refused, &wider.trunc()));
        let first = refused.nets.partition_point(|found| found.net < *net);
        let rest = refused.nets.get(first..).unwrap_or_default();
        let inside = rest.iter().take_while(|found| net.contains(&found.net));
        Ok(wider.chain(inside).copied().collect())
    }

    /// What is refused now, and whether it had to be read.
    async fn present(
        &self,
        inner: &mut Inner,
        with_feeds: bool,
        now: Timestamp,
    ) -> Result<(Present, bool), StoreError> {
        let seconds = UnixSeconds::try_from(now.as_second().max(0)).unwrap_or(NEVER - 1);
        let [without, with] = &mut inner.sets;
        let place = if with_feeds { with } else { without };
        if let Some(known) = place
            && known.revision == self.hub.revision()
            && seconds < known.refused.valid_until
        {
            return Ok((known.clone(), false));
        }
        let (revision, entries) = self.state.entries(now).await?;
        let refused = tokio::task::spawn_blocking(move || refused(&entries, with_feeds)).await?;
        let fresh = Present { revision, refused: Arc::new(refused) };
        *place = Some(fresh.clone());
        Ok((fresh, true))
    }
}

impl Log {
    /// Notes how what is refused differs from what it was.
    fn follow(&mut self, refused: &Arc<Refused>) {
        let Some(last) = self.last.replace(Arc::clone(refused)) else { return };
        if Arc::ptr_eq(&last, refused) {
            return;
        }
        let changed = differences(&last.nets, &refused.nets);
        if changed.is_empty() {
            return;
        }
        self.number += 1;
        self.steps.push_back((self.number, changed));
        let mut held: usize = self.steps.iter().map(|(_, changed)| changed.len()).sum();
        while held > MAX_CHANGES
            && let Some((_, gone)) = self.steps.pop_front()
        {
            held -= gone.len();
        }
    }

    /// What changed since a bouncer was told; `None` where that is not known any more.
    fn since(&self, bouncer: &str) -> Option<Vec<IpNet>> {
        let told = *self.told.get(bouncer)?;
        let first = self.steps.front().map_or(self.number + 1, |(number, _)| *number);
        (told + 1 >= first).then(|| {
            let later = self.steps.iter().filter(|(number, _)| *number > told);
            later.flat_map(|(_, changed)| changed.iter().copied()).collect()
        })
    }
}

/// Networks that are in one of two sorted sets only, or end at another time.
fn differences(before: &[Effective], after: &[Effective]) -> Vec<IpNet> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let mut out = Vec::new();
    loop {
        match (before.peek().copied(), after.peek().copied()) {
            (None, None) => return out,
            (Some(old), Some(new)) if old.net == new.net => {
                if old.expires_at != new.expires_at {
                    out.push(new.net);
                }
                before.next();
                after.next();
            }
            (Some(old), new) if new.is_none_or(|new| old.net < new.net) => {
                out.push(old.net);
                before.next();
            }
            (_, new) => {
                out.extend(new.map(|new| new.net));
                after.next();
            }
        }
    }
}

fn find<'a>(refused: &'a Refused, net: &IpNet) -> Option<&'a Effective> {
    let at = refused.nets.binary_search_by_key(net, |found| found.net).ok()?;
    refused.nets.get(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipwarden::decisions::Tier;

    fn set(nets: &[(&str, UnixSeconds)]) -> Arc<Refused> {
        let nets = nets.iter().map(|(net, expires_at)| Effective {
            net: ipwarden::address::parse_target(net).unwrap(),
            id: 1,
            tier: Tier::Manual,
            expires_at: *expires_at,
        });
        let mut nets: Vec<_> = nets.collect();
        nets.sort_by_key(|net| net.net);
        Arc::new(Refused { nets, ..Refused::default() })
    }

    #[test]
    fn a_bouncer_is_told_what_changed_since_it_was_told() {
        let mut log = Log::default();
        log.follow(&set(&[("192.0.2.1", 5), ("192.0.2.2", 5)]));
        log.told.insert("a".to_owned(), log.number);
        assert_eq!(log.since("a"), Some(vec![]));
        assert_eq!(log.since("b"), None, "never told anything");
        log.follow(&set(&[("192.0.2.1", 6), ("192.0.2.3", 5)]));
        log.follow(&set(&[("192.0.2.1", 6), ("192.0.2.3", 5)]));
        log.follow(&set(&[("192.0.2.1", 6)]));
        let shown: Vec<String> =
            log.since("a").unwrap().iter().map(ipwarden::address::display_target).collect();
        assert_eq!(shown, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3"]);
        log.steps.pop_front();
        assert_eq!(log.since("a"), None, "too far behind");
        log.told.insert("a".to_owned(), 1);
        assert_eq!(log.since("a").unwrap().len(), 1);
    }
}
