//! Endpoints that connect by themselves.

use std::{
    collections::HashMap,
    future::pending,
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use linkerd_balance::{
    Balance, BalanceService, Connected, Connector, Health, NotConnected, Policy, Status, accrual::Backoff,
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Service, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
/// The longest backoff in use here.
const MAX: Duration = Duration::from_secs(2);

/// Machines that are up or not, and how often somebody tried to reach them.
#[derive(Clone, Default)]
struct World(Arc<Mutex<HashMap<u16, Machine>>>);

#[derive(Default)]
struct Machine {
    // Closed when it goes down. `None`: refuses.
    up: Option<watch::Sender<()>>,
    hangs: bool,
    attempts: usize,
    requests: usize,
}

/// A connection to a machine: ready for as long as that is up.
#[derive(Clone, Debug)]
struct Conn {
    key: u16,
    world: World,
    up: watch::Receiver<()>,
}

impl World {
    fn machine(&self, key: u16, then: impl FnOnce(&mut Machine)) {
        then(self.lock().entry(key).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Machine>> {
        self.0.lock().unwrap()
    }

    fn up(&self, keys: impl IntoIterator<Item = u16>) {
        keys.into_iter().for_each(|key| self.machine(key, |machine| machine.up = Some(watch::channel(()).0)));
    }

    fn down(&self, keys: impl IntoIterator<Item = u16>) {
        keys.into_iter().for_each(|key| self.machine(key, |machine| machine.up = None));
    }

    fn attempts(&self, key: u16) -> usize {
        self.lock()[&key].attempts
    }

    fn requests(&self, key: u16) -> usize {
        self.lock()[&key].requests
    }

    /// Connects as hyper does: a service, and a future that ends with the connection.
    async fn dial(self, key: u16) -> io::Result<(Conn, impl Future<Output = ()> + Send + 'static)> {
        let (up, hangs) = {
            let mut machines = self.lock();
            let machine = machines.entry(key).or_default();
            machine.attempts += 1;
            (machine.up.as_ref().map(watch::Sender::subscribe), machine.hangs)
        };
        if hangs {
            return pending().await;
        }
        time::sleep(MS).await;
        let up = up.ok_or(io::ErrorKind::ConnectionRefused)?;
        let mut ends = up.clone();
        Ok((Conn { key, world: self, up }, async move { while ends.changed().await.is_ok() {} }))
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl Service<u32> for Conn {
    type Response = u16;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<u16, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(self.up.has_changed().map(drop).map_err(|_| "connection closed".into()))
    }

    fn call(&mut self, millis: u32) -> Self::Future {
        let (key, up) = (self.key, self.up.clone());
        self.world.machine(key, |machine| machine.requests += 1);
        Box::pin(async move {
            time::sleep(millis * MS).await;
            up.has_changed().map_err(|_| "connection reset")?;
            Ok(key)
        })
    }
}

fn connector() -> Connector {
    Connector::default().backoff(Backoff::jittered(100 * MS, MAX).unwrap())
}

fn spawn(connector: Connector, world: &World, key: u16, health: &Health) -> Connected<Conn> {
    let world = world.clone();
    connector.spawn(health, move || world.clone().dial(key))
}

type Svc = BalanceService<u16, Connected<Conn>>;

fn service(world: &World, connector: Connector, policy: Policy, keys: impl IntoIterator<Item = u16>) -> Svc {
    let world = world.clone();
    let balance = Balance::new(policy, move |&key, health| spawn(connector, &world, key, health));
    update(&balance, keys);
    BalanceService::new(balance)
}

fn update(balance: &Balance<u16, Connected<Conn>>, keys: impl IntoIterator<Item = u16>) {
    balance.update(keys.into_iter().map(|key| (key, 1.0))).unwrap();
}

fn open(svc: &Svc) -> usize {
    svc.balance().stats(now()).available
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn alone(connector: Connector) -> (Connected<Conn>, World, Health) {
    let (world, health) = (World::default(), Health::new());
    let connected = spawn(connector, &world, 1, &health);
    (connected, world, health)
}

fn not_connected(error: &BoxError) -> &NotConnected {
    error.downcast_ref().expect("not connected")
}

// LB-13
#[tokio::test(start_paused = true)]
async fn backends_that_restart_are_connected_before_the_next_request() {
    let world = World::default();
    world.up(1..=3);
    let svc = service(&world, connector(), Policy::default(), 1..=3);
    assert_eq!(open(&svc), 0, "not yet");
    time::sleep(2 * MS).await;
    assert_eq!(open(&svc), 3);
    time::sleep(60 * SEC).await;

    world.down(1..=3);
    time::sleep(10 * SEC).await;
    let stats = svc.balance().stats(now());
    assert_eq!((stats.closed, stats.size), (3, 3));
    world.up(1..=3);
    time::sleep(MAX + 2 * MS).await;
    assert_eq!(open(&svc), 3, "and there was no request at all");
    assert_eq!(svc.balance().stats(now()).updates, 1);
    for _ in 0..100 {
        svc.clone().oneshot(0).await.unwrap();
    }
}

// LB-12
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_down_for_a_minute_has_traffic_within_a_backoff() {
    let world = World::default();
    world.up(1..=2);
    let svc = service(&world, connector(), Policy::default(), 1..=2);
    time::sleep(2 * MS).await;
    let send = |n| {
        let svc = svc.clone();
        async move {
            for _ in 0..n {
                svc.clone().oneshot(1).await.unwrap();
            }
        }
    };
    send(100).await;
    world.down([1]);
    let before = world.requests(1);
    let start = Instant::now();
    while start.elapsed() < 60 * SEC {
        send(10).await;
        time::sleep(100 * MS).await;
    }
    assert_eq!(world.requests(1), before, "what is not connected is not asked");
    world.up([1]);
    time::sleep(MAX + 2 * MS).await;
    send(100).await;
    assert!(world.requests(1) > before + 25, "{}", world.requests(1));
    assert_eq!(svc.balance().stats(now()).updates, 1);
}

// LB-12: what failed for want of a connection must not count against an endpoint when it has one again.
#[tokio::test(start_paused = true)]
async fn an_outage_of_all_leaves_nothing_behind() {
    let world = World::default();
    world.up(1..=3);
    let svc = service(&world, connector(), Policy::default(), 1..=2);
    time::sleep(SEC).await;
    world.down(1..=2);
    for _ in 0..1000 {
        time::sleep(10 * MS).await;
        let error = svc.clone().oneshot(0).await.unwrap_err();
        assert!(not_connected(&error).source.is_some());
    }
    // One that has failed nobody so far.
    update(svc.balance(), 1..=3);
    world.up(1..=2);
    time::sleep(MAX + 2 * MS).await;
    for _ in 0..300 {
        svc.clone().oneshot(1).await.unwrap();
    }
    assert!((1..=3).all(|key| world.requests(key) > 50), "{}", world.requests(1));
}

// LB-11
#[tokio::test(start_paused = true)]
async fn with_one_of_two_refusing_nobody_sees_an_error() {
    for policy in [Policy::default(), Policy::least_loaded()] {
        let world = World::default();
        world.up([1]);
        world.down([2]);
        let svc = service(&world, connector(), policy, 1..=2);
        // From the first one on, when nothing is known of either.
        for _ in 0..10_000 {
            assert_eq!(svc.clone().oneshot(1).await.unwrap(), 1);
        }
        assert_eq!(svc.balance().len(), 2);
        assert!(world.attempts(2) < 30, "{}", world.attempts(2));
    }
}

#[tokio::test(start_paused = true)]
async fn old_endpoints_stay_until_a_new_one_is_connected() {
    let world = World::default();
    world.up([1]);
    let svc = service(&world, connector(), Policy::default().overlap(10 * SEC), [1]);
    time::sleep(2 * MS).await;
    update(svc.balance(), [2]);
    for _ in 0..50 {
        assert_eq!(svc.clone().oneshot(100).await.unwrap(), 1);
    }
    world.up([2]);
    time::sleep(MAX + 2 * MS).await;
    assert_eq!(svc.clone().oneshot(0).await.unwrap(), 2);
    assert_eq!(svc.balance().stats(now()).stays, 0);
}

#[tokio::test(start_paused = true)]
async fn the_health_says_how_far_it_is() {
    let (connected, world, health) = alone(connector());
    assert_eq!((health.link(), connected.why().unwrap().next), (Status::Busy, None));
    assert_eq!(connected.why().unwrap().to_string(), "not connected: nothing was sent");
    time::sleep(10 * MS).await;
    assert_eq!(health.link(), Status::Closed);
    let why = connected.why().unwrap();
    assert_eq!(why.to_string(), "not connected after 1 attempt: nothing was sent");
    assert_eq!(why.source.unwrap().to_string(), "connection refused");
    let next = why.next.unwrap() - now();
    assert!((85 * MS..95 * MS).contains(&next), "the first backoff is exact: {next:?}");

    world.up([1]);
    time::sleep(95 * MS).await;
    assert_eq!((health.link(), world.attempts(1)), (Status::Open, 2));
    assert!(connected.why().is_none());

    time::sleep(10 * SEC).await;
    world.down([1]);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert_eq!(health.link(), Status::Busy, "again at once");
    assert!(connected.why().unwrap().source.unwrap().to_string().starts_with("the connection ended after 10"));
    time::sleep(3 * MS).await;
    assert_eq!((health.link(), world.attempts(1)), (Status::Closed, 3));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_at_its_timeout() {
    let world = World::default();
    world.machine(1, |machine| machine.hangs = true);
    let health = Health::new();
    let connected = spawn(connector().timeout(5 * SEC).unwrap(), &world, 1, &health);
    time::sleep((5 * SEC).saturating_sub(MS)).await;
    assert_eq!(health.link(), Status::Busy);
    time::sleep(2 * MS).await;
    assert_eq!(health.link(), Status::Closed);
    assert_eq!(connected.why().unwrap().source.unwrap().to_string(), "no connection within 5s");
    world.machine(1, |machine| machine.hangs = false);
    world.up([1]);
    time::sleep(101 * MS).await;
    assert_eq!(health.link(), Status::Open);
}

#[tokio::test(start_paused = true)]
async fn one_that_accepts_and_hangs_up_is_not_connected_to_all_the_time() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let svc = service_fn(|_: u32| async { Ok::<_, BoxError>(0_u16) });
    let health = Health::new();
    let _connected = connector().spawn(&health, move || {
        count.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, BoxError>((svc, time::sleep(MS))) }
    });
    time::sleep(60 * SEC).await;
    let attempts = attempts.load(Ordering::Relaxed);
    assert!((30..100).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_connection_as_long_as_was_said() {
    let (connected, world, _health) = alone(connector().backoff(Backoff::constant(100 * MS).unwrap()).wait(500 * MS));
    let mut late = task::spawn(connected.clone().oneshot(0));
    assert_pending!(late.poll());
    time::sleep((500 * MS).saturating_sub(MS)).await;
    assert_pending!(late.poll());
    time::sleep(2 * MS).await;
    assert!(late.is_woken());
    assert!(not_connected(&assert_ready_err!(late.poll())).attempts > 0);

    let in_time = tokio::spawn(connected.clone().oneshot(0));
    world.up([1]);
    assert_eq!(in_time.await.unwrap().unwrap(), 1);
    // Where there is one, there is no wait.
    assert_ready_ok!(task::spawn(connected.oneshot(0)).poll());
}

#[tokio::test(start_paused = true)]
async fn by_default_it_waits_for_the_first_attempt_only() {
    let (connected, world, health) = alone(connector());
    let mut first = task::spawn(connected.clone().oneshot(0));
    assert_pending!(first.poll());
    time::sleep(2 * MS).await;
    assert!(first.is_woken());
    assert_eq!(not_connected(&assert_ready_err!(first.poll())).attempts, 1);
    assert_eq!(not_connected(&assert_ready_err!(task::spawn(connected.clone().oneshot(0)).poll())).attempts, 1);
    world.machine(1, |machine| machine.hangs = true);
    time::sleep(100 * MS).await;
    assert_eq!(world.attempts(1), 2);
    assert_ready_err!(task::spawn(connected.clone().oneshot(0)).poll());

    world.machine(1, |machine| machine.hangs = false);
    world.up([1]);
    time::sleep(10 * SEC).await;
    assert_eq!(health.link(), Status::Open);
    // Up again before anybody looks: one connection has ended, and there is another one soon.
    world.up([1]);
    while health.link() == Status::Open {
        tokio::task::yield_now().await;
    }
    assert_eq!(connected.oneshot(0).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_leave_to_wait_it_fails_at_once() {
    let (connected, ..) = alone(connector().wait(Duration::ZERO));
    assert_eq!(not_connected(&assert_ready_err!(task::spawn(connected.oneshot(0)).poll())).attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_last_handle_and_what_is_under_way_is_answered() {
    let (connected, world, _health) = alone(connector());
    world.up([1]);
    time::sleep(200 * MS).await;
    let attempts = world.attempts(1);
    let mut svc = connected.clone();
    let rsp = svc.ready().await.unwrap().call(100);
    drop((svc, connected));
    assert_eq!(rsp.await.unwrap(), 1);
    world.down([1]);
    time::sleep(60 * SEC).await;
    assert_eq!(world.attempts(1), attempts);
}

#[tokio::test(start_paused = true)]
async fn the_drive_of_a_connection_goes_on_without_its_endpoint() {
    let (told, mut hears) = watch::channel(0);
    let health = Health::new();
    let connected = connector().spawn(&health, move || {
        let told = told.clone();
        let drive = async move {
            for n in 1..=10 {
                time::sleep(MS).await;
                let _ = told.send(n);
            }
        };
        async move { Ok::<_, BoxError>(((), drive)) }
    });
    time::sleep(2 * MS).await;
    drop(connected);
    hears.wait_for(|n| *n == 10).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_not_ready_and_shares_the_connection() {
    let (mut connected, world, _health) = alone(connector());
    world.up([1]);
    time::sleep(200 * MS).await;
    assert_ready_ok!(task::spawn(async { connected.ready().await.map(drop) }).poll());
    let clone = connected.clone();
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(clone.clone().call(0))));
    assert!(called.is_err());
    assert_eq!(clone.oneshot(0).await.unwrap(), 1);
    assert_eq!(connected.call(0).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_fails_to_get_ready_for_a_request_is_replaced() {
    let world = World::default();
    world.up([1]);
    let health = Health::new();
    for wait in [Duration::ZERO, SEC] {
        let dialled = world.clone();
        // Nobody says when this connection ends.
        let connected = connector().wait(wait).spawn(&health, move || {
            let world = dialled.clone();
            async move { Ok::<_, io::Error>((world.dial(1).await?.0, pending::<()>())) }
        });
        time::sleep(10 * SEC).await;
        assert_eq!(health.link(), Status::Open);
        let attempts = world.attempts(1);
        world.up([1]);
        time::sleep(10 * SEC).await;
        assert_eq!(world.attempts(1), attempts, "how should it know");
        let rsp = connected.clone().oneshot(0).await;
        assert_eq!(rsp.is_ok(), !wait.is_zero(), "{rsp:?}");
        time::sleep(2 * MS).await;
        assert_eq!((world.attempts(1), health.link()), (attempts + 1, Status::Open));
        assert_eq!(connected.oneshot(0).await.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_panics_leaves_an_endpoint_that_says_so() {
    let health = Health::new();
    let connected = connector().wait(60 * SEC).spawn(&health, || async {
        time::sleep(MS).await;
        assert!(pending_bugs().is_empty(), "a bug");
        Ok::<_, BoxError>((service_fn(|_: u32| async { Ok::<_, BoxError>(0_u16) }), pending::<()>()))
    });
    time::sleep(2 * MS).await;
    assert_eq!(health.link(), Status::Closed);
    assert_eq!(connected.why().unwrap().source.unwrap().to_string(), "connecting panicked: a bug");
}

fn pending_bugs() -> &'static str {
    "one"
}

/// Gets ready on its own time, and then is for as long as the machine is up.
#[derive(Clone)]
struct Lazy {
    conn: Conn,
    at: Instant,
}

impl Service<u32> for Lazy {
    type Response = u16;
    type Error = BoxError;
    type Future = <Conn as Service<u32>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if Instant::now() < self.at {
            let (waker, at) = (cx.waker().clone(), self.at);
            tokio::spawn(async move {
                time::sleep_until(at).await;
                waker.wake();
            });
            return Poll::Pending;
        }
        self.conn.poll_ready(cx)
    }

    fn call(&mut self, req: u32) -> Self::Future {
        self.conn.call(req)
    }
}

#[tokio::test(start_paused = true)]
async fn a_made_service_is_connected_once_it_is_ready_and_looked_after() {
    let (world, health) = (World::default(), Health::new());
    world.up([1]);
    let dialled = world.clone();
    let make = service_fn(move |key: u16| {
        let world = dialled.clone();
        async move {
            let (conn, _) = world.dial(key).await?;
            Ok::<_, io::Error>(Lazy { conn, at: Instant::now() + 100 * MS })
        }
    });
    let connected = connector().check_each(SEC).unwrap().spawn_make::<u32, _, _>(&health, make, 1);
    time::sleep(100 * MS).await;
    assert_eq!(health.link(), Status::Busy);
    time::sleep(2 * MS).await;
    assert_eq!(health.link(), Status::Open);
    assert_eq!(connected.clone().oneshot(0).await.unwrap(), 1);

    // Nobody asks, and nobody tells.
    time::sleep(10 * SEC).await;
    world.down([1]);
    time::sleep(SEC + 2 * MS).await;
    assert_eq!(health.link(), Status::Closed);
    world.up([1]);
    time::sleep(MAX + 102 * MS).await;
    assert_eq!(health.link(), Status::Open);
    assert_eq!(assert_ready!(task::spawn(connected.oneshot(0)).poll()).unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_has_failed_and_no_more() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let health = Health::new();
    let connector = Connector::default().backoff(Backoff::constant(SEC).unwrap());
    let mut svc = connector.spawn(&health, move || {
        let attempt = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            assert!(attempt > 0, "the first attempt");
            Ok::<_, BoxError>((service_fn(|()| async { Ok::<_, BoxError>(7) }), pending::<()>()))
        }
    });
    time::sleep(MS).await;
    assert_eq!(health.link(), Status::Closed);
    let error = svc.ready().await.err().unwrap();
    let error = error.downcast_ref::<NotConnected>().unwrap();
    assert_eq!(error.source.as_ref().unwrap().to_string(), "connecting panicked: the first attempt");
    time::sleep(SEC).await;
    assert_eq!((health.link(), attempts.load(Ordering::SeqCst)), (Status::Open, 2));
    assert_eq!(svc.oneshot(()).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_without_an_end_leaves_the_task_alive() {
    let health = Health::new();
    let connector = Connector::default().backoff(Backoff::constant(Duration::MAX).unwrap());
    let mut svc = connector.spawn(&health, || async {
        let refused = Err::<(), BoxError>("refused".into());
        refused.map(|()| (service_fn(|()| async { Ok::<_, BoxError>(7) }), pending::<()>()))
    });
    time::sleep(SEC).await;
    let error = svc.ready().await.err().unwrap();
    let error = error.downcast_ref::<NotConnected>().unwrap();
    assert_eq!(error.source.as_ref().unwrap().to_string(), "refused");
}
