//! Bounds time: of a request with all of its attempts and backoffs, of one attempt, and of silence in a body.
//!
//! | | from | to | error |
//! |---|---|---|---|
//! | [`TotalTimeout`] | the request | its response, whatever number of attempts that takes | [`Elapsed`] |
//! | [`AttemptTimeout`] | an attempt | its response; another attempt may follow | [`AttemptElapsed`] |
//! | `IdleBody`, with the feature `body` | a frame | the next one | `IdleElapsed` |
//!
//! The first belongs above the retries and the second below them. A deadline is neither: it comes with the request, and
//! a [`DeadlineLayer`](crate::expire::DeadlineLayer) sees to it.
//!
//! What ends when, with a total of 500 ms, an attempt of 200 ms, an idle of 300 ms, three attempts at most, and retries of
//! attempts that timed out (`tests/timeouts.rs` has all combinations):
//!
//! | | none | total | attempt | idle | total and attempt |
//! |---|---|---|---|---|---|
//! | the first attempt hangs | never | [`Elapsed`] | the second answers | never | the second answers |
//! | all attempts hang | never | [`Elapsed`] | [`AttemptElapsed`], of the third | never | [`Elapsed`] |
//! | a body falls silent | never | never | never | `IdleElapsed` | never |
//! | a body is slow and long | at its end | at its end | at its end | at its end | at its end |
//!
//! None of them has a default, for nobody likes timeouts that he did not set. Zero ends what is not there at once; what is
//! longer than the clock can count is no limit. A timer is armed when there is something to wait for, and not before. All
//! errors are told apart by their type, name the time, and [say](crate::Delivery) that the request may have been processed.

#[cfg(feature = "body")]
mod idle;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "body")]
#[cfg_attr(docsrs, doc(cfg(feature = "body")))]
pub use self::idle::{IdleBody, IdleElapsed};
use crate::Delivery;

/// Wraps services in [`TotalTimeout`].
pub type TotalTimeoutLayer = TimeoutLayer<Elapsed>;

/// Fails a request with [`Elapsed`] if it has no response in time, and drops what was still under way for it.
///
/// Its place is above [`Retry`](crate::retry::Retry): the time is that of a request with all of its attempts.
///
/// ```
/// use linkerd_retry::timeout::TotalTimeoutLayer;
/// use std::{future, time::Duration};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let svc = ServiceBuilder::new()
///     .layer(TotalTimeoutLayer::new(Duration::from_millis(500)))
///     .service(service_fn(|_: &str| future::pending::<Result<u16, BoxError>>()));
/// assert_eq!(svc.oneshot("GET /").await.unwrap_err().to_string(), "no response within 500ms, retries included");
/// # }
/// ```
pub type TotalTimeout<S> = Timeout<S, Elapsed>;

/// Wraps services in [`AttemptTimeout`].
pub type AttemptTimeoutLayer = TimeoutLayer<AttemptElapsed>;

/// Fails an attempt with [`AttemptElapsed`] if it has no response in time, and drops what was still under way for it.
///
/// Its place is below [`Retry`](crate::retry::Retry): the classifier sees the error and says whether the request is one
/// that may be sent again, though it may have been processed. It does not know of a [`TotalTimeout`] above, so an attempt
/// can be cut short by both; give the attempt less than the whole, or it never has another.
///
/// ```
/// use linkerd_retry::{ResponseClass, retry::RetryLayer};
/// use linkerd_retry::timeout::{AttemptElapsed, AttemptTimeoutLayer, TotalTimeoutLayer};
/// use std::{future, time::Duration};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let slow = |_: &&str, rsp: Result<&u16, &BoxError>| match rsp {
///     Err(error) if error.is::<AttemptElapsed>() => ResponseClass::RETRYABLE,
///     _ => ResponseClass::Success,
/// };
/// let mut first = true;
/// let svc = ServiceBuilder::new()
///     .layer(TotalTimeoutLayer::new(Duration::from_millis(500)))
///     .layer(RetryLayer::new(slow))
///     .layer(AttemptTimeoutLayer::new(Duration::from_millis(200)));
/// # let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(first));
/// let svc = svc.service(service_fn(move |_: &str| {
/// #   let stuck = first.swap(false, std::sync::atomic::Ordering::Relaxed);
/// #   /*
///     let stuck = std::mem::take(&mut first);
/// #   */
///     async move { if stuck { future::pending().await } else { Ok::<_, BoxError>(200) } }
/// }));
/// assert_eq!(svc.oneshot("GET /").await?, 200);
/// # Ok(())
/// # }
/// ```
pub type AttemptTimeout<S> = Timeout<S, AttemptElapsed>;

/// Wraps services in [`Timeout`]: [`TotalTimeoutLayer`] or [`AttemptTimeoutLayer`], by the error.
#[derive(Clone, Debug)]
pub struct TimeoutLayer<X> {
    time: Duration,
    elapsed: X,
}

/// What [`TotalTimeout`] and [`AttemptTimeout`] are, but for the error.
///
/// The time runs from `call` until the inner service's future is ready; waiting for `poll_ready`, and reading a body that
/// comes with the response, are not in it. Where a response is there by the time the timer is looked at, the response
/// wins. Readiness is the inner service's. It needs tokio's timer, but touches it only for a response that is not there
/// at once.
#[derive(Clone, Debug)]
pub struct Timeout<S, X> {
    inner: S,
    time: Duration,
    elapsed: X,
}

/// Response future of [`TotalTimeout`], and of [`AttemptTimeout`] with its own error.
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F, X = Elapsed> {
    #[pin]
    inner: F,
    elapsed: X,
    /// `None` if it is further off than the clock can count.
    deadline: Option<Instant>,
    // Armed on the first `Pending`: a response that is there at once never touches the timer.
    #[pin]
    sleep: Option<Sleep>,
}

/// There was no response within this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no response within {0:?}, retries included")]
pub struct Elapsed(pub Duration);

/// An attempt had no response within this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no response to this attempt within {0:?}")]
pub struct AttemptElapsed(pub Duration);

impl TotalTimeoutLayer {
    /// Allows each request `timeout`. Zero fails whatever is not ready at once: to have no limit, add no layer.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { time: timeout, elapsed: Elapsed(timeout) }
    }
}

impl AttemptTimeoutLayer {
    /// Allows each attempt `timeout`. Zero fails whatever is not ready at once: to have no limit, add no layer.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { time: timeout, elapsed: AttemptElapsed(timeout) }
    }
}

impl<S, X: Copy> Layer<S> for TimeoutLayer<X> {
    type Service = Timeout<S, X>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { time, elapsed } = *self;
        Timeout { inner, time, elapsed }
    }
}

impl<S, X, Req> Service<Req> for Timeout<S, X>
where
    S: Service<Req>,
    X: Copy,
    S::Error: From<X>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, X>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let deadline = Instant::now().checked_add(self.time);
        ResponseFuture { inner: self.inner.call(req), elapsed: self.elapsed, deadline, sleep: None }
    }
}

impl<F, X, Rsp, E> Future for ResponseFuture<F, X>
where
    F: Future<Output = Result<Rsp, E>>,
    X: Copy,
    E: From<X>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // The response first: one that arrives together with the deadline is still a response.
        if let Poll::Ready(rsp) = this.inner.poll(cx) {
            return Poll::Ready(rsp);
        }
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(deadline)));
        }
        let sleep = this.sleep.as_pin_mut().expect("armed above");
        sleep.poll(cx).map(|()| Err((*this.elapsed).into()))
    }
}

/// The peer may have it, and may have processed it.
impl Delivery for Elapsed {
    fn bytes_written(&self) -> Option<u64> {
        None
    }
}

/// As [`Elapsed`].
impl Delivery for AttemptElapsed {
    fn bytes_written(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests;
