//! The times of one lease, on one thread and on two, and of an update, for a machine that others use too: the best of
//! many short runs. `lease [MILLISECONDS]` for each figure, 400 by default.
//!
//! A run is shorter than a turn on the processor, so that the best ones had it to themselves. `benches/pick.rs` has the
//! same with criterion, for a machine that is idle.

use std::{
    hint::{black_box, spin_loop},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use benches::addrs;
use linkerd_balance::{Balance, Draw, Policy};
use tokio::time::Instant;

/// Leases in a run.
const LEASES: u32 = 1_000;

fn main() {
    let millis = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(400);
    let time = Duration::from_millis(millis);
    println!("| endpoints | policy | one thread, ns | two threads, ns |");
    println!("|--:|---|--:|--:|");
    for endpoints in [1, 10, 100, 1000, 10_000] {
        for (name, policy) in [("p2c", Policy::least_loaded()), ("ewma", Policy::peak_ewma())] {
            let balance = balance(policy, endpoints);
            let (one, two) = (on_one(&balance, time), on_two(&balance, time));
            let nanos = |run: Duration| match run {
                Duration::MAX => "never alone".to_owned(),
                _ => format!("{:.0}", run.as_secs_f64() * 1e9 / f64::from(LEASES)),
            };
            println!("| {endpoints} | {name} | {} | {} |", nanos(one), nanos(two));
        }
    }
    println!();
    println!("| endpoints | another weight, µs | another endpoint, µs |");
    println!("|--:|--:|--:|");
    for endpoints in [10, 100, 1000, 10_000] {
        let update = |changed: fn(SocketAddr, f64) -> (SocketAddr, f64)| {
            let balance = balance(Policy::peak_ewma(), endpoints);
            let plain: Vec<_> = addrs(endpoints).map(|addr| (addr, 1.0)).collect();
            let mut other = plain.clone();
            other[0] = changed(other[0].0, other[0].1);
            best(time, || {
                // There and back, so that each is a change.
                balance.update(other.iter().copied()).expect("valid weights");
                balance.update(plain.iter().copied()).expect("valid weights");
            })
        };
        let weight = update(|addr, weight| (addr, 2.0 * weight));
        let endpoint = update(|_, weight| (SocketAddr::from(([11, 0, 0, 1], 80)), weight));
        let micros = |both: Duration| both.as_secs_f64() * 1e6 / 2.0;
        println!("| {endpoints} | {:.1} | {:.1} |", micros(weight), micros(endpoint));
    }
}

fn balance(policy: Policy, endpoints: u16) -> Balance<SocketAddr, ()> {
    let balance = Balance::new(policy, |_, _| ());
    balance.update(addrs(endpoints).map(|addr| (addr, 1.0))).expect("valid weights");
    balance
}

fn leases(balance: &Balance<SocketAddr, ()>, now: std::time::Instant) {
    for _ in 0..LEASES {
        let lease = balance.try_acquire(Draw::random(), black_box(now), &[]).expect("an endpoint");
        lease.end(true, now);
    }
}

/// The shortest of as many runs as the time is enough for.
fn best(time: Duration, mut run: impl FnMut()) -> Duration {
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    while begun.elapsed() < time {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best
}

fn on_one(balance: &Balance<SocketAddr, ()>, time: Duration) -> Duration {
    let now = Instant::now().into_std();
    best(time, || leases(balance, now))
}

/// The longer one of two runs at the same time; of all pairs of runs the shortest.
fn on_two(balance: &Balance<SocketAddr, ()>, time: Duration) -> Duration {
    let now = Instant::now().into_std();
    let (round, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let (epoch, other) = (Instant::now(), Mutex::new((Duration::ZERO, Duration::ZERO)));
    let timed = || {
        let start = epoch.elapsed();
        leases(balance, now);
        (start, epoch.elapsed().saturating_sub(start))
    };
    // Both spin until the other is there: to be woken would take longer than a run.
    let meet = |expected: u32| {
        round.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0;
        while round.load(Ordering::SeqCst) < expected {
            spins += 1;
            // The other one may need this very processor.
            if spins < 10_000 { spin_loop() } else { std::thread::yield_now() }
        }
    };
    let mut best = Duration::MAX;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut met = 0;
            loop {
                meet(met + 2);
                if done.load(Ordering::SeqCst) {
                    return;
                }
                let run = timed();
                *other.lock().expect("no panic") = run;
                meet(met + 4);
                met += 4;
            }
        });
        let (begun, mut met) = (Instant::now(), 0);
        loop {
            done.store(begun.elapsed() > time, Ordering::SeqCst);
            meet(met + 2);
            if done.load(Ordering::SeqCst) {
                return;
            }
            let (start, run) = timed();
            meet(met + 4);
            let (other_start, other_run) = *other.lock().expect("no panic");
            // One after the other is not at the same time.
            if start.abs_diff(other_start) < run.min(other_run) / 4 {
                best = best.min(run.max(other_run));
            }
            met += 4;
        }
    });
    best
}
