//! Which endpoint a request goes to, and which are left alone.

use linkerd_core::{ErrorKind, balance::Status, testing::Reply};
use tokio::time::advance;
use tokio_test::assert_pending;

use super::*;

fn two(client: ClientPolicy) -> (World, Client) {
    let world = World::policies(ServicePolicy::default(), client);
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    let client = world.client("/svc/users");
    (world, client)
}

fn accrual(world: &World) -> [u64; 3] {
    ["removals", "probes", "revivals"].map(|name| world.bound(&format!("failure_accrual/{name}")))
}

fn state(world: &World, n: u8) -> (Status, usize) {
    let clients = world.mesh.clients();
    let endpoint = clients[0].endpoints.iter().find(|endpoint| endpoint.addr == ep(n)).unwrap();
    (endpoint.status, endpoint.pending)
}

async fn until_removed(world: &World, client: &Client) {
    let mut tries = 0..10_000;
    while accrual(world)[0] == 0 {
        tries.next().expect("it never happens");
        status(client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_take_an_endpoint_out_and_one_probe_brings_it_back() {
    let (world, client) = two(ClientPolicy { balancer: in_flight(), ..ClientPolicy::default() });
    world.endpoints.script(ep(1), [Reply::status(500)]);
    until_removed(&world, &client).await;
    assert_eq!(world.endpoints.count(ep(1)), 5);
    assert_eq!(state(&world, 1).0, Status::Busy);
    for _ in 0..50 {
        assert_eq!(status(&client).await, 200);
    }
    assert_eq!(world.endpoints.count(ep(1)), 5);
    // The first backoff is 5 s: then one request is the probe, while the others stay away.
    advance(5 * SEC).await;
    world.endpoints.script(ep(1), [Reply::hang()]);
    let mut waiting = Vec::new();
    let mut tries = 0..10_000;
    while world.endpoints.count(ep(1)) == 5 {
        tries.next().expect("it never happens");
        let mut rsp = sending(&client, get());
        let _ = rsp.poll();
        waiting.push(rsp);
    }
    assert_eq!(accrual(&world), [1, 1, 0]);
    for _ in 0..50 {
        assert_eq!(status(&client).await, 200);
    }
    assert_eq!(world.endpoints.count(ep(1)), 6);
    // A probe that was given up decides nothing: the next request is one.
    drop(waiting);
    world.endpoints.script(ep(1), [Reply::ok("")]);
    let mut tries = 0..10_000;
    while accrual(&world)[2] == 0 {
        tries.next().expect("it never happens");
        assert_eq!(status(&client).await, 200);
    }
    assert_eq!(accrual(&world), [1, 2, 1]);
    assert_eq!(state(&world, 1).0, Status::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_doubles_the_wait() {
    let (world, client) = two(ClientPolicy { balancer: in_flight(), ..ClientPolicy::default() });
    world.endpoints.script(ep(1), [Reply::status(500)]);
    until_removed(&world, &client).await;
    advance(5 * SEC).await;
    let mut tries = 0..10_000;
    while accrual(&world)[1] == 0 {
        tries.next().expect("it never happens");
        status(&client).await;
    }
    assert_eq!(accrual(&world), [1, 1, 0], "it was given up once");
    // From 5 s to 10 s now.
    advance(4999 * MS).await;
    for _ in 0..50 {
        status(&client).await;
    }
    assert_eq!(world.endpoints.count(ep(1)), 6);
}

#[tokio::test(start_paused = true)]
async fn with_all_endpoints_out_one_is_tried_anyway() {
    let (world, client) = two(ClientPolicy::default());
    world.endpoints.script(ep(1), [Reply::status(500)]);
    world.endpoints.script(ep(2), [Reply::status(500)]);
    let mut tries = 0..10_000;
    while accrual(&world)[0] < 2 {
        tries.next().expect("it never happens");
        status(&client).await;
    }
    let before = world.endpoints.count(ep(1)) + world.endpoints.count(ep(2));
    for _ in 0..10 {
        assert_eq!(status(&client).await, 500);
    }
    assert_eq!(world.endpoints.count(ep(1)) + world.endpoints.count(ep(2)), before + 10);
    assert_eq!(world.bound("loadbalancer/available"), 0);
}

#[tokio::test(start_paused = true)]
async fn errors_take_an_endpoint_out_too() {
    for failure in [Reply::closed(), Reply::unsent()] {
        let (world, client) = two(ClientPolicy { balancer: in_flight(), ..ClientPolicy::default() });
        world.endpoints.script(ep(1), [failure]);
        let mut tries = 0..10_000;
        while accrual(&world)[0] == 0 {
            tries.next().expect("it never happens");
            let _ = client.send(get()).await;
        }
        assert_eq!(world.endpoints.count(ep(1)), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_an_endpoints_fault_is_not_held_against_it() {
    for (kind, never_sent) in [(ErrorKind::Overloaded, true), (ErrorKind::RequestBody, false)] {
        let world = World::policies(
            ServicePolicy::default(),
            ClientPolicy { requeue_budget: linkerd_core::retry::Budget::off(), ..ClientPolicy::default() },
        );
        world.namer.endpoints("/users", [ep(1)]);
        world.endpoints.script(ep(1), [Reply::fail(kind, never_sent)]);
        let client = world.client("/svc/users");
        for _ in 0..10 {
            assert_eq!(error(&client).await.kind(), kind);
        }
        assert_eq!(accrual(&world), [0; 3], "{kind:?}");
        assert_eq!(state(&world, 1), (Status::Open, 0));
        assert_eq!(world.bound("failures"), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_gets_little() {
    let (world, client) = two(ClientPolicy::default());
    world.endpoints.script(ep(1), [Reply::ok("").after(200 * MS)]);
    world.endpoints.script(ep(2), [Reply::ok("").after(5 * MS)]);
    for _ in 0..200 {
        status(&client).await;
    }
    let slow = world.endpoints.count(ep(1));
    assert!((1..10).contains(&slow), "{slow}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_being_read_is_load_and_none_once_dropped() {
    let (world, client) = two(ClientPolicy::default());
    world.namer.addrs("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::ok("slowly").streamed(SEC)]);
    settle().await;
    let rsp = client.send(get()).await.unwrap();
    assert_eq!(state(&world, 1).1, 1);
    let mut body = rsp.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(state(&world, 1).1, 1);
    drop(body);
    assert_eq!(state(&world, 1).1, 0);
    let rsp = client.send(get()).await.unwrap();
    assert_eq!(text(rsp).await, "slowly");
    assert_eq!(state(&world, 1).1, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_a_success_by_class_takes_nobody_out() {
    let world = World::retrying(HttpClassifier::AllSuccessful);
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::status(500)]);
    let client = world.client("/svc/users");
    for _ in 0..10 {
        assert_eq!(status(&client).await, 500);
    }
    assert_eq!(accrual(&world), [0; 3]);
    assert_eq!([world.service("success"), world.bound("success")], [10, 10]);
    let mut waiting = sending(&client, get());
    world.endpoints.script(ep(1), [Reply::hang()]);
    assert_pending!(waiting.poll());
}
