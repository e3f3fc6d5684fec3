//! Sends a request again when its outcome says that this may help, its budget says that it may be, and its deadline that
//! there is time.
//!
//! After each attempt these are asked, in this order, and the first that says no ends it; the last outcome is passed on
//! as it came:
//!
//! | asked | says no when | [counted](Stats) as |
//! |---|---|---|
//! | the [classifier](crate::Classifier) | it succeeded; or it failed and may not, or need not, be sent again | - |
//! | the [copy](CopyRequest) | there is none, or it has lost its beginning | - |
//! | the peer | it [pushed back](crate::Pushback) for good | `pushed_back` |
//! | [`max_attempts`](RetryLayer::max_attempts), none by default | there were as many | `max_attempts` |
//! | the [deadline](Hooks::deadline), none by default | the wait, and an attempt of the usual time, end after it | `deadline` |
//! | the [budget](RetryLayer::budget), 20 % and 10 a second by default | it is used up | `budget_exhausted` |
//!
//! What remains is paid for, and counts as a retry (`total`). Then comes the wait: the [backoff](RetryLayer::backoff),
//! none by default, or what the peer asks for if that is longer; five minutes at most. Meanwhile the response that nobody
//! will see is dropped, or [drained](Hooks::discard) for a while.
//!
//! **Where.** Below a [`TotalTimeout`](crate::timeout::TotalTimeout) and a [`DeadlineLayer`](crate::expire::DeadlineLayer),
//! which end what is under way; above [hedges](crate::hedge), [requeues](crate::requeue), an
//! [`AttemptTimeout`](crate::timeout::AttemptTimeout) and whatever picks an endpoint or looks up a name, so that each
//! attempt may go elsewhere. To send it elsewhere, have [`Hooks::before`] write on the request where it was
//! ([`Log::endpoints`]), and the picker avoid these while two are left.
//!
//! **Elsewhere.** Layers above retry too, perhaps in other processes. So that they do not multiply, tell them:
//! [`Hooks::end`] knows that the [budget](crate::Stop::BudgetExhausted) ended it, and can write that on the outcome, and
//! their classifier makes [`Pushback::Never`](crate::Pushback::Never) of it.
//!
//! A body that can be sent only once goes into a `ReplayBody` of the module `replay`. The service is [`Retry`]; without one,
//! [`Attempts`](crate::Attempts) decides the same.

mod future;
mod hooks;
mod log;

use std::{
    fmt,
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    future::ResponseFuture,
    hooks::{Attempt, Drain, Hooks, NoHooks, Within},
    log::{Log, MAX_LOGGED, Tried},
};
use crate::{
    Backoff, Budget, Classifier, Deadline, Retries, Stop,
    attempts::TICK,
    dice::Dice,
    ready::take_ready,
    tally::{Counter, PER_REQUEST_BUCKETS, PerRequest},
    typical::Typical,
};

/// Makes the copy of a request that a later attempt sends.
///
/// Any `Fn(&Req) -> Option<Req>` is one. It runs once per attempt, before the request goes out, so a copy should be
/// cheap: share what is large.
pub trait CopyRequest<Req>: Send + Sync + 'static {
    /// A request that means the same, or `None` if there can be none: the request is then sent once and its outcome
    /// passed on as it is.
    fn copy(&self, req: &Req) -> Option<Req>;

    /// Whether a copy still means the same, asked when it is about to be sent. One that shares a body with the request
    /// may turn out to have lost the beginning of it. By default it does.
    fn is_whole(&self, copy: &Req) -> bool {
        let _ = copy;
        true
    }
}

/// Copies every request by [`Clone`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Cloned;

/// Copies every request by [`Clone`], and sends a copy only as long as this `Fn(&Req) -> bool` says that it is
/// [whole](CopyRequest::is_whole).
#[derive(Clone, Copy, Debug)]
pub struct ClonedWhile<F>(pub F);

/// Wraps services in [`Retry`]. All services that one layer makes share its budget and its counters.
#[derive(Clone)]
pub struct RetryLayer<C, R = Cloned, H = NoHooks> {
    policy: Policy<C, R, H>,
}

/// Sends a request again as long as its [verdict](crate::Verdict) is *retryable*, there is time, and the budget has a
/// retry left.
///
/// Every request deposits into the budget. A retry withdraws from it before it waits for its backoff, or for as long as
/// the peer asks if that is longer. When there is nothing to withdraw, or the verdict is another one, the last outcome is
/// passed on as it came. An outcome that is not passed on is dropped before the backoff begins, with whatever it holds.
///
/// **Readiness.** `poll_ready` is the inner service's. `call` sends the first attempt on the service that was made ready
/// and leaves a clone in its place; later attempts make that same service ready again, in the response future. If that
/// fails, the failure is the outcome and is not retried.
///
/// **Deadlines.** With [hooks](Hooks::deadline) that know a request's deadline, no attempt begins after it, nor one that
/// would not be over by it as far as anybody can tell: from the [least time](RetryLayer::min_attempt_time) that is given,
/// and from the median of what successes took, of which it measures one in four. The last outcome is passed on instead. But nothing here ends an attempt
/// that is under way: put a [`TotalTimeout`](crate::timeout::TotalTimeout) or a
/// [`DeadlineLayer`](crate::expire::DeadlineLayer) above it. A retry without backoff first gives way to the executor
/// once, so that what is above sees the time even if every attempt fails at once.
///
/// **Cancellation.** Everything happens in the response future, and nothing in the background. Dropping it drops the
/// attempt, the backoff or the drain that it is in; a retry that was paid for stays paid.
///
/// A first attempt that succeeds costs no allocation, if copying the request does not.
///
/// ```
/// use linkerd_retry::{Backoff, Pushback, Safety, Verdict, retry::RetryLayer};
/// use std::{num::NonZeroU32, time::Duration};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let busy = |_: &&str, rsp: Result<&u16, &BoxError>| match rsp {
///     Ok(503) => Verdict::failure(Safety::Refused).push_back(Pushback::After(Duration::from_millis(200))),
///     Ok(_) => Verdict::SUCCESS,
///     Err(_) => Verdict::failure(Safety::Unsafe),
/// };
/// let retry = RetryLayer::new(busy)
///     .backoff(Backoff::full_jittered(Duration::from_millis(25), Duration::from_secs(1))?)
///     .max_attempts(NonZeroU32::new(3).unwrap());
/// let stats = retry.stats();
/// let svc = ServiceBuilder::new().layer(retry).service(service_fn(|_: &str| async { Ok::<_, BoxError>(503) }));
/// let start = tokio::time::Instant::now();
/// assert_eq!(svc.oneshot("POST /").await?, 503);
/// assert_eq!((stats.total(), stats.max_attempts()), (2, 1));
/// assert!(start.elapsed() >= Duration::from_millis(400));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Retry<S, C, R = Cloned, H = NoHooks> {
    inner: S,
    policy: Arc<Policy<C, R, H>>,
}

/// What [`Retry`] counted so far. Clones read the same counters, and so do all services of one layer.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Counters>);

#[derive(Clone)]
struct Policy<C, R, H> {
    classifier: C,
    copy: R,
    hooks: H,
    retries: Retries,
    drain_for: Duration,
    typical: Typical,
    dice: Dice,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Counters {
    total: Counter,
    budget_exhausted: Counter,
    max_attempts: Counter,
    deadline: Counter,
    pushed_back: Counter,
    per_request: PerRequest,
}

impl<C> RetryLayer<C> {
    /// Retries what `classifier` calls retryable, at once, with the default [`Budget`]; requests are copied by `Clone`.
    #[must_use]
    pub fn new(classifier: C) -> Self {
        let policy = Policy {
            classifier,
            copy: Cloned,
            hooks: NoHooks,
            retries: Retries::default(),
            drain_for: Duration::from_millis(20),
            typical: Typical::default(),
            dice: Dice::default(),
            stats: Stats::default(),
        };
        Self { policy }
    }
}

impl<C, R, H> RetryLayer<C, R, H> {
    /// Retries by these settings, in place of those that there were.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.policy.retries = retries;
        self
    }

    /// Takes retries from this budget, which other layers may share.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.policy.retries.budget = budget;
        self
    }

    /// Waits before each retry. All but [`Backoff::none`] need tokio's timer.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.retries.backoff = backoff;
        self
    }

    /// Sends one request so often at most, the first time included. Without this the budget alone says.
    #[must_use]
    pub fn max_attempts(mut self, max: NonZeroU32) -> Self {
        self.policy.retries.max_attempts = Some(max);
        self
    }

    /// Makes no retry that would have less than this time before the deadline. Zero by default: then only what successes
    /// took counts.
    #[must_use]
    pub fn min_attempt_time(mut self, time: Duration) -> Self {
        self.policy.retries.min_attempt_time = time;
        self
    }

    /// How long a discarded response is [drained](Hooks::discard) if its backoff is shorter. 20 ms by default. Of the
    /// time that a deadline leaves to spare it is at most half.
    #[must_use]
    pub fn drain_for(mut self, time: Duration) -> Self {
        self.policy.drain_for = time;
        self
    }

    /// Copies requests in another way than by `Clone`, or not all of them.
    #[must_use]
    pub fn copy_with<R2>(self, copy: R2) -> RetryLayer<C, R2, H> {
        let Policy { classifier, copy: _, hooks, retries, drain_for, typical, dice, stats } = self.policy;
        RetryLayer { policy: Policy { classifier, copy, hooks, retries, drain_for, typical, dice, stats } }
    }

    /// Asks and tells these about each request.
    #[must_use]
    pub fn hooks<H2>(self, hooks: H2) -> RetryLayer<C, R, H2> {
        let Policy { classifier, copy, hooks: _, retries, drain_for, typical, dice, stats } = self.policy;
        RetryLayer { policy: Policy { classifier, copy, hooks, retries, drain_for, typical, dice, stats } }
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

    /// The same, because there were as many attempts as there may be.
    pub fn max_attempts(&self) -> u64 {
        self.0.max_attempts.get()
    }

    /// The same, because there was no time for another attempt; and requests that were over time before they were sent.
    pub fn deadline(&self) -> u64 {
        self.0.deadline.get()
    }

    /// The same, because the peer asked for no retry.
    pub fn pushed_back(&self) -> u64 {
        self.0.pushed_back.get()
    }

    /// How many requests had how many retries, as [`PER_REQUEST_BUCKETS`] tells. A request counts when its response
    /// future is dropped, whether or not it came to its end.
    pub fn per_request(&self) -> [u64; PER_REQUEST_BUCKETS] {
        self.0.per_request.get()
    }
}

impl<S, C: Clone, R: Clone, H: Clone> Layer<S> for RetryLayer<C, R, H> {
    type Service = Retry<S, C, R, H>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, policy: Arc::new(self.policy.clone()) }
    }
}

impl<S, C, R, H, Req> Service<Req> for Retry<S, C, R, H>
where
    S: Service<Req> + Clone,
    C: Classifier<Req, S::Response, S::Error>,
    R: CopyRequest<Req>,
    H: Hooks<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, C, R, Req, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        ResponseFuture::new(self.policy.clone(), take_ready(&mut self.inner), req)
    }
}

impl<C, R, H> Policy<C, R, H> {
    /// What is passed on, after the hooks had a look at it.
    fn end<Req, Rsp, E>(&self, mut outcome: Result<Rsp, E>, log: &mut Log, stop: Stop) -> Result<Rsp, E>
    where
        H: Hooks<Req, Rsp, E>,
    {
        match stop {
            Stop::BudgetExhausted => self.stats.0.budget_exhausted.add_one(),
            Stop::MaxAttempts => self.stats.0.max_attempts.add_one(),
            Stop::Deadline => self.stats.0.deadline.add_one(),
            Stop::PushedBack => self.stats.0.pushed_back.add_one(),
            _ => {}
        }
        log.end(stop);
        self.hooks.end(&mut outcome, log);
        outcome
    }

    /// Whether to note how long a first attempt that succeeded took: one in four, and the first ones.
    fn is_measured(&self) -> bool {
        self.stats.0.per_request.first().is_multiple_of(4) || self.typical.get().is_zero()
    }

    /// Until when a response is drained: when the next attempt is due or for the time there is for it, whichever is
    /// longer; but of the time to spare before the deadline no more than half.
    fn drain_until(&self, now: Instant, due: Instant, deadline: Option<Deadline>) -> Instant {
        let spare = deadline.map_or(self.drain_for, |deadline| {
            let needed = self.typical.get().max(self.retries.min_attempt_time);
            deadline.remaining(due.into_std()).saturating_sub(needed.saturating_add(TICK)) / 2
        });
        let end = now.checked_add(self.drain_for).unwrap_or(due);
        end.min(due.checked_add(spare).unwrap_or(due)).max(due)
    }
}

impl<Req: Clone> CopyRequest<Req> for Cloned {
    fn copy(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }
}

impl<F, Req> CopyRequest<Req> for ClonedWhile<F>
where
    F: Fn(&Req) -> bool + Send + Sync + 'static,
    Req: Clone,
{
    fn copy(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }

    fn is_whole(&self, copy: &Req) -> bool {
        (self.0)(copy)
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
impl<C, R, H> fmt::Debug for Policy<C, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { retries, drain_for, stats, .. } = self;
        let mut policy = f.debug_struct("Policy");
        policy.field("retries", retries).field("drain_for", drain_for).field("stats", stats).finish_non_exhaustive()
    }
}

impl<C, R, H> fmt::Debug for RetryLayer<C, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RetryLayer").field(&self.policy).finish()
    }
}

impl<S: fmt::Debug, C, R, H> fmt::Debug for Retry<S, C, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("policy", &self.policy).finish()
    }
}

#[cfg(test)]
mod tests;
