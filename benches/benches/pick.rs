//! One lease of one endpoint out of many: the pick, and saying how it went; on one thread and on two; and what it costs
//! to change the set meanwhile.

use std::{
    hint::black_box,
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use benches::{addrs, run};
use criterion::{BenchmarkId, Criterion};
use linkerd_balance::{Balance, Draw, Policy};
use tokio::time::Instant;

const SIZES: [u16; 5] = [1, 10, 100, 1000, 10_000];

fn main() {
    run(&[pick, two_threads, update, pick_while_updating]);
}

fn policies() -> [(&'static str, Policy); 2] {
    [("least_loaded", Policy::least_loaded()), ("ewma", Policy::peak_ewma())]
}

fn balance(policy: &Policy, endpoints: u16) -> Balance<SocketAddr, ()> {
    let balance = Balance::new(policy.clone(), |_, _| ());
    balance.update(addrs(endpoints).map(|addr| (addr, 1.0))).expect("valid weights");
    balance
}

fn lease(balance: &Balance<SocketAddr, ()>, now: std::time::Instant) {
    let lease = balance.try_acquire(Draw::random(), black_box(now), &[]).expect("an endpoint");
    lease.end(true, now);
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for (name, policy) in policies() {
        for endpoints in SIZES {
            let balance = balance(&policy, endpoints);
            group.bench_with_input(BenchmarkId::new(name, endpoints), &balance, |b, balance| {
                // The caller's clock: reading it is not the pick's.
                let now = Instant::now().into_std();
                b.iter(|| lease(balance, now));
            });
        }
    }
    group.finish();
}

/// The time of one of two threads that pick from the same balancer at once.
fn two_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick_2_threads");
    for (name, policy) in policies() {
        for endpoints in SIZES {
            let balance = balance(&policy, endpoints);
            group.bench_with_input(BenchmarkId::new(name, endpoints), &balance, |b, balance| {
                let now = Instant::now().into_std();
                b.iter_custom(|n| {
                    let start = Barrier::new(2);
                    let work = || {
                        start.wait();
                        let begun = Instant::now();
                        (0..n).for_each(|_| lease(balance, now));
                        begun.elapsed()
                    };
                    std::thread::scope(|scope| {
                        let other = scope.spawn(work);
                        let here = work();
                        let there = other.join().expect("no panic");
                        here.max(there)
                    })
                });
            });
        }
    }
    group.finish();
}

fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("update");
    for endpoints in SIZES {
        let balance = Balance::new(Policy::peak_ewma(), |_, _| ());
        // As discovery has it: all of them, one changed.
        let sets = [1.0, 2.0].map(|first| {
            let weight = |n| if n == 0 { first } else { 1.0 };
            addrs(endpoints).enumerate().map(|(n, addr)| (addr, weight(n))).collect::<Vec<_>>()
        });
        group.bench_function(BenchmarkId::new("one_weight", endpoints), |b| {
            let mut turn = 0;
            b.iter(|| {
                turn = 1 - turn;
                balance.update(sets[turn].iter().copied())
            });
        });
    }
    group.finish();
}

/// The longest of many picks while another thread changes one of 10,000 endpoints again and again: pickers do not wait.
fn pick_while_updating(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick_while_updating");
    let balance = balance(&Policy::peak_ewma(), 10_000);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut weight = 1.0;
            while !done.load(Ordering::Relaxed) {
                weight = 3.0 - weight;
                let members = addrs(10_000).enumerate().map(|(n, addr)| (addr, if n == 0 { weight } else { 1.0 }));
                balance.update(members).expect("valid weights");
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        group.bench_function("ewma/10000", |b| {
            let now = Instant::now().into_std();
            b.iter(|| lease(&balance, now));
        });
        done.store(true, Ordering::Relaxed);
    });
    group.finish();
}
