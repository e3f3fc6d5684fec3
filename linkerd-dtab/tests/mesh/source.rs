//! Our client asks our server.

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use linkerd_dtab::{
    Activity, Addr, Dtab, Failure, Interpreter, NameTree, Path, Publisher, State,
    delegate::settled,
    interpreter::{
        Local,
        remote::{Leaf, Mesh, MeshError, Source},
    },
    mesh::proto::{BoundTreeRsp, Replicas, replicas},
    namer::{Inet, fs::Namer},
    namerd::mesh,
    transport::{Body, Sending, Transport, full},
};
use prost::Message;
use tokio::time::timeout;
use tonic::Code;
use tower::ServiceExt;

use crate::{call::request, server::Server};

/// For files to be looked at again: much more than it takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server, as if it were elsewhere.
struct There(mesh::Mesh);

impl Transport for There {
    fn send(&self, request: Request<Body>) -> Sending {
        let mesh = self.0.clone();
        Box::pin(async move { mesh.oneshot(request).await.map_err(|never| match never {}) })
    }
}

/// One answer to everything.
struct Answers(fn() -> Result<Response<Body>, Failure>);

impl Transport for Answers {
    fn send(&self, _: Request<Body>) -> Sending {
        let answer = self.0();
        Box::pin(async { answer })
    }
}

const TABLE: &str = "/svc => /#/io.l5d.fs ; /half => 3 * /svc/web & 1 * /svc/two ; /alt => /svc/nope | /svc/web ; \
                     /gone => ~ ; /stop => ! ; /none => $ ; /loop => /loop ; /x/* => /svc";

fn server() -> Server {
    let files = [
        ("disco/web", "127.0.0.1 1111\n"),
        ("disco/two", "127.0.0.1 1111\n::1 2222 * 0.5 zone=a\n"),
        ("disco/bad", "what is this\n"),
    ];
    Server::new([("default", TABLE)], files)
}

fn source(server: &Server) -> Mesh {
    Mesh::new(There(server.mesh.clone()), path("/default"))
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn follow<T, F>(follow: F) -> Activity<T>
where
    T: Clone + Send + Sync + 'static,
    F: AsyncFnOnce(&Publisher<T>) + Send + 'static,
    for<'a> F::CallOnceFuture<'a>: Send,
{
    let (publisher, activity) = Activity::channel();
    tokio::spawn(async move { follow(&publisher).await });
    activity
}
