//! Whose fault an answer is, where the status of HTTP does not say so: gRPC.

use std::time::Instant;

use http::{HeaderMap, HeaderName, Response, header};
use http_body::Body as _;
use linkerd_balance::{Outcome, Permit};

use crate::{Body, http::hint};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `RESOURCE_EXHAUSTED`: as with 429 one had better go elsewhere, but it may well be the caller's quota.
const EXHAUSTED: &[u8] = b"8";

/// Tells a breaker of an answer that is a success or a failure by its head. Of one that says at its end how it went,
/// what comes back is to be told then.
pub(super) fn judge(permit: Option<Permit>, success: bool, rsp: &Response<Body>, done: Instant) -> Option<Permit> {
    let permit = permit?;
    let by_head = if success && is_grpc(rsp.headers()) { outcome(rsp.headers()) } else { Some(success.into()) };
    match by_head {
        Some(outcome) => permit.record(outcome, done),
        None if rsp.body().is_end_stream() => permit.record(success, done),
        None => return Some(permit),
    }
    None
}

/// What the head, or the trailers, of a gRPC answer say of the endpoint; `None` if they do not.
///
/// What a caller can bring about (not found, not allowed, malformed, cancelled) says nothing of it.
pub(crate) fn outcome(headers: &HeaderMap) -> Option<Outcome> {
    let status = headers.get(GRPC_STATUS)?.as_bytes().trim_ascii();
    Some(match status {
        b"0" => Outcome::Success,
        EXHAUSTED => Outcome::Neutral,
        _ if hint::grpc_failure(headers) => Outcome::Failure,
        _ => Outcome::Neutral,
    })
}

/// Not gRPC-Web, whose status is in the body.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return false };
    let Some(rest) = kind.as_bytes().strip_prefix(b"application/grpc") else { return false };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn grpc_is_told_from_what_only_begins_so() {
        let of = |kind| is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]));
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert!(of(kind), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", ""] {
            assert!(!of(kind), "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn what_is_no_status_counts_for_nothing() {
        let of = |status| outcome(&HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))]));
        for status in ["17", "-1", "", "unavailable"] {
            assert_eq!(of(status), Some(Outcome::Neutral), "{status}");
        }
        assert_eq!(of(" 14 "), Some(Outcome::Failure));
        assert_eq!(outcome(&HeaderMap::new()), None);
    }
}
