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

mod attempt;
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

pub use self::attempt::{AttemptElapsed, AttemptTimeout, AttemptTimeoutLayer};
#[cfg(feature = "body")]
#[cfg_attr(docsrs, doc(cfg(feature = "body")))]
pub use self::idle::{IdleBody, IdleElapsed};

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
#[derive(Clone, Debug)]
pub struct TotalTimeout<S> {
    inner: S,
    timeout: Duration,
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
        let deadline = Instant::now().checked_add(self.timeout);
        ResponseFuture { inner: self.inner.call(req), elapsed: Elapsed(self.timeout), deadline, sleep: None }
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

#[cfg(test)]
mod tests {
    use std::{future, sync::Arc};

    use tokio::time;
    use tokio_test::{assert_pending, assert_ready_eq, assert_ready_err, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(500);
    const MS: Duration = Duration::from_millis(1);
    type Mock = mock::Mock<&'static str, u32>;
    type Handle = mock::Handle<&'static str, u32>;

    fn service(timeout: Duration) -> (mock::Spawn<TotalTimeout<Mock>>, Handle) {
        mock::spawn_layer(TotalTimeoutLayer::new(timeout))
    }

    #[tokio::test(start_paused = true)]
    async fn fails_at_the_timeout_and_not_before() {
        let (mut svc, _handle) = service(TIMEOUT);
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call("ping"));

        assert_pending!(rsp.poll());
        time::advance(TIMEOUT.saturating_sub(MS)).await;
        assert_pending!(rsp.poll());
        time::advance(2 * MS).await;
        assert!(rsp.is_woken());
        let err = assert_ready_err!(rsp.poll());
        assert_eq!(err.downcast_ref(), Some(&Elapsed(TIMEOUT)));
        assert_eq!(err.to_string(), "no response within 500ms, retries included");
    }

    #[tokio::test(start_paused = true)]
    async fn the_response_wins_a_tie() {
        let (mut svc, mut handle) = service(TIMEOUT);
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());

        time::advance(2 * TIMEOUT).await;
        let (_, reply) = handle.next_request().await.unwrap();
        reply.send_response(1);
        assert_ready_eq!(rsp.poll().map(Result::unwrap), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_readiness_costs_no_time() {
        let (mut svc, mut handle) = service(TIMEOUT);
        handle.allow(0);
        assert_pending!(svc.poll_ready::<&str>());
        time::advance(10 * TIMEOUT).await;
        handle.allow(1);
        assert_ready_ok!(svc.poll_ready::<&str>());
        assert_pending!(task::spawn(svc.call("ping")).poll());
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_future_drops_the_call() {
        let running = Arc::new(());
        let guard = running.clone();
        let backend = service_fn(move |()| {
            let guard = guard.clone();
            async move {
                future::pending::<()>().await;
                drop(guard);
                Ok::<u32, Box<dyn std::error::Error + Send + Sync>>(0)
            }
        });
        let mut svc = TotalTimeoutLayer::new(TIMEOUT).layer(backend);
        let mut rsp = task::spawn(svc.call(()));
        assert_pending!(rsp.poll());
        assert_eq!(Arc::strong_count(&running), 3);
        drop(rsp);
        assert_eq!(Arc::strong_count(&running), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_of_each_clone_has_its_own_time() {
        let (mut svc, _handle) = service(TIMEOUT);
        let mut clone = svc.clone();
        assert_ready_ok!(svc.poll_ready());
        let mut first = task::spawn(svc.call("one"));
        assert_pending!(first.poll());
        time::advance(TIMEOUT.saturating_sub(MS)).await;
        assert_ready_ok!(clone.poll_ready());
        let mut second = task::spawn(clone.call("two"));
        assert_pending!(second.poll());
        time::advance(2 * MS).await;
        assert_ready_err!(first.poll());
        assert_pending!(second.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_beyond_the_clock_never_ends() {
        let (mut svc, _handle) = service(Duration::MAX);
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        time::advance(Duration::from_hours(24)).await;
        assert_pending!(rsp.poll());
    }
}
