//! Many failures in a row, or many among the last requests.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::{
    Accrual, ConsecutiveFailures, InvalidSuccessRate, Tripped,
    success_rate::{valid, valid_window},
    window::{Counts, Window},
};
use crate::stamp::Stamp;

/// Gives up on an endpoint after so many failures in a row, or when too few of its last requests succeeded, whichever
/// comes first.
///
/// A dead endpoint shows by the first rule within a few requests; one that fails every second request never does, and
/// shows by the other. The success rate is counted, not averaged: of all requests within the window (in tenths of it),
/// and only once there are enough of them. So an endpoint starts with the benefit of the doubt, and after an idle gap
/// longer than the window it starts again: what it did before then says little, failures in a row included.
///
/// Not in Linkerd. Asked on failures only, and strictly below the rate, like Linkerd's own.
///
/// # Defaults
///
/// 5 failures in a row, as Linkerd; below 0.8 within 30 s, as Finagle's hybrid policy; at least 20 requests, of which
/// five failures are the first to be too many.
#[derive(Clone, Debug)]
pub struct Unified {
    limit: NonZeroU32,
    min_requests: NonZeroU32,
    threshold: f64,
    failures: u32,
    last: Option<Stamp>,
    results: Window<10>,
}

impl Unified {
    /// So many `failures` in a row, or less than `rate` successes of one within the window if it holds at least
    /// `min_requests`.
    ///
    /// A rate of 0 is always kept.
    ///
    /// # Errors
    ///
    /// A rate that is not from 0 to 1, or a window of less than a millisecond.
    pub fn new(
        failures: NonZeroU32,
        rate: f64,
        window: Duration,
        min_requests: NonZeroU32,
    ) -> Result<Self, InvalidSuccessRate> {
        valid(rate)?;
        valid_window(window)?;
        Ok(Self::unchecked(failures, rate, window, min_requests))
    }

    fn unchecked(limit: NonZeroU32, threshold: f64, window: Duration, min_requests: NonZeroU32) -> Self {
        Self { limit, min_requests, threshold, failures: 0, last: None, results: Window::new(window) }
    }
}

impl Default for Unified {
    fn default() -> Self {
        const REQUESTS: NonZeroU32 = NonZeroU32::new(20).unwrap();
        Self::unchecked(ConsecutiveFailures::DEFAULT, 0.8, Duration::from_secs(30), REQUESTS)
    }
}

impl Accrual for Unified {
    fn record(&mut self, success: bool, now: Instant) -> Option<Tripped> {
        let stamp = Stamp::of(now);
        if self.last.is_some_and(|last| stamp.since(last) > self.results.nanos()) {
            self.revived(now);
        }
        self.last = self.last.max(Some(stamp));
        self.results.record(success, now);
        if success {
            self.failures = 0;
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.limit.get() {
            return Some(Tripped::Consecutive { failures: self.failures });
        }
        let Counts { successes, requests } = self.results.counts();
        let (rate, threshold) = (successes as f64 / requests as f64, self.threshold);
        (requests >= u64::from(self.min_requests.get()) && rate < threshold).then_some(Tripped::SuccessRate {
            rate,
            threshold,
            requests,
        })
    }

    fn revived(&mut self, now: Instant) {
        (self.failures, self.last) = (0, None);
        self.results.restart(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn count(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let new = |rate, window| Unified::new(count(5), rate, window, count(1)).unwrap_err();
        assert!(matches!(new(f64::NAN, MS), InvalidSuccessRate::Rate(rate) if rate.is_nan()));
        assert_eq!(new(0.5, Duration::ZERO), InvalidSuccessRate::Window(Duration::ZERO));
    }

    #[test]
    fn the_default_is_what_new_makes_of_its_numbers() {
        let new = Unified::new(count(5), 0.8, 30_000 * MS, count(20)).unwrap();
        assert_eq!(format!("{:?}", Unified::default()), format!("{new:?}"));
    }

    #[test]
    fn an_idle_gap_of_just_a_window_forgets_nothing_and_a_longer_one_all() {
        for (gap, trips) in [(1000 * MS, true), (1001 * MS, false)] {
            let (mut accrual, start) = (Unified::new(count(2), 0.0, 1000 * MS, count(1)).unwrap(), now());
            assert_eq!(accrual.record(false, start), None);
            assert_eq!(accrual.record(false, start + gap).is_some(), trips);
        }
    }

    proptest! {
        #[test]
        fn trips_if_and_only_if_the_counts_say_so(
            limit in 1..10_u32, rate in 0.0..=1.0_f64, min in 1..50_u32,
            results in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let (mut accrual, start) = (Unified::new(count(limit), rate, 1000 * MS, count(min)).unwrap(), now());
            let (mut row, mut successes) = (0, 0);
            for (i, success) in results.into_iter().enumerate() {
                let requests = i as u64 + 1;
                row = if success { 0 } else { row + 1 };
                successes += u64::from(success);
                let too_few = requests >= u64::from(min) && (successes as f64) / (requests as f64) < rate;
                let expected = !success && (row >= limit || too_few);
                // All within one window.
                prop_assert_eq!(accrual.record(success, start + i as u32 * MS).is_some(), expected);
            }
        }
    }
}
