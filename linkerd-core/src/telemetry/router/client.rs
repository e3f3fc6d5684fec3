//! The metrics of a bound name.

use std::sync::{Arc, OnceLock};

use linkerd_dtab::Path;

use super::{BalancerStats, Seldom, TimeoutStats, label};
use crate::{
    Error,
    telemetry::{Counter, Failures, Gauge, RequestStats, Scope, Stat, StatusStats, StreamStats},
};

/// `rt/<label>/client/<id>`: attempts to one bound name.
#[derive(Debug)]
pub struct ClientStats {
    /// Attempts, and what became of them.
    pub requests: RequestStats,
    /// Responses by status.
    pub status: StatusStats,
    /// Connections made.
    pub connects: Counter,
    /// Connections open.
    pub connections: Gauge,
    /// How long making a connection took.
    pub connect_latency_ms: Stat,
    /// How long not making one took.
    pub failed_connect_latency_ms: Stat,
    /// Connections that were no longer wanted before they were made.
    pub cancelled_connects: Counter,
    /// How long connections were open, in milliseconds.
    pub connection_duration: Stat,
    /// Bytes read, heads included.
    pub received_bytes: Counter,
    /// Bytes written, heads included.
    pub sent_bytes: Counter,
    /// How long an attempt waited for a connection.
    pub service_acquisition_latency_ms: Stat,
    /// The connection pools, all endpoints together.
    pub pool: PoolStats,
    /// Whether a request can be taken: 1 or 0.
    pub available: Gauge,
    /// The balancer.
    pub balancer: BalancerStats,
    /// Ejections of endpoints.
    pub failure_accrual: AccrualStats,
    /// Attempts made again because nothing had been sent.
    pub requeues: RequeueStats,
    service_creation: Failures,
    /// Attempts that a timer ended.
    pub timeouts: TimeoutStats,
    dropped_trailers: Seldom,
    dropped_interim: Seldom,
    streams: OnceLock<Arc<StreamStats>>,
    scope: Scope,
}

/// `pool_*` of a client.
#[derive(Debug)]
pub struct PoolStats {
    /// Connections in use or being made.
    pub size: Gauge,
    /// Idle connections.
    pub cached: Gauge,
    /// Attempts that wait for a connection.
    pub waiters: Gauge,
    /// Attempts that had to wait for one.
    pub num_waited: Counter,
    /// Attempts refused because too many wait.
    pub num_too_many_waiters: Counter,
}

/// `failure_accrual` of a client.
#[derive(Debug)]
pub struct AccrualStats {
    /// Endpoints ejected.
    pub removals: Counter,
    /// Endpoints that came back.
    pub revivals: Counter,
    /// Requests that tried whether an endpoint is back.
    pub probes: Counter,
    /// For how long endpoints were ejected, in all.
    pub removed_for_ms: Counter,
    /// Endpoints that are ejected now.
    pub ejected: Gauge,
    /// How many of a hundred endpoints that is.
    pub ejected_percent: Gauge,
    /// Ejections that did not happen because too many were ejected already.
    pub denied: Counter,
}

/// `failfast` of a client: there if it is configured.
#[derive(Debug)]
pub struct FailFastStats {
    /// Endpoints that could not be connected to.
    pub marked_dead: Counter,
    /// Those that could again.
    pub marked_available: Counter,
    /// Those that cannot now.
    pub unhealthy: Gauge,
    /// Connections that were tried to find out.
    pub tries: Counter,
}

/// `retries` of a client.
#[derive(Debug)]
pub struct RequeueStats {
    /// Attempts made again.
    pub requeues: Counter,
    /// Attempts made again, for each request.
    pub requeues_per_request: Stat,
    /// How many the budget would allow now.
    pub budget: Gauge,
    /// Requests that the budget allowed no further attempt.
    pub budget_exhausted: Counter,
    /// Requests that had as many attempts as one may have.
    pub request_limit: Counter,
    /// Requests that were no longer tried since no endpoint was open.
    pub not_open: Counter,
    /// Failures that allow no further attempt.
    pub cannot_retry: Counter,
}

impl ClientStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let accrual = scope.scope("failure_accrual");
        let retries = scope.scope("retries");
        Self {
            requests: RequestStats::new(scope),
            status: StatusStats::new(scope),
            connects: scope.counter("connects"),
            connections: scope.gauge("connections"),
            connect_latency_ms: scope.stat("connect_latency_ms"),
            failed_connect_latency_ms: scope.stat("failed_connect_latency_ms"),
            cancelled_connects: scope.counter("cancelled_connects"),
            connection_duration: scope.stat("connection_duration"),
            received_bytes: scope.counter("received_bytes"),
            sent_bytes: scope.counter("sent_bytes"),
            service_acquisition_latency_ms: scope.stat("service_acquisition_latency_ms"),
            service_creation: Failures::new(&scope.scope("service_creation")),
            pool: PoolStats {
                size: scope.gauge("pool_size"),
                cached: scope.gauge("pool_cached"),
                waiters: scope.gauge("pool_waiters"),
                num_waited: scope.counter("pool_num_waited"),
                num_too_many_waiters: scope.counter("pool_num_too_many_waiters"),
            },
            available: scope.gauge("available"),
            balancer: BalancerStats::new(scope.scope("loadbalancer")),
            failure_accrual: AccrualStats {
                removals: accrual.counter("removals"),
                revivals: accrual.counter("revivals"),
                probes: accrual.counter("probes"),
                removed_for_ms: accrual.counter("removed_for_ms"),
                ejected: accrual.gauge("ejected"),
                ejected_percent: accrual.gauge("ejected_percent"),
                denied: accrual.counter("denied"),
            },
            requeues: RequeueStats {
                requeues: retries.counter("requeues"),
                requeues_per_request: retries.stat("requeues_per_request"),
                budget: retries.gauge("budget"),
                budget_exhausted: retries.counter("budget_exhausted"),
                request_limit: retries.counter("request_limit"),
                not_open: retries.counter("not_open"),
                cannot_retry: retries.counter("cannot_retry"),
            },
            timeouts: TimeoutStats::new(scope),
            dropped_trailers: Seldom::new(scope, "dropped_trailers"),
            dropped_interim: Seldom::new(scope, "dropped_interim"),
            streams: OnceLock::new(),
            scope: scope.clone(),
        }
    }

    /// The counter of connections that ended because nothing moved: `read_timeout`, `write_timeout`. There if it is
    /// configured.
    pub(crate) fn timeout(&self, name: &str) -> Counter {
        self.scope.counter(name)
    }

    /// Counts a response that was read whole and whose trailers are not passed on, in `dropped_trailers`, which is there
    /// from the first on.
    pub fn trailers_dropped(&self) {
        self.dropped_trailers.add(1);
    }

    /// Counts interim responses (102 to 199) that are not passed on, in `dropped_interim`, which is there from the first
    /// on. Those are seen that begin what was read after a request or directly follow one that does; to see one that
    /// comes in pieces hyper would need four allocations for each request.
    pub fn interim_dropped(&self, n: u64) {
        self.dropped_interim.add(n);
    }

    /// What is counted of streams, which is there from the first one of HTTP/2 on.
    pub(crate) fn streams(&self) -> &Arc<StreamStats> {
        self.streams.get_or_init(|| Arc::new(StreamStats::new(&self.scope)))
    }

    /// The client's own scope, `rt/<label>/client/<id>`.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The attempts for one logical name, `service/<path>` below the client.
    #[must_use]
    pub fn service(&self, path: &Path) -> RequestStats {
        RequestStats::new(&self.scope.scope("service").scope(&label(path)))
    }

    /// Counts an attempt that got no connection, in `service_creation/failures`.
    pub fn creation_failed(&self, error: &Error) {
        self.service_creation.record_creation(error);
    }

    /// Resolves the handles of `failfast`.
    #[must_use]
    pub fn fail_fast(&self) -> FailFastStats {
        let scope = self.scope.scope("failfast");
        FailFastStats {
            marked_dead: scope.counter("marked_dead"),
            marked_available: scope.counter("marked_available"),
            unhealthy: scope.gauge("unhealthy"),
            tries: scope.counter("unhealthy_num_tries"),
        }
    }

    /// Says in `loadbalancer/algorithm/<name>` how endpoints are picked, `p2c_least_loaded` for example.
    pub fn algorithm(&self, name: &str) {
        self.scope.scope("loadbalancer").scope("algorithm").gauge(name).set(1);
    }
}
