//! Whether an endpoint can be used, as its own stack knows it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Whether an endpoint should get requests. Better ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Cannot serve. Picked only when every endpoint is closed.
    Closed,
    /// Could serve, but should not be asked now: it failed of late, or is full.
    Busy,
    /// Serves.
    Open,
}

/// Where an endpoint's stack says how it is, and pickers read it. A clone is the same place.
///
/// A status may carry its end: [`busy_until`](Self::busy_until) turns to [`Status::Open`] by itself, so that no
/// timer has to run for an endpoint that nobody asks.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    // What `until` counts from. Any instant would do; nothing reads the clock by it.
    epoch: Instant,
    // The low two bits are a tag, the others nanoseconds since the epoch (signed), so a reader never sees half a change.
    word: AtomicU64,
}

const TAG_BITS: u32 = 2;
const OPEN: u64 = 0;
const BUSY: u64 = 1;
const CLOSED: u64 = 2;
const BUSY_UNTIL: u64 = 3;

impl Health {
    /// An open endpoint.
    #[must_use]
    pub fn new() -> Self {
        let epoch = tokio::time::Instant::now().into_std();
        Self(Arc::new(Inner { epoch, word: AtomicU64::new(OPEN) }))
    }

    /// The status at `now`.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        // Relaxed: the word stands alone; a pick that misses a change by a moment is as good as one made a moment before.
        let word = self.0.word.load(Ordering::Relaxed);
        match word & ((1 << TAG_BITS) - 1) {
            OPEN => Status::Open,
            BUSY => Status::Busy,
            CLOSED => Status::Closed,
            _ if self.offset(now) < word.cast_signed() >> TAG_BITS => Status::Busy,
            _ => Status::Open,
        }
    }

    /// Whether it was to be left alone until a time that has come, and nobody has tried it since: its status is
    /// [`Status::Open`], but that is a guess.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        let word = self.0.word.load(Ordering::Relaxed);
        word & ((1 << TAG_BITS) - 1) == BUSY_UNTIL && self.offset(now) >= word.cast_signed() >> TAG_BITS
    }

    /// How long it is left alone from `now` on, if that has a known end.
    #[must_use]
    pub fn busy_for(&self, now: Instant) -> Option<Duration> {
        let word = self.0.word.load(Ordering::Relaxed);
        let left = (word.cast_signed() >> TAG_BITS).saturating_sub(self.offset(now));
        (word & ((1 << TAG_BITS) - 1) == BUSY_UNTIL && left > 0).then(|| Duration::from_nanos(left.cast_unsigned()))
    }

    /// Sets a status that lasts until the next one is set.
    pub fn set(&self, status: Status) {
        let word = match status {
            Status::Open => OPEN,
            Status::Busy => BUSY,
            Status::Closed => CLOSED,
        };
        self.0.word.store(word, Ordering::Relaxed);
    }

    /// Busy before `until`, open from then on.
    pub fn busy_until(&self, until: Instant) {
        let word = (self.offset(until) << TAG_BITS).cast_unsigned() | BUSY_UNTIL;
        self.0.word.store(word, Ordering::Relaxed);
    }

    /// Nanoseconds from the epoch, at most 73 years either way.
    fn offset(&self, at: Instant) -> i64 {
        const MAX: i64 = i64::MAX >> TAG_BITS;
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).map_or(MAX, |n| n.min(MAX));
        match at.checked_duration_since(self.0.epoch) {
            Some(after) => nanos(after),
            None => -nanos(self.0.epoch.duration_since(at)),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.0.word.load(Ordering::Relaxed);
        let name = match word & ((1 << TAG_BITS) - 1) {
            OPEN => "Open",
            BUSY => "Busy",
            CLOSED => "Closed",
            _ => "BusyUntil",
        };
        f.debug_tuple("Health").field(&format_args!("{name}")).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_clone_is_the_same_place() {
        let health = Health::new();
        let now = tokio::time::Instant::now().into_std();
        health.clone().set(Status::Closed);
        assert_eq!(health.status(now), Status::Closed);
        health.clone().set(Status::Busy);
        assert_eq!(health.status(now), Status::Busy);
        health.set(Status::Open);
        assert_eq!(health.status(now), Status::Open);
    }

    #[test]
    fn busy_until_ends_at_that_instant_and_not_before() {
        let health = Health::new();
        let until = tokio::time::Instant::now().into_std() + 500 * MS;
        health.busy_until(until);
        assert_eq!(health.status(until.checked_sub(MS).unwrap()), Status::Busy);
        assert_eq!(health.status(until), Status::Open);
    }

    #[test]
    fn it_is_due_from_the_end_of_its_backoff_until_somebody_knows_more() {
        let health = Health::new();
        let now = tokio::time::Instant::now().into_std();
        assert_eq!((health.is_due(now), health.busy_for(now)), (false, None));
        health.busy_until(now + 500 * MS);
        assert_eq!((health.is_due(now), health.busy_for(now)), (false, Some(500 * MS)));
        let then = now + 500 * MS;
        assert_eq!((health.is_due(then), health.busy_for(then)), (true, None));
        health.set(Status::Busy);
        assert!(!health.is_due(then));
    }

    #[test]
    fn instants_before_the_epoch_compare_too() {
        let health = Health::new();
        let long_ago = health.0.epoch.checked_sub(Duration::from_mins(1)).unwrap();
        health.busy_until(long_ago + MS);
        assert_eq!(health.status(long_ago), Status::Busy);
        assert_eq!(health.status(long_ago + MS), Status::Open);
        health.busy_until(long_ago + Duration::from_hours(200 * 365 * 24));
        assert_eq!(health.status(tokio::time::Instant::now().into_std()), Status::Busy);
    }

    #[test]
    fn open_is_better_than_busy_and_busy_than_closed() {
        assert!(Status::Open > Status::Busy && Status::Busy > Status::Closed);
    }
}
