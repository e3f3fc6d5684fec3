mod deadline;
mod hooks;

use std::{
    convert::Infallible,
    future::{Ready, ready as now},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::time;
use tokio_test::{assert_pending, assert_ready_eq, assert_ready_err, assert_ready_ok, task};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{
    BudgetSettings, ResponseClass,
    timeout::{Elapsed, TotalTimeoutLayer},
};

const MS: Duration = Duration::from_millis(1);
type Error = Box<dyn std::error::Error + Send + Sync>;
type Mock = mock::Mock<&'static str, u32>;
type Handle = mock::Handle<&'static str, u32>;

/// A service that answers 500 at once, and how often it did.
#[derive(Clone, Default)]
struct Failing(Arc<AtomicU32>);

impl Failing {
    fn calls(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Service<&'static str> for Failing {
    type Response = u32;
    type Error = Error;
    type Future = Ready<Result<u32, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        now(Ok(500))
    }
}

/// 5xx and errors are failures; what begins with `get` may be retried.
#[allow(clippy::trivially_copy_pass_by_ref)] // The trait's signature.
fn classify(req: &&'static str, rsp: Result<&u32, &Error>) -> ResponseClass {
    match rsp {
        Ok(status) if *status < 500 => ResponseClass::Success,
        _ => ResponseClass::Failure { retryable: req.starts_with("get") },
    }
}

type Classify = fn(&&'static str, Result<&u32, &Error>) -> ResponseClass;

fn layer(percent: f64) -> RetryLayer<Classify> {
    RetryLayer::new(classify as Classify).budget(Budget::new(BudgetSettings::share(percent)).unwrap())
}

fn service<R: Clone>(layer: RetryLayer<Classify, R>) -> (mock::Spawn<Retry<Mock, Classify, R>>, Handle) {
    mock::spawn_layer(layer)
}

#[tokio::test]
async fn by_default_what_always_fails_is_sent_101_times() {
    let backend = Failing::default();
    let layer = RetryLayer::new(classify as Classify);
    let mut svc = layer.layer(backend.clone());

    assert_eq!(svc.ready().await.unwrap().call("get").await.unwrap(), 500);
    assert_eq!(backend.calls(), 101);
    let stats = layer.stats();
    assert_eq!((stats.total(), stats.budget_exhausted()), (100, 1));
    assert_eq!(stats.per_request(), [0, 0, 0, 0, 0, 0, 0, 1, 0]);

    assert_eq!(svc.oneshot("get").await.unwrap(), 500);
    assert_eq!(backend.calls(), 102);
    assert_eq!((stats.total(), stats.budget_exhausted()), (100, 2));
    assert_eq!(stats.per_request(), [1, 0, 0, 0, 0, 0, 0, 1, 0]);
}

#[tokio::test]
async fn only_a_retryable_failure_is_retried() {
    for (req, status) in [("get", 200), ("get", 404), ("post", 500), ("post", 200)] {
        let layer = layer(9.0);
        let stats = layer.stats();
        let (mut svc, mut handle) = service(layer);
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call(req));
        assert_pending!(rsp.poll());
        handle.next_request().await.unwrap().1.send_response(status);
        assert_ready_eq!(rsp.poll().map(Result::unwrap), status);
        assert_eq!((stats.total(), stats.budget_exhausted()), (0, 0));
    }
}

#[tokio::test]
async fn the_last_outcome_is_passed_on_as_it_came() {
    let (mut svc, mut handle) = service(layer(2.0));
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("get"));
    assert_pending!(rsp.poll());
    for status in [500, 501] {
        let (req, reply) = handle.next_request().await.unwrap();
        assert_eq!(req, "get");
        reply.send_response(status);
        assert_pending!(rsp.poll());
        assert!(rsp.is_woken());
        assert_pending!(rsp.poll());
    }
    handle.next_request().await.unwrap().1.send_error("third");
    assert_eq!(assert_ready_err!(rsp.poll()).to_string(), "third");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_failures_at_once_get_their_share_and_no_more() {
    let backend = Failing::default();
    let mut svc = layer(0.2).backoff(Backoff::constant(1000 * MS)).layer(backend.clone());
    let mut calls: Vec<_> = (0..1000).map(|_| task::spawn(svc.call("get"))).collect();
    calls.retain_mut(|rsp| rsp.poll().is_pending());
    assert_eq!((calls.len(), backend.calls()), (200, 1000));

    time::advance(1001 * MS).await;
    for rsp in calls {
        // Awaited: polled by hand they would use up the cooperative budget of this test's one task.
        assert_eq!(rsp.await.unwrap(), 500);
    }
    assert_eq!(backend.calls(), 1200);
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_backoff_and_no_longer() {
    let (mut svc, mut handle) = service(layer(9.0).backoff(Backoff::constant(150 * MS)));
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("get"));
    assert_pending!(rsp.poll());
    handle.next_request().await.unwrap().1.send_response(500);
    assert_pending!(rsp.poll());
    time::advance(149 * MS).await;
    assert_pending!(rsp.poll());
    assert_pending!(handle.poll_request());
    time::advance(2 * MS).await;
    assert!(rsp.is_woken());
    assert_pending!(rsp.poll());
    handle.next_request().await.unwrap().1.send_response(200);
    assert_ready_eq!(rsp.poll().map(Result::unwrap), 200);
}

#[tokio::test(start_paused = true)]
async fn jitter_comes_from_the_seed() {
    let backoff = Backoff::decorrelated(MS, 60_000 * MS).unwrap();
    let mut took = Vec::new();
    for seed in [7, 7, 8] {
        let layer = layer(5.0).backoff(backoff.clone()).seed(seed);
        let start = Instant::now();
        layer.layer(Failing::default()).oneshot("get").await.unwrap();
        took.push(start.elapsed());
    }
    assert_eq!(took[0], took[1]);
    assert_ne!(took[0], took[2]);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_failed_attempt_is_held_in_backoff() {
    let lease = Arc::new(());
    let held = lease.clone();
    let backend = service_fn(move |()| now(Ok::<_, Infallible>(held.clone())));
    let retryable = |(): &(), _: Result<&Arc<()>, &Infallible>| ResponseClass::RETRYABLE;
    let mut svc = RetryLayer::new(retryable).backoff(Backoff::constant(MS)).layer(backend);
    let before = Arc::strong_count(&lease);
    // `service_fn` keeps one more for the clone that the future has.
    let mut rsp = task::spawn(svc.call(()));
    assert_pending!(rsp.poll());
    assert_eq!(Arc::strong_count(&lease), before + 1);
}

#[tokio::test]
async fn what_cannot_be_copied_is_sent_once() {
    let backend = Failing::default();
    let layer = layer(9.0).copy_with(|req: &&'static str| (*req != "get upload").then_some(*req));
    let mut svc = layer.layer(backend.clone());
    assert_eq!(svc.call("get upload").await.unwrap(), 500);
    assert_eq!(backend.calls(), 1);
    // Both requests made their deposit.
    assert_eq!(svc.call("get").await.unwrap(), 500);
    assert_eq!(backend.calls(), 1 + 1 + 18);
}

#[tokio::test]
async fn without_a_budget_nothing_is_copied() {
    let copies = Arc::new(AtomicU32::new(0));
    let count = copies.clone();
    let copy = move |req: &&'static str| {
        count.fetch_add(1, Ordering::Relaxed);
        Some(*req)
    };
    let layer = layer(0.0).copy_with(copy);
    assert_eq!(layer.layer(Failing::default()).oneshot("get").await.unwrap(), 500);
    assert_eq!(copies.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_retry_waits_for_readiness_and_fails_with_it() {
    for ends_well in [true, false] {
        let (mut svc, mut handle) = service(layer(9.0));
        handle.allow(1);
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call("get"));
        assert_pending!(rsp.poll());
        handle.next_request().await.unwrap().1.send_response(500);
        assert_pending!(rsp.poll());
        assert_pending!(rsp.poll());
        assert_pending!(handle.poll_request());
        if ends_well {
            handle.allow(1);
            assert!(rsp.is_woken());
            assert_pending!(rsp.poll());
            handle.next_request().await.unwrap().1.send_response(200);
            assert_ready_eq!(rsp.poll().map(Result::unwrap), 200);
        } else {
            handle.send_error("closed for good");
            assert_eq!(assert_ready_err!(rsp.poll()).to_string(), "closed for good");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_in_backoff_sends_nothing_and_refunds_nothing() {
    let backend = Failing::default();
    let budget = Budget::new(BudgetSettings::share(1.0)).unwrap();
    let layer = layer(0.0).budget(budget.clone()).backoff(Backoff::constant(MS));
    let mut rsp = task::spawn(layer.layer(backend.clone()).oneshot("get"));
    assert_pending!(rsp.poll());
    drop(rsp);
    time::advance(10 * MS).await;
    assert_eq!(backend.calls(), 1);
    assert_eq!(budget.balance(Instant::now().into_std()), 0);
    assert_eq!(layer.stats().per_request()[..2], [0, 1]);
}

#[tokio::test]
async fn services_of_one_layer_share_its_budget_and_others_do_not() {
    let backend = Failing::default();
    let shared = layer(1.0);
    let (mut first, mut second) = (shared.layer(backend.clone()), shared.layer(backend.clone()));
    let mut a = task::spawn(first.call("get"));
    let mut b = task::spawn(second.call("get"));
    // Two deposits, and the first to fail takes both.
    for _ in 0..2 {
        assert_pending!(a.poll());
    }
    assert_ready_ok!(b.poll());
    assert_eq!((backend.calls(), shared.stats().budget_exhausted()), (3, 1));
    assert_eq!(layer(1.0).stats().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_at_once_cannot_starve_the_timeout_above() {
    let backend = Failing::default();
    let svc = ServiceBuilder::new()
        .layer(TotalTimeoutLayer::new(Duration::ZERO))
        .layer(RetryLayer::new(classify as Classify))
        .service(backend.clone());
    let err = svc.oneshot("get").await.unwrap_err();
    assert_eq!(err.downcast_ref(), Some(&Elapsed(Duration::ZERO)));
    assert_eq!(backend.calls(), 1);
}
