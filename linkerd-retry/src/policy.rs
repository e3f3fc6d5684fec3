//! Settings that go together.

use std::{num::NonZeroU32, time::Duration};

use tower_layer::Stack;

use crate::{
    Backoff, Budget, BudgetSettings, Retries,
    retry::{Cloned, RetryLayer, Within},
    timeout::{AttemptTimeoutLayer, TotalTimeoutLayer},
};

/// How long things may take. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// A request with all of its attempts, up to its response.
    pub total: Option<Duration>,
    /// One attempt, up to its response. It may be retried then.
    pub attempt: Option<Duration>,
    /// The silence between two frames of a body. Bodies are for their owner to wrap, in a `timeout::IdleBody` of the
    /// feature `body`: a layer does not know them.
    pub idle: Option<Duration>,
}

/// How the requests of one destination are retried, and how long they may take. Clones share the budget; each call of
/// one of the functions that make a policy makes another budget.
///
/// # Defaults
///
/// [`Default`] is Linkerd 1.x: a budget of a fifth of the requests and 10 a second, no wait, no greatest number of
/// attempts, no timeouts. The others begin with the same budget:
///
/// | | attempts | wait, full jitter | least attempt | total | attempt | idle |
/// |---|---|---|---|---|---|---|
/// | [`standard`](Self::standard) | 3 | up to 25 ms, 50 ms, … 1 s | - | - | - | - |
/// | [`unary`](Self::unary) | 3 | up to 25 ms, 50 ms, … 1 s | 10 ms | 10 s | 3 s | 10 s |
/// | [`streaming`](Self::streaming) | 3 | up to 50 ms, 100 ms, … 1 s | 10 ms | - | 10 s | - |
/// | [`idempotent_read`](Self::idempotent_read) | 4 | up to 10 ms, 20 ms, … 250 ms | 5 ms | 5 s | 1 s | 5 s |
/// | [`background`](Self::background) | 10 | up to 1 s, 2 s, … 1 min | 1 s | 15 min | 1 min | 1 min |
///
/// `background`'s budget is a tenth of the requests and 1 a second, counted over a minute. Of the numbers none is more
/// than a start: the first wait should be about what a request takes, and the timeout of an attempt about what one in a
/// thousand takes.
///
/// ```
/// use linkerd_retry::{ResponseClass, RetryPolicy};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let failed = |_: &&str, rsp: Result<&u16, &BoxError>| match rsp {
///     Ok(status) if *status < 500 => ResponseClass::Success,
///     _ => ResponseClass::RETRYABLE,
/// };
/// let svc = ServiceBuilder::new()
///     .layer(RetryPolicy::unary().layer(failed))
///     .service(service_fn(|_: &str| async { Ok::<_, BoxError>(200) }));
/// assert_eq!(svc.oneshot("GET /").await?, 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RetryPolicy {
    /// Budget, wait and number of retries.
    pub retries: Retries,
    /// How long requests, attempts and silences may be.
    pub timeouts: Timeouts,
}

/// What [`RetryPolicy::layer`] makes: the timeout of an attempt, in retries, in the timeout of the whole.
pub type PolicyLayer<C> = Stack<Stack<AttemptTimeoutLayer, RetryLayer<C, Cloned, Option<Within>>>, TotalTimeoutLayer>;

impl RetryPolicy {
    /// For clients of which nothing is known, HTTP or not. It has no timeouts: nobody likes those that he did not set.
    #[must_use]
    pub fn standard() -> Self {
        Self { retries: retries(3, ms(25), ms(1000)), timeouts: Timeouts::default() }
    }

    /// For one request and one response, of a size that is no matter.
    #[must_use]
    pub fn unary() -> Self {
        let mut retries = retries(3, ms(25), ms(1000));
        retries.min_attempt_time = ms(10);
        Self { retries, timeouts: timeouts(ms(10_000), ms(3_000), ms(10_000)) }
    }

    /// For streams, which may last for days and be silent for hours. Only the time to the beginning of the response has a
    /// limit.
    #[must_use]
    pub fn streaming() -> Self {
        let mut retries = retries(3, ms(50), ms(1000));
        retries.min_attempt_time = ms(10);
        Self { retries, timeouts: Timeouts { attempt: Some(ms(10_000)), ..Timeouts::default() } }
    }

    /// For reads that somebody waits for: more attempts, and sooner.
    #[must_use]
    pub fn idempotent_read() -> Self {
        let mut retries = retries(4, ms(10), ms(250));
        retries.min_attempt_time = ms(5);
        Self { retries, timeouts: timeouts(ms(5_000), ms(1_000), ms(5_000)) }
    }

    /// For work that nobody waits for: it goes on for longer, and gives way to everything else.
    #[must_use]
    pub fn background() -> Self {
        let mut retries = retries(10, ms(1000), ms(60_000));
        let settings = BudgetSettings { ttl: ms(60_000), min_per_sec: 1, percent: 0.1 };
        retries.budget = Budget::new(settings).unwrap_or_default();
        retries.min_attempt_time = ms(1000);
        Self { retries, timeouts: timeouts(ms(900_000), ms(60_000), ms(60_000)) }
    }

    /// The layers that this policy describes, in their order, but for [`Timeouts::idle`]. Requests are copied by `Clone`.
    /// A request that has no time left for another attempt ends with its last outcome, before the timeout.
    #[must_use]
    pub fn layer<C>(&self, classifier: C) -> PolicyLayer<C> {
        let Timeouts { total, attempt, idle: _ } = self.timeouts;
        // A timeout beyond the clock is none.
        let attempt = AttemptTimeoutLayer::new(attempt.unwrap_or(Duration::MAX));
        let retry = RetryLayer::new(classifier).retries(self.retries.clone()).hooks(total.map(Within));
        Stack::new(Stack::new(attempt, retry), TotalTimeoutLayer::new(total.unwrap_or(Duration::MAX)))
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn retries(max_attempts: u32, base: Duration, max: Duration) -> Retries {
    Retries {
        backoff: Backoff::full_jittered(base, max).unwrap_or_default(),
        max_attempts: NonZeroU32::new(max_attempts),
        ..Retries::default()
    }
}

fn timeouts(total: Duration, attempt: Duration, idle: Duration) -> Timeouts {
    Timeouts { total: Some(total), attempt: Some(attempt), idle: Some(idle) }
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use tokio::time::Instant;
    use tower::{BoxError, Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{
        ResponseClass,
        timeout::{AttemptElapsed, Elapsed},
    };

    fn presets() -> [(&'static str, RetryPolicy, u32); 4] {
        [
            ("unary", RetryPolicy::unary(), 3),
            ("streaming", RetryPolicy::streaming(), 3),
            ("idempotent_read", RetryPolicy::idempotent_read(), 4),
            ("background", RetryPolicy::background(), 10),
        ]
    }

    #[allow(clippy::trivially_copy_pass_by_ref)] // The trait's signature.
    fn every_failure((): &(), rsp: Result<&u16, &BoxError>) -> ResponseClass {
        if rsp.is_ok_and(|status| *status < 500) { ResponseClass::Success } else { ResponseClass::RETRYABLE }
    }

    #[test]
    fn presets_are_what_the_table_says() {
        let backoff = |base, max| Backoff::full_jittered(ms(base), ms(max)).unwrap();
        let rows = presets().map(|(_, policy, _)| policy);
        let backoffs = rows.each_ref().map(|policy| policy.retries.backoff.clone());
        assert_eq!(backoffs, [backoff(25, 1000), backoff(50, 1000), backoff(10, 250), backoff(1000, 60_000)]);
        let least = rows.each_ref().map(|policy| policy.retries.min_attempt_time.as_millis());
        assert_eq!(least, [10, 10, 5, 1000]);
        for policy in &rows[..3] {
            assert_eq!(policy.retries.budget.settings(), BudgetSettings::default());
        }
        let settings = rows[3].retries.budget.settings();
        assert_eq!((settings.percent, settings.min_per_sec, settings.ttl), (0.1, 1, ms(60_000)));
        assert_eq!(RetryPolicy::standard().timeouts, Timeouts::default());
        assert_eq!(RetryPolicy::standard().retries.backoff, backoff(25, 1000));
        assert_eq!(RetryPolicy::default().retries.max_attempts, None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_sends_as_often_as_it_says_and_no_oftener() {
        for (name, policy, attempts) in presets() {
            let calls = Arc::new(AtomicU32::new(0));
            let counted = calls.clone();
            let backend = service_fn(move |()| {
                counted.fetch_add(1, Ordering::Relaxed);
                future::ready(Ok::<u16, BoxError>(503))
            });
            assert_eq!(policy.layer(every_failure).layer(backend).oneshot(()).await.unwrap(), 503);
            assert_eq!(calls.load(Ordering::Relaxed), attempts, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_ends_within_the_total_and_by_the_timeout_that_it_names() {
        for (name, policy, attempts) in presets() {
            let backend = service_fn(|()| future::pending::<Result<u16, BoxError>>());
            let start = Instant::now();
            let Timeouts { total, attempt, .. } = policy.timeouts;
            let err = policy.layer(every_failure).layer(backend).oneshot(()).await.unwrap_err();
            let attempt = attempt.unwrap();
            assert_eq!(err.downcast_ref(), Some(&AttemptElapsed(attempt)), "{name}: {err}");
            assert!(!err.is::<Elapsed>());
            assert!(start.elapsed() >= attempt * attempts, "{name}");
            assert!(total.is_none_or(|total| start.elapsed() <= total), "{name}");
        }
    }
}
