//! No attempt begins after the deadline, and none is waited for that would not be over by it.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::{Expired, Sent, Until};

const SEC: Duration = Duration::from_secs(1);

/// A backend that answers 500 after a time, and when it was called.
#[derive(Clone, Default)]
struct Slow {
    takes: Duration,
    ready_after: Duration,
    calls: Arc<Mutex<Vec<Instant>>>,
}

impl Slow {
    fn new(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    fn calls(&self) -> Vec<Instant> {
        self.calls.lock().unwrap().clone()
    }

    /// Becomes ready a while after it is asked for the first time.
    fn service(&self) -> impl Service<&'static str, Response = u32, Error = Error, Future: Send> + Clone + use<> {
        let Self { takes, calls, ready_after } = self.clone();
        let called = service_fn(move |_: &'static str| {
            calls.lock().unwrap().push(Instant::now());
            async move {
                time::sleep(takes).await;
                Ok::<u32, Error>(500)
            }
        });
        Late { inner: called, after: ready_after, sleep: None }
    }
}

/// Ready for each call only a while after somebody asks.
struct Late<S> {
    inner: S,
    after: Duration,
    sleep: Option<std::pin::Pin<Box<time::Sleep>>>,
}

impl<S: Clone> Clone for Late<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), after: self.after, sleep: None }
    }
}

impl<S: Service<&'static str>> Service<&'static str> for Late<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.after.is_zero() {
            return Poll::Ready(Ok(()));
        }
        let after = self.after;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(time::sleep(after)));
        std::task::ready!(std::future::Future::poll(sleep.as_mut(), cx));
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: &'static str) -> S::Future {
        self.sleep = None;
        self.inner.call(req)
    }
}

fn status(outcome: Result<u32, Error>) -> Result<u32, Expired> {
    outcome.map_err(|err| *err.downcast::<Expired>().unwrap())
}

#[tokio::test(start_paused = true)]
async fn linkerd_2369_a_request_is_not_retried_for_five_hours_under_five_seconds() {
    // The budget of the report, and one that never ends.
    let settings = [
        BudgetSettings { ttl: 10 * SEC, min_per_sec: 1, percent: 0.01 },
        BudgetSettings { ttl: 10 * SEC, min_per_sec: 1_000_000, percent: 1000.0 },
    ];
    for settings in settings {
        for takes in [Duration::ZERO, 300 * MS, 6 * SEC] {
            let backend = Slow::new(takes);
            let layer = RetryLayer::new(classify as Classify)
                .budget(Budget::new(settings).unwrap())
                .backoff(Backoff::decorrelated(100 * MS, 10 * SEC).unwrap())
                .min_attempt_time(310 * MS)
                .hooks(Within(5 * SEC));
            let svc = ServiceBuilder::new().layer(TotalTimeoutLayer::new(5 * SEC)).layer(layer);
            let start = Instant::now();
            let outcome = svc.service(backend.service()).oneshot("get").await;
            assert!(start.elapsed() <= 5 * SEC + MS, "{:?}", start.elapsed());
            let calls = backend.calls();
            assert!(calls.iter().all(|at| *at < start + 5 * SEC));
            // What there was to say was said, but for an attempt that took longer than all of the time.
            assert_eq!(outcome.is_ok(), takes < 5 * SEC);
            time::advance(Duration::from_hours(5)).await;
            assert_eq!(backend.calls(), calls);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backoff_that_does_not_fit_gives_the_last_real_outcome_at_once() {
    let budget = Budget::new(BudgetSettings::share(1.0)).unwrap();
    let backend = Slow::new(100 * MS);
    let layer = layer(0.0).budget(budget.clone()).backoff(Backoff::constant(200 * MS)).hooks(Within(300 * MS));
    let start = Instant::now();
    assert_eq!(layer.layer(backend.service()).oneshot("get").await.unwrap(), 500);
    assert_eq!(start.elapsed(), 100 * MS);
    assert_eq!((backend.calls().len(), layer.stats().deadline(), layer.stats().total()), (1, 1, 0));
    // And is not paid for.
    assert_eq!(budget.balance(Instant::now().into_std()), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_longer_than_there_is_time_is_not_made() {
    for (knows, calls) in [(false, 2), (true, 1)] {
        let backend = Slow::new(60 * MS);
        let taught = service_fn(|_| async {
            time::sleep(50 * MS).await;
            Ok::<u32, Error>(200)
        });
        let layer = layer(9.0).hooks(Within(100 * MS));
        if knows {
            // Successes take 50 ms, and after the failure 40 ms are left.
            layer.layer(taught).oneshot("get").await.unwrap();
        }
        assert_eq!(status(layer.layer(backend.service()).oneshot("get").await), Ok(500));
        assert_eq!(backend.calls().len(), calls);

        let backend = Slow::new(60 * MS);
        let layer = super::layer(9.0).hooks(Within(100 * MS)).min_attempt_time(40 * MS);
        assert_eq!(status(layer.layer(backend.service()).oneshot("get").await), Ok(500));
        assert_eq!(backend.calls().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_is_not_sent_and_earns_nothing() {
    let (backend, budget) = (Failing::default(), Budget::new(BudgetSettings::share(1.0)).unwrap());
    let layer = layer(0.0).budget(budget.clone()).hooks(Within(Duration::ZERO));
    let outcome = layer.layer(backend.clone()).oneshot("get").await;
    assert_eq!(status(outcome), Err(Expired { late: Duration::ZERO, sent: Sent::Never }));
    assert_eq!((backend.calls(), budget.counts().deposits, layer.stats().deadline()), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn readiness_that_comes_too_late_sends_nothing() {
    let backend = Slow { takes: 10 * MS, ready_after: 100 * MS, ..Slow::default() };
    let layer = layer(9.0).hooks(Within(50 * MS));
    // The first attempt may have been processed.
    let expired = Expired { late: 60 * MS, sent: Sent::Possibly };
    assert_eq!(status(layer.layer(backend.service()).oneshot("get").await), Err(expired));
    assert_eq!(backend.calls().len(), 1);
}

/// A deadline that comes with the request.
#[derive(Clone)]
struct At(Instant);

impl<Req> Hooks<Req, u32, Error> for At {
    fn deadline(&self, _: &Req, _: std::time::Instant) -> Option<Until<Error>> {
        Some(Until::new(Deadline::at(self.0.into_std())))
    }

    fn discard(&self, _: u32) -> Option<Drain> {
        Some(Box::pin(time::sleep(7 * MS)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_attempt_starts_after_the_deadline_whatever_the_settings(
        takes in 0..500_u64,
        ready_after in prop_oneof![2 => Just(0), 1 => 0..500_u64],
        backoff in (0..3_u8, 1..300_u64, 300..2000_u64),
        deadline in 0..3000_u64,
        min_attempt_time in 0..100_u64,
        drain_for in 0..100_u64,
        max_attempts in 0..20_u32,
        seed in any::<u64>(),
    ) {
        let ms = Duration::from_millis;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let backend = Slow { takes: ms(takes), ready_after: ms(ready_after), ..Slow::default() };
            let end = Instant::now() + ms(deadline);
            let backoff = match backoff {
                (0, ..) => Backoff::none(),
                (1, min, max) => Backoff::decorrelated(ms(min), ms(max)).unwrap(),
                (_, min, max) => Backoff::full_jittered(ms(min), ms(max)).unwrap(),
            };
            let mut layer = layer(1000.0)
                .hooks(At(end))
                .backoff(backoff)
                .seed(seed)
                .min_attempt_time(ms(min_attempt_time))
                .drain_for(ms(drain_for));
            if let Some(max) = NonZeroU32::new(max_attempts) {
                layer = layer.max_attempts(max);
            }
            let outcome = layer.layer(backend.service()).oneshot("get").await;
            let calls = backend.calls();
            prop_assert!(calls.iter().all(|at| *at < end), "{calls:?} {end:?}");
            // A real outcome, unless there was no time to get one or a promised readiness took too long.
            prop_assert!(outcome.is_ok() || calls.is_empty() || ready_after > 0);
            prop_assert!(max_attempts == 0 || calls.len() <= max_attempts as usize);
            Ok(())
        })?;
    }
}
