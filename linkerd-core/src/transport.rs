//! How namers, stores and interpreters that ask other servers reach them: by this crate's own clients.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, header::HOST};
use http_body_util::BodyExt;
use linkerd_dtab::{
    Distribution, Dtab, Failure, Interpreter, NameTree, Path,
    transport::{Body as Bytes, Dial, Dialling, Io, Sending, Transport},
};
use tokio::time::timeout;

use crate::{Body, BoxError, Client, http::SocketOptions, random};

/// How long a name may take to be bound, and its addresses to be known.
const BINDING_TIMEOUT: Duration = Duration::from_secs(10);

/// A [`Transport`] to what a [`Client`] sends to: it has the pool, the balancer, the TLS and the metrics of its mesh.
#[derive(Clone, Debug)]
pub struct ClientTransport {
    client: Client,
    host: Option<HeaderValue>,
}

/// A [`Dial`] to the endpoints of a name, one after another.
#[derive(Clone)]
pub struct NameDial {
    interpreter: Arc<dyn Interpreter>,
    name: Path,
    socket: SocketOptions,
    connect_timeout: Duration,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Connector>,
    next: Arc<AtomicUsize>,
}

/// Why there is no connection to a name.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error("{0} is not bound within {BINDING_TIMEOUT:?}")]
    Unbound(Path),
    #[error("{0} is no name of anything")]
    NoName(Path),
    #[error("{0} has no addresses")]
    NoAddress(Path),
    #[error("no connection to {addr} within {timeout:?}")]
    Elapsed { addr: SocketAddr, timeout: Duration },
}

impl ClientTransport {
    /// Sends by this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, host: None }
    }

    /// Writes this `Host` on requests that have none. Default: the address of the endpoint.
    #[must_use]
    pub fn host(mut self, host: HeaderValue) -> Self {
        self.host = Some(host);
        self
    }
}

impl Transport for ClientTransport {
    fn send(&self, request: Request<Bytes>) -> Sending {
        let client = self.client.clone();
        let mut request = request.map(Body::new);
        if let Some(host) = &self.host
            && !request.headers().contains_key(HOST)
        {
            request.headers_mut().insert(HOST, host.clone());
        }
        Box::pin(async move {
            let response = client.send(request).await.map_err(|error| Arc::new(error) as Failure)?;
            Ok(response.map(|body| body.map_err(failure).boxed_unsync()))
        })
    }
}

fn failure(error: BoxError) -> Failure {
    Failure::from(error)
}

impl NameDial {
    /// Connects to what `name` is bound to.
    #[must_use]
    pub fn new(interpreter: Arc<dyn Interpreter>, name: Path) -> Self {
        Self {
            interpreter,
            name,
            socket: SocketOptions::default(),
            connect_timeout: Duration::from_secs(1),
            #[cfg(feature = "tls")]
            tls: None,
            next: Arc::default(),
        }
    }

    /// How sockets are set up.
    #[must_use]
    pub fn socket(mut self, socket: SocketOptions) -> Self {
        self.socket = socket;
        self
    }

    /// How long an endpoint may take to accept. 1 s; the handshake of TLS has its own.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Connects through TLS. Default: in the clear.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(mut self, tls: crate::tls::Connector) -> Self {
        self.tls = Some(tls);
        self
    }

    async fn connect(self) -> io::Result<Box<dyn Io>> {
        let addr = timeout(BINDING_TIMEOUT, self.address()).await;
        let addr = addr.unwrap_or_else(|_| Err(io::Error::other(NoConnection::Unbound(self.name.clone()))))?;
        let elapsed = |_| {
            let error = NoConnection::Elapsed { addr, timeout: self.connect_timeout };
            io::Error::new(io::ErrorKind::TimedOut, error)
        };
        let stream = timeout(self.connect_timeout, self.socket.connect(addr)).await.map_err(elapsed)??;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let (stream, _) = tls.connect(addr.ip(), stream).await.map_err(io::Error::other)?;
            return Ok(Box::new(stream));
        }
        Ok(Box::new(stream))
    }

    /// Which endpoint is next.
    async fn address(&self) -> io::Result<SocketAddr> {
        let mut tree = self.interpreter.bind(&Dtab::empty(), &self.name);
        let tree: NameTree<_> = tree.ready().await.map_err(io::Error::other)?;
        let distribution = Distribution::new(&tree);
        let bound = distribution.pick(random::next());
        let bound = bound.ok_or_else(|| io::Error::other(NoConnection::NoName(self.name.clone())))?;
        let addr = bound.addr.clone().ready().await.map_err(io::Error::other)?;
        let endpoints = addr.endpoints();
        if endpoints.is_empty() {
            return Err(io::Error::other(NoConnection::NoAddress(self.name.clone())));
        }
        // Relaxed: which one a caller gets orders nothing.
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(endpoints[next % endpoints.len()].addr)
    }
}

impl Dial for NameDial {
    fn dial(&self) -> Dialling {
        Box::pin(self.clone().connect())
    }
}

impl fmt::Debug for NameDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameDial").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use linkerd_dtab::{interpreter::Local, namer::Inet, transport::full};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::Mesh;

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn a_transport_sends_by_its_client_and_names_the_host() {
        let (listener, port) = listener().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let len = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone").await.unwrap();
            String::from_utf8_lossy(&head[..len]).into_owned()
        });
        let mesh = Mesh::builder().build().unwrap();
        let client = mesh.client(&format!("/$/inet/127.0.0.1/{port}")).unwrap();
        let transport = ClientTransport::new(client).host(HeaderValue::from_static("namerd"));
        let request = Request::get("/api/1/dtabs?watch=true").body(full("")).unwrap();
        let response = transport.send(request).await.unwrap();
        assert_eq!(response.status(), 404);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "none");
        let head = server.await.unwrap();
        assert!(head.starts_with("GET /api/1/dtabs?watch=true HTTP/1.1\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains("host: namerd\r\n"), "{head}");
    }

    #[tokio::test]
    async fn endpoints_of_a_name_are_dialled_in_turn() {
        let [(a, port_a), (b, port_b)] = [listener().await, listener().await];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("namerd"), format!("127.0.0.1 {port_a}\n127.0.0.1 {port_b}\n")).unwrap();
        let namer: Arc<dyn linkerd_dtab::Namer> = Arc::new(linkerd_dtab::namer::fs::Namer::new(dir.path()));
        let namers = vec![("/#/io.l5d.fs".parse().unwrap(), namer)];
        let local = Local::new(namers, Arc::new(Inet::default()));
        let dial = NameDial::new(Arc::new(local), "/#/io.l5d.fs/namerd".parse().unwrap());
        let _one = dial.dial().await.unwrap();
        let _other = dial.dial().await.unwrap();
        let (a, b) = tokio::join!(a.accept(), b.accept());
        assert!(a.is_ok() && b.is_ok());
    }

    #[tokio::test]
    async fn a_name_of_nothing_is_an_error_that_names_it() {
        let local: Arc<dyn Interpreter> = Arc::new(Local::new(Vec::new(), Arc::new(Inet::default())));
        let dial = NameDial::new(local, "/svc/namerd".parse().unwrap());
        let Err(error) = dial.dial().await else { panic!("connected") };
        assert_eq!(error.to_string(), "/svc/namerd is no name of anything");
    }
}
