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
                let doubled =
                    1_u64.checked_shl(self.step - 1).map_or(Nanos::MAX, |factor| start.saturating_mul(factor));
                let half = doubled.min(max);
                half.saturating_add(below(half, random)).min(max)
            }
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

/// Maps 64 random bits to `[0, n)`, and to 0 if that is empty.
fn below(n: Nanos, random: u64) -> Nanos {
    ((u128::from(n) * u128::from(random)) >> 64) as Nanos
}
