//! What is known of an endpoint's connections apart from requests: one that cannot be connected to is asked by nobody until
//! it can.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use linkerd_balance::{Health, Status};
use linkerd_dtab::{Endpoint, Path};
use tokio::{runtime::Handle, task::AbortHandle};

use super::now;
use crate::{
    http::{Connect, Kept},
    telemetry::FailFastStats,
};

/// The waits before each try, the last one for ever: Finagle's.
const WAITS: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// The same, but at once the first time.
const WAITS_OF_NEWCOMERS: [u64; 7] = [0, 1, 2, 4, 8, 16, 32];
/// Connections that are kept are made again at most so often: an endpoint may accept them and hang up.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// One endpoint's watch over its own connections.
pub(super) struct FailFast {
    client: Path,
    health: Health,
    endpoint: Endpoint,
    connect: Arc<dyn Connect>,
    stats: Arc<FailFastStats>,
    down: Mutex<Option<Down>>,
    keeper: OnceLock<AbortHandle>,
}

struct Down {
    since: Instant,
    // Nobody has tried yet.
    is_new: bool,
    // Tries until it can be connected to. None if those tries are the keeper's.
    task: Option<AbortHandle>,
}

impl FailFast {
    pub(super) fn new(
        client: Path,
        health: Health,
        endpoint: Endpoint,
        connect: Arc<dyn Connect>,
        stats: Arc<FailFastStats>,
    ) -> Arc<Self> {
        let (down, keeper) = (Mutex::default(), OnceLock::new());
        Arc::new(Self { client, health, endpoint, connect, stats, down, keeper })
    }

    /// A request found that it cannot be connected to.
    pub(super) fn failed(self: &Arc<Self>) {
        self.watch(Status::Busy, &WAITS);
    }

    /// It is new, and nobody should be sent there before it is known that it can be connected to.
    pub(super) fn check_first(self: &Arc<Self>) {
        self.watch(Status::Closed, &WAITS_OF_NEWCOMERS);
    }

    /// Makes connections, now and when they end, whether somebody asks or not. While that fails, nobody is sent there.
    pub(super) fn keep(self: &Arc<Self>, kept: Kept) {
        let Ok(runtime) = Handle::try_current() else { return };
        let watch = Arc::downgrade(self);
        let task = runtime.spawn(async move {
            let mut tries = 0;
            loop {
                kept.missing().await;
                let filled = kept.fill().await;
                // Gone with its endpoint.
                let Some(watch) = watch.upgrade() else { return };
                let wait = if filled.is_ok() {
                    tries = 0;
                    watch.back();
                    REST
                } else {
                    watch.not_kept();
                    let wait = wait(&WAITS, tries);
                    tries += 1;
                    wait
                };
                drop(watch);
                tokio::time::sleep(wait).await;
            }
        });
        // Once for each endpoint.
        let _ = self.keeper.set(task.abort_handle());
    }

    fn watch(self: &Arc<Self>, link: Status, waits: &'static [u64]) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that were on their way when the first one failed.
        if down.is_some() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        self.health.set_link(link);
        let is_new = link == Status::Closed;
        if !is_new {
            self.mark_dead();
        }
        let watch = Arc::downgrade(self);
        let (connect, endpoint) = (Arc::clone(&self.connect), self.endpoint.clone());
        let task = runtime.spawn(async move {
            for tries in 0.. {
                tokio::time::sleep(wait(waits, tries)).await;
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
        *down = Some(Down { since: now(), is_new, task: Some(task.abort_handle()) });
    }

    /// A connection that is to be kept could not be made.
    fn not_kept(&self) {
        {
            let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
            if down.is_none() {
                self.health.set_link(Status::Busy);
                self.mark_dead();
                *down = Some(Down { since: now(), is_new: false, task: None });
                return;
            }
        }
        self.stats.tries.incr();
        self.still_down();
    }

    fn mark_dead(&self) {
        let (client, addr) = (&self.client, self.endpoint.addr);
        tracing::info!(%client, "{addr} cannot be connected to: left alone until it can");
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
        let Some(Down { is_new, task, .. }) = down.take() else { return };
        self.health.set_link(Status::Open);
        // Who of the two that try comes second has nothing to do any more.
        if let Some(task) = task {
            task.abort();
        }
        if !is_new {
            tracing::info!(client = %self.client, "{} can be connected to again", self.endpoint.addr);
            self.stats.marked_available.incr();
            self.stats.unhealthy.decr();
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

fn wait(waits: &[u64], tries: usize) -> Duration {
    Duration::from_secs(waits[tries.min(waits.len() - 1)])
}

impl Drop for FailFast {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        if let Some(down) = self.down.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            if let Some(task) = down.task {
                task.abort();
            }
            if !down.is_new {
                self.stats.unhealthy.decr();
            }
        }
    }
}
