//! Endpoints that are not well: found out, left alone, asked how they are, and back again.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{
    balancing_backend::{Backend, Counts, Proxy, Reply, line, until_served_by},
    harness::eventually,
};

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn an_endpoint_that_fails_is_taken_out_probed_and_revived() {
    let [a, b] = Backend::several();
    a.reply(Reply::status(503));
    let client = "loadBalancer: {kind: roundRobin}, \
                  failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 3, backoff: {kind: constant, ms: 800}}";
    let proxy = Proxy::start(client, &[&a, &b]).await;

    // Three failures of its own, then no request is for it.
    let statuses = proxy.send(20, 1).await;
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 3, "{statuses:?}");
    assert_eq!(a.requests(), 3);
    let shown = proxy.endpoint(&a).await;
    assert_eq!(shown["status"], "busy", "{shown:#}");
    let why = shown["why"].as_str().unwrap();
    let begins = format!("breaker {} has been open for ", a.addr);
    assert!(why.starts_with(&begins) && why.contains(": 3 consecutive failures; next probe in "), "{why}");
    for (metric, expected) in [
        ("failure_accrual/removals", 1),
        ("failure_accrual/revivals", 0),
        ("loadbalancer/available", 1),
        ("loadbalancer/busy", 1),
        ("loadbalancer/size", 2),
    ] {
        assert_eq!(proxy.metric(metric).await, expected, "{metric}");
    }

    let logged = proxy.linkerd.logged("an endpoint is left alone for 800ms: 3 consecutive failures").await;
    assert!(logged.contains(&a.addr.to_string()) && logged.contains("/#/io.l5d.fs/web"), "{logged}");

    // The probe is a request; it fails, which says so.
    eventually("a probe that fails", async || {
        proxy.send(1, 1).await;
        (a.requests() == 4).then_some(())
    })
    .await;
    let why = proxy.endpoint(&a).await["why"].to_string();
    assert!(why.contains("3 consecutive failures, then 1 failed probe; next probe in "), "{why}");
    assert_eq!(proxy.metric("failure_accrual/probes").await, 1);

    // And one that succeeds has it back.
    a.reply(Reply::status(200));
    until_served_by(&proxy, &a).await;
    let shown = proxy.endpoint(&a).await;
    assert_eq!((&shown["status"], &shown["why"]), (&"open".into(), &"open".into()), "{shown:#}");
    assert_eq!(proxy.metric("failure_accrual/revivals").await, 1);
    assert!(proxy.metric("failure_accrual/removed_for_ms").await >= 800);
    let logged = proxy.linkerd.logged("an endpoint is back after ").await;
    assert!(logged.contains(&a.addr.to_string()) && logged.contains("/#/io.l5d.fs/web"), "{logged}");
    let mut counts = Counts::of([&a, &b]);
    proxy.serves(20).await;
    assert_eq!(counts.take(), [10, 10]);
}

#[tokio::test]
async fn no_request_has_to_find_out_what_a_probe_can() {
    let [mut a, b] = Backend::several();
    let client = "loadBalancer: {kind: roundRobin}, failureAccrual: {kind: none, backoff: {kind: constant, ms: 20}, \
                  probe: {path: /health, intervalMs: 20, timeoutMs: 500, unhealthy: 2}}";
    let proxy = Proxy::start(client, &[&a, &b]).await;
    proxy.serves(2).await;

    a.reply(Reply::status(503));
    let shown = proxy.until_status(&a, "busy").await;
    assert!(shown["why"].as_str().unwrap().contains("probe"), "{shown:#}");
    let mut counts = Counts::of([&a, &b]);
    let (before, begun) = (a.probes(), tokio::time::Instant::now());
    // For many times the backoff: that it is over does not make a request a probe.
    while a.probes() < before + 5 || begun.elapsed() < 200 * MS {
        proxy.serves(10).await;
    }
    let [to_a, to_b] = counts.take();
    assert_eq!(to_a, 0, "of {to_b}");

    a.reply(Reply::status(200));
    proxy.until_status(&a, "open").await;
    proxy.serves(20).await;
    assert_eq!(counts.take(), [10, 10]);

    // The same with one that is gone.
    a.stop().await;
    proxy.until_status(&a, "busy").await;
    proxy.serves(50).await;
    a.start();
    proxy.until_status(&a, "open").await;
    until_served_by(&proxy, &a).await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_found_by_fail_fast() {
    let (mut a, b) = (Backend::down("a"), Backend::up("b"));
    let client = "loadBalancer: {kind: roundRobin}, failFast: true, failureAccrual: {kind: none}";
    let proxy = Proxy::start(client, &[&a, &b]).await;

    // The request that finds out is sent to the other one.
    proxy.serves(10).await;
    let shown = proxy.endpoint(&a).await;
    assert_eq!(shown["status"], "busy", "{shown:#}");
    assert!(shown["why"].as_str().unwrap().starts_with("could not be connected to for "), "{shown:#}");
    assert_eq!(proxy.metric("failfast/marked_dead").await, 1);
    assert_eq!(proxy.metric("failfast/unhealthy").await, 1);
    assert_eq!(proxy.metric("failfast/marked_available").await, 0);
    assert_eq!(proxy.metric("service_creation/failures").await, 1);

    let of_a = a.addr.to_string();
    assert!(proxy.linkerd.logged("cannot be connected to").await.contains(&of_a));

    // The next try, a second after the failure, has it back, without any request.
    a.start();
    let tries = proxy.metric("failfast/unhealthy_num_tries").await;
    proxy.until_status(&a, "open").await;
    assert_eq!(proxy.metric("failfast/unhealthy_num_tries").await, tries + 1);
    assert_eq!(proxy.metric("failfast/marked_available").await, 1);
    assert_eq!(proxy.metric("failfast/unhealthy").await, 0);
    assert_eq!(a.requests(), 0);
    assert!(proxy.linkerd.logged("can be connected to again").await.contains(&of_a));
    let mut counts = Counts::of([&a, &b]);
    proxy.serves(20).await;
    assert_eq!(counts.take(), [10, 10]);
}

#[tokio::test]
async fn with_all_of_them_out_requests_fail_fast_and_say_why() {
    let [a, b] = Backend::several();
    a.reply(Reply::status(503));
    b.reply(Reply::status(500));
    let client = "loadBalancer: {kind: roundRobin, panic: {mode: failFast}}, \
                  failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 2, backoff: {kind: constant, ms: 60000}}";
    let proxy = Proxy::start(client, &[&a, &b]).await;
    proxy.send(4, 1).await;
    assert_eq!((a.requests(), b.requests()), (2, 2));

    let answer = proxy.linkerd.get("web").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    // The header is the text, encoded as a form is.
    assert!(answer.headers["l5d-err"].to_str().unwrap().starts_with("0+of+2+endpoints+are+open+"), "{answer:?}");
    let err = answer.body;
    assert!(err.contains("0 of 2 endpoints are open"), "{err}");
    let metrics = proxy.linkerd.json("/admin/metrics.json").await;
    assert_eq!(metrics["rt/http/service/svc/web/failures/all_tripped"], 1);
    for backend in [&a, &b] {
        let begins = format!("breaker {} has been open for ", backend.addr);
        let (_, of_it) = err.split_once(&begins).unwrap_or_else(|| panic!("no {begins:?} in {err}"));
        let of_it = of_it.split("breaker").next().unwrap();
        assert!(of_it.contains(": 2 consecutive failures; next probe in 5"), "{err}");
    }
    assert_eq!((a.requests(), b.requests()), (2, 2));
    proxy.linkerd.logged("too few endpoints are open: requests fail").await;
    let balancer = proxy.balancer().await;
    assert_eq!(balancer["panic"]["active"], true, "{balancer:#}");
    assert_eq!(balancer["panic"]["refused"], 1, "{balancer:#}");
}

#[tokio::test]
async fn what_an_operator_forces_is_done_shown_and_ends() {
    let [a, b] = Backend::several();
    let proxy = Proxy::start("loadBalancer: {kind: roundRobin}", &[&a, &b]).await;
    proxy.serves(4).await;
    let force = async |more: &str| {
        let form = format!("client=/%23/io.l5d.fs/web&endpoint={}&router=http&by=ann&{more}", a.addr);
        let answer = proxy.linkerd.post("/admin/breakers", "application/x-www-form-urlencoded", &form).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()
    };

    let done = force("action=open&ttl=1.minute").await;
    assert_eq!(
        (&done["breakers"], &done["ttlMs"], &done["by"]),
        (&1.into(), &60_000.into(), &"ann".into()),
        "{done:#}"
    );
    let shown = proxy.endpoint(&a).await;
    assert_eq!(shown["status"], "busy", "{shown:#}");
    let why = shown["why"].as_str().unwrap();
    let begins = format!("breaker {} has been forced open for ", a.addr);
    assert!(why.starts_with(&begins) && why.contains(", and is for another 59."), "{why}");
    let mut counts = Counts::of([&a, &b]);
    proxy.serves(50).await;
    assert_eq!(counts.take(), [0, 50]);
    assert_eq!(proxy.metric("failure_accrual/removals").await, 0, "that was a wish");

    // The last word counts, and ends by itself.
    force("action=open&ttl=300").await;
    until_served_by(&proxy, &a).await;
    let shown = proxy.endpoint(&a).await;
    assert_eq!((&shown["status"], &shown["why"]), (&"open".into(), &"open".into()), "{shown:#}");
    counts.take();
    proxy.serves(20).await;
    assert_eq!(counts.take(), [10, 10]);

    // So does what is forced closed, whatever it answers.
    a.reply(Reply::status(503));
    force("action=closed").await;
    assert_eq!(proxy.send(40, 1).await.iter().filter(|status| **status == 503).count(), 20);
    assert!(proxy.endpoint(&a).await["why"].as_str().unwrap().starts_with("forced closed for another "));
    // It is done at once, and has no end: a time to live says nothing.
    let done = force("action=reset&ttl=5.minutes").await;
    assert_eq!((&done["ttlMs"], &done["breakers"]), (&serde_json::Value::Null, &1.into()));
    assert_eq!(proxy.endpoint(&a).await["why"], "open");
    let logged = proxy.linkerd.logged("action=\"reset\"").await;
    assert!(logged.contains("circuit breakers are forced") && logged.contains(" by=\"ann\""), "{logged}");
    assert!(!logged.contains("ttl"), "{logged}");
    proxy.send(20, 1).await;
    assert_eq!(proxy.endpoint(&a).await["status"], "busy");

    let audit = proxy.linkerd.json("/admin/breakers").await;
    let actions: Vec<_> = audit.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["open", "open", "closed", "reset"], "{audit:#}");
    let logged = proxy.linkerd.logged("action=\"open\"").await;
    assert!(logged.contains("circuit breakers are forced") && logged.contains("ttl=60s"), "{logged}");
}

#[tokio::test]
async fn what_grpc_says_at_the_end_is_heard() {
    let [mut a] = Backend::several();
    // In place of the other one: it answers each call with a message, and then says that it cannot.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = vec![0; 4096];
                while matches!(stream.read(&mut buf).await, Ok(1..)) {
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n";
                    let end = format!("{head}\r\n1\r\nx\r\n0\r\ngrpc-status: 14\r\n\r\n");
                    stream.write_all(end.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let client = "loadBalancer: {kind: roundRobin}, failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 3}";
    let proxy = Proxy::start(client, &[&a]).await;
    let text = line(&a, "") + &format!("{} {}\n", addr.ip(), addr.port());
    proxy.serves(1).await;
    proxy.relist(&text, |balancer| balancer["size"] == 2).await;
    let statuses = proxy.send(20, 1).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let balancer = proxy.balancer().await;
    let broken = balancer["endpoints"].as_array().unwrap().iter().find(|shown| shown["addr"] == addr.to_string());
    let why = broken.unwrap()["why"].as_str().unwrap();
    assert!(why.contains(": 3 consecutive failures; next probe in "), "{why}");
    assert_eq!(proxy.metric("failure_accrual/removals").await, 1);
    assert_eq!(a.requests(), 1 + 20 - 3);
    a.stop().await;
}

#[tokio::test]
async fn what_asks_to_be_left_alone_is() {
    for reply in [
        Reply::status(503).header("retry-after", "60"),
        Reply::status(429).header("retry-after", "60"),
        Reply::status(429).header("grpc-retry-pushback-ms", "60000"),
    ] {
        let [a, b] = Backend::several();
        let client = "loadBalancer: {kind: ewma, failurePenaltyMs: 1, decayTimeMs: 100, hints: true}, failureAccrual: {kind: none}";
        let proxy = Proxy::start(client, &[&a, &b]).await;
        proxy.serves(20).await;
        a.reply(reply);
        eventually("a push-back", async || proxy.send(1, 1).await.iter().any(|status| *status != 200).then_some(()))
            .await;
        // By then the penalty is over, the push-back is not.
        sleep(20 * MS).await;
        let mut counts = Counts::of([&a, &b]);
        proxy.serves(50).await;
        assert_eq!(counts.take(), [0, 50]);
    }

    // Without both it is Linkerd's way, which knew none of this: it looks fast.
    let [a, b] = Backend::several();
    a.reply(Reply::status(429).header("retry-after", "60"));
    b.reply(Reply::status(200).after(10 * MS));
    let client = "loadBalancer: {kind: ewma, failurePenaltyMs: 0, decayTimeMs: 100}, failureAccrual: {kind: none}";
    let proxy = Proxy::start(client, &[&a, &b]).await;
    let refused = proxy.send(100, 1).await.iter().filter(|status| **status == 429).count();
    assert!(refused > 5, "{refused}");
}

#[tokio::test]
async fn what_is_a_callers_fault_takes_nobody_out() {
    let [a] = Backend::several();
    let client = "failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 1}, \
                  hostConnectionPool: {maxSize: 1, maxWaiters: 1}";
    let proxy = Proxy::start(client, &[&a]).await;

    // More at a time than the pool has room for.
    a.reply(Reply::status(200).after(20 * MS));
    let statuses = proxy.send(64, 8).await;
    assert!(statuses.contains(&200) && statuses.iter().any(|status| *status >= 500), "{statuses:?}");
    assert_eq!(proxy.metric("failure_accrual/removals").await, 0);
    assert_eq!(proxy.endpoint(&a).await["status"], "open");

    // A body whose sender goes away before its end.
    a.reply(Reply::status(200).after(Duration::from_millis(200)));
    let before = a.requests();
    let mut stream = TcpStream::connect(proxy.linkerd.servers[0]).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\nsome").await.unwrap();
    eventually("half a request", async || (a.requests() > before).then_some(())).await;
    drop(stream);
    proxy.until(&a, "its end", |endpoint| endpoint["pending"] == 0).await;
    assert_eq!(proxy.metric("failure_accrual/removals").await, 0);
    assert_eq!(proxy.endpoint(&a).await["status"], "open");

    // Unlike what is the endpoint's.
    a.reply(Reply::status(500));
    proxy.send(1, 1).await;
    assert_eq!(proxy.endpoint(&a).await["status"], "busy");
}
