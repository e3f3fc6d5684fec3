//! A client that is none of this repository's.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::program::LONG;

/// A connection to an HTTP server.
pub(crate) struct Conn(SendRequest<Full<Bytes>>);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Conn {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap()).await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, conn) = http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(conn);
        Self(sender)
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn try_send(&mut self, req: Request<String>) -> hyper::Result<Answer> {
        let sent = async {
            let (head, body) = self.try_begin(req).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        timeout(LONG, sent).await.expect("an answer")
    }

    /// The same, without waiting for the end of the answer.
    pub(crate) async fn try_begin(&mut self, req: Request<String>) -> hyper::Result<Response<Incoming>> {
        let sent = async {
            self.0.ready().await?;
            self.0.send_request(req.map(|body| Full::new(Bytes::from(body)))).await
        };
        timeout(LONG, sent).await.expect("an answer")
    }
}
