//! The stack of a logical name: everything that must see a request as a whole, whatever becomes of its attempts.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use linkerd_dtab::{Dtab, Interpreter, Path};
use linkerd_retry::{
    Deadline, Pushback, ResponseClass, Retries, Safety, Stop, Typical, Verdict,
    timeout::{IdleBody, IdleElapsed},
};
use tokio::time::timeout_at;

use super::{
    Allowance, Binding,
    classified::{Counted, Open, success_class},
    discard::{Discarded, discard, set_aside},
    hedge::Hedges,
    hints::{Hints, says_final, says_retryable},
    limit::{self, Enter, Entered},
    outgoing::{Outgoing, Replay},
    route::Unbound,
};
#[cfg(feature = "server")]
use crate::access_log::{AccessLog, Served};
use crate::{
    AttemptLog, AttemptOutcome, Body, Error, ErrorKind, Left, TimedOut, Timer,
    error::{SharedFailure, twitter_duration},
    http::{context::RequestContext, deadline::GrpcUntil, headers, hint, max_forwards::Trace, overrides::Overrides},
    policy::ServicePolicy,
    svc::{Call, SvcFuture},
    telemetry::{RetryStats, ServiceStats},
};

/// What all stacks of a mesh have in common.
pub(crate) struct Shared {
    /// The table that every name is bound under, before the request's own.
    pub(crate) base: Dtab,
    /// How long a request waits for the first binding of its name.
    pub(crate) binding_timeout: Duration,
    /// Whether requests and responses get what a Linkerd proxy writes on them.
    pub(crate) proxy: bool,
    /// The router's label.
    pub(crate) label: Arc<str>,
    /// Where attempts are logged, if they are; or who wants to know where requests went.
    #[cfg(feature = "server")]
    pub(crate) access_log: Option<AccessLog>,
    /// Explains names.
    pub(crate) interpreter: Arc<dyn Interpreter>,
}

/// What one logical name is, under one local dtab.
#[derive(Debug)]
pub(crate) struct PathInfo {
    pub(crate) path: Path,
    pub(crate) local: Dtab,
    pub(crate) shared: Arc<Shared>,
    pub(crate) policy: ServicePolicy,
    dst_service: Option<HeaderValue>,
}

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

/// One attempt at a request, for what is below.
pub(crate) struct Attempt<'a> {
    /// When the request came, so that its waits add up.
    pub(crate) arrived: Instant,
    pub(crate) info: &'a PathInfo,
    pub(crate) method: &'a Method,
    pub(crate) cx: Option<&'a RequestContext>,
    /// Until when it is wanted, if it is a gRPC call.
    pub(crate) grpc: Option<GrpcUntil>,
    pub(crate) replay: Option<&'a Replay>,
    pub(crate) expired: Option<&'a Expired>,
    /// When nothing may begin for it any more.
    pub(super) due: Option<Due>,
    /// If hops tell each other of retries.
    pub(crate) hints: Option<&'a Arc<Hints>>,
}

/// Whether a limit on the time of a whole request ended it: what is dropped then has failed, and was not cancelled.
#[derive(Debug)]
pub(crate) struct Expired {
    timer: Timer,
    deadline: Deadline,
    has: AtomicBool,
}

/// When the time of a whole request is over, and by which timer.
type Limit = (Instant, Timer);

/// The same, as it goes through client layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due(Limit);

/// The time, as tokio's clock has it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// `timeout` after `arrived`; a time too far away to be expressed is thirty years from then.
pub(crate) fn after(arrived: Instant, timeout: Duration) -> tokio::time::Instant {
    const FAR: Duration = Duration::from_hours(24 * 365 * 30);
    arrived.checked_add(timeout).unwrap_or_else(|| arrived + FAR).into()
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("label", &self.label).field("base", &self.base).finish_non_exhaustive()
    }
}

impl Expired {
    /// By when the request must be over.
    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The limit that ended the request, if one did.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        // Relaxed: written and read by the one task that polls the request.
        let kind = if self.timer == Timer::Total { ErrorKind::TotalTimeout } else { ErrorKind::Deadline };
        self.has.load(Ordering::Relaxed).then_some(kind)
    }
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
        let result = self.within(limit, arrived, cx.as_ref(), &method, req).await;
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
        match result {
            Ok(mut rsp) => {
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
                    rsp = rsp.map(|body| self.idle(body, timeout));
                }
                if is_open {
                    let classifier = Arc::clone(&info.policy.classifier);
                    let counted = Counted::Name(Arc::clone(&self.stats.requests));
                    rsp = Open { classifier, counted, method, elapsed, is_marked: info.shared.proxy }.watch(rsp);
                }
                Ok(rsp)
            }
            Err(error) => {
                let error = info.explain(error).with_left(self.left(limit, ended));
                self.stats.timeouts.record(&error);
                tracing::debug!(dst = %info.path, kind = error.kind().name(), "request failed: {}", error.text());
                Err(error)
            }
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
        let Some((until, timer)) = limit else { return self.retries(None, arrived, cx, method, req).await };
        if until <= arrived {
            return Err(self.info.late((until, timer), arrived, cx).with_never_sent(true));
        }
        let expired = Expired { timer, deadline: Deadline::at(until), has: AtomicBool::new(false) };
        {
            // Dropped after it is known why.
            let retries = pin!(self.retries(Some(&expired), arrived, cx, method, req));
            if let Ok(result) = timeout_at(until.into(), retries).await {
                return result;
            }
            expired.has.store(true, Ordering::Relaxed);
        }
        let log = req.expired(now());
        req.finish(Err(self.info.late((until, timer), arrived, cx).with_attempts(log)), false)
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
        let deadline = expired.map(|expired| expired.deadline);
        let max_attempts = cx.and_then(|cx| cx.overrides.as_ref()?.max_attempts());
        let mut attempts = match &hints {
            Some(hints) if hints.is_retry() => self.retries.start_retry(deadline),
            _ => self.retries.start(deadline, arrived),
        };
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
                due: expired.map(|expired| Due((expired.deadline.instant(), expired.timer))),
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
            let verdict = match &mut result {
                // Seldom, and large: not part of every request's future.
                Ok(rsp) if attempt.waits_for_end(rsp) && !self.retries.is_off() => {
                    Box::pin(attempt.hold(rsp, &self.stats.retries)).await
                }
                _ => attempt.verdict(result.as_ref()),
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
            } else if verdict.class().is_retryable() && max_attempts.is_some_and(|max| attempts.made() >= max.get()) {
                Err(Stop::MaxAttempts)
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
            let left = expired.map(|expired| expired.deadline.remaining(ended).saturating_sub(wait));
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

    /// Sends a request by the name as it is bound now.
    pub(super) async fn attempt(&self, attempt: &Attempt<'_>, req: &mut Outgoing) -> Result<Response<Body>, Error> {
        let timeout = self.info.shared.binding_timeout;
        let route = match self.binding.route(attempt.arrived, timeout).await {
            Ok(route) => route,
            Err(unbound) => {
                attempt.event("namer.failure");
                return Err(self.info.unbound(unbound));
            }
        };
        attempt.event("namer.success");
        req.choose(route.is_union());
        match route.pick(crate::random::next()) {
            Some(share) => share.send(attempt, req).await,
            None => Err(Error::new(ErrorKind::NoSuchName)),
        }
    }
}

impl Attempt<'_> {
    /// The class of this attempt's outcome, as the name's classifier has it.
    pub(crate) fn classify(&self, result: Result<&Response<Body>, &Error>) -> ResponseClass {
        self.info.policy.classifier.classify(self.method, result)
    }

    /// What this attempt's outcome means for another one, as the name's classifier, the sender and the peer have it.
    fn verdict(&self, result: Result<&Response<Body>, &Error>) -> Verdict {
        let classifier = &self.info.policy.classifier;
        let mut verdict = classifier.verdict(self.method, result);
        let overrides = self.overrides();
        let is_listed = overrides.is_some_and(Overrides::says_which);
        if let Some(overrides) = overrides {
            verdict = overrides.verdict(verdict, result);
        }
        if verdict.class().is_success() {
            return verdict;
        }
        if !is_listed && !verdict.class().is_retryable() && self.is_keyed() {
            // As good as a method that may be repeated.
            let keyed = classifier.verdict(&Method::PUT, result);
            if keyed.class().is_retryable() {
                verdict = keyed;
            }
        }
        let Ok(rsp) = result else { return verdict };
        if self.hints.is_some() && says_final(rsp) {
            return verdict.push_back(Pushback::Never);
        }
        if !verdict.class().is_retryable() && says_retryable(rsp) {
            verdict = Verdict::failure(Safety::Refused);
        }
        hint::retry(rsp.headers()).map_or(verdict, |pushback| verdict.push_back(pushback))
    }

    /// Notes what happened in the span of the request, if it is recorded.
    fn event(&self, event: &'static str) {
        if let Some(recording) = self.cx.and_then(|cx| cx.recording.as_ref()) {
            recording.event(event);
        }
    }

    /// What its sender says of its timeouts and retries, if it is trusted.
    pub(super) fn overrides(&self) -> Option<&Overrides> {
        self.cx?.overrides.as_deref()
    }

    /// Whether its sender says that it may be sent twice, though its method does not.
    pub(super) fn is_keyed(&self) -> bool {
        self.replay.is_some_and(Replay::is_keyed)
    }

    /// Why it must not begin any more, if the time of the whole request is over.
    pub(super) fn late(&self, now: Instant) -> Option<Error> {
        let Due(limit) = self.due.filter(|Due((until, _))| *until <= now)?;
        Some(self.info.late(limit, self.arrived, self.cx).with_never_sent(true))
    }

    /// The same if that is what became of it, with what is known here. An endpoint may say so too, of a time of its own.
    pub(super) fn instead(&self, result: Result<&Response<Body>, &Error>) -> Option<Error> {
        let error = result.err()?;
        let is_time = matches!(error.kind(), ErrorKind::TotalTimeout | ErrorKind::Deadline);
        if is_time && error.never_sent() { self.late(now()) } else { None }
    }

    /// When the whole request must be over.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.expired.map(|expired| expired.deadline)
    }

    /// The request once more, if it was kept.
    pub(crate) fn replay(&self) -> Option<Request<Body>> {
        self.replay.and_then(Replay::request)
    }

    /// Whether it was.
    pub(crate) fn is_kept(&self) -> bool {
        self.replay.is_some_and(Replay::is_whole)
    }
}

impl PathInfo {
    pub(crate) fn new(path: Path, local: Dtab, shared: Arc<Shared>, policy: ServicePolicy) -> Self {
        // A printed path is visible ASCII, so this always makes a value.
        let dst_service = HeaderValue::try_from(path.to_string()).ok();
        Self { path, local, shared, policy, dst_service }
    }

    /// How long all of a request may take.
    fn total(&self, cx: Option<&RequestContext>) -> Option<TimedOut> {
        let said = cx.and_then(|cx| cx.overrides.as_ref()?.total());
        said.or_else(|| self.policy.total_timeout.map(|timeout| Timer::Total.after(timeout)))
    }

    /// The time of the whole request was over.
    fn late(&self, limit: Limit, arrived: Instant, cx: Option<&RequestContext>) -> Error {
        let (until, timer) = limit;
        if let Some(total) = self.total(cx).filter(|_| timer == Timer::Total) {
            return Error::new(ErrorKind::TotalTimeout).with_timer(total);
        }
        let limit = until.saturating_duration_since(arrived);
        Error::new(ErrorKind::Deadline).with_timer(timer.after(limit))
    }

    fn write_request(&self, req: &mut Request<Body>) {
        if let Some(dst) = &self.dst_service {
            req.headers_mut().insert(headers::L5D_DST_SERVICE, dst.clone());
        }
        if let Some(trace) = Trace::of(req) {
            req.extensions_mut().insert(trace);
        }
    }

    fn unbound(&self, unbound: Unbound) -> Error {
        let error = Error::new(ErrorKind::Binding);
        match unbound {
            Unbound::Timeout => {
                let limit = self.shared.binding_timeout;
                let (timeout, error) = (twitter_duration(limit), error.with_timer(Timer::Binding.after(limit)));
                error.with_text(format!("Exceeded {timeout} binding timeout while resolving name: {}", self.path))
            }
            Unbound::Failed(failure) => error.with_text(failure.to_string()).with_source(SharedFailure(failure)),
        }
    }

    /// Completes an error with what only the path knows, and what the caller of a proxy reads.
    fn explain(&self, error: Error) -> Error {
        let error = error.with_dst(&self.path);
        match error.kind() {
            ErrorKind::NoSuchName | ErrorKind::NoEndpoints => error.or_text(|| self.no_brokers()),
            ErrorKind::TotalTimeout => {
                let timeout = twitter_duration(error.timer().map(|timer| timer.limit).unwrap_or_default());
                error.or_text(|| {
                    format!(
                        "exceeded {timeout} to unspecified while waiting for a response for the request, including \
                         retries (if applicable). Remote Info: Not Available"
                    )
                })
            }
            ErrorKind::Deadline => {
                let Some(TimedOut { limit, set_by, .. }) = error.timer() else { return error };
                let limit = Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
                let (limit, path) = (twitter_duration(limit), &self.path);
                error.or_text(|| {
                    format!("the deadline of the request to {path} has passed: {set_by} left it {limit} when it came")
                })
            }
            _ => error,
        }
    }

    /// The text that Linkerd 1.x has for a name without endpoints; dashboards look for its first line.
    fn no_brokers(&self) -> String {
        let Self { path, local, shared, .. } = self;
        let lines = |dtab: &Dtab| format!("{}\n", dtab.lines());
        let (base, local) = (lines(&shared.base), lines(local));
        format!("Unable to route request!\n\nservice name: {path}\ndtab:\n\nbase dtab:\n{base}override dtab:\n{local}")
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
        assert!(size <= 3584, "{size}");
    }
}
