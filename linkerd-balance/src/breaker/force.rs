//! Somebody knows better than the breaker.

use std::time::{Duration, Instant};

use super::{Breaker, Phase, State, after};

/// What somebody wants a [`Breaker`] to be, whatever it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// To let nothing through.
    Open {
        /// Before this instant.
        until: Instant,
    },
    /// To let everything through.
    Closed {
        /// Before this instant.
        until: Instant,
    },
}

#[derive(Clone, Copy)]
pub(super) struct Force {
    pub(super) open: bool,
    pub(super) since: Instant,
    pub(super) until: Instant,
}

impl Breaker {
    /// Lets nothing through for so long, as far as it is asked: [`try_admit`](Self::try_admit) rejects, and its
    /// [`Health`](crate::Health) is busy. Counts in no [`Ejections`](crate::Ejections): who forces has the last word.
    ///
    /// What it learns meanwhile from calls that are let through all the same, or are under way, counts as ever, and
    /// shows when the time is over. No timer runs: the end is seen when somebody asks.
    pub fn force_open(&self, ttl: Duration, now: Instant) {
        self.force(true, ttl, now);
    }

    /// Uses the endpoint for so long, whatever it does. If it was left alone, it is back.
    ///
    /// Failures are counted all the same, so that one that goes on failing is left alone as soon as the time is over.
    pub fn force_closed(&self, ttl: Duration, now: Instant) {
        self.force(false, ttl, now);
    }

    /// Uses the endpoint as if it had just come: nothing is forced any more, nothing of what it did counts.
    pub fn reset(&self, now: Instant) {
        let mut state = self.lock();
        state.forced = None;
        self.back_in_use(&mut state, now);
    }

    /// What it is forced to be at `now`, if anything.
    #[must_use]
    pub fn forced(&self, now: Instant) -> Option<Forced> {
        let force = *self.lock().forced.as_deref().filter(|force| now < force.until)?;
        let until = force.until;
        Some(if force.open { Forced::Open { until } } else { Forced::Closed { until } })
    }

    fn force(&self, open: bool, ttl: Duration, now: Instant) {
        let mut state = self.lock();
        state.forced = Some(Box::new(Force { open, since: now, until: after(now, ttl) }));
        if open || state.phase() == Phase::Alive {
            self.publish(&state);
        } else {
            self.back_in_use(&mut state, now);
        }
    }
}

impl State {
    pub(super) fn is_forced(&self, open: bool, now: Instant) -> bool {
        self.forced.as_ref().is_some_and(|force| force.open == open && now < force.until)
    }
}
