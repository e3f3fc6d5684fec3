//! The policies of names and clients, as a file has them.

use std::sync::{Arc, Mutex, PoisonError};

use linkerd_dtab::{Path, interpreter::ByNamespace};
use linkerd_retry::{Backoff as RetryBackoff, Budget as RetryBudget, BudgetSettings, replay::ReplayMemory};
use serde_json::json;

use super::{CHECKED, Wire, socket_options};
#[cfg(feature = "tls")]
use crate::config::tls::Connectors;
use crate::{
    ClientPolicy, Policies, ServicePolicy,
    config::{Backoff, Budget, Classifier, Client, HostConnectionPool, Retries, Scoped, Service, Session, balancing},
    http::{self, ClientConfig, HttpConnect, PoolConfig},
};

/// The policies of a router, as its file has them.
#[derive(Debug)]
pub(super) struct FilePolicies {
    pub(super) service: Scoped<Service>,
    pub(super) client: Scoped<Client>,
    pub(super) wire: Wire,
    pub(super) memory: ReplayMemory,
    #[cfg(feature = "tls")]
    pub(super) connectors: Connectors,
    pub(super) services: Made<Service, ServicePolicy>,
    pub(super) clients: Made<Client, ClientPolicy>,
}

/// What was made of the last few settings: most names have the same, and then share what can be shared.
#[derive(Debug)]
pub(super) struct Made<S, P>(Mutex<Vec<(S, P)>>);

impl<S, P> Made<S, P> {
    const MOST: usize = 16;
}

impl<S, P> Default for Made<S, P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Clone + PartialEq, P: Clone> Made<S, P> {
    fn of(&self, settings: S, make: impl FnOnce(S) -> P) -> P {
        // Each operation leaves it whole.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, policy)) = made.iter().find(|(of, _)| *of == settings) {
            return policy.clone();
        }
        let policy = make(settings.clone());
        if made.len() == Self::MOST {
            made.remove(0);
        }
        made.push((settings, policy.clone()));
        policy
    }
}

impl Policies for FilePolicies {
    fn service(&self, path: &Path) -> ServicePolicy {
        // A service is the same in each namespace.
        let path = &ByNamespace::split(path).map_or_else(|| path.clone(), |(_, path)| path);
        self.services.of(self.service.for_path(path), |service| self.service_policy(&service))
    }

    fn client(&self, id: &Path) -> ClientPolicy {
        self.clients.of(self.client.for_path(id), |client| self.client_policy(client))
    }
}

impl FilePolicies {
    fn service_policy(&self, service: &Service) -> ServicePolicy {
        let Service {
            total_timeout: _, // By its method: it may be unlimited in so many words.
            retries: Retries { budget: retry_budget, backoff, max_attempts, hints, buffer_bytes },
            response_classifier,
            enforce_deadline: _, // By its method, which knows the default.
            idle_timeout,
            hedge,
            limit,
            classification_timeout,
            retry_buffer_size: _, // By its methods, which know the protocol.
        } = service;
        ServicePolicy {
            total_timeout: service.total_timeout(),
            retry_budget: budget(&retry_budget.clone().unwrap_or_default()),
            backoff: backoff.as_ref().map_or_else(RetryBackoff::none, retry_backoff),
            max_attempts: *max_attempts,
            hedge: *hedge,
            limit: *limit,
            classifier: Classifier::build(response_classifier.as_ref(), self.wire.protocol),
            enforce_deadline: service.enforces_deadline(),
            retry_buffer_bytes: buffer_bytes.unwrap_or_else(|| service.request_buffer_bytes(self.wire.protocol)),
            replay_memory: self.memory.clone(),
            idle_timeout: *idle_timeout,
            retry_hints: hints.unwrap_or(false),
            classification_timeout: classification_timeout.unwrap_or(ServicePolicy::CLASSIFICATION_TIMEOUT),
            response_buffer_bytes: service.response_buffer_bytes(),
        }
    }

    fn client_policy(&self, settings: Client) -> ClientPolicy {
        #[cfg(feature = "tls")]
        let tls = settings.tls().and_then(|tls| self.connectors.of(tls));
        let Client {
            tls: _, // By its method: it may be off.
            load_balancer,
            failure_accrual,
            fail_fast,
            requeue_budget,
            request_attempt_timeout,
            host_connection_pool,
            session,
            socket_options: options,
            request_authorizers: _,
            forward_client_cert,
            h2,
            http1,
            thrift_framed: _,
            attempt_ttwitter_upgrade: _,
        } = settings;
        // Refused, if it is on.
        #[cfg(not(feature = "tls"))]
        let _ = forward_client_cert;
        let HostConnectionPool { min_size, max_size, idle_time, max_waiters } =
            host_connection_pool.clone().unwrap_or_default();
        let Session { life_time, idle_time: session_idle_time } = session.unwrap_or_default();
        let config = ClientConfig {
            wire: if http1 == Some(true) { http::Wire::Http1 } else { self.wire.speaks(&h2, None) },
            pool: PoolConfig {
                min_size,
                max_size: max_size.unwrap_or(usize::MAX),
                idle_time: [idle_time, session_idle_time].into_iter().flatten().min(),
                max_age: life_time,
                max_waiters: max_waiters.unwrap_or(usize::MAX),
            },
            socket: options.as_ref().map(socket_options).unwrap_or_default(),
            max_header_bytes: self.wire.head_bytes(&h2),
            aggregate_up_to: self.wire.aggregate_up_to,
            #[cfg(feature = "tls")]
            tls,
            #[cfg(feature = "tls")]
            forward_client_cert: forward_client_cert.unwrap_or(false),
            aggregate_unknown: self.wire.aggregate_unknown,
            preserve_header_case: self.wire.preserve_header_case,
            ..ClientConfig::default()
        };
        let shown = [
            ("failFast", json!(fail_fast.unwrap_or(false))),
            ("requeueBudget", balancing::shown_budget(&requeue_budget.clone().unwrap_or_default())),
            ("hostConnectionPool", balancing::shown_pool(&host_connection_pool.clone().unwrap_or_default())),
        ];
        let (load_balancer, failure_accrual) = (load_balancer.unwrap_or_default(), failure_accrual.unwrap_or_default());
        let settings = balancing::shown(&load_balancer, &failure_accrual, shown);
        ClientPolicy {
            balancer: balancing::balancer(&load_balancer, &failure_accrual),
            accrual: balancing::accrual(&failure_accrual),
            requeue_budget: budget(&requeue_budget.unwrap_or_default()),
            attempt_timeout: request_attempt_timeout,
            connect: Some(Arc::new(HttpConnect::new(config))),
            hash_on: balancing::hash_on(&load_balancer.kind),
            fail_fast: fail_fast.unwrap_or(false),
            hints: load_balancer.hints,
            settings: Some(settings.into()),
        }
    }
}

fn budget(budget: &Budget) -> RetryBudget {
    let Budget { ttl, min_retries_per_sec: min_per_sec, percent_can_retry: percent } = *budget;
    RetryBudget::new(BudgetSettings { ttl, min_per_sec, percent }).expect(CHECKED)
}

fn retry_backoff(backoff: &Backoff) -> RetryBackoff {
    match *backoff {
        Backoff::Constant { pause } => RetryBackoff::constant(pause),
        Backoff::Jittered { min, max } => RetryBackoff::decorrelated(min, max).expect(CHECKED),
        Backoff::EqualJittered { min, max } => RetryBackoff::equal_jittered(min, max).expect(CHECKED),
        Backoff::FullJittered { min, max } => RetryBackoff::full_jittered(min, max).expect(CHECKED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, ProtocolKind, Router},
        http::Propagation,
    };

    fn policy(protocol: ProtocolKind, service: &str) -> ServicePolicy {
        let name = if protocol == ProtocolKind::H2 { "h2" } else { "http" };
        let text = format!("routers: [{{protocol: {name}, servers: [{{}}], service: {{{service}}}}}]");
        let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
        let Router { service, client, .. } = config.routers[0].clone();
        let wire = Wire {
            max_header_bytes: 0,
            max_initial_line_bytes: None,
            max_error_bytes: 0,
            propagation: Propagation::DEFAULT,
            aggregate_up_to: 0,
            aggregate_unknown: false,
            preserve_header_case: false,
            #[cfg(feature = "compression")]
            compression: crate::http::Compression::default(),
            protocol,
        };
        let policies = FilePolicies {
            service,
            client,
            wire,
            memory: ReplayMemory::default(),
            #[cfg(feature = "tls")]
            connectors: Connectors::default(),
            services: Made::default(),
            clients: Made::default(),
        };
        policies.service(&"/svc/web".parse().unwrap())
    }

    #[test]
    fn a_service_of_h2_keeps_requests_and_holds_back_responses() {
        let sizes = |protocol, keys| {
            let policy = policy(protocol, keys);
            (policy.retry_buffer_bytes, policy.response_buffer_bytes, policy.classification_timeout.as_millis())
        };
        let (h2, http) = (ProtocolKind::H2, ProtocolKind::Http);
        assert_eq!(sizes(h2, ""), (16383, 16383, 100));
        assert_eq!(sizes(h2, "classificationTimeoutMs: 0, retryBufferSize: {requestBytes: 1}"), (1, 16383, 0));
        assert_eq!(sizes(h2, "retryBufferSize: {requestBytes: 0, responseBytes: 2}"), (0, 2, 100));
        assert_eq!(sizes(h2, "retries: {bufferBytes: 3}, retryBufferSize: {requestBytes: 1}").0, 3);
        assert_eq!((sizes(http, "").0, sizes(http, "retries: {bufferBytes: 3}").0), (0, 3));
    }
}
