//! From text to a delegation table, and back.

use std::hint::black_box;

use benches::{dtab, run, table};
use criterion::{BenchmarkId, Criterion, Throughput};
use linkerd_dtab::{Dtab, Path};

fn main() {
    run(&[parse, show]);
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for entries in [1, 10, 100, 1000] {
        let text = table(entries);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::new("dtab", entries), &text, |b, text| {
            b.iter(|| black_box(text).parse::<Dtab>());
        });
    }
    let path = "/svc/1.1/GET/users.example.com";
    group.throughput(Throughput::Bytes(path.len() as u64));
    group.bench_function("path", |b| b.iter(|| black_box(path).parse::<Path>()));
    group.finish();
}

fn show(c: &mut Criterion) {
    let dtab = dtab(100);
    c.bench_function("show/dtab/100", |b| b.iter(|| black_box(&dtab).to_string()));
}
