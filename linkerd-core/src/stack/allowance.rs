//! What the requests of one logical name may take together.

use linkerd_retry::Budget;

use super::hedge::Hedges;
use crate::policy::ServicePolicy;

/// What the requests of one logical name have in common, whatever local tables they come with: a header must not bring
/// more of it along. It stays while anything that was taken from it is out.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(super) retries: Budget,
    pub(super) hedges: Option<Hedges>,
}

impl Allowance {
    pub(crate) fn new(policy: &ServicePolicy) -> Self {
        let retries = policy.retry_budget.fresh();
        let hedges = policy.hedge.as_ref().and_then(|hedge| Hedges::new(hedge, &retries));
        Self { retries, hedges }
    }
}
