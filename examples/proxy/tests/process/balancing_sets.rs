//! Sets of endpoints that change, and sets in zones.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    balancing_backend::{Backend, Counts, Proxy, endpoint, line, lines, until_served_by},
    harness::{Conn, eventually, replace},
};

const MS: Duration = Duration::from_millis(1);

/// Requests by several clients until it is stopped; tells of those that failed, and how many there were.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: JoinSet<()>,
}

impl Load {
    async fn start(proxy: &Proxy, clients: usize) -> Self {
        let mut load =
            Self { stop: Arc::default(), count: Arc::default(), failures: Arc::default(), clients: JoinSet::new() };
        for _ in 0..clients {
            let addr = proxy.linkerd.servers[0];
            let (stop, count, failures) = (Arc::clone(&load.stop), Arc::clone(&load.count), Arc::clone(&load.failures));
            let mut conn = Conn::open(addr).await;
            load.clients.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let req = Request::get("/").header("host", "web").body(String::new()).unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    match conn.try_send(req).await {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(answer) => failures.lock().unwrap().push(format!("{answer:?}")),
                        Err(error) => {
                            failures.lock().unwrap().push(error.to_string());
                            conn = Conn::open(addr).await;
                        }
                    }
                }
            });
        }
        load
    }

    /// Waits for so many more requests.
    async fn more(&self, requests: usize) {
        let before = self.count.load(Ordering::SeqCst);
        let enough = async || (self.count.load(Ordering::SeqCst) >= before + requests).then_some(());
        eventually("more requests", enough).await;
    }

    async fn stop(self) -> (Vec<String>, usize) {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        (std::mem::take(&mut *self.failures.lock().unwrap()), self.count.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_newcomers_serve_and_those_that_left_get_nothing_new() {
    let [one, two, three] = Backend::several();
    for kind in
        ["p2c", "ewma", "aperture, minAperture: 2", "roundRobin", "maglev, hashOn: {path: true}, loadFactor: 1.1"]
    {
        let proxy = Proxy::start(&format!("loadBalancer: {{kind: {kind}}}"), &[&one, &two]).await;
        let load = Load::start(&proxy, 4).await;
        load.more(50).await;
        let mut stale = [&one, &two, &three];
        for _ in 0..6 {
            // One leaves, and the one that was out comes back.
            stale.rotate_left(1);
            let [stays, comes, out] = stale;
            let is_gone = |balancer: &serde_json::Value| {
                balancer["size"] == 2 && endpoint(balancer, out).is_none() && endpoint(balancer, comes).is_some()
            };
            proxy.relist(&lines(&[stays, comes]), is_gone).await;
            // Those that were on their way when it left.
            load.more(8).await;
            let mut counts = Counts::of([stays, comes, out]);
            load.more(60).await;
            let [to_stays, to_comes, to_out] = counts.take();
            assert_eq!(to_out, 0, "{kind}: {to_stays} {to_comes}");
            assert!(to_stays + to_comes > 0, "{kind}: {to_stays} {to_comes}");
            until_served_by(&proxy, comes).await;
        }
        let (failures, total) = load.stop().await;
        assert_eq!(failures, Vec::<String>::new(), "{kind}: of {total}");
        assert_eq!(proxy.metric("loadbalancer/size").await, 2, "{kind}");
        assert_eq!(proxy.metric("loadbalancer/adds").await, 8, "{kind}");
        assert_eq!(proxy.metric("loadbalancer/removes").await, 6, "{kind}");
    }
}

#[tokio::test]
async fn on_probation_an_endpoint_that_works_is_kept() {
    let [a, mut b] = Backend::several();
    let client = "loadBalancer: {kind: roundRobin, enableProbation: true}, \
                  failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 1}";
    let proxy = Proxy::start(client, &[&a, &b]).await;
    proxy.serves(2).await;
    proxy.relist(&lines(&[&a]), |balancer| balancer["leaving"] == 1).await;
    let shown = proxy.endpoint(&b).await;
    assert_eq!((&shown["leaving"], &shown["status"]), (&true.into(), &"open".into()), "{shown:#}");
    assert_eq!(proxy.endpoint(&a).await["leaving"], false);
    assert_eq!(proxy.metric("loadbalancer/leaving").await, 1);
    let mut counts = Counts::of([&a, &b]);
    proxy.serves(20).await;
    assert_eq!(counts.take(), [10, 10]);

    // Once it does not work any more it is gone.
    b.stop().await;
    proxy.serves(20).await;
    eventually("its end", async || {
        proxy.serves(1).await;
        endpoint(&proxy.balancer().await, &b).is_none().then_some(())
    })
    .await;
    // And without probation it is at once.
    b.start();
    let proxy = Proxy::start("loadBalancer: {kind: roundRobin}", &[&a, &b]).await;
    proxy.serves(2).await;
    proxy.relist(&lines(&[&a]), |balancer| balancer["size"] == 1).await;
    assert_eq!(proxy.balancer().await["leaving"], 0);
}

#[tokio::test]
async fn the_local_zone_is_preferred_left_and_returned_to() {
    let ([mut a, mut b], [c]) = (Backend::several(), Backend::several());
    let client = "loadBalancer: {kind: p2c, zones: {local: east, fallback: [west]}}, \
                  failureAccrual: {kind: io.l5d.consecutiveFailures, failures: 1, backoff: {kind: constant, ms: 100}}";
    let proxy = Proxy::start(client, &[&c]).await;
    proxy.serves(1).await;
    let text = line(&a, "zone=east") + &line(&b, "zone=east") + &line(&c, "zone=west");
    proxy.relist(&text, |balancer| balancer["size"] == 3).await;
    let mut before = c.requests();
    proxy.serves(50).await;
    assert_eq!(c.requests(), before);
    let balancer = proxy.balancer().await;
    let tiers = balancer["tiers"].as_array().unwrap();
    assert_eq!((&tiers[0]["zone"], &tiers[0]["open"], &tiers[0]["share"]), (&"east".into(), &2.into(), &1.0.into()));
    assert_eq!((&tiers[1]["zone"], &tiers[1]["share"]), (&"west".into(), &0.0.into()), "{balancer:#}");
    assert_eq!(endpoint(&balancer, &a).unwrap()["zone"], "east");

    // Requeues hide it: connections are refused.
    a.stop().await;
    b.stop().await;
    proxy.serves(50).await;
    assert!(c.requests() >= before + 50);
    // Those whose time to be probed has come count as open for a moment.
    let why = eventually("why it was left", async || {
        proxy.serves(1).await;
        let tier = proxy.balancer().await["tiers"][0].take();
        (tier["share"] == 0.0).then(|| tier["why"].to_string())
    })
    .await;
    assert!(why.contains("only 0 of 2 endpoints are open"), "{why}");

    a.start();
    b.start();
    eventually("the local zone", async || {
        proxy.serves(5).await;
        let balancer = proxy.balancer().await;
        let is_well = |backend| endpoint(&balancer, backend).is_some_and(|endpoint| endpoint["why"] == "open");
        (is_well(&a) && is_well(&b) && balancer["tiers"][0]["share"] == 1.0).then_some(())
    })
    .await;
    before = c.requests();
    proxy.serves(50).await;
    assert_eq!(c.requests(), before);
}

#[tokio::test]
async fn a_set_that_is_not_there_yet_leaves_the_old_one_in_use() {
    let (a, mut b) = (Backend::up("a"), Backend::down("b"));
    let proxy = Proxy::start("loadBalancer: {kind: p2c, overlapMs: 60000}", &[&a]).await;
    proxy.serves(5).await;
    proxy.relist(&lines(&[&b]), |balancer| endpoint(balancer, &b).is_some()).await;
    let mut counts = Counts::of([&a]);
    proxy.serves(20).await;
    assert_eq!(counts.take(), [20]);
    assert_eq!(proxy.endpoint(&a).await["leaving"], true);
    let is_known =
        |endpoint: &serde_json::Value| endpoint["why"].as_str().unwrap().starts_with("could not be connected to");
    let shown = proxy.until(&b, "a try", is_known).await;
    assert_eq!(shown["status"], "closed", "{shown:#}");
    assert_eq!(proxy.metric("failfast/marked_dead").await, 1);

    b.start();
    eventually("the end of the old one", async || {
        proxy.serves(1).await;
        endpoint(&proxy.balancer().await, &a).is_none().then_some(())
    })
    .await;
    let before = a.requests();
    proxy.serves(20).await;
    assert_eq!((a.requests(), proxy.endpoint(&b).await["status"].as_str()), (before, Some("open")));
    assert_eq!(proxy.metric("failfast/marked_available").await, 1);

    // One that is there takes over at once, and nobody calls it dead before.
    proxy.relist(&lines(&[&a]), |balancer| balancer["size"] == 1 && endpoint(balancer, &a).is_some()).await;
    proxy.serves(5).await;
    assert_eq!(a.requests(), before + 5);
    assert_eq!(proxy.metric("failfast/marked_dead").await, 1);
}

#[tokio::test]
async fn a_newcomer_has_little_at_first_and_all_at_last() {
    let [a, b, c] = Backend::several();
    for kind in ["p2c", "ewma", "heap", "roundRobin", "random"] {
        let client = format!("loadBalancer: {{kind: {kind}, slowStart: {{windowMs: 60000, minShare: 0.05}}}}");
        let proxy = Proxy::start(&client, &[&a, &b]).await;
        proxy.serves(20).await;
        assert_eq!(proxy.endpoint(&a).await["ramp"], 1.0, "{kind}: where all are new nobody starts slowly");
        proxy.relist(&lines(&[&a, &b, &c]), |balancer| balancer["size"] == 3).await;
        let mut counts = Counts::of([&a, &b, &c]);
        proxy.serves(300).await;
        let [to_a, to_b, to_c] = counts.take();
        let ramp = proxy.endpoint(&c).await["ramp"].as_f64().unwrap();
        assert!((0.05..0.5).contains(&ramp), "{kind}: {ramp}");
        assert!(to_c <= 60, "{kind}: {to_a} {to_b} {to_c}, ramp {ramp}");
    }

    let client = "loadBalancer: {kind: roundRobin, slowStart: {windowMs: 200}}";
    let proxy = Proxy::start(client, &[&a, &b]).await;
    proxy.serves(2).await;
    proxy.relist(&lines(&[&a, &b, &c]), |balancer| balancer["size"] == 3).await;
    proxy.until(&c, "its full weight", |endpoint| endpoint["ramp"] == 1.0).await;
    proxy.serves(30).await;
    let mut counts = Counts::of([&a, &b, &c]);
    proxy.serves(30).await;
    let counts = counts.take();
    assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn an_edit_that_says_the_same_again_changes_nothing() {
    let [a, b] = Backend::several();
    let proxy = Proxy::start("loadBalancer: {kind: p2c}", &[&a, &b]).await;
    proxy.serves(5).await;
    replace(&proxy.folder.path("disco/web"), &lines(&[&b, &a]));
    sleep(50 * MS).await;
    proxy.serves(5).await;
    assert_eq!(proxy.metric("loadbalancer/adds").await, 2);
    assert_eq!(proxy.metric("loadbalancer/removes").await, 0);
}
