//! **Nothing flaps.**
//!
//! - An endpoint that is bad for ten minutes is given up once by each client and asked at most 8 times more (Linkerd's
//!   backoff, 5 s to 300 s, reaches ten minutes with the eighth wait), and no other endpoint is given up.
//! - One that fails every other request is given up at most once each shortest backoff.
//! - Endpoints that are alike keep alike shares: in each 10 s, each has between half and twice its fair share.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use linkerd_balance::{Candidates, Draw, LeastLoaded, Policy, Strategy, accrual::Backoff};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    topology,
    watch::{Picked, Watch},
};

const TEN_MINUTES: Nanos = 600 * SECOND;
const PROBES: u64 = 8;
const BAD: Key = 0;
const STRETCH: Nanos = 10 * SECOND;
const STRETCHES: usize = 3;

/// How often each client gives somebody up, and probes, at most.
#[derive(Debug)]
struct AtMost {
    removals: u64,
    probes: u64,
}

impl Watch for AtMost {}

impl Invariant for AtMost {
    // Not after the end, when nobody is bad.
    fn look(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        for client in 0..sim.world().clients {
            let counters = sim.counters(client);
            let (removals, probes) = (counters.removals(), counters.probes());
            if removals > self.removals || probes > self.probes {
                return Err(format!("{removals} removals and {probes} probes, not {self:?}"));
            }
        }
        Ok(())
    }

    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        Ok(())
    }
}

fn given_up_once(rng: &mut Rng, setup: &Setup) -> Trial {
    let n = topology::size(rng).clamp(2, 30);
    let fault = rng.one_of(&[Fault::Refuses, Fault::Fails(MS), Fault::Hangs, Fault::Dies]);
    let world = World::new(vec![Endpoint::new(topology::service(rng)); n], (n as u64).max(5), TEN_MINUTES);
    let mut world = world.fault(SECOND, TEN_MINUTES, BAD, fault);
    world.clients = if n < 10 { rng.within(1, 2) as usize } else { 1 };
    Trial::new(world, setup.clone()).and(AtMost { removals: 1, probes: PROBES })
}

#[test]
fn a_bad_endpoint_is_given_up_once() {
    holds("a_bad_endpoint_is_given_up_once", &policies::all(), given_up_once);
}

#[test]
fn an_impatient_backoff_is_caught() {
    let short = Backoff::constant(Duration::from_secs(1)).expect("above zero");
    assert!(fails(3, &policies::all()[0].clone().backoff(short), given_up_once));
}

fn at_most_once_a_backoff(rng: &mut Rng, setup: &Setup) -> Trial {
    let (n, least) = (topology::size(rng).clamp(2, 30), rng.within(500, 5_000) * MS);
    let backoff = Backoff::constant(Duration::from_nanos(least)).expect("above zero");
    let fault = Fault::Flaky(rng.within(300, 900));
    let world = World::new(vec![Endpoint::new(topology::service(rng)); n], 10 * n as u64, 30 * SECOND);
    let world = world.fault(0, 30 * SECOND, BAD, fault);
    let removals = world.length / least + 1;
    Trial::new(world, setup.clone().backoff(backoff)).and(AtMost { removals, probes: u64::MAX })
}

#[test]
fn a_flaky_endpoint_is_given_up_once_a_backoff() {
    holds("a_flaky_endpoint_is_given_up_once_a_backoff", &policies::all(), at_most_once_a_backoff);
    let short = Backoff::constant(Duration::from_millis(100)).expect("above zero");
    let setup = &policies::all()[0];
    assert!(fails(20, setup, |rng, setup| at_most_once_a_backoff(rng, setup).by(|setup| setup.backoff(short))));
}

/// Picks of each endpoint in each stretch.
#[derive(Debug)]
struct Alike(Vec<Vec<u64>>);

impl Watch for Alike {
    fn picked(&mut self, picked: Picked) {
        self.0[(picked.now / STRETCH) as usize][picked.key as usize] += 1;
    }
}

impl Invariant for Alike {
    fn verdict(&mut self, _: &Sim<'_>) -> Result<(), String> {
        for (stretch, picks) in self.0.iter().enumerate() {
            let fair = picks.iter().sum::<u64>() / picks.len() as u64;
            if let Some(picks) = picks.iter().find(|picks| **picks < fair / 2 || **picks > 2 * fair) {
                return Err(format!("{picks} picks where {fair} were fair in stretch {stretch}"));
            }
        }
        Ok(())
    }
}

fn steady(rng: &mut Rng, setup: &Setup) -> Trial {
    let n = topology::size(rng).clamp(2, 30);
    let service = match topology::service(rng) {
        // What its own slow answers do to one that is judged by them is for `starvation`.
        Service::Pareto { .. } if setup.judges_speed() => Service::Constant(rng.within(1, 10) * MS),
        service => service,
    };
    let world = World::new(vec![Endpoint::new(service); n], 20 * n as u64, STRETCHES as Nanos * STRETCH);
    Trial::new(world, setup.clone()).and(Alike(vec![vec![0; n]; STRETCHES]))
}

#[test]
fn alike_endpoints_keep_alike_shares() {
    let policies: Vec<Setup> = policies::all().into_iter().filter(Setup::spreads).collect();
    holds("alike_endpoints_keep_alike_shares", &policies, steady);
}

/// Prefers one endpoint for ten seconds, then the next.
#[derive(Debug, Default)]
struct Herd(OnceLock<Instant>);

impl Strategy for Herd {
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        let since = nodes.now().duration_since(*self.0.get_or_init(|| nodes.now()));
        let favourite = (since.as_secs() / 10) as usize;
        let random = draw.random as usize;
        (if random.is_multiple_of(3) { random / 3 } else { favourite }) % nodes.len()
    }
}

#[test]
fn a_herd_is_caught() {
    let broken = policies::setup("herd", Avoids::Nothing, |_, _| Policy::new(Herd::default(), LeastLoaded::new));
    assert!(fails(5, &broken, steady));
}
