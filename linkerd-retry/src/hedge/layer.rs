//! The layer that sends the second request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::{HedgeContext, HedgeDelay, HedgeRequest, InvalidHedge, Percentile};
use crate::{Budget, BudgetSettings, Deadline, tally::Counter};

/// The share of requests that are sent twice at most, unless another is set.
const DEFAULT_SHARE: f64 = 0.05;
/// How many requests a percentile needs.
const MIN_COUNT: u32 = 100;

/// Wraps services in [`Hedge`]. All of them share budgets, latencies and counters.
pub struct HedgeLayer<H> {
    shared: Arc<Shared<H>>,
}

/// Sends a request a second time if the first takes long, and takes the better outcome of the two.
///
/// That the first one takes long is a matter of [`HedgeDelay`]. The second one must then be paid for twice: from a share
/// of the requests, 5 % by default, which bounds the extra load even when *every* request takes long, and from the
/// [budget](HedgeLayer::budget) of the retries, if there is one. If there is nothing to pay with, the first goes on alone.
/// The first response ends the other request, by dropping it. If one fails while the other is under way, it is the other
/// one's outcome that counts.
///
/// No second request begins after the [deadline](HedgeRequest::deadline) of the first, if that is known here.
///
/// Only requests of which [`HedgeRequest::copy`] makes a copy are hedged: idempotent ones.
///
/// **Readiness** is the inner service's. A clone of it is made ready when the second request is due, and not before, so
/// that hedging holds nothing of what readiness reserves. If it fails to, there is no second request.
///
/// The timer is touched only when the first poll finds no response; nothing is allocated for a request that is answered
/// in time. **Cancel safety.** Dropping the response future drops both requests; what was paid stays paid.
///
/// ```
/// use linkerd_retry::{Budget, hedge::{HedgeDelay, HedgeLayer}};
/// use std::time::Duration;
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let retries = Budget::default();
/// let (min, max) = (Duration::from_millis(5), Duration::from_secs(1));
/// let slow = HedgeDelay::Percentile { percentile: 95.0, min, max };
/// let hedge = HedgeLayer::new(|req: &&'static str| req.starts_with("GET").then_some(*req), slow)?.budget(retries);
/// let stats = hedge.stats();
/// let svc = ServiceBuilder::new()
///     .layer(hedge)
///     .service(service_fn(|req: &'static str| async move { Ok::<_, BoxError>(req.len()) }));
/// assert_eq!(svc.oneshot("GET /").await?, 5);
/// assert_eq!(stats.sent(), 0);
/// # Ok(())
/// # }
/// ```
pub struct Hedge<S, H> {
    inner: S,
    shared: Arc<Shared<H>>,
}

/// What [`Hedge`] counted so far. Clones read the same counters, and so do all services of one layer.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Counters>);

/// Response future of [`Hedge`].
#[pin_project(PinnedDrop)]
pub struct ResponseFuture<S, H, Req>
where
    S: Service<Req>,
{
    shared: Arc<Shared<H>>,
    began: Instant,
    /// Whether the first came to its end.
    measured: bool,
    /// `None` when it has failed and the second goes on.
    #[pin]
    first: Option<S::Future>,
    #[pin]
    second: Second<S, S::Future, Req>,
}

#[pin_project(project = SecondProj)]
enum Second<S, F, Req> {
    /// There is none, and will not be.
    Never,
    /// There may be one. Armed on the first `Pending`.
    Maybe {
        #[pin]
        sleep: Option<Sleep>,
        at: Option<Instant>,
        request: Option<Again<S, Req>>,
    },
    /// Paid for.
    Ready(Option<Again<S, Req>>),
    Sent(#[pin] F),
}

/// A second request, and what sends it.
struct Again<S, Req> {
    service: S,
    req: Req,
    deadline: Option<Deadline>,
}

struct Shared<H> {
    request: H,
    delay: HedgeDelay,
    latency: Option<Mutex<Percentile>>,
    share: Budget,
    budget: Option<Budget>,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Counters {
    sent: Counter,
    won: Counter,
    budget_exhausted: Counter,
}

impl<H> HedgeLayer<H> {
    /// Hedges what `request` makes a copy of, after `delay`: 5 % of the requests at most, and none from another budget.
    ///
    /// # Errors
    ///
    /// If `delay` is out of range.
    pub fn new(request: H, delay: HedgeDelay) -> Result<Self, InvalidHedge> {
        let percentile = match delay {
            HedgeDelay::Fixed(_) => None,
            HedgeDelay::Percentile { min, max, .. } if min > max => return Err(InvalidHedge::Delay { min, max }),
            HedgeDelay::Percentile { percentile, .. } => Some(Mutex::new(Percentile::new(percentile, MIN_COUNT)?)),
        };
        let (share, stats) = (share(DEFAULT_SHARE)?, Stats::default());
        Ok(Self { shared: Arc::new(Shared { request, delay, latency: percentile, share, budget: None, stats }) })
    }

    /// Takes second requests from this budget too: that of the retries, which they are. What makes deposits into it, does
    /// so as before.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self
    where
        H: Clone,
    {
        self.with(|shared| shared.budget = Some(budget))
    }

    /// Sends no more than this share of the requests of the last ten seconds twice, from 0 to 1. 0.05 by default.
    ///
    /// # Errors
    ///
    /// If it is out of range.
    pub fn share(self, ratio: f64) -> Result<Self, InvalidHedge>
    where
        H: Clone,
    {
        let share = share(ratio)?;
        Ok(self.with(|shared| shared.share = share))
    }

    /// The counters of this layer and of every service that it makes.
    pub fn stats(&self) -> Stats {
        self.shared.stats.clone()
    }

    /// A layer of its own, with nothing seen yet.
    fn with(self, change: impl FnOnce(&mut Shared<H>)) -> Self
    where
        H: Clone,
    {
        let Shared { request, delay, latency, share, budget, stats: _ } = &*self.shared;
        let latency = latency.as_ref().map(|latency| Mutex::new(lock(latency).clone()));
        let (share, budget) = (share.clone(), budget.clone());
        let mut shared =
            Shared { request: request.clone(), delay: *delay, latency, share, budget, stats: Stats::default() };
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }
}

impl Stats {
    /// Second requests that were paid for.
    pub fn sent(&self) -> u64 {
        self.0.sent.get()
    }

    /// Second requests whose outcome was passed on.
    pub fn won(&self) -> u64 {
        self.0.won.get()
    }

    /// First requests that took long enough for a second, which could not be paid for.
    pub fn budget_exhausted(&self) -> u64 {
        self.0.budget_exhausted.get()
    }
}

impl<S, Req> Again<S, Req> {
    fn is_in_time(&self) -> bool {
        self.deadline.is_none_or(|deadline| !deadline.has_passed(Instant::now().into_std()))
    }
}

impl<H> Shared<H> {
    fn delay(&self, now: Instant) -> Duration {
        match (self.delay, &self.latency) {
            (HedgeDelay::Percentile { min, max, .. }, Some(latency)) => {
                lock(latency).get(now.into_std()).map_or(max, |estimate| estimate.clamp(min, max))
            }
            (HedgeDelay::Fixed(delay) | HedgeDelay::Percentile { max: delay, .. }, _) => delay,
        }
    }

    fn record(&self, began: Instant) {
        if let Some(latency) = &self.latency {
            let now = Instant::now();
            lock(latency).record(now.saturating_duration_since(began), now.into_std());
        }
    }

    /// The same for one that did not get to its end.
    fn record_unended(&self, began: Instant) {
        if let (HedgeDelay::Percentile { max, .. }, Some(latency)) = (self.delay, &self.latency) {
            let (now, mut latency) = (Instant::now(), lock(latency));
            let took = now.saturating_duration_since(began);
            if took > latency.get(now.into_std()).unwrap_or(max) {
                latency.record(took, now.into_std());
            }
        }
    }

    fn try_pay(&self) -> bool {
        let now = Instant::now().into_std();
        // The own share first: where that is used up, the retries should not pay.
        let paid = self.share.try_withdraw(now) && self.budget.as_ref().is_none_or(|budget| budget.try_withdraw(now));
        let Counters { sent, budget_exhausted, .. } = &*self.stats.0;
        if paid {
            sent.add_one();
        } else {
            budget_exhausted.add_one();
        }
        paid
    }
}

impl<S, H> Layer<S> for HedgeLayer<H> {
    type Service = Hedge<S, H>;

    fn layer(&self, inner: S) -> Self::Service {
        Hedge { inner, shared: self.shared.clone() }
    }
}

impl<S, H, Req> Service<Req> for Hedge<S, H>
where
    S: Service<Req> + Clone,
    H: HedgeRequest<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, H, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Req) -> Self::Future {
        let shared = self.shared.clone();
        let began = Instant::now();
        if shared.request.counts(&req) {
            shared.share.deposit(began.into_std());
        }
        let second = match shared.request.copy(&mut req) {
            Some(copy) => {
                let deadline = shared.request.deadline(&req);
                let at = began.checked_add(shared.delay(began));
                let at = at.filter(|at| deadline.is_none_or(|deadline| !deadline.has_passed(at.into_std())));
                // A clone starts un-ready, and is made ready only if it is needed.
                let request = Again { service: self.inner.clone(), req: copy, deadline };
                Second::Maybe { sleep: None, at, request: Some(request) }
            }
            None => Second::Never,
        };
        ResponseFuture { first: Some(self.inner.call(req)), shared, began, measured: false, second }
    }
}

impl<S, H, Req> Future for ResponseFuture<S, H, Req>
where
    S: Service<Req>,
    H: HedgeRequest<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let shared = &**this.shared;
        if let Some(first) = this.first.as_mut().as_pin_mut()
            && let Poll::Ready(outcome) = first.poll(cx)
        {
            let wins = shared.request.wins(outcome.as_ref());
            // A failure that is there at once says nothing of how long an answer takes.
            if wins {
                shared.record(*this.began);
            }
            *this.measured = true;
            this.first.set(None);
            let alone = !matches!(*this.second, Second::Sent(_));
            if alone || wins {
                this.second.set(Second::Never);
                return Poll::Ready(outcome);
            }
        }
        loop {
            match this.second.as_mut().project() {
                SecondProj::Never => return Poll::Pending,
                SecondProj::Maybe { mut sleep, at, request } => {
                    let Some(at) = *at else { return Poll::Pending };
                    if sleep.is_none() {
                        sleep.set(Some(sleep_until(at)));
                    }
                    ready!(sleep.as_pin_mut().expect("armed above").poll(cx));
                    // A timer is late at times, and then that of the deadline may be due too.
                    let wanted = |again: &Again<S, Req>| again.is_in_time() && shared.request.is_wanted(&again.req);
                    let request = request.take().filter(wanted);
                    let paid = request.is_some() && shared.try_pay();
                    this.second.set(if paid { Second::Ready(request) } else { Second::Never });
                }
                SecondProj::Ready(request) => {
                    let again = request.as_mut().expect("sent once, as the next state is another");
                    if ready!(again.service.poll_ready(cx)).is_err() || !again.is_in_time() {
                        this.second.set(Second::Never);
                        return Poll::Pending;
                    }
                    let Again { mut service, mut req, .. } = request.take().expect("as above");
                    shared.request.prepare(&mut req, HedgeContext { waited: this.began.elapsed() });
                    this.second.set(Second::Sent(service.call(req)));
                }
                SecondProj::Sent(second) => {
                    let outcome = ready!(second.poll(cx));
                    let alone = this.first.is_none();
                    if alone || shared.request.wins(outcome.as_ref()) {
                        this.first.set(None);
                        shared.stats.0.won.add_one();
                        return Poll::Ready(outcome);
                    }
                    this.second.set(Second::Never);
                }
            }
        }
    }
}

#[pinned_drop]
impl<S, H, Req> PinnedDrop for ResponseFuture<S, H, Req>
where
    S: Service<Req>,
{
    fn drop(self: Pin<&mut Self>) {
        // It took at least this long. Left out, those that were overtaken would make the rest look typical; but one that
        // was given up early says nothing.
        if !self.measured {
            self.shared.record_unended(self.began);
        }
    }
}

fn share(ratio: f64) -> Result<Budget, InvalidHedge> {
    if !(0.0..=1.0).contains(&ratio) {
        return Err(InvalidHedge::Share(ratio));
    }
    Budget::new(BudgetSettings::share(ratio)).map_err(|_| InvalidHedge::Share(ratio))
}

fn lock(latency: &Mutex<Percentile>) -> std::sync::MutexGuard<'_, Percentile> {
    // Each operation leaves it whole enough for an estimate.
    latency.lock().unwrap_or_else(PoisonError::into_inner)
}

// By hand: what makes the copies is not cloned.
impl<H> Clone for HedgeLayer<H> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<S: Clone, H> Clone for Hedge<S, H> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<H> fmt::Debug for HedgeLayer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { delay, share, budget, stats, .. } = &*self.shared;
        f.debug_struct("HedgeLayer")
            .field("delay", delay)
            .field("share", share)
            .field("budget", budget)
            .field("stats", stats)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, H> fmt::Debug for Hedge<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge").field("inner", &self.inner).field("delay", &self.shared.delay).finish_non_exhaustive()
    }
}

impl<S: Service<Req>, H, Req> fmt::Debug for ResponseFuture<S, H, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = match self.second {
            Second::Never => "never",
            Second::Maybe { .. } => "maybe",
            Second::Ready(_) => "ready",
            Second::Sent(_) => "sent",
        };
        f.debug_struct("ResponseFuture")
            .field("first", &self.first.is_some())
            .field("second", &second)
            .finish_non_exhaustive()
    }
}
