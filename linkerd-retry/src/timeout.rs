//! Bounds the time of a request, all of its attempts and backoffs included.

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

/// Wraps services in [`TotalTimeout`].
#[derive(Clone, Debug)]
pub struct TotalTimeoutLayer {
    timeout: Duration,
}

/// Fails a request with [`Elapsed`] if it has no response in time, and drops what was still under way for it.
///
/// The time runs from `call` until the inner service's future is ready; waiting for `poll_ready`, and reading a body that
/// comes with the response, are not in it. Where a response is there by the time the timer is looked at, the response
/// wins. Readiness is the inner service's. It needs tokio's timer, but touches it only for a response that is not there
/// at once.
#[derive(Clone, Debug)]
pub struct TotalTimeout<S> {
    inner: S,
    timeout: Duration,
}

/// Response future of [`TotalTimeout`].
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    timeout: Duration,
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

impl TotalTimeoutLayer {
    /// Allows each request `timeout`. Zero fails whatever is not ready at once: to have no limit, add no layer.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl<S> Layer<S> for TotalTimeoutLayer {
    type Service = TotalTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let timeout = self.timeout;
        TotalTimeout { inner, timeout }
    }
}

impl<S, Req> Service<Req> for TotalTimeout<S>
where
    S: Service<Req>,
    S::Error: From<Elapsed>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        ResponseFuture {
            deadline: Instant::now().checked_add(self.timeout),
            inner: self.inner.call(req),
            timeout: self.timeout,
            sleep: None,
        }
    }
}

impl<F, Rsp, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Rsp, E>>,
    E: From<Elapsed>,
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
        sleep.poll(cx).map(|()| Err(Elapsed(*this.timeout).into()))
    }
}
