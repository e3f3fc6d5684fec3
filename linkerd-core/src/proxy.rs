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

mod admin;
mod file;
mod life;
mod listeners;
mod pages;
mod reload;
mod serving;
mod telemeters;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::mpsc};

#[cfg(feature = "namerd")]
pub(crate) use self::pages::{namers as namer_pages, security};
pub(crate) use self::{
    admin::{AdminServer, AdminSettings},
    pages::Pages,
    telemeters::Telemeters,
};
pub use self::{
    file::ConfigFile,
    life::{Phase, Shutdown},
    reload::{ReloadError, Reloaded, Reloader},
};
use self::{
    listeners::{Listeners, Stop, Unserved},
    pages::{Shown, Switches, pages},
    reload::{Request, Source, State},
    serving::Serving,
};
use crate::{
    access_log::AccessLog,
    admin::Logging,
    config::{Config, Errors, Plan},
    http::Drained,
    span::Tracer,
    telemetry::{Registry, process},
};

/// Collects what a [`Proxy`] is made of beside its configuration.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<'a> {
    config: &'a Config,
    logging: Option<Logging>,
    tracer: Option<Tracer>,
    source: Option<Source>,
}

/// A proxy of which everything was built but the sockets.
#[derive(Debug)]
pub struct Proxy {
    plan: Plan,
    pages: Pages,
    shown: Shown,
    telemeters: Arc<Telemeters>,
    admin: AdminSettings,
    tracer: Option<Tracer>,
    source: Option<Source>,
    requests: mpsc::Receiver<Request>,
}

/// A proxy that listens on all of its sockets. Connections wait there until it [serves](Self::serve) them.
#[derive(Debug)]
pub struct Bound {
    serving: Serving,
    unserved: Vec<Unserved>,
    admin: AdminServer,
    source: Option<Source>,
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

impl Proxy {
    /// What `config` says.
    pub fn builder(config: &Config) -> Builder<'_> {
        Builder { config, logging: None, tracer: None, source: None }
    }

    /// Binds every socket.
    ///
    /// # Errors
    ///
    /// Every address that cannot be listened on. None is listened on then.
    pub fn bind(self) -> Result<Bound, BindErrors> {
        let Self { plan, pages, shown, telemeters, admin, tracer, source, requests } = self;
        let mut problems = Vec::new();
        let pages = Switches::new(pages);
        let admin = AdminServer::bind(&admin, pages.pages(), &mut problems);
        let mut listeners = Listeners::default();
        // There is nothing yet that could end.
        let stop = Stop { close: Duration::ZERO, grace: Duration::ZERO };
        let unserved = match listeners.change(&plan, telemeters.with(tracer.as_ref()).as_ref(), stop) {
            Ok(change) => change.added,
            Err(BindErrors(more)) => {
                problems.extend(more);
                Vec::new()
            }
        };
        match admin {
            Some(admin) if problems.is_empty() => {
                plan.begin(&shown.registry);
                let plan = Arc::new(plan);
                let serving = Serving { listeners, plan, shown, telemeters, tracer, pages, requests };
                Ok(Bound { serving, unserved, admin, source })
            }
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

    /// Where the configuration is read again for a [reload](Reloader), on a thread that may block. Default: nowhere, and
    /// there are no reloads.
    pub fn source(mut self, source: impl Fn() -> Result<Config, Errors> + Send + Sync + 'static) -> Self {
        self.source = Some(Source::new(source));
        self
    }

    /// Builds everything but the sockets. Inside a tokio runtime, on which names are followed from now on.
    ///
    /// # Errors
    ///
    /// Everything that the file uses and that is not built yet, or cannot be built.
    pub fn build(self) -> Result<Proxy, Errors> {
        let Self { config, logging, tracer, source } = self;
        let registry = Registry::new();
        process::register(&registry);
        let plan = config.draft(None, &registry)?;
        let state = Arc::new(State::new(&registry, &plan));
        let (reloader, requests) = Reloader::new(Arc::clone(&state));
        let shown = Shown {
            registry,
            logging,
            shutdown: Shutdown::new(config.admin.shutdown_grace),
            reloader,
            state,
            runtime: Handle::current(),
            can_reload: source.is_some(),
        };
        let telemeters = Arc::new(Telemeters::of(config));
        let pages = pages(config, &plan, &shown, &telemeters)?;
        let admin = AdminSettings::of(config, &shown.registry)?;
        Ok(Proxy { plan, pages, shown, telemeters, admin, tracer, source, requests })
    }
}

impl Bound {
    /// The access logs of its routers, to be [reopened](AccessLog::reopen) when somebody moved them away. Those of later
    /// configurations are reopened by [`Reloader::reopen_logs`].
    pub fn access_logs(&self) -> Vec<AccessLog> {
        self.serving.plan.routers.iter().filter_map(|router| router.access_log.clone()).collect()
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
        self.serving.listeners.shown()
    }

    /// What drains and ends this proxy; `POST /admin/drain` and `/admin/shutdown` do it too.
    #[must_use]
    pub fn shutdown(&self) -> Shutdown {
        self.serving.shown.shutdown.clone()
    }

    /// What reloads the configuration of this proxy, if it was built with a [source](Builder::source); `POST
    /// /admin/reload` does it too.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.serving.shown.reloader.clone()
    }

    /// Serves until the proxy is [told to end](Shutdown::begin): the routers in tasks of this runtime, the admin pages on
    /// threads of their own, where no request waits for a page.
    ///
    /// At the end it goes through its [phases](Phase): the routers accept no more and finish within the grace period what
    /// they have begun; the admin pages are served until then. Logs, as Linkerd 1 does, what is served where.
    ///
    /// # Errors
    ///
    /// The system gives no thread to the admin pages.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts off every connection of the routers.
    pub async fn serve(self) -> io::Result<Drained> {
        let Self { serving, unserved, admin, source } = self;
        serving.run(unserved, admin, source).await
    }
}

impl BindErrors {
    #[cfg(feature = "namerd")]
    pub(crate) fn new(errors: Vec<BindError>) -> Self {
        Self(errors)
    }

    /// The sockets, in the order in which they were tried.
    #[must_use]
    pub fn errors(&self) -> &[BindError] {
        &self.0
    }
}
