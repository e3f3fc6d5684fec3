//! **Load is conserved**: what a balancer counts as in flight on each endpoint is, at any instant and in any world, what
//! is in flight on it; and zero when all requests have ended, whether they were answered, refused, lost, given up by
//! their callers, or outlived their endpoint's time in the set.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use linkerd_balance::{Load, P2c, Policy};

use super::{Invariant, Trial, fails};
use crate::{
    engine::Sim,
    policies::{self, Avoids},
    topology,
    watch::Watch,
};

/// The books of the balancers against those of the simulator.
#[derive(Debug)]
pub(super) struct Conserved;

impl Watch for Conserved {}

impl Invariant for Conserved {
    fn look(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        for client in 0..sim.world().clients {
            let wrong = sim.in_flight(client).into_iter().find(|(_, counted, real)| counted != real);
            if let Some((key, counted, real)) = wrong {
                let at = sim.now();
                return Err(format!("{real} in flight on {key} at {at} ns, but the balancer counts {counted}"));
            }
        }
        Ok(())
    }

    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let loads = (0..sim.world().clients).map(|client| sim.balance(client).stats(sim.instant()).load);
        match loads.sum() {
            0 => Ok(()),
            load => Err(format!("{load} in flight when all is over")),
        }
    }
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
    assert!(fails(50, &broken, |rng, setup| Trial::new(topology::anything(rng), setup.clone())));
}
