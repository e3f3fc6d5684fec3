//! **Each endpoint's share of the picks is its weight's share of the weights, within 2 %**, where all are open, well and
//! equally fast: within 2 % of all picks, and within 2 % of its own share, chance apart (five standard deviations). The
//! endpoints of one weight together keep within 2 % of all picks too. A client makes some 13,500 picks, which chance
//! moves by 2 % in one of 100,000 worlds.
//!
//! Weights that are equal are kept in every world. Weights that differ are in these, but for those who look at load
//! while it is small, from 0.02 to 4 requests in flight for each endpoint (16 with bounded load): requests are whole ones. An endpoint whose part of three requests in flight is 0.27 has
//! none or one, and to avoid it while it has one is just what load is for. Strategies by load lean to the heavy
//! endpoints then, and those that hash with bounded load, where a bound is rounded up to a whole request, do too:
//! within 6 % of all picks, and 7.5 % for the endpoints of one weight.
//!
//! The points of a ring are placed by chance, and with 512 for each a share differs by 4.4 % of itself:
//! `sqrt(p (1 - p) / all points)` of all picks is one standard deviation, 4.5 are allowed for. With 16,384 points that is
//! too little to matter.
//!
//! What peak EWMA hears of once in a decay or less it has forgotten, so it is asked once in two seconds here.

use linkerd_balance::{Candidates, Draw, LeastLoaded, Policy, Ring, Strategy};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, SECOND, Service, World},
    policies::{self, Avoids, Setup, Shares},
    rng::Rng,
    tally::Tally,
    topology,
    watch::{Picked, Watch},
};

const PICKS: u64 = 15_000;
const MANY_POINTS: usize = 16_384;
const TOLERANCE: f64 = 0.02;
/// Where a request more or less decides.
const FEW_TOLERANCE: f64 = 0.06;
const FEW_TOGETHER: f64 = 0.075;
/// Weights are from 1 to this.
const HEAVIEST: usize = 10;

/// How far from its weight a share may be.
#[derive(Debug)]
struct Weighed {
    tally: Tally,
    few: bool,
    /// In a ring.
    points: Option<f64>,
}

impl Watch for Weighed {
    fn picked(&mut self, picked: Picked) {
        self.tally.picked(picked);
    }
}

impl Weighed {
    fn check(&self, share: f64, wanted: f64, few: f64) -> Result<(), String> {
        let places = self.points.map_or(0.0, |points| 4.5 * (wanted * (1.0 - wanted).max(0.0) / points).sqrt());
        let picks = self.tally.total() as f64;
        let chance = 5.0 * (wanted / picks).sqrt() + 1.0 / picks;
        let (off, of_all) = ((share - wanted).abs(), if self.few { few } else { TOLERANCE });
        if off > of_all + places || (!self.few && off > TOLERANCE * wanted + chance + places) {
            return Err(format!("{share:.4} instead of {wanted:.4}"));
        }
        Ok(())
    }
}

impl Invariant for Weighed {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let endpoints = &sim.world().endpoints;
        let total: f64 = endpoints.iter().map(|endpoint| endpoint.weight).sum();
        let mut together = [(0.0, 0.0); HEAVIEST + 1];
        for (key, endpoint) in (0..).zip(endpoints) {
            let (share, wanted) = (self.tally.share(key), endpoint.weight / total);
            self.check(share, wanted, FEW_TOLERANCE).map_err(|what| format!("{key} has {what}"))?;
            let (shares, all_wanted) = &mut together[endpoint.weight as usize];
            *shares += share;
            *all_wanted += wanted;
        }
        for (weight, (share, wanted)) in together.into_iter().enumerate() {
            self.check(share, wanted, FEW_TOGETHER).map_err(|what| format!("all of weight {weight} have {what}"))?;
        }
        Ok(())
    }
}

/// From 2 to 500 endpoints.
fn trial(rng: &mut Rng, setup: &Setup) -> Trial {
    let n = topology::size(rng).max(2);
    let service = match topology::service(rng) {
        service if setup.judges_speed() => Service::Constant(service.mean()),
        service => service,
    };
    let weights = topology::weights(rng, n);
    let differ = weights.iter().any(|weight| *weight != weights[0]);
    let endpoints: Vec<Endpoint> =
        weights.into_iter().map(|weight| Endpoint { weight, slots: u32::MAX, ..Endpoint::new(service) }).collect();
    // From hardly ever more than one in flight to some hundred for each.
    let clients = rng.one_of(&[1, 1, 2, 3]);
    let rate = rng.within(2, 1_000) * rng.one_of(&[1, 10, 100]);
    let rate = if setup.judges_speed() { rate.max(n as u64 * clients / 2) } else { rate };
    let mut world = World::new(endpoints, rate, PICKS * SECOND / rate);
    (world.clients, world.sessions) = (clients as usize, 1 << 40);

    let in_flight = (rate * service.mean()) as f64 / SECOND as f64 / clients as f64 / n as f64;
    let few = match setup.avoids {
        _ if setup.hashes() => 0.02..16.0,
        Avoids::Nothing => 0.0..0.0,
        Avoids::Pending | Avoids::Speed | Avoids::Latency => 0.02..4.0,
    };
    // Before the first answers, latency is anybody's guess.
    let tally = Tally::new(n, world.length / 10, world.length);
    // The mean weight may be that much above the power of two next to it.
    let points = points(setup, n).map(|points| (points * n) as f64 / std::f64::consts::SQRT_2);
    Trial::new(world, setup.clone()).and(Weighed { tally, few: differ && few.contains(&in_flight), points })
}

/// With points enough, and where no load has a say.
fn ring_of_many_points() -> Setup {
    policies::setup("ring of 16,384 points", Avoids::Nothing, |_, _| {
        let ring = Ring::new().points(MANY_POINTS).expect("in range").load_factor(None).expect("none");
        Policy::new(ring, LeastLoaded::new)
    })
}

/// The points of each of `n` endpoints of mean weight, for setups that are rings.
fn points(setup: &Setup, n: usize) -> Option<usize> {
    let points = match setup.name {
        "ring" => Ring::DEFAULT_POINTS,
        "ring of 16,384 points" => MANY_POINTS,
        _ => return None,
    };
    Some(points.min(Ring::DEFAULT_MAX_SIZE / n / 2))
}

#[test]
fn shares_are_weights() {
    let is_weighed = |setup: &Setup| matches!(setup.shares, Shares::Weighed | Shares::Hashed);
    let policies = policies::all().into_iter().filter(is_weighed).chain([ring_of_many_points()]);
    holds("shares_are_weights", &policies.collect::<Vec<_>>(), trial);
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
    assert!(fails(20, &broken, trial));
}

/// Draws by weights that are a bit wrong: each twentieth request by none.
#[derive(Debug)]
struct Careless;

impl Strategy for Careless {
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if Rng::new(draw.random).chance(50) { 0 } else { nodes.draw(draw.random) }
    }
}

#[test]
fn a_strategy_that_is_a_little_off_is_caught() {
    let broken = policies::setup("careless", Avoids::Nothing, |_, _| Policy::new(Careless, LeastLoaded::new));
    assert!(fails(5, &broken, trial));
}
