//! **No more endpoints are left alone than may be**: of n at most the configured share, rounded down, and all but one
//! where the last is kept; at a hundred instants of each world, though all endpoints fail for most of it.

use linkerd_balance::EjectionLimits;

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, Key, MS, SECOND, Service, World},
    policies::{self, Setup},
    rng::Rng,
    topology,
};

const LOOKS: u64 = 100;

/// Plays a set whose limits are `limits`, if they are `kept`.
fn check(mut rng: Rng, setup: &Setup, kept: bool) -> Result<(), String> {
    let n = rng.within(1, 30);
    let limits = EjectionLimits::new(rng.within(1, 100) as f64 / 100.0).expect("a share").keep_last(rng.chance(500));
    let setup = setup.clone().backoff(topology::backoff(&mut rng));
    let setup = if kept { setup.with(move |policy| policy.ejections(limits)) } else { setup };
    let endpoints = vec![Endpoint::new(Service::Constant(rng.within(1, 10) * MS)); n as usize];
    let mut world = World::new(endpoints, 20 * n, 10 * SECOND);
    for key in 0..n as Key {
        let (from, fault) = (rng.below(3 * SECOND), topology::fault(&mut rng));
        world = world.fault(from, from + rng.within(3, 6) * SECOND, key, fault);
    }
    let mut sim = Sim::new(&world, &setup, rng.next());
    for look in 1..=LOOKS {
        sim.run(world.length * look / LOOKS, &mut ());
        let (left_alone, allowed) = (sim.left_alone(0), limits.allowed(n as usize));
        if left_alone > allowed {
            return Err(format!("{}: {left_alone} of {n} are left alone, {allowed} may be", setup.name));
        }
    }
    Ok(())
}

#[test]
fn no_more_are_left_alone_than_may_be() {
    for setup in policies::all().into_iter().filter(Setup::has_breaker) {
        over("no_more_are_left_alone_than_may_be", 20, |rng| check(rng, &setup, true));
    }
}

#[test]
fn limits_that_are_not_kept_are_caught() {
    assert!(caught(5, |rng| check(rng, &policies::least_loaded(), false)));
}
