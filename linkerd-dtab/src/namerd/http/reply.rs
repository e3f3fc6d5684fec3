//! Responses, and what is said when something is not served.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{
    BindError, ParseError,
    namerd::{Reason, Refused, WriteError},
    store::StoreError,
    transport::{Body, full},
};

/// So much of what was sent is shown in an answer, in bytes.
const MAX_SHOWN: usize = 4 << 10;

/// What an endpoint answers with.
pub(super) type Answer = Result<Response<Body>, Problem>;

/// Why a request is not served: a status and a text, which is empty where that of namerd 1.7.5 is.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    text: String,
    warning: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), warning: None }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// A text that does not parse, which `of` names: a parameter, a member of the body. The text is `message` with the parser's,
    /// as in namerd 1.7.5; line and column are in a `Warning`.
    pub(super) fn unparsable(of: &str, message: &str, error: &ParseError) -> Self {
        let warning = Some(format!("{of}: {}", error.summary()));
        Self { warning, ..Self::bad(format!("{message}{}", fitting(error.to_string(), error))) }
    }

    pub(super) fn silent(status: StatusCode) -> Self {
        Self::new(status, "")
    }

    /// Says why in a `Warning`, where namerd 1.7.5 has no text.
    pub(super) fn hinted(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { warning: Some(reason.into()), ..Self::silent(status) }
    }

    /// Says more in a `Warning`, where the text is that of namerd 1.7.5.
    pub(super) fn noting(self, more: impl Into<String>) -> Self {
        Self { warning: Some(more.into()), ..self }
    }

    pub(super) fn timed_out() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Request timed out.")
    }

    /// Why a change was not made that was asked for on a condition: that something is there already is 409 to `POST` alone.
    pub(super) fn of_condition(error: WriteError) -> Self {
        match error {
            WriteError::Store(StoreError::Exists(_)) => Self::silent(StatusCode::PRECONDITION_FAILED),
            error => error.into(),
        }
    }

    /// What is asked for could not be found out.
    pub(super) fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, told(error))
    }

    /// Why, be it said in the body or beside.
    pub(super) fn reason(&self) -> &str {
        self.warning.as_deref().unwrap_or(&self.text)
    }

    pub(super) fn answer(self) -> Response<Body> {
        let mut rsp = Response::new(full(self.text));
        *rsp.status_mut() = self.status;
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            rsp.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(warning) = self.warning.as_deref().and_then(warning) {
            rsp.headers_mut().insert(header::WARNING, warning);
        }
        rsp
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Limit { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refused::Forbidden { .. } => StatusCode::FORBIDDEN,
            Refused::UnknownToken => StatusCode::UNAUTHORIZED,
        };
        Self::new(status, refused.to_string())
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(refused) => refused.into(),
            WriteError::Rejected(text) => Self::bad(text),
            WriteError::NeedsVersion(text) => Self::new(StatusCode::PRECONDITION_REQUIRED, text),
            WriteError::Past(error) => error.into(),
            WriteError::Store(StoreError::Exists(_)) => Self::silent(StatusCode::CONFLICT),
            WriteError::Store(StoreError::Missing(_)) => Self::silent(StatusCode::NOT_FOUND),
            WriteError::Store(StoreError::Mismatch(_)) => Self::silent(StatusCode::PRECONDITION_FAILED),
            WriteError::Store(error @ StoreError::Forbidden(_)) => Self::new(StatusCode::FORBIDDEN, told(&error)),
            WriteError::Store(error @ StoreError::Unfit { .. }) => Self::bad(told(&error)),
            WriteError::Store(error @ StoreError::Unavailable(_)) => Self::failed(&error),
        }
    }
}

/// Why a request failed that is answered so, if it did.
pub(super) fn reason(status: StatusCode) -> Option<Reason> {
    Some(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Reason::Forbidden,
        StatusCode::NOT_FOUND => Reason::Missing,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Reason::Conflict,
        StatusCode::PAYLOAD_TOO_LARGE => Reason::TooLarge,
        StatusCode::TOO_MANY_REQUESTS => Reason::Limit,
        StatusCode::REQUEST_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => Reason::Late,
        status if status.is_client_error() => Reason::BadRequest,
        status if status.is_server_error() => Reason::Failed,
        _ => return None,
    })
}

/// What the parser says, unless the text that is in it is too long to be read by anybody.
pub(super) fn fitting(message: String, error: &ParseError) -> String {
    if message.len() > MAX_SHOWN { error.summary().to_string() } else { message }
}

/// What was sent, as it is shown to who sent it: its beginning, if it is long.
pub(super) fn shown(text: &str) -> String {
    if text.len() <= MAX_SHOWN {
        return text.to_owned();
    }
    format!("{}... ({} bytes)", &text[..text.floor_char_boundary(MAX_SHOWN)], text.len())
}

/// A text as a `Warning`, cut to what fits a header.
pub(super) fn warning(text: &str) -> Option<HeaderValue> {
    const MAX: usize = 500;
    let quoted = text.chars().take(MAX).map(|c| match c {
        '"' | '\\' => '\'',
        c if c.is_ascii_graphic() => c,
        c if c.is_whitespace() => ' ',
        _ => '?',
    });
    HeaderValue::from_str(&format!("299 namerd \"{}\"", quoted.collect::<String>())).ok()
}

/// An error and its causes, in one line. Of a cycle the names that it goes through, too, and of what is unknown the name.
pub(super) fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    match error.downcast_ref() {
        Some(BindError::TooDeep { steps, .. }) => text.extend([": ", &steps.to_string()]),
        // Finagle's text is the kind alone.
        Some(BindError::ClassNotFound { path, .. }) => {
            text.insert_str(0, &format!("{path} has an unknown system namer: "));
        }
        _ => {}
    }
    let mut source = error.source();
    while let Some(cause) = source {
        text.extend([": ", &cause.to_string()]);
        source = cause.source();
    }
    text
}

/// A method that an endpoint has not: those that it has, and why, if that is not plain.
pub(super) fn not_allowed(allow: &'static str, why: &'static str) -> Response<Body> {
    let mut rsp = Problem::new(StatusCode::METHOD_NOT_ALLOWED, why).answer();
    rsp.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    rsp
}

pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut rsp = Response::new(full(Bytes::new()));
    *rsp.status_mut() = status;
    rsp
}

/// A document. Bound trees and addresses have no `Content-Type`, as in namerd 1.7.5.
pub(super) fn document(kind: Option<&'static str>, text: String) -> Response<Body> {
    body(kind, full(text))
}

pub(super) fn body(kind: Option<&'static str>, body: Body) -> Response<Body> {
    let mut rsp = Response::new(body);
    if let Some(kind) = kind {
        rsp.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    rsp
}
