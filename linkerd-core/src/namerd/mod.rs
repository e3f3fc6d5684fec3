//! A whole namerd: what a configuration file says, its sockets, its admin pages, and an orderly end.
//!
//! The tables and names themselves are [`linkerd_dtab::namerd`]'s, whose interfaces open no sockets: here are these, with
//! TLS, and what an operator sees.
//!
//! ```no_run
//! use linkerd_core::{config::namerd::Namerd, namerd::Host};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Namerd::load("namerd.yaml")?;
//! let host = Host::builder(&config).build()?.bind()?;
//! println!("admin pages on http://{}/", host.admin_addr());
//! host.serve().await?;
//! # Ok(())
//! # }
//! ```

mod connection;
mod listener;
mod pages;
mod safety;
mod stats;
mod storage;

use std::{io, net::SocketAddr, sync::Arc};

use linkerd_dtab::namerd::Namerd;
use tokio::task::JoinSet;

use self::{
    listener::{Listening, Planned},
    pages::Viewer,
};
use crate::{
    admin::Logging,
    config::{Errors, namerd as config},
    http::Drained,
    proxy::{AdminServer, AdminSettings, BindErrors, Pages, Shutdown},
    telemetry::{Registry, process},
};

/// Collects what a [`Host`] is made of beside its configuration.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<'a> {
    config: &'a config::Namerd,
    logging: Option<Logging>,
}

/// A namerd of which everything was built but the sockets.
#[derive(Debug)]
pub struct Host {
    // The metrics know it for as long.
    namerd: Arc<Namerd>,
    interfaces: Vec<Planned>,
    admin: AdminSettings,
    pages: Pages,
    viewer: Arc<Viewer>,
    shutdown: Shutdown,
}

/// A namerd that listens on all of its sockets.
#[derive(Debug)]
pub struct Bound {
    // The metrics know it for as long.
    namerd: Arc<Namerd>,
    interfaces: Vec<Listening>,
    admin: AdminServer,
    viewer: Arc<Viewer>,
    shutdown: Shutdown,
}

impl Host {
    /// What `config` says.
    pub fn builder(config: &config::Namerd) -> Builder<'_> {
        Builder { config, logging: None }
    }

    /// Its tables and names.
    #[must_use]
    pub fn namerd(&self) -> &Namerd {
        &self.namerd
    }

    /// Binds every socket.
    ///
    /// # Errors
    ///
    /// Every address that cannot be listened on. None is listened on then.
    pub fn bind(self) -> Result<Bound, BindErrors> {
        let Self { namerd, interfaces, admin, pages, viewer, shutdown } = self;
        let mut problems = Vec::new();
        let admin = AdminServer::bind(&admin, pages, &mut problems);
        let interfaces = interfaces.into_iter().filter_map(|planned| planned.bind(&mut problems)).collect();
        match admin {
            Some(admin) if problems.is_empty() => Ok(Bound { namerd, interfaces, admin, viewer, shutdown }),
            _ => Err(BindErrors::new(problems)),
        }
    }
}

impl Builder<'_> {
    /// The loggers that the admin pages show and set. Default: the pages are not there.
    pub fn logging(mut self, logging: Logging) -> Self {
        self.logging = Some(logging);
        self
    }

    /// Builds everything but the sockets. Inside a tokio runtime. The store is not asked before it [serves](Bound::serve).
    ///
    /// # Errors
    ///
    /// Everything that the file uses and that is not built yet, or cannot be built.
    pub fn build(self) -> Result<Host, Errors> {
        let Self { config, logging } = self;
        let registry = Registry::new();
        process::register(&registry);
        let names = config.common.build_namers(&registry)?;
        let store = storage::build(config, &names.resolve, &registry)?;
        let mut namerd = safety::apply(config, Namerd::builder(store))?.resolve(Arc::clone(&names.resolve));
        for (prefix, namer) in &names.mounted {
            namerd = namerd.namer(prefix.clone(), Arc::clone(namer));
        }
        let namerd = Arc::new(namerd.build());
        stats::register(&namerd, &registry);
        let interfaces = Planned::all(config, &registry)?;
        let shutdown = Shutdown::new(config.common.admin.shutdown_grace);
        let viewer = Arc::new(Viewer::new(&namerd));
        let pages = pages::Sources { config, viewer: &viewer, names: &names, registry: &registry, shutdown: &shutdown };
        let pages = pages.build(logging)?;
        let admin = AdminSettings::of(&config.common, &registry)?;
        Ok(Host { namerd, interfaces, admin, pages, viewer, shutdown })
    }
}

impl Bound {
    /// Its tables and names.
    #[must_use]
    pub fn namerd(&self) -> &Namerd {
        &self.namerd
    }

    /// Where the admin pages are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr
    }

    /// The interfaces in the order of the file: each one's kind, and its address.
    pub fn interfaces(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.interfaces.iter().map(|listening| (listening.kind(), listening.addr()))
    }

    /// What ends it; `POST /admin/shutdown` does it too.
    #[must_use]
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Serves until it is [told to end](Shutdown::begin). What is asked once is then answered within the grace period;
    /// watches, which never end by themselves, are ended at once.
    ///
    /// # Errors
    ///
    /// The system gives no thread to the admin pages or to an access log.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts off every connection of the interfaces.
    pub async fn serve(self) -> io::Result<Drained> {
        let Self { namerd, interfaces, admin, viewer, shutdown } = self;
        // The first page is then there at once.
        let _ = viewer.namespaces();
        for log in interfaces.iter().filter_map(Listening::log) {
            log.start()?;
        }
        let admin = admin.serve().await?;
        let mut serving = JoinSet::new();
        for interface in interfaces {
            tracing::info!("serving {} on {}", interface.kind(), interface.addr());
            serving.spawn(interface.serve(Namerd::clone(&namerd), shutdown.clone()));
        }
        tracing::info!("initialized");
        let mut drained = Drained { aborted: 0 };
        while let Some(ended) = serving.join_next().await {
            // A panic in there was printed already.
            drained.aborted += ended.map_or(0, |ended| ended.aborted);
        }
        admin.end().await;
        Ok(drained)
    }
}
