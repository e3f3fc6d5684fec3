//! What is hedged, when, and how often.

use std::time::Duration;

use crate::Deadline;

/// Makes the second request, and says which of two outcomes to take.
///
/// Any `Fn(&Req) -> Option<Req>` is one: it returns a copy of a request that is idempotent, and `None` for one that is not.
/// A copy is made of every request that may be hedged, before the first goes out, so it should be cheap: share what is
/// large.
pub trait HedgeRequest<Req, Rsp, E> {
    /// A request that means the same as `first`, or `None` if it may not be sent twice at the same time.
    ///
    /// Two requests that are to go to different endpoints need something to share: put it into `first` and the copy, have
    /// whatever picks an endpoint note there which one it picked, and pick another for one whose
    /// [`HedgeContext`] says that it is the second.
    fn copy(&self, first: &mut Req) -> Option<Req>;

    /// Whether `first` counts as a request, of which a [share](super::HedgeLayer::share) may be sent twice. Always by
    /// default; not if it is another attempt at one that counted already, or a share of the *requests* would be exceeded
    /// by as much as they are retried.
    fn counts(&self, first: &Req) -> bool {
        let _ = first;
        true
    }

    /// By when `first` must be over: a second request is not sent after that, and no timer is touched for one that would
    /// be. By default there is no such time.
    fn deadline(&self, first: &Req) -> Option<Deadline> {
        let _ = first;
        None
    }

    /// Whether the second request should be sent, now that it is due and before it is paid for: not if there is nowhere
    /// else for it to go, say. Always by default.
    fn is_wanted(&self, second: &Req) -> bool {
        let _ = second;
        true
    }

    /// Puts the context into the second request, just before it is sent. Does nothing by default.
    fn prepare(&self, second: &mut Req, context: HedgeContext) {
        let _ = (second, context);
    }

    /// Whether this outcome of one request ends the other, while that is still under way. By default every response does
    /// and no error. Failing fast should not win.
    fn wins(&self, outcome: Result<&Rsp, &E>) -> bool {
        outcome.is_ok()
    }
}

/// What a second request should know about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgeContext {
    /// For how long the first has been under way. It still is.
    pub waited: Duration,
}

/// How long the first request has before there is a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HedgeDelay {
    /// Always as long.
    Fixed(Duration),
    /// As long as most requests take.
    Percentile {
        /// This percentile of how long first requests took in the last minute, of those that went [well](HedgeRequest::wins).
        /// One that was given up, or overtaken by its second, counts with the time that it had, if that was longer than
        /// this is now: how much longer it would have taken nobody knows. Above 0 and up to 100; 95 makes for up to
        /// one second request in twenty, as long as requests take what they did.
        percentile: f64,
        /// But no less than this.
        min: Duration,
        /// And no more than this, which is also what is waited until a hundred requests were seen.
        max: Duration,
    },
}

/// A setting of a [`HedgeLayer`](super::HedgeLayer) that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHedge {
    /// `percentile` is not above 0 and up to 100.
    #[error("a hedge's percentile must be above 0 and up to 100, not {0}")]
    Percentile(f64),
    /// `min` is more than `max`.
    #[error("a hedge's delay cannot be at least {min:?} and at most {max:?}")]
    Delay {
        /// The setting.
        min: Duration,
        /// The setting.
        max: Duration,
    },
    /// The share is not from 0 to 1.
    #[error("a hedge's share of the requests must be from 0 to 1, not {0}")]
    Share(f64),
}

impl<F, Req, Rsp, E> HedgeRequest<Req, Rsp, E> for F
where
    F: Fn(&Req) -> Option<Req>,
{
    fn copy(&self, first: &mut Req) -> Option<Req> {
        self(first)
    }
}
