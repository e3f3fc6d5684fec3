//! From a binding that changes to the clients that requests go to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use linkerd_dtab::{Activity, Bound, Distribution, Failure, NameTree, Path, State};
use tokio::{select, sync::watch, task::AbortHandle};

use super::{BoundClient, BoundName, guarded, share::Share, switch::Switching, time::after};

/// The binding of one path, followed by a task of its own for as long as this lives.
#[derive(Debug)]
pub(crate) struct Binding {
    shared: Arc<Followed>,
    watch: Activity<NameTree<Bound>>,
    switching: Switching,
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
    tree: Arc<NameTree<Arc<BoundName>>>,
}

/// Why a path has no route yet.
#[derive(Debug)]
pub(crate) enum Unbound {
    /// It is still being resolved.
    Timeout,
    /// Its namer failed.
    Failed(Failure),
}

/// What the task of a binding works on.
struct Following<F> {
    activity: Activity<NameTree<Bound>>,
    followed: Arc<Followed>,
    switching: Switching,
    route: F,
}

impl Binding {
    /// Follows `activity`; `route` turns each tree into where requests go, and `switching` says when they do.
    pub(crate) fn follow(
        activity: Activity<NameTree<Bound>>,
        switching: Switching,
        route: impl FnMut(NameTree<Bound>) -> Arc<Route> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Followed { route: ArcSwapOption::empty(), progress: watch::Sender::new(None) });
        let watch = activity.clone();
        // Before it is read: what comes last is read then.
        let is_final = activity.is_final();
        let followed = Arc::clone(&shared);
        let mut following = Following { activity, followed, switching: switching.clone(), route };
        if let Some(first) = following.made() {
            shared.publish(first);
        }
        if is_final {
            return Self { shared, watch, switching, task: None };
        }
        let task = tokio::spawn(following.run());
        Self { shared, watch, switching, task: Some(task.abort_handle()) }
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

    /// Waits until requests go by another route than this one.
    pub(super) async fn left(&self, route: &Arc<Route>) {
        let mut progress = self.shared.progress.subscribe();
        while self.shared.route.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, route)) {
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// How it goes from one route to another.
    pub(super) fn switching(&self) -> &Switching {
        &self.switching
    }

    /// The ids that requests go by now, if they go anywhere.
    pub(crate) fn serving(&self) -> Option<NameTree<Path>> {
        let route = self.shared.route.load_full()?;
        Some(NameTree::clone(&route.tree).map(&mut |name| name.client.id().clone()))
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

impl<F: FnMut(NameTree<Bound>) -> Arc<Route>> Following<F> {
    async fn run(mut self) {
        loop {
            self.activity.changed().await;
            if let Some(next) = self.made() {
                self.switch(next).await;
            }
        }
    }

    /// Lets requests go to `next` once it can take them, or to what there is newer by then.
    async fn switch(&mut self, mut next: Arc<Route>) {
        if let Some(before) = self.followed.route.load_full() {
            // One time for all that comes while it waits: a table that never rests does not keep a name where it was.
            let by = self.switching.by();
            loop {
                select! {
                    biased;
                    () = self.activity.changed() => if let Some(newer) = self.made() {
                        next = newer;
                    },
                    () = self.switching.wait(&before, &next, by) => break,
                }
            }
        }
        self.followed.publish(next);
    }

    /// The route of what is known now, if that is something new.
    fn made(&mut self) -> Option<Arc<Route>> {
        match self.activity.sample_and_update() {
            State::Pending => None,
            // After a panic requests go where they went before.
            State::Ok(tree) => guarded(|| (self.route)(tree)).map_err(|panicked| self.followed.failed(panicked)).ok(),
            State::Failed(failure) => {
                self.followed.failed(failure);
                None
            }
        }
    }
}

impl Followed {
    fn publish(&self, route: Arc<Route>) {
        self.route.store(Some(route));
        self.progress.send_replace(None);
    }

    fn failed(&self, failure: Failure) {
        self.progress.send_replace(Some(failure));
    }
}

impl Route {
    pub(crate) fn new(shares: Distribution<Share>, tree: Arc<NameTree<Arc<BoundName>>>) -> Self {
        Self { shares, tree }
    }

    /// Where requests go, each as often as it occurs.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Arc<BoundClient>> {
        self.shares.leaves().iter().filter(|(_, share)| *share > 0.0).map(|(share, _)| share.client())
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
