//! Load by requests in flight.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use super::Load;

/// Counts requests in flight: the load of Linkerd's `p2c`.
///
/// Knows nothing of latency but what it does to the queue, which makes it the better choice where one destination
/// has both fast and slow requests. An endpoint that fails fast is always idle and so looks good: combine with a
/// [`Breaker`](crate::Breaker).
#[derive(Debug, Default)]
pub struct LeastLoaded {
    pending: AtomicUsize,
}

impl LeastLoaded {
    /// An idle endpoint.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Load for LeastLoaded {
    fn name(&self) -> &'static str {
        "least_loaded"
    }

    /// Requests in flight for each unit of weight.
    fn score(&self, _now: Instant, weight: f64, more: usize) -> f64 {
        (self.pending() + more) as f64 / weight
    }

    fn pending(&self) -> usize {
        // Relaxed here and below: a count, which orders nothing else.
        self.pending.load(Ordering::Relaxed)
    }

    fn begin(&self, _now: Instant) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, _begun: Instant, _now: Instant, _success: bool) {
        self.cancel();
    }

    fn cancel(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
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
}
