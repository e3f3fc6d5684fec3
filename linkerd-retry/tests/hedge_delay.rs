//! What a hedge's percentile is of, and what its share is of.

use std::time::Duration;

use linkerd_retry::hedge::{Hedge, HedgeDelay, HedgeLayer, HedgeRequest};
use tokio::time;
use tokio_test::{assert_pending, task};
use tower::{Service, service_fn};
use tower_layer::Layer;

const MS: Duration = Duration::from_millis(1);
/// More than any test waits.
const HOUR: Duration = Duration::from_hours(1);

/// A request that takes so long, and what comes of it.
#[derive(Clone, Copy)]
struct Req {
    takes: Duration,
    outcome: Result<(), ()>,
    is_retry: bool,
}

#[derive(Clone)]
struct Any;

impl HedgeRequest<Req, (), ()> for Any {
    fn copy(&self, first: &mut Req) -> Option<Req> {
        Some(*first)
    }

    fn counts(&self, first: &Req) -> bool {
        !first.is_retry
    }
}

const fn req(takes: Duration, outcome: Result<(), ()>) -> Req {
    Req { takes, outcome, is_retry: false }
}

fn median() -> HedgeLayer<Any> {
    let delay = HedgeDelay::Percentile { percentile: 50.0, min: MS, max: 500 * MS };
    HedgeLayer::new(Any, delay).unwrap().share(1.0).unwrap()
}

fn service(
    layer: &HedgeLayer<Any>,
) -> Hedge<impl Service<Req, Response = (), Error = (), Future: Send> + Clone + use<>, Any> {
    layer.layer(service_fn(|req: Req| async move {
        time::sleep(req.takes).await;
        req.outcome
    }))
}

/// How long it is until a second request goes out now.
async fn delay(layer: &HedgeLayer<Any>) -> Duration {
    let sent = layer.stats().sent();
    let mut svc = service(layer);
    let mut rsp = task::spawn(svc.call(req(HOUR, Ok(()))));
    assert_pending!(rsp.poll());
    for millis in 1..1000 {
        time::advance(MS).await;
        assert_pending!(rsp.poll());
        if layer.stats().sent() > sent {
            return MS * millis;
        }
    }
    panic!("never");
}

/// A layer that has seen a hundred that took 20 ms and went well.
async fn used() -> HedgeLayer<Any> {
    let layer = median();
    let mut svc = service(&layer);
    for _ in 0..100 {
        svc.call(req(20 * MS, Ok(()))).await.unwrap();
    }
    layer
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_no_measure_of_an_answer() {
    let layer = used().await;
    let before = delay(&layer).await;
    assert!(before > 20 * MS && before < 24 * MS, "{before:?}");
    let mut svc = service(&layer);
    for _ in 0..300 {
        svc.call(req(Duration::ZERO, Err(()))).await.unwrap_err();
    }
    assert_eq!(delay(&layer).await, before);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_early_is_no_measure_and_what_was_given_up_late_is() {
    let layer = used().await;
    let before = delay(&layer).await;
    for _ in 0..300 {
        let given_up = time::timeout(2 * MS, service(&layer).call(req(HOUR, Ok(()))));
        given_up.await.unwrap_err();
    }
    assert_eq!(delay(&layer).await, before);
    for _ in 0..300 {
        let given_up = time::timeout(100 * MS, service(&layer).call(req(HOUR, Ok(()))));
        given_up.await.unwrap_err();
    }
    assert!(delay(&layer).await >= 100 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_share_is_of_requests_and_not_of_attempts() {
    let layer = HedgeLayer::new(Any, HedgeDelay::Fixed(10 * MS)).unwrap();
    let attempts = (0..400).map(|i| Req { is_retry: i % 4 > 0, ..req(20 * MS, Ok(())) });
    let sent: Vec<_> = attempts.map(|req| tokio::spawn(service(&layer).call(req))).collect();
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    // A twentieth of a hundred.
    assert_eq!((layer.stats().sent(), layer.stats().budget_exhausted()), (5, 395));
}
