//! How an endpoint is, in two words that every pick reads.

use std::time::{Duration, Instant};

use crate::{
    ejections::Ejections,
    health::Status,
    stamp::stamp,
    sync::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

/// How an endpoint is: what a [`Health`](crate::Health) leads to.
// In this order: picks read the first two.
#[repr(C)]
pub(crate) struct Standing {
    // The low three bits are a tag, the others a stamp, so a reader never sees half a change.
    word: AtomicU64,
    link: AtomicU8,
    // Which places among the ejections are this endpoint's.
    places: AtomicU8,
    // Whether it has left its set.
    has_left: AtomicBool,
    // Without: no limit.
    ejections: Option<Ejections>,
}

/// Where a [`Standing`] is: with all that a balancer keeps of its endpoint, or alone.
pub(crate) trait Place: Send + Sync {
    fn standing(&self) -> &Standing;
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

impl Standing {
    /// Open, and one of a set of which only so many may be left alone, if it is said of which.
    pub(crate) fn new(ejections: Option<Ejections>) -> Self {
        let (word, link, places) = (AtomicU64::new(OPEN), AtomicU8::new(LINK_OPEN), AtomicU8::new(0));
        Self { word, link, places, has_left: AtomicBool::new(false), ejections }
    }

    #[inline]
    pub(crate) fn status(&self, now: Instant) -> Status {
        if self.is_plainly_open() { Status::Open } else { self.worked_out(now) }
    }

    /// Open, without anything to work out: what nearly all are nearly always.
    #[inline]
    pub(crate) fn is_plainly_open(&self) -> bool {
        // Relaxed: each word stands alone; a pick that misses a change by a moment is as good as one made a moment
        // before.
        self.word.load(Ordering::Relaxed) == OPEN && self.link.load(Ordering::Relaxed) == LINK_OPEN
    }

    #[cold]
    #[inline(never)]
    fn worked_out(&self, now: Instant) -> Status {
        let word = self.word.load(Ordering::Relaxed);
        let own = match word & TAG {
            OPEN => Status::Open,
            BUSY => Status::Busy,
            CLOSED => Status::Closed,
            _ if offset(now) < word.cast_signed() >> TAG_BITS => Status::Busy,
            // Its turn to be tried again, unless others have it.
            PROBE_FROM if !self.may_probe() => Status::Busy,
            _ => Status::Open,
        };
        own.min(self.link())
    }

    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        !self.is_plainly_open()
            && self.word.load(Ordering::Relaxed) & TAG == PROBE_FROM
            && self.worked_out(now) == Status::Open
    }

    pub(crate) fn set_link(&self, status: Status) {
        let link = match status {
            Status::Open => LINK_OPEN,
            Status::Busy => 1,
            Status::Closed => 2,
        };
        self.link.store(link, Ordering::Relaxed);
    }

    pub(crate) fn link(&self) -> Status {
        match self.link.load(Ordering::Relaxed) {
            LINK_OPEN => Status::Open,
            1 => Status::Busy,
            _ => Status::Closed,
        }
    }

    pub(crate) fn busy_for(&self, now: Instant) -> Option<Duration> {
        let word = self.word.load(Ordering::Relaxed);
        let left = (word.cast_signed() >> TAG_BITS).saturating_sub(offset(now));
        (matches!(word & TAG, BUSY_UNTIL | PROBE_FROM) && left > 0).then(|| Duration::from_nanos(left.cast_unsigned()))
    }

    pub(crate) fn set(&self, status: Status) {
        let word = match status {
            Status::Open => OPEN,
            Status::Busy => BUSY,
            Status::Closed => CLOSED,
        };
        self.word.store(word, Ordering::Relaxed);
    }

    pub(crate) fn busy_until(&self, until: Instant) {
        self.word.store((offset(until) << TAG_BITS).cast_unsigned() | BUSY_UNTIL, Ordering::Relaxed);
    }

    pub(crate) fn probe_from(&self, from: Instant) {
        self.word.store((offset(from) << TAG_BITS).cast_unsigned() | PROBE_FROM, Ordering::Relaxed);
    }

    /// What it is called in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self.word.load(Ordering::Relaxed) & TAG {
            OPEN => "Open",
            BUSY => "Busy",
            CLOSED => "Closed",
            BUSY_UNTIL => "BusyUntil",
            _ => "ProbeFrom",
        }
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
        let has_own = self.places.load(Ordering::Relaxed) & (PROBING | RETIRED) != 0;
        has_own || self.ejections.as_ref().is_none_or(Ejections::may_probe)
    }

    /// Gives back the place among those that are tried again, if it has one.
    pub(crate) fn end_probe(&self) {
        self.clear(PROBING);
    }

    /// Gives back both places, as far as it has them.
    pub(crate) fn give_back(&self) {
        self.clear(EJECTED | PROBING);
    }

    /// Says that the endpoint has left its set, and [retires](Self::retire) it.
    pub(crate) fn leave(&self) {
        // Release: who sees it, or is woken for it, sees what was before.
        self.has_left.store(true, Ordering::Release);
        self.retire();
    }

    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    pub(crate) fn retire(&self) {
        let had = self.places.swap(RETIRED, Ordering::Acquire);
        self.free(had);
    }

    fn try_take(&self, place: u8, take: fn(&Ejections) -> bool, give_back: fn(&Ejections)) -> bool {
        let Some(ejections) = &self.ejections else { return true };
        if self.places.load(Ordering::Relaxed) & (place | RETIRED) != 0 {
            return true;
        }
        if !take(ejections) {
            return false;
        }
        let mark = |places| (places & (place | RETIRED) == 0).then_some(places | place);
        // Release: who sees the mark, and gives back what it stands for, has to see that it was taken.
        if self.places.fetch_update(Ordering::Release, Ordering::Relaxed, mark).is_err() {
            give_back(ejections);
        }
        true
    }

    fn clear(&self, places: u8) {
        // Acquire: see `try_take`. Who clears a mark is the one who gives back what it stands for, so it is one only.
        let had = self.places.fetch_and(!places, Ordering::Acquire);
        self.free(had & places);
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

/// A stamp of so few bits that a tag fits beside it: at most 36 years either way.
fn offset(at: Instant) -> i64 {
    const MAX: i64 = i64::MAX >> TAG_BITS;
    stamp(at).clamp(-MAX, MAX)
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Place for Standing {
    fn standing(&self) -> &Standing {
        self
    }
}
