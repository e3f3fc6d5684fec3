//! Connections that their peer closes whenever it likes while they are idle.
//!
//! `REUSE_GETS` says how many requests are sent; a million of them take a minute (`just reuse`).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{Method, Request};
use http_body_util::BodyExt;
use linkerd_core::{Body, Error, ErrorKind, Mesh, Svc, http::ClientConfig};
use tokio::{net::TcpListener, task::JoinSet};
use tower::ServiceExt;

use super::peers::{Wire, endpoint};

const TASKS: u64 = 16;

/// Bits that are spread well enough; the same in each run.
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    let n = (n ^ (n >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    n ^ (n >> 33)
}

/// What an endpoint saw of requests, and how often it closed.
#[derive(Default)]
struct Seen {
    posts: Mutex<HashMap<String, u32>>,
    closed: AtomicU64,
}

/// An endpoint that answers what it has read, and closes at any moment between.
async fn restless() -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        for conn in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let seen = Arc::clone(&shared);
            tokio::spawn(async move { serve(Wire::new(stream), conn, &seen).await });
        }
    });
    (addr, seen)
}

async fn serve(mut wire: Wire, conn: u64, seen: &Seen) {
    for n in 0u64.. {
        let chance = mixed(conn << 20 | n);
        // The first request of a connection is always answered: a peer that refuses everybody is another test's.
        if n > 0 && chance.is_multiple_of(4) {
            for _ in 0..(chance >> 8) % 12 {
                tokio::task::yield_now().await;
            }
            // Whatever is on its way has bad luck.
            seen.closed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(req) = wire.message(false).await else { return };
        if req.first.starts_with("POST") {
            *seen.posts.lock().unwrap().entry(req.first.clone()).or_default() += 1;
        }
        wire.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
}

async fn ask(svc: &Svc, method: &Method, id: u64) -> Result<(), Error> {
    let body = if *method == Method::POST { Body::from("once") } else { Body::empty() };
    let req = Request::builder().method(method).uri(format!("/{id}")).header("host", "web").body(body).unwrap();
    let rsp = svc.clone().oneshot(req).await?;
    assert_eq!((rsp.status().as_u16(), rsp.into_body().collect().await.unwrap().to_bytes()), (200, "ok".into()));
    Ok(())
}

/// Sends so many requests, one in eight a POST, and gives back what failed.
async fn send(svc: Svc, count: u64) -> Vec<(Method, Error)> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let svc = svc.clone();
        tasks.spawn(async move {
            let mut failed = Vec::new();
            for n in 0..count / TASKS {
                let id = task << 32 | n;
                let method = if mixed(id).is_multiple_of(8) { Method::POST } else { Method::GET };
                if let Err(error) = ask(&svc, &method, id).await {
                    failed.push((method, error));
                }
            }
            failed
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn holds(svc: impl FnOnce(SocketAddr) -> Svc) {
    let count = std::env::var("REUSE_GETS").ok().and_then(|count| count.parse().ok()).unwrap_or(4000);
    let (addr, seen) = restless().await;
    let failed = send(svc(addr), count).await;
    for (method, error) in &failed {
        // That it may not be sent again is what its sender is told; what can be is no business of theirs.
        assert_eq!((method, error.kind()), (&Method::POST, ErrorKind::Closed), "{error}");
    }
    let posts = seen.posts.lock().unwrap();
    let twice: Vec<_> = posts.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let closed = seen.closed.load(Ordering::Relaxed);
    println!("{count} requests, {closed} connections closed, {} POSTs of {} failed", failed.len(), posts.len());
    assert!(closed > count / 100, "{closed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_get_fails_and_no_post_comes_twice() {
    holds(|addr| endpoint(addr, ClientConfig::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_through_a_mesh() {
    holds(|addr| {
        let mesh = Mesh::builder().build().unwrap();
        Svc::new(mesh.client(&format!("/$/inet/127.0.0.1/{}", addr.port())).unwrap())
    })
    .await;
}
