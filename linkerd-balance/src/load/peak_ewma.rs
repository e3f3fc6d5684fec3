//! Load by latency and requests in flight.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{
    Hint, Load, MAX_PENALTY, Mark, Measure,
    decaying::{Decaying, Sampled},
    hint::Hints,
    penalty::Penalty,
    time::{Decay, nanos},
};
use crate::stamp::{stamp, whole_nanos};

/// Peak-sensitive moving average of an endpoint's latency, times its requests in flight plus one.
///
/// A latency above the average replaces it at once; one below pulls it down by how long ago the last one was. With
/// nothing observed the average decays towards zero, so an endpoint that was slow is asked again.
///
/// After Finagle's `PeakEwma` (Apache-2.0), with these differences:
///
/// - a failure counts as at least [`failure_penalty`](Self::failure_penalty): failing fast must not look fast;
/// - a request that its caller gives up before it came to where latency is [measured](Self::measure) took at least that
///   long, which counts if it is a peak: what hangs, be it after the head, must not look as fast as it was before;
/// - reading the score does not change the average, so how often an endpoint is compared has no influence on it;
/// - requests in flight are counted by unit of weight;
/// - an endpoint that comes into a set starts at the median of the others;
/// - up to where latency is measured can be [chosen](Self::measure), and a [long stream](Self::long_stream) is none;
/// - endpoints can give [hints](Hint).
///
/// A *cold* endpoint, of which no latency is known and none could be guessed, scores zero when idle and far above all
/// others while its first request is out: it is tried soon, by one request at a time.
///
/// Times are kept as nanoseconds in an `f64` and an `i64`, the average is exact to 1e-12 of itself.
///
/// # Defaults
///
/// Decay 10 s (Linkerd's `decayTimeMs`), failure penalty 5 s: beyond what most callers wait for. Latency is measured to
/// the head of the response, a stream is long after 10 s, and nothing is known at the start.
#[derive(Debug)]
// In this order: what each request writes lies together, and before what is only read.
#[repr(C)]
pub struct PeakEwma {
    pending: AtomicUsize,
    // Nanoseconds, and when that was true. Zero: nothing is known. Below zero: guessed, not observed.
    average: Decaying,
    penalty: Penalty,
    hints: Hints,
    decay: Decay,
    // In nanoseconds.
    long_stream: i64,
    measure: Measure,
}

/// A decay that is not from [`PeakEwma::MIN_DECAY`] to [`PeakEwma::MAX_DECAY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the decay {0:?} is not from {min:?} to {max:?}", min = PeakEwma::MIN_DECAY, max = PeakEwma::MAX_DECAY)]
pub struct InvalidDecay(pub Duration);

/// The score of a cold endpoint that is being tried, in nanoseconds (39 hours): Finagle's `Long.MaxValue >> 16`.
const COLD: f64 = (i64::MAX >> 16) as f64;

/// What a [`Hint::Backoff`] costs, in nanoseconds: more than being cold.
const BACKOFF: f64 = 16.0 * COLD;

/// Of an endpoint of which nothing is known a request that is given up says something from this wait on, in nanoseconds:
/// 1 ms. One that was dropped sooner, such as a hedge that lost, must not make it look quick.
const WAITED: f64 = 1e6;

/// The latency of every endpoint if none is measured, in nanoseconds: 1 ms.
const UNMEASURED: f64 = 1e6;

impl PeakEwma {
    /// The decay where none is chosen: 10 s.
    pub const DEFAULT_DECAY: Duration = Duration::from_secs(10);
    /// The shortest decay: 1 ms. With less it would not be an average.
    pub const MIN_DECAY: Duration = Duration::from_millis(1);
    /// The longest decay: a day. With more an endpoint that was slow once would hardly be asked again.
    pub const MAX_DECAY: Duration = Duration::from_hours(24);
    /// The failure penalty where none is chosen: 5 s.
    pub const DEFAULT_FAILURE_PENALTY: Duration = Duration::from_secs(5);
    /// How long a stream is a request like others where nothing is chosen: 10 s.
    pub const DEFAULT_LONG_STREAM: Duration = Duration::from_secs(10);

    /// A cold endpoint whose average loses the weight of what it knew by a factor of e every `decay`.
    ///
    /// # Errors
    ///
    /// A `decay` that is not from [`MIN_DECAY`](Self::MIN_DECAY) to [`MAX_DECAY`](Self::MAX_DECAY).
    pub fn new(decay: Duration) -> Result<Self, InvalidDecay> {
        if !(Self::MIN_DECAY..=Self::MAX_DECAY).contains(&decay) {
            return Err(InvalidDecay(decay));
        }
        Ok(Self {
            pending: AtomicUsize::new(0),
            average: Decaying::new(0.0, 0),
            penalty: Penalty::new(Self::DEFAULT_FAILURE_PENALTY),
            hints: Hints::new(),
            decay: Decay::new(decay),
            long_stream: whole_nanos(Self::DEFAULT_LONG_STREAM),
            measure: Measure::default(),
        })
    }

    /// Counts a failure as a latency of at least `penalty`. Zero judges failures by their latency alone, as Finagle did;
    /// more than an hour counts as an hour.
    ///
    /// It stays out of the average. From the failure on the endpoint scores as if its latency were what is left of the
    /// penalty, unless the average is more, so it is over when the time is. Each failure in a row adds a penalty, up to
    /// twelve: the fifth is over after 25 s, and the twelfth and all that follow after a minute, by default. *In a row* is a
    /// failure of a request that began after the last one, and no such request was a success in between. A failure that
    /// took longer than the penalty is taken into the average too.
    #[must_use]
    pub fn failure_penalty(mut self, penalty: Duration) -> Self {
        self.penalty = Penalty::new(penalty.min(MAX_PENALTY));
        self
    }

    /// Measures latency up to this point.
    ///
    /// It is told by [`LeaseEnd::mark`](crate::LeaseEnd::mark). Where nothing is marked all but
    /// [`Measure::PendingOnly`] measure to the end.
    #[must_use]
    pub fn measure(mut self, measure: Measure) -> Self {
        self.measure = measure;
        self
    }

    /// Takes no latency from a stream that lasts longer than this: it says what its caller asked for, not how fast the
    /// endpoint is. Such a stream counts as in flight, nothing more.
    ///
    /// For [`Measure::FirstByte`] and [`Measure::EndOfStream`]. A head that takes longer than this is not a stream but a
    /// slow answer, and its latency is taken then, if it is [marked](crate::LeaseEnd::mark). Zero takes no latency but
    /// that of heads.
    #[must_use]
    pub fn long_stream(mut self, longest: Duration) -> Self {
        self.long_stream = whole_nanos(longest);
        self
    }

    /// Starts at this latency, from now on decaying, in place of cold; the first one that is observed replaces it.
    ///
    /// In a set of which latencies are known their median [replaces](Load::start_from) it at once. Zero, the default, is
    /// cold.
    #[must_use]
    pub fn start_latency(self, latency: Duration) -> Self {
        let at = stamp(tokio::time::Instant::now().into_std());
        self.average.update(|_| Sampled { value: -nanos(latency), at });
        self
    }

    /// The score as of this stamp.
    #[inline]
    pub(super) fn score_at(&self, now: i64, weight: f64, more: usize) -> f64 {
        let Sampled { value, at } = self.average.get();
        let mut cost = (value.abs() * self.decay.left(at, now)).max(self.penalty.left(now));
        if self.measure == Measure::PendingOnly {
            cost += UNMEASURED;
        }
        let pending = (self.pending() + more) as f64 / weight;
        let score = if cost == 0.0 && pending > 0.0 { COLD + pending } else { cost * (pending + 1.0) };
        self.hints.apply(score, now, BACKOFF)
    }

    /// Takes a latency into the average.
    fn observe(&self, sample: f64, now: Instant) {
        let now = stamp(now);
        // Nothing takes no time; and zero is for those of which nothing is known.
        let sample = sample.max(1.0);
        self.average.update(|Sampled { value: cost, at }| {
            // Ends come in any order; an older one must not make the younger one's average look fresh again.
            let stamp = if cost == 0.0 { now } else { now.max(at) };
            let w = self.decay.left(at, now);
            if sample > cost * w {
                // A peak, or the first one: what was guessed is below zero.
                return Sampled { value: sample, at: stamp };
            }
            Sampled { value: cost * w + sample * (1.0 - w), at: stamp }
        });
    }

    /// Takes note that a latency is more than `waited`, if that is more than what is known. Where that was a guess it
    /// stays one: the first answer replaces it.
    fn at_least(&self, waited: f64, now: Instant) {
        let now = stamp(now);
        self.average.update(|old| {
            let Sampled { value, at } = old;
            if value == 0.0 {
                return if waited < WAITED { old } else { Sampled { value: -waited, at: now } };
            }
            if waited <= value.abs() * self.decay.left(at, now) {
                return old;
            }
            Sampled { value: waited.copysign(value), at: now.max(at) }
        });
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new(Self::DEFAULT_DECAY).expect("the default is in range")
    }
}

impl Load for PeakEwma {
    fn name(&self) -> &'static str {
        "peak_ewma"
    }

    /// Nanoseconds.
    fn score(&self, now: Instant, weight: f64, more: usize) -> f64 {
        self.score_at(stamp(now), weight, more)
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
        if !success {
            self.fail(begun, now);
            return;
        }
        self.penalty.succeeded(begun);
        let observed = now.saturating_duration_since(begun);
        let counts = match self.measure {
            Measure::Headers => true,
            Measure::FirstByte | Measure::EndOfStream => whole_nanos(observed) <= self.long_stream,
            Measure::PendingOnly => false,
        };
        if counts {
            self.observe(nanos(observed), now);
        }
    }

    fn cancel(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    fn cancel_at(&self, begun: Instant, now: Instant, answered: bool) {
        self.cancel();
        let waited = now.saturating_duration_since(begun);
        // A head that does not come is no stream.
        let is_long = answered && whole_nanos(waited) > self.long_stream;
        if self.measure != Measure::PendingOnly && !is_long {
            self.at_least(nanos(waited), now);
        }
    }

    fn mark(&self, begun: Instant, now: Instant, mark: Mark) -> bool {
        let observed = now.saturating_duration_since(begun);
        let long = whole_nanos(observed) > self.long_stream;
        let (taken, counts) = match (self.measure, mark) {
            (Measure::Headers, _) => (true, true),
            // A head as late as that is a slow answer, whatever comes after it.
            (Measure::FirstByte | Measure::EndOfStream, Mark::Headers) => (long, long),
            (Measure::FirstByte, Mark::FirstByte) => (true, !long),
            (Measure::EndOfStream, Mark::FirstByte) | (Measure::PendingOnly, _) => (false, false),
        };
        if taken {
            self.penalty.succeeded(begun);
        }
        if counts {
            self.observe(nanos(observed), now);
        }
        taken
    }

    fn fail(&self, begun: Instant, now: Instant) -> bool {
        let observed = now.saturating_duration_since(begun);
        // A failure that took longer than what is known says that much: a timeout must not look like an answer in time.
        let Sampled { value, at } = self.average.get();
        let known = value.abs() * self.decay.left(at, stamp(now));
        let is_peak = self.measure != Measure::PendingOnly && value != 0.0 && nanos(observed) > known;
        if is_peak || self.penalty.is_reached(observed) {
            self.observe(nanos(observed), now);
        }
        self.penalty.failed(stamp(begun), stamp(now));
        true
    }

    fn hint(&self, hint: Hint, now: Instant) {
        self.hints.take(hint, now);
    }

    fn typical(&self, now: Instant) -> Option<f64> {
        let Sampled { value, at } = self.average.get();
        // A guess is not passed on as if it were known.
        let cost = value * self.decay.left(at, stamp(now));
        (cost > 0.0).then_some(cost)
    }

    /// Does nothing once a latency was observed.
    fn start_from(&self, typical: f64, now: Instant) {
        if !(typical.is_finite() && typical > 0.0) || self.measure == Measure::PendingOnly {
            return;
        }
        let now = stamp(now);
        self.average.update(|old| if old.value > 0.0 { old } else { Sampled { value: -typical, at: now } });
    }

    fn reset(&self) {
        self.average.update(|old| Sampled { value: 0.0, ..old });
        self.penalty.reset();
        self.hints.reset();
    }
}

#[cfg(test)]
mod tests;
