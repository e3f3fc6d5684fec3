//! Endpoints that do as they are told, and proxies that balance over them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::harness::{Answer, Conn, Folder, LONG, Linkerd, SIMPLE, eventually, replace};

/// What is asked for by probes, and by nobody else.
pub(crate) const HEALTH: &str = "/health";

/// An endpoint that answers as it is told. Its port is its own from its beginning to its end, whether it listens or not.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    told: Arc<Told>,
    running: Option<JoinHandle<()>>,
    // A socket that is bound and does not listen: connections are refused.
    _port: TcpSocket,
}

struct Told {
    name: String,
    reply: Mutex<Reply>,
    requests: AtomicUsize,
    probes: AtomicUsize,
    // Those that are open.
    conns: AtomicUsize,
}

/// How an endpoint answers.
#[derive(Clone)]
pub(crate) struct Reply {
    status: StatusCode,
    wait: Duration,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status: StatusCode::from_u16(status).unwrap(), wait: Duration::ZERO, header: None }
    }

    pub(crate) fn after(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    pub(crate) fn header(self, name: &'static str, value: &'static str) -> Self {
        Self { header: Some((HeaderName::from_static(name), HeaderValue::from_static(value))), ..self }
    }
}

impl Backend {
    /// An endpoint that does not listen yet.
    pub(crate) fn down(name: &str) -> Self {
        let port = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let told = Told {
            name: name.to_owned(),
            reply: Mutex::new(Reply::status(200)),
            requests: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            conns: AtomicUsize::new(0),
        };
        Self { addr: port.local_addr().unwrap(), told: Arc::new(told), running: None, _port: port }
    }

    /// An endpoint that answers with its name.
    pub(crate) fn up(name: &str) -> Self {
        let mut backend = Self::down(name);
        backend.start();
        backend
    }

    /// So many of them, called `b0`, `b1` and so on.
    pub(crate) fn several<const N: usize>() -> [Self; N] {
        std::array::from_fn(|i| Self::up(&format!("b{i}")))
    }

    pub(crate) fn start(&mut self) {
        let listener = bind(self.addr).listen(1024).unwrap();
        self.running = Some(tokio::spawn(run(listener, Arc::clone(&self.told))));
    }

    /// It and all of its connections are gone.
    pub(crate) async fn stop(&mut self) {
        let running = self.running.take().expect("it runs");
        running.abort();
        let _ = running.await;
        self.told.conns.store(0, Ordering::SeqCst);
    }

    pub(crate) fn reply(&self, reply: Reply) {
        *self.told.reply.lock().unwrap() = reply;
    }

    /// Requests so far, without probes.
    pub(crate) fn requests(&self) -> usize {
        self.told.requests.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub(crate) fn conns(&self) -> usize {
        self.told.conns.load(Ordering::SeqCst)
    }

    /// Requests for its health so far.
    pub(crate) fn probes(&self) -> usize {
        self.told.probes.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

fn bind(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // Several may be bound as long as only one listens.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

async fn run(listener: TcpListener, told: Arc<Told>) {
    let mut conns = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let told = Arc::clone(&told);
        told.conns.fetch_add(1, Ordering::SeqCst);
        conns.spawn(async move {
            let service = service_fn(|req| answer(req, &told));
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            told.conns.fetch_sub(1, Ordering::SeqCst);
        });
        while conns.try_join_next().is_some() {}
    }
}

async fn answer(req: Request<Incoming>, told: &Told) -> Result<Response<Full<Bytes>>, Infallible> {
    let count = if req.uri().path() == HEALTH { &told.probes } else { &told.requests };
    count.fetch_add(1, Ordering::SeqCst);
    let reply = told.reply.lock().unwrap().clone();
    sleep(reply.wait).await;
    let mut rsp = Response::new(Full::from(told.name.clone()));
    *rsp.status_mut() = reply.status;
    rsp.headers_mut().extend(reply.header);
    Ok(rsp)
}

/// A proxy for the service `web`, and how its client balances.
pub(crate) struct Proxy {
    pub(crate) linkerd: Linkerd,
    pub(crate) folder: Arc<Folder>,
}

impl Proxy {
    /// With these keys of the client, in YAML's flow style.
    pub(crate) async fn start(client: &str, backends: &[&Backend]) -> Self {
        let folder = Folder::new();
        list(&folder, "web", backends);
        let linkerd = Linkerd::start(&folder, &format!("{SIMPLE}  client: {{{client}}}\n")).await;
        Self { linkerd, folder }
    }

    pub(crate) async fn conn(&self) -> Conn {
        Conn::open(self.linkerd.servers[0]).await
    }

    /// So many requests, one after the other, each of which has to be answered with 200.
    pub(crate) async fn serves(&self, requests: usize) {
        let mut conn = self.conn().await;
        for _ in 0..requests {
            let answer = conn.get("/", "web", &[]).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }

    /// So many requests, so many at a time. Tells how many there were of each status.
    pub(crate) async fn send(&self, requests: usize, clients: usize) -> Vec<u16> {
        let mut sending = JoinSet::new();
        for i in 0..clients {
            let mut conn = self.conn().await;
            let requests = requests / clients + usize::from(i < requests % clients);
            sending.spawn(async move {
                let mut statuses = Vec::new();
                for _ in 0..requests {
                    statuses.push(conn.get("/", "web", &[]).await.status.as_u16());
                }
                statuses
            });
        }
        sending.join_all().await.concat()
    }

    /// The balancer of `web`, as its page has it.
    pub(crate) async fn balancer(&self) -> Value {
        self.balancer_of("/#/io.l5d.fs/web").await
    }

    pub(crate) async fn balancer_of(&self, id: &str) -> Value {
        let mut page = self.linkerd.json("/admin/balancers.json").await;
        page["http"][id].take()
    }

    /// One endpoint of it.
    pub(crate) async fn endpoint(&self, backend: &Backend) -> Value {
        endpoint(&self.balancer().await, backend).expect("the endpoint is listed")
    }

    /// Waits until the page says this of an endpoint.
    pub(crate) async fn until(&self, backend: &Backend, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || endpoint(&self.balancer().await, backend).filter(&is_so)).await
    }

    pub(crate) async fn until_status(&self, backend: &Backend, status: &str) -> Value {
        self.until(backend, status, |endpoint| endpoint["status"] == status).await
    }

    /// A metric of the client of `web`; 0 if there is none yet.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = self.linkerd.json("/admin/metrics.json").await;
        metrics[format!("rt/http/client/#/io.l5d.fs/web/{name}")].as_f64().unwrap_or_default() as u64
    }

    /// Replaces the list of the endpoints of `web`, and waits until the balancer has as many.
    pub(crate) async fn relist(&self, lines: &str, is_so: impl Fn(&Value) -> bool) {
        replace(&self.folder.path("disco/web"), lines);
        eventually("the new list", async || is_so(&self.balancer().await).then_some(())).await;
    }
}

/// What the page has on an endpoint.
pub(crate) fn endpoint(balancer: &Value, backend: &Backend) -> Option<Value> {
    let addr = backend.addr.to_string();
    balancer["endpoints"].as_array()?.iter().find(|endpoint| endpoint["addr"] == addr.as_str()).cloned()
}

/// The line of an endpoint file for each, with this behind it.
pub(crate) fn line(backend: &Backend, more: &str) -> String {
    format!("{} {} {more}\n", backend.addr.ip(), backend.addr.port())
}

pub(crate) fn lines(backends: &[&Backend]) -> String {
    backends.iter().map(|backend| line(backend, "")).collect()
}

pub(crate) fn list(folder: &Folder, service: &str, backends: &[&Backend]) {
    folder.write(&format!("disco/{service}"), &lines(backends));
}

/// How many requests each got since the last time.
pub(crate) struct Counts<'a, const N: usize> {
    backends: [&'a Backend; N],
    before: [usize; N],
}

impl<'a, const N: usize> Counts<'a, N> {
    pub(crate) fn of(backends: [&'a Backend; N]) -> Self {
        Self { backends, before: backends.map(Backend::requests) }
    }

    pub(crate) fn take(&mut self) -> [usize; N] {
        let now = self.backends.map(Backend::requests);
        let before = std::mem::replace(&mut self.before, now);
        std::array::from_fn(|i| now[i] - before[i])
    }
}

/// Requests until one is answered by this endpoint with success.
pub(crate) async fn until_served_by(proxy: &Proxy, backend: &Backend) -> Answer {
    let mut conn = proxy.conn().await;
    let name = &backend.told.name;
    let begun = tokio::time::Instant::now();
    loop {
        let answer = conn.get("/", "web", &[]).await;
        if answer.status == 200 && answer.body == *name {
            return answer;
        }
        assert!(begun.elapsed() < LONG, "{name} did not serve: {answer:?}");
        sleep(Duration::from_millis(1)).await;
    }
}
