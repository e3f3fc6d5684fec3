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

/// What one attempt may wait in all. Small: every request has room for it.
#[derive(Default)]
pub(super) struct Patience {
    // Known once it waits.
    until: Option<Instant>,
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

impl Patience {
    /// Whether a request to `client` is better held than sent: its last endpoint is gone, and that is not long ago.
    pub(super) fn holds(&self, switching: &Switching, client: &BoundClient) -> bool {
        let Some(since) = client.lost() else { return false };
        let now = now();
        self.until.is_none_or(|until| now < until) && after(since, switching.timeout) > now.into()
    }

    /// Waits until requests of the name go elsewhere than by `route`, or `client` has endpoints again; or until it makes no
    /// sense to wait any longer.
    pub(super) async fn hold(&mut self, binding: &Binding, route: &Arc<Route>, client: &BoundClient) {
        let Switching { timeout, stats } = binding.switching();
        let Some(since) = client.lost() else { return };
        if stats.holding.get() >= MAX_HELD {
            self.until = Some(now());
            return;
        }
        let _holding = stats.holding.enter();
        stats.held.incr();
        let until = *self.until.get_or_insert_with(|| after(now(), *timeout).into_std());
        select! {
            biased;
            () = binding.left(route) => {}
            () = client.filled() => {}
            () = sleep_until(after(since, *timeout).min(until.into())) => {}
        }
    }
}
