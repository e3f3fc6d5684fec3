//! The metrics of a logical name.

use std::sync::{Arc, OnceLock};

use super::{Rare, Seldom, TimeoutStats};
use crate::telemetry::{Counter, Entered, Gauge, RequestStats, Scope, Stat};

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
    rare: Rare<{ Rarely::NAMES.len() }>,
    waiting: OnceLock<Gauge>,
    scope: Scope,
}

/// Counters of a service's `retries` that are there from the first event on.
#[derive(Clone, Copy)]
enum Rarely {
    Deadline,
    PushedBack,
    IsRetry,
    Limited,
    Hedges,
    HedgeWins,
    HedgesUnpaid,
    TooLong,
    TooLate,
}

impl Rarely {
    const NAMES: [&str; 9] = [
        "deadline",
        "pushed_back",
        "is_retry",
        "limited",
        "hedges",
        "hedge_wins",
        "hedge_budget_exhausted",
        "response_stream_too_long",
        "classification_timeout",
    ];
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
    pub(super) shared: Seldom,
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
                rare: Rare::new(&retries),
                waiting: OnceLock::new(),
                scope: retries,
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
    fn rare(&self, which: Rarely) -> &Counter {
        self.rare.get(which as usize, |scope| scope.counter(Rarely::NAMES[which as usize]))
    }

    /// Counts a retry that could not have been over by the deadline of its request, in `deadline`, which is there from
    /// the first on.
    pub fn deadline(&self) {
        self.rare(Rarely::Deadline).incr();
    }

    /// Counts a retry that the peer asked not to make, in `pushed_back`, which is there from the first on.
    pub fn pushed_back(&self) {
        self.rare(Rarely::PushedBack).incr();
    }

    /// Counts a failure that was left to the hop before, which retries the request already, in `is_retry`, which is there
    /// from the first on.
    pub fn is_retry(&self) {
        self.rare(Rarely::IsRetry).incr();
    }

    /// Counts a retry that its limit did not let in again, in `limited`, which is there from the first on.
    pub fn limited(&self) {
        self.rare(Rarely::Limited).incr();
    }

    /// Counts a retry that waits until its time has come, until what is returned is dropped; in `waiting`, which is there
    /// from the first on.
    pub fn waiting(&self) -> Entered<'_> {
        self.waiting.get_or_init(|| self.scope.gauge("waiting")).enter()
    }

    /// Counts an attempt that was made at a second endpoint too, in `hedges`, and in `hedge_wins` if that was the better
    /// one; each is there from the first on.
    pub fn hedged(&self, won: bool) {
        self.rare(Rarely::Hedges).incr();
        if won {
            self.rare(Rarely::HedgeWins).incr();
        }
    }

    /// Catches up with a count of hedges that could not be paid for, in `hedge_budget_exhausted`, which is there from the
    /// first on.
    pub(crate) fn hedges_unpaid(&self, count: u64) {
        if count > 0 {
            self.rare(Rarely::HedgesUnpaid).advance_to(count);
        }
    }

    /// Counts a response that was held back for its end and was too long for that, in `response_stream_too_long`, which is
    /// there from the first on.
    pub fn response_stream_too_long(&self) {
        self.rare(Rarely::TooLong).incr();
    }

    /// Counts a response that was held back for its end and took too long for that, in `classification_timeout`, which is
    /// there from the first on.
    pub fn classification_timeout(&self) {
        self.rare(Rarely::TooLate).incr();
    }
}

impl AllowanceStats {
    /// Counts a stack of a name that there was no room for, in `shared`, which is there from the first on.
    pub fn shared(&self) {
        self.shared.add(1);
    }
}
