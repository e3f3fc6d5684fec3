//! What retries cost those who do not need them, and what a budget costs.

use std::{convert::Infallible, hint::black_box, time::Duration};

use benches::{
    retries::{Call, Echo, call, stack},
    run, runtime,
};
use criterion::Criterion;
use linkerd_retry::{Budget, BudgetSettings, Deadline, ResponseClass, retry::RetryLayer};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

fn main() {
    run(&[budget, retry, ready]);
}

fn budget(c: &mut Criterion) {
    let mut group = c.benchmark_group("budget");
    let now = Instant::now().into_std();
    let budget = Budget::default();
    group.bench_function("deposit", |b| b.iter(|| budget.deposit(black_box(now))));
    group.bench_function("deposit_and_withdraw", |b| {
        b.iter(|| {
            budget.deposit(black_box(now));
            budget.try_withdraw(black_box(now))
        });
    });
    let empty = Budget::new(BudgetSettings::share(0.0)).expect("valid settings");
    group.bench_function("refusal", |b| b.iter(|| empty.try_withdraw(black_box(now))));
    group.finish();
}

fn retry(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("retry");
    // The request says how often it fails: its copies share the count.
    let classify = |_: &u32, rsp: Result<&bool, &Infallible>| match rsp {
        Ok(true) => ResponseClass::Success,
        _ => ResponseClass::RETRYABLE,
    };
    for failures in [0, 1] {
        let layer =
            RetryLayer::new(classify).budget(Budget::new(BudgetSettings::share(1000.0)).expect("valid settings"));
        let mut calls = 0_u32;
        let mut svc = layer.layer(service_fn(move |failures: u32| {
            let is_last = calls >= failures;
            calls = if is_last { 0 } else { calls + 1 };
            std::future::ready(Ok::<_, Infallible>(is_last))
        }));
        group.bench_function(format!("{failures}_failures"), |b| {
            b.iter(|| {
                let rsp = runtime.block_on(async { svc.ready().await?.call(black_box(failures)).await });
                assert!(matches!(rsp, Ok(true)), "{rsp:?}");
            });
        });
    }
    group.finish();
}

/// What all the layers cost a request that is answered at once: the difference of the two.
fn ready(c: &mut Criterion) {
    let mut group = c.benchmark_group("ready");
    let deadline = Deadline::at(Instant::now().into_std() + Duration::from_hours(1));
    let request = Call { deadline, status: 200 };
    let (mut bare, mut stack) = (Echo, stack());
    group.bench_function("bare", |b| b.iter(|| call(&mut bare, black_box(request))));
    group.bench_function("stack", |b| b.iter(|| call(&mut stack, black_box(request))));
    group.finish();
}
