//! A breaker over any service, without a balancer.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{Breaker, Outcome, Permit, Phase, Rejection};
use crate::service::IsOk;

/// Wraps services in [`BreakerService`]s, all with the same breaker.
///
/// A timeout goes inside of it. A call that is given up further out is dropped, which says nothing of the service: of one
/// that hangs the breaker would never hear.
#[derive(Clone, Debug)]
pub struct BreakerLayer<C = IsOk> {
    breaker: Breaker,
    classify: C,
    observes: bool,
}

/// Fails requests with [`Rejection`] while its [`Breaker`] is open, and tells the breaker how the others went.
///
/// An open breaker is ready, and fails the request: it is asked before the service is, so that nobody waits for a service
/// that is not to be used, and a service that is ready for ever may still be left alone. (Not to be ready with an error
/// would say of the whole service that it is of no use any more.) A probe is taken when the request comes and not when
/// readiness is asked for, so that a clone that is ready and gets no request holds nobody up. What the service reserved for
/// a clone before the breaker opened only a call gives back: so that one is let through. A clone that was still waiting for
/// the service when the breaker opened goes on with a fresh clone of it, and leaves its place in a queue to others.
///
/// ```
/// use linkerd_balance::{Breaker, BreakerLayer, Rejection, accrual::ConsecutiveFailures};
/// use tower::{BoxError, Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let refusing = service_fn(|_: &str| async { Err::<(), BoxError>("connection refused".into()) });
/// let breaker = Breaker::builder(Box::new(ConsecutiveFailures::default())).id("orders").build();
/// let svc = BreakerLayer::new(breaker).layer(refusing);
/// for _ in 0..5 {
///     let error = svc.clone().oneshot("ping").await.unwrap_err();
///     assert_eq!(error.to_string(), "connection refused");
/// }
/// // Now it is left alone.
/// let error = svc.oneshot("ping").await.unwrap_err();
/// let rejection = error.downcast_ref::<Rejection>().expect("rejected");
/// assert_eq!(rejection.breaker.as_deref(), Some("orders"));
/// # }
/// ```
///
/// Below a balancer, let it [observe](BreakerLayer::observing) only: there the balancer decides.
///
/// A service that fails to get ready failed. What counts is the response, not its body. A response future that is
/// dropped counts for nothing. Clones share the breaker.
#[derive(Debug)]
pub struct BreakerService<S, C = IsOk> {
    inner: S,
    breaker: Breaker,
    classify: C,
    // Rejects nothing.
    observes: bool,
    // Set if the service was not asked whether it is ready.
    rejected: Option<Rejection>,
    // The service is, and may have reserved something for the next call.
    is_ready: bool,
    // The service is not yet, and may keep a place for who waits.
    is_waiting: bool,
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
        Self { breaker, classify: IsOk, observes: false }
    }
}

impl<C> BreakerLayer<C> {
    /// Lets `classify` decide what a result says of the service.
    #[must_use]
    pub fn classify<F>(self, classify: F) -> BreakerLayer<F> {
        BreakerLayer { breaker: self.breaker, classify, observes: self.observes }
    }

    /// Rejects nothing: lets every request through, as a probe if it is time for one, and tells the breaker how it went.
    ///
    /// For an endpoint below a balancer that has the breaker's [`Health`](crate::Health): that avoids it while it is busy,
    /// and when it sends a request there all the same, because no other is open either, the request is to arrive. A layer
    /// that rejects would turn such a pick, which fails open, into an error. Without a balancer nobody else leaves the
    /// service alone, so let the layer reject, which is the default.
    #[must_use]
    pub fn observing(self) -> Self {
        Self { observes: true, ..self }
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = BreakerService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { breaker, classify, observes } = self.clone();
        BreakerService { inner, breaker, classify, observes, rejected: None, is_ready: false, is_waiting: false }
    }
}

impl<S, C> BreakerService<S, C> {
    /// The breaker.
    pub const fn breaker(&self) -> &Breaker {
        &self.breaker
    }
}

impl<S: Clone, C: Clone> Clone for BreakerService<S, C> {
    /// Not ready: what is reserved is not shared.
    fn clone(&self) -> Self {
        let Self { inner, breaker, classify, observes, .. } = self;
        let (inner, breaker, classify) = (inner.clone(), breaker.clone(), classify.clone());
        Self { inner, breaker, classify, observes: *observes, rejected: None, is_ready: false, is_waiting: false }
    }
}

impl<S, C, Req> Service<Req> for BreakerService<S, C>
where
    S: Service<Req> + Clone,
    S::Error: From<Rejection>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BreakerFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let rejects = !self.observes && !self.is_ready;
        self.rejected = if rejects { self.breaker.why(Instant::now().into_std()) } else { None };
        if self.rejected.is_some() {
            if mem::take(&mut self.is_waiting) {
                self.inner = self.inner.clone();
            }
            return Poll::Ready(Ok(()));
        }
        let polled = self.inner.poll_ready(cx);
        self.is_waiting = polled.is_pending();
        let ready = ready!(polled);
        // Only a few may be sent to one that is half open, whoever is ready.
        self.is_ready = ready.is_ok() && (self.is_ready || self.breaker.phase() == Phase::Alive);
        if let Err(error) = &ready {
            let now = Instant::now().into_std();
            self.breaker.admit(now).record(self.classify.classify(Err(error)), now);
        }
        Poll::Ready(ready)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let is_ready = mem::take(&mut self.is_ready);
        let admitted = match self.rejected.take() {
            Some(rejection) => Err(rejection),
            None if self.observes || is_ready => Ok(self.breaker.admit(Instant::now().into_std())),
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{num::NonZeroU32, sync::Arc, task::Waker, time::Duration};

    use tokio::{sync::Semaphore, time};
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, limit::ConcurrencyLimit};
    use tower_test::mock;

    use super::*;
    use crate::{
        accrual::{Backoff, ConsecutiveFailures},
        breaker::{NextProbe, Phase},
    };

    const MS: Duration = Duration::from_millis(1);
    type Mock = mock::Mock<&'static str, u32>;
    type Handle = mock::Handle<&'static str, u32>;

    /// Opens at the second failure in a row, for 10 ms.
    fn layer() -> BreakerLayer {
        let accrual = ConsecutiveFailures::new(NonZeroU32::new(2).unwrap());
        let backoff = Backoff::constant(10 * MS).unwrap();
        BreakerLayer::new(Breaker::builder(Box::new(accrual)).backoff(backoff).id("a").build())
    }

    fn service() -> (BreakerService<Mock>, Handle) {
        let (mock, handle) = mock::pair();
        (layer().layer(mock), handle)
    }

    fn poll_ready<C>(svc: &mut BreakerService<Mock, C>) -> Poll<Result<(), BoxError>>
    where
        C: Classify<u32, BoxError> + Clone,
    {
        Service::<&str>::poll_ready(svc, &mut Context::from_waker(Waker::noop()))
    }

    async fn fail(svc: &mut BreakerService<Mock>, handle: &mut Handle) {
        assert_ready_ok!(poll_ready(svc));
        let mut rsp = task::spawn(svc.call("ping"));
        handle.next_request().await.unwrap().1.send_error("broken");
        assert_ready_err!(rsp.poll());
    }

    async fn open() -> (BreakerService<Mock>, Handle) {
        let (mut svc, mut handle) = service();
        fail(&mut svc, &mut handle).await;
        fail(&mut svc, &mut handle).await;
        (svc, handle)
    }

    fn rejection(error: BoxError) -> Rejection {
        *error.downcast().expect("a rejection")
    }

    #[tokio::test(start_paused = true)]
    async fn opens_at_the_limit_and_not_before() {
        let (mut svc, mut handle) = service();
        fail(&mut svc, &mut handle).await;
        assert_eq!(svc.breaker().phase(), Phase::Alive);
        fail(&mut svc, &mut handle).await;
        assert_ready_ok!(poll_ready(&mut svc));
        let rejection = rejection(assert_ready_err!(task::spawn(svc.call("ping")).poll()));
        assert_eq!(
            rejection.to_string(),
            "breaker a has been open for 0ns: 2 consecutive failures; next probe in 10ms"
        );
        assert_pending!(task::spawn(handle.next_request()).poll());
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_one_rejects_without_asking_a_service_that_is_never_ready() {
        let (mut svc, mut handle) = open().await;
        handle.allow(0);
        assert_ready_ok!(poll_ready(&mut svc));
        rejection(assert_ready_err!(task::spawn(svc.call("ping")).poll()));
        time::advance(10 * MS).await;
        assert_pending!(poll_ready(&mut svc));
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_is_the_probe_and_its_success_closes() {
        let (mut svc, mut handle) = open().await;
        time::advance(10 * MS).await;
        let (mut idle, mut other) = (svc.clone(), svc.clone());
        // Who is ready and sends nothing takes nobody's turn.
        assert_ready_ok!(poll_ready(&mut idle));
        assert_ready_ok!(poll_ready(&mut svc));
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        assert_ready_ok!(poll_ready(&mut other));
        let rejected = rejection(assert_ready_err!(task::spawn(other.call("ping")).poll()));
        assert_eq!(rejected.next_probe, Some(NextProbe::UnderWay));
        handle.next_request().await.unwrap().1.send_response(7);
        assert_eq!(assert_ready_ok!(rsp.poll()), 7);
        assert_eq!(other.breaker().phase(), Phase::Alive);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_lets_the_next_request_probe() {
        let (mut svc, mut handle) = open().await;
        time::advance(10 * MS).await;
        assert_ready_ok!(poll_ready(&mut svc));
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        drop((rsp, handle.next_request().await));
        assert_ready_ok!(poll_ready(&mut svc));
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        handle.next_request().await.unwrap().1.send_error("broken");
        assert_ready_err!(rsp.poll());
        assert!(matches!(svc.breaker().phase(), Phase::Dead { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_reserved_before_it_opened_is_given_back() {
        let (mut svc, mut handle) = service();
        handle.allow(1);
        assert_ready_ok!(poll_ready(&mut svc));
        let now = Instant::now().into_std();
        svc.breaker().admit(now).record(false, now);
        svc.breaker().admit(now).record(false, now);
        // A clone has nothing to give back.
        let mut other = svc.clone();
        assert_ready_ok!(poll_ready(&mut other));
        rejection(assert_ready_err!(task::spawn(other.call("ping")).poll()));
        // However often it is asked.
        assert_ready_ok!(poll_ready(&mut svc));
        let mut rsp = task::spawn(svc.call("ping"));
        handle.next_request().await.unwrap().1.send_response(7);
        assert_eq!(assert_ready_ok!(rsp.poll()), 7);
        assert_ready_ok!(poll_ready(&mut svc));
        rejection(assert_ready_err!(task::spawn(svc.call("ping")).poll()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_service_when_it_opens_leaves_its_place_to_others() {
        let places = Arc::new(Semaphore::new(1));
        let breaker = layer();
        let limited = |max: &Arc<Semaphore>| {
            let service = tower::service_fn(|_: &'static str| async { Ok::<u32, BoxError>(7) });
            ConcurrencyLimit::with_semaphore(service, Arc::clone(max))
        };
        let mut svc = breaker.layer(limited(&places));
        let taken = Arc::clone(&places).try_acquire_owned().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert_pending!(svc.poll_ready(&mut cx));
        let now = Instant::now().into_std();
        svc.breaker().admit(now).record(false, now);
        svc.breaker().admit(now).record(false, now);
        assert_ready_ok!(svc.poll_ready(&mut cx));
        drop(taken);
        assert_eq!(places.available_permits(), 1);
        rejection(assert_ready_err!(task::spawn(svc.call("ping")).poll()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_fails_to_get_ready_failed() {
        let (mut svc, handle) = service();
        drop(handle);
        assert_ready_err!(poll_ready(&mut svc));
        assert_ready_err!(poll_ready(&mut svc));
        assert!(matches!(svc.breaker().phase(), Phase::Dead { .. }));
        // Which it says by a request that fails: the breaker itself is well.
        assert_ready_ok!(poll_ready(&mut svc));
        rejection(assert_ready_err!(task::spawn(svc.call("ping")).poll()));
        time::advance(10 * MS).await;
        assert_ready_err!(poll_ready(&mut svc));
        assert_eq!(svc.breaker().counters().probes(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_caller_may_say_what_counts() {
        let (mock, mut handle) = mock::pair::<&'static str, u32>();
        let classify = |rsp: Result<&u32, &BoxError>| match rsp {
            Ok(404) => Outcome::Neutral,
            Ok(status) => Outcome::from(*status < 500),
            Err(_) => Outcome::Failure,
        };
        let mut svc = layer().classify(classify).layer(mock);
        for status in [503, 404, 503] {
            assert_eq!(svc.breaker().phase(), Phase::Alive);
            assert_ready_ok!(poll_ready(&mut svc));
            let mut rsp = task::spawn(svc.call("ping"));
            handle.next_request().await.unwrap().1.send_response(status);
            assert_eq!(assert_ready_ok!(rsp.poll()), status);
        }
        assert!(matches!(svc.breaker().phase(), Phase::Dead { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn services_of_one_layer_share_its_breaker() {
        let (layer, (mock, handle)) = (layer(), mock::pair::<&'static str, u32>());
        drop(handle);
        let (mut a, b) = (layer.layer(mock.clone()), layer.layer(mock));
        assert_ready_err!(poll_ready(&mut a));
        assert_ready_err!(poll_ready(&mut a));
        assert!(matches!(b.breaker().phase(), Phase::Dead { .. }));
    }
}
