//! Calls of gRPC: what their time is, and what their answers say at the end.

use std::time::SystemTime;

use linkerd_core::{
    ErrorKind, GrpcClassifier, H2Classifier, HttpClassify, Reset, Svc,
    http::Deadline,
    retry::Budget,
    testing::{End, Reply},
};
use tokio::time::Instant;
use tower::layer::layer_fn;

use super::*;

fn call(timeout: Option<&str>) -> Request<&'static str> {
    let mut req = Request::post("/pkg.Svc/Method").header("content-type", "application/grpc").body("m").unwrap();
    if let Some(timeout) = timeout {
        req.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    req
}

fn with_context<B>(mut req: Request<B>, deadline: Option<Deadline>) -> Request<B> {
    let mut cx = RequestContext::default();
    cx.deadline = deadline;
    req.extensions_mut().insert(cx);
    req
}

/// What each attempt at the endpoint was told of its time, in milliseconds.
fn told(world: &World) -> Vec<Option<u64>> {
    let millis = |value: &http::HeaderValue| {
        let text = value.to_str().unwrap();
        let (digits, unit) = text.split_at(text.len() - 1);
        let count: u64 = digits.parse().unwrap();
        match unit {
            "n" => count / 1_000_000,
            "u" => count / 1000,
            "m" => count,
            "S" => count * 1000,
            _ => panic!("{text}"),
        }
    };
    let seen = world.endpoints.seen(ep(1));
    seen.iter().map(|seen| seen.headers.get("grpc-timeout").map(millis)).collect()
}

fn timed(attempt: Option<Duration>, total: Option<Duration>) -> World {
    let timeout = |builder: MeshBuilder| {
        let always = |_: &http::Method, rsp: Result<&Response<Body>, &Error>| match rsp {
            Ok(_) => linkerd_core::retry::ResponseClass::Success,
            Err(_) => linkerd_core::retry::ResponseClass::RETRYABLE,
        };
        let service =
            ServicePolicy { total_timeout: total, classifier: std::sync::Arc::new(always), ..ServicePolicy::default() };
        builder.policies(Uniform { service, client: ClientPolicy { attempt_timeout: attempt, ..steady() } })
    };
    let world = World::with(timeout);
    world.namer.endpoints("/users", [ep(1)]);
    world
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_what_time_is_left_for_it() {
    for cx in [false, true] {
        let world = timed(Some(100 * MS), Some(250 * MS));
        world.endpoints.script(ep(1), [Reply::hang()]);
        let req = if cx { with_context(call(None), None) } else { call(None) };
        let error = world.client("/svc/users").send(req).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TotalTimeout);
        let told = told(&world);
        assert_eq!(told.len(), 3);
        // The timers are a millisecond coarse.
        for (told, expected) in told.into_iter().zip([100, 100, 50]) {
            assert!(told.is_some_and(|told| (expected - 4..=expected).contains(&told)), "{told:?} of {expected}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_never_told_more_time_than_it_came_with() {
    for (timeout, attempt, total, expected) in [
        (None, None, None, None),
        (Some("200m"), None, None, Some(200)),
        (Some("200m"), Some(100 * MS), Some(400 * MS), Some(100)),
        (Some("200m"), Some(300 * MS), Some(400 * MS), Some(200)),
        (Some("1H"), None, Some(400 * MS), Some(400)),
        (Some("1H"), Some(300 * MS), None, Some(300)),
        (None, Some(300 * MS), None, Some(300)),
    ] {
        let world = timed(attempt, total);
        world.client("/svc/users").send(call(timeout)).await.unwrap();
        assert_eq!(told(&world), [expected], "{timeout:?} {attempt:?} {total:?}");
    }
    // A deadline that came in another header counts too.
    let world = timed(None, None);
    let theirs = Deadline::after(SystemTime::now(), 200 * MS);
    world.client("/svc/users").send(with_context(call(Some("5S")), Some(theirs))).await.unwrap();
    assert!(told(&world)[0].is_some_and(|told| told <= 200), "{:?}", told(&world));
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_when_its_timeout_says_and_may_go_nowhere() {
    let world = timed(None, None);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let client = world.client("/svc/users");
    let begun = Instant::now();
    let error = client.send(call(Some("200m"))).await.unwrap_err();
    assert_eq!((error.kind(), begun.elapsed().as_millis() / 10), (ErrorKind::Deadline, 20));
    assert_eq!(client.send(call(Some("0n"))).await.unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(world.endpoints.count(ep(1)), 1, "there was no time for the second");
    // Where deadlines are advice, it is passed on and no more.
    let advisory = ServicePolicy { enforce_deadline: false, ..ServicePolicy::default() };
    let world = World::policies(advisory, steady());
    world.namer.endpoints("/users", [ep(1)]);
    world.client("/svc/users").send(call(Some("0n"))).await.unwrap();
    assert_eq!(told(&world), [Some(0)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_is_told_nothing() {
    let world = timed(Some(100 * MS), Some(250 * MS));
    let client = world.client("/svc/users");
    client.send(get()).await.unwrap();
    let json = Request::post("/").header("content-type", "application/json").header("grpc-timeout", "9S").body("{}");
    client.send(json.unwrap()).await.unwrap();
    assert_eq!(told(&world), [None, Some(9000)]);
}

#[tokio::test(start_paused = true)]
async fn layers_in_between_lose_nothing_of_a_calls_time() {
    for layered in [false, true] {
        let world = World::with(|builder| {
            let service = ServicePolicy { total_timeout: Some(SEC), ..ServicePolicy::default() };
            let client = ClientPolicy { attempt_timeout: Some(800 * MS), ..steady() };
            let builder = builder.policies(Uniform { service, client });
            let slow = layer_fn(|inner: Svc| {
                tower::service_fn(move |req| {
                    let inner = inner.clone();
                    async move {
                        tokio::time::sleep(400 * MS).await;
                        inner.send(req).await
                    }
                })
            });
            if layered { builder.client_layer(slow) } else { builder }
        });
        world.namer.endpoints("/users", [ep(1)]);
        world.client("/svc/users").send(call(None)).await.unwrap();
        let expected = if layered { 600 } else { 800 };
        assert!(told(&world)[0].is_some_and(|told| told.abs_diff(expected) <= 4), "{layered}: {:?}", told(&world));
    }
}

fn classified(classifier: impl HttpClassify) -> ServicePolicy {
    ServicePolicy { classifier: std::sync::Arc::new(classifier), ..ServicePolicy::default() }
}

fn users(policy: ServicePolicy, replies: impl IntoIterator<Item = Reply>) -> (World, Client) {
    let world = World::policies(policy, steady());
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), replies);
    let client = world.client("/svc/users");
    (world, client)
}

/// An answer with this at its end.
fn ends(status: &'static str) -> Reply {
    Reply::ok("message").trailer("grpc-status", status)
}

/// What the trailers of an answer say, and what came before them.
async fn read(rsp: Response<Body>) -> (String, Option<String>) {
    let body = rsp.into_body().collect().await.unwrap();
    let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
    let status = status.map(|status| status.to_str().unwrap().to_owned());
    (String::from_utf8(body.to_bytes().to_vec()).unwrap(), status)
}

/// Successes, failures, retries.
fn counts(world: &World) -> [u64; 3] {
    ["success", "failures", "retries/total"].map(|name| world.service(name))
}

fn said(text: &str, status: &str) -> (String, Option<String>) {
    (text.to_owned(), Some(status.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_the_trailers_is_tried_again() {
    for first in [ends("14"), Reply::ok("").header("grpc-status", "14")] {
        let (world, client) = users(classified(GrpcClassifier::new()), [first, ends("0")]);
        let rsp = client.send(call(None)).await.unwrap();
        assert_eq!(counts(&world), [0, 0, 1], "the second answer is not at its end yet");
        assert_eq!(read(rsp).await, said("message", "0"));
        assert_eq!(counts(&world), [1, 0, 1]);
        settle().await;
        assert!(
            world.endpoints.seen(ep(1)).iter().all(|seen| seen.end == End::Complete),
            "connections can be used again"
        );
        assert_eq!(world.mesh.clients()[0].endpoints[0].pending, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_the_trailers_that_is_not_tried_again_is_counted_at_the_end() {
    for (policy, waits) in [
        (classified(GrpcClassifier::never()), false),
        (ServicePolicy { retry_budget: Budget::off(), ..classified(GrpcClassifier::new()) }, false),
        (classified(GrpcClassifier::codes([2])), true),
    ] {
        let (world, client) = users(policy, [ends("14").streamed(5 * MS)]);
        let begun = Instant::now();
        let rsp = client.send(call(None)).await.unwrap();
        assert_eq!(!begun.elapsed().is_zero(), waits, "nothing is held back that nobody would try again");
        assert_eq!((world.service("requests"), world.service("pending")), (0, 0));
        assert_eq!(read(rsp).await, said("message", "14"), "it arrives as it was");
        assert_eq!(counts(&world), [0, 1, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_held_back_for_its_time_and_no_longer() {
    // Seven bytes; the trailers come with the last.
    for (gap, millis, retries) in [(14, 98, 1), (15, 100, 0), (60_000, 100, 0)] {
        let slow = ends("14").streamed(gap * MS);
        let (world, client) = users(classified(GrpcClassifier::new()), [slow, ends("0")]);
        let begun = Instant::now();
        let rsp = client.send(call(None)).await.unwrap();
        let took = begun.elapsed().as_millis();
        assert!((millis..millis + 10).contains(&took), "{gap}: {took}");
        assert_eq!(read(rsp).await, said("message", if retries == 1 { "0" } else { "14" }), "{gap}");
        assert_eq!(counts(&world), [retries, 1 - retries, retries], "{gap}");
        assert_eq!(world.service("retries/classification_timeout"), 1 - retries, "{gap}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_held_back_up_to_its_length_and_no_further() {
    for (bytes, retries) in [(7, 1), (6, 0), (0, 0)] {
        let policy = ServicePolicy { response_buffer_bytes: bytes, ..classified(GrpcClassifier::new()) };
        let (world, client) = users(policy, [ends("14").streamed(Duration::ZERO), ends("0")]);
        let rsp = client.send(call(None)).await.unwrap();
        assert_eq!(read(rsp).await, said("message", if retries == 1 { "0" } else { "14" }), "{bytes}");
        assert_eq!(counts(&world), [retries, 1 - retries, retries], "{bytes}");
        assert_eq!(world.service("retries/response_stream_too_long"), 1 - retries, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_head_came_in_time_is_in_time() {
    let policy = ServicePolicy { total_timeout: Some(50 * MS), ..classified(GrpcClassifier::new()) };
    let (world, client) = users(policy, [ends("0").streamed(SEC)]);
    let begun = Instant::now();
    let rsp = client.send(call(None)).await.unwrap();
    assert!(begun.elapsed() < 60 * MS);
    assert_eq!(read(rsp).await, said("message", "0"));
    assert_eq!(counts(&world), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_kept_gets_its_answer_at_once() {
    let (world, client) = users(classified(GrpcClassifier::new()), [ends("14").streamed(5 * MS)]);
    let frames = [Ok::<_, linkerd_core::BoxError>(http_body::Frame::data(bytes::Bytes::from_static(b"m")))];
    let body = Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)));
    let begun = Instant::now();
    let rsp = client.send(call(None).map(|_| body)).await.unwrap();
    assert!(begun.elapsed().is_zero());
    assert_eq!(read(rsp).await, said("message", "14"));
    assert_eq!(counts(&world), [0, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn where_the_budget_ends_the_last_answer_is_passed_on_whole() {
    let (world, client) = users(classified(GrpcClassifier::new()), [ends("14")]);
    let rsp = client.send(call(None)).await.unwrap();
    assert_eq!(read(rsp).await, said("message", "14"));
    assert_eq!(counts(&world), [0, 1, 100]);
    assert_eq!(world.service("retries/budget_exhausted"), 1);
}

#[tokio::test(start_paused = true)]
async fn push_back_in_the_trailers_is_heeded() {
    for (pushback, secs, retries) in [("2000", 2, 1), ("-1", 0, 0)] {
        let first = ends("14").trailer("grpc-retry-pushback-ms", pushback);
        let (world, client) = users(classified(GrpcClassifier::new()), [first, ends("0")]);
        let begun = Instant::now();
        read(client.send(call(None)).await.unwrap()).await;
        assert_eq!((begun.elapsed().as_secs(), counts(&world)), (secs, [retries, 1 - retries, retries]), "{pushback}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_is_a_failure_and_tried_again_by_method() {
    let broken = || Reply::ok("half").reset(Reset::INTERNAL_ERROR);
    let reads = || classified(H2Classifier(HttpClassifier::RetryableRead5xx));
    let (world, client) = users(reads(), [broken(), Reply::ok("whole")]);
    assert_eq!(text(client.send(get()).await.unwrap()).await, "whole");
    assert_eq!(counts(&world), [1, 0, 1]);

    let (world, client) = users(reads(), [broken(), Reply::ok("whole")]);
    let rsp = client.send(Request::post("/").body("").unwrap()).await.unwrap();
    let error = rsp.into_body().collect().await.unwrap_err();
    assert_eq!(error.to_string(), "the stream was reset: INTERNAL_ERROR");
    assert_eq!(counts(&world), [0, 1, 0]);
    assert_eq!(world.service("failures/com.twitter.finagle.ChannelClosedException"), 1);

    let keyed = || Request::post("/").header("idempotency-key", "1").body("").unwrap();
    let idempotent = classified(H2Classifier(HttpClassifier::RetryableIdempotent5xx));
    let (world, client) = users(idempotent, [broken(), Reply::ok("whole")]);
    assert_eq!(text(client.send(keyed()).await.unwrap()).await, "whole");
    assert_eq!(counts(&world), [1, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_to_its_end_is_what_it_was_so_far() {
    let (world, client) = users(classified(GrpcClassifier::new()), [ends("14").streamed(SEC)]);
    let mut body = client.send(call(None)).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(counts(&world), [0, 0, 0]);
    drop(body);
    assert_eq!(counts(&world), [1, 0, 0]);
    settle().await;
    assert_eq!(world.endpoints.seen(ep(1))[0].end, End::Dropped);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_says_what_became_of_it_where_it_knows() {
    let world = World::with(|builder| {
        let service = classified(GrpcClassifier::never());
        builder.proxy(true).policies(Uniform { service, client: steady() })
    });
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    let early = Reply::ok("").header("grpc-status", "14");
    for (reply, head, trailers) in
        [(early, Some("0.0"), None), (ends("14"), None, Some("0.0")), (ends("0"), None, Some("1.0"))]
    {
        world.endpoints.script(ep(1), [reply]);
        let rsp = client.send(call(None)).await.unwrap();
        let class = |headers: Option<&http::HeaderMap>| {
            headers?.get("l5d-success-class").map(|class| class.to_str().unwrap().to_owned())
        };
        assert_eq!(class(Some(rsp.headers())).as_deref(), head);
        let body = rsp.into_body().collect().await.unwrap();
        assert_eq!(class(body.trailers()).as_deref(), trailers);
    }
}
