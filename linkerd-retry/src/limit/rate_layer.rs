//! The rate limit as a layer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use super::{Classify, Criticality, RateLimit, RateLimited, Unclassed, rate::Turn};
use crate::{Deadline, ready::give_up};

/// Wraps services in [`RateLimitService`]. All of them share the one limit.
#[derive(Clone)]
pub struct RateLimitLayer<C = Unclassed> {
    limit: RateLimit,
    classify: C,
}

/// Sends a request when a [`RateLimit`] says that it is its turn, and fails it with [`RateLimited`] if that is too far off.
///
/// The turn is taken by `call`. **Readiness** is the inner service's, and reserves nothing of the rate. If a request must
/// wait, the service that was made ready is given up, and a clone is made ready in its turn. A turn that is there at once
/// touches no timer.
///
/// **Cancel safety.** Dropping the response future before its turn gives the turn back; after that, it is used.
///
/// ```
/// use linkerd_retry::limit::{RateLimit, RateLimitLayer, RateSettings};
/// use std::{num::NonZeroU32, time::Duration};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let ten = NonZeroU32::new(10).unwrap();
/// let settings = RateSettings { requests: ten, burst: ten, max_wait: Duration::from_millis(50), ..Default::default() };
/// let svc = ServiceBuilder::new()
///     .layer(RateLimitLayer::new(RateLimit::new("mails", settings)?))
///     .service(service_fn(|name: &'static str| async move { Ok::<_, BoxError>(name.len()) }));
/// assert_eq!(svc.oneshot("hello").await?, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RateLimitService<S, C = Unclassed> {
    inner: S,
    layer: RateLimitLayer<C>,
}

/// Response future of [`RateLimitService`].
#[pin_project]
pub struct RateLimitFuture<S, Req>
where
    S: Service<Req>,
{
    #[pin]
    state: State<S, S::Future, Req>,
}

#[pin_project(project = StateProj)]
enum State<S, F, Req> {
    Waiting {
        #[pin]
        waiting: Waiting,
        service: S,
        // Taken when it is its turn, and the service is ready.
        request: Option<Req>,
    },
    Running(#[pin] F),
    Rejected(Option<RateLimited>),
}

/// A turn that is given back unless its time comes.
#[pin_project(PinnedDrop)]
struct Waiting {
    limit: RateLimit,
    class: Criticality,
    deadline: Option<Deadline>,
    turn: Option<Turn>,
    #[pin]
    sleep: Sleep,
}

impl RateLimitLayer {
    /// Lets `limit` decide. Requests are of no class: each may use all of it.
    #[must_use]
    pub const fn new(limit: RateLimit) -> Self {
        Self { limit, classify: Unclassed }
    }
}

impl<C> RateLimitLayer<C> {
    /// Tells requests apart by how much they matter: any `Fn(&Req) -> Criticality`.
    #[must_use]
    pub fn classify_with<C2>(self, classify: C2) -> RateLimitLayer<C2> {
        RateLimitLayer { limit: self.limit, classify }
    }

    /// The limit that all services of this layer share.
    pub const fn limit(&self) -> &RateLimit {
        &self.limit
    }
}

impl<S, C: Clone> Layer<S> for RateLimitLayer<C> {
    type Service = RateLimitService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService { inner, layer: self.clone() }
    }
}

impl<S, C, Req> Service<Req> for RateLimitService<S, C>
where
    S: Service<Req> + Clone,
    S::Error: From<RateLimited>,
    C: Classify<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateLimitFuture<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let RateLimitLayer { limit, classify } = &self.layer;
        let class: Criticality = classify.classify(&req);
        let now = Instant::now().into_std();
        let state = match limit.reserve(class, now) {
            Ok(turn) if turn.at() <= now => State::Running(self.inner.call(req)),
            Ok(turn) => {
                let (at, deadline) = (turn.at(), classify.deadline(&req));
                let sleep = sleep_until(Instant::from_std(at));
                let waiting = Waiting { limit: limit.clone(), class, deadline, turn: Some(turn), sleep };
                if is_late(deadline, at) {
                    // The turn goes to another.
                    State::Rejected(Some(limit.limited(class, at.saturating_duration_since(now))))
                } else {
                    give_up(&mut self.inner);
                    State::Waiting { waiting, service: self.inner.clone(), request: Some(req) }
                }
            }
            Err(limited) => State::Rejected(Some(limited)),
        };
        RateLimitFuture { state }
    }
}

impl<S, Req> Future for RateLimitFuture<S, Req>
where
    S: Service<Req>,
    S::Error: From<RateLimited>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { waiting, service, request } => {
                    let waiting = waiting.project();
                    ready!(waiting.sleep.poll(cx));
                    *waiting.turn = None;
                    let is_ready = service.poll_ready(cx)?;
                    // Once more: the timer may have been late, and the service not ready.
                    if is_late(*waiting.deadline, Instant::now().into_std()) {
                        return Poll::Ready(Err(waiting.limit.limited(*waiting.class, Duration::ZERO).into()));
                    }
                    ready!(is_ready);
                    let inner = service.call(request.take().expect("sent once, as the next state is another"));
                    this.state.set(State::Running(inner));
                }
                StateProj::Running(inner) => return inner.poll(cx),
                StateProj::Rejected(limited) => {
                    let limited = limited.take().expect("not polled after its end");
                    return Poll::Ready(Err(limited.into()));
                }
            }
        }
    }
}

fn is_late(deadline: Option<Deadline>, at: std::time::Instant) -> bool {
    deadline.is_some_and(|deadline| deadline.has_passed(at))
}

#[pinned_drop]
impl PinnedDrop for Waiting {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let Some(turn) = this.turn.take() {
            this.limit.cancel(turn, Instant::now().into_std());
        }
    }
}

// By hand, because closures have no `Debug`.
impl<C> fmt::Debug for RateLimitLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateLimitLayer").field(&self.limit).finish()
    }
}

impl<S: fmt::Debug, C> fmt::Debug for RateLimitService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService").field("inner", &self.inner).field("limit", &self.layer.limit).finish()
    }
}

impl<S: Service<Req>, Req> fmt::Debug for RateLimitFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Waiting { .. } => "waiting",
            State::Running(_) => "running",
            State::Rejected(_) => "rejected",
        };
        f.debug_struct("RateLimitFuture").field("state", &state).finish()
    }
}
