//! The engine: names, their bindings and their clients, for a whole program or one router of a proxy.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::Request;
use linkerd_balance::Status;
use linkerd_dtab::{
    Activity, Addr, Bound, Dtab, Interpreter, NameTree, Namer, ParseError, Path,
    delegate::{Delegation, Unsettled, settled},
    interpreter,
    namer::Resolve,
};
use tokio::task::AbortHandle;
use tower_layer::Layer;

use crate::{
    Body, HttpService, Svc,
    cache::Cache,
    client::Client,
    http::{Connect, HttpConnect},
    identify::Identifier,
    policy::{Policies, Uniform},
    stack::{Allowances, Binding, Clients, Outgoing, PathInfo, PathStack, Shared, now},
    svc::SvcFuture,
    telemetry::{BindCacheStats, CacheStats, Registry, RouterStats},
};

/// Wraps a stack in somebody's layer.
pub(crate) type Wrap = Arc<dyn Fn(Svc) -> Svc + Send + Sync>;

/// Names, their bindings and their clients.
///
/// A mesh is built once and never edited; what moves is what it watches. A clone is the same mesh.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

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

/// A logical name in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PathState {
    /// The name.
    pub path: Path,
    /// The table of the request's own that it is bound under, mostly empty.
    pub local: Dtab,
    /// What it is bound to.
    pub tree: Activity<NameTree<Bound>>,
    /// The limit on its requests, which it shares with the same name under other tables. `None`: there is none.
    pub limit: Option<LimitState>,
}

/// The limit on the requests of a logical name, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitState {
    /// `concurrency`, `adaptive` or `rate`.
    pub kind: &'static str,
    /// How many it lets in at a time, or in its time if that is what it counts.
    pub limit: usize,
    /// How many were let in and have not ended. `None` for a rate.
    pub in_flight: Option<usize>,
    /// How many wait to be let in.
    pub queued: usize,
    /// How many were not let in so far.
    pub shed: u64,
}

/// A bound name in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientState {
    /// The name.
    pub id: Path,
    /// Where its endpoints are; `None` if it is answered without any.
    pub addr: Option<Activity<Addr>>,
    /// The endpoints as the balancer has them.
    pub endpoints: Vec<EndpointState>,
    /// The balancer; `None` if the name is answered without any endpoint.
    pub balancer: Option<BalancerState>,
}

/// What may be forced on the breaker of an endpoint, whatever its requests say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Nothing is let through for so long, unless there is nobody else.
    Open(Duration),
    /// Everything is let through for so long.
    Closed(Duration),
    /// Nothing is forced any more, and what was learned is forgotten.
    Reset,
}

impl Force {
    /// As long as it may last: what is forgotten must not last for ever.
    pub const MAX: Duration = Duration::from_hours(24);

    pub(crate) fn apply(self, breaker: &linkerd_balance::Breaker, now: Instant) {
        match self {
            Self::Open(ttl) => breaker.force_open(ttl.min(Self::MAX), now),
            Self::Closed(ttl) => breaker.force_closed(ttl.min(Self::MAX), now),
            Self::Reset => breaker.reset(now),
        }
    }
}

/// The balancer of a bound name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BalancerState {
    /// How it picks, `p2c_peak_ewma` for example.
    pub algorithm: String,
    /// The settings that it was made from, as JSON, if it was made from a file.
    pub settings: Option<Arc<str>>,
    /// Its numbers.
    pub stats: linkerd_balance::Stats,
    /// Its tiers, best first.
    pub tiers: Vec<linkerd_balance::TierInfo>,
}

/// An endpoint in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointState {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share relative to its siblings'.
    pub weight: f64,
    /// Whether it is picked.
    pub status: Status,
    /// Requests in flight.
    pub pending: usize,
    /// The load that it is picked by; its unit is the balancer's.
    pub load: f64,
    /// Where it runs, if its source says.
    pub zone: Option<Arc<str>>,
    /// Its tier, from 0.
    pub tier: usize,
    /// The part of its weight that it has reached, if it starts slowly; else 1.
    pub ramp: f64,
    /// Whether picks may meet it: false outside of the subset that the balancer uses.
    pub is_used: bool,
    /// Whether its source dropped it, and it stays for now.
    pub is_leaving: bool,
    /// Why it is as it is, in words: `open`, or what took it out, since when, and when it is tried again.
    pub why: String,
}

struct Inner {
    interpreter: Arc<dyn Interpreter>,
    shared: Arc<Shared>,
    policies: Arc<dyn Policies>,
    clients: Arc<Clients>,
    path_layers: Vec<Wrap>,
    // Hits are all, misses rare: readers share a snapshot, a miss copies it.
    paths: ArcSwap<HashMap<Path, Arc<PathEntry>>>,
    paths_write: Mutex<()>,
    overrides: Cache<(Path, Dtab), PathEntry>,
    caches: CacheSettings,
    metrics: RouterStats,
    stats: CacheStats,
    // One for each logical name, whatever local tables it is under.
    allowances: Allowances,
    sweeper: OnceLock<AbortHandle>,
    // Keeps the caches' metrics in the registry.
    _bind_cache: BindCacheStats,
    begun: Instant,
}

/// One logical name, under one local dtab.
pub(crate) struct PathEntry {
    stack: Arc<PathStack>,
    // Only if there are path layers: a seam that nobody needs costs nothing.
    layered: Option<Svc>,
    // Milliseconds since the mesh began.
    used: AtomicU64,
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
        inner.metrics.scope().registry().on_read(move || weak.upgrade().map(|inner| inner.refresh()).is_some());
        Ok(Mesh(inner))
    }
}

/// Lets go of what was idle for `ttl`, or up to a quarter longer, until the mesh is gone.
async fn sweep(mesh: Weak<Inner>, ttl: Duration) {
    let every = (ttl / 4).max(Duration::from_secs(1));
    loop {
        tokio::time::sleep(every).await;
        let Some(mesh) = mesh.upgrade() else { return };
        mesh.sweep(now());
    }
}

impl Mesh {
    /// Begins to build a mesh.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// A client of one name: every request goes there.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn client(&self, path: &str) -> Result<Client, ParseError> {
        Ok(Client::fixed(self.clone(), path.parse()?))
    }

    /// A client that sends each request where `identifier` says.
    pub fn router(&self, identifier: impl Identifier) -> Client {
        Client::routed(self.clone(), Arc::new(identifier))
    }

    /// Shows step by step what a name is bound to: which entry of the table or which namer led where, and at each leaf the
    /// endpoints and their age, or why there are none. It comes from what binds live traffic.
    ///
    /// # Errors
    ///
    /// Something was still unknown after `timeout`, or the interpreter failed; what was known until then is in the error.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn explain(&self, path: &Path, timeout: Duration) -> Result<Delegation, Unsettled> {
        settled(self.0.interpreter.delegate(&self.0.shared.base, path), timeout).await
    }

    /// What binds names, for explanations.
    #[must_use]
    pub fn interpreter(&self) -> &Arc<dyn Interpreter> {
        &self.0.interpreter
    }

    /// The table that every name is bound under.
    #[must_use]
    pub fn dtab(&self) -> &Dtab {
        &self.0.shared.base
    }

    /// The names in use, each with its binding, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<PathState> {
        let paths = self.0.paths.load();
        let mut entries: Vec<_> = paths.values().cloned().chain(self.0.overrides.values()).collect();
        entries.sort_by(|a, b| a.stack.info().path.cmp(&b.stack.info().path));
        let state = |entry: &Arc<PathEntry>| {
            let (info, binding) = (entry.stack.info(), entry.stack.binding());
            let (path, local, tree) = (info.path.clone(), info.local.clone(), binding.watch().clone());
            PathState { path, local, tree, limit: entry.stack.allowance().limit() }
        };
        entries.iter().map(state).collect()
    }

    /// Forces the breakers of the endpoints of a bound name, or of one of them: how many there were. None if the name is
    /// not in use, no endpoint of it has that address, or its endpoints are never taken out.
    pub fn force(&self, client: &Path, addr: Option<SocketAddr>, force: Force) -> usize {
        let clients = self.0.clients.all();
        let clients = clients.iter().filter(|c| c.id() == client);
        clients.map(|client| client.force(addr, force, now())).sum()
    }

    /// The bound names in use, each with its address and its endpoints, in order.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientState> {
        let mut clients: Vec<_> = self.0.clients.all().iter().map(|client| client.state(now())).collect();
        clients.sort_by(|a, b| a.id.cmp(&b.id));
        clients
    }

    /// The stack of a name.
    pub(crate) fn path(&self, path: &Path, local: &Dtab, now: Instant) -> Arc<PathEntry> {
        let inner = &self.0;
        if !local.is_empty() {
            let key = (path.clone(), local.clone());
            // Somebody else's table may take long to evaluate: nobody waits for that but who sent it.
            return inner.overrides.get_or_make_apart(&key, now, || inner.make(path, local));
        }
        if let Some(entry) = inner.paths.load().get(path) {
            entry.touch(inner, now);
            return Arc::clone(entry);
        }
        inner.path_miss(path, now)
    }
}

impl Inner {
    /// Brings the numbers up to date that are not counted as they happen.
    fn refresh(&self) {
        let now = now();
        for client in self.clients.all() {
            client.refresh(now);
        }
        self.allowances.refresh();
        for entry in self.overrides.values() {
            entry.stack.refresh(now);
        }
        for entry in self.paths.load().values() {
            entry.stack.refresh(now);
        }
    }

    fn path_miss(&self, path: &Path, now: Instant) -> Arc<PathEntry> {
        // Before the lock: of two that are made at once for one path the first to be done stays.
        let entry = Arc::new(self.make(path, &Dtab::empty()));
        entry.touch(self, now);
        let _writing = self.paths_write.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = self.paths.load_full();
        if let Some(entry) = paths.get(path) {
            entry.touch(self, now);
            return Arc::clone(entry);
        }
        self.stats.misses.incr();
        let mut paths = HashMap::clone(&paths);
        if paths.len() >= self.caches.paths {
            // In the old snapshot and in this copy: two, if nobody uses it.
            let idle = paths.iter().filter(|(_, entry)| Arc::strong_count(entry) <= 2);
            let Some(idle) = idle.min_by_key(|(_, entry)| entry.used()).map(|(path, _)| path.clone()) else {
                self.stats.oneshots.incr();
                return entry;
            };
            paths.remove(&idle);
            self.stats.evicts.incr();
        }
        paths.insert(path.clone(), Arc::clone(&entry));
        self.paths.store(Arc::new(paths));
        entry
    }

    fn make(&self, path: &Path, local: &Dtab) -> PathEntry {
        let activity = self.interpreter.bind(&self.shared.base.concat(local), path);
        let policy = self.policies.service(path);
        let info = Arc::new(PathInfo::new(path.clone(), local.clone(), Arc::clone(&self.shared), policy));
        let (clients, of) = (Arc::clone(&self.clients), Arc::clone(&info));
        let mut last = None;
        let binding = Binding::follow(activity, move |tree| {
            let route = clients.route(&of, last.as_ref(), &tree, now());
            last = Some(tree);
            route
        });
        let allowance = self.allowances.of(path, &info.policy, now());
        let stack = Arc::new(PathStack::new(info, allowance, binding, self.metrics.service(path)));
        let layered = (!self.path_layers.is_empty()).then(|| {
            let svc = Svc::from_arc(Arc::clone(&stack) as _);
            self.path_layers.iter().fold(svc, |svc, wrap| wrap(svc))
        });
        PathEntry { stack, layered, used: AtomicU64::new(0) }
    }

    fn sweep(&self, now: Instant) {
        let ttl = self.caches.idle_ttl;
        self.overrides.sweep(now, ttl);
        // Names that had to share begin anew, with one of their own.
        let is_over = |entry: &PathEntry| entry.stack.allowance().is_shared();
        let has_room = self.allowances.has_room(now);
        if has_room {
            self.overrides.let_go(is_over);
        }
        let _writing = self.paths_write.lock().unwrap_or_else(PoisonError::into_inner);
        let mut paths = HashMap::clone(&self.paths.load());
        let before = paths.len();
        let now_millis = self.millis(now);
        paths.retain(|_, entry| {
            if has_room && is_over(entry) {
                return false;
            }
            // In the old snapshot and in this copy: two, if nobody uses it.
            if Arc::strong_count(entry) > 2 {
                entry.touch(self, now);
                return true;
            }
            u128::from(now_millis.saturating_sub(entry.used())) <= ttl.as_millis()
        });
        let expired = before - paths.len();
        if expired > 0 {
            self.stats.expires.add(expired as u64);
            self.paths.store(Arc::new(paths));
        }
        self.allowances.sweep(now, ttl);
        self.clients.sweep(now, ttl);
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_millis() as u64
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.get() {
            sweeper.abort();
        }
    }
}

impl PathEntry {
    /// Sends a request; while it is under way the entry is in use, if the caller keeps what comes beside the future.
    pub(crate) fn send(self: Arc<Self>, req: Request<Body>, arrived: Instant) -> (SvcFuture, Option<Arc<Self>>) {
        match &self.layered {
            // The box that the stack needs anyway holds the entry too.
            None => {
                let mut req = Outgoing::new(req);
                (Box::pin(async move { self.stack.run(&mut req, arrived).await }), None)
            }
            Some(svc) => (svc.send(req), Some(self)),
        }
    }

    fn touch(&self, mesh: &Inner, now: Instant) {
        // Relaxed: a coarse time, it orders nothing.
        self.used.store(mesh.millis(now), Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        // Relaxed: see `touch`.
        self.used.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("dtab", &self.0.shared.base).finish_non_exhaustive()
    }
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<_> = self.namers.iter().map(|(prefix, _)| prefix).collect();
        f.debug_struct("MeshBuilder").field("namers", &prefixes).field("dtab", &self.dtab).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_explanation_ends_where_a_request_would() {
        let dtab = "/svc => /nothing | /here ; /here => /$/inet/127.0.0.1/9";
        let mesh = Mesh::builder().dtab(dtab.parse().unwrap()).build().unwrap();
        let path = "/svc".parse().unwrap();
        let explained = mesh.explain(&path, Duration::from_secs(5)).await.unwrap();
        let bound = mesh.interpreter().bind(mesh.dtab(), &path).ready().await.unwrap();
        assert_eq!(explained.outcome().ok(), Some(bound));
        assert!(explained.to_json().unwrap().contains(r#"{"type":"neg","path":"/nothing""#));
    }
}
