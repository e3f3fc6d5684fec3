//! How many requests of a name are let in.

use std::num::{NonZeroU32, NonZeroUsize};

use linkerd_core::{
    AttemptLog, CacheSettings, ErrorKind, HedgePolicy, LimitPolicy, LimitState, Timer,
    retry::{
        Backoff, Budget, BudgetSettings, Stop,
        hedge::HedgeDelay,
        limit::{AdaptiveSettings, Criticality, RateSettings, Shares, WhenFull},
    },
    testing::Reply,
};
use tokio::{task::JoinHandle, time::Instant};

use super::*;

fn at_a_time(max: usize, when_full: WhenFull) -> LimitPolicy {
    LimitPolicy::concurrency(NonZeroUsize::new(max).unwrap(), when_full)
}

fn queue(capacity: usize, wait: Duration) -> WhenFull {
    WhenFull::Queue { capacity, wait }
}

fn policy(limit: LimitPolicy) -> ServicePolicy {
    ServicePolicy { limit: Some(limit), ..ServicePolicy::default() }
}

/// A name with one endpoint that answers so.
fn world(service: ServicePolicy, reply: Reply) -> World {
    let world = World::policies(service, steady());
    serving(&world, reply);
    world
}

fn serving(world: &World, reply: Reply) {
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [reply]);
}

/// Sends in a task, and lets it get as far as it gets.
async fn begin(world: &World, req: Request<&'static str>) -> JoinHandle<Outcome> {
    let client = world.client("/svc/users");
    let sent = tokio::spawn(async move { client.send(req).await });
    settle().await;
    sent
}

fn of(class: Criticality) -> Request<&'static str> {
    let mut req = get();
    req.extensions_mut().insert(class);
    req
}

fn said(class: &'static str) -> Request<&'static str> {
    Request::get("/").header("l5d-ctx-criticality", class).body("").unwrap()
}

fn limit(world: &World) -> LimitState {
    world.mesh.paths()[0].limit.clone().unwrap()
}

fn used(world: &World) -> [usize; 2] {
    let limit = limit(world);
    [limit.in_flight.unwrap(), limit.queued]
}

fn is_shed(outcome: Outcome) -> String {
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::Overloaded, 503));
    assert!(error.never_sent());
    error.text()
}

#[tokio::test(start_paused = true)]
async fn what_is_over_the_limit_is_shed_unsent_and_the_error_says_by_what() {
    let world = world(policy(at_a_time(2, WhenFull::Reject)), Reply::ok("").after(SEC));
    let sent = [begin(&world, get()).await, begin(&world, get()).await];
    let text = is_shed(world.client("/svc/users").send(get()).await);
    let expected =
        "limit /svc/users is full: 2 of 2 in flight, 0 queued, class critical; nothing of the request was sent";
    assert_eq!(text, expected);
    assert_eq!(world.endpoints.count(ep(1)), 2);
    let numbers = ["limit", "in_flight", "queued", "shed"].map(|name| world.service(&format!("limit/{name}")));
    assert_eq!(numbers, [2, 2, 0, 1]);
    let shown = limit(&world);
    assert_eq!((shown.kind, shown.limit, shown.in_flight, shown.queued, shown.shed), ("concurrency", 2, Some(2), 0, 1));
    // Another name has a limit of its own.
    world.namer.tree("/others", "/users");
    let other = world.client("/svc/others");
    assert_eq!(status(&other).await, 200);
    for sent in sent {
        assert_eq!(sent.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!((used(&world), status(&world.client("/svc/users")).await), ([0, 0], 200));
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_until_the_body_has_ended() {
    let world = world(policy(at_a_time(1, WhenFull::Reject)), Reply::ok("long").streamed(10 * MS));
    let client = world.client("/svc/users");
    let rsp = client.send(get()).await.unwrap();
    is_shed(client.send(get()).await);
    assert_eq!(text(rsp).await, "long");
    let rsp = client.send(get()).await.unwrap();
    drop(rsp);
    assert_eq!(used(&world), [0, 0], "or is no longer wanted");
    world.endpoints.script(ep(1), [Reply::closed()]);
    for _ in 0..3 {
        assert_eq!(error(&client).await.kind(), ErrorKind::Closed, "nor does a failure keep it");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_queue_for_their_time_and_the_requests() {
    let service = ServicePolicy { total_timeout: Some(300 * MS), ..policy(at_a_time(1, queue(2, 200 * MS))) };
    let world = world(service, Reply::ok("").after(180 * MS));
    let begun = Instant::now();
    let [first, second, third] = [begin(&world, get()).await, begin(&world, get()).await, begin(&world, get()).await];
    assert_eq!(used(&world), [1, 2]);
    assert_eq!(world.service("limit/queued"), 2);
    let text = is_shed(world.client("/svc/users").send(get()).await);
    assert!(text.starts_with("limit /svc/users has a full queue: 1 of 1 in flight, 2 queued"), "{text}");
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    // The third has waited as long as one may.
    let error = third.await.unwrap().unwrap_err();
    let timer = error.timer().unwrap();
    assert_eq!((timer.timer, timer.limit, timer.set_by), (Timer::Queue, 200 * MS, "service.limit.queueWaitMs"));
    assert_eq!(world.service("timeouts/queue"), 1);
    let text = is_shed(Err(error));
    assert!(text.starts_with("limit /svc/users was full for 200ms"), "{text}");
    // The second was let in with half of its time gone, and got no answer in what was left.
    assert_eq!(second.await.unwrap().unwrap_err().kind(), ErrorKind::TotalTimeout);
    assert!(begun.elapsed() < 310 * MS);
    settle().await;
    assert_eq!((used(&world), world.endpoints.count(ep(1))), ([0, 0], 2));
}

#[tokio::test(start_paused = true)]
async fn who_blocks_waits_for_as_long_as_the_caller() {
    let world = world(policy(at_a_time(1, WhenFull::Block)), Reply::ok("").after(60 * SEC));
    let sent = [begin(&world, get()).await, begin(&world, get()).await, begin(&world, get()).await];
    let [first, second, third] = sent;
    third.abort();
    settle().await;
    assert_eq!(used(&world), [1, 1], "a place in the queue is given back");
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn what_matters_least_is_shed_first() {
    let reply = Reply::ok("").after(SEC);
    let world = world(policy(at_a_time(10, WhenFull::Reject)), reply);
    let mut sent = Vec::new();
    for _ in 0..8 {
        sent.push(begin(&world, of(Criticality::Sheddable)).await);
    }
    let client = world.client("/svc/users");
    let text = is_shed(client.send(said("sheddable")).await);
    assert!(text.contains("8 of 10 in flight, 0 queued, class sheddable"), "{text}");
    is_shed(client.send(said("1")).await);
    // An extension of the request counts before its header; who says nothing that is understood is critical.
    let mut both = said("critical_plus");
    both.extensions_mut().insert(Criticality::SheddablePlus);
    is_shed(client.send(both).await);
    sent.push(begin(&world, said("whatever")).await);
    sent.push(begin(&world, get()).await);
    assert_eq!(used(&world), [10, 0]);
    is_shed(client.send(said("critical-plus")).await);
    assert_eq!(world.endpoints.count(ep(1)), 10);
    let seen = world.endpoints.seen(ep(1));
    assert_eq!(seen[8].headers["l5d-ctx-criticality"], "whatever", "the next hop reads it too");

    // With shares of one's own.
    let shares = Shares::new([25, 50, 75, 100]).unwrap();
    let world = self::world(policy(at_a_time(4, WhenFull::Reject).shares(shares)), Reply::hang());
    for (class, next) in Criticality::ALL.into_iter().zip(Criticality::ALL.into_iter().skip(1).map(Some).chain([None]))
    {
        drop(begin(&world, of(class)).await);
        is_shed(world.client("/svc/users").send(of(class)).await);
        assert_eq!(used(&world)[0], class as usize + 1, "{next:?} is next");
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_queue_the_higher_class_goes_first() {
    let world = world(policy(at_a_time(1, queue(2, 10 * SEC))), Reply::ok("").after(100 * MS));
    let first = begin(&world, get()).await;
    let low = begin(&world, said("sheddable")).await;
    let lower = begin(&world, said("sheddable")).await;
    let high = begin(&world, said("critical_plus")).await;
    let text = is_shed(lower.await.unwrap());
    assert!(text.contains("gave its place in the queue to a higher class"), "{text}");
    assert!(first.await.unwrap().is_ok() && !low.is_finished());
    assert!(high.await.unwrap().is_ok() && !low.is_finished());
    assert!(low.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_place_is_for_an_attempt_its_hedge_and_the_retries_that_come_at_once() {
    let hedge = HedgePolicy::new(HedgeDelay::Fixed(10 * MS)).unwrap().share(1.0).unwrap();
    let service = ServicePolicy {
        hedge: Some(hedge),
        limit: Some(at_a_time(1, WhenFull::Reject)),
        max_attempts: NonZeroU32::new(5),
        ..service(HttpClassifier::RetryableRead5xx)
    };
    let world = world(service, Reply::status(500).after(50 * MS));
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    world.endpoints.script(ep(2), [Reply::status(500).after(50 * MS)]);
    let sent = begin(&world, get()).await;
    for at in [20, 60, 60] {
        tokio::time::sleep(at * MS).await;
        assert_eq!(used(&world), [1, 0], "two under way");
        is_shed(world.client("/svc/users").send(get()).await);
    }
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::ok("")]);
    }
    assert_eq!(sent.await.unwrap().unwrap().status(), 200);
    assert_eq!(used(&world), [0, 0]);
    assert!(world.service("retries/hedges") >= 1 && world.service("retries/total") >= 2);
}

/// Fails in 50 ms, and waits for a second then.
fn waiting(limit: LimitPolicy) -> ServicePolicy {
    ServicePolicy { backoff: Backoff::constant(SEC), limit: Some(limit), ..service(HttpClassifier::RetryableRead5xx) }
}

fn failing() -> Reply {
    Reply::status(500).body("not now").after(50 * MS)
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_leaves_its_place_to_others() {
    let world = world(waiting(at_a_time(1, WhenFull::Reject)), failing());
    let sent = begin(&world, get()).await;
    assert_eq!((used(&world), world.service("retries/waiting")), ([1, 0], 0));
    tokio::time::sleep(100 * MS).await;
    assert_eq!((used(&world), world.service("retries/waiting")), ([0, 0], 1));
    assert_eq!(world.bound("pending"), 0, "and nothing of its answer is held");
    world.endpoints.script(ep(1), [Reply::ok("").after(50 * MS)]);
    assert_eq!(status(&world.client("/svc/users")).await, 200);
    tokio::time::sleep(920 * MS).await;
    assert_eq!((used(&world), world.service("retries/waiting")), ([1, 0], 0), "it is let in again");
    is_shed(world.client("/svc/users").send(get()).await);
    assert_eq!(sent.await.unwrap().unwrap().status(), 200);
    assert_eq!((used(&world), world.endpoints.count(ep(1))), ([0, 0], 3));
}

/// Why a failure was passed on, which was an answer of this text.
async fn stopped(outcome: Outcome) -> (Option<Stop>, String) {
    let rsp = outcome.unwrap();
    assert_eq!(rsp.status(), 500);
    let log = rsp.extensions().get::<AttemptLog>().unwrap();
    (log.stop(), text(rsp).await)
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_not_let_in_again_ends_with_what_it_had() {
    let not_now = || "not now".to_owned();
    let world = world(waiting(at_a_time(1, WhenFull::Reject)), failing());
    let sent = begin(&world, get()).await;
    tokio::time::sleep(100 * MS).await;
    world.endpoints.script(ep(1), [Reply::hang()]);
    let held = begin(&world, get()).await;
    assert_eq!(stopped(sent.await.unwrap()).await, (Some(Stop::Limited), not_now()));
    let counts = ["retries/limited", "limit/shed", "retries/waiting"].map(|name| world.service(name));
    assert_eq!((counts, world.endpoints.count(ep(1))), ([1, 1, 0], 2));
    held.abort();
    settle().await;

    // There is no answer to be passed on where there was none, or a longer one than is kept.
    for reply in [Reply::closed(), Reply::status(500).body("x".repeat(100_000)).streamed(MS)] {
        let is_long = reply.clone();
        world.endpoints.script(ep(1), [reply]);
        let sent = begin(&world, get()).await;
        tokio::time::sleep(100 * MS).await;
        world.endpoints.script(ep(1), [Reply::hang()]);
        let held = begin(&world, get()).await;
        let error = sent.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::Overloaded), "{is_long:?}: {error:?}");
        assert!(!error.never_sent());
        assert_eq!(error.attempts().unwrap().stop(), Some(Stop::Limited));
        assert!(error.text().contains("a limit did not let it in again"), "{}", error.text());
        held.abort();
        settle().await;
    }

    // With a queue it waits for its turn, as long as it may.
    let service = ServicePolicy { total_timeout: Some(3 * SEC), ..waiting(at_a_time(1, queue(5, 60 * SEC))) };
    let world = self::world(service, failing());
    for (lasts, expected) in [(2 * SEC, None), (10 * SEC, Some(Stop::Deadline))] {
        world.endpoints.script(ep(1), [failing()]);
        let begun = Instant::now();
        let sent = begin(&world, get()).await;
        tokio::time::sleep(100 * MS).await;
        world.endpoints.script(ep(1), [Reply::ok("").after(lasts), Reply::ok("")]);
        let held = begin(&world, get()).await;
        tokio::time::sleep(SEC).await;
        assert_eq!(used(&world), [1, 1]);
        if let Some(stop) = expected {
            assert_eq!(stopped(sent.await.unwrap()).await, (Some(stop), not_now()));
            assert_eq!(begun.elapsed().as_secs(), 3);
            held.abort();
            settle().await;
        } else {
            assert_eq!(held.await.unwrap().unwrap().status(), 200);
            assert_eq!(sent.await.unwrap().unwrap().status(), 200);
        }
        assert_eq!(used(&world), [0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn local_tables_share_it_and_it_outlives_what_is_idle() {
    let client = ClientPolicy { accrual: linkerd_core::AccrualPolicy::off(), ..ClientPolicy::default() };
    let uniform = Uniform { service: policy(at_a_time(1, WhenFull::Reject)), client };
    let caches = CacheSettings { idle_ttl: 10 * SEC, ..CacheSettings::default() };
    let world = World::with(|builder| builder.policies(uniform).caches(caches));
    serving(&world, Reply::ok("some").streamed(60 * SEC));
    // None that stays, which would keep the name.
    let send = async |req| world.client("/svc/users").send(req).await;
    let rsp = send(overridden("/a => /b")).await.unwrap();
    is_shed(send(get()).await);
    is_shed(send(overridden("/c => /d")).await);
    // Nobody asks for a while: stacks are let go of, but not the place that is taken.
    tokio::time::sleep(100 * SEC).await;
    assert_eq!(world.mesh.paths().len(), 0);
    is_shed(send(get()).await);
    assert_eq!(text(rsp).await, "some");
    assert_eq!(send(get()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn giving_up_gives_the_place_back() {
    let world = world(policy(at_a_time(1, queue(5, 60 * SEC))), Reply::hang());
    let (first, second) = (begin(&world, get()).await, begin(&world, get()).await);
    assert_eq!(used(&world), [1, 1]);
    first.abort();
    settle().await;
    assert_eq!((used(&world), world.endpoints.count(ep(1))), ([1, 0], 2), "the next is let in");
    second.abort();
    settle().await;
    assert_eq!(used(&world), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_rate_lets_in_so_many_a_second() {
    let ten = NonZeroU32::new(10).unwrap();
    let settings = RateSettings { requests: ten, burst: NonZeroU32::new(2).unwrap(), ..RateSettings::default() };
    let world = world(policy(LimitPolicy::rate(settings).unwrap()), Reply::ok(""));
    let client = world.client("/svc/users");
    assert_eq!([status(&client).await, status(&client).await], [200, 200]);
    let text = is_shed(client.send(get()).await);
    let starts = "rate limit /svc/users of 10 in 1s is used up for class critical, try again in 100ms";
    assert!(text.starts_with(starts), "{text}");
    let shown = limit(&world);
    assert_eq!((shown.kind, shown.limit, shown.in_flight, shown.shed), ("rate", 10, None, 1));
    tokio::time::sleep(100 * MS).await;
    assert_eq!(status(&client).await, 200);
    assert_eq!((world.endpoints.count(ep(1)), world.service("limit/shed")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rate_may_be_waited_for() {
    let ten = NonZeroU32::new(10).unwrap();
    let settings = RateSettings { requests: ten, burst: NonZeroU32::MIN, max_wait: SEC, ..RateSettings::default() };
    let world = world(policy(LimitPolicy::rate(settings).unwrap()), Reply::ok(""));
    let client = world.client("/svc/users");
    let begun = Instant::now();
    assert_eq!(status(&client).await, 200);
    let waiting = begin(&world, get()).await;
    assert_eq!((limit(&world).queued, world.service("limit/queued")), (1, 1));
    waiting.abort();
    settle().await;
    assert_eq!(limit(&world).queued, 0);
    // Its turn is given back.
    assert_eq!(status(&client).await, 200);
    assert!(begun.elapsed() >= 100 * MS && begun.elapsed() < 110 * MS, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_is_not_let_in_by_its_deadline_is_shed_by_then() {
    let timed = |limit| ServicePolicy { total_timeout: Some(300 * MS), ..policy(limit) };
    // Who is let in with a body that never ends has its place for ever.
    let world = self::world(timed(at_a_time(1, WhenFull::Block)), Reply::ok("long").streamed(SEC));
    let _held = world.client("/svc/users").send(get()).await.unwrap();
    let begun = Instant::now();
    let text = is_shed(world.client("/svc/users").send(get()).await);
    assert!(text.starts_with("limit /svc/users ") && text.contains("1 of 1 in flight"), "{text}");
    assert!(begun.elapsed() >= 300 * MS && begun.elapsed() < 310 * MS);
    assert_eq!((used(&world), world.service("limit/shed")), ([1, 0], 1));

    let settings = RateSettings {
        requests: NonZeroU32::MIN,
        burst: NonZeroU32::MIN,
        max_wait: 10 * SEC,
        ..RateSettings::default()
    };
    let world = self::world(timed(LimitPolicy::rate(settings).unwrap()), Reply::ok(""));
    let client = world.client("/svc/users");
    assert_eq!(status(&client).await, 200);
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(is_shed(client.send(get()).await).contains("no turn before the deadline"));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "which is known at once");
    tokio::time::sleep(SEC).await;
    assert_eq!(status(&client).await, 200, "nobody took the turn");
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_follows_what_is_served_and_what_is_not() {
    let settings = AdaptiveSettings { initial: 20, window: 10, ..AdaptiveSettings::default() };
    let adaptive = || policy(LimitPolicy::adaptive(settings, WhenFull::Reject).unwrap());
    let load = async |world: &World| {
        for _ in 0..20 {
            let mut sent = Vec::new();
            for _ in 0..30 {
                sent.push(begin(world, get()).await);
            }
            for sent in sent {
                drop(sent.await.unwrap());
            }
        }
        limit(world).limit
    };
    let world = self::world(adaptive(), Reply::ok("").after(20 * MS));
    assert_eq!(limit_before(&world).await, ("adaptive", 20));
    let served = load(&world).await;
    assert!(served >= 30, "there is room for more: {served}");
    assert_eq!(world.metric("service/svc/users/limit/limit"), Some(served as f64));
    for busy in [Reply::status(503), Reply::status(429)] {
        let world = self::world(adaptive(), busy.after(20 * MS));
        let overloaded = load(&world).await;
        assert!(overloaded < 10, "it says that it is too much: {overloaded}");
    }
    // What takes too long says so as well; what fails otherwise says nothing.
    let timed = ServicePolicy { total_timeout: Some(20 * MS), ..adaptive() };
    assert!(load(&self::world(timed, Reply::hang())).await < 10);
    assert_eq!(load(&self::world(adaptive(), Reply::closed())).await, 20);
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_hears_of_each_attempt_and_not_of_the_waits() {
    let settings = AdaptiveSettings { initial: 20, window: 10, ..AdaptiveSettings::default() };
    let limited = LimitPolicy::adaptive(settings, WhenFull::Reject).unwrap();
    let backoff = Backoff::constant(10 * MS);
    let retry_budget = Budget::new(BudgetSettings { percent: 1.0, ..BudgetSettings::default() }).unwrap();
    let world = world(ServicePolicy { backoff, retry_budget, ..waiting(limited) }, Reply::ok(""));
    assert_eq!(status(&world.client("/svc/users")).await, 200);
    for _ in 0..10 {
        // All fail at first, which takes long, and then none.
        let room = limit(&world).limit;
        let replies = [Reply::status(500).after(100 * MS), Reply::ok("").after(20 * MS)];
        world.endpoints.script(ep(1), replies.into_iter().flat_map(|reply| vec![reply; room]));
        let mut sent = Vec::new();
        for _ in 0..room {
            sent.push(begin(&world, get()).await);
        }
        is_shed(world.client("/svc/users").send(get()).await);
        for sent in sent {
            assert_eq!(sent.await.unwrap().unwrap().status(), 200);
        }
    }
    let followed = limit(&world).limit;
    assert!(followed >= 30, "{followed}");
}

async fn limit_before(world: &World) -> (&'static str, usize) {
    assert_eq!(status(&world.client("/svc/users")).await, 200);
    let limit = limit(world);
    (limit.kind, limit.limit)
}
