//! A server that is well, slow, or failing.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Response, StatusCode};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, time};

/// Runs until the program ends.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    addr: SocketAddr,
    requests: Arc<AtomicU32>,
}

impl Server {
    /// Answers each request with `status` after `latency`, on a port that the system chooses.
    pub(crate) async fn start(name: &'static str, latency: Duration, status: StatusCode) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (addr, requests) = (listener.local_addr()?, Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let answer = service_fn(move |_req| {
                    count.fetch_add(1, Ordering::Relaxed);
                    async move {
                        time::sleep(latency).await;
                        Response::builder().status(status).body(String::new())
                    }
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), answer).await });
            }
        });
        Ok(Self { name, addr, requests })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many it was asked.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }
}
