//! Pauses between attempts to reach a namerd.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::Pauses;

impl Pauses {
    /// From `base` doubling up to `max`.
    #[must_use]
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max }
    }

    /// The pause after so many failures in a row, from half of it to all of it by a random `share`.
    fn after(self, failures: u32, share: f64) -> Duration {
        let base = self.base.max(Duration::from_millis(1));
        let whole = base.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.max.max(base));
        whole.mul_f64(0.5 + share / 2.0)
    }
}

/// 1 s, doubling up to a minute. Linkerd's longest is 10 minutes, which is how long a change was missed after an outage.
impl Default for Pauses {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), max: Duration::from_mins(1) }
    }
}

/// Counts failures in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    pauses: Pauses,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self { pauses, failures: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.pauses.after(self.failures, random_share());
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

/// From 0 to 1, another one each time.
pub(super) fn random_share() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_jittered() {
        let pauses = Pauses::new(Duration::from_secs(5), Duration::from_mins(10));
        let secs = |failures, share| pauses.after(failures, share).as_secs_f64();
        assert_eq!(secs(0, 0.0), 2.5);
        assert!((4.99..=5.0).contains(&secs(0, 0.9999)));
        assert_eq!(secs(3, 0.0), 20.0);
        for failures in [7, 31, 32, u32::MAX] {
            assert_eq!(secs(failures, 0.0), 300.0, "{failures}");
        }
        assert!(Pauses::new(Duration::ZERO, Duration::ZERO).after(0, 0.0) > Duration::ZERO);
    }
}
