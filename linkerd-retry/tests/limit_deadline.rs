//! Who has a deadline waits for no limit past it, and is not sent after it.

use std::{
    future,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use linkerd_retry::{
    Deadline, Delivery, Sent,
    limit::{
        Classify, ConcurrencyLimit, Criticality, LimitLayer, RateLimit, RateLimitLayer, RateLimited, RateSettings,
        Reason, Rejected, WhenFull,
    },
};
use tokio::time;
use tokio_test::{assert_pending, assert_ready_eq, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);
const TOP: Criticality = Criticality::CriticalPlus;

/// Requests that are deadlines.
#[derive(Clone)]
struct Itself;

impl Classify<Deadline> for Itself {
    fn classify(&self, _: &Deadline) -> Criticality {
        TOP
    }

    fn deadline(&self, req: &Deadline) -> Option<Deadline> {
        Some(*req)
    }
}

fn now() -> std::time::Instant {
    time::Instant::now().into_std()
}

fn within(time: Duration) -> Deadline {
    Deadline::after(now(), time).unwrap()
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_past_a_deadline_nor_is_sent_after_it() {
    // When the deadline is, when the permit is free, and what comes of it when somebody looks at that time.
    for (deadline, free, outcome) in [(50, 49, Ok(())), (50, 50, Err(Reason::Late)), (50, 60, Err(Reason::Late))] {
        for when_full in [WhenFull::Queue { capacity: 1, wait: 100 * MS }, WhenFull::Block] {
            let limit = ConcurrencyLimit::fixed("test", NonZeroUsize::MIN, when_full);
            let permit = limit.try_acquire(TOP).unwrap();
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            let svc = LimitLayer::new(limit.clone()).classify_with(Itself).layer(service_fn(move |_: Deadline| {
                counted.fetch_add(1, Ordering::SeqCst);
                future::ready(Ok::<_, BoxError>(()))
            }));
            let mut rsp = task::spawn(svc.oneshot(within(deadline * MS)));
            assert_pending!(rsp.poll());
            time::advance(free * MS).await;
            drop(permit);
            let reason = |err: BoxError| err.downcast::<Rejected>().unwrap().reason;
            assert_ready_eq!(rsp.poll().map(|rsp| rsp.map_err(reason)), outcome, "{deadline} {free} {when_full:?}");
            assert_eq!(calls.load(Ordering::SeqCst), usize::from(outcome.is_ok()));
            assert_eq!((limit.usage().in_flight, limit.usage().queued), (0, 0));
        }
    }
    // Its wait ends with its deadline, whoever looks.
    let limit = ConcurrencyLimit::fixed("test", NonZeroUsize::MIN, WhenFull::Block);
    let _permit = limit.try_acquire(TOP).unwrap();
    let (start, err) = (time::Instant::now(), limit.acquire(TOP).until(within(50 * MS)).await.unwrap_err());
    assert_eq!((err.reason, start.elapsed()), (Reason::Late, 50 * MS));
}

/// Ready while it is told so.
#[derive(Clone)]
struct Gate {
    is_open: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl Service<Deadline> for Gate {
    type Response = ();
    type Error = BoxError;
    type Future = future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.is_open.load(Ordering::SeqCst) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _: Deadline) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_a_permit_and_is_ready_after_the_deadline_is_not_sent() {
    for (ready, sent) in [(49, 1), (50, 0)] {
        let limit = ConcurrencyLimit::fixed("test", NonZeroUsize::MIN, WhenFull::Block);
        let permit = limit.try_acquire(TOP).unwrap();
        let gate = Gate { is_open: Arc::new(true.into()), calls: Arc::default() };
        let svc = LimitLayer::new(limit.clone()).classify_with(Itself).layer(gate.clone());
        let mut rsp = task::spawn(svc.oneshot(within(50 * MS)));
        assert_pending!(rsp.poll());
        gate.is_open.store(false, Ordering::SeqCst);
        drop(permit);
        assert_pending!(rsp.poll());
        assert_eq!(limit.usage().in_flight, 1);
        time::advance(ready * MS).await;
        gate.is_open.store(true, Ordering::SeqCst);
        let reason = |err: BoxError| err.downcast::<Rejected>().unwrap().reason;
        let expected = if sent == 1 { Ok(()) } else { Err(Reason::Late) };
        assert_ready_eq!(rsp.poll().map(|rsp| rsp.map_err(reason)), expected);
        assert_eq!((gate.calls.load(Ordering::SeqCst), limit.usage().in_flight), (sent, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_after_the_deadline_is_not_waited_for_nor_used() {
    // When the deadline is, when somebody looks, and whether it was sent; its turn is at 100 ms.
    for (deadline, looks, sent) in [(101, 100, true), (100, 100, false), (110, 110, false)] {
        let requests = NonZeroU32::new(10).unwrap();
        let settings = RateSettings {
            requests,
            burst: NonZeroU32::MIN,
            max_wait: Duration::from_secs(1),
            ..RateSettings::default()
        };
        let limit = RateLimit::new("test", settings).unwrap();
        limit.try_acquire(TOP, now()).unwrap();
        let layer = RateLimitLayer::new(limit.clone()).classify_with(Itself);
        let mut svc = layer.layer(service_fn(|_| future::ready(Ok::<(), RateLimited>(()))));
        let mut rsp = task::spawn(svc.call(within(deadline * MS)));
        if deadline == 100 {
            let limited = assert_ready_err!(rsp.poll());
            assert_eq!((limited.retry_after, limited.sent()), (100 * MS, Sent::Never));
            // The turn is the next one's.
            assert_eq!(limit.reserve(TOP, now()).unwrap().at(), now() + 100 * MS);
            continue;
        }
        assert_pending!(rsp.poll());
        time::advance(looks * MS).await;
        if sent {
            assert_ready_ok!(rsp.poll());
        } else {
            assert_eq!(assert_ready_err!(rsp.poll()).retry_after, Duration::ZERO);
        }
    }
}
