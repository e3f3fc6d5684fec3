//! What hops tell each other of retries: which attempt a request is, and that a failure was retried enough.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use http::{HeaderMap, HeaderValue, Request, Response};

use crate::{
    Body, Error,
    http::headers::{L5D_CTX_ATTEMPT, L5D_RETRYABLE},
};

/// How often one request was sent: here, and before it came here.
///
/// Shared by all that is sent for it, so that requeues have their numbers too, and whatever is sent side by side.
#[derive(Debug)]
pub(crate) struct Hints {
    // Which attempt it came as. The first is 1.
    came_as: u32,
    sent: AtomicU32,
    // How many of these got to nobody.
    unsent: AtomicU32,
}

impl Hints {
    /// Reads which attempt a request is, and takes its header off: each attempt has its own. What is no number from 1 on
    /// counts as absent; of several the largest counts.
    pub(crate) fn take(req: &mut Request<Body>) -> Arc<Self> {
        if let Some(hints) = req.extensions_mut().remove::<Arc<Self>>() {
            return hints;
        }
        let values = req.headers().get_all(L5D_CTX_ATTEMPT).iter();
        let numbers = values.filter_map(|value| value.to_str().ok()?.trim().parse().ok());
        let came_as = numbers.max().unwrap_or(1).max(1);
        req.headers_mut().remove(L5D_CTX_ATTEMPT);
        Arc::new(Self { came_as, sent: AtomicU32::new(0), unsent: AtomicU32::new(0) })
    }

    /// Whether it came as a retry: who sent it will see to its failure.
    pub(crate) fn is_retry(&self) -> bool {
        self.came_as > 1
    }

    /// Whether it was sent more than once from here, by a retry or a hedge. What was requeued got to nobody: it is no retry.
    pub(crate) fn has_retried(&self) -> bool {
        // Relaxed: counts, which order nothing.
        let unsent = self.unsent.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(unsent) > 1
    }

    /// Notes that one that was sent got to nobody: it keeps its number, and there was no retry for it.
    pub(crate) fn unsent(&self) {
        // Relaxed: a count, which orders nothing.
        self.unsent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more that is sent, and writes on it which one it is.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        // Relaxed: a count, which orders nothing.
        let before = self.sent.fetch_add(1, Ordering::Relaxed);
        let number = self.came_as.saturating_add(before);
        if number > 1 {
            headers.insert(L5D_CTX_ATTEMPT, HeaderValue::from(number));
        }
    }
}

/// Whether a response says of itself that its request was sent as often as it should be.
pub(super) fn says_final(rsp: &Response<Body>) -> bool {
    says(rsp, b"false")
}

/// Whether a response says of itself that its request may be sent again: a proxy further on knows that its failure
/// reached no application, whatever the method.
pub(super) fn says_retryable(rsp: &Response<Body>) -> bool {
    says(rsp, b"true")
}

fn says(rsp: &Response<Body>, word: &[u8]) -> bool {
    rsp.headers().get(L5D_RETRYABLE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(word))
}

/// Says of a failure that its request was sent as often as it should be.
pub(super) fn finish(result: Result<Response<Body>, Error>) -> Result<Response<Body>, Error> {
    match result {
        Ok(mut rsp) => {
            rsp.headers_mut().insert(L5D_RETRYABLE, HeaderValue::from_static("false"));
            Ok(rsp)
        }
        Err(error) => Err(error.with_final()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(values: &[&str]) -> (Arc<Hints>, Request<Body>) {
        let mut req = Request::new(Body::empty());
        for value in values {
            req.headers_mut().append(L5D_CTX_ATTEMPT, value.parse().unwrap());
        }
        (Hints::take(&mut req), req)
    }

    fn sent(hints: &Hints) -> Option<String> {
        let mut headers = HeaderMap::new();
        hints.write(&mut headers);
        headers.get(L5D_CTX_ATTEMPT).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn attempts_are_numbered_over_all_hops_and_the_first_goes_without() {
        let (hints, _) = came(&[]);
        assert_eq!((sent(&hints), hints.has_retried()), (None, false));
        assert_eq!((sent(&hints), hints.has_retried(), hints.is_retry()), (Some("2".into()), true, false));
        let (hints, req) = came(&["3"]);
        assert!(hints.is_retry() && req.headers().is_empty());
        assert_eq!((sent(&hints), hints.has_retried()), (Some("3".into()), false));
        assert_eq!(sent(&hints), Some("4".into()));
    }

    #[test]
    fn what_got_to_nobody_has_a_number_and_is_no_retry() {
        let (hints, _) = came(&[]);
        sent(&hints);
        hints.unsent();
        assert_eq!((sent(&hints), hints.has_retried()), (Some("2".into()), false));
        assert_eq!((sent(&hints), hints.has_retried()), (Some("3".into()), true));
    }

    #[test]
    fn what_is_no_number_counts_as_absent_and_the_largest_of_several_counts() {
        for values in [&["0"][..], &["-1"], &["two"], &[""], &["99999999999"]] {
            assert!(!came(values).0.is_retry(), "{values:?}");
        }
        assert_eq!(sent(&came(&["2", "x", " 7 "]).0), Some("7".into()));
        let (hints, _) = came(&["4294967295"]);
        assert_eq!((sent(&hints), sent(&hints)), (Some("4294967295".into()), Some("4294967295".into())));
    }
}
