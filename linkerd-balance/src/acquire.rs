//! Waiting for an endpoint.

use std::{
    fmt,
    future::Future,
    hash::Hash,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    balance::{Balance, NoEndpoints},
    lease::Lease,
    strategy::Draw,
};

/// Future of [`Balance::acquire`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<K, S> {
    balance: Balance<K, S>,
    draw: Draw,
    exclude: Vec<K>,
    // Armed on the first empty look: where there is an endpoint, no timer is touched.
    #[pin]
    wait: Option<Wait>,
}

#[pin_project]
struct Wait {
    #[pin]
    changed: OwnedNotified,
    #[pin]
    sleep: Sleep,
}

impl<K, S> Acquire<K, S> {
    pub(crate) const fn new(balance: Balance<K, S>, draw: Draw, exclude: Vec<K>) -> Self {
        Self { balance, draw, exclude, wait: None }
    }
}

impl<K, S> Future for Acquire<K, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    type Output = Result<Lease<K, S>, NoEndpoints>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let now = Instant::now();
            if let Some(lease) = this.balance.try_acquire(*this.draw, now.into_std(), this.exclude) {
                return Poll::Ready(Ok(lease));
            }
            if this.balance.max_wait().is_zero() {
                return Poll::Ready(Err(NoEndpoints));
            }
            let Some(wait) = this.wait.as_mut().as_pin_mut() else {
                // From its making on it hears of changes, so look once more before waiting.
                let changed = this.balance.changed().notified_owned();
                let sleep = sleep_until(now + this.balance.max_wait());
                this.wait.set(Some(Wait { changed, sleep }));
                continue;
            };
            let mut wait = wait.project();
            if wait.changed.as_mut().poll(cx).is_ready() {
                wait.changed.set(this.balance.changed().notified_owned());
                continue;
            }
            return wait.sleep.poll(cx).map(|()| Err(NoEndpoints));
        }
    }
}

impl<K, S> fmt::Debug for Acquire<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("waiting", &self.wait.is_some()).finish_non_exhaustive()
    }
}
