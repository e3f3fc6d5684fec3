//! Which endpoint a request goes to.

use std::{collections::HashMap, time::Duration};

use crate::{
    balancing_backend::{Backend, Counts, Proxy, Reply, line},
    harness::eventually,
};

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn equal_keys_meet_the_same_endpoint_and_others_are_spread() {
    let [a, b, mut c] = Backend::several();
    for kind in ["ring", "maglev", "stickyPrimary"] {
        let client = format!(
            "loadBalancer: {{kind: {kind}, hashOn: {{header: x-user}}}}, \
             failureAccrual: {{kind: io.l5d.consecutiveFailures, failures: 1}}"
        );
        let proxy = Proxy::start(&client, &[&a, &b, &c]).await;
        let mut conn = proxy.conn().await;
        let users: Vec<_> = (0..60).map(|i| format!("user-{i}")).collect();
        let mut homes = HashMap::new();
        for _ in 0..3 {
            for user in &users {
                let answer = conn.get("/", "web", &[("x-user", user)]).await;
                assert_eq!(answer.status, 200, "{kind}: {answer:?}");
                let home = homes.entry(user).or_insert_with(|| answer.body.clone());
                assert_eq!(*home, answer.body, "{kind}: {user}");
            }
        }
        for name in ["b0", "b1", "b2"] {
            let users = homes.values().filter(|home| *home == name).count();
            assert!(users >= 5, "{kind}: {users} of 60 at {name}");
        }

        // Of one that is gone the users go elsewhere, and nobody else does.
        c.stop().await;
        for user in &users {
            let answer = conn.get("/", "web", &[("x-user", user)]).await;
            assert_eq!(answer.status, 200, "{kind}: {answer:?}");
            assert_ne!(answer.body, "b2", "{kind}");
            if homes[user] != "b2" {
                assert_eq!(homes[user], answer.body, "{kind}: {user}");
            }
        }
        c.start();
    }
}

#[tokio::test]
async fn a_sticky_primary_without_keys_gets_everything() {
    let [a, b, c] = Backend::several();
    let proxy = Proxy::start("loadBalancer: {kind: stickyPrimary}", &[&a, &b, &c]).await;
    let mut counts = Counts::of([&a, &b, &c]);
    proxy.serves(60).await;
    let mut counts = counts.take();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 60]);
}

#[tokio::test]
async fn turns_are_exact() {
    let [a, b, c] = Backend::several();
    let proxy = Proxy::start("loadBalancer: {kind: roundRobin}", &[&a, &b, &c]).await;
    let mut counts = Counts::of([&a, &b, &c]);
    proxy.serves(300).await;
    assert_eq!(counts.take(), [100, 100, 100]);
    // Whoever sends them, and however many at a time.
    proxy.send(300, 7).await;
    assert_eq!(counts.take(), [100, 100, 100]);

    let text = line(&a, "* 3") + &line(&b, "* 1") + &line(&c, "* 2");
    proxy.relist(&text, |balancer| balancer["meanWeight"] == 2.0).await;
    assert_eq!(proxy.endpoint(&a).await["weight"], 3.0);
    counts.take();
    proxy.send(600, 4).await;
    let counts = counts.take();
    let near = [300, 100, 200].iter().zip(&counts).all(|(expected, count): (&usize, _)| expected.abs_diff(*count) <= 2);
    assert!(near, "{counts:?}");
}

#[tokio::test]
async fn every_kind_honours_weights() {
    let [a, b] = Backend::several();
    for kind in [
        "p2c",
        "aperture, minAperture: 2",
        "heap",
        "roundRobin",
        "random",
        "ring, hashOn: {header: x-user}, loadFactor: 0",
        "maglev, hashOn: {header: x-user}, loadFactor: 0",
        "stickyPrimary, hashOn: {header: x-user}",
    ] {
        let proxy = Proxy::start(&format!("loadBalancer: {{kind: {kind}}}"), &[&a, &b]).await;
        proxy.serves(20).await;
        let text = line(&a, "* 1") + &line(&b, "* 4");
        proxy.relist(&text, |balancer| balancer["meanWeight"] == 2.5).await;
        let mut counts = Counts::of([&a, &b]);
        let mut conn = proxy.conn().await;
        for i in 0..400 {
            conn.get("/", "web", &[("x-user", &i.to_string())]).await;
        }
        // A fifth of them, by chance mostly: 80 +- 8.
        let [light, heavy] = counts.take();
        assert!((40..=130).contains(&light), "{kind}: {light} {heavy}");
    }

    // Latency has the first say; where that is the same what is in flight is in proportion.
    for backend in [&a, &b] {
        backend.reply(Reply::status(200).after(20 * MS));
    }
    let proxy = Proxy::start("loadBalancer: {kind: ewma}", &[&a, &b]).await;
    proxy.send(20, 2).await;
    let text = line(&a, "* 1") + &line(&b, "* 4");
    proxy.relist(&text, |balancer| balancer["meanWeight"] == 2.5).await;
    let mut counts = Counts::of([&a, &b]);
    proxy.send(400, 10).await;
    let [light, heavy] = counts.take();
    assert!((20..=160).contains(&light), "{light} {heavy}");
}

#[tokio::test]
async fn at_low_load_an_aperture_is_narrow() {
    let all: [Backend; 8] = Backend::several();
    let of_all: [&Backend; 8] = std::array::from_fn(|i| &all[i]);
    let client = "loadBalancer: {kind: aperture, minAperture: 2}, failureAccrual: {kind: none}";
    let proxy = Proxy::start(client, &of_all).await;
    let mut counts = Counts::of(of_all);
    proxy.serves(200).await;
    let used = counts.take().iter().filter(|count| **count > 0).count();
    assert!((1..=3).contains(&used), "{used}");
    let shown = proxy.balancer().await["used"].as_u64().unwrap();
    assert!((1..=3).contains(&shown), "{shown}");
    assert_eq!(proxy.metric("loadbalancer/size").await, 8);
    let metrics = ["logical_aperture", "physical_aperture", "use_deterministic_ordering", "num_weight_classes"];
    for (metric, expected) in metrics.into_iter().zip([2, 2, 0, 1]) {
        assert_eq!(proxy.metric(&format!("loadbalancer/{metric}")).await, expected, "{metric}");
    }
    assert_eq!(proxy.metric("loadbalancer/loadband/widen").await, 0);
    assert!(proxy.metric("loadbalancer/p2c/zero").await > 0);
    assert_eq!(proxy.balancer().await["aperture"]["logical"], 2);

    // With more to do it widens.
    let client = "loadBalancer: {kind: aperture, minAperture: 1, smoothWindowMs: 1}, failureAccrual: {kind: none}";
    let proxy = Proxy::start(client, &of_all).await;
    for backend in &all {
        backend.reply(Reply::status(200).after(20 * MS));
    }
    eventually("a wide aperture", async || {
        proxy.send(64, 32).await;
        let used = counts.take().iter().filter(|count| **count > 0).count();
        (used >= 6).then_some(())
    })
    .await;
    assert!(proxy.metric("loadbalancer/loadband/widen").await > 0);
}

#[tokio::test]
async fn a_slow_endpoint_is_avoided_by_latency() {
    let [a, b, c] = Backend::several();
    a.reply(Reply::status(200).after(300 * MS));
    for client in ["kind: ewma", "kind: heap, load: ewma", "kind: aperture, minAperture: 3, load: ewma"] {
        let proxy = Proxy::start(&format!("loadBalancer: {{{client}}}"), &[&a, &b, &c]).await;
        proxy.serves(20).await;
        let mut counts = Counts::of([&a, &b, &c]);
        proxy.serves(200).await;
        let [slow, ..] = counts.take();
        assert!(slow <= 10, "{client}: {slow}");
    }
}

#[tokio::test]
async fn one_that_fails_fast_does_not_look_fast() {
    let [a, b, c] = Backend::several();
    for backend in [&b, &c] {
        backend.reply(Reply::status(200).after(5 * MS));
    }
    let failures = async |penalty: &str| {
        a.reply(Reply::status(200).after(5 * MS));
        let client = format!("loadBalancer: {{kind: ewma, decayTimeMs: 500{penalty}}}, failureAccrual: {{kind: none}}");
        let proxy = Proxy::start(&client, &[&a, &b, &c]).await;
        proxy.serves(20).await;
        a.reply(Reply::status(503));
        proxy.send(150, 1).await.iter().filter(|status| **status == 503).count()
    };
    // By default it is not asked again for seconds.
    let by_default = failures("").await;
    assert!(by_default <= 5, "{by_default}");
    // Which is not so where it is not wanted.
    let off = failures(", failurePenaltyMs: 0").await;
    assert!(off > 20, "{off}");
}
