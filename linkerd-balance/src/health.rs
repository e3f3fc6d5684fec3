//! Whether an endpoint can be used, as its own stack knows it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crate::{
    ejections::Ejections,
    sync::{AtomicU8, AtomicU64, Ordering},
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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Busy => "busy",
            Self::Open => "open",
        })
    }
}

/// Where an endpoint's stack says how it is, and pickers read it. A clone is the same place.
///
/// A status may carry its end: [`busy_until`](Self::busy_until) turns to [`Status::Open`] by itself, so that no
/// timer has to run for an endpoint that nobody asks.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

// In this order, so that the two that each pick reads lie in one cache line.
#[repr(C)]
struct Inner {
    // The low three bits are a tag, the others nanoseconds since the epoch (signed), so a reader never sees half a change.
    word: AtomicU64,
    link: AtomicU8,
    // What `until` counts from. Any instant would do; nothing reads the clock by it.
    epoch: Instant,
    // Without: no limit.
    ejections: Option<Ejections>,
    // Which places among the ejections are this endpoint's.
    places: AtomicU8,
    on_retire: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

const TAG_BITS: u32 = 3;
const TAG: u64 = (1 << TAG_BITS) - 1;
const LINK_OPEN: u8 = 0;
const OPEN: u64 = 0;
const BUSY: u64 = 1;
const CLOSED: u64 = 2;
const BUSY_UNTIL: u64 = 3;
const PROBE_FROM: u64 = 4;

const EJECTED: u8 = 1;
const PROBING: u8 = 2;
const RETIRED: u8 = 4;

impl Health {
    /// An open endpoint that may be left alone whatever becomes of others.
    #[must_use]
    pub fn new() -> Self {
        Self::with(None)
    }

    /// An open endpoint of a set of which only so many may be left alone.
    ///
    /// [`Breaker`](crate::Breaker)s ask before they leave it alone. Once it has left the set, [`retire`](Self::retire)
    /// it.
    #[must_use]
    pub fn within(ejections: Ejections) -> Self {
        Self::with(Some(ejections))
    }

    fn with(ejections: Option<Ejections>) -> Self {
        let epoch = tokio::time::Instant::now().into_std();
        let (word, link, places) = (AtomicU64::new(OPEN), AtomicU8::new(LINK_OPEN), AtomicU8::new(0));
        Self(Arc::new(Inner { epoch, word, link, ejections, places, on_retire: OnceLock::new() }))
    }

    /// The status at `now`: the worse of what the endpoint's breaker and its [link](Self::set_link) say.
    #[must_use]
    #[inline]
    pub fn status(&self, now: Instant) -> Status {
        if self.is_plainly_open() { Status::Open } else { self.worked_out(now) }
    }

    /// Open, without anything to work out: what nearly all are nearly always.
    #[inline]
    pub(crate) fn is_plainly_open(&self) -> bool {
        // Relaxed: each word stands alone; a pick that misses a change by a moment is as good as one made a moment
        // before.
        self.0.word.load(Ordering::Relaxed) == OPEN && self.0.link.load(Ordering::Relaxed) == LINK_OPEN
    }

    #[cold]
    #[inline(never)]
    fn worked_out(&self, now: Instant) -> Status {
        let word = self.0.word.load(Ordering::Relaxed);
        let own = match word & TAG {
            OPEN => Status::Open,
            BUSY => Status::Busy,
            CLOSED => Status::Closed,
            _ if self.offset(now) < word.cast_signed() >> TAG_BITS => Status::Busy,
            // Its turn to be tried again, unless others have it.
            PROBE_FROM if !self.may_probe() => Status::Busy,
            _ => Status::Open,
        };
        own.min(self.link())
    }

    /// Whether it was to be left alone until a [time to be probed](Self::probe_from) that has come, and nobody has tried
    /// it since: its status is [`Status::Open`], but that is a guess.
    #[must_use]
    #[inline]
    pub fn is_due(&self, now: Instant) -> bool {
        !self.is_plainly_open()
            && self.0.word.load(Ordering::Relaxed) & TAG == PROBE_FROM
            && self.worked_out(now) == Status::Open
    }

    /// What the endpoint's connections know of it, apart from how requests went: closed while nothing can be reached,
    /// for example. [`Status::Open`] until it is said otherwise. Whoever connects says so; the rest is said by
    /// [`set`](Self::set), [`busy_until`](Self::busy_until) and [`probe_from`](Self::probe_from).
    pub fn set_link(&self, status: Status) {
        let link = match status {
            Status::Open => LINK_OPEN,
            Status::Busy => 1,
            Status::Closed => 2,
        };
        self.0.link.store(link, Ordering::Relaxed);
    }

    /// What was said last of its connections.
    #[must_use]
    pub fn link(&self) -> Status {
        match self.0.link.load(Ordering::Relaxed) {
            LINK_OPEN => Status::Open,
            1 => Status::Busy,
            _ => Status::Closed,
        }
    }

    /// How long it is left alone from `now` on, if that has a known end.
    #[must_use]
    pub fn busy_for(&self, now: Instant) -> Option<Duration> {
        let word = self.0.word.load(Ordering::Relaxed);
        let left = (word.cast_signed() >> TAG_BITS).saturating_sub(self.offset(now));
        (matches!(word & TAG, BUSY_UNTIL | PROBE_FROM) && left > 0).then(|| Duration::from_nanos(left.cast_unsigned()))
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

    /// Busy before `until`, open from then on, as if it had been [`set`](Self::set) then.
    ///
    /// For what is known to end, such as maintenance. Where the end is a guess, [`probe_from`](Self::probe_from) it.
    pub fn busy_until(&self, until: Instant) {
        let word = (self.offset(until) << TAG_BITS).cast_unsigned() | BUSY_UNTIL;
        self.0.word.store(word, Ordering::Relaxed);
    }

    /// Busy before `from`; then [due](Self::is_due) to be tried, for as long as its set has a probe left, until another
    /// status is set.
    ///
    /// A balancer sends the next request that comes upon it there, however loaded it is, and takes it for open only when
    /// that is set: whoever writes this sets something else as soon as that request is under way, as
    /// [`Breaker`](crate::Breaker) does, or all requests go there.
    pub fn probe_from(&self, from: Instant) {
        let word = (self.offset(from) << TAG_BITS).cast_unsigned() | PROBE_FROM;
        self.0.word.store(word, Ordering::Relaxed);
    }

    /// Says that the endpoint has left its set: places among its [`Ejections`] that it has are given back, and it takes
    /// none any more, whatever requests that are still under way have to say. Further calls do nothing.
    ///
    /// Dropping the last clone does the same.
    pub fn retire(&self) {
        if self.0.retire()
            && let Some(retired) = self.0.on_retire.get()
        {
            retired();
        }
    }

    /// Calls `retired` once the endpoint has [left its set](Self::retire), however long requests that are under way hold
    /// on to it: to send those on that wait for a turn there. Not if it has left already, nor when a set is dropped
    /// whole. Called in the midst of an update, which it must not make another of. The first one counts.
    pub fn on_retire(&self, retired: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.on_retire.set(Box::new(retired));
    }

    /// Takes a place among the ejected, unless it has one. False: there is none.
    pub(crate) fn try_eject(&self) -> bool {
        self.try_take(EJECTED, Ejections::try_eject, Ejections::give_back)
    }

    /// Takes a place among those that are tried again, unless it has one. False: there is none.
    pub(crate) fn try_probe(&self) -> bool {
        self.try_take(PROBING, Ejections::try_probe, Ejections::end_probe)
    }

    /// Whether there is a place among those that are tried again, or it has one.
    pub(crate) fn may_probe(&self) -> bool {
        let has_own = self.0.places.load(Ordering::Relaxed) & (PROBING | RETIRED) != 0;
        has_own || self.0.ejections.as_ref().is_none_or(Ejections::may_probe)
    }

    /// Gives back the place among those that are tried again, if it has one.
    pub(crate) fn end_probe(&self) {
        self.0.give_back(PROBING);
    }

    /// Gives back both places, as far as it has them.
    pub(crate) fn give_back(&self) {
        self.0.give_back(EJECTED | PROBING);
    }

    fn try_take(&self, place: u8, take: fn(&Ejections) -> bool, give_back: fn(&Ejections)) -> bool {
        let Some(ejections) = &self.0.ejections else { return true };
        if self.0.places.load(Ordering::Relaxed) & (place | RETIRED) != 0 {
            return true;
        }
        if !take(ejections) {
            return false;
        }
        let mark = |places| (places & (place | RETIRED) == 0).then_some(places | place);
        // Release: who sees the mark, and gives back what it stands for, has to see that it was taken.
        if self.0.places.fetch_update(Ordering::Release, Ordering::Relaxed, mark).is_err() {
            give_back(ejections);
        }
        true
    }

    /// Nanoseconds from the epoch, at most 36 years either way.
    fn offset(&self, at: Instant) -> i64 {
        const MAX: i64 = i64::MAX >> TAG_BITS;
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).map_or(MAX, |n| n.min(MAX));
        match at.checked_duration_since(self.0.epoch) {
            Some(after) => nanos(after),
            None => -nanos(self.0.epoch.duration_since(at)),
        }
    }
}

impl Inner {
    fn give_back(&self, places: u8) {
        // Acquire: see `try_take`. Who clears a mark is the one who gives back what it stands for, so it is one only.
        let had = self.places.fetch_and(!places, Ordering::Acquire);
        self.free(had & places);
    }

    /// Whether it had not left before.
    fn retire(&self) -> bool {
        let had = self.places.swap(RETIRED, Ordering::Acquire);
        self.free(had);
        had & RETIRED == 0
    }

    fn free(&self, places: u8) {
        let Some(ejections) = &self.ejections else { return };
        if places & EJECTED != 0 {
            ejections.give_back();
        }
        if places & PROBING != 0 {
            ejections.end_probe();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.retire();
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
        let name = match word & TAG {
            OPEN => "Open",
            BUSY => "Busy",
            CLOSED => "Closed",
            BUSY_UNTIL => "BusyUntil",
            _ => "ProbeFrom",
        };
        f.debug_tuple("Health").field(&format_args!("{name}")).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::ejections::EjectionLimits;

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
        assert!(!health.is_due(until), "that was a promise, not a guess");
    }

    #[test]
    fn the_worse_of_breaker_and_link_counts() {
        let health = Health::new();
        let now = tokio::time::Instant::now().into_std();
        for (own, link) in
            [(Status::Open, Status::Closed), (Status::Busy, Status::Open), (Status::Closed, Status::Busy)]
        {
            health.set(own);
            health.set_link(link);
            assert_eq!((health.status(now), health.link()), (own.min(link), link));
        }
        health.set_link(Status::Closed);
        health.probe_from(now);
        assert!(!health.is_due(now), "nobody can be sent there");
        health.set_link(Status::Open);
        assert!(health.is_due(now));
    }

    #[test]
    fn it_is_due_from_the_end_of_its_backoff_until_somebody_knows_more() {
        let health = Health::new();
        let now = tokio::time::Instant::now().into_std();
        assert_eq!((health.is_due(now), health.busy_for(now)), (false, None));
        health.probe_from(now + 500 * MS);
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
    fn set(share: f64, size: usize) -> Ejections {
        let limits = EjectionLimits::new(share).unwrap().max_probes(NonZeroU32::MIN);
        let ejections = Ejections::new(limits);
        ejections.resize(size);
        ejections
    }

    #[test]
    fn an_endpoint_has_one_place_however_often_it_asks() {
        let ejections = set(0.5, 4);
        let (a, b, c) = (Health::within(ejections.clone()), Health::within(ejections.clone()), Health::new());
        assert!(a.try_eject() && a.clone().try_eject() && b.try_eject());
        assert_eq!(ejections.counts().ejected, 2);
        assert!(!Health::within(ejections.clone()).try_eject());
        assert!(c.try_eject(), "no limit");
        a.give_back();
        a.give_back();
        assert_eq!(ejections.counts().ejected, 1);
    }

    #[test]
    fn who_leaves_gives_back_once_and_takes_no_more() {
        let ejections = set(0.5, 4);
        let (a, b) = (Health::within(ejections.clone()), Health::within(ejections.clone()));
        assert!(a.try_eject() && a.try_probe() && b.try_eject());
        a.retire();
        assert_eq!((ejections.counts().ejected, ejections.counts().probing), (1, 0));
        // A request that was under way.
        assert!(a.try_eject() && a.try_probe());
        a.give_back();
        a.retire();
        drop(a);
        assert_eq!((ejections.counts().ejected, ejections.counts().probing), (1, 0));
        drop(b);
        assert_eq!(ejections.counts().ejected, 0);
    }

    #[test]
    fn whose_turn_it_is_to_be_tried_is_busy_while_others_are() {
        let ejections = set(1.0, 4);
        let (a, b) = (Health::within(ejections.clone()), Health::within(ejections.clone()));
        let from = tokio::time::Instant::now().into_std() + MS;
        b.probe_from(from);
        assert_eq!(b.status(from.checked_sub(MS).unwrap()), Status::Busy);
        assert_eq!(b.status(from), Status::Open);
        assert!(a.try_probe());
        assert_eq!(b.status(from), Status::Busy);
        a.end_probe();
        assert_eq!(b.status(from), Status::Open);
    }
}
