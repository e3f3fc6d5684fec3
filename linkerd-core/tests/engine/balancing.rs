//! What is held against an endpoint, what its latency is, and what is forced on it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use linkerd_core::{
    AccrualPolicy, BoxError, ErrorKind, Force, GrpcClassifier, HttpClassifier, HttpClassify, Svc,
    balance::{
        Aperture, LeastLoaded, Measure, P2c, PeakEwma, Peer, Policy, Status,
        accrual::{ConsecutiveFailures, SuccessRate, SuccessRateWindowed, Unified},
    },
    dtab::Endpoint,
    http::Connect,
    retry::{Budget, BudgetSettings},
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
async fn a_caller_who_leaves_says_nothing_but_how_long_it_waited() {
    for accrual in touchy() {
        let (world, client) = one(measured(Measure::Headers), accrual);
        world.endpoints.script(ep(1), [Reply::hang()]);
        for _ in 0..30 {
            let mut rsp = sending(&client, get());
            assert!(rsp.poll().is_pending());
            advance(SEC).await;
        }
        assert_eq!((state(&world, 1).status, state(&world, 1).pending), (Status::Open, 0));
        // A lower bound of what it would have taken, lest those that hang seem quick.
        assert!((999.0..=1001.0).contains(&latency(&world)), "{}", latency(&world));
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
    // Nor has one whose reader did not want all of it; a shorter one would have taken as long as he read at least.
    for (each, range) in [(3 * SEC, 0.0..30.0), (SEC, 1000.0..1050.0)] {
        let (world, client) = one(measured(Measure::EndOfStream), AccrualPolicy::off());
        world.endpoints.script(ep(1), [Reply::ok("xy").after(20 * MS).streamed(each)]);
        let mut body = client.send(get()).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert!(range.contains(&latency(&world)), "{}", latency(&world));
        assert_eq!(state(&world, 1).status, Status::Open);
    }
}

/// The head comes and nothing after it.
#[tokio::test(start_paused = true)]
async fn what_hangs_after_the_head_took_as_long_as_its_caller_waited() {
    for measure in [Measure::FirstByte, Measure::EndOfStream] {
        let (world, client) = one(measured(measure), AccrualPolicy::off());
        world.endpoints.script(ep(1), [Reply::ok("x").after(20 * MS).streamed(60 * SEC)]);
        let rsp = client.send(get()).await.unwrap();
        advance(SEC).await;
        drop(rsp);
        assert!((1000.0..1050.0).contains(&latency(&world)), "{measure:?}: {}", latency(&world));
    }
}

/// A body that ends when it is told.
fn upload() -> (tokio::sync::oneshot::Sender<()>, Body) {
    let (end, ends) = tokio::sync::oneshot::channel();
    let frames = futures::stream::unfold(Some(ends), |ends| async move {
        let ends = ends?;
        let _ = ends.await;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))), None))
    });
    (end, Body::new(http_body_util::StreamBody::new(Box::pin(frames))))
}

/// Reads what is sent, and answers if there was nothing to read.
#[derive(Clone)]
struct Reads;

impl Connect for Reads {
    fn connect(&self, _: &Endpoint) -> Svc {
        Svc::new(tower::service_fn(async |req: Request<Body>| {
            let body = req.into_body().collect().await?.to_bytes();
            if !body.is_empty() {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_sends_slowly_and_leaves_says_nothing_of_the_endpoint() {
    // Not sent whole; and whole after 5 s, which the endpoint had no part in.
    for (whole, range) in [(false, 0.0..30.0), (true, 900.0..1050.0)] {
        let connect: Option<Arc<dyn Connect>> = Some(Arc::new(Reads));
        let policy = ClientPolicy { balancer: measured(Measure::Headers), connect, ..ClientPolicy::default() };
        let world = World::policies(ServicePolicy::default(), policy);
        world.namer.endpoints("/users", [ep(1)]);
        let client = world.client("/svc/users");
        status(&client).await;
        let (end, body) = upload();
        let mut rsp = task::spawn(client.send(Request::post("/").body(body).unwrap()));
        assert!(rsp.poll().is_pending());
        advance(5 * SEC).await;
        if whole {
            end.send(()).unwrap();
            assert!(rsp.poll().is_pending());
        }
        advance(SEC).await;
        drop(rsp);
        assert!(range.contains(&latency(&world)), "{whole}: {}", latency(&world));
    }
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

/// Answers as a gRPC server does: with so many messages, and a status in the head or at the end.
#[derive(Clone, Default)]
struct Grpc(Arc<Mutex<Said>>);

#[derive(Clone, Default)]
struct Said {
    messages: usize,
    head: Option<u32>,
    trailers: Option<u32>,
    breaks: bool,
    kind: Option<&'static str>,
}

impl Grpc {
    fn says(&self, said: Said) {
        *self.0.lock().unwrap() = said;
    }
}

impl Connect for Grpc {
    fn connect(&self, _: &Endpoint) -> Svc {
        let said = Arc::clone(&self.0);
        Svc::new(tower::service_fn(move |_: Request<Body>| {
            let Said { messages, head, trailers, breaks, kind } = said.lock().unwrap().clone();
            let status = |code: u32| (HeaderName::from_static("grpc-status"), code.into());
            let mut frames: VecDeque<_> = (0..messages).map(|_| Ok(Frame::data(Bytes::from_static(b"x")))).collect();
            frames.extend(trailers.map(|code| Ok(Frame::trailers(HeaderMap::from_iter([status(code)])))));
            frames.extend(breaks.then(|| Err("broken".into())));
            let body = if frames.is_empty() { Body::empty() } else { Body::new(Frames(frames)) };
            let mut rsp = Response::new(body);
            rsp.headers_mut()
                .insert("content-type", HeaderValue::from_static(kind.unwrap_or("application/grpc+proto")));
            rsp.headers_mut().extend(head.map(status));
            std::future::ready(Ok::<_, BoxError>(rsp))
        }))
    }
}

fn grpc() -> (World, Client, Grpc) {
    grpc_by(ServicePolicy::default(), in_flight())
}

fn grpc_by(service: ServicePolicy, balancer: Policy) -> (World, Client, Grpc) {
    let server = Grpc::default();
    let policy = ClientPolicy {
        balancer,
        accrual: AccrualPolicy::new(ConsecutiveFailures::new(std::num::NonZeroU32::MIN)),
        connect: Some(Arc::new(server.clone())),
        ..ClientPolicy::default()
    };
    let world = World::policies(service, policy);
    world.namer.endpoints("/users", [ep(1)]);
    let client = world.client("/svc/users");
    (world, client, server)
}

/// One call, read to its end.
async fn call(client: &Client) {
    let rsp = client.send(get()).await.unwrap();
    assert_eq!(rsp.status(), 200);
    let _ = rsp.into_body().collect().await;
}

#[tokio::test(start_paused = true)]
async fn of_the_grpc_codes_those_of_the_endpoint_count_wherever_they_are_said() {
    // OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED,
    // RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS,
    // UNAUTHENTICATED.
    let counts = |code: u32| matches!(code, 2 | 4 | 13 | 14 | 15);
    // Whose fault it is does not depend on what is called a failure.
    let classifiers: [Arc<dyn HttpClassify>; 2] =
        [Arc::new(HttpClassifier::default()), Arc::new(GrpcClassifier::never())];
    for (code, classifier) in (0..17).flat_map(|code| classifiers.iter().map(move |classifier| (code, classifier))) {
        for said in [
            Said { head: Some(code), ..Said::default() },
            Said { trailers: Some(code), ..Said::default() },
            Said { messages: 2, trailers: Some(code), ..Said::default() },
        ] {
            let (world, client, server) =
                grpc_by(ServicePolicy { classifier: Arc::clone(classifier), ..ServicePolicy::default() }, in_flight());
            let place = (said.messages, said.head.is_some());
            server.says(said.clone());
            for _ in 0..3 {
                call(&client).await;
            }
            let status = state(&world, 1).status;
            assert_eq!(status == Status::Busy, counts(code), "{code} {place:?}: {status}");
            assert_eq!(world.bound("failure_accrual/removals"), u64::from(counts(code)), "{code} {place:?}");

            // Nor does a caller's fault bring it back, which a success does.
            server.says(Said { trailers: Some(14), ..Said::default() });
            call(&client).await;
            assert_eq!(state(&world, 1).status, Status::Busy, "{code} {place:?}");
            advance(300 * SEC).await;
            let before = world.bound("failure_accrual/revivals");
            server.says(Said { messages: 0, ..said });
            call(&client).await;
            assert_eq!(world.bound("failure_accrual/revivals") - before, u64::from(code == 0), "{code} {place:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_class_of_grpcs_own_makes_no_fault_of_a_callers() {
    for (code, is_fault) in [(0, false), (3, false), (5, false), (7, false), (12, false), (16, false), (13, true)] {
        for said in [Said { head: Some(code), ..Said::default() }, Said { trailers: Some(code), ..Said::default() }] {
            let place = said.head.is_some();
            let service = ServicePolicy { classifier: Arc::new(GrpcClassifier::never()), ..ServicePolicy::default() };
            let (world, client, server) = grpc_by(service, measured(Measure::Headers));
            server.says(said);
            call(&client).await;
            assert_eq!(world.service("failures"), u64::from(code != 0), "{code} {place}");
            assert_eq!(state(&world, 1).status == Status::Busy, is_fault, "{code} {place}");
            // Nor does it cost what a failure does.
            assert_eq!(latency(&world) > 4000.0, is_fault, "{code} {place}: {}", latency(&world));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_call_counts_and_no_end_does_not() {
    let (world, client, server) = grpc();
    // Given up in the midst: nobody knows.
    server.says(Said { messages: 2, trailers: Some(14), ..Said::default() });
    for _ in 0..3 {
        let mut body = client.send(get()).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(state(&world, 1).status, Status::Open, "it did not end yet");
        drop(body);
    }
    assert_eq!(world.bound("failure_accrual/removals"), 0);
    // Gone without a word is a success, as its head was.
    server.says(Said { messages: 2, ..Said::default() });
    call(&client).await;
    assert_eq!(state(&world, 1).status, Status::Open);
    // What is not gRPC was decided by its head, whatever comes then.
    for kind in ["text/plain", "application/grpc-web"] {
        server.says(Said { messages: 1, trailers: Some(14), breaks: true, kind: Some(kind), ..Said::default() });
        call(&client).await;
        assert_eq!(state(&world, 1).status, Status::Open, "{kind}");
    }
    server.says(Said { messages: 1, breaks: true, ..Said::default() });
    call(&client).await;
    assert_eq!(state(&world, 1).status, Status::Busy, "it broke");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_an_end_brings_an_endpoint_back_with_its_first_message() {
    let (world, client, server) = grpc();
    server.says(Said { trailers: Some(14), ..Said::default() });
    call(&client).await;
    advance(5 * SEC).await;
    server.says(Said { messages: 3, trailers: Some(0), ..Said::default() });
    let mut body = client.send(get()).await.unwrap().into_body();
    assert_eq!(state(&world, 1).status, Status::Busy, "it is being tried");
    body.frame().await.unwrap().unwrap();
    assert_eq!((state(&world, 1).status, state(&world, 1).pending), (Status::Open, 1));
    drop(body);
    assert_eq!((state(&world, 1).status, state(&world, 1).pending), (Status::Open, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_a_few_endpoints_of_many() {
    let balancer = in_flight().panic(linkerd_core::balance::Panic::FailFast);
    let world = World::policies(ServicePolicy::default(), ClientPolicy { balancer, ..ClientPolicy::default() });
    world.namer.endpoints("/users", (1..=8).map(ep));
    let client = world.client("/svc/users");
    status(&client).await;
    assert_eq!(force(&world, None, Force::Open(10 * SEC)), 8);
    let error = error(&client).await;
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::AllTripped, 502));
    assert!(
        error.to_string().starts_with("too few endpoints are in use: breakers have tripped (/svc/users"),
        "{error}"
    );
    assert_eq!((world.service("failures/all_tripped"), world.service("failures/all_connecting")), (1, 0));
    let text = error.text();
    assert!(text.starts_with("0 of 8 endpoints are open (8 left alone or full, 0 closed), "), "{text}");
    assert_eq!(text.matches("has been forced open").count(), 5, "{text}");
    assert!(text.ends_with("; and 3 more"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn that_none_is_connected_yet_is_another_failure_than_that_none_is_well() {
    let balancer = in_flight().panic(linkerd_core::balance::Panic::FailFast);
    let policy = ClientPolicy { balancer, fail_fast: true, requeue_budget: Budget::off(), ..steady() };
    let world = World::policies(ServicePolicy::default(), policy);
    world.namer.endpoints("/users", [ep(1), ep(2)]);
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::fail(ErrorKind::Connect, true)]);
    }
    let client = world.client("/svc/users");
    for _ in [1, 2] {
        assert_eq!(error(&client).await.kind(), ErrorKind::Connect);
    }
    let error = error(&client).await;
    assert_eq!((error.kind(), error.status().as_u16()), (ErrorKind::AllConnecting, 502));
    assert!(error.to_string().starts_with("the endpoints are not connected to yet (/svc/users"), "{error}");
    let text = error.text();
    let begins = "0 of 2 endpoints are open (2 left alone or full, 0 closed), 2 of them without a connection: ";
    assert!(text.starts_with(begins) && text.matches("could not be connected to for ").count() == 2, "{text}");
    assert_eq!((world.service("failures/all_tripped"), world.service("failures/all_connecting")), (0, 1));

    // The first try to connect has them back.
    settle().await;
    for n in [1, 2] {
        world.endpoints.script(ep(n), [Reply::ok("")]);
    }
    advance(2 * SEC).await;
    settle().await;
    assert_eq!(status(&client).await, 200);
}

#[cfg(feature = "admin")]
#[tokio::test(start_paused = true)]
async fn the_page_has_how_many_only_wait_to_be_probed() {
    let accrual = AccrualPolicy {
        backoff: linkerd_core::balance::accrual::Backoff::constant(SEC).unwrap(),
        ..AccrualPolicy::new(ConsecutiveFailures::new(std::num::NonZeroU32::MIN))
    };
    let (world, client) = one(in_flight(), accrual);
    world.endpoints.script(ep(1), [Reply::status(500)]);
    let shown = || {
        let page = linkerd_core::admin::mesh_balancers(&world.mesh);
        ["available", "due", "busy"].map(|name| page["/#/fake/users"][name].as_u64().unwrap())
    };
    assert_eq!(status(&client).await, 500);
    assert_eq!(shown(), [0, 0, 1]);
    advance(SEC + MS).await;
    assert_eq!(shown(), [1, 1, 0]);
    world.endpoints.script(ep(1), [Reply::ok("")]);
    assert_eq!(status(&client).await, 200);
    assert_eq!(shown(), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_tells_of_those_that_are_not_open_only() {
    let balancer = in_flight().panic(linkerd_core::balance::Panic::FailFast).panic_below(0.9).unwrap();
    let world = World::policies(ServicePolicy::default(), ClientPolicy { balancer, ..ClientPolicy::default() });
    world.namer.endpoints("/users", (1..=8).map(ep));
    let client = world.client("/svc/users");
    status(&client).await;
    assert_eq!(force(&world, Some(ep(8)), Force::Open(10 * SEC)), 1);
    advance(SEC).await;
    let text = error(&client).await.text();
    assert!(text.starts_with("7 of 8 endpoints are open (1 left alone or full, 0 closed)"), "{text}");
    assert!(text.contains(&format!("breaker {} has been forced open", ep(8))), "{text}");
    assert!(!text.contains(&ep(1).to_string()) && !text.contains("; "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_a_balancer_knows_is_in_its_metrics() {
    let aperture = Aperture::builder().min(2).peer(Peer::new(1, 2).unwrap()).build().unwrap();
    let balancer = Policy::new(aperture, LeastLoaded::new);
    let world = World::policies(ServicePolicy::default(), ClientPolicy { balancer, ..ClientPolicy::default() });
    world.namer.endpoints("/users", (1..=8).map(ep));
    let client = world.client("/svc/users");
    let metric = |name: &str| world.metric(&format!("client/#/fake/users/loadbalancer/{name}"));
    assert_eq!(metric("p2c/zero"), None);
    for _ in 0..500 {
        status(&client).await;
    }
    let names = ["num_weight_classes", "logical_aperture", "physical_aperture", "use_deterministic_ordering"];
    assert_eq!(names.map(metric), [1, 2, 4, 1].map(|n| Some(f64::from(n))));
    assert_eq!(["widen", "narrow", "offered_load_ema"].map(|name| metric(&format!("loadband/{name}"))), [Some(0.0); 3]);
    // One after the other: none has ever anything to do. Counted by sample.
    let idle = metric("p2c/zero").unwrap();
    assert!((250.0..800.0).contains(&idle), "{idle}");

    // It widens under load, and says so.
    for n in 1..=8 {
        world.endpoints.script(ep(n), [Reply::hang()]);
    }
    let mut waiting: Vec<_> = (0..40).map(|_| sending(&client, get())).collect();
    for rsp in &mut waiting {
        assert!(rsp.poll().is_pending());
        advance(SEC).await;
    }
    assert_eq!(metric("logical_aperture"), Some(8.0));
    assert!(metric("loadband/widen") >= Some(1.0) && metric("loadband/offered_load_ema") > Some(20.0));

    // A balancer of another kind has none of it.
    let (world, client) = one(Policy::new(linkerd_core::balance::Heap::new(), LeastLoaded::new), AccrualPolicy::off());
    status(&client).await;
    let metric = |name: &str| world.metric(&format!("client/#/fake/users/loadbalancer/{name}"));
    assert_eq!(["num_weight_classes", "logical_aperture", "p2c/zero"].map(metric), [Some(1.0), None, None]);
}

#[tokio::test(start_paused = true)]
async fn turns_of_the_dead_go_round_among_the_living() {
    let balancer = Policy::new(linkerd_core::balance::RoundRobin::new(), LeastLoaded::new);
    let budget = BudgetSettings { min_per_sec: 100, ..BudgetSettings::default() };
    let client = ClientPolicy { balancer, requeue_budget: Budget::new(budget).unwrap(), ..steady() };
    let world = World::policies(ServicePolicy::default(), client);
    world.namer.endpoints("/users", (1..=5).map(ep));
    // Two in a row, perhaps: the order is drawn.
    for n in [2, 3] {
        world.endpoints.script(ep(n), [Reply::unsent()]);
    }
    let client = world.client("/svc/users");
    for _ in 0..300 {
        assert_eq!(status(&client).await, 200);
    }
    let served = [1, 4, 5].map(|n| world.endpoints.count(ep(n)));
    assert!(served.iter().all(|count| (99..=101).contains(count)), "{served:?}");
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
