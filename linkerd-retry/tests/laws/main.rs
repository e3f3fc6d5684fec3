//! What no settings and no misfortune may change, of all layers together: random policies over scripted backends.
//!
//! The budget is never overdrawn, nothing begins after a deadline, what is not idempotent is processed once at most, and
//! all that was taken is given back, however a request ends.

mod backend;
mod policy;

use std::time::Duration;

use linkerd_retry::{Budget, Deadline};
use proptest::prelude::*;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tokio_test::task;
use tower::{Service, ServiceExt};

use self::{
    backend::{Backend, Call, Fate, Step},
    policy::{Policy, Stack},
};

const MS: Duration = Duration::from_millis(1);

/// One request: how long after the one before it comes, and what becomes of it.
#[derive(Clone, Debug)]
struct Arrival {
    after: u64,
    idempotent: bool,
    deadline: Option<u64>,
    given_up: Option<u64>,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let gap = prop_oneof![3 => Just(0), 1 => 0..300_u64];
    let deadline = prop::option::weighted(0.7, 0..600_u64);
    let given_up = prop::option::weighted(0.2, 0..300_u64);
    let arrival = (gap, any::<bool>(), deadline, given_up)
        .prop_map(|(after, idempotent, deadline, given_up)| Arrival { after, idempotent, deadline, given_up });
    prop::collection::vec(arrival, 1..40)
}

fn call(arrival: &Arrival, number: usize) -> Call {
    let deadline = arrival.deadline.and_then(|ms| Deadline::after(Instant::now().into_std(), ms as u32 * MS));
    Call { number, idempotent: arrival.idempotent, deadline }
}

/// What must be true at any time.
fn check_laws(backend: &Backend, stack: &Stack, requests: usize, start: Instant) -> Result<(), TestCaseError> {
    let calls = backend.calls();
    for call in &calls {
        let in_time = call.deadline.is_none_or(|deadline| !deadline.has_passed(call.at.into_std()));
        prop_assert!(in_time, "began too late: {call:?}");
    }
    let mut processed = vec![0; requests];
    for call in calls.iter().filter(|call| !call.idempotent && call.fate.may_be_processed()) {
        processed[call.number] += 1;
        prop_assert!(processed[call.number] <= 1, "processed twice: {call:?}");
    }
    let paid = stack.retries.counts().withdrawals + stack.requeues.counts().withdrawals;
    prop_assert!(calls.len() as u64 <= requests as u64 + paid, "{} calls", calls.len());
    for budget in [&stack.retries, &stack.requeues] {
        let (settings, counts) = (budget.settings(), budget.counts());
        let rounds = 1 + (start.elapsed().as_nanos() / (settings.ttl * 9 / 10).as_nanos()) as u64;
        let reserve = u64::from(settings.min_per_sec) * settings.ttl.as_secs() * rounds;
        let earned = (counts.deposits as f64 * settings.percent) as u64;
        prop_assert!(counts.withdrawals <= earned + reserve, "{counts:?}");
    }
    let usage = stack.limit.usage();
    prop_assert!(usage.in_flight <= usage.limit);
    Ok(())
}

/// And what must be, when nobody wants anything any more.
fn check_at_rest(backend: &Backend, stack: &Stack) -> Result<(), TestCaseError> {
    prop_assert_eq!((backend.available(), backend.running()), (backend::PERMITS, 0));
    prop_assert_eq!((stack.limit.usage().in_flight, stack.limit.usage().queued), (0, 0));
    Ok(())
}

/// What a budget had taken in and paid out, at each instant that was looked at.
#[derive(Default)]
struct History(Vec<(Instant, u64, u64)>);

impl History {
    /// What is paid within the time that a deposit lives for was deposited within twice that, or comes from the reserve.
    fn look(&mut self, budget: &Budget) -> Result<(), TestCaseError> {
        let (settings, counts, now) = (budget.settings(), budget.counts(), Instant::now());
        self.0.push((now, counts.deposits, counts.withdrawals));
        let before = |span: Duration| {
            let n = self.0.partition_point(|(at, ..)| *at + span < now);
            n.checked_sub(1).map_or((0, 0), |last| (self.0[last].1, self.0[last].2))
        };
        let (paid, earned) =
            (counts.withdrawals - before(settings.ttl).1, counts.deposits - before(2 * settings.ttl).0);
        let reserve = 2 * u64::from(settings.min_per_sec) * settings.ttl.as_secs();
        let most = (earned as f64 * settings.percent).ceil() as u64 + reserve + 1;
        prop_assert!(paid <= most, "{paid} paid, of {most}: {settings:?}");
        Ok(())
    }
}

async fn run(policy: Policy, script: Vec<Step>, arrivals: Vec<Arrival>) -> Result<(), TestCaseError> {
    let (start, backend) = (Instant::now(), Backend::new(script));
    let stack = policy.stack();
    let svc = stack.over(backend.clone());
    let mut running = JoinSet::new();
    let mut histories: [History; 2] = Default::default();
    let mut look = || {
        histories[0].look(&stack.retries)?;
        histories[1].look(&stack.requeues)
    };
    for (number, arrival) in arrivals.iter().enumerate() {
        // A millisecond at a time, to look at any instant.
        for _ in 0..arrival.after {
            time::sleep(MS).await;
            check_laws(&backend, &stack, arrivals.len(), start)?;
            look()?;
        }
        let (svc, call) = (svc.clone(), call(arrival, number));
        let patience = arrival.given_up.map_or(Duration::from_hours(1), |ms| ms as u32 * MS);
        // A backend that never succeeds may be tried for as long as its budget grows.
        let may_last = arrival.given_up.is_some() || !backend.ever_succeeds();
        running.spawn(async move { time::timeout(patience, svc.oneshot(call)).await.is_ok() || may_last });
    }
    while let Some(has_ended) = running.join_next().await {
        prop_assert!(has_ended.unwrap(), "a request that everything else has an end for has none");
        check_laws(&backend, &stack, arrivals.len(), start)?;
    }
    drop(svc);
    check_at_rest(&backend, &stack)?;
    let calls = backend.calls().len();
    time::sleep(Duration::from_hours(5)).await;
    prop_assert_eq!(backend.calls().len(), calls, "something went on by itself");
    Ok(())
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn they_hold_whatever_the_policy_and_whatever_fails(
        policy in policy::policies(),
        script in backend::scripts(),
        arrivals in arrivals(),
    ) {
        paused().block_on(run(policy, script, arrivals))?;
    }

    /// A request is dropped after each number of polls that it can have.
    #[test]
    fn cancelled_at_any_await_point_it_gives_everything_back(
        policy in policy::policies(),
        script in backend::scripts(),
        idempotent in any::<bool>(),
        deadline in prop::option::of(0..300_u64),
    ) {
        paused().block_on(cancelled_everywhere(&policy, &script, idempotent, deadline))?;
    }
}

/// After how many polls it had ended, if it did.
async fn cancelled_everywhere(
    policy: &Policy,
    script: &[Step],
    idempotent: bool,
    deadline: Option<u64>,
) -> Result<Option<usize>, TestCaseError> {
    for polls in 0..MOST_POLLS {
        if cancelled_after(polls, policy, script, idempotent, deadline).await? {
            return Ok(Some(polls));
        }
    }
    Ok(None)
}

const MOST_POLLS: usize = 60;

/// Whether it ended before so many polls.
async fn cancelled_after(
    polls: usize,
    policy: &Policy,
    script: &[Step],
    idempotent: bool,
    deadline: Option<u64>,
) -> Result<bool, TestCaseError> {
    let (backend, stack) = (Backend::new(script.to_vec()), policy.stack());
    let arrival = Arrival { after: 0, idempotent, deadline, given_up: None };
    let mut rsp = task::spawn(stack.over(backend.clone()).oneshot(call(&arrival, 0)));
    let mut ended = false;
    for _ in 0..polls {
        ended = rsp.poll().is_ready();
        if ended {
            break;
        }
        // What it waits for comes; or nothing does, and it waits for ever.
        for _ in 0..1000 {
            if rsp.is_woken() {
                break;
            }
            time::advance(MS).await;
        }
    }
    drop(rsp);
    check_at_rest(&backend, &stack)?;
    let calls = backend.calls().len();
    time::advance(Duration::from_hours(5)).await;
    prop_assert_eq!(backend.calls().len(), calls);
    Ok(ended)
}

/// The same by hand, with all that can be waited for on its way: readiness, a requeue, a backoff, a hedge, a timeout.
#[test]
fn a_request_that_waits_for_everything_can_be_cancelled_at_any_of_its_await_points() {
    let policy = Policy::patient();
    let script = [Fate::Unsent, Fate::Fails, Fate::Hangs, Fate::Hangs, Fate::Succeeds];
    let script: Vec<_> = script.into_iter().map(|fate| Step { fate, takes: 5, ready_after: 3 }).collect();
    let ended = paused().block_on(async {
        let ended = cancelled_everywhere(&policy, &script, true, Some(2000)).await.unwrap();
        let (backend, stack) = (Backend::new(script), policy.stack());
        let arrival = Arrival { after: 0, idempotent: true, deadline: Some(2000), given_up: None };
        let mut svc = stack.over(backend.clone());
        let rsp = svc.ready().await.unwrap().call(call(&arrival, 0)).await;
        assert!(matches!(rsp, Ok(())), "{rsp:?}");
        assert_eq!(backend.calls().len(), 5);
        ended
    });
    // Ready, requeued, ready, failed, backed off, ready, hedged, ready, both cut, and so on.
    assert!(ended.is_some_and(|polls| polls > 10), "{ended:?}");
}
