//! Whose fault an answer is, where the status of HTTP does not say so: gRPC.

use std::time::Instant;

use http::{HeaderMap, Response};
use http_body::Body as _;
use linkerd_balance::{Outcome, Permit};

use crate::{Body, GrpcCode, http::deadline::is_grpc};

/// Tells a breaker of an answer that is a success or a failure by its head. Of one that says at its end how it went,
/// what comes back is to be told then.
pub(super) fn judge(permit: Option<Permit>, success: bool, rsp: &Response<Body>, done: Instant) -> Option<Permit> {
    let permit = permit?;
    let by_head = match is_grpc(rsp.headers()).then(|| outcome(rsp.headers())) {
        // What the classifier calls a failure may be the caller's doing.
        Some(Some(outcome)) => Some(outcome),
        Some(None) if success => None,
        _ => Some(success.into()),
    };
    match by_head {
        Some(outcome) => permit.record(outcome, done),
        None if rsp.body().is_end_stream() => permit.record(success, done),
        None => return Some(permit),
    }
    None
}

/// Whether the head of a gRPC answer has a code that says nothing of the endpoint.
pub(super) fn is_callers(rsp: &Response<Body>) -> bool {
    is_grpc(rsp.headers()) && outcome(rsp.headers()) == Some(Outcome::Neutral)
}

/// What the head, or the trailers, of a gRPC answer say of the endpoint; `None` if they do not.
///
/// What a caller can bring about (not found, not allowed, malformed, cancelled) says nothing of it.
pub(crate) fn outcome(headers: &HeaderMap) -> Option<Outcome> {
    Some(match GrpcCode::of(headers)? {
        GrpcCode::OK => Outcome::Success,
        // As with 429 one had better go elsewhere, but it may well be the caller's quota.
        GrpcCode::RESOURCE_EXHAUSTED => Outcome::Neutral,
        code if code.is_endpoints_fault() => Outcome::Failure,
        _ => Outcome::Neutral,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_no_code_counts_for_nothing_and_what_is_no_number_is_unknown() {
        let of = |status| {
            outcome(&HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]))
        };
        assert_eq!(of("17"), Some(Outcome::Neutral));
        for status in [" 14 ", "-1", "", "unavailable"] {
            assert_eq!(of(status), Some(Outcome::Failure), "{status}");
        }
        assert_eq!(outcome(&HeaderMap::new()), None);
    }
}
