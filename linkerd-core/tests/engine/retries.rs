//! Retries by class, within a budget.

use bytes::Bytes;
use http::Method;
use http_body_util::StreamBody;
use linkerd_core::{
    AttemptLog, AttemptOutcome, BoxError, ErrorKind,
    retry::{Backoff, Budget, BudgetSettings, Stop},
    testing::{End, Reply},
};
use tokio::time::Instant;

use super::*;

fn stream() -> Body {
    let frames = [Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"part")))];
    Body::new(StreamBody::new(futures::stream::iter(frames)))
}

fn users(world: &World, replies: impl IntoIterator<Item = Reply>) -> Client {
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), replies);
    world.client("/svc/users")
}

#[tokio::test(start_paused = true)]
async fn a_request_that_always_fails_is_sent_a_hundred_and_one_times() {
    let world = World::retrying(HttpClassifier::RetryableRead5xx);
    let client = users(&world, [Reply::status(500).header("n", "first"), Reply::status(500).header("n", "last")]);
    let rsp = client.send(get()).await.unwrap();
    assert_eq!((rsp.status().as_u16(), &rsp.headers()["n"]), (500, &"last".parse().unwrap()));
    assert_eq!(world.endpoints.count(ep(1)), 101);
    assert_eq!([world.service("retries/total"), world.service("retries/budget_exhausted")], [100, 1]);
    assert_eq!([world.service("requests"), world.service("failures")], [1, 1]);
    assert_eq!([world.bound("requests"), world.bound("failures")], [101, 101]);
}

#[tokio::test(start_paused = true)]
async fn each_path_has_a_budget_of_its_own() {
    let world = World::policies(
        ServicePolicy {
            retry_budget: Budget::new(BudgetSettings { min_per_sec: 0, percent: 1.0, ..BudgetSettings::default() })
                .unwrap(),
            ..service(HttpClassifier::RetryableRead5xx)
        },
        steady(),
    );
    let client = users(&world, [Reply::status(500)]);
    world.namer.tree("/others", "/users");
    status(&client).await;
    assert_eq!(world.endpoints.count(ep(1)), 2);
    status(&world.client("/svc/others")).await;
    assert_eq!(world.endpoints.count(ep(1)), 4);
    assert_eq!(world.metric("service/svc/users/retries/budget"), Some(0.0));
    // A success earns as much, and spends nothing.
    world.endpoints.script(ep(1), [Reply::ok("")]);
    status(&client).await;
    assert_eq!(world.metric("service/svc/users/retries/budget"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_paid_for_when_it_is_scheduled() {
    let budget = Budget::new(BudgetSettings { min_per_sec: 0, percent: 1.0, ..BudgetSettings::default() }).unwrap();
    let backoff = Backoff::constant(SEC);
    let policy = ServicePolicy { retry_budget: budget, backoff, ..service(HttpClassifier::RetryableRead5xx) };
    let world = World::policies(policy, steady());
    let client = users(&world, [Reply::status(500)]);
    let mut waiting = sending(&client, get());
    assert!(waiting.poll().is_pending());
    settle().await;
    assert!(waiting.poll().is_pending());
    // It has not been sent, and is paid for.
    assert_eq!([world.service("retries/waiting"), world.service("retries/budget")], [1, 0]);
    assert_eq!(world.endpoints.count(ep(1)), 1);
    // Also if it never is.
    drop(waiting);
    tokio::time::sleep(2 * SEC).await;
    assert_eq!([world.service("retries/waiting"), world.service("retries/budget")], [0, 0]);
    assert_eq!(world.endpoints.count(ep(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_is_waited_for_and_nothing_is_held_meanwhile() {
    let world = World::policies(
        ServicePolicy { backoff: Backoff::constant(200 * MS), ..service(HttpClassifier::RetryableRead5xx) },
        steady(),
    );
    let client = users(&world, [Reply::status(500).body("no"), Reply::closed(), Reply::ok("")]);
    let begun = Instant::now();
    let rsp = tokio::spawn(async move { client.send(get()).await });
    tokio::time::sleep(100 * MS).await;
    assert_eq!(world.mesh.clients()[0].endpoints[0].pending, 0);
    assert_eq!(rsp.await.unwrap().unwrap().status(), 200);
    let at: Vec<_> = world.endpoints.seen(ep(1)).iter().map(|seen| (seen.at - begun).as_millis()).collect();
    // The timer's steps are of a millisecond.
    assert!(matches!(at[..], [0, 200..=202, 400..=404]), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn what_may_be_retried_is_the_classifiers_and_the_methods_choice() {
    use HttpClassifier::*;
    let methods =
        [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::POST, Method::PATCH, Method::CONNECT];
    let table = [
        (NonRetryable5xx, [false; 7]),
        (RetryableRead5xx, [true, true, false, false, false, false, false]),
        (RetryableIdempotent5xx, [true, true, true, true, false, false, false]),
        (RetryableAll5xx, [true, true, true, true, true, true, false]),
        (AllSuccessful, [false; 7]),
    ];
    for (classifier, expected) in table {
        for (method, expected) in methods.iter().zip(expected) {
            for failure in [Reply::status(503), Reply::closed()] {
                let world = World::retrying(classifier);
                let client = users(&world, [failure, Reply::ok("")]);
                let req = Request::builder().method(method).uri("/").body("some").unwrap();
                let rsp = client.send(req).await;
                assert_eq!(rsp.is_ok_and(|rsp| rsp.status() == 200), expected, "{classifier:?} {method}");
                let seen = world.endpoints.seen(ep(1));
                assert_eq!(seen.len(), 1 + usize::from(expected), "{classifier:?} {method}");
                assert!(seen.iter().all(|seen| seen.body.as_deref() == Some(b"some")));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_says_so_is_retried_whatever_the_method() {
    let world = World::retrying(HttpClassifier::NonRetryable5xx);
    let client = users(&world, [Reply::status(502).header("l5d-retryable", "true"), Reply::ok("")]);
    let rsp = client.send(Request::post("/").body("order").unwrap()).await.unwrap();
    assert_eq!(rsp.status(), 200);
    assert_eq!(world.endpoints.count(ep(1)), 2);
    // A success is none to retry.
    world.endpoints.script(ep(1), [Reply::ok("").header("l5d-retryable", "true")]);
    status(&client).await;
    assert_eq!(world.endpoints.count(ep(1)), 3);
}

#[tokio::test(start_paused = true)]
async fn a_streamed_body_is_sent_once() {
    let world = World::retrying(HttpClassifier::RetryableAll5xx);
    let client = users(&world, [Reply::status(503).header("l5d-retryable", "true"), Reply::ok("")]);
    let rsp = client.send(Request::post("/").body(stream()).unwrap()).await.unwrap();
    assert_eq!(rsp.status(), 503);
    assert_eq!(world.endpoints.count(ep(1)), 1);
    assert_eq!(world.service("retries/total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_discarded_response_is_read_to_its_end() {
    let world = World::retrying(HttpClassifier::RetryableRead5xx);
    let slow = Reply::status(500).body("a body that takes for ever").streamed(10 * MS);
    let quick = Reply::status(500).body("some").streamed(Duration::ZERO);
    // Streams are read beside what is sent next: nobody knows when they end.
    let whole = Reply::status(500).body("whole").after(5 * MS);
    let client = users(&world, [slow, whole, quick, Reply::ok("").after(5 * MS)]);
    let begun = tokio::time::Instant::now();
    assert_eq!(status(&client).await, 200);
    assert!(begun.elapsed() < 15 * MS, "{:?}", begun.elapsed());
    let ends: Vec<_> = world.endpoints.seen(ep(1)).iter().map(|seen| seen.end).collect();
    assert_eq!(ends, [End::Dropped, End::Complete, End::Complete, End::Complete]);
}

#[tokio::test(start_paused = true)]
async fn a_discarded_stream_is_read_during_the_wait_for_its_retry() {
    let policy = ServicePolicy { backoff: Backoff::constant(50 * MS), ..service(HttpClassifier::RetryableRead5xx) };
    let world = World::policies(policy, steady());
    let short = Reply::status(500).body("ab").streamed(5 * MS);
    let long = Reply::status(500).body("a body that takes for ever").streamed(10 * MS);
    let client = users(&world, [short, long, Reply::ok("")]);
    let begun = tokio::time::Instant::now();
    assert_eq!(status(&client).await, 200);
    assert!(begun.elapsed() < 110 * MS, "{:?}", begun.elapsed());
    let ends: Vec<_> = world.endpoints.seen(ep(1)).iter().map(|seen| seen.end).collect();
    assert_eq!(ends, [End::Complete, End::Dropped, End::Complete]);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_the_first_outcome_stands() {
    let world = World::policies(
        ServicePolicy { retry_budget: Budget::off(), ..service(HttpClassifier::RetryableRead5xx) },
        steady(),
    );
    let client = users(&world, [Reply::closed(), Reply::ok("")]);
    let error = error(&client).await;
    assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Closed, false));
    assert_eq!(world.endpoints.count(ep(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_second_try_can_mend_is_not_tried_again() {
    let world = World::retrying(HttpClassifier::RetryableAll5xx);
    world.namer.tree("/users", "~");
    let client = world.client("/svc/users");
    assert_eq!(error(&client).await.kind(), ErrorKind::NoSuchName);
    assert_eq!(world.service("retries/total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_named_anew() {
    let world = World::policies(
        ServicePolicy { backoff: Backoff::constant(SEC), ..service(HttpClassifier::RetryableRead5xx) },
        steady(),
    );
    let client = users(&world, [Reply::status(500)]);
    let rsp = tokio::spawn(async move { client.send(get()).await });
    tokio::time::sleep(500 * MS).await;
    world.namer.endpoints("/elsewhere", [ep(2)]);
    world.namer.tree("/users", "/elsewhere");
    assert_eq!(rsp.await.unwrap().unwrap().status(), 200);
    assert_eq!((world.endpoints.count(ep(1)), world.endpoints.count(ep(2))), (1, 1));
}

/// Enough to keep a thread busy for good, if nothing else gets a turn.
fn endless() -> Budget {
    Budget::new(BudgetSettings { min_per_sec: u32::MAX, percent: 1000.0, ..BudgetSettings::default() }).unwrap()
}

#[tokio::test]
async fn failures_that_are_there_at_once_let_timeouts_fire() {
    let world = World::policies(
        ServicePolicy {
            total_timeout: Some(20 * MS),
            retry_budget: endless(),
            ..service(HttpClassifier::RetryableRead5xx)
        },
        ClientPolicy { requeue_budget: endless(), ..steady() },
    );
    let client = users(&world, [Reply::status(500)]);
    // Between two attempts it is the last outcome that is passed on.
    assert!(
        client
            .send(get())
            .await
            .map_or_else(|error| error.kind() == ErrorKind::TotalTimeout, |rsp| rsp.status() == 500)
    );
    world.endpoints.script(ep(1), [Reply::unsent()]);
    assert!(matches!(error(&client).await.kind(), ErrorKind::TotalTimeout | ErrorKind::Connect));
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_where_none_went_before_while_there_is_such_a_place() {
    for _ in 0..20 {
        let world = World::retrying(HttpClassifier::RetryableRead5xx);
        world.namer.endpoints("/users", [1, 2, 3, 4].map(ep));
        world.endpoints.script(ep(1), [Reply::status(500)]);
        world.endpoints.script(ep(2), [Reply::closed()]);
        world.endpoints.script(ep(3), [Reply::unsent()]);
        assert_eq!(status(&world.client("/svc/users")).await, 200);
        let counts = [1, 2, 3, 4].map(|n| world.endpoints.count(ep(n)));
        assert!(counts.iter().all(|&count| count <= 1), "{counts:?}");
    }
    // When all were tried, any.
    let world = World::retrying(HttpClassifier::RetryableRead5xx);
    world.namer.endpoints("/users", [1, 2].map(ep));
    world.endpoints.script(ep(1), [Reply::status(500), Reply::ok("")]);
    world.endpoints.script(ep(2), [Reply::status(500), Reply::ok("")]);
    assert_eq!(status(&world.client("/svc/users")).await, 200);
    assert_eq!(world.endpoints.count(ep(1)) + world.endpoints.count(ep(2)), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_layer_does_not_hide_where_a_request_was() {
    let layer = || tower::layer::layer_fn(|svc: linkerd_core::Svc| svc);
    for _ in 0..10 {
        let (service, client) = (service(HttpClassifier::RetryableRead5xx), steady());
        let service = ServicePolicy { max_attempts: std::num::NonZeroU32::new(2), ..service };
        let world = World::with(|builder| builder.policies(Uniform { service, client }).client_layer(layer()));
        world.namer.endpoints("/users", [1, 2, 3].map(ep));
        for n in [1, 2, 3] {
            world.endpoints.script(ep(n), [Reply::status(500)]);
        }
        let rsp = world.client("/svc/users").send(get()).await.unwrap();
        let counts = [1, 2, 3].map(|n| world.endpoints.count(ep(n)));
        assert!(counts.iter().all(|&count| count <= 1), "{counts:?}");
        let log = rsp.extensions().get::<AttemptLog>().unwrap();
        let tried: Vec<_> = log.tried().iter().map(|tried| tried.endpoint.unwrap()).collect();
        assert!(tried.len() == 2 && tried.iter().all(|addr| world.endpoints.count(*addr) == 1), "{tried:?}");
    }
}

fn paid(min_per_sec: u32) -> ServicePolicy {
    let retry_budget = Budget::new(BudgetSettings { min_per_sec, percent: 0.0, ttl: SEC }).unwrap();
    ServicePolicy { retry_budget, ..service(HttpClassifier::RetryableRead5xx) }
}

#[tokio::test(start_paused = true)]
async fn where_the_budget_ends_the_error_says_so_and_what_was_tried() {
    let world = World::policies(paid(2), steady());
    let client = users(&world, [Reply::status(503), Reply::closed()]);
    let failed = error(&client).await;
    let log = failed.attempts().unwrap();
    let tried: Vec<_> = log.tried().iter().map(|tried| (tried.number, tried.endpoint, tried.outcome)).collect();
    let closed = AttemptOutcome::Failed(ErrorKind::Closed);
    let busy = AttemptOutcome::Answered(http::StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(tried, [(1, Some(ep(1)), busy), (2, Some(ep(1)), closed), (3, Some(ep(1)), closed)]);
    assert_eq!(log.stop(), Some(Stop::BudgetExhausted));
    let text = failed.text();
    assert!(text.contains("; tried 3 times: #1 at 10.0.0.1:80 503 after 0ms, #2"), "{text}");
    assert!(text.ends_with("; retry budget exhausted"), "{text}");
    // A failure that nothing could have mended says no more than it did.
    let failed = client.send(Request::post("/").body("").unwrap()).await.unwrap_err();
    assert_eq!(
        (failed.text().as_str(), failed.attempts().unwrap().stop()),
        ("the connection ended before the response did (/svc/users at /#/fake/users)", Some(Stop::NotRetryable))
    );
    // An answer has its log where layers find it.
    world.endpoints.script(ep(1), [Reply::status(500)]);
    let rsp = client.send(get()).await.unwrap();
    assert_eq!(rsp.extensions().get::<AttemptLog>().unwrap().stop(), Some(Stop::BudgetExhausted));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_pushes_back_is_left_alone_for_as_long() {
    for (name, value, secs) in [
        ("retry-after", "7", 7),
        ("retry-after", "100000", 300),
        ("grpc-retry-pushback-ms", "2000", 2),
        ("retry-after", "0", 0),
        ("retry-after", "Wed, 01 Jan 2098 00:00:00 GMT", 300),
    ] {
        let world = World::retrying(HttpClassifier::RetryableRead5xx);
        let client = users(&world, [Reply::status(500).header(name, value), Reply::ok("")]);
        let begun = Instant::now();
        assert_eq!(status(&client).await, 200, "{name}: {value}");
        assert_eq!(begun.elapsed().as_secs(), secs, "{name}: {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_wants_no_retry_or_one_after_the_deadline_gets_none() {
    let policy = ServicePolicy { total_timeout: Some(5 * SEC), ..service(HttpClassifier::RetryableRead5xx) };
    for (name, value, stop, counter) in [
        ("grpc-retry-pushback-ms", "-1", Stop::PushedBack, "retries/pushed_back"),
        ("retry-after", "5", Stop::Deadline, "retries/deadline"),
    ] {
        let world = World::policies(policy.clone(), steady());
        let client = users(&world, [Reply::status(503).header(name, value), Reply::ok("")]);
        let begun = Instant::now();
        let rsp = client.send(get()).await.unwrap();
        assert_eq!((rsp.status().as_u16(), begun.elapsed().as_millis()), (503, 0), "{name}");
        assert_eq!(rsp.extensions().get::<AttemptLog>().unwrap().stop(), Some(stop));
        assert_eq!([world.service(counter), world.service("retries/total")], [1, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_makes_a_post_as_good_as_a_put() {
    use HttpClassifier::*;
    let table = [
        (NonRetryable5xx, false),
        (RetryableRead5xx, false),
        (RetryableIdempotent5xx, true),
        (RetryableAll5xx, true),
        (AllSuccessful, false),
    ];
    for (classifier, expected) in table {
        let world = World::retrying(classifier);
        let client = users(&world, [Reply::closed(), Reply::ok("")]);
        let send =
            |key: &'static str| client.send(Request::post("/").header("idempotency-key", key).body("x").unwrap());
        assert_eq!(send("\"8e03\"").await.is_ok(), expected, "{classifier:?}");
        world.endpoints.script(ep(1), [Reply::closed(), Reply::ok("")]);
        assert_eq!(send("").await.is_ok(), classifier == RetryableAll5xx, "an empty key is none");
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_attempts_than_there_may_be() {
    for (most, stop) in [(1, Stop::MaxAttempts), (3, Stop::MaxAttempts), (9, Stop::BudgetExhausted)] {
        let world =
            World::policies(ServicePolicy { max_attempts: std::num::NonZeroU32::new(most), ..paid(5) }, steady());
        let client = users(&world, [Reply::status(500)]);
        let rsp = client.send(get()).await.unwrap();
        assert_eq!(rsp.extensions().get::<AttemptLog>().unwrap().stop(), Some(stop));
        assert_eq!(world.endpoints.count(ep(1)), most.min(6) as usize);
    }
}

#[test]
fn every_row_of_the_page_on_retries_is_a_test() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine");
    let page = std::fs::read_to_string(tests.join("../../../docs/retries.md")).unwrap();
    let is_row = |line: &&str| line.starts_with("| ") && !line.ends_with("| test |");
    let mut rows = 0;
    for row in page.lines().filter(is_row) {
        let name = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        let named = name.trim_matches('`').split_once("::");
        let (file, test) = named.unwrap_or_else(|| panic!("no test is named: {row}"));
        let source = std::fs::read_to_string(tests.join(file).with_extension("rs")).unwrap();
        assert!(source.contains(&format!("fn {test}(")), "{row}");
        rows += 1;
    }
    assert!(rows > 30, "{rows}");
}
