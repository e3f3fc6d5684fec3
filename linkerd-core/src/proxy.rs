//! A whole proxy: what a configuration file says, its sockets, its admin pages, and an orderly end.
//!
//! ```text
//! Config ──build──► Proxy ──bind──► Bound ──serve──► Drained
//!          all but the sockets   all of them or none   until it is told to end
//! ```
//!
//! ```no_run
//! use linkerd_core::{config::Config, proxy::Proxy};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load("linkerd.yaml")?;
//! let proxy = Proxy::builder(&config).build()?.bind()?;
//! println!("admin pages on http://{}/", proxy.admin_addr());
//! let shutdown = proxy.shutdown();
//! tokio::spawn(async move {
//!     // ... until it is time:
//!     shutdown.begin(None);
//! });
//! proxy.serve().await?;
//! # Ok(())
//! # }
//! ```

mod pages;
mod telemeters;

use std::{fmt, io, net::SocketAddr, thread, time::Duration};

use tokio::{
    net::TcpListener,
    runtime,
    sync::{oneshot, watch},
    task::JoinSet,
};
use tower_layer::Layer;

#[cfg(feature = "tls")]
use crate::tls::{Alpn, Metrics};
use crate::{
    Svc,
    access_log::AccessLog,
    admin::{Logging, Through, serve as serve_admin, serve_through},
    config::{Admin, Config, Errors, Plan, ServerTls, socket_options},
    http::{Drained, Server, SocketOptions},
    span::{SpanLayer, Tracer},
    telemetry::{Registry, process},
};
use pages::{Pages, pages};
use telemeters::Telemeters;

/// Collects what a [`Proxy`] is made of beside its configuration.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<'a> {
    config: &'a Config,
    logging: Option<Logging>,
    tracer: Option<Tracer>,
}

/// A proxy of which everything was built but the sockets.
#[derive(Debug)]
pub struct Proxy {
    plan: Plan,
    registry: Registry,
    pages: Pages,
    shutdown: Shutdown,
    admin: AdminSettings,
    tracer: Option<Tracer>,
}

/// A proxy that listens on all of its sockets. Connections wait there until it [serves](Self::serve) them.
#[derive(Debug)]
pub struct Bound {
    servers: Vec<BoundServer>,
    registry: Registry,
    shutdown: Shutdown,
    admin: AdminServer,
    // The meshes, by way of the routers: they end with the proxy.
    plan: Plan,
}

/// Ends a proxy. A clone ends the same one.
#[derive(Clone, Debug)]
pub struct Shutdown {
    begun: watch::Sender<Option<Duration>>,
    grace: Duration,
}

/// Sockets that could not be bound: all of them, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BindErrors(Vec<BindError>);

/// A socket that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{who}: cannot listen on {addr}: {source}")]
pub struct BindError {
    /// Whose it would have been: `admin`, or `router LABEL`.
    pub who: String,
    /// Where.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

#[derive(Clone, Debug)]
struct AdminSettings {
    addr: SocketAddr,
    identifier: Option<SocketAddr>,
    socket: SocketOptions,
    through: Through,
    threads: usize,
}

struct BoundServer {
    label: String,
    server: Server,
    svc: Svc,
}

#[derive(Debug)]
struct AdminServer {
    addr: SocketAddr,
    identifier_addr: Option<SocketAddr>,
    // Of the standard library: they are served on another runtime than the one that they were bound in.
    listener: std::net::TcpListener,
    identifier: Option<std::net::TcpListener>,
    through: Through,
    pages: Pages,
    threads: usize,
}

impl Proxy {
    /// What `config` says.
    pub fn builder(config: &Config) -> Builder<'_> {
        Builder { config, logging: None, tracer: None }
    }

    /// Binds every socket.
    ///
    /// # Errors
    ///
    /// Every address that cannot be listened on. None is listened on then.
    pub fn bind(self) -> Result<Bound, BindErrors> {
        let Self { plan, registry, pages, shutdown, admin, tracer } = self;
        let mut problems = Vec::new();
        let admin = AdminServer::bind(&admin, pages, &mut problems);
        let mut servers = Vec::new();
        for router in &plan.routers {
            for config in &router.servers {
                match Server::bind(config.clone()) {
                    Ok(server) => {
                        let mut svc = router.service();
                        if let Some(tracer) = &tracer {
                            let spans = SpanLayer::new(tracer.clone(), &router.label).at(server.local_addr());
                            svc = Svc::new(spans.layer(svc));
                        }
                        servers.push(BoundServer { label: router.label.clone(), server, svc });
                    }
                    Err(source) => {
                        let who = format!("router {}", router.label);
                        problems.push(BindError { who, addr: config.addr, source });
                    }
                }
            }
        }
        match admin {
            Some(admin) if problems.is_empty() => Ok(Bound { servers, registry, shutdown, admin, plan }),
            _ => Err(BindErrors(problems)),
        }
    }
}

impl Builder<'_> {
    /// The loggers that the admin pages show and set. Default: the pages are not there.
    pub fn logging(mut self, logging: Logging) -> Self {
        self.logging = Some(logging);
        self
    }

    /// Where the spans of requests go, beside the telemeters of the file. Default: only there.
    pub fn tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Builds everything but the sockets. Inside a tokio runtime, on which names are followed from now on.
    ///
    /// # Errors
    ///
    /// Everything that the file uses and that is not built yet, or cannot be built.
    pub fn build(self) -> Result<Proxy, Errors> {
        let config = self.config;
        let registry = Registry::new();
        process::register(&registry);
        let plan = config.build(&registry)?;
        let shutdown = Shutdown { begun: watch::Sender::new(None), grace: config.admin.shutdown_grace };
        let Telemeters { tracers, pages: shown } = Telemeters::of(config);
        let tracer = Tracer::all(self.tracer.into_iter().chain(tracers));
        let pages = pages(config, &plan, &registry, self.logging, shutdown.clone(), shown)?;
        // Field by field, so that a new key is not forgotten.
        let Admin {
            ip,
            port,
            shutdown_grace: _, // Of the shutdown.
            tls,
            socket_options: options,
            worker_threads,
            http_identifier_port,
            security: _, // Of the pages.
        } = &config.admin;
        let admin = AdminSettings {
            addr: SocketAddr::new(*ip, *port),
            identifier: http_identifier_port.map(|port| SocketAddr::new(*ip, port)),
            socket: socket_options(options),
            through: through(config, tls.as_ref(), &registry)?,
            threads: (*worker_threads).max(1),
        };
        Ok(Proxy { plan, registry, pages, shutdown, admin, tracer })
    }
}

/// What connections to the admin pages go through.
#[cfg(feature = "tls")]
fn through(config: &Config, tls: Option<&ServerTls>, registry: &Registry) -> Result<Through, Errors> {
    let Some(tls) = tls else { return Ok(Through::Clear) };
    tls.acceptor(&[Alpn::Http1], &Metrics::new(registry))
        .map(Through::Tls)
        .map_err(|error| Errors::from(config.problem("admin.tls", error.to_string())))
}

/// The same, without what TLS needs: it was refused.
#[cfg(not(feature = "tls"))]
#[allow(clippy::unnecessary_wraps, reason = "with TLS it can fail")]
fn through(_: &Config, _: Option<&ServerTls>, _: &Registry) -> Result<Through, Errors> {
    Ok(Through::Clear)
}

impl Bound {
    /// The access logs of its routers, to be [reopened](AccessLog::reopen) when somebody moved them away.
    pub fn access_logs(&self) -> Vec<AccessLog> {
        self.plan.routers.iter().filter_map(|router| router.access_log.clone()).collect()
    }

    /// Where the admin pages are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr
    }

    /// Where is told how requests would be identified, if anywhere.
    #[must_use]
    pub fn identifier_addr(&self) -> Option<SocketAddr> {
        self.admin.identifier_addr
    }

    /// The servers in the order of the file: each router's label, and an address.
    pub fn servers(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.servers.iter().map(|bound| (bound.label.as_str(), bound.server.local_addr()))
    }

    /// What ends this proxy; `POST /admin/shutdown` does it too.
    #[must_use]
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Serves until the proxy is [told to end](Shutdown::begin): the routers in tasks of this runtime, the admin pages on
    /// threads of their own, where no request waits for a page.
    ///
    /// At the end the routers accept no more and finish within the grace period what they have begun; the admin pages
    /// are served until then. Logs, as Linkerd 1 does, what is served where.
    ///
    /// # Errors
    ///
    /// The system gives no thread to the admin pages.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts off every connection of the routers.
    pub async fn serve(self) -> io::Result<Drained> {
        let Self { servers, registry, shutdown, admin, plan: _plan } = self;
        let admin = admin.serve().await?;
        let mut serving = JoinSet::new();
        for BoundServer { label, server, svc } in servers {
            tracing::info!("serving {label} on {}", server.local_addr());
            serving.spawn(server.serve_until(svc, shutdown.clone().begun()));
        }
        // In the same set, so that it ends with this future.
        serving.spawn(async move {
            registry.drive().await;
            Drained { aborted: 0 }
        });
        tracing::info!("initialized");
        let mut aborted = 0;
        while serving.len() > 1 {
            // A panic in there was printed already, and ends one server alone.
            if let Some(Ok(drained)) = serving.join_next().await {
                aborted += drained.aborted;
            }
        }
        admin.end().await;
        Ok(Drained { aborted })
    }
}

impl Shutdown {
    /// Ends the proxy, with this grace for requests that have begun, or with the `shutdownGraceMs` of its file.
    ///
    /// The first call counts.
    pub fn begin(&self, grace: Option<Duration>) {
        self.begun.send_if_modified(|begun| {
            let is_first = begun.is_none();
            begun.get_or_insert(grace.unwrap_or(self.grace));
            is_first
        });
    }

    /// The grace period, once the proxy was told to end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn begun(self) -> Duration {
        let mut begun = self.begun.subscribe();
        // It holds a sender itself.
        let grace = begun.wait_for(Option::is_some).await.map(|grace| *grace);
        grace.ok().flatten().unwrap_or(self.grace)
    }
}

impl BindErrors {
    /// The sockets, in the order in which they were tried.
    #[must_use]
    pub fn errors(&self) -> &[BindError] {
        &self.0
    }
}

/// The admin server at work. Dropping it tells it to end.
struct ServingAdmin {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl AdminServer {
    fn bind(settings: &AdminSettings, pages: Pages, problems: &mut Vec<BindError>) -> Option<Self> {
        let mut listen = |addr| {
            let listener = settings.socket.listen(addr).and_then(|listener| {
                let local = listener.local_addr()?;
                Ok((listener.into_std()?, local))
            });
            listener.map_err(|source| problems.push(BindError { who: "admin".to_owned(), addr, source })).ok()
        };
        let main = listen(settings.addr);
        let identifier = settings.identifier.map(listen);
        let (listener, addr) = main?;
        let (identifier, identifier_addr) = match identifier {
            Some(bound) => {
                let (listener, addr) = bound?;
                (Some(listener), Some(addr))
            }
            None => (None, None),
        };
        let (through, threads) = (settings.through.clone(), settings.threads);
        Some(Self { addr, identifier_addr, listener, identifier, through, pages, threads })
    }

    async fn serve(self) -> io::Result<ServingAdmin> {
        let Self { addr, listener, identifier, through, pages, threads, .. } = self;
        let (end, told) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel::<()>();
        let (start, started) = oneshot::channel();
        let serve = move || {
            let runtime =
                runtime::Builder::new_multi_thread().worker_threads(threads).thread_name("admin").enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(start.send(Err(error))),
            };
            runtime.block_on(async move {
                let listeners = TcpListener::from_std(listener)
                    .and_then(|listener| Ok((listener, identifier.map(TcpListener::from_std).transpose()?)));
                let (listener, identifier) = match listeners {
                    Ok(listeners) => listeners,
                    Err(error) => return drop(start.send(Err(error))),
                };
                drop(start.send(Ok(())));
                let (closing, closed) = watch::channel(());
                let closed = || {
                    let mut closed = closed.clone();
                    // Never changed: it returns when the sender is gone.
                    async move { drop(closed.changed().await) }
                };
                let identifier = identifier.map(|listener| tokio::spawn(serve_admin(listener, pages.names, closed())));
                let pages = tokio::spawn(serve_through(listener, through, pages.admin, closed()));
                // Ends when the sender is dropped, too.
                drop(told.await);
                drop(closing);
                for server in [Some(pages), identifier].into_iter().flatten() {
                    // A panic in there was printed already.
                    drop(server.await);
                }
                drop(done);
            });
        };
        thread::Builder::new().name("admin".into()).spawn(serve)?;
        // It panicked, if it says nothing.
        started.await.unwrap_or_else(|_| Err(io::Error::other("the admin's thread ended at once")))?;
        tracing::info!("serving http admin on {addr}");
        Ok(ServingAdmin { end, ended })
    }
}

impl ServingAdmin {
    /// Lets it finish the answers that are under way: two seconds at most.
    async fn end(self) {
        drop(self.end);
        // Nothing is ever sent: it returns when the thread is done.
        drop(self.ended.await);
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer").field("label", &self.label).field("server", &self.server).finish_non_exhaustive()
    }
}
