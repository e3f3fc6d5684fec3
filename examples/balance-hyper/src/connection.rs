//! A hyper connection as a tower service.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower::{BoxError, Service};

/// An HTTP/2 connection, which any number of clones can use at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Connection(SendRequest<String>);

/// Connects. The future that comes with the connection drives it, and ends when it does.
pub(crate) async fn connect(
    addr: SocketAddr,
) -> Result<(Connection, impl Future<Output = hyper::Result<()>> + Send + 'static), BoxError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (send, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    Ok((Connection(send), driver))
}

impl Service<Request<String>> for Connection {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, req: Request<String>) -> Self::Future {
        let rsp = self.0.send_request(req);
        Box::pin(async move { Ok(rsp.await?) })
    }
}
