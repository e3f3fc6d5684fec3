//! An etcd that can be killed, started with an older disk, and told to say nonsense.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use linkerd_dtab::{
    Failure,
    transport::{Body, Transport, full},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::fake;

/// What it answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    What,
    Garbage,
    Nothing,
    HalfAPage,
    Unavailable,
}

/// A server on a port of its own each time it is started.
pub(crate) struct Store {
    disk: fake::etcd::Etcd,
    says: watch::Sender<Says>,
    running: Option<JoinHandle<()>>,
}

/// What was on its disk at some time.
pub(crate) struct Copy(u64, BTreeMap<String, (Vec<u8>, u64)>);

impl Store {
    pub(crate) fn new() -> Self {
        Self { disk: fake::etcd::Etcd::new(), says: watch::Sender::new(Says::What), running: None }
    }

    pub(crate) async fn start(&mut self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (disk, says) = (self.disk.clone(), self.says.subscribe());
        self.running = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                let (disk, says) = (disk.clone(), says.clone());
                let service = service_fn(move |request| answer(disk.clone(), says.clone(), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(io), service));
            }
        }));
        addr
    }

    /// Nothing is left of it but its disk.
    pub(crate) async fn kill(&mut self) {
        let running = self.running.take().expect("it runs");
        running.abort();
        let _ = running.await;
    }

    /// What is asked from now on is answered with this; what is under way ends.
    pub(crate) fn say(&self, says: Says) {
        self.says.send_replace(says);
    }

    pub(crate) fn copy(&self) -> Copy {
        let state = self.disk.v3.state();
        let entries = state.entries.iter().map(|(key, entry)| (key.clone(), (entry.value.clone(), entry.revision)));
        Copy(state.revision, entries.collect())
    }

    /// Starts with that disk next time.
    pub(crate) fn restore(&mut self, Copy(revision, entries): &Copy) {
        self.disk = fake::etcd::Etcd::new();
        let mut state = self.disk.v3.state();
        for (key, (value, at)) in entries {
            state.put(key, value);
            state.entries.get_mut(key).expect("just put").revision = *at;
        }
        state.revision = *revision;
        state.forgotten = *revision;
    }
}

async fn answer(
    disk: fake::etcd::Etcd,
    mut says: watch::Receiver<Says>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let now = *says.borrow_and_update();
    let request = request.map(|body| body.map_err(|error| std::sync::Arc::new(error) as Failure).boxed_unsync());
    Ok(match now {
        Says::What => tokio::select! {
            answer = disk.send(request) => until_changed(answer.unwrap(), says),
            _ = says.changed() => unavailable(),
        },
        Says::Garbage => Response::new(full("]{ \u{1f9}\0 no")),
        Says::Nothing => Response::new(full("{}")),
        Says::HalfAPage => {
            let is_watch = request.uri().path().ends_with("/watch");
            let answer = disk.send(request).await.unwrap();
            if is_watch {
                return Ok(unavailable());
            }
            let whole = answer.into_body().collect().await.unwrap().to_bytes();
            Response::new(full(whole.slice(..whole.len() / 2)))
        }
        Says::Unavailable => unavailable(),
    })
}

fn unavailable() -> Response<Body> {
    Response::builder().status(503).body(full("etcdserver: no leader")).unwrap()
}

/// A watch that ends when something else is said.
fn until_changed(answer: Response<Body>, says: watch::Receiver<Says>) -> Response<Body> {
    answer.map(|body| {
        let frames = futures::stream::unfold((body, says), |(mut body, mut says)| async move {
            let frame = tokio::select! {
                frame = body.frame() => frame?,
                _ = says.changed() => return None,
            };
            Some((frame, (body, says)))
        });
        http_body_util::StreamBody::new(frames).boxed_unsync()
    })
}
