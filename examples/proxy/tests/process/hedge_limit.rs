//! What takes long is asked elsewhere too, and what is too much is not let in: over real connections.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    balancing_backend::{Backend, Reply},
    harness::{Answer, Conn, Folder, LONG, Linkerd, SIMPLE, eventually, server},
};

const MS: Duration = Duration::from_millis(1);

/// A proxy for the service `web`, with these keys of the service in YAML's flow style.
async fn proxy(service: &str, replicas: &[SocketAddr]) -> Linkerd {
    let folder = Folder::new();
    folder.list("web", replicas);
    let client = "  client: {loadBalancer: {kind: roundRobin}, failureAccrual: {kind: none}}\n";
    Linkerd::start(&folder, &format!("{SIMPLE}{client}  service: {{{service}}}\n")).await
}

async fn metric(linkerd: &Linkerd, name: &str) -> u64 {
    let value = &linkerd.json("/admin/metrics.json").await[format!("rt/http/service/svc/web/{name}")];
    // A gauge has a fraction, as in Linkerd.
    value.as_f64().unwrap_or_default() as u64
}

/// An endpoint that takes requests, says nothing, and counts what came and what was given up.
struct Silent {
    addr: SocketAddr,
    seen: watch::Receiver<(usize, usize)>,
}

async fn silent() -> Silent {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (count, seen) = watch::channel((0, 0));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                count.send_modify(|(came, _)| *came += 1);
                // The other side closes it, or resets it.
                let _ = stream.read_u8().await;
                count.send_modify(|(_, gone)| *gone += 1);
                std::io::Result::Ok(())
            });
        }
    });
    Silent { addr, seen }
}

#[tokio::test]
async fn a_hedge_is_answered_elsewhere_and_the_loser_is_hung_up_on() {
    let (mut silent, fast) = (silent().await, server("fast").await);
    let linkerd = proxy("hedge: {delayMs: 100, maxShare: 1}", &[silent.addr, fast.addr()]).await;
    let mut conn = Conn::open(linkerd.servers[0]).await;
    for _ in 0..10 {
        let begun = Instant::now();
        let answer = conn.get("/", "web", &[]).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "fast!"));
        assert!(begun.elapsed() < LONG / 2);
    }
    let given_up = timeout(LONG, silent.seen.wait_for(|(came, gone)| *came >= 4 && came == gone)).await;
    let (came, _) = *given_up.expect("every other one, all of which were given up").unwrap();
    // On a busy host a hedge may be of one that only seemed to take long, and be lost before it is written.
    let [hedges, wins] = [metric(&linkerd, "retries/hedges").await, metric(&linkerd, "retries/hedge_wins").await];
    assert!(hedges >= came as u64 && wins >= 4 && wins <= hedges, "{wins} of {hedges}, {came} came");
    assert_eq!(metric(&linkerd, "retries/total").await, 0);
    assert_eq!(metric(&linkerd, "success").await, 10);
}

#[tokio::test]
async fn a_hedge_is_one_request_in_twenty_and_never_a_post() {
    let slow = Backend::several::<2>();
    for backend in &slow {
        backend.reply(Reply::status(200).after(300 * MS));
    }
    let linkerd = proxy("hedge: {delayMs: 5}", &[slow[0].addr, slow[1].addr]).await;
    let mut conns = Vec::new();
    for _ in 0..20 {
        conns.push(Conn::open(linkerd.servers[0]).await);
    }
    let sending = conns.into_iter().map(|mut conn| {
        tokio::spawn(async move {
            for _ in 0..5 {
                assert_eq!(conn.get("/", "web", &[]).await.status, 200);
            }
            conn
        })
    });
    let mut conn = None;
    for sent in sending.collect::<Vec<_>>() {
        conn = Some(sent.await.unwrap());
    }
    assert_eq!(metric(&linkerd, "retries/hedges").await, 5);
    // Where the hedge and the answer are ready at one time, the answer wins.
    let unpaid = metric(&linkerd, "retries/hedge_budget_exhausted").await;
    assert!((70..=95).contains(&unpaid), "{unpaid}");
    // One that has lost may have ended before it was written.
    let requests = slow[0].requests() + slow[1].requests();
    assert!((100..=105).contains(&requests), "{requests}");

    for backend in &slow {
        backend.reply(Reply::status(200).after(100 * MS));
    }
    for _ in 0..5 {
        let post = http::Request::post("/").header("host", "web").body("order".to_owned()).unwrap();
        assert_eq!(conn.as_mut().unwrap().send(post).await.status, 200);
    }
    assert_eq!(slow[0].requests() + slow[1].requests(), requests + 5);
}

/// An endpoint that answers each request with one byte of two, and with the other one when it is told to.
async fn halting(told: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(halt(stream, told.clone()));
        }
    });
    addr
}

async fn halt(mut stream: TcpStream, mut told: watch::Receiver<bool>) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.push(stream.read_u8().await?);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await?;
            if told.wait_for(|told| *told).await.is_err() {
                return Ok(());
            }
            stream.write_all(b"1\r\nb\r\n0\r\n\r\n").await?;
        }
    }
}

async fn sent(linkerd: &Linkerd) -> JoinHandle<Answer> {
    let mut conn = Conn::open(linkerd.servers[0]).await;
    tokio::spawn(async move { conn.get("/", "web", &[]).await })
}

/// The limit of `web` as `/state.json` has it.
async fn limit(linkerd: &Linkerd) -> Value {
    find(&linkerd.json("/state.json").await, "limit").cloned().unwrap_or_default()
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

#[tokio::test]
async fn a_limit_holds_until_bodies_end_and_sheds_what_matters_least() {
    let (tell, told) = watch::channel(false);
    let endpoint = halting(told).await;
    let linkerd = proxy("limit: {kind: concurrency, max: 5}", &[endpoint]).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(sent(&linkerd).await);
    }
    eventually("four under way", async || (metric(&linkerd, "limit/in_flight").await == 4).then_some(())).await;

    let low = linkerd.get_with("web", &[("l5d-ctx-criticality", "sheddable")]).await;
    assert_eq!((low.status.as_u16(), &low.headers["l5d-retryable"]), (503, &"true".parse().unwrap()));
    let text = "limit /svc/web is full: 4 of 5 in flight, 0 queued, class sheddable; nothing of the request was sent";
    assert_eq!(low.body, text);
    assert!(low.headers.contains_key("l5d-err"));

    streams.push(sent(&linkerd).await);
    eventually("all under way", async || (metric(&linkerd, "limit/in_flight").await == 5).then_some(())).await;
    // Neither does a table of its own find room, nor who matters most.
    for header in [("l5d-dtab", "/foo => /bar"), ("l5d-ctx-criticality", "critical_plus")] {
        let shed = linkerd.get_with("web", &[header]).await;
        assert_eq!(shed.status, 503);
        assert!(shed.body.starts_with("limit /svc/web is full: 5 of 5 in flight"), "{}", shed.body);
    }
    let shown = limit(&linkerd).await;
    let expected = serde_json::json!({"kind": "concurrency", "limit": 5, "inFlight": 5, "queued": 0, "shed": 3});
    assert_eq!(shown, expected);
    assert_eq!(metric(&linkerd, "limit/shed").await, 3);
    assert_eq!(metric(&linkerd, "limit/limit").await, 5);

    tell.send(true).unwrap();
    for stream in streams {
        assert_eq!(stream.await.unwrap().body, "ab");
    }
    eventually("room again", async || (metric(&linkerd, "limit/in_flight").await == 0).then_some(())).await;
    assert_eq!(linkerd.get("web").await.body, "ab");
}

#[tokio::test]
async fn a_rate_is_kept() {
    let fast = server("fast").await;
    let linkerd = proxy("limit: {kind: rate, perSec: 1, burst: 3}", &[fast.addr()]).await;
    let mut conn = Conn::open(linkerd.servers[0]).await;
    let begun = Instant::now();
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(conn.get("/", "web", &[]).await.status.as_u16());
    }
    let more = begun.elapsed().as_secs() as usize + 1;
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((3..=3 + more).contains(&served), "{statuses:?}");
    assert_eq!(statuses[..3], [200; 3]);
    assert_eq!(metric(&linkerd, "limit/shed").await, 10 - served as u64);
}
