//! A breaker over any service, without a balancer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{Breaker, Outcome, Permit, Rejection};
use crate::service::IsOk;

/// Wraps services in [`BreakerService`]s, all with the same breaker.
#[derive(Clone, Debug)]
pub struct BreakerLayer<C = IsOk> {
    breaker: Breaker,
    classify: C,
}

/// Fails requests with [`Rejection`] while its [`Breaker`] is open, and tells the breaker how the others went.
///
/// An open breaker is ready, and fails the request: it is asked before the service is, so that nobody waits for a service
/// that is not to be used, and a service that is ready for ever may still be left alone. (Not to be ready with an error
/// would say of the whole service that it is of no use any more.) A probe is taken when the request comes and not when
/// readiness is asked for, so that a clone that is ready and gets no request holds nobody up.
///
/// A service that fails to get ready failed. What counts is the response, not its body. A response future that is
/// dropped counts for nothing. Clones share the breaker.
#[derive(Clone, Debug)]
pub struct BreakerService<S, C = IsOk> {
    inner: S,
    breaker: Breaker,
    classify: C,
    // Set if the service was not asked whether it is ready.
    rejected: Option<Rejection>,
}

/// Says what a result says of who gave it.
///
/// A closure that returns an [`Outcome`] or a `bool` does.
pub trait Classify<Rsp, E> {
    /// What this result says.
    fn classify(&self, rsp: Result<&Rsp, &E>) -> Outcome;
}

/// Response future of [`BreakerService`].
#[pin_project]
pub struct BreakerFuture<F, C> {
    #[pin]
    state: State<F>,
    classify: C,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Calling(#[pin] F, Option<Permit>),
    Rejected(Option<Rejection>),
}

impl BreakerLayer {
    /// Lets `breaker` decide; see [`IsOk`] for what counts as a failure.
    #[must_use]
    pub const fn new(breaker: Breaker) -> Self {
        Self { breaker, classify: IsOk }
    }
}

impl<C> BreakerLayer<C> {
    /// Lets `classify` decide what a result says of the service.
    #[must_use]
    pub fn classify<F>(self, classify: F) -> BreakerLayer<F> {
        BreakerLayer { breaker: self.breaker, classify }
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = BreakerService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        BreakerService { inner, breaker: self.breaker.clone(), classify: self.classify.clone(), rejected: None }
    }
}

impl<S, C> BreakerService<S, C> {
    /// The breaker.
    pub const fn breaker(&self) -> &Breaker {
        &self.breaker
    }
}

impl<S, C, Req> Service<Req> for BreakerService<S, C>
where
    S: Service<Req>,
    S::Error: From<Rejection>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BreakerFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.rejected = self.breaker.why(Instant::now().into_std());
        if self.rejected.is_some() {
            return Poll::Ready(Ok(()));
        }
        let ready = ready!(self.inner.poll_ready(cx));
        if let Err(error) = &ready {
            let now = Instant::now().into_std();
            self.breaker.admit(now).record(self.classify.classify(Err(error)), now);
        }
        Poll::Ready(ready)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let admitted = match self.rejected.take() {
            Some(rejection) => Err(rejection),
            None => self.breaker.try_admit(Instant::now().into_std()),
        };
        let state = match admitted {
            Ok(permit) => State::Calling(self.inner.call(req), Some(permit)),
            Err(rejection) => State::Rejected(Some(rejection)),
        };
        BreakerFuture { state, classify: self.classify.clone() }
    }
}

impl<F, C, Rsp, E> Future for BreakerFuture<F, C>
where
    F: Future<Output = Result<Rsp, E>>,
    E: From<Rejection>,
    C: Classify<Rsp, E>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProj::Calling(rsp, permit) => {
                let rsp = ready!(rsp.poll(cx));
                if let Some(permit) = permit.take() {
                    permit.record(this.classify.classify(rsp.as_ref()), Instant::now().into_std());
                }
                Poll::Ready(rsp)
            }
            StateProj::Rejected(rejection) => {
                let rejection = rejection.take().expect("polled after completion");
                Poll::Ready(Err(rejection.into()))
            }
        }
    }
}

impl<Rsp, E> Classify<Rsp, E> for IsOk {
    fn classify(&self, rsp: Result<&Rsp, &E>) -> Outcome {
        rsp.is_ok().into()
    }
}

impl<Rsp, E, O: Into<Outcome>, F: Fn(Result<&Rsp, &E>) -> O> Classify<Rsp, E> for F {
    fn classify(&self, rsp: Result<&Rsp, &E>) -> Outcome {
        self(rsp).into()
    }
}

impl<F, C> fmt::Debug for BreakerFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerFuture").finish_non_exhaustive()
    }
}
