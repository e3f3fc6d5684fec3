//! Servers for the clients to talk to: plain hyper.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tower::{BoxError, Service, ServiceExt};

/// A server that ends when it is dropped.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Upstream {
    /// Serves `svc` on a free port of this host.
    ///
    /// # Errors
    ///
    /// There is no port.
    pub async fn start<S, B>(svc: S) -> io::Result<Self>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let svc = svc.clone();
                let answer = service_fn(move |req| svc.clone().oneshot(req));
                // A connection that fails is its client's to notice.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        };
        Ok(Self { addr, _task: AbortOnDropHandle::new(tokio::spawn(serve)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The name of where it listens: `/$/inet/127.0.0.1/8080`.
    #[must_use]
    pub fn name(&self) -> String {
        name(self.addr)
    }
}

/// An address where nobody listens.
///
/// # Errors
///
/// There is no port.
pub async fn nobody() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").await?.local_addr()
}

/// The name of an address.
#[must_use]
pub fn name(addr: SocketAddr) -> String {
    format!("/$/inet/{}/{}", addr.ip(), addr.port())
}
