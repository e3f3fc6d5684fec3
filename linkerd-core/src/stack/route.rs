//! From a binding that changes to the clients that requests go to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use linkerd_dtab::{Activity, Bound, Distribution, Failure, NameTree, State};
use tokio::{sync::watch, task::AbortHandle};

use super::{BoundName, guarded, share::Share, time::after};

/// The binding of one path, followed by a task of its own for as long as this lives.
#[derive(Debug)]
pub(crate) struct Binding {
    shared: Arc<Followed>,
    watch: Activity<NameTree<Bound>>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct Followed {
    // What requests read. Swapped whole.
    route: ArcSwapOption<Route>,
    // Wakes those that came before the first route.
    progress: watch::Sender<Option<Failure>>,
}

/// Where a path's requests go, and in which shares.
#[derive(Debug)]
pub(crate) struct Route {
    shares: Distribution<Share>,
    // Held, so that the caches know that it is in use.
    _tree: Arc<NameTree<Arc<BoundName>>>,
}

/// Why a path has no route yet.
#[derive(Debug)]
pub(crate) enum Unbound {
    /// It is still being resolved.
    Timeout,
    /// Its namer failed.
    Failed(Failure),
}

impl Binding {
    /// Follows `activity`; `route` turns each tree into where requests go.
    pub(crate) fn follow(
        mut activity: Activity<NameTree<Bound>>,
        mut route: impl FnMut(NameTree<Bound>) -> Arc<Route> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Followed { route: ArcSwapOption::empty(), progress: watch::Sender::new(None) });
        let (followed, watch) = (Arc::clone(&shared), activity.clone());
        // Before it is read: what comes last is read then.
        let is_final = activity.is_final();
        followed.publish(activity.sample_and_update(), &mut route);
        if is_final {
            return Self { shared, watch, task: None };
        }
        let task = tokio::spawn(async move {
            loop {
                activity.changed().await;
                followed.publish(activity.sample_and_update(), &mut route);
            }
        });
        Self { shared, watch, task: Some(task.abort_handle()) }
    }

    /// The route as it is now. Waits for the first one, until `arrived + timeout`.
    pub(crate) async fn route(&self, arrived: Instant, timeout: Duration) -> Result<Arc<Route>, Unbound> {
        if let Some(route) = self.shared.route.load_full() {
            return Ok(route);
        }
        let mut progress = self.shared.progress.subscribe();
        let first = async {
            loop {
                // Seen before the route is read, so that no change is missed in between.
                let failure = progress.borrow_and_update().clone();
                if let Some(route) = self.shared.route.load_full() {
                    return Ok(route);
                }
                if let Some(failure) = failure {
                    return Err(Unbound::Failed(failure));
                }
                if progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match tokio::time::timeout_at(after(arrived, timeout), first).await {
            Ok(result) => result,
            Err(_) => Err(Unbound::Timeout),
        }
    }

    /// What the path is bound to.
    pub(crate) fn watch(&self) -> &Activity<NameTree<Bound>> {
        &self.watch
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        // The task goes when the runtime comes to it; what it routed to is idle from now on.
        self.shared.route.store(None);
    }
}

impl Followed {
    fn publish(&self, state: State<NameTree<Bound>>, route: &mut impl FnMut(NameTree<Bound>) -> Arc<Route>) {
        match state {
            State::Pending => {}
            State::Ok(tree) => match guarded(|| route(tree)) {
                Ok(route) => {
                    self.route.store(Some(route));
                    self.progress.send_replace(None);
                }
                // Where requests went before, they still go.
                Err(panicked) => drop(self.progress.send_replace(Some(panicked))),
            },
            State::Failed(failure) => {
                self.progress.send_replace(Some(failure));
            }
        }
    }
}

impl Route {
    pub(crate) fn new(shares: Distribution<Share>, tree: Arc<NameTree<Arc<BoundName>>>) -> Self {
        Self { shares, _tree: tree }
    }

    /// Whether there is more than one place to go.
    pub(crate) fn is_union(&self) -> bool {
        self.shares.leaves().len() > 1
    }

    /// Where one request goes, drawn by weight. `None`: to what has no endpoints.
    pub(crate) fn pick(&self, random: u64) -> Option<&Share> {
        self.shares.pick(random)
    }
}
