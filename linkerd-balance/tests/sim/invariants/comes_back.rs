//! **An endpoint that is well again comes back**: from its bound on, for 20 s, it has at least a quarter of its share.
//! The bound counts from when it is well:
//!
//! - for its breaker, one backoff as long as they get (after the last request that hung timed out, or after the last probe was
//!   sent where callers wait for ever), and half a second to be asked in;
//! - for peak EWMA, the time in which what it remembers of the bad times, at least the failure penalty, decays to what
//!   the others are like: `decay * ln(1 + remembered / usual)`. With a heavy tail a slow answer of its own may keep
//!   it away once more, for as long as `starvation` says; that is not looked at here.
//!
//! **All come back without a restart**: with every endpoint bad for 20 s, the first success comes within one backoff
//! and a second of the end, and from the bound on every request succeeds.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use linkerd_balance::{Load, P2c, Panic, PeakEwma, Policy, accrual::Backoff};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, US, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    tally::Tally,
    topology,
    watch::{Ended, Outcome, Picked, Watch},
};

const FROM: Nanos = 3 * SECOND;
const FOR: Nanos = 20 * SECOND;
const BAD: Key = 0;
const LONGEST_BACKOFF: Nanos = 4 * SECOND;

/// A backoff as long as they get, which begins when a probe times out that was sent before all was well.
const fn longest_absence(fault: Fault, world: &World) -> Nanos {
    LONGEST_BACKOFF + if matches!(fault, Fault::Hangs) { world.timeout } else { 0 }
}

/// When it is back, counted from when it is well.
fn bound(setup: &Setup, fault: Fault, world: &World) -> Nanos {
    let breaker = longest_absence(fault, world) + SECOND / 2;
    let remembered = match fault {
        _ if !setup.judges_speed() => return breaker,
        Fault::Slow(more) => more,
        Fault::Hangs => world.timeout.max(PeakEwma::DEFAULT_FAILURE_PENALTY.as_nanos() as Nanos),
        _ => PeakEwma::DEFAULT_FAILURE_PENALTY.as_nanos() as Nanos,
    };
    let usual = world.endpoints[0].service.mean();
    let decay = PeakEwma::DEFAULT_DECAY.as_nanos() as f64;
    breaker + (decay * (1.0 + remembered as f64 / usual as f64).ln()) as Nanos
}

fn fault(rng: &mut Rng) -> Fault {
    match rng.below(5) {
        0 => Fault::Slow(rng.within(50, 500) * MS),
        1 => Fault::Hangs,
        2 => Fault::Fails(rng.within(100, 5_000) * US),
        3 => Fault::Dies,
        _ => Fault::Refuses,
    }
}

fn backoff(rng: &mut Rng) -> Backoff {
    let most = Duration::from_nanos(LONGEST_BACKOFF);
    Backoff::equal_jittered(Duration::from_millis(rng.within(200, 4_000)), most).expect("in order")
}

/// Requests a second for each of `n`: 80 or more while its share is looked at.
const fn each(n: usize) -> u64 {
    if n > 12 { 4 } else { 10 }
}

/// The share of the one that was bad, when it should be back.
#[derive(Debug)]
struct Returns(Tally, Fault);

impl Watch for Returns {
    fn picked(&mut self, picked: Picked) {
        self.0.picked(picked);
    }
}

impl Invariant for Returns {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let (share, fair) = (self.0.share(BAD), 1.0 / sim.world().endpoints.len() as f64);
        if share < fair / 4.0 {
            return Err(format!("{share:.4} instead of {fair:.4} after {:?}", self.1));
        }
        Ok(())
    }
}

/// One of 3 to 30 endpoints.
fn one_comes_back(rng: &mut Rng, setup: &Setup) -> Trial {
    let setup = setup.clone().backoff(backoff(rng));
    let n = topology::size(rng).clamp(3, 30);
    let service = match topology::service(rng) {
        Service::Pareto { .. } if setup.judges_speed() => Service::Constant(rng.within(1, 10) * MS),
        service => service,
    };
    let (fault, to) = (fault(rng), FROM + rng.within(2, 12) * SECOND);
    let mut world = World::new(vec![Endpoint::new(service); n], each(n) * n as u64, 0).fault(FROM, to, BAD, fault);
    let from = to + bound(&setup, fault, &world);
    world.length = from + FOR;
    let returns = Returns(Tally::new(n, from, world.length), fault);
    Trial::new(world, setup).and(returns)
}

#[test]
fn an_endpoint_that_is_well_again_comes_back() {
    let policies: Vec<Setup> = policies::all().into_iter().filter(Setup::spreads).collect();
    holds("an_endpoint_that_is_well_again_comes_back", &policies, one_comes_back);
}

/// One that fails until it is left alone and then hangs, with callers who wait for ever: so do its probes.
fn comes_back_from_hanging(rng: &mut Rng, setup: &Setup) -> Trial {
    let setup = setup.clone().backoff(backoff(rng));
    let n = topology::size(rng).clamp(3, 30);
    let (hangs, to) = (FROM + 2 * SECOND, FROM + rng.within(4, 14) * SECOND);
    let (patient, from) = (1_000_000 * SECOND, to + LONGEST_BACKOFF + SECOND / 2);
    let mut world = World::new(vec![Endpoint::new(topology::service(rng)); n], each(n) * n as u64, from + FOR);
    world.timeout = patient;
    let world = world.fault(FROM, hangs, BAD, Fault::Fails(MS)).fault(hangs, to, BAD, Fault::Hangs);
    let returns = Returns(Tally::new(n, from, world.length), Fault::Hangs);
    Trial::new(world, setup).and(returns)
}

#[test]
fn one_whose_probes_hang_comes_back() {
    // Others go by what is in flight, which it is for ever.
    let by_turns = |setup: &Setup| setup.avoids == Avoids::Nothing && setup.has_breaker() && !setup.hashes();
    let policies: Vec<Setup> = policies::all().into_iter().filter(|setup| by_turns(setup) && setup.spreads()).collect();
    holds("one_whose_probes_hang_comes_back", &policies, comes_back_from_hanging);
}

/// When the first success came after the outage of all, and how many failures there were when all should be well.
#[derive(Debug)]
struct Recovers {
    after: Nanos,
    latest: Nanos,
    first: Option<Nanos>,
    tally: Tally,
}

impl Watch for Recovers {
    fn ended(&mut self, ended: Ended) {
        self.tally.ended(ended);
        if ended.begun >= self.after && ended.outcome == Outcome::Success {
            self.first = self.first.or(Some(ended.now));
        }
    }
}

impl Invariant for Recovers {
    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        let Self { latest, first, tally, .. } = self;
        if first.is_some_and(|first| first <= *latest) && tally.failures == 0 {
            return Ok(());
        }
        let (failed, all) = (tally.failures, tally.failures + tally.successes);
        Err(format!("first success {first:?}, at the latest {latest}; then {failed} of {all} failed"))
    }
}

/// From 1 to 30 endpoints that are all bad in the same way for 20 s.
fn all_come_back(rng: &mut Rng, setup: &Setup) -> Trial {
    let panic = rng.one_of(&[Panic::LastPick, Panic::FailFast]);
    let setup = setup.clone().backoff(backoff(rng)).with(move |policy| policy.panic(panic));
    let n = topology::size(rng).min(30);
    let (fault, to) = (fault(rng), FROM + 20 * SECOND);
    let mut world = World::new(vec![Endpoint::new(topology::service(rng)); n], each(n) * n as u64, 0);
    for key in 0..n as Key {
        world = world.fault(FROM, to, key, fault);
    }
    let from = to + bound(&setup, fault, &world);
    world.length = from + 5 * SECOND;
    let (latest, tally) = (to + longest_absence(fault, &world) + SECOND, Tally::new(n, from, world.length));
    Trial::new(world, setup).and(Recovers { after: to, latest, first: None, tally })
}

#[test]
fn all_come_back_without_a_restart() {
    holds("all_come_back_without_a_restart", &policies::all(), all_come_back);
}

/// Never asks an endpoint again that failed, while there is another.
#[derive(Debug, Default)]
struct Unforgiving(AtomicUsize, AtomicBool);

impl Load for Unforgiving {
    fn score(&self, _now: Instant, _weight: f64, more: usize) -> f64 {
        if self.1.load(Ordering::Relaxed) { f64::MAX } else { (self.pending() + more) as f64 }
    }

    fn pending(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self, _now: Instant) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, _begun: Instant, _now: Instant, success: bool) {
        self.cancel();
        if !success {
            self.1.store(true, Ordering::Relaxed);
        }
    }

    fn cancel(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn a_load_that_never_forgives_is_caught() {
    let broken = policies::setup("unforgiving", Avoids::Pending, |_, _| Policy::new(P2c::new(), Unforgiving::default));
    assert!(fails(10, &broken, one_comes_back));
}

#[test]
fn a_backoff_that_is_too_long_is_caught() {
    let long = |rng: &mut Rng, setup: &Setup| {
        let long = Backoff::constant(Duration::from_secs(15)).expect("above zero");
        let setup = setup.clone().with(|policy| policy.panic(Panic::FailFast));
        all_come_back(rng, &setup).by(|setup| setup.backoff(long))
    };
    assert!(fails(10, &policies::all()[0], long));
}
