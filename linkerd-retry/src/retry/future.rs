use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::{pin_project, pinned_drop};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use super::{Attempt, CopyRequest, Drain, Hooks, Log, NoHooks, Policy, Tried};
use crate::{Attempts, Classifier, Stop, Until, ready::give_way};

/// As long as a clock can wait for sure: thirty years.
const FAR: Duration = Duration::from_hours(24 * 365 * 30);

/// Response future of [`Retry`](super::Retry).
#[pin_project(PinnedDrop)]
pub struct ResponseFuture<S, C, R, Req, H = NoHooks>
where
    S: Service<Req>,
{
    policy: Arc<Policy<C, R, H>>,
    service: S,
    /// What the next attempt sends, and what this one's outcome is classified by. `None` if this attempt is the last.
    copy: Option<Req>,
    progress: Progress<S::Error>,
    #[pin]
    state: State<S::Future, S::Error>,
}

/// How far a request is, whatever it is.
struct Progress<E> {
    attempts: Attempts,
    until: Option<Until<E>>,
    /// When the attempt that is under way, or was last, began.
    began: Instant,
    log: Log,
}

#[pin_project(project = StateProj)]
enum State<F, E> {
    Attempt(#[pin] F),
    /// What is left of a response; the end of its time; and when the next attempt is due.
    Drain(Drain, #[pin] Sleep, Instant),
    Backoff(#[pin] Sleep),
    Ready,
    /// It came too late to be sent at all.
    Late(Option<E>),
}

impl<S, C, R, Req, H> ResponseFuture<S, C, R, Req, H>
where
    S: Service<Req>,
    R: CopyRequest<Req>,
    H: Hooks<Req, S::Response, S::Error>,
{
    /// Sends the first attempt, unless it is too late for one.
    pub(super) fn new(policy: Arc<Policy<C, R, H>>, mut service: S, mut req: Req) -> Self {
        let began = Instant::now();
        let until = policy.hooks.deadline(&req, began.into_std());
        let attempts = policy.retries.begin(until.as_ref().map(Until::deadline));
        let mut progress = Progress { attempts, until, began, log: Log::default() };
        let (copy, state) = match progress.begin(began) {
            Ok(()) => {
                policy.retries.budget.deposit(began.into_std());
                let copy = if policy.retries.is_off() { None } else { policy.copy.copy(&req) };
                policy.hooks.before(&mut req, &progress.attempt());
                (copy, State::Attempt(service.call(req)))
            }
            Err(late) => (None, State::Late(Some(late))),
        };
        Self { policy, service, copy, progress, state }
    }
}

impl<E> Progress<E> {
    /// Begins an attempt.
    ///
    /// # Errors
    ///
    /// It is too late for one.
    fn begin(&mut self, now: Instant) -> Result<(), E> {
        self.began = now;
        self.until.map_or(Ok(()), |until| until.check_after(self.log.sent(), now.into_std()))
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt { number: self.attempts.made(), deadline: self.attempts.deadline(), log: &self.log }
    }

    /// When the next attempt is due, and now; or why there is none. `None` if the first one succeeded, of which there is
    /// nothing to tell.
    fn ended<C, R, H, Req, Rsp>(
        &mut self,
        policy: &Policy<C, R, H>,
        req: &Req,
        outcome: Result<&Rsp, &E>,
    ) -> Option<Result<(Instant, Instant), Stop>>
    where
        C: Classifier<Req, Rsp, E>,
        R: CopyRequest<Req>,
        H: Hooks<Req, Rsp, E>,
    {
        let verdict = policy.classifier.verdict(req, outcome);
        let class = verdict.class();
        let is_first_success = class.is_success() && self.log.is_empty();
        // To read a clock costs as much as all the rest of this, so it is read only if something hangs on it.
        if is_first_success && (self.until.is_none() || !policy.is_measured()) {
            return None;
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        if class.is_success() && self.until.is_some() {
            policy.typical.record(took);
        }
        if is_first_success {
            return None;
        }
        let (number, endpoint) = (self.attempts.made(), policy.hooks.endpoint(outcome));
        self.log.push(Tried { number, endpoint, verdict, took });
        if class.is_retryable() && !policy.copy.is_whole(req) {
            return Some(Err(Stop::NotKept));
        }
        let (typical, random) = (policy.typical.get(), policy.dice.roll());
        let wait = self.attempts.next(&policy.retries, verdict, typical, now.into_std(), random);
        Some(wait.map(|wait| (now.checked_add(wait).unwrap_or_else(|| now + FAR), now)))
    }
}

impl<S, C, R, Req, H> Future for ResponseFuture<S, C, R, Req, H>
where
    S: Service<Req>,
    C: Classifier<Req, S::Response, S::Error>,
    R: CopyRequest<Req>,
    H: Hooks<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (policy, progress) = (&**this.policy, this.progress);
        let (outcome, stop) = loop {
            match this.state.as_mut().project() {
                StateProj::Attempt(attempt) => {
                    let outcome = ready!(attempt.poll(cx));
                    let ended = match this.copy.as_ref() {
                        Some(req) => progress.ended(policy, req, outcome.as_ref()),
                        None if progress.log.is_empty() => None,
                        None => Some(Err(Stop::NotKept)),
                    };
                    let (due, now) = match ended {
                        None => return Poll::Ready(outcome),
                        Some(Err(stop)) => break (outcome, stop),
                        Some(Ok(due)) => due,
                    };
                    policy.stats.0.total.add_one();
                    // A response can hold a connection, which nobody should hold through a backoff.
                    let drain = outcome.ok().and_then(|rsp| policy.hooks.discard(rsp));
                    let drained = policy.drain_until(now, due, progress.attempts.deadline());
                    match drain.filter(|_| drained > now) {
                        Some(drain) => this.state.set(State::Drain(drain, sleep_until(drained), due)),
                        None if due <= now => {
                            this.state.set(State::Ready);
                            return give_way(cx);
                        }
                        None => this.state.set(State::Backoff(sleep_until(due))),
                    }
                }
                StateProj::Drain(drain, sleep, due) => {
                    if drain.as_mut().poll(cx).is_pending() {
                        ready!(sleep.poll(cx));
                    }
                    let due = *due;
                    if due <= Instant::now() {
                        this.state.set(State::Ready);
                        return give_way(cx);
                    }
                    this.state.set(State::Backoff(sleep_until(due)));
                }
                StateProj::Backoff(sleep) => {
                    ready!(sleep.poll(cx));
                    this.state.set(State::Ready);
                }
                StateProj::Ready => {
                    if let Err(failed) = ready!(this.service.poll_ready(cx)) {
                        break (Err(failed), Stop::NotReady);
                    }
                    // Once more: a wait takes longer than it should, and readiness as long as it likes.
                    if let Err(late) = progress.begin(Instant::now()) {
                        break (Err(late), Stop::Deadline);
                    }
                    let mut req = this.copy.take().expect("only a request with a copy is retried");
                    *this.copy = policy.copy.copy(&req);
                    policy.hooks.before(&mut req, &progress.attempt());
                    let attempt = this.service.call(req);
                    this.state.set(State::Attempt(attempt));
                }
                StateProj::Late(late) => {
                    break (Err(late.take().expect("polled after it was ready")), Stop::Deadline);
                }
            }
        };
        Poll::Ready(policy.end(outcome, &mut progress.log, stop))
    }
}

#[pinned_drop]
impl<S, C, R, Req, H> PinnedDrop for ResponseFuture<S, C, R, Req, H>
where
    S: Service<Req>,
{
    fn drop(self: Pin<&mut Self>) {
        self.policy.stats.0.per_request.record(self.progress.attempts.made() - 1);
    }
}

impl<S: Service<Req>, C, R, Req, H> fmt::Debug for ResponseFuture<S, C, R, Req, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Attempt(_) => "attempt",
            State::Drain(..) => "drain",
            State::Backoff(_) => "backoff",
            State::Ready => "ready",
            State::Late(_) => "late",
        };
        f.debug_struct("ResponseFuture")
            .field("attempts", &self.progress.attempts.made())
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
