//! **A bad endpoint's share falls under its bound within 2 s.** The bound depends on what the policy can know:
//!
//! | policy | slow | hangs | fails fast | refuses |
//! |---|---|---|---|---|
//! | with a breaker | | 0.5 % | 0.5 % | 0.5 % |
//! | by latency and failures (peak EWMA) | 0.5 % | 0.5 % | 0.5 % | 0.5 % |
//! | by latency (Finagle's EWMA) | 0.5 % | 0.5 % | | |
//! | by requests in flight | what keeps it as full as the others | the same | | |
//!
//! or eight requests, if that is more: five by which a breaker sees it, and three probes. An empty cell is no promise: round robin does not see that an endpoint is slow, and by requests in flight alone one
//! that fails fast looks idle. "As full as the others" is Little's law: an endpoint that takes L for a request and has
//! k in flight gets k/L requests a second; k is bounded by three more than twice the others' mean.

use linkerd_balance::{P2c, PeakEwma, Policy, accrual::Never};
use std::time::Duration;

use super::{caught, over};
use crate::{
    engine::Sim,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, US, World},
    policies::{self, Avoids, Setup},
    rng::Rng,
    tally::Tally,
    topology,
};

const BOUND: f64 = 0.005;
const FEW: u64 = 8;
const WITHIN: Nanos = 2 * SECOND;
const FROM: Nanos = 5 * SECOND;
const TO: Nanos = 17 * SECOND;
const BAD: Key = 0;

/// The share that a bad endpoint may have; `None` where the policy promises nothing.
fn bound(setup: &Setup, fault: Fault, world: &World) -> Option<f64> {
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
    if known || (!slow && setup.has_breaker()) {
        return Some(BOUND);
    }
    (holds && setup.avoids == Avoids::Pending).then(|| {
        let others = world.endpoints.iter().map(|endpoint| endpoint.service.mean() as f64 / 1e9).sum::<f64>();
        let mean = world.rate as f64 * others / (world.endpoints.len() as f64).powi(2);
        let most = 3.0 + 2.0 * mean;
        most / (takes as f64 / 1e9 * world.rate as f64)
    })
}

/// One of 3 to 20 endpoints is bad.
fn world(rng: &mut Rng) -> (World, Fault) {
    let service = topology::service(rng);
    let n = rng.within(3, 20) as usize;
    // Enough that each endpoint is asked ten times a second.
    let rate = rng.within(10, 40) * n as u64;
    let fault = match rng.below(4) {
        0 => Fault::Slow(service.mean() * 20 + rng.within(200, 1_000) * MS),
        1 => Fault::Hangs,
        2 => Fault::Fails(rng.within(100, 5_000) * US),
        _ => Fault::Refuses,
    };
    let mut world = World::new(vec![Endpoint::new(service); n], rate, TO).fault(FROM, TO, BAD, fault);
    world.timeout = rng.within(500, 1_000) * MS;
    (world, fault)
}

fn check(mut rng: Rng, setup: &Setup) -> Result<(), String> {
    let (world, fault) = world(&mut rng);
    let Some(bound) = bound(setup, fault, &world) else { return Ok(()) };
    let mut tally = Tally::new(world.endpoints.len(), FROM + WITHIN, TO);
    Sim::new(&world, setup, rng.next()).finish(&mut tally);
    let share = tally.share(BAD);
    if share > bound && tally.picks[BAD as usize] > FEW {
        let of = world.endpoints.len();
        return Err(format!(
            "{}: {share:.4} of picks meet the one of {of} that has {fault:?}, not {bound:.4}",
            setup.name
        ));
    }
    Ok(())
}

#[test]
fn bad_endpoints_are_left_alone() {
    for setup in policies::all() {
        over("bad_endpoints_are_left_alone", 40, |rng| check(rng, &setup));
    }
}

#[test]
fn judging_failures_by_their_speed_is_caught() {
    let broken = policies::setup("Finagle's", Avoids::Latency, |_, _| {
        Policy::new(P2c::new(), || PeakEwma::default().failure_penalty(Duration::ZERO))
    });
    assert!(caught(20, |rng| check(rng, &broken.clone().accrual(|| Box::new(Never)))));
}
