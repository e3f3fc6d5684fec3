//! **Zones are as configured**, for policies with a breaker. Of two zones with addresses all the time:
//!
//! - while the local one is well every request stays in it;
//! - when all of its endpoints fail, 99.9 % of requests are in the other zone from 3 s on, but for the probes;
//! - it is left once and taken back once, within ten minutes of outage: no flapping; and once it is well all requests are
//!   back within the longest backoff, half a second more, and a second to look at it;
//! - when it dies and the other has room for all, less than 0.1 % of the requests of a minute fail; not so for an aperture,
//!   which is narrow where there was nothing to do and widens only with its window;
//! - when it is overloaded and may spill, it is not: of the requests that its slots cannot hold, the other zone serves
//!   as many that less than 0.1 % fail; so it is if a third zone has the room and the one between them is dead.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use linkerd_balance::{
    Event, Tiers,
    accrual::{Backoff, Never},
};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, World},
    policies::{self, Setup},
    rng::Rng,
    tally::Tally,
    watch::{Ended, Picked, Watch},
};

const LONGEST_BACKOFF: Nanos = 4 * SECOND;

type Events = Arc<Mutex<Vec<Event>>>;

/// Prefers zone a; tells of tiers that are left and taken back.
fn zoned(setup: &Setup, tiers: Tiers) -> (Setup, Events) {
    let events = Events::default();
    let told = Arc::clone(&events);
    let backoff = Backoff::equal_jittered(Duration::from_millis(500), Duration::from_nanos(LONGEST_BACKOFF));
    let setup = setup.clone().backoff(backoff.expect("in order")).with(move |policy| {
        let told = Arc::clone(&told);
        policy.tiers(tiers.clone()).on_event(move |event| told.lock().expect("not poisoned").push(*event))
    });
    (setup, events)
}

/// `n` endpoints in each of two zones.
fn two_zones(n: Key, service: Service, rate: u64, length: Nanos) -> World {
    let mut endpoints = vec![Endpoint::new(service); 2 * n as usize];
    endpoints[n as usize..].iter_mut().for_each(|endpoint| endpoint.zone = 1);
    World::new(endpoints, rate, length)
}

/// What is local of one stretch of time: the first so many endpoints.
#[derive(Debug)]
struct Local(Tally, Key);

impl Local {
    fn share(&self) -> f64 {
        self.0.picks[..self.1 as usize].iter().sum::<u64>() as f64 / self.0.total() as f64
    }
}

/// An outage of the local zone.
#[derive(Debug)]
struct LeftOnce {
    before: Local,
    during: Local,
    after: Local,
    events: Events,
}

impl Watch for LeftOnce {
    fn picked(&mut self, picked: Picked) {
        for Local(tally, _) in [&mut self.before, &mut self.during, &mut self.after] {
            tally.picked(picked);
        }
    }
}

impl Invariant for LeftOnce {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let probes = sim.counters(0).probes() as f64 / self.during.0.total() as f64;
        let (was, is, will) = (self.before.share(), self.during.share(), self.after.share());
        let left = |event: &&Event| matches!(event, Event::TierLeft { tier: 0, .. });
        let returned = |event: &&Event| matches!(event, Event::TierBack { tier: 0, .. });
        let events = self.events.lock().expect("not poisoned");
        let turns = (events.iter().filter(left).count(), events.iter().filter(returned).count());
        if was < 1.0 || is > 0.001 + probes || will < 1.0 || turns != (1, 1) {
            return Err(format!("shares {was:.4}, {is:.4}, {will:.4}; left and taken back {turns:?}"));
        }
        Ok(())
    }
}

fn outage(rng: &mut Rng, setup: &Setup, tiers: &Tiers) -> Trial {
    const WELL: Nanos = 5 * SECOND;
    let n = rng.within(2, 12) as Key;
    // Ten minutes at times, with fewer requests: five failures of each endpoint in 3 s still.
    let (lasts, each) = if rng.chance(50) { (600 * SECOND, 10) } else { (rng.within(5, 40) * SECOND, 30) };
    let (setup, events) = zoned(setup, tiers.clone());
    let heals = WELL + lasts;
    let back = heals + LONGEST_BACKOFF + SECOND / 2 + SECOND;
    let length = back + 3 * SECOND;
    let mut world = two_zones(n, Service::Constant(rng.within(1, 10) * MS), each * u64::from(n), length);
    let fault = rng.one_of(&[Fault::Refuses, Fault::Dies, Fault::Fails(MS)]);
    for key in 0..n {
        world = world.fault(WELL, heals, key, fault);
    }
    let stretch = |from, to| Local(Tally::new(2 * n as usize, from, to), n);
    let (before, during) = (stretch(0, WELL), stretch(WELL + 3 * SECOND, heals));
    let after = stretch(back, length);
    Trial::new(world, setup).and(LeftOnce { before, during, after, events })
}

/// Fewer than so many requests fail, and so much of what comes stays local.
#[derive(Debug)]
struct FewFail {
    tally: Local,
    most: u64,
    local: f64,
}

impl Watch for FewFail {
    fn picked(&mut self, picked: Picked) {
        self.tally.0.picked(picked);
    }

    fn ended(&mut self, ended: Ended) {
        self.tally.0.ended(ended);
    }
}

impl Invariant for FewFail {
    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        let (failed, local) = (self.tally.0.failures, self.tally.share());
        if failed >= self.most || local < self.local {
            return Err(format!("{failed} failed, not {}; {local:.3} of requests are local", self.most));
        }
        Ok(())
    }
}

/// The local zone dies, 250 requests a second for each of its endpoints, and the other has twice the slots that it takes.
fn dies(rng: &mut Rng, setup: &Setup, tiers: &Tiers) -> Trial {
    let n = rng.within(2, 6) as Key;
    let (mut setup, _) = zoned(setup, tiers.clone());
    setup.backoff = Backoff::default();
    // The rest of a minute would be like the last seconds.
    let (rate, dies, length) = (250 * u64::from(n), 3 * SECOND, 15 * SECOND);
    let mut world = two_zones(n, Service::Constant(rng.within(2, 6) * MS), rate, length);
    world.endpoints.iter_mut().for_each(|endpoint| (endpoint.slots, endpoint.queue) = (4, 20));
    for key in 0..n {
        world = world.fault(dies, length, key, Fault::Dies);
    }
    let tally = Local(Tally::new(2 * n as usize, 0, length), n);
    Trial::new(world, setup).and(FewFail { tally, most: rate * 60 / 1000, local: 0.0 })
}

/// The local zone has slots for half of what comes.
fn overload(rng: &mut Rng, setup: &Setup, tiers: &Tiers) -> Trial {
    let n = rng.within(2, 6) as Key;
    let (setup, _) = zoned(setup, tiers.clone());
    let (rate, length) = (800 * u64::from(n), 3 * SECOND);
    let mut world = two_zones(n, Service::Constant(10 * MS), rate, length);
    for (endpoint, local) in world.endpoints.iter_mut().zip((0..2 * n).map(|key| key < n)) {
        (endpoint.slots, endpoint.queue) = (if local { 4 } else { 16 }, 20);
    }
    let tally = Local(Tally::new(2 * n as usize, 0, length), n);
    Trial::new(world, setup).and(FewFail { tally, most: rate * 3 / 1000, local: 0.3 })
}

/// The same with a zone between the two that is dead, from when the breakers know it.
fn overload_past_dead(rng: &mut Rng, setup: &Setup, tiers: &Tiers) -> Trial {
    let n = rng.within(2, 6) as Key;
    let (mut setup, _) = zoned(setup, tiers.clone());
    setup.backoff = Backoff::default();
    let (rate, known, length) = (800 * u64::from(n), SECOND, 4 * SECOND);
    let mut endpoint = Endpoint::new(Service::Constant(10 * MS));
    let zones = (0..3).flat_map(|zone| {
        (endpoint.zone, endpoint.slots, endpoint.queue) = (zone, if zone == 0 { 4 } else { 16 }, 20);
        vec![endpoint; n as usize]
    });
    let mut world = World::new(zones.collect(), rate, length);
    for key in n..2 * n {
        world = world.fault(0, length, key, Fault::Dies);
    }
    let tally = Local(Tally::new(3 * n as usize, known, length), n);
    Trial::new(world, setup).and(FewFail { tally, most: rate * 3 / 1000, local: 0.3 })
}

fn local() -> Tiers {
    Tiers::new().local("a")
}

fn spilling() -> Tiers {
    local().spill_load(6.0).expect("above zero")
}

fn those(which: impl Fn(&Setup) -> bool) -> Vec<Setup> {
    policies::all().into_iter().filter(which).collect()
}

#[test]
fn a_zone_is_left_once_and_taken_back_once() {
    let name = "a_zone_is_left_once_and_taken_back_once";
    holds(name, &those(Setup::has_breaker), |rng, setup| outage(rng, setup, &local()));
}

#[test]
fn without_hysteresis_or_zones_is_caught() {
    let setup = policies::least_loaded();
    assert!(fails(5, &setup, |rng, setup| outage(rng, setup, &Tiers::new())));
    let (eager, blind) = (local().min_open(1.0, 1.0).expect("shares"), setup.accrual(|| Box::new(Never)));
    assert!(fails(20, &blind, |rng, setup| outage(rng, setup, &eager)));
}

#[test]
fn a_dead_zone_costs_next_to_nothing() {
    let policies = those(|setup| setup.has_breaker() && setup.spreads());
    holds("a_dead_zone_costs_next_to_nothing", &policies, |rng, setup| dies(rng, setup, &local()));
    let blind = policies::least_loaded().accrual(|| Box::new(Never));
    assert!(fails(1, &blind, |rng, setup| dies(rng, setup, &local())), "without anybody who looks it costs a lot");
}

#[test]
fn a_full_zone_spills_past_a_dead_one() {
    let policies = those(|setup| setup.has_breaker() && setup.spreads());
    let spilling = spilling().fallback(["b"]);
    holds("a_full_zone_spills_past_a_dead_one", &policies, |rng, setup| overload_past_dead(rng, setup, &spilling));
    let not = local().fallback(["b"]);
    assert!(
        fails(1, &policies::least_loaded(), |rng, setup| overload_past_dead(rng, setup, &not)),
        "unless it may not"
    );
}

#[test]
fn a_full_zone_spills() {
    holds("a_full_zone_spills", &those(Setup::spreads), |rng, setup| overload(rng, setup, &spilling()));
    assert!(fails(1, &policies::least_loaded(), |rng, setup| overload(rng, setup, &local())), "unless it may not");
}
