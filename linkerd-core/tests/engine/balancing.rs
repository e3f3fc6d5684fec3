//! What is held against an endpoint, what its latency is, and what is forced on it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use linkerd_core::{
    AccrualPolicy, BoxError, ErrorKind, Force, Svc,
    balance::{
        LeastLoaded, Measure, P2c, PeakEwma, Policy, Status,
        accrual::{ConsecutiveFailures, SuccessRate, SuccessRateWindowed, Unified},
    },
    dtab::Endpoint,
    http::Connect,
    retry::Budget,
    testing::Reply,
};
use tokio::time::advance;

use super::*;

/// P2C by an average latency that is measured like this.
fn measured(measure: Measure) -> Policy {
    let load = move || PeakEwma::new(10 * SEC).unwrap().measure(measure).long_stream(2 * SEC);
    Policy::new(P2c::new(), load)
}

/// One endpoint, balanced like this.
fn one(balancer: Policy, accrual: AccrualPolicy) -> (World, Client) {
    let policy = ClientPolicy { balancer, accrual, requeue_budget: Budget::off(), ..ClientPolicy::default() };
    let world = World::policies(ServicePolicy::default(), policy);
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    (world, client)
}

fn state(world: &World, n: u8) -> linkerd_core::EndpointState {
    let clients = world.mesh.clients();
    clients[0].endpoints.iter().find(|endpoint| endpoint.addr == ep(n)).unwrap().clone()
}

/// The latency of an idle endpoint as its load has it, in milliseconds.
fn latency(world: &World) -> f64 {
    let endpoint = state(world, 1);
    assert_eq!(endpoint.pending, 0);
    endpoint.load / 1e6
}

/// Every kind of accrual, as touchy as it gets.
fn touchy() -> [AccrualPolicy; 4] {
    let once = std::num::NonZeroU32::MIN;
    [
        AccrualPolicy::new(ConsecutiveFailures::new(once)),
        AccrualPolicy::new(SuccessRate::new(1.0, 1).unwrap()),
        AccrualPolicy::new(SuccessRateWindowed::new(1.0, 100 * MS).unwrap()),
        AccrualPolicy::new(Unified::new(once, 1.0, SEC, once).unwrap()),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_callers_fault_never_counts_whatever_counts() {
    for (kind, never_sent) in [(ErrorKind::Overloaded, true), (ErrorKind::RequestBody, false)] {
        for (i, accrual) in touchy().into_iter().enumerate() {
            let (world, client) = one(measured(Measure::Headers), accrual);
            world.endpoints.script(ep(1), [Reply::ok("").after(5 * MS)]);
            status(&client).await;
            let before = latency(&world);
            world.endpoints.script(ep(1), [Reply::fail(kind, never_sent).after(MS)]);
            for _ in 0..30 {
                assert_eq!(error(&client).await.kind(), kind);
                advance(10 * MS).await;
            }
            assert_eq!(state(&world, 1).status, Status::Open, "{kind:?} {i}");
            assert_eq!(world.bound("failure_accrual/removals"), 0, "{kind:?} {i}");
            // No penalty, and no latency either.
            let after = latency(&world);
            assert!(after <= before && after > 0.5 * before, "{kind:?} {i}: {before} {after}");

            // Unlike what is the endpoint's.
            world.endpoints.script(ep(1), [Reply::closed()]);
            for _ in 0..SuccessRateWindowed::MIN_REQUESTS {
                advance(10 * MS).await;
                error(&client).await;
            }
            assert_eq!(state(&world, 1).status, Status::Busy, "{kind:?} {i}");
            assert!(latency(&world) > 4000.0, "{kind:?} {i}: {}", latency(&world));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_says_nothing() {
    for accrual in touchy() {
        let (world, client) = one(measured(Measure::Headers), accrual);
        world.endpoints.script(ep(1), [Reply::hang()]);
        for _ in 0..30 {
            let mut rsp = sending(&client, get());
            assert!(rsp.poll().is_pending());
            advance(SEC).await;
        }
        assert_eq!((state(&world, 1).status, state(&world, 1).pending), (Status::Open, 0));
        assert_eq!(latency(&world), 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn latency_is_measured_up_to_where_it_is_wanted() {
    // The head after 20 ms, then a byte each 50 ms.
    for (measure, expected) in [(Measure::Headers, 20.0), (Measure::FirstByte, 70.0), (Measure::EndOfStream, 320.0)] {
        let (world, client) = one(measured(measure), AccrualPolicy::off());
        world.endpoints.script(ep(1), [Reply::ok("slowly").after(20 * MS).streamed(50 * MS)]);
        let rsp = client.send(get()).await.unwrap();
        let pending = state(&world, 1);
        assert_eq!(pending.pending, 1, "{measure:?}");
        assert_eq!(text(rsp).await, "slowly");
        let latency = latency(&world);
        // It fades as time goes by, and the timer's steps are of a millisecond.
        assert!((0.9 * expected..1.05 * expected + 8.0).contains(&latency), "{measure:?}: {latency}");
    }

    // Where nothing is measured all have the same.
    let (world, client) = one(measured(Measure::PendingOnly), AccrualPolicy::off());
    status(&client).await;
    let before = latency(&world);
    world.endpoints.script(ep(1), [Reply::ok("slowly").after(20 * MS).streamed(50 * MS)]);
    assert_eq!(text(client.send(get()).await.unwrap()).await, "slowly");
    assert_eq!(latency(&world), before);
}

#[tokio::test(start_paused = true)]
async fn a_long_stream_has_no_latency() {
    for measure in [Measure::FirstByte, Measure::EndOfStream] {
        let (world, client) = one(measured(measure), AccrualPolicy::off());
        world.endpoints.script(ep(1), [Reply::ok("xy").after(20 * MS).streamed(3 * SEC)]);
        let rsp = client.send(get()).await.unwrap();
        assert_eq!(text(rsp).await, "xy");
        assert!(latency(&world) < 30.0, "{measure:?}: {}", latency(&world));
    }
    // Nor has one whose reader did not want all of it.
    let (world, client) = one(measured(Measure::EndOfStream), AccrualPolicy::off());
    world.endpoints.script(ep(1), [Reply::ok("xy").after(20 * MS).streamed(SEC)]);
    let mut body = client.send(get()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert!(latency(&world) < 30.0, "{}", latency(&world));
    assert_eq!(state(&world, 1).status, Status::Open);
}

/// Answers at once, with a body that breaks after its first byte.
#[derive(Clone)]
struct Breaks;

impl Connect for Breaks {
    fn connect(&self, _: &Endpoint) -> Svc {
        Svc::new(tower::service_fn(async |_: Request<Body>| {
            let frames = [Ok(Frame::data(Bytes::from_static(b"x"))), Err("broken".into())];
            Ok::<_, BoxError>(Response::new(Body::new(Frames(frames.into()))))
        }))
    }
}

struct Frames(VecDeque<Result<Frame<Bytes>, BoxError>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front())
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_is_a_failure_where_its_end_is_measured() {
    let (world, client) = {
        let policy = ClientPolicy {
            balancer: measured(Measure::EndOfStream),
            connect: Some(Arc::new(Breaks)),
            ..ClientPolicy::default()
        };
        let world = World::policies(ServicePolicy::default(), policy);
        world.namer.endpoints("/users", [ep(1)]);
        let client = world.client("/svc/users");
        (world, client)
    };
    let body = client.send(get()).await.unwrap().into_body();
    assert!(body.collect().await.is_err());
    assert!(latency(&world) > 4000.0, "{}", latency(&world));
}

fn force(world: &World, addr: Option<SocketAddr>, force: Force) -> usize {
    world.mesh.force(&"/#/fake/users".parse().unwrap(), addr, force)
}

fn two() -> (World, Client) {
    // Failures are no load here, so that nothing but breakers keeps requests away.
    let balancer = Policy::new(P2c::new(), || LeastLoaded::new().failure_penalty(Duration::ZERO));
    let world = World::policies(ServicePolicy::default(), ClientPolicy { balancer, ..ClientPolicy::default() });
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    let client = world.client("/svc/users");
    (world, client)
}

#[tokio::test(start_paused = true)]
async fn what_is_forced_open_gets_nothing_until_its_time_is_over() {
    let (world, client) = two();
    status(&client).await;
    assert_eq!(force(&world, Some(ep(1)), Force::Open(10 * SEC)), 1);
    let shown = state(&world, 1);
    assert_eq!(shown.status, Status::Busy);
    assert!(shown.why.contains("has been forced open for 0ns, and is for another 10s"), "{}", shown.why);
    let before = world.endpoints.count(ep(1));
    for _ in 0..50 {
        status(&client).await;
        advance(100 * MS).await;
    }
    assert_eq!(world.endpoints.count(ep(1)), before);
    // No probe, no removal: it is somebody's wish.
    assert_eq!(world.bound("failure_accrual/probes"), 0);

    advance(6 * SEC).await;
    for _ in 0..50 {
        status(&client).await;
    }
    assert!(world.endpoints.count(ep(1)) > before);
    assert_eq!(state(&world, 1).status, Status::Open);
}

#[tokio::test(start_paused = true)]
async fn what_is_forced_closed_is_used_whatever_it_answers() {
    let (world, client) = two();
    status(&client).await;
    assert_eq!(force(&world, None, Force::Closed(10 * SEC)), 2);
    world.endpoints.script(ep(1), [Reply::status(500)]);
    for _ in 0..100 {
        status(&client).await;
    }
    assert!(world.endpoints.count(ep(1)) > 20);
    assert_eq!(state(&world, 1).status, Status::Open);
    assert!(state(&world, 1).why.starts_with("forced closed for another "), "{}", state(&world, 1).why);
    // Then what it does counts again.
    advance(10 * SEC).await;
    for _ in 0..100 {
        status(&client).await;
    }
    assert_eq!(state(&world, 1).status, Status::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_reset_forgets() {
    let (world, client) = two();
    world.endpoints.script(ep(1), [Reply::status(500)]);
    for _ in 0..100 {
        status(&client).await;
    }
    assert_eq!(state(&world, 1).status, Status::Busy);
    world.endpoints.script(ep(1), [Reply::ok("")]);
    assert_eq!(force(&world, Some(ep(1)), Force::Reset), 1);
    assert_eq!((state(&world, 1).status, state(&world, 1).why.as_str()), (Status::Open, "open"));
    let before = world.endpoints.count(ep(1));
    for _ in 0..50 {
        assert_eq!(status(&client).await, 200);
    }
    assert!(world.endpoints.count(ep(1)) > before + 5);

    // What was forced is over, too.
    for forced in [Force::Open(SEC), Force::Closed(SEC)] {
        force(&world, None, forced);
        assert_ne!(state(&world, 1).why, "open");
        force(&world, None, Force::Reset);
        assert_eq!((state(&world, 1).status, state(&world, 1).why.as_str()), (Status::Open, "open"));
    }
}

#[tokio::test(start_paused = true)]
async fn with_all_forced_open_one_is_asked_anyway() {
    let (world, client) = two();
    status(&client).await;
    assert_eq!(force(&world, None, Force::Open(10 * SEC)), 2);
    assert_eq!(status(&client).await, 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_cannot_be_forced() {
    let (world, client) = two();
    status(&client).await;
    assert_eq!(force(&world, Some(ep(3)), Force::Open(SEC)), 0);
    assert_eq!(world.mesh.force(&"/#/fake/others".parse().unwrap(), None, Force::Reset), 0);
    // Nor for ever.
    force(&world, Some(ep(1)), Force::Open(Duration::MAX));
    advance(Force::MAX + MS).await;
    status(&client).await;
    assert_eq!(state(&world, 1).status, Status::Open);

    // Where endpoints are never taken out there is nothing to force.
    let (world, client) = one(Policy::least_loaded(), AccrualPolicy::off());
    status(&client).await;
    assert_eq!(force(&world, None, Force::Open(SEC)), 0);
}
