//! **A bad endpoint's share falls under its bound within 2 s.** The bound depends on what the policy can know:
//!
//! | policy | slow | hangs | fails fast | refuses |
//! |---|---|---|---|---|
//! | with a breaker | | 0.5 % | 0.5 % | 0.5 % |
//! | by latency and failures (peak EWMA) | 0.5 % | 0.5 % | 0.5 % | 0.5 % |
//! | by latency (Finagle's EWMA) | 0.5 % | 0.5 % | | |
//! | by requests in flight | what keeps it as full as the others | the same | | |
//!
//! or eight requests of each client, if that is more: five by which a breaker sees it, and three probes. An empty cell is
//! no promise: round robin does not see that an endpoint is slow, and by requests in flight alone one that fails fast
//! looks idle. "As full as the others" is Little's law: an endpoint that takes L for a request and has k in flight gets
//! k/L requests a second; k is bounded by three more than twice the others' mean.
//!
//! Up to a third of the endpoints are bad at a time, each in its own way. Two draws that are both bad are more than a load
//! can help: of n endpoints with b bad ones each is in `2(b - 1) / n(n - 1)` of all pairs with another bad one, which
//! comes on top for those that go by loads, chance apart (four standard deviations). Of a policy that uses few
//! endpoints one is bad, and up to two requests in flight for each that it uses are what it aims at.

use std::time::Duration;

use linkerd_balance::{P2c, PeakEwma, Policy, accrual::Never};

use super::{Invariant, Trial, fails, holds};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, US, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    tally::Tally,
    topology,
    watch::{Picked, Watch},
};

const BOUND: f64 = 0.005;
const FEW: u64 = 8;
const WITHIN: Nanos = 2 * SECOND;
const FROM: Nanos = 3 * SECOND;
const TO: Nanos = 12 * SECOND;

/// The share that one of so many bad endpoints may have; `None` where the policy promises nothing.
fn bound(setup: &Setup, fault: Fault, bad: Key, world: &World) -> Option<f64> {
    let n = world.endpoints.len() as f64;
    let takes = match fault {
        Fault::Slow(more) => more,
        _ => world.timeout,
    };
    let slow = matches!(fault, Fault::Slow(_));
    let holds = matches!(fault, Fault::Slow(_) | Fault::Hangs);
    let known = match setup.avoids {
        Avoids::Latency => true,
        Avoids::Speed => holds,
        Avoids::Nothing | Avoids::Pending => false,
    };
    if !slow && setup.has_breaker() {
        return Some(BOUND);
    }
    let pairs = 2.0 * f64::from(bad - 1) / (n * (n - 1.0));
    let picks = world.rate as f64 * (TO - FROM - WITHIN) as f64 / 1e9;
    let pairs = pairs + 4.0 * (pairs / picks).sqrt();
    if known {
        return Some(BOUND + pairs);
    }
    (holds && setup.avoids == Avoids::Pending).then(|| {
        let clients = world.clients as f64;
        let others = world.endpoints.iter().map(|endpoint| endpoint.service.mean() as f64 / 1e9).sum::<f64>() / n;
        // In flight for each client at each of the endpoints that are well, which are two thirds or more.
        let mean = world.rate as f64 / clients * others / (n * 2.0 / 3.0);
        let mean = if setup.spreads() { mean } else { mean.max(2.0) };
        let most = clients * (3.0 + 2.0 * mean);
        pairs + most / (takes as f64 / 1e9 * world.rate as f64)
    })
}

/// Of what begins 2 s after the fault.
#[derive(Debug)]
struct LeftAlone {
    tally: Tally,
    /// The bad ones, and the share that each may have.
    bounds: Vec<(Key, Fault, f64)>,
}

impl Watch for LeftAlone {
    fn picked(&mut self, picked: Picked) {
        self.tally.picked(picked);
    }
}

impl Invariant for LeftAlone {
    fn verdict(&mut self, sim: &Sim<'_>) -> Result<(), String> {
        let (n, few) = (sim.world().endpoints.len(), FEW * sim.world().clients as u64);
        for &(key, fault, bound) in &self.bounds {
            let (share, picks) = (self.tally.share(key), self.tally.picks[key as usize]);
            if share > bound && picks > few {
                return Err(format!("{share:.4} of picks meet {key} of {n} that has {fault:?}, not {bound:.4}"));
            }
        }
        Ok(())
    }
}

fn fault(rng: &mut Rng, usual: Nanos) -> Fault {
    match rng.below(4) {
        0 => Fault::Slow(usual * 20 + rng.within(200, 1_000) * MS),
        1 => Fault::Hangs,
        2 => Fault::Fails(rng.within(100, 5_000) * US),
        _ => Fault::Refuses,
    }
}

/// From 3 to 500 endpoints, some of which are bad.
fn trial(rng: &mut Rng, setup: &Setup) -> Trial {
    let n = topology::size(rng).max(3);
    let service = topology::service(rng);
    // Enough that each endpoint is asked ten times a second by each client, up to where its fair share is not much more than 0.5 %.
    let clients = if n <= 30 { rng.within(1, 3) } else { 1 };
    let each = if n <= 30 { rng.within(10, 30) } else { 10 };
    let rate = each * n.min(120) as u64 * clients;
    let mut world = World::new(vec![Endpoint::new(service); n], rate, TO);
    (world.clients, world.timeout) = (clients as usize, rng.within(500, 1_000) * MS);
    let bad = if setup.spreads() { rng.within(1, (n as u64 / 3).min(10)) as Key } else { 1 };
    let faults: Vec<(Key, Fault)> = (0..bad).map(|key| (key, fault(rng, service.mean()))).collect();
    for &(key, fault) in &faults {
        world = world.fault(FROM, TO, key, fault);
    }
    let bounds =
        faults.iter().filter_map(|&(key, fault)| Some((key, fault, bound(setup, fault, bad, &world)?))).collect();
    Trial::new(world, setup.clone()).and(LeftAlone { tally: Tally::new(n, FROM + WITHIN, TO), bounds })
}

#[test]
fn bad_endpoints_are_left_alone() {
    holds("bad_endpoints_are_left_alone", &policies::all(), trial);
}

#[test]
fn judging_failures_by_their_speed_is_caught() {
    let broken = policies::setup("Finagle's", Avoids::Latency, |_, _| {
        Policy::new(P2c::new(), || PeakEwma::default().failure_penalty(Duration::ZERO))
    });
    assert!(fails(20, &broken.accrual(|| Box::new(Never)), trial));
}
