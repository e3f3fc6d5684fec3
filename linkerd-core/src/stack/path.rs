//! The stack of a logical name: everything that must see a request as a whole, whatever becomes of its attempts.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Method, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use linkerd_retry::{
    Retries, Stop, Typical, Verdict,
    timeout::{IdleBody, IdleElapsed},
};
use tokio::time::timeout_at;

use super::{
    Allowance, Binding, PathInfo,
    attempt::Attempt,
    classified::{Counted, Open, success_class},
    discard::{Discarded, discard, set_aside},
    hedge::Hedges,
    hold::Patience,
    limit::{self, Enter, Entered},
    outgoing::{Outgoing, Replay},
    time::{Expired, Limit, after, now},
};
#[cfg(feature = "server")]
use crate::access_log::{AccessLog, Served};
use crate::{
    AttemptLog, AttemptOutcome, Body, Error, ErrorKind, Left, Timer,
    http::{context::RequestContext, deadline::GrpcUntil, headers},
    policy::ServicePolicy,
    svc::{Call, SvcFuture},
    telemetry::{RetryStats, ServiceStats},
};

/// ① The stack of one logical name.
#[derive(Debug)]
pub(crate) struct PathStack {
    info: Arc<PathInfo>,
    allowance: Arc<Allowance>,
    retries: Retries,
    // How long a success takes, of requests with a limit on their time.
    typical: Typical,
    binding: Binding,
    stats: ServiceStats,
}

impl Call for PathStack {
    fn call(self: Arc<Self>, req: Request<Body>) -> SvcFuture {
        let mut req = Outgoing::new(req);
        Box::pin(async move { self.run(&mut req, now()).await })
    }
}

impl PathStack {
    pub(crate) fn new(info: Arc<PathInfo>, allowance: Arc<Allowance>, binding: Binding, stats: ServiceStats) -> Self {
        let ServicePolicy { ref backoff, max_attempts, .. } = info.policy;
        let (budget, backoff) = (allowance.retries.clone(), backoff.clone());
        let retries = Retries { budget, backoff, max_attempts, ..Retries::default() };
        Self { info, allowance, retries, typical: Typical::default(), binding, stats }
    }

    pub(crate) fn info(&self) -> &PathInfo {
        &self.info
    }

    /// Brings the numbers up to date that are not counted as they happen.
    pub(crate) fn refresh(&self, now: Instant) {
        let stats = &self.stats.retries;
        stats.budget.set_count(self.retries.budget.balance(now));
        if let Some(hedges) = &self.allowance.hedges {
            stats.hedges_unpaid(hedges.unpaid());
        }
    }

    pub(crate) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    pub(super) fn retry_stats(&self) -> &RetryStats {
        &self.stats.retries
    }

    pub(crate) fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Sends a request, which came at `arrived`.
    pub(crate) async fn run(&self, req: &mut Outgoing, arrived: Instant) -> Result<Response<Body>, Error> {
        let info = &*self.info;
        // Outermost: these see what all the others did.
        let _pending = self.stats.requests.pending.enter();
        let head = req.request_mut();
        let mut cx = head.and_then(|req| req.extensions_mut().remove::<RequestContext>());
        let grpc = req.request().and_then(|req| GrpcUntil::of(req, arrived));
        let total = info.total(cx.as_ref()).map(|total| total.limit);
        let limit = self.limit(arrived, total, cx.as_ref(), grpc);
        if let (Some(cx), Some(total)) = (&mut cx, total) {
            cx.expire_after(total);
        }
        if info.policy.retry_hints {
            req.heed_hints();
        }
        req.set_grpc(grpc.map(|grpc| grpc.within(arrived, total, cx.as_ref())));
        if let Some(recording) = cx.as_ref().and_then(|cx| cx.recording.as_ref()) {
            recording.named(&info.path, &info.shared.base, &info.local);
        }
        let method = req.request().map(|req| req.method().clone()).unwrap_or_default();
        if let Some(req) = req.request_mut() {
            limit::write_criticality(req);
            if info.shared.proxy {
                info.write_request(req);
            }
        }
        let mut result = self.within(limit, arrived, cx.as_ref(), &method, req).await;
        // What the retries left: this is the *logical* outcome.
        let class = info.policy.classifier.classify(&method, result.as_ref());
        let is_open = result.as_ref().is_ok_and(|rsp| info.policy.classifier.is_open(rsp));
        let ended = now();
        let elapsed = ended - arrived;
        if is_open {
            // Its end will say.
        } else if class.is_success() {
            self.stats.requests.succeeded(elapsed);
        } else {
            self.stats.requests.failed(result.as_ref().err(), elapsed);
        }
        match &mut result {
            // Where it is: an answer is large, and each call on its way would move it.
            Ok(rsp) => {
                if !class.is_success() && rsp.extensions().get::<AttemptLog>().is_some() {
                    rsp.extensions_mut().insert(self.left(limit, ended));
                }
                #[cfg(feature = "server")]
                if info.shared.access_log.as_ref().is_some_and(AccessLog::is_by_request) {
                    let served = rsp.extensions_mut().get_or_insert_default::<Served>();
                    (served.path, served.attempts) = (Some(info.path.clone()), req.made() + 1);
                }
                if info.shared.proxy && !is_open {
                    rsp.headers_mut().insert(headers::L5D_SUCCESS_CLASS, success_class(class));
                }
                if let Some(timeout) = info.policy.idle_timeout
                    && !rsp.body().is_end_stream()
                {
                    let body = std::mem::take(rsp.body_mut());
                    *rsp.body_mut() = self.idle(body, timeout);
                }
                if is_open {
                    let classifier = Arc::clone(&info.policy.classifier);
                    let counted = Counted::Name(Arc::clone(&self.stats.requests));
                    let open = Open { classifier, counted, method, elapsed, is_marked: info.shared.proxy };
                    return result.map(|rsp| open.watch(rsp));
                }
                result
            }
            Err(_) => result.map_err(|error| {
                let error = info.explain(error).with_left(self.left(limit, ended));
                self.stats.timeouts.record(&error);
                let (kind, cause) = (error.kind().name(), error.chain());
                tracing::debug!(dst = %info.path, kind, %cause, "request failed: {}", error.text());
                error
            }),
        }
    }

    /// Bounds the silences of a body that somebody waits for.
    fn idle(&self, body: Body, timeout: Duration) -> Body {
        let idle = self.stats.idle_timeouts();
        Body::new(IdleBody::new(body, timeout).map_err(move |error| {
            if error.is::<IdleElapsed>() {
                idle();
            }
            error
        }))
    }

    /// What is left to a request that failed at `now`.
    fn left(&self, limit: Option<Limit>, now: Instant) -> Left {
        Left {
            retries: self.retries.budget.balance(now),
            time: limit.map(|(until, _)| until.saturating_duration_since(now)),
        }
    }

    /// The first limit on the time of the whole request, if there is any.
    fn limit(
        &self,
        arrived: Instant,
        total: Option<Duration>,
        cx: Option<&RequestContext>,
        grpc: Option<GrpcUntil>,
    ) -> Option<Limit> {
        let policy = &self.info.policy;
        let total = total.and_then(|total| arrived.checked_add(total));
        let grpc = grpc.and_then(GrpcUntil::at).filter(|_| policy.enforce_deadline);
        let server = cx.and_then(|cx| cx.until);
        // Those two may be the deadline too, by another clock.
        let keeps = |timer| match timer {
            Timer::GrpcTimeout => grpc.is_some(),
            Timer::Server => server.is_some(),
            _ => false,
        };
        let deadline = cx.filter(|_| policy.enforce_deadline).and_then(|cx| cx.deadline_unless(keeps));
        let deadline = deadline.and_then(|deadline| arrived.checked_add(deadline.remaining(SystemTime::now())));
        let deadlines = [(deadline, Timer::Deadline), (grpc, Timer::GrpcTimeout), (server, Timer::Server)];
        // Of two at one time, the first.
        let limits = [(total, Timer::Total)].into_iter().chain(deadlines);
        limits.filter_map(|(at, timer)| Some((at?, timer))).min_by_key(|(at, _)| *at)
    }

    /// Bounds the whole: before retries, because they share what time there is.
    async fn within(
        &self,
        limit: Option<Limit>,
        arrived: Instant,
        cx: Option<&RequestContext>,
        method: &Method,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        let Some(limit) = limit else { return self.retries(None, arrived, cx, method, req).await };
        let (until, _) = limit;
        if until <= arrived {
            return Err(self.info.late(limit, arrived, cx).with_never_sent(true));
        }
        let expired = Expired::new(limit);
        {
            // Dropped after it is known why.
            let retries = pin!(self.retries(Some(&expired), arrived, cx, method, req));
            if let Ok(result) = timeout_at(until.into(), retries).await {
                return result;
            }
            expired.expire();
        }
        let log = req.expired(now());
        req.finish(Err(self.info.late(limit, arrived, cx).with_attempts(log)), false)
    }

    /// Retries: above the pick of a name and an endpoint, so that another attempt may go elsewhere.
    async fn retries(
        &self,
        expired: Option<&Expired>,
        arrived: Instant,
        cx: Option<&RequestContext>,
        method: &Method,
        req: &mut Outgoing,
    ) -> Result<Response<Body>, Error> {
        // Within the time of the request, which it may wait for. Retries that come at once need no other place.
        let mut entered = match &self.allowance.limit {
            None => None,
            Some(limit) => match limit.enter(req.request(), expired)? {
                Enter::Now(entered) => Some(entered),
                Enter::Later(later) => Some(later.await?),
            },
        };
        let hints = req.hints().cloned();
        let deadline = expired.map(Expired::deadline);
        let max_attempts = cx.and_then(|cx| cx.overrides.as_ref()?.max_attempts());
        let attempts = match &hints {
            Some(hints) if hints.is_retry() => self.retries.start_retry(deadline),
            _ => self.retries.start(deadline, arrived),
        };
        let mut attempts = attempts.at_most(max_attempts);
        let policy = &self.info.policy;
        let keep = |req| Replay::keep(req, policy.retry_buffer_bytes, &policy.replay_memory);
        let replay = req.request_mut().and_then(keep);
        let (mut begun, mut aside) = (arrived, None::<Discarded>);
        let outcome = loop {
            let attempt = Attempt {
                arrived,
                info: &self.info,
                method,
                cx,
                grpc: req.grpc(),
                replay: replay.as_ref(),
                expired,
                due: expired.map(Expired::due),
                hints: hints.as_ref(),
            };
            // As the hop before may have it, too.
            let is_retry = attempts.made() > 1 || hints.as_ref().is_some_and(|hints| hints.is_retry());
            let mut result = match (self.hedges(&attempt), aside.take()) {
                (None, None) => self.attempt(&attempt, req).await,
                (Some(hedges), None) => hedges.send(self, &attempt, req, is_retry).await,
                (None, Some(aside)) => Box::pin(aside.beside(self.attempt(&attempt, req))).await,
                (Some(hedges), Some(aside)) => aside.beside(hedges.send(self, &attempt, req, is_retry)).await,
            };
            if let Some(late) = attempt.instead(result.as_ref()) {
                break self.overdue(late, req, attempts.made());
            }
            let waits = result.as_ref().is_ok_and(|rsp| attempt.waits_for_end(rsp)) && !self.retries.is_off();
            let verdict = if waits {
                // Seldom, and large: not part of every request's future, and nor is the answer meanwhile.
                let verdict;
                (result, verdict) = Box::pin(self.hold(&attempt, result)).await;
                verdict
            } else {
                attempt.verdict(result.as_ref())
            };
            if verdict.class().is_success() {
                if expired.is_some() {
                    self.typical.record(now() - begun);
                }
                break result;
            }
            let ended = now();
            req.failed(AttemptOutcome::of(result.as_ref()), ended - begun);
            let next = if verdict.class().is_retryable() && !attempt.is_kept() {
                Err(Stop::NotKept)
            } else {
                attempts.next(&self.retries, verdict, self.typical.get(), ended, crate::random::next())
            };
            let wait = match next {
                Ok(wait) => wait,
                Err(stop) => break self.stopped(result, req, stop),
            };
            self.stats.retries.total.incr();
            attempt.event("finagle.retry");
            if let Some(entered) = &mut entered {
                entered.failed(result.as_ref());
            }
            let left = expired.map(|expired| expired.deadline().remaining(ended).saturating_sub(wait));
            let spare = left.map(|left| left.saturating_sub(self.typical.get()) / 2);
            // Seldom, and large: not part of every request's future.
            match Box::pin(self.pause(entered.as_mut(), result, ended, wait, spare)).await {
                Ok(discarded) => aside = discarded,
                Err((result, stop)) => break self.stopped(result, req, stop),
            }
            begun = now();
            // The wait may have been longer than it should: what waits for a thread waits for as long as that takes.
            if let Some(late) = attempt.late(begun) {
                break self.overdue(late, req, attempts.made());
            }
            // Of what is retryable there is a copy. Made now, since a request has no room for both while it waits.
            let Some(again) = attempt.replay() else {
                // The attempt before went on sending for a while.
                let log = req.stopped(Stop::NotKept);
                break req.finish(Err(Error::not_kept().with_attempts(log)), false);
            };
            req.put(again);
        };
        self.stats.retries.per_request.record(u64::from(attempts.made() - 1));
        match entered {
            None => outcome,
            Some(entered) => entered.keep(&self.allowance, outcome),
        }
    }

    /// Holds an answer back for its end.
    async fn hold(
        &self,
        attempt: &Attempt<'_>,
        mut result: Result<Response<Body>, Error>,
    ) -> (Result<Response<Body>, Error>, Verdict) {
        let verdict = match &mut result {
            Ok(rsp) => attempt.hold(rsp, &self.stats.retries).await,
            Err(error) => attempt.verdict(Err(error)),
        };
        (result, verdict)
    }

    /// What comes between two attempts: what is left of the first is read, beside the second if there is no wait.
    ///
    /// Who waits has no place in the limit meanwhile, for others can use it. If there is none after that, the outcome so
    /// far stands.
    async fn pause(
        &self,
        entered: Option<&mut Entered<'_>>,
        result: Result<Response<Body>, Error>,
        ended: Instant,
        wait: Duration,
        spare: Option<Duration>,
    ) -> Result<Option<Discarded>, (Result<Response<Body>, Error>, Stop)> {
        let Some(entered) = entered.filter(|entered| entered.has_place() && !wait.is_zero()) else {
            let discarded = match result {
                Ok(rsp) if !rsp.body().is_end_stream() => discard(rsp.into_body(), wait, spare).await,
                _ => None,
            };
            self.sleep(ended, wait).await;
            return Ok(discarded);
        };
        let last = set_aside(result, wait, spare).await;
        entered.leave();
        self.sleep(ended, wait).await;
        let Err(shed) = entered.enter_again().await else { return Ok(None) };
        let stop = if entered.is_late() { Stop::Deadline } else { Stop::Limited };
        // It was sent before.
        Err((last.unwrap_or_else(|| Err(shed.with_never_sent(false))), stop))
    }

    /// The time was over before an attempt could begin, which then did not: of so many, it included.
    fn overdue(&self, late: Error, req: &mut Outgoing, made: u32) -> Result<Response<Body>, Error> {
        let is_retry = made > 1;
        if is_retry {
            self.stats.retries.deadline();
        }
        let error = late.with_never_sent(!is_retry).with_attempts(req.overdue());
        req.finish(Err(error), false)
    }

    async fn sleep(&self, ended: Instant, wait: Duration) {
        if wait.is_zero() {
            // A failure that is there at once would never let the timer of the whole request have its turn.
            return tokio::task::yield_now().await;
        }
        let _waiting = self.stats.retries.waiting();
        tokio::time::sleep_until(after(ended, wait)).await;
    }

    /// The last outcome, with what was tried where there was more to try.
    fn stopped(
        &self,
        result: Result<Response<Body>, Error>,
        req: &mut Outgoing,
        stop: Stop,
    ) -> Result<Response<Body>, Error> {
        let stats = &self.stats.retries;
        match stop {
            // Linkerd counts those of a budget that is off here as well.
            Stop::BudgetExhausted | Stop::BudgetOff => stats.budget_exhausted.incr(),
            Stop::Deadline => stats.deadline(),
            Stop::PushedBack => stats.pushed_back(),
            Stop::IsRetry => stats.is_retry(),
            Stop::Limited => stats.limited(),
            _ => {}
        }
        // A hop that never retries leaves that to the others.
        let is_final = match stop {
            Stop::MaxAttempts => !self.retries.is_off(),
            Stop::BudgetExhausted | Stop::PushedBack => true,
            _ => false,
        };
        let result = req.finish(result, is_final);
        let log = req.stopped(stop);
        match result {
            Ok(mut rsp) => {
                if log.was_stopped() || log.tried().len() > 1 {
                    rsp.extensions_mut().insert(log);
                }
                Ok(rsp)
            }
            Err(error) => Err(error.with_attempts(log)),
        }
    }

    /// What may make an attempt a second time, if anything may.
    fn hedges(&self, attempt: &Attempt<'_>) -> Option<&Hedges> {
        self.allowance.hedges.as_ref().filter(|_| attempt.replay.is_some_and(Replay::may_be_hedged))
    }

    /// Sends a request by the name as it is bound now. If the last endpoint there is gone it is held for a while: addresses may
    /// be told before the tree that no longer has them.
    pub(super) async fn attempt(&self, attempt: &Attempt<'_>, req: &mut Outgoing) -> Result<Response<Body>, Error> {
        let mut patience = Patience::default();
        loop {
            let route = match self.binding.route(attempt.arrived, self.info.shared.binding_timeout).await {
                Ok(route) => route,
                Err(unbound) => {
                    attempt.event("namer.failure");
                    return Err(self.info.unbound(unbound));
                }
            };
            req.choose(route.is_union());
            let Some(share) = route.pick(crate::random::next()) else {
                attempt.event("namer.success");
                return Err(Error::new(ErrorKind::NoSuchName));
            };
            let client = share.client();
            if patience.holds(self.binding.switching(), client) {
                // Seldom: not part of every request's future.
                Box::pin(patience.hold(&self.binding, &route, client)).await;
                continue;
            }
            attempt.event("namer.success");
            let result = share.send(attempt, req).await;
            // Since it was looked at.
            let is_lost = || req.is_here() && patience.holds(self.binding.switching(), client);
            match result {
                Err(error) if error.kind() == ErrorKind::NoEndpoints && is_lost() => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'a, F>(_: impl Fn(&'a PathStack, &'a mut Outgoing, Instant) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_requests_future_is_small() {
        // One box holds it all, down to the endpoint's own.
        let size = size(PathStack::run);
        assert!(size <= 2824, "{size}");
    }
}
