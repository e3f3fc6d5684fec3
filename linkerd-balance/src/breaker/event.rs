//! What happens to an endpoint, for logs.

use std::time::Instant;

use crate::accrual::Tripped;

/// What became of an endpoint by its [`Breaker`](super::Breaker), for logs. There are as many as its
/// [counters](super::BreakerCounters) count: a probe that fails is none, and neither is what somebody forces.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum BreakerEvent {
    /// It is left alone.
    Removed {
        /// Why.
        reason: Tripped,
        /// When it is tried again.
        until: Instant,
        /// When this was.
        at: Instant,
    },
    /// It is in use again.
    Revived {
        /// Since when it was left alone.
        since: Instant,
        /// How many probes that took, the good one included. An [active one](crate::ActiveProbe) that asks until enough answers
        /// in a row are good is one.
        probes: u32,
        /// When this was.
        at: Instant,
    },
}

pub(super) type Observer = Box<dyn Fn(Option<&str>, &BreakerEvent) + Send + Sync>;
