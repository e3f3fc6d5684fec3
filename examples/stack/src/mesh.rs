//! A mesh with a layer at each of its three places, each of which proves where it is.

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use linkerd_core::{
    Client, HttpClassifier, Mesh, ServicePolicy, Uniform,
    dtab::{Addr, namer::fixed},
};
use tower::{BoxError, service_fn};

use crate::{
    record::Log,
    upstream::{Upstream, nobody},
};

/// A client of `/svc/web` whose layers write down what passes.
///
/// # Errors
///
/// A name that is none, or no runtime.
pub fn client(replicas: &[SocketAddr], log: &Log) -> Result<Client, BoxError> {
    let service = ServicePolicy { classifier: Arc::new(HttpClassifier::RetryableRead5xx), ..ServicePolicy::default() };
    let mesh = Mesh::builder()
        .namer("/#/replicas", fixed::Namer::new().with("/web".parse()?, Addr::of(replicas.iter().copied())))
        .dtab("/svc => /#/replicas".parse()?)
        .policies(Uniform { service, ..Uniform::default() })
        // Once a request, outside of retries and timeouts.
        .path_layer(log.layer("path"))
        // Once an attempt: inside the retries, outside of the requeues.
        .client_layer(log.layer("client"))
        // Once for each endpoint that is tried.
        .endpoint_layer(log.layer("endpoint"))
        // Of two at one place, the later one is outside.
        .path_layer(log.layer("outer path"))
        .build()?;
    Ok(mesh.client("/svc/web")?)
}

/// A retry, and a requeue.
///
/// # Errors
///
/// A server does not start, or a request failed.
///
/// # Panics
///
/// If the layers are not where they should be.
pub async fn run() -> Result<String, BoxError> {
    // Fails the first request that it gets.
    let is_first = Arc::new(AtomicBool::new(true));
    let upstream = Upstream::start(service_fn(move |_: Request<Incoming>| {
        let mut rsp = Response::new(Full::new(Bytes::new()));
        if is_first.swap(false, Ordering::Relaxed) {
            *rsp.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        ready(Ok::<_, Infallible>(rsp))
    }))
    .await?;

    let log = Log::default();
    let users = client(&[upstream.addr()], &log)?;
    assert_eq!(users.send(Request::get("/").body(())?).await?.status(), StatusCode::OK);
    let retried = log.take();
    assert_eq!(retried, ["outer path", "path", "client", "endpoint", "client", "endpoint"]);

    // Two replicas, at one of which nobody listens: what was never sent goes to the other one.
    let both = client(&[upstream.addr(), nobody().await?], &log)?;
    let requeued = loop {
        assert_eq!(both.send(Request::get("/").body(())?).await?.status(), StatusCode::OK);
        let passed = log.take();
        if passed.len() > 4 {
            break passed;
        }
        assert_eq!(passed, ["outer path", "path", "client", "endpoint"]);
    };
    assert_eq!(requeued, ["outer path", "path", "client", "endpoint", "endpoint"]);
    Ok(format!("a retry passes {}; a requeue {}", retried.join(", "), requeued.join(", ")))
}
