//! Three times as much as a backend can do: what it can do is done, in time, and what matters most first.
//!
//! `OVERLOAD_SECS` is for how long a larger one is overloaded, on a machine that has nothing else to do: `just overload`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use crate::{
    harness::{Folder, Linkerd, SIMPLE},
    load::{Load, Sent},
};

/// One of so many requests is critical.
const CRITICAL: u32 = 10;

/// A backend of so many workers, each of which is busy with a request for so long. Whoever comes meanwhile waits in line,
/// as long as that takes.
#[derive(Clone, Copy)]
struct Workers {
    count: u32,
    work: Duration,
}

impl Workers {
    /// How many requests they can do in a second.
    fn capacity(self) -> f64 {
        f64::from(self.count) / self.work.as_secs_f64()
    }

    async fn start(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let free = Arc::new(Semaphore::new(self.count as usize));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let free = Arc::clone(&free);
                let service = service_fn(move |_: Request<Incoming>| {
                    let free = Arc::clone(&free);
                    async move {
                        let _worker = free.acquire().await.unwrap();
                        sleep(self.work).await;
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from("done"))))
                    }
                });
                tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        addr
    }
}

fn request(number: u32) -> http::request::Builder {
    let class = if number.is_multiple_of(CRITICAL) { "critical_plus" } else { "sheddable" };
    Request::get("/").header("host", "web").header("l5d-ctx-criticality", class)
}

/// What came of a load.
#[derive(Debug)]
struct Served {
    /// Of what the backend can do, the part that was done.
    goodput: f64,
    /// Of what was critical, the part that was done.
    critical: f64,
    /// How long 99 of a hundred of those that were done took at most.
    p99: Duration,
}

/// Asks a proxy with this limit for three times what the workers can do.
async fn overload(workers: Workers, limit: &str, lasts: Duration) -> Served {
    let capacity = workers.capacity();
    let folder = Folder::new();
    folder.list("web", &[workers.start().await]);
    let linkerd = Linkerd::start(&folder, &format!("{SIMPLE}  service: {{limit: {limit}}}\n")).await;
    let load = |part: f64, lasts| Load { per_second: (part * capacity) as u32, lasts, clients: 50 * workers.count };
    // What adapts has seen how it is without load.
    load(0.5, lasts / 4).send(linkerd.servers[0], request).await;

    let load = load(3.0, lasts);
    let sent = load.send(linkerd.servers[0], request).await;
    let asked = sent.len() as u32;
    let (done, rest): (Vec<Sent>, Vec<_>) = sent.iter().partition(|sent| sent.status == 200);
    assert!(rest.iter().all(|sent| sent.status == 503), "{rest:?}");
    let (critical, _): (Vec<Sent>, Vec<_>) = sent.iter().partition(|sent| sent.number.is_multiple_of(CRITICAL));
    let critical_done = critical.iter().filter(|sent| sent.status == 200).count();
    // What is answered after the last was asked for is not counted: capacity is for that time.
    let due = |sent: &Sent| lasts * sent.number / asked;
    let in_time = done.iter().filter(|sent| due(sent) + sent.took <= lasts).count();
    let mut took: Vec<_> = done.iter().map(|sent| sent.took).collect();
    took.sort_unstable();
    let served = Served {
        goodput: in_time as f64 / lasts.as_secs_f64() / capacity,
        critical: critical_done as f64 / critical.len() as f64,
        p99: took[took.len() * 99 / 100],
    };
    println!("{limit}: {} of {} requests were done in {lasts:?}: {served:?}", done.len(), sent.len());
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backend_can_do_is_done_when_three_times_as_much_is_asked() {
    let secs = std::env::var("OVERLOAD_SECS").ok().map(|secs| secs.parse().unwrap());
    // Whoever asks for more means it; on a machine that is busy with other tests the clock is anybody's.
    let ms = Duration::from_millis;
    let (workers, goodput, critical, p99) = match secs {
        Some(_) => (Workers { count: 8, work: ms(40) }, 0.8, 0.999, ms(400)),
        None => (Workers { count: 4, work: ms(40) }, 0.6, 0.9, ms(2000)),
    };
    let lasts = Duration::from_secs(secs.unwrap_or(2));
    let fixed = format!("{{kind: concurrency, max: {}}}", 3 * workers.count);
    for limit in [fixed.as_str(), "{kind: adaptive, max: 200, queue: 20, queueWaitMs: 100}"] {
        let served = overload(workers, limit, lasts).await;
        assert!(served.goodput >= goodput, "{served:?}");
        assert!(served.critical >= critical, "{served:?}");
        assert!(served.p99 <= p99, "{served:?}");
    }
}
