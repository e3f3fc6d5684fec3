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
