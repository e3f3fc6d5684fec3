use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Log;
use crate::{Deadline, Expired, Until};

/// What [`Retry`](super::Retry) asks of those who know its requests and responses, and tells them. Each has a default that
/// does nothing.
///
/// ```
/// use linkerd_retry::{Deadline, Until, retry::{Attempt, Hooks, Log}};
/// use std::{sync::Arc, time::Instant};
/// use tower::BoxError;
///
/// struct Call {
///     deadline: Option<Deadline>,
///     avoid: Vec<Arc<str>>,
///     retry_no: u32,
/// }
///
/// struct Reply {
///     peer: Arc<str>,
/// }
///
/// struct Mine;
///
/// impl Hooks<Call, Reply, BoxError> for Mine {
///     fn deadline(&self, call: &Call, _now: Instant) -> Option<Until<BoxError>> {
///         call.deadline.map(Until::new)
///     }
///
///     fn before(&self, call: &mut Call, attempt: &Attempt<'_>) {
///         call.avoid = attempt.log.endpoints().cloned().collect();
///         call.retry_no = attempt.number - 1;
///     }
///
///     fn endpoint(&self, outcome: Result<&Reply, &BoxError>) -> Option<Arc<str>> {
///         outcome.ok().map(|reply| reply.peer.clone())
///     }
///
///     fn end(&self, outcome: &mut Result<Reply, BoxError>, log: &Log) {
///         if let Err(error) = outcome {
///             *error = format!("{error} ({log})").into();
///         }
///     }
/// }
/// ```
pub trait Hooks<Req, Rsp, E>: Send + Sync + 'static {
    /// By when a request must be over, and the error for when an attempt would have to begin after that. It is asked once
    /// per request, when it comes; `now` is that instant.
    ///
    /// No attempt, the first one included, begins after the deadline, and none that would not be over by it.
    fn deadline(&self, req: &Req, now: Instant) -> Option<Until<E>> {
        let _ = (req, now);
        None
    }

    /// Told before each attempt, with the request that it sends. Here the number of the attempt or the time that is left
    /// can be written on it, and which endpoints to avoid. What is written is on this attempt's request only.
    fn before(&self, req: &mut Req, attempt: &Attempt<'_>) {
        let _ = (req, attempt);
    }

    /// Where an attempt went, for the log and for those who pick the endpoint of the next. Asked when it failed, or was
    /// not the first.
    fn endpoint(&self, outcome: Result<&Rsp, &E>) -> Option<Arc<str>> {
        let _ = outcome;
        None
    }

    /// Does away with a response that nobody will see, because the request is sent again.
    ///
    /// By default it is dropped, which should reset what it came by. To have its connection used again, give a future
    /// that reads what is left: it runs while the backoff does, or for the
    /// [time](super::RetryLayer::drain_for) that it has if that is longer, but never past the deadline; and is dropped if
    /// it is not done by then. It is boxed because it is seldom, and every request would have to have room for it.
    fn discard(&self, rsp: Rsp) -> Option<Drain> {
        drop(rsp);
        None
    }

    /// Told about the outcome that is passed on, and may write on it what was tried. Not called if the first attempt
    /// succeeded, nor for a request of which there was no copy.
    fn end(&self, outcome: &mut Result<Rsp, E>, log: &Log) {
        let _ = (outcome, log);
    }
}

/// Reads what is left of a response, and ends.
pub type Drain = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An attempt that is about to be made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// Which one it is. The first is 1.
    pub number: u32,
    /// By when the request must be over: the time that is left is what to tell the peer.
    pub deadline: Option<Deadline>,
    /// What was tried before.
    pub log: &'a Log,
}

/// Does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

/// Gives every request this time, and does nothing else.
///
/// It tells [`Retry`](super::Retry) what a [`TotalTimeout`](crate::timeout::TotalTimeout) above it will do, so that a
/// request whose next attempt would not be over in time ends at once, with its last outcome, and not later with a
/// timeout.
#[derive(Clone, Copy, Debug)]
pub struct Within(pub Duration);

impl<Req, Rsp, E> Hooks<Req, Rsp, E> for NoHooks {}

impl<Req, Rsp, E: From<Expired>> Hooks<Req, Rsp, E> for Within {
    fn deadline(&self, _: &Req, now: Instant) -> Option<Until<E>> {
        Deadline::after(now, self.0).map(Until::new)
    }
}

impl<H: Hooks<Req, Rsp, E>, Req, Rsp, E> Hooks<Req, Rsp, E> for Option<H> {
    fn deadline(&self, req: &Req, now: Instant) -> Option<Until<E>> {
        self.as_ref().and_then(|hooks| hooks.deadline(req, now))
    }

    fn before(&self, req: &mut Req, attempt: &Attempt<'_>) {
        if let Some(hooks) = self {
            hooks.before(req, attempt);
        }
    }

    fn endpoint(&self, outcome: Result<&Rsp, &E>) -> Option<Arc<str>> {
        self.as_ref().and_then(|hooks| hooks.endpoint(outcome))
    }

    fn discard(&self, rsp: Rsp) -> Option<Drain> {
        self.as_ref().and_then(|hooks| hooks.discard(rsp))
    }

    fn end(&self, outcome: &mut Result<Rsp, E>, log: &Log) {
        if let Some(hooks) = self {
            hooks.end(outcome, log);
        }
    }
}
