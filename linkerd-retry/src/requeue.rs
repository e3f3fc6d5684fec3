//! Sends again what was never sent.
//!
//! A connection that is refused costs its request nothing but time: not one byte was written, so it may go to another
//! endpoint whatever it is, a POST or an upload of a GiB, and nothing need be kept for that. The error [brings the request
//! back](Unsent). It is tried again at once, without a classifier, as often as all of these allow:
//!
//! | limit | default | then | [counted](Stats) as |
//! |---|---|---|---|
//! | the [bound](RequeueLayer::bound) is 0: there is nowhere to go | no bound | the error as it came | `cannot_retry` |
//! | the [deadline](Unsent::deadline) of the request | none | the error, [given up](Unsent::give_up) | `deadline` |
//! | the bound: the endpoints there are, say | no bound | the same | `request_limit` |
//! | a fifth of what the budget held when it first failed | 20 for a cold service | the same | `request_limit` |
//! | a [budget](RequeueLayer::budget) of its own | 20 % and 10 a second | the same | `budget_exhausted` |
//!
//! **Where.** Below [`Retry`](crate::retry), so that an attempt is the same whichever endpoint it ends up at, and above
//! whatever picks one. An [`AttemptTimeout`](crate::timeout::AttemptTimeout) above it bounds all of these together, one
//! below it each. Give it another [`Budget`] than the retries: endpoints that are down should not use up what is there
//! for those that fail.
//!
//! **Given up**, an error should say so, for a retry layer above would only begin anew. An error that was not given up,
//! because there was nowhere to go, may be retried later.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::{pin_project, pinned_drop};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Budget, Deadline,
    ready::{give_way, take_ready},
    tally::{Counter, PER_REQUEST_BUCKETS, PerRequest},
};

/// An error that knows whether its request was ever sent, and hands it back if not.
///
/// What counts as *not sent* is proven, not likely: a connection that was refused, a request that a pool gave back, a
/// stream that the peer says it has not processed. A request of which one byte may have been acted upon is not.
pub trait Unsent<Req>: Sized {
    /// Whether no part of the request was sent, and it can be taken out of this error.
    fn is_unsent(&self) -> bool;

    /// The request, as it was. The error that held it ends here.
    ///
    /// # Errors
    ///
    /// The error as it was, if [`is_unsent`](Self::is_unsent) is false.
    fn take_unsent(self) -> Result<Req, Self>;

    /// The error to pass on when it was unsent, but the budget or the limit allowed no requeue.
    ///
    /// This is where an error can be marked so that layers above do not retry what this one has just given up. By
    /// default it stays as it is.
    #[must_use]
    fn give_up(self) -> Self {
        self
    }

    /// By when its request must be over: a requeue does not begin after that. By default there is no such time.
    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

/// Wraps services in [`Requeue`]. All services that one layer makes share its budget and its counters.
#[derive(Clone, Debug)]
pub struct RequeueLayer {
    policy: Policy,
}

/// Sends a request again, at once, if its error [proves](Unsent) that it was never sent.
///
/// Nothing is copied or buffered: the error hands the request back. So it works for every request, and the classes that
/// [`Retry`](crate::retry::Retry) goes by do not matter. Its place is above whatever picks an endpoint, so that another
/// one can be picked.
///
/// There are three limits to how often one request is requeued, beside its [deadline](Unsent::deadline):
///
/// - a [budget](Budget), which responses, and not failures, deposit into,
/// - a fifth of what the budget held at the request's first failure, rounded up, so that no request uses it all,
/// - the bound given with [`RequeueLayer::bound`].
///
/// **Readiness** is as for [`Retry`](crate::retry::Retry), the yield before another attempt too. Dropping the response
/// future drops the attempt that it is in.
///
/// ```
/// use linkerd_retry::requeue::{RequeueLayer, Unsent};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// #[derive(Debug)]
/// enum Failed {
///     Refused(String),
///     Reset,
/// }
///
/// impl Unsent<String> for Failed {
///     fn is_unsent(&self) -> bool {
///         matches!(self, Self::Refused(_))
///     }
///
///     fn take_unsent(self) -> Result<String, Self> {
///         match self {
///             Self::Refused(req) => Ok(req),
///             Self::Reset => Err(self),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut down = true;
/// let pick = move |req: String| {
///     let refused = std::mem::take(&mut down);
///     async move { if refused { Err(Failed::Refused(req)) } else { Ok(req.len()) } }
/// };
/// let requeue = RequeueLayer::new().bound(|| 3);
/// let stats = requeue.stats();
/// # let pick = std::sync::Arc::new(std::sync::Mutex::new(pick));
/// # let pick = move |req| { let mut pick = pick.lock().unwrap(); pick(req) };
/// let mut svc = ServiceBuilder::new().layer(requeue).service(service_fn(pick));
/// assert_eq!(svc.ready().await.unwrap().call("hello".to_owned()).await.unwrap(), 5);
/// assert_eq!(stats.requeues(), 1);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Requeue<S> {
    inner: S,
    policy: Arc<Policy>,
}

/// What [`Requeue`] counted so far. Clones read the same counters, and so do all services of one layer.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Counters>);

/// Response future of [`Requeue`].
#[pin_project(PinnedDrop)]
pub struct ResponseFuture<S, Req>
where
    S: Service<Req>,
{
    policy: Arc<Policy>,
    service: S,
    /// A fifth of the balance at the first failure.
    limit: Option<u64>,
    requeues: u32,
    #[pin]
    state: State<S::Future, S::Error>,
}

#[pin_project(project = StateProj)]
enum State<F, E> {
    Attempt(#[pin] F),
    /// With the error, that still has the request: it is the outcome if readiness takes too long.
    Ready(Option<E>),
}

#[derive(Clone)]
struct Policy {
    budget: Budget,
    bound: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Counters {
    requeues: Counter,
    budget_exhausted: Counter,
    request_limit: Counter,
    cannot_retry: Counter,
    deadline: Counter,
    per_request: PerRequest,
}

impl RequeueLayer {
    /// Requeues with the default [`Budget`] and no bound of the caller's: a cold service allows 20 for one request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes requeues from this budget. Not one that retries use: a refused connection should not cost a retry.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.policy.budget = budget;
        self
    }

    /// Requeues one request at most `bound()` times, by its value at each failure: the number of other endpoints, say.
    /// 0 means that a requeue is no use now, because there is nowhere to go.
    #[must_use]
    pub fn bound(mut self, bound: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.policy.bound = Some(Arc::new(bound));
        self
    }

    /// The counters of this layer and of every service that it makes.
    pub fn stats(&self) -> Stats {
        self.policy.stats.clone()
    }
}

impl Default for RequeueLayer {
    fn default() -> Self {
        Self { policy: Policy { budget: Budget::default(), bound: None, stats: Stats::default() } }
    }
}

impl Stats {
    /// Requests that were sent again.
    pub fn requeues(&self) -> u64 {
        self.0.requeues.get()
    }

    /// Unsent requests that were given up because the budget had nothing left.
    pub fn budget_exhausted(&self) -> u64 {
        self.0.budget_exhausted.get()
    }

    /// Unsent requests that were given up because they had their share, or as many requeues as the bound allows.
    pub fn request_limit(&self) -> u64 {
        self.0.request_limit.get()
    }

    /// Unsent requests that were given up because the bound was 0.
    pub fn cannot_retry(&self) -> u64 {
        self.0.cannot_retry.get()
    }

    /// Unsent requests that were given up because their deadline had passed.
    pub fn deadline(&self) -> u64 {
        self.0.deadline.get()
    }

    /// How many requests were requeued how often, as [`PER_REQUEST_BUCKETS`] tells. A request counts when its response
    /// future is dropped, whether or not it came to its end.
    pub fn per_request(&self) -> [u64; PER_REQUEST_BUCKETS] {
        self.0.per_request.get()
    }
}

impl<S> Layer<S> for RequeueLayer {
    type Service = Requeue<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Requeue { inner, policy: Arc::new(self.policy.clone()) }
    }
}

impl<S, Req> Service<Req> for Requeue<S>
where
    S: Service<Req> + Clone,
    S::Error: Unsent<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let mut service = take_ready(&mut self.inner);
        ResponseFuture {
            policy: self.policy.clone(),
            limit: None,
            requeues: 0,
            state: State::Attempt(service.call(req)),
            service,
        }
    }
}

impl<S, Req> Future for ResponseFuture<S, Req>
where
    S: Service<Req>,
    S::Error: Unsent<Req>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Attempt(attempt) => {
                    let err = match ready!(attempt.poll(cx)) {
                        Ok(rsp) => {
                            this.policy.budget.deposit(Instant::now().into_std());
                            return Poll::Ready(Ok(rsp));
                        }
                        Err(err) if !err.is_unsent() => return Poll::Ready(Err(err)),
                        Err(err) => err,
                    };
                    let err = this.policy.admit(err, *this.requeues, this.limit)?;
                    *this.requeues = this.requeues.saturating_add(1);
                    this.state.set(State::Ready(Some(err)));
                    return give_way(cx);
                }
                StateProj::Ready(err) => {
                    ready!(this.service.poll_ready(cx))?;
                    let err = err.take().expect("sent once, as the next state is another");
                    let err = this.policy.in_time(err, Instant::now().into_std())?;
                    let req = err.take_unsent()?;
                    let attempt = this.service.call(req);
                    this.state.set(State::Attempt(attempt));
                }
            }
        }
    }
}

impl Policy {
    /// `err`, if its request may be requeued once more, after `requeues` times.
    fn admit<Req, E: Unsent<Req>>(&self, err: E, requeues: u32, limit: &mut Option<u64>) -> Result<E, E> {
        let Counters { requeues: total, budget_exhausted, request_limit, cannot_retry, .. } = &*self.stats.0;
        let bound = self.bound.as_ref().map_or(u64::MAX, |bound| bound());
        if bound == 0 {
            cannot_retry.add_one();
            return Err(err);
        }
        let now = Instant::now().into_std();
        let err = self.in_time(err, now)?;
        // At the first failure and not at `call`: the same number, and no lock for a request that does not fail.
        let limit = *limit.get_or_insert_with(|| self.budget.share_for_one(now));
        if u64::from(requeues) >= limit.min(bound) {
            request_limit.add_one();
            return Err(err.give_up());
        }
        if !self.budget.try_withdraw(now) {
            budget_exhausted.add_one();
            return Err(err.give_up());
        }
        total.add_one();
        Ok(err)
    }

    /// `err`, if there is time left for its request.
    fn in_time<Req, E: Unsent<Req>>(&self, err: E, now: std::time::Instant) -> Result<E, E> {
        if err.deadline().is_some_and(|deadline| deadline.has_passed(now)) {
            self.stats.0.deadline.add_one();
            return Err(err.give_up());
        }
        Ok(err)
    }
}

#[pinned_drop]
impl<S, Req> PinnedDrop for ResponseFuture<S, Req>
where
    S: Service<Req>,
{
    fn drop(self: Pin<&mut Self>) {
        self.policy.stats.0.per_request.record(self.requeues);
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, stats, .. } = self;
        f.debug_struct("Policy").field("budget", budget).field("stats", stats).finish_non_exhaustive()
    }
}

impl<S: Service<Req>, Req> fmt::Debug for ResponseFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Attempt(_) => "attempt",
            State::Ready(_) => "ready",
        };
        f.debug_struct("ResponseFuture")
            .field("requeues", &self.requeues)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
