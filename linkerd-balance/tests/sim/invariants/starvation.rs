//! **No endpoint starves**: in any stretch of 45 s, each endpoint that is well is picked at least once, though others may
//! be four times as fast, wherever its fair share would be five requests a second or more. But for an aperture: to use few
//! is what it is for.
//!
//! 45 s: peak EWMA takes a slow answer for the rule until that has decayed, by a factor of e every 10 s; this is the time
//! for an answer 90 times slower than usual.

use linkerd_balance::{Candidates, Draw, LeastLoaded, Policy, Strategy};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Nanos, SECOND, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    topology,
    watch::{Picked, Watch},
};

const STRETCH: Nanos = 45 * SECOND;

/// The longest time that each endpoint was not picked.
#[derive(Debug)]
struct Hunger {
    last: Vec<Nanos>,
    longest: Vec<Nanos>,
}

impl Hunger {
    fn feed(&mut self, key: usize, now: Nanos) {
        self.longest[key] = self.longest[key].max(now - self.last[key]);
        self.last[key] = now;
    }
}

impl Watch for Hunger {
    fn picked(&mut self, picked: Picked) {
        self.feed(picked.key as usize, picked.now);
    }
}

impl Invariant for Hunger {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let n = sim.world().endpoints.len();
        for key in 0..n {
            self.feed(key, sim.world().length);
        }
        match (0..n).find(|key| self.longest[*key] > STRETCH) {
            Some(key) => Err(format!("{key} of {n} was not picked for {} s", self.longest[key] / SECOND)),
            None => Ok(()),
        }
    }
}

fn trial(rng: &mut Rng, setup: &Setup) -> Trial {
    let n = topology::size(rng).clamp(2, 50);
    let service = topology::service(rng);
    let endpoints = (0..n).map(|_| Endpoint::new(service.faster(rng.within(1, 4)))).collect();
    let each = if n > 12 { 5 } else { rng.within(5, 15) };
    let world = World::new(endpoints, each * n as u64, 100 * SECOND);
    Trial::new(world, setup.clone()).and(Hunger { last: vec![0; n], longest: vec![0; n] })
}

#[test]
fn no_endpoint_starves() {
    let policies: Vec<Setup> = policies::all().into_iter().filter(Setup::spreads).collect();
    holds("no_endpoint_starves", &policies, trial);
}

/// The first of those with the lowest load, which an idle pool always has at its head.
#[derive(Debug)]
struct First;

impl Strategy for First {
    fn pick(&self, nodes: &dyn Candidates, _draw: Draw) -> usize {
        (0..nodes.len()).min_by(|a, b| nodes.load(*a, 0).total_cmp(&nodes.load(*b, 0))).unwrap_or(0)
    }
}

#[test]
fn a_tie_that_always_goes_to_the_first_is_caught() {
    let broken = policies::setup("first", Avoids::Pending, |_, _| Policy::new(First, LeastLoaded::new));
    assert!(fails(10, &broken, trial));
}
