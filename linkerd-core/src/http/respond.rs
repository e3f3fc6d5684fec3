//! Errors as a proxy's client reads them.

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};
use linkerd_retry::limit::RateLimited;

use super::headers;
use crate::{Body, Error, ErrorKind, GrpcCode, Reset};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How much of an error its answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorLimits {
    /// The longest value of `l5d-err`, in bytes. 8 KiB.
    pub max_header_bytes: usize,
    /// The longest body, in bytes. 5 MiB.
    pub max_body_bytes: usize,
    /// Whether a server tells all that is known of it too, as JSON in `l5d-err-json`. Off.
    pub detail: bool,
}

impl Default for ErrorLimits {
    fn default() -> Self {
        Self { max_header_bytes: 8 * 1024, max_body_bytes: 5 * 1024 * 1024, detail: false }
    }
}

/// The answer to a request that failed here: its status, the text as the body and, encoded, in `l5d-err`, and
/// `l5d-retryable` if the caller may try again, or [should not](Error::is_final). One that was shed by a rate says in
/// `Retry-After` when there is room again.
///
/// A server leaves the body out of its answer to `HEAD`.
#[must_use]
pub fn error_response(error: &Error, limits: ErrorLimits) -> Response<Body> {
    let mut text = error.text();
    let err = headers::encode_err(&text, limits.max_header_bytes);
    truncate(&mut text, limits.max_body_bytes);
    let mut rsp = Response::new(Body::from(text));
    *rsp.status_mut() = error.status();
    let headers = rsp.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(headers::L5D_ERR, err);
    if error.is_final() {
        headers.insert(headers::L5D_RETRYABLE, HeaderValue::from_static("false"));
    } else if is_retryable(error) {
        headers.insert(headers::L5D_RETRYABLE, HeaderValue::from_static("true"));
    }
    if let Some(wait) = room_in(error) {
        // In whole seconds, and none at all would be a refusal that is sent again at once.
        let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(secs.max(1)));
    }
    rsp
}

/// The same to a gRPC call: a head that is all of the answer (*trailers-only*), with its `grpc-status` and the text as
/// `grpc-message`.
pub(super) fn grpc_error_response(error: &Error, limits: ErrorLimits) -> Response<Body> {
    let code = match error.kind() {
        ErrorKind::Deadline | ErrorKind::TotalTimeout | ErrorKind::AttemptTimeout => GrpcCode::DEADLINE_EXCEEDED,
        _ => Reset::of(error).map_or_else(|| GrpcCode::of_http(error.status()), GrpcCode::of_reset),
    };
    let mut rsp = error_response(error, limits).map(|_| Body::empty());
    *rsp.status_mut() = StatusCode::OK;
    let headers = rsp.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code.0));
    headers.insert(GRPC_MESSAGE, headers::encode_grpc(&error.text(), limits.max_header_bytes));
    rsp
}

/// When there is room for the request, where that is known: a rate knows, and what counts those in flight does not.
fn room_in(error: &Error) -> Option<Duration> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(limited) = error.downcast_ref::<RateLimited>() {
            return Some(limited.retry_after);
        }
        source = error.source();
    }
    None
}

/// Whether the caller is told to try again: what failed unsent, but for the errors of naming and connecting, which
/// Linkerd 1 leaves unmarked.
fn is_retryable(error: &Error) -> bool {
    use ErrorKind::{Closed, Layer, Overloaded};
    error.never_sent() && matches!(error.kind(), Overloaded | Closed | Layer)
}

fn truncate(text: &mut String, max_bytes: usize) {
    let mut end = max_bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// The answer of a server that has no room for the request, and did nothing with it.
pub(crate) fn nack(method: &Method) -> Response<Body> {
    const TEXT: &[u8] = b"Request was not processed by the server due to an error and is safe to retry";
    let is_head = *method == Method::HEAD;
    let mut rsp = Response::new(if is_head { Body::empty() } else { Bytes::from_static(TEXT).into() });
    *rsp.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = rsp.headers_mut();
    headers.insert(headers::NACK, HeaderValue::from_static("true"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("0"));
    if is_head {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    rsp
}

/// An empty answer to what is no request, after which the connection closes.
pub(crate) fn rejection(status: StatusCode) -> Response<Body> {
    let mut rsp = Response::new(Body::empty());
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    rsp
}
