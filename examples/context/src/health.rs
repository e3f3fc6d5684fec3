//! The second service, on tonic: gRPC's health check. It tells what it saw.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use linkerd_core::{
    context::{Context, ServerLayer},
    http::TraceId,
};
use tokio::sync::mpsc;
use tonic_health::server::health_reporter;
use tower::{Layer, ServiceExt};

/// The context of one request.
pub(crate) struct Seen {
    pub(crate) span: u64,
    pub(crate) trace: u64,
    pub(crate) left: Duration,
    pub(crate) class: String,
    pub(crate) tenant: String,
}

/// Serves until the program ends.
pub(crate) async fn start() -> io::Result<(SocketAddr, mpsc::Receiver<Seen>)> {
    let (listener, addr) = crate::listen().await?;
    let (tell, seen) = mpsc::channel(1 + crate::LINES);
    let (_reporter, health) = health_reporter();
    // As a handler would, wherever it is: it has no request at hand.
    let health = health.map_request(move |req: http::Request<hyper::body::Incoming>| {
        // One that nobody waits for is not told of.
        let _ = tell.try_send(Seen::of(&Context::current()));
        req
    });
    let health = ServerLayer::new().criticality(true).layer(health);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let health = TowerToHyperService::new(health.clone());
            let connection = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), health).await });
        }
    });
    Ok((addr, seen))
}

impl Seen {
    fn of(cx: &Context) -> Self {
        let left = cx.deadline().map(|deadline| deadline.remaining(SystemTime::now()));
        Self {
            span: cx.trace().map_or(0, TraceId::span),
            trace: cx.trace().map_or(0, TraceId::trace),
            left: left.unwrap_or_default(),
            class: cx.criticality().unwrap_or_default().to_string(),
            tenant: cx.get("tenant").unwrap_or_default().to_owned(),
        }
    }
}
