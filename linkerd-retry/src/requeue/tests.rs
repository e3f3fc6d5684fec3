use std::time::Duration;

use tokio::time;
use tokio_test::{assert_pending, assert_ready_eq, assert_ready_err, assert_ready_ok, task};
use tower_test::mock;

use super::*;
use crate::BudgetSettings;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Mock = mock::Mock<&'static str, u32>;
type Handle = mock::Handle<&'static str, u32>;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{req} refused, given up: {given_up}")]
struct Refused {
    req: &'static str,
    given_up: bool,
    deadline: Option<Deadline>,
}

impl Unsent<&'static str> for Error {
    fn is_unsent(&self) -> bool {
        self.is::<Refused>()
    }

    fn take_unsent(self) -> Result<&'static str, Self> {
        self.downcast::<Refused>().map(|refused| refused.req)
    }

    fn give_up(mut self) -> Self {
        self.downcast_mut::<Refused>().unwrap().given_up = true;
        self
    }

    fn deadline(&self) -> Option<Deadline> {
        self.downcast_ref::<Refused>().and_then(|refused| refused.deadline)
    }
}

fn refused(req: &'static str) -> Refused {
    Refused { req, given_up: false, deadline: None }
}

fn given_up(req: &'static str) -> Refused {
    Refused { req, given_up: true, deadline: None }
}

fn reserve(retries: u32) -> Budget {
    let ttl = Duration::from_secs(1);
    Budget::new(BudgetSettings { ttl, min_per_sec: retries, percent: 0.0 }).unwrap()
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn service(layer: &RequeueLayer) -> (mock::Spawn<Requeue<Mock>>, Handle) {
    mock::spawn_layer(layer.clone())
}

/// Refuses every attempt, and returns how many there were and what came of it.
async fn refuse_all(layer: &RequeueLayer) -> (u32, Refused) {
    let (mut svc, mut handle) = service(layer);
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("put"));
    assert_pending!(rsp.poll());
    for sent in 1.. {
        let (req, reply) = handle.next_request().await.unwrap();
        reply.send_error(refused(req));
        match rsp.poll() {
            Poll::Ready(rsp) => return (sent, *rsp.unwrap_err().downcast().unwrap()),
            Poll::Pending => assert!(rsp.is_woken()),
        }
        assert_pending!(rsp.poll());
    }
    unreachable!()
}

#[tokio::test]
async fn an_unsent_request_is_sent_again_as_it_was() {
    let layer = RequeueLayer::new();
    let (mut svc, mut handle) = service(&layer);
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("put"));
    assert_pending!(rsp.poll());
    handle.next_request().await.unwrap().1.send_error(refused("what the error says"));
    assert_pending!(rsp.poll());
    assert!(rsp.is_woken());
    assert_pending!(rsp.poll());
    let (req, reply) = handle.next_request().await.unwrap();
    assert_eq!(req, "what the error says");
    reply.send_response(200);
    assert_ready_eq!(rsp.poll().map(Result::unwrap), 200);
    drop(rsp);
    assert_eq!(layer.stats().requeues(), 1);
    assert_eq!(layer.stats().per_request()[..2], [0, 1]);
}

#[tokio::test]
async fn what_may_have_been_sent_is_not() {
    let layer = RequeueLayer::new();
    let (mut svc, mut handle) = service(&layer);
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("get"));
    assert_pending!(rsp.poll());
    handle.next_request().await.unwrap().1.send_error("reset");
    assert_eq!(assert_ready_err!(rsp.poll()).to_string(), "reset");
    let stats = layer.stats();
    assert_eq!((stats.requeues(), stats.cannot_retry(), stats.request_limit()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_request_takes_a_fifth_of_the_balance() {
    for (retries, sent) in [(0, 1), (1, 2), (5, 2), (6, 3), (100, 21)] {
        let layer = RequeueLayer::new().budget(reserve(retries));
        assert_eq!(refuse_all(&layer).await, (sent, given_up("put")), "of {retries}");
        let stats = layer.stats();
        assert_eq!((stats.requeues(), stats.request_limit()), (u64::from(sent) - 1, 1));
        assert_eq!((stats.budget_exhausted(), stats.cannot_retry()), (0, 0));
    }
    assert_eq!(refuse_all(&RequeueLayer::new()).await.0, 21);
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_it_before_the_limit_does() {
    let budget = reserve(10);
    let layer = RequeueLayer::new().budget(budget.clone());
    let (mut svc, mut handle) = service(&layer);
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("put"));
    assert_pending!(rsp.poll());
    handle.next_request().await.unwrap().1.send_error(refused("put"));
    assert_pending!(rsp.poll());
    while budget.try_withdraw(now()) {}
    assert_pending!(rsp.poll());
    handle.next_request().await.unwrap().1.send_error(refused("put"));
    assert_eq!(assert_ready_err!(rsp.poll()).downcast_ref(), Some(&given_up("put")));
    assert_eq!((layer.stats().requeues(), layer.stats().budget_exhausted()), (1, 1));
}

#[tokio::test]
async fn the_bound_holds_at_its_edge() {
    for bound in 1..4 {
        let layer = RequeueLayer::new().bound(move || bound);
        assert_eq!(refuse_all(&layer).await, (bound as u32 + 1, given_up("put")));
        assert_eq!((layer.stats().requeues(), layer.stats().request_limit()), (bound, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn with_nowhere_to_go_the_error_stays_as_it_is_and_costs_nothing() {
    let budget = reserve(10);
    let layer = RequeueLayer::new().budget(budget.clone()).bound(|| 0);
    assert_eq!(refuse_all(&layer).await, (1, refused("put")));
    assert_eq!((layer.stats().cannot_retry(), layer.stats().request_limit()), (1, 0));
    assert_eq!(budget.balance(now()), 10);
}

#[tokio::test(start_paused = true)]
async fn responses_deposit_and_failures_do_not() {
    let budget = Budget::new(BudgetSettings::share(1.0)).unwrap();
    let layer = RequeueLayer::new().budget(budget.clone());
    let (mut svc, mut handle) = service(&layer);
    for (ok, balance) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call("get"));
        assert_pending!(rsp.poll());
        let (_, reply) = handle.next_request().await.unwrap();
        if ok {
            reply.send_response(500);
        } else {
            reply.send_error("reset");
        }
        assert!(rsp.poll().is_ready());
        assert_eq!(budget.balance(now()), balance);
    }
}

#[tokio::test]
async fn a_requeue_waits_for_readiness_and_a_dropped_one_sends_nothing() {
    let layer = RequeueLayer::new();
    let (mut svc, mut handle) = service(&layer);
    let mut clone = svc.clone();
    handle.allow(1);
    assert_ready_ok!(svc.poll_ready());
    let mut rsp = task::spawn(svc.call("put"));
    assert_pending!(rsp.poll());
    handle.next_request().await.unwrap().1.send_error(refused("put"));
    assert_pending!(rsp.poll());
    assert_pending!(rsp.poll());
    assert_pending!(handle.poll_request());
    drop(rsp);
    handle.allow(1);
    assert_pending!(handle.poll_request());
    // The clone has the counters, and readiness of its own.
    assert_ready_ok!(clone.poll_ready::<&str>());
    assert_eq!(layer.stats().per_request()[..2], [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_requeued_after_its_deadline_even_if_it_waited_for_readiness() {
    let ms = Duration::from_millis;
    for (fails_after, ready_after, sent) in [(9, 0, 2), (10, 0, 1), (5, 4, 2), (5, 5, 1)] {
        let layer = RequeueLayer::new();
        let (mut svc, mut handle) = service(&layer);
        let deadline = Deadline::after(now(), ms(10));
        handle.allow(1);
        assert_ready_ok!(svc.poll_ready());
        let mut rsp = task::spawn(svc.call("put"));
        assert_pending!(rsp.poll());
        time::advance(ms(fails_after)).await;
        let (req, reply) = handle.next_request().await.unwrap();
        reply.send_error(Refused { deadline, ..refused(req) });
        if rsp.poll().is_pending() {
            assert_pending!(rsp.poll());
            time::advance(ms(ready_after)).await;
            handle.allow(1);
            let outcome = rsp.poll();
            assert_eq!(outcome.is_pending(), sent == 2, "{fails_after} {ready_after}");
            if let Poll::Ready(outcome) = outcome {
                assert!(outcome.unwrap_err().downcast_ref::<Refused>().unwrap().given_up);
            }
        }
        assert_eq!(handle.poll_request().is_ready(), sent == 2);
        assert_eq!(layer.stats().deadline(), 2 - sent);
    }
}
