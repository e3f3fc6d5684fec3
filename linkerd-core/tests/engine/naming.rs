//! From a name to an endpoint, and what happens when either changes.

use linkerd_core::{ErrorKind, dtab::Addr, testing::Reply};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_first_binding_is_waited_for_until_the_timeout_and_no_longer() {
    let world = World::new();
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert_pending!(rsp.poll());
    advance(9998 * MS).await;
    assert_pending!(rsp.poll());
    advance(4 * MS).await;
    assert!(rsp.is_woken());
    let error = assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::Binding, 502));
    assert_eq!(error.text(), "Exceeded 10.seconds binding timeout while resolving name: /svc/users");
    assert_eq!(error.dst().unwrap().to_string(), "/svc/users");
}

#[tokio::test(start_paused = true)]
async fn the_binding_timeout_is_the_meshs_and_may_be_endless() {
    let world = World::with(|builder| builder.binding_timeout(250 * MS));
    let error = error(&world.client("/svc/users")).await;
    assert_eq!(error.text(), "Exceeded 250.milliseconds binding timeout while resolving name: /svc/users");

    let world = World::with(|builder| builder.binding_timeout(Duration::MAX));
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert_pending!(rsp.poll());
    world.namer.tree("/users", "/users");
    settle().await;
    assert_pending!(rsp.poll());
    advance(100_000 * SEC).await;
    world.namer.addrs("/users", [ep(1)]);
    settle().await;
    assert_ready!(rsp.poll()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_binding_wakes_all_who_wait() {
    let world = World::new();
    let client = world.client("/svc/users");
    let (mut one, mut two) = (sending(&client, get()), sending(&client, get()));
    assert_pending!(one.poll());
    assert_pending!(two.poll());
    advance(9 * SEC).await;
    world.namer.endpoints("/users", [ep(1)]);
    settle().await;
    assert!(one.is_woken() && two.is_woken());
    assert_ready!(one.poll()).unwrap();
    assert_ready!(two.poll()).unwrap();
    assert_eq!(world.endpoints.count(ep(1)), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_first_tree_fails_who_waits_and_who_comes_until_there_is_one() {
    let world = World::new();
    let client = world.client("/svc/users");
    let mut waiting = sending(&client, get());
    assert_pending!(waiting.poll());
    world.namer.fail("/users", "no luck");
    settle().await;
    let failed = assert_ready!(waiting.poll()).unwrap_err();
    assert_eq!((failed.kind(), failed.text().as_str()), (ErrorKind::Binding, "no luck"));
    assert_eq!(error(&client).await.text(), "no luck");
    world.namer.endpoints("/users", [ep(1)]);
    settle().await;
    assert_eq!(status(&client).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_first_tree_changes_nothing() {
    let world = World::new();
    let client = world.client("/svc/users");
    world.namer.endpoints("/users", [ep(1)]);
    settle().await;
    world.namer.fail("/users", "no luck");
    world.namer.fail_addr("/users", "nor here");
    settle().await;
    assert_eq!(status(&client).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_new_tree_is_for_the_next_request_and_the_old_one_ends_its_own() {
    let world = World::new();
    let client = world.client("/svc/users");
    world.endpoints.script(ep(1), [Reply::ok("old").after(SEC)]);
    world.endpoints.script(ep(2), [Reply::ok("new")]);
    world.namer.endpoints("/a", [ep(1)]);
    world.namer.endpoints("/b", [ep(2)]);
    world.namer.tree("/users", "/a");
    settle().await;
    let mut old = sending(&client, get());
    assert_pending!(old.poll());
    world.namer.tree("/users", "/b");
    settle().await;
    assert_eq!(text(client.send(get()).await.unwrap()).await, "new");
    advance(SEC + MS).await;
    assert_eq!(text(assert_ready!(old.poll()).unwrap()).await, "old");
}

#[tokio::test(start_paused = true)]
async fn a_union_shares_by_weight() {
    let world = World::new();
    let client = world.client("/svc/users");
    world.namer.addrs("/a", [ep(1)]);
    world.namer.addrs("/b", [ep(2)]);
    world.namer.tree("/users", "3 * /a & /b");
    settle().await;
    for _ in 0..4000 {
        status(&client).await;
    }
    // Six standard deviations either way.
    let (a, b) = (world.endpoints.count(ep(1)), world.endpoints.count(ep(2)));
    assert_eq!(a + b, 4000);
    assert!((2835..3165).contains(&a), "{a}");
}

#[tokio::test(start_paused = true)]
async fn the_share_of_nothing_fails() {
    let world = World::with(|builder| builder.dtab("/svc/users => /#/fake/a & $ ; /svc/none => $".parse().unwrap()));
    world.namer.endpoints("/a", [ep(1)]);
    let client = world.client("/svc/users");
    let mut failed = 0;
    for _ in 0..200 {
        match client.send(get()).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSuchName);
                failed += 1;
            }
        }
    }
    assert!((50..150).contains(&failed), "{failed}");
    assert_eq!(error(&world.client("/svc/none")).await.kind(), ErrorKind::NoSuchName);
}

const NO_BROKERS: &str = "Unable to route request!\n\nservice name: /svc/users\ndtab:\n\nbase dtab:\n  /svc => \
                          /#/fake\noverride dtab:\n";

#[tokio::test(start_paused = true)]
async fn a_name_that_stands_for_nothing_fails_at_once_in_linkerds_words() {
    for tree in ["~", "!", "$"] {
        let world = World::new();
        world.namer.tree("/users", tree);
        let error = error(&world.client("/svc/users")).await;
        assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::NoSuchName, 502), "{tree}");
        assert!(error.text().starts_with(NO_BROKERS), "{}", error.text());
        assert_eq!(error.client(), None);
    }
    let world = World::new();
    world.namer.tree("/users", "~");
    let rsp = world.client("/svc/users").send(overridden("/x => /y")).await;
    let text = rsp.unwrap_err().text();
    assert!(text.starts_with(&format!("{NO_BROKERS}  /x => /y")), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_name_without_endpoints_fails_at_once_in_linkerds_words() {
    for addr in [Addr::of([]), Addr::Neg] {
        let world = World::new();
        world.namer.endpoints("/users", []);
        world.namer.addr("/users", addr);
        let error = error(&world.client("/svc/users")).await;
        assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::NoEndpoints, 502));
        assert!(error.text().starts_with(NO_BROKERS), "{}", error.text());
        assert_eq!(error.client().unwrap().to_string(), "/#/fake/users");
        assert_eq!(error.dst().unwrap().to_string(), "/svc/users");
        assert!(error.never_sent());
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_reached_is_named_with_its_siblings() {
    let world = World::policies(
        ServicePolicy::default(),
        ClientPolicy { requeue_budget: linkerd_core::retry::Budget::off(), ..ClientPolicy::default() },
    );
    world.namer.endpoints("/users", [ep(2), ep(1)]);
    world.endpoints.script(ep(1), [Reply::unsent()]);
    world.endpoints.script(ep(2), [Reply::unsent()]);
    let error = error(&world.client("/svc/users")).await;
    let at = if world.endpoints.count(ep(1)) == 1 { ep(1) } else { ep(2) };
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::Connect, 502));
    assert_eq!(
        error.text(),
        format!(
            "Unable to establish connection to {at}.\n\nservice name: /svc/users\nclient name: \
             /#/fake/users\naddresses: [10.0.0.1:80, 10.0.0.2:80]\nselected address: {at}\n"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_address_is_waited_for_within_the_same_timeout() {
    let world = World::new();
    let client = world.client("/svc/users");
    let mut rsp = sending(&client, get());
    assert_pending!(rsp.poll());
    advance(6 * SEC).await;
    world.namer.tree("/users", "/users");
    settle().await;
    assert_pending!(rsp.poll());
    advance(3998 * MS).await;
    assert_pending!(rsp.poll());
    advance(4 * MS).await;
    let error = assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Binding);
    assert_eq!(
        error.text(),
        "Exceeded 10.seconds binding timeout while connecting to /#/fake/users for name: /svc/users"
    );

    let mut rsp = sending(&client, get());
    assert_pending!(rsp.poll());
    world.namer.addrs("/users", [ep(1)]);
    settle().await;
    assert_ready!(rsp.poll()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_address_fails_who_waits_until_there_is_one() {
    let world = World::new();
    let client = world.client("/svc/users");
    world.namer.tree("/users", "/users");
    settle().await;
    let mut rsp = sending(&client, get());
    assert_pending!(rsp.poll());
    world.namer.fail_addr("/users", "away");
    settle().await;
    let failed = assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!((failed.kind(), failed.text().as_str()), (ErrorKind::Binding, "away"));
    assert_eq!(error(&client).await.text(), "away");
    world.namer.addrs("/users", [ep(1)]);
    settle().await;
    assert_eq!(status(&client).await, 200);
}

#[tokio::test(start_paused = true)]
async fn endpoints_change_under_requests_that_run() {
    let world = World::new();
    let client = world.client("/svc/users");
    world.endpoints.script(ep(1), [Reply::ok("one").after(SEC)]);
    world.namer.endpoints("/users", [ep(1)]);
    settle().await;
    let mut slow = sending(&client, get());
    assert_pending!(slow.poll());
    world.namer.addrs("/users", [ep(2)]);
    settle().await;
    for _ in 0..10 {
        status(&client).await;
    }
    assert_eq!((world.endpoints.count(ep(1)), world.endpoints.count(ep(2))), (1, 10));
    advance(SEC + MS).await;
    assert_eq!(text(assert_ready!(slow.poll()).unwrap()).await, "one");
    world.namer.addr("/users", Addr::Neg);
    settle().await;
    assert_eq!(error(&client).await.kind(), ErrorKind::NoEndpoints);
    world.namer.addrs("/users", [ep(1), ep(2)]);
    settle().await;
    status(&client).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_weight_is_none() {
    let world = World::new();
    let client = world.client("/svc/users");
    world.namer.endpoints("/users", []);
    let endpoint = |n, weight| linkerd_core::dtab::Endpoint::new(ep(n)).with_weight(weight);
    world.namer.addr("/users", Addr::Bound([endpoint(1, 0.0), endpoint(2, f64::NAN), endpoint(3, 0.1)].into()));
    settle().await;
    for _ in 0..50 {
        status(&client).await;
    }
    assert_eq!(world.endpoints.count(ep(3)), 50);
}

#[tokio::test(start_paused = true)]
async fn paths_that_are_bound_to_one_name_share_its_client() {
    let balancer = in_flight();
    let world = World::policies(ServicePolicy::default(), ClientPolicy { balancer, ..ClientPolicy::default() });
    world.namer.addrs("/users", [ep(1), ep(2)]);
    world.namer.tree("/a", "/users");
    world.namer.tree("/b", "/users");
    world.endpoints.script(ep(1), [Reply::status(500)]);
    let (a, b) = (world.client("/svc/a"), world.client("/svc/b"));
    settle().await;
    while world.endpoints.count(ep(1)) < 5 {
        status(&a).await;
    }
    // What one path learned of an endpoint, the other knows.
    let before = world.endpoints.count(ep(1));
    for _ in 0..20 {
        status(&b).await;
    }
    assert_eq!(world.endpoints.count(ep(1)), before);
    assert_eq!(world.mesh.clients().len(), 1);
    // The load as well.
    world.endpoints.script(ep(2), [Reply::hang()]);
    let mut hanging = sending(&a, get());
    assert_pending!(hanging.poll());
    let pending: usize = world.mesh.clients()[0].endpoints.iter().map(|endpoint| endpoint.pending).sum();
    assert_eq!(pending, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_follows_the_newest_watch_of_its_address() {
    let world = World::new();
    let client = world.client("/svc/users");
    world.namer.endpoints("/users", [ep(1)]);
    settle().await;
    assert_eq!(status(&client).await, 200);
    // As a namer does that begins a watch anew.
    world.namer.forget_addr("/users");
    world.namer.endpoints("/users", [ep(2)]);
    settle().await;
    assert_eq!(status(&client).await, 200);
    assert_eq!((world.endpoints.count(ep(1)), world.endpoints.count(ep(2))), (1, 1));
    world.namer.addrs("/users", [ep(3)]);
    settle().await;
    assert_eq!(status(&client).await, 200);
    assert_eq!(world.endpoints.count(ep(3)), 1);
    // A newer watch that knows nothing yet takes nothing away.
    world.namer.forget_addr("/users");
    world.namer.tree("/users", "/users");
    settle().await;
    assert_eq!(status(&client).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_status_is_a_name_that_answers_by_itself() {
    let world = World::with(|builder| builder.dtab("/svc => /$/io.buoyant.http.status".parse().unwrap()));
    assert_eq!(status(&world.client("/svc/404")).await, 404);
    assert_eq!(status(&world.client("/svc/503")).await, 503);
    assert_eq!(error(&world.client("/svc/1000")).await.kind(), ErrorKind::NoSuchName);
    // No answer ends with an interim status.
    let interim = error(&world.client("/svc/103")).await;
    assert_eq!(
        (interim.kind(), interim.text()),
        (ErrorKind::BadResponse, "103 cannot be the status of an answer".into())
    );
}
