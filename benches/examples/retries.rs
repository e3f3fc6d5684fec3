//! Requests through the layers of `linkerd-retry`.
//!
//! `retries TIMES [bare]` makes so many, for valgrind to count: the difference of two runs with different `TIMES`, divided
//! by the difference, is what one request costs; less the same with `bare`, it is what the layers do. `retries` by itself
//! prints the times, for a machine that others use too: the best of many runs that are shorter than a turn on the
//! processor. `benches/retry.rs` has the same with criterion, for a machine that is idle.

use std::{hint::black_box, time::Duration};

use benches::retries::{Call, Echo, call, stack};
use linkerd_retry::Deadline;
use tokio::time::Instant;

/// Requests in a run.
const REQUESTS: u32 = 2_000;
const RUNS: u32 = 1_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let deadline = Deadline::at(Instant::now().into_std() + Duration::from_hours(1));
    let request = Call { deadline, status: 200 };
    let (mut bare, mut stack) = (Echo, stack());
    let mut in_bare = || call(&mut bare, black_box(request));
    let mut in_stack = || call(&mut stack, black_box(request));
    let Some(times) = args.first().and_then(|arg| arg.parse::<u32>().ok()) else {
        let (bare, stack) = (best(in_bare), best(in_stack));
        let clock = best(|| {
            black_box(Instant::now());
        });
        println!("bare {bare:.1} ns, all layers {stack:.1} ns, a look at the clock {clock:.1} ns");
        return;
    };
    let is_bare = args.get(1).is_some_and(|arg| arg == "bare");
    (0..times).for_each(|_| if is_bare { in_bare() } else { in_stack() });
}

/// Nanoseconds for one.
fn best(mut one: impl FnMut()) -> f64 {
    let run = |_| {
        let start = Instant::now();
        (0..REQUESTS).for_each(|_| one());
        start.elapsed()
    };
    let best = (0..RUNS).map(run).min().unwrap_or_default();
    best.as_secs_f64() * 1e9 / f64::from(REQUESTS)
}
