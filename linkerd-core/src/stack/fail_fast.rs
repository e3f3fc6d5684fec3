//! What is done about an endpoint that cannot be connected to: nobody asks it until a connection succeeds.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use linkerd_balance::{Health, Status};
use linkerd_dtab::Endpoint;
use tokio::task::AbortHandle;

use super::path::now;
use crate::{http::Connect, telemetry::FailFastStats};

/// The waits before each try, the last one for ever: Finagle's.
const WAITS: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// The same, but at once the first time.
const WAITS_OF_NEWCOMERS: [u64; 7] = [0, 1, 2, 4, 8, 16, 32];

/// One endpoint's watch over its own connections.
pub(super) struct FailFast {
    health: Health,
    endpoint: Endpoint,
    connect: Arc<dyn Connect>,
    stats: Arc<FailFastStats>,
    down: Mutex<Option<Down>>,
}

struct Down {
    since: Instant,
    task: AbortHandle,
}

impl FailFast {
    pub(super) fn new(
        health: Health,
        endpoint: Endpoint,
        connect: Arc<dyn Connect>,
        stats: Arc<FailFastStats>,
    ) -> Arc<Self> {
        Arc::new(Self { health, endpoint, connect, stats, down: Mutex::default() })
    }

    /// A request found that it cannot be connected to.
    pub(super) fn failed(self: &Arc<Self>) {
        self.watch(Status::Busy, &WAITS);
    }

    /// It is new, and nobody should be sent there before it is known that it can be connected to.
    pub(super) fn check_first(self: &Arc<Self>) {
        self.watch(Status::Closed, &WAITS_OF_NEWCOMERS);
    }

    fn watch(self: &Arc<Self>, link: Status, waits: &'static [u64]) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that were on their way when the first one failed.
        if down.is_some() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.health.set_link(link);
        self.stats.marked_dead.incr();
        self.stats.unhealthy.incr();
        let watch = Arc::downgrade(self);
        let (connect, endpoint) = (Arc::clone(&self.connect), self.endpoint.clone());
        let task = runtime.spawn(async move {
            for tries in 0.. {
                tokio::time::sleep(Duration::from_secs(waits[usize::min(tries, waits.len() - 1)])).await;
                let reached = connect.dial(&endpoint).await;
                // Gone with its endpoint.
                let Some(watch) = watch.upgrade() else { return };
                watch.stats.tries.incr();
                if reached.is_ok() {
                    return watch.back();
                }
            }
        });
        *down = Some(Down { since: now(), task: task.abort_handle() });
    }

    fn back(&self) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if down.take().is_some() {
            self.health.set_link(Status::Open);
            self.stats.marked_available.incr();
            self.stats.unhealthy.decr();
        }
    }

    /// For how long it could not be connected to, if it cannot.
    pub(super) fn down_for(&self, now: Instant) -> Option<Duration> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.as_ref().map(|down| now.saturating_duration_since(down.since))
    }
}

impl Drop for FailFast {
    fn drop(&mut self) {
        if let Some(down) = self.down.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            down.task.abort();
            self.stats.unhealthy.decr();
        }
    }
}
