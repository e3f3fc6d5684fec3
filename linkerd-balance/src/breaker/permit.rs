//! Leave for one call, and how it went.

use std::time::Instant;

use super::Breaker;

/// Leave for one call, from [`Breaker::admit`] or [`Breaker::try_admit`].
///
/// Dropped without [`record`](Self::record) it counts for nothing; if it was a probe, another call may be.
#[derive(Debug)]
#[must_use = "dropping a permit gives up the probe"]
pub struct Permit {
    pub(super) breaker: Breaker,
    // Which life, or which round of probes, it belongs to: what comes later than that is about another one.
    pub(super) epoch: u32,
    pub(super) probe: bool,
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
    /// with this outcome makes room for the next one, which is the next call. Who knows that such an answer takes a
    /// working endpoint says [`Success`](Self::Success).
    Neutral,
}

impl Permit {
    /// Whether this call decides over the endpoint's return.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe
    }

    /// Tells the breaker how the call went: an [`Outcome`], or whether it succeeded.
    pub fn record(mut self, outcome: impl Into<Outcome>, now: Instant) {
        let success = match outcome.into() {
            Outcome::Success => true,
            Outcome::Failure => false,
            // As if it had never been.
            Outcome::Neutral => return,
        };
        let probe = std::mem::take(&mut self.probe);
        self.breaker.record(self.epoch, probe, success, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.release(self.epoch);
        }
    }
}

impl From<bool> for Outcome {
    /// Success, or failure.
    fn from(success: bool) -> Self {
        if success { Self::Success } else { Self::Failure }
    }
}
