//! From a path to bound names: the pure function, and the interpreter that keeps the answer live.

use std::{fmt::Write as _, hint::black_box, sync::Arc};

use benches::{Nowhere, Static, addrs, mounted, path, run, runtime};
use criterion::{BenchmarkId, Criterion};
use linkerd_dtab::{Activity, Dtab, Interpreter, Namer, State, interpreter};

fn main() {
    run(&[pure, live]);
}

/// A name that takes this many lookups to bind, among entries that do not match.
fn chain(depth: usize) -> Dtab {
    let mut text = benches::table(20);
    for n in 1..depth {
        let _ = writeln!(text, "/step{n} => /step{} ;", n + 1);
    }
    let _ = write!(text, "/step{depth} => 3 * /#/static/a & /#/static/b | /$/nil");
    text.parse().expect("a table")
}

fn pure(c: &mut Criterion) {
    let mut group = c.benchmark_group("bind/pure");
    let namer = Static::new(addrs(3));
    // Answered from memory: what is measured is the evaluation.
    let (a, b) = (namer.lookup(&path("/a")).sample(), namer.lookup(&path("/b")).sample());
    let (at_a, at_b) = (path("/#/static/a"), path("/#/static/b"));
    for depth in [1, 5, 50] {
        let (dtab, name) = (chain(depth), path("/step1"));
        group.bench_with_input(BenchmarkId::new("lookups", depth), &dtab, |bencher, dtab| {
            let mut namers = |path: &linkerd_dtab::Path| match path {
                path if *path == at_a => a.clone(),
                path if *path == at_b => b.clone(),
                _ => State::Ok(linkerd_dtab::NameTree::Neg),
            };
            bencher.iter(|| interpreter::evaluate(dtab, black_box(&name), interpreter::MAX_DEPTH, &mut namers));
        });
    }
    group.finish();
}

fn live(c: &mut Criterion) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut group = c.benchmark_group("bind/live");
    let local = interpreter::Local::new(mounted("/#/static", Static::new(addrs(3))), Arc::new(Nowhere));
    for depth in [1, 5, 50] {
        let (dtab, name) = (chain(depth), path("/step1"));
        group.bench_with_input(BenchmarkId::new("lookups", depth), &dtab, |b, dtab| {
            b.iter(|| {
                let tree = runtime.block_on(local.bind(dtab, black_box(&name)).ready());
                assert!(tree.is_ok(), "not bound");
            });
        });
    }
    // A table that changes under a watched name, until the watcher sees it.
    let tables = ["/svc => /#/static/a", "/svc => /#/static/b"].map(|table| table.parse::<Dtab>().expect("a table"));
    let (publisher, table) = Activity::channel();
    publisher.ok(tables[0].clone());
    let watched = local.with_dtab(table);
    group.bench_function("change", |b| {
        let mut tree = watched.bind(&Dtab::empty(), &path("/svc"));
        runtime.block_on(tree.ready()).expect("bound");
        let mut turn = 0;
        b.iter(|| {
            turn ^= 1;
            publisher.ok(tables[turn].clone());
            runtime.block_on(tree.changed());
        });
    });
    group.finish();
}
