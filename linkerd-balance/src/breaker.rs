//! Leaves a failing endpoint alone, and finds out when it is well again.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    accrual::{Accrual, Backoff, Backoffs},
    health::{Health, Status},
    rng::{self, SplitMix},
};

/// One endpoint's circuit breaker. A clone is the same breaker.
///
/// ```text
///            accrual says so                backoff over, admit()
///   Alive ─────────────────────► Dead ─────────────────────────────► Probing
///     ▲   Health: Open            ▲ ▲  Health: Busy, then Open          │ Health: Busy
///     │                           │ └───── the permit was dropped ──────┤
///     │                           └─────── failure: next backoff ───────┤
///     └─────────────────────────────────── success ─────────────────────┘
/// ```
///
/// It rejects nothing: it writes [`Health`], pickers avoid what is busy, and a balancer of which every endpoint is
/// busy uses one anyway. Such calls are admitted too, but only the probe's result changes the state.
#[derive(Clone)]
pub struct Breaker(Arc<Inner>);

struct Inner {
    health: Health,
    counters: BreakerCounters,
    state: Mutex<State>,
}

struct State {
    accrual: Box<dyn Accrual>,
    backoffs: Backoffs,
    rng: SplitMix,
    phase: Phase,
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
    /// One call is out to see whether the endpoint is well again.
    Probing {
        /// The end of the backoff that let the probe through.
        since: Instant,
    },
}

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

/// Leave for one call, from [`Breaker::admit`].
///
/// Dropped without [`record`](Self::record) it counts for nothing; if it was the probe, the next call is.
#[derive(Debug)]
#[must_use = "dropping a permit gives up the probe"]
pub struct Permit {
    breaker: Breaker,
    probe: bool,
}

impl Breaker {
    /// A breaker of an endpoint that is alive.
    #[must_use]
    pub fn new(accrual: Box<dyn Accrual>, backoff: Backoff, health: Health) -> Self {
        Self::with_counters(accrual, backoff, health, BreakerCounters::default(), rng::thread())
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
        let (backoffs, rng) = (backoff.start(), SplitMix::new(seed));
        let state = Mutex::new(State { accrual, backoffs, rng, phase: Phase::Alive });
        Self(Arc::new(Inner { health, counters, state }))
    }

    /// Lets a call through, as the probe if it is time for one.
    pub fn admit(&self, now: Instant) -> Permit {
        let mut state = self.lock();
        let probe = match state.phase {
            Phase::Dead { until } if now >= until => {
                state.phase = Phase::Probing { since: until };
                self.0.health.set(Status::Busy);
                self.0.counters.0.probes.fetch_add(1, Ordering::Relaxed);
                true
            }
            _ => false,
        };
        drop(state);
        Permit { breaker: self.clone(), probe }
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// What it, and all that share its counters, did so far.
    #[must_use]
    pub fn counters(&self) -> &BreakerCounters {
        &self.0.counters
    }

    fn record(&self, probe: bool, success: bool, now: Instant) {
        let mut state = self.lock();
        match state.phase {
            Phase::Alive => {
                if state.accrual.record(success, now).is_some() {
                    self.0.counters.0.removals.fetch_add(1, Ordering::Relaxed);
                    self.leave_alone(&mut state, now);
                }
            }
            Phase::Probing { .. } if probe && success => {
                self.0.counters.0.revivals.fetch_add(1, Ordering::Relaxed);
                state.phase = Phase::Alive;
                state.accrual.revived(now);
                state.backoffs.reset();
                self.0.health.set(Status::Open);
            }
            Phase::Probing { .. } if probe => self.leave_alone(&mut state, now),
            // Sent before it died, or because all others are dead too: only the probe decides.
            Phase::Dead { .. } | Phase::Probing { .. } => {}
        }
    }

    fn leave_alone(&self, state: &mut State, now: Instant) {
        let random = state.rng.next();
        let wait = state.backoffs.next(random);
        // A backoff beyond what the clock can express: a year is as good as never.
        let until = now.checked_add(wait).unwrap_or(now + Duration::from_hours(365 * 24));
        state.phase = Phase::Dead { until };
        self.0.health.busy_until(until);
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.0.counters.0.removed_for_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn release(&self) {
        let mut state = self.lock();
        if let Phase::Probing { since } = state.phase {
            state.phase = Phase::Dead { until: since };
            self.0.health.busy_until(since);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Breaker").field("phase", &state.phase).field("accrual", &state.accrual).finish_non_exhaustive()
    }
}

impl Permit {
    /// Whether this call decides over the endpoint's return.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe
    }

    /// Tells the breaker how the call went.
    pub fn record(mut self, success: bool, now: Instant) {
        let probe = std::mem::take(&mut self.probe);
        self.breaker.record(probe, success, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.release();
        }
    }
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
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::accrual::{ConsecutiveFailures, Never};

    const MS: Duration = Duration::from_millis(1);

    /// Dies of the second failure in a row; left alone for 10 ms, then 20, then 20.
    fn breaker() -> (Breaker, Health, Instant) {
        let health = Health::new();
        let accrual = ConsecutiveFailures::new(NonZeroU32::new(2).unwrap());
        let backoff = Backoff::equal_jittered(10 * MS, 20 * MS).unwrap();
        let breaker = Breaker::new(Box::new(accrual), backoff, health.clone());
        (breaker, health, tokio::time::Instant::now().into_std())
    }

    fn dead() -> (Breaker, Health, Instant) {
        let (breaker, health, now) = breaker();
        breaker.admit(now).record(false, now);
        breaker.admit(now).record(false, now);
        (breaker, health, now)
    }

    #[test]
    fn an_endpoint_that_fails_enough_is_busy_for_its_backoff() {
        let (breaker, health, now) = breaker();
        breaker.admit(now).record(false, now);
        assert_eq!((health.status(now), breaker.phase()), (Status::Open, Phase::Alive));
        breaker.admit(now).record(false, now);
        assert_eq!(breaker.phase(), Phase::Dead { until: now + 10 * MS });
        assert_eq!(health.status(now + 9 * MS), Status::Busy);
        assert_eq!(health.status(now + 10 * MS), Status::Open);
        assert_eq!((breaker.counters().removals(), breaker.counters().removed_for()), (1, 10 * MS));
    }

    #[test]
    fn the_first_call_after_the_backoff_is_the_only_probe() {
        let (breaker, health, now) = dead();
        assert!(!breaker.admit(now + 9 * MS).is_probe());
        let now = now + 10 * MS;
        let probe = breaker.clone().admit(now);
        assert!(probe.is_probe());
        assert_eq!(health.status(now), Status::Busy);
        assert!(!breaker.admit(now).is_probe());
        assert_eq!(breaker.counters().probes(), 1);
        probe.record(true, now);
    }

    #[test]
    fn a_probe_that_succeeds_revives_and_forgets() {
        let (breaker, health, now) = dead();
        let now = now + 10 * MS;
        breaker.admit(now).record(true, now);
        assert_eq!((health.status(now), breaker.phase()), (Status::Open, Phase::Alive));
        assert_eq!(breaker.counters().revivals(), 1);
        // Two failures again, and the first backoff again.
        breaker.admit(now).record(false, now);
        assert_eq!(breaker.phase(), Phase::Alive);
        breaker.admit(now).record(false, now);
        assert_eq!(breaker.phase(), Phase::Dead { until: now + 10 * MS });
    }

    #[test]
    fn a_probe_that_fails_waits_for_the_next_backoff() {
        let (breaker, health, now) = dead();
        let now = now + 10 * MS;
        breaker.admit(now).record(false, now);
        let Phase::Dead { until } = breaker.phase() else { panic!("not dead") };
        assert!(until >= now + 10 * MS && until <= now + 20 * MS);
        assert_eq!(health.status(until.checked_sub(MS).unwrap()), Status::Busy);
        let counters = breaker.counters();
        assert_eq!((counters.removals(), counters.revivals(), counters.probes()), (1, 0, 1));
        assert_eq!(counters.removed_for(), 10 * MS + (until - now));
    }

    #[test]
    fn a_dropped_probe_lets_the_next_call_probe() {
        let (breaker, health, now) = dead();
        let now = now + 10 * MS;
        drop(breaker.admit(now));
        assert_eq!(health.status(now), Status::Open);
        let probe = breaker.admit(now);
        assert!(probe.is_probe());
        probe.record(true, now);
        assert_eq!(breaker.phase(), Phase::Alive);
    }

    #[test]
    fn calls_that_are_not_the_probe_decide_nothing_while_it_is_dead() {
        let (breaker, health, now) = dead();
        // It failed open, and that went well.
        breaker.admit(now).record(true, now);
        assert_eq!(health.status(now), Status::Busy);
        let late = breaker.admit(now);
        let now = now + 10 * MS;
        let probe = breaker.admit(now);
        late.record(true, now);
        assert_eq!(health.status(now), Status::Busy);
        breaker.admit(now).record(false, now);
        assert_eq!(breaker.phase(), Phase::Probing { since: now });
        probe.record(true, now);
        assert_eq!(breaker.phase(), Phase::Alive);
    }

    #[test]
    fn a_dropped_permit_that_is_no_probe_changes_nothing() {
        let (breaker, health, now) = dead();
        let other = breaker.admit(now);
        let now = now + 10 * MS;
        let probe = breaker.admit(now);
        drop(other);
        assert_eq!((health.status(now), breaker.phase()), (Status::Busy, Phase::Probing { since: now }));
        drop(probe);
    }

    #[test]
    fn never_never_gives_up() {
        let (health, now) = (Health::new(), tokio::time::Instant::now().into_std());
        let breaker = Breaker::new(Box::new(Never), Backoff::default(), health.clone());
        for _ in 0..1000 {
            breaker.admit(now).record(false, now);
        }
        assert_eq!(health.status(now), Status::Open);
    }

    #[test]
    fn a_backoff_beyond_the_clock_does_not_panic() {
        let (health, now) = (Health::new(), tokio::time::Instant::now().into_std());
        let accrual = ConsecutiveFailures::new(NonZeroU32::MIN);
        let backoff = Backoff::constant(Duration::MAX).unwrap();
        let breaker = Breaker::new(Box::new(accrual), backoff, health.clone());
        breaker.admit(now).record(false, now);
        assert_eq!(health.status(now + Duration::from_hours(24)), Status::Busy);
    }

    #[test]
    fn one_of_many_threads_gets_the_probe() {
        let (breaker, _health, now) = dead();
        let now = now + 10 * MS;
        let permits: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| breaker.admit(now))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.iter().filter(|permit| permit.is_probe()).count(), 1);
    }
}
