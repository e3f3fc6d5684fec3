//! What a request pays for retries and time limits that it does not need: no allocation, and no timer.

use std::{
    future::{self, Future, Ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use linkerd_retry::{
    Budget, BudgetSettings, Deadline, Expired, ResponseClass, RetryPolicy,
    expire::DeadlineLayer,
    requeue::{RequeueLayer, Unsent},
    retry::{RetryLayer, Within},
    timeout::{AttemptElapsed, AttemptTimeoutLayer, Elapsed, TotalTimeoutLayer},
};
use tower::{Layer, Service, ServiceBuilder};

#[derive(Debug)]
struct Failed;

impl From<Elapsed> for Failed {
    fn from(_: Elapsed) -> Self {
        Self
    }
}

impl From<AttemptElapsed> for Failed {
    fn from(_: AttemptElapsed) -> Self {
        Self
    }
}

impl From<Expired> for Failed {
    fn from(_: Expired) -> Self {
        Self
    }
}

impl Unsent<u32> for Failed {
    fn is_unsent(&self) -> bool {
        false
    }

    fn take_unsent(self) -> Result<u32, Self> {
        Err(self)
    }
}

/// Answers at once.
#[derive(Clone)]
struct Echo;

impl Service<u32> for Echo {
    type Response = u32;
    type Error = Failed;
    type Future = Ready<Result<u32, Failed>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: u32) -> Self::Future {
        future::ready(Ok(req))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The trait's signature.
fn over_500(_: &u32, rsp: Result<&u32, &Failed>) -> ResponseClass {
    if rsp.is_ok_and(|status| *status < 500) { ResponseClass::Success } else { ResponseClass::RETRYABLE }
}

/// There is no runtime here: what touched a timer would panic.
fn allocations(mut svc: impl Service<u32, Response = u32, Error = Failed>, req: u32) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    let mut call = || {
        assert!(svc.poll_ready(&mut cx).is_ready());
        let rsp = pin!(svc.call(req));
        assert!(matches!(rsp.poll(&mut cx), Poll::Ready(Ok(rsp)) if rsp == req));
    };
    call();
    measure(call).count_total
}

#[test]
fn a_first_attempt_that_succeeds_allocates_nothing() {
    let deadline = |_: &u32| {
        let now = tokio::time::Instant::now().into_std();
        Deadline::after(now, Duration::from_secs(1))
    };
    let all = ServiceBuilder::new()
        .layer(DeadlineLayer::server(deadline))
        .layer(TotalTimeoutLayer::new(Duration::from_secs(5)))
        .layer(RetryLayer::new(over_500).hooks(Within(Duration::from_secs(5))))
        .layer(RequeueLayer::new())
        .layer(AttemptTimeoutLayer::new(Duration::from_secs(1)))
        .service(Echo);
    assert_eq!(allocations(all, 200), 0);
    assert_eq!(allocations(RetryPolicy::unary().layer(over_500).layer(Echo), 200), 0);
    assert_eq!(allocations(RetryPolicy::standard().layer(over_500).layer(Echo), 200), 0);
}

/// That there is no timer to touch is a proof only if touching one shows.
#[test]
#[should_panic(expected = "no reactor running")]
fn a_response_that_is_not_there_at_once_arms_a_timer() {
    #[derive(Clone)]
    struct Hangs;
    impl Service<u32> for Hangs {
        type Response = u32;
        type Error = Failed;
        type Future = future::Pending<Result<u32, Failed>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: u32) -> Self::Future {
            future::pending()
        }
    }
    allocations(RetryPolicy::unary().layer(over_500).layer(Hangs), 200);
}

/// The counter counts: a failure has a log, and that is on the heap.
#[test]
fn a_failure_allocates_its_log() {
    let budget = Budget::new(BudgetSettings::share(0.000_1)).unwrap();
    assert!(allocations(RetryLayer::new(over_500).budget(budget).layer(Echo), 500) > 0);
}
