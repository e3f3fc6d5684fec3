//! Whether what clients of a namerd took is given back when they have gone: alone in its process, whose memory is counted.

use std::{future::pending, sync::Arc, time::Duration};

use allocation_counter::measure;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{
        http1,
        http2::{self, SendRequest},
    },
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_dtab::{
    Dtab, Failure, Interpreter,
    interpreter::remote::{Http, Mesh, Remote, thrift::Thrift},
    namerd::{Cache, History, Keep, Meter, Namerd, Peer, http::Controller, mesh, thrift},
    store::{Expect, Memory, Namespace},
    transport::{Body, Dial, Dialling, Io, Sending, Transport},
};
use tokio::{
    io::{DuplexStream, duplex},
    time::{sleep, timeout},
};
use tower::Service;

const CLIENTS: usize = 20;
const NAMES_EACH: usize = 10;
const ROUNDS: usize = 5;

/// A byte for each of the watches that there were.
const MAX_LEFT: i64 = 1000;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Http,
    Mesh,
    Thrift,
}

#[derive(Clone)]
struct Server(Namerd, Meter);

/// A connection for each watch.
struct ByH1(Server);

struct ByH2(SendRequest<Body>);

fn failure(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Arc::new(error)
}

fn answered(answer: Response<Incoming>) -> Response<Body> {
    answer.map(|body| body.map_err(failure).boxed_unsync())
}

impl Transport for ByH1 {
    fn send(&self, mut request: Request<Body>) -> Sending {
        let io = TokioIo::new(self.0.connect(Kind::Http));
        request.headers_mut().insert("host", HeaderValue::from_static("namerd"));
        Box::pin(async move {
            let (mut sender, conn) = http1::handshake(io).await.map_err(failure)?;
            tokio::spawn(conn);
            sender.send_request(request).await.map(answered).map_err(failure)
        })
    }
}

impl Transport for ByH2 {
    fn send(&self, mut request: Request<Body>) -> Sending {
        let mut sender = self.0.clone();
        *request.uri_mut() = format!("http://namerd{}", request.uri()).parse().unwrap();
        Box::pin(async move { sender.send_request(request).await.map(answered).map_err(failure) })
    }
}

impl Dial for Server {
    fn dial(&self) -> Dialling {
        let io = self.connect(Kind::Thrift);
        Box::pin(async move { Ok(Box::new(io) as Box<dyn Io>) })
    }
}

impl Server {
    fn connect(&self, kind: Kind) -> DuplexStream {
        let (near, far) = duplex(4 << 10);
        let Self(namerd, meter) = self.clone();
        let session = || namerd.session(Peer::default()).metered(&meter);
        match kind {
            Kind::Http => {
                let controller = Controller::new(namerd.clone()).metered(meter);
                let service = service_fn(move |request: Request<Incoming>| controller.clone().call(request));
                tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
            }
            Kind::Mesh => {
                let (session, interface) = (session(), mesh::Mesh::new(namerd.clone()));
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(session.clone());
                    interface.clone().call(request)
                });
                let server = server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(mesh::Io::new(far)), service));
            }
            Kind::Thrift => {
                tokio::spawn(thrift::serve(far, session(), thrift::Settings::default(), pending()));
            }
        }
        near
    }

    async fn client(&self, kind: Kind) -> Remote {
        match kind {
            Kind::Http => Remote::builder(Http::new(ByH1(self.clone()), "default")),
            Kind::Mesh => {
                let io = TokioIo::new(self.connect(kind));
                let (sender, conn) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(conn);
                Remote::builder(Mesh::new(ByH2(sender), "/default".parse().unwrap()))
            }
            Kind::Thrift => Remote::builder(Thrift::new(self.clone(), "default")),
        }
        .build()
    }
}

/// Clients come, are told of a change and go.
async fn round(server: &Server, kind: Kind) {
    let Server(namerd, meter) = server;
    let default: Namespace = "default".parse().unwrap();
    let mut clients = Vec::new();
    for i in 0..CLIENTS {
        let remote = server.client(kind).await;
        let name = |k: usize| format!("/svc/n{i}/{k}").parse().unwrap();
        let mut trees: Vec<_> = (0..NAMES_EACH).map(|k| remote.bind(&Dtab::empty(), &name(k))).collect();
        for tree in &mut trees {
            assert!(tree.ready().await.unwrap().to_string().starts_with("/$/inet/1"));
        }
        clients.push((remote, trees));
    }
    // And of the addresses.
    let streams = meter.read().open_streams;
    assert!(streams as usize >= CLIENTS * NAMES_EACH, "{kind:?}: {streams}");
    for port in [2, 1] {
        let table = format!("/svc => /$/inet/{port}").parse().unwrap();
        namerd.session(Peer::default()).put(&default, &table, &Expect::Any).await.unwrap();
        for tree in clients.iter_mut().flat_map(|(_, trees)| trees) {
            while !tree.sample_and_update().ok().unwrap().to_string().starts_with(&format!("/$/inet/{port}")) {
                tree.changed().await;
            }
        }
    }
    drop(clients);
    // Of tables and of what is remembered of peers, too.
    sleep(Duration::from_mins(1)).await;
    let (stats, streams) = (namerd.stats(), meter.read().open_streams);
    let used = stats.used;
    assert_eq!((used.peers, used.clients, used.watches.values().sum(), streams), (0, 0, 0_usize, 0), "{used:?}");
    assert_eq!((stats.bindings.active, stats.addrs.active), (0, 0));
}

/// How many bytes are left of so many rounds.
fn left(kind: Kind) -> i64 {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let tables = Memory::new([("default".parse().unwrap(), "/svc => /$/inet/1".parse().unwrap())]);
    let (cache, keep) = (Cache { inactive: 0, ..Cache::default() }, Keep { records: 2, ..Keep::default() });
    let builder = Namerd::builder(tables).bindings(cache).addrs(cache).history(History::in_memory(keep));
    let server = Server(builder.build(), Meter::default());
    let rounds = |count: usize| {
        for _ in 0..count {
            runtime.block_on(async { timeout(Duration::from_mins(10), round(&server, kind)).await.unwrap() });
        }
    };
    // What grows to the size of its contents once, does so here.
    rounds(3);
    let left = measure(|| rounds(ROUNDS));
    let watches = ROUNDS * CLIENTS * NAMES_EACH;
    println!("{kind:?}: {} bytes are left of {} in {watches} watches", left.bytes_current, left.bytes_total);
    left.bytes_current
}

#[test]
fn clients_that_go_leave_nothing_behind() {
    // One after the other: what another thread frees is not counted.
    for kind in [Kind::Mesh, Kind::Thrift, Kind::Http] {
        let left = left(kind);
        assert!(left <= MAX_LEFT, "{kind:?}: {left} bytes");
    }
}
