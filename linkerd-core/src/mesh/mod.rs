//! The engine: names, their bindings and their clients, for a whole program or one router of a proxy.

mod builder;
mod state;

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
use linkerd_dtab::{
    Dtab, Interpreter, ParseError, Path,
    delegate::{Delegation, Unsettled, settled},
};
use tokio::task::AbortHandle;

#[cfg(feature = "config")]
pub(crate) use self::builder::SWITCH_TIMEOUT;
pub use self::{
    builder::{BuildError, BuildProblem, CacheSettings, MeshBuilder},
    state::{BalancerState, ClientState, EndpointState, Force, LimitState, PathState},
};
use crate::{
    Body, Svc,
    cache::Cache,
    client::Client,
    identify::Identifier,
    policy::Policies,
    stack::{Allowance, Allowances, Binding, Clients, Outgoing, PathInfo, PathStack, Shared, Switching, now},
    svc::SvcFuture,
    telemetry::{BindCacheStats, CacheStats, Parts, RouterStats},
};

/// Wraps a stack in somebody's layer.
pub(crate) type Wrap = Arc<dyn Fn(Svc) -> Svc + Send + Sync>;

/// Names, their bindings and their clients.
///
/// A mesh is built once and never edited; what moves is what it watches. A clone is the same mesh.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    interpreter: Arc<dyn Interpreter>,
    shared: Arc<Shared>,
    policies: Arc<dyn Policies>,
    clients: Arc<Clients>,
    switching: Switching,
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

/// Lets go of what was idle for `ttl`, or up to a quarter longer, until the mesh is gone.
async fn sweep(mesh: Weak<Inner>, ttl: Duration) {
    let every = (ttl / 4).max(Duration::from_secs(1));
    loop {
        tokio::time::sleep(every).await;
        let Some(mesh) = mesh.upgrade() else { return };
        mesh.sweep(now());
    }
}

/// Refreshes all that are still there when their turn comes: to hold them until then would make them seem in use.
fn each<T, F>(all: &[Arc<T>], refresh: F) -> impl Iterator<Item = ()> + Send + use<T, F>
where
    T: Send + Sync,
    F: Fn(&T) + Send,
{
    let all: Vec<_> = all.iter().map(Arc::downgrade).collect();
    all.into_iter().map(move |one| one.upgrade().as_deref().map_or((), &refresh))
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
            let serving = binding.serving();
            PathState { path, local, tree, serving, limit: entry.stack.allowance().limit() }
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

    /// Begins to bind these names, before anybody asks by them; returns when each of them and its addresses are known, or
    /// known to fail, and at the latest after `within`. What is beyond the caches is left out.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on.
    pub async fn bind_ahead(&self, paths: impl IntoIterator<Item = Path>, within: Duration) {
        let paths = paths.into_iter().take(self.0.caches.paths);
        let trees: Vec<_> =
            paths.map(|path| self.path(&path, &Dtab::empty(), now()).stack.binding().watch().clone()).collect();
        let all = async {
            for mut tree in trees {
                let Ok(tree) = tree.ready().await else { continue };
                for bound in tree.leaves() {
                    let _ = bound.addr.clone().ready().await;
                }
            }
        };
        let _ = tokio::time::timeout(within, all).await;
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
    /// What brings the numbers up to date that are not counted as they happen: a client, a name or its allowance at a time.
    fn refresh(&self) -> Parts {
        let now = now();
        let mut paths = self.overrides.values();
        paths.extend(self.paths.load().values().cloned());
        let clients = each(&self.clients.all(), move |client| client.refresh(now));
        let allowances = each(&self.allowances.all(), Allowance::refresh);
        Box::new(clients.chain(allowances).chain(each(&paths, move |entry| entry.stack.refresh(now))))
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
        let binding = Binding::follow(activity, self.switching.clone(), move |tree| {
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
                // Room first: what is large is not moved into it then.
                let room = Box::new_uninit();
                let sent = Box::write(room, async move { self.stack.run(&mut req, arrived).await });
                (Box::into_pin(sent), None)
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

    #[tokio::test(start_paused = true)]
    async fn names_are_bound_ahead_within_a_time() {
        let namer = crate::testing::FakeNamer::new();
        namer.endpoints("/known", ["127.0.0.1:9".parse().unwrap()]);
        let dtab = "/svc => /#/fake".parse().unwrap();
        let mesh = Mesh::builder().namer("/#/fake", namer.clone()).dtab(dtab).build().unwrap();
        let paths = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Path>>();
        let begun = tokio::time::Instant::now();
        mesh.bind_ahead(paths(&["/svc/known"]), Duration::from_secs(5)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(matches!(mesh.paths()[0].tree.sample(), linkerd_dtab::State::Ok(_)));
        // Of what is never known no more is waited, and the other one is bound all the same.
        mesh.bind_ahead(paths(&["/svc/unknown", "/svc/known"]), Duration::from_secs(5)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        assert!(namer.is_watched("/unknown"));
    }
}
