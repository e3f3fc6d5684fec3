//! The interfaces of a namerd: sockets, and who is let in.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use linkerd_dtab::namerd::{Meter, Metered, Namerd, Peer, Reason};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

#[cfg(feature = "tls")]
use super::connection::Served;
use super::connection::{Kind, Serving, serve};
use crate::{
    access_log::AccessLog,
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
    log: Option<AccessLog>,
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
    meter: Meter,
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
            InterfaceKind::Mesh { .. } => Kind::Mesh,
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
        let log = match &interface.kind {
            InterfaceKind::Mesh { access_log: Some(log) } => {
                let opened = AccessLog::prepare_for(log.settings(true), interface.kind_name().into(), &stats.scope);
                Some(opened.map_err(|error| ("h2AccessLog", format!("{}: {error}", log.file.display())))?)
            }
            _ => None,
        };
        Ok(Self {
            kind_name: interface.kind_name(),
            kind,
            addr: SocketAddr::new(*ip, *port),
            socket: socket_options(options),
            is_read_only: *read_only,
            #[cfg(feature = "tls")]
            tls,
            stats,
            log,
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

    /// Its access log, if it has one.
    pub(super) fn log(&self) -> Option<&AccessLog> {
        self.log.as_ref()
    }
}

impl Listening {
    pub(super) fn kind(&self) -> &'static str {
        self.planned.kind_name
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.local
    }

    /// Its access log, if it has one.
    pub(super) fn log(&self) -> Option<&AccessLog> {
        self.planned.log()
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
        if let Some(log) = planned.log() {
            log.flush().await;
        }
        Drained { aborted }
    }
}

impl Planned {
    async fn connection(&self, stream: TcpStream, remote: SocketAddr, namerd: Namerd, open: watch::Receiver<()>) {
        self.stats.connects.incr();
        let stream = Counted::silent(stream, &self.socket, Some(&self.stats.scope));
        let peer = Peer { addr: Some(remote), is_read_only: self.is_read_only, ..Peer::default() };
        let (meter, log) = (self.stats.meter.clone(), self.log.clone());
        let serving = Serving { namerd, peer, remote, meter, log, open };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            // Boxed: a handshake needs its room only for as long as it takes.
            let Some(served) = Box::pin(self.secured(tls, stream, serving)).await else { return };
            return served.await;
        }
        serve(self.kind, stream, serving).await;
    }

    /// Serves the connection once it is secure. `None`: it is not, or the interface ends.
    #[cfg(feature = "tls")]
    async fn secured(
        &self,
        tls: &crate::tls::Acceptor,
        stream: Counted<TcpStream>,
        mut serving: Serving,
    ) -> Option<Served> {
        let mut ended = serving.open.clone();
        let accepted = select! {
            accepted = tls.accept(stream) => accepted,
            // Never changed: it returns when the interface ends.
            _ = ended.changed() => return None,
        };
        match accepted {
            Ok((stream, negotiated)) => {
                serving.peer.name = negotiated.peer.map(|identity| identity.name().into());
                Some(serve(self.kind, stream, serving))
            }
            Err(error) => {
                self.stats.refused.incr();
                self.stats.scope.scope("handshake_failures").counter(error.reason()).incr();
                let (error, remote) = (error.whole(), serving.remote);
                tracing::info!(error, %remote, "a connection to {} could not be made secure", self.kind_name);
                None
            }
        }
    }
}

impl Stats {
    fn new(registry: &Registry, kind: &str, addr: SocketAddr) -> Self {
        let scope = registry.root().scope("iface").scope(kind).scope(&format!("{}/{}", addr.ip(), addr.port()));
        let meter = Meter::default();
        show(&meter, kind, &scope);
        Self {
            meter,
            connects: scope.counter("connects"),
            #[cfg(feature = "tls")]
            refused: scope.counter("handshake_failures"),
            pauses: scope.counter("accept_pauses"),
            connections: scope.gauge("connections"),
            scope,
        }
    }
}

/// Shows what an interface has counted, as far as there is such a thing in its protocol.
fn show(meter: &Meter, kind: &str, scope: &Scope) {
    let gauge = |scope: &Scope, name: &str, read: fn(&Metered) -> u64| {
        let meter = meter.clone();
        scope.gauge_fn(name, move || read(&meter.read()) as f64);
    };
    gauge(scope, "requests", |read| read.requests);
    let streams = scope.scope("streams");
    gauge(&streams, "total", |read| read.streams);
    gauge(&streams, "open", |read| read.open_streams);
    if kind != "io.l5d.httpController" {
        gauge(scope, "sessions", |read| read.sessions);
    }
    if kind == "io.l5d.thriftNameInterpreter" {
        gauge(scope, "pings", |read| read.pings);
        gauge(scope, "dead", |read| read.dead);
    }
    let failures = scope.scope("failures");
    for reason in Reason::ALL {
        let meter = meter.clone();
        failures.gauge_fn(reason.name(), move || meter.failures(reason) as f64);
    }
}
