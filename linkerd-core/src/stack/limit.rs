//! What is let in of a logical name's requests.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use linkerd_retry::limit::{ConcurrencyLimit, Criticality, Outcome, Permit, RateLimit, Reason, Turn, WhenFull};

use super::{
    Allowance,
    time::{Expired, now},
};
use crate::{
    Body, BoxError, Error, ErrorKind, Timer,
    body::Rider,
    http::{headers::L5D_CTX_CRITICALITY, hint},
    mesh::LimitState,
    policy::{Door, LimitPolicy},
    telemetry::LimitStats,
};

/// The limit of one logical name.
#[derive(Debug)]
pub(super) struct Limit {
    kind: &'static str,
    door: Door,
    /// How many wait for their turn, where that is by time.
    waiting: AtomicUsize,
    stats: LimitStats,
}

/// How a request gets in.
pub(super) enum Enter<'a> {
    Now(Entered<'a>),
    Later(Pin<Box<dyn Future<Output = Result<Entered<'a>, Error>> + Send + 'a>>),
}

/// A request that was let in. It makes room when it is dropped, or when the response that it goes with has ended.
pub(super) struct Entered<'a> {
    limit: &'a Limit,
    class: Criticality,
    expired: Option<&'a Expired>,
    // None where it counts when a request comes and not how long it stays.
    permit: Option<Permit>,
    /// Whether it was sent more than once since.
    was_resent: bool,
}

/// A turn that is given back unless its time comes.
struct Waiting<'a> {
    limit: &'a RateLimit,
    count: &'a AtomicUsize,
    turn: Option<Turn>,
}

impl Limit {
    /// None if the policy cannot be, which was checked when it was made.
    pub(super) fn new(name: &str, policy: &LimitPolicy, stats: LimitStats) -> Option<Self> {
        let door = policy.build(name.into())?;
        Some(Self { kind: policy.kind(), door, waiting: AtomicUsize::new(0), stats })
    }

    /// Whether a new one in its place would let in nothing that this one does not.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        let LimitState { in_flight, queued, .. } = self.state();
        let is_full = matches!(&self.door, Door::InATime(limit) if !limit.is_at_rest(now));
        in_flight.unwrap_or_default() == 0 && queued == 0 && !is_full
    }

    /// Lets a request in, now or after a wait.
    ///
    /// # Errors
    ///
    /// It is shed.
    pub(super) fn enter<'a>(
        &'a self,
        req: Option<&Request<Body>>,
        expired: Option<&'a Expired>,
    ) -> Result<Enter<'a>, Error> {
        self.enter_as(req.map(criticality).unwrap_or_default(), expired)
    }

    fn enter_as<'a>(&'a self, class: Criticality, expired: Option<&'a Expired>) -> Result<Enter<'a>, Error> {
        let enter = |permit| Entered { limit: self, class, expired, permit, was_resent: false };
        match &self.door {
            Door::AtATime(limit) if limit.when_full() == WhenFull::Reject => {
                let permit = limit.try_acquire(class).map_err(|rejected| self.shed(rejected))?;
                Ok(Enter::Now(enter(Some(permit))))
            }
            Door::AtATime(limit) => Ok(match limit.acquire_free(class) {
                Some(permit) => Enter::Now(enter(Some(permit))),
                // In a box: it is large, and for few.
                None => Enter::Later(Box::pin(self.queue(limit, class, expired))),
            }),
            Door::InATime(limit) => {
                let now = now();
                let turn = limit.reserve(class, now).map_err(|limited| self.shed(limited))?;
                if turn.at() <= now {
                    return Ok(Enter::Now(enter(None)));
                }
                let at = turn.at();
                // Relaxed: a count orders nothing.
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let waiting = Waiting { limit, count: &self.waiting, turn: Some(turn) };
                if expired.is_some_and(|expired| expired.deadline().has_passed(at)) {
                    let text = format!(
                        "rate limit {} has no turn before the deadline; nothing of the request was sent",
                        limit.name()
                    );
                    return Err(self.shed(text));
                }
                Ok(Enter::Later(Box::pin(waiting.turn(enter(None)))))
            }
        }
    }

    async fn queue<'a>(
        &'a self,
        limit: &'a ConcurrencyLimit,
        class: Criticality,
        expired: Option<&'a Expired>,
    ) -> Result<Entered<'a>, Error> {
        let until = expired.map(Expired::deadline);
        let permit = limit.acquire(class).until(until).await.map_err(|rejected| match rejected.reason {
            Reason::Waited(wait) => self.shed(rejected).with_timer(Timer::Queue.after(wait)),
            _ => self.shed(rejected),
        })?;
        Ok(Entered { limit: self, class, expired, permit: Some(permit), was_resent: false })
    }

    fn shed(&self, why: impl Into<BoxError>) -> Error {
        self.stats.shed.incr();
        let why = why.into();
        Error::new(ErrorKind::Overloaded).with_text(why.to_string()).with_source(why)
    }

    /// What it is at, for people.
    pub(super) fn state(&self) -> LimitState {
        // Relaxed: see `enter`.
        let waiting = self.waiting.load(Ordering::Relaxed);
        let (limit, in_flight, queued) = match &self.door {
            Door::AtATime(limit) => {
                let usage = limit.usage();
                (usage.limit, Some(usage.in_flight), usage.queued)
            }
            Door::InATime(limit) => (limit.settings().requests.get() as usize, None, waiting),
        };
        LimitState { kind: self.kind, limit, in_flight, queued, shed: self.stats.shed.get() }
    }

    /// Brings the numbers up to date that are not counted as they happen.
    pub(super) fn refresh(&self) {
        let LimitState { limit, in_flight, queued, .. } = self.state();
        self.stats.limit.set_count(limit as u64);
        self.stats.in_flight.set_count(in_flight.unwrap_or_default() as u64);
        self.stats.queued.set_count(queued as u64);
    }
}

impl Entered<'_> {
    /// Whether it has a place, which others may want.
    pub(super) fn has_place(&self) -> bool {
        self.permit.is_some()
    }

    /// An attempt failed, and there will be another.
    pub(super) fn failed(&mut self, result: Result<&Response<Body>, &Error>) {
        let outcome = outcome(true, result);
        if let Some(permit) = self.permit.as_mut().filter(|_| outcome == Outcome::Overloaded) {
            permit.report(outcome);
        }
        self.was_resent = true;
    }

    /// Whether the time of the request is over.
    pub(super) fn is_late(&self) -> bool {
        self.expired.is_some_and(|expired| expired.deadline().has_passed(now()))
    }

    /// Makes room while it waits.
    pub(super) fn leave(&mut self) {
        self.permit = None;
    }

    /// Is let in again, now or after a wait.
    pub(super) async fn enter_again(&mut self) -> Result<(), Error> {
        *self = match self.limit.enter_as(self.class, self.expired)? {
            Enter::Now(entered) => entered,
            Enter::Later(later) => later.await?,
        };
        Ok(())
    }

    /// Stays for as long as the body of the response, and so does the limit.
    pub(super) fn keep(
        mut self,
        allowance: &Arc<Allowance>,
        mut result: Result<Response<Body>, Error>,
    ) -> Result<Response<Body>, Error> {
        let Some(mut permit) = self.permit.take() else { return result };
        permit.report(outcome(self.was_resent, result.as_ref()));
        if let Ok(rsp) = &mut result
            && !rsp.body().is_end_stream()
        {
            let held = (permit, Arc::clone(allowance));
            rsp.body_mut().ride(Rider::Dyn(Box::new(move |_| drop(held))));
        }
        result
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // One that is cancelled says nothing.
        if let Some(permit) = &mut self.permit
            && self.expired.and_then(Expired::kind).is_some()
        {
            permit.report(Outcome::Overloaded);
        }
    }
}

impl Waiting<'_> {
    async fn turn(mut self, entered: Entered<'_>) -> Result<Entered<'_>, Error> {
        if let Some(turn) = &self.turn {
            tokio::time::sleep_until(turn.at().into()).await;
        }
        self.turn = None;
        Ok(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Relaxed: see `enter`.
        self.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(turn) = self.turn.take() {
            self.limit.cancel(turn, now());
        }
    }
}

/// What a response tells a limit that adapts.
fn outcome(was_retried: bool, result: Result<&Response<Body>, &Error>) -> Outcome {
    match result {
        Ok(rsp) if matches!(rsp.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            Outcome::Overloaded
        }
        // One that failed may have done so at once, and the time of one that was sent twice has waits in it.
        Ok(rsp) if !was_retried && !rsp.status().is_server_error() && !hint::grpc_failure(rsp.headers()) => {
            Outcome::Success
        }
        Err(error) if matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::AttemptTimeout) => Outcome::Overloaded,
        Ok(_) | Err(_) => Outcome::Ignored,
    }
}

/// Says to the next hop how much a request matters, if its sender here says so by its extensions.
pub(super) fn write_criticality(req: &mut Request<Body>) {
    if let Some(class) = req.extensions().get::<Criticality>() {
        let class = HeaderValue::from_static(class.as_str());
        req.headers_mut().insert(L5D_CTX_CRITICALITY, class);
    }
}

/// How much a request matters: by its extensions, else by its header.
fn criticality(req: &Request<Body>) -> Criticality {
    let header = || req.headers().get(L5D_CTX_CRITICALITY)?.to_str().ok()?.parse().ok();
    req.extensions().get().copied().or_else(header).unwrap_or_default()
}
