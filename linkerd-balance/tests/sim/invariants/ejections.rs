//! **No more endpoints are left alone than may be**: of n at most the configured share, rounded down, and all but one
//! where the last is kept; by each client, at a hundred instants of each world, though all endpoints fail for most of it.

use linkerd_balance::EjectionLimits;

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Key, SECOND, World},
    policies::{self, Setup},
    rng::Rng,
    topology,
    watch::Watch,
};

/// What sets that do not change hold to.
#[derive(Debug)]
struct Limited(EjectionLimits);

impl Watch for Limited {}

impl Invariant for Limited {
    fn look(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let n = sim.world().endpoints.len();
        let allowed = self.0.allowed(n);
        match (0..sim.world().clients).map(|client| sim.left_alone(client)).find(|left_alone| *left_alone > allowed) {
            Some(left_alone) => Err(format!("{left_alone} of {n} are left alone, {allowed} may be")),
            None => Ok(()),
        }
    }

    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// A set whose limits are kept only if they are `told`.
fn trial(rng: &mut Rng, setup: &Setup, told: bool) -> Trial {
    let n = topology::size(rng);
    let limits = EjectionLimits::new(rng.within(1, 100) as f64 / 100.0).expect("a share").keep_last(rng.chance(500));
    let setup = setup.clone().backoff(topology::backoff(rng));
    let setup = if told { setup.with(move |policy| policy.ejections(limits)) } else { setup };
    // Enough that each fails five times, but for the largest sets.
    let mut world = World::new(vec![Endpoint::new(topology::service(rng)); n], (20 * n as u64).min(600), 8 * SECOND);
    world.clients = rng.within(1, 2) as usize;
    for key in 0..n as Key {
        let (from, fault) = (rng.below(2 * SECOND), topology::fault(rng));
        world = world.fault(from, from + rng.within(3, 6) * SECOND, key, fault);
    }
    Trial::new(world, setup).and(Limited(limits)).looks(100)
}

#[test]
fn no_more_are_left_alone_than_may_be() {
    let policies: Vec<Setup> = policies::all().into_iter().filter(Setup::has_breaker).collect();
    holds("no_more_are_left_alone_than_may_be", &policies, |rng, setup| trial(rng, setup, true));
}

#[test]
fn limits_that_are_not_kept_are_caught() {
    assert!(fails(20, &policies::least_loaded(), |rng, setup| trial(rng, setup, false)));
}
