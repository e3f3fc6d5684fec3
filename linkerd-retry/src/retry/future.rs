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
use crate::{Attempts, Classifier, Stop, Until};

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
    attempts: Attempts,
    until: Option<Until<S::Error>>,
    /// When the attempt that is under way, or was last, began.
    began: Instant,
    log: Log,
    #[pin]
    state: State<S::Future, S::Error>,
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
        let now = began.into_std();
        let until = policy.hooks.deadline(&req, now);
        let attempts = policy.retries.begin(until.as_ref().map(Until::deadline));
        let log = Log::default();
        let (copy, state) = match until.map_or(Ok(()), |until| until.check(now)) {
            Ok(()) => {
                policy.retries.budget.deposit(now);
                let copy = if policy.retries.is_off() { None } else { policy.copy.copy(&req) };
                policy.hooks.before(&mut req, &Attempt { number: 1, deadline: attempts.deadline(), log: &log });
                (copy, State::Attempt(service.call(req)))
            }
            Err(late) => (None, State::Late(Some(late))),
        };
        Self { policy, service, copy, attempts, until, began, log, state }
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
        let policy = &**this.policy;
        loop {
            let (outcome, stop) = match this.state.as_mut().project() {
                StateProj::Attempt(attempt) => {
                    let outcome = ready!(attempt.poll(cx));
                    let Some(req) = this.copy.as_ref() else {
                        if this.log.is_empty() {
                            return Poll::Ready(outcome);
                        }
                        return Poll::Ready(policy.end(outcome, this.log, Stop::NotKept));
                    };
                    let verdict = policy.classifier.verdict(req, outcome.as_ref());
                    let first_succeeded = verdict.class().is_success() && this.log.is_empty();
                    // The time is asked for only if something hangs on it.
                    if first_succeeded && this.until.is_none() {
                        return Poll::Ready(outcome);
                    }
                    let now = Instant::now();
                    let took = now.saturating_duration_since(*this.began);
                    if verdict.class().is_success() && this.until.is_some() {
                        policy.typical.record(took);
                    }
                    if first_succeeded {
                        return Poll::Ready(outcome);
                    }
                    let (number, endpoint) = (this.attempts.made(), policy.hooks.endpoint(outcome.as_ref()));
                    this.log.push(Tried { number, endpoint, verdict, took });
                    let next = if verdict.class().is_retryable() && !policy.copy.is_whole(req) {
                        Err(Stop::NotKept)
                    } else {
                        let (typical, random) = (policy.typical.get(), policy.dice.roll());
                        this.attempts.next(&policy.retries, verdict, typical, now.into_std(), random)
                    };
                    match next {
                        Err(stop) => (outcome, stop),
                        Ok(wait) => {
                            policy.stats.0.total.add_one();
                            // A response can hold a connection, which nobody should hold through a backoff.
                            let drain = outcome.ok().and_then(|rsp| policy.hooks.discard(rsp));
                            let due = now.checked_add(wait).unwrap_or_else(|| now + FAR);
                            let drained = policy.drain_until(now, due, this.attempts.deadline());
                            match drain.filter(|_| drained > now) {
                                Some(drain) => this.state.set(State::Drain(drain, sleep_until(drained), due)),
                                None if wait.is_zero() => {
                                    this.state.set(State::Ready);
                                    return give_way(cx);
                                }
                                None => this.state.set(State::Backoff(sleep_until(due))),
                            }
                            continue;
                        }
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
                    continue;
                }
                StateProj::Backoff(sleep) => {
                    ready!(sleep.poll(cx));
                    this.state.set(State::Ready);
                    continue;
                }
                StateProj::Ready => match ready!(this.service.poll_ready(cx)) {
                    Ok(()) => {
                        *this.began = Instant::now();
                        // Once more: a wait takes longer than it should, and readiness as long as it likes.
                        match this.until.map_or(Ok(()), |until| until.check(this.began.into_std())) {
                            Ok(()) => {
                                let mut req = this.copy.take().expect("only a request with a copy is retried");
                                *this.copy = policy.copy.copy(&req);
                                let (number, deadline) = (this.attempts.made(), this.attempts.deadline());
                                policy.hooks.before(&mut req, &Attempt { number, deadline, log: this.log });
                                let attempt = this.service.call(req);
                                this.state.set(State::Attempt(attempt));
                                continue;
                            }
                            Err(late) => (Err(late), Stop::Deadline),
                        }
                    }
                    Err(failed) => (Err(failed), Stop::NotReady),
                },
                StateProj::Late(late) => {
                    let late = late.take().expect("polled after it was ready");
                    (Err(late), Stop::Deadline)
                }
            };
            return Poll::Ready(policy.end(outcome, this.log, stop));
        }
    }
}

/// Once round the executor, so that attempts which fail at once cannot starve the timers above.
fn give_way<T>(cx: &mut Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[pinned_drop]
impl<S, C, R, Req, H> PinnedDrop for ResponseFuture<S, C, R, Req, H>
where
    S: Service<Req>,
{
    fn drop(self: Pin<&mut Self>) {
        self.policy.stats.0.per_request.record(self.attempts.made() - 1);
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
            .field("attempts", &self.attempts.made())
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
