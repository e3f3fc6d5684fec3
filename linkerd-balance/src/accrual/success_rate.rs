//! Too few successes, averaged over requests or over time.

use std::time::{Duration, Instant};

use super::{Accrual, Tripped, window::Window};
use crate::stamp::Stamp;

/// Gives up on an endpoint when the moving average of its successes falls below a rate: Linkerd's `io.l5d.successRate`.
///
/// After Finagle's policy of that name. The first result is the average; each one after it counts with `1 - w`, all
/// before it with `w = e^(-1/requests)`. It acts from the `requests`-th result on, on a failure, if the average is
/// strictly below the rate. Being over requests, it forgets nothing while there are none: with little traffic,
/// [`SuccessRateWindowed`] or [`Unified`](super::Unified) serve better.
#[derive(Clone, Debug)]
pub struct SuccessRate {
    threshold: f64,
    window: u32,
    requests: u64,
    average: Average,
}

/// The same average over time: Linkerd's `io.l5d.successRateWindowed`.
///
/// Weights are `w = e^(-elapsed/window)`, in whole milliseconds since the result before. It acts once a window has
/// passed since the endpoint came into use, on a failure, if the average is strictly below the rate and the window
/// holds at least [`MIN_REQUESTS`](Self::MIN_REQUESTS). Requests are counted in fifths of a window.
///
/// Failures that come all at once weigh little, and the first result much: as in Linkerd.
#[derive(Clone, Debug)]
pub struct SuccessRateWindowed {
    threshold: f64,
    window_ms: u64,
    // Set by the first result, if nobody said when the endpoint came into use.
    start: Option<Stamp>,
    last_ms: u64,
    volume: Window<5>,
    average: Average,
}

/// A success rate that cannot be kept, or is not over anything.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSuccessRate {
    /// Not from 0 to 1.
    #[error("a success rate of {0}, not from 0 to 1")]
    Rate(f64),
    /// Over no request.
    #[error("a success rate over {0} requests, less than 1")]
    Requests(u32),
    /// Over no time, or less than can be told apart.
    #[error("a success rate over {0:?}, less than a millisecond")]
    Window(Duration),
}

#[derive(Clone, Copy, Debug, Default)]
struct Average(Option<f64>);

impl SuccessRate {
    /// At least `rate` successes of one, averaged over about so many `requests`.
    ///
    /// A rate of 0 is always kept.
    ///
    /// # Errors
    ///
    /// A rate that is not from 0 to 1, or no requests.
    pub fn new(rate: f64, requests: u32) -> Result<Self, InvalidSuccessRate> {
        if requests == 0 {
            return Err(InvalidSuccessRate::Requests(requests));
        }
        Ok(Self { threshold: valid(rate)?, window: requests, requests: 0, average: Average::default() })
    }
}

impl SuccessRateWindowed {
    /// Fewer requests than this within a window say nothing.
    pub const MIN_REQUESTS: u64 = 5;

    /// At least `rate` successes of one, averaged over about so much time.
    ///
    /// A rate of 0 is always kept.
    ///
    /// # Errors
    ///
    /// A rate that is not from 0 to 1, or a window of less than a millisecond.
    pub fn new(rate: f64, window: Duration) -> Result<Self, InvalidSuccessRate> {
        let threshold = valid(rate)?;
        let window_ms = valid_window(window)?;
        let (volume, average) = (Window::new(window), Average::default());
        Ok(Self { threshold, window_ms, start: None, last_ms: 0, volume, average })
    }
}

pub(super) fn valid(rate: f64) -> Result<f64, InvalidSuccessRate> {
    // NaN is in no range.
    if (0.0..=1.0).contains(&rate) { Ok(rate) } else { Err(InvalidSuccessRate::Rate(rate)) }
}

/// In milliseconds.
pub(super) fn valid_window(window: Duration) -> Result<u64, InvalidSuccessRate> {
    match u64::try_from(window.as_millis()).unwrap_or(u64::MAX) {
        0 => Err(InvalidSuccessRate::Window(window)),
        window_ms => Ok(window_ms),
    }
}

impl Average {
    /// `age` is how many windows ago the observation before this one was.
    fn add(&mut self, success: bool, age: f64) -> f64 {
        let observed = if success { 1.0 } else { 0.0 };
        let average = self.0.map_or(observed, |average| {
            let w = (-age).exp();
            observed * (1.0 - w) + average * w
        });
        self.0 = Some(average);
        average
    }
}

impl Accrual for SuccessRate {
    fn record(&mut self, success: bool, _now: Instant) -> Option<Tripped> {
        self.requests = self.requests.saturating_add(1);
        let rate = self.average.add(success, 1.0 / f64::from(self.window));
        let trips = !success && self.requests >= u64::from(self.window) && rate < self.threshold;
        trips.then_some(Tripped::SuccessRate { rate, threshold: self.threshold, requests: self.requests })
    }

    fn revived(&mut self, _now: Instant) {
        (self.requests, self.average) = (0, Average::default());
    }
}

impl Accrual for SuccessRateWindowed {
    fn record(&mut self, success: bool, now: Instant) -> Option<Tripped> {
        let start = *self.start.get_or_insert(Stamp::of(now));
        let stamp = Stamp::of(now).since(start) / 1_000_000;
        // Results of several threads come in any order; none of them makes time run back.
        let stamp = stamp.max(self.last_ms);
        let age = (stamp - self.last_ms) as f64 / self.window_ms as f64;
        self.last_ms = stamp;
        self.volume.record(success, now);
        let (rate, requests) = (self.average.add(success, age), self.volume.counts().requests);
        let trips = !success && stamp >= self.window_ms && requests >= Self::MIN_REQUESTS && rate < self.threshold;
        trips.then_some(Tripped::SuccessRate { rate, threshold: self.threshold, requests })
    }

    fn revived(&mut self, now: Instant) {
        (self.start, self.last_ms, self.average) = (Some(Stamp::of(now)), 0, Average::default());
        self.volume.restart(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_name() {
        let rate = |rate| SuccessRate::new(rate, 1).unwrap_err().to_string();
        assert_eq!(rate(-0.1), "a success rate of -0.1, not from 0 to 1");
        assert_eq!(rate(1.5), "a success rate of 1.5, not from 0 to 1");
        assert_eq!(rate(f64::NAN), "a success rate of NaN, not from 0 to 1");
        assert!(SuccessRateWindowed::new(f64::NAN, MS).is_err());
        assert_eq!(SuccessRate::new(1.0, 0).unwrap_err(), InvalidSuccessRate::Requests(0));
        let err = SuccessRateWindowed::new(1.0, MS / 2).unwrap_err();
        assert_eq!(err.to_string(), "a success rate over 500µs, less than a millisecond");
        assert!(SuccessRate::new(0.0, 1).is_ok() && SuccessRateWindowed::new(1.0, MS).is_ok());
    }

    #[test]
    fn exactly_the_rate_is_enough() {
        let mut accrual = SuccessRate::new(0.0, 1).unwrap();
        assert!((0..100).all(|_| accrual.record(false, now()).is_none()));
        let mut accrual = SuccessRateWindowed::new(0.0, MS).unwrap();
        assert!((0..100).all(|i| accrual.record(false, now() + i * MS).is_none()));
    }

    #[test]
    fn a_clock_that_runs_back_is_a_clock_that_stands() {
        let (mut accrual, start) = (SuccessRateWindowed::new(0.5, 10 * MS).unwrap(), now());
        accrual.revived(start);
        accrual.record(true, start + 10 * MS);
        for _ in 0..20 {
            assert_eq!(accrual.record(false, start), None);
        }
        assert!(accrual.record(false, start + 18 * MS).is_some());
    }

    proptest! {
        #[test]
        fn successes_never_trip_and_enough_failures_always_do(
            rate in 0.01..=1.0_f64, window in 1..50_u32, results in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let start = now();
            let mut by_requests = SuccessRate::new(rate, window).unwrap();
            let mut by_time = SuccessRateWindowed::new(rate, window * 10 * MS).unwrap();
            let mut at = 0;
            for (i, success) in results.into_iter().enumerate() {
                at += 1;
                let tripped = [by_requests.record(success, start), by_time.record(success, start + at * MS)];
                if success || i + 1 < window as usize {
                    prop_assert_eq!(tripped[0], None);
                }
                if success || i < window as usize * 10 || i < 4 {
                    prop_assert_eq!(tripped[1], None);
                }
            }
            // After 10 windows of failures an average of 1 is below 0.00005.
            let tripped = (0..10 * window).any(|_| by_requests.record(false, start).is_some());
            prop_assert!(tripped);
            let tripped = (0..100 * window).any(|i| by_time.record(false, start + (at + i) * MS).is_some());
            prop_assert!(tripped);
        }
    }
}
