//! Hedging under load: what it costs when everything is slow, and what it gains when little is.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use linkerd_retry::hedge::{Hedge, HedgeDelay, HedgeLayer, HedgeRequest};
use tokio::time;
use tower::{BoxError, Service};
use tower_layer::Layer;

const MS: Duration = Duration::from_millis(1);

/// Takes as long as it is told to.
#[derive(Clone, Default)]
struct Backend {
    calls: Arc<AtomicU64>,
    slow_every: u64,
    fast: Duration,
    slow: Duration,
}

impl Service<()> for Backend {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let slow = self.slow_every > 0 && number.is_multiple_of(self.slow_every);
        let time = if slow { self.slow } else { self.fast };
        Box::pin(async move {
            time::sleep(time).await;
            Ok(())
        })
    }
}

/// Sends 400 a second for so many seconds, and returns how long they took, sorted.
async fn drive<H>(svc: &Hedge<Backend, H>, secs: u32) -> Vec<Duration>
where
    H: HedgeRequest<(), (), BoxError> + Send + Sync + 'static,
{
    let mut calls = Vec::new();
    for _ in 0..400 * secs {
        let mut svc = svc.clone();
        calls.push(tokio::spawn(async move {
            let began = time::Instant::now();
            svc.call(()).await.unwrap();
            began.elapsed()
        }));
        time::sleep(Duration::from_micros(2500)).await;
    }
    let mut took = Vec::new();
    for call in calls {
        took.push(call.await.unwrap());
    }
    took.sort_unstable();
    took
}

const P95: HedgeDelay = HedgeDelay::Percentile { percentile: 95.0, min: MS, max: Duration::from_secs(1) };

#[tokio::test(start_paused = true)]
async fn when_everything_gets_slow_there_are_five_percent_more_requests_at_most() {
    for delay in [HedgeDelay::Fixed(50 * MS), P95] {
        let layer = HedgeLayer::new(|(): &()| Some(()), delay).unwrap();
        let backend = Backend { fast: 10 * MS, ..Backend::default() };
        drive(&layer.layer(backend), 10).await;
        let sent = layer.stats().sent();
        assert!(sent <= 200, "{sent} before");
        let slow = Backend { fast: 2000 * MS, ..Backend::default() };
        drive(&layer.layer(slow.clone()), 20).await;
        let calls = slow.calls.load(Ordering::Relaxed);
        // And what the ten seconds before had earned.
        assert!(calls <= 8000 + 8000 / 20 + 200, "{delay:?}: {calls}");
        assert_eq!(calls, 8000 + layer.stats().sent() - sent);
        assert!(layer.stats().budget_exhausted() > 1000 || delay == P95);
    }
}

#[tokio::test(start_paused = true)]
async fn a_percentile_finds_the_slow_ones_and_cuts_the_tail() {
    let layer = HedgeLayer::new(|(): &()| Some(()), P95).unwrap();
    let backend = Backend { slow_every: 51, fast: 10 * MS, slow: 900 * MS, ..Backend::default() };
    let svc = layer.layer(backend.clone());
    // Until a hundred were seen, it waits for the longest.
    drive(&svc, 5).await;
    let took = drive(&svc, 20).await;
    let p99 = took[took.len() * 99 / 100];
    assert!(p99 < 40 * MS, "{p99:?}");
    let extra = backend.calls.load(Ordering::Relaxed) - 10_000;
    assert!((150..=500).contains(&extra), "{extra}");
}

#[tokio::test(start_paused = true)]
async fn requests_that_were_given_up_count_for_as_long_as_they_took() {
    let layer = HedgeLayer::new(|(): &()| Some(()), P95).unwrap().share(1.0).unwrap();
    drive(&layer.layer(Backend { fast: 10 * MS, ..Backend::default() }), 1).await;
    // From here on nobody gets an answer, nor waits for one.
    let mut svc = layer.layer(Backend { fast: Duration::from_hours(1), ..Backend::default() });
    for _ in 0..100 {
        time::timeout(500 * MS, svc.call(())).await.unwrap_err();
    }
    let sent = layer.stats().sent();
    // So half a second is what is usual now.
    time::timeout(400 * MS, svc.call(())).await.unwrap_err();
    assert_eq!(layer.stats().sent(), sent);
}
