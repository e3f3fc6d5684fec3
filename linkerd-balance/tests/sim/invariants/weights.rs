//! **Each endpoint's share of the picks is its weight's share of the weights, within 2 %** of all picks, where all are
//! open, well and equally fast.
//!
//! A load has a say of its own: with as few requests in flight as there are endpoints, one request more is a lot for a
//! light endpoint, and policies that look at what is in flight keep within 5 %. Idle or under load they keep to the 2 %.
//! A hash ring's shares differ by 4.4 % of themselves, so a policy that hashes may be a fifth of the share further off.

use linkerd_balance::{Candidates, Draw, LeastLoaded, Policy, Strategy};

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, MS, SECOND, Service, World},
    policies::{self, Avoids, Setup, Shares},
    rng::Rng,
    tally::Tally,
};

const TOLERANCE: f64 = 0.02;
/// Where a request more or less decides.
const FEW_IN_FLIGHT_TOLERANCE: f64 = 0.05;

fn check(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let n = rng.within(2, 12);
    let service = Service::Constant(rng.within(1, 10) * MS);
    let endpoints: Vec<Endpoint> =
        (0..n).map(|_| Endpoint { weight: rng.within(1, 10) as f64, ..Endpoint::new(service) }).collect();
    let total: f64 = endpoints.iter().map(|endpoint| endpoint.weight).sum();
    // From hardly ever more than one in flight to some hundred for each.
    let rate = rng.within(2, 1_000) * rng.one_of(&[1, 10, 100]);
    let in_flight = (rate * service.mean()) as f64 / SECOND as f64;
    let few = setup.avoids != Avoids::Nothing && (0.05..20.0 * n as f64).contains(&in_flight);
    let tolerance = if few { FEW_IN_FLIGHT_TOLERANCE } else { TOLERANCE };
    let world = World::new(endpoints, rate, 25_000 * SECOND / rate);
    // Before the first answers, latency is anybody's guess.
    let mut tally = Tally::new(world.endpoints.len(), world.length / 10, world.length);
    Sim::new(&world, setup, rng.next()).finish(&mut tally);
    for (key, endpoint) in (0..).zip(&world.endpoints) {
        let (share, wanted) = (tally.share(key), endpoint.weight / total);
        let tolerance = tolerance + if setup.hashes() { wanted / 5.0 } else { 0.0 };
        if (share - wanted).abs() > tolerance {
            let at = format_args!("with {in_flight:.2} in flight on {n}");
            return Err(format!("{}: {share:.4} instead of {wanted:.4} {at}", setup.name));
        }
    }
    Ok(())
}

#[test]
fn shares_are_weights() {
    for setup in policies::all().iter().filter(|setup| matches!(setup.shares, Shares::Weighed | Shares::Hashed)) {
        over("shares_are_weights", 25, |rng| check(rng, setup));
    }
}

/// Draws one of all alike.
#[derive(Debug)]
struct Unweighted;

impl Strategy for Unweighted {
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        draw.random as usize % nodes.len()
    }
}

#[test]
fn a_strategy_that_ignores_weights_is_caught() {
    let broken = policies::setup("unweighted", Avoids::Nothing, |_, _| Policy::new(Unweighted, LeastLoaded::new));
    assert!(caught(20, |rng| check(rng, &broken)));
}
