//! What is configured per name: how long, how often, how balanced.
//!
//! A policy is folded once, when the stack of a name is built; no request looks anything up.

use std::{fmt, sync::Arc, time::Duration};

use linkerd_dtab::Path;

use crate::{classify::{HttpClassifier, HttpClassify}, connect::ConnectPolicy};

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
#[derive(Clone, Debug)]
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
    /// Connections.
    pub connect: ConnectPolicy,
}

/// When an endpoint is taken out, and for how long.
#[derive(Clone, Debug)]
pub struct AccrualPolicy {
    /// After so many failures in a row. `None`: never.
    pub consecutive_failures: Option<std::num::NonZeroU32>,
    /// How long until it is probed.
    pub backoff: linkerd_balance::Backoff,
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
