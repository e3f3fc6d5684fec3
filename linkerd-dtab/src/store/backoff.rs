//! How long a store that is away is left alone between two attempts.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The pauses between attempts to reach a store: each up to twice the last, never the same for two who wait.
///
/// # Defaults
///
/// From one second to one minute. There is no last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause, before it is jittered. At least 1 ms.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min: Duration::from_secs(1), max: Duration::from_mins(1) }
    }
}

impl Backoff {
    /// The pause after so many failures in a row: between half of what the doubling comes to and all of it.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        // A hasher of random keys: what it makes of a number is random enough to keep a herd apart.
        self.jittered(failures, RandomState::new().hash_one(failures))
    }

    fn jittered(&self, failures: u32, random: u64) -> Duration {
        let min = self.min.max(Duration::from_millis(1));
        let doubled = min.saturating_mul(1_u32 << failures.saturating_sub(1).min(30));
        let full = doubled.min(self.max.max(min));
        full.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_jittered_by_half() {
        let backoff = Backoff::default();
        for (failures, full) in [(1, 1), (2, 2), (6, 32), (7, 60), (1000, 60)] {
            let full = Duration::from_secs(full);
            assert_eq!(backoff.jittered(failures, u64::MAX), full);
            assert_eq!(backoff.jittered(failures, 0), full / 2);
            let pause = backoff.pause(failures);
            assert!(full / 2 <= pause && pause <= full, "{pause:?}");
        }
        let short = Backoff { min: Duration::ZERO, max: Duration::ZERO };
        assert_eq!(short.jittered(5, u64::MAX), Duration::from_millis(1));
    }
}
