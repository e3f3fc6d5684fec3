//! What breakers did, counted.

use std::{fmt, sync::Arc, time::Duration};

use super::{BreakerEvent, event::Observer};
use crate::sync::{AtomicU64, Ordering};

/// What breakers did. A clone counts in the same place: give one to all endpoints of a client.
#[derive(Clone, Default)]
pub struct BreakerCounters(Arc<Counts>);

#[derive(Default)]
struct Counts {
    observer: Option<Observer>,
    removals: AtomicU64,
    revivals: AtomicU64,
    probes: AtomicU64,
    removed_for_nanos: AtomicU64,
}

impl BreakerCounters {
    /// None of anything yet. It also tells `observer` when an endpoint is given up and when it is back, with the
    /// [id](super::BreakerBuilder::id) of the breaker, to log it. Called in the midst of a call's end: it must not take
    /// long, nor ask a breaker anything.
    #[must_use]
    pub fn observed(observer: impl Fn(Option<&str>, &BreakerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Counts { observer: Some(Box::new(observer)), ..Counts::default() }))
    }

    pub(super) fn tell(&self, id: Option<&str>, event: &BreakerEvent) {
        if let Some(observer) = &self.0.observer {
            observer(id, event);
        }
    }

    /// How often an endpoint that was alive was given up. A failed probe is not another removal.
    #[must_use]
    pub fn removals(&self) -> u64 {
        // Relaxed here and below: counts for people.
        self.0.removals.load(Ordering::Relaxed)
    }

    /// How often a probe succeeded.
    #[must_use]
    pub fn revivals(&self) -> u64 {
        self.0.revivals.load(Ordering::Relaxed)
    }

    /// How many probes were sent.
    #[must_use]
    pub fn probes(&self) -> u64 {
        self.0.probes.load(Ordering::Relaxed)
    }

    /// The sum of all backoffs so far.
    #[must_use]
    pub fn removed_for(&self) -> Duration {
        Duration::from_nanos(self.0.removed_for_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn removed(&self) {
        self.0.removals.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn revived(&self) {
        self.0.revivals.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn probed(&self) {
        self.0.probes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn waits(&self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.0.removed_for_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl fmt::Debug for BreakerCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerCounters")
            .field("removals", &self.removals())
            .field("revivals", &self.revivals())
            .field("probes", &self.probes())
            .field("removed_for", &self.removed_for())
            .finish_non_exhaustive()
    }
}
