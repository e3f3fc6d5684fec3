//! What breakers did, counted.

use std::{sync::Arc, time::Duration};

use crate::sync::{AtomicU64, Ordering};

/// What breakers did. A clone counts in the same place: give one to all endpoints of a client.
#[derive(Clone, Debug, Default)]
pub struct BreakerCounters(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    removals: AtomicU64,
    revivals: AtomicU64,
    probes: AtomicU64,
    removed_for_nanos: AtomicU64,
}

impl BreakerCounters {
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
