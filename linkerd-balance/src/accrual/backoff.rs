//! How long an endpoint is left alone.

use std::time::Duration;

use crate::rng;

/// How long an endpoint is left alone: the first time, and each time that its probe fails.
///
/// # Defaults
///
/// [`equal_jittered`](Self::equal_jittered) from 5 s to 300 s, as in Linkerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    kind: Kind,
    min: Duration,
    max: Duration,
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
    backoff: Backoff,
    // How many were taken.
    step: u32,
    current: Duration,
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
        Ok(Self { kind, min, max })
    }

    /// From the beginning.
    #[must_use]
    pub const fn start(self) -> Backoffs {
        Backoffs { backoff: self, step: 0, current: self.min }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { kind: Kind::EqualJittered, min: Duration::from_secs(5), max: Duration::from_secs(300) }
    }
}

impl Backoffs {
    /// The next wait. `random` decides what is left to chance.
    pub fn next(&mut self, random: u64) -> Duration {
        let Backoff { kind, min, max } = self.backoff;
        let step = self.step;
        self.step = step.saturating_add(1);
        if step == 0 || self.current >= max {
            return self.current;
        }
        self.current = match kind {
            Kind::Constant => max,
            Kind::EqualJittered => {
                // The first step after `start` still has `start` as its fixed part.
                let half = 2_u32.checked_pow(step - 1).and_then(|n| min.checked_mul(n)).unwrap_or(max).min(max);
                half.saturating_add(up_to(half, random)).min(max)
            }
            Kind::Jittered => {
                let upper = self.current.saturating_mul(3).min(max);
                self.current + up_to(upper - self.current, random)
            }
        };
        self.current
    }

    /// Back to the beginning.
    pub const fn reset(&mut self) {
        *self = self.backoff.start();
    }
}

/// From zero to just below `bound`.
fn up_to(bound: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng::below(random, nanos))
}
