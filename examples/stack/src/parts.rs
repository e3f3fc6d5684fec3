//! A client from the parts alone: tower's `ServiceBuilder`, no mesh, no file.
//!
//! ```text
//! sensitive headers ─► record ─► timeout ─► retry ─► record ─► naming ─► p2c, peak EWMA ─► HTTP/1.1
//! (tower-http)         (ours)    └──── linkerd-retry ────┘     (dtab)    (linkerd-balance)  (linkerd-core)
//! ```

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use linkerd_core::{
    Body, Error, ErrorKind, HttpService,
    balance::{Balance, BalanceService, Policy},
    dtab::{
        Addr, Bound, Dtab, Endpoint, Namer, Path, State,
        interpreter::Local,
        namer::{Inet, fixed},
        naming::NamingLayer,
    },
    http::{Connect, HttpConnect},
    retry::{Budget, BudgetSettings, ResponseClass, retry::RetryLayer, timeout::TotalTimeoutLayer},
};
use tokio_util::task::AbortOnDropHandle;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;

use crate::{
    record::{Log, RecordLayer},
    upstream::Upstream,
};

/// The client.
///
/// # Errors
///
/// Settings that make no budget.
pub fn client(
    namer: impl Namer,
    dtab: Dtab,
    above: RecordLayer,
    below: RecordLayer,
) -> Result<impl HttpService, BoxError> {
    let namers: Vec<(Path, Arc<dyn Namer>)> = vec![("/#/replicas".parse()?, Arc::new(namer))];
    let interpreter = Local::new(namers, Arc::new(Inet::default()));
    let budget = Budget::new(BudgetSettings { percent: 1.0, ..BudgetSettings::default() })?;
    Ok(ServiceBuilder::new()
        // Outermost: nothing below prints it, whatever it logs.
        .layer(SetSensitiveRequestHeadersLayer::new([AUTHORIZATION]))
        // Once a request.
        .layer(above)
        // Above the retries, which share the time.
        .layer(TotalTimeoutLayer::new(Duration::from_secs(10)))
        // Above the naming and the pick, so that the next attempt may go elsewhere.
        .layer(RetryLayer::new(failed_read).budget(budget).copy_with(copy))
        // Once an attempt.
        .layer(below)
        .layer(NamingLayer::new(interpreter, dtab, name))
        // What makes the client of a bound name.
        .service(service_fn(|bound: Bound| ready(Ok::<_, Infallible>(balanced(bound))))))
}

/// Every 5xx of a request that only reads may be tried again, and every request that got no answer.
fn failed_read(req: &Request<Body>, rsp: Result<&Response<Body>, &Error>) -> ResponseClass {
    match rsp {
        Ok(rsp) if !rsp.status().is_server_error() => ResponseClass::Success,
        _ => ResponseClass::Failure { retryable: req.method().is_safe() },
    }
}

/// A request without a body can be sent again.
fn copy(req: &Request<Body>) -> Option<Request<Body>> {
    if !req.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = req.method().clone();
    *copy.uri_mut() = req.uri().clone();
    *copy.headers_mut() = req.headers().clone();
    Some(copy)
}

/// `/svc/` and the host.
fn name(req: &Request<Body>) -> Path {
    let host = req.uri().host().unwrap_or_default();
    // Without a host there is no name, and the empty path leads nowhere.
    Path::from_elements(["svc", host]).unwrap_or_default()
}

/// The client of a bound name: its endpoints as they come and go, the less loaded of two for each request.
fn balanced(bound: Bound) -> impl HttpService<Error = Error> {
    let connect = HttpConnect::default();
    let balance =
        Balance::new(Policy::peak_ewma(), move |addr: &SocketAddr, _: &_| connect.connect(&Endpoint::new(*addr)));
    let mut addr = bound.addr;
    let endpoints = balance.clone();
    let update = move |state: State<Addr>| {
        // A failure is not an empty set: what was known stays.
        if let State::Ok(addr) = state {
            let keyed = addr.endpoints().iter().map(|endpoint| (endpoint.addr, endpoint.weight));
            // Refused as a whole, if a weight is none.
            let _ = endpoints.update(keyed);
        }
    };
    // What is known already is there for the first request.
    update(addr.sample_and_update());
    let follow = tokio::spawn(async move {
        loop {
            addr.changed().await;
            update(addr.sample_and_update());
        }
    });
    // It holds the balancer, so it ends with the last clone of the service.
    let follow = Arc::new(AbortOnDropHandle::new(follow));
    let svc = BalanceService::new(balance).success_if(|rsp: Result<&Response<Body>, &Error>| {
        // A 5xx is the endpoint's fault: to the balancer, it was slow.
        rsp.is_ok_and(|rsp| !rsp.status().is_server_error())
    });
    svc.map_request(move |req| {
        let _follow = &follow;
        req
    })
}

/// Two replicas, one of which fails every request.
///
/// # Errors
///
/// A server does not start, or a request failed.
///
/// # Panics
///
/// If the client does not do what it should.
pub async fn run() -> Result<String, BoxError> {
    const REQUESTS: usize = 20;
    let failed = Arc::new(AtomicUsize::new(0));
    let answers = |status, count: &Arc<AtomicUsize>| {
        let count = Arc::clone(count);
        service_fn(move |req: Request<Incoming>| {
            count.fetch_add(1, Ordering::Relaxed);
            assert_eq!(req.headers()[AUTHORIZATION], "secret");
            let mut rsp = Response::new(Full::new(Bytes::from_static(b"hello")));
            *rsp.status_mut() = status;
            ready(Ok::<_, Infallible>(rsp))
        })
    };
    let served = Arc::default();
    let well = Upstream::start(answers(StatusCode::OK, &served)).await?;
    let ill = Upstream::start(answers(StatusCode::SERVICE_UNAVAILABLE, &failed)).await?;
    let namer = fixed::Namer::new().with("/web".parse()?, Addr::of([well.addr(), ill.addr()]));

    let log = Log::default();
    let client = client(namer, "/svc => /#/replicas".parse()?, log.layer("request"), log.layer("attempt"))?;
    for _ in 0..REQUESTS {
        let req = Request::get("http://web/").header(AUTHORIZATION, "secret").body(Body::empty())?;
        let rsp = client.clone().oneshot(req).await.map_err(Into::into)?;
        assert_eq!(rsp.status(), StatusCode::OK);
        assert_eq!(rsp.into_body().collect().await?.to_bytes(), "hello");
    }
    let (served, failed) = (served.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    assert_eq!(served, REQUESTS);
    let log = log.take();
    let of = |place| log.iter().filter(|at| **at == place).count();
    assert_eq!((of("request"), of("attempt")), (REQUESTS, REQUESTS + failed));

    // What is not bound fails by name, and is the error of the engine.
    let req = Request::get("http://nowhere/").body(Body::empty())?;
    let error: BoxError = client.oneshot(req).await.err().map(Into::into).ok_or("nowhere answered")?;
    let error = Error::from_box(error);
    assert_eq!(error.kind(), ErrorKind::NoSuchName);
    Ok(format!("{REQUESTS} requests answered in {} attempts; {error}", REQUESTS + failed))
}
