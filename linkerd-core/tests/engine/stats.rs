//! What is counted.

use linkerd_core::{retry::Budget, testing::Reply};

use super::*;

#[tokio::test(start_paused = true)]
async fn requests_and_attempts_are_counted_each_in_its_place() {
    let world = World::retrying(HttpClassifier::RetryableRead5xx);
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(
        ep(1),
        [
            Reply::ok("").after(3 * MS),
            Reply::status(404),
            Reply::status(500),
            Reply::unsent(),
            Reply::closed(),
            Reply::ok(""),
        ],
    );
    let client = world.client("/svc/users");
    // 200, 404, and a 500 whose retry meets a refused connection, a closed one, and an answer.
    for _ in 0..3 {
        status(&client).await;
    }
    let service = |world: &World| ["requests", "success", "failures", "pending"].map(|name| world.service(name));
    assert_eq!(service(&world), [3, 3, 0, 0]);
    assert_eq!(["total", "budget_exhausted"].map(|name| world.service(&format!("retries/{name}"))), [2, 0]);
    for at in ["", "service/svc/users/"] {
        let bound = ["requests", "success", "failures"].map(|name| world.bound(&format!("{at}{name}")));
        assert_eq!(bound, [5, 3, 2], "{at}");
        let synthetic = "failures/com.twitter.finagle.service.ResponseClassificationSyntheticException";
        let closed = "failures/com.twitter.finagle.ChannelClosedException";
        assert_eq!([synthetic, closed].map(|name| world.bound(&format!("{at}{name}"))), [1, 1], "{at}");
    }
    let statuses =
        ["200", "404", "500", "2XX", "4XX", "5XX", "error"].map(|code| world.bound(&format!("status/{code}")));
    assert_eq!(statuses, [2, 1, 1, 2, 1, 1, 1]);
    assert_eq!([world.bound("retries/requeues"), world.bound("service_creation/failures")], [1, 1]);
    assert_eq!(world.bound("pending"), 0);
    // Stats show what was seen once their interval is over.
    let now = tokio::time::Instant::now();
    world.registry.roll_if_due(now);
    world.registry.roll_if_due(now + 60 * SEC);
    assert_eq!([world.service("request_latency_ms"), world.service("retries/per_request")], [3, 3]);
    assert_eq!([world.bound("request_latency_ms"), world.bound("service/svc/users/request_latency_ms")], [5, 5]);
    assert_eq!(world.bound("retries/requeues_per_request"), 5);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_client_is_counted_for_its_service() {
    let world = World::new();
    world.namer.tree("/users", "~");
    error(&world.client("/svc/users")).await;
    assert_eq!([world.service("requests"), world.service("failures")], [1, 1]);
    assert_eq!(world.service("failures/com.twitter.finagle.naming.buoyant.RichNoBrokersAvailableException"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_balancer_shows_itself() {
    let world = World::policies(
        ServicePolicy::default(),
        ClientPolicy { requeue_budget: Budget::off(), balancer: in_flight(), ..ClientPolicy::default() },
    );
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    let client = world.client("/svc/users");
    world.endpoints.script(ep(1), [Reply::hang()]);
    world.endpoints.script(ep(2), [Reply::hang()]);
    let mut hanging: Vec<_> = (0..3).map(|_| sending(&client, get())).collect();
    for rsp in &mut hanging {
        assert!(rsp.poll().is_pending());
    }
    let names = ["size", "available", "busy", "closed", "load", "adds", "removes", "algorithm/p2c_least_loaded"];
    let shown = |world: &World| names.map(|name| world.metric(&format!("client/#/fake/users/loadbalancer/{name}")));
    assert_eq!(shown(&world), [2, 2, 0, 0, 3, 2, 0, 1].map(|n| Some(f64::from(n))));
    assert_eq!(world.metric("client/#/fake/users/available"), Some(1.0));
    drop(hanging);
    world.namer.addrs("/users", []);
    settle().await;
    assert_eq!(shown(&world), [0, 0, 0, 0, 0, 2, 2, 1].map(|n| Some(f64::from(n))));
    assert_eq!(world.metric("client/#/fake/users/available"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn an_overrides_requests_are_counted_with_its_names() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    status(&client).await;
    client.send(overridden("/x => /y")).await.unwrap();
    assert_eq!(world.service("requests"), 2);
    assert_eq!([world.bound("requests"), world.bound("service/svc/users/requests")], [2, 2]);
}
