//! Time as loads reckon it: instants as numbers, and how things fade.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::stamp::stamp;

/// Loses all but one part in e of what was there, each time this long passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    per_nano: f64,
}

impl Decay {
    /// `time` is above zero.
    pub(crate) fn new(time: Duration) -> Self {
        Self { per_nano: 1.0 / nanos(time) }
    }

    /// What is left at `now` of what was there at `then`: from 0 to 1. All of it if `now` comes first.
    #[inline]
    pub(crate) fn left(self, then: i64, now: i64) -> f64 {
        // Below this the series is exact to 1e-12 and costs a fifth of `exp`: where requests come often, it is the rule.
        const SERIES: f64 = 1.0 / 512.0;
        let elapsed = now.saturating_sub(then);
        if elapsed <= 0 {
            return 1.0;
        }
        let x = elapsed as f64 * self.per_nano;
        if x < SERIES { 1.0 - x * (1.0 - x * (0.5 - x / 6.0)) } else { fallen(x) }
    }
}

// Apart from those who mostly need not call it, so that they need not save what it may overwrite.
#[cold]
#[inline(never)]
fn fallen(x: f64) -> f64 {
    (-x).exp()
}

/// The time of a pick, and its stamp, which several endpoints are compared by and is worked out for the first of them.
pub(crate) struct Now {
    pub(crate) instant: Instant,
    stamp: Cell<Option<i64>>,
}

impl Now {
    #[inline]
    pub(crate) const fn new(instant: Instant) -> Self {
        Self { instant, stamp: Cell::new(None) }
    }

    #[inline]
    pub(crate) fn stamp(&self) -> i64 {
        self.stamp.get().unwrap_or_else(|| {
            let stamp = stamp(self.instant);
            self.stamp.set(Some(stamp));
            stamp
        })
    }
}

/// The same for durations of any length.
#[inline]
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs() as f64 * 1e9 + f64::from(duration.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_exponential_at_any_distance() {
        let decay = Decay::new(Duration::from_secs(10));
        for nanos in [0, 1, 1_000, 1_000_000, 19_531_249, 19_531_250, 19_531_251, 10_000_000_000, i64::MAX] {
            let exact = (-(nanos as f64) / 1e10).exp();
            let left = decay.left(5, 5_i64.saturating_add(nanos));
            assert!((left - exact).abs() <= 1e-12, "{nanos}: {left} is not {exact}");
        }
        assert_eq!(decay.left(5, 4), 1.0);
        assert_eq!(decay.left(i64::MIN, i64::MAX), 0.0);
    }
}
