//! One connection to an interface of a namerd.

use std::{convert::Infallible, pin::pin, time::Duration};

use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use linkerd_dtab::namerd::{Namerd, Peer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::watch,
};

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
            Self::Http | Self::Thrift => &[Alpn::Http1],
            Self::Mesh => &[Alpn::H2],
        }
    }
}

/// Serves a connection until either side ends it. `open` is dropped when no further request is to be taken.
pub(super) async fn serve<I>(kind: Kind, io: I, peer: Peer, namerd: Namerd, open: watch::Receiver<()>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let _ = (kind, io, peer, namerd, open);
}
