//! Each kind of balancer and of failure accrual serves, and its page says what it does.

use serde_json::Value;

use crate::{
    balancing_backend::{Backend, Proxy, Reply, endpoint, list},
    harness::{Folder, Linkerd, SIMPLE, eventually},
};

/// Kinds of load balancers with the keys that they need, and what they are called.
const KINDS: [(&str, &str); 9] = [
    ("kind: p2c", "p2c_least_loaded"),
    ("kind: ewma", "p2c_peak_ewma"),
    ("kind: aperture", "aperture_least_loaded"),
    ("kind: heap", "heap_least_loaded"),
    ("kind: roundRobin", "round_robin_least_loaded"),
    ("kind: random", "random_least_loaded"),
    ("kind: ring, hashOn: {header: x-user}", "ring_least_loaded"),
    ("kind: maglev, hashOn: {path: true}, tableSize: 251", "maglev_least_loaded"),
    ("kind: stickyPrimary", "sticky_primary_least_loaded"),
];

const ACCRUALS: [&str; 5] = [
    "kind: none",
    "kind: io.l5d.consecutiveFailures, failures: 5",
    "kind: io.l5d.successRate, successRate: 0.9, requests: 20",
    "kind: io.l5d.successRateWindowed, successRate: 0.99, window: 1",
    "kind: io.l5d.unified",
];

fn assert_shown(balancer: &Value, algorithm: &str, backends: &[&Backend], what: &str) {
    assert_eq!(balancer["algorithm"], algorithm, "{what}: {balancer:#}");
    assert_eq!(balancer["size"], backends.len(), "{what}: {balancer:#}");
    assert_eq!(balancer["available"], backends.len(), "{what}: {balancer:#}");
    for backend in backends {
        let shown = endpoint(balancer, backend).expect(what);
        assert_eq!(shown["status"], "open", "{what}: {shown:#}");
        assert_eq!(shown["why"], "open", "{what}: {shown:#}");
        assert_eq!(shown["weight"], 1.0, "{what}: {shown:#}");
        assert_eq!(shown["pending"], 0, "{what}: {shown:#}");
        assert!(shown["load"].is_number(), "{what}: {shown:#}");
        assert_eq!(shown["leaving"], false, "{what}: {shown:#}");
    }
}

#[tokio::test]
async fn each_kind_of_balancer_serves_and_is_shown() {
    let [a, b, c] = Backend::several();
    for (kind, algorithm) in KINDS {
        let proxy = Proxy::start(&format!("loadBalancer: {{{kind}}}"), &[&a, &b, &c]).await;
        proxy.serves(10).await;
        assert_shown(&proxy.balancer().await, algorithm, &[&a, &b, &c], kind);
        for (metric, expected) in
            [("size", 3), ("available", 3), ("busy", 0), ("closed", 0), ("adds", 3), ("removes", 0)]
        {
            assert_eq!(proxy.metric(&format!("loadbalancer/{metric}")).await, expected, "{kind}: {metric}");
        }
        let name = format!("loadbalancer/algorithm/{algorithm}");
        assert_eq!(proxy.metric(&name).await, 1, "{kind}");
    }
}

#[tokio::test]
async fn each_kind_of_failure_accrual_serves_and_is_shown() {
    let [a, b] = Backend::several();
    for kind in ACCRUALS {
        a.reply(Reply::status(200));
        let client = format!("failureAccrual: {{{kind}}}, loadBalancer: {{kind: roundRobin}}");
        let proxy = Proxy::start(&client, &[&a, &b]).await;
        proxy.serves(10).await;
        assert_shown(&proxy.balancer().await, "round_robin_least_loaded", &[&a, &b], kind);

        // Of the requests that fail from now on each kind has enough after some, but for none.
        a.reply(Reply::status(503));
        let before = a.requests();
        eventually("the kind's verdict", async || {
            proxy.send(10, 1).await;
            let is_out = proxy.endpoint(&a).await["status"] != "open";
            (is_out || (kind == "kind: none" && a.requests() > before + 100)).then_some(())
        })
        .await;
        let shown = proxy.endpoint(&a).await;
        if kind == "kind: none" {
            assert_eq!((&shown["status"], &shown["why"]), (&"open".into(), &"open".into()), "{shown:#}");
            assert_eq!(proxy.metric("failure_accrual/removals").await, 0);
        } else {
            assert_eq!(shown["status"], "busy", "{kind}: {shown:#}");
            let why = shown["why"].as_str().unwrap();
            assert!(why.starts_with(&format!("breaker {} has been open for ", a.addr)), "{kind}: {why}");
            assert!(why.contains("; next probe in "), "{kind}: {why}");
            assert_eq!(proxy.metric("failure_accrual/removals").await, 1, "{kind}");
        }
        assert_eq!(proxy.endpoint(&b).await["status"], "open", "{kind}");
    }
}

#[tokio::test]
async fn each_prefix_has_a_balancer_of_its_own() {
    let folder = Folder::new();
    let [a, b] = Backend::several();
    list(&folder, "web", &[&a]);
    list(&folder, "users", &[&a, &b]);
    list(&folder, "other", &[&b]);
    let client = "  client:
    kind: io.l5d.static
    configs:
    - prefix: /
      loadBalancer: {kind: heap}
      failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 1}
    - prefix: /#/io.l5d.fs/web
      loadBalancer: {kind: aperture}
    - prefix: /#/io.l5d.fs/users
      loadBalancer: {kind: ring, hashOn: {header: x-user}, load: ewma}
      failureAccrual: {kind: none}
";
    let proxy = Proxy { linkerd: Linkerd::start(&folder, &format!("{SIMPLE}{client}")).await, folder };
    for (name, algorithm) in
        [("web", "aperture_least_loaded"), ("users", "ring_peak_ewma"), ("other", "heap_least_loaded")]
    {
        assert_eq!(proxy.linkerd.get(name).await.status, 200);
        let balancer = proxy.balancer_of(&format!("/#/io.l5d.fs/{name}")).await;
        assert_eq!(balancer["algorithm"], algorithm, "{balancer:#}");
    }

    // So has its accrual: one failure is enough where nothing else is said.
    b.reply(Reply::status(503));
    for _ in 0..20 {
        proxy.linkerd.get("other").await;
        proxy.linkerd.get("users").await;
    }
    let other = proxy.balancer_of("/#/io.l5d.fs/other").await;
    assert_eq!(endpoint(&other, &b).unwrap()["status"], "busy", "{other:#}");
    let users = proxy.balancer_of("/#/io.l5d.fs/users").await;
    assert_eq!(endpoint(&users, &b).unwrap()["status"], "open", "{users:#}");
}
