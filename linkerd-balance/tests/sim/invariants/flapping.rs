//! **Nothing flaps.**
//!
//! - An endpoint that is bad for ten minutes is given up once and asked at most 8 times more (Linkerd's backoff, 5 s to
//!   300 s, reaches ten minutes with the eighth wait), and no other endpoint is given up.
//! - One that fails every other request is given up at most once each shortest backoff.
//! - Endpoints that are alike keep alike shares: in each 10 s, each has between half and twice its fair share.

use std::time::Duration;

use linkerd_balance::accrual::Backoff;

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, World},
    policies::{self, Setup},
    rng::Rng,
    watch::{Picked, Watch},
};

const TEN_MINUTES: Nanos = 600 * SECOND;
const PROBES: u64 = 8;
const BAD: Key = 0;
const STRETCH: Nanos = 10 * SECOND;

fn given_up_once(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let n = rng.within(2, 10);
    let fault = rng.one_of(&[Fault::Refuses, Fault::Fails(MS), Fault::Hangs, Fault::Dies]);
    let endpoints = vec![Endpoint::new(Service::Constant(rng.within(1, 10) * MS)); n as usize];
    let world = World::new(endpoints, 5 * n, TEN_MINUTES).fault(SECOND, TEN_MINUTES, BAD, fault);
    let mut sim = Sim::new(&world, setup, rng.next());
    sim.run(TEN_MINUTES, &mut ());
    let counters = sim.counters(0);
    let (removals, probes) = (counters.removals(), counters.probes());
    if removals > 1 || probes > PROBES {
        return Err(format!("{}: {removals} removals and {probes} probes for {fault:?} of {n}", setup.name));
    }
    Ok(())
}

fn at_most_once_a_backoff(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let (n, least) = (rng.within(2, 10), rng.within(500, 5_000) * MS);
    let backoff = Backoff::constant(Duration::from_nanos(least)).expect("above zero");
    let fault = Fault::Flaky(rng.within(300, 700));
    let endpoints = vec![Endpoint::new(Service::Constant(rng.within(1, 10) * MS)); n as usize];
    let world = World::new(endpoints, 20 * n, 60 * SECOND).fault(0, 60 * SECOND, BAD, fault);
    let mut sim = Sim::new(&world, &setup.clone().backoff(backoff), rng.next());
    sim.run(world.length, &mut ());
    let (removals, most) = (sim.counters(0).removals(), world.length / least + 1);
    if removals > most { Err(format!("{}: {removals} removals, not {most}", setup.name)) } else { Ok(()) }
}

#[test]
fn a_bad_endpoint_is_given_up_once() {
    for setup in policies::all() {
        over("a_bad_endpoint_is_given_up_once", 10, |rng| given_up_once(rng, &setup));
        over("a_bad_endpoint_is_given_up_once", 10, |rng| at_most_once_a_backoff(rng, &setup));
    }
}

#[test]
fn an_impatient_backoff_is_caught() {
    let short = Backoff::constant(Duration::from_secs(1)).expect("above zero");
    let broken = policies::all().remove(0).backoff(short);
    assert!(caught(3, |rng| given_up_once(rng, &broken)));
}

/// Picks of each endpoint in each stretch.
#[derive(Debug)]
struct Shares(Vec<Vec<u64>>);

impl Watch for Shares {
    fn picked(&mut self, picked: Picked) {
        self.0[(picked.now / STRETCH) as usize][picked.key as usize] += 1;
    }
}

fn steady(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let n = rng.within(2, 12);
    let mean = rng.within(1, 10) * MS;
    let service = rng
        .one_of(&[Service::Constant(mean), Service::Bimodal { fast: mean / 2, slow: 5 * mean, slow_per_mille: 100 }]);
    let world = World::new(vec![Endpoint::new(service); n as usize], 30 * n, 6 * STRETCH);
    let mut shares = Shares(vec![vec![0; n as usize]; 6]);
    Sim::new(&world, setup, rng.next()).finish(&mut shares);
    for (stretch, picks) in shares.0.iter().enumerate() {
        let fair = picks.iter().sum::<u64>() / n;
        if let Some(picks) = picks.iter().find(|picks| **picks < fair / 2 || **picks > 2 * fair) {
            let at = format_args!("in stretch {stretch}, {service:?}");
            return Err(format!("{}: {picks} picks where {fair} were fair {at}", setup.name));
        }
    }
    Ok(())
}

#[test]
fn alike_endpoints_keep_alike_shares() {
    for setup in policies::all().iter().filter(|setup| setup.spreads()) {
        over("alike_endpoints_keep_alike_shares", 20, |rng| steady(rng, setup));
    }
}

/// Takes one endpoint for five seconds, then the next.
#[derive(Debug, Default)]
struct Herd(std::sync::OnceLock<std::time::Instant>);

impl linkerd_balance::Strategy for Herd {
    fn pick(&self, nodes: &dyn linkerd_balance::Candidates, draw: linkerd_balance::Draw) -> usize {
        let since = nodes.now().duration_since(*self.0.get_or_init(|| nodes.now()));
        let favourite = (since.as_secs() / 10) as usize;
        let random = draw.random as usize;
        (if random.is_multiple_of(3) { random / 3 } else { favourite }) % nodes.len()
    }
}

#[test]
fn a_herd_is_caught() {
    use linkerd_balance::{LeastLoaded, Policy};
    let broken =
        policies::setup("herd", policies::Avoids::Nothing, |_, _| Policy::new(Herd::default(), LeastLoaded::new));
    assert!(caught(5, |rng| steady(rng, &broken)));
}
