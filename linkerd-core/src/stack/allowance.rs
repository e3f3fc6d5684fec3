//! What the requests of one logical name may take together.

use linkerd_dtab::Path;
use linkerd_retry::Budget;

use super::{hedge::Hedges, limit::Limit};
use crate::{mesh::LimitState, policy::ServicePolicy, telemetry::RouterStats};

/// What the requests of one logical name have in common, whatever local tables they come with: a header must not bring
/// more of it along. It stays while anything that was taken from it is out.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(super) retries: Budget,
    pub(super) hedges: Option<Hedges>,
    pub(super) limit: Option<Limit>,
}

impl Allowance {
    pub(crate) fn new(path: &Path, policy: &ServicePolicy, metrics: &RouterStats) -> Self {
        let retries = policy.retry_budget.fresh();
        let hedges = policy.hedge.as_ref().and_then(|hedge| Hedges::new(hedge, &retries));
        let limit = policy.limit.as_ref().and_then(|limit| Limit::new(path, limit, metrics));
        Self { retries, hedges, limit }
    }

    /// What its limit is at, if it has one.
    pub(crate) fn limit(&self) -> Option<LimitState> {
        self.limit.as_ref().map(Limit::state)
    }

    /// Brings the numbers up to date that are not counted as they happen.
    pub(crate) fn refresh(&self) {
        if let Some(limit) = &self.limit {
            limit.refresh();
        }
    }
}
