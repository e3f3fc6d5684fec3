//! Retries of a service that is not HTTP: a class of one's own, a budget, a timeout over all of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use linkerd_retry::{
    Backoff, Budget, BudgetSettings, ResponseClass,
    retry::RetryLayer,
    timeout::{Elapsed, TotalTimeoutLayer},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[derive(Debug)]
enum Failure {
    Busy,
    NeverThere,
    TooLate(Elapsed),
}

impl From<Elapsed> for Failure {
    fn from(elapsed: Elapsed) -> Self {
        Self::TooLate(elapsed)
    }
}

fn class(_req: &&str, rsp: Result<&u32, &Failure>) -> ResponseClass {
    match rsp {
        Ok(_) => ResponseClass::Success,
        Err(Failure::Busy) => ResponseClass::RETRYABLE,
        Err(_) => ResponseClass::NON_RETRYABLE,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // No reserve of retries for the first seconds: one request pays for one half of a retry.
    let budget = Budget::new(BudgetSettings { min_per_sec: 0, percent: 0.5, ..BudgetSettings::default() })?;
    let retries = RetryLayer::new(class).budget(budget).backoff(Backoff::constant(Duration::from_millis(1)));
    let stats = retries.stats();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    // Every third call succeeds.
    let service = ServiceBuilder::new().layer(TotalTimeoutLayer::new(Duration::from_secs(1))).layer(retries).service(
        service_fn(move |req: &'static str| {
            let call = counted.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                match req {
                    "gone" => Err(Failure::NeverThere),
                    "slow" => std::future::pending().await,
                    _ if call % 3 == 0 => Ok(call),
                    _ => Err(Failure::Busy),
                }
            }
        }),
    );

    // The first request has half a retry to spend, so it fails; the second brings the other half.
    assert!(matches!(service.clone().oneshot("a").await, Err(Failure::Busy)));
    assert_eq!(service.clone().oneshot("b").await.expect("its retry succeeds"), 3);
    assert_eq!((calls.load(Ordering::Relaxed), stats.total()), (3, 1));

    assert!(matches!(service.clone().oneshot("gone").await, Err(Failure::NeverThere)));
    let Err(Failure::TooLate(elapsed)) = service.oneshot("slow").await else { panic!("there is no answer") };
    assert_eq!((calls.load(Ordering::Relaxed), stats.total()), (5, 1));
    println!("retry: ok; and what takes too long fails: {elapsed}");
    Ok(())
}
