//! **Load is conserved**: what a balancer counts as in flight on each endpoint is, at any instant and in any world, what
//! is in flight on it; and zero when all requests have ended, whether they were answered, refused, lost, given up by
//! their callers, or outlived their endpoint's time in the set.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Instant,
};

use linkerd_balance::{Load, P2c, Policy};

use super::{caught, open_first::OpenFirst, over};
use crate::{
    engine::Sim,
    policies::{self, Avoids, Setup},
    rng::Rng,
    topology,
};

/// So many instants of each world are looked at.
const LOOKS: u64 = 20;

/// The books of the balancers against those of the simulator.
fn balanced(sim: &Sim<'_>, clients: usize) -> Result<(), String> {
    for client in 0..clients {
        let wrong = sim.in_flight(client).into_iter().find(|(_, counted, real)| counted != real);
        if let Some((key, counted, real)) = wrong {
            return Err(format!("{real} in flight on {key} at {} ns, but the balancer counts {counted}", sim.now()));
        }
    }
    Ok(())
}

/// Load and picks of one world, whatever happens in it. Says how long it was, in seconds, and of how many requests.
fn check(mut rng: Rng, setup: &Setup) -> Result<(u64, u64), String> {
    let world = topology::anything(&mut rng);
    let setup = setup.clone().backoff(topology::backoff(&mut rng));
    let setup = topology::features(&mut rng, setup);
    let mut watch = OpenFirst::default();
    let mut sim = Sim::new(&world, &setup, rng.next());
    for look in 1..=LOOKS {
        sim.run(world.length * look / LOOKS, &mut watch);
        balanced(&sim, world.clients)?;
    }
    sim.finish(&mut watch);
    for client in 0..world.clients {
        let load = sim.balance(client).stats(sim.instant()).load;
        if load != 0 {
            return Err(format!("{load} in flight when all is over"));
        }
    }
    watch.verdict()?;
    Ok((world.length / crate::model::SECOND, sim.requests()))
}

/// A thousand worlds, and each policy in its share of them.
#[test]
fn holds_in_a_thousand_worlds() {
    let policies = policies::all();
    let (began, seconds, requests) = (tokio::time::Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
    over("holds_in_a_thousand_worlds", 1_000, |mut rng| {
        let setup = &policies[rng.below(policies.len() as u64) as usize];
        let (lasted, of) = check(rng, setup).map_err(|what| format!("{}: {what}", setup.name))?;
        seconds.fetch_add(lasted, Ordering::Relaxed);
        requests.fetch_add(of, Ordering::Relaxed);
        Ok(())
    });
    let (seconds, took) = (seconds.into_inner() as f64, began.elapsed().as_secs_f64());
    let requests = requests.into_inner();
    println!("{seconds} simulated seconds, {requests} requests in {took:.1} s: {:.0} seconds a second", seconds / took);
}

/// Counts the requests of callers who went away for ever.
#[derive(Debug, Default)]
struct Leaky(AtomicUsize);

impl Load for Leaky {
    fn score(&self, _now: Instant, weight: f64, more: usize) -> f64 {
        (self.pending() + more) as f64 / weight
    }

    fn pending(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self, _now: Instant) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, _begun: Instant, _now: Instant, _success: bool) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn cancel(&self) {}
}

#[test]
fn a_load_that_leaks_is_caught() {
    let broken = policies::setup("leaky", Avoids::Nothing, |_, _| Policy::new(P2c::new(), Leaky::default));
    assert!(caught(50, |rng| check(rng, &broken).map(drop)));
}
