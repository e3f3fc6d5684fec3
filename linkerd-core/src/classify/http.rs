//! Classes by status and method.

use http::{Method, Response};
use linkerd_retry::{Classifier, ResponseClass};

use super::HttpClassify;
use crate::{Body, Error, ErrorKind};

/// Linkerd 1.x's HTTP response classifiers.
///
/// Each calls a 5xx, and a request that got no answer, a failure, but for [`AllSuccessful`](Self::AllSuccessful). They
/// differ in the methods of which a failed request may be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpClassifier {
    /// `io.l5d.http.nonRetryable5XX`: no method.
    #[default]
    NonRetryable5xx,
    /// `io.l5d.http.retryableRead5XX`: GET, HEAD, OPTIONS, TRACE.
    RetryableRead5xx,
    /// `io.l5d.http.retryableIdempotent5XX`: these, PUT and DELETE.
    RetryableIdempotent5xx,
    /// `io.l5d.http.retryableAll5XX`: these, POST and PATCH; not CONNECT, nor methods of one's own.
    RetryableAll5xx,
    /// `io.l5d.http.allSuccessful`: every answer is a success; a request without one is a failure that is not retried.
    AllSuccessful,
}

impl HttpClassifier {
    /// Whether a failed request of this method may be sent again.
    #[must_use]
    pub fn may_retry(self, method: &Method) -> bool {
        let read = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        let idempotent = read || matches!(*method, Method::PUT | Method::DELETE);
        match self {
            Self::NonRetryable5xx | Self::AllSuccessful => false,
            Self::RetryableRead5xx => read,
            Self::RetryableIdempotent5xx => idempotent,
            Self::RetryableAll5xx => idempotent || matches!(*method, Method::POST | Method::PATCH),
        }
    }
}

impl HttpClassify for HttpClassifier {}

impl Classifier<Method, Response<Body>, Error> for HttpClassifier {
    fn classify(&self, method: &Method, rsp: Result<&Response<Body>, &Error>) -> ResponseClass {
        let retryable = match rsp {
            Ok(rsp) if *self == Self::AllSuccessful || !rsp.status().is_server_error() => {
                return ResponseClass::Success;
            }
            Ok(_) => true,
            // These came between us and an answer; of anything else (no such name, say) a second try has the same end.
            Err(error) => matches!(
                error.kind(),
                ErrorKind::Closed
                    | ErrorKind::AttemptTimeout
                    | ErrorKind::Connect
                    | ErrorKind::Refused
                    | ErrorKind::Overloaded
            ),
        };
        ResponseClass::Failure { retryable: retryable && self.may_retry(method) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(classifier: HttpClassifier, method: &Method, status: u16) -> ResponseClass {
        let rsp = Response::builder().status(status).body(Body::empty()).unwrap();
        classifier.classify(method, Ok(&rsp))
    }

    #[test]
    fn methods_decide_what_may_be_sent_again() {
        use HttpClassifier::{
            AllSuccessful, NonRetryable5xx, RetryableAll5xx, RetryableIdempotent5xx, RetryableRead5xx,
        };
        let purge = Method::from_bytes(b"PURGE").unwrap();
        let table: [(&Method, [bool; 5]); 7] = [
            (&Method::GET, [false, true, true, true, false]),
            (&Method::TRACE, [false, true, true, true, false]),
            (&Method::PUT, [false, false, true, true, false]),
            (&Method::DELETE, [false, false, true, true, false]),
            (&Method::PATCH, [false, false, false, true, false]),
            (&Method::CONNECT, [false; 5]),
            (&purge, [false; 5]),
        ];
        let kinds = [NonRetryable5xx, RetryableRead5xx, RetryableIdempotent5xx, RetryableAll5xx, AllSuccessful];
        for (method, expected) in table {
            for (kind, retryable) in kinds.into_iter().zip(expected) {
                let expected = match kind {
                    AllSuccessful => ResponseClass::Success,
                    _ => ResponseClass::Failure { retryable },
                };
                assert_eq!(class(kind, method, 503), expected, "{kind:?} {method}");
                assert_eq!(class(kind, method, 404), ResponseClass::Success, "{kind:?} {method}");
                let closed = Error::new(ErrorKind::Closed);
                let expected = ResponseClass::Failure { retryable };
                assert_eq!(kind.classify(method, Err(&closed)), expected, "{kind:?} {method}");
            }
        }
    }

    #[test]
    fn an_unreadable_answer_is_not_asked_for_again() {
        let error = Error::new(ErrorKind::BadResponse);
        let class = HttpClassifier::RetryableRead5xx.classify(&Method::GET, Err(&error));
        assert_eq!(class, ResponseClass::Failure { retryable: false });
    }
}
