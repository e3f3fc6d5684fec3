//! How long to wait before the next attempt.

use std::time::Duration;

/// How long to wait before each retry of a request.
///
/// It reads no clock and draws no random numbers: [`start`](Self::start) one [`Delays`] per request, and give it bits.
///
/// ```
/// use linkerd_retry::Backoff;
/// use std::time::Duration;
///
/// let backoff = Backoff::decorrelated(Duration::from_millis(10), Duration::from_secs(1))?;
/// let mut delays = backoff.start();
/// assert_eq!(delays.next(rand()), Duration::from_millis(10));
/// assert!((10..30).contains(&delays.next(rand()).as_millis()));
/// # fn rand() -> u64 { 4 }
/// # Ok::<_, linkerd_retry::InvalidBackoff>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff(Kind);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    None,
    Constant(Duration),
    Decorrelated {
        min: Nanos,
        max: Nanos,
    },
    EqualJittered {
        start: Nanos,
        max: Nanos,
    },
    FullJittered {
        base: Nanos,
        max: Nanos,
    },
}

type Nanos = u64;

/// The waits of one request, in order. There is no last one: it is the budget and the deadline that end retries.
#[derive(Clone, Debug)]
pub struct Delays {
    kind: Kind,
    /// Waits so far.
    step: u32,
    /// The wait before this one; for `EqualJittered`, `max` as soon as it was reached.
    last: Nanos,
}

/// A range that no backoff can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBackoff {
    /// The least wait is zero, from which a growing wait never grows.
    #[error("the least backoff must be more than 0, not {0:?}")]
    Min(Duration),
    /// The least wait is longer than the greatest.
    #[error("the least backoff, {min:?}, must not be longer than the greatest, {max:?}")]
    Range {
        /// The least wait.
        min: Duration,
        /// The greatest wait.
        max: Duration,
    },
}

impl Backoff {
    /// Retries at once. The default, as it is Linkerd 1.x's.
    #[must_use]
    pub const fn none() -> Self {
        Self(Kind::None)
    }

    /// Waits the same time before every retry. Zero is the same as [`none`](Self::none).
    #[must_use]
    pub const fn constant(delay: Duration) -> Self {
        Self(if delay.is_zero() { Kind::None } else { Kind::Constant(delay) })
    }

    /// Waits `min` first, then each time between the last wait and three times that, but never `max` or more (unless
    /// the two are equal, which is a constant). It never waits less than before.
    ///
    /// Finagle's `decorrelatedJittered`, and Linkerd 1.x's `jittered`.
    ///
    /// # Errors
    ///
    /// `min` is zero or greater than `max`.
    pub fn decorrelated(min: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        let (min, max) = range(min, max)?;
        Ok(Self(Kind::Decorrelated { min, max }))
    }

    /// Waits `start` first, then `half + [0, half)` with `half` being `start`, twice `start`, four times `start` and so
    /// on. As soon as that comes to `max`, it is `max` for ever.
    ///
    /// Finagle's `equalJittered`.
    ///
    /// # Errors
    ///
    /// `start` is zero or greater than `max`.
    pub fn equal_jittered(start: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        let (start, max) = range(start, max)?;
        Ok(Self(Kind::EqualJittered { start, max }))
    }

    /// Waits `[0, ceiling)` with `ceiling` being `base`, twice `base`, four times `base` and so on, but never more than
    /// `max`.
    ///
    /// Exponential backoff with *full jitter*: of what failed together, least comes back together; but a wait can be
    /// next to nothing.
    ///
    /// # Errors
    ///
    /// `base` is zero or greater than `max`.
    pub fn full_jittered(base: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        let (base, max) = range(base, max)?;
        Ok(Self(Kind::FullJittered { base, max }))
    }

    /// Begins the waits of one request.
    #[must_use]
    pub const fn start(&self) -> Delays {
        Delays { kind: self.0, step: 0, last: 0 }
    }
}

impl Delays {
    /// How long to wait before the next retry. `random` is 64 random bits, of which a wait without jitter uses none.
    ///
    /// Zero means that there is nothing to wait for.
    pub fn next(&mut self, random: u64) -> Duration {
        let delay = match self.kind {
            Kind::None => return Duration::ZERO,
            Kind::Constant(delay) => return delay,
            Kind::Decorrelated { min, .. } if self.step == 0 => min,
            Kind::Decorrelated { max, .. } => {
                self.last + below(self.last.saturating_mul(3).min(max) - self.last, random)
            }
            Kind::EqualJittered { start, .. } if self.step == 0 => start,
            Kind::EqualJittered { max, .. } if self.last == max => max,
            Kind::EqualJittered { start, max } => {
                let half = doubled(start, self.step - 1).min(max);
                half.saturating_add(below(half, random)).min(max)
            }
            Kind::FullJittered { base, max } => below(doubled(base, self.step).min(max), random),
        };
        self.step = self.step.saturating_add(1);
        self.last = delay;
        Duration::from_nanos(delay)
    }
}

/// Checks a range. 585 years and more are all the same.
fn range(min: Duration, max: Duration) -> Result<(Nanos, Nanos), InvalidBackoff> {
    if min.is_zero() {
        return Err(InvalidBackoff::Min(min));
    }
    if min > max {
        return Err(InvalidBackoff::Range { min, max });
    }
    let nanos = |delay: Duration| Nanos::try_from(delay.as_nanos()).unwrap_or(Nanos::MAX);
    Ok((nanos(min), nanos(max)))
}

/// `nanos`, doubled so many times.
fn doubled(nanos: Nanos, times: u32) -> Nanos {
    1_u64.checked_shl(times).map_or(Nanos::MAX, |factor| nanos.saturating_mul(factor))
}

/// Maps 64 random bits to `[0, n)`, and to 0 if that is empty.
fn below(n: Nanos, random: u64) -> Nanos {
    ((u128::from(n) * u128::from(random)) >> 64) as Nanos
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LEAST: u64 = 0;
    const MIDDLE: u64 = 1 << 63;
    const MOST: u64 = u64::MAX;

    fn delays(backoff: &Backoff, random: u64, n: usize) -> Vec<Duration> {
        let mut delays = backoff.start();
        (0..n).map(|_| delays.next(random)).collect()
    }

    #[test]
    fn none_and_constant_never_change() {
        assert_eq!(delays(&Backoff::none(), MOST, 2), [Duration::ZERO; 2]);
        assert_eq!(delays(&Backoff::default(), MOST, 2), [Duration::ZERO; 2]);
        assert_eq!(Backoff::constant(Duration::ZERO), Backoff::none());
        assert_eq!(delays(&Backoff::constant(150 * MS), MOST, 3), [150 * MS; 3]);
    }

    #[test]
    fn decorrelated_starts_at_the_least_and_goes_up_to_three_times_the_last() {
        let backoff = Backoff::decorrelated(10 * MS, 100 * MS).unwrap();
        assert_eq!(delays(&backoff, LEAST, 3), [10 * MS; 3]);
        assert_eq!(delays(&backoff, MIDDLE, 5), [10 * MS, 20 * MS, 40 * MS, 70 * MS, 85 * MS]);
        let most = delays(&backoff, MOST, 9);
        assert!(most[1] < 30 * MS && most[1] >= 29 * MS && most[8] < 100 * MS && most[8] >= 99 * MS, "{most:?}");
    }

    #[test]
    fn equal_jittered_keeps_half_and_ends_at_the_greatest() {
        let backoff = Backoff::equal_jittered(5 * MS, 100 * MS).unwrap();
        assert_eq!(delays(&backoff, LEAST, 7), [5, 5, 10, 20, 40, 80, 100].map(|n| n * MS));
        assert_eq!(
            delays(&backoff, MIDDLE, 7),
            [5 * MS, 7500 * MS / 1000, 15 * MS, 30 * MS, 60 * MS, 100 * MS, 100 * MS]
        );
        // Once at the greatest, it stays there whatever the next draw is.
        let mut delays = backoff.start();
        for _ in 0..6 {
            delays.next(MOST);
        }
        assert_eq!(delays.next(LEAST), 100 * MS);
    }

    #[test]
    fn full_jittered_doubles_its_ceiling_up_to_the_greatest_and_has_no_floor() {
        let backoff = Backoff::full_jittered(10 * MS, 50 * MS).unwrap();
        assert_eq!(delays(&backoff, LEAST, 3), [Duration::ZERO; 3]);
        assert_eq!(delays(&backoff, MIDDLE, 5), [5, 10, 20, 25, 25].map(|n| n * MS));
        let most = delays(&backoff, MOST, 100);
        assert!(most[0] < 10 * MS && most[1] < 20 * MS && most[99] < 50 * MS && most[99] >= 49 * MS, "{most:?}");
    }

    #[test]
    fn a_range_of_one_value_is_a_constant() {
        for backoff in [Backoff::decorrelated(200 * MS, 200 * MS), Backoff::equal_jittered(200 * MS, 200 * MS)] {
            assert_eq!(delays(&backoff.unwrap(), MOST, 4), [200 * MS; 4]);
        }
    }

    #[test]
    fn each_request_starts_anew() {
        let backoff = Backoff::decorrelated(10 * MS, 100 * MS).unwrap();
        let mut first = backoff.start();
        first.next(MIDDLE);
        first.next(MIDDLE);
        assert_eq!(backoff.start().next(MIDDLE), 10 * MS);
    }

    #[test]
    fn errors_name_the_values() {
        for backoff in [Backoff::decorrelated, Backoff::equal_jittered, Backoff::full_jittered] {
            let zero = backoff(Duration::ZERO, MS).unwrap_err();
            assert_eq!(zero.to_string(), "the least backoff must be more than 0, not 0ns");
            let range = backoff(20 * MS, 10 * MS).unwrap_err();
            assert_eq!(range.to_string(), "the least backoff, 20ms, must not be longer than the greatest, 10ms");
        }
    }

    proptest! {
        #[test]
        fn stays_in_range_and_decorrelated_never_falls(
            min in 1..u64::MAX,
            max in 1..u64::MAX,
            random in prop::collection::vec(any::<u64>(), 0..100),
        ) {
            let (min, max) = (Duration::from_nanos(min.min(max)), Duration::from_nanos(min.max(max)));
            for backoff in [Backoff::decorrelated(min, max).unwrap(), Backoff::equal_jittered(min, max).unwrap()] {
                let falls = matches!(backoff.0, Kind::EqualJittered { .. });
                let (mut delays, mut last) = (backoff.start(), Duration::ZERO);
                for &random in &random {
                    let next = delays.next(random);
                    prop_assert!(next >= min && next <= max);
                    prop_assert!(falls || next >= last);
                    last = next;
                }
            }
            let mut delays = Backoff::full_jittered(min, max).unwrap().start();
            for &random in &random {
                prop_assert!(delays.next(random) < max);
            }
        }
    }
}
