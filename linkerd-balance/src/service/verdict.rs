//! What a result says of the endpoint that gave it.

use tokio::time::Instant;

use crate::{breaker::Outcome, lease::LeaseEnd, load::Hint};

/// What a result says of the endpoint that gave it: how it went, and what the endpoint said of itself.
///
/// A `bool` (whether it is a success) or an [`Outcome`] is one without a hint, and a pair of either and a [`Hint`] is one
/// with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// How it went. [`Outcome::Neutral`], such as for a fault of the caller's, teaches nothing: the request counts as if
    /// it had been [cancelled](LeaseEnd::cancel).
    pub outcome: Outcome,
    /// What the endpoint said of its own load, such as `Retry-After`.
    pub hint: Option<Hint>,
}

/// Says what a result says of the endpoint that gave it.
///
/// A closure that returns a [`Verdict`], or what is made into one, does; so does one that is a breaker's
/// [`Classify`](crate::Classify).
pub trait Judge<Rsp, E> {
    /// What this result says.
    fn judge(&self, rsp: Result<&Rsp, &E>) -> Verdict;
}

/// Takes every response for a success and every error for a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct IsOk;

impl Verdict {
    /// Ends a lease with it.
    pub(super) fn end(self, end: LeaseEnd) {
        let now = Instant::now().into_std();
        if let Some(hint) = self.hint {
            end.hint(hint, now);
        }
        match self.outcome {
            Outcome::Success => end.end(true, now),
            Outcome::Failure => end.end(false, now),
            Outcome::Neutral => end.cancel(now),
        }
    }
}

impl<Rsp, E> Judge<Rsp, E> for IsOk {
    fn judge(&self, rsp: Result<&Rsp, &E>) -> Verdict {
        rsp.is_ok().into()
    }
}

impl<Rsp, E, V: Into<Verdict>, F: Fn(Result<&Rsp, &E>) -> V> Judge<Rsp, E> for F {
    fn judge(&self, rsp: Result<&Rsp, &E>) -> Verdict {
        self(rsp).into()
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, hint: None }
    }
}

impl From<bool> for Verdict {
    /// Success, or failure.
    fn from(success: bool) -> Self {
        Outcome::from(success).into()
    }
}

impl<O: Into<Outcome>> From<(O, Hint)> for Verdict {
    fn from((outcome, hint): (O, Hint)) -> Self {
        Self { outcome: outcome.into(), hint: Some(hint) }
    }
}
