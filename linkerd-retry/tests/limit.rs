//! Concurrency limits as their users see them: strict, fair, and with every permit back.

use std::{
    convert::Infallible,
    future::{self, Future},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake},
    time::Duration,
};

use linkerd_retry::{
    Delivery, Sent,
    limit::{
        Acquire, AdaptiveSettings, ConcurrencyLimit, Criticality, LimitLayer, Outcome, Permit, Reason, Rejected,
        Shares, WhenFull,
    },
};
use proptest::prelude::*;
use tokio::time;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_layer::Layer;
use tower_test::mock;

const MS: Duration = Duration::from_millis(1);
const WAIT: Duration = Duration::from_millis(100);
const TOP: Criticality = Criticality::CriticalPlus;

fn limit(limit: usize, when_full: WhenFull) -> ConcurrencyLimit {
    ConcurrencyLimit::fixed("test", NonZeroUsize::new(limit).unwrap(), when_full)
}

fn queue(capacity: usize) -> WhenFull {
    WhenFull::Queue { capacity, wait: WAIT }
}

fn acquire(limit: &ConcurrencyLimit, class: Criticality) -> task::Spawn<Acquire> {
    task::spawn(limit.acquire(class))
}

/// In flight and queued.
fn used(limit: &ConcurrencyLimit) -> (usize, usize) {
    let usage = limit.usage();
    (usage.in_flight, usage.queued)
}

#[tokio::test]
async fn rejects_at_the_limit_and_not_before() {
    let limit = limit(2, WhenFull::Reject);
    let first = assert_ready_ok!(acquire(&limit, TOP).poll());
    let _second = limit.try_acquire(TOP).unwrap();
    let err = assert_ready_err!(acquire(&limit.clone(), TOP).poll());
    assert_eq!(
        err.to_string(),
        "limit test is full: 2 of 2 in flight, 0 queued, class critical_plus; nothing of the request was sent"
    );
    assert!(err.is_unsent());
    assert_eq!((err.sent(), err.bytes_written()), (Sent::Never, Some(0)));
    drop(first);
    drop(assert_ready_ok!(acquire(&limit, TOP).poll()));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_first_come_first_served_and_nobody_barges_in() {
    let limit = limit(1, queue(10));
    let permit = limit.try_acquire(TOP).unwrap();
    let (mut one, mut two) = (acquire(&limit, TOP), acquire(&limit, TOP));
    assert_pending!(one.poll());
    assert_pending!(two.poll());
    drop(permit);
    assert!(one.is_woken() && !two.is_woken());
    // It is theirs already, whoever asks first.
    assert_eq!(limit.try_acquire(TOP).unwrap_err().reason, Reason::Full);
    assert_pending!(two.poll());
    let permit = assert_ready_ok!(one.poll());
    drop(permit);
    drop(assert_ready_ok!(two.poll()));
    assert_eq!(used(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn waits_until_its_limit_and_no_longer() {
    let limit = limit(1, queue(10));
    let permit = limit.try_acquire(TOP).unwrap();
    let (mut late, mut lucky) = (acquire(&limit, TOP), acquire(&limit, TOP));
    assert_pending!(late.poll());
    time::advance(WAIT.saturating_sub(MS)).await;
    assert_pending!(late.poll());
    assert_pending!(lucky.poll());
    time::advance(2 * MS).await;
    assert!(late.is_woken());
    let err = assert_ready_err!(late.poll());
    assert_eq!((err.reason, err.queued), (Reason::Waited(WAIT), 1));
    // A permit that comes together with the limit is taken.
    time::advance(WAIT).await;
    drop(permit);
    drop(assert_ready_ok!(lucky.poll()));
    assert_eq!(used(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_rejects_and_no_queue_is_no_wait() {
    let short = limit(1, queue(1));
    let _permit = short.try_acquire(TOP).unwrap();
    let mut waiting = acquire(&short, TOP);
    assert_pending!(waiting.poll());
    let err = assert_ready_err!(acquire(&short, TOP).poll());
    assert_eq!((err.reason, err.queued), (Reason::QueueFull, 1));

    let none = limit(1, queue(0));
    let _permit = none.try_acquire(TOP).unwrap();
    assert_eq!(assert_ready_err!(acquire(&none, TOP).poll()).reason, Reason::Full);
}

#[tokio::test(start_paused = true)]
async fn blocking_waits_for_as_long_as_it_takes() {
    let limit = limit(1, WhenFull::Block);
    let permit = limit.try_acquire(TOP).unwrap();
    let mut waiting = acquire(&limit, TOP);
    assert_pending!(waiting.poll());
    time::advance(Duration::from_hours(24)).await;
    assert_pending!(waiting.poll());
    drop(permit);
    assert!(waiting.is_woken());
    drop(assert_ready_ok!(waiting.poll()));
}

#[tokio::test(start_paused = true)]
async fn higher_classes_go_first_and_displace_the_last_of_the_lowest() {
    use Criticality::{Critical, CriticalPlus, Sheddable};
    let limit = limit(1, queue(3)).with_shares(Shares::WHOLE);
    let permit = limit.try_acquire(Sheddable).unwrap();
    let mut waiting: Vec<_> = [Sheddable, Sheddable, Critical].map(|class| acquire(&limit, class)).into();
    for acquire in &mut waiting {
        assert_pending!(acquire.poll());
    }
    // As low as the lowest: no place.
    assert_eq!(assert_ready_err!(acquire(&limit, Sheddable).poll()).reason, Reason::QueueFull);
    let mut top = acquire(&limit, CriticalPlus);
    assert_pending!(top.poll());
    assert!(waiting[1].is_woken() && !waiting[0].is_woken());
    assert_eq!(assert_ready_err!(waiting[1].poll()).reason, Reason::Displaced);
    drop(permit);
    drop(assert_ready_ok!(top.poll()));
    drop(assert_ready_ok!(waiting[2].poll()));
    drop(assert_ready_ok!(waiting[0].poll()));
    assert_eq!(used(&limit), (0, 0));
}

#[test]
fn a_class_leaves_room_for_those_above_it() {
    let limit = limit(100, WhenFull::Reject);
    let mut permits = Vec::new();
    let mut fill = |class| {
        while let Ok(permit) = limit.try_acquire(class) {
            permits.push(permit);
        }
        permits.len()
    };
    assert_eq!(Criticality::ALL.map(&mut fill), [80, 88, 97, 100]);
}

#[test]
fn ten_thousand_idle_ready_clones_hold_nothing() {
    let limit = limit(1, WhenFull::Reject);
    let svc = LimitLayer::new(limit.clone()).layer(service_fn(|()| future::pending::<Result<(), Rejected>>()));
    let mut clones: Vec<_> = (0..10_000).map(|_| task::spawn(svc.clone())).collect();
    for clone in &mut clones {
        assert_ready_ok!(clone.enter(|cx, mut svc| svc.poll_ready(cx)));
    }
    assert_eq!(used(&limit), (0, 0));
    let rsp = clones[0].call(());
    assert_eq!(used(&limit), (1, 0));
    let err = assert_ready_err!(task::spawn(clones[1].call(())).poll());
    assert_eq!(err.reason, Reason::Full);
    drop(rsp);
    assert_eq!(used(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_connection_that_sends_all_and_a_thousand_that_send_one_each_are_shed_alike() {
    for connections in [1, 1000] {
        let limit = limit(10, WhenFull::Reject);
        let layer = LimitLayer::new(limit.clone());
        let backend = || service_fn(|()| future::pending::<Result<(), BoxError>>());
        let mut svcs: Vec<_> = (0..connections).map(|_| layer.layer(backend())).collect();
        let mut calls: Vec<_> = (0..1000).map(|i| task::spawn(svcs[i % connections].call(()))).collect();
        calls.retain_mut(|rsp| rsp.poll().is_pending());
        assert_eq!((calls.len(), used(&limit)), (10, (10, 0)), "{connections}");
    }
}

/// tower-resilience#368: what threads told a limit at the same time overwrote each other.
#[test]
fn tower_resilience_368_of_what_many_threads_report_nothing_is_lost() {
    let settings = AdaptiveSettings { window: 10_000, ..AdaptiveSettings::default() };
    let limit = ConcurrencyLimit::adaptive("test", settings, WhenFull::Reject).unwrap();
    let held: Vec<_> = (0..20).map(|_| limit.try_acquire(TOP).unwrap()).collect();
    limit.try_acquire(TOP).unwrap_err();
    drop(held);
    let report = |times: usize| {
        for _ in 0..times {
            limit.try_acquire(TOP).unwrap().report(Outcome::Overloaded);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| report(3333));
        }
    });
    assert_eq!(limit.usage().limit, 20);
    report(1);
    assert_eq!(limit.usage().limit, 17);
    assert_eq!(used(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_sent_when_its_turn_comes_and_not_before() {
    let limit = limit(1, queue(1));
    let (mut svc, mut handle) = mock::spawn_layer::<&str, u32, _>(LimitLayer::new(limit.clone()));
    assert_ready_ok!(svc.poll_ready());
    let mut first = task::spawn(svc.call("first"));
    assert_pending!(first.poll());
    assert_ready_ok!(svc.poll_ready());
    let mut second = task::spawn(svc.call("second"));
    assert_pending!(second.poll());
    let (req, reply) = handle.next_request().await.unwrap();
    assert_eq!(req, "first");
    assert_pending!(handle.poll_request());
    reply.send_response(1);
    assert_ready_ok!(first.poll());
    assert!(second.is_woken());
    assert_pending!(second.poll());
    let (req, reply) = handle.next_request().await.unwrap();
    assert_eq!((req, used(&limit)), ("second", (1, 0)));
    reply.send_error("failed");
    assert_ready_err!(second.poll());
    assert_eq!(used(&limit), (0, 0));
}

#[tokio::test]
async fn a_permit_can_be_kept_until_a_body_ends() {
    let limit = limit(1, WhenFull::Reject);
    let mut svc = ServiceBuilder::new()
        .layer(LimitLayer::new(limit.clone()).keep_with(|body: &'static str, permit: Permit| (body, permit)))
        .service(service_fn(|()| future::ready(Ok::<_, Rejected>("streamed"))));
    let (body, permit) = svc.ready().await.unwrap().call(()).await.unwrap();
    assert_eq!((body, used(&limit)), ("streamed", (1, 0)));
    assert_eq!(svc.call(()).await.unwrap_err().reason, Reason::Full);
    drop(permit);
    drop(svc.call(()).await.unwrap());
}

#[tokio::test]
async fn requests_are_told_apart_as_the_caller_says() {
    let limit = limit(10, WhenFull::Reject);
    let mut svc = LimitLayer::new(limit.clone())
        .classify_with(|class: &Criticality| *class)
        .layer(service_fn(|_| future::pending::<Result<(), Rejected>>()));
    let _busy: Vec<_> = (0..10).map(|_| svc.call(Criticality::Sheddable)).collect();
    assert_eq!(used(&limit), (8, 0));
    let _rsp = svc.call(Criticality::CriticalPlus);
    assert_eq!(used(&limit), (9, 0));
}

#[tokio::test]
async fn a_panic_gives_the_permit_back() {
    let limit = limit(1, WhenFull::Reject);
    let svc = LimitLayer::new(limit.clone())
        .layer(service_fn(|()| async { if true { panic!("on purpose") } else { Ok::<(), Rejected>(()) } }));
    tokio::spawn(svc.oneshot(())).await.unwrap_err();
    assert_eq!(used(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_responses_tell_moves_a_limit_that_adapts() {
    let settings = AdaptiveSettings { window: 10, ..AdaptiveSettings::default() };
    let overloaded = |rsp: Result<&bool, &Rejected>| match rsp {
        Ok(true) => Outcome::Success,
        Ok(false) => Outcome::Overloaded,
        Err(_) => Outcome::Ignored,
    };
    for (answer, expected) in [(true, 30), (false, 17)] {
        let limit = ConcurrencyLimit::adaptive("test", settings, WhenFull::Reject).unwrap();
        let backend = service_fn(move |()| async move {
            time::sleep(10 * MS).await;
            Ok::<_, Rejected>(answer)
        });
        let svc = LimitLayer::new(limit.clone()).observe_with(overloaded).layer(backend);
        let calls = |count: usize| (0..count).map(|_| tokio::spawn(svc.clone().oneshot(()))).collect::<Vec<_>>();
        let mut rounds = 0;
        while limit.usage().limit == 20 {
            for call in calls(20) {
                call.await.unwrap().unwrap();
            }
            rounds += 1;
            assert!(rounds < 10);
        }
        assert_eq!(limit.usage().limit, expected);
        assert_eq!(used(&limit), (0, 0));
    }
}

/// Tries to get in when it is woken, before those who still wait.
struct Barge(ConcurrencyLimit, AtomicUsize);

impl Wake for Barge {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        assert_eq!(self.0.try_acquire(TOP).unwrap_err().reason, Reason::Full);
    }
}

#[tokio::test(start_paused = true)]
async fn when_a_limit_rises_those_who_wait_come_first() {
    let settings = AdaptiveSettings { window: 10, ..AdaptiveSettings::default() };
    let limit = ConcurrencyLimit::adaptive("test", settings, queue(20)).unwrap();
    let _held: Vec<_> = (0..19).map(|_| limit.try_acquire(TOP).unwrap()).collect();
    let barge = Arc::new(Barge(limit.clone(), AtomicUsize::new(0)));
    let waker = barge.clone().into();
    while limit.usage().limit == 20 {
        let mut permit = limit.try_acquire(TOP).unwrap();
        let mut waiting: Vec<_> = (0..11).map(|_| Box::pin(limit.acquire(TOP))).collect();
        for acquire in &mut waiting {
            assert!(acquire.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        time::advance(MS).await;
        permit.report(Outcome::Success);
        assert_eq!(barge.1.load(Ordering::SeqCst), limit.usage().limit - 20);
    }
    assert_eq!(limit.usage().limit, 30);
}

#[test]
fn strict_across_threads_and_clones() {
    const LIMIT: usize = 3;
    let limit = limit(LIMIT, WhenFull::Block);
    let (inside, most, done) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let worker = |_| {
        let (limit, inside, most, done) = (limit.clone(), inside.clone(), most.clone(), done.clone());
        async move {
            for _ in 0..200 {
                let permit = limit.acquire(TOP).await.unwrap();
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
                done.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    runtime.block_on(async {
        let workers: Vec<_> = (0..16).map(|i| tokio::spawn(worker(i))).collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
    assert!(most.load(Ordering::SeqCst) <= LIMIT);
    assert_eq!((done.load(Ordering::SeqCst), used(&limit)), (3200, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn cancelled_at_every_poll_all_is_given_back() {
    // A request that waits, is let in, and is answered after three polls; cancelled after each number of polls.
    for polls in 0..8 {
        let limit = limit(1, queue(1));
        let permit = limit.try_acquire(TOP).unwrap();
        let backend = service_fn(|()| async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            Ok::<_, Rejected>(())
        });
        let mut rsp = task::spawn(LimitLayer::new(limit.clone()).layer(backend).oneshot(()));
        let mut permit = Some(permit);
        for poll in 0..polls {
            if poll == 2 {
                permit = None;
            }
            if rsp.poll().is_ready() {
                break;
            }
        }
        drop(rsp);
        drop(permit);
        assert_eq!(used(&limit), (0, 0), "after {polls} polls");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(Criticality),
    Poll(usize),
    Cancel(usize),
    Return(usize),
    Advance(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4_usize).prop_map(|class| Step::Begin(Criticality::ALL[class])),
        3 => (0..20_usize).prop_map(Step::Poll),
        1 => (0..20_usize).prop_map(Step::Cancel),
        3 => (0..20_usize).prop_map(Step::Return),
        1 => (1..80_u64).prop_map(Step::Advance),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_above_the_limit_nor_the_queue_and_all_comes_back(steps in steps(), most in 1..6_usize, places in 0..5_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limit = limit(most, queue(places));
            let (mut waiting, mut permits) = (Vec::<task::Spawn<Acquire>>::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Begin(class) => waiting.push(acquire(&limit, class)),
                    Step::Poll(i) if i < waiting.len() => {
                        if let std::task::Poll::Ready(result) = waiting[i].poll() {
                            permits.extend(result);
                            drop(waiting.swap_remove(i));
                        }
                    }
                    Step::Cancel(i) if i < waiting.len() => drop(waiting.swap_remove(i)),
                    Step::Return(i) if i < permits.len() => drop(permits.swap_remove(i)),
                    Step::Advance(ms) => time::advance(Duration::from_millis(ms)).await,
                    _ => {}
                }
                let (in_flight, queued) = used(&limit);
                assert!((permits.len()..=most).contains(&in_flight), "{in_flight} of {most}, {} out", permits.len());
                assert!(queued <= places.min(waiting.len()));
            }
            drop(waiting);
            assert_eq!(used(&limit), (permits.len(), 0));
            drop(permits);
            assert_eq!(used(&limit), (0, 0));
        });
    }
}

#[tokio::test]
async fn layers_without_errors_of_their_own_need_only_from() {
    #[derive(Debug)]
    struct Mine(Rejected);
    impl From<Rejected> for Mine {
        fn from(rejected: Rejected) -> Self {
            Self(rejected)
        }
    }
    let limit = limit(1, WhenFull::Reject);
    let _permit = limit.try_acquire(TOP).unwrap();
    let inner = service_fn(|()| future::ready(Ok::<(), Infallible>(()))).map_err(|never| match never {});
    let err = LimitLayer::new(limit).layer(inner).oneshot(()).await.map_err(|err: Mine| err.0).unwrap_err();
    assert_eq!(&*err.name, "test");
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_takes_what_is_free_and_is_not_counted_as_turned_away() {
    let settings = AdaptiveSettings { initial: 4, min: 4, max: 100, tolerance: 1.2, window: 10 };
    let run = async |ask: fn(&ConcurrencyLimit) -> Option<Permit>| {
        let limit = ConcurrencyLimit::adaptive("test", settings, WhenFull::Block).unwrap();
        let limit = limit.with_shares(Shares::new([25, 50, 100, 100]).unwrap());
        for round in 0..40 {
            let permits: Vec<_> = (0..2).map(|_| limit.acquire_free(TOP).unwrap()).collect();
            let asked = ask(&limit);
            assert!(asked.is_none() || round > 0, "one of its class may be in flight");
            time::sleep(10 * MS).await;
            for mut permit in permits {
                permit.report(Outcome::Success);
            }
        }
        limit.usage().limit
    };
    // Two of four are all that is asked for, unless somebody is turned away for whom there is no more.
    assert_eq!(run(|limit| limit.acquire_free(Criticality::Sheddable)).await, 4);
    assert!(run(|limit| limit.try_acquire(Criticality::Sheddable).ok()).await > 4);
}
