//! A balancer as a tower service.

use std::{
    fmt,
    future::Future,
    hash::Hash,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    acquire::Acquire,
    balance::Balance,
    lease::{Lease, LeaseEnd},
    panic::Unavailable,
    strategy::Draw,
};

/// Sends each request to an endpoint of a [`Balance`].
///
/// Always ready: waiting for an endpoint and for that endpoint's readiness is part of the response future, so what is
/// reserved belongs to one request and ends with it. Fails with [`Unavailable`] if there is none.
///
/// The lease ends with the response future. Where answers are streams and load should count until their end, use
/// [`Balance::acquire`] and carry the [`LeaseEnd`] on the body.
pub struct BalanceService<K, S, C = IsOk> {
    balance: Balance<K, S>,
    success: C,
}

/// Whether a result says that the endpoint is well.
pub trait Success<Rsp, E> {
    /// False: the endpoint failed. A fault of the caller's is not the endpoint's.
    fn is_success(&self, rsp: Result<&Rsp, &E>) -> bool;
}

/// Takes every response for a success and every error for a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct IsOk;

/// Response future of [`BalanceService`].
#[pin_project]
pub struct ResponseFuture<K, S: Service<Req>, C, Req> {
    success: C,
    req: Option<Req>,
    #[pin]
    state: State<K, S, S::Future>,
}

#[pin_project(project = StateProj)]
enum State<K, S, F> {
    Acquiring(#[pin] Acquire<K, S>),
    GettingReady(Option<Lease<K, S>>),
    Calling(#[pin] F, Option<LeaseEnd>),
}

impl<K, S> BalanceService<K, S> {
    /// Sends to endpoints of `balance`; see [`IsOk`] for what counts as a failure.
    pub const fn new(balance: Balance<K, S>) -> Self {
        Self { balance, success: IsOk }
    }
}

impl<K, S, C> BalanceService<K, S, C> {
    /// Lets `success` decide which results say that the endpoint is well.
    pub fn success_if<Rsp, E, F>(self, success: F) -> BalanceService<K, S, F>
    where
        F: Fn(Result<&Rsp, &E>) -> bool,
    {
        BalanceService { balance: self.balance, success }
    }

    /// The balancer.
    pub const fn balance(&self) -> &Balance<K, S> {
        &self.balance
    }
}

impl<K, S, C, Req> Service<Req> for BalanceService<K, S, C>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: From<Unavailable>,
    C: Success<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<K, S, C, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let acquire = self.balance.acquire(Draw::random(), &[]);
        ResponseFuture { success: self.success.clone(), req: Some(req), state: State::Acquiring(acquire) }
    }
}

impl<K, S, C, Req> Future for ResponseFuture<K, S, C, Req>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: From<Unavailable>,
    C: Success<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Acquiring(acquire) => {
                    let lease = ready!(acquire.poll(cx))?;
                    this.state.set(State::GettingReady(Some(lease)));
                }
                StateProj::GettingReady(lease) => {
                    let svc = &mut **lease.as_mut().expect("taken only when leaving this state");
                    let ready = ready!(svc.poll_ready(cx));
                    let (mut svc, end) = lease.take().expect("as above").into_parts();
                    if let Err(error) = ready {
                        end.end(this.success.is_success(Err(&error)), Instant::now().into_std());
                        return Poll::Ready(Err(error));
                    }
                    let req = this.req.take().expect("polled after completion");
                    this.state.set(State::Calling(svc.call(req), Some(end)));
                }
                StateProj::Calling(rsp, end) => {
                    let rsp = ready!(rsp.poll(cx));
                    if let Some(end) = end.take() {
                        end.end(this.success.is_success(rsp.as_ref()), Instant::now().into_std());
                    }
                    return Poll::Ready(rsp);
                }
            }
        }
    }
}

impl<Rsp, E> Success<Rsp, E> for IsOk {
    fn is_success(&self, rsp: Result<&Rsp, &E>) -> bool {
        rsp.is_ok()
    }
}

impl<Rsp, E, F: Fn(Result<&Rsp, &E>) -> bool> Success<Rsp, E> for F {
    fn is_success(&self, rsp: Result<&Rsp, &E>) -> bool {
        self(rsp)
    }
}

impl<K, S, C: Clone> Clone for BalanceService<K, S, C> {
    fn clone(&self) -> Self {
        Self { balance: self.balance.clone(), success: self.success.clone() }
    }
}

impl<K: fmt::Debug, S, C> fmt::Debug for BalanceService<K, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceService").field("balance", &self.balance).finish_non_exhaustive()
    }
}

impl<K, S: Service<Req>, C, Req> fmt::Debug for ResponseFuture<K, S, C, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{task::Waker, time::Duration};

    use tokio::time;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::policy::Policy;

    const MS: Duration = Duration::from_millis(1);
    type Mock = mock::Mock<&'static str, u32>;
    type Handle = mock::Handle<&'static str, u32>;

    fn service() -> (BalanceService<u8, Mock>, Handle) {
        let (mock, handle) = mock::pair();
        let balance = Balance::new(Policy::default(), move |_, _| mock.clone());
        balance.update([(1, 1.0)]).unwrap();
        (BalanceService::new(balance), handle)
    }

    fn pending<C>(svc: &BalanceService<u8, Mock, C>) -> usize {
        svc.balance().stats(Instant::now().into_std()).load
    }

    fn score<C>(svc: &BalanceService<u8, Mock, C>) -> Duration {
        Duration::from_nanos(svc.balance().endpoints(Instant::now().into_std())[0].load as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_ends_the_lease_with_its_latency() {
        let (mut svc, mut handle) = service();
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        assert_eq!(pending(&svc), 1);
        let (req, send) = handle.next_request().await.unwrap();
        assert_eq!(req, "ping");
        time::advance(10 * MS).await;
        send.send_response(7);
        assert_eq!(assert_ready_ok!(rsp.poll()), 7);
        assert_eq!((pending(&svc), score(&svc)), (0, 10 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_costs_the_penalty() {
        let (mut svc, mut handle) = service();
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        handle.next_request().await.unwrap().1.send_error("broken");
        assert_eq!(assert_ready_err!(rsp.poll()).to_string(), "broken");
        assert_eq!((pending(&svc), score(&svc)), (0, 5000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn the_caller_may_say_what_a_failure_is() {
        let (svc, mut handle) = service();
        let mut svc = svc.success_if(|rsp: Result<&u32, &tower::BoxError>| rsp.is_ok_and(|rsp| *rsp < 500));
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        handle.next_request().await.unwrap().1.send_response(503);
        assert_eq!(assert_ready_ok!(rsp.poll()), 503);
        assert_eq!(score(&svc), 5000 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_endpoint_in_the_response_and_not_before() {
        let (mut svc, mut handle) = service();
        handle.allow(0);
        let mut cx = Context::from_waker(Waker::noop());
        assert_ready_ok!(Service::<&str>::poll_ready(&mut svc, &mut cx));
        let mut rsp = task::spawn(svc.call("ping"));
        assert_pending!(rsp.poll());
        assert_pending!(task::spawn(handle.next_request()).poll());
        handle.allow(1);
        assert!(rsp.is_woken());
        assert_pending!(rsp.poll());
        handle.next_request().await.unwrap().1.send_response(7);
        assert_eq!(assert_ready_ok!(rsp.poll()), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_teaches_nothing() {
        let (mut svc, mut handle) = service();
        for allowed in [0, 1] {
            handle.allow(allowed);
            let mut rsp = task::spawn(svc.call("ping"));
            assert_pending!(rsp.poll());
            assert_eq!(pending(&svc), 1);
            time::advance(10 * MS).await;
            drop(rsp);
            assert_eq!((pending(&svc), score(&svc)), (0, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_never_ready_again_failed() {
        let (mut svc, handle) = service();
        drop(handle);
        assert_ready_err!(task::spawn(svc.call("ping")).poll());
        assert_eq!((pending(&svc), score(&svc)), (0, 5000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn without_endpoints_the_request_fails() {
        let (mut svc, _handle) = service();
        svc.balance().clear();
        let err = assert_ready_err!(task::spawn(svc.call("ping")).poll());
        assert_eq!(err.downcast_ref(), Some(&Unavailable::NoEndpoints));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clone_shares_the_endpoints() {
        let (svc, _handle) = service();
        svc.clone().balance().clear();
        assert!(svc.balance().is_empty());
    }
}
