//! Errors as clients see them: RFC 9457 `application/problem+json`.
//!
//! Three things are kept apart: the status, what the client is told, and what really
//! happened. The last never leaves the service: it is logged once, when the response is
//! made, under a reference number that the client sees too.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::StoreError;

/// Most errors listed in one problem; the rest are counted.
pub const MAX_LISTED: usize = 100;

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Where: the name of a parameter, `line 17`, `targets[3]`.
    pub place: String,
    /// What is wrong, what was expected, how to mend it.
    pub message: String,
}

/// The body of an error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong and how to mend it.
    pub detail: String,
    /// Each thing that is wrong, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// How many there are, where not all are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_total: Option<usize>,
    /// Names the line in the service's log that says what happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// An error on its way to a client.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<Fault>,
    errors_total: Option<usize>,
    retry_after_seconds: Option<u32>,
    /// For the log, never for the client.
    internal: Option<String>,
}

impl Problem {
    /// A problem of this status.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            errors_total: None,
            retry_after_seconds: None,
            internal: None,
        }
    }

    /// 400: the request can't be understood.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 400: parameters are wrong.
    #[must_use]
    pub fn parameters(errors: Vec<Fault>) -> Self {
        Self::bad_request("the request has parameters that can't be used").with(errors)
    }

    /// 422: the request is understood, its content is not acceptable. Nothing was changed.
    #[must_use]
    pub fn unacceptable(errors: Vec<Fault>) -> Self {
        let detail = "nothing was changed: the request has errors";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with(errors)
    }

    /// 503: come back later.
    #[must_use]
    pub fn busy(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// 500: our fault. `error` goes to the log.
    #[must_use]
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self {
            internal: Some(error.to_string()),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the service failed")
        }
    }

    /// When to come back.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// What really happened, for the log.
    #[must_use]
    pub fn because(mut self, error: impl std::fmt::Display) -> Self {
        self.internal = Some(error.to_string());
        self
    }

    /// Lists what is wrong: the first [`MAX_LISTED`], and how many there are.
    #[must_use]
    pub fn with(mut self, errors: Vec<Fault>) -> Self {
        let total = errors.len();
        self.errors = errors;
        self.listed(total)
    }

    /// As [`Self::with`] where only some of `total` errors were kept.
    #[must_use]
    pub fn listed(mut self, total: usize) -> Self {
        self.errors.truncate(MAX_LISTED);
        self.errors_total = (total > self.errors.len()).then_some(total);
        self
    }
}

/// One fault.
pub fn fault(place: impl Into<String>, message: impl Into<String>) -> Fault {
    Fault { place: place.into(), message: message.into() }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self {
                internal: Some(error.to_string()),
                ..Self::busy("the store is unavailable for the moment: try again", 1)
            },
            StoreError::Unusable(_) | StoreError::Internal(_) => Self::internal(error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut detail = self.detail;
        let reference = self.internal.map(|internal| {
            // Not a secret, only a name: without randomness it would merely be less unique.
            let reference = format!("{:08x}", getrandom::u32().unwrap_or_default());
            tracing::error!(reference, status = self.status.as_u16(), "{internal}");
            detail = format!("{detail} (see the service's log for reference {reference})");
            reference
        });
        let body = ProblemBody {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail,
            errors: self.errors,
            errors_total: self.errors_total,
            reference,
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
