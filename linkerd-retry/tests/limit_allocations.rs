//! Limits and hedging allocate nothing for a request that is let in at once and answered in time.

use std::{future, num::NonZeroUsize, time::Duration};

use linkerd_retry::{
    hedge::{HedgeDelay, HedgeLayer},
    limit::{
        AdaptiveSettings, ConcurrencyLimit, Criticality, LimitLayer, RateLimit, RateLimitLayer, RateLimited,
        RateSettings, Rejected, WhenFull,
    },
};
use tokio_test::{assert_ready, task};
use tower::{Service, ServiceBuilder, service_fn};

#[derive(Debug)]
struct Failed;

impl From<Rejected> for Failed {
    fn from(_: Rejected) -> Self {
        Self
    }
}

impl From<RateLimited> for Failed {
    fn from(_: RateLimited) -> Self {
        Self
    }
}

/// Allocations of a call and its response, after as many calls to warm up.
fn allocations<S: Service<u32, Error = Failed>>(mut svc: S, warm_up: u32) -> u64 {
    // The task is ours, so it is not counted.
    let mut task = task::spawn(());
    let mut call = move || {
        task.enter(|cx, _| {
            let mut rsp = std::pin::pin!(svc.call(1));
            assert!(assert_ready!(rsp.as_mut().poll(cx)).is_ok());
        });
    };
    (0..warm_up).for_each(|_| call());
    allocation_counter::measure(|| (0..1000).for_each(|_| call())).count_total
}

#[test]
fn limits_and_hedging_allocate_nothing_for_a_response_in_time() {
    let queue = WhenFull::Queue { capacity: 10, wait: Duration::from_millis(10) };
    let fixed = ConcurrencyLimit::fixed("fixed", NonZeroUsize::MIN, queue);
    let adaptive = ConcurrencyLimit::adaptive("adaptive", AdaptiveSettings::default(), queue).unwrap();
    let burst = std::num::NonZeroU32::MAX;
    let rate = RateLimit::new("rate", RateSettings { burst, ..RateSettings::default() }).unwrap();
    let backend = || service_fn(|req: u32| future::ready(Ok::<_, Failed>(req)));
    let stack = ServiceBuilder::new()
        .layer(LimitLayer::new(fixed).classify_with(|_: &u32| Criticality::Sheddable))
        .layer(RateLimitLayer::new(rate))
        .layer(LimitLayer::new(adaptive))
        .service(backend());
    assert_eq!(allocations(stack, 10), 0);

    let (min, max) = (Duration::from_millis(1), Duration::from_secs(1));
    for delay in [HedgeDelay::Fixed(max), HedgeDelay::Percentile { percentile: 95.0, min, max }] {
        let hedge = HedgeLayer::new(|req: &u32| Some(*req), delay).unwrap();
        assert_eq!(allocations(ServiceBuilder::new().layer(hedge).service(backend()), 200), 0);
    }
}

#[test]
fn futures_can_be_spawned() {
    fn assert_send<T: Send>(_: &T) {}
    let limit = ConcurrencyLimit::fixed("fixed", NonZeroUsize::MIN, WhenFull::Block);
    assert_send(&limit.acquire(Criticality::Critical));
    let hedge = HedgeLayer::new(|req: &u32| Some(*req), HedgeDelay::Fixed(Duration::ZERO)).unwrap();
    let rate = RateLimit::new("rate", RateSettings::default()).unwrap();
    let mut svc = ServiceBuilder::new()
        .layer(LimitLayer::new(limit))
        .layer(RateLimitLayer::new(rate))
        .layer(hedge)
        .service(service_fn(|req: u32| future::ready(Ok::<_, Failed>(req))));
    assert_send(&svc.call(1));
}
