//! Three times as much as a backend can do: what it can do is done, in time, and what matters most first.
//!
//! `OVERLOAD_SECS` says for how long; `just overload` has ten seconds of five times as much.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use crate::{
    harness::{Folder, Linkerd, SIMPLE},
    load::{Load, Sent},
};

/// How long a worker of the backend is busy with each request.
const WORK: Duration = Duration::from_millis(20);

/// One of so many requests is critical.
const CRITICAL: u32 = 10;

/// A backend of so many workers. Whoever comes meanwhile waits in line, as long as that takes.
async fn workers(workers: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let free = Arc::new(Semaphore::new(workers));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let free = Arc::clone(&free);
            let service = service_fn(move |_: Request<Incoming>| {
                let free = Arc::clone(&free);
                async move {
                    let _worker = free.acquire().await.unwrap();
                    sleep_until(Instant::now() + WORK).await;
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from("done"))))
                }
            });
            tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    addr
}

fn request(number: u32) -> http::request::Builder {
    let class = if number.is_multiple_of(CRITICAL) { "critical_plus" } else { "sheddable" };
    Request::get("/").header("host", "web").header("l5d-ctx-criticality", class)
}

/// What came of a load.
#[derive(Debug)]
struct Result {
    /// Of what the backend can do, the part that was done.
    goodput: f64,
    /// Of what was critical, the part that was done.
    critical: f64,
    /// How long 99 of a hundred of those that were done took at most.
    p99: Duration,
}

/// Asks a proxy with this limit for three times what so many workers can do.
async fn overload(count: u32, limit: &str, lasts: Duration) -> Result {
    let capacity = f64::from(count) / WORK.as_secs_f64();
    let folder = Folder::new();
    folder.list("web", &[workers(count as usize).await]);
    let linkerd = Linkerd::start(&folder, &format!("{SIMPLE}  service: {{limit: {limit}}}\n")).await;
    let load = |part: f64, lasts| Load { per_second: (part * capacity) as u32, lasts, clients: 50 * count };
    // What adapts has seen how it is without load.
    let light = load(0.5, lasts / 4).send(linkerd.servers[0], request).await;
    assert!(light.iter().all(|sent| sent.status == 200), "{light:?}");

    let sent = load(3.0, lasts).send(linkerd.servers[0], request).await;
    let (done, rest): (Vec<Sent>, Vec<_>) = sent.iter().partition(|sent| sent.status == 200);
    assert!(rest.iter().all(|sent| sent.status == 503), "{rest:?}");
    let (critical, _): (Vec<Sent>, Vec<_>) = sent.iter().partition(|sent| sent.number.is_multiple_of(CRITICAL));
    let critical_done = critical.iter().filter(|sent| sent.status == 200).count();
    let mut took: Vec<_> = done.iter().map(|sent| sent.took).collect();
    took.sort_unstable();
    let result = Result {
        goodput: done.len() as f64 / lasts.as_secs_f64() / capacity,
        critical: critical_done as f64 / critical.len() as f64,
        p99: took[took.len() * 99 / 100],
    };
    println!("{limit}: {} of {} requests were done in {lasts:?}: {result:?}", done.len(), sent.len());
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backend_can_do_is_done_when_three_times_as_much_is_asked() {
    let secs = std::env::var("OVERLOAD_SECS").ok().map(|secs| secs.parse().unwrap());
    // Whoever asks for more means it; on a machine that is busy with other tests the clock is anybody's.
    let (count, goodput, critical, p99) =
        if secs.is_some() { (20, 0.8, 0.999, 5 * WORK) } else { (4, 0.6, 0.98, 50 * WORK) };
    let lasts = Duration::from_secs(secs.unwrap_or(2));
    let fixed = format!("{{kind: concurrency, max: {}}}", 2 * count);
    for limit in [fixed.as_str(), "{kind: adaptive, max: 200}"] {
        let result = overload(count, limit, lasts).await;
        assert!(result.goodput >= goodput, "{result:?}");
        assert!(result.critical >= critical, "{result:?}");
        assert!(result.p99 <= p99, "{result:?}");
    }
}
