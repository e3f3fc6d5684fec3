//! **Zones are as configured**, for policies with a breaker. Of two zones with addresses all the time:
//!
//! - while the local one is well every request stays in it;
//! - when all of its endpoints fail, 99.9 % of requests are in the other zone from 3 s on, but for the probes;
//! - it is left once and taken back once, within ten minutes of outage: no flapping; and once it is well all requests are
//!   back within the longest backoff, half a second more, and a second to look at it;
//! - when it dies and the other has room for all, less than 0.1 % of the requests of a minute fail; not so for an aperture,
//!   which is narrow where there was nothing to do and widens only with its window;
//! - when it is overloaded and may spill, it is not: of the requests that its slots cannot hold, the other zone serves
//!   as many that less than 0.1 % fail.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use linkerd_balance::{
    Event, Tiers,
    accrual::{Backoff, Never},
};

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, World},
    policies::{self, Setup},
    rng::Rng,
    tally::Tally,
};

const LONGEST_BACKOFF: Nanos = 4 * SECOND;

/// Prefers zone a; tells of tiers that are left and taken back.
fn zoned(setup: &Setup, tiers: Tiers) -> (Setup, Arc<Mutex<Vec<Event>>>) {
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
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

/// The share of picks that met the first `n`.
fn local_share(tally: &Tally, n: Key) -> f64 {
    tally.picks[..n as usize].iter().sum::<u64>() as f64 / tally.total() as f64
}

fn outage(mut rng: Rng, setup: &Setup, tiers: Tiers) -> Result<(), String> {
    const WELL: Nanos = 10 * SECOND;
    let (n, lasts) = (rng.within(2, 6) as Key, rng.one_of(&[20, 60, 600]) * SECOND);
    let (setup, events) = zoned(setup, tiers);
    let heals = WELL + lasts;
    let back = heals + LONGEST_BACKOFF + SECOND / 2 + SECOND;
    let rate = 40 * u64::from(n);
    let mut world = two_zones(n, Service::Constant(rng.within(1, 10) * MS), rate, back + 5 * SECOND);
    let fault = rng.one_of(&[Fault::Refuses, Fault::Dies, Fault::Fails(MS)]);
    for key in 0..n {
        world = world.fault(WELL, heals, key, fault);
    }
    let all = world.endpoints.len();
    let (mut before, mut during) = (Tally::new(all, 0, WELL), Tally::new(all, WELL + 3 * SECOND, heals));
    let mut after = Tally::new(all, back, world.length);
    let mut sim = Sim::new(&world, &setup, rng.next());
    sim.finish(&mut (&mut before, (&mut during, &mut after)));
    let probes = sim.counters(0).probes() as f64 / during.total() as f64;
    let (was, is, will) = (local_share(&before, n), local_share(&during, n), local_share(&after, n));
    let left = |event: &&Event| matches!(event, Event::TierLeft { tier: 0, .. });
    let returned = |event: &&Event| matches!(event, Event::TierBack { tier: 0, .. });
    let events = events.lock().expect("not poisoned");
    let turns = (events.iter().filter(left).count(), events.iter().filter(returned).count());
    if was < 1.0 || is > 0.001 + probes || will < 1.0 || turns != (1, 1) {
        let shares = format_args!("shares {was:.4}, {is:.4}, {will:.4}; left and taken back {turns:?}");
        return Err(format!("{}: {fault:?} for {} s of {n}: {shares}", setup.name, lasts / SECOND));
    }
    Ok(())
}

fn dies(mut rng: Rng, setup: &Setup, tiers: Tiers) -> Result<(), String> {
    let n = rng.within(2, 6) as Key;
    let (mut setup, _) = zoned(setup, tiers);
    setup.backoff = Backoff::default();
    let mut world = two_zones(n, Service::Constant(5 * MS), 250 * u64::from(n), 60 * SECOND);
    // Twice the slots that it takes.
    world.endpoints.iter_mut().for_each(|endpoint| (endpoint.slots, endpoint.queue) = (4, 20));
    for key in 0..n {
        world = world.fault(20 * SECOND, 60 * SECOND, key, Fault::Dies);
    }
    let mut tally = Tally::new(world.endpoints.len(), 0, world.length);
    Sim::new(&world, &setup, rng.next()).finish(&mut tally);
    failures(&setup, &tally)
}

/// The local zone has slots for half of what comes.
fn overload(mut rng: Rng, setup: &Setup, tiers: Tiers) -> Result<(), String> {
    let n = rng.within(2, 6) as Key;
    let (setup, _) = zoned(setup, tiers);
    let mut world = two_zones(n, Service::Constant(10 * MS), 800 * u64::from(n), 10 * SECOND);
    for (endpoint, local) in world.endpoints.iter_mut().zip((0..2 * n).map(|key| key < n)) {
        (endpoint.slots, endpoint.queue) = (if local { 4 } else { 16 }, 20);
    }
    let mut tally = Tally::new(world.endpoints.len(), 0, world.length);
    Sim::new(&world, &setup, rng.next()).finish(&mut tally);
    let local = local_share(&tally, n);
    if local < 0.3 {
        return Err(format!("{}: only {local:.3} of requests are local", setup.name));
    }
    failures(&setup, &tally)
}

fn failures(setup: &Setup, tally: &Tally) -> Result<(), String> {
    let (failed, all) = (tally.failures, tally.failures + tally.successes);
    if failed * 1000 >= all { Err(format!("{}: {failed} of {all} failed", setup.name)) } else { Ok(()) }
}

fn local() -> Tiers {
    Tiers::new().local("a")
}

fn spilling() -> Tiers {
    local().spill_load(6.0).expect("above zero")
}

fn with_breakers() -> impl Iterator<Item = Setup> {
    policies::all().into_iter().filter(Setup::has_breaker)
}

#[test]
fn a_zone_is_left_once_and_taken_back_once() {
    for setup in with_breakers() {
        over("a_zone_is_left_once_and_taken_back_once", 10, |rng| outage(rng, &setup, local()));
    }
}

#[test]
fn without_hysteresis_or_zones_is_caught() {
    let setup = policies::least_loaded();
    assert!(caught(5, |rng| outage(rng, &setup, Tiers::new())));
    let eager = Tiers::new().local("a").min_open(1.0, 1.0).expect("shares");
    assert!(caught(20, |rng| outage(rng, &setup.clone().accrual(|| Box::new(Never)), eager.clone())));
}

#[test]
fn a_dead_zone_costs_next_to_nothing() {
    for setup in with_breakers().filter(Setup::spreads) {
        over("a_dead_zone_costs_next_to_nothing", 4, |rng| dies(rng, &setup, local()));
    }
    let setup = policies::least_loaded().accrual(|| Box::new(Never));
    assert!(caught(1, |rng| dies(rng, &setup, local())), "without anybody who looks it costs a lot");
}

#[test]
fn a_full_zone_spills() {
    for setup in policies::all().into_iter().filter(Setup::spreads) {
        over("a_full_zone_spills", 6, |rng| overload(rng, &setup, spilling()));
    }
    assert!(caught(1, |rng| overload(rng, &policies::least_loaded(), local())), "unless it may not");
}
