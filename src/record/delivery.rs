//! Shipping batches: at least once on the wire, exactly once in the store.
//!
//! A batch gets its number when it is first sent and keeps it until it is answered; the
//! control plane stores a (stream, number) once. So a lost answer costs a repetition, never
//! a record, and a control plane that is down costs only what the buffer can't hold, which
//! is counted and reported with the next message.

use super::buffer::{Buffer, Sealed, Totals};
use super::handover::Message;
use super::{BatchHeader, wire};
use crate::backoff::Backoff;
use crate::decisions::Revision;
use crate::privacy::KeyId;

/// Batches on their way at one time.
pub const MAX_IN_FLIGHT: usize = 4;
/// How long the control plane has to answer; to be given to the host with the call.
pub const TIMEOUT_MS: u64 = 10_000;
/// A call whose answer never comes is given up after this.
const GIVE_UP_US: u64 = 20_000_000;
/// First and longest pause after a failure.
const BACKOFF_US: (u64, u64) = (200_000, 5_000_000);
/// A worker that has something to say (losses, a revision applied) says so after this.
const REPORT_SOON_US: u64 = 1_000_000;
/// A worker that has seen requests reports at least this often.
const REPORT_US: u64 = 10_000_000;

/// Who ships.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Random number of this worker's life.
    pub stream: u64,
    /// Its start, Unix microseconds.
    pub started_us: u64,
    /// Name of the proxy.
    pub proxy: String,
    /// The key of its pseudonyms, where it makes any.
    pub key: Option<KeyId>,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipment {
    /// To be named with the answer.
    pub ticket: u64,
    /// The body of `POST /v1/requests`.
    pub body: Vec<u8>,
}

/// What became of a shipment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Stored (or stored before).
    Stored,
    /// Will never be taken: bad or too large.
    Rejected,
    /// Not now: try again.
    Failed,
}

impl Answer {
    /// Reads a response status; 0 stands for a reset.
    #[must_use]
    pub const fn from_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Stored,
            400 | 413 | 422 => Self::Rejected,
            // Wrong token, wrong path, overload, an older version (415): mended on the other
            // side, some day.
            _ => Self::Failed,
        }
    }
}

#[derive(Debug)]
struct Outgoing {
    content: Content,
    /// Set while a call is under way.
    call: Option<Call>,
}

#[derive(Debug)]
enum Content {
    /// Recorded here.
    Own { number: u64, sealed: Sealed },
    /// Recorded by a worker that has ended, shipped as it stands.
    Inherited(Message),
}

impl Content {
    const fn weight(&self) -> u64 {
        match self {
            Self::Own { sealed, .. } => sealed.weight,
            Self::Inherited(message) => message.weight,
        }
    }

    const fn bytes(&self) -> usize {
        match self {
            Self::Own { sealed, .. } => sealed.records.len(),
            Self::Inherited(message) => message.body.len(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Call {
    ticket: u64,
    since_us: u64,
}

/// One worker's shipping.
#[derive(Debug)]
pub struct Delivery {
    identity: Identity,
    outgoing: Vec<Outgoing>,
    report: Option<Call>,
    next_number: u64,
    next_ticket: u64,
    backoff: Backoff,
    not_before_us: u64,
    last_sent_us: u64,
    reported: (Totals, Revision),
}

impl Delivery {
    /// Nothing shipped yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let backoff = Backoff::new(BACKOFF_US.0, identity.stream);
        Self {
            identity,
            outgoing: Vec::new(),
            report: None,
            next_number: 1,
            next_ticket: 1,
            backoff,
            not_before_us: 0,
            last_sent_us: 0,
            reported: (Totals::default(), Revision::default()),
        }
    }

    /// Name of the proxy.
    #[must_use]
    pub fn proxy(&self) -> &str {
        &self.identity.proxy
    }

    /// Bytes of batches that were sent and not answered.
    #[must_use]
    pub fn outgoing_bytes(&self) -> usize {
        self.outgoing.iter().map(|outgoing| outgoing.content.bytes()).sum()
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.backoff.is_failing()
    }

    /// Whether everything taken from the buffer was answered.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// The next message to send now, if any; call until `None`. `draining` lifts the limit
    /// on what is under way: the worker is about to end.
    pub fn next(
        &mut self,
        now_us: u64,
        buffer: &mut Buffer,
        applied: Revision,
        draining: bool,
    ) -> Option<Shipment> {
        self.give_up(now_us);
        // A clock set back by more than the longest pause ends the pause.
        let pausing = now_us < self.not_before_us
            && self.not_before_us <= now_us.saturating_add(BACKOFF_US.1);
        if pausing && !draining {
            return None;
        }
        let under_way = self.outgoing.iter().filter(|outgoing| outgoing.call.is_some()).count();
        // While it fails, one attempt at a time finds out when it is over.
        let most = if draining {
            usize::MAX
        } else if self.backoff.is_failing() {
            1
        } else {
            MAX_IN_FLIGHT
        };
        if under_way >= most {
            return None;
        }
        let waiting = self.outgoing.iter().position(|outgoing| outgoing.call.is_none());
        let index = match waiting {
            Some(index) => index,
            None if draining || self.outgoing.len() < MAX_IN_FLIGHT => {
                let Some(sealed) = buffer.take() else {
                    return self.report(now_us, buffer, applied);
                };
                self.number(sealed);
                self.outgoing.len() - 1
            }
            None => return None,
        };
        let call = self.call(now_us);
        let totals = buffer.totals();
        let content = &self.outgoing.get(index)?.content;
        let body = self.body(content, now_us, totals, applied);
        // What another worker left says nothing of this one.
        if matches!(content, Content::Own { .. }) {
            self.note_sent(now_us, totals, applied);
        }
        if let Some(outgoing) = self.outgoing.get_mut(index) {
            outgoing.call = Some(call);
        }
        Some(Shipment { ticket: call.ticket, body })
    }

    /// Takes the answer to a shipment. Returns the requests whose records were lost by it.
    pub fn answered(
        &mut self,
        ticket: u64,
        answer: Answer,
        now_us: u64,
        buffer: &mut Buffer,
    ) -> u64 {
        if self.report.is_some_and(|call| call.ticket == ticket) {
            self.report = None;
            self.note_answer(answer, now_us);
            return 0;
        }
        let index = self
            .outgoing
            .iter()
            .position(|outgoing| outgoing.call.is_some_and(|call| call.ticket == ticket));
        // An answer to a call that was given up: the batch is being sent again.
        let Some(index) = index else { return 0 };
        self.note_answer(answer, now_us);
        match answer {
            Answer::Stored => {
                self.outgoing.remove(index);
                0
            }
            Answer::Rejected => {
                let weight = self.outgoing.remove(index).content.weight();
                buffer.count_lost(weight);
                weight
            }
            Answer::Failed => {
                if let Some(outgoing) = self.outgoing.get_mut(index) {
                    outgoing.call = None;
                }
                0
            }
        }
    }

    /// Whether this worker could ship what another one left: it has nothing of that kind yet,
    /// and as far as it knows the control plane answers. What is not taken waits in shared
    /// data, and not in the memory of this worker.
    #[must_use]
    pub fn may_inherit(&self) -> bool {
        let inherits =
            self.outgoing.iter().any(|outgoing| matches!(outgoing.content, Content::Inherited(_)));
        !inherits && !self.backoff.is_failing()
    }

    /// Takes on what a worker that ended left.
    pub fn inherit(&mut self, messages: Vec<Message>) {
        let outgoing = messages
            .into_iter()
            .map(|message| Outgoing { content: Content::Inherited(message), call: None });
        self.outgoing.extend(outgoing);
    }

    /// All that was not answered yet, and the last totals, for another worker to ship: this
    /// one is about to end. It goes on to ship them itself for as long as it is let.
    pub fn leave(&mut self, now_us: u64, buffer: &mut Buffer, applied: Revision) -> Vec<Message> {
        while let Some(sealed) = buffer.take() {
            self.number(sealed);
        }
        let totals = buffer.totals();
        let mut messages: Vec<Message> = self
            .outgoing
            .iter()
            .map(|Outgoing { content, .. }| Message {
                weight: content.weight(),
                body: self.body(content, now_us, totals, applied),
            })
            .collect();
        let own = self.outgoing.iter().any(|one| matches!(one.content, Content::Own { .. }));
        if !own && totals.seen > 0 && (self.reported.0 != totals || self.report.is_some()) {
            let header = self.header(0, now_us, totals, applied);
            messages.push(Message { weight: 0, body: wire::encode(&header, now_us, 0, &[]) });
        }
        messages
    }

    /// Gives a batch its number.
    fn number(&mut self, sealed: Sealed) {
        let number = self.next_number;
        self.next_number += 1;
        self.outgoing.push(Outgoing { content: Content::Own { number, sealed }, call: None });
    }

    fn body(&self, content: &Content, now_us: u64, totals: Totals, applied: Revision) -> Vec<u8> {
        match content {
            Content::Own { number, sealed } => wire::encode(
                &self.header(*number, now_us, totals, applied),
                sealed.base_us,
                sealed.count,
                &sealed.records,
            ),
            Content::Inherited(message) => message.body.clone(),
        }
    }

    /// A message without records: totals and the applied revision.
    fn report(&mut self, now_us: u64, buffer: &Buffer, applied: Revision) -> Option<Shipment> {
        let totals = buffer.totals();
        let since_us = now_us.checked_sub(self.last_sent_us).unwrap_or(REPORT_US);
        let news = self.reported != (totals, applied);
        let due = (news && since_us >= REPORT_SOON_US) || since_us >= REPORT_US;
        if totals.seen == 0 || !due || self.report.is_some() {
            return None;
        }
        let call = self.call(now_us);
        let body = wire::encode(&self.header(0, now_us, totals, applied), now_us, 0, &[]);
        self.report = Some(call);
        self.note_sent(now_us, totals, applied);
        Some(Shipment { ticket: call.ticket, body })
    }

    fn header(
        &self,
        number: u64,
        now_us: u64,
        totals: Totals,
        applied: Revision,
    ) -> BatchHeader<'_> {
        BatchHeader {
            stream: self.identity.stream,
            number,
            started_us: self.identity.started_us,
            sent_us: now_us,
            proxy: self.identity.proxy.as_bytes(),
            version: crate::VERSION.as_bytes(),
            key: self.identity.key,
            applied,
            seen: totals.seen,
            lost: totals.lost,
            skipped: totals.skipped,
        }
    }

    const fn call(&mut self, now_us: u64) -> Call {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        Call { ticket, since_us: now_us }
    }

    const fn note_sent(&mut self, now_us: u64, totals: Totals, applied: Revision) {
        self.last_sent_us = now_us;
        self.reported = (totals, applied);
    }

    fn note_answer(&mut self, answer: Answer, now_us: u64) {
        if answer != Answer::Failed {
            self.backoff.reset();
            self.not_before_us = 0;
            return;
        }
        self.not_before_us = now_us + self.backoff.fail(BACKOFF_US.1);
    }

    fn give_up(&mut self, now_us: u64) {
        let over = |call: Call| now_us.checked_sub(call.since_us).is_none_or(|us| us >= GIVE_UP_US);
        for outgoing in &mut self.outgoing {
            if outgoing.call.is_some_and(over) {
                outgoing.call = None;
            }
        }
        if self.report.is_some_and(over) {
            self.report = None;
        }
    }
}
