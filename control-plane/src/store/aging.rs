//! What a store is asked when things grow old or somebody wants to be forgotten: in steps, by
//! time and class, and by list of addresses, so that every kind of store can do it.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use ipwarden::address::host_net;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NewAudit, Result};
use crate::detect::target_of;
use crate::model::{AuditEntry, Decision};
use crate::privacy::{Hiding, Kept, Veil};
use crate::suspects::Suspect;

/// Which records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Of requests that were not refused and not of a sensitive path.
    Admitted,
    /// Of requests that were refused, not of a sensitive path.
    Refused,
    /// Of requests of sensitive paths.
    Sensitive,
    /// All.
    All,
}

impl Class {
    /// The word of the API and of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
            Self::Sensitive => "sensitive",
            Self::All => "all",
        }
    }
}

/// One step of long work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Rows changed or deleted.
    pub done: u64,
    /// Whether there is more to do now.
    pub more: bool,
}

/// Before when what is done. A record's age counts from its request, and at the latest from
/// its arrival: a proxy's wrong clock prolongs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutoffs {
    /// Addresses are hidden.
    pub hide: Timestamp,
    /// Records of admitted requests are deleted.
    pub admitted: Timestamp,
    /// Records of refused ones.
    pub refused: Timestamp,
    /// Records of sensitive paths.
    pub sensitive: Timestamp,
}

impl Cutoffs {
    /// Nothing older is kept of any record.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        self.admitted.min(self.refused).min(self.sensitive)
    }

    /// Everything younger is kept.
    #[must_use]
    pub fn first(&self) -> Timestamp {
        self.admitted.max(self.refused).max(self.sensitive)
    }
}

/// What a run would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Due {
    /// Records whose address is hidden.
    pub hide: u64,
    /// Records of admitted requests that are deleted.
    pub admitted: u64,
    /// Records of refused requests that are deleted.
    pub refused: u64,
    /// Records of sensitive paths that are deleted.
    pub sensitive: u64,
    /// Hourly counts of single addresses that are hidden.
    pub hide_rollups: u64,
    /// Hourly counts of single addresses that are deleted.
    pub rollups: u64,
}

/// How much room a store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of them that hold something.
    pub used: u64,
}

/// An hour's requests of a country.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountryHour {
    /// Unix time / 3600.
    pub hour: i64,
    /// ISO 3166-1 alpha-2 code; absent for requests of unknown countries.
    pub country: Option<String>,
    /// Requests.
    pub requests: u64,
    /// Those of them that were refused.
    pub refused: u64,
}

/// An address's hour, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubjectHour {
    /// When the hour began.
    #[schema(value_type = String, format = DateTime)]
    pub hour: Timestamp,
    /// Requests; of IPv6 those of the whole /64.
    pub requests: u64,
    /// Those of sensitive paths.
    pub sensitive: u64,
    /// Answers 400 to 499.
    pub client_errors: u64,
    /// Answers from 500.
    pub server_errors: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Distinct paths, about.
    pub paths: f64,
}

/// The log grows old: implemented by every [`super::LogStore`].
#[async_trait]
pub trait AgingLog: Send + Sync {
    /// Requests by country of the hours (Unix time / 3600) from `first` to `last`. These stay
    /// when records and addresses are gone.
    async fn country_hours(&self, first: i64, last: i64) -> Result<Vec<CountryHour>>;

    /// Hides addresses of records older than `before`, in one durable transaction over about
    /// `most` records. A store that was killed goes on where it was.
    async fn hide(&self, before: Timestamp, how: &Hiding, most: usize) -> Result<Step>;

    /// Deletes records of a class older than `before`, in the same way.
    async fn forget(&self, class: Class, before: Timestamp, most: usize) -> Result<Step>;

    /// Deletes the oldest records of a class whatever their age, looking at `most` from a number
    /// on; returns the number to go on from.
    async fn forget_oldest(&self, class: Class, from: i64, most: usize) -> Result<(Step, i64)>;

    /// Hides the addresses of hours that ended before `before`, and forgets where identities
    /// were seen in them.
    async fn hide_rollups(&self, before: Timestamp, how: &Hiding, most: usize) -> Result<Step>;

    /// Deletes what single addresses and identities did in hours that ended before `before`.
    /// What everybody and each country did stays.
    async fn forget_rollups(&self, before: Timestamp, most: usize) -> Result<Step>;

    /// Deletes texts (paths, user agents …) that only records older than `before` used, and
    /// those no more. Returns how many.
    async fn forget_texts(&self, before: Timestamp) -> Result<u64>;

    /// What a run with these times would do now.
    async fn due(&self, cutoffs: Cutoffs) -> Result<Due>;

    /// How much room the store takes.
    async fn room(&self) -> Result<Room>;

    /// Gives some of the room that nothing needs back to the system.
    async fn reclaim(&self) -> Result<Step>;

    /// Writes the tables anew where a store leaves copies of what was moved in unused parts of its
    /// pages: takes as long as reading and writing all of it, and nothing is stored meanwhile.
    async fn rewrite(&self) -> Result<()>;

    /// Makes sure that nothing that was deleted or changed is left beside the tables (write-ahead
    /// logs and the like). `false` when that is not possible now: try again.
    async fn settle(&self) -> Result<bool>;

    /// How many records hold an address, by what it is in them.
    async fn held(&self, names: Vec<Kept>) -> Result<Vec<(Veil, u64)>>;

    /// What is kept of the hours of an address, the oldest first.
    async fn subject_hours(&self, names: Vec<Kept>, most: usize) -> Result<Vec<SubjectHour>>;

    /// Erases an address under all its names: records, hours, texts that only it used, and
    /// what texts of others say of it (`with` comes in its place). Doing it again does what is
    /// missing.
    async fn erase(&self, names: Vec<Kept>, with: String) -> Result<Erased>;
}

/// What erasing an address in the log did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Erased {
    /// Records deleted.
    pub records: u64,
    /// Hours deleted or changed.
    pub rollups: u64,
    /// Texts deleted that only its records used.
    pub texts: u64,
    /// Texts of others that mentioned it.
    pub redacted: u64,
}

/// What state holds of an address.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SubjectState {
    /// Decisions about exactly it, live or ended, newest first.
    pub decisions: Vec<Decision>,
    /// Suspects that it was, newest first.
    pub suspects: Vec<Suspect>,
    /// Automatic blocks of it that are remembered.
    pub automatic_blocks: u64,
    /// Lines of the audit log that mention it, newest first.
    pub audit: Vec<AuditEntry>,
    /// Resets of limits for it.
    pub limit_resets: u64,
}

/// What erasing an address in the state did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasedState {
    /// Decisions that had ended.
    pub decisions: u64,
    /// Suspects.
    pub suspects: u64,
    /// Automatic blocks that were remembered.
    pub automatic_blocks: u64,
    /// Texts that mentioned it: lines of the audit log, reasons, evidence.
    pub redacted: u64,
}

/// Sweeps in pieces of `most`, so that what is changed meanwhile waits for one piece only; how
/// much was swept.
pub(super) async fn in_pieces<F>(most: u64, piece: impl Fn() -> F + Send) -> Result<u64>
where
    F: Future<Output = Result<u64>> + Send,
{
    let mut swept = 0;
    loop {
        let done = piece().await?;
        swept += done;
        if done < most {
            return Ok(swept);
        }
    }
}

/// The targets under which the state keeps an address: itself, and what detectors count it by.
pub(super) fn targets(ip: IpAddr) -> Vec<IpNet> {
    let mut targets = vec![host_net(ip), target_of(ip)];
    targets.dedup();
    targets
}

/// The address as it came, of all its names.
pub(super) fn address(names: &[Kept]) -> Option<IpAddr> {
    names.iter().find(|name| name.veil.is_none()).map(|name| name.ip)
}

/// State grows old: implemented by every [`super::StateStore`].
#[async_trait]
pub trait AgingState: Send + Sync {
    /// Forgets lines of the audit log older than `keep`. Returns how many.
    async fn sweep_audit(&self, now: Timestamp, keep: Duration) -> Result<u64>;

    /// What is held of an address under any of its names, at most `most` of each kind; lines
    /// of the audit log with a number below `audit_before`.
    async fn subject(
        &self,
        names: Vec<Kept>,
        audit_before: Option<i64>,
        most: usize,
    ) -> Result<SubjectState>;

    /// Erases an address under all its names: decisions that ended, suspects, what is
    /// remembered of automatic blocks; `with` comes in its place wherever a text mentions it,
    /// the audit log included. Live decisions are not touched (see [`super::StateStore`]): whoever
    /// wants them gone removes them before. With `keep_suspects`, open and confirmed suspects
    /// stay. The audit line is part of the last transaction. Doing it again does what is
    /// missing.
    async fn erase(
        &self,
        names: Vec<Kept>,
        with: String,
        keep_suspects: bool,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<ErasedState>;

    /// See [`AgingLog::rewrite`].
    async fn rewrite(&self) -> Result<()>;

    /// See [`AgingLog::settle`].
    async fn settle(&self) -> Result<bool>;

    /// See [`AgingLog::reclaim`].
    async fn reclaim(&self) -> Result<Step>;
}
