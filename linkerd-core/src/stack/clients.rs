//! From bound trees to clients, each made once: the caches tree → bound → client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use linkerd_dtab::{Bound, Distribution, NameTree, Path};

use super::{BoundClient, BoundName, PathInfo, Route, share::Share};
use crate::{cache::Cache, http::Connect, mesh::Wrap, policy::Policies, telemetry::RouterStats};

/// Makes clients of bound names, and shares them: two paths that are bound to one name have its connections and its
/// load in common.
pub(crate) struct Clients {
    pub(crate) trees: Cache<NameTree<Bound>, NameTree<Arc<BoundName>>>,
    pub(crate) bounds: Cache<(Path, Path), BoundName>,
    pub(crate) by_id: Cache<Path, BoundClient>,
    pub(crate) policies: Arc<dyn Policies>,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) client_layers: Vec<Wrap>,
    pub(crate) endpoint_layers: Vec<Wrap>,
    pub(crate) metrics: RouterStats,
}

impl Clients {
<<<<<<< HEAD
    /// Where requests for a path go, now that it is bound to `tree`.
    pub(crate) fn route(&self, info: &Arc<PathInfo>, tree: &NameTree<Bound>, now: Instant) -> Arc<Route> {
        // A known name may come with another watch of its address: its client follows the newer one.
        for bound in tree.leaves() {
            if let Some(client) = self.by_id.get(&bound.id, now) {
                client.follow(&bound.addr);
            }
        }
        let named = self.trees.get_or_make(tree, now, || tree.clone().map(&mut |bound| self.bound(&bound, now)));
=======
    /// Where requests for a path go, now that it is bound to `tree`, and no longer to what it was.
    pub(crate) fn route(
        &self,
        info: &Arc<PathInfo>,
        was: Option<&NameTree<Bound>>,
        tree: NameTree<Bound>,
        now: Instant,
    ) -> Arc<Route> {
        if let Some(was) = was {
            self.release(was, now);
        }
        let named = self.trees.get_or_make(&tree, now, || tree.clone().map(&mut |bound| self.bound(&bound, now)));
        // A known name may come with another watch of its address: its client follows the newer one.
        for (bound, name) in tree.leaves().into_iter().zip(named.leaves()) {
            name.client.follow(&bound.addr);
        }
>>>>>>> engine
        let shares = NameTree::clone(&named).map(&mut |name| Share::new(name, Arc::clone(info), &self.client_layers));
        Arc::new(Route::new(Distribution::new(&shares), named))
    }

    /// What was in use until now is idle from now on: rules that are edited back soon find their connections.
    fn release(&self, tree: &NameTree<Bound>, now: Instant) {
        self.trees.get(tree, now);
        for bound in tree.leaves() {
            self.bounds.get(&(bound.id.clone(), bound.residual.clone()), now);
            self.clients.get(&bound.id, now);
        }
    }

    fn bound(&self, bound: &Bound, now: Instant) -> Arc<BoundName> {
        let key = (bound.id.clone(), bound.residual.clone());
        self.bounds.get_or_make(&key, now, || BoundName::new(self.client(bound, now), &bound.residual))
    }

    fn client(&self, bound: &Bound, now: Instant) -> Arc<BoundClient> {
        self.by_id.get_or_make(&bound.id, now, || {
            let policy = self.policies.client(&bound.id);
            let stats = self.metrics.client(&bound.id);
            BoundClient::new(bound, &policy, Arc::clone(&self.connect), self.endpoint_layers.clone(), stats)
        })
    }

    /// Every client there is.
    pub(crate) fn all(&self) -> Vec<Arc<BoundClient>> {
        self.by_id.values()
    }

    /// Lets go of what was idle for longer than `ttl`: trees first, since they hold the others.
    pub(crate) fn sweep(&self, now: Instant, ttl: Duration) {
        self.trees.sweep(now, ttl);
        self.bounds.sweep(now, ttl);
        self.by_id.sweep(now, ttl);
    }
}
