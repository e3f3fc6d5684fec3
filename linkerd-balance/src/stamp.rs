//! Instants and durations as numbers.

use std::{
    num::NonZeroI64,
    sync::OnceLock,
    time::{Duration, Instant},
};

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

/// Any instant would do: nothing is judged by it. One for the process, and no endpoint has to keep its own; long ago, as
/// times before it take longer to reckon.
#[inline]
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(|| {
        let now = tokio::time::Instant::now().into_std();
        now.checked_sub(Duration::from_hours(24)).unwrap_or(now)
    })
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

/// An instant in eight bytes, that it is none included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(NonZeroI64);

impl Stamp {
    pub(crate) fn of(instant: Instant) -> Self {
        // A nanosecond more or less, once.
        Self(NonZeroI64::new(stamp(instant)).unwrap_or(const { NonZeroI64::new(1).unwrap() }))
    }

    pub(crate) fn instant(self) -> Instant {
        let (epoch, apart) = (epoch(), Duration::from_nanos(self.0.get().unsigned_abs()));
        let instant = if self.0.get() < 0 { epoch.checked_sub(apart) } else { epoch.checked_add(apart) };
        // It was one.
        instant.unwrap_or(epoch)
    }

    /// The nanoseconds from `earlier` on; none if it is later.
    pub(crate) fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.get().saturating_sub(earlier.0.get())).unwrap_or(0)
    }
}

/// 584 years at most.
pub(crate) const fn nanos_of(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_the_first_one_count_too() {
        let (epoch, apart) = (epoch(), Duration::from_millis(1_500));
        assert_eq!((stamp(epoch), stamp(epoch + apart)), (0, 1_500_000_000));
        assert_eq!(stamp(epoch.checked_sub(apart).unwrap()), -1_500_000_000);
        assert_eq!(whole_nanos(Duration::MAX), i64::MAX);
    }

    #[test]
    fn a_stamp_takes_eight_bytes_and_tells_how_long_ago_it_was() {
        assert_eq!(size_of::<Option<Stamp>>(), 8);
        let epoch = epoch();
        let (first, second) = (Stamp::of(epoch), Stamp::of(epoch + Duration::from_secs(1)));
        assert!(first < second && second.since(first) <= 1_000_000_000 && second.since(first) >= 999_999_999);
        assert_eq!(first.since(second), 0);
        for instant in [epoch + Duration::from_nanos(77), epoch.checked_sub(Duration::from_secs(5)).unwrap()] {
            assert_eq!(Stamp::of(instant).instant(), instant);
        }
        assert_eq!(nanos_of(Duration::MAX), u64::MAX);
    }
}
