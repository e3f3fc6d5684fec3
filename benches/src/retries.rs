//! All of `linkerd-retry` that a request meets on its way, over a service that answers at once.

use std::{
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use linkerd_retry::{
    Deadline, Expired, ResponseClass, Until,
    expire::DeadlineLayer,
    retry::{Hooks, RetryLayer},
    timeout::{AttemptElapsed, AttemptTimeoutLayer, Elapsed, TotalTimeoutLayer},
};
use tower::{Service, ServiceBuilder};

/// A request with a deadline.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// By when it must be over.
    pub deadline: Deadline,
    /// What it is answered with.
    pub status: u16,
}

/// Answers at once, with what the request says.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

/// There was no answer in time.
#[derive(Clone, Copy, Debug)]
pub struct Late;

/// Reads a request's deadline.
#[derive(Clone, Copy, Debug)]
struct Carried;

impl Hooks<Call, u16, Late> for Carried {
    fn deadline(&self, call: &Call, _: Instant) -> Option<Until<Late>> {
        Some(Until::new(call.deadline))
    }
}

impl Service<Call> for Echo {
    type Response = u16;
    type Error = Late;
    type Future = Ready<Result<u16, Late>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Late>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        ready(Ok(call.status))
    }
}

/// Deadline, total timeout, retries with their budget and classes, and attempt timeout, all with limits that hold.
#[must_use]
pub fn stack() -> impl Service<Call, Response = u16, Error = Late> {
    let classify = |_: &Call, rsp: Result<&u16, &Late>| match rsp {
        Ok(status) if *status < 500 => ResponseClass::Success,
        _ => ResponseClass::RETRYABLE,
    };
    ServiceBuilder::new()
        .layer(DeadlineLayer::server(|call: &Call| Some(call.deadline)))
        .layer(TotalTimeoutLayer::new(Duration::from_secs(10)))
        .layer(RetryLayer::new(classify).hooks(Carried))
        .layer(AttemptTimeoutLayer::new(Duration::from_secs(3)))
        .service(Echo)
}

/// Makes a call that is answered at once. There is no runtime: what touches a timer panics.
///
/// # Panics
///
/// If it is not answered at once, or not well.
pub fn call<S>(svc: &mut S, call: Call)
where
    S: Service<Call, Response = u16, Error = Late>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(svc.poll_ready(&mut cx).is_ready(), "not ready at once");
    let rsp = pin!(svc.call(call));
    assert!(matches!(rsp.poll(&mut cx), Poll::Ready(Ok(status)) if status == call.status), "not answered at once");
}

impl From<Elapsed> for Late {
    fn from(_: Elapsed) -> Self {
        Self
    }
}

impl From<AttemptElapsed> for Late {
    fn from(_: AttemptElapsed) -> Self {
        Self
    }
}

impl From<Expired> for Late {
    fn from(_: Expired) -> Self {
        Self
    }
}
