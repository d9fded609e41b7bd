//! Subjects: everything that is held on an address, told and erased.
//!
//! An address is looked for as it came and under the pseudonyms of every key that is still here;
//! what was cut can't be found again by anybody. Of IPv6 the /64 is looked for where detectors
//! count by it.

use std::net::IpAddr;
use std::sync::Arc;

use ipwarden::address::{fold, host_net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::keys::Keys;
use super::retention::{Retention, RetentionError};
use super::{Kept, Veil};
use crate::config::{Keep, Privacy};
use crate::detect::feed::Feed;
use crate::detect::target_of;
use crate::hub::{ChangeError, Hub};
use crate::model::{Actor, AuditEntry, Decision, StoredRecord};
use crate::store::aging::{AgingLog, AgingState, SubjectHour};
use crate::store::{LogStore, NewAudit, RecordQuery, Removal, StateStore, StoreError};
use crate::suspects::Suspect;

/// Most suspects, decisions and lines of the audit log in one answer.
pub const MOST: usize = 1_000;
/// Most hours in one answer: more than retention usually leaves, under several keys.
const MOST_HOURS: usize = 20_000;

/// Why a subject could not be told of or erased.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// A store could not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A decision could not be taken back.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Room could not be given back.
    #[error(transparent)]
    Retention(#[from] RetentionError),
}

/// How many records there are, by what the address is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldRecords {
    /// `full` or `pseudonym`.
    pub form: String,
    /// The id of the pseudonym's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Records.
    pub records: u64,
}

/// What is held on an address. Records come page by page; the rest is on the first page only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubjectExport {
    /// The address, folded.
    #[schema(value_type = String)]
    pub ip: IpAddr,
    /// When this was put together.
    #[schema(value_type = String, format = DateTime)]
    pub generated_at: Timestamp,
    /// How many records there are.
    pub held: Vec<HeldRecords>,
    /// Records, newest first; the address of a pseudonymised one is shown as the pseudonym.
    pub records: Vec<StoredRecord>,
    /// Give this as `before` for the next page of records; absent on the last.
    pub next: Option<SubjectCursor>,
    /// What is kept of its hours, the oldest first.
    pub hours: Vec<SubjectHour>,
    /// Suspects that it was.
    pub suspects: Vec<Suspect>,
    /// Decisions about exactly it, live or ended.
    pub decisions: Vec<Decision>,
    /// Live decisions about networks that it lies in: not about it alone.
    pub networks: Vec<Decision>,
    /// Automatic blocks that are remembered, for how long the next one lasts.
    pub automatic_blocks: u64,
    /// Resets of limits for it.
    pub limit_resets: u64,
    /// Lines of the audit log that mention it, newest first, at most a thousand.
    pub audit: Vec<AuditEntry>,
    /// What can't be told, and why.
    pub notes: Vec<String>,
}

/// Where a page of records ended: `<number of the name>:<number of the record>`.
pub type SubjectCursor = String;

/// Something that an erasure left, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Left {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What an erasure did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubjectErased {
    /// What stands for the address in the audit log from now on.
    pub mark: String,
    /// Records deleted.
    pub records: u64,
    /// Hours deleted or changed.
    pub hours: u64,
    /// Suspects deleted.
    pub suspects: u64,
    /// Decisions deleted: live ones were taken back at all proxies first.
    pub decisions: u64,
    /// Texts deleted that only its records used, such as paths and user agents.
    pub texts: u64,
    /// Texts that mentioned it: the audit log's lines among them.
    pub redacted: u64,
    /// Whether the files hold nothing of it any more: write-ahead logs are empty. If not, the
    /// hourly run does it.
    pub settled: bool,
    /// What was left, and why.
    pub left: Vec<Left>,
}

/// Tells and erases. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Subjects(Arc<Parts>);

/// The parts that [`Subjects`] is made of.
pub struct Parts {
    /// Records.
    pub log: Arc<dyn LogStore>,
    /// Records, as far as they are erased.
    pub aging_log: Arc<dyn AgingLog>,
    /// State.
    pub state: Arc<dyn StateStore>,
    /// State, as far as it is erased.
    pub aging: Arc<dyn AgingState>,
    /// The way to the proxies.
    pub hub: Hub,
    /// Keys of pseudonyms.
    pub keys: Keys,
    /// Runs of it and erasures take turns.
    pub retention: Retention,
    /// The detectors, which remember addresses for a while.
    pub feed: Feed,
    /// What an erasure leaves.
    pub settings: Privacy,
}

impl Subjects {
    /// Puts its parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Everything held on an address: the first page without a cursor, more records with one.
    ///
    /// # Errors
    /// [`SubjectError`].
    pub async fn export(
        &self,
        ip: IpAddr,
        cursor: Option<(usize, i64)>,
        limit: usize,
        now: Timestamp,
    ) -> Result<SubjectExport, SubjectError> {
        let parts = &self.0;
        let ip = fold(ip);
        let names = parts.keys.names_of(ip);
        let (records, next) = self.records(&names, cursor, limit).await?;
        let mut export = SubjectExport {
            ip,
            generated_at: now,
            held: Vec::new(),
            records,
            next,
            hours: Vec::new(),
            suspects: Vec::new(),
            decisions: Vec::new(),
            networks: Vec::new(),
            automatic_blocks: 0,
            limit_resets: 0,
            audit: Vec::new(),
            notes: Vec::new(),
        };
        if cursor.is_some() {
            return Ok(export);
        }
        let held = parts.aging_log.held(names.clone()).await?;
        export.held = held.into_iter().map(|(veil, records)| held_words(veil, records)).collect();
        export.hours = parts.aging_log.subject_hours(names.clone(), MOST_HOURS).await?;
        let state = parts.aging.subject(names, None, MOST).await?;
        let covering = parts.state.covering(host_net(ip), now).await?;
        export.networks = covering
            .into_iter()
            .filter(|found| state.decisions.iter().all(|own| own.id != found.id))
            .collect();
        export.suspects = state.suspects;
        export.decisions = state.decisions;
        export.automatic_blocks = state.automatic_blocks;
        export.limit_resets = state.limit_resets;
        export.audit = state.audit;
        export.notes = notes(ip);
        Ok(export)
    }

    /// A page of records: name by name, each newest first.
    async fn records(
        &self,
        names: &[Kept],
        cursor: Option<(usize, i64)>,
        limit: usize,
    ) -> Result<(Vec<StoredRecord>, Option<SubjectCursor>), SubjectError> {
        let (first, mut before) = cursor.map_or((0, None), |(name, id)| (name, Some(id)));
        let mut out: Vec<StoredRecord> = Vec::new();
        for (place, name) in names.iter().enumerate().skip(first) {
            let wanted = limit - out.len();
            let key = name.veil.key.map(|key| key.to_string());
            let query = RecordQuery {
                net: Some(host_net(name.ip)),
                form: Some(name.veil.form),
                before: before.take(),
                limit: wanted + 1,
                ..RecordQuery::default()
            };
            let found = self.0.log.search(&query).await?;
            let last = found.last().map(|record| record.id);
            let full = found.len() > wanted;
            // Another key's pseudonym may look the same.
            out.extend(found.into_iter().take(wanted).filter(|record| record.key == key));
            if full {
                // From the last one that was taken on; `last` is the first that was not.
                let next = last.map(|id| format!("{place}:{}", id + 1));
                return Ok((out, next));
            }
            if out.len() >= limit {
                let next = (place + 1 < names.len()).then(|| format!("{}:{}", place + 1, i64::MAX));
                return Ok((out, next));
            }
        }
        Ok((out, None))
    }

    /// Erases an address: live decisions are taken back first, so that proxies forget it, too.
    ///
    /// # Errors
    /// [`SubjectError`]; erasing again does what is missing.
    pub async fn erase(
        &self,
        ip: IpAddr,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SubjectErased, SubjectError> {
        let parts = &self.0;
        let ip = fold(ip);
        let _turn = parts.retention.turn().await;
        let names = parts.keys.names_of(ip);
        let mark = parts.keys.mark(ip);
        let covering = parts.state.covering(host_net(ip), now).await?;
        let (own, networks): (Vec<_>, Vec<_>) =
            covering.into_iter().partition(|found| is_about(found, ip));
        let mut left = Vec::new();
        let mut taken_back = 0;
        if parts.settings.keeps(Keep::Decisions) {
            left.extend(own.iter().map(kept_decision));
        } else if !own.is_empty() {
            let audit = NewAudit {
                actor: actor.clone(),
                action: "decisions.remove",
                subject: mark.clone(),
                detail: "the subject was erased".to_owned(),
            };
            let ids = own.iter().map(|decision| decision.id).collect();
            taken_back = parts.hub.remove(Removal::Ids(ids), audit, now).await?.decisions.len();
        }
        left.extend(networks.iter().map(|found| Left {
            what: format!("decision {} about {}", found.id, found.target),
            why: "it is about a network, not about this address alone".to_owned(),
        }));
        let keep_suspects = parts.settings.keeps(Keep::Suspects);
        if !keep_suspects {
            let (feed, names) = (parts.feed.clone(), names.clone());
            tokio::task::spawn_blocking(move || feed.forget(names))
                .await
                .map_err(StoreError::from)?;
        }
        let log = parts.aging_log.erase(names.clone(), mark.clone()).await?;
        let audit = NewAudit {
            actor,
            action: "subject.erase",
            subject: mark.clone(),
            detail: format!("{} records, {} decisions", log.records, taken_back),
        };
        let state =
            parts.aging.erase(names.clone(), mark.clone(), keep_suspects, audit, now).await?;
        if keep_suspects {
            let kept = parts.aging.subject(names, None, MOST).await?.suspects;
            left.extend(kept.iter().map(|suspect| Left {
                what: format!("suspect {}", suspect.id),
                why: "privacy.keep_security says that suspects are kept".to_owned(),
            }));
        }
        let settled = parts.retention.clean().await?;
        left.extend(
            notes(ip)
                .into_iter()
                .map(|note| Left { what: "what can't be found".to_owned(), why: note }),
        );
        Ok(SubjectErased {
            mark,
            records: log.records,
            hours: log.rollups,
            suspects: state.suspects,
            decisions: state.decisions.max(taken_back as u64),
            texts: log.texts,
            redacted: log.redacted + state.redacted,
            settled,
            left,
        })
    }
}

/// Reads what [`SubjectExport::next`] says.
#[must_use]
pub fn parse_cursor(text: &str) -> Option<(usize, i64)> {
    let (name, id) = text.split_once(':')?;
    Some((name.parse().ok()?, id.parse().ok()?))
}

/// Whether a decision is about an address alone: or about the /64 that detectors count it by.
fn is_about(decision: &Decision, ip: IpAddr) -> bool {
    decision.target == host_net(ip)
        || decision.target == target_of(ip) && decision.origin.is_detector()
}

fn kept_decision(decision: &Decision) -> Left {
    Left {
        what: format!("decision {}", decision.id),
        why: "privacy.keep_security says that decisions are kept".to_owned(),
    }
}

fn held_words(veil: Veil, records: u64) -> HeldRecords {
    HeldRecords {
        form: veil.form.as_str().to_owned(),
        key: veil.key.map(|key| key.to_string()),
        records,
    }
}

/// What nobody can find.
fn notes(ip: IpAddr) -> Vec<String> {
    let mut notes = vec![
        "records whose address was cut can't be told apart from their neighbours': none is shown or erased; they are deleted with their retention".to_owned(),
        "pseudonyms of keys that were destroyed can't be read by anybody".to_owned(),
    ];
    if ip.is_ipv6() {
        notes.push(
            "hours and suspects are kept by /64: they hold what the whole /64 did".to_owned(),
        );
    }
    notes
}
