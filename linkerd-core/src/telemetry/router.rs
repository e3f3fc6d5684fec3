//! The metrics of a router, its servers, services and clients, by the names of Linkerd 1.x.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use linkerd_balance::ApertureWidth;
use linkerd_dtab::Path;

use crate::{Error, TimedOut, Timer};

use super::{Counter, Entered, Failures, Gauge, Hold, Registry, RequestStats, Scope, Stat, StatusStats, StreamStats};

/// Makes the metrics of one router: everything below `rt/<label>`.
#[derive(Clone, Debug)]
pub struct RouterStats {
    label: Arc<str>,
    scope: Scope,
}

/// `rt/<label>/server/<ip>/<port>`.
#[derive(Debug)]
pub struct ServerStats {
    /// Requests, and what became of them.
    pub requests: RequestStats,
    /// Responses by status.
    pub status: StatusStats,
    /// Connections accepted.
    pub connects: Counter,
    /// Connections open.
    pub connections: Gauge,
    /// How long connections were open, in milliseconds.
    pub connection_duration: Stat,
    /// Bytes read, heads included.
    pub received_bytes: Counter,
    /// Bytes written, heads included.
    pub sent_bytes: Counter,
    /// Requests refused so that the caller may try again.
    pub nacks: Counter,
    /// Requests refused so that the caller may not try again.
    pub nonretryable_nacks: Counter,
    /// Requests refused for a header's name.
    pub rejected_invalid_header_names: Counter,
    /// Requests refused for a header's value.
    pub rejected_invalid_header_values: Counter,
    /// Requests that the time of the server ended.
    pub timeouts: TimeoutStats,
    dropped_trailers: Seldom,
    handshake_failures: Seldom,
    upgrades: Seldom,
    tunnels: OnceLock<Gauge>,
    flavoured: Seldom,
    flavours_expired: Seldom,
    flavours_refused: Seldom,
    streams: OnceLock<Arc<StreamStats>>,
}

/// A counter that is there from the first event on: Linkerd has none of its name.
#[derive(Clone, Debug)]
struct Seldom {
    scope: Scope,
    name: &'static str,
    counter: OnceLock<Counter>,
}

impl Seldom {
    fn new(scope: &Scope, name: &'static str) -> Self {
        Self { scope: scope.clone(), name, counter: OnceLock::new() }
    }

    fn add(&self, n: u64) {
        self.get().add(n);
    }

    fn get(&self) -> &Counter {
        self.counter.get_or_init(|| self.scope.counter(self.name))
    }
}

/// `timeouts/<timer>`: what each timer ended, there from the first on.
pub struct TimeoutStats {
    scope: Scope,
    by_timer: [OnceLock<Counter>; Timer::ALL.len()],
}

impl TimeoutStats {
    fn new(scope: &Scope) -> Self {
        Self { scope: scope.scope("timeouts"), by_timer: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// Counts an error, if a timer is why, by [the name of the timer](Timer::name).
    pub fn record(&self, error: &Error) {
        if let Some(TimedOut { timer, .. }) = error.timer() {
            self.by_timer[timer as usize].get_or_init(|| self.scope.counter(timer.name())).incr();
        }
    }
}

impl fmt::Debug for TimeoutStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimeoutStats").field(&self.scope).finish()
    }
}

/// `rt/<label>/service/<path>`: logical requests, retries included.
#[derive(Debug)]
pub struct ServiceStats {
    /// Requests, and what became of them. An answer that is counted at its end holds on to them.
    pub requests: Arc<RequestStats>,
    /// Retries by classification.
    pub retries: RetryStats,
    /// Requests that a timer ended.
    pub timeouts: TimeoutStats,
    idle_timeouts: Seldom,
}

/// `retries` of a service.
#[derive(Debug)]
pub struct RetryStats {
    /// Retries.
    pub total: Counter,
    /// Retries of each request.
    pub per_request: Stat,
    /// How many retries the budget would allow now.
    pub budget: Gauge,
    /// Retries that the budget did not allow.
    pub budget_exhausted: Counter,
    deadline: Seldom,
    pushed_back: Seldom,
    is_retry: Seldom,
    limited: Seldom,
    waiting: OnceLock<Gauge>,
    scope: Scope,
    hedges: Seldom,
    hedge_wins: Seldom,
    hedge_budget_exhausted: Seldom,
    response_stream_too_long: Seldom,
    classification_timeout: Seldom,
}

/// `rt/<label>/service/<path>/limit`: there if it is configured.
#[derive(Debug, Default)]
pub struct LimitStats {
    /// How many requests are let in at a time; of a rate, how many in its time.
    pub limit: Gauge,
    /// Requests that were let in and have not ended. Zero for a rate.
    pub in_flight: Gauge,
    /// Requests that wait to be let in.
    pub queued: Gauge,
    /// Requests that were not let in.
    pub shed: Counter,
}

/// `rt/<label>/allowances`: what logical names have of their own, whatever uses them.
#[derive(Debug)]
pub struct AllowanceStats {
    shared: Seldom,
}

impl AllowanceStats {
    /// Counts a stack of a name that there was no room for, in `shared`, which is there from the first on.
    pub fn shared(&self) {
        self.shared.add(1);
    }
}

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

/// `loadbalancer` of a client.
#[derive(Debug)]
pub struct BalancerStats {
    /// Endpoints.
    pub size: Gauge,
    /// Endpoints that are open.
    pub available: Gauge,
    /// Endpoints without room for another request.
    pub busy: Gauge,
    /// Endpoints that are ejected or unreachable.
    pub closed: Gauge,
    /// Requests in flight, all endpoints together.
    pub load: Gauge,
    /// Endpoints that came.
    pub adds: Counter,
    /// Endpoints that went.
    pub removes: Counter,
    /// Picks that found no open endpoint and took a closed one.
    pub max_effort_exhausted: Counter,
    /// Address sets that came.
    pub updates: Counter,
    /// Those that changed the set.
    pub rebuilds: Counter,
    /// The mean of the endpoints' weights, rounded.
    pub meanweight: Gauge,
    /// Endpoints that picks may meet: fewer than there are if only a subset is used.
    pub in_use: Gauge,
    /// Endpoints that their source dropped and that stay for now.
    pub leaving: Gauge,
    /// Whether too few endpoints are open: 1 or 0.
    pub panicked: Gauge,
    /// How often too few endpoints were open.
    pub panics: Counter,
    /// Requests that were refused because too few endpoints were open.
    pub refused: Counter,
    /// Requests that went to the next tier because their own was loaded.
    pub spilled: Counter,
    /// The tier that most requests are meant for, from 0.
    pub tier: Gauge,
    /// Different weights.
    pub weight_classes: Gauge,
    both_idle: OnceLock<Counter>,
    aperture: OnceLock<ApertureStats>,
    scope: Scope,
}

/// What a balancer that uses a subset adds to its metrics.
#[derive(Debug)]
struct ApertureStats {
    logical: Gauge,
    physical: Gauge,
    is_ordered: Gauge,
    load: Gauge,
    widened: Counter,
    narrowed: Counter,
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

/// `rt/<label>/bindcache`: the four caches on the way from a path to a client.
pub struct BindCacheStats {
    /// Paths and their stacks.
    pub path: CacheStats,
    /// Bound trees.
    pub tree: CacheStats,
    /// Bound names with what the namers left of the path.
    pub bound: CacheStats,
    /// Bound names.
    pub client: CacheStats,
    _hold: Hold,
}

/// One cache.
#[derive(Clone, Debug)]
pub struct CacheStats {
    /// Look-ups that had to build.
    pub misses: Counter,
    /// Entries that had to make room.
    pub evicts: Counter,
    /// Entries that were idle for too long.
    pub expires: Counter,
    /// Builds that were not kept, since the cache was full of busy entries.
    pub oneshots: Counter,
}

/// The label of a name: without its leading slash.
fn label(path: &Path) -> String {
    let path = path.to_string();
    path.strip_prefix('/').map(str::to_owned).unwrap_or(path)
}

impl RouterStats {
    /// The metrics of the router of this label.
    #[must_use]
    pub fn new(registry: &Registry, label: &str) -> Self {
        Self { label: label.into(), scope: registry.root().scope("rt").scope(label) }
    }

    /// The router's label.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The router's own scope, `rt/<label>`.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Says in `originator` that the router is where requests begin.
    pub fn originator(&self) {
        self.scope.gauge("originator").set(1);
    }

    /// The metrics of a server.
    #[must_use]
    pub fn server(&self, addr: SocketAddr) -> ServerStats {
        ServerStats::new(&self.scope.scope("server").scope(&format!("{}/{}", addr.ip(), addr.port())))
    }

    /// The metrics of a logical name.
    #[must_use]
    pub fn service(&self, path: &Path) -> ServiceStats {
        ServiceStats::new(&self.scope.scope("service").scope(&label(path)))
    }

    /// The metrics of the limit of a logical name.
    #[must_use]
    pub fn limit(&self, path: &Path) -> LimitStats {
        let scope = self.scope.scope("service").scope(&label(path)).scope("limit");
        LimitStats {
            limit: scope.gauge("limit"),
            in_flight: scope.gauge("in_flight"),
            queued: scope.gauge("queued"),
            shed: scope.counter("shed"),
        }
    }

    /// The metrics of what logical names have of their own.
    #[must_use]
    pub fn allowances(&self) -> AllowanceStats {
        AllowanceStats { shared: Seldom::new(&self.scope.scope("allowances"), "shared") }
    }

    /// The metrics of a bound name.
    #[must_use]
    pub fn client(&self, id: &Path) -> ClientStats {
        ClientStats::new(&self.scope.scope("client").scope(&label(id)))
    }

    /// The metrics of the binding caches.
    #[must_use]
    pub fn bind_cache(&self) -> BindCacheStats {
        BindCacheStats::new(&self.scope.scope("bindcache"))
    }
}

impl ServerStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        Self {
            requests: RequestStats::new(scope),
            status: StatusStats::new(scope),
            connects: scope.counter("connects"),
            connections: scope.gauge("connections"),
            connection_duration: scope.stat("connection_duration"),
            received_bytes: scope.counter("received_bytes"),
            sent_bytes: scope.counter("sent_bytes"),
            nacks: scope.counter("nacks"),
            nonretryable_nacks: scope.counter("nonretryable_nacks"),
            rejected_invalid_header_names: scope.counter("rejected_invalid_header_names"),
            rejected_invalid_header_values: scope.counter("rejected_invalid_header_values"),
            timeouts: TimeoutStats::new(scope),
            dropped_trailers: Seldom::new(scope, "dropped_trailers"),
            handshake_failures: Seldom::new(&scope.scope("tls"), "handshake_failures"),
            upgrades: Seldom::new(scope, "upgrades"),
            tunnels: OnceLock::new(),
            flavoured: Seldom::new(scope, "flavoured"),
            flavours_expired: Seldom::new(scope, "flavours_expired"),
            flavours_refused: Seldom::new(scope, "flavours_refused"),
            streams: OnceLock::new(),
        }
    }

    /// Counts a connection whose TLS handshake failed or took too long, in `tls/handshake_failures`, which is there from the
    /// first on.
    pub fn handshake_failed(&self) {
        self.handshake_failures.add(1);
    }

    /// Counts a request with a flavour, in `flavoured`, which is there from the first on.
    pub fn flavoured(&self) {
        self.flavoured.add(1);
    }

    /// Counts a request whose flavour had expired, in `flavours_expired`, which is there from the first on.
    pub fn flavour_expired(&self) {
        self.flavours_expired.add(1);
    }

    /// Counts a request whose flavour was none, or an outsider's, in `flavours_refused`, which is there from the first on.
    pub fn flavour_refused(&self) {
        self.flavours_refused.add(1);
    }

    /// Counts a message whose trailers are not passed on, in `dropped_trailers`, which is there from the first on: a
    /// request that was read whole, or a response that announced trailers to a client that takes none. Trailers that
    /// nobody announced are dropped by hyper, unseen.
    pub fn trailers_dropped(&self) {
        self.dropped_trailers.add(1);
    }

    /// The counter of connections that ended because nothing moved: `read_timeout`, `write_timeout`. There if it is
    /// configured.
    #[cfg(feature = "server")]
    pub(crate) fn timeout(&self, name: &str) -> Counter {
        self.dropped_trailers.scope.counter(name)
    }

    /// What is counted of streams, which is there from the first one of HTTP/2 on.
    #[cfg(feature = "server")]
    pub(crate) fn streams(&self) -> &Arc<StreamStats> {
        self.streams.get_or_init(|| Arc::new(StreamStats::new(&self.dropped_trailers.scope)))
    }

    /// Counts a connection that became a tunnel, in `upgrades`; the gauge of those that are open is `tunnels`. Both are
    /// there from the first on.
    pub fn tunnel(&self) -> Gauge {
        self.upgrades.add(1);
        self.tunnels.get_or_init(|| self.upgrades.scope.gauge("tunnels")).clone()
    }
}

impl ServiceStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let retries = scope.scope("retries");
        Self {
            requests: Arc::new(RequestStats::new(scope)),
            retries: RetryStats {
                total: retries.counter("total"),
                per_request: retries.stat("per_request"),
                budget: retries.gauge("budget"),
                budget_exhausted: retries.counter("budget_exhausted"),
                deadline: Seldom::new(&retries, "deadline"),
                pushed_back: Seldom::new(&retries, "pushed_back"),
                is_retry: Seldom::new(&retries, "is_retry"),
                limited: Seldom::new(&retries, "limited"),
                waiting: OnceLock::new(),
                scope: retries.clone(),
                hedges: Seldom::new(&retries, "hedges"),
                hedge_wins: Seldom::new(&retries, "hedge_wins"),
                hedge_budget_exhausted: Seldom::new(&retries, "hedge_budget_exhausted"),
                response_stream_too_long: Seldom::new(&retries, "response_stream_too_long"),
                classification_timeout: Seldom::new(&retries, "classification_timeout"),
            },
            timeouts: TimeoutStats::new(scope),
            idle_timeouts: Seldom::new(scope, "idle_timeouts"),
        }
    }

    /// Counts a response that was silent for too long, in `idle_timeouts`, which is there from the first on.
    pub fn idle_timeouts(&self) -> impl Fn() + Send + use<> {
        let counter = self.idle_timeouts.clone();
        move || counter.add(1)
    }
}

impl RetryStats {
    /// Counts a retry that could not have been over by the deadline of its request, in `deadline`, which is there from
    /// the first on.
    pub fn deadline(&self) {
        self.deadline.add(1);
    }

    /// Counts a retry that the peer asked not to make, in `pushed_back`, which is there from the first on.
    pub fn pushed_back(&self) {
        self.pushed_back.add(1);
    }

    /// Counts a failure that was left to the hop before, which retries the request already, in `is_retry`, which is there
    /// from the first on.
    pub fn is_retry(&self) {
        self.is_retry.add(1);
    }

    /// Counts a retry that its limit did not let in again, in `limited`, which is there from the first on.
    pub fn limited(&self) {
        self.limited.add(1);
    }

    /// Counts a retry that waits until its time has come, until what is returned is dropped; in `waiting`, which is there
    /// from the first on.
    pub fn waiting(&self) -> Entered<'_> {
        self.waiting.get_or_init(|| self.scope.gauge("waiting")).enter()
    }

    /// Counts an attempt that was made at a second endpoint too, in `hedges`, and in `hedge_wins` if that was the better
    /// one; each is there from the first on.
    pub fn hedged(&self, won: bool) {
        self.hedges.add(1);
        if won {
            self.hedge_wins.add(1);
        }
    }

    /// Catches up with a count of hedges that could not be paid for, in `hedge_budget_exhausted`, which is there from the
    /// first on.
    pub(crate) fn hedges_unpaid(&self, count: u64) {
        if count > 0 {
            self.hedge_budget_exhausted.get().advance_to(count);
        }
    }

    /// Counts a response that was held back for its end and was too long for that, in `response_stream_too_long`, which is
    /// there from the first on.
    pub fn response_stream_too_long(&self) {
        self.response_stream_too_long.add(1);
    }

    /// Counts a response that was held back for its end and took too long for that, in `classification_timeout`, which is
    /// there from the first on.
    pub fn classification_timeout(&self) {
        self.classification_timeout.add(1);
    }
}

impl ClientStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let balancer = scope.scope("loadbalancer");
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
            balancer: BalancerStats {
                size: balancer.gauge("size"),
                available: balancer.gauge("available"),
                busy: balancer.gauge("busy"),
                closed: balancer.gauge("closed"),
                load: balancer.gauge("load"),
                adds: balancer.counter("adds"),
                removes: balancer.counter("removes"),
                max_effort_exhausted: balancer.counter("max_effort_exhausted"),
                updates: balancer.counter("updates"),
                rebuilds: balancer.counter("rebuilds"),
                meanweight: balancer.gauge("meanweight"),
                in_use: balancer.gauge("in_use"),
                leaving: balancer.gauge("leaving"),
                panicked: balancer.gauge("panicked"),
                panics: balancer.counter("panics"),
                refused: balancer.counter("refused"),
                spilled: balancer.counter("spilled"),
                tier: balancer.gauge("tier"),
                weight_classes: balancer.gauge("num_weight_classes"),
                both_idle: OnceLock::new(),
                aperture: OnceLock::new(),
                scope: balancer,
            },
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

impl BalancerStats {
    /// Says in `p2c/zero` how many picks, about, compared two endpoints of which neither had anything to do. There from
    /// the first on.
    pub fn both_idle(&self, picks: u64) {
        if picks > 0 {
            self.both_idle.get_or_init(|| self.scope.scope("p2c").counter("zero")).advance_to(picks);
        }
    }

    /// Says in `logical_aperture`, `physical_aperture`, `use_deterministic_ordering` and `loadband/*` how wide the subset
    /// is that is used. There from the first time on.
    pub fn aperture(&self, width: &ApertureWidth) {
        let stats = self.aperture.get_or_init(|| {
            let band = self.scope.scope("loadband");
            ApertureStats {
                logical: self.scope.gauge("logical_aperture"),
                physical: self.scope.gauge("physical_aperture"),
                is_ordered: self.scope.gauge("use_deterministic_ordering"),
                load: band.gauge("offered_load_ema"),
                widened: band.counter("widen"),
                narrowed: band.counter("narrow"),
            }
        });
        stats.logical.set_count(width.logical as u64);
        stats.physical.set_count(width.physical as u64);
        stats.is_ordered.set(i64::from(width.is_slice));
        stats.load.set_count(width.in_flight.round() as u64);
        stats.widened.advance_to(width.widened);
        stats.narrowed.advance_to(width.narrowed);
    }
}

impl CacheStats {
    /// Counts that nobody reads.
    pub(crate) fn detached() -> Self {
        let [misses, evicts, expires, oneshots] = std::array::from_fn(|_| Counter::default());
        Self { misses, evicts, expires, oneshots }
    }
}

impl BindCacheStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let hold = scope.hold();
        let cache = |name| {
            let scope = scope.scope(name);
            CacheStats {
                misses: scope.counter("misses"),
                evicts: scope.counter("evicts"),
                expires: scope.counter("expires"),
                oneshots: scope.counter("oneshots"),
            }
        };
        Self { path: cache("path"), tree: cache("tree"), bound: cache("bound"), client: cache("client"), _hold: hold }
    }
}

impl fmt::Debug for BindCacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, tree, bound, client, _hold: _ } = self;
        f.debug_struct("BindCacheStats")
            .field("path", path)
            .field("tree", tree)
            .field("bound", bound)
            .field("client", client)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use http::StatusCode;

    use super::{super::Prometheus, *};
    use crate::ErrorKind;

    const MS: Duration = Duration::from_millis(1);

    fn path(elements: &[&str]) -> Path {
        Path::from_elements(elements).unwrap()
    }

    /// The strings of one array of `tests/data/telemetry/names.json`: what Linkerd 1.7.5 showed after the traffic below.
    fn recorded(kind: &str) -> Vec<String> {
        let data = include_str!("../../tests/data/telemetry/names.json");
        let array = data.split_once(&format!("\"{kind}\": [")).unwrap().1.split_once("\n ]").unwrap().0;
        let names: Vec<_> = array
            .lines()
            .filter_map(|line| line.trim().trim_end_matches(',').strip_prefix('"')?.strip_suffix('"'))
            .map(|name| name.replace("\\\"", "\""))
            .collect();
        assert!(names.len() > 200, "{}", names.len());
        names
    }

    #[test]
    fn names_and_labels_are_those_that_were_recorded() {
        let registry = Registry::new();
        let mut keep = Vec::new();
        let mut requests = |label: &str, port: u16, answers: &[(&[&str], Option<&str>, Option<u16>)], bad: &[u16]| {
            let router = RouterStats::new(&registry, label);
            let caches = router.bind_cache();
            let server = router.server(([127, 0, 0, 1], port).into());
            for (name, id, status) in answers {
                let service = router.service(&path(name));
                let client = id.map(|id| router.client(&path(&["#", "io.l5d.fs", id])));
                let status = status.map(|status| StatusCode::from_u16(status).unwrap());
                server.status.record(Some(status.unwrap_or(StatusCode::BAD_GATEWAY)), MS);
                if let Some(client) = &client {
                    client.algorithm("p2c_least_loaded");
                    if status.is_some() {
                        client.status.record(status, MS);
                    }
                }
                let through = client.as_ref().map(|client| client.service(&path(name)));
                let refused = Error::new(ErrorKind::Connect);
                match (status, &client, &through) {
                    (Some(status), Some(_), Some(through)) if status.is_server_error() => through.failed(None, MS),
                    (None, Some(client), _) => {
                        client.creation_failed(&refused);
                        service.requests.failed(Some(&refused), MS);
                    }
                    _ => {}
                }
                keep.push((service, client, through));
            }
            for code in bad {
                server.status.record(StatusCode::from_u16(*code).ok(), MS);
            }
            (router, server, caches)
        };
        let _http = requests(
            "http",
            4140,
            &[
                (&["svc", "web"], Some("web"), Some(200)),
                (&["svc", "w404"], Some("w404"), Some(404)),
                (&["svc", "w500"], Some("w500"), Some(500)),
                (&["svc", "down"], Some("down"), None),
                (&["svc", "nothing"], None, None),
            ],
            &[400],
        );
        let (router, ..) = &requests("path", 4141, &[(&["svc", "a", "web"], Some("web"), Some(200))], &[400]);
        router.originator();

        let mut names = BTreeSet::new();
        registry.visit(|path, _| {
            names.insert(path.join("/"));
        });
        let missing: Vec<_> = recorded("metrics").into_iter().filter(|name| !names.contains(name)).collect();
        assert_eq!(missing, [""; 0]);

        let text = Prometheus::new().render(&registry);
        let series: BTreeSet<_> = text.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        let missing: Vec<_> = recorded("prometheus").into_iter().filter(|name| !series.contains(&**name)).collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn what_closes_leaves_the_tree() {
        let registry = Registry::new();
        let router = RouterStats::new(&registry, "http");
        let id = path(&["#", "io.l5d.fs", "web"]);
        let client = router.client(&id);
        let through = client.service(&path(&["svc", "web"]));
        client.requests.succeeded(MS);
        drop(client);
        drop(through);
        assert!(registry.is_empty());
        assert_eq!(router.client(&id).requests.requests.get(), 0);
    }
}
