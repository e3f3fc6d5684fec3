//! All settings of all layers.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::{Duration, Instant},
};

use linkerd_retry::{
    Backoff, Budget, BudgetSettings, Deadline, Retries, Safety, Sent, Until, Verdict,
    expire::DeadlineLayer,
    hedge::{HedgeDelay, HedgeLayer, HedgeRequest},
    limit::{Classify, ConcurrencyLimit, Criticality, LimitLayer, WhenFull},
    requeue::RequeueLayer,
    retry::{Hooks, RetryLayer},
    timeout::{AttemptTimeoutLayer, TotalTimeoutLayer},
};
use proptest::prelude::*;
use tower::{Service, ServiceBuilder};

use super::{
    MS,
    backend::{Backend, Call, Failed},
};

/// Times are in milliseconds, and none is none.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    percent: u32,
    min_per_sec: u32,
    backoff: Backoff,
    max_attempts: Option<NonZeroU32>,
    min_attempt_time: u64,
    /// Whether deadlines end what is under way.
    enforced: bool,
    total: Option<u64>,
    attempt: Option<u64>,
    hedge: Option<u64>,
    limit: usize,
    when_full: WhenFull,
    seed: u64,
}

/// One set of layers, with what they share.
pub(crate) struct Stack {
    policy: Policy,
    pub(crate) retries: Budget,
    pub(crate) requeues: Budget,
    pub(crate) limit: ConcurrencyLimit,
}

/// What the layers must be told about requests.
#[derive(Clone)]
struct Known;

impl Policy {
    /// One with which everything that there is to wait for is waited for.
    pub(crate) fn patient() -> Self {
        Self {
            percent: 100_000,
            min_per_sec: 10,
            backoff: Backoff::constant(20 * MS),
            max_attempts: None,
            min_attempt_time: 0,
            enforced: true,
            total: Some(1000),
            attempt: Some(100),
            hedge: Some(30),
            limit: 1,
            when_full: WhenFull::Block,
            seed: 0,
        }
    }

    pub(crate) fn stack(&self) -> Stack {
        let percent = f64::from(self.percent) / 100.0;
        let settings = BudgetSettings { ttl: Duration::from_secs(1), min_per_sec: self.min_per_sec, percent };
        let retries = Budget::new(settings).unwrap();
        let limit = ConcurrencyLimit::fixed("test", NonZeroUsize::new(self.limit).unwrap(), self.when_full);
        Stack { policy: self.clone(), requeues: retries.fresh(), retries, limit }
    }
}

impl Stack {
    pub(crate) fn over(
        &self,
        backend: Backend,
    ) -> impl Service<Call, Response = (), Error = Failed, Future: Send> + Clone + Send + use<> {
        let Policy { enforced, total, attempt, hedge, .. } = self.policy;
        let time = |ms: Option<u64>| ms.map_or(Duration::MAX, |ms| ms as u32 * MS);
        let retries = Retries {
            budget: self.retries.clone(),
            backoff: self.policy.backoff.clone(),
            max_attempts: self.policy.max_attempts,
            min_attempt_time: self.policy.min_attempt_time as u32 * MS,
        };
        let hedge = HedgeLayer::new(Known, HedgeDelay::Fixed(time(hedge))).unwrap();
        ServiceBuilder::new()
            .layer(DeadlineLayer::new(move |call: &Call| call.deadline.filter(|_| enforced)))
            .layer(LimitLayer::new(self.limit.clone()).classify_with(Known))
            .layer(TotalTimeoutLayer::new(time(total)))
            .layer(RetryLayer::new(verdict).retries(retries).hooks(Known).seed(self.policy.seed))
            .layer(hedge.share(1.0).unwrap().budget(self.retries.clone()))
            .layer(RequeueLayer::new().budget(self.requeues.clone()))
            .layer(AttemptTimeoutLayer::new(time(attempt)))
            .service(backend)
    }
}

fn verdict(call: &Call, rsp: Result<&(), &Failed>) -> Verdict {
    let sent = match rsp {
        Ok(()) => return Verdict::SUCCESS,
        Err(Failed::Unsent(_) | Failed::Shed) => Sent::Never,
        Err(Failed::Backend(sent)) => *sent,
        Err(Failed::Ended) => Sent::Possibly,
    };
    Verdict::failure(Safety::of(sent, call.idempotent))
}

impl Hooks<Call, (), Failed> for Known {
    fn deadline(&self, call: &Call, _: Instant) -> Option<Until<Failed>> {
        call.deadline.map(Until::new)
    }
}

impl HedgeRequest<Call, (), Failed> for Known {
    fn copy(&self, first: &mut Call) -> Option<Call> {
        first.idempotent.then(|| first.clone())
    }

    fn deadline(&self, first: &Call) -> Option<Deadline> {
        first.deadline
    }
}

impl Classify<Call> for Known {
    fn classify(&self, call: &Call) -> Criticality {
        Criticality::ALL[call.number % 4]
    }

    fn deadline(&self, call: &Call) -> Option<Deadline> {
        call.deadline
    }
}

fn backoffs() -> impl Strategy<Value = Backoff> {
    (0..5_u8, 1..200_u32, 0..1000_u32).prop_map(|(kind, min, more)| {
        let (min, max) = (min * MS, (min + more) * MS);
        match kind {
            0 => Backoff::none(),
            1 => Backoff::constant(min),
            2 => Backoff::decorrelated(min, max).unwrap(),
            3 => Backoff::equal_jittered(min, max).unwrap(),
            _ => Backoff::full_jittered(min, max).unwrap(),
        }
    })
}

fn when_full() -> impl Strategy<Value = WhenFull> {
    prop_oneof![
        Just(WhenFull::Reject),
        Just(WhenFull::Block),
        (0..20_usize, 0..200_u32).prop_map(|(capacity, wait)| WhenFull::Queue { capacity, wait: wait * MS }),
    ]
}

pub(crate) fn policies() -> impl Strategy<Value = Policy> {
    let budget = (0..1000_u32, 0..4_u32);
    let attempts = (backoffs(), prop::option::of(1..6_u32), 0..50_u64);
    // Something must end what hangs.
    let times = (any::<bool>(), prop::option::of(0..1000_u64), 1..300_u64, prop::option::of(0..150_u64));
    let limit = (1..40_usize, when_full());
    (budget, attempts, times, limit, any::<u64>()).prop_map(|(budget, attempts, times, limit, seed)| Policy {
        percent: budget.0,
        min_per_sec: budget.1,
        backoff: attempts.0,
        max_attempts: attempts.1.and_then(NonZeroU32::new),
        min_attempt_time: attempts.2,
        enforced: times.0,
        total: times.1,
        attempt: Some(times.2),
        hedge: times.3,
        limit: limit.0,
        when_full: limit.1,
        seed,
    })
}
