//! The first service, on axum. It asks the second one, in a task of its own.

use std::net::SocketAddr;

use axum::{Router, extract::State, routing::get};
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
    let app = Router::new().route("/", get(page)).layer(ServerLayer::new().criticality(true)).with_state(health);

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
    let ask = async {
        let mut health = HealthClient::with_origin(health, Uri::from_static("http://health"));
        health.check(HealthCheckRequest::default()).await
    };
    // What runs in this scope carries one key more.
    let cx = Context::current().with("tenant", "acme").map_err(|_: context::ContextError| StatusCode::BAD_REQUEST)?;
    let asked = cx.run(|| spawn_with_context(ask)).await;
    match asked {
        Ok(Ok(_)) => Ok("well"),
        _ => Err(StatusCode::BAD_GATEWAY),
    }
}
