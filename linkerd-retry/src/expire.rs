//! Ends requests at their deadlines, and drops what comes too late before anybody works on it.
//!
//! Work for somebody who has gone keeps others waiting until they go too. A [`DeadlineLayer`] asks each request for its
//! [`Deadline`], and from that instant on nothing is done for it:
//!
//! | the deadline | then | [counted](Stats) as |
//! |---|---|---|
//! | has passed when the request comes | [`Expired`], and the service never sees it | `late`, `dropped` |
//! | passes while the service works | [`Expired`], and what was under way is dropped | `late`, `dropped`, `cut` |
//! | passes, but the [cap](DeadlineLayer::max_share) is used up | the request is served as if it had none | `late` |
//! | passes together with the response | the response | - |
//!
//! | setting | [`new`](DeadlineLayer::new) | [`server`](DeadlineLayer::server) | range |
//! |---|---|---|---|
//! | [`tolerance`](DeadlineLayer::tolerance), added to each deadline | 0 | 170 ms | any |
//! | [`max_share`](DeadlineLayer::max_share) of the requests of 10 s that may be ended | 1 | 0.2 | 0 to 1 |
//!
//! **Where.** At a client, above everything, with `new`: its own clock made the deadline. At a server, above the handler and
//! below what must see every request, with `server`: the deadline came as a time of another machine's clock, and clocks
//! differ; so some lateness is let pass, and not everything is dropped even if everything is late.
//!
//! What is below needs the deadline as well, so as not to begin anything that would be dropped: see
//! [`Hooks::deadline`](crate::retry::Hooks::deadline), [`Unsent::deadline`](crate::requeue::Unsent::deadline),
//! [`HedgeRequest::deadline`](crate::hedge::HedgeRequest::deadline) and [`Classify::deadline`](crate::limit::Classify::deadline).
//! What is sent on should tell the next one the [time that is left](Deadline::remaining) when it is sent, and of two
//! deadlines the [first](Deadline::first).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Budget, BudgetSettings, Deadline, Expired, InvalidBudget, Sent, tally::Counter};

/// Wraps services in [`Deadlines`]. All services that one layer makes share its counters and its cap.
///
/// # Defaults
///
/// Made by [`new`](Self::new), it ends every request at its deadline: that is for a client, whose own clock made the
/// deadline, or for a server that trusts its peers' clocks. Made by [`server`](Self::server), it has Finagle's caution
/// with what came from another machine's clock: 170 ms of tolerance, and at most a fifth of the requests of 10 s.
#[derive(Clone)]
pub struct DeadlineLayer<D> {
    policy: Policy<D>,
}

/// Fails a request with [`Expired`] when its deadline has passed: before the inner service is called, or while it works.
///
/// The [tolerance](DeadlineLayer::tolerance) is added to every deadline. Where there is a
/// [cap](DeadlineLayer::max_share), what is above it is served as if it had no deadline: if a clock is wrong by an hour,
/// or everything is late, work that may be wanted is better than none.
///
/// A request without a deadline costs nothing. One that is answered at once never touches tokio's timer. Readiness is
/// the inner service's. When the deadline passes, the inner future is dropped, and all that it holds.
///
/// ```
/// use linkerd_retry::{Deadline, expire::DeadlineLayer};
/// use std::time::Duration;
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let layer = DeadlineLayer::new(|deadline: &Deadline| Some(*deadline));
/// let stats = layer.stats();
/// let svc = ServiceBuilder::new().layer(layer).service(service_fn(|_| async {
///     tokio::time::sleep(Duration::from_millis(100)).await;
///     Ok::<_, BoxError>(200)
/// }));
/// let now = tokio::time::Instant::now().into_std();
/// let within = |ms| Deadline::after(now, Duration::from_millis(ms)).unwrap();
/// assert_eq!(svc.clone().oneshot(within(150)).await?, 200);
/// assert!(svc.clone().oneshot(within(50)).await.is_err());
/// assert_eq!((stats.late(), stats.dropped()), (1, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Deadlines<S, D> {
    inner: S,
    policy: Policy<D>,
}

/// What [`Deadlines`] counted so far. Clones read the same counters, and so do all services of one layer.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Counters>);

/// Response future of [`Deadlines`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
    /// `None` if there is none, or none any more.
    deadline: Option<(Deadline, Arc<Rule>)>,
    // Armed on the first `Pending`: a response that is there at once never touches the timer.
    #[pin]
    sleep: Option<Sleep>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Working(#[pin] F),
    Late(Expired),
}

#[derive(Clone)]
struct Policy<D> {
    deadline: D,
    tolerance: Duration,
    rule: Arc<Rule>,
}

/// Whether what is late is ended: what a request must remember of the layer.
#[derive(Clone, Debug, Default)]
struct Rule {
    /// What pays for ending a request; `None` where any number may be.
    cap: Option<Budget>,
    stats: Stats,
}

#[derive(Debug, Default)]
struct Counters {
    late: Counter,
    dropped: Counter,
    cut: Counter,
}

impl<D> DeadlineLayer<D> {
    /// Ends every request at the deadline that `deadline` reads from it, an `Fn(&Req) -> Option<Deadline>`.
    #[must_use]
    pub fn new(deadline: D) -> Self {
        Self { policy: Policy { deadline, tolerance: Duration::ZERO, rule: Arc::default() } }
    }

    /// The same with caution: 170 ms of tolerance, and a fifth of the requests at most.
    #[must_use]
    pub fn server(deadline: D) -> Self {
        Self::new(deadline).tolerance(Duration::from_millis(170)).cap(Budget::new(BudgetSettings::share(0.2)).ok())
    }

    /// Lets a request be so late. For deadlines that were made by another machine's clock.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.policy.tolerance = tolerance;
        self
    }

    /// Ends no more than this share of the requests of ten seconds, from 0 to 1. 1 is no cap.
    ///
    /// # Errors
    ///
    /// The share is out of range.
    pub fn max_share(self, share: f64) -> Result<Self, InvalidBudget> {
        // NaN is in no range.
        if !(0.0..=1.0).contains(&share) {
            return Err(InvalidBudget::Share(share));
        }
        let cap = if share == 1.0 { None } else { Some(Budget::new(BudgetSettings::share(share))?) };
        Ok(self.cap(cap))
    }

    fn cap(mut self, cap: Option<Budget>) -> Self {
        self.policy.rule = Arc::new(Rule { cap, stats: self.stats() });
        self
    }

    /// The counters of this layer and of every service that it makes.
    pub fn stats(&self) -> Stats {
        self.policy.rule.stats.clone()
    }
}

impl Stats {
    /// Requests whose deadline passed before they had a response, whether or not that ended them.
    pub fn late(&self) -> u64 {
        self.0.late.get()
    }

    /// Requests that were ended by their deadline.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.get()
    }

    /// Those of them that the inner service had begun.
    pub fn cut(&self) -> u64 {
        self.0.cut.get()
    }
}

impl Rule {
    /// Notes that a request is late, and says whether to end it.
    fn ends(&self, now: std::time::Instant, begun: bool) -> bool {
        let Counters { late, dropped, cut } = &*self.stats.0;
        late.add_one();
        let ends = self.cap.as_ref().is_none_or(|cap| cap.try_withdraw(now));
        if ends {
            dropped.add_one();
            if begun {
                cut.add_one();
            }
        }
        ends
    }
}

impl<S, D: Clone> Layer<S> for DeadlineLayer<D> {
    type Service = Deadlines<S, D>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadlines { inner, policy: self.policy.clone() }
    }
}

impl<S, D, Req> Service<Req> for Deadlines<S, D>
where
    S: Service<Req>,
    S::Error: From<Expired>,
    D: Fn(&Req) -> Option<Deadline>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let Policy { deadline, tolerance, rule } = &self.policy;
        let deadline = deadline(&req).and_then(|deadline| Deadline::after(deadline.instant(), *tolerance));
        if deadline.is_none() && rule.cap.is_none() {
            return ResponseFuture::new(State::Working(self.inner.call(req)), None);
        }
        let now = Instant::now().into_std();
        if let Some(cap) = &rule.cap {
            cap.deposit(now);
        }
        let deadline = match deadline.map(|deadline| (deadline, deadline.check(now))) {
            Some((_, Err(expired))) if rule.ends(now, false) => {
                return ResponseFuture::new(State::Late(expired), None);
            }
            Some((deadline, Ok(()))) => Some((deadline, rule.clone())),
            _ => None,
        };
        ResponseFuture::new(State::Working(self.inner.call(req)), deadline)
    }
}

impl<F> ResponseFuture<F> {
    fn new(state: State<F>, deadline: Option<(Deadline, Arc<Rule>)>) -> Self {
        Self { state, deadline, sleep: None }
    }
}

impl<F, Rsp, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Rsp, E>>,
    E: From<Expired>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.state.as_mut().project() {
            // The response first: one that arrives together with the deadline is still a response.
            StateProj::Working(inner) => {
                if let Poll::Ready(rsp) = inner.poll(cx) {
                    return Poll::Ready(rsp);
                }
            }
            StateProj::Late(expired) => return Poll::Ready(Err((*expired).into())),
        }
        let Some((deadline, rule)) = &*this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(deadline.instant().into())));
        }
        let sleep = this.sleep.as_mut().as_pin_mut().expect("armed above");
        if sleep.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let now = Instant::now().into_std();
        if rule.ends(now, true) {
            return Poll::Ready(Err(deadline.expired(Sent::Possibly, now).into()));
        }
        *this.deadline = None;
        this.sleep.set(None);
        Poll::Pending
    }
}

// By hand, because what reads the deadline is a closure more often than not, and those have no `Debug`.
impl<D> fmt::Debug for Policy<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tolerance, rule, .. } = self;
        f.debug_struct("Policy").field("tolerance", tolerance).field("rule", rule).finish_non_exhaustive()
    }
}

impl<D> fmt::Debug for DeadlineLayer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeadlineLayer").field(&self.policy).finish()
    }
}

impl<S: fmt::Debug, D> fmt::Debug for Deadlines<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadlines").field("inner", &self.inner).field("policy", &self.policy).finish()
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deadline = self.deadline.as_ref().map(|(deadline, _)| deadline);
        f.debug_struct("ResponseFuture").field("deadline", &deadline).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
