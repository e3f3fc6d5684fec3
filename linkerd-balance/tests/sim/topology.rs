//! Worlds by chance.

use std::time::Duration;

use linkerd_balance::{Panic, SlowStart, Tiers, accrual::Backoff};

use crate::{
    engine::ZONES,
    model::{Endpoint, Fault, Key, MS, Nanos, SECOND, Service, Streams, US, WarmUp, World},
    policies::Setup,
    rng::Rng,
};

/// From 1 to 500, half of them below about 20.
pub(crate) fn size(rng: &mut Rng) -> usize {
    let bits = rng.below(9);
    rng.within(1, 500 >> bits).max(1) as usize
}

/// A service whose mean is some 0.5 to 20 ms.
pub(crate) fn service(rng: &mut Rng) -> Service {
    let mean = rng.within(500, 20_000) * US;
    match rng.below(3) {
        0 => Service::Constant(mean),
        1 => Service::Bimodal { fast: mean / 2, slow: mean * 5, slow_per_mille: 100 },
        _ => Service::Pareto { least: mean / 2, most: mean * 20 },
    }
}

/// A whole number from 1 to 10; the same for all in two of three worlds.
pub(crate) fn weights(rng: &mut Rng, n: usize) -> Vec<f64> {
    let differ = rng.chance(333);
    (0..n).map(|_| if differ { rng.within(1, 10) as f64 } else { 1.0 }).collect()
}

pub(crate) fn fault(rng: &mut Rng) -> Fault {
    match rng.below(6) {
        0 => Fault::Slow(rng.within(20, 2_000) * MS),
        1 => Fault::Fails(rng.within(100, 5_000) * US),
        2 => Fault::Flaky(rng.within(50, 1_000)),
        3 => Fault::Refuses,
        4 => Fault::Hangs,
        _ => Fault::Dies,
    }
}

/// A backoff that fits into a short world.
pub(crate) fn backoff(rng: &mut Rng) -> Backoff {
    let min = Duration::from_millis(rng.within(200, 1_000));
    let max = min * rng.within(1, 8) as u32;
    match rng.below(3) {
        0 => Backoff::constant(min),
        1 => Backoff::equal_jittered(min, max),
        _ => Backoff::jittered(min, max),
    }
    .expect("above zero and in order")
}

/// The same with any of what a policy may have besides strategy and load, but for what asks closed endpoints on purpose.
///
/// Says what it does in a panic.
pub(crate) fn features(rng: &mut Rng, setup: Setup) -> (Setup, Panic) {
    let slow_start = rng.chance(300).then(|| {
        let slow = SlowStart::new(Duration::from_secs(rng.within(1, 20))).expect("not zero");
        slow.min_share(0.05 * rng.within(1, 10) as f64).expect("a share")
    });
    let tiers = rng.chance(300).then(|| {
        let tiers = Tiers::new().local(rng.one_of(&ZONES)).fallback([rng.one_of(&ZONES)]);
        let leave = rng.below(1001) as f64 / 1000.0;
        let tiers = tiers.min_open(leave, leave.midpoint(1.0)).expect("in order");
        if rng.chance(500) { tiers.spill_load(rng.within(1, 20) as f64).expect("above zero") } else { tiers }
    });
    let panic = if rng.chance(300) { Panic::FailFast } else { Panic::LastPick };
    let (probation, overlap) = (rng.one_of(&[0, 0, 1, 10]), Duration::from_secs(rng.one_of(&[0, 0, 1, 10])));
    let setup = setup.with(move |mut policy| {
        if let Some(slow_start) = slow_start {
            policy = policy.slow_start(slow_start);
        }
        if let Some(tiers) = &tiers {
            policy = policy.tiers(tiers.clone());
        }
        policy.panic(panic).probation(probation).overlap(overlap)
    });
    (setup, panic)
}

/// Anything may happen: clients, endpoints, capacities, weights, zones, faults, churn, impatient callers.
pub(crate) fn anything(rng: &mut Rng) -> World {
    let n = size(rng);
    let service = service(rng);
    let alike = rng.chance(500);
    let tight = rng.chance(300);
    let weights = weights(rng, n);
    let mut endpoints: Vec<Endpoint> = weights
        .into_iter()
        .map(|weight| {
            let mut endpoint = Endpoint::new(if alike { service } else { self::service(rng) });
            endpoint.weight = weight;
            endpoint.zone = rng.below(3) as u8;
            if tight {
                (endpoint.slots, endpoint.queue) = (rng.within(1, 8) as u32, rng.below(20) as u32);
            }
            if rng.chance(100) {
                endpoint.warm_up = Some(WarmUp { lasts: rng.within(1, 5) * SECOND, factor: rng.within(2, 10) });
            }
            endpoint
        })
        .collect();
    if rng.chance(100) {
        let streams = Streams { per_mille: rng.within(1, 200), mean: rng.within(100, 3_000) * MS };
        for endpoint in &mut endpoints {
            endpoint.streams = Some(streams);
        }
    }
    // Some 2,500 requests in each, be they in three seconds or in a minute.
    let length = rng.within(3, 60) * SECOND;
    let rate = 2_500 * SECOND / length;
    let mut world = World::new(endpoints, rate, length);
    world.clients = rng.within(1, 3) as usize;
    world.timeout = rng.within(50, 2_000) * MS;
    world.cancel_per_mille = if rng.chance(500) { rng.below(300) } else { 0 };
    add_faults(rng, &mut world);
    add_churn(rng, &mut world);
    world
}

fn add_faults(rng: &mut Rng, world: &mut World) {
    let n = world.endpoints.len() as u64;
    // Often none, at times all at once.
    let bad = if rng.chance(100) { n } else { rng.below(n / 2 + 1) };
    for key in 0..bad {
        let from = rng.below(world.length);
        let to = from + rng.below(world.length);
        let fault = fault(rng);
        world.faults.push((from, key as Key, Some(fault)));
        world.faults.push((to, key as Key, None));
    }
}

fn add_churn(rng: &mut Rng, world: &mut World) {
    let all: Vec<Key> = world.sets[0].1.clone();
    match rng.below(4) {
        // A set that comes and goes.
        0 => {
            for _ in 0..rng.within(1, 10) {
                let at = rng.below(world.length);
                let most = rng.below(1001);
                let set = all.iter().copied().filter(|_| rng.chance(most)).collect();
                world.sets.push((at, set));
            }
            world.sets.sort_by_key(|(at, _)| *at);
            world.sets[0].1 = all;
        }
        // One half replaces the other.
        1 if all.len() > 1 => {
            let batches = rng.within(1, 8) as usize;
            world.sets = rolling(&all, batches, world.length / 4, world.length / 2);
        }
        _ => {}
    }
}

/// The sets of a deploy in which the second half replaces the first in so many batches, make before break.
pub(crate) fn rolling(all: &[Key], batches: usize, from: Nanos, lasts: Nanos) -> Vec<(Nanos, Vec<Key>)> {
    let half = all.len() / 2;
    let (old, new) = (&all[..half], &all[half..2 * half]);
    let mut sets = vec![(0, old.to_vec())];
    for batch in 0..batches {
        let at = from + lasts * batch as u64 / batches as u64;
        let (before, after) = (half * batch / batches, half * (batch + 1) / batches);
        sets.push((at, [&old[before..], &new[..after]].concat()));
        sets.push((at + lasts / batches as u64 / 2, [&old[after..], &new[..after]].concat()));
    }
    sets
}
