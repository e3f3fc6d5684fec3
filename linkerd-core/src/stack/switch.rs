//! Make before break: when requests of a name go to other clients than they did.

use std::{sync::Arc, time::Duration};

use linkerd_dtab::switch::{self, Why};
use tokio::time::Instant;

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

    /// Waits until requests may go to `next` in place of `before`, as [`switch::wait`] has it.
    pub(super) async fn wait(&self, before: &Route, next: &Route, by: Instant) {
        let is_new = |client: &&BoundClient| !before.clients().any(|known| std::ptr::eq(Arc::as_ptr(known), *client));
        let new: Vec<_> = next.clients().map(Arc::as_ref).filter(is_new).collect();
        if new.is_empty() || self.timeout.is_zero() {
            return;
        }
        let _waiting = Waiting::begin(&self.stats);
        if switch::wait(emptied(before), &new, by).await == Why::Late {
            self.stats.timeouts.incr();
        }
    }
}

/// Waits until a route has no endpoints left.
async fn emptied(route: &Route) {
    while let Some(client) = route.clients().find(|client| client.has_endpoints()) {
        client.emptied().await;
    }
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
