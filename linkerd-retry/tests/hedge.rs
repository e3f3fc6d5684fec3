//! Hedging as its users see it: late enough, rare enough, elsewhere, and without a loser left behind.

use std::{
    future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use linkerd_retry::{
    Budget, BudgetSettings, Deadline,
    hedge::{Hedge, HedgeContext, HedgeDelay, HedgeLayer, HedgeRequest, InvalidHedge, ResponseFuture},
};
use tokio::time;
use tokio_test::{assert_pending, assert_ready_eq, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Service, service_fn};
use tower_layer::Layer;
use tower_test::mock;

const MS: Duration = Duration::from_millis(1);
const DELAY: Duration = Duration::from_millis(50);
type Mock = mock::Mock<&'static str, u32>;
type Handle = mock::Handle<&'static str, u32>;
type Get = fn(&&'static str) -> Option<&'static str>;

#[allow(clippy::trivially_copy_pass_by_ref)] // The trait's signature.
fn get(req: &&'static str) -> Option<&'static str> {
    req.starts_with("get").then_some(*req)
}

/// Every request may be hedged.
fn layer() -> HedgeLayer<Get> {
    HedgeLayer::new(get as Get, HedgeDelay::Fixed(DELAY)).unwrap().share(1.0).unwrap()
}

fn service(layer: &HedgeLayer<Get>) -> (mock::Spawn<Hedge<Mock, Get>>, Handle) {
    mock::spawn_layer(layer.clone())
}

/// A request that waits for its response, and what answers it.
async fn begin(
    svc: &mut mock::Spawn<Hedge<Mock, Get>>,
    handle: &mut Handle,
    req: &'static str,
) -> (task::Spawn<ResponseFuture<Mock, Get, &'static str>>, mock::SendResponse<u32>) {
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call(req));
    assert_pending!(rsp.poll());
    (rsp, handle.next_request().await.unwrap().1)
}

#[tokio::test(start_paused = true)]
async fn a_second_request_goes_out_after_the_delay_and_not_before() {
    let layer = layer();
    let (mut svc, mut handle) = service(&layer);
    let (mut rsp, first) = begin(&mut svc, &mut handle, "get").await;
    time::advance(DELAY.saturating_sub(MS)).await;
    assert_pending!(rsp.poll());
    assert_pending!(handle.poll_request());
    time::advance(2 * MS).await;
    assert!(rsp.is_woken());
    assert_pending!(rsp.poll());
    let (req, second) = handle.next_request().await.unwrap();
    assert_eq!(req, "get");
    second.send_response(2);
    assert_ready_eq!(rsp.poll().map(Result::unwrap), 2);
    // The one that lost was cancelled.
    first.send_response(1);
    assert_eq!((layer.stats().sent(), layer.stats().won()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_may_still_win_and_wins_a_tie() {
    let layer = layer();
    let (mut svc, mut handle) = service(&layer);
    let (mut rsp, first) = begin(&mut svc, &mut handle, "get").await;
    time::advance(DELAY + MS).await;
    assert_pending!(rsp.poll());
    let (_, second) = handle.next_request().await.unwrap();
    second.send_response(2);
    first.send_response(1);
    assert_ready_eq!(rsp.poll().map(Result::unwrap), 1);
    assert_eq!((layer.stats().sent(), layer.stats().won()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_idempotent_is_sent_once() {
    let layer = layer();
    let (mut svc, mut handle) = service(&layer);
    let (mut rsp, first) = begin(&mut svc, &mut handle, "post").await;
    time::advance(10 * DELAY).await;
    assert_pending!(rsp.poll());
    assert_pending!(handle.poll_request());
    first.send_response(1);
    assert_ready_eq!(rsp.poll().map(Result::unwrap), 1);
    assert_eq!((layer.stats().sent(), layer.stats().budget_exhausted()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_the_first_goes_on_alone() {
    for layer in [layer().budget(Budget::off()), layer().share(0.0).unwrap(), layer().share(0.5).unwrap()] {
        let (mut svc, mut handle) = service(&layer);
        let (mut rsp, first) = begin(&mut svc, &mut handle, "get").await;
        time::advance(2 * DELAY).await;
        assert_pending!(rsp.poll());
        assert_pending!(handle.poll_request());
        assert_eq!((layer.stats().sent(), layer.stats().budget_exhausted()), (0, 1));
        first.send_response(1);
        assert_ready_eq!(rsp.poll().map(Result::unwrap), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn it_draws_from_the_budget_that_the_retries_have() {
    let ttl = Duration::from_secs(10);
    let retries = Budget::new(BudgetSettings { ttl, min_per_sec: 1, percent: 0.0 }).unwrap();
    let layer = layer().budget(retries.clone());
    let mut svc = layer.layer(service_fn(|_| future::pending::<Result<u32, BoxError>>()));
    let mut calls: Vec<_> = (0..20).map(|_| task::spawn(svc.call("get"))).collect();
    for rsp in &mut calls {
        assert_pending!(rsp.poll());
    }
    time::advance(DELAY + MS).await;
    for rsp in &mut calls {
        assert_pending!(rsp.poll());
    }
    assert_eq!((layer.stats().sent(), layer.stats().budget_exhausted()), (10, 10));
    assert!(!retries.try_withdraw(time::Instant::now().into_std()));
}

#[tokio::test(start_paused = true)]
async fn a_failure_leaves_it_to_the_other() {
    for (first_fails, second_fails) in [(true, false), (false, true), (true, true)] {
        let layer = layer();
        let (mut svc, mut handle) = service(&layer);
        let (mut rsp, first) = begin(&mut svc, &mut handle, "get").await;
        time::advance(DELAY + MS).await;
        assert_pending!(rsp.poll());
        let (_, second) = handle.next_request().await.unwrap();
        let (failing, other) = if first_fails { (first, second) } else { (second, first) };
        failing.send_error("failed at once");
        assert_pending!(rsp.poll());
        if first_fails && second_fails {
            other.send_error("failed later");
            assert_eq!(assert_ready_err!(rsp.poll()).to_string(), "failed later");
        } else {
            other.send_response(7);
            assert_ready_eq!(rsp.poll().map(Result::unwrap), 7);
        }
        assert_eq!(layer.stats().won(), u64::from(first_fails));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_delay_is_the_outcome() {
    let layer = layer();
    let (mut svc, mut handle) = service(&layer);
    let (mut rsp, first) = begin(&mut svc, &mut handle, "get").await;
    first.send_error("failed");
    assert_eq!(assert_ready_err!(rsp.poll()).to_string(), "failed");
    assert_eq!(layer.stats().sent(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_second_waits_for_readiness_and_the_first_may_win_meanwhile() {
    for ready in [true, false] {
        let layer = layer();
        let (mut svc, mut handle) = service(&layer);
        handle.allow(1);
        let (mut rsp, first) = begin(&mut svc, &mut handle, "get").await;
        time::advance(DELAY + MS).await;
        assert_pending!(rsp.poll());
        assert_pending!(handle.poll_request());
        if ready {
            handle.allow(1);
            assert!(rsp.is_woken());
            assert_pending!(rsp.poll());
            assert_eq!(handle.next_request().await.unwrap().0, "get");
        } else {
            handle.send_error("closed for good");
            assert_pending!(rsp.poll());
        }
        first.send_response(1);
        assert_ready_eq!(rsp.poll().map(Result::unwrap), 1);
    }
}

/// A request that knows which endpoints were tried for it.
#[derive(Clone)]
struct Spread {
    tried: Arc<Mutex<Vec<u32>>>,
    second: Option<HedgeContext>,
}

struct Elsewhere;

impl HedgeRequest<Spread, u32, BoxError> for Elsewhere {
    fn copy(&self, first: &mut Spread) -> Option<Spread> {
        Some(first.clone())
    }

    fn prepare(&self, second: &mut Spread, context: HedgeContext) {
        second.second = Some(context);
    }

    fn wins(&self, outcome: Result<&u32, &BoxError>) -> bool {
        outcome.is_ok_and(|endpoint| *endpoint != 0)
    }
}

/// One more that runs, until it is dropped.
struct Running(Arc<AtomicU32>);

impl Running {
    fn begin(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_can_go_elsewhere_and_the_loser_ends_at_once() {
    let running = Arc::new(AtomicU32::new(0));
    let count = running.clone();
    // Endpoint 1 hangs, endpoint 2 answers after a while.
    let pick = service_fn(move |req: Spread| {
        let endpoint = if req.second.is_some() && req.tried.lock().unwrap().contains(&1) { 2 } else { 1 };
        req.tried.lock().unwrap().push(endpoint);
        let running = Running::begin(&count);
        async move {
            let _running = running;
            if endpoint == 1 {
                future::pending::<()>().await;
            }
            time::sleep(10 * MS).await;
            Ok::<_, BoxError>(endpoint)
        }
    });
    let layer = HedgeLayer::new(Elsewhere, HedgeDelay::Fixed(DELAY)).unwrap();
    let mut svc = layer.layer(pick);
    let tried = Arc::new(Mutex::new(Vec::new()));
    // Nineteen that earn the one, and are given up.
    for _ in 0..19 {
        drop(svc.call(Spread { tried: Arc::default(), second: None }));
    }
    let mut rsp = task::spawn(svc.call(Spread { tried: tried.clone(), second: None }));
    assert_pending!(rsp.poll());
    assert_eq!(running.load(Ordering::SeqCst), 1);
    time::advance(DELAY + MS).await;
    assert_pending!(rsp.poll());
    assert_eq!((running.load(Ordering::SeqCst), tried.lock().unwrap().clone()), (2, vec![1, 2]));
    time::advance(11 * MS).await;
    assert_ready_eq!(rsp.poll().map(Result::unwrap), 2);
    // Though the future is still there.
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_every_poll_nothing_goes_on() {
    for polls in 0..4 {
        let running = Arc::new(AtomicU32::new(0));
        let count = running.clone();
        let mut svc = layer().layer(service_fn(move |_| {
            let running = Running::begin(&count);
            async move {
                let _running = running;
                future::pending::<Result<u32, BoxError>>().await
            }
        }));
        let mut rsp = task::spawn(svc.call("get"));
        for _ in 0..polls {
            assert_pending!(rsp.poll());
            time::advance(DELAY + MS).await;
        }
        assert_eq!(running.load(Ordering::SeqCst), if polls > 1 { 2 } else { 1 });
        drop(rsp);
        assert_eq!(running.load(Ordering::SeqCst), 0);
    }
}

/// A request that says by when it must be over.
#[derive(Clone, Copy)]
struct By(Deadline);

#[derive(Clone)]
struct Carried;

impl HedgeRequest<By, u32, BoxError> for Carried {
    fn copy(&self, first: &mut By) -> Option<By> {
        Some(*first)
    }

    fn deadline(&self, first: &By) -> Option<Deadline> {
        Some(first.0)
    }
}

#[tokio::test(start_paused = true)]
async fn no_second_request_begins_after_the_deadline_even_if_the_timer_is_late() {
    // When the deadline is, when somebody looks, how long readiness takes, and how many were sent.
    for (deadline, looks, ready, sent) in
        [(60, 51, 0, 2), (50, 51, 0, 1), (40, 51, 0, 1), (60, 60, 0, 1), (60, 51, 8, 2), (60, 51, 9, 1)]
    {
        let layer = HedgeLayer::new(Carried, HedgeDelay::Fixed(DELAY)).unwrap().share(1.0).unwrap();
        let (mut svc, mut handle) = mock::spawn_layer::<By, u32, _>(layer.clone());
        handle.allow(1);
        assert_ready_ok!(svc.poll_ready());
        let by = Deadline::after(time::Instant::now().into_std(), deadline * MS).unwrap();
        let mut rsp = task::spawn(svc.call(By(by)));
        assert_pending!(rsp.poll());
        let _first = handle.next_request().await.unwrap();
        time::advance(looks * MS).await;
        assert_pending!(rsp.poll());
        time::advance(ready * MS).await;
        handle.allow(1);
        assert_pending!(rsp.poll());
        assert_eq!(handle.poll_request().is_ready(), sent == 2, "{deadline} {looks} {ready}");
        // What is known to be too late is not paid for.
        assert_eq!(layer.stats().sent(), if ready > 0 { 1 } else { sent - 1 });
    }
}

/// Copies everything, and sends nothing a second time.
#[derive(Clone)]
struct Unwanted;

impl HedgeRequest<&'static str, u32, BoxError> for Unwanted {
    fn copy(&self, first: &mut &'static str) -> Option<&'static str> {
        Some(*first)
    }

    fn is_wanted(&self, second: &&'static str) -> bool {
        second.starts_with("put")
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_when_it_is_due_is_not_paid_for() {
    let layer = HedgeLayer::new(Unwanted, HedgeDelay::Fixed(DELAY)).unwrap().share(1.0).unwrap();
    let slow = service_fn(async |_: &'static str| {
        time::sleep(2 * DELAY).await;
        Ok::<_, BoxError>(1)
    });
    let mut svc = layer.layer(slow);
    assert_eq!(svc.call("get").await.unwrap(), 1);
    assert_eq!((layer.stats().sent(), layer.stats().budget_exhausted()), (0, 0));
    assert_eq!(svc.call("put").await.unwrap(), 1);
    assert_eq!(layer.stats().sent(), 1);
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |delay| HedgeLayer::new(get as Get, delay).unwrap_err();
    let (min, max) = (2 * MS, MS);
    assert_eq!(
        refused(HedgeDelay::Percentile { percentile: 95.0, min, max }).to_string(),
        "a hedge's delay cannot be at least 2ms and at most 1ms"
    );
    for percentile in [0.0, -1.0, 100.1, f64::NAN] {
        let err = refused(HedgeDelay::Percentile { percentile, min, max: min });
        assert!(err.to_string().ends_with(&percentile.to_string()), "{err}");
    }
    for share in [-0.1, 1.1, f64::INFINITY] {
        assert_eq!(layer().share(share).unwrap_err(), InvalidHedge::Share(share));
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_clock_never_ends() {
    let layer = HedgeLayer::new(get as Get, HedgeDelay::Fixed(Duration::MAX)).unwrap();
    let mut svc = layer.layer(service_fn(|_| future::pending::<Result<u32, BoxError>>()));
    let mut rsp = task::spawn(svc.call("get"));
    assert_pending!(rsp.poll());
    time::advance(Duration::from_hours(24)).await;
    assert_pending!(rsp.poll());
}

/// Without a runtime there is no timer: touching one would panic.
#[test]
fn a_response_that_is_there_at_once_touches_no_timer() {
    let mut svc = layer().layer(service_fn(|_| future::ready(Ok::<u32, BoxError>(1))));
    assert_ready_eq!(task::spawn(svc.call("get")).poll().map(Result::unwrap), 1);
}
