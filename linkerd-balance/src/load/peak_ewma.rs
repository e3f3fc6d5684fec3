//! Load by latency and requests in flight.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::Load;

/// Peak-sensitive moving average of an endpoint's latency, times its requests in flight plus one.
///
/// A latency above the average replaces it at once; one below pulls it down by how long ago the last one was. With
/// nothing observed the average decays towards zero, so an endpoint that was slow is asked again.
///
/// After Finagle's `PeakEwma` (Apache-2.0), with three differences:
///
/// - a failure counts as at least [`failure_penalty`](Self::failure_penalty): failing fast must not look fast;
/// - reading the score does not change the average, so how often an endpoint is compared has no influence on it;
/// - requests in flight are counted by unit of weight.
///
/// A *cold* endpoint, of which no latency is known, scores zero when idle and far above all others while its first
/// request is out: it is tried soon, by one request at a time.
///
/// # Defaults
///
/// Decay 10 s (Linkerd's `decayTimeMs`), failure penalty 5 s: beyond what most callers wait for.
#[derive(Debug)]
pub struct PeakEwma {
    decay_nanos: f64,
    penalty_nanos: f64,
    pending: AtomicUsize,
    average: Mutex<Average>,
}

/// The two must agree, hence one lock. It is held for a copy, or for the arithmetic of one sample.
#[derive(Clone, Copy, Debug)]
struct Average {
    // Nanoseconds. Zero: none known.
    cost: f64,
    // When `cost` was true. None before the first sample.
    stamp: Option<Instant>,
}

/// The score of a cold endpoint that is being tried, in nanoseconds (39 hours): Finagle's `Long.MaxValue >> 16`.
const COLD: f64 = (i64::MAX >> 16) as f64;

impl PeakEwma {
    /// The decay where none is chosen.
    pub const DEFAULT_DECAY: Duration = Duration::from_secs(10);
    /// The failure penalty where none is chosen.
    pub const DEFAULT_FAILURE_PENALTY: Duration = Duration::from_secs(5);

    /// A cold endpoint whose average loses the weight of what it knew by a factor of e every `decay`.
    ///
    /// A `decay` of zero remembers only the last latency.
    #[must_use]
    pub fn new(decay: Duration) -> Self {
        Self {
            decay_nanos: decay.as_nanos() as f64,
            penalty_nanos: Self::DEFAULT_FAILURE_PENALTY.as_nanos() as f64,
            pending: AtomicUsize::new(0),
            average: Mutex::new(Average { cost: 0.0, stamp: None }),
        }
    }

    /// Counts a failure as having taken at least `penalty`. Zero judges failures by their latency alone, as Finagle did.
    #[must_use]
    pub fn failure_penalty(mut self, penalty: Duration) -> Self {
        self.penalty_nanos = penalty.as_nanos() as f64;
        self
    }

    fn average(&self) -> Average {
        *self.average.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left at `now` of a value that was true at `stamp`, from 0 to 1.
    fn decayed(&self, stamp: Option<Instant>, now: Instant) -> f64 {
        let elapsed = stamp.map_or(Duration::ZERO, |stamp| now.saturating_duration_since(stamp));
        if elapsed.is_zero() {
            return 1.0;
        }
        (-(elapsed.as_nanos() as f64) / self.decay_nanos).exp()
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new(Self::DEFAULT_DECAY)
    }
}

impl Load for PeakEwma {
    /// Nanoseconds.
    fn score(&self, now: Instant, weight: f64) -> f64 {
        let Average { cost, stamp } = self.average();
        let pending = self.pending() as f64 / weight;
        let cost = cost * self.decayed(stamp, now);
        if cost == 0.0 && pending > 0.0 {
            return COLD + pending;
        }
        cost * (pending + 1.0)
    }

    fn pending(&self) -> usize {
        // Relaxed here and below: a count, which orders nothing else.
        self.pending.load(Ordering::Relaxed)
    }

    fn begin(&self, _now: Instant) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, begun: Instant, now: Instant, success: bool) {
        self.cancel();
        let observed = now.saturating_duration_since(begun).as_nanos() as f64;
        let sample = if success { observed } else { observed.max(self.penalty_nanos) };
        let mut average = self.average.lock().unwrap_or_else(PoisonError::into_inner);
        if sample > average.cost {
            average.cost = sample;
        } else {
            let w = self.decayed(average.stamp, now);
            average.cost = average.cost * w + sample * (1.0 - w);
        }
        // Ends come in any order; an older one must not make the younger one's average look fresh again.
        average.stamp = average.stamp.max(Some(now));
    }

    fn cancel(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }
}
