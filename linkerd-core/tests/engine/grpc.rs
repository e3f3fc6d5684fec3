//! Calls of gRPC: what their time is, and what their answers say at the end.

use std::time::SystemTime;

use linkerd_core::{ErrorKind, Svc, http::Deadline, testing::Reply};
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
