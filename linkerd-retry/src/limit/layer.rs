//! The concurrency limit as a layer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Acquire, ConcurrencyLimit, Criticality, Outcome, Permit, Rejected};
use crate::{Deadline, ready::give_up};

/// Says how much a request matters, and by when it must be over. Any `Fn(&Req) -> Criticality` does.
pub trait Classify<Req> {
    /// The class of `req`.
    fn classify(&self, req: &Req) -> Criticality;

    /// By when `req` must be over: one that would have to wait for longer is rejected, and not sent. By default there is
    /// no such time. It is asked only about requests that must wait.
    fn deadline(&self, req: &Req) -> Option<Deadline> {
        let _ = req;
        None
    }
}

/// Says what an outcome tells a limit that adapts. Any `Fn(Result<&Rsp, &E>) -> Outcome` does.
pub trait Observe<Rsp, E> {
    /// What came of a request.
    fn observe(&self, rsp: Result<&Rsp, &E>) -> Outcome;
}

/// Keeps a permit for longer than until the response. Any `Fn(Rsp, Permit) -> Rsp2` does.
pub trait KeepPermit<Rsp> {
    /// The response with the permit in it.
    type Response;

    /// Puts the permit where it is dropped when what it is for has ended: into the response's body, as a rule.
    fn keep(&self, rsp: Rsp, permit: Permit) -> Self::Response;
}

/// Requests are not told apart: each may use the whole limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unclassed;

/// A response is a success, whatever it says; an error tells nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct OkIsSuccess;

/// The permit ends when the response is there, or the response future is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilResponse;

/// Wraps services in [`Limit`]. All of them share the one limit.
#[derive(Clone)]
pub struct LimitLayer<C = Unclassed, O = OkIsSuccess, K = UntilResponse> {
    limit: ConcurrencyLimit,
    classify: C,
    observe: O,
    keep: K,
}

/// Sends a request only when it has a [permit](Permit) of a [`ConcurrencyLimit`], and fails it with [`Rejected`] if it
/// gets none.
///
/// The permit is taken in the response future and held until that ends, in whatever way: with a response, an error, or by
/// being dropped. To hold it until the end of a body, see [`LimitLayer::keep_with`].
///
/// **Readiness** is the inner service's; it reserves no permit, so any number of ready clones lie idle at no cost. `call`
/// sends the request at once if a permit is free. If it must wait, the service that was made ready is given up, so that
/// nobody who has a permit waits for what this one has reserved; a clone is made ready once the permit is there.
///
/// **Cancel safety.** Dropping the response future gives back the place in the queue or the permit.
///
/// ```
/// use linkerd_retry::limit::{ConcurrencyLimit, LimitLayer, WhenFull};
/// use std::{num::NonZeroUsize, time::Duration};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let queue = WhenFull::Queue { capacity: 100, wait: Duration::from_millis(250) };
/// let limit = ConcurrencyLimit::fixed("uploads", NonZeroUsize::new(10).unwrap(), queue);
/// let svc = ServiceBuilder::new()
///     .layer(LimitLayer::new(limit.clone()))
///     .service(service_fn(|name: &'static str| async move { Ok::<_, BoxError>(name.len()) }));
/// assert_eq!(svc.oneshot("hello").await?, 5);
/// assert_eq!(limit.usage().in_flight, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Limit<S, C = Unclassed, O = OkIsSuccess, K = UntilResponse> {
    inner: S,
    layer: LimitLayer<C, O, K>,
}

/// Response future of [`Limit`].
#[pin_project]
pub struct ResponseFuture<S, O, K, Req>
where
    S: Service<Req>,
{
    observe: O,
    keep: K,
    #[pin]
    state: State<S, S::Future, Req>,
}

#[pin_project(project = StateProj)]
enum State<S, F, Req> {
    Waiting {
        #[pin]
        acquire: Acquire,
        // When it is there, the service is made ready.
        permit: Option<Permit>,
        service: S,
        request: Option<Req>,
    },
    Running {
        // In this order: what the call holds ends before the permit does.
        #[pin]
        inner: F,
        permit: Option<Permit>,
    },
}

impl LimitLayer {
    /// Lets `limit` decide. Requests are of no class, and have a permit until their response.
    #[must_use]
    pub const fn new(limit: ConcurrencyLimit) -> Self {
        Self { limit, classify: Unclassed, observe: OkIsSuccess, keep: UntilResponse }
    }
}

impl<C, O, K> LimitLayer<C, O, K> {
    /// Tells requests apart by how much they matter: any `Fn(&Req) -> Criticality`.
    #[must_use]
    pub fn classify_with<C2>(self, classify: C2) -> LimitLayer<C2, O, K> {
        let Self { limit, classify: _, observe, keep } = self;
        LimitLayer { limit, classify, observe, keep }
    }

    /// Tells a limit that adapts how a request ended: any `Fn(Result<&Rsp, &E>) -> Outcome`. Without it a response is a
    /// success and an error tells nothing.
    ///
    /// A response by which the service says that it is overloaded should be told as such; one that failed for reasons of
    /// its own and fast should be [`Ignored`](Outcome::Ignored).
    #[must_use]
    pub fn observe_with<O2>(self, observe: O2) -> LimitLayer<C, O2, K> {
        let Self { limit, classify, observe: _, keep } = self;
        LimitLayer { limit, classify, observe, keep }
    }

    /// Hands the permit out with the response: any `Fn(Rsp, Permit) -> Rsp2`, which puts it where it is dropped with the
    /// body.
    #[must_use]
    pub fn keep_with<K2>(self, keep: K2) -> LimitLayer<C, O, K2> {
        let Self { limit, classify, observe, keep: _ } = self;
        LimitLayer { limit, classify, observe, keep }
    }

    /// The limit that all services of this layer share.
    pub const fn limit(&self) -> &ConcurrencyLimit {
        &self.limit
    }
}

impl<S, C: Clone, O: Clone, K: Clone> Layer<S> for LimitLayer<C, O, K> {
    type Service = Limit<S, C, O, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit { inner, layer: self.clone() }
    }
}

impl<S, C, O, K, Req> Service<Req> for Limit<S, C, O, K>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejected>,
    C: Classify<Req>,
    O: Observe<S::Response, S::Error> + Clone,
    K: KeepPermit<S::Response> + Clone,
{
    type Response = K::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, O, K, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let LimitLayer { limit, classify, observe, keep } = &self.layer;
        let class = classify.classify(&req);
        let state = if let Some(permit) = limit.enter(class) {
            State::Running { inner: self.inner.call(req), permit: Some(permit) }
        } else {
            let acquire = limit.acquire(class).until(classify.deadline(&req));
            give_up(&mut self.inner);
            State::Waiting { acquire, permit: None, service: self.inner.clone(), request: Some(req) }
        };
        ResponseFuture { observe: observe.clone(), keep: keep.clone(), state }
    }
}

impl<S, O, K, Req> Future for ResponseFuture<S, O, K, Req>
where
    S: Service<Req>,
    S::Error: From<Rejected>,
    O: Observe<S::Response, S::Error>,
    K: KeepPermit<S::Response>,
{
    type Output = Result<K::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { mut acquire, permit, service, request } => {
                    if permit.is_none() {
                        *permit = Some(ready!(acquire.as_mut().poll(cx))?);
                    }
                    let is_ready = service.poll_ready(cx)?;
                    // Once more: readiness may have taken its time.
                    if let Some(late) = acquire.too_late() {
                        *permit = None;
                        return Poll::Ready(Err(late.into()));
                    }
                    ready!(is_ready);
                    let inner = service.call(request.take().expect("sent once, as the next state is another"));
                    let permit = permit.take();
                    this.state.set(State::Running { inner, permit });
                }
                StateProj::Running { inner, permit } => {
                    let rsp = ready!(inner.poll(cx));
                    let mut permit = permit.take().expect("not polled after its end");
                    permit.report(this.observe.observe(rsp.as_ref()));
                    return Poll::Ready(rsp.map(|rsp| this.keep.keep(rsp, permit)));
                }
            }
        }
    }
}

impl<Req> Classify<Req> for Unclassed {
    fn classify(&self, _: &Req) -> Criticality {
        Criticality::CriticalPlus
    }
}

impl<F: Fn(&Req) -> Criticality, Req> Classify<Req> for F {
    fn classify(&self, req: &Req) -> Criticality {
        self(req)
    }
}

impl<Rsp, E> Observe<Rsp, E> for OkIsSuccess {
    fn observe(&self, rsp: Result<&Rsp, &E>) -> Outcome {
        if rsp.is_ok() { Outcome::Success } else { Outcome::Ignored }
    }
}

impl<F: Fn(Result<&Rsp, &E>) -> Outcome, Rsp, E> Observe<Rsp, E> for F {
    fn observe(&self, rsp: Result<&Rsp, &E>) -> Outcome {
        self(rsp)
    }
}

impl<Rsp> KeepPermit<Rsp> for UntilResponse {
    type Response = Rsp;

    fn keep(&self, rsp: Rsp, _: Permit) -> Rsp {
        rsp
    }
}

impl<F: Fn(Rsp, Permit) -> Rsp2, Rsp, Rsp2> KeepPermit<Rsp> for F {
    type Response = Rsp2;

    fn keep(&self, rsp: Rsp, permit: Permit) -> Rsp2 {
        self(rsp, permit)
    }
}

// By hand, because closures have no `Debug`.
impl<C, O, K> fmt::Debug for LimitLayer<C, O, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LimitLayer").field(&self.limit).finish()
    }
}

impl<S: fmt::Debug, C, O, K> fmt::Debug for Limit<S, C, O, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("inner", &self.inner).field("limit", &self.layer.limit).finish()
    }
}

impl<S: Service<Req>, O, K, Req> fmt::Debug for ResponseFuture<S, O, K, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Waiting { .. } => "waiting",
            State::Running { .. } => "running",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
