//! What was never sent is sent elsewhere, and what a peer refused is asked again.

use bytes::Bytes;
use http_body_util::StreamBody;
use linkerd_core::{
    AttemptOutcome, BoxError, ErrorKind,
    retry::{Budget, BudgetSettings},
    testing::Reply,
};

use super::*;

/// A stream of a mebibyte that notes how much of it was read.
fn mebibyte(read: &std::sync::Arc<std::sync::atomic::AtomicUsize>) -> Body {
    let read = std::sync::Arc::clone(read);
    let frames = futures::stream::iter((0..1024).map(move |_| {
        read.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(&[0; 1024])))
    }));
    Body::new(StreamBody::new(frames))
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_unsent_goes_to_another_endpoint_without_being_read() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1), ep(2), ep(3)]);
    world.endpoints.script(ep(1), [Reply::unsent()]);
    world.endpoints.script(ep(2), [Reply::unsent()]);
    let client = world.client("/svc/users");
    let read = std::sync::Arc::default();
    for _ in 0..20 {
        let rsp = client.send(Request::post("/").body(mebibyte(&read)).unwrap()).await.unwrap();
        assert_eq!(rsp.status(), 200);
    }
    assert_eq!(world.endpoints.count(ep(3)), 20);
    assert!(world.endpoints.seen(ep(3)).iter().all(|seen| seen.body.is_none()));
    assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), 0);
    let requeues = world.endpoints.count(ep(1)) + world.endpoints.count(ep(2));
    assert_eq!(world.bound("retries/requeues"), requeues as u64);
    assert_eq!([world.bound("requests"), world.bound("failures")], [20, 0], "no request was sent to the others");
    assert_eq!(world.bound("service_creation/failures"), requeues as u64);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_tried_is_tried_again_only_when_all_were() {
    let world = World::policies(ServicePolicy::default(), steady());
    world.namer.endpoints("/users", [ep(1), ep(2), ep(3), ep(4)]);
    for n in 1..=4 {
        world.endpoints.script(ep(n), [Reply::unsent(), Reply::ok("")]);
    }
    assert_eq!(status(&world.client("/svc/users")).await, 200);
    let counts = [1, 2, 3, 4].map(|n| world.endpoints.count(ep(n)));
    assert_eq!(counts.iter().sum::<usize>(), 5);
    assert!(counts.iter().all(|&count| count >= 1), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_did_not_come_back_is_lost() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    for n in 1..=2 {
        world.endpoints.script(ep(n), [Reply::fail(ErrorKind::Connect, true)]);
    }
    let client = world.client("/svc/users");
    let read = std::sync::Arc::default();
    let error = client.send(Request::post("/").body(mebibyte(&read)).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert_eq!(world.bound("retries/cannot_retry"), 1);
    // One that is all here is kept.
    client.send(get()).await.unwrap_err();
    assert!(world.bound("retries/requeues") > 0);
}

#[tokio::test(start_paused = true)]
async fn one_request_takes_a_fifth_of_the_budget_rounded_up() {
    for (min_per_sec, ttl, limit) in [(10, 10, 20), (1, 6, 2), (1, 1, 1)] {
        let budget = BudgetSettings { min_per_sec, ttl: ttl * SEC, percent: 0.2 };
        let world = World::policies(
            ServicePolicy::default(),
            ClientPolicy { requeue_budget: Budget::new(budget).unwrap(), ..steady() },
        );
        world.namer.endpoints("/users", [ep(1)]);
        world.endpoints.script(ep(1), [Reply::unsent()]);
        let client = world.client("/svc/users");
        let failed = error(&client).await;
        assert_eq!(failed.kind(), ErrorKind::Connect);
        assert_eq!(world.endpoints.count(ep(1)), 1 + limit);
        assert_eq!(world.bound("retries/request_limit"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn requeues_have_a_budget_of_their_own_which_successes_fill() {
    let budget = BudgetSettings { min_per_sec: 0, percent: 0.5, ..BudgetSettings::default() };
    let world = World::policies(
        service(HttpClassifier::NonRetryable5xx),
        ClientPolicy { requeue_budget: Budget::new(budget).unwrap(), ..steady() },
    );
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    world.endpoints.script(ep(1), [Reply::status(500)]);
    for _ in 0..10 {
        status(&client).await;
    }
    world.endpoints.script(ep(1), [Reply::unsent()]);
    error(&client).await;
    assert_eq!(world.endpoints.count(ep(1)), 11, "failures earn nothing");
    world.endpoints.script(ep(1), [Reply::ok("")]);
    for _ in 0..4 {
        status(&client).await;
    }
    assert_eq!(world.metric("client/#/fake/users/retries/budget"), Some(2.0));
    world.endpoints.script(ep(1), [Reply::unsent()]);
    error(&client).await;
    assert_eq!(world.endpoints.count(ep(1)), 17, "two, and one request takes one of them");
    assert_eq!(world.service("retries/total"), 0);
}

#[tokio::test(start_paused = true)]
async fn with_no_endpoint_open_the_error_stands() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::unsent()]);
    let client = world.client("/svc/users");
    assert_eq!(error(&client).await.kind(), ErrorKind::Connect);
    assert_eq!(world.endpoints.count(ep(1)), 5, "five failures take it out");
    assert_eq!([world.bound("retries/requeues"), world.bound("retries/not_open")], [4, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_asked_again_five_times_and_then_named() {
    for nack in [Reply::nack(), Reply::status(503).header("retry-after", "0")] {
        let world = World::new();
        world.namer.endpoints("/users", [ep(1)]);
        world.endpoints.script(ep(1), [nack]);
        let error = error(&world.client("/svc/users")).await;
        assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::Refused, 502));
        assert_eq!(error.text(), "The request was Nacked by the server");
        assert_eq!(world.endpoints.count(ep(1)), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_one_is_answered_by_another() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    world.endpoints.script(ep(1), [Reply::nack()]);
    let client = world.client("/svc/users");
    for _ in 0..10 {
        let rsp = client.send(Request::post("/").body("order").unwrap()).await.unwrap();
        assert_eq!(rsp.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_final_is_asked_once() {
    let world = World::retrying(HttpClassifier::NonRetryable5xx);
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::nonretryable_nack().header("retry-after", "0")]);
    let error = error(&world.client("/svc/users")).await;
    assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Refused, false));
    assert_eq!(error.text(), "The request was Nacked by the server and should not be retried");
    assert_eq!(world.endpoints.count(ep(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn other_503s_and_those_to_streams_pass_as_they_came() {
    let world = World::retrying(HttpClassifier::NonRetryable5xx);
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    world.endpoints.script(ep(1), [Reply::status(503).header("retry-after", "1")]);
    assert_eq!(status(&client).await, 503);
    world.endpoints.script(ep(1), [Reply::nack().body("why")]);
    let read = std::sync::Arc::default();
    let rsp = client.send(Request::post("/").body(mebibyte(&read)).unwrap()).await.unwrap();
    assert_eq!(rsp.headers()["finagle-http-nack"], "true");
    assert_eq!(text(rsp).await, "why");
    assert_eq!(world.endpoints.count(ep(1)), 2);
}

#[tokio::test(start_paused = true)]
async fn each_is_in_the_log_and_has_its_number() {
    each_is_in_the_log(World::policies(ServicePolicy::default(), steady())).await;
    // Below a client layer too.
    let uniform = Uniform { service: ServicePolicy::default(), client: steady() };
    let layer = tower::layer::layer_fn(|svc: linkerd_core::Svc| svc);
    each_is_in_the_log(World::with(|builder| builder.policies(uniform).client_layer(layer))).await;
}

async fn each_is_in_the_log(world: World) {
    world.namer.endpoints("/users", [1, 2].map(ep));
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::unsent().after(5 * MS), Reply::closed()]);
    }
    let error = error(&world.client("/svc/users")).await;
    let log = error.attempts().unwrap();
    let tried: Vec<_> = log.tried().iter().map(|tried| (tried.number, tried.outcome, tried.took.as_millis())).collect();
    let unsent = AttemptOutcome::Failed(ErrorKind::Connect);
    // Two that were not sent, each elsewhere, and one that was.
    assert_eq!(tried.len(), 3, "{log}");
    assert!(tried[..2].iter().zip(1..).all(|(tried, n)| (tried.0, tried.1) == (n, unsent) && tried.2 >= 5), "{log}");
    assert_eq!((tried[2].0, tried[2].1), (3, AttemptOutcome::Failed(ErrorKind::Closed)));
    assert_ne!(log.tried()[0].endpoint, log.tried()[1].endpoint);
    assert_eq!(world.bound("retries/requeues"), 2);
    let left = error.left().unwrap();
    assert_eq!((left.retries, left.time), (100, None));
}
