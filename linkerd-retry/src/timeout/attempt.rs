use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::ResponseFuture;

/// Wraps services in [`AttemptTimeout`].
#[derive(Clone, Debug)]
pub struct AttemptTimeoutLayer {
    timeout: Duration,
}

/// Fails an attempt with [`AttemptElapsed`] if it has no response in time, and drops what was still under way for it.
///
/// Its place is below [`Retry`](crate::retry::Retry): the classifier sees the error and says whether the request is one
/// that may be sent again, though it may have been processed. In all else it is like
/// [`TotalTimeout`](super::TotalTimeout). Neither knows of the other, so an attempt can be cut short by both; give the
/// attempt less than the whole, or it never has another.
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
#[derive(Clone, Debug)]
pub struct AttemptTimeout<S> {
    inner: S,
    timeout: Duration,
}

/// An attempt had no response within this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no response to this attempt within {0:?}")]
pub struct AttemptElapsed(pub Duration);

impl AttemptTimeoutLayer {
    /// Allows each attempt `timeout`. Zero fails whatever is not ready at once: to have no limit, add no layer.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = AttemptTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let timeout = self.timeout;
        AttemptTimeout { inner, timeout }
    }
}

impl<S, Req> Service<Req> for AttemptTimeout<S>
where
    S: Service<Req>,
    S::Error: From<AttemptElapsed>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, AttemptElapsed>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let deadline = Instant::now().checked_add(self.timeout);
        ResponseFuture { inner: self.inner.call(req), elapsed: AttemptElapsed(self.timeout), deadline, sleep: None }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use tokio::time;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
    use tower_test::mock;

    use super::*;
    use crate::{
        ResponseClass,
        retry::RetryLayer,
        timeout::{Elapsed, TotalTimeoutLayer},
    };

    const TIMEOUT: Duration = Duration::from_millis(200);
    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn fails_at_the_timeout_and_not_before() {
        let (mut svc, _handle) = mock::spawn_layer::<&str, u32, _>(AttemptTimeoutLayer::new(TIMEOUT));
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        time::advance(TIMEOUT.saturating_sub(MS)).await;
        assert_pending!(rsp.poll());
        time::advance(2 * MS).await;
        assert!(rsp.is_woken());
        let err = assert_ready_err!(rsp.poll());
        assert_eq!(err.downcast_ref(), Some(&AttemptElapsed(TIMEOUT)));
        assert_eq!(err.to_string(), "no response to this attempt within 200ms");
    }

    /// What each of the two does, and which one it was: an attempt that timed out is retried, a request is not.
    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_timed_out_is_retried_and_a_request_that_did_is_not() {
        for (total, attempts, took) in [(500, 3, 500), (400, 2, 400), (100, 1, 100)] {
            let calls = Arc::new(AtomicU32::new(0));
            let counted = calls.clone();
            let slow = |(): &(), rsp: Result<&u32, &BoxError>| {
                let retryable = rsp.is_err_and(|err| err.is::<AttemptElapsed>());
                ResponseClass::Failure { retryable }
            };
            let svc = ServiceBuilder::new()
                .layer(TotalTimeoutLayer::new(Duration::from_millis(total)))
                .layer(RetryLayer::new(slow))
                .layer(AttemptTimeoutLayer::new(TIMEOUT))
                .service(service_fn(move |()| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    future::pending::<Result<u32, BoxError>>()
                }));
            let start = Instant::now();
            let err = svc.oneshot(()).await.unwrap_err();
            assert_eq!(err.downcast_ref(), Some(&Elapsed(Duration::from_millis(total))));
            assert_eq!(calls.load(Ordering::Relaxed), attempts, "{total}");
            let slack = start.elapsed().saturating_sub(Duration::from_millis(took));
            assert!(slack <= 2 * MS, "{slack:?}");
        }
    }
}
