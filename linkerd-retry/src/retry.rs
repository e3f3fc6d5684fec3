//! Sends a request again when its outcome says that this may help and the budget says that it may be.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Backoff, Budget, Classifier, Delays,
    dice::Dice,
    tally::{Counter, PER_REQUEST_BUCKETS, PerRequest},
};

/// Makes the copy of a request that a later attempt sends.
///
/// Any `Fn(&Req) -> Option<Req>` is one. It runs once per attempt, before the request goes out, so a copy should be
/// cheap: share what is large.
pub trait CopyRequest<Req>: Send + Sync + 'static {
    /// A request that means the same, or `None` if there can be none: the request is then sent once and its outcome
    /// passed on as it is.
    fn copy(&self, req: &Req) -> Option<Req>;
}

/// Copies every request by [`Clone`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Cloned;

/// Wraps services in [`Retry`]. All services that one layer makes share its budget and its counters.
#[derive(Clone)]
pub struct RetryLayer<C, R = Cloned> {
    policy: Policy<C, R>,
}

/// Sends a request again as long as its class is *retryable* and the budget has a retry left.
///
/// Every request deposits into the budget. A retry withdraws from it before it waits for its backoff. When there is
/// nothing to withdraw, or the class is another one, the last outcome is passed on as it came. An outcome that is not
/// passed on is dropped before the backoff begins, with whatever it holds.
///
/// **Readiness.** `poll_ready` is the inner service's. `call` sends the first attempt on the service that was made ready
/// and leaves a clone in its place; later attempts make that same service ready again, in the response future. If that
/// fails, the failure is the outcome and is not retried.
///
/// **Deadlines.** Nothing here ends a request by time. Put a [`TotalTimeout`](crate::timeout::TotalTimeout) above it: a
/// retry without backoff first gives way to the executor once, so that what is above sees the time even if every
/// attempt fails at once.
///
/// Dropping the response future drops the attempt or the backoff that it is in; a retry that was paid for stays paid.
#[derive(Clone)]
pub struct Retry<S, C, R = Cloned> {
    inner: S,
    policy: Arc<Policy<C, R>>,
}

/// What [`Retry`] counted so far. Clones read the same counters, and so do all services of one layer.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Counters>);

/// Response future of [`Retry`].
#[pin_project(PinnedDrop)]
pub struct ResponseFuture<S, C, R, Req>
where
    S: Service<Req>,
{
    policy: Arc<Policy<C, R>>,
    service: S,
    /// What the next attempt sends, and what this one's outcome is classified by. `None` if this attempt is the last.
    copy: Option<Req>,
    delays: Delays,
    retries: u32,
    #[pin]
    state: State<S::Future>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Attempt(#[pin] F),
    Backoff(#[pin] Sleep),
    Ready,
}

#[derive(Clone)]
struct Policy<C, R> {
    classifier: C,
    copy: R,
    budget: Budget,
    backoff: Backoff,
    dice: Dice,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Counters {
    total: Counter,
    budget_exhausted: Counter,
    per_request: PerRequest,
}

impl<C> RetryLayer<C> {
    /// Retries what `classifier` calls retryable, at once, with the default [`Budget`]; requests are copied by `Clone`.
    #[must_use]
    pub fn new(classifier: C) -> Self {
        let policy = Policy {
            classifier,
            copy: Cloned,
            budget: Budget::default(),
            backoff: Backoff::none(),
            dice: Dice::default(),
            stats: Stats::default(),
        };
        Self { policy }
    }
}

impl<C, R> RetryLayer<C, R> {
    /// Takes retries from this budget, which other layers may share.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.policy.budget = budget;
        self
    }

    /// Waits before each retry. All but [`Backoff::none`] need tokio's timer.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self
    }

    /// Copies requests in another way than by `Clone`, or not all of them.
    #[must_use]
    pub fn copy_with<R2>(self, copy: R2) -> RetryLayer<C, R2> {
        let Policy { classifier, copy: _, budget, backoff, dice, stats } = self.policy;
        RetryLayer { policy: Policy { classifier, copy, budget, backoff, dice, stats } }
    }

    /// Makes the jitter of the backoffs repeatable.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.policy.dice = Dice::seeded(seed);
        self
    }

    /// The counters of this layer and of every service that it makes.
    pub fn stats(&self) -> Stats {
        self.policy.stats.clone()
    }
}

impl Stats {
    /// Retries that were scheduled.
    pub fn total(&self) -> u64 {
        self.0.total.get()
    }

    /// Outcomes that were retryable, and were passed on because the budget had no retry left.
    pub fn budget_exhausted(&self) -> u64 {
        self.0.budget_exhausted.get()
    }

    /// How many requests had how many retries, as [`PER_REQUEST_BUCKETS`] tells. A request counts when its response
    /// future is dropped, whether or not it came to its end.
    pub fn per_request(&self) -> [u64; PER_REQUEST_BUCKETS] {
        self.0.per_request.get()
    }
}

impl<S, C: Clone, R: Clone> Layer<S> for RetryLayer<C, R> {
    type Service = Retry<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, policy: Arc::new(self.policy.clone()) }
    }
}

impl<S, C, R, Req> Service<Req> for Retry<S, C, R>
where
    S: Service<Req> + Clone,
    C: Classifier<Req, S::Response, S::Error>,
    R: CopyRequest<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, C, R, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let policy = self.policy.clone();
        let fresh = self.inner.clone();
        let mut service = mem::replace(&mut self.inner, fresh);
        policy.budget.deposit(Instant::now().into_std());
        ResponseFuture {
            copy: if policy.budget.is_off() { None } else { policy.copy.copy(&req) },
            delays: policy.backoff.start(),
            retries: 0,
            state: State::Attempt(service.call(req)),
            service,
            policy,
        }
    }
}

impl<S, C, R, Req> Future for ResponseFuture<S, C, R, Req>
where
    S: Service<Req>,
    C: Classifier<Req, S::Response, S::Error>,
    R: CopyRequest<Req>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let policy = &**this.policy;
        loop {
            match this.state.as_mut().project() {
                StateProj::Attempt(attempt) => {
                    let outcome = ready!(attempt.poll(cx));
                    let Some(req) = this.copy.as_ref() else { return Poll::Ready(outcome) };
                    if !policy.classifier.classify(req, outcome.as_ref()).is_retryable() {
                        return Poll::Ready(outcome);
                    }
                    if !policy.budget.try_withdraw(Instant::now().into_std()) {
                        policy.stats.0.budget_exhausted.add_one();
                        return Poll::Ready(outcome);
                    }
                    policy.stats.0.total.add_one();
                    *this.retries = this.retries.saturating_add(1);
                    // A response can hold a connection, which nobody should hold through a backoff.
                    drop(outcome);
                    let delay = this.delays.next(policy.dice.roll());
                    if delay.is_zero() {
                        this.state.set(State::Ready);
                        // Once round the executor, so that attempts which fail at once cannot starve the timers above.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    this.state.set(State::Backoff(sleep(delay)));
                }
                StateProj::Backoff(sleep) => {
                    ready!(sleep.poll(cx));
                    this.state.set(State::Ready);
                }
                StateProj::Ready => {
                    ready!(this.service.poll_ready(cx))?;
                    let req = this.copy.take().expect("only a request with a copy is retried");
                    *this.copy = policy.copy.copy(&req);
                    this.state.set(State::Attempt(this.service.call(req)));
                }
            }
        }
    }
}

#[pinned_drop]
impl<S, C, R, Req> PinnedDrop for ResponseFuture<S, C, R, Req>
where
    S: Service<Req>,
{
    fn drop(self: Pin<&mut Self>) {
        self.policy.stats.0.per_request.record(self.retries);
    }
}

impl<Req: Clone> CopyRequest<Req> for Cloned {
    fn copy(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }
}

impl<F, Req> CopyRequest<Req> for F
where
    F: Fn(&Req) -> Option<Req> + Send + Sync + 'static,
{
    fn copy(&self, req: &Req) -> Option<Req> {
        self(req)
    }
}

// By hand, because classifiers are closures more often than not, and those have no `Debug`.
impl<C, R> fmt::Debug for Policy<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, backoff, stats, .. } = self;
        f.debug_struct("Policy")
            .field("budget", budget)
            .field("backoff", backoff)
            .field("stats", stats)
            .finish_non_exhaustive()
    }
}

impl<C, R> fmt::Debug for RetryLayer<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RetryLayer").field(&self.policy).finish()
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for Retry<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("policy", &self.policy).finish()
    }
}

impl<S: Service<Req>, C, R, Req> fmt::Debug for ResponseFuture<S, C, R, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Attempt(_) => "attempt",
            State::Backoff(_) => "backoff",
            State::Ready => "ready",
        };
        f.debug_struct("ResponseFuture").field("retries", &self.retries).field("state", &state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
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
}
