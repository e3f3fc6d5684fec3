//! Many clients of one namerd: `LOAD_CLIENTS` (10) watch `LOAD_NAMES` (10) names each, `LOAD_DISCONNECTS` (2) times each
//! loses its connections, and every write reaches all within `LOAD_MAX_SECONDS` by `LOAD_MAX_MIB` of memory, if given.
//! `just soak` has a thousand, `just fan-out` one to a thousand.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linkerd_dtab::{
    Activity, Bound, Dtab, Failure, Interpreter, NameTree, State,
    interpreter::remote::{Http, Mesh, Pauses, Remote, thrift::Thrift},
    transport::{Body, Dial, Dialling, Sending, Transport},
};
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    net::TcpSocket,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use crate::harness::{Folder, LONG, Namerd};

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The connections of one client, which are cut at will.
#[derive(Clone)]
struct Network {
    from: Ipv4Addr,
    to: SocketAddr,
    open: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Network {
    async fn connect(&self) -> io::Result<DuplexStream> {
        let socket = TcpSocket::new_v4()?;
        // Peers are told apart by their addresses.
        socket.bind((self.from, 0).into())?;
        let mut socket = socket.connect(self.to).await?;
        let (near, mut far) = duplex(4 << 10);
        let pump = tokio::spawn(async move { _ = copy_bidirectional(&mut far, &mut socket).await });
        let mut open = self.open.lock().unwrap();
        open.retain(|pump| !pump.is_finished());
        open.push(pump.abort_handle());
        Ok(near)
    }

    fn cut(&self) {
        for pump in self.open.lock().unwrap().drain(..) {
            pump.abort();
        }
    }
}

impl Dial for Network {
    fn dial(&self) -> Dialling {
        let network = self.clone();
        Box::pin(async move { Ok(Box::new(network.connect().await?) as Box<dyn linkerd_dtab::transport::Io>) })
    }
}

/// HTTP/1: each watch takes a connection.
struct ByH1(Network);

/// HTTP/2: all share one.
#[derive(Clone)]
struct ByH2(Network, Arc<tokio::sync::Mutex<Option<http2::SendRequest<Body>>>>);

fn failure(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Arc::new(error)
}

fn answered(response: Response<hyper::body::Incoming>) -> Response<Body> {
    response.map(|body| body.map_err(failure).boxed_unsync())
}

impl Transport for ByH1 {
    fn send(&self, mut request: Request<Body>) -> Sending {
        let network = self.0.clone();
        request.headers_mut().insert("host", HeaderValue::from_static("namerd"));
        Box::pin(async move {
            let io = TokioIo::new(network.connect().await.map_err(failure)?);
            let (mut sender, conn) = http1::handshake(io).await.map_err(failure)?;
            tokio::spawn(conn);
            sender.send_request(request).await.map(answered).map_err(failure)
        })
    }
}

impl Transport for ByH2 {
    fn send(&self, mut request: Request<Body>) -> Sending {
        let Self(network, shared) = self.clone();
        let target = format!("http://namerd{}", request.uri());
        *request.uri_mut() = target.parse().unwrap();
        Box::pin(async move {
            let mut shared = shared.lock().await;
            let open = shared.take().filter(|sender| !sender.is_closed());
            let mut sender = if let Some(sender) = open {
                sender
            } else {
                let io = TokioIo::new(network.connect().await.map_err(failure)?);
                let (sender, conn) = http2::handshake(TokioExecutor::new(), io).await.map_err(failure)?;
                tokio::spawn(conn);
                sender
            };
            *shared = Some(sender.clone());
            drop(shared);
            sender.send_request(request).await.map(answered).map_err(failure)
        })
    }
}

struct Client {
    network: Network,
    _remote: Remote,
    trees: Vec<Activity<NameTree<Bound>>>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Http,
    Mesh,
    Thrift,
}

impl Client {
    /// Its own names, so that none is shared: the most that there is to do.
    fn new(i: usize, names: usize, kind: Kind, to: SocketAddr) -> Self {
        let from = Ipv4Addr::from(0x7f01_0001 + u32::try_from(i % 250).unwrap());
        let network = Network { from, to, open: Arc::default() };
        let builder = match kind {
            Kind::Http => Remote::builder(Http::new(ByH1(network.clone()), "default")),
            Kind::Mesh => {
                Remote::builder(Mesh::new(ByH2(network.clone(), Arc::default()), "/default".parse().unwrap()))
            }
            Kind::Thrift => Remote::builder(Thrift::new(network.clone(), "default")),
        };
        let pauses = Pauses { base: Duration::from_millis(50), max: Duration::from_millis(500) };
        let remote = builder.pauses(pauses).build();
        let name = |k: usize| format!("/svc/n{}", i * names + k).parse().unwrap();
        let trees = (0..names).map(|k| remote.bind(&Dtab::empty(), &name(k))).collect();
        Self { network, _remote: remote, trees }
    }

    /// How many of its names are at this port.
    async fn wait_for(&mut self, port: u16) -> usize {
        let wanted = format!("/$/inet/127.0.0.1/{port}");
        let mut reached = 0;
        for tree in &mut self.trees {
            let is_there = timeout(LONG, async {
                loop {
                    let state = tree.sample_and_update();
                    if matches!(&state, State::Ok(tree) if tree.to_string().starts_with(&wanted)) {
                        return;
                    }
                    tree.changed().await;
                }
            });
            reached += usize::from(is_there.await.is_ok());
        }
        reached
    }
}

fn memory(namerd: &Namerd) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", namerd.pid())).unwrap();
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    };
    (mib("VmRSS:"), mib("VmHWM:"))
}

/// Seconds of processor time that it has taken.
fn processor(namerd: &Namerd) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", namerd.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // In hundredths, as everywhere: user and system.
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// What a namerd counts of those who are there.
async fn counted(namerd: &Namerd, interface: &str) -> [f64; 5] {
    let streams = format!("iface/{interface}/127.0.0.1/0/streams/open");
    let metrics = namerd.page("/admin/metrics.json").await.expect(200).json();
    ["namerd/peers", "namerd/clients", "namerd/watches/bindings", "namerd/cache/bindings/active", &streams]
        .map(|name| metrics[name].as_f64().unwrap_or_else(|| panic!("{name} in {metrics}")))
}

/// Waits until it counts no more than that.
async fn wait_until(namerd: &Namerd, interface: &str, before: [f64; 5]) {
    let begin = Instant::now();
    loop {
        let now = counted(namerd, interface).await;
        if now == before {
            return;
        }
        assert!(begin.elapsed() < LONG, "nobody is there, and {now:?} are left of {before:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn write(namerd: &Namerd, clients: &mut [Client], port: u16) -> Duration {
    let begin = Instant::now();
    let table = format!("/svc => /$/inet/127.0.0.1/{port}");
    namerd.ask("PUT /api/1/dtabs/default", &[], &table).await.expect(204);
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.wait_for(port).await, client.trees.len(), "client {i} is left behind at {port}");
    }
    begin.elapsed()
}

async fn load(kind: Kind) {
    let (count, names) = (setting("LOAD_CLIENTS", 10), setting("LOAD_NAMES", 10));
    let disconnects = setting("LOAD_DISCONNECTS", 2);
    let config = "\
admin: {port: 0}
workers: 2
storage: {kind: io.l5d.inMemory, namespaces: {default: '/svc => /$/inet/127.0.0.1/1'}}
cache: {bindingCacheActive: 20000, bindingCacheInactive: 20000}
limits: {clients: 50000, clientsPerPeer: 50000, newNamesPerSec: 100000, newNamesPerSecPerPeer: 100000}
interfaces:
- {kind: io.l5d.httpController, port: 0}
- {kind: io.l5d.httpController, port: 0}
- {kind: io.l5d.mesh, port: 0}
- {kind: io.l5d.thriftNameInterpreter, port: 0}
- {kind: io.l5d.httpController, port: 0}
";
    let folder = Folder::new();
    let namerd = Namerd::start(&folder, config).await;
    let (idle, _) = memory(&namerd);
    // The first is for writes: as many watches by HTTP/1 as there may be connections leave no room for them.
    // And an interface has 10,000 of them at most, so that there are two.
    let interface = match kind {
        Kind::Http => "io.l5d.httpController",
        Kind::Mesh => "io.l5d.mesh",
        Kind::Thrift => "io.l5d.thriftNameInterpreter",
    };
    let to = |i: usize| match kind {
        Kind::Http => namerd.interfaces[[1, 4][i % 2]],
        Kind::Mesh => namerd.interfaces[2],
        Kind::Thrift => namerd.interfaces[3],
    };
    let before = counted(&namerd, interface).await;
    let begin = Instant::now();
    let mut clients: Vec<_> = (0..count).map(|i| Client::new(i, names, kind, to(i))).collect();
    for client in &mut clients {
        assert_eq!(client.wait_for(1).await, names);
    }
    let connected = begin.elapsed();
    let (busy, _) = memory(&namerd);
    let mut writes = Vec::new();
    let mut port = 1;
    let idle_processor = processor(&namerd);
    for _ in 0..setting("LOAD_WRITES", 5) {
        port += 1;
        writes.push(write(&namerd, &mut clients, port).await);
    }
    let per_write = (processor(&namerd) - idle_processor) / setting("LOAD_WRITES", 5).max(1) as f64;
    let begin = Instant::now();
    for round in 0..disconnects {
        // Not all at once, and others each time.
        for (i, client) in clients.iter().enumerate() {
            client.network.cut();
            if i % 50 == round % 50 {
                tokio::task::yield_now().await;
            }
        }
        port += 1;
        write(&namerd, &mut clients, port).await;
        if round % 20 == 19 {
            println!("{kind:?}: {:.1} MiB after {} rounds in {:.1?}", memory(&namerd).0, round + 1, begin.elapsed());
        }
    }
    let cut = begin.elapsed();
    writes.push(write(&namerd, &mut clients, port + 1).await);
    let (after, most) = memory(&namerd);
    drop(clients);
    wait_until(&namerd, interface, before).await;
    let (left, _) = memory(&namerd);
    writes.sort_unstable();
    let (median, slowest) = (writes[writes.len() / 2], writes[writes.len() - 1]);
    println!(
        "{kind:?}: {count} clients bound {} names in {connected:.2?}; RSS {idle:.1} MiB idle, {busy:.1} then, {after:.1} after \
         {disconnects} disconnects of each ({cut:.1?}), {most:.1} at most, {left:.1} when all have gone; writes reach all in \
         {median:.2?}, {slowest:.2?} at most, and take {per_write:.2} s of a processor",
        count * names,
    );
    // Bounds of a release build on a machine that has nothing else to do.
    let bound = |name: &str| std::env::var(name).ok().map(|text| text.parse::<f64>().expect("a number"));
    if let Some(seconds) = bound("LOAD_MAX_SECONDS") {
        assert!(slowest.as_secs_f64() <= seconds, "a write reaches all within {seconds} s");
    }
    if let Some(mib) = bound("LOAD_MAX_MIB") {
        assert!(most <= mib, "{mib} MiB are enough");
    }
}

#[tokio::test]
async fn many_clients_by_http() {
    load(Kind::Http).await;
}

#[tokio::test]
async fn many_clients_by_mesh() {
    load(Kind::Mesh).await;
}

#[tokio::test]
async fn many_clients_by_thrift() {
    load(Kind::Thrift).await;
}
