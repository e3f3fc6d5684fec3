//! What a breaker remembers.

use std::time::Instant;

use super::{Phase, force, probed};
use crate::{
    accrual::{Accrual, Backoffs, Tripped},
    rng::SplitMix,
    stamp::Stamp,
};

// There is one for each endpoint: what can be told in few bytes is.
pub(super) struct State {
    pub(super) accrual: Box<dyn Accrual>,
    pub(super) backoffs: Backoffs,
    pub(super) rng: SplitMix,
    pub(super) stage: Stage,
    // The end of its backoff, unless it is alive.
    pub(super) until: Stamp,
    // Counts lives and rounds of probes, round and round.
    pub(super) epoch: u32,
    pub(super) max_probes: u16,
    // How many probes are out, those of earlier rounds included: a round may end before all its probes do.
    pub(super) out: u16,
    // How many of this round.
    pub(super) round: u16,
    // From then on those that are out hold nobody up: who has no answer by then may never have one.
    pub(super) overdue: Stamp,
    // How many failed since it was opened.
    pub(super) failed_probes: u32,
    // None while alive.
    pub(super) opened: Option<Opened>,
    // Seldom there, so they take no room in the meantime.
    pub(super) forced: Option<Box<force::Force>>,
    // While there are active probers, no call is a probe.
    pub(super) probers: Option<Box<probed::Probers>>,
}

#[derive(Clone, Copy)]
pub(super) enum Stage {
    Alive,
    Dead,
    Probing,
}

#[derive(Clone, Copy)]
pub(super) struct Opened {
    pub(super) since: Stamp,
    pub(super) tripped: Tripped,
}

impl State {
    pub(super) fn may_admit_probe(&self, now: Instant) -> bool {
        let may = match self.phase() {
            Phase::Alive => false,
            Phase::Dead { until: from } | Phase::Probing { since: from } => now >= from,
        };
        may && self.has_room(now) && self.probers.is_none() && !self.is_forced(true, now)
    }

    /// Whether another probe may be out.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.out < self.max_probes || (self.out < u16::MAX && Stamp::of(now) >= self.overdue)
    }

    pub(super) fn phase(&self) -> Phase {
        match self.stage {
            Stage::Alive => Phase::Alive,
            Stage::Dead => Phase::Dead { until: self.until.instant() },
            Stage::Probing => Phase::Probing { since: self.until.instant() },
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        (self.stage, self.until) = match phase {
            Phase::Alive => (Stage::Alive, self.until),
            Phase::Dead { until } => (Stage::Dead, Stamp::of(until)),
            Phase::Probing { since } => (Stage::Probing, Stamp::of(since)),
        };
    }
}
