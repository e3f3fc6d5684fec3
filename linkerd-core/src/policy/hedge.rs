//! When a request is sent to a second endpoint because the first takes long.

use linkerd_retry::hedge::{HedgeDelay, HedgeLayer, InvalidHedge};

/// When an attempt that takes long is made a second time, at another endpoint, while the first goes on.
///
/// Only requests that may be sent twice are hedged, and only if they are here whole: of an idempotent method, or a POST or
/// PATCH with an `Idempotency-Key`. A hedge is paid for twice, from its share of the requests and from the name's budget of
/// retries. The first answer that is no failure wins, and the other attempt is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgePolicy {
    delay: HedgeDelay,
    share: f64,
}

impl HedgePolicy {
    /// The share of the requests of the last ten seconds that are hedged at most, unless another is set.
    pub const DEFAULT_SHARE: f64 = 0.05;

    /// Hedges after this delay, 5 % of the requests at most.
    ///
    /// # Errors
    ///
    /// If the delay is out of range.
    pub fn new(delay: HedgeDelay) -> Result<Self, InvalidHedge> {
        Self { delay, share: Self::DEFAULT_SHARE }.checked()
    }

    /// Hedges this share of the requests of the last ten seconds at most, from 0 to 1.
    ///
    /// # Errors
    ///
    /// If it is out of range.
    pub fn share(self, share: f64) -> Result<Self, InvalidHedge> {
        Self { share, ..self }.checked()
    }

    /// The layer that does it.
    pub(crate) fn layer<H: Clone>(&self, request: H) -> Result<HedgeLayer<H>, InvalidHedge> {
        HedgeLayer::new(request, self.delay)?.share(self.share)
    }

    fn checked(self) -> Result<Self, InvalidHedge> {
        self.layer(()).map(|_| self)
    }
}
