//! Reading requests: every parameter is named in errors, unknown ones are errors, and all
//! errors come at once.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query};
use axum::http::{HeaderMap, StatusCode, header, request};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{DEFAULT_PAGE, MAX_JSON_BYTES, PAGE};
use crate::problem::{Fault, Problem, fault};

/// The parameters of a query string. Take what you know, then [`Params::finish`].
#[derive(Debug, Default)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Infallible> {
        let mut params = Self::default();
        match Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => params.pairs = pairs,
            Err(error) => params.faults.push(fault("query string", error.body_text())),
        }
        Ok(params)
    }
}

impl Params {
    /// The text of a parameter; an empty one counts as absent.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut found = self.pairs.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let first = found.next();
        let repeated = found.count() > 0;
        if repeated {
            self.faults.push(fault(name, "given more than once: give it once"));
        }
        first.filter(|text| !text.is_empty())
    }

    /// A parameter that must have some form, described by `expected`.
    pub(crate) fn parsed<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.faults.push(fault(name, format!("expected {expected}, found '{}'", short(&text))));
        }
        parsed
    }

    /// A parameter whose errors say by themselves what is expected.
    pub(crate) fn checked<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        check(&text).map_err(|error| self.faults.push(fault(name, error.to_string()))).ok()
    }

    /// `limit`: how many items at most.
    pub(crate) fn limit(&mut self, most: usize) -> usize {
        let expected = format!("a number from 1 to {most}");
        let parse = |text: &str| text.parse().ok().filter(|limit| (1..=most).contains(limit));
        self.parsed("limit", &expected, parse).unwrap_or(DEFAULT_PAGE.min(most))
    }

    /// `limit` with the usual bound.
    pub(crate) fn page(&mut self) -> usize {
        self.limit(PAGE)
    }

    /// `before`: the number that a page ended with.
    pub(crate) fn before<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.parsed("before", "the number that the previous page ended with", |text| {
            text.parse().ok()
        })
    }

    /// Notes an error.
    pub(crate) fn refuse(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Refuses everything that was not taken, and reports all errors.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        let known = match self.known.as_slice() {
            [] => "this path takes no parameters".to_owned(),
            known => format!("expected {}", known.join(", ")),
        };
        for (name, _) in self.pairs {
            let message = format!("not a parameter here: {known}");
            self.faults.push(fault(short(&name), message));
        }
        if self.faults.is_empty() { Ok(()) } else { Err(Problem::parameters(self.faults)) }
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is too large: at most {limit} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.to_string().contains("length limit exceeded")) {
            too_large()
        } else {
            Problem::bad_request("the body ended early or came too slowly")
        }
    })
}

/// Reads a JSON body of at most [`MAX_JSON_BYTES`].
pub(crate) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    parse(&read_body(headers, body, MAX_JSON_BYTES).await?)
}

/// The same where no body at all says as much as one that leaves everything out.
pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    let body = read_body(headers, body, MAX_JSON_BYTES).await?;
    if body.is_empty() { Ok(T::default()) } else { parse(&body) }
}

/// Reads JSON of a body that has a bound of its own; an unknown field is an error that names it.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::bad_request("the body is not the JSON that is expected here")
            .with(vec![fault("body", error.to_string())])
    })
}

/// Untrusted text in an error message: short, without control characters.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        let uri = format!("/x?{query}").parse().unwrap();
        let Query(pairs) = Query::try_from_uri(&uri).unwrap();
        Params { pairs, ..Params::default() }
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let mut params = params("limit=0&before=x&a=1&a=2&lmit=3");
        assert_eq!(params.page(), DEFAULT_PAGE);
        assert_eq!(params.before::<i64>(), None);
        assert_eq!(params.text("a").as_deref(), Some("1"));
        let faults: Vec<String> =
            params.faults.iter().map(|f| format!("{}: {}", f.place, f.message)).collect();
        assert_eq!(
            faults,
            [
                "limit: expected a number from 1 to 1000, found '0'",
                "before: expected the number that the previous page ended with, found 'x'",
                "a: given more than once: give it once",
            ]
        );
        assert!(params.finish().is_err());
    }

    #[test]
    fn an_empty_parameter_is_absent() {
        let mut params = params("limit=&a=");
        assert_eq!((params.page(), params.text("a")), (DEFAULT_PAGE, None));
        assert!(params.finish().is_ok());
    }
}
