//! Waiting at endpoints that are not ready yet.

use std::{
    future::Future,
    hash::Hash,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep},
};
use tower_service::Service;

use super::{LOOK_AGAIN, MAX_WAITS, draw};
use crate::{balance::Balance, lease::Lease};

/// The endpoints that a request waits at, [`MAX_WAITS`] at most.
#[pin_project]
pub(super) struct Waits<K, S> {
    leases: Vec<Lease<K, S>>,
    // So many of them were asked in this turn.
    asked: usize,
    // Whether to look for another one, and who has left.
    looks: bool,
    // From its making on it hears of changes of the set.
    #[pin]
    changed: OwnedNotified,
    // Until it looks whether somebody is open again.
    #[pin]
    again: Sleep,
}

/// The end of a wait.
pub(super) enum Turn<K, S, E> {
    /// This one is ready, or failed to get so.
    Asked(Lease<K, S>, Result<(), E>),
    /// Nobody is left to wait at.
    Gone,
}

impl<K, S> Waits<K, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    /// At an endpoint that was just asked.
    pub(super) fn at(lease: Lease<K, S>, balance: &Balance<K, S>) -> Self {
        Self {
            leases: vec![lease],
            asked: 1,
            looks: true,
            changed: balance.changed().notified_owned(),
            again: sleep(LOOK_AGAIN),
        }
    }

    /// Waits for the first that has something to say. `key` and `tried` are the request's.
    pub(super) fn poll<Req>(
        self: Pin<&mut Self>,
        balance: &Balance<K, S>,
        key: Option<u64>,
        tried: &[K],
        cx: &mut Context<'_>,
    ) -> Poll<Turn<K, S, S::Error>>
    where
        S: Service<Req>,
    {
        let mut this = self.project();
        loop {
            while let Some(lease) = this.leases.get_mut(*this.asked) {
                if let Poll::Ready(ready) = lease.poll_ready(cx) {
                    *this.looks = true;
                    return Poll::Ready(Turn::Asked(this.leases.remove(*this.asked), ready));
                }
                *this.asked += 1;
            }
            if *this.looks {
                this.leases.retain(|lease| !lease.is_gone());
                *this.asked = this.leases.len();
                if this.leases.is_empty() {
                    return Poll::Ready(Turn::Gone);
                }
                if this.leases.len() < MAX_WAITS
                    && let Some(lease) = elsewhere(balance, key, tried, this.leases)
                {
                    this.leases.push(lease);
                    continue;
                }
                *this.looks = false;
            }
            if this.changed.as_mut().poll(cx).is_ready() {
                this.changed.set(balance.changed().notified_owned());
            } else if this.again.as_mut().poll(cx).is_ready() {
                this.again.as_mut().reset(Instant::now() + LOOK_AGAIN);
            } else {
                *this.asked = 0;
                return Poll::Pending;
            }
            *this.looks = true;
        }
    }
}

/// An open endpoint where the request was not yet, and does not wait.
fn elsewhere<K, S>(balance: &Balance<K, S>, key: Option<u64>, tried: &[K], at: &[Lease<K, S>]) -> Option<Lease<K, S>>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    if tried.len() + at.len() >= balance.len() {
        return None;
    }
    let been: Vec<K> = tried.iter().chain(at.iter().map(Lease::key)).cloned().collect();
    let now = Instant::now().into_std();
    let lease = balance.try_acquire(draw(key), now, &been).ok()?;
    // What is picked for want of a better one is not better than to wait.
    if been.contains(lease.key()) || !lease.is_open(now) {
        lease.cancel(now);
        return None;
    }
    Some(lease)
}
