//! How many endpoints of a set may be left alone at the same time.

use std::{fmt, num::NonZeroU32, sync::Arc};

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How many endpoints of a set may be left alone by their breakers, and how many of those may be tried again, at the
/// same time.
///
/// # Defaults
///
/// All of them, as in Linkerd: a balancer of which every endpoint is busy uses one anyway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectionLimits {
    max_share: f64,
    keep_last: bool,
    max_probes: u32,
}

/// Who of a set is left alone now, shared by the breakers of its endpoints. A clone is the same set.
///
/// An endpoint that would be one too many stays in use, whatever it does, until another one is back; its breaker asks
/// again at its next failure. The limit holds for the set *with* the endpoint in question left alone, rounded down:
/// nobody is let go as a first one for free. So of few endpoints, a small share is none:
///
/// | share          | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
/// |----------------|---|---|---|---|---|---|---|---|---|----|
/// | 0.1            | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1  |
/// | 0.2            | 0 | 0 | 0 | 0 | 1 | 1 | 1 | 1 | 1 | 2  |
/// | 0.3            | 0 | 0 | 0 | 1 | 1 | 1 | 2 | 2 | 2 | 3  |
/// | 0.5            | 0 | 1 | 1 | 2 | 2 | 3 | 3 | 4 | 4 | 5  |
/// | 0.7            | 0 | 1 | 2 | 2 | 3 | 4 | 4 | 5 | 6 | 7  |
/// | 1              | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
/// | 1, keeping one | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9  |
///
/// Before the first [`resize`](Self::resize) there are no endpoints, and none may be left alone. A set that shrinks
/// calls nobody back: there may be more than the limit until some return, and until then nobody else goes.
#[derive(Clone)]
pub struct Ejections(Arc<Inner>);

struct Inner {
    limits: EjectionLimits,
    // The size in the upper half, how many are ejected in the lower one: the two are compared, so they change as one.
    word: AtomicU64,
    probing: AtomicU32,
    denied: AtomicU64,
}

/// Numbers of an [`Ejections`], as of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EjectionCounts {
    /// Endpoints in the set.
    pub size: usize,
    /// Endpoints that are left alone now, those that are tried again included.
    pub ejected: usize,
    /// How many may be.
    pub allowed: usize,
    /// Endpoints that are tried again now.
    pub probing: usize,
    /// How often an endpoint was to be left alone and stayed in use, so far.
    pub denied: u64,
}

/// A share of endpoints that is not above 0, or is above 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a share of {0} of the endpoints, not above 0 and at most 1")]
pub struct InvalidShare(pub f64);

impl EjectionLimits {
    /// Leaves alone at most this share of the endpoints, rounded down.
    ///
    /// # Errors
    ///
    /// A share that is not above 0, or is above 1.
    pub fn new(max_share: f64) -> Result<Self, InvalidShare> {
        // NaN is neither.
        if max_share > 0.0 && max_share <= 1.0 {
            Ok(Self { max_share, ..Self::default() })
        } else {
            Err(InvalidShare(max_share))
        }
    }

    /// Whether one endpoint stays in use always, even if the share allows for all.
    #[must_use]
    pub const fn keep_last(self, keep: bool) -> Self {
        Self { keep_last: keep, ..self }
    }

    /// How many endpoints may be tried again at the same time. No limit unless set.
    ///
    /// The others stay busy until one of those has decided itself. One that hangs for longer than its backoff gives its
    /// place up: it is probed again once a backoff, and counts as one of these no more.
    #[must_use]
    pub const fn max_probes(self, endpoints: NonZeroU32) -> Self {
        Self { max_probes: endpoints.get(), ..self }
    }

    /// The limit of those that may be tried again at the same time, if there is one.
    pub(crate) fn probes(&self) -> Option<u32> {
        (self.max_probes < u32::MAX).then_some(self.max_probes)
    }

    /// How many of `size` endpoints may be left alone.
    #[must_use]
    pub fn allowed(&self, size: usize) -> usize {
        // A share such as 0.29 is a little less than it says, and 29 of 100 are 29: a billionth is not another endpoint.
        let share = (size as f64 * self.max_share + 1e-9).floor() as usize;
        share.min(if self.keep_last { size.saturating_sub(1) } else { size })
    }
}

impl Default for EjectionLimits {
    fn default() -> Self {
        Self { max_share: 1.0, keep_last: false, max_probes: u32::MAX }
    }
}

impl Ejections {
    /// Nobody of an empty set.
    #[must_use]
    pub fn new(limits: EjectionLimits) -> Self {
        let (word, probing, denied) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { limits, word, probing, denied }))
    }

    /// What it holds to.
    #[must_use]
    pub fn limits(&self) -> EjectionLimits {
        self.0.limits
    }

    /// Says how many endpoints there are now. Sizes above 4 billion count as that.
    pub fn resize(&self, size: usize) {
        let size = u64::from(u32::try_from(size).unwrap_or(u32::MAX));
        self.change(|word| Some((size << 32) | (word & LOW)));
    }

    /// Takes a place among those that are left alone, if there is one; each is to be [given back](Self::give_back).
    ///
    /// If there is none, that counts as denied.
    #[must_use]
    pub fn try_eject(&self) -> bool {
        let taken = self.change(|word| {
            let (size, ejected) = unpack(word);
            (ejected < self.0.limits.allowed(size)).then_some(word + 1)
        });
        if !taken {
            // Relaxed: a count for people.
            self.0.denied.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Gives a place back. More than were taken are not counted.
    pub fn give_back(&self) {
        self.change(|word| (word & LOW > 0).then(|| word - 1));
    }

    /// Takes a place among those that are tried again, if there is one.
    pub(crate) fn try_probe(&self) -> bool {
        let more = |probing| (probing < self.0.limits.max_probes).then(|| probing + 1);
        // Relaxed: the number stands alone, nothing else is published by it.
        self.0.probing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives it back.
    pub(crate) fn end_probe(&self) {
        let less = |probing: u32| probing.checked_sub(1);
        let _ = self.0.probing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether another endpoint may be tried again.
    pub(crate) fn may_probe(&self) -> bool {
        self.0.probing.load(Ordering::Relaxed) < self.0.limits.max_probes
    }

    /// Its numbers.
    #[must_use]
    pub fn counts(&self) -> EjectionCounts {
        let (size, ejected) = unpack(self.0.word.load(Ordering::Relaxed));
        EjectionCounts {
            size,
            ejected,
            allowed: self.0.limits.allowed(size),
            probing: self.0.probing.load(Ordering::Relaxed) as usize,
            denied: self.0.denied.load(Ordering::Relaxed),
        }
    }

    fn change(&self, to: impl Fn(u64) -> Option<u64>) -> bool {
        // Relaxed: as above, and whoever gives back what another thread took learned of it with acquire and release.
        self.0.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, to).is_ok()
    }
}

const LOW: u64 = u32::MAX as u64;

/// Size, ejected.
const fn unpack(word: u64) -> (usize, usize) {
    ((word >> 32) as usize, (word & LOW) as usize)
}

impl fmt::Debug for Ejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ejections").field("limits", &self.0.limits).field("counts", &self.counts()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(share: f64, size: usize) -> Ejections {
        let ejections = Ejections::new(EjectionLimits::new(share).unwrap());
        ejections.resize(size);
        ejections
    }

    fn ejected(ejections: &Ejections) -> usize {
        (0..1000).filter(|_| ejections.try_eject()).count()
    }

    #[test]
    fn the_table_in_the_documentation_is_true() {
        let mut rows = 0;
        for line in include_str!("ejections.rs").lines() {
            let Some(row) = line.strip_prefix("/// | ").filter(|row| row.starts_with(['0', '1'])) else { continue };
            let cells: Vec<_> = row.trim_end_matches('|').split('|').map(str::trim).collect();
            let share = cells[0].trim_end_matches(", keeping one");
            let limits = EjectionLimits::new(share.parse().unwrap()).unwrap().keep_last(share.len() < cells[0].len());
            for size in 1..=10 {
                let ejections = Ejections::new(limits);
                ejections.resize(size);
                let expected = cells[size].parse::<usize>().unwrap();
                assert_eq!(ejected(&ejections), expected, "{} of {size}", cells[0]);
                assert_eq!(ejections.counts().allowed, expected);
                assert_eq!(ejections.counts().denied, 1000 - expected as u64);
            }
            rows += 1;
        }
        assert_eq!(rows, 7);
    }

    #[test]
    fn a_share_that_cannot_be_is_refused_by_its_value() {
        for share in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            let InvalidShare(value) = EjectionLimits::new(share).unwrap_err();
            assert!(value == share || share.is_nan());
        }
        let err = EjectionLimits::new(0.0).unwrap_err();
        assert_eq!(err.to_string(), "a share of 0 of the endpoints, not above 0 and at most 1");
    }

    #[test]
    fn hundredths_are_hundredths() {
        for percent in 1..=100 {
            let limits = EjectionLimits::new(percent as f64 / 100.0).unwrap();
            assert_eq!(limits.allowed(100), percent);
            assert_eq!(limits.allowed(100_000), percent * 1000);
            assert_eq!(limits.allowed(99), percent * 99 / 100);
        }
    }

    #[test]
    fn without_endpoints_nobody_is_left_alone() {
        assert_eq!(ejected(&Ejections::new(EjectionLimits::default())), 0);
        assert_eq!(EjectionLimits::default().keep_last(true).allowed(0), 0);
    }

    #[test]
    fn a_set_that_shrinks_calls_nobody_back() {
        let ejections = of(0.5, 10);
        assert_eq!(ejected(&ejections), 5);
        ejections.resize(4);
        assert_eq!((ejections.counts().ejected, ejections.counts().allowed), (5, 2));
        for _ in 0..3 {
            ejections.give_back();
            assert!(!ejections.try_eject());
        }
        ejections.give_back();
        assert!(ejections.try_eject());
    }

    #[test]
    fn more_than_was_taken_cannot_be_given_back() {
        let ejections = of(0.5, 4);
        ejections.give_back();
        assert_eq!((ejections.counts().size, ejections.counts().ejected), (4, 0));
        assert_eq!(ejected(&ejections), 2);
    }

    #[test]
    fn so_many_probes_and_no_more() {
        let limits = EjectionLimits::default().max_probes(NonZeroU32::new(2).unwrap());
        let ejections = Ejections::new(limits);
        assert!(ejections.try_probe() && ejections.may_probe() && ejections.try_probe());
        assert!(!ejections.may_probe() && !ejections.try_probe());
        assert_eq!(ejections.counts().probing, 2);
        ejections.end_probe();
        assert!(ejections.may_probe() && ejections.try_probe());
    }

    proptest! {
        #[test]
        fn never_more_than_the_share_whatever_comes(
            share in 0.001..=1.0_f64, keep: bool, steps in prop::collection::vec((0..3_u8, 0..40_usize), 0..200),
        ) {
            let ejections = Ejections::new(EjectionLimits::new(share).unwrap().keep_last(keep));
            let (mut size, mut out) = (0, 0);
            for (step, n) in steps {
                match step {
                    0 => {
                        size = n;
                        ejections.resize(n);
                    }
                    1 => {
                        let may = (out + 1) as f64 <= size as f64 * share + 1e-9 && (!keep || out + 1 < size);
                        prop_assert_eq!(ejections.try_eject(), may);
                        out += usize::from(may);
                    }
                    _ => {
                        ejections.give_back();
                        out = out.saturating_sub(1);
                    }
                }
                prop_assert_eq!((ejections.counts().size, ejections.counts().ejected), (size, out));
            }
        }
    }
}
