//! The client of a bound name: its endpoints and their health, for all paths that lead to it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::future::Either;
use http::{Request, Response, StatusCode};
use linkerd_balance::Phase;
use linkerd_dtab::{Activity, Addr, Bound, Path, namer::global, switch::Target};
use linkerd_retry::Budget;

use super::super::{attempt::Attempt, endpoints::Balanced, time::now};
use crate::{
    Body, Error, ErrorKind, TimedOut, Timer,
    error::twitter_duration,
    http::Connect,
    mesh::{BalancerState, ClientState, EndpointState, Force, Wrap},
    policy::{ClientPolicy, HashOn},
    telemetry::{ClientStats, RequestStats},
};

/// The endpoints behind one bound id, balanced.
pub(crate) struct BoundClient {
    pub(super) id: Path,
    pub(super) endpoints: Endpoints,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) hash_on: Option<HashOn>,
    pub(super) heeds_hints: bool,
    pub(super) is_fail_fast: bool,
    pub(super) requeues: Budget,
    pub(super) stats: Arc<ClientStats>,
}

pub(super) enum Endpoints {
    Balanced(Balanced),
    /// `/$/io.buoyant.http.status/CODE`: nobody is asked.
    Status(StatusCode),
}

impl BoundClient {
    pub(crate) fn new(
        bound: &Bound,
        policy: &ClientPolicy,
        connect: Arc<dyn Connect>,
        layers: Vec<Wrap>,
        stats: ClientStats,
    ) -> Self {
        let stats = Arc::new(stats);
        let endpoints = match global::status_code(&bound.id).and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(status) => Endpoints::Status(status),
            None => Endpoints::Balanced(Balanced::new(bound, policy, connect, layers, &stats)),
        };
        Self {
            id: bound.id.clone(),
            endpoints,
            attempt_timeout: policy.attempt_timeout,
            hash_on: policy.hash_on.clone(),
            heeds_hints: policy.hints,
            is_fail_fast: policy.fail_fast,
            requeues: policy.requeue_budget.fresh(),
            stats,
        }
    }

    /// Follows another watch of the same name, if it is another one.
    pub(crate) fn follow(&self, addr: &Activity<Addr>) {
        if let Endpoints::Balanced(balanced) = &self.endpoints {
            balanced.follow(addr);
        }
    }

    pub(crate) fn id(&self) -> &Path {
        &self.id
    }

    /// Whether it stands for an endpoint, be it one that nobody can reach.
    pub(crate) fn has_endpoints(&self) -> bool {
        self.balanced().is_none_or(|balanced| !balanced.balance.is_empty())
    }

    /// Since when it stands for no endpoint any more, if it did.
    pub(crate) fn lost(&self) -> Option<Instant> {
        self.balanced()?.lost()
    }

    /// Waits until it has no endpoints.
    pub(crate) async fn emptied(&self) {
        match self.balanced() {
            Some(balanced) => balanced.emptied().await,
            None => std::future::pending().await,
        }
    }

    fn balanced(&self) -> Option<&Balanced> {
        match &self.endpoints {
            Endpoints::Balanced(balanced) => Some(balanced),
            Endpoints::Status(_) => None,
        }
    }

    /// What is known of it, for people.
    pub(crate) fn state(&self, now: Instant) -> ClientState {
        let Endpoints::Balanced(balanced) = &self.endpoints else {
            return ClientState { id: self.id.clone(), addr: None, endpoints: Vec::new(), balancer: None };
        };
        let addr = balanced.source.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        let balance = &balanced.balance;
        let mut services: std::collections::HashMap<_, _> = balance.services().into_iter().collect();
        let endpoints = balance.endpoints(now).into_iter().map(|endpoint| EndpointState {
            addr: endpoint.key.addr,
            weight: endpoint.weight,
            status: endpoint.status,
            pending: endpoint.pending,
            load: endpoint.load,
            tier: endpoint.tier,
            ramp: endpoint.ramp,
            is_used: endpoint.is_used,
            is_leaving: endpoint.is_leaving,
            why: services.remove(&endpoint.key).map_or_else(String::new, |svc| svc.why(endpoint.status, now)),
            zone: endpoint.zone,
        });
        let balancer = BalancerState {
            algorithm: balanced.algorithm.clone(),
            settings: balanced.settings.clone(),
            stats: balance.stats(now),
            tiers: balance.tiers(now),
        };
        ClientState { id: self.id.clone(), addr: Some(addr), endpoints: endpoints.collect(), balancer: Some(balancer) }
    }

    /// Forces the breakers of one endpoint, or of all: how many there were.
    pub(crate) fn force(&self, addr: Option<SocketAddr>, force: Force, now: Instant) -> usize {
        let Endpoints::Balanced(balanced) = &self.endpoints else { return 0 };
        let services = balanced.balance.services();
        let forced = services.iter().filter(|(key, _)| addr.is_none_or(|addr| addr == key.addr));
        let breakers = forced.filter_map(|(_, svc)| svc.breaker.as_ref());
        breakers.map(|breaker| force.apply(breaker, now)).count()
    }

    pub(crate) fn service_stats(&self, path: &Path) -> RequestStats {
        self.stats.service(path)
    }

    pub(super) fn count(&self, service: &RequestStats, success: bool, error: Option<&Error>, elapsed: Duration) {
        for stats in [&self.stats.requests, service] {
            if success {
                stats.succeeded(elapsed);
            } else {
                stats.failed(error, elapsed);
            }
        }
    }

    /// How long this attempt may take.
    pub(super) fn attempt_timeout(&self, attempt: &Attempt<'_>) -> Option<TimedOut> {
        let said = attempt.cx.and_then(|cx| cx.overrides.as_ref()?.attempt());
        said.or_else(|| self.attempt_timeout.map(|timeout| Timer::Attempt.after(timeout)))
    }

    /// Bounds one attempt: below accrual, which has to see that it took too long.
    pub(super) fn within_limit(
        &self,
        attempt: &Attempt<'_>,
        response: impl Future<Output = Result<Response<Body>, Error>>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> {
        match self.attempt_timeout(attempt) {
            None => Either::Left(response),
            Some(timer) => Either::Right(self.within(timer.limit, attempt, response)),
        }
    }

    async fn within(
        &self,
        limit: Duration,
        attempt: &Attempt<'_>,
        response: impl Future<Output = Result<Response<Body>, Error>>,
    ) -> Result<Response<Body>, Error> {
        if let Ok(result) = tokio::time::timeout(limit, response).await {
            return result;
        }
        // Asked once more, so that the future has no room for it.
        let timer = self.attempt_timeout(attempt).unwrap_or(Timer::Attempt.after(limit));
        let id = self.id.to_string();
        let (timeout, id) = (twitter_duration(limit), id.trim_start_matches('/'));
        let text = format!(
            "exceeded {timeout} to {id} while waiting for a response for an individual request, excluding retries. \
             Remote Info: Not Available"
        );
        Err(Error::new(ErrorKind::AttemptTimeout).with_text(text).with_timer(timer))
    }

    /// The request again, if it may be sent elsewhere.
    pub(super) fn may_requeue(
        &self,
        balanced: &Balanced,
        attempt: &Attempt<'_>,
        mut error: Error,
        requeues: u64,
        limit: &mut Option<u64>,
    ) -> Result<Request<Body>, Error> {
        let stats = &self.stats.requeues;
        let Some(again) = error.take_request().or_else(|| attempt.replay()) else {
            stats.cannot_retry.incr();
            return Err(error);
        };
        let now = now();
        // A fifth of what there is, rounded up: one request must not use up what all share.
        let limit = *limit.get_or_insert_with(|| self.requeues.share_for_one(now));
        if !balanced.balance.has_open(now) {
            stats.not_open.incr();
        } else if requeues >= limit {
            stats.request_limit.incr();
        } else if !self.requeues.try_withdraw(now) {
            stats.budget_exhausted.incr();
        } else {
            stats.requeues.incr();
            return Ok(again);
        }
        Err(error)
    }

    /// Brings the numbers that are not counted as they happen up to date.
    pub(crate) fn refresh(&self, now: Instant) {
        let Endpoints::Balanced(balanced) = &self.endpoints else { return };
        let stats = balanced.balance.stats(now);
        let balancer = &self.stats.balancer;
        balancer.size.set_count(stats.size as u64);
        balancer.available.set_count(stats.available as u64);
        balancer.busy.set_count(stats.busy as u64);
        balancer.closed.set_count(stats.closed as u64);
        balancer.load.set_count(stats.load as u64);
        // All that are closed are tried anyway: only without any it cannot take a request.
        self.stats.available.set(i64::from(stats.size > 0));
        balancer.adds.advance_to(stats.adds);
        balancer.removes.advance_to(stats.removes);
        balancer.max_effort_exhausted.advance_to(stats.max_effort_exhausted);
        balancer.updates.advance_to(stats.updates);
        balancer.rebuilds.advance_to(stats.rebuilds);
        balancer.meanweight.set_count(stats.mean_weight.round() as u64);
        balancer.weight_classes.set_count(stats.weight_classes as u64);
        balancer.both_idle(stats.both_idle);
        if let Some(width) = &stats.aperture {
            balancer.aperture(width);
        }
        balancer.in_use.set_count(stats.in_use as u64);
        balancer.leaving.set_count(stats.stays as u64);
        balancer.panicked.set(i64::from(stats.in_panic));
        balancer.panics.advance_to(stats.panics);
        balancer.refused.advance_to(stats.refused);
        balancer.spilled.advance_to(stats.spilled);
        balancer.tier.set_count(stats.tier as u64);
        let accrual = &self.stats.failure_accrual;
        accrual.removals.advance_to(balanced.breakers.removals());
        accrual.revivals.advance_to(balanced.breakers.revivals());
        accrual.probes.advance_to(balanced.breakers.probes());
        accrual.removed_for_ms.advance_to(balanced.breakers.removed_for().as_millis() as u64);
        let services = balanced.balance.services();
        let breakers = services.iter().filter_map(|(_, svc)| svc.breaker.as_ref());
        let ejected = breakers.filter(|breaker| breaker.phase() != Phase::Alive).count() as u64;
        accrual.ejected.set_count(ejected);
        accrual.ejected_percent.set_count(ejected * 100 / (stats.size as u64).max(1));
        if let Some(ejections) = stats.ejections {
            accrual.denied.advance_to(ejections.denied);
        }
        self.stats.requeues.budget.set_count(self.requeues.balance(now));
    }
}

/// One that answers by itself can always be asked.
impl Target for BoundClient {
    fn id(&self) -> &Path {
        &self.id
    }

    fn is_known(&self) -> bool {
        self.balanced().is_none_or(Balanced::is_known)
    }

    async fn known(&self) {
        if let Some(balanced) = self.balanced() {
            balanced.known().await;
        }
    }

    async fn filled(&self) {
        if let Some(balanced) = self.balanced() {
            balanced.filled().await;
        }
    }

    /// Waits until one of its endpoints is open and could be connected to.
    async fn ready(&self) {
        if let Some(balanced) = self.balanced() {
            balanced.ready().await;
        }
    }
}

impl fmt::Debug for BoundClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoundClient").field(&self.id).finish()
    }
}
