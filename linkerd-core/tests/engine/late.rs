//! Nothing begins after the time of its request, however late what it waited for was: a thread that is busy elsewhere wakes
//! it up when that and its timer are due together, and then it goes first.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use linkerd_core::{
    ErrorKind, HedgePolicy, LimitPolicy, Svc,
    dtab::Endpoint,
    http::{Connect, Deadline},
    retry::{
        Backoff, Budget, Stop,
        hedge::HedgeDelay,
        limit::{RateSettings, WhenFull},
    },
    testing::Reply,
};
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tower::service_fn;

use super::*;

/// The thread is busy for so long.
fn busy(time: Duration) {
    // The clock goes on in the first poll; what is left is a yield.
    let _ = task::spawn(advance(time)).poll();
}

/// Endpoints that write down when each request was sent, and keep the thread busy before they do anything about it and
/// when they have answered.
#[derive(Clone)]
struct Busy {
    endpoints: Scripted,
    before: Duration,
    after: Duration,
    sent: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Busy {
    fn new(before: Duration, after: Duration) -> Self {
        Self { endpoints: Scripted::new(), before, after, sent: Arc::default() }
    }

    fn world(&self, policies: Uniform, is_layered: bool) -> World {
        let mut world = World::with(|builder| {
            let builder = builder.connect(self.clone()).policies(policies);
            // What is below a client layer has to know of the time as well.
            if is_layered { builder.client_layer(tower::layer::layer_fn(|svc: Svc| svc)) } else { builder }
        });
        world.endpoints = self.endpoints.clone();
        world
    }
}

impl Connect for Busy {
    fn connect(&self, endpoint: &Endpoint) -> Svc {
        let (svc, Self { before, after, sent, .. }) = (self.endpoints.connect(endpoint), self.clone());
        Svc::new(service_fn(move |req: Request<Body>| {
            let id = req.headers().get("id").map_or("", |id| id.to_str().unwrap()).to_owned();
            sent.lock().unwrap().push((id, Instant::now()));
            busy(before);
            let answer = svc.send(req);
            async move {
                let answer = answer.await;
                busy(after);
                answer
            }
        }))
    }
}

fn within(total: Duration) -> ServicePolicy {
    ServicePolicy { total_timeout: Some(total), ..service(HttpClassifier::RetryableRead5xx) }
}

/// So many, evenly spaced, for which a request may wait for a second.
fn each_second(requests: u32) -> RateSettings {
    let requests = NonZeroU32::new(requests).unwrap();
    RateSettings { requests, per: SEC, burst: NonZeroU32::MIN, max_wait: SEC }
}

fn visits(world: &World) -> usize {
    (1..=4).map(|n| world.endpoints.count(ep(n))).sum()
}

#[tokio::test(start_paused = true)]
async fn what_came_back_too_late_goes_nowhere_else() {
    for layered in [false, true] {
        let endpoints = Busy::new(2 * SEC, Duration::ZERO);
        let world = endpoints.world(Uniform { service: within(SEC), client: steady() }, layered);
        world.namer.endpoints("/users", [1, 2].map(ep));
        for n in [1, 2] {
            world.endpoints.script(ep(n), [Reply::unsent()]);
        }
        let error = error(&world.client("/svc/users")).await;
        assert_eq!((error.kind(), error.never_sent(), visits(&world)), (ErrorKind::TotalTimeout, true, 1));
        assert!(error.text().starts_with("exceeded 1.seconds to unspecified"), "{}", error.text());
        let log = error.attempts().unwrap();
        let tried: Vec<_> = log.tried().iter().map(|tried| tried.endpoint.is_some()).collect();
        assert_eq!((tried.as_slice(), log.stop()), (&[true][..], Some(Stop::Deadline)), "{log}");
        assert_eq!(world.service("retries/deadline"), 0, "it was no retry that was late");
        assert_eq!(world.service("timeouts/total"), 1);
        assert!(world.mesh.clients()[0].endpoints.iter().all(|endpoint| endpoint.pending == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_layer_that_takes_all_the_time_is_the_last_to_see_it() {
    let uniform = Uniform { service: within(SEC), client: steady() };
    let slow = tower::layer::layer_fn(|svc: Svc| {
        service_fn(move |req: Request<Body>| {
            busy(2 * SEC);
            svc.send(req)
        })
    });
    let world = World::with(|builder| builder.policies(uniform).client_layer(slow));
    world.namer.endpoints("/users", [ep(1)]);
    let error = error(&world.client("/svc/users")).await;
    assert_eq!((error.kind(), error.never_sent(), visits(&world)), (ErrorKind::TotalTimeout, true, 0));
    assert!(error.attempts().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_bound_too_late_is_not_used() {
    let world = World::policies(within(SEC), steady());
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert!(rsp.poll().is_pending());
    world.namer.endpoints("/users", [ep(1)]);
    busy(2 * SEC);
    settle().await;
    let error = tokio_test::assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!((error.kind(), visits(&world)), (ErrorKind::TotalTimeout, 0));

    // A deadline that came with the request is one too.
    let world = World::new();
    let mut cx = RequestContext::default();
    cx.deadline = Some(Deadline::after(SystemTime::now(), SEC));
    let mut req = get();
    req.extensions_mut().insert(cx);
    let mut rsp = sending(&world.client("/svc/users"), req);
    assert!(rsp.poll().is_pending());
    world.namer.endpoints("/users", [ep(1)]);
    busy(2 * SEC);
    settle().await;
    let error = tokio_test::assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!((error.kind(), visits(&world)), (ErrorKind::Deadline, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_too_late_is_not_taken() {
    let limit = LimitPolicy::rate(each_second(1)).unwrap();
    let world = World::policies(ServicePolicy { limit: Some(limit), ..within(2 * SEC) }, steady());
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    assert_eq!(status(&client).await, 200);
    let mut rsp = sending(&client, get());
    assert!(rsp.poll().is_pending());
    busy(3 * SEC);
    settle().await;
    let error = tokio_test::assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!((error.kind(), error.never_sent(), visits(&world)), (ErrorKind::TotalTimeout, true, 1));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_late_says_what_was_tried_and_that_it_was_sent() {
    let uniform = Uniform { service: within(SEC), client: steady() };
    let slow_again = tower::layer::layer_fn(|svc: Svc| {
        let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        service_fn(move |req: Request<Body>| {
            if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1 {
                busy(2 * SEC);
            }
            svc.send(req)
        })
    });
    let world = World::with(|builder| builder.policies(uniform).client_layer(slow_again));
    world.namer.endpoints("/users", [1, 2].map(ep));
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::closed()]);
    }
    let error = error(&world.client("/svc/users")).await;
    assert_eq!((error.kind(), error.never_sent(), visits(&world)), (ErrorKind::TotalTimeout, false, 1));
    let log = error.attempts().unwrap();
    assert_eq!((log.tried().len(), log.stop()), (1, Some(Stop::Deadline)), "{log}");
    assert_eq!(world.service("retries/deadline"), 1);
}

#[derive(Clone, Debug)]
struct Case {
    total: u64,
    attempt: Option<u64>,
    backoff: u64,
    retries: bool,
    hedge: Option<u64>,
    limit: u8,
    layered: bool,
    before: u64,
    after: u64,
    bound_after: Option<u64>,
    replies: Vec<(u8, u64)>,
    requests: Vec<u64>,
}

fn case() -> impl Strategy<Value = Case> {
    let policies = (
        1..300_u64,
        proptest::option::of(1..200_u64),
        0..50_u64,
        any::<bool>(),
        proptest::option::of(1..100_u64),
        0..3_u8,
        any::<bool>(),
    );
    let world = (
        prop_oneof![Just(0), 0..200_u64],
        prop_oneof![Just(0), 0..200_u64],
        proptest::option::of(0..200_u64),
        proptest::collection::vec((0..7_u8, prop_oneof![Just(0), 0..150_u64]), 1..6),
        proptest::collection::vec(0..50_u64, 1..8),
    );
    (policies, world).prop_map(|(policies, world)| {
        let (total, attempt, backoff, retries, hedge, limit, layered) = policies;
        let (before, after, bound_after, replies, requests) = world;
        Case { total, attempt, backoff, retries, hedge, limit, layered, before, after, bound_after, replies, requests }
    })
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Case {
    fn policies(&self) -> Uniform {
        let limit = match self.limit {
            0 => None,
            1 => {
                let queue = WhenFull::Queue { capacity: 10, wait: SEC };
                Some(LimitPolicy::concurrency(NonZeroUsize::MIN, queue))
            }
            _ => Some(LimitPolicy::rate(each_second(20)).unwrap()),
        };
        let service = ServicePolicy {
            backoff: Backoff::constant(ms(self.backoff)),
            retry_budget: if self.retries { Budget::default() } else { Budget::off() },
            hedge: self.hedge.map(|delay| HedgePolicy::new(HedgeDelay::Fixed(ms(delay))).unwrap().share(1.0).unwrap()),
            limit,
            ..within(ms(self.total))
        };
        Uniform { service, client: ClientPolicy { attempt_timeout: self.attempt.map(ms), ..steady() } }
    }

    fn replies(&self) -> impl Iterator<Item = Reply> {
        self.replies.clone().into_iter().map(|(what, after)| {
            let reply = match what {
                0 => Reply::ok("yes"),
                1 => Reply::status(500),
                2 | 3 => Reply::unsent(),
                4 => Reply::nack(),
                5 => Reply::closed(),
                _ => Reply::hang(),
            };
            reply.after(ms(after))
        })
    }

    /// Every request that was sent, with how long it had been there, of those that were sent too late.
    async fn run(&self) -> Vec<(String, Duration)> {
        let endpoints = Busy::new(ms(self.before), ms(self.after));
        let world = endpoints.world(self.policies(), self.layered);
        for n in 1..=4 {
            // Not all of them the same at a time.
            let replies: Vec<_> = self.replies().collect();
            let from = usize::from(n) % replies.len();
            world.endpoints.script(ep(n), replies[from..].iter().chain(&replies[..from]).cloned());
        }
        if self.bound_after.is_none() {
            world.namer.endpoints("/users", (1..=4).map(ep));
        }
        let sent = self.requests.iter().enumerate().map(|(id, wait)| {
            let (client, wait) = (world.client("/svc/users"), ms(*wait));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let began = Instant::now();
                let req = Request::get("/").header("id", id.to_string()).body("").unwrap();
                let _ = client.send(req).await;
                began
            })
        });
        let sent: Vec<_> = sent.collect();
        if let Some(wait) = self.bound_after {
            tokio::time::sleep(ms(wait)).await;
            world.namer.endpoints("/users", (1..=4).map(ep));
        }
        let mut began = Vec::new();
        for sent in sent {
            began.push(sent.await.unwrap());
        }
        let sends = endpoints.sent.lock().unwrap().clone();
        let sends = sends.into_iter().map(|(id, at)| {
            let began = began[id.parse::<usize>().unwrap()];
            (id, at - began)
        });
        sends.filter(|(_, after)| *after >= ms(self.total)).collect()
    }
}

proptest! {
    #[test]
    fn whatever_the_settings_nothing_is_sent_after_its_time(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let late = runtime.block_on(case.run());
        prop_assert!(late.is_empty(), "{late:?}");
    }
}
