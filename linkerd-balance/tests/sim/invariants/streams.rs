//! **Long streams spread**: with streams of 30 s among requests of 5 ms, each endpoint has on average within 15 % of what
//! the others have in flight, by least loaded and by peak EWMA.

use linkerd_balance::{LeastLoaded, Measure, P2c, PeakEwma, Policy, Random};

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, MS, SECOND, Service, Streams, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
};

/// How far from the mean an endpoint may be, in parts of it.
const IMBALANCE: f64 = 0.15;
const LOOKS: u64 = 200;

fn check(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let n = rng.within(4, 12);
    let endpoint = Endpoint {
        streams: Some(Streams { per_mille: 20, mean: 30 * SECOND }),
        ..Endpoint::new(Service::Constant(5 * MS))
    };
    // Ten to thirty streams each, once they are as many as there will be.
    let rate = n * rng.within(10, 30) * 1000 / 20 / 30;
    let world = World::new(vec![endpoint; n as usize], rate, 240 * SECOND);
    let mut sim = Sim::new(&world, setup, rng.next());
    let mut sums = vec![0; n as usize];
    for look in 0..LOOKS {
        sim.run(120 * SECOND + 120 * SECOND * look / LOOKS, &mut ());
        for (key, pending, _) in sim.in_flight(0) {
            sums[key as usize] += pending;
        }
    }
    let mean = sums.iter().sum::<usize>() as f64 / n as f64;
    match sums.iter().find(|sum| (**sum as f64 - mean).abs() > IMBALANCE * mean) {
        None => Ok(()),
        Some(sum) => {
            let (one, mean) = (*sum as f64 / LOOKS as f64, mean / LOOKS as f64);
            Err(format!("{}: {one:.1} in flight on one of {n}, {mean:.1} on average", setup.name))
        }
    }
}

#[test]
fn long_streams_spread() {
    let pending_only = policies::setup("peak EWMA, pending only", Avoids::Pending, |_, _| {
        Policy::new(P2c::new(), || PeakEwma::default().measure(Measure::PendingOnly))
    });
    let told = ["p2c, least loaded", "heap, least loaded", "p2c, peak EWMA", "heap, peak EWMA"];
    let policies = policies::all().into_iter().filter(|setup| told.contains(&setup.name));
    for setup in policies.chain([pending_only]) {
        over("long_streams_spread", 8, |rng| check(rng, &setup));
    }
}

#[test]
fn chance_is_caught() {
    let chance = policies::setup("chance", Avoids::Nothing, |_, _| Policy::new(Random::new(), LeastLoaded::new));
    assert!(caught(2, |rng| check(rng, &chance)));
}
