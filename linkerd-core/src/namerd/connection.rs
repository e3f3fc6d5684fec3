//! One connection to an interface of a namerd.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linkerd_dtab::namerd::{Namerd, Peer, http::Controller, mesh, thrift};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::watch,
};
use tower_service::Service;

use crate::admin::AnyTarget;
#[cfg(feature = "tls")]
use crate::tls::Alpn;

/// How long a client may take for a request's head, or be idle before one.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a client of gRPC is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams of one client: each name that it follows is one or two.
const MAX_STREAMS: u32 = 20_000;

/// What is spoken on an interface.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Http,
    Mesh,
    Thrift,
}

impl Kind {
    /// What is agreed on in TLS.
    #[cfg(feature = "tls")]
    pub(super) fn alpn(self) -> &'static [Alpn] {
        match self {
            Self::Http => &[Alpn::Http1],
            Self::Mesh => &[Alpn::H2],
            // Finagle agrees on nothing.
            Self::Thrift => &[],
        }
    }
}

/// A connection that is served.
pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves a connection until either side ends it. `open` is dropped when no further request is to be taken.
// Boxed: a future has room for the largest that it may become, and connections are many.
pub(super) fn serve<I>(kind: Kind, io: I, peer: Peer, namerd: Namerd, open: watch::Receiver<()>) -> Serving
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match kind {
        Kind::Http => Box::pin(http(io, peer, Controller::new(namerd), open)),
        Kind::Mesh => Box::pin(mesh(io, peer, namerd, open)),
        Kind::Thrift => Box::pin(thrift(io, peer, namerd, open)),
    }
}

async fn mesh<I>(io: I, peer: Peer, namerd: Namerd, mut open: watch::Receiver<()>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let remote = peer.addr;
    let (session, interface) = (namerd.session(peer), mesh::Mesh::new(namerd));
    let service = service_fn(move |mut req: Request<Incoming>| {
        req.extensions_mut().insert(session.clone());
        interface.clone().call(req)
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS);
    // A real Linkerd sends an empty `:authority`, which h2 refuses.
    let mut conn = pin!(http.serve_connection(TokioIo::new(mesh::Io::new(io)), service));
    let result = select! {
        result = &mut conn => result,
        // Never changed: it returns when the interface ends.
        _ = open.changed() => {
            conn.as_mut().graceful_shutdown();
            conn.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, ?remote, "a connection to the gRPC interface failed");
    }
}

async fn thrift<I>(io: I, peer: Peer, namerd: Namerd, mut open: watch::Receiver<()>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let remote = peer.addr;
    // Never changed: it returns when the interface ends.
    let drain = async move { drop(open.changed().await) };
    if let Err(error) = thrift::serve(io, namerd.session(peer), thrift::Settings::default(), drain).await {
        tracing::debug!(%error, ?remote, "a connection to the thrift interface failed");
    }
}

async fn http<I>(io: I, peer: Peer, controller: Controller, mut open: watch::Receiver<()>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let remote = peer.addr;
    let service = service_fn(move |mut req: Request<Incoming>| {
        req.extensions_mut().insert(peer.clone());
        controller.clone().call(req)
    });
    let mut http = http1::Builder::new();
    let conn = http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut conn = pin!(conn.serve_connection(TokioIo::new(Box::pin(AnyTarget::new(io))), service));
    let result = select! {
        result = &mut conn => result,
        // Never changed: it returns when the interface ends.
        _ = open.changed() => {
            conn.as_mut().graceful_shutdown();
            conn.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, ?remote, "a connection to the HTTP interface failed");
    }
}
