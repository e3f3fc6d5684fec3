//! From a path to the tree that a table has for it.

use std::hint::black_box;

use benches::{dtab, path, run};
use criterion::{BenchmarkId, Criterion};

fn main() {
    run(&[lookup]);
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for entries in [1, 10, 100, 1000] {
        let dtab = dtab(entries);
        // The first entry: it is looked at last.
        let (hit, miss) = (path("/svc/users0/x"), path("/no/such/name"));
        group.bench_with_input(BenchmarkId::new("hit", entries), &dtab, |b, dtab| {
            b.iter(|| dtab.lookup(black_box(&hit)));
        });
        group.bench_with_input(BenchmarkId::new("miss", entries), &dtab, |b, dtab| {
            b.iter(|| dtab.lookup(black_box(&miss)));
        });
    }
    group.finish();
}
