//! Load by requests in flight.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{
    Hint, Load, MAX_PENALTY, Mark,
    decaying::{Decaying, Sampled},
    hint::Hints,
    time::Decay,
};
use crate::stamp::stamp;

/// Counts requests in flight: the load of Linkerd's `p2c`.
///
/// Knows nothing of latency but what it does to the queue, which makes it the better choice where one destination
/// has both fast and slow requests.
///
/// An endpoint that fails fast is always idle, and so it would get more than its share. Therefore a failed request goes
/// on counting after its end: as one at first, and fading so that all in all it counts as if it had stayed in flight for
/// the [failure penalty](Self::failure_penalty). By Little's law the share of an endpoint that only fails settles, at any
/// rate of requests, at *latency of the others ÷ penalty* of theirs: 1/1000 for 5 ms. After a lone failure an endpoint is
/// the last choice among idle ones for 2.3 penalties, when a tenth of a request is left; that is then forgotten.
///
/// After Finagle's least loaded balancers (Apache-2.0), which do not know failures; without the penalty it is the same.
///
/// # Defaults
///
/// Failure penalty 5 s, as [`PeakEwma`](super::PeakEwma) has. Linkerd 1 has none.
#[derive(Debug)]
pub struct LeastLoaded {
    pending: AtomicUsize,
    // None: failures count as any end.
    penalty: Option<Decay>,
    // What is left of requests that failed, in requests.
    failed: Decaying,
    hints: Hints,
}

/// What a [`Hint::Backoff`] costs, in requests: more than any endpoint has.
const BACKOFF: f64 = 1e9;

/// Less than this of a failed request is none at all.
const FORGOTTEN: f64 = 0.1;

impl LeastLoaded {
    /// The failure penalty where none is chosen.
    pub const DEFAULT_FAILURE_PENALTY: Duration = Duration::from_secs(5);

    /// An idle endpoint.
    #[must_use]
    pub fn new() -> Self {
        let (hints, failed) = (Hints::new(), Decaying::new(0.0, 0));
        let load = Self { pending: AtomicUsize::new(0), penalty: None, failed, hints };
        load.failure_penalty(Self::DEFAULT_FAILURE_PENALTY)
    }

    /// Counts a failed request as in flight for `penalty` more. Zero is off: what Finagle and Linkerd 1 do. More
    /// than an hour counts as an hour.
    #[must_use]
    pub fn failure_penalty(mut self, penalty: Duration) -> Self {
        self.penalty = (!penalty.is_zero()).then(|| Decay::new(penalty.min(MAX_PENALTY)));
        self
    }

    #[cold]
    #[inline(never)]
    fn score_of_all(&self, now: Instant, weight: f64, in_flight: f64) -> f64 {
        let now = stamp(now);
        let score = (in_flight + self.failed(now)) / weight;
        self.hints.apply(score, now, BACKOFF)
    }

    /// What is left at `now` of the requests that failed.
    fn failed(&self, now: i64) -> f64 {
        match self.penalty {
            Some(decay) if !self.failed.is_zero() => {
                let Sampled { value, at } = self.failed.get();
                let left = value * decay.left(at, now);
                if left < FORGOTTEN { 0.0 } else { left }
            }
            _ => 0.0,
        }
    }
}

impl Default for LeastLoaded {
    fn default() -> Self {
        Self::new()
    }
}

impl Load for LeastLoaded {
    fn name(&self) -> &'static str {
        "least_loaded"
    }

    /// Requests for each unit of weight.
    fn score(&self, now: Instant, weight: f64, more: usize) -> f64 {
        let in_flight = (self.pending() + more) as f64;
        // Mostly nothing depends on the time.
        if self.failed.is_zero() && self.hints.is_none() {
            return in_flight / weight;
        }
        self.score_of_all(now, weight, in_flight)
    }

    fn pending(&self) -> usize {
        // Relaxed here and below: a count, which orders nothing else.
        self.pending.load(Ordering::Relaxed)
    }

    fn begin(&self, _now: Instant) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, begun: Instant, now: Instant, success: bool) {
        if !success {
            self.fail(begun, now);
        }
        self.cancel();
    }

    fn cancel(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// No latency is wanted, at this point or later on.
    fn mark(&self, _begun: Instant, _now: Instant, _mark: Mark) -> bool {
        true
    }

    fn fail(&self, _begun: Instant, now: Instant) -> bool {
        if let Some(decay) = self.penalty {
            let now = stamp(now);
            self.failed.update(|Sampled { value, at }| {
                // One that comes late is added to what is there by then.
                let now = now.max(at);
                Sampled { value: value * decay.left(at, now) + 1.0, at: now }
            });
        }
        true
    }

    fn hint(&self, hint: Hint, now: Instant) {
        self.hints.take(hint, now);
    }

    fn reset(&self) {
        self.failed.update(|old| Sampled { value: 0.0, ..old });
        self.hints.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_end_gives_back_what_begin_took() {
        let (load, now) = (LeastLoaded::new(), tokio::time::Instant::now().into_std());
        for _ in 0..3 {
            load.begin(now);
        }
        assert_eq!(load.pending(), 3);
        assert_eq!((load.score(now, 1.0, 0), load.score(now, 1.0, 2)), (3.0, 5.0));
        load.end(now, now, true);
        load.end(now, now, false);
        load.cancel();
        assert_eq!(load.pending(), 0);
    }

    #[test]
    fn twice_the_weight_bears_twice_the_requests() {
        let (light, heavy, now) = (LeastLoaded::new(), LeastLoaded::new(), tokio::time::Instant::now().into_std());
        assert_eq!(light.score(now, 1.0, 0), heavy.score(now, 2.0, 0));
        light.begin(now);
        heavy.begin(now);
        assert!(heavy.score(now, 2.0, 0) < light.score(now, 1.0, 0));
        heavy.begin(now);
        assert_eq!(light.score(now, 1.0, 0), heavy.score(now, 2.0, 0));
    }

    const PENALTY: Duration = LeastLoaded::DEFAULT_FAILURE_PENALTY;

    fn fail(load: &LeastLoaded, now: Instant) {
        load.begin(now);
        load.end(now, now, false);
    }

    #[test]
    fn a_failed_request_goes_on_counting_and_fades() {
        let (load, now) = (LeastLoaded::new(), tokio::time::Instant::now().into_std());
        fail(&load, now);
        assert_eq!((load.pending(), load.score(now, 1.0, 0), load.score(now, 2.0, 1)), (0, 1.0, 1.0));
        let later = load.score(now + PENALTY, 1.0, 0);
        assert!((later - (-1.0_f64).exp()).abs() < 1e-9, "{later}");
        fail(&load, now + PENALTY);
        assert!((load.score(now + PENALTY, 1.0, 0) - later - 1.0).abs() < 1e-9);
        // One that took its time to tell.
        fail(&load, now);
        assert!((load.score(now + PENALTY, 1.0, 0) - later - 2.0).abs() < 1e-9);
    }

    #[test]
    fn less_than_a_tenth_of_a_failed_request_is_none() {
        let (load, now) = (LeastLoaded::new(), tokio::time::Instant::now().into_std());
        fail(&load, now);
        let forgotten = PENALTY.mul_f64(10.0_f64.ln());
        assert!(load.score(now + forgotten.mul_f64(0.99), 1.0, 0) > 0.1);
        assert_eq!(load.score(now + forgotten.mul_f64(1.01), 1.0, 0), 0.0);
    }

    #[test]
    fn without_a_penalty_a_failure_is_like_any_end() {
        let now = tokio::time::Instant::now().into_std();
        let plain = LeastLoaded::new().failure_penalty(Duration::ZERO);
        fail(&plain, now);
        assert_eq!(plain.score(now, 1.0, 0), 0.0);
        // Beyond all reason, but no reason to panic.
        let forever = LeastLoaded::new().failure_penalty(Duration::MAX);
        fail(&forever, now);
        let hour = Duration::from_hours(1);
        assert!((forever.score(now + hour, 1.0, 0) - (-1.0_f64).exp()).abs() < 1e-9);
    }

    #[test]
    fn reset_forgets_failures_and_hints_and_not_what_is_in_flight() {
        let (load, now) = (LeastLoaded::new(), tokio::time::Instant::now().into_std());
        fail(&load, now);
        load.hint(Hint::Backoff(PENALTY), now);
        load.begin(now);
        assert!(load.score(now, 1.0, 0) > BACKOFF);
        load.reset();
        assert_eq!((load.pending(), load.score(now, 1.0, 0)), (1, 1.0));
    }
}
