//! Where an endpoint's stack ends: on the network.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use linkerd_dtab::Endpoint;
use socket2::SockRef;
#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
use socket2::TcpKeepalive;
use tokio::net::{TcpSocket, TcpStream};

use super::{
    client::Client,
    h2::{self, Wire},
};
use crate::{Svc, telemetry::ClientStats};

/// Makes the service that reaches one endpoint: the network, or what a test puts in its place.
pub trait Connect: Send + Sync + 'static {
    /// The service of one endpoint. It connects when it is called, not before; but for [`PoolConfig::min_size`].
    fn connect(&self, endpoint: &Endpoint) -> Svc;

    /// The same, for who counts connections too. By default they are not counted.
    fn connect_counted(&self, endpoint: &Endpoint, stats: &Arc<ClientStats>) -> Svc {
        let _ = stats;
        self.connect(endpoint)
    }

    /// Finds out whether the endpoint can be connected to, and keeps no connection. By default it can.
    ///
    /// It may take a round trip longer than connecting.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<()>> {
        let _ = endpoint;
        Box::pin(std::future::ready(Ok(())))
    }
}

/// HTTP over TCP, with connections of its own for each endpoint: a pool of them for HTTP/1.1, and as few as its streams
/// need for HTTP/2.
#[derive(Clone, Debug, Default)]
pub struct HttpConnect {
    config: Arc<ClientConfig>,
}

/// How the client reaches an endpoint.
///
/// # Defaults
///
/// Linkerd 1's, but for [`PoolConfig::max_waiters`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How long connecting may take. 1 second, as in Finagle.
    pub connect_timeout: Duration,
    /// What is spoken with the endpoint. HTTP/1.1.
    pub wire: Wire,
    /// How many connections there are. Of HTTP/2 only the times count, and `max_waiters` for a stream.
    pub pool: PoolConfig,
    /// How sockets are set up.
    pub socket: SocketOptions,
    /// The most bytes that the head of a response may have; above it, it counts as not well-formed. 8 KiB. So does one
    /// of more than 100 headers; with a limit above 8 KiB, of more than one for each 32 bytes of it or than 16384, for
    /// which room is allocated with each response.
    pub max_header_bytes: usize,
    /// A response of a known length up to this is read whole before it is passed on, so that one that is cut short is
    /// a failure and not half an answer. 5 KiB; `usize::MAX` reads every response whole, whatever its length.
    pub aggregate_up_to: usize,
    /// Goes through TLS alone. Off.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub tls: Option<crate::tls::Connector>,
    /// Tells endpoints in `x-forwarded-client-cert` who the client is, if it showed this process a certificate; what it
    /// says itself is dropped. Off.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub forward_client_cert: bool,
    /// Read responses whose length is not known whole too, up to as much; a longer one is passed on as it comes. Off.
    pub aggregate_unknown: bool,
    /// Keep the case of letters in names of headers, of HTTP/1: that of responses, and that of requests whose server keeps it
    /// ([`ServerConfig::preserve_header_case`](super::ServerConfig::preserve_header_case)). It costs six
    /// allocations for a request and its response, if their names are not in lower case anyway. Off: all names are in lower case.
    pub preserve_header_case: bool,
}

/// How many connections there are to an endpoint.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// So many are kept open: made when the endpoint comes, in a task of its own, and again when they end, whether somebody
    /// asks or not. Not closed when they are idle for long. Not more than `max_size`. 0.
    pub min_size: usize,
    /// The most that are open at a time. `usize::MAX`.
    pub max_size: usize,
    /// For how long one may be idle before it is closed. No limit.
    pub idle_time: Option<Duration>,
    /// How old one may grow before it serves no further request. No limit.
    pub max_age: Option<Duration>,
    /// How many requests may wait for a connection when `max_size` are in use; a further one fails at once as
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded). `usize::MAX`, which the number of requests bounds.
    pub max_waiters: usize,
}

/// How sockets are set up.
#[expect(clippy::struct_excessive_bools, reason = "options of the system, which are on or off")]
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Send small segments at once. On.
    pub no_delay: bool,
    /// Probe connections on which nothing comes: after 10 seconds of that, every 5 seconds, and three times until one is
    /// given up, where the system lets it be set. On.
    pub keep_alive: bool,
    /// For how long what was sent may stay unacknowledged before the connection is given up; the system alone tries for
    /// a quarter of an hour. On Linux alone; `None` leaves it to the system. 30 seconds.
    pub user_timeout: Option<Duration>,
    /// Listen on an address that an earlier socket still lingers at. On.
    pub reuse_addr: bool,
    /// Share the port with other sockets that set this. Off.
    pub reuse_port: bool,
    /// How many connections may wait to be accepted. 1024.
    pub backlog: u32,
    /// A connection on which nothing was read for so long is closed, whatever it is waiting for. No limit.
    pub read_timeout: Option<Duration>,
    /// A connection to which nothing could be written for so long is closed. No limit.
    pub write_timeout: Option<Duration>,
}

impl HttpConnect {
    /// Connects as configured.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    fn client(&self, endpoint: &Endpoint, stats: Option<Arc<ClientStats>>) -> Svc {
        let config = Arc::clone(&self.config);
        match &self.config.wire {
            Wire::Http1 => Svc::from_call(Client::new(endpoint.addr, config, stats)),
            Wire::H2(h2) | Wire::Either(h2) => {
                Svc::from_call(h2::Client::new(endpoint.addr, config, h2.clone(), stats))
            }
        }
    }
}

impl Connect for HttpConnect {
    fn connect(&self, endpoint: &Endpoint) -> Svc {
        self.client(endpoint, None)
    }

    fn connect_counted(&self, endpoint: &Endpoint, stats: &Arc<ClientStats>) -> Svc {
        self.client(endpoint, Some(Arc::clone(stats)))
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<()>> {
        let ClientConfig { connect_timeout, socket, .. } = &*self.config;
        Box::pin(async move {
            let connected = tokio::time::timeout(*connect_timeout, socket.connect(endpoint.addr)).await;
            let stream = connected.map_err(|_| io::ErrorKind::TimedOut)??;
            #[cfg(feature = "tls")]
            if let Some(tls) = &self.config.tls {
                return tls.probe(endpoint.addr.ip(), stream).await.map_err(io::Error::other);
            }
            drop(stream);
            Ok(())
        })
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            wire: Wire::default(),
            pool: PoolConfig::default(),
            socket: SocketOptions::default(),
            max_header_bytes: 8 * 1024,
            aggregate_up_to: 5 * 1024,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            forward_client_cert: false,
            aggregate_unknown: false,
            preserve_header_case: false,
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { min_size: 0, max_size: usize::MAX, idle_time: None, max_age: None, max_waiters: usize::MAX }
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            no_delay: true,
            keep_alive: true,
            user_timeout: Some(Duration::from_secs(30)),
            reuse_addr: true,
            reuse_port: false,
            backlog: 1024,
            read_timeout: None,
            write_timeout: None,
        }
    }
}

impl SocketOptions {
    fn socket(&self, addr: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        self.watch(&SockRef::from(&socket))?;
        Ok(socket)
    }

    /// Has the system find out whether the peer is still there.
    fn watch(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_keepalive(self.keep_alive)?;
        #[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
        if self.keep_alive {
            let probes = TcpKeepalive::new()
                .with_time(Duration::from_secs(10))
                .with_interval(Duration::from_secs(5))
                .with_retries(3);
            socket.set_tcp_keepalive(&probes)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.socket(addr)?.connect(addr).await?;
        stream.set_nodelay(self.no_delay)?;
        Ok(stream)
    }

    /// Listens at an address, in a tokio runtime.
    ///
    /// # Errors
    ///
    /// The address is taken, or not this host's.
    #[cfg(feature = "server")]
    pub fn listen(&self, addr: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let socket = self.socket(addr)?;
        socket.set_reuseaddr(self.reuse_addr)?;
        #[cfg(unix)]
        socket.set_reuseport(self.reuse_port)?;
        // What is accepted inherits it, and what was set before.
        socket.set_nodelay(self.no_delay)?;
        socket.bind(addr)?;
        socket.listen(self.backlog)
    }
}

#[cfg(all(test, feature = "server", target_os = "linux"))]
mod tests {
    use super::*;

    async fn pair(options: &SocketOptions) -> [TcpStream; 2] {
        let listener = options.listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let client = options.connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        [client, accepted]
    }

    #[tokio::test]
    async fn what_is_accepted_has_the_options_of_the_listener() {
        for is_on in [true, false] {
            let options = SocketOptions { no_delay: is_on, keep_alive: is_on, ..SocketOptions::default() };
            for stream in pair(&options).await {
                assert_eq!(stream.nodelay().unwrap(), is_on);
                assert_eq!(SockRef::from(&stream).keepalive().unwrap(), is_on);
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_given_up_by_the_system_too() {
        for timeout in [Some(Duration::from_secs(7)), None] {
            let options = SocketOptions { user_timeout: timeout, ..SocketOptions::default() };
            for stream in pair(&options).await {
                let socket = SockRef::from(&stream);
                assert_eq!(socket.tcp_user_timeout().unwrap().filter(|time| !time.is_zero()), timeout);
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
            }
        }
        assert_eq!(SocketOptions::default().user_timeout, Some(Duration::from_secs(30)));
    }
}
