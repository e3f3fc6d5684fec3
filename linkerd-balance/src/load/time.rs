//! Time as loads reckon it: instants as numbers, and how things fade.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

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

/// An instant as nanoseconds from another one that is the same for all, so that it fits into an atomic: at most 292 years
/// either way.
#[inline]
pub(crate) fn stamp(instant: Instant) -> i64 {
    let epoch = epoch();
    match instant.checked_duration_since(epoch) {
        Some(after) => whole_nanos(after),
        None => before(epoch, instant),
    }
}

/// Any instant would do: nothing is judged by it. One for the process, and no endpoint has to keep its own.
#[inline]
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(|| tokio::time::Instant::now().into_std())
}

#[cold]
#[inline(never)]
fn before(epoch: Instant, instant: Instant) -> i64 {
    -whole_nanos(epoch.duration_since(instant))
}

/// Without the way through 128 bits that `as_nanos` takes.
#[inline]
pub(crate) fn whole_nanos(duration: Duration) -> i64 {
    // With more seconds than that there are too many nanoseconds.
    const MOST: u64 = i64::MAX as u64 / 1_000_000_000;
    let secs = duration.as_secs();
    if secs > MOST {
        return i64::MAX;
    }
    (secs.cast_signed() * 1_000_000_000).saturating_add(i64::from(duration.subsec_nanos()))
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

    #[test]
    fn instants_before_the_first_one_count_too() {
        let (epoch, apart) = (epoch(), Duration::from_millis(1_500));
        assert_eq!((stamp(epoch), stamp(epoch + apart)), (0, 1_500_000_000));
        assert_eq!(stamp(epoch.checked_sub(apart).unwrap()), -1_500_000_000);
        assert_eq!(whole_nanos(Duration::MAX), i64::MAX);
    }
}
