//! **An endpoint that is well again comes back**: from its bound on, for 20 s, it has at least a quarter of its share.
//! The bound counts from when it is well:
//!
//! - for its breaker, one backoff as long as they get, and half a second to be asked in;
//! - for peak EWMA, the time in which what it remembers of the bad times, at least the failure penalty, decays to what
//!   the others are like: `decay * ln(1 + remembered / usual)`.
//!
//! **All come back without a restart**: with every endpoint bad for 30 s, the first success comes within one backoff of
//! the end, and from the bound on every request succeeds.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use linkerd_balance::{Load, P2c, PeakEwma, Policy, accrual::Backoff};

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, US, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    tally::Tally,
    watch::{Ended, Outcome, Watch},
};

const FROM: Nanos = 5 * SECOND;
const FOR: Nanos = 20 * SECOND;
const BAD: Key = 0;
const LONGEST_BACKOFF: Nanos = 4 * SECOND;

fn bound(setup: &Setup, fault: Fault, world: &World) -> Nanos {
    let breaker = LONGEST_BACKOFF + SECOND / 2;
    let remembered = match fault {
        _ if matches!(setup.avoids, Avoids::Nothing | Avoids::Pending) => return breaker,
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

fn one_comes_back(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let setup = setup.clone().backoff(backoff(&mut rng));
    let n = rng.within(3, 8);
    let service = Service::Constant(rng.within(1, 10) * MS);
    let (fault, to) = (fault(&mut rng), FROM + rng.within(2, 12) * SECOND);
    let mut world = World::new(vec![Endpoint::new(service); n as usize], 20 * n, 0).fault(FROM, to, BAD, fault);
    let from = to + bound(&setup, fault, &world);
    world.length = from + FOR;
    let mut tally = Tally::new(n as usize, from, world.length);
    Sim::new(&world, &setup, rng.next()).finish(&mut tally);
    let (share, fair) = (tally.share(BAD), 1.0 / n as f64);
    if share < fair / 4.0 {
        return Err(format!("{}: {share:.4} instead of {fair:.4} after {fault:?}", setup.name));
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_well_again_comes_back() {
    for setup in policies::all().into_iter().filter(Setup::spreads) {
        over("an_endpoint_that_is_well_again_comes_back", 20, |rng| one_comes_back(rng, &setup));
    }
}

#[derive(Debug, Default)]
struct Successes {
    after: Nanos,
    first: Option<Nanos>,
}

impl Watch for Successes {
    fn ended(&mut self, ended: Ended) {
        if ended.begun >= self.after && ended.outcome == Outcome::Success {
            self.first = self.first.or(Some(ended.now));
        }
    }
}

fn all_come_back(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let setup = setup.clone().backoff(backoff(&mut rng));
    let n = rng.within(1, 8);
    let service = Service::Constant(rng.within(1, 10) * MS);
    let (fault, to) = (fault(&mut rng), FROM + 30 * SECOND);
    let mut world = World::new(vec![Endpoint::new(service); n as usize], 20 * n, 0);
    for key in 0..n as Key {
        world = world.fault(FROM, to, key, fault);
    }
    let from = to + bound(&setup, fault, &world);
    world.length = from + FOR;
    let (mut first, mut tally) = (Successes { after: to, first: None }, Tally::new(n as usize, from, world.length));
    Sim::new(&world, &setup, rng.next()).finish(&mut (&mut first, &mut tally));
    let latest = to + LONGEST_BACKOFF;
    match first.first {
        Some(first) if first <= latest && tally.failures == 0 => Ok(()),
        first => Err(format!(
            "{}: first success {first:?}, at the latest {latest}; {} of {} failures after {fault:?} of {n}",
            setup.name,
            tally.failures,
            tally.total()
        )),
    }
}

#[test]
fn all_come_back_without_a_restart() {
    for setup in policies::all() {
        over("all_come_back_without_a_restart", 20, |rng| all_come_back(rng, &setup));
    }
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
    assert!(caught(10, |rng| one_comes_back(rng, &broken)));
}
