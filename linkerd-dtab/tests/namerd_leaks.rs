//! Whether what clients of a namerd took is given back when they have gone: alone in its process, whose memory is counted.

use std::{sync::Arc, time::Duration};

use allocation_counter::measure;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_dtab::{
    Dtab, Failure, Interpreter,
    interpreter::remote::{Mesh as Client, Remote},
    namerd::{Cache, History, Keep, Meter, Namerd, Peer, mesh},
    store::{Expect, Memory, Namespace},
    transport::{Body, Sending, Transport},
};
use tokio::{
    io::duplex,
    time::{sleep, timeout},
};
use tower::Service;

const CLIENTS: usize = 20;
const NAMES_EACH: usize = 10;
const ROUNDS: usize = 10;

/// Less than one byte for two of the watches that there were.
const MAX_LEFT: i64 = 1000;

struct Connection(SendRequest<Body>);

fn failure(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Arc::new(error)
}

impl Transport for Connection {
    fn send(&self, mut request: Request<Body>) -> Sending {
        let mut sender = self.0.clone();
        *request.uri_mut() = format!("http://namerd{}", request.uri()).parse().unwrap();
        Box::pin(async move {
            let answer: Response<Incoming> = sender.send_request(request).await.map_err(failure)?;
            Ok(answer.map(|body| body.map_err(failure).boxed_unsync()))
        })
    }
}

/// A client on a connection of its own.
async fn client(namerd: &Namerd, meter: &Meter) -> Remote {
    let (near, far) = duplex(4 << 10);
    let session = namerd.session(Peer::default()).metered(meter);
    let interface = mesh::Mesh::new(namerd.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(session.clone());
        interface.clone().call(request)
    });
    let server = server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(mesh::Io::new(far)), service));
    let (sender, conn) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
    tokio::spawn(conn);
    Remote::builder(Client::new(Connection(sender), "/default".parse().unwrap())).build()
}

/// Clients come, are told of a change and go.
async fn round(namerd: &Namerd, meter: &Meter) {
    let default: Namespace = "default".parse().unwrap();
    let mut clients = Vec::new();
    for i in 0..CLIENTS {
        let remote = client(namerd, meter).await;
        let name = |k: usize| format!("/svc/n{i}/{k}").parse().unwrap();
        let mut trees: Vec<_> = (0..NAMES_EACH).map(|k| remote.bind(&Dtab::empty(), &name(k))).collect();
        for tree in &mut trees {
            assert!(tree.ready().await.unwrap().to_string().starts_with("/$/inet/1"));
        }
        clients.push((remote, trees));
    }
    // And of the addresses.
    assert!(meter.read().open_streams as usize > CLIENTS * NAMES_EACH);
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

#[test]
fn clients_that_go_leave_nothing_behind() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let tables = Memory::new([("default".parse().unwrap(), "/svc => /$/inet/1".parse().unwrap())]);
    let (cache, keep) = (Cache { inactive: 0, ..Cache::default() }, Keep { records: 2, ..Keep::default() });
    let builder = Namerd::builder(tables).bindings(cache).addrs(cache).history(History::in_memory(keep));
    let (namerd, meter) = (builder.build(), Meter::default());
    let rounds = |count: usize| {
        for _ in 0..count {
            runtime.block_on(async { timeout(Duration::from_mins(10), round(&namerd, &meter)).await.unwrap() });
        }
    };
    // What grows to the size of its contents once, does so here.
    rounds(3);
    let left = measure(|| rounds(ROUNDS));
    println!(
        "{} bytes are left of {} in {} watches",
        left.bytes_current,
        left.bytes_total,
        ROUNDS * CLIENTS * NAMES_EACH
    );
    assert!(left.bytes_current <= MAX_LEFT, "{left:?}");
}
