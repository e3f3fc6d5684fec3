//! Leaves a failing endpoint alone, and finds out when it is well again.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    accrual::{Accrual, Backoff, Tripped},
    health::{Health, Status},
    stamp::{Stamp, nanos_of},
    sync::{Mutex, MutexGuard},
};

mod builder;
mod counters;
mod event;
mod force;
mod permit;
mod probed;
mod rejection;
mod service;
mod state;

pub(crate) use self::probed::Probed;
use self::state::{Opened, State};
pub use self::{
    builder::BreakerBuilder,
    counters::BreakerCounters,
    event::BreakerEvent,
    force::Forced,
    permit::{Outcome, Permit},
    rejection::{NextProbe, Reason, Rejection},
    service::{BreakerFuture, BreakerLayer, BreakerService, Classify},
};

/// One endpoint's circuit breaker. A clone is the same breaker.
///
/// ```text
///            accrual says so                backoff over, admit()
///   Alive ─────────────────────► Dead ─────────────────────────────► Probing
///     ▲   Health: Open            ▲ ▲  Health: Busy, then Open          │ Health: Busy
///     │                           │ └──── the permits were dropped ─────┤
///     │                           └─────── failure: next backoff ───────┤ (without an answer: one more each backoff)
///     └─────────────────────────────────── success ─────────────────────┘
/// ```
///
/// Below a balancer it rejects nothing: it writes [`Health`], pickers avoid what is busy, and a balancer of which every
/// endpoint is busy uses one anyway. Such calls are [admitted](Self::admit) too, but only a probe's result changes the
/// state. Without a balancer, [`try_admit`](Self::try_admit) or a [`BreakerLayer`] reject what it does not let through;
/// below one, a [layer that observes](BreakerLayer::observing) does what a balancer's own stack would.
///
/// A result counts for the life in which its call was admitted: one that comes when the endpoint has been given up and
/// taken back since says nothing any more.
///
/// If the [`Health`] belongs to a set with [`Ejections`](crate::Ejections), the endpoint is only given up if the set
/// allows it; otherwise it stays alive, and the next failure asks again.
#[derive(Clone)]
pub struct Breaker(Arc<Inner>);

struct Inner {
    id: Option<Arc<str>>,
    health: Health,
    counters: BreakerCounters,
    state: Mutex<State>,
}

/// What a [`Breaker`] is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The endpoint is in use.
    Alive,
    /// The endpoint is left alone; the first call from `until` on is the probe.
    Dead {
        /// The end of the backoff.
        until: Instant,
    },
    /// Calls are out to see whether the endpoint is well again.
    Probing {
        /// The end of the backoff that let the probe through, or of the pause after one that was given up.
        since: Instant,
    },
}

impl Breaker {
    /// A breaker of an endpoint that is alive.
    #[must_use]
    pub fn new(accrual: Box<dyn Accrual>, backoff: Backoff, health: Health) -> Self {
        BreakerBuilder::new(accrual).backoff(backoff).health(health).build()
    }

    /// The same, counting in `counters`, its jitter decided by `seed`.
    #[must_use]
    pub fn with_counters(
        accrual: Box<dyn Accrual>,
        backoff: Backoff,
        health: Health,
        counters: BreakerCounters,
        seed: u64,
    ) -> Self {
        BreakerBuilder::new(accrual).backoff(backoff).health(health).counters(counters).seed(seed).build()
    }

    /// One that decides by `accrual`, and more to be said.
    pub fn builder(accrual: Box<dyn Accrual>) -> BreakerBuilder {
        BreakerBuilder::new(accrual)
    }

    /// Lets a call through, as a probe if it is time for one.
    pub fn admit(&self, now: Instant) -> Permit {
        let mut state = self.lock();
        let probe = self.admit_probe(&mut state, now);
        self.permit(&state, probe.then_some(now))
    }

    /// Lets a call through if the endpoint is in use, or as a probe if it is time for one.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn try_admit(&self, now: Instant) -> Result<Permit, Rejection> {
        let mut state = self.lock();
        let probe = self.admit_probe(&mut state, now);
        if !probe && let Some(rejection) = self.rejection(&state, now) {
            return Err(rejection);
        }
        Ok(self.permit(&state, probe.then_some(now)))
    }

    /// Why a call would be rejected at `now`; `None` if [`try_admit`](Self::try_admit) would let it through.
    #[must_use]
    pub fn why(&self, now: Instant) -> Option<Rejection> {
        let state = self.lock();
        if state.may_admit_probe(now) && self.0.health.standing().may_probe() {
            None
        } else {
            self.rejection(&state, now)
        }
    }

    /// What it is doing. That it is forced to do something else lies on top of this.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase()
    }

    /// Which one it is, if it was told.
    #[must_use]
    pub fn id(&self) -> Option<&Arc<str>> {
        self.0.id.as_ref()
    }

    /// What it, and all that share its counters, did so far.
    #[must_use]
    pub fn counters(&self) -> &BreakerCounters {
        &self.0.counters
    }

    fn permit(&self, state: &State, probe: Option<Instant>) -> Permit {
        Permit { breaker: self.clone(), epoch: state.epoch, probe: probe.map(Stamp::of) }
    }

    fn admit_probe(&self, state: &mut State, now: Instant) -> bool {
        state.may_admit_probe(now) && self.take_probe(state, now)
    }

    /// From `Dead`, begins a round of probes if the set has one left.
    fn take_probe(&self, state: &mut State, now: Instant) -> bool {
        let standing = self.0.health.standing();
        if let Phase::Dead { until } = state.phase() {
            if !standing.try_probe() {
                return false;
            }
            state.enter(Phase::Probing { since: until });
            state.epoch = state.epoch.wrapping_add(1);
            state.round = 0;
        } else if !standing.may_probe() {
            return false;
        } else if state.out >= state.max_probes {
            self.give_way(state);
        }
        let patience = state.backoffs.last().max(Permit::PATIENCE);
        state.overdue = Stamp::of(after(now, patience));
        state.out += 1;
        state.round += 1;
        self.0.counters.probed();
        self.publish(state);
        true
    }

    /// None of this round's probes has an answer: as good as a failure, but that there may be one yet. Other endpoints of
    /// the set need not wait for it.
    fn give_way(&self, state: &mut State) {
        state.failed_probes = state.failed_probes.saturating_add(1);
        let random = state.rng.next();
        let wait = state.backoffs.next(random);
        self.0.counters.waits(wait);
        self.0.health.standing().end_probe();
    }

    fn record(&self, epoch: u32, probe: bool, success: bool, now: Instant) {
        let mut state = self.lock();
        if probe {
            state.out -= 1;
        }
        // Otherwise its life, or its round of probes, is over.
        if epoch == state.epoch {
            self.learn(&mut state, probe, success, now);
        }
        if probe {
            // There is room for another one.
            self.publish(&state);
        }
    }

    fn learn(&self, state: &mut State, probe: bool, success: bool, now: Instant) {
        match state.phase() {
            Phase::Alive => {
                if let Some(tripped) = state.accrual.record(success, now) {
                    self.give_up(state, tripped, now);
                }
            }
            Phase::Probing { .. } if probe && success => {
                self.0.counters.revived();
                if let Some(opened) = &state.opened {
                    self.tell(&BreakerEvent::Revived {
                        since: opened.since.instant(),
                        probes: state.failed_probes + 1,
                        at: now,
                    });
                }
                self.back_in_use(state, now);
            }
            Phase::Probing { .. } if probe => {
                state.failed_probes = state.failed_probes.saturating_add(1);
                self.leave_alone(state, now);
            }
            // Sent before it died, or because all others are dead too: only a probe decides, and only the first.
            Phase::Dead { .. } | Phase::Probing { .. } => {}
        }
    }

    /// Ends a probe that says nothing. If it waited for a while the next one has to.
    fn release(&self, epoch: u32, begun: Stamp, now: Instant) {
        let mut state = self.lock();
        state.out -= 1;
        if let Phase::Probing { since } = state.phase()
            && epoch == state.epoch
        {
            let has_waited = Stamp::of(now).since(begun) >= nanos_of(Permit::PATIENCE);
            let next = if has_waited { since.max(after(now, state.backoffs.shortest())) } else { since };
            state.round -= 1;
            if state.round == 0 {
                state.enter(Phase::Dead { until: next });
                self.0.health.standing().end_probe();
            } else {
                state.enter(Phase::Probing { since: next });
            }
        }
        self.publish(&state);
    }

    fn give_up(&self, state: &mut State, tripped: Tripped, now: Instant) {
        if state.is_forced(false, now) || !self.0.health.standing().try_eject() {
            return;
        }
        self.0.counters.removed();
        state.opened = Some(Opened { since: Stamp::of(now), tripped });
        state.failed_probes = 0;
        let until = self.leave_alone(state, now);
        self.tell(&BreakerEvent::Removed { reason: tripped, until, at: now });
        if let Some(probers) = &state.probers {
            probers.died.notify_one();
        }
    }

    fn tell(&self, event: &BreakerEvent) {
        self.0.counters.tell(self.0.id.as_deref(), event);
    }

    /// Until when.
    fn leave_alone(&self, state: &mut State, now: Instant) -> Instant {
        let random = state.rng.next();
        let wait = state.backoffs.next(random);
        let until = after(now, wait);
        state.enter(Phase::Dead { until });
        // Those that are out still hold up nobody: their round is over.
        state.overdue = Stamp::of(now);
        self.0.health.standing().end_probe();
        self.0.counters.waits(wait);
        self.publish(state);
        until
    }

    fn back_in_use(&self, state: &mut State, now: Instant) {
        state.enter(Phase::Alive);
        state.overdue = Stamp::of(now);
        state.epoch = state.epoch.wrapping_add(1);
        state.opened = None;
        state.accrual.revived(now);
        state.backoffs.reset();
        self.0.health.standing().give_back();
        self.publish(state);
    }

    /// Writes what the state means into the health, its changes with time included.
    fn publish(&self, state: &State) {
        let health = &self.0.health;
        let forced = state.forced.as_ref().filter(|force| force.open).map(|force| force.until);
        let not_before = |at: Instant| forced.map_or(at, |until| until.max(at));
        match state.phase() {
            Phase::Alive => match forced {
                None => health.set(Status::Open),
                Some(until) => health.busy_until(until),
            },
            // It is for the prober to say when this ends, or for more probes than can be counted.
            _ if state.probers.is_some() || state.out == u16::MAX => health.set(Status::Busy),
            // Of a round of probes there may be more to send.
            Phase::Dead { until: from } | Phase::Probing { since: from } if state.out < state.max_probes => {
                health.probe_from(not_before(from));
            }
            // It is for those that are out to say, but not for ever.
            Phase::Dead { until: from } | Phase::Probing { since: from } => {
                health.probe_from(not_before(from.max(state.overdue.instant())));
            }
        }
    }

    /// Why a call that is no probe is rejected.
    fn rejection(&self, state: &State, now: Instant) -> Option<Rejection> {
        let breaker = self.0.id.clone();
        if let Some(&force::Force { open: true, since, until }) = state.forced.as_deref()
            && now < until
        {
            let reason = Reason::ForcedOpen { until };
            return Some(Rejection { breaker, at: now, since, reason, next_probe: None });
        }
        let Opened { since, tripped } = state.opened?;
        let since = since.instant();
        let reason = match state.failed_probes {
            0 => Reason::Tripped(tripped),
            probes => Reason::ProbeFailed { tripped, probes },
        };
        let next_probe = match (state.phase(), &state.probers) {
            (Phase::Alive, _) => return None,
            (Phase::Dead { until }, Some(probers)) => NextProbe::At(probers.next.map_or(until, |at| at.max(until))),
            (Phase::Dead { until }, None) if now < until => NextProbe::At(until),
            (Phase::Dead { .. }, None) if state.has_room(now) => NextProbe::AfterOthers,
            (Phase::Dead { .. } | Phase::Probing { .. }, _) => NextProbe::UnderWay,
        };
        Some(Rejection { breaker, at: now, since, reason, next_probe: Some(next_probe) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beyond what the clock can express, a year is as good as never.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now + Duration::from_hours(365 * 24))
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Breaker")
            .field("id", &self.0.id)
            .field("phase", &state.phase())
            .field("accrual", &state.accrual)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
