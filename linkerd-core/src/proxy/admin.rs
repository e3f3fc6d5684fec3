//! The sockets of the admin pages, and the threads that serve them.

use std::{io, net::SocketAddr, thread};

use tokio::{
    net::TcpListener,
    runtime,
    sync::{oneshot, watch},
};

use super::{BindError, pages::Pages};
#[cfg(feature = "tls")]
use crate::tls::{Alpn, Metrics};
use crate::{
    admin::{Through, Way, serve_through},
    config::{Admin, Config, Errors, ServerTls, socket_options},
    telemetry::Registry,
};

/// Where the admin pages are, and how.
#[derive(Clone, Debug)]
pub(crate) struct AdminSettings {
    addr: SocketAddr,
    identifier: Option<SocketAddr>,
    way: Way,
    threads: usize,
}

/// The admin server, before it serves.
#[derive(Debug)]
pub(crate) struct AdminServer {
    pub(crate) addr: SocketAddr,
    pub(crate) identifier_addr: Option<SocketAddr>,
    // Of the standard library: they are served on another runtime than the one that they were bound in.
    listener: std::net::TcpListener,
    identifier: Option<std::net::TcpListener>,
    way: Way,
    pages: Pages,
    threads: usize,
}

/// The admin server at work. Dropping it tells it to end.
pub(crate) struct ServingAdmin {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl AdminServer {
    pub(crate) fn bind(settings: &AdminSettings, pages: Pages, problems: &mut Vec<BindError>) -> Option<Self> {
        let mut listen = |addr| {
            let listener = settings.way.socket.listen(addr).and_then(|listener| {
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
        let (way, threads) = (settings.way.clone(), settings.threads);
        Some(Self { addr, identifier_addr, listener, identifier, way, pages, threads })
    }

    pub(crate) async fn serve(self) -> io::Result<ServingAdmin> {
        let Self { addr, listener, identifier, way, pages, threads, .. } = self;
        let (end, told) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel::<()>();
        let (start, started) = oneshot::channel();
        let run = move || {
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
                let clear = Way { through: Through::Clear, ..way.clone() };
                let identifier =
                    identifier.map(|listener| tokio::spawn(serve_through(listener, clear, pages.names, closed())));
                let pages = tokio::spawn(serve_through(listener, way, pages.admin, closed()));
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
        thread::Builder::new().name("admin".into()).spawn(run)?;
        // It panicked, if it says nothing.
        started.await.unwrap_or_else(|_| Err(io::Error::other("the admin's thread ended at once")))?;
        tracing::info!("serving http admin on {addr}");
        Ok(ServingAdmin { end, ended })
    }
}

impl ServingAdmin {
    /// Lets it finish the answers that are under way: two seconds at most.
    pub(crate) async fn end(self) {
        drop(self.end);
        // Nothing is ever sent: it returns when the thread is done.
        drop(self.ended.await);
    }
}

impl AdminSettings {
    /// What `config` says.
    pub(crate) fn of(config: &Config, registry: &Registry) -> Result<Self, Errors> {
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
        Ok(Self {
            addr: SocketAddr::new(*ip, *port),
            identifier: http_identifier_port.map(|port| SocketAddr::new(*ip, port)),
            way: Way {
                through: through(config, tls.as_ref(), registry)?,
                socket: socket_options(options),
                scope: Some(registry.root().scope("admin")),
            },
            threads: (*worker_threads).max(1),
        })
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
