//! Three proxies in a row: one deadline and one budget for all of them.
//!
//! `AMPLIFICATION_SECS` says for how long a backend fails everything; `just amplification` has the
//! whole.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{Empty, Full};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{
    balancing_backend::{Backend, Reply},
    harness::{Conn, Folder, Linkerd, SIMPLE, eventually},
    load::Load,
};

const MS: Duration = Duration::from_millis(1);
const NANOS: u128 = 1_000_000_000;

/// Between two hops: passes requests on after a while, and keeps what they carry.
struct Tap {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request as it came.
#[derive(Debug)]
struct Seen {
    headers: HeaderMap,
    at: SystemTime,
}

impl Tap {
    /// Passes everything on to `next`, or answers itself if there is none.
    async fn before(next: Option<SocketAddr>, wait: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                let service = service_fn(move |req: Request<Incoming>| {
                    log.lock().unwrap().push(Seen { headers: req.headers().clone(), at: SystemTime::now() });
                    // On its own: who asked may not wait for it.
                    let passed = tokio::spawn(pass(req, next, wait));
                    async { Ok::<_, hyper::Error>(passed.await.unwrap()) }
                });
                tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { addr, seen }
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn pass(req: Request<Incoming>, next: Option<SocketAddr>, wait: Duration) -> Response<Full<Bytes>> {
    sleep(wait).await;
    let Some(next) = next else { return Response::new(Full::from("end")) };
    let stream = TcpStream::connect(next).await.unwrap();
    let (mut sender, conn) = client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(conn);
    let rsp = sender.send_request(req.map(|_| Empty::<Bytes>::new())).await.unwrap();
    rsp.map(|_| Full::default())
}

impl Seen {
    /// When its answer is no longer wanted, since 1970.
    fn deadline(&self) -> Option<Duration> {
        let value = self.headers.get("l5d-ctx-deadline")?.to_str().unwrap();
        let nanos: u128 = value.split_once(' ').unwrap().1.parse().unwrap();
        Some(Duration::new((nanos / NANOS) as u64, (nanos % NANOS) as u32))
    }

    /// How much of that was left when it came.
    fn left(&self) -> Duration {
        self.deadline().expect("a deadline").saturating_sub(since_1970(self.at))
    }
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// A proxy for `web`, whose one endpoint is the next hop. With these keys of its service, in YAML's flow style.
async fn hop(next: SocketAddr, service: &str) -> Linkerd {
    let folder = Folder::new();
    folder.list("web", &[next]);
    let more = format!("  client: {{failureAccrual: {{kind: none}}}}\n  service: {{{service}}}\n");
    Linkerd::start(&folder, &format!("{SIMPLE}{more}")).await
}

/// A header that says that an answer was wanted within this time of now, which may be negative.
fn deadline(millis: i64) -> String {
    let now = since_1970(SystemTime::now()).as_nanos() as i64;
    format!("{now} {}", now + millis * 1_000_000)
}

#[tokio::test]
async fn a_deadline_made_at_the_edge_shrinks_over_three_hops() {
    let wait = 50 * MS;
    let backend = Tap::before(None, Duration::ZERO).await;
    let third = hop(backend.addr, "totalTimeoutMs: 60000").await;
    let second_tap = Tap::before(Some(third.servers[0]), wait).await;
    let second = hop(second_tap.addr, "totalTimeoutMs: 20000").await;
    let first_tap = Tap::before(Some(second.servers[0]), wait).await;
    let first = hop(first_tap.addr, "totalTimeoutMs: 30000").await;

    let (before, asked) = (since_1970(SystemTime::now()), SystemTime::now());
    assert_eq!(first.get("web").await.status, 200);
    let seen = [&first_tap, &second_tap, &backend].map(|tap| {
        let [seen] = <[Seen; 1]>::try_from(tap.take()).unwrap();
        seen
    });
    let took = asked.elapsed().unwrap();
    let [edge, middle, end] = [0, 1, 2].map(|i: usize| seen[i].deadline().unwrap());
    let secs = Duration::from_secs;
    // The first to be asked makes it, a stricter one moves it, and a laxer one does not.
    assert!(edge >= before + secs(30) && edge <= before + took + secs(30), "{seen:?}");
    assert!(middle >= before + secs(20) && middle <= before + took + secs(20), "{seen:?}");
    assert_eq!(end, middle, "{seen:?}");
    // What is left is less at each.
    assert!(seen[1].left() + wait <= seen[0].left(), "{seen:?}");
    assert!(seen[2].left() + wait <= seen[1].left(), "{seen:?}");
}

#[tokio::test]
async fn a_deadline_that_has_passed_reaches_no_backend() {
    let backend = Tap::before(None, Duration::ZERO).await;
    let advises = "enforceDeadline: false";
    let third = hop(backend.addr, "").await;
    let second = hop(third.servers[0], advises).await;
    let first = hop(second.servers[0], advises).await;
    // Whichever is asked: those that only pass it on leave it to the last.
    for hop in [&first, &second, &third] {
        let answer = hop.get_with("web", &[("l5d-ctx-deadline", &deadline(-1))]).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.headers.contains_key("l5d-err"), "{answer:?}");
        assert_eq!(backend.take().len(), 0);
        let answer = hop.get_with("web", &[("l5d-ctx-deadline", &deadline(60_000))]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(backend.take().len(), 1);
    }
}

#[tokio::test]
async fn a_deadline_that_passes_on_the_way_reaches_no_backend() {
    let backend = Tap::before(None, Duration::ZERO).await;
    let third = hop(backend.addr, "").await;
    let slow = Tap::before(Some(third.servers[0]), 400 * MS).await;
    let second = hop(slow.addr, "").await;
    let first = hop(second.servers[0], "totalTimeoutMs: 200").await;

    let answer = first.get("web").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let refused = async || {
        let failures = &third.json("/admin/metrics.json").await["rt/http/service/svc/web/failures"];
        (failures.as_u64() == Some(1)).then_some(())
    };
    eventually("the request at the third hop", refused).await;
    assert_eq!(slow.take().len(), 1);
    assert_eq!(backend.take().len(), 0);
}

/// How many requests a backend that fails everything sees for each that is made of the first of so many hops.
async fn amplification(hops: usize, hints: bool) -> f64 {
    let secs = std::env::var("AMPLIFICATION_SECS").map_or(3, |secs| secs.parse().unwrap());
    let backend = Backend::up("down");
    backend.reply(Reply::status(500));
    let hints = if hints { ", hints: true" } else { "" };
    let service = format!(
        "responseClassifier: {{kind: io.l5d.http.retryableRead5XX}}, \
         retries: {{budget: {{percentCanRetry: 0.2, minRetriesPerSec: 0}}{hints}}}"
    );
    let mut row = vec![hop(backend.addr, &service).await];
    for _ in 1..hops {
        row.push(hop(row.last().unwrap().servers[0], &service).await);
    }
    let edge = row.last().unwrap().servers[0];
    // A path that is made is not measured.
    Conn::open(edge).await.get("/", "web", &[]).await;

    let before = backend.requests();
    let load = Load { per_second: 400, lasts: Duration::from_secs(secs), clients: 40 };
    let sent = load.send(edge, |_| Request::get("/").header("host", "web")).await;
    assert!(sent.iter().all(|sent| sent.status == 500), "{sent:?}");
    let seen = backend.requests() - before;
    let ratio = seen as f64 / sent.len() as f64;
    println!("{hops} hops, {secs} s: {} requests were made, {seen} seen: {ratio:.3}", sent.len());
    ratio
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_one_hop_are_a_fifth_more() {
    let ratio = amplification(1, false).await;
    assert!((1.15..=1.25).contains(&ratio), "{ratio}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_three_hops_do_not_multiply() {
    let ratio = amplification(3, true).await;
    assert!((1.05..=1.5).contains(&ratio), "{ratio}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_three_hops_multiply_where_they_know_nothing_of_each_other() {
    let ratio = amplification(3, false).await;
    // 1.2 to the third.
    assert!((1.6..=1.85).contains(&ratio), "{ratio}");
}
