//! The proxy's server with a stack of one's own behind it: accepting, limits, hygiene and the orderly end are the
//! server's, what answers is ours.

use std::{convert::Infallible, future::ready, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use linkerd_core::{
    Body, HttpService, Mesh, Svc,
    http::{RequestContext, Server, ServerConfig},
    identify::PathSegments,
};
use tokio::sync::oneshot;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{map_response_body::MapResponseBodyLayer, trace::TraceLayer};

use crate::{record::Log, record::RecordLayer, upstream::Upstream};

/// What stands behind the server: some requests it answers itself, the others go to a router.
pub fn stack(router: impl HttpService, record: RecordLayer) -> impl HttpService {
    let answer = move |req: Request<Body>| {
        let router = router.clone();
        async move {
            match req.uri().path() {
                "/ping" => Ok(Response::new(Body::from("pong"))),
                "/teapot" => {
                    let mut rsp = Response::new(Body::empty());
                    *rsp.status_mut() = StatusCode::IM_A_TEAPOT;
                    Ok(rsp)
                }
                "/who" => {
                    // The server tells what it knows beside the request.
                    let remote = req.extensions().get::<RequestContext>().and_then(RequestContext::remote_addr);
                    Ok(Response::new(Body::from(remote.map(|addr| addr.ip().to_string()).unwrap_or_default())))
                }
                "/broken" => Err("nobody mended it".into()),
                _ => router.oneshot(req).await.map_err(Into::<BoxError>::into),
            }
        }
    };
    ServiceBuilder::new()
        .layer(record)
        // The layer below it answers with a body of its own type, which is made one of ours: a box for each response.
        .layer(MapResponseBodyLayer::new(Body::new))
        .layer(TraceLayer::new_for_http())
        .map_response(|mut rsp: Response<Body>| {
            rsp.headers_mut().insert("x-stack", HeaderValue::from_static("mine"));
            rsp
        })
        .service(service_fn(answer))
}

/// A server that is asked for all of it.
///
/// # Errors
///
/// A server does not start, or a request failed.
///
/// # Panics
///
/// If the stack is not what answers.
pub async fn run() -> Result<String, BoxError> {
    let upstream = Upstream::start(service_fn(|req: Request<Incoming>| {
        let answer = format!("{} by {}", req.uri(), req.headers()["via"].to_str().unwrap_or_default());
        ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer)))))
    }))
    .await?;
    let mesh = Mesh::builder().dtab(format!("/svc/users => {}", upstream.name()).parse()?).build()?;
    let router = mesh.router(PathSegments::new("/svc".parse()?, 1, false));

    let log = Log::default();
    let config = ServerConfig { addr: SocketAddr::from(([127, 0, 0, 1], 0)), ..ServerConfig::default() };
    let server = Server::bind(config)?;
    let here = server.local_addr();
    let (end, ended) = oneshot::channel::<()>();
    let svc = Svc::new(stack(router, log.layer("request")));
    let serving = tokio::spawn(server.serve(svc, async { drop(ended.await) }));

    // Something to ask it with: another mesh, whose one name is the server.
    let client =
        Mesh::builder().dtab(format!("/svc => {}", crate::upstream::name(here)).parse()?).build()?.client("/svc")?;
    let ask = |path: &'static str| {
        let client = client.clone();
        async move {
            let (head, body) = client.send(Request::get(path).body(())?).await?.into_parts();
            let text = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
            Ok::<_, BoxError>((head.status, head.headers, text))
        }
    };
    let (status, headers, text) = ask("/ping").await?;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "pong"));
    assert_eq!(headers["x-stack"], "mine");
    assert_eq!(headers["via"], "1.1 linkerd");
    assert_eq!(ask("/teapot").await?.0, StatusCode::IM_A_TEAPOT);
    assert_eq!(ask("/who").await?.2, "127.0.0.1");
    // An error becomes the answer that a Linkerd gives.
    let (status, headers, text) = ask("/broken").await?;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(headers.contains_key("l5d-err"));
    assert_eq!(text, "a layer failed: nobody mended it");
    let (status, _, text) = ask("/users/7").await?;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "/users/7 by 1.1 linkerd"));
    assert_eq!(ask("/nobody/7").await?.0, StatusCode::BAD_GATEWAY);
    let passed = log.take().len();
    assert_eq!(passed, 6);

    let _ = end.send(());
    let drained = serving.await?;
    assert_eq!(drained.aborted, 0);
    Ok(format!("{passed} requests answered by a stack of one's own, the last by a router behind it"))
}
