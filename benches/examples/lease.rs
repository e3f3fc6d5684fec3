//! The times of one lease, on one thread and on two, and of an update, for a machine that others use too: the best of
//! many short runs. `lease [MILLISECONDS] [leases|updates]` for each figure, 400 by default; both by default.
//!
//! A run is shorter than a turn on the processor, so that the best ones had it to themselves. Of two threads only those
//! pairs of runs count that began within a quarter of a run of each other, and there have to be some. `benches/pick.rs` has
//! the same with criterion, for a machine that is idle.

use std::{
    hint::{black_box, spin_loop},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use benches::{
    addrs,
    policies::{POLICIES, policy},
};
use linkerd_balance::{Balance, Draw};
use tokio::time::Instant;

/// Leases in a run.
const LEASES: u32 = 1_000;

type Members = Vec<(SocketAddr, f64)>;

/// The best of several runs, and of how many that could be it.
struct Best {
    run: Duration,
    of: u32,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let time = Duration::from_millis(args.next().and_then(|arg| arg.parse().ok()).unwrap_or(400));
    let what = args.next();
    if what.as_deref() != Some("updates") {
        print_leases(time);
    }
    if what.is_none() {
        println!();
    }
    if what.as_deref() != Some("leases") {
        print_updates(time);
    }
}

fn print_leases(time: Duration) {
    println!(
        "| endpoints | policy | one thread, ns | two, a balancer each, ns | two, the same balancer, ns | of one thread | pairs |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|");
    for endpoints in [1, 10, 100, 1000, 10_000] {
        for name in ["p2c", "ewma"] {
            let (shared, other) = (balance(name, endpoints), balance(name, endpoints));
            let one = on_one(&shared, time);
            // What the machine makes of two threads that have nothing in common.
            let (apart, together) = (on_two([&shared, &other], time), on_two([&shared, &shared], time));
            let nanos = |best: &Best| best.run.as_secs_f64() * 1e9 / f64::from(LEASES);
            let cell = |best: &Best| if best.of == 0 { "never".to_owned() } else { format!("{:.0}", nanos(best)) };
            let ratio =
                if together.of == 0 { "?".to_owned() } else { format!("{:.1}", nanos(&together) / nanos(&one)) };
            let (pairs, one, apart, together) = (together.of, cell(&one), cell(&apart), cell(&together));
            println!("| {endpoints} | {name} | {one} | {apart} | {together} | {ratio} | {pairs} |");
        }
    }
}

fn print_updates(time: Duration) {
    println!("| policy | endpoints | another weight, µs | another endpoint, µs | one fewer, one more, µs |");
    println!("|---|--:|--:|--:|--:|");
    for name in POLICIES {
        for endpoints in [100, 1000, 10_000] {
            let plain: Vec<_> = addrs(endpoints).map(|addr| (addr, 1.0)).collect();
            let middle = plain.len() / 2;
            let update = |change: &dyn Fn(&mut Members)| {
                let (balance, mut other) = (balance(name, endpoints), plain.clone());
                change(&mut other);
                let both = best(time, || {
                    // There and back, so that each is a change.
                    balance.update(other.iter().copied()).expect("valid weights");
                    balance.update(plain.iter().copied()).expect("valid weights");
                });
                both.run.as_secs_f64() * 1e6 / 2.0
            };
            let weight = update(&|members| members[middle].1 = 2.0);
            let endpoint = update(&|members| members[middle].0 = SocketAddr::from(([11, 0, 0, 1], 80)));
            let fewer = update(&|members| {
                members.remove(middle);
            });
            println!("| {name} | {endpoints} | {weight:.0} | {endpoint:.0} | {fewer:.0} |");
        }
    }
}

fn balance(name: &str, endpoints: u16) -> Balance<SocketAddr, ()> {
    let balance = Balance::new(policy(name).expect("a policy's name"), |_, _| ());
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
fn best(time: Duration, mut run: impl FnMut()) -> Best {
    let (begun, mut best) = (Instant::now(), Best::none());
    while best.of < 2 || begun.elapsed() < time {
        let start = Instant::now();
        run();
        best.take(start.elapsed());
    }
    best
}

impl Best {
    const fn none() -> Self {
        Self { run: Duration::MAX, of: 0 }
    }

    fn take(&mut self, run: Duration) {
        (self.run, self.of) = (self.run.min(run), self.of + 1);
    }
}

fn on_one(balance: &Balance<SocketAddr, ()>, time: Duration) -> Best {
    let now = Instant::now().into_std();
    best(time, || leases(balance, now))
}

/// The longer one of two runs at the same time; of all pairs of runs the shortest.
fn on_two([here, there]: [&Balance<SocketAddr, ()>; 2], time: Duration) -> Best {
    let now = Instant::now().into_std();
    let (round, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let (epoch, other) = (Instant::now(), Mutex::new((Duration::ZERO, Duration::ZERO)));
    let timed = |balance| {
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
            if spins < 1_000_000 { spin_loop() } else { std::thread::yield_now() }
        }
    };
    let mut best = Best::none();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut met = 0;
            loop {
                meet(met + 2);
                if done.load(Ordering::SeqCst) {
                    return;
                }
                let run = timed(there);
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
            let (start, run) = timed(here);
            meet(met + 4);
            let (other_start, other_run) = *other.lock().expect("no panic");
            // One after the other is not at the same time.
            if start.abs_diff(other_start) < run.min(other_run) / 4 {
                best.take(run.max(other_run));
            }
            met += 4;
        }
    });
    best
}
