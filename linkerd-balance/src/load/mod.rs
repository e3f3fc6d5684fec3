//! How loaded an endpoint is.

use std::{
    fmt,
    time::{Duration, Instant},
};

mod any;
mod decaying;
mod hint;
mod least_loaded;
mod mark;
mod peak_ewma;
mod penalty;
mod time;

pub(crate) use self::{any::AnyLoad, time::Now};
pub use self::{
    hint::Hint,
    least_loaded::LeastLoaded,
    mark::{Mark, Measure},
    peak_ewma::{InvalidDecay, PeakEwma},
};

/// The longest failure penalty: after an hour nobody remembers why.
const MAX_PENALTY: Duration = Duration::from_hours(1);

/// What a balancer knows of one endpoint's load.
///
/// Every [`begin`](Self::begin) is followed by exactly one [`end`](Self::end), [`cancel`](Self::cancel) or
/// [`cancel_at`](Self::cancel_at), in any order among requests and from any thread; a [`Lease`](crate::Lease) sees to that. In between there may be one
/// [`mark`](Self::mark) that was taken, and one [`fail`](Self::fail) that was.
pub trait Load: fmt::Debug + Send + Sync + 'static {
    /// How loaded the endpoint would be at `now` with `more` requests in flight than there are; lower is better.
    ///
    /// `weight` is the endpoint's, divided by the mean weight of its set: 1 when all are alike. It divides what is in
    /// flight, so that of two endpoints equally fast the one with twice the weight scores the same with twice the
    /// requests, and when idle. The unit is the implementation's own. Reading changes nothing.
    fn score(&self, now: Instant, weight: f64, more: usize) -> f64;

    /// What metrics call it: `least_loaded`. `custom` by default.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// Requests in flight.
    fn pending(&self) -> usize;

    /// A request was given to the endpoint.
    fn begin(&self, now: Instant);

    /// A request that began at `begun` came to its end.
    fn end(&self, begun: Instant, now: Instant, success: bool);

    /// A request ended that says nothing of the endpoint, its caller went away, or nothing that is not known already.
    fn cancel(&self);

    /// The same of a request that began at `begun` and was given up at `now`, before any [`mark`](Self::mark) was taken:
    /// that it took longer than that is known. `answered`: it came to a mark, which was not the one to take.
    /// [`cancel`](Self::cancel) by default.
    fn cancel_at(&self, begun: Instant, now: Instant, answered: bool) {
        let _ = (begun, now, answered);
        self.cancel();
    }

    /// A request that began at `begun` came to this point, and is not over.
    ///
    /// True if its latency was taken: then there are no more marks, and unless the request [fails](Self::fail) later on
    /// it is ended by [`cancel`](Self::cancel). False, the default, if this is not the point to take it.
    fn mark(&self, begun: Instant, now: Instant, mark: Mark) -> bool {
        let _ = (begun, now, mark);
        false
    }

    /// A request that began at `begun` is known to have failed, but stays in flight.
    ///
    /// True if that was taken note of: then it is ended by [`cancel`](Self::cancel). False, the default, is to be told
    /// by [`end`](Self::end).
    fn fail(&self, begun: Instant, now: Instant) -> bool {
        let _ = (begun, now);
        false
    }

    /// What the endpoint said of itself. Ignored by default.
    fn hint(&self, hint: Hint, now: Instant) {
        let _ = (hint, now);
    }

    /// What an endpoint that just came may be expected to be like, in the implementation's own unit; none if nothing
    /// is known. A set takes the median of those that are in it.
    fn typical(&self, now: Instant) -> Option<f64> {
        let _ = now;
        None
    }

    /// The endpoint is new in a set whose others are `typical` so.
    fn start_from(&self, typical: f64, now: Instant) {
        let _ = (typical, now);
    }

    /// Forgets what was learned, but not what is in flight: the endpoint came back from where nobody asked it.
    fn reset(&self) {}
}

pub(crate) use self::sync::pause;

/// What [`decaying`] is made of; its model test puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
    use std::{hint, thread};

    /// Passes a moment of waiting; a longer one after so many `tries`.
    pub(crate) fn pause(tries: u32) {
        if tries < 64 { hint::spin_loop() } else { thread::yield_now() }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::decaying::{Decaying, Sampled};

    #[test]
    fn a_number_and_its_time_stay_together_between_threads() {
        let decaying = Decaying::new(0.0, 0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        decaying.update(|old| Sampled { value: old.value + 1.0, at: old.at + 1 });
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < 40_000 {
                        let Sampled { value, at } = decaying.get();
                        assert_eq!(value, at as f64);
                        assert!(at >= last);
                        last = at;
                    }
                });
            }
        });
    }
}
