//! One connection to an interface of a namerd.

use std::{convert::Infallible, error::Error, net::SocketAddr, pin::Pin, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linkerd_dtab::{
    Failure,
    namerd::{Meter, Namerd, Peer, http::Controller, mesh, thrift},
    transport,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tower_service::Service;

#[cfg(feature = "tls")]
use crate::tls::Alpn;
use crate::{
    Body,
    access_log::{AccessLog, Noted},
    admin::AnyTarget,
    http::graceful,
};

/// How long a client may take for a request's head, or be idle before one.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a client of gRPC is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams of one client: each name that it follows is one or two.
const MAX_STREAMS: u32 = 20_000;

/// How much of the requests of a client, and of each, may wait to be read: they are small.
const WINDOW: u32 = 64 << 10;

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

/// What is served on a connection, and to whom.
pub(super) struct Serving {
    pub(super) namerd: Namerd,
    pub(super) peer: Peer,
    pub(super) remote: SocketAddr,
    pub(super) meter: Meter,
    pub(super) log: Option<AccessLog>,
    /// Dropped on the other side when no further request is to be taken.
    pub(super) open: watch::Receiver<()>,
}

/// A connection that is served.
pub(super) type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves a connection until either side ends it.
// Boxed: a future has room for the largest that it may become, and one that is handed a future has room for it twice;
// connections are many.
pub(super) fn serve<I>(kind: Kind, io: I, serving: Serving) -> Served
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let remote = serving.remote;
    match kind {
        Kind::Http => Box::pin(told(kind, remote, Box::pin(http(io, serving)))),
        Kind::Mesh => Box::pin(told(kind, remote, Box::pin(mesh(io, serving)))),
        Kind::Thrift => Box::pin(told(kind, remote, Box::pin(thrift(io, serving)))),
    }
}

/// Says how a connection failed, if it does.
async fn told<E>(kind: Kind, remote: SocketAddr, served: impl Future<Output = Result<(), E>>)
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    if let Err(error) = served.await {
        let error = error.into();
        tracing::debug!(%error, %remote, ?kind, "a connection to an interface failed");
    }
}

async fn mesh<I>(io: I, serving: Serving) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Serving { namerd, peer, remote, meter, log, open } = serving;
    let name = peer.name.clone();
    let (session, interface) = (namerd.session(peer).metered(&meter), mesh::Mesh::new(namerd));
    meter.session();
    let service = service_fn(move |req: Request<Incoming>| {
        let (mut parts, body) = req.into_parts();
        let noted = log.as_ref().map(|log| log.note(&parts, remote, name.as_deref().map(ToOwned::to_owned)));
        parts.extensions.insert(session.clone());
        let answer = interface.clone().call(Request::from_parts(parts, body));
        match noted {
            None => answer,
            Some(noted) => Box::pin(logged(answer, noted)),
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS);
    // A real Linkerd sends an empty `:authority`, which h2 refuses.
    let conn = http.serve_connection(TokioIo::new(mesh::Io::new(io)), service);
    graceful::serve(Box::pin(conn), open).await
}

/// An answer that is logged.
async fn logged(answer: mesh::Answering, noted: Noted) -> Result<Response<transport::Body>, Infallible> {
    let mut rsp = answer.await?.map(Body::new);
    noted.answered(&mut rsp);
    Ok(rsp.map(|body| body.map_err(Failure::from).boxed_unsync()))
}

async fn thrift<I>(io: I, serving: Serving) -> Result<(), thrift::Broken>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Serving { namerd, peer, meter, mut open, .. } = serving;
    // Never changed: it returns when the interface ends.
    let drain = async move { drop(open.changed().await) };
    thrift::serve(io, namerd.session(peer).metered(&meter), thrift::Settings::default(), drain).await
}

async fn http<I>(io: I, serving: Serving) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Serving { namerd, peer, meter, open, .. } = serving;
    let controller = Controller::new(namerd).metered(meter);
    let service = service_fn(move |mut req: Request<Incoming>| {
        req.extensions_mut().insert(peer.clone());
        controller.clone().call(req)
    });
    let mut http = http1::Builder::new();
    let conn = http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let conn = conn.serve_connection(TokioIo::new(Box::pin(AnyTarget::new(io))), service);
    graceful::serve(Box::pin(conn), open).await
}
