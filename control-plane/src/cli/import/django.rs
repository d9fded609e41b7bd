//! `ipwarden import django`: RequestLog, BlockedIP and SuspiciousIP of a Django app.
//!
//! Requests become records of the proxy `import:NAME`, in the order of their ids, so many in a
//! batch. What the service counts as seen of that proxy is the id up to which rows were looked
//! at (stored, or left out and counted as skipped): the next import begins after it. A batch is
//! numbered by its last id: one whose answer was lost is stored once, too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hashbrown::HashSet;
use ipwarden::bytes::fnv1a;
use ipwarden::decisions::Revision;
use ipwarden::privacy::AddressForm;
use ipwarden::record::{BatchHeader, Record, Verdict, bounds, wire};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::json;

use super::rows::{self, Request, Suspicion};
use super::source::{self, Kind, Row, Table};
use crate::api::history::MAX_SUSPECTS as SUSPECTS_AT_ONCE;
use crate::cli::client::{Client, MAX_DECISIONS};
use crate::cli::error::{CliError, MAX_PLACES, Place, Result};
use crate::cli::output::{Format, STRONG, Session};
use crate::cli::progress::Progress;
use crate::cli::text::{clean, count, counted};
use crate::detect::target_of;
use crate::fleet::IMPORT_PREFIX;

/// Records in a batch.
const BATCH_RECORDS: usize = 5_000;
/// A batch is sent beyond this many bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Longest name of an import.
const NAME_BYTES: usize = 64;
/// Most blocked or suspicious addresses in one import.
const MAX_ADDRESSES: usize = 1_000_000;
/// Reasons of one address are joined up to this length.
const REASON_BYTES: usize = 400;

/// What to import.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ipwarden import django db.sqlite3 --dry-run
  ipwarden import django db.sqlite3
  ipwarden import django ip_tracking_requestlog.csv ip_tracking_blockedip.csv ip_tracking_suspiciousip.csv

Tables are found by the end of their names, columns by name. A second import stores what is
new since the first and nothing twice. Requests older than the service's retention are left
out, and no detector looks at what is imported. Rows that are not in order are named and left
out. -o raw: table, kind, rows, added, known, expired, odd.")]
pub struct DjangoArgs {
    /// A SQLite database, or CSV files of the tables with a header line
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Take the tables of this app only, where there are several
    #[arg(long, value_name = "LABEL")]
    pub app: Option<String>,

    /// Name of the import: another one for each database [default: the app's label]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Zone of times that have none: UTC, unless USE_TZ is off
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub zone: String,

    /// Say what would be stored, store nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Report {
    /// Its name.
    name: String,
    /// Whether nothing was stored.
    dry_run: bool,
    requests: Option<Counts>,
    blocked: Option<Counts>,
    suspects: Option<Counts>,
    /// The first rows that are odd, and why.
    odd: Vec<Place>,
    /// How many things are odd.
    odd_total: u64,
}

/// What became of a table. Every row is one of added, known, expired and odd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Counts {
    /// Its name.
    table: String,
    /// All rows.
    rows: u64,
    /// Stored now (or, in a dry run, to be stored).
    added: u64,
    /// There before, or named twice.
    known: u64,
    /// Requests that are older than what the service keeps.
    expired: u64,
    /// Left out.
    odd: u64,
    /// Blocks without effect because an allow covers them.
    without_effect: u64,
}

/// Runs `import django`.
///
/// # Errors
/// [`CliError::Usage`] and [`CliError::File`] for what can't be read; those of the service. What
/// was stored before an error stays, and another import goes on after it.
pub async fn run(session: &mut Session, client: &Client, args: &DjangoArgs) -> Result<()> {
    let zone = TimeZone::get(&args.zone).map_err(|error| {
        CliError::Usage(format!("--zone: {error}; expected one such as UTC or Europe/Paris"))
    })?;
    let tables = source::find(&args.files, args.app.as_deref())?;
    let app = tables.first().map(|table| table.app.clone()).unwrap_or_default();
    let name = args.name.clone().unwrap_or(app);
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(named) {
        return Err(CliError::Usage(format!(
            "'{}' can't name an import: expected 1 to {NAME_BYTES} of letters, digits, '_', '-' and '.'; give one with --name",
            clean(&name)
        )));
    }
    let progress = Progress::new(session.shows_progress);
    let mut import = Import {
        client,
        progress: progress.clone(),
        zone,
        now: session.now(),
        report: Report { name, dry_run: args.dry_run, ..Report::default() },
    };
    let mut done = Ok(());
    for table in &tables {
        done = match table.kind {
            Kind::Requests => import.requests(table).await,
            Kind::Blocked => import.blocked(table).await,
            Kind::Suspects => import.suspects(table).await,
        };
        if done.is_err() {
            break;
        }
    }
    progress.finish();
    // What was done before an error is told, too.
    told(session, &import.report)?;
    done
}

struct Import<'a> {
    client: &'a Client,
    progress: Progress,
    zone: TimeZone,
    now: Timestamp,
    report: Report,
}

/// A batch in the making.
struct Batch {
    encoded: Vec<u8>,
    count: u32,
    base_us: u64,
    previous_us: u64,
    /// Id of the last row that was looked at.
    last_id: u64,
}

impl Import<'_> {
    async fn requests(&mut self, table: &Table) -> Result<()> {
        let proxy = format!("{IMPORT_PREFIX}{}", self.report.name);
        let known = self.client.proxies().await?;
        let known = known.proxies.into_iter().find(|known| known.name == proxy);
        let (seen, mut stored) =
            known.map_or((0, 0), |known| (known.requests_seen, known.requests_stored));
        let retention = self.client.retention().await?;
        let kept = Duration::from_secs(retention.admitted_s.max(retention.sensitive_s));
        let oldest = self.now.checked_sub(kept).unwrap_or(Timestamp::MIN);
        self.begin(table, "requests")?;
        let mut counts = Counts { table: table.name.clone(), ..Counts::default() };
        let mut batch = Batch::new(seen);
        let mut last_id = 0;
        for row in table.rows()? {
            let (row, size) = row?;
            self.progress.advance(size);
            counts.rows += 1;
            let id = match rows::id(&row) {
                Ok(id) => id,
                Err(why) => {
                    counts.odd += 1;
                    self.odd(&row, why);
                    continue;
                }
            };
            if id <= last_id {
                return Err(CliError::Usage(format!(
                    "{}: id {id} after {last_id}: expected rows in the order of their ids; export them with ORDER BY id",
                    clean(&row.place)
                )));
            }
            last_id = id;
            if id <= seen {
                counts.known += 1;
                continue;
            }
            match rows::request(&row, &self.zone, self.now) {
                Ok((request, _)) if request.time < oldest => counts.expired += 1,
                Ok((request, note)) => {
                    counts.added += 1;
                    batch.put(&request, &format!("{}:{id}", self.report.name));
                    if let Some(note) = note {
                        self.odd(&row, note);
                    }
                }
                Err(why) => {
                    counts.odd += 1;
                    self.odd(&row, why);
                }
            }
            batch.last_id = id;
            if batch.is_full() {
                self.ship(&proxy, &mut batch, &mut stored, &counts).await?;
            }
        }
        if last_id > 0 && last_id < seen {
            return Err(CliError::Usage(format!(
                "requests up to id {seen} were imported under the name '{}', but {} ends with {last_id}: is this another database? Then give it a name of its own with --name",
                self.report.name,
                clean(&table.name)
            )));
        }
        if batch.last_id > seen {
            self.ship(&proxy, &mut batch, &mut stored, &counts).await?;
        }
        self.report.requests = Some(counts);
        Ok(())
    }

    async fn ship(
        &mut self,
        proxy: &str,
        batch: &mut Batch,
        stored: &mut u64,
        counts: &Counts,
    ) -> Result<()> {
        // What is told if this fails.
        let sent = u64::from(batch.count);
        let before = Counts { added: counts.added - sent, ..counts.clone() };
        self.report.requests = Some(before);
        let total = *stored + sent;
        let header = BatchHeader {
            stream: fnv1a(proxy.as_bytes()),
            number: batch.last_id,
            started_us: 0,
            sent_us: u64::try_from(self.now.as_microsecond()).unwrap_or(0),
            proxy: proxy.as_bytes(),
            version: ipwarden::VERSION.as_bytes(),
            key: None,
            applied: Revision::default(),
            seen: batch.last_id,
            lost: 0,
            skipped: batch.last_id.saturating_sub(total),
        };
        let body = wire::encode(&header, batch.base_us, batch.count, &batch.encoded);
        if !self.report.dry_run {
            self.client.import_requests(body).await?;
        }
        *stored = total;
        *batch = Batch::new(batch.last_id);
        Ok(())
    }

    async fn blocked(&mut self, table: &Table) -> Result<()> {
        let mut counts = Counts { table: table.name.clone(), ..Counts::default() };
        let mut known = self.blocked_before().await?;
        self.begin(table, "blocks")?;
        let mut body = Vec::new();
        for row in table.rows()? {
            let (row, size) = row?;
            self.progress.advance(size);
            counts.rows += 1;
            match rows::ip(&row) {
                Ok(ip) if known.insert(ip) => {
                    counts.added += 1;
                    body.extend_from_slice(ip.to_string().as_bytes());
                    body.push(b'\n');
                }
                Ok(_) => counts.known += 1,
                Err(why) => {
                    counts.odd += 1;
                    self.odd(&row, why);
                }
            }
            bounded(table, counts.added)?;
        }
        if counts.added > 0 && !self.report.dry_run {
            self.progress.wait("storing");
            let query = vec![
                ("action", "block".to_owned()),
                ("reason", format!("imported from {}", table.name)),
            ];
            let imported = self.client.import(&query, body.into()).await?;
            counts.without_effect = imported.warnings_total;
        }
        self.report.blocked = Some(counts);
        Ok(())
    }

    /// Addresses that somebody blocked by hand, or an import before.
    async fn blocked_before(&self) -> Result<HashSet<IpAddr>> {
        let mut known = HashSet::new();
        let mut before = None;
        loop {
            let mut query = vec![
                ("action", "block".to_owned()),
                ("origin", "manual".to_owned()),
                ("limit", MAX_DECISIONS.to_string()),
            ];
            query.extend(before.map(|before: u32| ("before", before.to_string())));
            let page = self.client.decisions(&query).await?;
            let single = page.decisions.iter().map(|decision| decision.target);
            let single = single.filter(|target| target.prefix_len() == target.max_prefix_len());
            known.extend(single.map(|target| target.addr()));
            match page.next {
                Some(next) => before = Some(next),
                None => return Ok(known),
            }
        }
    }

    async fn suspects(&mut self, table: &Table) -> Result<()> {
        let mut counts = Counts { table: table.name.clone(), ..Counts::default() };
        self.begin(table, "suspects")?;
        // By address (IPv6: by /64): what several rows say of one is one reason.
        let mut said: BTreeMap<IpAddr, Suspicion> = BTreeMap::new();
        for row in table.rows()? {
            let (row, size) = row?;
            self.progress.advance(size);
            counts.rows += 1;
            match rows::suspicion(&row, &self.zone) {
                Ok(next) => match said.get_mut(&target_of(next.ip).addr()) {
                    None => {
                        said.insert(target_of(next.ip).addr(), next);
                    }
                    Some(before) => {
                        counts.known += 1;
                        join(before, next);
                    }
                },
                Err(why) => {
                    counts.odd += 1;
                    self.odd(&row, why);
                }
            }
            bounded(table, said.len() as u64)?;
        }
        self.progress.things("storing", said.len() as u64);
        let said: Vec<Suspicion> = said.into_values().collect();
        for some in said.chunks(SUSPECTS_AT_ONCE) {
            let suspects: Vec<_> = some
                .iter()
                .map(|one| {
                    json!({"ip": one.ip.to_string(), "reason": one.reason, "seen_at": one.time})
                })
                .collect();
            let body = json!({
                "source": self.report.name,
                "suspects": suspects,
                "dry_run": self.report.dry_run,
            });
            let noted = self.client.import_suspects(&body).await?;
            counts.added += noted.added;
            counts.known += (some.len() as u64).saturating_sub(noted.added);
            self.report.suspects = Some(counts.clone());
            self.progress.advance(some.len() as u64);
        }
        self.report.suspects = Some(counts);
        Ok(())
    }

    fn begin(&self, table: &Table, phase: &'static str) -> Result<()> {
        let size = table.size()?;
        if table.counts_bytes() {
            self.progress.bytes(phase, Some(size));
        } else {
            self.progress.things(phase, size);
        }
        Ok(())
    }

    fn odd(&mut self, row: &Row, message: String) {
        self.report.odd_total += 1;
        if self.report.odd.len() < MAX_PLACES {
            self.report.odd.push(Place { place: row.place.clone(), message });
        }
    }
}

impl Batch {
    const fn new(last_id: u64) -> Self {
        Self { encoded: Vec::new(), count: 0, base_us: 0, previous_us: 0, last_id }
    }

    const fn is_full(&self) -> bool {
        self.count as usize >= BATCH_RECORDS || self.encoded.len() >= BATCH_BYTES
    }

    fn put(&mut self, request: &Request, id: &str) {
        let time_us = u64::try_from(request.time.as_microsecond()).unwrap_or(0);
        if self.count == 0 {
            (self.base_us, self.previous_us) = (time_us, time_us);
        }
        let id = id.get(..bounds::REQUEST_ID_BYTES).unwrap_or(id);
        let record = Record {
            time_us,
            ip: Some(request.ip),
            form: AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"",
            host: b"",
            path: request.path.as_bytes(),
            query: request.query.as_bytes(),
            status: 0,
            flags: 0,
            duration_us: 0,
            bytes_in: 0,
            bytes_out: 0,
            user_agent: b"",
            request_id: id.as_bytes(),
            country: request.country.map(ipwarden::geo::Country::code),
            city: request.city.as_bytes(),
            asn: None,
            identity: b"",
        };
        wire::put_record(&mut self.encoded, self.previous_us, &record);
        self.previous_us = time_us;
        self.count += 1;
    }
}

/// Another reason for the same address.
fn join(before: &mut Suspicion, next: Suspicion) {
    before.time = before.time.max(next.time);
    let is_new =
        !next.reason.is_empty() && !before.reason.split("; ").any(|one| one == next.reason);
    if is_new && before.reason.len() + next.reason.len() + 2 <= REASON_BYTES {
        if !before.reason.is_empty() {
            before.reason.push_str("; ");
        }
        before.reason.push_str(&next.reason);
    }
}

fn bounded(table: &Table, addresses: u64) -> Result<()> {
    if addresses > MAX_ADDRESSES as u64 {
        return Err(CliError::Usage(format!(
            "{} names more than {} addresses: split it",
            clean(&table.name),
            count(MAX_ADDRESSES as u64)
        )));
    }
    Ok(())
}

fn told(session: &mut Session, report: &Report) -> Result<()> {
    let tables = [
        (&report.requests, "requests", "request", "requests"),
        (&report.blocked, "blocks", "block", "blocks"),
        (&report.suspects, "suspects", "suspect", "suspects"),
    ];
    match session.format {
        Format::Json => session.json(report)?,
        Format::Raw => {
            for (counts, kind, ..) in tables {
                let Some(counts) = counts else { continue };
                let numbers = [counts.rows, counts.added, counts.known, counts.expired, counts.odd];
                let numbers = numbers.map(|number| number.to_string());
                let [rows, added, known, expired, odd] = numbers.each_ref().map(String::as_str);
                session.raw(&[&counts.table, kind, rows, added, known, expired, odd])?;
            }
        }
        Format::Human => {
            for (counts, _, one, many) in tables {
                let Some(counts) = counts else { continue };
                session.say(sentence(counts, one, many, report.dry_run))?;
            }
        }
    }
    if session.format != Format::Json {
        for Place { place, message } in &report.odd {
            session.warn(format!("{}: {}", clean(place), clean(message)))?;
        }
        let rest = report.odd_total - report.odd.len() as u64;
        if rest > 0 {
            session.warn(format!("and {} more", count(rest)))?;
        }
    }
    Ok(())
}

fn sentence(counts: &Counts, one: &str, many: &str, dry_run: bool) -> String {
    let would = if dry_run { "would be stored" } else { "stored" };
    let mut parts = vec![format!("{} {would}", counted(counts.added, one, many))];
    for (number, words) in [
        (counts.known, "there before"),
        (counts.expired, "older than what is kept"),
        (counts.odd, "left out as odd"),
        (counts.without_effect, "without effect because of an allow"),
    ] {
        if number > 0 {
            parts.push(format!("{} {words}", count(number)));
        }
    }
    format!(
        "{STRONG}{}{STRONG:#}: {}: {}.",
        clean(&counts.table),
        counted(counts.rows, "row", "rows"),
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_one_address_are_joined_once_and_bounded() {
        let said = |reason: &str, time: Option<&str>| Suspicion {
            ip: "203.0.113.7".parse().unwrap(),
            reason: reason.to_owned(),
            time: time.map(|time| time.parse().unwrap()),
        };
        let mut first = said("", None);
        join(&mut first, said("many requests", Some("2026-11-22T16:00:00Z")));
        join(&mut first, said("sensitive path", None));
        join(&mut first, said("many requests", None));
        assert_eq!(first.reason, "many requests; sensitive path");
        assert!(first.time.is_some());
        join(&mut first, said(&"x".repeat(REASON_BYTES), None));
        assert_eq!(first.reason, "many requests; sensitive path");
    }

    #[test]
    fn what_became_of_a_table_is_a_sentence() {
        let counts = Counts {
            table: "ip_tracking_requestlog".to_owned(),
            rows: 1_010,
            added: 1_000,
            known: 7,
            odd: 3,
            ..Counts::default()
        };
        let text = anstream::adapter::strip_str(&sentence(&counts, "request", "requests", true))
            .to_string();
        assert_eq!(
            text,
            "ip_tracking_requestlog: 1 010 rows: 1 000 requests would be stored, 7 there before, 3 left out as odd."
        );
    }
}
