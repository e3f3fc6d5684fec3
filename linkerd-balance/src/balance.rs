//! A live set of endpoints, and leases of them.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    acquire::Acquire,
    health::{Health, Status},
    lease::{Lease, Tracked},
    member::stable_id,
    policy::Policy,
    set::{Counts, Node, Set, Slot},
    strategy::{Candidates, Draw, Strategy, best_by_weight},
    weight::{InvalidWeight, Weights},
};

/// A live set of endpoints, from which each request leases one. A clone is the same set.
///
/// `K` names an endpoint, such as a socket address; `S` is how to use it, and is cloned for every lease.
///
/// Only [`update`](Self::update) adds or removes an endpoint: one that fails is avoided, not dropped. A pick reads one
/// immutable snapshot, takes no lock, and allocates nothing but what cloning `S` does.
pub struct Balance<K, S>(Arc<Inner<K, S>>);

struct Inner<K, S> {
    set: ArcSwap<Set<K, S>>,
    // By key, so that survivors of an update keep their state. The lock is held by updates only.
    nodes: Mutex<HashMap<K, Arc<Node<K, S>>>>,
    strategy: Arc<dyn Strategy>,
    new_node: NewNode<K, S>,
    max_wait: Duration,
    changed: Arc<Notify>,
    counts: Counts,
}

type NewNode<K, S> = Box<dyn Fn(&K) -> Node<K, S> + Send + Sync>;

/// There is no endpoint to send a request to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint is known")]
pub struct NoEndpoints;

/// Numbers of a [`Balance`], as of one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Endpoints.
    pub size: usize,
    /// Endpoints that are open.
    pub available: usize,
    /// Endpoints that are busy.
    pub busy: usize,
    /// Endpoints that are closed.
    pub closed: usize,
    /// Requests in flight on all of them.
    pub load: usize,
    /// The mean of their weights; zero if there is none.
    pub mean_weight: f64,
    /// Endpoints that came, so far.
    pub adds: u64,
    /// Endpoints that went, so far.
    pub removes: u64,
    /// Calls of [`Balance::update`], so far.
    pub updates: u64,
    /// Updates that changed the set, so far.
    pub rebuilds: u64,
    /// Picks that found no open endpoint as long as their strategy tried, so far.
    pub max_effort_exhausted: u64,
}

/// One endpoint of a [`Balance`], as of one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EndpointInfo<K> {
    /// Its name.
    pub key: K,
    /// Its weight.
    pub weight: f64,
    /// Its status.
    pub status: Status,
    /// Its score, in the unit of the [`Load`](crate::Load) in use.
    pub load: f64,
    /// Its requests in flight.
    pub pending: usize,
}

impl<K, S> Balance<K, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    /// An empty balancer. `new_endpoint` makes the service of each endpoint that comes; what it learns of its health
    /// it writes to the [`Health`] that it is given.
    ///
    /// `new_endpoint` is called within [`update`](Self::update) and must not update the same balancer.
    pub fn new(policy: Policy, new_endpoint: impl Fn(&K, &Health) -> S + Send + Sync + 'static) -> Self {
        let Policy { strategy, new_load, max_wait } = policy;
        let new_node = move |key: &K| {
            let health = Health::new();
            let svc = new_endpoint(key, &health);
            let tracked = Arc::new(Tracked { key: key.clone(), load: new_load() });
            Node { tracked, id: stable_id(key), health, svc }
        };
        let set = Set { nodes: Vec::new(), weights: Weights::default(), strategy: Arc::clone(&strategy) };
        Self(Arc::new(Inner {
            set: ArcSwap::from_pointee(set),
            nodes: Mutex::default(),
            strategy,
            new_node: Box::new(new_node),
            max_wait,
            changed: Arc::default(),
            counts: Counts::default(),
        }))
    }

    /// Replaces the set. Endpoints that were in it keep their service, health and load, with the weight given now.
    ///
    /// A key given twice counts once, with its last weight. Leases of removed endpoints stay valid.
    ///
    /// # Errors
    ///
    /// A weight that is not a finite number above zero. The set is then left as it was.
    pub fn update(&self, endpoints: impl IntoIterator<Item = (K, f64)>) -> Result<(), InvalidWeight> {
        let endpoints = endpoints.into_iter();
        let mut keys = Vec::with_capacity(endpoints.size_hint().0);
        let mut weights = Vec::with_capacity(endpoints.size_hint().0);
        let mut seen = HashMap::with_capacity(endpoints.size_hint().0);
        for (key, weight) in endpoints {
            if let Some(&i) = seen.get(&key) {
                weights[i] = weight;
                continue;
            }
            seen.insert(key.clone(), keys.len());
            keys.push(key);
            weights.push(weight);
        }
        let table = Weights::new(&weights)?;

        let Inner { nodes, counts, .. } = &*self.0;
        let mut nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut added = 0;
        let slots: Vec<_> = (keys.into_iter().zip(weights))
            .map(|(key, weight)| {
                let node = nodes.entry(key).or_insert_with_key(|key| {
                    added += 1;
                    Arc::new((self.0.new_node)(key))
                });
                Slot { node: Arc::clone(node), weight }
            })
            .collect();
        let removed = nodes.len() - slots.len();
        if removed > 0 {
            nodes.retain(|key, _| seen.contains_key(key));
        }
        // Relaxed: counts for people.
        counts.updates.fetch_add(1, Ordering::Relaxed);
        counts.adds.fetch_add(added, Ordering::Relaxed);
        counts.removes.fetch_add(removed as u64, Ordering::Relaxed);
        let current = self.0.set.load();
        let same = |(a, b): (&Slot<K, S>, &Slot<K, S>)| Arc::ptr_eq(&a.node, &b.node) && a.weight == b.weight;
        if current.nodes.len() == slots.len() && current.nodes.iter().zip(&slots).all(same) {
            return Ok(());
        }
        counts.rebuilds.fetch_add(1, Ordering::Relaxed);
        let mut set = Set { nodes: slots, weights: table, strategy: Arc::clone(&self.0.strategy) };
        let now = tokio::time::Instant::now().into_std();
        if let Some(strategy) = current.strategy.rebuild(&set.view(now, &[], counts)) {
            set.strategy = strategy;
        }
        self.0.set.store(Arc::new(set));
        drop(nodes);
        self.0.changed.notify_waiters();
        Ok(())
    }

    /// Leases an endpoint, if there is any.
    ///
    /// Endpoints in `exclude` are used only if there are no others: those that this request already tried.
    pub fn try_acquire(&self, draw: Draw, now: Instant, exclude: &[K]) -> Option<Lease<K, S>> {
        let set = self.0.set.load();
        let len = set.nodes.len();
        if len == 0 {
            return None;
        }
        let mut view = set.view(now, exclude, &self.0.counts);
        if exclude.len() >= len && (0..len).all(|i| view.is_excluded(i)) {
            view = set.view(now, &[], &self.0.counts);
        }
        // The remainder is for strategies that break their word; theirs is the wrong pick, not ours the panic.
        let mut i = set.strategy.pick(&view, draw) % len;
        if view.is_excluded(i) {
            let untried = |i| (!view.is_excluded(i)).then(|| (view.status(i), view.weight(i)));
            i = best_by_weight(len, untried, draw.random).unwrap_or(i);
        }
        let node = &set.nodes[i].node;
        Some(Lease::new(node.svc.clone(), Arc::clone(&node.tracked), now))
    }

    /// Leases an endpoint; while there is none at all, waits as long as [`Policy::max_wait`] says.
    ///
    /// # Errors
    ///
    /// [`NoEndpoints`] if there was none all that time.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has taken nothing.
    pub fn acquire(&self, draw: Draw, exclude: &[K]) -> Acquire<K, S> {
        Acquire::new(self.clone(), draw, exclude.to_vec())
    }

    /// Its numbers at `now`. Looks at every endpoint.
    #[must_use]
    pub fn stats(&self, now: Instant) -> Stats {
        let (set, counts) = (self.0.set.load(), &self.0.counts);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut stats = Stats {
            size: set.nodes.len(),
            mean_weight: set.weights.mean(),
            adds: count(&counts.adds),
            removes: count(&counts.removes),
            updates: count(&counts.updates),
            rebuilds: count(&counts.rebuilds),
            max_effort_exhausted: count(&counts.max_effort_exhausted),
            ..Stats::default()
        };
        for Slot { node, .. } in &set.nodes {
            stats.load += node.tracked.load.pending();
            match node.health.status(now) {
                Status::Open => stats.available += 1,
                Status::Busy => stats.busy += 1,
                Status::Closed => stats.closed += 1,
            }
        }
        stats
    }

    /// Its endpoints at `now`, in the order of the last update.
    #[must_use]
    pub fn endpoints(&self, now: Instant) -> Vec<EndpointInfo<K>> {
        let set = self.0.set.load();
        let view = set.view(now, &[], &self.0.counts);
        let info = |(i, slot): (usize, &Slot<K, S>)| EndpointInfo {
            key: slot.node.tracked.key.clone(),
            weight: slot.weight,
            status: view.status(i),
            load: view.load(i, 0),
            pending: slot.node.tracked.load.pending(),
        };
        set.nodes.iter().enumerate().map(info).collect()
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.set.load().nodes.len()
    }

    /// Whether there is no endpoint.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, S> Balance<K, S> {
    pub(crate) fn max_wait(&self) -> Duration {
        self.0.max_wait
    }

    /// Woken by every change of the set.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.0.changed)
    }
}

impl<K, S> Clone for Balance<K, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: fmt::Debug, S> fmt::Debug for Balance<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.0.set.load();
        let keys = set.nodes.iter().map(|slot| &slot.node.tracked.key);
        f.write_str("Balance ")?;
        f.debug_list().entries(keys).finish()
    }
}
