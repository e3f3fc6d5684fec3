//! A load of any kind, kept in place.

use std::{any::Any, ops::Deref, time::Instant};

use super::{LeastLoaded, Load, PeakEwma, time::Now};

/// The load of one endpoint: in place if it is one of ours, so that a pick has no pointer to follow and no table to call
/// through; what a lease counts lies beside what it is counted by.
#[derive(Debug)]
pub(crate) enum AnyLoad {
    PeakEwma(PeakEwma),
    LeastLoaded(LeastLoaded),
    Other(Box<dyn Load>),
}

impl AnyLoad {
    pub(crate) fn new<L: Load>(load: L) -> Self {
        // Told apart here, where the type is known still.
        let mut load = Some(load);
        let any: &mut dyn Any = &mut load;
        if let Some(ewma) = any.downcast_mut::<Option<PeakEwma>>().and_then(Option::take) {
            return Self::PeakEwma(ewma);
        }
        if let Some(least) = any.downcast_mut::<Option<LeastLoaded>>().and_then(Option::take) {
            return Self::LeastLoaded(least);
        }
        Self::Other(Box::new(load.expect("nobody took it")))
    }

    #[inline]
    pub(crate) fn score(&self, now: &Now, weight: f64, more: usize) -> f64 {
        match self {
            Self::PeakEwma(load) => load.score_at(now.stamp(), weight, more),
            Self::LeastLoaded(load) => load.score(now.instant, weight, more),
            Self::Other(load) => load.score(now.instant, weight, more),
        }
    }

    #[inline]
    pub(crate) fn begin(&self, now: Instant) {
        match self {
            Self::PeakEwma(load) => load.begin(now),
            Self::LeastLoaded(load) => load.begin(now),
            Self::Other(load) => load.begin(now),
        }
    }

    #[inline]
    pub(crate) fn end(&self, begun: Instant, now: Instant, success: bool) {
        match self {
            Self::PeakEwma(load) => load.end(begun, now, success),
            Self::LeastLoaded(load) => load.end(begun, now, success),
            Self::Other(load) => load.end(begun, now, success),
        }
    }

    pub(crate) fn cancel_at(&self, begun: Instant, now: Instant, answered: bool) {
        match self {
            Self::PeakEwma(load) => load.cancel_at(begun, now, answered),
            Self::LeastLoaded(load) => load.cancel_at(begun, now, answered),
            Self::Other(load) => load.cancel_at(begun, now, answered),
        }
    }
}

impl Deref for AnyLoad {
    type Target = dyn Load;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::PeakEwma(load) => load,
            Self::LeastLoaded(load) => load,
            Self::Other(load) => &**load,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_kept_in_place_and_others_work_as_well() {
        #[derive(Debug)]
        struct Theirs;

        impl Load for Theirs {
            fn score(&self, _now: Instant, weight: f64, more: usize) -> f64 {
                weight + more as f64
            }
            fn pending(&self) -> usize {
                7
            }
            fn begin(&self, _now: Instant) {}
            fn end(&self, _begun: Instant, _now: Instant, _success: bool) {}
            fn cancel(&self) {}
        }

        let now = Now::new(tokio::time::Instant::now().into_std());
        assert!(matches!(AnyLoad::new(PeakEwma::default()), AnyLoad::PeakEwma(_)));
        assert!(matches!(AnyLoad::new(LeastLoaded::new()), AnyLoad::LeastLoaded(_)));
        let theirs = AnyLoad::new(Theirs);
        assert_eq!((theirs.score(&now, 2.0, 1), theirs.pending(), theirs.name()), (3.0, 7, "custom"));
        // A load inside a load is somebody's own, too.
        assert!(matches!(AnyLoad::new(Wrapped(PeakEwma::default())), AnyLoad::Other(_)));
    }

    #[derive(Debug)]
    struct Wrapped(PeakEwma);

    impl Load for Wrapped {
        fn score(&self, now: Instant, weight: f64, more: usize) -> f64 {
            self.0.score(now, weight, more)
        }
        fn pending(&self) -> usize {
            self.0.pending()
        }
        fn begin(&self, now: Instant) {
            self.0.begin(now);
        }
        fn end(&self, begun: Instant, now: Instant, success: bool) {
            self.0.end(begun, now, success);
        }
        fn cancel(&self) {
            self.0.cancel();
        }
    }
}
