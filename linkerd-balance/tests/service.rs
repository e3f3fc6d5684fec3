//! A balancer as a service: what becomes of requests whose endpoint leaves, or fails to get ready.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use linkerd_balance::{
    Balance, BalanceService, Draw, Hint, InvalidSet, LOOK_AGAIN, LeastLoaded, MAX_UNREADY, MAX_WAITS, Outcome, P2c,
    Policy, Random, Ring, RoundRobin, Status, Unavailable, Verdict,
};
use tokio::time::{self, Instant};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);

/// Neither `Clone` nor `Default`: a request that is sent twice would not compile.
#[derive(Debug)]
struct Once(u64);

/// Answers with its own key. How it gets ready is for the test to say.
#[derive(Clone)]
struct Endpoint {
    key: u16,
    is: Arc<Mutex<Is>>,
    polled: Arc<AtomicUsize>,
    called: Arc<AtomicUsize>,
}

#[derive(Clone, Debug, Default)]
enum Is {
    #[default]
    Ready,
    Full(Vec<Waker>),
    Broken,
    // Takes the request, and fails.
    Failing,
}

impl Service<Once> for Endpoint {
    type Response = u16;
    type Error = BoxError;
    type Future = Ready<Result<u16, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.polled.fetch_add(1, Ordering::Relaxed);
        match &mut *self.is.lock().unwrap() {
            Is::Ready | Is::Failing => Poll::Ready(Ok(())),
            Is::Full(wakers) => {
                wakers.push(cx.waker().clone());
                Poll::Pending
            }
            Is::Broken => Poll::Ready(Err(format!("{} is broken", self.key).into())),
        }
    }

    fn call(&mut self, Once(_): Once) -> Self::Future {
        self.called.fetch_add(1, Ordering::Relaxed);
        ready(match *self.is.lock().unwrap() {
            Is::Failing => Err("failed".into()),
            _ => Ok(self.key),
        })
    }
}

type Svc = BalanceService<u16, Endpoint>;
type All = Arc<Mutex<HashMap<u16, Endpoint>>>;

fn service(policy: Policy, keys: impl IntoIterator<Item = u16>) -> (Svc, All) {
    let all = All::default();
    let kept = Arc::clone(&all);
    let balance = Balance::new(policy, move |&key, _| {
        let endpoint = Endpoint { key, is: Arc::default(), polled: Arc::default(), called: Arc::default() };
        kept.lock().unwrap().insert(key, endpoint.clone());
        endpoint
    });
    update(&balance, keys);
    (BalanceService::new(balance), all)
}

fn update(balance: &Balance<u16, Endpoint>, keys: impl IntoIterator<Item = u16>) {
    balance.update(keys.into_iter().map(|key| (key, 1.0))).unwrap();
}

fn set(all: &All, key: u16, is: Is) {
    let was = std::mem::replace(&mut *all.lock().unwrap()[&key].is.lock().unwrap(), is);
    if let Is::Full(wakers) = was {
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn full() -> Is {
    Is::Full(Vec::new())
}

fn polled(all: &All) -> usize {
    all.lock().unwrap().values().map(|endpoint| endpoint.polled.load(Ordering::Relaxed)).sum()
}

fn called(all: &All) -> usize {
    all.lock().unwrap().values().map(|endpoint| endpoint.called.load(Ordering::Relaxed)).sum()
}

fn in_flight(svc: &Svc) -> usize {
    svc.balance().stats(Instant::now().into_std()).load
}

// LB-22
#[tokio::test(start_paused = true)]
async fn waiters_of_an_endpoint_that_leaves_go_to_one_that_is_there() {
    let (mut svc, all) = service(Policy::least_loaded(), [1]);
    set(&all, 1, full());
    let mut waiters: Vec<_> = (0..100).map(|_| task::spawn(svc.call(Once(0)))).collect();
    for waiter in &mut waiters {
        assert_pending!(waiter.poll());
    }
    assert_eq!(in_flight(&svc), 100);
    update(svc.balance(), [2]);
    for waiter in &mut waiters {
        assert!(waiter.is_woken());
        assert_eq!(assert_ready_ok!(waiter.poll()), 2);
    }
    assert_eq!((in_flight(&svc), called(&all)), (0, 100));
}

/// With updates and waiters on different threads, so that a waiter may look while its set is being replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_the_set_is_missed_by_who_waits() {
    let (svc, all) = service(Policy::least_loaded(), [0]);
    set(&all, 0, full());
    let waiters: Vec<_> = (0..50).map(|_| tokio::spawn(svc.clone().oneshot(Once(0)))).collect();
    let balance = svc.balance().clone();
    tokio::task::spawn_blocking(move || {
        for key in 1..=500 {
            // Full before somebody is there.
            update(&balance, [key - 1, key]);
            set(&all, key, full());
            update(&balance, [key]);
        }
        update(&balance, [1000]);
    })
    .await
    .unwrap();
    for waiter in waiters {
        time::timeout(Duration::from_secs(20), waiter).await.expect("not forgotten").unwrap().unwrap();
    }
    assert_eq!(in_flight(&svc), 0);
}

#[tokio::test(start_paused = true)]
async fn if_there_is_none_they_wait_as_for_any_and_no_longer() {
    let wait = 500 * MS;
    let (mut svc, all) = service(Policy::least_loaded().max_wait(wait), [1]);
    set(&all, 1, full());
    let (mut one, mut two) = (task::spawn(svc.call(Once(0))), task::spawn(svc.call(Once(0))));
    assert_pending!(one.poll());
    assert_pending!(two.poll());
    svc.balance().clear();
    assert_pending!(one.poll());
    assert_pending!(two.poll());
    drop(two);
    time::advance(wait.saturating_sub(MS)).await;
    assert_pending!(one.poll());
    time::advance(2 * MS).await;
    let err = assert_ready_err!(one.poll());
    assert_eq!(err.downcast_ref(), Some(&Unavailable::NoEndpoints));
    assert_eq!(called(&all), 0);

    // In time.
    update(svc.balance(), [1]);
    set(&all, 1, full());
    let mut one = task::spawn(svc.call(Once(0)));
    assert_pending!(one.poll());
    svc.balance().clear();
    assert_pending!(one.poll());
    time::advance(wait.saturating_sub(MS)).await;
    update(svc.balance(), [2]);
    assert!(one.is_woken());
    assert_eq!(assert_ready_ok!(one.poll()), 2);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_never_ready_costs_no_request() {
    let blind: [fn() -> Policy; 2] =
        [|| Policy::new(RoundRobin::new(), LeastLoaded::new), || Policy::new(Random::new(), LeastLoaded::new)];
    for policy in [blind[0], blind[1], Policy::least_loaded, Policy::peak_ewma] {
        let (mut svc, all) = service(policy(), 1..=3);
        set(&all, 1, full());
        set(&all, 2, full());
        for _ in 0..100 {
            assert_eq!(assert_ready_ok!(task::spawn(svc.call(Once(0))).poll()), 3);
        }
        assert_eq!((in_flight(&svc), called(&all)), (0, 100));
    }
}

#[tokio::test(start_paused = true)]
async fn it_waits_at_several_and_the_first_that_is_ready_gets_it() {
    let (mut svc, all) = service(Policy::least_loaded(), 1..=20);
    (1..=20).for_each(|key| set(&all, key, full()));
    let mut rsp = task::spawn(svc.call(Once(0)));
    assert_pending!(rsp.poll());
    assert_eq!((in_flight(&svc), polled(&all)), (MAX_WAITS, MAX_WAITS));
    let at = |key: &u16| all.lock().unwrap()[key].polled.load(Ordering::Relaxed) > 0;
    let last = (1..=20).rfind(at).unwrap();
    let Is::Full(wakers) = std::mem::take(&mut *all.lock().unwrap()[&last].is.lock().unwrap()) else { unreachable!() };
    wakers.into_iter().for_each(Waker::wake);
    assert!(rsp.is_woken());
    assert_eq!(assert_ready_ok!(rsp.poll()), last);
    assert_eq!((in_flight(&svc), called(&all)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_to_one_that_comes() {
    let (mut svc, all) = service(Policy::least_loaded(), [1]);
    set(&all, 1, full());
    let mut rsp = task::spawn(svc.call(Once(0)));
    assert_pending!(rsp.poll());
    update(svc.balance(), [1, 2]);
    assert!(rsp.is_woken());
    assert_eq!(assert_ready_ok!(rsp.poll()), 2);
    assert_eq!(in_flight(&svc), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_does_not_go_to_one_that_is_left_alone() {
    let all = All::default();
    let kept = Arc::clone(&all);
    let balance = Balance::new(Policy::least_loaded(), move |&key, health| {
        health.set(if key == 1 { Status::Open } else { Status::Busy });
        let endpoint = Endpoint { key, is: Arc::default(), polled: Arc::default(), called: Arc::default() };
        kept.lock().unwrap().insert(key, endpoint.clone());
        endpoint
    });
    update(&balance, 1..=3);
    let mut svc = BalanceService::new(balance);
    set(&all, 1, full());
    let mut rsp = task::spawn(svc.call(Once(0)));
    assert_pending!(rsp.poll());
    assert_eq!((in_flight(&svc), polled(&all), svc.balance().stats(Instant::now().into_std()).panics), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_to_one_that_is_open_again() {
    let (all, second) = (All::default(), Arc::new(Mutex::new(None)));
    let (kept, healths) = (Arc::clone(&all), Arc::clone(&second));
    let balance = Balance::new(Policy::least_loaded(), move |&key, health| {
        if key == 2 {
            health.set(Status::Busy);
            *healths.lock().unwrap() = Some(health.clone());
        }
        let endpoint = Endpoint { key, is: Arc::default(), polled: Arc::default(), called: Arc::default() };
        kept.lock().unwrap().insert(key, endpoint.clone());
        endpoint
    });
    update(&balance, 1..=2);
    let mut svc = BalanceService::new(balance);
    set(&all, 1, full());
    let mut rsp = task::spawn(svc.call(Once(0)));
    assert_pending!(rsp.poll());
    time::advance(2 * LOOK_AGAIN).await;
    assert_pending!(rsp.poll());
    second.lock().unwrap().as_ref().unwrap().set(Status::Open);
    time::advance(LOOK_AGAIN + MS).await;
    assert!(rsp.is_woken());
    assert_eq!(assert_ready_ok!(rsp.poll()), 2);
    assert_eq!(in_flight(&svc), 0);
}

#[tokio::test(start_paused = true)]
async fn ready_and_gone_at_once_is_ready() {
    let (mut svc, all) = service(Policy::least_loaded(), [1]);
    set(&all, 1, full());
    let mut rsp = task::spawn(svc.call(Once(0)));
    assert_pending!(rsp.poll());
    update(svc.balance(), [2]);
    set(&all, 1, Is::Ready);
    assert_eq!(assert_ready_ok!(rsp.poll()), 1, "whose lease stays valid");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_sent_stays_where_it_is() {
    let (mut svc, all) = service(Policy::least_loaded(), [1, 2]);
    set(&all, 1, Is::Failing);
    set(&all, 2, Is::Failing);
    assert_eq!(assert_ready_err!(task::spawn(svc.call(Once(0))).poll()).to_string(), "failed");
    assert_eq!(called(&all), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_to_get_ready_is_passed_over_and_stays() {
    for policy in [Policy::least_loaded(), Policy::peak_ewma(), Policy::new(Random::new(), LeastLoaded::new)] {
        let (mut svc, all) = service(policy, 1..=4);
        for key in 1..=3 {
            set(&all, key, Is::Broken);
        }
        for _ in 0..100 {
            assert_eq!(assert_ready_ok!(task::spawn(svc.call(Once(0))).poll()), 4);
        }
        assert_eq!((svc.balance().len(), in_flight(&svc)), (4, 0));
        // And has its share again when it is well.
        set(&all, 1, Is::Ready);
        set(&all, 4, Is::Broken);
        assert_eq!(assert_ready_ok!(task::spawn(svc.call(Once(0))).poll()), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn each_is_tried_once_and_then_the_last_one_says_why() {
    let (mut svc, all) = service(Policy::least_loaded(), 1..=4);
    for key in 1..=4 {
        set(&all, key, Is::Broken);
    }
    let err = assert_ready_err!(task::spawn(svc.call(Once(0))).poll());
    assert!(err.to_string().ends_with("is broken"), "{err}");
    assert_eq!((polled(&all), called(&all), in_flight(&svc)), (4, 0, 0));
    assert!(all.lock().unwrap().values().all(|endpoint| endpoint.polled.load(Ordering::Relaxed) == 1));
}

#[tokio::test(start_paused = true)]
async fn of_many_only_so_many_are_tried() {
    let (mut svc, all) = service(Policy::least_loaded(), 1..=200);
    for key in 1..=200 {
        set(&all, key, Is::Broken);
    }
    assert_ready_err!(task::spawn(svc.call(Once(0))).poll());
    assert_eq!(polled(&all), MAX_UNREADY);
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_says_more_than_that_the_rest_has_left() {
    let (mut svc, all) = service(Policy::least_loaded(), [1, 2]);
    set(&all, 1, full());
    set(&all, 2, Is::Broken);
    // At 2 first, by chance, or at 1 which is waited for.
    let mut rsp = loop {
        let mut rsp = task::spawn(svc.call(Once(0)));
        assert_pending!(rsp.poll());
        if all.lock().unwrap()[&2].polled.load(Ordering::Relaxed) > 0 {
            break rsp;
        }
    };
    svc.balance().clear();
    let err = assert_ready_err!(rsp.poll());
    assert_eq!(err.to_string(), "2 is broken");
}

#[tokio::test(start_paused = true)]
async fn a_fixed_set_is_one_call() {
    let endpoint =
        |&key: &u16, _: &_| Endpoint { key, is: Arc::default(), polled: Arc::default(), called: Arc::default() };
    let mut svc = BalanceService::fixed(Policy::default(), [(7, 1.0)], endpoint).unwrap();
    assert_eq!(assert_ready_ok!(task::spawn(svc.call(Once(0))).poll()), 7);
    let none: [(u16, f64); 0] = [];
    let err = BalanceService::fixed(Policy::default(), none, endpoint).unwrap_err();
    assert_eq!(err, InvalidSet::NoEndpoints);
    let err = BalanceService::fixed(Policy::default(), [(7, f64::NAN)], endpoint).unwrap_err();
    assert!(err.to_string().contains("NaN"), "{err}");
}

#[tokio::test(start_paused = true)]
async fn requests_with_one_key_meet_one_endpoint() {
    let (svc, _all) = service(Policy::new(Ring::new(), LeastLoaded::new), 1..=10);
    let mut svc = svc.keyed_by(|req: &Once| (req.0 < 1000).then_some(req.0));
    let mut at = |key| assert_ready_ok!(task::spawn(svc.call(Once(key))).poll());
    let first: Vec<_> = (0..50).map(&mut at).collect();
    assert_eq!(first, (0..50).map(&mut at).collect::<Vec<_>>());
    assert!(first.iter().any(|key| *key != first[0]));
    let anywhere: Vec<_> = (0..50).map(|_| at(1000)).collect();
    assert!(anywhere.iter().any(|key| *key != anywhere[0]));
    // As whoever acquires by hand would.
    let lease = svc.balance().try_acquire(Draw::random().with_key(3), Instant::now().into_std(), &[]).unwrap();
    assert_eq!(*lease.key(), first[3]);
}

#[tokio::test(start_paused = true)]
async fn a_key_outlives_an_endpoint_that_fails_to_get_ready() {
    let (svc, all) = service(Policy::new(Ring::new(), LeastLoaded::new), 1..=10);
    let mut svc = svc.keyed_by(|req: &Once| Some(req.0));
    let mut at = |key| assert_ready_ok!(task::spawn(svc.call(Once(key))).poll());
    let first = at(3);
    set(&all, first, Is::Broken);
    let second = at(3);
    assert_ne!(first, second);
    assert!((0..20).all(|_| at(3) == second));
    set(&all, first, Is::Ready);
    assert_eq!(at(3), first);
}

fn load<C, D>(svc: &BalanceService<u16, Endpoint, C, D>) -> f64 {
    svc.balance().endpoints(Instant::now().into_std())[0].load
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_callers_teaches_nothing() {
    let (svc, _all) = service(Policy::peak_ewma(), [404]);
    let mut svc = svc.judge_by(|rsp: Result<&u16, &BoxError>| match rsp {
        Ok(404) => Outcome::Neutral,
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Failure,
    });
    let mut rsp = task::spawn(svc.call(Once(0)));
    assert_ready!(rsp.poll()).unwrap();
    assert_eq!((load(&svc), svc.balance().stats(Instant::now().into_std()).load), (0.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hint_reaches_the_load() {
    let (svc, _all) = service(Policy::new(P2c::new(), LeastLoaded::new), [1]);
    let mut plain = svc.clone();
    assert_ready_ok!(task::spawn(plain.call(Once(0))).poll());
    let before = load(&plain);
    let mut svc = svc.judge_by(|_: Result<&u16, &BoxError>| Verdict::from((true, Hint::Backoff(100 * MS))));
    assert_ready_ok!(task::spawn(svc.call(Once(0))).poll());
    assert!(load(&svc) > before);
    time::advance(100 * MS).await;
    assert_eq!(load(&svc), before);
}
