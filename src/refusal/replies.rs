//! Replies made once and told often.
//!
//! Who is blocked or over a limit tends to come back at once, and many: a worker that wrote
//! each refusal anew would spend more on them than on the decision. What blocked clients are
//! told differs in one number: everything around it is written once, when the worker starts.
//! Of what limits refuse, the last reply is kept: in a flood the next one is the same for as
//! long as a second.

use super::negotiation::{Representation, negotiate};
use super::{Kind, Refusal, Response, is_grpc, respond, write_reply};
use crate::decisions::DecisionId;
use crate::limits::{self, Rate, Standing};

/// Two numbers of the same length without a digit in common: where two replies differ, there
/// the number stands.
const MARKS: [DecisionId; 2] = [1_111_111_111, 2_222_222_222];
const MARK_DIGITS: usize = 10;

/// A local reply, borrowed from where it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// See [`Response::status`].
    pub status: u16,
    /// See [`Response::headers`].
    pub headers: &'a [(&'static str, String)],
    /// See [`Response::body`].
    pub body: &'a [u8],
    /// See [`Response::grpc_status`].
    pub grpc_status: Option<super::GrpcStatus>,
}

/// The replies of one worker.
#[derive(Debug)]
pub struct Replies {
    status: u16,
    contact: Option<String>,
    /// By representation.
    blocked: [Option<Template>; 3],
    limited: Option<(Told, Response)>,
    /// The last reply that is not kept for another.
    last: Option<Response>,
    body: Vec<u8>,
}

/// What a blocked client is told, around the decision's number.
#[derive(Debug)]
struct Template {
    headers: Vec<(&'static str, String)>,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// Everything that a reply about one limit depends on.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    form: Option<Representation>,
    name: String,
    rate: Rate,
    remaining: u32,
    reset_seconds: u32,
    violated: bool,
    grpc_status: limits::GrpcStatus,
}

impl Replies {
    /// For blocked clients this status; for all of them the operator's link.
    #[must_use]
    pub fn new(status: u16, contact: Option<String>) -> Self {
        let blocked =
            Representation::ALL.map(|form| Template::new(status, form, contact.as_deref()));
        Self { status, contact, blocked, limited: None, last: None, body: Vec::new() }
    }

    /// What a client is told whom a decision refuses; see [`respond`] for the arguments.
    pub fn blocked(
        &mut self,
        decision: DecisionId,
        accept: &[u8],
        content_type: &[u8],
    ) -> Reply<'_> {
        let template = if is_grpc(content_type) {
            None
        } else {
            self.blocked.get(negotiate(accept) as usize).and_then(Option::as_ref)
        };
        match template {
            Some(template) => {
                self.body.clear();
                self.body.extend_from_slice(&template.before);
                self.body.extend(crate::bytes::decimal(decision));
                self.body.extend_from_slice(&template.after);
                Reply {
                    status: self.status,
                    headers: &template.headers,
                    body: &self.body,
                    grpc_status: None,
                }
            }
            None => {
                let refusal = Refusal::blocked(self.status, decision);
                let made = respond(&refusal, accept, content_type, self.contact.as_deref());
                self.last.insert(made).borrow()
            }
        }
    }

    /// What a client is told before the first decision set.
    pub fn unready(&mut self, accept: &[u8], content_type: &[u8]) -> Reply<'_> {
        let contact = self.contact.as_deref();
        let made = respond(&Refusal::unready(), accept, content_type, contact);
        self.last.insert(made).borrow()
    }

    /// What a client is told that is over a limit.
    pub fn limited(
        &mut self,
        standings: &[Standing<'_>],
        grpc_status: limits::GrpcStatus,
        accept: &[u8],
        content_type: &[u8],
    ) -> Reply<'_> {
        let form = (!is_grpc(content_type)).then(|| negotiate(accept));
        let refusal = Refusal::limited(standings, grpc_status);
        let [standing] = standings else {
            let made = respond(&refusal, accept, content_type, self.contact.as_deref());
            return self.last.insert(made).borrow();
        };
        let same = |(told, _): &(Told, Response)| told.is(standing, form, grpc_status);
        let known = self.limited.take().filter(same).unwrap_or_else(|| {
            let made = respond(&refusal, accept, content_type, self.contact.as_deref());
            (Told::new(standing, form, grpc_status), made)
        });
        self.limited.insert(known).1.borrow()
    }

    /// Any other reply.
    pub fn other(&mut self, response: Response) -> Reply<'_> {
        self.last.insert(response).borrow()
    }
}

impl Response {
    const fn borrow(&self) -> Reply<'_> {
        Reply {
            status: self.status,
            headers: self.headers.as_slice(),
            body: self.body.as_slice(),
            grpc_status: self.grpc_status,
        }
    }
}

impl Template {
    fn new(status: u16, form: Representation, contact: Option<&str>) -> Option<Self> {
        let [one, other] = MARKS.map(|decision| {
            let kind = Kind::Blocked { decision };
            write_reply(&Refusal { status, kind }, form, contact)
        });
        let at = one.body.iter().zip(&other.body).position(|(one, other)| one != other)?;
        let (before, rest) = one.body.split_at_checked(at)?;
        let (_, after) = rest.split_at_checked(MARK_DIGITS)?;
        // The number stands there once and nothing else differs.
        let whole = other.body.get(at + MARK_DIGITS..) == Some(after)
            && one.headers == other.headers
            && other.body.len() == one.body.len();
        whole.then(|| Self {
            headers: one.headers.clone(),
            before: before.to_vec(),
            after: after.to_vec(),
        })
    }
}

impl Told {
    fn new(
        standing: &Standing<'_>,
        form: Option<Representation>,
        grpc_status: limits::GrpcStatus,
    ) -> Self {
        let Standing { name, rate, remaining, reset_seconds, violated } = *standing;
        let name = name.to_owned();
        Self { form, name, rate, remaining, reset_seconds, violated, grpc_status }
    }

    fn is(
        &self,
        standing: &Standing<'_>,
        form: Option<Representation>,
        grpc_status: limits::GrpcStatus,
    ) -> bool {
        let Standing { name, rate, remaining, reset_seconds, violated } = *standing;
        self.form == form
            && self.name == name
            && self.rate == rate
            && self.remaining == remaining
            && self.reset_seconds == reset_seconds
            && self.violated == violated
            && self.grpc_status == grpc_status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digits in the link must not be taken for the decision's number.
    const CONTACTS: [Option<&str>; 3] =
        [None, Some("https://a.example/1111111111"), Some("https://a.example/2?3=\"<&")];
    const ACCEPTS: [&[u8]; 4] = [b"", b"text/html,*/*;q=0.1", b"text/plain", b"application/json"];

    fn owned(reply: Reply<'_>) -> Response {
        Response {
            status: reply.status,
            headers: reply.headers.to_vec(),
            body: reply.body.to_vec(),
            grpc_status: reply.grpc_status,
        }
    }

    #[test]
    fn a_kept_reply_is_what_would_be_written_anew() {
        for contact in CONTACTS {
            let mut replies = Replies::new(451, contact.map(str::to_owned));
            assert!(replies.blocked.iter().all(Option::is_some));
            for accept in ACCEPTS {
                for content_type in [&b""[..], b"application/grpc"] {
                    for decision in [1, 9, 10, 1_111_111_111, DecisionId::MAX] {
                        let refusal = Refusal::blocked(451, decision);
                        assert_eq!(
                            owned(replies.blocked(decision, accept, content_type)),
                            respond(&refusal, accept, content_type, contact)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_reply_about_a_limit_is_told_again_only_while_all_of_it_is_true() {
        let mut replies = Replies::new(403, None);
        let rate = Rate { requests: 5, per: core::time::Duration::from_secs(60), burst: 5 };
        let first =
            Standing { name: "login", rate, remaining: 0, reset_seconds: 12, violated: true };
        let grpc = limits::GrpcStatus::ResourceExhausted;
        let variants = [
            first,
            first,
            Standing { reset_seconds: 11, ..first },
            Standing { name: "other", ..first },
            Standing { rate: Rate { requests: 6, ..rate }, ..first },
        ];
        for standing in variants {
            for accept in ACCEPTS {
                for content_type in [&b""[..], b"application/grpc"] {
                    let refusal = [standing];
                    assert_eq!(
                        owned(replies.limited(&refusal, grpc, accept, content_type)),
                        respond(&Refusal::limited(&refusal, grpc), accept, content_type, None)
                    );
                }
            }
        }
    }
}
