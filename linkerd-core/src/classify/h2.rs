//! Classes by status and method, and by whether the stream came to its end.

use std::{error, fmt};

use http::{Method, Response};
use linkerd_retry::{Classifier, ResponseClass, Verdict};

use super::{HttpClassifier, HttpClassify, StreamEnd};
use crate::{Body, Error};

/// Linkerd 1.x's response classifiers of HTTP/2: `io.l5d.h2.nonRetryable5XX` and its like.
///
/// The head is judged as [`HttpClassifier`] has it; what that calls a success is a failure after all if its body breaks
/// off, and the same methods may be sent again. [`AllSuccessful`](HttpClassifier::AllSuccessful) too finds that a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct H2Classifier(pub HttpClassifier);

impl Classifier<Method, Response<Body>, Error> for H2Classifier {
    fn classify(&self, method: &Method, rsp: Result<&Response<Body>, &Error>) -> ResponseClass {
        self.0.classify(method, rsp)
    }

    fn verdict(&self, method: &Method, rsp: Result<&Response<Body>, &Error>) -> Verdict {
        self.0.verdict(method, rsp)
    }
}

impl HttpClassify for H2Classifier {
    fn is_open(&self, rsp: &Response<Body>) -> bool {
        use http_body::Body as _;
        let has_failed = rsp.status().is_server_error() && self.0 != HttpClassifier::AllSuccessful;
        !has_failed && !rsp.body().is_end_stream()
    }

    fn classify_end(&self, method: &Method, end: StreamEnd<'_>) -> ResponseClass {
        match end {
            Ok(_) => ResponseClass::Success,
            Err(_) => ResponseClass::Failure { retryable: self.may_retry_end(method) },
        }
    }

    fn may_retry_end(&self, method: &Method) -> bool {
        self.0.may_retry(method)
    }
}

/// Why the peer ended a stream before it was over: the code of its `RST_STREAM`, from RFC 9113, section 7.
///
/// It is the source of an [`Error`], or the error of a body; classifiers find it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reset(pub u32);

impl Reset {
    /// Nothing is wrong, but there is no more.
    pub const NO_ERROR: Self = Self(0);
    /// The peer failed.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// A frame came for a stream that was half closed.
    pub const STREAM_CLOSED: Self = Self(5);
    /// The stream was refused before anything was done: it may be sent again, whatever it asks for.
    pub const REFUSED_STREAM: Self = Self(7);
    /// It is no longer wanted.
    pub const CANCEL: Self = Self(8);
    /// There is too much of it.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
    /// The transport is not safe enough.
    pub const INADEQUATE_SECURITY: Self = Self(12);

    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];

    /// The one in an error or its causes.
    #[must_use]
    pub fn of(error: &(dyn error::Error + 'static)) -> Option<Self> {
        // As deep as errors get; a chain that never ends must not be followed for ever.
        const DEPTH: usize = 8;
        let causes = std::iter::successors(Some(error), |error| error.source());
        causes.take(DEPTH).find_map(|error| error.downcast_ref().copied())
    }

    /// Whether the peer says that it did nothing.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        self == Self::REFUSED_STREAM
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.get(self.0 as usize) {
            Some(name) => write!(f, "the stream was reset: {name}"),
            None => write!(f, "the stream was reset: {:#x}", self.0),
        }
    }
}

impl error::Error for Reset {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxError, ErrorKind};

    const KINDS: [HttpClassifier; 5] = [
        HttpClassifier::NonRetryable5xx,
        HttpClassifier::RetryableRead5xx,
        HttpClassifier::RetryableIdempotent5xx,
        HttpClassifier::RetryableAll5xx,
        HttpClassifier::AllSuccessful,
    ];

    fn rsp(status: u16, body: Body) -> Response<Body> {
        Response::builder().status(status).body(body).unwrap()
    }

    #[test]
    fn the_head_decides_of_5xx_and_the_end_of_all_others() {
        for kind in KINDS {
            let (classifier, all) = (H2Classifier(kind), kind == HttpClassifier::AllSuccessful);
            for status in [200, 302, 404, 499] {
                assert!(classifier.is_open(&rsp(status, Body::from("x"))), "{kind:?} {status}");
                assert!(!classifier.is_open(&rsp(status, Body::empty())), "{kind:?} {status}: nothing is to come");
                assert!(classifier.classify(&Method::GET, Ok(&rsp(status, Body::empty()))).is_success());
            }
            for status in [500, 503] {
                assert_eq!(classifier.is_open(&rsp(status, Body::from("x"))), all, "{kind:?} {status}");
                let class = classifier.classify(&Method::GET, Ok(&rsp(status, Body::empty())));
                assert_eq!(class.is_success(), all, "{kind:?} {status}");
            }
        }
    }

    #[test]
    fn a_stream_that_breaks_off_is_a_failure_that_is_retried_by_method() {
        let error: BoxError = Reset::INTERNAL_ERROR.into();
        for (method, retryable) in [
            (Method::GET, [false, true, true, true, false]),
            (Method::PUT, [false, false, true, true, false]),
            (Method::POST, [false, false, false, true, false]),
        ] {
            for (kind, retryable) in KINDS.into_iter().zip(retryable) {
                let classifier = H2Classifier(kind);
                let expected = ResponseClass::Failure { retryable };
                assert_eq!(classifier.classify_end(&method, Err(&error)), expected, "{kind:?} {method}");
                assert_eq!(classifier.may_retry_end(&method), retryable, "{kind:?} {method}");
                assert!(classifier.classify_end(&method, Ok(None)).is_success());
                let closed = Error::new(ErrorKind::Closed);
                assert_eq!(classifier.classify(&method, Err(&closed)), expected, "{kind:?} {method}");
            }
        }
    }

    #[test]
    fn a_reset_is_found_among_causes_and_says_its_name() {
        let error = Error::new(ErrorKind::Refused).with_source(Reset::REFUSED_STREAM);
        assert!(Reset::of(&error).is_some_and(Reset::is_refusal));
        assert_eq!(Reset::of(&Error::new(ErrorKind::Closed)), None);
        assert_eq!(Reset::CANCEL.to_string(), "the stream was reset: CANCEL");
        assert_eq!(Reset(99).to_string(), "the stream was reset: 0x63");
    }
}
