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
    harness::{Conn, Folder, Linkerd, SIMPLE},
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
    let class = if number.is_multiple_of(CRITICAL) { "critical-plus" } else { "sheddable" };
    Request::get("/").header("host", "web").header("l5d-ctx-criticality", class)
}

/// The 99th of a hundred.
fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backend_can_do_is_done_when_three_times_as_much_is_asked() {
    let secs = std::env::var("OVERLOAD_SECS").ok().map(|secs| secs.parse().unwrap());
    // Whoever runs this alone means it; on a machine that is busy with other tests the clock is anybody's.
    let (count, least_goodput, least_critical, most) =
        if secs.is_some() { (20, 0.8, 0.999, 10 * WORK) } else { (4, 0.6, 0.98, 50 * WORK) };
    let capacity = f64::from(count) / WORK.as_secs_f64();
    let folder = Folder::new();
    folder.list("web", &[workers(count as usize).await]);
    let limit = format!("limit: {{kind: concurrency, max: {}}}", 2 * count);
    let linkerd = Linkerd::start(&folder, &format!("{SIMPLE}  service: {{{limit}}}\n")).await;
    Conn::open(linkerd.servers[0]).await.get("/", "web", &[]).await;

    let lasts = Duration::from_secs(secs.unwrap_or(3));
    let load = Load { per_second: (3.0 * capacity) as u32, lasts, clients: 50 * count };
    let sent = load.send(linkerd.servers[0], request).await;
    let (done, rest): (Vec<Sent>, Vec<_>) = sent.iter().partition(|sent| sent.status == 200);
    let critical: Vec<_> = sent.iter().filter(|sent| sent.number.is_multiple_of(CRITICAL)).collect();
    let critical_done = critical.iter().filter(|sent| sent.status == 200).count() as f64 / critical.len() as f64;
    let goodput = done.len() as f64 / lasts.as_secs_f64() / capacity;
    let p99 = p99(done.iter().map(|sent| sent.took).collect());
    println!(
        "{} requests in {lasts:?}, {capacity} could be done: {} done ({:.1} %), p99 {p99:?}, critical {:.2} %",
        sent.len(),
        done.len(),
        100.0 * goodput,
        100.0 * critical_done,
    );
    assert!(rest.iter().all(|sent| sent.status == 503), "{rest:?}");
    assert!(goodput >= least_goodput && critical_done >= least_critical && p99 <= most);
}
