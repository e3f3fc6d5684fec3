//! Which answers are failures, and which failures may be tried again.
//!
//! What was meant is said in one of three places, and a classifier looks where its protocol says it:
//!
//! | classifier | the head | the end of the body |
//! |---|---|---|
//! | [`HttpClassifier`] | decides | |
//! | [`H2Classifier`] | a 5xx decides | a stream that breaks off is a failure |
//! | [`GrpcClassifier`] | a `grpc-status` in place of a body, 4xx and 5xx decide | `grpc-status` in the trailers |

mod grpc;
mod h2;
mod http;

use std::sync::Arc;

use ::http::{HeaderMap, Method, Response};
use linkerd_retry::{Classifier, ResponseClass};

pub use self::{
    grpc::{GrpcClassifier, GrpcCode},
    h2::{H2Classifier, Reset},
    http::HttpClassifier,
};
use crate::{Body, BoxError, Error};

/// How the body of an answer ended: with trailers, without, or not as it should.
pub type StreamEnd<'a> = Result<Option<&'a HeaderMap>, &'a BoxError>;

/// A classifier of HTTP's answers, where the end of a body may have a say.
///
/// Closures that are a [`Classifier`] are one that goes by the head alone. A type of one's own becomes one by
/// `impl HttpClassify for Mine {}`.
///
/// An answer that [is open](Self::is_open) is counted when its body ends. Where its end [may ask for
/// another attempt](Self::may_retry_end) it is held back for a while, as
/// [`ServicePolicy::classification_timeout`](crate::ServicePolicy::classification_timeout) says.
pub trait HttpClassify: Classifier<Method, Response<Body>, Error> {
    /// Whether the head leaves it open what the answer is. Then [`classify`](Classifier::classify) says what it is so
    /// far, and [`classify_end`](Self::classify_end) decides. By default it never does.
    fn is_open(&self, rsp: &Response<Body>) -> bool {
        let _ = rsp;
        false
    }

    /// Decides about an answer that was open. By default one that breaks off is a failure that is not retried.
    fn classify_end(&self, method: &Method, end: StreamEnd<'_>) -> ResponseClass {
        let _ = method;
        if end.is_ok() { ResponseClass::Success } else { ResponseClass::NON_RETRYABLE }
    }

    /// Whether the end of an answer can be a failure that may be tried again. If it cannot, no answer waits for it. By
    /// default it cannot.
    fn may_retry_end(&self, method: &Method) -> bool {
        let _ = method;
        false
    }
}

impl<F, V> HttpClassify for F
where
    F: Fn(&Method, Result<&Response<Body>, &Error>) -> V + Send + Sync + 'static,
    V: Into<linkerd_retry::Verdict>,
{
}

impl<C: HttpClassify + ?Sized> HttpClassify for Arc<C> {
    fn is_open(&self, rsp: &Response<Body>) -> bool {
        (**self).is_open(rsp)
    }

    fn classify_end(&self, method: &Method, end: StreamEnd<'_>) -> ResponseClass {
        (**self).classify_end(method, end)
    }

    fn may_retry_end(&self, method: &Method) -> bool {
        (**self).may_retry_end(method)
    }
}
