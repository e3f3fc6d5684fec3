//! Whether there is another attempt, and when: the decision by itself, without clock, sleep or service.

use std::{
    fmt,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use crate::{Backoff, Budget, Deadline, Delays, Verdict};

/// What a timer may be late by itself: tokio's are that coarse.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// How the requests of one destination are retried. Clones share the budget.
///
/// # Defaults
///
/// Linkerd 1.x's: the default [`Budget`], no wait, as many attempts as the budget allows, and no least time.
#[derive(Clone, Debug, Default)]
pub struct Retries {
    /// What pays for retries.
    pub budget: Budget,
    /// How long to wait before each.
    pub backoff: Backoff,
    /// How often one request is sent, the first time included. `None` leaves that to the budget.
    pub max_attempts: Option<NonZeroU32>,
    /// How much time a request must have left for another attempt to be worth its while, as far as is known when
    /// nothing was measured. Only matters for a request with a deadline.
    pub min_attempt_time: Duration,
}

/// The attempts at one request.
///
/// ```
/// use linkerd_retry::{Deadline, Retries, Safety, Stop, Verdict};
/// use std::time::Duration;
///
/// # let now = tokio::time::Instant::now().into_std();
/// let retries = Retries::default();
/// let mut attempts = retries.start(Deadline::after(now, Duration::from_secs(1)), now);
/// let failed = Verdict::failure(Safety::Idempotent);
/// // The first attempt took 100 ms, and so will a second.
/// let (now, typical) = (now + Duration::from_millis(100), Duration::from_millis(100));
/// assert_eq!(attempts.next(&retries, failed, typical, now, 4), Ok(Duration::ZERO));
/// // The second took nearly all the time there was: a third is not begun, nor paid for.
/// let now = now + Duration::from_millis(850);
/// assert_eq!(attempts.next(&retries, failed, typical, now, 4), Err(Stop::Deadline));
/// ```
#[derive(Clone, Debug)]
pub struct Attempts {
    delays: Delays,
    made: u32,
    max: Option<NonZeroU32>,
    deadline: Option<Deadline>,
    is_retry: bool,
}

/// Why there is no other attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// The last one succeeded.
    Success,
    /// Its failure is not one that may be tried again.
    NotRetryable,
    /// The request is not kept: it was too long, or cannot be copied.
    NotKept,
    /// The peer said not to.
    PushedBack,
    /// The request came as a retry: it is for whoever retries it to send it again.
    IsRetry,
    /// There were as many as there may be.
    MaxAttempts,
    /// Another one, with the wait before it, would not be over by the deadline.
    Deadline,
    /// The budget had no retry left.
    BudgetExhausted,
    /// It gave its place in a limit back while it waited, and got none again.
    Limited,
    /// The budget is [off](Budget::is_off): there are no retries, so none is missing.
    BudgetOff,
    /// The service that would have made it failed to become ready.
    NotReady,
}

impl Retries {
    /// No retries at all.
    #[must_use]
    pub fn off() -> Self {
        Self { budget: Budget::off(), ..Self::default() }
    }

    /// Whether there can never be a retry, so that nobody need keep a copy of a request.
    pub fn is_off(&self) -> bool {
        self.budget.is_off() || self.max_attempts.is_some_and(|max| max.get() == 1)
    }

    /// Begins a request, which earns its share of a retry.
    pub fn start(&self, deadline: impl Into<Option<Deadline>>, now: Instant) -> Attempts {
        self.budget.deposit(now);
        self.begin(deadline.into())
    }

    /// Begins a request that came as somebody's retry: it earns nothing, and is not retried here as well. So retries add
    /// up along a chain of hops, and do not multiply.
    pub fn start_retry(&self, deadline: impl Into<Option<Deadline>>) -> Attempts {
        Attempts { is_retry: true, ..self.begin(deadline.into()) }
    }

    pub(crate) fn begin(&self, deadline: Option<Deadline>) -> Attempts {
        Attempts { delays: self.backoff.start(), made: 1, max: None, deadline, is_retry: false }
    }
}

impl Attempts {
    /// The same request, sent at most so often, whatever [`Retries::max_attempts`] allows beyond that: what this one
    /// asks for itself. `None` asks for nothing.
    #[must_use]
    pub fn at_most(self, max_attempts: Option<NonZeroU32>) -> Self {
        Self { max: max_attempts, ..self }
    }

    /// How often the request was sent, the attempt that is under way included.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// By when the request must be over.
    pub fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Whether there is another attempt after one that ended, and how long to wait for it.
    ///
    /// If so, it is paid for: all waits count against the budget. What will not be is not paid for. Before a deadline, a
    /// wait has a millisecond to be late; but the deadline has to be [checked](Deadline::check) once more when the wait
    /// is over, because it may be later than that.
    ///
    /// `typical` is how long an attempt is expected to take, zero if nobody knows; `random` is as for
    /// [`Delays::next`].
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn next(
        &mut self,
        retries: &Retries,
        verdict: Verdict,
        typical: Duration,
        now: Instant,
        random: u64,
    ) -> Result<Duration, Stop> {
        if verdict.class().is_success() {
            return Err(Stop::Success);
        }
        if !verdict.class().is_retryable() {
            return Err(Stop::NotRetryable);
        }
        if self.is_retry {
            return Err(Stop::IsRetry);
        }
        if retries.budget.is_off() {
            return Err(Stop::BudgetOff);
        }
        let not_before = verdict.not_before().ok_or(Stop::PushedBack)?;
        if [retries.max_attempts, self.max].into_iter().flatten().any(|max| self.made >= max.get()) {
            return Err(Stop::MaxAttempts);
        }
        let wait = self.delays.next(random).max(not_before);
        // A timer that is late must not be what makes it too late, or there would be no outcome to pass on.
        let slack = if wait.is_zero() { Duration::ZERO } else { TICK };
        let needed = wait.saturating_add(slack).saturating_add(typical.max(retries.min_attempt_time));
        if self.deadline.is_some_and(|deadline| !deadline.leaves(now, needed)) {
            return Err(Stop::Deadline);
        }
        // Last, so that only what will be sent is paid for.
        if !retries.budget.try_withdraw(now) {
            return Err(Stop::BudgetExhausted);
        }
        self.made = self.made.saturating_add(1);
        Ok(wait)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "it succeeded",
            Self::NotRetryable => "not retryable",
            Self::NotKept => "the request was not kept",
            Self::PushedBack => "the peer asked for no retry",
            Self::IsRetry => "it is itself a retry of the hop before",
            Self::MaxAttempts => "no more attempts are allowed",
            Self::Deadline => "no time for another attempt before the deadline",
            Self::BudgetExhausted => "retry budget exhausted",
            Self::Limited => "a limit did not let it in again",
            Self::BudgetOff => "there are no retries",
            Self::NotReady => "the service did not become ready",
        })
    }
}

#[cfg(test)]
mod tests;
