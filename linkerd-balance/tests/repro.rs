//! Bugs that others have published, as tests of what happens here. Each name says which: tower is `tower-rs/tower`,
//! `grpc_rust` is `grpc/grpc-rust` (tonic), volo is `cloudwego/volo`.

use std::{
    collections::HashMap,
    future::{Ready, pending, ready},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use linkerd_balance::{
    Balance, BalanceService, Candidates, Connected, Connector, Draw, LeastLoaded, Load, Policy, Strategy,
    accrual::Backoff,
};
use tokio::time::{self, Instant, Sleep};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{BoxError, Service, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Always the one in the middle at first, as the seeded generator does, then the least loaded.
#[derive(Debug, Default)]
struct SecondThenLeast(AtomicBool);

impl Strategy for SecondThenLeast {
    fn pick(&self, nodes: &dyn Candidates, _draw: Draw) -> usize {
        if !self.0.swap(true, Ordering::Relaxed) {
            return 1;
        }
        (0..nodes.len()).min_by(|a, b| nodes.load(*a, 0).total_cmp(&nodes.load(*b, 0))).unwrap_or(0)
    }
}

/// A load that is what it was told at first, plus what is in flight.
#[derive(Debug, Default)]
struct Fixed(AtomicUsize, LeastLoaded);

impl Load for Fixed {
    fn score(&self, _now: std::time::Instant, _weight: f64, _more: usize) -> f64 {
        self.0.load(Ordering::Relaxed) as f64
    }
    fn pending(&self) -> usize {
        self.1.pending()
    }
    fn begin(&self, now: std::time::Instant) {
        self.1.begin(now);
    }
    fn end(&self, begun: std::time::Instant, now: std::time::Instant, success: bool) {
        self.1.end(begun, now, success);
    }
    fn cancel(&self) {
        self.1.cancel();
    }
}

/// Answers with its name; `b` does not get ready.
#[derive(Clone)]
struct Named(&'static str, bool);

impl Service<()> for Named {
    type Response = &'static str;
    type Error = BoxError;
    type Future = Ready<Result<&'static str, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.1 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(self.0))
    }
}

/// The endpoints, with loads 0, 1 and 10 in the order of the set.
fn abc(b_is_ready: bool) -> Balance<&'static str, Named> {
    let next = Arc::new(AtomicUsize::new(0));
    let new_load = move || Fixed([0, 1, 10][next.fetch_add(1, Ordering::Relaxed) % 3].into(), LeastLoaded::new());
    let policy = Policy::new(SecondThenLeast::default(), new_load);
    let balance = Balance::new(policy, move |name: &&'static str, _| Named(name, *name != "b" || b_is_ready));
    balance.update([("a", 1.0), ("b", 1.0), ("c", 1.0)]).unwrap();
    balance
}

fn without_b(balance: &Balance<&'static str, Named>) {
    balance.update([("a", 1.0), ("c", 1.0)]).unwrap();
}

/// Removing the picked endpoint moves another one to its index, which then gets the request: `c`, the worst there is.
#[tokio::test(start_paused = true)]
async fn tower_856_a_pick_is_the_endpoint_and_not_its_place() {
    // Picked and not called yet: the lease is of `b`, whoever has its place now.
    let balance = abc(true);
    let mut lease = balance.try_acquire(Draw::random(), now(), &[]).unwrap();
    assert_eq!(*lease.key(), "b");
    without_b(&balance);
    assert!(lease.is_gone());
    assert_eq!(lease.ready().await.unwrap().call(()).await.unwrap(), "b");
    assert_eq!(*balance.try_acquire(Draw::random(), now(), &[]).unwrap().key(), "a");

    // The same as a service, where nobody has the patience to wait for `b`: there it is `a` with `b` and without.
    let mut svc = BalanceService::new(abc(false));
    assert_eq!(assert_ready_ok!(task::spawn(svc.call(())).poll()), "a");
    // Nor does anybody who waits there have to.
    svc.balance().update([("b", 1.0)]).unwrap();
    let mut rsp = task::spawn(svc.call(()));
    assert_pending!(rsp.poll());
    without_b(svc.balance());
    assert_eq!(assert_ready_ok!(rsp.poll()), "a");
}

/// Gets ready in its own time, by polling it, as one that connects when it is asked whether it is ready.
struct Lazy {
    key: u16,
    connects: Arc<Mutex<Option<std::pin::Pin<Box<Sleep>>>>>,
}

impl Clone for Lazy {
    fn clone(&self) -> Self {
        Self { key: self.key, connects: Arc::clone(&self.connects) }
    }
}

impl Service<()> for Lazy {
    type Response = u16;
    type Error = BoxError;
    type Future = Ready<Result<u16, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut connects = self.connects.lock().unwrap();
        if let Some(sleep) = &mut *connects {
            std::task::ready!(sleep.as_mut().poll(cx));
            *connects = None;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        assert!(self.connects.lock().unwrap().is_none(), "ready before it is called");
        ready(Ok(self.key))
    }
}

/// Two endpoints, one ready at once, and the other one does its I/O in `poll_ready`: without another request it is
/// polled no more, and stays unready for as long as the client is idle.
#[tokio::test(start_paused = true)]
async fn tower_824_an_endpoint_gets_ready_without_a_request() {
    let svc = BalanceService::fixed(Policy::least_loaded(), [(0, 1.0), (1, 1.0)], |&key: &u16, health| {
        let make = service_fn(move |key: u16| {
            let connects = Box::pin(time::sleep(u32::from(key) * SEC));
            ready(Ok::<_, BoxError>(Lazy { key, connects: Arc::new(Mutex::new(Some(connects))) }))
        });
        Connector::default().spawn_make::<(), _, _>(health, make, key)
    })
    .unwrap();
    time::sleep(500 * MS).await;
    assert_eq!(svc.balance().stats(now()).available, 1);
    assert_eq!(svc.clone().oneshot(()).await.unwrap(), 0, "the one that is ready, at once");
    // Idle, but for the clock.
    time::sleep(SEC).await;
    assert_eq!(svc.balance().stats(now()).available, 2);
    let mut seen = HashMap::new();
    for _ in 0..1000 {
        *seen.entry(svc.clone().oneshot(()).await.unwrap()).or_insert(0) += 1;
    }
    assert!(seen[&0] > 400 && seen[&1] > 400, "{seen:?}");
}

/// Servers that listen or do not, and how often somebody came.
#[derive(Clone, Default)]
struct Servers(Arc<[Server; 3]>);

#[derive(Default)]
struct Server {
    listens: AtomicBool,
    dials: AtomicUsize,
    calls: AtomicUsize,
}

#[derive(Clone)]
struct Channel {
    servers: Servers,
    i: usize,
}

impl Servers {
    fn listen(&self, i: usize) {
        self.0[i].listens.store(true, Ordering::Relaxed);
    }

    fn dials(&self, i: usize) -> usize {
        self.0[i].dials.load(Ordering::Relaxed)
    }

    fn calls(&self, i: usize) -> usize {
        self.0[i].calls.load(Ordering::Relaxed)
    }

    async fn dial(self, i: usize) -> io::Result<(Channel, std::future::Pending<()>)> {
        let server = &self.0[i];
        server.dials.fetch_add(1, Ordering::Relaxed);
        time::sleep(MS).await;
        if !server.listens.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok((Channel { servers: self, i }, pending()))
    }
}

impl Service<()> for Channel {
    type Response = usize;
    type Error = BoxError;
    type Future = Ready<Result<usize, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        self.servers.0[self.i].calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok(self.i))
    }
}

fn channel(servers: &Servers, policy: Policy) -> BalanceService<usize, Connected<Channel>> {
    let servers = servers.clone();
    let connector = Connector::default().backoff(Backoff::constant(SEC).unwrap());
    BalanceService::new(Balance::new(policy, move |&i: &usize, health| {
        let servers = servers.clone();
        connector.spawn(health, move || servers.clone().dial(i))
    }))
}

/// An endpoint that refuses says that it is ready, is picked, and its caller has to retry (#2839, #643); one that says
/// it is not is dropped for good. Here: no error, no request to it, and its share when it is there (#1147).
#[tokio::test(start_paused = true)]
async fn grpc_rust_2859_a_dead_endpoint_costs_nobody_a_retry_and_comes_back() {
    let servers = Servers::default();
    servers.listen(0);
    let svc = channel(&servers, Policy::default());
    svc.balance().update([(0, 1.0), (1, 1.0)]).unwrap();
    for _ in 0..10_000 {
        assert_eq!(svc.clone().oneshot(()).await.unwrap(), 0);
    }
    time::sleep(60 * SEC).await;
    assert_eq!(servers.calls(1), 0);
    // Nor is it ready: nobody is sent there to find that out.
    assert_eq!(svc.balance().stats(now()).available, 1);
    let picked = (0..1000).map(|seed| *svc.balance().try_acquire(Draw::new(seed), now(), &[]).unwrap().key());
    assert_eq!(picked.filter(|key| *key == 1).count(), 0);
    assert!((55..65).contains(&servers.dials(1)), "{}", servers.dials(1));

    servers.listen(1);
    time::sleep(SEC + 5 * MS).await;
    for _ in 0..1000 {
        svc.clone().oneshot(()).await.unwrap();
    }
    assert!(servers.calls(1) > 300, "{}", servers.calls(1));
    assert_eq!(svc.balance().stats(now()).updates, 1, "without discovery's help");
}

/// A client that is there before its servers goes on failing for several requests after they have started.
#[tokio::test(start_paused = true)]
async fn grpc_rust_1147_once_servers_have_started_there_is_no_error() {
    let servers = Servers::default();
    let svc = channel(&servers, Policy::default());
    svc.balance().update([(0, 1.0), (1, 1.0), (2, 1.0)]).unwrap();
    for _ in 0..100 {
        svc.clone().oneshot(()).await.unwrap_err();
        time::sleep(50 * MS).await;
    }
    for i in 0..3 {
        servers.listen(i);
    }
    time::sleep(SEC + 5 * MS).await;
    for _ in 0..1000 {
        svc.clone().oneshot(()).await.unwrap();
    }
    assert!((0..3).all(|i| servers.calls(i) > 100));
}

/// First calls that discover under a lock hang when there are more of them than worker threads.
#[tokio::test(start_paused = true)]
async fn volo_617_a_thousand_first_calls_on_one_thread_are_one_connect_each() {
    let servers = Servers::default();
    (0..3).for_each(|i| servers.listen(i));
    let svc = channel(&servers, Policy::least_loaded().max_wait(10 * SEC));
    let calls: Vec<_> = (0..1000).map(|_| tokio::spawn(svc.clone().oneshot(()))).collect();
    // Discovery takes its time, on the same thread.
    let balance = svc.balance().clone();
    tokio::spawn(async move {
        time::sleep(100 * MS).await;
        balance.update([(0, 1.0), (1, 1.0), (2, 1.0)]).unwrap();
    });
    let all = async {
        for call in calls {
            call.await.unwrap().unwrap();
        }
    };
    time::timeout(SEC, all).await.expect("nobody holds anybody up");
    assert!((0..3).all(|i| servers.dials(i) == 1));
    assert_eq!((0..3).map(|i| servers.calls(i)).sum::<usize>(), 1000);
}
