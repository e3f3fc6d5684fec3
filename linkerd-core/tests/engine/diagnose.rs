//! A `TRACE` that asks for its way.

use linkerd_core::{HttpClassifier, testing::Reply};

use super::*;

fn world() -> World {
    let policies = Uniform { service: service(HttpClassifier::RetryableIdempotent5xx), client: steady() };
    let world = World::with(|builder| builder.proxy(true).policies(policies));
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::ok("hello")]);
    world
}

async fn trace(world: &World, headers: &[(&str, &str)]) -> (Response<()>, String) {
    let req = headers
        .iter()
        .fold(Request::builder().method("TRACE").uri("/"), |req, (name, value)| req.header(*name, *value));
    let rsp = world.client("/svc/users").send(req.body("").unwrap()).await.unwrap();
    let (parts, body) = rsp.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), String::from_utf8(body.to_vec()).unwrap())
}

const WAY: &str = "--- Router: r ---
request duration: 0 ms
service name: /svc/users
client name: /#/fake/users
addresses: [10.0.0.1:80]
selected address: 10.0.0.1:80
dtab resolution:
  /svc/users
  /#/fake/users (/svc=>/#/fake)
";

#[tokio::test(start_paused = true)]
async fn what_is_known_is_added_to_the_answer() {
    let world = world();
    let (rsp, text) = trace(&world, &[("l5d-add-context", "true"), ("max-forwards", "2")]).await;
    assert_eq!(text, format!("hello\n\n{WAY}"));
    assert_eq!(rsp.headers()["content-length"], text.len().to_string());
    assert_eq!(world.endpoints.seen(ep(1))[0].headers["max-forwards"], "1");
    // Nobody asked.
    assert_eq!(trace(&world, &[("max-forwards", "1")]).await.1, "hello");
    assert_eq!(trace(&world, &[]).await.1, "hello");
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_is_left_out() {
    let world = world();
    world.endpoints.script(ep(1), [Reply::ok("hello").streamed(MS)]);
    let (_, text) = trace(&world, &[("l5d-add-context", "true")]).await;
    assert_eq!(text, format!("(a body of unknown length was left out)\n\n{WAY}"));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_its_way_it_is_answered_here() {
    let world = world();
    let (rsp, text) = trace(&world, &[("max-forwards", "0")]).await;
    assert_eq!((rsp.status().as_u16(), text.as_str()), (200, ""));
    assert_eq!(trace(&world, &[("max-forwards", "0"), ("l5d-add-context", "TRUE")]).await.1, WAY);
    let (rsp, text) = trace(&world, &[("max-forwards", "x")]).await;
    assert_eq!((rsp.status().as_u16(), text.as_str()), (400, "Invalid value for Max-Forwards header"));
    assert_eq!(world.endpoints.count(ep(1)), 0);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_takes_the_same_from_max_forwards() {
    let world = world();
    world.endpoints.script(ep(1), [Reply::status(503), Reply::ok("hello")]);
    let (_, text) = trace(&world, &[("l5d-add-context", "true"), ("max-forwards", "3")]).await;
    assert!(text.starts_with("hello\n\n---"), "{text}");
    let left: Vec<_> = world.endpoints.seen(ep(1)).iter().map(|seen| seen.headers["max-forwards"].clone()).collect();
    assert_eq!(left, ["2", "2"]);
}
