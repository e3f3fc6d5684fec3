//! A breaker whose endpoint is probed by something other than calls.

use std::time::Instant;

use super::{Breaker, Permit, Phase};
use crate::accrual::Tripped;

/// While this is there, no call is a probe: the endpoint stays busy until [`begin`](Self::begin)'s permit says otherwise.
#[derive(Debug)]
pub(crate) struct Probed(Breaker);

impl Breaker {
    pub(crate) fn probed(&self) -> Probed {
        let mut state = self.lock();
        state.probers += 1;
        self.publish(&state);
        drop(state);
        Probed(self.clone())
    }
}

impl Probed {
    pub(crate) fn phase(&self) -> Phase {
        self.0.phase()
    }

    /// Takes the probe, if the backoff is over and the set has one left.
    pub(crate) fn begin(&self, now: Instant) -> Option<Permit> {
        let mut state = self.0.lock();
        let is_due = matches!(state.phase, Phase::Dead { until } if now >= until);
        let has_room = state.out < self.0.0.max_probes;
        (is_due && has_room && self.0.take_probe(&mut state)).then(|| self.0.permit(&state, true))
    }

    /// Gives up an endpoint that is in use, as far as its set allows.
    pub(crate) fn give_up(&self, failures: u32, now: Instant) {
        let mut state = self.0.lock();
        if state.phase == Phase::Alive {
            self.0.give_up(&mut state, Tripped::Probes { failures }, now);
        }
    }

    /// Says when the next probe is due, for those who are rejected.
    pub(crate) fn announce(&self, due: Option<Instant>) {
        self.0.lock().active_probe = due;
    }

    /// Waits until the endpoint is given up. May be over when it was long ago.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is over, it misses nothing.
    pub(crate) async fn died(&self) {
        self.0.0.died.notified().await;
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.probers -= 1;
        state.active_probe = None;
        self.0.publish(&state);
    }
}
