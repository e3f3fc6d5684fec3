//! What the layer asks of its hooks, and tells them.

use std::sync::{Mutex, atomic::AtomicBool};

use super::*;
use crate::{Expired, Pushback, Safety, Stop, Until, Verdict, timeout::AttemptTimeoutLayer};

/// A request that says where not to go.
#[derive(Clone, Debug, Default)]
struct Call {
    avoid: Vec<Arc<str>>,
    number: u32,
    remaining: Option<Duration>,
}

/// A response that says where it came from.
#[derive(Debug)]
struct Reply {
    status: u32,
    peer: Arc<str>,
}

#[derive(Clone, Default)]
struct Hooked {
    within: Option<Duration>,
    /// How long a response takes to drain, and whether it ever was.
    drain: Option<(Duration, Arc<AtomicBool>)>,
    logs: Arc<Mutex<Vec<String>>>,
}

impl Hooks<Call, Reply, Error> for Hooked {
    fn deadline(&self, _: &Call, now: std::time::Instant) -> Option<Until<Error>> {
        Deadline::after(now, self.within?).map(Until::new)
    }

    fn before(&self, call: &mut Call, attempt: &Attempt<'_>) {
        call.avoid = attempt.log.endpoints().cloned().collect();
        call.number = attempt.number;
        call.remaining = attempt.deadline.map(|deadline| deadline.remaining(Instant::now().into_std()));
    }

    fn endpoint(&self, outcome: Result<&Reply, &Error>) -> Option<Arc<str>> {
        outcome.ok().map(|reply| reply.peer.clone())
    }

    fn discard(&self, _: Reply) -> Option<Drain> {
        let (takes, drained) = self.drain.clone()?;
        Some(Box::pin(async move {
            time::sleep(takes).await;
            drained.store(true, Ordering::Relaxed);
        }))
    }

    fn end(&self, _: &mut Result<Reply, Error>, log: &Log) {
        self.logs.lock().unwrap().push(log.to_string());
    }
}

fn verdict(_: &Call, rsp: Result<&Reply, &Error>) -> Verdict {
    match rsp {
        Ok(reply) if reply.status < 500 => Verdict::SUCCESS,
        Ok(reply) if reply.status == 503 => Verdict::failure(Safety::Refused).push_back(Pushback::Never),
        Ok(reply) if reply.status == 529 => {
            Verdict::failure(Safety::Refused).push_back(Pushback::After(Duration::from_millis(250)))
        }
        _ => Verdict::failure(Safety::Idempotent),
    }
}

type Layered = RetryLayer<Judge, Cloned, Hooked>;
type Judge = fn(&Call, Result<&Reply, &Error>) -> Verdict;

fn layer(hooks: Hooked) -> Layered {
    RetryLayer::new(verdict as Judge).hooks(hooks)
}

/// Endpoints `a`, `b` and `c`, of which it takes the first that is not to be avoided while two remain. Each call is kept,
/// takes a while, and is answered by the next status.
fn picker(
    statuses: &'static [u32],
    takes: Duration,
) -> (Arc<Mutex<Vec<Call>>>, impl Service<Call, Response = Reply, Error = Error, Future: Send> + Clone) {
    let calls = Arc::new(Mutex::new(Vec::<Call>::new()));
    let kept = calls.clone();
    let svc = service_fn(move |call: Call| {
        let free = ["a", "b", "c"].into_iter().find(|peer| !call.avoid.iter().any(|avoid| **avoid == **peer));
        let peer = Arc::from(free.unwrap_or("a"));
        let status = statuses[kept.lock().unwrap().len()];
        kept.lock().unwrap().push(call);
        async move {
            time::sleep(takes).await;
            Ok(Reply { status, peer })
        }
    });
    (calls, svc)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_knows_what_was_tried_and_goes_elsewhere() {
    let hooks = Hooked::default();
    let (calls, svc) = picker(&[500, 501, 200], 5 * MS);
    let reply = layer(hooks.clone()).layer(svc).oneshot(Call::default()).await.unwrap();
    assert_eq!((reply.status, &*reply.peer), (200, "c"));
    let calls = calls.lock().unwrap();
    assert_eq!(calls.iter().map(|call| call.number).collect::<Vec<_>>(), [1, 2, 3]);
    let avoided: Vec<Vec<&str>> = calls.iter().map(|call| call.avoid.iter().map(|peer| &**peer).collect()).collect();
    assert_eq!(avoided, [vec![], vec!["a"], vec!["a", "b"]]);
    // The outcome that is passed on is told how it came about.
    assert_eq!(
        *hooks.logs.lock().unwrap(),
        ["tried 3 times: #1 at a failed after 5ms, #2 at b failed after 5ms, #3 at c succeeded after 5ms; \
             it succeeded"]
    );
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_the_time_that_is_left_when_it_is_sent() {
    let hooks = Hooked { within: Some(250 * MS), ..Hooked::default() };
    let (calls, svc) = picker(&[500, 500, 200], 75 * MS);
    layer(hooks).layer(svc).oneshot(Call::default()).await.unwrap();
    let remaining: Vec<_> = calls.lock().unwrap().iter().map(|call| call.remaining.unwrap()).collect();
    assert_eq!(remaining, [250 * MS, 175 * MS, 100 * MS]);
}

/// envoy#13196: each attempt was told its own timeout, though there was less time left.
#[tokio::test(start_paused = true)]
async fn envoy_13196_attempts_of_100_ms_within_250_ms_are_told_100_and_100_and_50() {
    #[derive(Clone)]
    struct Tell;
    impl Hooks<Call, Reply, Error> for Tell {
        fn deadline(&self, _: &Call, now: std::time::Instant) -> Option<Until<Error>> {
            Deadline::after(now, 250 * MS).map(Until::new)
        }

        fn before(&self, call: &mut Call, attempt: &Attempt<'_>) {
            let now = Instant::now().into_std();
            let first = Deadline::first(attempt.deadline, Deadline::after(now, 100 * MS));
            call.remaining = first.map(|deadline| deadline.remaining(now));
        }
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = told.clone();
    let svc = ServiceBuilder::new()
        .layer(TotalTimeoutLayer::new(250 * MS))
        .layer(RetryLayer::new(verdict as Judge).hooks(Tell))
        .layer(AttemptTimeoutLayer::new(100 * MS))
        .service(service_fn(move |call: Call| {
            noted.lock().unwrap().push(call.remaining.unwrap());
            std::future::pending::<Result<Reply, Error>>()
        }));
    assert!(svc.oneshot(Call::default()).await.unwrap_err().is::<Elapsed>());
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 3);
    // A timer may be late by a millisecond, and then there is as much less.
    for (told, expected) in told.iter().zip([100 * MS, 100 * MS, 50 * MS]) {
        assert!(*told <= expected && *told + 2 * MS >= expected, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_says_why_there_was_no_other_attempt() {
    let max = NonZeroU32::new(2).unwrap();
    let one = Budget::new(BudgetSettings::share(1.0)).unwrap();
    let cases: [(Layered, &'static [u32], Stop, usize); 5] = [
        (layer(Hooked::default()), &[503], Stop::PushedBack, 1),
        (layer(Hooked::default()).max_attempts(max), &[500, 500], Stop::MaxAttempts, 2),
        (layer(Hooked::default()).budget(one), &[500, 500], Stop::BudgetExhausted, 2),
        (layer(Hooked { within: Some(20 * MS), ..Hooked::default() }), &[529], Stop::Deadline, 1),
        (layer(Hooked::default()), &[529, 200], Stop::Success, 2),
    ];
    for (layer, statuses, stop, attempts) in cases {
        let logs = layer.policy.hooks.logs.clone();
        let (calls, svc) = picker(statuses, 5 * MS);
        let reply = layer.layer(svc).oneshot(Call::default()).await.unwrap();
        assert_eq!(Some(&reply.status), statuses.last());
        assert_eq!(calls.lock().unwrap().len(), attempts, "{stop}");
        let log = logs.lock().unwrap().pop().unwrap();
        assert!(log.ends_with(&format!("; {stop}")), "{log}");
        let stats = layer.stats();
        let counts = [stats.pushed_back(), stats.max_attempts(), stats.budget_exhausted(), stats.deadline()];
        let counted = [Stop::PushedBack, Stop::MaxAttempts, Stop::BudgetExhausted, Stop::Deadline];
        assert_eq!(counts, counted.map(|counted| u64::from(counted == stop)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_success_is_told_to_nobody() {
    let hooks = Hooked { within: Some(20 * MS), ..Hooked::default() };
    let (_, svc) = picker(&[200], 5 * MS);
    layer(hooks.clone()).layer(svc).oneshot(Call::default()).await.unwrap();
    assert!(hooks.logs.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_discarded_response_is_drained_within_its_time() {
    // How long it takes, how long the backoff is: whether it is drained, and when the next attempt ends.
    for (takes, backoff, drained, ends) in
        [(10, 0, true, 10), (30, 0, false, 20), (30, 40, true, 40), (50, 40, false, 40)]
    {
        let done = Arc::new(AtomicBool::new(false));
        let hooks = Hooked { drain: Some((takes * MS, done.clone())), ..Hooked::default() };
        let (_, svc) = picker(&[500, 200], Duration::ZERO);
        let start = Instant::now();
        let layer = layer(hooks).backoff(Backoff::constant(backoff * MS));
        assert_eq!(layer.layer(svc).oneshot(Call::default()).await.unwrap().status, 200);
        assert_eq!(done.load(Ordering::Relaxed), drained, "{takes}");
        let slack = start.elapsed().checked_sub(ends * MS).unwrap();
        assert!(slack <= 2 * MS, "{takes} {slack:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_leaves_time_for_the_attempt() {
    let done = Arc::new(AtomicBool::new(false));
    let hooks = Hooked { within: Some(16 * MS), drain: Some((3600 * 1000 * MS, done)), ..Hooked::default() };
    let (calls, svc) = picker(&[500, 200], 2 * MS);
    assert_eq!(layer(hooks).layer(svc).oneshot(Call::default()).await.unwrap().status, 200);
    assert_eq!(calls.lock().unwrap()[1].remaining.map(|left| left >= 6 * MS), Some(true));
}

/// Wherever a request is dropped: what it held is given back, and nothing goes on without it.
#[tokio::test(start_paused = true)]
async fn cancelled_at_any_point_it_holds_nothing_and_does_nothing() {
    for dropped_at in 0..60 {
        let done = Arc::new(AtomicBool::new(false));
        let hooks = Hooked { drain: Some((10 * MS, done.clone())), within: Some(1000 * MS), ..Hooked::default() };
        let lease = Arc::new(());
        let (calls, svc) = picker(&[500, 500, 200], 5 * MS);
        let held = lease.clone();
        let leased = service_fn(move |call| {
            let (svc, lease) = (svc.clone(), held.clone());
            async move {
                let reply = svc.oneshot(call).await;
                drop(lease);
                reply
            }
        });
        let svc = layer(hooks).backoff(Backoff::constant(15 * MS)).layer(leased);
        let mut rsp = Box::pin(svc.oneshot(Call::default()));
        let ended = time::timeout(dropped_at * MS, rsp.as_mut()).await.is_ok();
        drop(rsp);
        assert_eq!(Arc::strong_count(&lease), 1, "{dropped_at}");
        let (sent, drained) = (calls.lock().unwrap().len(), Arc::strong_count(&done));
        time::advance(1000 * MS).await;
        assert_eq!((calls.lock().unwrap().len(), Arc::strong_count(&done)), (sent, drained));
        assert_eq!((ended, drained), (dropped_at >= 45, 1), "{dropped_at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_whole_any_more_is_not_sent() {
    #[derive(Clone)]
    struct Half;
    impl CopyRequest<&'static str> for Half {
        fn copy(&self, req: &&'static str) -> Option<&'static str> {
            Some(*req)
        }

        fn is_whole(&self, copy: &&'static str) -> bool {
            *copy != "get half"
        }
    }
    for (req, calls) in [("get half", 1), ("get", 3)] {
        let backend = Failing::default();
        let budget = Budget::new(BudgetSettings::share(2.0)).unwrap();
        let layer = super::layer(0.0).budget(budget.clone()).copy_with(Half);
        assert_eq!(layer.layer(backend.clone()).oneshot(req).await.unwrap(), 500);
        assert_eq!(backend.calls(), calls);
        assert_eq!(budget.counts().withdrawals, u64::from(calls) - 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_can_carry_the_log() {
    #[derive(Clone)]
    struct Explain;
    impl Hooks<&'static str, u32, Error> for Explain {
        fn deadline(&self, _: &&'static str, now: std::time::Instant) -> Option<Until<Error>> {
            Some(Until::new(Deadline::at(now)))
        }

        fn end(&self, outcome: &mut Result<u32, Error>, log: &Log) {
            if let Err(error) = outcome {
                assert!(error.is::<Expired>());
                *error = format!("{error} ({log})").into();
            }
        }
    }
    let err = super::layer(1.0).hooks(Explain).layer(Failing::default()).oneshot("get").await.unwrap_err();
    let text = "the deadline passed 0ns ago (tried 0 times; no time for another attempt before the deadline)";
    assert_eq!(err.to_string(), text);
}
