//! Which of three timeouts ends what: total, attempt and idle, each with and without the others.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use linkerd_retry::{
    ResponseClass, RetryPolicy, Timeouts,
    timeout::{AttemptElapsed, Elapsed, IdleBody, IdleElapsed},
};
use tokio::time;
use tower::{BoxError, Layer, ServiceExt, service_fn};

const TOTAL: Duration = Duration::from_millis(500);
const ATTEMPT: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_millis(300);

type Body = UnsyncBoxBody<Bytes, BoxError>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Backend {
    FirstHangs,
    AllHang,
    BodyFallsSilent,
    /// It has a frame every 250 ms, for longer than anything may take.
    BodyIsLong,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Well,
    ByTotal,
    ByAttempt,
    ByIdle,
    Never,
}

fn body(frames: u32, then_silent: bool) -> Body {
    let frames = futures::stream::unfold(0, move |sent| async move {
        if sent == frames {
            return if then_silent { future::pending().await } else { None };
        }
        time::sleep(Duration::from_millis(250)).await;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))), sent + 1))
    });
    StreamBody::new(frames).boxed_unsync()
}

async fn outcome(backend: Backend, timeouts: Timeouts) -> Ends {
    let calls = Arc::new(AtomicU32::new(0));
    let svc = service_fn(move |()| {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            match backend {
                Backend::FirstHangs if number == 0 => future::pending().await,
                Backend::AllHang => future::pending().await,
                Backend::BodyFallsSilent => Ok::<_, BoxError>(body(1, true)),
                Backend::FirstHangs | Backend::BodyIsLong => Ok(body(8, false)),
            }
        }
    });
    let slow = |(): &(), rsp: Result<&Body, &BoxError>| match rsp {
        Ok(_) => ResponseClass::Success,
        Err(error) => ResponseClass::Failure { retryable: error.is::<AttemptElapsed>() },
    };
    let mut policy = RetryPolicy::standard();
    policy.retries.backoff = linkerd_retry::Backoff::none();
    policy.timeouts = timeouts;
    let svc = policy.layer(slow).layer(svc);
    let whole = async {
        let body = svc.oneshot(()).await?;
        let body = IdleBody::new(body, timeouts.idle.unwrap_or(Duration::MAX));
        body.collect().await.map(|_| ())
    };
    match time::timeout(Duration::from_hours(1), whole).await {
        Err(_) => Ends::Never,
        Ok(Ok(())) => Ends::Well,
        Ok(Err(error)) if error.is::<Elapsed>() => Ends::ByTotal,
        Ok(Err(error)) if error.is::<AttemptElapsed>() => Ends::ByAttempt,
        Ok(Err(error)) => {
            assert!(error.is::<IdleElapsed>(), "{error}");
            Ends::ByIdle
        }
    }
}

/// What the table of the `timeout` module says.
fn expected(backend: Backend, Timeouts { total, attempt, idle }: Timeouts) -> Ends {
    match backend {
        Backend::FirstHangs if attempt.is_some() => Ends::Well,
        // The third attempt would need more time than there is.
        Backend::FirstHangs | Backend::AllHang if total.is_some() => Ends::ByTotal,
        Backend::AllHang if attempt.is_some() => Ends::ByAttempt,
        Backend::BodyFallsSilent if idle.is_some() => Ends::ByIdle,
        Backend::BodyIsLong => Ends::Well,
        _ => Ends::Never,
    }
}

#[tokio::test(start_paused = true)]
async fn each_ends_what_it_is_for_whichever_others_there_are() {
    let mut seen = Vec::new();
    for backend in [Backend::FirstHangs, Backend::AllHang, Backend::BodyFallsSilent, Backend::BodyIsLong] {
        for which in 0..8 {
            let set = |bit, timeout| (which & bit != 0).then_some(timeout);
            let timeouts = Timeouts { total: set(1, TOTAL), attempt: set(2, ATTEMPT), idle: set(4, IDLE) };
            let ends = outcome(backend, timeouts).await;
            assert_eq!(ends, expected(backend, timeouts), "{backend:?} {timeouts:?}");
            seen.push(ends);
        }
    }
    for ends in [Ends::Well, Ends::ByTotal, Ends::ByAttempt, Ends::ByIdle, Ends::Never] {
        assert!(seen.contains(&ends), "{ends:?}");
    }
}
