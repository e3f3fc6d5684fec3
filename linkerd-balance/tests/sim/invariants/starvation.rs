//! **No endpoint starves**: in any stretch of 45 s, each endpoint that is well is picked at least once, though others may
//! be four times as fast, wherever its fair share would be five requests a second or more. But for an aperture: to use few
//! is what it is for.
//!
//! 45 s: peak EWMA takes a slow answer for the rule until that has decayed, by a factor of e every 10 s; this is the time
//! for an answer 90 times slower than usual.

use linkerd_balance::{Candidates, Draw, LeastLoaded, Policy, Strategy};

use super::{caught, over};
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

fn check(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let n = rng.within(2, 12) as usize;
    let service = topology::service(&mut rng);
    let faster = |service, by| match service {
        crate::model::Service::Constant(nanos) => crate::model::Service::Constant(nanos / by),
        crate::model::Service::Pareto { least, most } => {
            crate::model::Service::Pareto { least: least / by, most: most / by }
        }
        other @ crate::model::Service::Bimodal { .. } => other,
    };
    let endpoints = (0..n).map(|_| Endpoint::new(faster(service, rng.within(1, 4)))).collect();
    let world = World::new(endpoints, rng.within(5, 15) * n as u64, 100 * SECOND);
    let mut hunger = Hunger { last: vec![0; n], longest: vec![0; n] };
    Sim::new(&world, setup, rng.next()).finish(&mut hunger);
    for key in 0..n {
        hunger.feed(key, world.length);
    }
    let (key, longest) = (0..).zip(hunger.longest).max_by_key(|(_, longest)| *longest).unwrap_or_default();
    if longest > STRETCH {
        let seconds = longest / SECOND;
        return Err(format!("{}: {key} of {n} was not picked for {seconds} s", setup.name));
    }
    Ok(())
}

#[test]
fn no_endpoint_starves() {
    for setup in policies::all().iter().filter(|setup| setup.spreads()) {
        over("no_endpoint_starves", 15, |rng| check(rng, setup));
    }
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
    assert!(caught(10, |rng| check(rng, &broken)));
}
