//! A breaker whose endpoint is probed by something other than calls.

use std::{sync::Arc, time::Instant};

use tokio::sync::Notify;

use super::{Breaker, Permit, Phase};
use crate::accrual::Tripped;

/// While this is there, no call is a probe: the endpoint stays busy until [`begin`](Self::begin)'s permit says otherwise.
#[derive(Debug)]
pub(crate) struct Probed {
    breaker: Breaker,
    died: Arc<Notify>,
}

/// Who probes an endpoint, at least one.
pub(super) struct Probers {
    count: u32,
    // When one of them means to try next.
    pub(super) next: Option<Instant>,
    // The endpoint was given up.
    pub(super) died: Arc<Notify>,
}

impl Breaker {
    pub(crate) fn probed(&self) -> Probed {
        let mut state = self.lock();
        let probers =
            state.probers.get_or_insert_with(|| Box::new(Probers { count: 0, next: None, died: Arc::default() }));
        probers.count += 1;
        let died = Arc::clone(&probers.died);
        self.publish(&state);
        drop(state);
        Probed { breaker: self.clone(), died }
    }
}

impl Probed {
    pub(crate) fn phase(&self) -> Phase {
        self.breaker.phase()
    }

    /// Takes the probe, if the backoff is over and the set has one left.
    pub(crate) fn begin(&self, now: Instant) -> Option<Permit> {
        let mut state = self.breaker.lock();
        let is_due = matches!(state.phase(), Phase::Dead { until } if now >= until);
        let has_room = state.has_room(now);
        (is_due && has_room && self.breaker.take_probe(&mut state, now)).then(|| self.breaker.permit(&state, Some(now)))
    }

    /// Gives up an endpoint that is in use, as far as its set allows.
    pub(crate) fn give_up(&self, failures: u32, now: Instant) {
        let mut state = self.breaker.lock();
        if state.phase() == Phase::Alive {
            self.breaker.give_up(&mut state, Tripped::Probes { failures }, now);
        }
    }

    /// Says when the next probe is due, for those who are rejected.
    pub(crate) fn announce(&self, due: Option<Instant>) {
        if let Some(probers) = &mut self.breaker.lock().probers {
            probers.next = due;
        }
    }

    /// Waits until the endpoint is given up. May be over when it was long ago.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is over, it misses nothing.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        let mut state = self.breaker.lock();
        if let Some(probers) = &mut state.probers {
            (probers.count, probers.next) = (probers.count - 1, None);
        }
        state.probers.take_if(|probers| probers.count == 0);
        self.breaker.publish(&state);
    }
}
