//! How a balancer balances.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    load::{LeastLoaded, Load, PeakEwma},
    strategy::{P2c, Strategy},
};

/// What a [`Balance`](crate::Balance) is built with: a strategy, a load for each endpoint, how long to wait.
///
/// A clone is the same policy; balancers built from it share nothing else.
///
/// # Defaults
///
/// [`P2c`] over [`PeakEwma`] with its failure penalty, and no waiting.
#[derive(Clone)]
pub struct Policy {
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) new_load: Arc<dyn Fn() -> Box<dyn Load> + Send + Sync>,
    pub(crate) max_wait: Duration,
}

impl Policy {
    /// Picks by `strategy`; `new_load` makes the load of each endpoint.
    pub fn new<L: Load>(strategy: impl Strategy, new_load: impl Fn() -> L + Send + Sync + 'static) -> Self {
        Self {
            strategy: Arc::new(strategy),
            new_load: Arc::new(move || Box::new(new_load())),
            max_wait: Duration::ZERO,
        }
    }

    /// [`P2c`] over [`LeastLoaded`]: Linkerd's `p2c`.
    #[must_use]
    pub fn least_loaded() -> Self {
        Self::new(P2c::new(), LeastLoaded::new)
    }

    /// [`P2c`] over [`PeakEwma`] with the default decay: Linkerd's `ewma`, plus the failure penalty.
    #[must_use]
    pub fn peak_ewma() -> Self {
        Self::new(P2c::new(), PeakEwma::default)
    }

    /// Lets [`Balance::acquire`](crate::Balance::acquire) wait so long while there is no endpoint at all. Zero, the
    /// default, is not to wait.
    #[must_use]
    pub const fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }
}

impl Policy {
    /// What metrics call it: the strategy's name and the load's, `p2c_least_loaded`, as Finagle has it.
    #[must_use]
    pub fn algorithm(&self) -> String {
        format!("{}_{}", self.strategy.name(), (self.new_load)().name())
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::peak_ewma()
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("strategy", &self.strategy)
            .field("max_wait", &self.max_wait)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_finagles_names() {
        assert_eq!(Policy::least_loaded().algorithm(), "p2c_least_loaded");
        assert_eq!(Policy::default().algorithm(), "p2c_peak_ewma");
    }
}
