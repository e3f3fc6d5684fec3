//! The first service, on axum. It asks the second one: in a task of its own, and while its answer is streamed.

use std::net::SocketAddr;

use axum::{Router, body::Body, extract::State, routing::get};
use futures::{StreamExt, stream};
use http::{StatusCode, Uri};
use hyper::client::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use linkerd_core::context::{self, ClientLayer, Context, ServerLayer, spawn_with_context};
use tokio::net::TcpStream;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

type Health =
    BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<hyper::body::Incoming>, hyper::Error>;

/// Serves until the program ends.
pub(crate) async fn start(health: SocketAddr) -> Result<SocketAddr, BoxError> {
    let stream = TcpStream::connect(health).await?;
    let (send, conn) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(conn);
    let send = service_fn(move |req| send.clone().send_request(req));
    // Every client of the service has this layer, and no call knows of it.
    let health = BoxCloneSyncService::new(ClientLayer::new().layer(send));
    let app = Router::new().route("/", get(page)).route("/watch", get(watch));
    let app = app.layer(ServerLayer::new().criticality(true)).with_state(health);

    let (listener, addr) = crate::listen().await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let app = TowerToHyperService::new(app.clone().map_request(|req: http::Request<_>| req));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), app));
        }
    });
    Ok(addr)
}

async fn page(State(health): State<Health>) -> Result<&'static str, StatusCode> {
    // What runs in this scope carries one key more.
    let cx = with_tenant("acme")?;
    let asked = cx.run(|| spawn_with_context(is_well(health))).await;
    if asked.unwrap_or_default() { Ok("well\n") } else { Err(StatusCode::BAD_GATEWAY) }
}

/// A line for each time that it asks, which it does when somebody reads on: long after this function has returned.
async fn watch(State(health): State<Health>) -> Result<Body, StatusCode> {
    let lines = stream::repeat(health).take(crate::LINES).then(is_well).map(|is_well| {
        let line = if is_well { "well\n" } else { "ill\n" };
        Ok::<_, BoxError>(line)
    });
    Ok(Body::from_stream(with_tenant("streamed")?.scope(lines)))
}

fn with_tenant(tenant: &str) -> Result<Context, StatusCode> {
    Context::current().with("tenant", tenant).map_err(|_: context::ContextError| StatusCode::BAD_REQUEST)
}

async fn is_well(health: Health) -> bool {
    let mut health = HealthClient::with_origin(health, Uri::from_static("http://health"));
    health.check(HealthCheckRequest::default()).await.is_ok()
}
