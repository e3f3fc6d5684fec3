//! A balancer as a tower service.

use std::{
    fmt,
    future::Future,
    hash::Hash,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tower_service::Service;

use crate::{
    acquire::Acquire,
    balance::{Balance, InvalidSet},
    health::{Health, Status},
    lease::LeaseEnd,
    member::Member,
    panic::Unavailable,
    policy::Policy,
    strategy::Draw,
};

mod verdict;
mod waits;

pub use self::verdict::{IsOk, Judge, Verdict};
use self::waits::{Turn, Waits};

/// Sends each request to an endpoint of a [`Balance`].
///
/// Always ready: waiting for an endpoint and for that endpoint's readiness is part of the response future, so what is
/// reserved belongs to one request and ends with it. Fails with [`Unavailable`] if there is none.
///
/// As long as nothing was sent, a request is not bound to the endpoint that was picked for it.
///
/// - While that one is not ready the request waits there and at others that are open, up to [`MAX_WAITS`] at a time. The
///   first that is ready gets it; of the others the load learns that they took at least so long.
/// - When one leaves the set, or another one comes, the request looks again, and also every [`LOOK_AGAIN`]: one that was
///   left alone may be open again, which nobody says.
/// - When one fails to get ready, it goes to one where it was not yet, and fails with what the last of them said when there
///   is none, or after [`MAX_UNREADY`]. The endpoint stays in the set: only discovery removes one.
///
/// A request is never copied, and once it was sent, what it comes to is the answer: retries are for a layer above.
///
/// How long it takes until one is ready has no bound of its own; a caller that gives up drops the future.
///
/// The lease ends with the response future. Where answers are streams and load should count until their end, use
/// [`Balance::acquire`] and carry the [`LeaseEnd`] on the body.
pub struct BalanceService<K, S, C = IsOk, D = NoKey> {
    balance: Balance<K, S>,
    judge: C,
    keys: D,
}

/// How many endpoints a request finds unable to get ready before it fails: 32. Looking for the next one takes the
/// longer the more were tried, and an outage is no time for that.
pub const MAX_UNREADY: usize = 32;

/// At how many endpoints a request waits at the same time until one of them is ready: 8. Each of them counts it as in
/// flight.
pub const MAX_WAITS: usize = 8;

/// After how long a request that waits looks again for another endpoint that is open by now: 100 ms.
pub const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Says which requests should meet the same endpoint, for strategies that hash.
///
/// A closure from a request to an `Option<u64>` does.
pub trait Keys<Req> {
    /// The same for requests that belong together; `None` for one that belongs anywhere.
    fn key(&self, req: &Req) -> Option<u64>;
}

/// Every request belongs anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKey;

/// Response future of [`BalanceService`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<K, S: Service<Req>, C, Req> {
    balance: Balance<K, S>,
    judge: C,
    key: Option<u64>,
    req: Option<Req>,
    // Endpoints that failed to get ready, and what the last of them said.
    tried: Vec<K>,
    unready: Option<S::Error>,
    #[pin]
    state: State<K, S, S::Future>,
}

#[pin_project(project = StateProj)]
enum State<K, S, F> {
    Acquiring(#[pin] Acquire<K, S>),
    Waiting(#[pin] Waits<K, S>),
    Calling(#[pin] F, Option<LeaseEnd>),
}

impl<K, S> BalanceService<K, S> {
    /// Sends to endpoints of `balance`; see [`IsOk`] for what counts as a failure.
    pub const fn new(balance: Balance<K, S>) -> Self {
        Self { balance, judge: IsOk, keys: NoKey }
    }
}

impl<K, S> BalanceService<K, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    /// Sends to endpoints that are known beforehand: [`Balance::fixed`] as a service.
    ///
    /// # Errors
    ///
    /// No endpoint at all, and a weight that is not a finite number above zero.
    pub fn fixed<M: Into<Member<K>>>(
        policy: Policy,
        endpoints: impl IntoIterator<Item = M>,
        new_endpoint: impl Fn(&K, &Health) -> S + Send + Sync + 'static,
    ) -> Result<Self, InvalidSet> {
        Balance::fixed(policy, endpoints, new_endpoint).map(Self::new)
    }
}

impl<K, S, C, D> BalanceService<K, S, C, D> {
    /// Lets `success` decide which results say that the endpoint is well. A fault of the caller's is not the endpoint's:
    /// [`judge_by`](Self::judge_by) can say so.
    pub fn success_if<Rsp, E, F>(self, success: F) -> BalanceService<K, S, F, D>
    where
        F: Fn(Result<&Rsp, &E>) -> bool,
    {
        self.judge_by(success)
    }

    /// Lets `judge` decide what results say of the endpoint: failures, faults of the caller's, hints.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use linkerd_balance::{BalanceService, Hint, Outcome, Policy, Verdict};
    /// use tower::{BoxError, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let endpoint = |name: &&'static str, _: &_| {
    ///     let status = if *name == "a" { 429_u16 } else { 200 };
    ///     service_fn(move |_req: ()| async move { Ok::<_, BoxError>(status) })
    /// };
    /// let svc = BalanceService::fixed(Policy::peak_ewma(), [("a", 1.0), ("b", 1.0)], endpoint)?.judge_by(
    ///     |rsp: Result<&u16, &BoxError>| match rsp {
    ///         // It would like to be left alone for a while, which a real server says for how long.
    ///         Ok(429) => Verdict::from((Outcome::Failure, Hint::Backoff(Duration::from_secs(1)))),
    ///         Ok(500..) | Err(_) => Outcome::Failure.into(),
    ///         // The caller's fault: says nothing of the endpoint.
    ///         Ok(400..) => Outcome::Neutral.into(),
    ///         Ok(_) => Outcome::Success.into(),
    ///     },
    /// );
    /// for _ in 0..2 {
    ///     svc.clone().oneshot(()).await?;
    /// }
    /// assert_eq!(svc.oneshot(()).await?, 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn judge_by<F>(self, judge: F) -> BalanceService<K, S, F, D> {
        BalanceService { balance: self.balance, judge, keys: self.keys }
    }

    /// Lets `key` say which requests should meet the same endpoint, for strategies that hash: [`Ring`](crate::Ring),
    /// [`Maglev`](crate::Maglev).
    pub fn keyed_by<Req, F>(self, key: F) -> BalanceService<K, S, C, F>
    where
        F: Fn(&Req) -> Option<u64>,
    {
        BalanceService { balance: self.balance, judge: self.judge, keys: key }
    }

    /// The balancer.
    pub const fn balance(&self) -> &Balance<K, S> {
        &self.balance
    }
}

impl<K, S, C, D, Req> Service<Req> for BalanceService<K, S, C, D>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: From<Unavailable>,
    C: Judge<S::Response, S::Error> + Clone,
    D: Keys<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<K, S, C, Req>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let key = self.keys.key(&req);
        ResponseFuture {
            balance: self.balance.clone(),
            judge: self.judge.clone(),
            key,
            req: Some(req),
            tried: Vec::new(),
            unready: None,
            state: State::Acquiring(self.balance.acquire(draw(key), &[])),
        }
    }
}

fn draw(key: Option<u64>) -> Draw {
    Draw { key, ..Draw::random() }
}

impl<K, S, C, Req> Future for ResponseFuture<K, S, C, Req>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: From<Unavailable>,
    C: Judge<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (lease, ready, waits) = match this.state.as_mut().project() {
                StateProj::Acquiring(acquire) => {
                    let lease = ready!(acquire.poll(cx));
                    // What was seen says more than that there is nothing else. And if all were tried, it is one of them.
                    if this.unready.is_some() && lease.as_ref().map_or(true, |lease| this.tried.contains(lease.key())) {
                        return Poll::Ready(Err(this.unready.take().expect("just looked at")));
                    }
                    let mut lease = lease?;
                    let Poll::Ready(ready) = lease.poll_ready(cx) else {
                        this.state.set(State::Waiting(Waits::at(lease, this.balance)));
                        continue;
                    };
                    (lease, ready, false)
                }
                StateProj::Waiting(waits) => {
                    let Turn::Asked(lease, ready) = ready!(waits.poll(this.balance, *this.key, this.tried, cx)) else {
                        this.state.set(State::Acquiring(this.balance.acquire(draw(*this.key), this.tried)));
                        continue;
                    };
                    (lease, ready, true)
                }
                StateProj::Calling(rsp, end) => {
                    let rsp = ready!(rsp.poll(cx));
                    if let Some(end) = end.take() {
                        this.judge.judge(rsp.as_ref()).end(end);
                    }
                    return Poll::Ready(rsp);
                }
            };
            let Err(error) = ready else {
                let (mut svc, end) = lease.into_parts();
                let req = this.req.take().expect("polled after completion");
                this.state.set(State::Calling(svc.call(req), Some(end)));
                continue;
            };
            this.tried.push(lease.key().clone());
            // Who says himself that he is not connected is avoided for as long as that is so. The load would remember it
            // for longer.
            if this.balance.link_of(lease.key()) == Some(Status::Open) {
                this.judge.judge(Err(&error)).end(lease.into_parts().1);
            } else {
                let begun = lease.begun();
                lease.cancel(begun);
            }
            if this.tried.len() == MAX_UNREADY {
                return Poll::Ready(Err(error));
            }
            *this.unready = Some(error);
            // Those that it waits at look for another one themselves.
            if !waits {
                this.state.set(State::Acquiring(this.balance.acquire(draw(*this.key), this.tried)));
            }
        }
    }
}

impl<Req> Keys<Req> for NoKey {
    fn key(&self, _req: &Req) -> Option<u64> {
        None
    }
}

impl<Req, F: Fn(&Req) -> Option<u64>> Keys<Req> for F {
    fn key(&self, req: &Req) -> Option<u64> {
        self(req)
    }
}

impl<K, S, C: Clone, D: Clone> Clone for BalanceService<K, S, C, D> {
    fn clone(&self) -> Self {
        Self { balance: self.balance.clone(), judge: self.judge.clone(), keys: self.keys.clone() }
    }
}

impl<K: fmt::Debug, S, C, D> fmt::Debug for BalanceService<K, S, C, D> {
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
    use std::task::Waker;

    use tokio::time::{self, Instant};
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;

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
    async fn a_request_that_is_dropped_took_at_least_so_long() {
        let (mut svc, mut handle) = service();
        for allowed in [0, 1] {
            handle.allow(allowed);
            let mut rsp = task::spawn(svc.call("ping"));
            assert_pending!(rsp.poll());
            assert_eq!(pending(&svc), 1);
            time::advance(10 * MS).await;
            drop(rsp);
            assert_eq!((pending(&svc), score(&svc)), (0, 10 * MS));
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
