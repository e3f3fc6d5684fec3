//! What a breaker is made of.

use std::{num::NonZeroU32, sync::Arc};

use super::{
    Breaker, BreakerCounters, Inner,
    state::{Stage, State},
};
use crate::{
    accrual::{Accrual, Backoff},
    health::Health,
    rng::{self, SplitMix},
    stamp::Stamp,
    sync::Mutex,
};

/// Says what a [`Breaker`] is made of.
///
/// # Defaults
///
/// Linkerd's backoff, one probe at a time, a health and counters of its own, chance as the jitter's seed, no id.
#[derive(Debug)]
#[must_use = "a builder does nothing unless built"]
pub struct BreakerBuilder {
    accrual: Box<dyn Accrual>,
    backoff: Backoff,
    health: Health,
    counters: BreakerCounters,
    max_probes: NonZeroU32,
    seed: u64,
    id: Option<Arc<str>>,
}

impl BreakerBuilder {
    pub(super) fn new(accrual: Box<dyn Accrual>) -> Self {
        Self {
            accrual,
            backoff: Backoff::default(),
            health: Health::new(),
            counters: BreakerCounters::default(),
            max_probes: NonZeroU32::MIN,
            seed: rng::thread(),
            id: None,
        }
    }

    /// How long the endpoint is left alone.
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Where it says whether the endpoint is to be used. It is the only one to write there.
    pub fn health(self, health: Health) -> Self {
        Self { health, ..self }
    }

    /// Where it counts.
    pub fn counters(self, counters: BreakerCounters) -> Self {
        Self { counters, ..self }
    }

    /// How many calls may be out at the same time to see whether the endpoint is well again, 65,535 at most. The first
    /// that has something to say decides.
    pub fn max_probes(self, calls: NonZeroU32) -> Self {
        Self { max_probes: calls, ..self }
    }

    /// Decides what its jitter leaves to chance.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Which one it is, for whoever reads a [`Rejection`](super::Rejection): an address for example.
    pub fn id(self, id: impl Into<Arc<str>>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// A breaker of an endpoint that is alive, from now on.
    #[must_use]
    pub fn build(self) -> Breaker {
        let Self { mut accrual, backoff, health, counters, max_probes, seed, id } = self;
        let now = tokio::time::Instant::now().into_std();
        accrual.revived(now);
        let state = State {
            accrual,
            backoffs: backoff.start(),
            rng: SplitMix::new(seed),
            stage: Stage::Alive,
            until: Stamp::of(now),
            epoch: 0,
            max_probes: u16::try_from(max_probes.get()).unwrap_or(u16::MAX),
            out: 0,
            round: 0,
            overdue: Stamp::of(now),
            failed_probes: 0,
            opened: None,
            forced: None,
            probers: None,
        };
        Breaker(Arc::new(Inner { id, health, counters, state: Mutex::new(state) }))
    }
}
