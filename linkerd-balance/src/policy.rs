//! How a balancer balances.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    ejections::EjectionLimits,
    load::{AnyLoad, LeastLoaded, Load, PeakEwma},
    panic::{Event, Panic},
    slow_start::SlowStart,
    strategy::{P2c, Strategy},
    tiers::Tiers,
};

/// What a [`Balance`](crate::Balance) is built with: a strategy, a load for each endpoint, and what is done about
/// newcomers, zones, and too few that are open.
///
/// A clone is the same policy; balancers built from it share nothing but a [`Strategy`] that counts without being told
/// of sets.
///
/// # Defaults
///
/// [`P2c`] over [`PeakEwma`] with its failure penalty; no waiting, no slow start, no tiers, no probation, no overlap;
/// [`Panic::LastPick`] when none is open.
#[derive(Clone)]
pub struct Policy {
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) new_load: Arc<dyn Fn() -> AnyLoad + Send + Sync>,
    pub(crate) max_wait: Duration,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) tiers: Tiers,
    pub(crate) panic: Panic,
    pub(crate) panic_below: f64,
    pub(crate) probation: usize,
    pub(crate) ejections: Option<EjectionLimits>,
    pub(crate) overlap: Duration,
    pub(crate) observer: Option<Observer>,
}

pub(crate) type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// A share of open endpoints that is none.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("panic below a share of {0} open endpoints, not from 0 to 1")]
pub struct InvalidPanic(pub f64);

impl Policy {
    /// Picks by `strategy`; `new_load` makes the load of each endpoint.
    pub fn new<L: Load>(strategy: impl Strategy, new_load: impl Fn() -> L + Send + Sync + 'static) -> Self {
        Self {
            strategy: Arc::new(strategy),
            new_load: Arc::new(move || AnyLoad::new(new_load())),
            max_wait: Duration::ZERO,
            slow_start: None,
            tiers: Tiers::new(),
            panic: Panic::LastPick,
            panic_below: 0.0,
            probation: 0,
            ejections: None,
            overlap: Duration::ZERO,
            observer: None,
        }
    }

    /// [`P2c`] over [`LeastLoaded`] with its failure penalty. Linkerd's `p2c` is the same without one.
    #[must_use]
    pub fn least_loaded() -> Self {
        Self::new(P2c::new(), LeastLoaded::new)
    }

    /// [`P2c`] over [`PeakEwma`] with the default decay: Linkerd's `ewma`, plus the failure penalty.
    #[must_use]
    pub fn peak_ewma() -> Self {
        Self::new(P2c::new(), PeakEwma::default)
    }

    /// Lets [`Balance::acquire`](crate::Balance::acquire) wait so long while there is no endpoint at all. Zero, the
    /// default, is not to wait.
    #[must_use]
    pub const fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Gives newcomers a growing part of their weight.
    #[must_use]
    pub const fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.slow_start = Some(slow_start);
        self
    }

    /// Prefers some endpoints to others by zone and priority. By default only the priority counts.
    #[must_use]
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.tiers = tiers;
        self
    }

    /// What becomes of requests when too few endpoints are open.
    #[must_use]
    pub const fn panic(mut self, panic: Panic) -> Self {
        self.panic = panic;
        self
    }

    /// Too few are open when fewer than this share of all is, from 0 to 1. 0, the default, is when none is.
    ///
    /// # Errors
    ///
    /// What is no share.
    pub fn panic_below(mut self, share: f64) -> Result<Self, InvalidPanic> {
        if !(0.0..=1.0).contains(&share) {
            return Err(InvalidPanic(share));
        }
        self.panic_below = share;
        Ok(self)
    }

    /// Lets only so many of the endpoints be left alone at a time, and be tried again at a time. By default all may.
    #[must_use]
    pub const fn ejections(mut self, limits: EjectionLimits) -> Self {
        self.ejections = Some(limits);
        self
    }

    /// Keeps up to `max` endpoints that discovery dropped for as long as they are open: Linkerd's `enableProbation`,
    /// for a discovery that is less to be trusted than the endpoints. 0, the default, is none; of more than `max` the
    /// ones beyond are dropped.
    #[must_use]
    pub const fn probation(mut self, max: usize) -> Self {
        self.probation = max;
        self
    }

    /// Make before break: where an update replaces every open endpoint by ones that are not open yet, the old ones stay
    /// until one of the new ones is, or for so long. Zero, the default, is not to wait. Matters where endpoints are
    /// [closed](crate::Status::Closed) until they are connected.
    #[must_use]
    pub const fn overlap(mut self, max: Duration) -> Self {
        self.overlap = max;
        self
    }

    /// Tells `observer` what happens to a set, to log it. Called in the midst of a pick: it must not take long.
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// How long an [`overlap`](Self::overlap) may last.
    #[must_use]
    pub const fn longest_overlap(&self) -> Duration {
        self.overlap
    }

    /// What metrics call it: the strategy's name and the load's, `p2c_least_loaded`, as Finagle has it.
    #[must_use]
    pub fn algorithm(&self) -> String {
        format!("{}_{}", self.strategy.name(), (self.new_load)().name())
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::peak_ewma()
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("strategy", &self.strategy)
            .field("max_wait", &self.max_wait)
            .field("slow_start", &self.slow_start)
            .field("tiers", &self.tiers)
            .field("panic", &self.panic)
            .field("panic_below", &self.panic_below)
            .field("ejections", &self.ejections)
            .field("probation", &self.probation)
            .field("overlap", &self.overlap)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_finagles_names() {
        assert_eq!(Policy::least_loaded().algorithm(), "p2c_least_loaded");
        assert_eq!(Policy::default().algorithm(), "p2c_peak_ewma");
    }
}
