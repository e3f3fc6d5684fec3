//! What a mesh is made of.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use linkerd_dtab::{Dtab, Interpreter, Namer, ParseError, Path, interpreter, namer::Resolve};
use tower_layer::Layer;

use super::{Inner, Mesh, Wrap, sweep};
use crate::{
    HttpService, Svc,
    cache::Cache,
    http::{Connect, HttpConnect},
    policy::{Policies, Uniform},
    stack::{Allowances, Clients, Shared, Switching, now},
    telemetry::{Registry, RouterStats},
};

/// How long a change of where requests go waits for new clients, unless something else is said.
pub(crate) const SWITCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects what a [`Mesh`] is made of.
#[must_use = "a builder does nothing until `build`"]
pub struct MeshBuilder {
    namers: Vec<(Path, Arc<dyn Namer>)>,
    interpreter: Option<Arc<dyn Interpreter>>,
    resolve: Option<Arc<dyn Resolve>>,
    dtab: Dtab,
    connect: Arc<dyn Connect>,
    path_layers: Vec<Wrap>,
    client_layers: Vec<Wrap>,
    endpoint_layers: Vec<Wrap>,
    policies: Arc<dyn Policies>,
    binding_timeout: Duration,
    switch_timeout: Duration,
    caches: CacheSettings,
    metrics: Option<RouterStats>,
    #[cfg(feature = "server")]
    access_log: Option<crate::access_log::AccessLog>,
    proxy: bool,
    problems: Vec<BuildProblem>,
}

/// How much a mesh remembers of names that nobody is using.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Logical names, and as many again of names with a dtab of the request's own. 1000 by default.
    pub paths: usize,
    /// Bound trees. 1000 by default.
    pub trees: usize,
    /// Bound names. 1000 by default.
    pub bounds: usize,
    /// Clients: bound ids, each with its endpoints and connections. 1000 by default.
    pub clients: usize,
    /// How long each stays when nobody uses it; up to a quarter longer, and at least a second. 600 s by default.
    pub idle_ttl: Duration,
}

/// Why a mesh could not be built: every problem at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", list(.0))]
pub struct BuildError(Vec<BuildProblem>);

/// One reason why a mesh could not be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildProblem {
    /// A namer's prefix is not a path.
    #[error("the namer prefix {prefix:?} is not a path: {error}")]
    Prefix {
        /// As it was given.
        prefix: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// There are namers, and an interpreter that would not ask them.
    #[error("namers are given beside an interpreter of its own, which does not ask them")]
    NamersBesideInterpreter,
    /// A mesh follows its names in tasks, so it is built inside a tokio runtime.
    #[error("no tokio runtime: a mesh is built inside one")]
    NoRuntime,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { paths: 1000, trees: 1000, bounds: 1000, clients: 1000, idle_ttl: Duration::from_mins(10) }
    }
}

impl BuildError {
    /// What is wrong, in the order in which it was given.
    #[must_use]
    pub fn problems(&self) -> &[BuildProblem] {
        &self.0
    }
}

fn list(problems: &[BuildProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Default for MeshBuilder {
    fn default() -> Self {
        Self {
            namers: Vec::new(),
            interpreter: None,
            resolve: None,
            dtab: Dtab::empty(),
            connect: Arc::new(HttpConnect::default()),
            path_layers: Vec::new(),
            client_layers: Vec::new(),
            endpoint_layers: Vec::new(),
            policies: Arc::new(Uniform::default()),
            binding_timeout: Duration::from_secs(10),
            switch_timeout: SWITCH_TIMEOUT,
            caches: CacheSettings::default(),
            metrics: None,
            #[cfg(feature = "server")]
            access_log: None,
            proxy: false,
            problems: Vec::new(),
        }
    }
}

impl MeshBuilder {
    /// Mounts a namer: names that start with `prefix` (`/#/io.l5d.fs`) are looked up in it.
    ///
    /// Of two namers that a name fits, the later one is asked first, as with entries of a dtab.
    pub fn namer(mut self, prefix: &str, namer: impl Namer) -> Self {
        match prefix.parse() {
            // Asked in order of preference.
            Ok(path) => self.namers.insert(0, (path, Arc::new(namer))),
            Err(error) => self.problems.push(BuildProblem::Prefix { prefix: prefix.to_owned(), error }),
        }
        self
    }

    /// Binds names with this interpreter instead of the local one. It has namers of its own.
    pub fn interpreter(mut self, interpreter: impl Interpreter) -> Self {
        self.interpreter = Some(Arc::new(interpreter));
        self
    }

    /// Resolves `/$/inet` names with this instead of the system's resolver.
    pub fn resolver(mut self, resolve: impl Resolve) -> Self {
        self.resolve = Some(Arc::new(resolve));
        self
    }

    /// The delegation table that every name is bound under. Empty by default.
    pub fn dtab(mut self, dtab: Dtab) -> Self {
        self.dtab = dtab;
        self
    }

    /// Where an endpoint's stack ends: HTTP/1.1 over TCP by default.
    pub fn connect(mut self, connect: impl Connect) -> Self {
        self.connect = Arc::new(connect);
        self
    }

    /// Wraps the stack of each logical name: once a request, outside of timeouts and retries.
    ///
    /// Of several layers the last one given is the outermost. Each costs one allocation a request; several in one
    /// `tower::ServiceBuilder` cost as one. `layer` is called for each logical name in use, so what names are to share,
    /// a limit say, the layer brings with it.
    pub fn path_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Svc, Service: HttpService> + Send + Sync + 'static,
    {
        self.path_layers.push(Arc::new(move |svc| Svc::new(layer.layer(svc))));
        self
    }

    /// Wraps the client of each bound name: once an attempt, outside of requeues and the pick of an endpoint.
    ///
    /// Of several layers the last one given is the outermost. The first costs three allocations an attempt (it makes
    /// a seam where there was none, below which the attempt begins anew: a request that has headers is copied once more),
    /// each further one costs one. A layer that puts another body in the place of the request's hides from retries and
    /// hedges where the request was. `layer` is called for each bound name of each logical name, and again when the
    /// binding changes.
    pub fn client_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Svc, Service: HttpService> + Send + Sync + 'static,
    {
        self.client_layers.push(Arc::new(move |svc| Svc::new(layer.layer(svc))));
        self
    }

    /// Wraps the stack of each endpoint: once for each time that an endpoint is tried. Health and load are outside of it:
    /// they see what it makes of an answer.
    ///
    /// Of several layers the last one given is the outermost. Each costs one allocation for each try. `layer` is called
    /// for each endpoint.
    pub fn endpoint_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Svc, Service: HttpService> + Send + Sync + 'static,
    {
        self.endpoint_layers.push(Arc::new(move |svc| Svc::new(layer.layer(svc))));
        self
    }

    /// Timeouts, retries, balancing: the same for every name by default ([`Uniform`]).
    pub fn policies(mut self, policies: impl Policies) -> Self {
        self.policies = Arc::new(policies);
        self
    }

    /// How long a request waits for the first binding of its name. 10 s by default.
    pub fn binding_timeout(mut self, timeout: Duration) -> Self {
        self.binding_timeout = timeout;
        self
    }

    /// How long a name that is bound anew keeps its requests where they went, while no endpoint of a client that is new
    /// there can be connected to. 2 s by default; zero changes at once. It is no longer than what was before has endpoints,
    /// and it is longer while nobody can say what the addresses of the new one are: what is unknown replaces nothing.
    ///
    /// As long at most a request waits for where to go when the last endpoint of its name has gone away a moment ago. So many
    /// as 10,000 requests wait at once; others fail then as they do without endpoints.
    pub fn switch_timeout(mut self, timeout: Duration) -> Self {
        self.switch_timeout = timeout;
        self
    }

    /// How much is remembered of names that nobody is using.
    pub fn caches(mut self, caches: CacheSettings) -> Self {
        self.caches = caches;
        self
    }

    /// Counts here. By default in a registry that only this mesh has.
    pub fn metrics(mut self, metrics: RouterStats) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Logs each attempt that is answered, in Linkerd 1's form; with another form tells servers where requests went, which
    /// [log them](crate::http::ServerConfig::access_log).
    #[cfg(feature = "server")]
    #[cfg_attr(docsrs, doc(cfg(feature = "server")))]
    pub fn access_log(mut self, log: crate::access_log::AccessLog) -> Self {
        self.access_log = Some(log);
        self
    }

    /// Writes on requests and responses what a Linkerd proxy writes on them: `Via`, `l5d-dst-*`, `l5d-success-class`;
    /// and takes off what is meant for one hop. Off by default: a client adds nothing to its own requests.
    pub fn proxy(mut self, proxy: bool) -> Self {
        self.proxy = proxy;
        self
    }

    /// Builds the mesh. Inside a tokio runtime: it follows its names in tasks.
    ///
    /// # Errors
    ///
    /// Every problem at once.
    pub fn build(self) -> Result<Mesh, BuildError> {
        let mut problems = self.problems;
        if tokio::runtime::Handle::try_current().is_err() {
            problems.push(BuildProblem::NoRuntime);
        }
        let has_namers = !self.namers.is_empty();
        if self.interpreter.is_some() && has_namers {
            problems.push(BuildProblem::NamersBesideInterpreter);
        }
        if !problems.is_empty() {
            return Err(BuildError(problems));
        }
        let resolve = self.resolve.unwrap_or_else(|| Arc::new(linkerd_dtab::namer::Inet::default()));
        let interpreter = self.interpreter.unwrap_or_else(|| Arc::new(interpreter::Local::new(self.namers, resolve)));
        let metrics = self.metrics.unwrap_or_else(|| RouterStats::new(&Registry::new(), "mesh"));
        let stats = metrics.bind_cache();
        let clients = Clients {
            trees: Cache::new(self.caches.trees, stats.tree.clone()),
            bounds: Cache::new(self.caches.bounds, stats.bound.clone()),
            by_id: Cache::new(self.caches.clients, stats.client.clone()),
            policies: Arc::clone(&self.policies),
            connect: self.connect,
            client_layers: self.client_layers,
            endpoint_layers: self.endpoint_layers,
            metrics: metrics.clone(),
        };
        let inner = Arc::new(Inner {
            interpreter: Arc::clone(&interpreter),
            shared: Arc::new(Shared {
                base: self.dtab,
                binding_timeout: self.binding_timeout,
                proxy: self.proxy,
                label: Arc::clone(metrics.label()),
                #[cfg(feature = "server")]
                access_log: self.access_log,
                interpreter,
            }),
            policies: self.policies,
            clients: Arc::new(clients),
            path_layers: self.path_layers,
            paths: ArcSwap::default(),
            paths_write: Mutex::default(),
            switching: Switching { timeout: self.switch_timeout, stats: stats.switch.clone() },
            overrides: Cache::new(self.caches.paths, stats.path.clone()),
            caches: self.caches,
            stats: stats.path.clone(),
            // As many as there are stacks that have one. There may be others, of names that are not used any more.
            allowances: Allowances::new(self.caches.paths.saturating_mul(2), metrics.clone()),
            metrics,
            sweeper: OnceLock::new(),
            _bind_cache: stats,
            begun: now(),
        });
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&inner), self.caches.idle_ttl));
        let _ = inner.sweeper.set(sweeper.abort_handle());
        let weak = Arc::downgrade(&inner);
        inner.metrics.scope().registry().on_read_in_parts(move || weak.upgrade().map(|inner| inner.refresh()));
        Ok(Mesh(inner))
    }
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<_> = self.namers.iter().map(|(prefix, _)| prefix).collect();
        f.debug_struct("MeshBuilder").field("namers", &prefixes).field("dtab", &self.dtab).finish_non_exhaustive()
    }
}
