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
    // Nobody has tried yet.
    is_new: bool,
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
        let is_new = link == Status::Closed;
        if !is_new {
            self.mark_dead();
        }
        let watch = Arc::downgrade(self);
        let (connect, endpoint) = (Arc::clone(&self.connect), self.endpoint.clone());
        let task = runtime.spawn(async move {
            for tries in 0.. {
                tokio::time::sleep(Duration::from_secs(waits[usize::min(tries, waits.len() - 1)])).await;
                let reached = connect.dial(&endpoint).await;
                // Gone with its endpoint.
                let Some(watch) = watch.upgrade() else { return };
                if !(is_new && tries == 0) {
                    watch.stats.tries.incr();
                }
                if reached.is_ok() {
                    return watch.back();
                }
                watch.still_down();
            }
        });
        *down = Some(Down { since: now(), is_new, task: task.abort_handle() });
    }

    fn mark_dead(&self) {
        tracing::info!("{} cannot be connected to: left alone until it can", self.endpoint.addr);
        self.stats.marked_dead.incr();
        self.stats.unhealthy.incr();
    }

    /// A try has failed.
    fn still_down(&self) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if down.as_mut().is_some_and(|down| std::mem::take(&mut down.is_new)) {
            self.mark_dead();
        }
    }

    fn back(&self) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(down) = down.take() {
            self.health.set_link(Status::Open);
            if !down.is_new {
                tracing::info!("{} can be connected to again", self.endpoint.addr);
                self.stats.marked_available.incr();
                self.stats.unhealthy.decr();
            }
        }
    }

    /// Why nobody is sent there, for people.
    pub(super) fn why(&self, now: Instant) -> Option<String> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let down = down.as_ref()?;
        let since = now.saturating_duration_since(down.since);
        let since = Duration::from_millis(since.as_millis() as u64);
        Some(if down.is_new {
            format!("new, and not connected to for {since:?}")
        } else {
            format!("could not be connected to for {since:?}")
        })
    }
}

impl Drop for FailFast {
    fn drop(&mut self) {
        if let Some(down) = self.down.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            down.task.abort();
            if !down.is_new {
                self.stats.unhealthy.decr();
            }
        }
    }
}
