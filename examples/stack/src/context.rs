//! A service that hands on the context of what it serves: a proxy before it and one after it can tell which of its
//! requests belong to which.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use linkerd_core::{
    Client, Mesh,
    context::{ClientLayer, ServerLayer, spawn_with_context},
};
use tower::{BoxError, ServiceBuilder, service_fn};

use crate::upstream::Upstream;

type Headers = Arc<Mutex<Vec<HeaderMap>>>;

/// A client that puts the context of what is being served onto whatever it sends.
///
/// # Errors
///
/// A dtab that does not parse.
pub fn client(dtab: &str) -> Result<Client, BoxError> {
    let mesh = Mesh::builder().dtab(dtab.parse()?).path_layer(ClientLayer::new()).build()?;
    Ok(mesh.client("/svc/backend")?)
}

/// Three calls: in the request's task, in one that was told of the request, and in one that was not.
async fn handle(backend: Client) -> Result<(), BoxError> {
    let call = |backend: Client, path: &'static str| async move {
        backend.send(Request::get(path).body(())?).await?;
        Ok::<_, BoxError>(())
    };
    tokio::task::yield_now().await;
    call(backend.clone(), "/awaited").await?;
    spawn_with_context(call(backend.clone(), "/spawned")).await??;
    tokio::spawn(call(backend, "/forgotten")).await?
}

/// A service between two others.
///
/// # Errors
///
/// A server does not start, or a request failed.
///
/// # Panics
///
/// If the context does not arrive.
pub async fn run() -> Result<String, BoxError> {
    let seen = Headers::default();
    let arrived = Arc::clone(&seen);
    let backend = Upstream::start(service_fn(move |req: Request<Incoming>| {
        arrived.lock().unwrap_or_else(PoisonError::into_inner).push(req.headers().clone());
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) }
    }))
    .await?;

    let client = client(&format!("/svc/backend => {}", backend.name()))?;
    let handler = service_fn(move |_: Request<Incoming>| {
        let client = client.clone();
        async move { handle(client).await.map(|()| Response::new(Full::new(Bytes::new()))) }
    });
    let service = Upstream::start(ServiceBuilder::new().layer(ServerLayer::new()).service(handler)).await?;

    let front = Mesh::builder().dtab(format!("/svc => {}", service.name()).parse()?).build()?.client("/svc")?;
    let context = [("l5d-ctx-trace", "abc"), ("l5d-ctx-dtab", "/svc/x=>/y"), ("l5d-ctx-of-tomorrow", "a\t?")];
    let mut req = Request::get("/").header("l5d-dtab", "/only => /here").body(())?;
    for (name, value) in context {
        req.headers_mut().insert(name, value.parse()?);
    }
    assert_eq!(front.send(req).await?.status(), 200);

    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let [awaited, spawned, forgotten] = &seen[..] else { return Err("three requests should have come".into()) };
    for (name, value) in context {
        assert_eq!(awaited[name], value);
        assert_eq!(spawned[name], value);
        assert!(!forgotten.contains_key(name));
    }
    assert!(!awaited.contains_key("l5d-dtab"), "what is meant for one hop went further");
    Ok(format!("{} headers handed on across await and spawn_with_context", context.len()))
}
