//! Seeded: do shares follow weights, and loads?

use std::{
    iter,
    time::{Duration, Instant},
};

use linkerd_balance::{Balance, Draw, Heap, Lease, LeastLoaded, P2c, PeakEwma, Policy};

mod chi_square;

use chi_square::p_value;

const MS: Duration = Duration::from_millis(1);
const WEIGHTS: [f64; 6] = [1.0, 1.0, 2.0, 3.0, 0.5, 4.5];
const PICKS: u32 = 100_000;
/// Fewer where each pick also flies and lands.
const FLIGHTS: u32 = 30_000;

fn balance(policy: Policy, weights: &[f64]) -> Balance<usize, ()> {
    let balance = Balance::new(policy, |_: &usize, _: &_| ());
    balance.update(weights.iter().copied().enumerate()).unwrap();
    balance
}

/// Random bits that are the same in every run: xorshift64*, so that they owe nothing to the crate's own generator.
fn draws() -> impl Iterator<Item = Draw> {
    let mut x = 0x2545_F491_4F6C_DD1D_u64;
    iter::repeat_with(move || {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        Draw::new(x.wrapping_mul(0x2545_F491_4F6C_DD1D))
    })
}

#[test]
fn idle_endpoints_share_by_weight() {
    let (balance, now) = (balance(Policy::least_loaded(), &WEIGHTS), tokio::time::Instant::now().into_std());
    let mut seen = [0; WEIGHTS.len()];
    for draw in draws().take(PICKS as usize) {
        seen[*balance.try_acquire(draw, now, &[]).unwrap().key()] += 1;
    }
    let p = p_value(&seen, &WEIGHTS);
    assert!(p > 0.01, "{p}: {seen:?}");
}

#[test]
fn two_endpoints_share_by_weight_too() {
    let (balance, now) = (balance(Policy::least_loaded(), &[1.0, 9.0]), tokio::time::Instant::now().into_std());
    let light = draws().take(PICKS as usize).filter(|draw| *balance.try_acquire(*draw, now, &[]).unwrap().key() == 0);
    let light = light.count();
    assert!((9_800..10_200).contains(&light), "{light}");
}

/// `clients` requests at a time, each `latency` of its endpoint long, [`FLIGHTS`] times.
fn closed_loop(
    balance: &Balance<usize, ()>,
    clients: usize,
    latency: impl Fn(usize) -> Duration,
    mut each: impl FnMut(usize),
) {
    let mut now = tokio::time::Instant::now().into_std();
    let mut flying: Vec<(Instant, Lease<usize, ()>)> = Vec::new();
    for draw in draws().take(FLIGHTS as usize) {
        if flying.len() == clients {
            let first = (0..clients).min_by_key(|i| flying[*i].0).unwrap();
            let (end, lease) = flying.swap_remove(first);
            now = now.max(end);
            lease.end(true, now);
        }
        let lease = balance.try_acquire(draw, now, &[]).unwrap();
        each(*lease.key());
        flying.push((now + latency(*lease.key()), lease));
    }
}

fn within(seen: &[u32], weights: &[f64], tolerance: f64) {
    let total: f64 = weights.iter().sum();
    for (seen_one, weight) in seen.iter().zip(weights) {
        let share = f64::from(*seen_one) / f64::from(FLIGHTS);
        let wanted = weight / total;
        assert!((share - wanted).abs() <= tolerance, "{share} is not {wanted}: {seen:?}");
    }
}

#[test]
fn busy_and_equally_fast_endpoints_share_by_weight() {
    let heaps = [Policy::new(Heap::new(), LeastLoaded::new), Policy::new(Heap::new(), PeakEwma::default)];
    for policy in [Policy::least_loaded(), Policy::peak_ewma()].into_iter().chain(heaps) {
        for weights in [&WEIGHTS[..], &[1.0, 3.0], &[1.0; 3]] {
            // With few in flight a queue of one is long for a light endpoint, and avoiding it costs exactness.
            for (clients, tolerance) in [(1, 0.01), (4, 0.04), (60, 0.01)] {
                let balance = balance(policy.clone(), weights);
                let mut seen = vec![0; weights.len()];
                closed_loop(&balance, clients, |_| 10 * MS, |key| seen[key] += 1);
                within(&seen, weights, tolerance);
            }
        }
    }
}

#[test]
fn ewma_leaves_a_slow_endpoint_alone() {
    let balance = balance(Policy::peak_ewma(), &[1.0; 10]);
    let mut slow = 0;
    closed_loop(&balance, 8, |key| if key == 3 { 500 * MS } else { 5 * MS }, |key| slow += u32::from(key == 3));
    assert!(slow > 0, "it is asked again now and then");
    assert!(slow < FLIGHTS / 500, "{slow}");
}

/// One at a time: endpoint 0 answers in 1 ms with a failure, the other four in 5 ms with a success.
fn failing(policy: Policy) -> u32 {
    let (balance, mut now, mut failed) = (balance(policy, &[1.0; 5]), tokio::time::Instant::now().into_std(), 0);
    for draw in draws().take(1_000) {
        let lease = balance.try_acquire(draw, now, &[]).unwrap();
        let fails = *lease.key() == 0;
        failed += u32::from(fails);
        now += if fails { MS } else { 5 * MS };
        lease.end(!fails, now);
    }
    failed
}

#[test]
fn failing_fast_draws_no_traffic_under_ewma() {
    assert!(failing(Policy::peak_ewma()) <= 30);
    let finagle = Policy::new(P2c::new(), || PeakEwma::default().failure_penalty(Duration::ZERO));
    assert!(failing(finagle) > 300, "without the penalty it draws more than its share");
}
