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
            decay_nanos: nanos(decay),
            penalty_nanos: nanos(Self::DEFAULT_FAILURE_PENALTY),
            pending: AtomicUsize::new(0),
            average: Mutex::new(Average { cost: 0.0, stamp: None }),
        }
    }

    /// Counts a failure as having taken at least `penalty`. Zero judges failures by their latency alone, as Finagle did.
    #[must_use]
    pub fn failure_penalty(mut self, penalty: Duration) -> Self {
        self.penalty_nanos = nanos(penalty);
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
        (-nanos(elapsed) / self.decay_nanos).exp()
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new(Self::DEFAULT_DECAY)
    }
}

impl Load for PeakEwma {
    fn name(&self) -> &'static str {
        "peak_ewma"
    }

    /// Nanoseconds.
    fn score(&self, now: Instant, weight: f64, more: usize) -> f64 {
        let Average { cost, stamp } = self.average();
        let pending = (self.pending() + more) as f64 / weight;
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
        let observed = nanos(now.saturating_duration_since(begun));
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

/// Nanoseconds, without the way through 128 bits that `as_nanos` takes.
fn nanos(duration: Duration) -> f64 {
    duration.as_secs() as f64 * 1e9 + f64::from(duration.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const DECAY: Duration = Duration::from_secs(10);

    /// One request that takes `latency` and ends at `end`.
    fn observe(load: &PeakEwma, end: Instant, latency: Duration, success: bool) {
        let begun = end.checked_sub(latency).unwrap();
        load.begin(begun);
        load.end(begun, end, success);
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() <= b.abs() * 1e-9, "{a} is not {b}");
    }

    #[test]
    fn a_peak_counts_at_once_and_a_lower_latency_by_the_time_since() {
        let (load, start) = (PeakEwma::new(DECAY), tokio::time::Instant::now().into_std() + DECAY);
        observe(&load, start, 10 * MS, true);
        assert_close(load.score(start, 1.0, 0), nanos(10 * MS));
        observe(&load, start + MS, 100 * MS, true);
        assert_close(load.score(start + MS, 1.0, 0), nanos(100 * MS));

        let later = start + MS + DECAY;
        observe(&load, later, 10 * MS, true);
        let w = (-1.0_f64).exp();
        assert_close(load.score(later, 1.0, 0), nanos(100 * MS) * w + nanos(10 * MS) * (1.0 - w));
    }

    #[test]
    fn an_idle_endpoint_is_forgiven_with_time() {
        let (load, start) = (PeakEwma::new(DECAY), tokio::time::Instant::now().into_std() + DECAY);
        observe(&load, start, 1000 * MS, true);
        assert_close(load.score(start + 3 * DECAY, 1.0, 0), nanos(1000 * MS) * (-3.0_f64).exp());
    }

    #[test]
    fn reading_changes_nothing() {
        let (read, unread, start) =
            (PeakEwma::new(DECAY), PeakEwma::new(DECAY), tokio::time::Instant::now().into_std() + DECAY);
        for load in [&read, &unread] {
            observe(load, start, 100 * MS, true);
        }
        for ms in 0..1000 {
            let _ = read.score(start + ms * MS, 1.0, 0);
        }
        for load in [&read, &unread] {
            observe(load, start + 1000 * MS, 10 * MS, true);
        }
        assert_eq!(read.score(start + DECAY, 1.0, 0), unread.score(start + DECAY, 1.0, 0));
    }

    #[test]
    fn requests_in_flight_multiply() {
        let (load, now) = (PeakEwma::new(DECAY), tokio::time::Instant::now().into_std() + DECAY);
        observe(&load, now, 10 * MS, true);
        load.begin(now);
        load.begin(now);
        assert_close(load.score(now, 1.0, 0), nanos(30 * MS));
        assert_close(load.score(now, 2.0, 0), nanos(20 * MS));
    }

    #[test]
    fn a_cold_endpoint_is_tried_by_one_request_at_a_time() {
        let (cold, slow, now) =
            (PeakEwma::new(DECAY), PeakEwma::new(DECAY), tokio::time::Instant::now().into_std() + DECAY);
        observe(&slow, now, DECAY, true);
        slow.begin(now);
        assert_eq!(cold.score(now, 1.0, 0), 0.0);
        cold.begin(now);
        assert_eq!(cold.score(now, 1.0, 0), 140_737_488_355_327.0 + 1.0);
        assert!(cold.score(now, 1.0, 0) > slow.score(now, 1.0, 0));
        cold.end(now, now + MS, true);
        assert_close(cold.score(now + MS, 1.0, 0), nanos(MS));
    }

    #[test]
    fn failing_fast_does_not_look_fast() {
        let (load, now) =
            (PeakEwma::new(DECAY).failure_penalty(1000 * MS), tokio::time::Instant::now().into_std() + DECAY);
        observe(&load, now, MS, false);
        assert_close(load.score(now, 1.0, 0), nanos(1000 * MS));
        observe(&load, now, 2000 * MS, false);
        assert_close(load.score(now, 1.0, 0), nanos(2000 * MS));

        let off = PeakEwma::new(DECAY).failure_penalty(Duration::ZERO);
        observe(&off, now, MS, false);
        assert_close(off.score(now, 1.0, 0), nanos(MS));
        let default = PeakEwma::default();
        observe(&default, now, MS, false);
        assert_close(default.score(now, 1.0, 0), nanos(5000 * MS));
    }

    #[test]
    fn a_cancelled_request_teaches_nothing() {
        let (load, now) = (PeakEwma::new(DECAY), tokio::time::Instant::now().into_std() + DECAY);
        observe(&load, now, 10 * MS, true);
        load.begin(now);
        load.cancel();
        assert_eq!(load.pending(), 0);
        assert_close(load.score(now, 1.0, 0), nanos(10 * MS));
    }

    #[test]
    fn an_end_that_comes_late_does_not_turn_back_the_clock() {
        let (load, now) = (PeakEwma::new(DECAY), tokio::time::Instant::now().into_std() + DECAY);
        observe(&load, now + DECAY, 10 * MS, true);
        observe(&load, now, 5 * MS, true);
        assert_close(load.score(now + DECAY, 1.0, 0), nanos(10 * MS));
    }

    #[test]
    fn a_decay_of_zero_remembers_only_the_last() {
        let (load, now) = (PeakEwma::new(Duration::ZERO), tokio::time::Instant::now().into_std() + DECAY);
        observe(&load, now, 10 * MS, true);
        observe(&load, now + MS, 3 * MS, true);
        assert_close(load.score(now + MS, 1.0, 0), nanos(3 * MS));
    }
}
