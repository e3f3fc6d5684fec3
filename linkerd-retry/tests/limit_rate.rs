//! Rate limits: exact, fair, and with every turn back that can be.

use std::{
    future,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use linkerd_retry::{
    Delivery, Sent,
    limit::{Criticality, InvalidRate, RateLimit, RateLimitLayer, RateLimited, RateSettings, Shares, Turn},
};
use proptest::prelude::*;
use tokio::time;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::service_fn;
use tower_layer::Layer;
use tower_service::Service;
use tower_test::mock;

const MS: Duration = Duration::from_millis(1);
const TOP: Criticality = Criticality::CriticalPlus;

fn settings(requests: u32, burst: u32, max_wait: Duration) -> RateSettings {
    let number = |n| NonZeroU32::new(n).unwrap();
    RateSettings { requests: number(requests), burst: number(burst), max_wait, per: Duration::from_secs(1) }
}

fn limit(requests: u32, burst: u32, max_wait: Duration) -> RateLimit {
    RateLimit::new("test", settings(requests, burst, max_wait)).unwrap()
}

fn now() -> Instant {
    time::Instant::now().into_std()
}

/// How many are let through at once.
fn drain(limit: &RateLimit, class: Criticality, now: Instant) -> usize {
    (0..1000).take_while(|_| limit.try_acquire(class, now).is_ok()).count()
}

#[test]
fn a_burst_and_then_the_rate() {
    let (limit, start) = (limit(10, 5, Duration::ZERO), now());
    assert_eq!(drain(&limit, TOP, start), 5);
    let err = limit.clone().try_acquire(TOP, start).unwrap_err();
    assert_eq!(err.retry_after, 100 * MS);
    assert_eq!(
        err.to_string(),
        "rate limit test of 10 in 1s is used up for class critical_plus, try again in 100ms; nothing of the request was \
         sent"
    );
    assert!(err.is_unsent());
    assert_eq!((err.sent(), err.bytes_written()), (Sent::Never, Some(0)));
    assert_eq!(drain(&limit, TOP, start + 99 * MS), 0);
    assert_eq!(drain(&limit, TOP, start + 100 * MS), 1);
    assert_eq!(drain(&limit, TOP, start + 399 * MS), 2);
    // No more than the burst is saved up, and a clock that goes back gains nothing.
    assert_eq!(drain(&limit, TOP, start + Duration::from_hours(1)), 5);
    assert_eq!(drain(&limit, TOP, start), 0);
}

#[test]
fn a_rate_that_divides_nothing_is_still_exact() {
    // Three a second: five minutes later, not a nanosecond too early or late.
    let (limit, start) = (limit(3, 1, Duration::from_mins(5)), now());
    for third in 0..=900_u64 {
        let due = start + Duration::from_nanos((third * 1_000_000_000).div_ceil(3));
        assert_eq!(limit.reserve(TOP, start).unwrap().at(), due);
    }
    limit.reserve(TOP, start).unwrap_err();
}

#[test]
fn a_class_leaves_something_to_those_above_it() {
    let (limit, now) = (limit(10, 100, Duration::ZERO), now());
    assert_eq!(Criticality::ALL.map(|class| drain(&limit, class, now)), [80, 8, 9, 3]);
    let whole = limit.with_shares(Shares::WHOLE);
    assert_eq!(drain(&whole, Criticality::Sheddable, now), 100);
    // However small its share, a class can go when nobody else does.
    let small = RateLimit::new("small", settings(10, 1, Duration::ZERO)).unwrap();
    assert_eq!(drain(&small, Criticality::Sheddable, now), 1);
}

#[test]
fn turns_come_in_order_and_a_cancelled_one_goes_to_the_next_who_asks() {
    let (limit, start) = (limit(10, 1, 300 * MS), now());
    let turn = || limit.reserve(TOP, start);
    let [first, second, third, fourth] = [turn(), turn(), turn(), turn()].map(Result::unwrap);
    assert_eq!([first.at(), second.at(), third.at(), fourth.at()], [0, 1, 2, 3].map(|i| start + i * 100 * MS));
    assert_eq!(turn().unwrap_err().retry_after, 100 * MS);
    limit.cancel(second, start);
    assert_eq!(turn().unwrap().at(), start + 100 * MS);
    // The last ones are free for all again.
    limit.cancel(third, start);
    limit.cancel(fourth, start);
    assert_eq!([turn().unwrap().at(), turn().unwrap().at()], [2, 3].map(|i| start + i * 100 * MS));
    turn().unwrap_err();
    // One that was given back and whose time has passed is lost.
    let (limit, start) = (self::limit(10, 1, 300 * MS), start);
    let [_, second, _] = [0; 3].map(|_| limit.reserve(TOP, start).unwrap());
    limit.cancel(second, start);
    assert_eq!(limit.reserve(TOP, start + 150 * MS).unwrap().at(), start + 300 * MS);
}

#[test]
fn settings_out_of_range_are_refused() {
    let good = settings(10, 1, Duration::ZERO);
    let refused = |settings| RateLimit::new("test", settings).unwrap_err();
    for per in [Duration::ZERO, Duration::from_micros(999), Duration::from_hours(25)] {
        assert_eq!(refused(RateSettings { per, ..good }), InvalidRate::Per(per));
    }
    for (requests, max_wait) in [(1, Duration::from_secs(301)), (1_000_000, Duration::from_secs(1)), (1, Duration::MAX)]
    {
        assert_eq!(refused(settings(requests, 1, max_wait)), InvalidRate::MaxWait(max_wait));
    }
    RateLimit::new("test", settings(u32::MAX, u32::MAX, Duration::ZERO)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_at_its_turn_and_not_before() {
    let (mut svc, mut handle) = mock::spawn_layer::<u32, u32, _>(RateLimitLayer::new(limit(10, 1, 100 * MS)));
    let mut calls = Vec::new();
    for req in 1..=3 {
        assert_ready_ok!(svc.poll_ready());
        calls.push(task::spawn(svc.call(req)));
    }
    for rsp in &mut calls[..2] {
        assert_pending!(rsp.poll());
    }
    let err = assert_ready_err!(calls[2].poll());
    assert_eq!(err.downcast_ref::<RateLimited>().unwrap().retry_after, 100 * MS);
    assert_eq!(handle.next_request().await.unwrap().0, 1);
    time::advance(99 * MS).await;
    assert_pending!(calls[1].poll());
    assert_pending!(handle.poll_request());
    time::advance(2 * MS).await;
    assert!(calls[1].is_woken());
    assert_pending!(calls[1].poll());
    assert_eq!(handle.next_request().await.unwrap().0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_gives_its_turn_back_until_it_is_used() {
    let limit = limit(10, 1, 100 * MS);
    let mut svc =
        RateLimitLayer::new(limit.clone()).layer(service_fn(|()| future::pending::<Result<(), RateLimited>>()));
    let (first, second) = (svc.call(()), svc.call(()));
    limit.reserve(TOP, now()).unwrap_err();
    drop(first);
    limit.reserve(TOP, now()).unwrap_err();
    drop(second);
    assert_eq!(limit.reserve(TOP, now()).unwrap().at(), now() + 100 * MS);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Advance(u64),
    Reserve(usize),
    Cancel(usize),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_more_than_the_burst_and_the_rate_whatever_is_cancelled(
        steps in prop::collection::vec(
            prop_oneof![
                2 => (0..300_u64).prop_map(Step::Advance),
                5 => (0..4_usize).prop_map(Step::Reserve),
                2 => (0..10_usize).prop_map(Step::Cancel),
            ],
            0..150,
        ),
        requests in 1..30_u32,
        burst in 1..6_u32,
        wait in 0..1000_u64,
    ) {
        let limit = limit(requests, burst, Duration::from_millis(wait));
        let (start, mut at) = (now(), now());
        let mut turns = Vec::<Turn>::new();
        for step in steps {
            match step {
                Step::Advance(ms) => at += Duration::from_millis(ms),
                Step::Reserve(class) => turns.extend(limit.reserve(Criticality::ALL[class], at)),
                Step::Cancel(i) => {
                    if let Some(i) = turns.iter().position(|turn| turn.at() > at).map(|first| first + i)
                        && i < turns.len() && turns[i].at() > at
                    {
                        limit.cancel(turns.swap_remove(i), at);
                    }
                }
            }
        }
        let mut used: Vec<_> = turns.iter().map(|turn| turn.at().duration_since(start).as_nanos()).collect();
        used.sort_unstable();
        for (i, from) in used.iter().enumerate() {
            for (count, to) in used[i..].iter().enumerate() {
                // A nanosecond for rounding.
                let allowed = u128::from(burst) + (to - from + 1) * u128::from(requests) / 1_000_000_000;
                prop_assert!((count as u128) < allowed, "{} from {from} to {to}, of {allowed}", count + 1);
            }
        }
    }
}

#[test]
fn it_is_at_rest_once_its_bucket_is_full() {
    let (limit, start) = (limit(10, 5, Duration::ZERO), now());
    assert!(limit.is_at_rest(start));
    assert_eq!(drain(&limit, TOP, start), 5);
    assert!(!limit.is_at_rest(start + 499 * MS));
    assert!(limit.is_at_rest(start + 500 * MS));
}
