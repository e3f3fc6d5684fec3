//! The least that a proxy on hyper's connections can do: two choices by requests in flight, a pool that gives the latest
//! connection, what ends at a hop taken out. No names, no metrics, no retries, no time limits.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::{http1 as client1, http2 as client2},
    server::conn::{http1 as server1, http2 as server2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use super::{BoxError, Protocol, tls};

struct Floor {
    endpoints: Vec<Arc<Endpoint>>,
    protocol: Protocol,
    draws: AtomicU64,
}

struct Endpoint {
    addr: SocketAddr,
    in_flight: AtomicUsize,
    idle: Mutex<Vec<client1::SendRequest<Incoming>>>,
    shared: Mutex<Option<client2::SendRequest<Incoming>>>,
}

/// A request that is at an endpoint, with its connection if it has one of its own.
struct Lease {
    endpoint: Arc<Endpoint>,
    conn: Option<client1::SendRequest<Incoming>>,
}

/// A response's body. The lease ends with it; without one there is no body.
struct Leased(Option<(Incoming, Lease)>);

/// Serves until the process ends.
pub(super) async fn serve(listener: TcpListener, protocol: Protocol, endpoints: &[SocketAddr]) -> Result<(), BoxError> {
    let endpoints = endpoints.iter().map(|&addr| {
        let (in_flight, idle, shared) = Default::default();
        Arc::new(Endpoint { addr, in_flight, idle, shared })
    });
    let floor = Arc::new(Floor { endpoints: endpoints.collect(), protocol, draws: AtomicU64::new(1) });
    let acceptor = if protocol == Protocol::Tls { Some(tls::acceptor()?) } else { None };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (floor, acceptor) = (Arc::clone(&floor), acceptor.clone());
        tokio::spawn(async move {
            match acceptor {
                None => floor.connection(stream).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        floor.connection(stream).await;
                    }
                }
            }
        });
    }
}

impl Floor {
    async fn connection(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let (is_h2, stream) = (self.protocol == Protocol::H2c, TokioIo::new(stream));
        let service = service_fn(move |req| Arc::clone(&self).handle(req));
        if is_h2 {
            let _ = server2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
        } else {
            let _ = server1::Builder::new().serve_connection(stream, service).await;
        }
    }

    async fn handle(self: Arc<Self>, mut req: Request<Incoming>) -> Result<Response<Leased>, Infallible> {
        strip(req.headers_mut());
        *req.version_mut() = if self.protocol == Protocol::H2c { Version::HTTP_2 } else { Version::HTTP_11 };
        let endpoint = Arc::clone(self.pick());
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        let lease = Lease { endpoint, conn: None };
        Ok(self.send(lease, req).await.unwrap_or_else(|_| {
            let mut rsp = Response::new(Leased(None));
            *rsp.status_mut() = StatusCode::BAD_GATEWAY;
            rsp
        }))
    }

    async fn send(&self, mut lease: Lease, req: Request<Incoming>) -> Result<Response<Leased>, BoxError> {
        let mut rsp = if self.protocol == Protocol::H2c {
            lease.endpoint.shared().await?.send_request(req).await?
        } else {
            let conn = lease.conn.insert(lease.endpoint.own().await?);
            conn.send_request(req).await?
        };
        strip(rsp.headers_mut());
        Ok(rsp.map(|body| Leased((!body.is_end_stream()).then_some((body, lease)))))
    }

    fn pick(&self) -> &Arc<Endpoint> {
        let count = self.endpoints.len() as u64;
        // One state for all threads is enough for the one that there is.
        let mut state = self.draws.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.draws.store(state, Ordering::Relaxed);
        let first = (state >> 32) % count;
        let second = (first + 1 + state % (count - 1).max(1)) % count;
        let [first, second] = [first, second].map(|at| &self.endpoints[at as usize]);
        let load = |endpoint: &Endpoint| endpoint.in_flight.load(Ordering::Relaxed);
        if load(second) < load(first) { second } else { first }
    }
}

impl Endpoint {
    /// A connection that nobody else uses.
    async fn own(&self) -> Result<client1::SendRequest<Incoming>, BoxError> {
        loop {
            let Some(mut conn) = lock(&self.idle).pop() else { break };
            if conn.is_ready() || conn.ready().await.is_ok() {
                return Ok(conn);
            }
        }
        let (sender, conn) = client1::handshake(self.dial().await?).await?;
        tokio::spawn(conn);
        Ok(sender)
    }

    /// The connection that all use.
    async fn shared(&self) -> Result<client2::SendRequest<Incoming>, BoxError> {
        let usable = |slot: &Option<client2::SendRequest<Incoming>>| slot.clone().filter(|conn| !conn.is_closed());
        if let Some(conn) = usable(&lock(&self.shared)) {
            return Ok(conn);
        }
        let (sender, conn) = client2::handshake(TokioExecutor::new(), self.dial().await?).await?;
        tokio::spawn(conn);
        // Somebody else may have been first; then this one serves one request.
        let mut slot = lock(&self.shared);
        Ok(usable(&slot).unwrap_or_else(|| slot.insert(sender).clone()))
    }

    async fn dial(&self) -> Result<TokioIo<TcpStream>, BoxError> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(conn) = self.conn.take().filter(|conn| !conn.is_closed()) {
            lock(&self.endpoint.idle).push(conn);
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((body, _)) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        if body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn strip(headers: &mut HeaderMap) {
    headers.remove(header::CONNECTION);
    headers.remove("keep-alive");
    headers.remove(header::TE);
    headers.remove(header::UPGRADE);
}
