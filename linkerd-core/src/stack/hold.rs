//! Requests of a name whose last endpoint is gone: they wait for what takes its place, of which another watch tells.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use linkerd_dtab::switch::Target;
use tokio::{select, time::sleep_until};

use super::{
    Binding, BoundClient, Route,
    switch::Switching,
    time::{after, now},
};

/// So many requests of a router wait at once. Another one fails as it would with nothing to wait for.
const MAX_HELD: i64 = 10_000;

/// Whether, and since when, a client has no endpoint that had one.
#[derive(Default)]
pub(super) struct Lost {
    // All that a request looks at, mostly.
    is_so: AtomicBool,
    since: Mutex<Option<Instant>>,
}

/// What one attempt may wait in all.
pub(super) struct Patience<'a> {
    switching: &'a Switching,
    // From when it waits first.
    by: Option<Instant>,
    is_over: bool,
}

impl Lost {
    /// To be called before requests can see that there are no endpoints.
    pub(super) fn begin(&self) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(now);
        // Release: who sees it sees since when.
        self.is_so.store(true, Ordering::Release);
    }

    /// To be called after requests can see that there are some.
    pub(super) fn end(&self) {
        if self.is_so.swap(false, Ordering::AcqRel) {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    pub(super) fn since(&self) -> Option<Instant> {
        if !self.is_so.load(Ordering::Acquire) {
            return None;
        }
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Patience<'a> {
    pub(super) fn new(switching: &'a Switching) -> Self {
        Self { switching, by: None, is_over: false }
    }

    /// Whether a request to `client` is better held than sent: its last endpoint is gone, and that is not long ago.
    pub(super) fn holds(&self, client: &BoundClient) -> bool {
        let Some(since) = client.lost() else { return false };
        !self.is_over && tokio::time::Instant::now() < after(since, self.switching.timeout)
    }

    /// Waits until requests of the name go elsewhere than by `route`, or `client` has endpoints again; or until it makes no
    /// sense to wait any longer, which is so from then on.
    pub(super) async fn hold(&mut self, binding: &Binding, route: &Arc<Route>, client: &BoundClient) {
        let Some(since) = client.lost() else { return };
        let stats = &self.switching.stats;
        if stats.holding.get() >= MAX_HELD {
            self.is_over = true;
            return;
        }
        let _holding = stats.holding.enter();
        stats.held.incr();
        let first = *self.by.get_or_insert_with(now);
        let by = after(since.min(first), self.switching.timeout);
        select! {
            biased;
            () = binding.left(route) => {}
            () = client.filled() => {}
            () = sleep_until(by) => self.is_over = true,
        }
    }
}
