//! Attempts that take long, made a second time elsewhere.

use bytes::Bytes;
use http::Method;
use http_body_util::StreamBody;
use linkerd_core::{
    AccrualPolicy, AttemptLog, AttemptOutcome, Attempted, BoxError, ErrorKind, HedgePolicy,
    balance::{Status, accrual::ConsecutiveFailures},
    retry::{Budget, BudgetSettings, Stop, hedge::HedgeDelay},
    testing::{End, Reply},
};
use tokio::{task::JoinHandle, time::Instant};

use super::*;

/// After 50 ms, and every request if need be.
fn eager() -> HedgePolicy {
    HedgePolicy::new(HedgeDelay::Fixed(50 * MS)).unwrap().share(1.0).unwrap()
}

fn policy() -> ServicePolicy {
    ServicePolicy { hedge: Some(eager()), ..ServicePolicy::default() }
}

/// A request that is under way, at the first of two endpoints.
struct UnderWay {
    world: World,
    begun: Instant,
    sent: JoinHandle<Outcome>,
    first: SocketAddr,
    other: SocketAddr,
}

impl UnderWay {
    /// The first endpoint to be asked gives this reply.
    async fn start(service: ServicePolicy, reply: Reply, req: Request<&'static str>) -> Self {
        Self::start_in(World::policies(service, steady()), reply, req).await
    }

    async fn start_in(world: World, reply: Reply, req: Request<&'static str>) -> Self {
        world.namer.endpoints("/users", [ep(1), ep(2)]);
        for n in [1, 2] {
            world.endpoints.script(ep(n), [reply.clone()]);
        }
        let (client, begun) = (world.client("/svc/users"), Instant::now());
        let sent = tokio::spawn(async move { client.send(req).await });
        settle().await;
        let (first, other) = if world.endpoints.count(ep(1)) == 1 { (ep(1), ep(2)) } else { (ep(2), ep(1)) };
        assert_eq!([world.endpoints.count(first), world.endpoints.count(other)], [1, 0]);
        Self { world, begun, sent, first, other }
    }

    fn other(self, reply: Reply) -> Self {
        self.world.endpoints.script(self.other, [reply]);
        self
    }

    /// The outcome, and after how many milliseconds it came, in tens.
    async fn outcome(self) -> (World, Outcome, u128) {
        let outcome = self.sent.await.unwrap();
        // Each timer may be a millisecond late or two.
        (self.world, outcome, self.begun.elapsed().as_millis() / 10 * 10)
    }
}

fn hedges(world: &World) -> [u64; 3] {
    ["hedges", "hedge_wins", "hedge_budget_exhausted"].map(|name| world.service(&format!("retries/{name}")))
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_is_asked_of_another_endpoint_and_the_first_answer_wins() {
    let sent = UnderWay::start(policy(), Reply::hang(), get()).await.other(Reply::ok("second"));
    let (first, other) = (sent.first, sent.other);
    let (world, rsp, millis) = sent.outcome().await;
    assert_eq!((text(rsp.unwrap()).await.as_str(), millis), ("second", 50));
    assert_eq!(world.endpoints.seen(first)[0].end, End::Dropped, "the loser is cancelled at once");
    assert_eq!(world.endpoints.seen(other)[0].end, End::Complete);
    assert_eq!((hedges(&world), world.service("retries/total")), ([1, 1, 0], 0));
    assert_eq!([world.service("requests"), world.service("success")], [1, 1]);
    // Nobody wants the loser's answer, which says nothing of who would have given it.
    assert_eq!([world.bound("success"), world.bound("failures")], [1, 0]);
    assert!(world.mesh.clients()[0].endpoints.iter().all(|endpoint| endpoint.pending == 0));

    // The first may still be the better one.
    let sent = UnderWay::start(policy(), Reply::ok("first").after(80 * MS), get()).await.other(Reply::hang());
    let other = sent.other;
    let (world, rsp, millis) = sent.outcome().await;
    assert_eq!((text(rsp.unwrap()).await.as_str(), millis), ("first", 80));
    assert_eq!(world.endpoints.seen(other)[0].end, End::Dropped);
    assert_eq!(hedges(&world), [1, 0, 0]);

    // One that is in time is alone.
    let (world, rsp, _) = UnderWay::start(policy(), Reply::ok("").after(40 * MS), get()).await.outcome().await;
    assert_eq!((rsp.unwrap().status().as_u16(), hedges(&world)), (200, [0; 3]));
    assert_eq!(world.endpoints.count(ep(1)) + world.endpoints.count(ep(2)), 1);
    assert_eq!(world.metric("service/svc/users/retries/hedges"), None, "a metric from the first one on");
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_sent_twice_and_is_here_whole_is_hedged() {
    let key = ("idempotency-key", "\"8e03\"");
    for (method, header, expected) in [
        (Method::GET, None, true),
        (Method::HEAD, None, true),
        (Method::OPTIONS, None, true),
        (Method::TRACE, None, true),
        (Method::PUT, None, true),
        (Method::DELETE, None, true),
        (Method::POST, None, false),
        (Method::PATCH, None, false),
        (Method::POST, Some(key), true),
        (Method::PATCH, Some(key), true),
        (Method::GET, Some(("upgrade", "websocket")), false),
        (Method::CONNECT, None, false),
    ] {
        let req = header.into_iter().fold(Request::builder(), |req, (name, value)| req.header(name, value));
        let req = req.method(&method).uri("/").body("some").unwrap();
        let slow = Reply::ok("").after(SEC);
        let (world, rsp, _) = UnderWay::start(policy(), slow, req).await.other(Reply::ok("")).outcome().await;
        assert_eq!(rsp.unwrap().status(), 200);
        assert_eq!(hedges(&world)[0], u64::from(expected), "{method} {header:?}");
        let seen = [1, 2].map(|n| world.endpoints.seen(ep(n))).concat();
        assert_eq!(seen.len(), 1 + usize::from(expected), "{method} {header:?}");
        assert!(seen.iter().all(|seen| seen.body.as_deref() == Some(b"some")), "{method}");
    }
    // A stream can be read by one only, even where it is kept.
    let world = World::policies(ServicePolicy { retry_buffer_bytes: 100, ..policy() }, steady());
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::ok("").after(SEC)]);
    }
    let frames = [Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"part")))];
    let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
    assert_eq!(world.client("/svc/users").send(Request::put("/").body(body).unwrap()).await.unwrap().status(), 200);
    assert_eq!(hedges(&world), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_paid_for_by_the_retries_budget() {
    let service = ServicePolicy { retry_budget: Budget::off(), ..policy() };
    let sent = UnderWay::start(service, Reply::ok("first").after(SEC), get()).await.other(Reply::ok("second"));
    let (world, rsp, _) = sent.outcome().await;
    assert_eq!(text(rsp.unwrap()).await, "first");
    assert_eq!(hedges(&world), [0, 0, 1]);

    let two = Budget::new(BudgetSettings { min_per_sec: 2, percent: 0.0, ttl: SEC }).unwrap();
    let service = ServicePolicy { retry_budget: two, ..policy() };
    let (world, ..) = UnderWay::start(service, Reply::hang(), get()).await.other(Reply::ok("")).outcome().await;
    assert_eq!(world.metric("service/svc/users/retries/budget"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn when_everything_is_slow_one_in_twenty_is_hedged() {
    let hedge = HedgePolicy::new(HedgeDelay::Fixed(50 * MS)).unwrap();
    let world = World::policies(ServicePolicy { hedge: Some(hedge), ..ServicePolicy::default() }, steady());
    world.namer.endpoints("/users", [1, 2, 3, 4].map(ep));
    for n in 1..=4 {
        world.endpoints.script(ep(n), [Reply::ok("").after(SEC)]);
    }
    let client = world.client("/svc/users");
    let sent: Vec<_> = (0..400)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { status(&client).await })
        })
        .collect();
    for sent in sent {
        assert_eq!(sent.await.unwrap(), 200);
    }
    let [hedges, _, unpaid] = hedges(&world);
    assert_eq!((hedges, hedges + unpaid), (20, 400));
    assert_eq!((1..=4).map(|n| world.endpoints.count(ep(n))).sum::<usize>(), 420);
}

#[tokio::test(start_paused = true)]
async fn one_in_twenty_requests_is_hedged_however_often_they_are_retried() {
    let hedge = HedgePolicy::new(HedgeDelay::Fixed(50 * MS)).unwrap();
    let plenty = Budget::new(BudgetSettings { min_per_sec: 10_000, ..BudgetSettings::default() }).unwrap();
    let retrying = ServicePolicy {
        hedge: Some(hedge),
        retry_budget: plenty,
        max_attempts: std::num::NonZeroU32::new(4),
        ..service(HttpClassifier::RetryableRead5xx)
    };
    let world = World::policies(retrying, ClientPolicy { attempt_timeout: Some(200 * MS), ..steady() });
    world.namer.endpoints("/users", [1, 2, 3, 4].map(ep));
    for n in 1..=4 {
        world.endpoints.script(ep(n), [Reply::ok("").after(SEC)]);
    }
    let client = world.client("/svc/users");
    let sent: Vec<_> = (0..400)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { error(&client).await.kind() })
        })
        .collect();
    for sent in sent {
        assert_eq!(sent.await.unwrap(), ErrorKind::AttemptTimeout);
    }
    assert_eq!((hedges(&world)[0], world.service("retries/total")), (20, 1200));
}

#[tokio::test(start_paused = true)]
async fn a_failure_waits_for_the_other_one() {
    // The first fails while its hedge is under way.
    let sent = UnderWay::start(policy(), Reply::closed().after(60 * MS), get()).await;
    let (world, rsp, millis) = sent.other(Reply::ok("").after(100 * MS)).outcome().await;
    assert_eq!((rsp.unwrap().status().as_u16(), millis, hedges(&world)), (200, 150, [1, 1, 0]));
    assert_eq!(world.bound("failures"), 1, "which is a failure all the same");

    // The hedge fails, and the first goes on.
    let sent = UnderWay::start(policy(), Reply::ok("").after(SEC), get()).await;
    let (world, rsp, millis) = sent.other(Reply::status(503)).outcome().await;
    assert_eq!((rsp.unwrap().status().as_u16(), millis, hedges(&world)), (200, 1000, [1, 0, 0]));

    // Both do: it is a failure like any other, with what became of either.
    let retrying = ServicePolicy { hedge: Some(eager()), ..service(HttpClassifier::RetryableRead5xx) };
    let service = ServicePolicy { max_attempts: std::num::NonZeroU32::new(1), ..retrying };
    let sent = UnderWay::start(service, Reply::closed().after(60 * MS), get()).await;
    let (first, other) = (sent.first, sent.other);
    let (_, rsp, millis) = sent.other(Reply::status(503).after(100 * MS)).outcome().await;
    let rsp = rsp.unwrap();
    let log = rsp.extensions().get::<AttemptLog>().unwrap();
    let tried: Vec<_> =
        log.tried().iter().map(|tried| (tried.number, tried.is_hedge, tried.endpoint, tried.outcome)).collect();
    let busy = AttemptOutcome::Answered(http::StatusCode::SERVICE_UNAVAILABLE);
    let closed = AttemptOutcome::Failed(ErrorKind::Closed);
    assert_eq!(tried, [(1, false, Some(first), closed), (2, true, Some(other), busy)]);
    assert_eq!((rsp.status().as_u16(), millis, log.stop()), (503, 150, Some(Stop::MaxAttempts)));
    let line = log.to_string();
    let starts = format!("tried 2 times: #1 at {first} closed after 6");
    assert!(line.starts_with(&starts) && line.contains(&format!("ms, #2 hedged at {other} 503 after 10")), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_what_was_hedged_goes_to_neither() {
    let retrying = ServicePolicy { hedge: Some(eager()), ..service(HttpClassifier::RetryableRead5xx) };
    for _ in 0..10 {
        let world = World::policies(retrying.clone(), steady());
        world.namer.endpoints("/users", [1, 2, 3].map(ep));
        for n in 1..=3 {
            world.endpoints.script(ep(n), [Reply::status(500).after(60 * MS)]);
        }
        let client = world.client("/svc/users");
        let sent = tokio::spawn(async move { status(&client).await });
        // Both legs are under way, and the third is who is left.
        tokio::time::sleep(55 * MS).await;
        let left = [1, 2, 3].map(ep).into_iter().find(|ep| world.endpoints.count(*ep) == 0).unwrap();
        world.endpoints.script(left, [Reply::ok("")]);
        assert_eq!(sent.await.unwrap(), 200);
        assert_eq!([1, 2, 3].map(|n| world.endpoints.count(ep(n))), [1; 3]);
        assert_eq!((hedges(&world), world.service("retries/total")), ([1, 0, 0], 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_comes_in_time_is_not_hedged() {
    let (world, rsp, _) = UnderWay::start(policy(), Reply::status(500).after(10 * MS), get()).await.outcome().await;
    assert_eq!((rsp.unwrap().status().as_u16(), hedges(&world)), (500, [0; 3]));
    let log = |log: &AttemptLog| log.tried().iter().map(|tried| tried.is_hedge).collect::<Vec<_>>();
    let (_, rsp, _) = UnderWay::start(policy(), Reply::closed(), get()).await.outcome().await;
    assert_eq!(log(rsp.unwrap_err().attempts().unwrap()), [false]);
}

#[tokio::test(start_paused = true)]
async fn the_total_time_holds_for_both_and_the_error_says_where_they_were() {
    let service = ServicePolicy { total_timeout: Some(200 * MS), ..policy() };
    let strict = AccrualPolicy::new(ConsecutiveFailures::new(std::num::NonZeroU32::MIN));
    let world = World::policies(service, ClientPolicy { accrual: strict, ..ClientPolicy::default() });
    let sent = UnderWay::start_in(world, Reply::hang(), get()).await;
    let (first, other) = (sent.first, sent.other);
    let (world, rsp, millis) = sent.outcome().await;
    let error = rsp.unwrap_err();
    assert_eq!((error.kind(), millis), (ErrorKind::TotalTimeout, 200));
    let log = error.attempts().unwrap();
    let tried: Vec<_> = log.tried().iter().map(|tried| (tried.is_hedge, tried.endpoint, tried.outcome)).collect();
    let under_way = AttemptOutcome::UnderWay;
    assert_eq!(tried, [(false, Some(first), under_way), (true, Some(other), under_way)]);
    assert_eq!(hedges(&world), [1, 0, 0]);
    assert_eq!(world.bound("failures"), 2, "both endpoints were too slow");
    assert!(world.mesh.clients()[0].endpoints.iter().all(|endpoint| endpoint.status == Status::Busy));
}

#[tokio::test(start_paused = true)]
async fn a_loser_is_not_taken_out() {
    let strict = AccrualPolicy::new(ConsecutiveFailures::new(std::num::NonZeroU32::MIN));
    let world = World::policies(policy(), ClientPolicy { accrual: strict, ..ClientPolicy::default() });
    let sent = UnderWay::start_in(world, Reply::hang(), get()).await.other(Reply::ok(""));
    let (world, rsp, _) = sent.outcome().await;
    assert_eq!(rsp.unwrap().status(), 200);
    assert!(world.mesh.clients()[0].endpoints.iter().all(|endpoint| endpoint.status == Status::Open));
}

#[tokio::test(start_paused = true)]
async fn with_one_endpoint_nothing_is_hedged() {
    let world = World::policies(policy(), steady());
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::ok("").after(SEC)]);
    assert_eq!(status(&world.client("/svc/users")).await, 200);
    assert_eq!((world.endpoints.count(ep(1)), hedges(&world)), (1, [0; 3]));
    assert_eq!(world.metric("service/svc/users/retries/budget"), Some(100.0), "nor paid for");
    // Another branch of a union is elsewhere, too.
    world.namer.addrs("/others", [ep(2)]);
    world.namer.tree("/users", "/users & /others");
    settle().await;
    let client = world.client("/svc/users");
    for _ in 0..20 {
        assert_eq!(status(&client).await, 200);
    }
    assert!(hedges(&world)[1] > 0);

    // Nor does the log of a failure have one.
    let service = ServicePolicy { total_timeout: Some(SEC), ..policy() };
    let world = World::policies(service, steady());
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let error = world.client("/svc/users").send(get()).await.unwrap_err();
    let tried: Vec<_> = error.attempts().unwrap().tried().iter().map(|tried| (tried.is_hedge, tried.outcome)).collect();
    assert_eq!(tried, [(false, AttemptOutcome::UnderWay)]);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_is_refused_goes_on_to_where_the_first_is_not() {
    let world = World::policies(policy(), steady());
    world.namer.endpoints("/users", [1, 2, 3].map(ep));
    for n in 1..=3 {
        world.endpoints.script(ep(n), [Reply::hang()]);
    }
    let client = world.client("/svc/users");
    let sent = tokio::spawn(async move { client.send(get()).await });
    settle().await;
    let first = [1, 2, 3].map(ep).into_iter().find(|ep| world.endpoints.count(*ep) == 1).unwrap();
    let others: Vec<_> = [1, 2, 3].map(ep).into_iter().filter(|ep| *ep != first).collect();
    // Whichever the hedge gets to does not listen, until it is asked twice.
    for other in &others {
        world.endpoints.script(*other, [Reply::unsent()]);
    }
    tokio::time::sleep(70 * MS).await;
    assert_eq!(world.endpoints.count(first), 1, "it is no place for its hedge");
    assert!(others.iter().all(|other| world.endpoints.count(*other) >= 1), "it was tried everywhere else");
    assert!(!sent.is_finished(), "the first is still under way");
    sent.abort();
}

#[tokio::test(start_paused = true)]
async fn the_log_has_every_place_that_a_hedge_came_back_from() {
    let run = async |service: ServicePolicy, reply: Reply| {
        let world = World::policies(service, steady());
        world.namer.endpoints("/users", [1, 2, 3].map(ep));
        for n in 1..=3 {
            world.endpoints.script(ep(n), [reply.clone()]);
        }
        let client = world.client("/svc/users");
        let sent = tokio::spawn(async move { client.send(get()).await });
        settle().await;
        let first = [1, 2, 3].map(ep).into_iter().find(|ep| world.endpoints.count(*ep) == 1).unwrap();
        let others: Vec<_> = [1, 2, 3].map(ep).into_iter().filter(|ep| *ep != first).collect();
        for other in &others {
            world.endpoints.script(*other, [Reply::unsent()]);
        }
        let error = sent.await.unwrap().unwrap_err();
        let log = error.attempts().unwrap().tried().to_vec();
        let visits: usize = others.iter().map(|other| world.endpoints.count(*other)).sum();
        (log, first, others, visits)
    };
    let closed = Reply::closed().after(SEC);
    let timeout = ServicePolicy { total_timeout: Some(SEC), ..policy() };
    for (service, reply, end) in [
        (policy(), closed, AttemptOutcome::Failed(ErrorKind::Closed)),
        (timeout, Reply::hang(), AttemptOutcome::UnderWay),
    ] {
        let (log, first, others, visits) = run(service, reply).await;
        let (hedged, alone): (Vec<_>, Vec<_>) = log.iter().copied().partition(|tried: &Attempted| tried.is_hedge);
        assert_eq!(hedged.len(), visits, "{log:?}");
        for tried in &hedged {
            assert!(others.contains(&tried.endpoint.unwrap()), "{tried:?}");
            assert_eq!(tried.outcome, AttemptOutcome::Failed(ErrorKind::Connect));
        }
        let alone: Vec<_> = alone.iter().map(|tried| (tried.number, tried.endpoint, tried.outcome)).collect();
        assert_eq!(alone, [(visits as u32 + 1, Some(first), end)], "{log:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_layer_does_not_hide_where_the_first_is() {
    let layer = || tower::layer::layer_fn(|svc: linkerd_core::Svc| svc);
    for _ in 0..10 {
        let uniform = Uniform { service: policy(), client: steady() };
        let world = World::with(|builder| builder.policies(uniform).client_layer(layer()));
        let sent = UnderWay::start_in(world, Reply::hang(), get()).await.other(Reply::ok(""));
        let (world, rsp, millis) = sent.outcome().await;
        assert_eq!((rsp.unwrap().status().as_u16(), millis, hedges(&world)), (200, 50, [1, 1, 0]));
    }
}

#[tokio::test(start_paused = true)]
async fn giving_up_ends_both() {
    let sent = UnderWay::start(policy(), Reply::hang(), get()).await;
    tokio::time::sleep(60 * MS).await;
    let world = sent.world;
    assert_eq!([1, 2].map(|n| world.endpoints.in_flight(ep(n))), [1, 1]);
    sent.sent.abort();
    settle().await;
    assert_eq!([1, 2].map(|n| world.endpoints.in_flight(ep(n))), [0, 0]);
    assert_eq!((hedges(&world), world.bound("failures")), ([1, 0, 0], 0));
    assert!(world.mesh.clients()[0].endpoints.iter().all(|endpoint| endpoint.pending == 0));
}

#[tokio::test(start_paused = true)]
async fn the_delay_may_be_what_most_attempts_take() {
    let delay = HedgeDelay::Percentile { percentile: 95.0, min: 5 * MS, max: 500 * MS };
    let hedge = HedgePolicy::new(delay).unwrap().share(1.0).unwrap();
    let world = World::policies(ServicePolicy { hedge: Some(hedge), ..ServicePolicy::default() }, steady());
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    let client = world.client("/svc/users");
    // Until it is known what they take, the longest.
    let hung = async || {
        let (client, begun) = (client.clone(), Instant::now());
        let was = [1, 2].map(|n| world.endpoints.count(ep(n)));
        for n in [1, 2] {
            world.endpoints.script(ep(n), [Reply::hang()]);
        }
        let sent = tokio::spawn(async move { status(&client).await });
        settle().await;
        let other = if world.endpoints.count(ep(1)) > was[0] { ep(2) } else { ep(1) };
        world.endpoints.script(other, [Reply::ok("")]);
        assert_eq!(sent.await.unwrap(), 200);
        begun.elapsed()
    };
    assert!(hung().await >= 500 * MS);
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::ok("").after(20 * MS)]);
    }
    for _ in 0..150 {
        assert_eq!(status(&client).await, 200);
    }
    let delay = hung().await;
    assert!(delay >= 20 * MS && delay < 30 * MS, "{delay:?}");
}

#[tokio::test(start_paused = true)]
async fn local_tables_bring_no_hedges_along() {
    let one = Budget::new(BudgetSettings { min_per_sec: 1, percent: 0.0, ttl: SEC }).unwrap();
    let world = World::policies(ServicePolicy { retry_budget: one, ..policy() }, steady());
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::ok("").after(100 * MS)]);
    }
    let client = world.client("/svc/users");
    for req in [get(), overridden("/a => /b"), overridden("/c => /d")] {
        assert_eq!(client.send(req).await.unwrap().status(), 200);
    }
    assert_eq!(hedges(&world)[..1], [1]);
}
