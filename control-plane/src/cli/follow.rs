//! `ipwarden requests --follow`: the last records, then every new one as it is stored.
//!
//! The live stream is opened before the past is read, so that nothing falls between them;
//! record numbers say what was shown already. A broken connection is made again with
//! growing pauses, and what was stored meanwhile is fetched. Ctrl-C ends it, and so does a
//! reader that goes away.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashSet;
use ipwarden::record::Verdict;
use jiff::{SignedDuration, tz::TimeZone};
use serde::Deserialize;

use super::client::{Client, MAX_RECORDS, Query};
use super::error::{CliError, Result};
use super::output::{BAD, FAINT, Format, Session, WARN};
use super::requests::{self, RequestsArgs};
use super::sse::{Event, Parser};
use super::text::{clean, column_time_ms, count};
use crate::model::StoredRecord;

/// Records shown from the past when nothing else is asked.
const PAST_RECORDS: usize = 10;
/// First pause before a new attempt; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A stream without as much as a heartbeat (15 s) for this long is dead.
const SILENCE: Duration = Duration::from_secs(45);
/// How far before a break records are fetched again: they arrive in batches, out of order.
const OVERLAP: SignedDuration = SignedDuration::from_secs(60);
/// Numbers of shown records that are remembered: more than one fetch brings.
const SHOWN_NUMBERS: usize = 4 * MAX_RECORDS;

/// Runs `requests --follow`.
///
/// # Errors
/// Bad conditions; the service can't be reached at the first attempt, or refuses.
pub async fn run(session: &mut Session, client: &Client, args: &RequestsArgs) -> Result<()> {
    let query = args.query(&session.zone)?;
    let mut follower = Follower { session, client, query, shown: Shown::default() };
    tokio::select! {
        ended = follower.run(args.limit.map(|limit| limit as usize)) => ended,
        signal = tokio::signal::ctrl_c() => {
            signal?;
            Ok(())
        }
    }
}

struct Follower<'a> {
    session: &'a mut Session,
    client: &'a Client,
    query: Query,
    shown: Shown,
}

/// The numbers of the records shown last: what the past and the stream both hold is shown
/// once. Not just the highest number, because batches are announced as they are committed.
#[derive(Default)]
struct Shown {
    known: HashSet<i64>,
    order: VecDeque<i64>,
}

impl Shown {
    /// Whether a number is new.
    fn is_new(&mut self, id: i64) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > SHOWN_NUMBERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[derive(Deserialize)]
struct Lagged {
    missed: u64,
}

impl Follower<'_> {
    async fn run(&mut self, limit: Option<usize>) -> Result<()> {
        // Only what is new from here on goes through the stream.
        let live_query: Query =
            self.query.iter().filter(|(name, _)| *name != "since").cloned().collect();
        let mut live = self.client.live(&live_query).await?;
        let asked = self.query.iter().any(|(name, _)| *name == "since");
        let past = limit.unwrap_or(if asked { MAX_RECORDS } else { PAST_RECORDS });
        self.show_past(&self.query.clone(), past).await?;
        let mut pause = MIN_PAUSE;
        loop {
            let began = self.session.now();
            let broken_by = match self.watch(live).await {
                Ok(why) => why,
                Err(error) => return Err(error),
            };
            let broken_at = self.session.now();
            // A stream that held for a while starts the pauses anew.
            if broken_at.duration_since(began) > SignedDuration::from_secs(30) {
                pause = MIN_PAUSE;
            }
            self.session.note(format!(
                "{WARN}connection lost{WARN:#} ({}); trying again",
                clean(&broken_by)
            ))?;
            live = loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                match self.client.live(&live_query).await {
                    Ok(live) => break live,
                    Err(CliError::Unreachable { .. }) => {}
                    // Busy, not gone.
                    Err(CliError::Refused { status: 429 | 500..=599, .. }) => {}
                    Err(error) => return Err(error),
                }
            };
            self.session.note("connected again")?;
            let mut missed = live_query.clone();
            missed.push(("since", (broken_at - OVERLAP).to_string()));
            self.show_past(&missed, MAX_RECORDS).await?;
        }
    }

    /// Shows what is stored and was not shown yet, oldest first.
    async fn show_past(&mut self, query: &Query, limit: usize) -> Result<()> {
        let (records, _) = requests::search(self.client, query, limit).await?;
        for record in records.iter().rev() {
            self.show(record)?;
        }
        Ok(self.session.stdout.flush()?)
    }

    /// Shows what arrives until the stream breaks; returns why it did.
    async fn watch(&mut self, mut live: reqwest::Response) -> Result<String> {
        let mut parser = Parser::default();
        loop {
            let piece = match tokio::time::timeout(SILENCE, live.chunk()).await {
                Err(_) => return Ok(format!("silent for {} s", SILENCE.as_secs())),
                Ok(Err(error)) => return Ok(super::client::cause(&error)),
                Ok(Ok(None)) => return Ok("the service ended the stream".to_owned()),
                Ok(Ok(Some(piece))) => piece,
            };
            let events = match parser.push(&piece) {
                Ok(events) => events,
                Err(error) => return Ok(error.to_string()),
            };
            for event in &events {
                self.take(event)?;
            }
            self.session.stdout.flush()?;
        }
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        match event.name.as_str() {
            "record" => match serde_json::from_str::<StoredRecord>(&event.data) {
                Ok(record) => self.show(&record),
                Err(error) => {
                    self.session.warn(format!("a record that can't be read was skipped: {error}"))
                }
            },
            "lagged" => {
                let missed =
                    serde_json::from_str::<Lagged>(&event.data).map_or(0, |lag| lag.missed);
                self.session.warn(format!(
                    "{} not shown: they came faster than this terminal; narrow it with conditions, or search for them without --follow",
                    if missed == 1 { "1 record was".to_owned() } else { format!("{} records were", count(missed)) }
                ))
            }
            // From a later version.
            _ => Ok(()),
        }
    }

    fn show(&mut self, record: &StoredRecord) -> Result<()> {
        if !self.shown.is_new(record.id) {
            return Ok(());
        }
        match self.session.format {
            Format::Json => self.session.json_line(record),
            Format::Raw => {
                self.session.raw(&requests::raw_row(record).each_ref().map(String::as_str))
            }
            Format::Human => {
                let text = line(record, &self.session.zone);
                self.session.say(text)
            }
        }
    }
}

/// One record on one line, columns at fixed places for what is usual.
fn line(record: &StoredRecord, zone: &TimeZone) -> String {
    let style = match Verdict::from_word(&record.verdict) {
        Some(verdict) if verdict.is_refusal() => BAD,
        Some(Verdict::Shadow | Verdict::Unseen) => WARN,
        _ => FAINT,
    };
    let by = match requests::by(record) {
        by if by.is_empty() => by,
        by => format!("  {FAINT}by {}{FAINT:#}", clean(&by)),
    };
    format!(
        "{}  {style}{:<10}{style:#} {:>3}  {:<15}  {} {}{}{by}",
        column_time_ms(record.time, zone),
        clean(&requests::verdict_text(record)),
        requests::status_text(record),
        requests::address(record),
        clean(&record.method),
        clean(&record.host),
        clean(&requests::full_path(record)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::requests::tests::record;

    #[test]
    fn a_record_is_shown_once_in_bounded_memory() {
        let mut shown = Shown::default();
        assert!(shown.is_new(2));
        assert!(shown.is_new(1));
        assert!(!shown.is_new(2));
        for id in 3..(3 * SHOWN_NUMBERS as i64) {
            assert!(shown.is_new(id));
        }
        assert_eq!(shown.known.len(), SHOWN_NUMBERS);
        assert_eq!(shown.order.len(), SHOWN_NUMBERS);
    }

    #[test]
    fn a_record_is_one_line_whatever_the_client_sent() {
        let text = line(&record(1, "/a\n\u{1b}]0;x\u{7}"), &TimeZone::UTC);
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "2026-11-22 16:00:00.123  blocked    403  203.0.113.7      GET shop.example/a\\n\\u{1b}]0;x\\u{7}  by #12"
        );
    }
}
