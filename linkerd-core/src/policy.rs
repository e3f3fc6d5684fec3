//! What is configured per name: how long, how often, how balanced.
//!
//! A policy is folded once, when the stack of a name is built; no request looks anything up.

use std::{fmt, sync::Arc, time::Duration};

use linkerd_balance::{
    Breaker, BreakerCounters, Health,
    accrual::{Backoff, ConsecutiveFailures},
};
use linkerd_dtab::Path;

use linkerd_retry::Budget;

use crate::{
    classify::{HttpClassifier, HttpClassify},
    http::Connect,
};

/// How a logical name's requests are treated.
#[derive(Clone)]
pub struct ServicePolicy {
    /// How long a request may take in all: naming, connecting, retries and backoff. `None`: for ever.
    pub total_timeout: Option<Duration>,
    /// How many retries there may be. Each logical name has a fresh budget like this one.
    pub retry_budget: Budget,
    /// How long to wait before each.
    pub backoff: linkerd_retry::Backoff,
    /// What a failure is, and which ones are retried.
    pub classifier: Arc<dyn HttpClassify>,
    /// Whether a deadline that came with the request is kept: once it has passed, no attempt begins.
    pub enforce_deadline: bool,
}

/// How a bound name's endpoints are balanced, and what becomes of the ones that fail.
#[derive(Clone)]
pub struct ClientPolicy {
    /// How an endpoint is picked.
    pub balancer: linkerd_balance::Policy,
    /// When an endpoint is taken out for a while.
    pub accrual: AccrualPolicy,
    /// How many requests of which nothing was sent may be sent elsewhere. Each client has a fresh
    /// budget like this one.
    pub requeue_budget: Budget,
    /// How long one attempt may take. `None`: for ever.
    pub attempt_timeout: Option<Duration>,
    /// How endpoints are reached. `None`: as the mesh reaches them.
    pub connect: Option<Arc<dyn Connect>>,
}

/// When an endpoint is taken out, and for how long.
#[derive(Clone, Debug)]
pub struct AccrualPolicy {
    /// After so many failures in a row. `None`: never.
    pub consecutive_failures: Option<std::num::NonZeroU32>,
    /// How long until it is probed.
    pub backoff: Backoff,
}

/// The policy of each name, as somebody configured it.
pub trait Policies: Send + Sync + 'static {
    /// The policy of a logical name.
    fn service(&self, path: &Path) -> ServicePolicy;
    /// The policy of a bound name.
    fn client(&self, id: &Path) -> ClientPolicy;
}

/// The same policies for every name.
#[derive(Clone, Debug, Default)]
pub struct Uniform {
    /// For every logical name.
    pub service: ServicePolicy,
    /// For every bound name.
    pub client: ClientPolicy,
}

impl Policies for Uniform {
    fn service(&self, _path: &Path) -> ServicePolicy {
        self.service.clone()
    }

    fn client(&self, _id: &Path) -> ClientPolicy {
        self.client.clone()
    }
}

impl AccrualPolicy {
    /// The breaker of one endpoint, if it is ever taken out.
    pub(crate) fn breaker(&self, health: Health, counters: BreakerCounters) -> Option<Breaker> {
        let accrual = Box::new(ConsecutiveFailures::new(self.consecutive_failures?));
        Some(Breaker::with_counters(accrual, self.backoff, health, counters, crate::random::next()))
    }
}

/// Retries within Linkerd's budget, at once; no limit on time; deadlines kept; 5xx a failure that is not retried.
impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            total_timeout: None,
            retry_budget: default_budget(),
            backoff: linkerd_retry::Backoff::none(),
            classifier: Arc::new(HttpClassifier::default()),
            enforce_deadline: true,
        }
    }
}

/// P2C over peak EWMA with its failure penalty, five failures in a row, Linkerd's budget of requeues.
impl Default for ClientPolicy {
    fn default() -> Self {
        Self {
            balancer: linkerd_balance::Policy::default(),
            accrual: AccrualPolicy::default(),
            requeue_budget: default_budget(),
            attempt_timeout: None,
            connect: None,
        }
    }
}

/// Five failures in a row, then 5 s to 300 s, jittered.
impl Default for AccrualPolicy {
    fn default() -> Self {
        Self { consecutive_failures: Some(ConsecutiveFailures::DEFAULT), backoff: Backoff::default() }
    }
}

fn default_budget() -> Budget {
    Budget::new(linkerd_retry::BudgetSettings::default()).unwrap_or_else(|_| Budget::off())
}

impl fmt::Debug for ServicePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServicePolicy")
            .field("total_timeout", &self.total_timeout)
            .field("retry_budget", &self.retry_budget)
            .field("backoff", &self.backoff)
            .field("enforce_deadline", &self.enforce_deadline)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPolicy")
            .field("balancer", &self.balancer)
            .field("accrual", &self.accrual)
            .field("requeue_budget", &self.requeue_budget)
            .field("attempt_timeout", &self.attempt_timeout)
            .finish_non_exhaustive()
    }
}
