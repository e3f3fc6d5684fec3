//! Make before break: when requests of a name go to other clients than they did.

use std::{sync::Arc, time::Duration};

use futures::future::{join_all, select_all};
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{
    BoundClient, Route,
    time::{after, now},
};
use crate::telemetry::SwitchStats;

/// How long a name that is bound to others keeps its requests where they went, and what is counted of that.
#[derive(Clone, Debug)]
pub(crate) struct Switching {
    pub(crate) timeout: Duration,
    pub(crate) stats: SwitchStats,
}

/// A name that waits, counted for as long as it does.
struct Waiting<'a>(&'a SwitchStats);

impl Switching {
    /// When a change that comes now is made at the latest, if it is known where it leads.
    pub(super) fn by(&self) -> Instant {
        after(now(), self.timeout)
    }

    /// Waits until requests may go to `next`. That is when each client that it has and `before` has not could be connected
    /// to, and sooner when `before` has no endpoints left, since nothing is lost then, but for who goes from nothing to nothing.
    /// It is so at `by`, too, if the addresses of all are known, be there none: that is what the table says. What is not known
    /// is no reason to leave what is.
    pub(super) async fn wait(&self, before: &Route, next: &Route, by: Instant) {
        let is_new = |client: &&Arc<BoundClient>| !before.clients().any(|known| Arc::ptr_eq(known, client));
        let new: Vec<_> = next.clients().filter(is_new).collect();
        if new.is_empty() || self.timeout.is_zero() {
            return;
        }
        let _waiting = Waiting::begin(&self.stats);
        select! {
            biased;
            _ = join_all(new.iter().map(|client| client.ready())) => {}
            () = fails_over(before, &new) => {}
            () = late(&new, by) => {
                self.stats.timeouts.incr();
                let ids = ids(&new);
                tracing::warn!("not all of {ids} could be connected to within {:?}; requests go there now", self.timeout);
            }
        }
    }
}

/// Waits until a route has no endpoints left.
async fn emptied(route: &Route) {
    while let Some(client) = route.clients().find(|client| client.has_endpoints()) {
        client.emptied().await;
    }
}

/// Waits until there is nothing to stay for, and something to go to: there are endpoints, or nobody knows.
async fn fails_over(before: &Route, new: &[&Arc<BoundClient>]) {
    emptied(before).await;
    select_all(new.iter().map(|client| Box::pin(client.may_serve()))).await;
}

/// Waits until it is late, and the addresses of all are known.
async fn late(new: &[&Arc<BoundClient>], by: Instant) {
    sleep_until(by).await;
    if !new.iter().all(|client| client.is_known()) {
        tracing::warn!("addresses of {} are not known: requests go where they went", ids(new));
    }
    join_all(new.iter().map(|client| client.known())).await;
}

fn ids(clients: &[&Arc<BoundClient>]) -> String {
    clients.iter().map(|client| client.id().to_string()).collect::<Vec<_>>().join(", ")
}

impl<'a> Waiting<'a> {
    fn begin(stats: &'a SwitchStats) -> Self {
        stats.waiting.incr();
        Self(stats)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.decr();
    }
}
