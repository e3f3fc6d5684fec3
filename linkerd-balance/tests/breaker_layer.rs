//! A breaker over a service, by many at once.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use linkerd_balance::{
    BalanceService, Breaker, BreakerLayer, Health, Phase, Policy, Rejection, Status,
    accrual::{Backoff, ConsecutiveFailures},
};
use tokio::sync::Barrier;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

const CLONES: usize = 1000;
const PROBES: u32 = 3;

/// The backoff is over at once, so all that is open is half open: whatever gets through is a probe.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_clones_never_have_more_probes_under_way_than_allowed() {
    let (under_way, most, sent) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let counted = (Arc::clone(&under_way), Arc::clone(&most), Arc::clone(&sent));
    let failing = service_fn(move |()| {
        let (under_way, most, sent) = counted.clone();
        async move {
            sent.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            under_way.fetch_sub(1, Ordering::SeqCst);
            Err::<(), BoxError>("broken".into())
        }
    });
    let breaker = Breaker::builder(Box::new(ConsecutiveFailures::new(NonZeroU32::MIN)))
        .backoff(Backoff::constant(Duration::from_nanos(1)).unwrap())
        .max_probes(NonZeroU32::new(PROBES).unwrap())
        .build();
    let svc = BreakerLayer::new(breaker.clone()).layer(failing);
    svc.clone().oneshot(()).await.unwrap_err();
    assert_ne!(breaker.phase(), Phase::Alive);

    let barrier = Arc::new(Barrier::new(CLONES));
    let tasks: Vec<_> = (0..CLONES)
        .map(|_| {
            let (svc, barrier) = (svc.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                let mut rejected = 0;
                for _ in 0..5 {
                    let error = svc.clone().oneshot(()).await.unwrap_err();
                    rejected += usize::from(error.is::<Rejection>());
                }
                rejected
            })
        })
        .collect();
    let mut rejected = 0;
    for task in tasks {
        rejected += task.await.unwrap();
    }
    let most = most.load(Ordering::SeqCst);
    assert!((1..=PROBES as usize).contains(&most), "{most} probes at once");
    assert_eq!(rejected + sent.load(Ordering::SeqCst), 5 * CLONES + 1);
    assert_eq!(breaker.counters().probes(), sent.load(Ordering::SeqCst) as u64 - 1);
}

/// They were ready before the first of them was sent, and are as many as are asked for all the same.
#[tokio::test]
async fn who_is_ready_while_it_is_half_open_is_no_probe_for_that() {
    let hanging = service_fn(|()| std::future::pending::<Result<(), BoxError>>());
    let breaker = Breaker::builder(Box::new(ConsecutiveFailures::new(NonZeroU32::MIN)))
        .backoff(Backoff::constant(Duration::from_nanos(1)).unwrap())
        .build();
    let now = tokio::time::Instant::now().into_std();
    breaker.admit(now).record(false, now);
    let svc = BreakerLayer::new(breaker).layer(hanging);
    let mut ready = [svc.clone(), svc.clone(), svc];
    for svc in &mut ready {
        svc.ready().await.unwrap();
    }
    let mut sent: Vec<_> = ready.iter_mut().map(|svc| tokio_test::task::spawn(svc.call(()))).collect();
    let outcomes: Vec<_> = sent.iter_mut().map(|sent| sent.poll().is_ready()).collect();
    assert_eq!(outcomes, [false, true, true], "one probe, and who is rejected");
}

/// Two endpoints that refuse everything, below a balancer, each with a breaker that opens at the first failure: what
/// becomes of ten requests, and how many arrive.
async fn below_a_balancer(layer: fn(Breaker) -> BreakerLayer) -> (Vec<String>, usize, Vec<Status>) {
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&arrived);
    let new_endpoint = move |_: &u16, health: &Health| {
        let accrual = ConsecutiveFailures::new(NonZeroU32::MIN);
        let arrived = Arc::clone(&counted);
        let refusing = service_fn(move |()| {
            arrived.fetch_add(1, Ordering::SeqCst);
            async { Err::<(), BoxError>("refused".into()) }
        });
        layer(Breaker::builder(Box::new(accrual)).health(health.clone()).build()).layer(refusing)
    };
    let svc = BalanceService::fixed(Policy::least_loaded(), [(0_u16, 1.0), (1, 1.0)], new_endpoint).unwrap();
    let mut errors = Vec::new();
    for _ in 0..10 {
        errors.push(svc.clone().oneshot(()).await.unwrap_err().to_string());
    }
    let now = tokio::time::Instant::now().into_std();
    let status = svc.balance().endpoints(now).iter().map(|info| info.status).collect();
    (errors, arrived.load(Ordering::SeqCst), status)
}

#[tokio::test(start_paused = true)]
async fn below_a_balancer_one_that_observes_lets_it_fail_open() {
    let (errors, arrived, status) = below_a_balancer(|breaker| BreakerLayer::new(breaker).observing()).await;
    assert!(errors.iter().all(|error| error.contains("refused")), "{errors:?}");
    assert_eq!((arrived, status), (10, vec![Status::Busy; 2]));
    // What it is not for.
    let (errors, arrived, _) = below_a_balancer(BreakerLayer::new).await;
    assert!(errors[2..].iter().all(|error| error.contains("open")), "{errors:?}");
    assert_eq!(arrived, 2);
}
