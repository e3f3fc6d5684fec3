//! How long a failure makes an endpoint look slow.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use super::decaying::{Decaying, Sampled};
use crate::stamp::{stamp, whole_nanos};

/// After a failure an endpoint is as good as one that answers when the penalty is over.
///
/// It falls in a straight line and ends: a moving average that takes in 5 s needs a minute to be back at 5 ms, which is
/// long for one failure among thousands. For those who go on failing it gets longer: each failure *in a row*, of a
/// request that began when the one before was known, adds as much as the first, up to [`MAX_ROW`] times.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Penalty {
    // A stamp. `i64::MIN`: no failure.
    until: AtomicI64,
    // How many in a row, and when the last of them failed.
    row: Decaying,
    nanos: i64,
}

/// So many penalties are the longest: a minute, by default.
pub(super) const MAX_ROW: u8 = 12;

impl Penalty {
    pub(super) fn new(penalty: Duration) -> Self {
        let (until, row) = (AtomicI64::new(i64::MIN), Decaying::new(0.0, i64::MIN));
        Self { nanos: whole_nanos(penalty), until, row }
    }

    pub(super) fn failed(&self, begun: i64, now: i64) {
        let mut row = 1.0;
        self.row.update(|Sampled { value, at }| {
            // What was under way at the last failure failed for the same reason.
            row = if begun >= at { (value + 1.0).min(f64::from(MAX_ROW)) } else { value.max(1.0) };
            Sampled { value: row, at: at.max(now) }
        });
        let until = now.saturating_add(self.nanos.saturating_mul(row as i64));
        // Relaxed here and below: one word, which orders nothing else.
        self.until.fetch_max(until, Ordering::Relaxed);
    }

    /// Whether a request that took this long is as bad as a failure.
    pub(super) fn is_reached(&self, observed: Duration) -> bool {
        whole_nanos(observed) >= self.nanos
    }

    pub(super) fn succeeded(&self, begun: Instant) {
        if !self.row.is_zero() {
            let begun = stamp(begun);
            self.row.update(|last| if begun >= last.at { Sampled { value: 0.0, ..last } } else { last });
        }
    }

    /// What is left of it, in nanoseconds.
    pub(super) fn left(&self, now: i64) -> f64 {
        let until = self.until.load(Ordering::Relaxed);
        if now < until { until.saturating_sub(now) as f64 } else { 0.0 }
    }

    pub(super) fn reset(&self) {
        self.until.store(i64::MIN, Ordering::Relaxed);
        self.row.update(|last| Sampled { value: 0.0, ..last });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: i64 = 1_000_000_000;

    fn penalty() -> Penalty {
        Penalty::new(Duration::from_secs(5))
    }

    #[test]
    fn falls_in_a_straight_line_and_ends() {
        let penalty = penalty();
        assert_eq!(penalty.left(0), 0.0);
        penalty.failed(0, SEC);
        assert_eq!(penalty.left(SEC), 5e9);
        assert_eq!(penalty.left(3 * SEC), 3e9);
        assert_eq!(penalty.left(6 * SEC), 0.0);
    }

    #[test]
    fn failures_in_a_row_last_longer_and_those_under_way_do_not() {
        let penalty = penalty();
        for _ in 0..50 {
            penalty.failed(0, SEC);
        }
        assert_eq!(penalty.left(SEC), 5e9, "all began before the first was known");
        penalty.failed(6 * SEC, 6 * SEC);
        assert_eq!(penalty.left(6 * SEC), 10e9);
        for n in 0..50 {
            penalty.failed((20 + n) * SEC, (20 + n) * SEC);
        }
        assert_eq!(penalty.left(69 * SEC), 60e9, "no longer than that");
    }

    #[test]
    fn a_success_ends_the_row_and_not_the_penalty() {
        let (penalty, start) = (penalty(), tokio::time::Instant::now().into_std());
        let at = |secs| stamp(start + Duration::from_secs(secs));
        penalty.failed(at(0), at(0));
        penalty.failed(at(1), at(1));
        penalty.succeeded(start);
        penalty.failed(at(2), at(2));
        assert_eq!(penalty.left(at(2)), 15e9, "a success from before the failure says nothing");
        penalty.succeeded(start + Duration::from_secs(3));
        assert_eq!(penalty.left(at(3)), 14e9);
        penalty.failed(at(20), at(20));
        assert_eq!(penalty.left(at(20)), 5e9);
    }

    #[test]
    fn without_one_failures_cost_nothing() {
        let off = Penalty::new(Duration::ZERO);
        off.failed(0, SEC);
        assert_eq!(off.left(SEC), 0.0);
    }
}
