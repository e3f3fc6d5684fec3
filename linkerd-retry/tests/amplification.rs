//! What a backend that fails everything gets to see: by one layer of retries, by three of them, and under any settings.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use linkerd_retry::{
    Backoff, Budget, BudgetSettings, Pushback, Retries, Safety, Stop, Verdict,
    retry::{Cloned, Hooks, Log, Retry, RetryLayer},
};
use proptest::prelude::*;
use tokio::{task::JoinSet, time};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A failure, and whether it says not to try again.
#[derive(Clone, Copy, Debug)]
struct Reply {
    is_last: bool,
}

/// Says to the hop before that this one has used up its budget.
#[derive(Clone, Copy)]
struct Hints(bool);

impl Hooks<(), Reply, Infallible> for Hints {
    fn end(&self, outcome: &mut Result<Reply, Infallible>, log: &Log) {
        if let Ok(reply) = outcome {
            reply.is_last |= self.0 && log.stop() == Some(Stop::BudgetExhausted);
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The trait's signature.
fn failed((): &(), rsp: Result<&Reply, &Infallible>) -> Verdict {
    let failure = Verdict::failure(Safety::Idempotent);
    if rsp.is_ok_and(|reply| reply.is_last) { failure.push_back(Pushback::Never) } else { failure }
}

type Judge = fn(&(), Result<&Reply, &Infallible>) -> Verdict;

fn hop<S>(inner: S, retries: Retries, hints: bool) -> Retry<S, Judge, Cloned, Hints> {
    RetryLayer::new(failed as Judge).retries(retries).hooks(Hints(hints)).layer(inner)
}

fn a_fifth() -> Retries {
    Retries { budget: Budget::new(BudgetSettings::share(0.2)).unwrap(), ..Retries::default() }
}

/// A backend that fails everything, and how often it was asked.
fn backend() -> (Arc<AtomicU32>, impl Service<(), Response = Reply, Error = Infallible, Future: Send> + Clone + Send) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let svc = service_fn(move |()| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(Reply { is_last: false }) }
    });
    (calls, svc)
}

/// 400 requests a second for 30 seconds, and how many each of them became.
async fn amplification<S>(svc: S, calls: &AtomicU32) -> f64
where
    S: Service<(), Response = Reply, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    const REQUESTS: u32 = 400 * 30;
    let mut running = JoinSet::new();
    for _ in 0..REQUESTS {
        running.spawn(svc.clone().oneshot(()));
        time::sleep(Duration::from_micros(2500)).await;
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
    f64::from(calls.load(Ordering::Relaxed)) / f64::from(REQUESTS)
}

#[tokio::test(start_paused = true)]
async fn one_layer_makes_no_more_than_its_share() {
    let (calls, svc) = backend();
    let times = amplification(hop(svc, a_fifth(), false), &calls).await;
    assert!((1.15..=1.25).contains(&times), "{times}");
}

#[tokio::test(start_paused = true)]
async fn three_layers_do_not_multiply_when_they_say_that_their_budgets_are_used_up() {
    for (hints, range) in [(true, 1.15..=1.5), (false, 1.6..=1.73)] {
        let (calls, svc) = backend();
        let svc = hop(hop(hop(svc, a_fifth(), hints), a_fifth(), hints), a_fifth(), hints);
        let times = amplification(svc, &calls).await;
        assert!(range.contains(&times), "{hints}: {times}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However they come, and however they wait: the backend sees the requests, their share, and the reserve of the times.
    #[test]
    fn the_bound_holds_whatever_the_settings(
        bursts in prop::collection::vec((1..200_u32, 0..3000_u64), 1..8),
        percent in 0..=300_u32,
        min_per_sec in 0..5_u32,
        ttl_secs in 1..=5_u64,
        backoff in prop::option::of(1..2000_u64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let ttl = Duration::from_secs(ttl_secs);
            let settings = BudgetSettings { ttl, min_per_sec, percent: f64::from(percent) / 100.0 };
            let budget = Budget::new(settings).unwrap();
            let backoff = backoff.map_or(Backoff::none(), |ms| {
                Backoff::full_jittered(Duration::from_millis(ms), Duration::from_millis(2 * ms)).unwrap()
            });
            let (calls, svc) = backend();
            let svc = hop(svc, Retries { budget: budget.clone(), backoff, ..Retries::default() }, false);
            let start = time::Instant::now();
            let mut running = JoinSet::new();
            let mut requests = 0;
            for (burst, pause) in bursts {
                for _ in 0..burst {
                    running.spawn(svc.clone().oneshot(()));
                }
                requests += burst;
                time::sleep(Duration::from_millis(pause)).await;
                // At any instant, and not only when all is over.
                let sent = u64::from(calls.load(Ordering::Relaxed));
                let rounds = 1 + (start.elapsed().as_nanos() / (ttl * 9 / 10).as_nanos()) as u64;
                let reserve = u64::from(min_per_sec) * ttl_secs * rounds;
                let bound = u64::from(requests) * u64::from(100 + percent) / 100 + reserve;
                prop_assert!(sent <= bound, "{sent} > {bound}");
                let counts = budget.counts();
                prop_assert!(counts.withdrawals + u64::from(requests) <= bound);
            }
            // With a reserve, and a wait long enough for it to come back, what always fails is retried for ever.
            running.abort_all();
            Ok(())
        })?;
    }
}
