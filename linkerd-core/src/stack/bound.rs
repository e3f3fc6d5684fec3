//! The client of a bound name: its endpoints, their health, and one use of one of them.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use linkerd_balance::{Draw, LeaseEnd, Mark, Outcome, Permit, Phase};
use linkerd_dtab::{Activity, Addr, Bound, Path, namer::global};
use linkerd_retry::Budget;

use super::{
    attempt::Attempt,
    classified::{Counted, Open},
    endpoints::{Balanced, EndpointClient},
    fault,
    outgoing::Outgoing,
    time::{Expired, now},
};
#[cfg(feature = "server")]
use crate::access_log::{AccessLog, Served};
use crate::{
    AttemptOutcome, Body, Error, ErrorKind, TimedOut, Timer,
    body::{Resend, Rider},
    error::twitter_duration,
    http::{Connect, RequestContext, TraceId, headers, hint},
    mesh::{BalancerState, ClientState, EndpointState, Force, Wrap},
    policy::{ClientPolicy, HashOn},
    span::ClientSpan,
    svc::SvcFuture,
    telemetry::{ClientStats, RequestStats},
};

/// A bound name as one path came to it: a client that others share, and what its namer left over.
#[derive(Debug)]
pub(crate) struct BoundName {
    pub(crate) client: Arc<BoundClient>,
    dst_client: Option<HeaderValue>,
    dst_residual: Option<HeaderValue>,
}

/// The endpoints behind one bound id, balanced.
pub(crate) struct BoundClient {
    id: Path,
    endpoints: Endpoints,
    attempt_timeout: Option<Duration>,
    hash_on: Option<HashOn>,
    heeds_hints: bool,
    is_fail_fast: bool,
    requeues: Budget,
    stats: Arc<ClientStats>,
}

enum Endpoints {
    Balanced(Balanced),
    /// `/$/io.buoyant.http.status/CODE`: nobody is asked.
    Status(StatusCode),
}

impl BoundName {
    pub(crate) fn new(client: Arc<BoundClient>, residual: &Path) -> Self {
        // Printed paths are visible ASCII, so these always make a value.
        let header = |path: &Path| HeaderValue::try_from(path.to_string()).ok();
        let dst_client = header(&client.id);
        let dst_residual = (!residual.is_empty()).then(|| header(residual)).flatten();
        Self { client, dst_client, dst_residual }
    }

    /// Sends a request to one of the endpoints; to another one if nothing was sent. Above the requeues, because an access log
    /// has a line for each attempt and not for each of those.
    pub(crate) async fn send(
        &self,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        #[cfg(feature = "server")]
        if let Some(log) = &attempt.info.shared.access_log {
            // Seldom, and large: not part of every request's future.
            return Box::pin(self.send_logged(log, attempt, service, req)).await;
        }
        self.send_once(attempt, service, req).await
    }

    #[cfg(feature = "server")]
    async fn send_logged(
        &self,
        log: &AccessLog,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let asked = req.request().and_then(|req| log.asked(req, attempt.cx));
        let mut rsp = self.send_once(attempt, service, req).await?;
        if let Some(asked) = asked {
            log.answered(&asked, &rsp);
        } else {
            let (client, endpoint) = (Some(self.client.id.clone()), req.endpoint());
            let hedges = u32::from(req.is_hedge());
            rsp.extensions_mut().insert(Served { client, endpoint, hedges, ..Served::default() });
        }
        Ok(rsp)
    }

    async fn send_once(
        &self,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let result = match &self.client.endpoints {
            // No answer ends with one of these; hyper would refuse it in the middle of the connection.
            Endpoints::Status(status) if status.is_informational() => {
                let text = format!("{} cannot be the status of an answer", status.as_u16());
                Err(Error::new(ErrorKind::BadResponse).with_text(text))
            }
            Endpoints::Status(status) => {
                let mut rsp = Response::new(Body::empty());
                *rsp.status_mut() = *status;
                Ok(rsp)
            }
            Endpoints::Balanced(balanced) => match balanced.wait(attempt, &self.client.id).await {
                Ok(()) => match Self::asks_for_its_way(attempt, req) {
                    None => self.requeue(balanced, attempt, service, req).await,
                    // Seldom, and large: not part of every request's future.
                    Some(trace) => Box::pin(self.trace(trace, balanced, attempt, service, req)).await,
                },
                Err(error) => Err(error),
            },
        };
        result.map_err(|error| error.with_client(&self.client.id))
    }

    /// The requeue: above the pick, so that another endpoint gets the next try; below the retries, which need a class.
    pub(super) async fn requeue(
        &self,
        balanced: &Balanced,
        attempt: &Attempt<'_>,
        service: &Arc<RequestStats>,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let client = &*self.client;
        let mut requeues = 0;
        let mut limit = None;
        req.choose(balanced.balance.len() > 1);
        // Before it is sent: what is sent again has the same key.
        let key = client.hash_on.as_ref().and_then(|on| on.key(req.request()?, attempt.cx));
        let outcome = loop {
            let mut draw = Draw::new(crate::random::next());
            draw.key = key;
            let lease = match balanced.balance.try_acquire(draw, now(), req.tried()) {
                Ok(lease) => lease,
                Err(unavailable) => break Err(balanced.unavailable(unavailable)),
            };
            let (endpoint, end) = lease.into_parts();
            if req.keeps_off(&endpoint.key) {
                let text = "there is no other endpoint to hedge at";
                break Err(Error::new(ErrorKind::NoEndpoints).with_text(text));
            }
            let begun = end.begun();
            // Whatever it waited for may have been late, and the timer of the request not had its turn yet.
            if let Some(late) = attempt.late(begun) {
                break Err(late);
            }
            // Each attempt is a span of its own.
            let id = attempt.cx.map(RequestContext::next_span);
            let span = self.span(attempt, id, &endpoint, req);
            if let Some(headers) = req.headers_mut() {
                self.write_headers(attempt, id, headers);
            }
            let permit = endpoint.breaker.as_ref().map(|breaker| breaker.admit(begun));
            let under_way = UnderWay { name: self, service, attempt, begun, span, held: Some((permit, end)) };
            let sent = endpoint.send(attempt, req.take()?);
            let error = match under_way.outcome(balanced, req.arrive(endpoint, begun), sent).await {
                Err(error) if error.never_sent() => error,
                outcome => break outcome,
            };
            if let Some(hints) = attempt.hints {
                hints.unsent();
            }
            let kind = error.kind();
            match client.may_requeue(balanced, attempt, error, requeues, &mut limit) {
                Ok(again) => req.put(again),
                Err(error) => break Err(error),
            }
            req.came_back(AttemptOutcome::Failed(kind), now() - begun);
            requeues += 1;
            // Failures that are there at once must let the timers of the request have their turn.
            tokio::task::yield_now().await;
        };
        client.stats.requeues.requeues_per_request.record(requeues);
        outcome
    }

    /// Waits for the response. A request that went out on a connection which was closing goes out once more.
    async fn response(
        &self,
        endpoint: &EndpointClient,
        attempt: &Attempt<'_>,
        span: Option<&ClientSpan>,
        sent: SvcFuture,
    ) -> Result<Response<Body>, Error> {
        match sent.await {
            Err(error) if error.is_lost() => self.send_again(endpoint, attempt, span, error)?.await,
            outcome => outcome,
        }
    }

    fn send_again(
        &self,
        endpoint: &EndpointClient,
        attempt: &Attempt<'_>,
        span: Option<&ClientSpan>,
        error: Error,
    ) -> Result<SvcFuture, Error> {
        let Some(mut again) = attempt.replay() else { return Err(error) };
        if let Some(late) = attempt.late(now()) {
            // It did go out once.
            return Err(late.with_never_sent(false));
        }
        if let Some(hints) = attempt.hints {
            // As far as anybody knows.
            hints.unsent();
        }
        // The same attempt, as far as anybody can see.
        let id = span.map(ClientSpan::id).or_else(|| attempt.cx.map(RequestContext::next_span));
        self.write_headers(attempt, id, again.headers_mut());
        again.body_mut().resend = Resend::Never;
        Ok(endpoint.svc.send(again))
    }

    /// The span of an attempt, if it is recorded.
    fn span(
        &self,
        attempt: &Attempt<'_>,
        id: Option<TraceId>,
        endpoint: &EndpointClient,
        req: &Outgoing,
    ) -> Option<ClientSpan> {
        let recording = attempt.cx?.recording.as_ref()?;
        let residual = self.dst_residual.as_ref().and_then(|residual| residual.to_str().ok()).unwrap_or("/");
        Some(recording.attempt(id?, &self.client.id, residual, endpoint.key.addr, req.request()?))
    }

    /// Writes what an attempt carries.
    fn write_headers(&self, attempt: &Attempt<'_>, id: Option<TraceId>, headers: &mut HeaderMap) {
        let timeout = self.client.attempt_timeout(attempt).map(|timeout| timeout.limit);
        match (attempt.cx.zip(id), timeout) {
            (Some((cx, id)), Some(timeout)) => {
                let mut cx = cx.clone();
                cx.expire_after(timeout);
                cx.write_span(id, headers);
            }
            (Some((cx, id)), None) => cx.write_span(id, headers),
            (None, _) => {}
        }
        if let Some(hints) = attempt.hints {
            hints.write(headers);
        }
        if let Some(grpc) = attempt.grpc {
            grpc.write(headers, now(), timeout);
        }
        if !attempt.info.shared.proxy {
            return;
        }
        if let Some(client) = &self.dst_client {
            headers.insert(headers::L5D_DST_CLIENT, client.clone());
        }
        match &self.dst_residual {
            Some(residual) => drop(headers.insert(headers::L5D_DST_RESIDUAL, residual.clone())),
            // A caller's own would pass for ours.
            None => drop(headers.remove(headers::L5D_DST_RESIDUAL)),
        }
    }
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

    fn count(&self, service: &RequestStats, success: bool, error: Option<&Error>, elapsed: Duration) {
        for stats in [&self.stats.requests, service] {
            if success {
                stats.succeeded(elapsed);
            } else {
                stats.failed(error, elapsed);
            }
        }
    }

    /// How long this attempt may take.
    fn attempt_timeout(&self, attempt: &Attempt<'_>) -> Option<TimedOut> {
        let said = attempt.cx.and_then(|cx| cx.overrides.as_ref()?.attempt());
        said.or_else(|| self.attempt_timeout.map(|timeout| Timer::Attempt.after(timeout)))
    }

    /// Bounds one attempt: below accrual, which has to see that it took too long.
    async fn within_limit(
        &self,
        attempt: &Attempt<'_>,
        response: impl Future<Output = Result<Response<Body>, Error>>,
    ) -> Result<Response<Body>, Error> {
        let limit = self.attempt_timeout(attempt).map(|timer| timer.limit);
        let Some(limit) = limit else { return response.await };
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
    fn may_requeue(
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

/// One try at one endpoint, for as long as it has no outcome.
struct UnderWay<'a> {
    name: &'a BoundName,
    service: &'a Arc<RequestStats>,
    attempt: &'a Attempt<'a>,
    begun: Instant,
    // If it is recorded.
    span: Option<ClientSpan>,
    // `None` once there is an outcome.
    held: Option<(Option<Permit>, LeaseEnd)>,
}

impl UnderWay<'_> {
    /// Waits for the outcome, and learns from it.
    async fn outcome(
        mut self,
        balanced: &Balanced,
        endpoint: &EndpointClient,
        sent: SvcFuture,
    ) -> Result<Response<Body>, Error> {
        let Self { name, service, attempt, begun, .. } = self;
        let client = &*name.client;
        let pending = client.stats.requests.pending.enter();
        let response = name.response(endpoint, attempt, self.span.as_ref(), sent);
        let result = client.within_limit(attempt, response).await.and_then(|rsp| nack(rsp, attempt));
        drop(pending);
        let (permit, mut end) = self.held.take().expect("held until here");
        let done = now();
        let class = attempt.classify(result.as_ref());
        if let Some(span) = self.span.take() {
            span.end(result.as_ref(), class);
        }
        let success = class.is_success();
        match result {
            Ok(mut rsp) => {
                let verdict = fault::judge(permit, success, &rsp, done);
                let classifier = &attempt.info.policy.classifier;
                let is_open = classifier.is_open(&rsp);
                if !is_open {
                    client.count(service, success, None, done - begun);
                }
                client.stats.status.record(Some(rsp.status()), done - begun);
                if success {
                    client.requeues.deposit(done);
                }
                let served = success || fault::is_callers(&rsp);
                // Too many requests: no fault, but a reason to go elsewhere. So is what gRPC says in place of a body.
                let welcome =
                    served && rsp.status() != StatusCode::TOO_MANY_REQUESTS && !hint::grpc_failure(rsp.headers());
                if client.heeds_hints && !rsp.headers().is_empty() {
                    if !welcome && let Some(push_back) = hint::push_back(rsp.headers()) {
                        end.hint(push_back, done);
                    }
                    if let Some(utilization) = hint::utilization(rsp.headers()) {
                        end.hint(utilization, done);
                    }
                }
                end.mark(Mark::Headers, welcome, done);
                rsp.body_mut().ride(Rider::lease(end, served, verdict));
                if is_open {
                    // Its end will say.
                    let open = Open {
                        classifier: Arc::clone(classifier),
                        counted: Counted::Client(Arc::clone(&client.stats), Arc::clone(service)),
                        method: attempt.method.clone(),
                        elapsed: done - begun,
                        is_marked: false,
                    };
                    return Ok(open.watch(rsp));
                }
                Ok(rsp)
            }
            Err(error) => {
                // That our own pool is full, or our caller's stream broke, is not the endpoint's fault: what is held is
                // given back as if it had never been taken.
                if !matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::RequestBody) {
                    if let Some(permit) = permit {
                        permit.record(Outcome::Failure, done);
                    }
                    end.end(false, done);
                }
                client.stats.timeouts.record(&error);
                if error.kind() == ErrorKind::Connect {
                    // Of a single one it would only be known that there is nobody else.
                    if client.is_fail_fast
                        && balanced.balance.len() > 1
                        && let Some(fail_fast) = &endpoint.fail_fast
                    {
                        fail_fast.failed();
                    }
                    client.stats.creation_failed(&error);
                    return Err(balanced.unreachable(error, &endpoint.key, attempt, &client.id));
                }
                client.count(service, false, Some(&error), done - begun);
                client.stats.status.record(None, done - begun);
                Err(error)
            }
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // Without the time's being over nobody wants it any more, which says nothing of the endpoint: what is held goes
        // back as if it had never been taken.
        let Some((permit, end)) = self.held.take() else { return };
        let client = &self.name.client;
        let Some(kind) = self.attempt.expired.and_then(Expired::kind) else { return };
        if let Some(span) = &mut self.span {
            span.fail(kind.name());
        }
        let done = now();
        if let Some(permit) = permit {
            permit.record(false, done);
        }
        end.end(false, done);
        client.count(self.service, false, Some(&Error::new(kind)), done - self.begun);
        client.stats.status.record(None, done - self.begun);
    }
}

/// A refusal by the peer that says of itself that nothing was done: as good as never sent, if we can send it again.
///
/// Finagle's protocol between hops. A refusal of a request that was not kept is passed on as it came.
fn nack(rsp: Response<Body>, attempt: &Attempt<'_>) -> Result<Response<Body>, Error> {
    if rsp.status() != StatusCode::SERVICE_UNAVAILABLE || !attempt.is_kept() {
        return Ok(rsp);
    }
    let headers = rsp.headers();
    if headers.contains_key(headers::NONRETRYABLE_NACK) {
        let text = "The request was Nacked by the server and should not be retried";
        return Err(Error::new(ErrorKind::Refused).with_text(text));
    }
    let at_once = headers.get(http::header::RETRY_AFTER).is_some_and(|value| value == "0");
    if at_once || headers.contains_key(headers::NACK) {
        let text = "The request was Nacked by the server";
        return Err(Error::new(ErrorKind::Refused).with_text(text).with_never_sent(true));
    }
    Ok(rsp)
}

impl fmt::Debug for BoundClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoundClient").field(&self.id).finish()
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use linkerd_dtab::Endpoint;
    use tower::service_fn;

    use super::*;
    use crate::{Mesh, ServicePolicy, Svc, Uniform, testing::FakeNamer};

    /// Every connection is closing, which it takes so long to find out.
    #[derive(Clone)]
    struct Closing(Duration, Arc<AtomicUsize>);

    impl Connect for Closing {
        fn connect(&self, _: &Endpoint) -> Svc {
            let Self(time, sent) = self.clone();
            Svc::new(service_fn(move |_: Request<Body>| {
                sent.fetch_add(1, Ordering::Relaxed);
                // The clock goes on in the first poll: the thread is busy for so long.
                let _ = tokio_test::task::spawn(tokio::time::advance(time)).poll();
                async { Err::<Response<Body>, _>(Error::new(ErrorKind::Closed).lost()) }
            }))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_lost_is_sent_once_more_unless_its_time_is_over() {
        for (millis, expected) in [(1, (ErrorKind::Closed, 2)), (1000, (ErrorKind::TotalTimeout, 1))] {
            let (namer, sent) = (FakeNamer::new(), Arc::default());
            namer.endpoints("/users", [([10, 0, 0, 1], 80).into()]);
            let service = ServicePolicy { total_timeout: Some(Duration::from_secs(1)), ..ServicePolicy::default() };
            let mesh = Mesh::builder()
                .namer("/#/fake", namer)
                .connect(Closing(Duration::from_millis(millis), Arc::clone(&sent)))
                .dtab("/svc => /#/fake".parse().unwrap())
                .policies(Uniform { service, client: ClientPolicy::default() });
            let client = mesh.build().unwrap().client("/svc/users").unwrap();
            let error = client.send(Request::get("/").body("").unwrap()).await.unwrap_err();
            assert_eq!((error.kind(), sent.load(Ordering::Relaxed)), expected);
            assert!(!error.never_sent(), "it did go out");
        }
    }
}
