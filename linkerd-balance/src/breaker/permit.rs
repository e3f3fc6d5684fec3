//! Leave for one call, and how it went.

use std::time::{Duration, Instant};

use super::Breaker;
use crate::stamp::Stamp;

/// Leave for one call, from [`Breaker::admit`] or [`Breaker::try_admit`].
///
/// Dropped without [`record`](Self::record) it counts for nothing; if it was a probe, another call may be: at once, or if
/// it had waited for [`PATIENCE`](Self::PATIENCE), when the shortest backoff has passed once more. Each call that is given
/// up is one that somebody wanted an answer to.
///
/// A probe that is neither, with a caller who waits for ever, holds the others up for as long as the last backoff was, and no
/// less than `PATIENCE`. Then it counts as failed, with the next backoff until one more call is a probe; if it succeeds
/// after all, it brings the endpoint back.
#[derive(Debug)]
#[must_use = "dropping a permit gives up the probe"]
pub struct Permit {
    pub(super) breaker: Breaker,
    // Which life, or which round of probes, it belongs to: what comes later than that is about another one.
    pub(super) epoch: u32,
    // Since when, if it is a probe.
    pub(super) probe: Option<Stamp>,
}

/// What a call says of the endpoint that it went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The endpoint is well.
    Success,
    /// The endpoint failed.
    Failure,
    /// Nothing: our side gave up before it could, or the endpoint refused what nobody would have accepted.
    ///
    /// A caller's fault (a request not found, not allowed, malformed) is no failure of the endpoint's. Nor is it a
    /// success: an endpoint that cannot reach its database and answers "not found" all the same would never be found
    /// out, if one such answer ended a row of failures or let it back into use. So it counts for nothing, and a probe
    /// with this outcome makes room for the next one, as one that is [dropped](Permit) does. Who knows that such an answer takes a
    /// working endpoint says [`Success`](Self::Success).
    Neutral,
}

impl Permit {
    /// A probe that is given up after this long says something, if not much: a quarter of a second. One that is dropped
    /// sooner lost a race, or its caller.
    pub const PATIENCE: Duration = Duration::from_millis(250);

    /// Whether this call decides over the endpoint's return.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Tells the breaker how the call went: an [`Outcome`], or whether it succeeded.
    pub fn record(mut self, outcome: impl Into<Outcome>, now: Instant) {
        let success = match outcome.into() {
            Outcome::Success => true,
            Outcome::Failure => false,
            // As if it had never been.
            Outcome::Neutral => return self.release(|| now),
        };
        let probe = self.probe.take().is_some();
        self.breaker.record(self.epoch, probe, success, now);
    }

    fn release(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(begun) = self.probe.take() {
            self.breaker.release(self.epoch, begun, now());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release(|| tokio::time::Instant::now().into_std());
    }
}

impl From<bool> for Outcome {
    /// Success, or failure.
    fn from(success: bool) -> Self {
        if success { Self::Success } else { Self::Failure }
    }
}
