//! Timeouts and deadlines.

use std::time::SystemTime;

use linkerd_core::{
    AttemptLog, AttemptOutcome, ErrorKind,
    http::Deadline,
    retry::{Backoff, Budget, BudgetSettings, Stop},
    testing::{End, Reply},
};
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready};

use super::*;

/// With limits on time for each attempt and for all of them.
fn timed(attempt: Option<Duration>, total: Option<Duration>) -> World {
    World::policies(
        ServicePolicy { total_timeout: total, ..service(HttpClassifier::RetryableRead5xx) },
        ClientPolicy { attempt_timeout: attempt, ..ClientPolicy::default() },
    )
}

/// A request whose answer is wanted for so long, or until so long ago.
fn wanted(deadline: Deadline) -> Request<&'static str> {
    let mut cx = RequestContext::default();
    cx.deadline = Some(deadline);
    let mut req = get();
    req.extensions_mut().insert(cx);
    req
}

fn expired() -> Deadline {
    Deadline::after(SystemTime::UNIX_EPOCH, SEC)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_made_elsewhere() {
    let world = timed(Some(300 * MS), None);
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let client = world.client("/svc/users");
    for _ in 0..10 {
        assert_eq!(status(&client).await, 200);
    }
    let hung = world.endpoints.seen(ep(1));
    assert!(!hung.is_empty() && hung.iter().all(|seen| seen.end == End::Dropped), "{hung:?}");
    assert_eq!(world.service("retries/total"), hung.len() as u64, "no retry went to the endpoint that hung");
}

#[tokio::test(start_paused = true)]
async fn an_attempts_timeout_says_whose_it_was() {
    let world = timed(Some(300 * MS), None);
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let mut rsp = sending(&world.client("/svc/users"), Request::post("/").body("").unwrap());
    assert_pending!(rsp.poll());
    advance(299 * MS).await;
    assert_pending!(rsp.poll());
    advance(2 * MS).await;
    let error = assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::AttemptTimeout, 503));
    assert_eq!(
        error.text(),
        "exceeded 300.milliseconds to #/fake/users while waiting for a response for an individual request, excluding \
         retries. Remote Info: Not Available"
    );
    assert_eq!([world.bound("requests"), world.bound("failures")], [1, 1]);
    assert_eq!(world.bound("failures/com.twitter.finagle.IndividualRequestTimeoutException"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_total_time_holds_for_naming_too() {
    let world = timed(None, Some(400 * MS));
    let mut rsp = sending(&world.client("/svc/users"), get());
    assert_pending!(rsp.poll());
    advance(399 * MS).await;
    assert_pending!(rsp.poll());
    advance(2 * MS).await;
    let error = assert_ready!(rsp.poll()).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::TotalTimeout, 503));
    assert_eq!(
        error.text(),
        "exceeded 400.milliseconds to unspecified while waiting for a response for the request, including retries (if \
         applicable). Remote Info: Not Available"
    );
}

/// Retrying after 300 ms, for 900 ms in all.
fn unhurried() -> World {
    let world = World::policies(
        ServicePolicy {
            total_timeout: Some(900 * MS),
            backoff: Backoff::constant(300 * MS),
            ..service(HttpClassifier::RetryableRead5xx)
        },
        steady(),
    );
    world.namer.endpoints("/users", [ep(1)]);
    world
}

#[tokio::test(start_paused = true)]
async fn the_total_time_holds_for_attempts_and_backoffs_together() {
    let world = unhurried();
    world.endpoints.script(ep(1), [Reply::closed().after(200 * MS), Reply::hang()]);
    let begun = Instant::now();
    let error = error(&world.client("/svc/users")).await;
    assert_eq!(error.kind(), ErrorKind::TotalTimeout);
    assert!(begun.elapsed() >= 900 * MS && begun.elapsed() < 910 * MS);
    assert_eq!(world.endpoints.count(ep(1)), 2);
    assert_eq!([world.service("requests"), world.service("failures"), world.service("pending")], [1, 1, 0]);
    let log = error.attempts().unwrap();
    assert_eq!((log.tried()[1].endpoint, log.tried()[1].outcome), (Some(ep(1)), AttemptOutcome::UnderWay));
    assert!(
        error.text().ends_with(
            "tried 2 times: #1 at 10.0.0.1:80 closed after 200ms, #2 at 10.0.0.1:80 without an answer after 400ms"
        ),
        "{}",
        error.text()
    );
}

#[tokio::test(start_paused = true)]
async fn what_would_come_too_late_is_not_waited_for_and_not_paid_for() {
    let world = unhurried();
    world.endpoints.script(ep(1), [Reply::status(500).after(200 * MS)]);
    let client = world.client("/svc/users");
    let begun = Instant::now();
    let rsp = client.send(get()).await.unwrap();
    assert_eq!(rsp.status(), 500, "the last real outcome");
    // The third would begin at 1000 ms.
    assert!(begun.elapsed() >= 700 * MS && begun.elapsed() < 710 * MS);
    let log = rsp.extensions().get::<AttemptLog>().unwrap();
    assert_eq!((log.tried().len(), log.stop()), (2, Some(Stop::Deadline)));
    assert_eq!([world.service("retries/total"), world.service("retries/deadline")], [1, 1]);
    world.endpoints.script(ep(1), [Reply::closed().after(650 * MS)]);
    let error = error(&client).await;
    assert_eq!(error.kind(), ErrorKind::Closed);
    let text = error.text();
    assert!(text.ends_with("; no time for another attempt before the deadline"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_would_take_too_long_as_others_did_is_not_begun() {
    let world = unhurried();
    let client = world.client("/svc/users");
    world.endpoints.script(ep(1), [Reply::ok("").after(400 * MS)]);
    assert_eq!(status(&client).await, 200);
    world.endpoints.script(ep(1), [Reply::status(500).after(200 * MS)]);
    let begun = Instant::now();
    assert_eq!(status(&client).await, 500);
    // A second would begin at 500 ms, and be over at 900 ms.
    assert!(begun.elapsed() < 210 * MS);
    assert_eq!(world.service("retries/total"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_total_time_ends_while_a_response_is_thrown_away() {
    let world = timed(None, Some(15 * MS));
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::status(500).body("slow").streamed(5 * SEC), Reply::hang()]);
    assert_eq!(error(&world.client("/svc/users")).await.kind(), ErrorKind::TotalTimeout);
    assert_eq!(world.endpoints.seen(ep(1))[0].end, End::Dropped);
    assert_eq!(world.mesh.clients()[0].endpoints[0].pending, 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_uses_up_the_total_time_is_to_blame() {
    let world = timed(None, Some(100 * MS));
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let client = world.client("/svc/users");
    for n in 1..=5 {
        assert_eq!(error(&client).await.kind(), ErrorKind::TotalTimeout);
        assert_eq!([world.bound("requests"), world.bound("failures"), world.bound("success")], [n, n, 0]);
    }
    assert_eq!(world.bound("failures/com.twitter.finagle.GlobalRequestTimeoutException"), 5);
    assert_eq!(world.bound("failure_accrual/removals"), 1, "it hung five times");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_reaches_no_endpoint() {
    let world = World::new();
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    let error = client.send(wanted(expired())).await.unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::Deadline, 503));
    assert!(error.never_sent());
    assert_eq!(world.endpoints.count(ep(1)), 0);
    assert_eq!([world.service("requests"), world.service("failures")], [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_advice_where_it_is_not_enforced() {
    let policy = ServicePolicy { enforce_deadline: false, ..ServicePolicy::default() };
    let world = World::policies(policy, ClientPolicy::default());
    world.namer.endpoints("/users", [ep(1)]);
    let rsp = world.client("/svc/users").send(wanted(expired())).await.unwrap();
    assert_eq!(rsp.status(), 200);
    assert_eq!(world.endpoints.seen(ep(1))[0].headers["l5d-ctx-deadline"], "0 1000000000", "it is passed on");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_while_waiting_and_the_stricter_limit_decides() {
    let world = timed(None, Some(5 * SEC));
    world.namer.endpoints("/users", [ep(1)]);
    world.endpoints.script(ep(1), [Reply::hang()]);
    let client = world.client("/svc/users");
    let begun = Instant::now();
    let soon = Deadline::after(SystemTime::now(), 2 * SEC);
    assert_eq!(client.send(wanted(soon)).await.unwrap_err().kind(), ErrorKind::Deadline);
    assert!(begun.elapsed() > SEC && begun.elapsed() < 2 * SEC + 10 * MS);
    let late = Deadline::after(SystemTime::now(), 60 * SEC);
    assert_eq!(client.send(wanted(late)).await.unwrap_err().kind(), ErrorKind::TotalTimeout);
}

#[tokio::test(start_paused = true)]
async fn no_limit_is_too_far_away() {
    let world = timed(Some(Duration::MAX), Some(Duration::MAX));
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    let never = Deadline::after(SystemTime::now(), Duration::MAX);
    assert_eq!(client.send(wanted(never)).await.unwrap().status(), 200);
    assert_eq!(status(&client).await, 200);
}

#[tokio::test(start_paused = true)]
async fn limits_are_told_to_the_next_hop_where_there_is_a_context() {
    let deadline = |world: &World| {
        let value = world.endpoints.seen(ep(1)).last()?.headers.get("l5d-ctx-deadline")?.to_str().unwrap().to_owned();
        let (begun, until) = value.split_once(' ')?;
        Some((until.parse::<u64>().unwrap() - begun.parse::<u64>().unwrap()) / 1_000_000)
    };
    let with_context = || {
        let mut req = get();
        req.extensions_mut().insert(RequestContext::default());
        req
    };
    for (attempt, total, millis) in [
        (None, None, None),
        (Some(300 * MS), None, Some(300)),
        (None, Some(400 * MS), Some(400)),
        (Some(300 * MS), Some(400 * MS), Some(300)),
    ] {
        let world = timed(attempt, total);
        world.namer.endpoints("/users", [ep(1)]);
        let client = world.client("/svc/users");
        client.send(with_context()).await.unwrap();
        assert_eq!(deadline(&world), millis, "{attempt:?} {total:?}");
        // A client of one's own adds nothing to a request that carries nothing.
        status(&client).await;
        assert_eq!(deadline(&world), None);
    }
    // What came with the request stays, if it is stricter.
    let world = timed(Some(300 * MS), Some(400 * MS));
    world.namer.endpoints("/users", [ep(1)]);
    let theirs = Deadline::after(SystemTime::now(), 200 * MS);
    world.client("/svc/users").send(wanted(theirs)).await.unwrap();
    assert!(deadline(&world).unwrap() <= 200);
}

#[tokio::test(start_paused = true)]
async fn a_response_may_be_silent_for_its_time_and_no_longer() {
    let policy = ServicePolicy { idle_timeout: Some(SEC), ..ServicePolicy::default() };
    let world = World::policies(policy, steady());
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    let alive = Reply::ok("slowly").streamed(900 * MS);
    world.endpoints.script(ep(1), [alive, Reply::ok("silent").streamed(1100 * MS)]);
    assert_eq!(text(client.send(get()).await.unwrap()).await, "slowly", "in all it may take any time");
    assert_eq!(world.metric("service/svc/users/idle_timeouts"), None);
    let begun = Instant::now();
    let error = client.send(get()).await.unwrap().into_body().collect().await.unwrap_err();
    assert_eq!(error.to_string(), "the body was silent for 1s");
    assert!(begun.elapsed() >= SEC && begun.elapsed() < SEC + 10 * MS);
    assert_eq!(world.service("idle_timeouts"), 1);
    settle().await;
    assert_eq!(world.endpoints.seen(ep(1))[1].end, End::Dropped);
    assert_eq!(world.mesh.clients()[0].endpoints[0].pending, 0, "its endpoint is given back");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_off_is_not_called_exhausted() {
    for (budget, expected) in
        [(Budget::off(), Stop::BudgetOff), (Budget::new(BudgetSettings::share(0.5)).unwrap(), Stop::BudgetExhausted)]
    {
        let policy = ServicePolicy { retry_budget: budget, ..service(HttpClassifier::RetryableRead5xx) };
        let world = World::policies(policy, steady());
        world.namer.endpoints("/users", [ep(1)]);
        world.endpoints.script(ep(1), [Reply::closed()]);
        let error = error(&world.client("/svc/users")).await;
        assert_eq!(error.attempts().unwrap().stop(), Some(expected));
        assert_eq!(error.text().contains("exhausted"), expected == Stop::BudgetExhausted, "{}", error.text());
        // Linkerd's metric counts both.
        assert_eq!(world.service("retries/budget_exhausted"), 1);
    }
}
