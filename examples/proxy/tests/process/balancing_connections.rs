//! Connections: made ahead of requests, kept, counted, and not to be had.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::{
    balancing_backend::{Backend, Counts, Proxy, Reply, endpoint, lines},
    harness::{LONG, eventually},
};

const MS: Duration = Duration::from_millis(1);

/// Waits until each has so many connections. A request that comes while they are made makes one of its own.
async fn until_connected(backends: &[&Backend], each: usize) {
    let has = |backend: &&Backend| (each..=each + 1).contains(&backend.conns());
    eventually("connections", async || backends.iter().all(has).then_some(())).await;
}

#[tokio::test]
async fn an_idle_client_is_connected_again_before_its_next_request() {
    let [mut a, mut b, mut c] = Backend::several();
    let client = "loadBalancer: {kind: roundRobin}, hostConnectionPool: {minSize: 2}";
    let proxy = Proxy::start(client, &[&a, &b, &c]).await;
    // A first request binds the name; it needs one connection of one of them.
    proxy.serves(1).await;
    until_connected(&[&a, &b, &c], 2).await;

    for backend in [&mut a, &mut b, &mut c] {
        backend.stop().await;
    }
    // Without any request it is known that they are gone.
    for backend in [&a, &b, &c] {
        let shown = proxy.until_status(backend, "busy").await;
        assert!(shown["why"].as_str().unwrap().starts_with("could not be connected to for "), "{shown:#}");
    }
    assert_eq!(proxy.metric("failfast/marked_dead").await, 3);
    for backend in [&mut a, &mut b, &mut c] {
        backend.start();
    }
    // And that they are back.
    until_connected(&[&a, &b, &c], 2).await;
    for backend in [&a, &b, &c] {
        proxy.until_status(backend, "open").await;
    }
    assert_eq!(proxy.metric("failfast/marked_available").await, 3);
    assert_eq!(proxy.metric("failfast/unhealthy").await, 0);

    let connects = proxy.metric("connects").await;
    let mut counts = Counts::of([&a, &b, &c]);
    proxy.serves(30).await;
    assert_eq!(counts.take(), [10, 10, 10]);
    assert_eq!(proxy.metric("connects").await, connects, "no request had to connect");
    assert_eq!(proxy.metric("service_creation/failures").await, 0);
}

#[tokio::test]
async fn a_newcomer_is_connected_to_and_who_leaves_is_let_go() {
    let [a, b] = Backend::several();
    let proxy = Proxy::start("hostConnectionPool: {minSize: 1}", &[&a]).await;
    proxy.serves(1).await;
    until_connected(&[&a], 1).await;
    proxy.relist(&lines(&[&b]), |balancer| balancer["endpoints"][0]["addr"] == b.addr.to_string()).await;
    until_connected(&[&b], 1).await;
    eventually("an end", async || (a.conns() == 0).then_some(())).await;
    assert_eq!((a.requests(), b.requests()), (1, 0));
}

#[tokio::test]
async fn a_pool_has_no_more_than_it_may_and_keeps_no_less_than_it_should() {
    let [a] = Backend::several();
    a.reply(Reply::status(200).after(10 * MS));
    let pool = "hostConnectionPool: {minSize: 1, maxSize: 3, idleTimeMs: 50, maxWaiters: 100}";
    let proxy = Proxy::start(pool, &[&a]).await;
    let statuses = proxy.send(60, 12).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!((1..=3).contains(&a.conns()), "{}", a.conns());
    assert!(proxy.metric("pool_num_waited").await > 0);
    assert!(proxy.metric("connects").await <= 3);
    // What is idle for long is closed, but for those that are kept.
    eventually("what is kept", async || (a.conns() == 1).then_some(())).await;
    assert_eq!(proxy.metric("pool_cached").await, 1);
    proxy.serves(1).await;
    assert!(proxy.metric("connects").await <= 3);
}

#[tokio::test]
async fn who_waits_at_an_endpoint_that_leaves_goes_to_another() {
    // At once, or when the one that stays for it is open.
    for overlap in [0, 60_000] {
        let [a, b] = Backend::several();
        a.reply(Reply::status(200).after(LONG));
        let client = format!("loadBalancer: {{kind: p2c, overlapMs: {overlap}}}, hostConnectionPool: {{maxSize: 1}}");
        let proxy = Proxy::start(&client, &[&a]).await;
        let mut sending = JoinSet::new();
        for _ in 0..4 {
            let mut conn = proxy.conn().await;
            sending.spawn(async move { conn.get("/", "web", &[]).await });
        }
        eventually("a line", async || (proxy.metric("pool_waiters").await == 3).then_some(())).await;
        let is_b = |balancer: &Value| balancer["size"] == 1 && endpoint(balancer, &b).is_some();
        proxy.relist(&lines(&[&b]), is_b).await;
        for _ in 0..3 {
            let answer = sending.join_next().await.unwrap().unwrap();
            assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "b1"), "{overlap}");
        }
        // The one that it had begun to serve stays there.
        assert_eq!((a.requests(), b.requests()), (1, 3), "{overlap}");
    }
}

#[tokio::test]
async fn nobody_notices_that_half_of_the_endpoints_refuse() {
    let (a, b) = (Backend::down("a"), Backend::up("b"));
    for client in ["loadBalancer: {kind: p2c}", "loadBalancer: {kind: ewma}", "failFast: true"] {
        let proxy = Proxy::start(client, &[&a, &b]).await;
        proxy.serves(500).await;
        // A few requests found out, and none of them took a retry for it.
        let refused = proxy.metric("service_creation/failures").await;
        assert!((1..=5).contains(&refused), "{client}: {refused}");
        assert_eq!(proxy.metric("retries/requeues").await, refused, "{client}");
        assert_eq!(proxy.metric("failures").await, 0, "{client}");
    }
}

#[tokio::test]
async fn the_only_endpoint_is_asked_whatever_its_connections_say() {
    let mut a = Backend::down("a");
    let client = "failFast: true, failureAccrual: {kind: none}, loadBalancer: {kind: p2c, panic: {mode: failFast}}";
    let proxy = Proxy::start(client, &[&a]).await;
    let answer = proxy.linkerd.get("web").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.body.starts_with("Unable to establish connection to "), "{answer:?}");
    assert_eq!(proxy.endpoint(&a).await["status"], "open");
    a.start();
    proxy.serves(1).await;
}
