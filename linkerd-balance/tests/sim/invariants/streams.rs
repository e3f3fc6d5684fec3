//! **Long streams spread**: with streams of 3 s among requests of some ms, each endpoint has on average within 15 % of what
//! the others have in flight, by least loaded and by peak EWMA.

use linkerd_balance::{LeastLoaded, Measure, P2c, PeakEwma, Policy, Random};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, MS, SECOND, Service, Streams, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    topology,
    watch::Watch,
};

/// How far from the mean an endpoint may be, in parts of it.
const IMBALANCE: f64 = 0.15;
const LENGTH: u64 = 24 * SECOND;

/// What each endpoint has in flight, added up over the second half of the looks.
#[derive(Debug)]
struct Spread(Vec<usize>);

impl Watch for Spread {}

impl Invariant for Spread {
    fn look(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        if sim.now() >= LENGTH / 2 {
            for (key, pending, _) in sim.in_flight(0) {
                self.0[key as usize] += pending;
            }
        }
        Ok(())
    }

    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        let mean = self.0.iter().sum::<usize>() as f64 / self.0.len() as f64;
        match self.0.iter().find(|sum| (**sum as f64 - mean).abs() > IMBALANCE * mean) {
            Some(sum) => Err(format!("{:.2} times the mean in flight on one", *sum as f64 / mean)),
            None => Ok(()),
        }
    }
}

/// Fifteen to thirty streams on each endpoint, once they are as many as there will be.
fn trial(rng: &mut Rng, setup: &Setup) -> Trial {
    let n = topology::size(rng).clamp(2, 12);
    let (mean, each) = (3 * SECOND, rng.within(15, 30));
    let streams = Streams { per_mille: rng.within(100, 300), mean };
    let rate = n as u64 * each * 1_000 / streams.per_mille / (mean / SECOND);
    let head = Service::Constant(rng.within(1, 10) * MS);
    let world = World::new(vec![Endpoint { streams: Some(streams), ..Endpoint::new(head) }; n], rate, LENGTH);
    Trial::new(world, setup.clone()).and(Spread(vec![0; n])).looks(200)
}

#[test]
fn long_streams_spread() {
    let pending_only = policies::setup("peak EWMA, pending only", Avoids::Pending, |_, _| {
        Policy::new(P2c::new(), || PeakEwma::default().measure(Measure::PendingOnly))
    });
    let told = ["p2c, least loaded", "heap, least loaded", "p2c, peak EWMA", "heap, peak EWMA"];
    let policies = policies::all().into_iter().filter(|setup| told.contains(&setup.name));
    holds("long_streams_spread", &policies.chain([pending_only]).collect::<Vec<_>>(), trial);
}

#[test]
fn chance_is_caught() {
    let chance = policies::setup("chance", Avoids::Nothing, |_, _| Policy::new(Random::new(), LeastLoaded::new));
    assert!(fails(5, &chance, trial));
}
