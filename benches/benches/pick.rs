//! One lease of one endpoint out of many: the pick, and saying how it went.

use std::hint::black_box;

use benches::{addrs, run};
use criterion::{BenchmarkId, Criterion};
use linkerd_balance::{Balance, Draw, Policy};
use tokio::time::Instant;

fn main() {
    run(&[pick, update]);
}

fn policies() -> [(&'static str, Policy); 2] {
    [("least_loaded", Policy::least_loaded()), ("ewma", Policy::peak_ewma())]
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for (name, policy) in policies() {
        for endpoints in [1, 10, 1000] {
            let balance = Balance::new(policy.clone(), |_, _| ());
            balance.update(addrs(endpoints).map(|addr| (addr, 1.0))).expect("valid weights");
            group.bench_with_input(BenchmarkId::new(name, endpoints), &balance, |b, balance| {
                // The caller's clock: reading it is not the pick's.
                let now = Instant::now().into_std();
                b.iter(|| {
                    let lease = balance.try_acquire(Draw::random(), black_box(now), &[]).expect("an endpoint");
                    lease.end(true, now);
                });
            });
        }
    }
    group.finish();
}

fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("update");
    for endpoints in [10, 1000] {
        let balance = Balance::new(Policy::peak_ewma(), |_, _| ());
        group.bench_function(BenchmarkId::new("one_weight", endpoints), |b| {
            let mut weight = 1.0;
            b.iter(|| {
                weight = 3.0 - weight;
                let weights = addrs(endpoints).enumerate().map(|(n, addr)| (addr, if n == 0 { weight } else { 1.0 }));
                balance.update(weights)
            });
        });
    }
    group.finish();
}
