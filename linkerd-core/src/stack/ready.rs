//! What can be said of a client's endpoints before a request goes there.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt, future::select_ok};
use linkerd_dtab::Endpoint;
use tokio::time::{Duration, sleep};

use super::{endpoints::Balanced, now};

/// So many endpoints are tried at once: one that does not answer must not hide the others.
const TRIED: usize = 3;
/// The pause before others are tried.
const PAUSE: Duration = Duration::from_millis(100);

impl Balanced {
    /// Waits until the addresses are known, be there none. A failure is not knowing.
    pub(super) async fn known(&self) {
        self.until(|| self.is_known()).await;
    }

    /// Waits until there are no endpoints.
    pub(super) async fn emptied(&self) {
        self.until(|| self.balance.is_empty()).await;
    }

    /// Waits until there are endpoints.
    pub(super) async fn filled(&self) {
        self.until(|| !self.balance.is_empty()).await;
    }

    /// Waits until an endpoint is open, and one could be connected to since there is this client.
    pub(super) async fn ready(&self) {
        loop {
            self.filled().await;
            // Of all who wait one tries; what it finds out is so for all of them.
            if self.balance.has_open(now()) && self.reached.get_or_try_init(|| self.reach()).await.is_ok() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Connects to some of the endpoints, until one of them accepts.
    async fn reach(&self) -> Result<(), ()> {
        let endpoints = self.balance.services();
        let first = crate::random::next() as usize % endpoints.len().max(1);
        let tried = endpoints.iter().cycle().skip(first).take(TRIED.min(endpoints.len()));
        let dials = tried.map(|(key, _)| {
            let endpoint = Endpoint::from(key);
            Box::pin(async move {
                // A connector may be anybody's.
                let dialed = AssertUnwindSafe(self.connect.dial(&endpoint)).catch_unwind().await;
                dialed.map_err(drop)?.map_err(drop)
            })
        });
        let dials: Vec<_> = dials.collect();
        if dials.is_empty() {
            return Err(());
        }
        select_ok(dials).await.map(drop)
    }
}
