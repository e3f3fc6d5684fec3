//! What every layer owes to tower: only what was made ready is called, a clone is not ready, and what readiness reserved is
//! given back, however a request ends.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroUsize},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use linkerd_retry::{
    Backoff, Deadline, ResponseClass,
    expire::DeadlineLayer,
    limit::{ConcurrencyLimit, LimitLayer, RateLimit, RateLimitLayer, RateLimited, RateSettings, Rejected, WhenFull},
    requeue::{RequeueLayer, Unsent},
    retry::{RetryLayer, Within},
    timeout::{AttemptElapsed, AttemptTimeoutLayer, Elapsed, TotalTimeoutLayer},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

const MS: Duration = Duration::from_millis(1);
const PERMITS: usize = 2;

#[derive(Debug, PartialEq)]
enum Failed {
    Refused,
    Late,
}

macro_rules! late {
    ($($error:ty),*) => {
        $(impl From<$error> for Failed {
            fn from(_: $error) -> Self {
                Self::Late
            }
        })*
    };
}

late!(Elapsed, AttemptElapsed, Rejected, RateLimited, linkerd_retry::Expired);

impl Unsent<u32> for Failed {
    fn is_unsent(&self) -> bool {
        *self == Self::Refused
    }

    fn take_unsent(self) -> Result<u32, Self> {
        if self == Self::Refused { Ok(0) } else { Err(self) }
    }
}

type Acquire = Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>;

/// Reserves a permit by readiness, and panics if it is called without. It refuses its first request, fails its second,
/// and serves the others.
struct Probe {
    permits: Arc<Semaphore>,
    calls: Arc<AtomicU32>,
    waiting: Option<Acquire>,
    reserved: Option<OwnedSemaphorePermit>,
}

impl Probe {
    fn new() -> Self {
        Self::with(PERMITS)
    }

    fn with(permits: usize) -> Self {
        let (permits, calls) = (Arc::new(Semaphore::new(permits)), Arc::default());
        Self { permits, calls, waiting: None, reserved: None }
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self { permits: self.permits.clone(), calls: self.calls.clone(), waiting: None, reserved: None }
    }
}

impl Service<u32> for Probe {
    type Response = u32;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<u32, Failed>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        if self.reserved.is_none() {
            let permits = self.permits.clone();
            let waiting = self.waiting.get_or_insert_with(|| {
                Box::pin(async move {
                    time::sleep(2 * MS).await;
                    permits.acquire_owned().await.expect("never closed")
                })
            });
            self.reserved = Some(ready!(waiting.as_mut().poll(cx)));
            self.waiting = None;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u32) -> Self::Future {
        let permit = self.reserved.take().expect("called without having been made ready");
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            time::sleep(3 * MS).await;
            drop(permit);
            match call {
                0 => Err(Failed::Refused),
                1 => Ok(500),
                _ => Ok(200),
            }
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The trait's signature.
fn class(_: &u32, rsp: Result<&u32, &Failed>) -> ResponseClass {
    if rsp.is_ok_and(|status| *status < 500) { ResponseClass::Success } else { ResponseClass::RETRYABLE }
}

fn stack(probe: Probe, within: Duration) -> impl Service<u32, Response = u32, Error = Failed, Future: Send> + Clone {
    let deadline = move |_: &u32| Deadline::after(time::Instant::now().into_std(), within);
    ServiceBuilder::new()
        .layer(DeadlineLayer::new(deadline))
        .layer(TotalTimeoutLayer::new(Duration::from_secs(5)))
        .layer(RetryLayer::new(class).backoff(Backoff::constant(5 * MS)).hooks(Within(within)))
        .layer(RequeueLayer::new())
        .layer(AttemptTimeoutLayer::new(Duration::from_secs(1)))
        .service(probe)
}

/// tower-resilience#286 and #362: a clone was called that nobody had made ready, and so was every attempt but the first.
#[tokio::test(start_paused = true)]
async fn tower_resilience_286_and_362_every_attempt_is_made_ready_first() {
    let probe = Probe::new();
    assert_eq!(stack(probe.clone(), Duration::from_secs(1)).oneshot(0).await, Ok(200));
    assert_eq!(probe.calls.load(Ordering::Relaxed), 3);
    assert_eq!(probe.permits.available_permits(), PERMITS);
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_ready_service_is_not_ready_and_does_not_take_its_place() {
    let probe = Probe::new();
    let mut svc = stack(probe.clone(), Duration::from_secs(1));
    svc.ready().await.unwrap();
    let clone = svc.clone();
    assert_eq!(probe.permits.available_permits(), PERMITS - 1);
    assert_eq!(svc.call(0).await, Ok(200));
    assert_eq!(clone.oneshot(0).await, Ok(200));
    drop(svc);
    assert_eq!(probe.permits.available_permits(), PERMITS);
}

/// tower-resilience#367 and #382: what a request had reserved was lost with it.
#[tokio::test(start_paused = true)]
async fn tower_resilience_367_and_382_permits_come_back_wherever_a_request_is_dropped() {
    let mut ends = [0; 2];
    for dropped_at in 0..40 {
        let probe = Probe::new();
        let svc = stack(probe.clone(), Duration::from_secs(1));
        let ended = time::timeout(dropped_at * MS, svc.oneshot(0)).await.is_ok();
        ends[usize::from(ended)] += 1;
        assert_eq!(probe.permits.available_permits(), PERMITS, "dropped at {dropped_at}");
        let calls = probe.calls.load(Ordering::Relaxed);
        time::sleep(100 * MS).await;
        assert_eq!(probe.calls.load(Ordering::Relaxed), calls, "dropped at {dropped_at}");
    }
    // Both ways to end are among them.
    assert!(ends.iter().all(|ends| *ends > 0), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn permits_come_back_whenever_the_deadline_passes() {
    for within in 0..40 {
        let probe = Probe::new();
        let outcome = stack(probe.clone(), within * MS).oneshot(0).await;
        assert!(matches!(outcome, Ok(200 | 500) | Err(Failed::Late | Failed::Refused)), "{within} {outcome:?}");
        assert_eq!(probe.permits.available_permits(), PERMITS, "{within}");
    }
}

/// Who waits for a permit must not hold what who has it waits for.
#[tokio::test(start_paused = true)]
async fn a_limit_above_retries_of_what_readiness_makes_scarce_ends() {
    for when_full in [WhenFull::Block, WhenFull::Queue { capacity: 9, wait: Duration::from_mins(1) }] {
        let probe = Probe::with(1);
        let limit = ConcurrencyLimit::fixed("test", NonZeroUsize::MIN, when_full);
        let svc = ServiceBuilder::new()
            .layer(LimitLayer::new(limit.clone()))
            .layer(RetryLayer::new(class).backoff(Backoff::constant(5 * MS)))
            .layer(RequeueLayer::new())
            .service(probe.clone());
        let both = [svc.clone(), svc].map(|svc| tokio::spawn(svc.oneshot(0)));
        for sent in both {
            let rsp = time::timeout(Duration::from_secs(10), sent).await.expect("it ends").unwrap();
            assert_eq!(rsp, Ok(200));
        }
        assert_eq!((limit.usage().in_flight, probe.permits.available_permits()), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_rate_holds_no_readiness() {
    let probe = Probe::new();
    let settings = RateSettings {
        requests: NonZeroU32::MIN,
        burst: NonZeroU32::MIN,
        max_wait: Duration::from_secs(9),
        ..RateSettings::default()
    };
    let svc = RateLimitLayer::new(RateLimit::new("test", settings).unwrap()).layer(probe.clone());
    let first = tokio::spawn(svc.clone().oneshot(0));
    let second = tokio::spawn(svc.oneshot(0));
    assert_eq!(first.await.unwrap(), Err(Failed::Refused));
    time::sleep(100 * MS).await;
    assert!(!second.is_finished());
    assert_eq!(probe.permits.available_permits(), PERMITS);
    assert_eq!(second.await.unwrap(), Ok(500));
}
