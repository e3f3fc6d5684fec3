//! A namerd and its clients in one thread, over pipes in memory: what a bind costs them, and how soon a change of a table
//! has reached everybody, by each interface.

use std::{cell::Cell, env, io, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_dtab::{
    Activity, Bound, Dtab, Failure, Interpreter, NameTree, State,
    interpreter::remote::{Http, Mesh, Remote, thrift::Thrift},
    namerd::{Cache, Limits, Namerd, Peer, http::Controller, mesh, thrift},
    store::{Expect, Memory, Namespace},
    transport::{Body, Dial, Dialling, Io, Sending, Transport},
};
use tokio::io::{DuplexStream, duplex};
use tower::Service as _;

fn main() {
    benches::run(&[binds, fan_out]);
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Http,
    Mesh,
    Thrift,
}

const KINDS: [Kind; 3] = [Kind::Http, Kind::Mesh, Kind::Thrift];

/// What a connection holds that is on its way.
const PIPE: usize = 16 << 10;

/// A namerd that serves whoever connects.
#[derive(Clone)]
struct Server(Namerd);

impl Server {
    fn new() -> Self {
        let table = "/svc => /$/inet/127.0.0.1/1".parse().expect("a table");
        let limits = Limits { new_names_per_sec: u32::MAX, new_names_per_sec_per_peer: u32::MAX, ..Limits::default() };
        let cache = Cache { active: 20_000, ..Cache::default() };
        let store = Memory::new([(namespace(), table)]);
        Self(Namerd::builder(store).limits(limits).bindings(cache).addrs(cache).build())
    }

    fn connect(&self, kind: Kind) -> DuplexStream {
        let (near, far) = duplex(PIPE);
        let namerd = self.0.clone();
        let session = namerd.session(Peer::default());
        match kind {
            Kind::Http => {
                let controller = Controller::new(namerd);
                let service = service_fn(move |req: Request<Incoming>| controller.clone().call(req));
                tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
            }
            Kind::Mesh => {
                let interface = mesh::Mesh::new(namerd);
                let service = service_fn(move |mut req: Request<Incoming>| {
                    req.extensions_mut().insert(session.clone());
                    interface.clone().call(req)
                });
                let server = server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(mesh::Io::new(far)), service));
            }
            Kind::Thrift => {
                let settings = thrift::Settings::default();
                tokio::spawn(thrift::serve(far, session, settings, std::future::pending()));
            }
        }
        near
    }

    /// A client of its own. By HTTP/1 it has a connection for each of its watches.
    async fn client(&self, kind: Kind) -> Remote {
        match kind {
            Kind::Http => Remote::builder(Http::new(ByH1(self.clone()), "default")),
            Kind::Mesh => {
                let io = TokioIo::new(self.connect(kind));
                let (sender, conn) = http2::handshake(TokioExecutor::new(), io).await.expect("a connection");
                tokio::spawn(conn);
                Remote::builder(Mesh::new(ByH2(sender), "/default".parse().expect("a path")))
            }
            Kind::Thrift => Remote::builder(Thrift::new(self.clone(), "default")),
        }
        .build()
    }

    async fn put(&self, port: u16) {
        let table = format!("/svc => /$/inet/127.0.0.1/{port}").parse().expect("a table");
        self.0.session(Peer::default()).put(&namespace(), &table, &Expect::Any).await.expect("written");
    }
}

fn namespace() -> Namespace {
    "default".parse().expect("a namespace")
}

impl Dial for Server {
    fn dial(&self) -> Dialling {
        let io = self.connect(Kind::Thrift);
        Box::pin(async move { io::Result::Ok(Box::new(io) as Box<dyn Io>) })
    }
}

struct ByH1(Server);

struct ByH2(http2::SendRequest<Body>);

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
        let target = format!("http://namerd{}", request.uri());
        *request.uri_mut() = target.parse().expect("a target");
        Box::pin(async move { sender.send_request(request).await.map(answered).map_err(failure) })
    }
}

fn failure(error: hyper::Error) -> Failure {
    Arc::new(error)
}

fn answered(response: Response<Incoming>) -> Response<Body> {
    response.map(|body| body.map_err(failure).boxed_unsync())
}

async fn wait_for(tree: &mut Activity<NameTree<Bound>>, port: u16) {
    let wanted = format!("/$/inet/127.0.0.1/{port}");
    loop {
        if matches!(tree.sample_and_update(), State::Ok(tree) if tree.to_string().starts_with(&wanted)) {
            return;
        }
        tree.changed().await;
    }
}

/// A name that nobody has asked for is bound, and let go.
fn binds(c: &mut Criterion) {
    let runtime = benches::runtime();
    let mut group = c.benchmark_group("namerd/binds");
    group.throughput(Throughput::Elements(1));
    for kind in KINDS {
        let server = Server::new();
        let client = runtime.block_on(server.client(kind));
        let count = Cell::new(0_u64);
        group.bench_function(BenchmarkId::from_parameter(format!("{kind:?}")), |b| {
            b.iter(|| {
                count.set(count.get() + 1);
                let name = format!("/svc/n{}", count.get()).parse().expect("a path");
                runtime.block_on(async {
                    let mut tree = client.bind(&Dtab::empty(), &name);
                    tree.ready().await.expect("bound");
                });
            });
        });
    }
    group.finish();
}

/// A table changes, and all who watch a name under it know.
fn fan_out(c: &mut Criterion) {
    // `cargo test` only sees that it works.
    let watchers: &[usize] = if env::args().any(|arg| arg == "--bench") { &[1, 100, 1000] } else { &[1, 10] };
    let runtime = benches::runtime();
    let mut group = c.benchmark_group("namerd/fan-out");
    for kind in KINDS {
        for &count in watchers {
            let server = Server::new();
            let mut trees = Vec::new();
            let clients: Vec<_> = (0..count).map(|_| runtime.block_on(server.client(kind))).collect();
            let name = "/svc/web".parse().expect("a path");
            runtime.block_on(async {
                trees.extend(clients.iter().map(|client| client.bind(&Dtab::empty(), &name)));
                for tree in &mut trees {
                    wait_for(tree, 1).await;
                }
            });
            let mut port = 1;
            group.bench_function(BenchmarkId::new(format!("{kind:?}"), count), |b| {
                b.iter(|| {
                    port = port % 60_000 + 1;
                    runtime.block_on(async {
                        server.put(port).await;
                        for tree in &mut trees {
                            wait_for(tree, port).await;
                        }
                    });
                });
            });
        }
    }
    group.finish();
}
