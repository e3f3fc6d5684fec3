use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, ServiceExt, service_fn};
use tower_test::mock;

use super::*;

const MS: Duration = Duration::from_millis(1);
type Of = fn(&Option<Deadline>) -> Option<Deadline>;
type Mock = mock::Mock<Option<Deadline>, u32>;
type Handle = mock::Handle<Option<Deadline>, u32>;

#[allow(clippy::trivially_copy_pass_by_ref, clippy::ref_option)] // What the layer asks for.
fn itself(deadline: &Option<Deadline>) -> Option<Deadline> {
    *deadline
}

fn layer() -> DeadlineLayer<Of> {
    DeadlineLayer::new(itself as Of)
}

fn service(layer: &DeadlineLayer<Of>) -> (mock::Spawn<Deadlines<Mock, Of>>, Handle) {
    mock::spawn_layer(layer.clone())
}

fn within(time: Duration) -> Option<Deadline> {
    Deadline::after(Instant::now().into_std(), time)
}

#[tokio::test(start_paused = true)]
async fn what_is_late_already_never_gets_to_the_service() {
    let layer = layer();
    let (mut svc, mut handle) = service(&layer);
    for (deadline, served) in [(within(Duration::ZERO), false), (within(MS), true), (None, true)] {
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call(deadline));
        if served {
            assert_pending!(rsp.poll());
            handle.next_request().await.unwrap().1.send_response(200);
            assert_eq!(assert_ready_ok!(rsp.poll()), 200);
        } else {
            let err = assert_ready_err!(rsp.poll());
            assert_eq!(err.downcast_ref(), Some(&Expired { late: Duration::ZERO, sent: Sent::Never }));
            assert_pending!(handle.poll_request());
        }
    }
    assert_eq!((layer.stats().late(), layer.stats().dropped(), layer.stats().cut()), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_cut_at_the_deadline_and_not_before() {
    let layer = layer();
    let (mut svc, _handle) = service(&layer);
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call(within(100 * MS)));
    assert_pending!(rsp.poll());
    time::advance(99 * MS).await;
    assert_pending!(rsp.poll());
    time::advance(2 * MS).await;
    assert!(rsp.is_woken());
    let err = assert_ready_err!(rsp.poll());
    assert_eq!(err.downcast_ref::<Expired>().map(|expired| expired.sent), Some(Sent::Possibly));
    assert_eq!((layer.stats().late(), layer.stats().dropped(), layer.stats().cut()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_response_wins_a_tie() {
    let (mut svc, mut handle) = service(&layer());
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call(within(MS)));
    assert_pending!(rsp.poll());
    time::advance(10 * MS).await;
    handle.next_request().await.unwrap().1.send_response(200);
    assert_eq!(assert_ready_ok!(rsp.poll()), 200);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_200_ms_off_is_tolerated_and_one_that_is_more_is_not() {
    let layer = layer().tolerance(200 * MS);
    let (mut svc, mut handle) = service(&layer);
    time::advance(Duration::from_secs(1)).await;
    // Its clock is behind ours: what it made to last 100 ms came here as long past.
    for (behind, served) in [(199, true), (200, false), (201, false)] {
        let now = Instant::now().into_std();
        let made = Deadline::at(now.checked_sub(behind * MS).unwrap());
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call(Some(made)));
        assert_eq!(rsp.poll().is_pending(), served, "{behind}");
        if served {
            handle.next_request().await.unwrap().1.send_response(200);
            assert_ready_ok!(rsp.poll());
        }
    }
    // Its clock is ahead of ours by 200 ms, and so is the cut.
    let mut rsp = task::spawn(svc.call(within(300 * MS)));
    assert_pending!(rsp.poll());
    time::advance(499 * MS).await;
    assert_pending!(rsp.poll());
    time::advance(2 * MS).await;
    assert_ready_err!(rsp.poll());
}

#[tokio::test(start_paused = true)]
async fn only_a_share_is_ended_and_the_rest_is_served_whole() {
    let layer = DeadlineLayer::server(itself as Of);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let svc = layer.layer(service_fn(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            time::sleep(MS).await;
            Ok::<_, BoxError>(200)
        }
    }));
    let past = within(Duration::ZERO);
    time::advance(Duration::from_hours(1)).await;
    let mut failed = 0;
    for _ in 0..100 {
        failed += u32::from(svc.clone().oneshot(past).await.is_err());
    }
    assert_eq!((failed, calls.load(Ordering::Relaxed)), (20, 80));
    assert_eq!((layer.stats().late(), layer.stats().dropped(), layer.stats().cut()), (100, 20, 0));
}

#[tokio::test(start_paused = true)]
async fn the_cap_holds_for_what_is_under_way_too() {
    let layer = layer().max_share(0.5).unwrap();
    let svc = layer.layer(service_fn(|_| async {
        time::sleep(10 * MS).await;
        Ok::<_, BoxError>(200)
    }));
    let mut calls: Vec<_> = (0..10).map(|_| task::spawn(svc.clone().oneshot(within(5 * MS)))).collect();
    for rsp in &mut calls {
        assert_pending!(rsp.poll());
    }
    time::advance(6 * MS).await;
    calls.retain_mut(|rsp| rsp.poll().is_pending());
    assert_eq!(calls.len(), 5);
    time::advance(5 * MS).await;
    for rsp in &mut calls {
        assert_ready_ok!(rsp.poll());
    }
    assert_eq!((layer.stats().late(), layer.stats().cut()), (10, 5));
}

#[test]
fn a_share_out_of_range_is_an_error() {
    for share in [-0.1, 1.1, f64::NAN] {
        let text = layer().max_share(share).unwrap_err().to_string();
        assert_eq!(text, format!("the share of requests that may be ended must be from 0 to 1, not {share}"));
    }
    assert!(layer().max_share(0.0).is_ok() && layer().max_share(1.0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_drops_the_call_and_counts_nothing() {
    let layer = layer();
    let (mut svc, mut handle) = service(&layer);
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call(within(5 * MS)));
    assert_pending!(rsp.poll());
    drop(rsp);
    let (_, reply) = handle.next_request().await.unwrap();
    time::advance(10 * MS).await;
    reply.send_response(200);
    assert_eq!((layer.stats().late(), layer.stats().dropped()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inner_services_and_costs_no_time() {
    let (mut svc, mut handle) = service(&layer());
    handle.allow(0);
    assert_pending!(svc.poll_ready::<Option<Deadline>>());
    handle.allow(1);
    assert_ready_ok!(svc.poll_ready::<Option<Deadline>>());
}
