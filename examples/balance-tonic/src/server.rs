//! A server of gRPC's health check, or an address where none is.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpSocket};
use tonic_health::server::health_reporter;
use tower::ServiceExt;

/// Runs until the program ends.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    addr: SocketAddr,
    calls: Arc<AtomicU32>,
    // Bound and not listening: nobody else gets the port, and who connects is refused.
    _refuses: Option<TcpSocket>,
}

impl Server {
    /// Answers on a port that the system chooses.
    pub(crate) async fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (addr, calls) = (listener.local_addr()?, Arc::new(AtomicU32::new(0)));
        let (_reporter, health) = health_reporter();
        let count = Arc::clone(&calls);
        let health = health.map_request(move |req: http::Request<hyper::body::Incoming>| {
            count.fetch_add(1, Ordering::Relaxed);
            req
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let health = TowerToHyperService::new(health.clone());
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), health).await });
            }
        });
        Ok(Self { name, addr, calls, _refuses: None })
    }

    /// Where connections are refused.
    pub(crate) fn refusing(name: &'static str) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { name, addr: socket.local_addr()?, calls: Arc::default(), _refuses: Some(socket) })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many it was asked.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }
}
