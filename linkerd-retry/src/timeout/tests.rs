use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::time;
use tokio_test::{assert_pending, assert_ready_eq, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{ResponseClass, retry::RetryLayer};

const TIMEOUT: Duration = Duration::from_millis(500);
const ATTEMPT: Duration = Duration::from_millis(200);
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

#[tokio::test(start_paused = true)]
async fn an_attempt_fails_at_its_timeout_and_not_before() {
    let (mut svc, _handle) = mock::spawn_layer::<&str, u32, _>(AttemptTimeoutLayer::new(ATTEMPT));
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("ping"));
    assert_pending!(rsp.poll());
    time::advance(ATTEMPT.saturating_sub(MS)).await;
    assert_pending!(rsp.poll());
    time::advance(2 * MS).await;
    assert!(rsp.is_woken());
    let err = assert_ready_err!(rsp.poll());
    assert_eq!(err.downcast_ref(), Some(&AttemptElapsed(ATTEMPT)));
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
            .layer(AttemptTimeoutLayer::new(ATTEMPT))
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
