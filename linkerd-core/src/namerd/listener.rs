//! The interfaces of a namerd: sockets, and who is let in.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use linkerd_dtab::namerd::{Namerd, Peer};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

#[cfg(feature = "tls")]
use super::connection::Serving;
use super::connection::{Kind, serve};
use crate::{
    config::{
        Errors,
        namerd::{self as config, Interface, InterfaceKind},
        socket_options,
    },
    http::{Drained, SocketOptions, accept::Accepting, io::Counted},
    proxy::{BindError, Shutdown},
    telemetry::{Counter, Gauge, Registry, Scope, process::open_file_limit},
};

/// Connections of one interface at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 10_000;
/// For how long what is asked once may go on when the namerd ends, if its grace period is longer.
const END_GRACE: Duration = Duration::from_secs(2);

/// An interface, before it listens.
#[derive(Debug)]
pub(super) struct Planned {
    kind_name: &'static str,
    kind: Kind,
    addr: SocketAddr,
    socket: SocketOptions,
    is_read_only: bool,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Acceptor>,
    stats: Stats,
}

/// An interface that listens.
#[derive(Debug)]
pub(super) struct Listening {
    listener: TcpListener,
    local: SocketAddr,
    planned: Planned,
}

/// What is counted of an interface, below `iface/KIND/IP/PORT`.
#[derive(Clone, Debug)]
struct Stats {
    connects: Counter,
    #[cfg(feature = "tls")]
    refused: Counter,
    pauses: Counter,
    connections: Gauge,
    // Where those are counted on which nothing moved for too long.
    scope: Scope,
}

impl Planned {
    /// The interfaces of a file, in its order.
    pub(super) fn all(config: &config::Namerd, registry: &Registry) -> Result<Vec<Self>, Errors> {
        let mut problems = Vec::new();
        let mut all = Vec::new();
        for (i, interface) in config.interfaces.iter().enumerate() {
            match Self::of(interface, registry) {
                Ok(planned) => all.push(planned),
                Err((key, error)) => problems.push(config.common.problem(&format!("interfaces[{i}].{key}"), error)),
            }
        }
        Errors::from_problems(problems).map_or(Ok(all), Err)
    }

    fn of(interface: &Interface, registry: &Registry) -> Result<Self, (&'static str, String)> {
        // Field by field, so that a new key is not forgotten.
        let Interface { ip, port, socket_options: options, tls, read_only, kind } = interface;
        let kind = match kind {
            InterfaceKind::Http => Kind::Http,
            InterfaceKind::Mesh => Kind::Mesh,
            // How much is kept is a matter of the namerd.
            InterfaceKind::Thrift { cache: _ } => Kind::Thrift,
            InterfaceKind::Destination { .. } => return Err(("kind", "is not supported yet".to_owned())),
        };
        #[cfg(feature = "tls")]
        let tls = match tls {
            Some(tls) => {
                let acceptor = tls.acceptor(kind.alpn(), &crate::tls::Metrics::new(registry));
                Some(acceptor.map_err(|error| ("tls", error.to_string()))?)
            }
            None => None,
        };
        #[cfg(not(feature = "tls"))]
        if tls.is_some() {
            return Err(("tls", "is not supported yet".to_owned()));
        }
        let stats = Stats::new(registry, interface.kind_name(), SocketAddr::new(*ip, *port));
        Ok(Self {
            kind_name: interface.kind_name(),
            kind,
            addr: SocketAddr::new(*ip, *port),
            socket: socket_options(options),
            is_read_only: *read_only,
            #[cfg(feature = "tls")]
            tls,
            stats,
        })
    }

    pub(super) fn bind(self, problems: &mut Vec<BindError>) -> Option<Listening> {
        let bound = self.socket.listen(self.addr).and_then(|listener| {
            let local = listener.local_addr()?;
            Ok((listener, local))
        });
        match bound {
            Ok((listener, local)) => Some(Listening { listener, local, planned: self }),
            Err(source) => {
                let who = format!("interface {}", self.kind_name);
                problems.push(BindError { who, addr: self.addr, source });
                None
            }
        }
    }
}

impl Listening {
    pub(super) fn kind(&self) -> &'static str {
        self.planned.kind_name
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves whoever connects, until the namerd is told to end.
    pub(super) async fn serve(self, namerd: Namerd, shutdown: Shutdown) -> Drained {
        let Self { listener, local, planned } = self;
        let planned = Arc::new(planned);
        let mut accepting = Accepting::new(listener, local, open_file_limit());
        // Its receivers are the connections: they see it dropped.
        let (closing, open) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut ended = Box::pin(shutdown.begun());
        let grace = loop {
            let has_room = connections.len() < MAX_CONNECTIONS;
            select! {
                grace = &mut ended => break grace,
                (stream, remote) = accepting.next(|| planned.stats.pauses.incr()), if has_room => {
                    let (planned, namerd, open) = (Arc::clone(&planned), namerd.clone(), open.clone());
                    let stats = planned.stats.clone();
                    connections.spawn(async move { planned.connection(stream, remote, namerd, open).await });
                    stats.connections.set_count(connections.len() as u64);
                }
                Some(_) = connections.join_next() => {
                    accepting.freed();
                    planned.stats.connections.set_count(connections.len() as u64);
                }
            }
        };
        drop((accepting, open, closing));
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(grace.min(END_GRACE), all).await;
        let aborted = connections.len();
        connections.shutdown().await;
        Drained { aborted }
    }
}

impl Planned {
    async fn connection(&self, stream: TcpStream, remote: SocketAddr, namerd: Namerd, open: watch::Receiver<()>) {
        self.stats.connects.incr();
        let stream = Counted::silent(stream, &self.socket, Some(&self.stats.scope));
        let peer = Peer { addr: Some(remote), is_read_only: self.is_read_only, ..Peer::default() };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            // Boxed: a handshake needs its room only for as long as it takes.
            let Some(serving) = Box::pin(self.secured(tls, stream, peer, namerd, open)).await else { return };
            return serving.await;
        }
        serve(self.kind, stream, peer, namerd, open).await;
    }

    /// Serves the connection once it is secure. `None`: it is not, or the interface ends.
    #[cfg(feature = "tls")]
    async fn secured(
        &self,
        tls: &crate::tls::Acceptor,
        stream: Counted<TcpStream>,
        peer: Peer,
        namerd: Namerd,
        open: watch::Receiver<()>,
    ) -> Option<Serving> {
        let mut ended = open.clone();
        let accepted = select! {
            accepted = tls.accept(stream) => accepted,
            // Never changed: it returns when the interface ends.
            _ = ended.changed() => return None,
        };
        match accepted {
            Ok((stream, negotiated)) => {
                let name = negotiated.peer.map(|identity| identity.name().into());
                Some(serve(self.kind, stream, Peer { name, ..peer }, namerd, open))
            }
            Err(error) => {
                self.stats.refused.incr();
                self.stats.scope.scope("handshake_failures").counter(error.reason()).incr();
                let (error, remote) = (error.whole(), peer.addr);
                tracing::info!(error, ?remote, "a connection to {} could not be made secure", self.kind_name);
                None
            }
        }
    }
}

impl Stats {
    fn new(registry: &Registry, kind: &str, addr: SocketAddr) -> Self {
        let scope = registry.root().scope("iface").scope(kind).scope(&format!("{}/{}", addr.ip(), addr.port()));
        Self {
            connects: scope.counter("connects"),
            #[cfg(feature = "tls")]
            refused: scope.counter("handshake_failures"),
            pauses: scope.counter("accept_pauses"),
            connections: scope.gauge("connections"),
            scope,
        }
    }
}
