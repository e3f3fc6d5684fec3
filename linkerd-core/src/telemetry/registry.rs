//! The tree of scopes, and who may hold what in it.

#[cfg(feature = "config")]
mod attempt;
mod tree;
mod walk;

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

#[cfg(feature = "config")]
pub(crate) use self::attempt::Attempt;
use self::tree::{Child, Function, Metric, Node};
pub(crate) use self::walk::Walk;
use super::{
    metric::{Counter, Gauge},
    stat::{Stat, Summary},
};

/// How many metrics a registry holds unless told otherwise.
///
/// A name and its client have 77: room for two and a half thousand of both.
pub const DEFAULT_LIMIT: usize = 200_000;

/// How long a stat collects before what it saw is shown; Linkerd 1.x's.
pub const DEFAULT_SNAPSHOT_INTERVAL: Duration = Duration::from_mins(1);

/// How many metrics are looked at before others have their turn.
pub(crate) const AT_A_TIME: usize = 512;

/// The same of parts of a refresh, each of which may bring some thirty numbers up to date.
pub(crate) const PARTS_AT_A_TIME: usize = 128;

/// All metrics of a process, in a tree of scopes. A clone is the same registry.
///
/// Two reads never wait for each other's work, and neither does a request: what reads the tree locks a scope only to
/// copy one pointer.
///
/// # Limits
///
/// A registry that holds [`DEFAULT_LIMIT`] metrics hands out handles that count and that nobody reads, and so it does for
/// a name that is taken by a metric of another kind. Each such refusal counts in `metrics/refused`, which appears with
/// the first.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    root: Arc<Node>,
    metrics: AtomicUsize,
    limit: usize,
    refused: Counter,
    interval: Duration,
    // When the interval of the stats ends; `None` until the first look at the clock.
    due: Mutex<Option<Instant>>,
    // Held by those who change the tree, never by those who read it. The names of metrics: each client has the same.
    write: Mutex<HashSet<Arc<str>>>,
    refresh: Mutex<Vec<Refresh>>,
    attempts: Mutex<Vec<Weak<Made>>>,
}

/// The names of metrics that were made, in that order.
type Made = Mutex<Vec<Vec<Arc<str>>>>;

/// What brings handles up to date; `None` once nothing will again.
type Refresh = Arc<dyn Fn() -> Option<Parts> + Send + Sync>;

/// Work that is done by asking for the next item, a part each time.
pub(crate) type Parts = Box<dyn Iterator<Item = ()> + Send>;

/// Names that are kept for the next metric of that name. As many as the program has, and some of its user's.
const NAMES: usize = 1024;

/// A place in the tree. Made without a lock or an entry: the tree grows with the first metric.
///
/// A name may contain `/`: it stays one segment, which is what makes labels of `rt/http/client/<id>`.
#[derive(Clone)]
pub struct Scope {
    registry: Registry,
    segments: Arc<[Arc<str>]>,
}

/// Keeps a scope: when the last hold of it is dropped, the scope and all below it leave the tree.
///
/// Two stacks of one name, one closing and one just built, share the scope without one taking it from the other.
#[must_use = "the scope is pruned when this is dropped"]
pub struct Hold {
    scope: Scope,
    node: Arc<Node>,
}

/// What a metric says.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// A counter's count.
    Counter(u64),
    /// A gauge's value.
    Gauge(f64),
    /// What a stat saw in the last complete interval; `None` before there is one.
    Stat(Option<Arc<Summary>>),
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::with(DEFAULT_LIMIT, DEFAULT_SNAPSHOT_INTERVAL)
    }

    /// An empty registry of at most `limit` metrics, whose stats show what they saw every `interval`.
    #[must_use]
    pub fn with(limit: usize, interval: Duration) -> Self {
        Self(Arc::new(Shared {
            root: Arc::default(),
            metrics: AtomicUsize::new(0),
            limit,
            refused: Counter::default(),
            interval,
            due: Mutex::new(None),
            write: Mutex::default(),
            refresh: Mutex::default(),
            attempts: Mutex::default(),
        }))
    }

    /// Begins to note what is made, to take it out again should nothing come of it.
    #[cfg(feature = "config")]
    pub(crate) fn attempt(&self) -> Attempt {
        let made = Arc::default();
        lock(&self.0.attempts).push(Arc::downgrade(&made));
        Attempt { registry: self.clone(), made }
    }

    fn note(&self, path: impl Fn() -> Vec<Arc<str>>) {
        lock(&self.0.attempts).retain(|attempt| {
            let made = attempt.upgrade();
            made.is_some_and(|made| {
                lock(&made).push(path());
                true
            })
        });
    }

    /// Calls `refresh` before each reading, for numbers that are kept elsewhere; no more once it returns `false`.
    ///
    /// It holds what it reads weakly: the registry keeps it until then.
    pub fn on_read(&self, refresh: impl Fn() -> bool + Send + Sync + 'static) {
        self.on_read_in_parts(move || refresh().then(|| Box::new(std::iter::empty()) as Parts));
    }

    /// The same for what takes long: each of its parts is short, and there may be pauses between them. `None` ends it.
    pub(crate) fn on_read_in_parts(&self, refresh: impl Fn() -> Option<Parts> + Send + Sync + 'static) {
        lock(&self.0.refresh).push(Arc::new(refresh));
    }

    /// Brings the numbers up to date that are kept elsewhere, where that takes long by and by.
    pub(crate) fn refresh(&self) -> Parts {
        // Not under the lock: it may take as long as there are endpoints.
        let all = lock(&self.0.refresh).clone();
        let (mut parts, mut done): (Vec<Parts>, Vec<_>) = Default::default();
        for refresh in all {
            match refresh() {
                Some(more) => parts.push(more),
                None => done.push(refresh),
            }
        }
        if !done.is_empty() {
            lock(&self.0.refresh).retain(|refresh| !done.iter().any(|done| Arc::ptr_eq(done, refresh)));
        }
        Box::new(parts.into_iter().flatten())
    }

    /// The scope that all others are in.
    #[must_use]
    pub fn root(&self) -> Scope {
        Scope { registry: self.clone(), segments: Arc::from([]) }
    }

    /// How many metrics there are.
    #[must_use]
    pub fn len(&self) -> usize {
        // Relaxed: a count orders nothing else.
        self.0.metrics.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many handles were handed out that nobody reads: the registry was full, or the name of another kind.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.get()
    }

    /// Ends the stats' interval if it has lasted its time at `now`, and says whether it did.
    ///
    /// Everything that shows stats calls it first, so that an embedder needs no task for it. The interval is then as long
    /// as nobody looks; a process that wants even ones [drives](Self::drive) them.
    pub fn roll_if_due(&self, now: Instant) -> bool {
        let is_due = self.ends_interval(now);
        if is_due {
            let mut walk = self.walk();
            while roll(&mut walk, usize::MAX) {}
        }
        is_due
    }

    /// Whether the stats' interval has lasted its time at `now`. The next one begins then.
    fn ends_interval(&self, now: Instant) -> bool {
        let mut due = lock(&self.0.due);
        let is_due = due.is_some_and(|at| at <= now);
        if is_due || due.is_none() {
            *due = Some(now + self.0.interval);
        }
        is_due
    }

    /// Ends the stats' interval each time that it has lasted its time, for ever.
    ///
    /// It looks at 512 metrics at a time, and lets other tasks of its thread go on in between.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it ends an interval, it leaves the stats that it has not come to as they are until the next one ends.
    pub async fn drive(&self) {
        loop {
            let now = Instant::now();
            if self.ends_interval(now) {
                let mut walk = self.walk();
                while roll(&mut walk, AT_A_TIME) {
                    tokio::task::yield_now().await;
                }
            }
            let due = lock(&self.0.due).unwrap_or(now + self.0.interval);
            tokio::time::sleep_until(due).await;
        }
    }

    /// Shows every metric, in the order of their names, a scope's own before those below it.
    ///
    /// No lock is held while `visit` or a gauge's function runs.
    pub fn visit(&self, visit: impl FnMut(&[Arc<str>], Reading)) {
        self.visit_in(&[], visit);
    }

    /// Shows every metric in the scope `at`, by its path from there, as [`visit`](Self::visit) does. Says whether there is
    /// such a scope.
    pub fn visit_in(&self, at: &[&str], mut visit: impl FnMut(&[Arc<str>], Reading)) -> bool {
        self.refresh().count();
        let Some(mut walk) = self.walk_in(at) else { return false };
        while let Some((path, reading)) = walk.reading() {
            visit(path, reading);
        }
        true
    }

    /// The way through every metric in the scope `at`, for who does not go all of it at once; `None` if there is no such
    /// scope. What is kept elsewhere is as the last [`refresh`](Self::refresh) found it.
    pub(crate) fn walk_in(&self, at: &[&str]) -> Option<Walk> {
        self.0.root.find(at.iter().copied()).map(Walk::new)
    }

    fn walk(&self) -> Walk {
        Walk::new(Child::Scope(Arc::clone(&self.0.root)))
    }

    /// The handle at a place, made if there is none.
    fn resolve<T>(&self, scope: &[Arc<str>], name: &str, kind: &Kind<T>) -> T {
        let mut names = lock(&self.0.write);
        let path = scope.iter().map(AsRef::as_ref).chain([name]);
        if let Some(metric) = self.0.root.find(path).and_then(|child| child.metric()) {
            return (kind.handle)(&metric).unwrap_or_else(|| {
                self.refuse();
                (kind.detached)()
            });
        }
        // Before the tree grows: a full registry grows by no empty scope either.
        if self.len() >= self.0.limit {
            self.refuse();
            return (kind.detached)();
        }
        let metric = (kind.new)();
        let handle = (kind.handle)(&metric);
        self.0.root.find_or_add(scope).set(intern(&mut names, name), metric);
        self.note(|| scope.iter().cloned().chain([Arc::from(name)]).collect());
        // Relaxed: a count orders nothing else, and only the holder of `write` changes it.
        self.0.metrics.fetch_add(1, Ordering::Relaxed);
        handle.unwrap_or_else(kind.detached)
    }

    /// Counts a refusal. The counter is outside the limit, and back with the next refusal should somebody prune it.
    fn refuse(&self) {
        self.0.refused.incr();
        let scope = self.0.root.find_or_add(&[Arc::from("metrics")]);
        scope.set(Arc::from("refused"), Metric::Counter(self.0.refused.clone()));
    }

    fn is_refused(&self, metric: &Metric) -> bool {
        matches!(metric, Metric::Counter(counter) if counter.same(&self.0.refused))
    }

    /// Takes a node out of the tree, if it still is where it was.
    ///
    /// The caller drops what comes back once it holds no lock: a gauge's function may own a stack, which prunes as well.
    #[must_use]
    fn remove(
        &self,
        _write: &MutexGuard<'_, HashSet<Arc<str>>>,
        segments: &[Arc<str>],
        node: Option<&Arc<Node>>,
    ) -> Option<Child> {
        let (last, parents) = segments.split_last()?;
        let Child::Scope(parent) = self.0.root.find(parents.iter().map(AsRef::as_ref))? else { return None };
        let removed = parent.take(last, node)?;
        let mut metrics = 0;
        let mut walk = Walk::new(removed.clone());
        while let Some((_, metric)) = walk.metric() {
            metrics += usize::from(!self.is_refused(metric));
        }
        // Relaxed: see `resolve`.
        self.0.metrics.fetch_sub(metrics, Ordering::Relaxed);
        Some(removed)
    }

    /// Takes the metric of this path out of the tree if nobody has a handle or a hold of it. As [`remove`](Self::remove).
    #[cfg(feature = "config")]
    #[must_use]
    fn remove_unused(&self, _write: &MutexGuard<'_, HashSet<Arc<str>>>, path: &[Arc<str>]) -> Option<Child> {
        let (last, parents) = path.split_last()?;
        let Child::Scope(parent) = self.0.root.find(parents.iter().map(AsRef::as_ref))? else { return None };
        let removed = parent.take_unused(last)?;
        // Relaxed: see `resolve`.
        self.0.metrics.fetch_sub(1, Ordering::Relaxed);
        Some(removed)
    }
}

/// Ends the interval of the stats among the next so many metrics. False if these were the last.
fn roll(walk: &mut Walk, most: usize) -> bool {
    for _ in 0..most {
        match walk.metric() {
            Some((_, Metric::Stat(stat))) => stat.roll(),
            Some(_) => {}
            None => return false,
        }
    }
    true
}

/// The name, as others have it already if they do.
fn intern(names: &mut HashSet<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(name) = names.get(name) {
        return Arc::clone(name);
    }
    let name: Arc<str> = Arc::from(name);
    if names.len() < NAMES {
        names.insert(Arc::clone(&name));
    }
    name
}

/// How to make and find a metric of one kind.
struct Kind<T> {
    new: fn() -> Metric,
    handle: fn(&Metric) -> Option<T>,
    detached: fn() -> T,
}

const COUNTER: Kind<Counter> = Kind {
    new: || Metric::Counter(Counter::default()),
    handle: |metric| if let Metric::Counter(counter) = metric { Some(counter.clone()) } else { None },
    detached: Counter::default,
};

const GAUGE: Kind<Gauge> = Kind {
    new: || Metric::Gauge(Gauge::default()),
    handle: |metric| if let Metric::Gauge(gauge) = metric { Some(gauge.clone()) } else { None },
    detached: Gauge::default,
};

const STAT: Kind<Stat> = Kind {
    new: || Metric::Stat(Stat::default()),
    handle: |metric| if let Metric::Stat(stat) = metric { Some(stat.clone()) } else { None },
    detached: Stat::default,
};

const GAUGE_FN: Kind<Function> = Kind {
    new: || Metric::GaugeFn(Arc::new(Mutex::new(Arc::new(|| 0.0)))),
    handle: |metric| if let Metric::GaugeFn(function) = metric { Some(Arc::clone(function)) } else { None },
    detached: || Arc::new(Mutex::new(Arc::new(|| 0.0))),
};

impl Scope {
    /// The scope of this name below this one.
    #[must_use]
    pub fn scope(&self, name: &str) -> Self {
        let segments = self.segments.iter().cloned().chain([Arc::from(name)]).collect();
        Self { registry: self.registry.clone(), segments }
    }

    /// The registry that it is a place in.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The counter of this name: the same one each time.
    #[must_use]
    pub fn counter(&self, name: &str) -> Counter {
        self.registry.resolve(&self.segments, name, &COUNTER)
    }

    /// The gauge of this name: the same one each time.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Gauge {
        self.registry.resolve(&self.segments, name, &GAUGE)
    }

    /// A gauge whose value is asked for when it is read. The latest function of a name is the one that is asked.
    ///
    /// The registry keeps the function until the scope is pruned: what it holds should be weak, or prune.
    pub fn gauge_fn(&self, name: &str, function: impl Fn() -> f64 + Send + Sync + 'static) {
        let slot = self.registry.resolve(&self.segments, name, &GAUGE_FN);
        let mut function: Arc<dyn Fn() -> f64 + Send + Sync> = Arc::new(function);
        std::mem::swap(&mut *lock(&slot), &mut function);
        // The old one is dropped here, under no lock.
    }

    /// The stat of this name: the same one each time.
    #[must_use]
    pub fn stat(&self, name: &str) -> Stat {
        self.registry.resolve(&self.segments, name, &STAT)
    }

    /// Takes the scope and all below it out of the tree; the root stays. Handles go on counting, unread; asked for again, they are new.
    pub fn prune(&self) {
        let write = lock(&self.registry.0.write);
        let removed = self.registry.remove(&write, &self.segments, None);
        drop(write);
        drop(removed);
    }

    /// Keeps the scope until the last hold of it is dropped, and prunes it then.
    pub fn hold(&self) -> Hold {
        let _write = lock(&self.registry.0.write);
        let node = self.registry.0.root.find_or_add(&self.segments);
        node.lock().holds += 1;
        Hold { scope: self.clone(), node }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let registry = &self.scope.registry;
        let write = lock(&registry.0.write);
        let holds = {
            let mut inner = self.node.lock();
            inner.holds -= 1;
            inner.holds
        };
        let removed = if holds == 0 { registry.remove(&write, &self.scope.segments, Some(&self.node)) } else { None };
        drop(write);
        drop(removed);
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// The lock, also after a panic elsewhere: nothing here is left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("metrics", &self.len()).field("refused", &self.refused()).finish()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.segments.join("/")).finish()
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.scope).finish()
    }
}

#[cfg(test)]
mod tests;
