//! A live set of endpoints, and leases of them.

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    acquire::Acquire,
    ejections::Ejections,
    health::{Health, Status},
    lease::{Lease, Tracked},
    member::Member,
    nodes::Nodes,
    panic::Unavailable,
    policy::Policy,
    set::{Counts, Set, Slot},
    standing::Place,
    strategy::Draw,
    weight::InvalidWeight,
};

/// A live set of endpoints, from which each request leases one. A clone is the same set.
///
/// `K` names an endpoint, such as a socket address; `S` is how to use it, and is cloned for every lease.
///
/// Only [`update`](Self::update) adds or removes an endpoint: one that fails is avoided, not dropped. A pick reads one
/// immutable snapshot, takes no lock, and allocates nothing but what cloning `S` does.
pub struct Balance<K, S>(pub(crate) Arc<Inner<K, S>>);

pub(crate) struct Inner<K, S> {
    pub(crate) set: ArcSwap<Set<K, S>>,
    // The lock is held by updates only.
    nodes: Mutex<Nodes<K, S>>,
    pub(crate) policy: Policy,
    pub(crate) new_endpoint: NewEndpoint<K, S>,
    pub(crate) ejections: Option<Ejections>,
    pub(crate) changed: Arc<Notify>,
    on_left: OnceLock<OnLeft<K, S>>,
    pub(crate) in_panic: AtomicBool,
    pub(crate) counts: Counts,
}

/// Is told who left.
type OnLeft<K, S> = Box<dyn Fn(&K, &S) + Send + Sync>;

/// Makes what there is once of each endpoint that comes.
type NewEndpoint<K, S> = Box<dyn Fn(K) -> (Arc<Tracked<K>>, S) + Send + Sync>;

/// A balancer of a fixed set that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSet {
    /// There is none.
    #[error("0 endpoints: at least one is needed")]
    NoEndpoints,
    /// More of them are to be tried again at a time than there are.
    #[error("a limit of {probes} probes at a time for {endpoints} endpoints: at most one for each")]
    Probes {
        /// The [limit](crate::EjectionLimits::max_probes).
        probes: u32,
        /// How many there are.
        endpoints: usize,
    },
    /// One of them has a weight that is none.
    #[error(transparent)]
    Weight(#[from] InvalidWeight),
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
        let new_load = Arc::clone(&policy.new_load);
        let ejections = policy.ejections.map(Ejections::new);
        let within = ejections.clone();
        let new_endpoint = move |key| {
            let tracked = Arc::new(Tracked::new(key, new_load(), within.clone()));
            let place: Arc<dyn Place> = Arc::<Tracked<K>>::clone(&tracked);
            let svc = new_endpoint(&tracked.key, &Health::of(place));
            (tracked, svc)
        };
        Self(Arc::new(Inner {
            set: ArcSwap::from_pointee(Set::empty(clock())),
            nodes: Mutex::default(),
            on_left: OnceLock::new(),
            policy,
            new_endpoint: Box::new(new_endpoint),
            ejections,
            changed: Arc::default(),
            in_panic: AtomicBool::new(false),
            counts: Counts::default(),
        }))
    }

    /// A balancer of endpoints that are known beforehand.
    ///
    /// # Errors
    ///
    /// No endpoint at all, a weight that is not a finite number above zero, and a policy with a limit of
    /// [probes](crate::EjectionLimits::max_probes) that these endpoints cannot reach.
    pub fn fixed<M: Into<Member<K>>>(
        policy: Policy,
        endpoints: impl IntoIterator<Item = M>,
        new_endpoint: impl Fn(&K, &Health) -> S + Send + Sync + 'static,
    ) -> Result<Self, InvalidSet> {
        let balance = Self::new(policy, new_endpoint);
        balance.update(endpoints)?;
        let endpoints = balance.len();
        if endpoints == 0 {
            return Err(InvalidSet::NoEndpoints);
        }
        let limit = balance.0.policy.ejections.and_then(|limits| limits.probes());
        match limit {
            Some(probes) if probes as usize > endpoints => Err(InvalidSet::Probes { probes, endpoints }),
            _ => Ok(balance),
        }
    }

    /// Replaces the set. Endpoints that were in it keep their service, health and load, with the weight given now.
    ///
    /// A key given twice counts once, as it was given last. Leases of removed endpoints stay valid.
    ///
    /// # Errors
    ///
    /// A weight that is not a finite number above zero. The set is then left as it was.
    pub fn update<M: Into<Member<K>>>(&self, endpoints: impl IntoIterator<Item = M>) -> Result<(), InvalidWeight> {
        self.update_at(endpoints, clock())
    }

    /// Leaves it without any endpoint.
    pub fn clear(&self) {
        let cleared = self.update(std::iter::empty::<Member<K>>());
        debug_assert!(cleared.is_ok(), "there is no weight to be wrong");
    }

    /// [`update`](Self::update) as of `now`, for those who keep the time themselves.
    ///
    /// # Errors
    ///
    /// As `update`.
    pub fn update_at<M: Into<Member<K>>>(
        &self,
        endpoints: impl IntoIterator<Item = M>,
        now: Instant,
    ) -> Result<(), InvalidWeight> {
        if self.0.update(endpoints.into_iter().map(Into::into), now)? {
            self.0.changed.notify_waiters();
        }
        Ok(())
    }

    /// Tells `left` of each endpoint that leaves, however long requests that are under way hold on to it: to send those on
    /// that wait for a turn there, for example. One that discovery dropped and that [stays](Policy::probation) for now has
    /// not left. Nobody leaves when the balancer is dropped. The first `left` counts; it must not take long.
    pub fn on_left(&self, left: impl Fn(&K, &S) + Send + Sync + 'static) {
        let _ = self.0.on_left.set(Box::new(left));
    }

    /// Leases an endpoint.
    ///
    /// Endpoints in `exclude` are used only if there are no others, with [`Panic::FailFast`](crate::Panic) none that is
    /// open: those that this request already tried.
    ///
    /// # Errors
    ///
    /// That there is none, or that too few are open and the policy is to fail then.
    pub fn try_acquire(&self, draw: Draw, now: Instant, exclude: &[K]) -> Result<Lease<K, S>, Unavailable> {
        let set = self.0.set.load();
        let slot = self.0.pick(&set, draw, now, exclude)?.slot(&set);
        // One that does not work any more no pick falls on.
        if set.has_stays && (!slot.is_member() || set.is_prune_due(now)) && set.is_prunable(now) {
            drop(set);
            return self.acquire_pruned(draw, now, exclude);
        }
        Ok(slot.lease(now))
    }

    /// Once more, without those that have no reason to stay.
    #[cold]
    #[inline(never)]
    fn acquire_pruned(&self, draw: Draw, now: Instant, exclude: &[K]) -> Result<Lease<K, S>, Unavailable> {
        self.0.try_prune(now);
        let set = self.0.set.load();
        Ok(self.0.pick(&set, draw, now, exclude)?.slot(&set).lease(now))
    }

    /// Leases an endpoint; while there is none at all, waits as long as [`Policy::max_wait`] says.
    ///
    /// # Errors
    ///
    /// That there was none all that time, or that too few are open and the policy is to fail then, which is not waited for.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has taken nothing.
    pub fn acquire(&self, draw: Draw, exclude: &[K]) -> Acquire<K, S> {
        Acquire::new(self.clone(), draw, exclude.to_vec())
    }

    /// Whether any endpoint is open at `now`. Looks no further than the first.
    #[must_use]
    pub fn has_open(&self, now: Instant) -> bool {
        self.0.set.load().slots().any(|slot| slot.tracked.standing.status(now) == Status::Open)
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.set.load().size
    }

    /// Whether there is no endpoint.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, S> Balance<K, S> {
    pub(crate) fn max_wait(&self) -> Duration {
        self.0.policy.max_wait
    }

    /// What the connections of the endpoint of this name say, if it is in the set. Looks at every endpoint.
    pub(crate) fn link_of(&self, key: &K) -> Option<Status>
    where
        K: Eq,
    {
        let set = self.0.set.load();
        set.slots().find(|slot| slot.tracked.key == *key).map(|slot| slot.tracked.standing.link())
    }

    /// Woken by every change of the set.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.0.changed)
    }
}

impl<K, S> Inner<K, S> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Nodes<K, S>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who asked for it that these left.
    pub(crate) fn tell_left(&self, left: &[Arc<Slot<K, S>>]) {
        if let Some(on_left) = self.on_left.get() {
            for slot in left {
                on_left(&slot.tracked.key, &slot.svc);
            }
        }
    }

    /// None while somebody else has it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Nodes<K, S>>> {
        match self.nodes.try_lock() {
            Ok(nodes) => Some(nodes),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// The time that tokio's tests may pause.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl<K, S> Clone for Balance<K, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: fmt::Debug, S> fmt::Debug for Balance<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.0.set.load();
        let keys = set.slots().map(|slot| &slot.tracked.key);
        f.write_str("Balance ")?;
        f.debug_list().entries(keys).finish()
    }
}
