//! So many failures in a row.

use std::{num::NonZeroU32, time::Instant};

use super::{Accrual, Tripped};

/// Gives up on an endpoint after so many failures in a row: Linkerd's `io.l5d.consecutiveFailures`.
#[derive(Clone, Debug)]
pub struct ConsecutiveFailures {
    limit: NonZeroU32,
    failures: u32,
}

impl ConsecutiveFailures {
    /// Linkerd's default.
    pub const DEFAULT: NonZeroU32 = NonZeroU32::new(5).unwrap();

    /// The `failures`-th failure without a success in between is the last.
    #[must_use]
    pub const fn new(failures: NonZeroU32) -> Self {
        Self { limit: failures, failures: 0 }
    }
}

impl Default for ConsecutiveFailures {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl Accrual for ConsecutiveFailures {
    fn record(&mut self, success: bool, _now: Instant) -> Option<Tripped> {
        self.failures = if success { 0 } else { self.failures.saturating_add(1) };
        (self.failures >= self.limit.get()).then_some(Tripped::Consecutive { failures: self.failures })
    }

    fn revived(&mut self, _now: Instant) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_at_the_limit_and_not_before() {
        let (mut accrual, now) = (ConsecutiveFailures::default(), tokio::time::Instant::now().into_std());
        for _ in 0..4 {
            assert_eq!(accrual.record(false, now), None);
        }
        assert!(accrual.record(false, now).is_some());
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let mut accrual = ConsecutiveFailures::new(NonZeroU32::new(2).unwrap());
        let now = tokio::time::Instant::now().into_std();
        assert_eq!(accrual.record(false, now), None);
        assert_eq!(accrual.record(true, now), None);
        assert_eq!(accrual.record(false, now), None);
        assert!(accrual.record(false, now).is_some());
    }

    #[test]
    fn a_revived_endpoint_starts_from_zero() {
        let mut accrual = ConsecutiveFailures::new(NonZeroU32::new(2).unwrap());
        let now = tokio::time::Instant::now().into_std();
        assert_eq!(accrual.record(false, now), None);
        accrual.revived(now);
        assert_eq!(accrual.record(false, now), None);
    }
}
