//! What the requests of one logical name may take together.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use linkerd_dtab::Path;
use linkerd_retry::{Budget, BudgetSettings, limit::WhenFull};

use super::{hedge::Hedges, limit::Limit};
use crate::{
    cache::Cache,
    mesh::LimitState,
    policy::{HedgePolicy, LimitPolicy, ServicePolicy},
    telemetry::{AllowanceStats, CacheStats, LimitStats, RouterStats},
};

/// How many kinds of allowances are shared. Names whose policies are of yet another kind share one that allows next to
/// nothing.
const MAX_SHARED: usize = 16;

/// What the requests of one logical name have in common, whatever local tables they come with: a header must not bring
/// more of it along. It stays while anything that was taken from it is out, or is not yet forgotten.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(super) retries: Budget,
    pub(super) hedges: Option<Hedges>,
    pub(super) limit: Option<Limit>,
    is_shared: bool,
}

/// The allowances of all names, so many at most.
///
/// One makes room for another if nobody uses it and it is as good as new. While none is, further names share what one
/// name may have: were each given one of its own, asking by enough names would bring back what was used up.
pub(crate) struct Allowances {
    by_name: Cache<Path, Allowance>,
    shared: Mutex<Vec<(Shape, Arc<Allowance>)>>,
    metrics: RouterStats,
    stats: AllowanceStats,
}

/// What an allowance is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    retries: BudgetSettings,
    hedge: Option<HedgePolicy>,
    limit: Option<LimitPolicy>,
}

impl Allowance {
    fn new(shape: &Shape, limit_name: &str, stats: impl FnOnce() -> LimitStats, is_shared: bool) -> Self {
        // Settings that are in use already are in range.
        let retries = Budget::new(shape.retries).unwrap_or_else(|_| Budget::off());
        let hedges = shape.hedge.as_ref().and_then(|hedge| Hedges::new(hedge, &retries));
        let limit = shape.limit.as_ref().and_then(|limit| Limit::new(limit_name, limit, stats()));
        Self { retries, hedges, limit, is_shared }
    }

    /// What its limit is at, if it has one.
    pub(crate) fn limit(&self) -> Option<LimitState> {
        self.limit.as_ref().map(Limit::state)
    }

    /// Whether it is that of several names.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Brings the numbers up to date that are not counted as they happen.
    pub(crate) fn refresh(&self) {
        if let Some(limit) = &self.limit {
            limit.refresh();
        }
    }

    /// Whether a new one in its place would allow nothing that this one does not.
    fn is_at_rest(&self, now: Instant) -> bool {
        self.retries.is_at_rest(now) && self.limit.as_ref().is_none_or(|limit| limit.is_at_rest(now))
    }
}

impl Allowances {
    pub(crate) fn new(capacity: usize, metrics: RouterStats) -> Self {
        let by_name = Cache::resting(capacity, CacheStats::detached(), Allowance::is_at_rest);
        Self { by_name, shared: Mutex::default(), stats: metrics.allowances(), metrics }
    }

    /// The allowance of a name, made if there is none.
    pub(crate) fn of(&self, path: &Path, policy: &ServicePolicy, now: Instant) -> Arc<Allowance> {
        let shape = Shape::of(policy);
        let make = || Allowance::new(&shape, &path.to_string(), || self.metrics.limit(path), false);
        self.by_name.get_or_make_kept(path, now, make).unwrap_or_else(|| {
            self.stats.shared();
            self.share(shape)
        })
    }

    /// Whether another name would get one of its own.
    pub(crate) fn has_room(&self, now: Instant) -> bool {
        self.by_name.has_room(now)
    }

    /// Lets go of those that nobody has used for `ttl`.
    pub(crate) fn sweep(&self, now: Instant, ttl: std::time::Duration) {
        self.by_name.sweep(now, ttl);
        self.lock().retain(|(_, shared)| Arc::strong_count(shared) > 1 || !shared.is_at_rest(now));
    }

    /// Those of single names.
    pub(crate) fn all(&self) -> Vec<Arc<Allowance>> {
        self.by_name.values()
    }

    fn share(&self, mut shape: Shape) -> Arc<Allowance> {
        let mut all = self.lock();
        let find = |all: &[(Shape, Arc<Allowance>)], shape| {
            all.iter().find(|(of, _)| *of == shape).map(|(_, shared)| Arc::clone(shared))
        };
        if let Some(shared) = find(&all, shape) {
            return shared;
        }
        if all.len() >= MAX_SHARED {
            shape = shape.closed();
            if let Some(shared) = find(&all, shape) {
                return shared;
            }
        }
        // Its numbers would be those of no name.
        let shared = Arc::new(Allowance::new(&shape, "of all names beyond those kept", LimitStats::default, true));
        all.push((shape, Arc::clone(&shared)));
        shared
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Shape, Arc<Allowance>)>> {
        // Each operation leaves it whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shape {
    fn of(policy: &ServicePolicy) -> Self {
        Self { retries: policy.retry_budget.settings(), hedge: policy.hedge, limit: policy.limit }
    }

    /// No retries and no hedges, and one request at a time where there is a limit: there are two of this kind.
    fn closed(self) -> Self {
        let one = std::num::NonZeroUsize::MIN;
        let limit = self.limit.map(|_| LimitPolicy::concurrency(one, WhenFull::Reject));
        Self { retries: BudgetSettings::off(), hedge: None, limit }
    }
}
