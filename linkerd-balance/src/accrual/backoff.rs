//! How long an endpoint is left alone.

use std::time::Duration;

use crate::{rng, stamp::nanos_of};

/// How long an endpoint is left alone: the first time, and each time that its probe fails. 584 years at most.
///
/// # Defaults
///
/// [`equal_jittered`](Self::equal_jittered) from 5 s to 300 s, as in Linkerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    kind: Kind,
    // In nanoseconds.
    min: u64,
    max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Constant,
    EqualJittered,
    Jittered,
}

/// One endpoint's way through a [`Backoff`].
#[derive(Clone, Debug)]
pub struct Backoffs {
    min: u64,
    max: u64,
    current: u64,
    // How many were taken.
    step: u32,
    kind: Kind,
}

/// A backoff that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBackoff {
    /// It would not wait at all.
    #[error("a backoff of zero")]
    Zero,
    /// The shortest wait is longer than the longest.
    #[error("a backoff of at least {min:?} and at most {max:?}")]
    Order {
        /// The shortest wait asked for.
        min: Duration,
        /// The longest.
        max: Duration,
    },
}

impl Backoff {
    /// Always `wait`.
    pub const fn constant(wait: Duration) -> Result<Self, InvalidBackoff> {
        Self::new(Kind::Constant, wait, wait)
    }

    /// `start` at first, then a part that doubles from `start` on plus up to as much again by chance; from the first
    /// one that reaches `max`, `max`.
    pub const fn equal_jittered(start: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        Self::new(Kind::EqualJittered, start, max)
    }

    /// `min` at first, then by chance between the last wait and three times the last wait, at most `max`: Linkerd's
    /// `jittered`. Never gets shorter.
    pub const fn jittered(min: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        Self::new(Kind::Jittered, min, max)
    }

    const fn new(kind: Kind, min: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        if min.is_zero() {
            return Err(InvalidBackoff::Zero);
        }
        if min.as_nanos() > max.as_nanos() {
            return Err(InvalidBackoff::Order { min, max });
        }
        Ok(Self { kind, min: nanos_of(min), max: nanos_of(max) })
    }

    /// From the beginning.
    #[must_use]
    pub const fn start(self) -> Backoffs {
        let Self { kind, min, max } = self;
        Backoffs { min, max, current: min, step: 0, kind }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { kind: Kind::EqualJittered, min: 5_000_000_000, max: 300_000_000_000 }
    }
}

impl Backoffs {
    /// The next wait. `random` decides what is left to chance.
    pub fn next(&mut self, random: u64) -> Duration {
        let Self { min, max, step, kind, .. } = *self;
        self.step = step.saturating_add(1);
        if step > 0 && self.current < max {
            self.current = match kind {
                Kind::Constant => max,
                Kind::EqualJittered => {
                    // The first step after `start` still has `start` as its fixed part.
                    let half = 2_u64.checked_pow(step - 1).and_then(|n| min.checked_mul(n)).unwrap_or(max).min(max);
                    half.saturating_add(rng::below(random, half)).min(max)
                }
                Kind::Jittered => {
                    let upper = self.current.saturating_mul(3).min(max);
                    self.current + rng::below(random, upper.saturating_sub(self.current))
                }
            };
        }
        Duration::from_nanos(self.current)
    }

    /// The last wait that was taken.
    pub(crate) const fn last(&self) -> Duration {
        Duration::from_nanos(self.current)
    }

    /// The shortest wait there is.
    pub(crate) const fn shortest(&self) -> Duration {
        Duration::from_nanos(self.min)
    }

    /// Back to the beginning.
    pub const fn reset(&mut self) {
        (self.current, self.step) = (self.min, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LEAST: u64 = 0;
    const MOST: u64 = u64::MAX;

    fn take(backoff: Backoff, random: u64, n: usize) -> Vec<u128> {
        let mut waits = backoff.start();
        // Half a millisecond up: the most that chance gives is one nanosecond short of a whole one.
        (0..n).map(|_| (waits.next(random) + MS / 2).as_millis()).collect()
    }

    #[test]
    fn constant_is_constant() {
        let backoff = Backoff::constant(250 * MS).unwrap();
        assert_eq!(take(backoff, LEAST, 3), [250, 250, 250]);
        assert_eq!(take(backoff, MOST, 3), [250, 250, 250]);
    }

    #[test]
    fn equal_jittered_starts_exactly_then_doubles_its_fixed_half() {
        let backoff = Backoff::equal_jittered(10 * MS, 100 * MS).unwrap();
        assert_eq!(take(backoff, LEAST, 7), [10, 10, 20, 40, 80, 100, 100]);
        assert_eq!(take(backoff, MOST, 6), [10, 20, 40, 80, 100, 100]);
    }

    #[test]
    fn jittered_lies_between_the_last_wait_and_three_times_that() {
        let backoff = Backoff::jittered(10 * MS, 100 * MS).unwrap();
        assert_eq!(take(backoff, LEAST, 4), [10, 10, 10, 10]);
        assert_eq!(take(backoff, MOST, 5), [10, 30, 90, 100, 100]);
        let equal = Backoff::jittered(10 * MS, 10 * MS).unwrap();
        assert_eq!(take(equal, MOST, 3), [10, 10, 10]);
    }

    #[test]
    fn the_default_is_linkerds() {
        assert_eq!(Ok(Backoff::default()), Backoff::equal_jittered(5000 * MS, 300_000 * MS));
    }

    #[test]
    fn zero_and_a_range_upside_down_are_refused() {
        assert_eq!(Backoff::constant(Duration::ZERO), Err(InvalidBackoff::Zero));
        assert_eq!(Backoff::jittered(Duration::ZERO, MS), Err(InvalidBackoff::Zero));
        let err = Backoff::equal_jittered(2 * MS, MS).unwrap_err();
        assert_eq!(err.to_string(), "a backoff of at least 2ms and at most 1ms");
    }

    proptest! {
        #[test]
        fn waits_stay_in_range_for_ever(
            equal: bool, min in 1..u64::MAX, more: u64, seed: u64, steps in 0..200_usize,
        ) {
            let (min, max) = (Duration::from_nanos(min), Duration::from_nanos(min.saturating_add(more)));
            let new = if equal { Backoff::equal_jittered } else { Backoff::jittered };
            let mut waits = new(min, max).unwrap().start();
            let mut rng = rng::SplitMix::new(seed);
            prop_assert_eq!(waits.next(rng.next()), min);
            let mut last = min;
            for _ in 0..steps {
                let wait = waits.next(rng.next());
                prop_assert!(min <= wait && wait <= max);
                prop_assert!(equal || last <= wait, "decorrelated waits never get shorter");
                last = wait;
            }
            waits.reset();
            prop_assert_eq!(waits.next(rng.next()), min);
        }
    }
}
