//! Both ends of a proxy, and the proxy between them.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use linkerd_core::{
    ClientPolicy, Mesh, ServicePolicy, Svc, Uniform,
    dtab::Dtab,
    http::{ClientConfig, H2Config, HttpConnect, Server, ServerConfig, Wire},
    identify::{H2Token, Identifier},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// No test waits longer for anything.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A stream as an endpoint accepts it.
pub(crate) struct Accepted {
    pub(crate) head: Request<()>,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
    /// On which of its connections, counted from 0.
    pub(crate) connection: usize,
}

/// An endpoint that hands out its streams.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    streams: mpsc::Receiver<Accepted>,
    goodbye: Arc<tokio::sync::Notify>,
    serving: JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn new() -> Self {
        Self::with(&Builder::new()).await
    }

    pub(crate) async fn with(builder: &Builder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let (give, streams) = mpsc::channel(1000);
        let goodbye = Arc::<tokio::sync::Notify>::default();
        let bye = Arc::clone(&goodbye);
        let (count, builder) = (Arc::clone(&connections), builder.clone());
        let serving = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = count.fetch_add(1, Ordering::SeqCst);
                let (give, handshake) = (give.clone(), builder.handshake::<_, Bytes>(stream));
                let bye = Arc::clone(&bye);
                open.spawn(async move {
                    let Ok(mut conn) = handshake.await else { return };
                    let mut bye = std::pin::pin!(bye.notified());
                    let mut has_left = false;
                    loop {
                        let accepted = tokio::select! {
                            accepted = conn.accept() => accepted,
                            () = &mut bye, if !has_left => {
                                has_left = true;
                                conn.graceful_shutdown();
                                continue;
                            }
                        };
                        let Some(Ok((req, respond))) = accepted else { break };
                        let (parts, body) = req.into_parts();
                        let head = Request::from_parts(parts, ());
                        if give.send(Accepted { head, body, respond, connection }).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { addr, connections, streams, goodbye, serving }
    }

    pub(crate) async fn accept(&mut self) -> Accepted {
        within(self.streams.recv()).await.expect("it is served")
    }

    /// The connections that are open take no further streams.
    pub(crate) fn say_goodbye(&self) {
        self.goodbye.notify_waiters();
    }

    /// Whether another stream has come.
    pub(crate) fn accepted(&mut self) -> Option<Accepted> {
        self.streams.try_recv().ok()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Accepted {
    /// Answers with a status and a body.
    pub(crate) fn answer(mut self, status: u16, body: &'static str) {
        let rsp = Response::builder().status(status).body(()).unwrap();
        let mut stream = self.respond.send_response(rsp, body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(body.into(), true).unwrap();
        }
    }

    /// Answers with a head alone.
    pub(crate) fn head(&mut self) -> SendStream<Bytes> {
        self.respond.send_response(Response::new(()), false).unwrap()
    }
}

/// A connection to a proxy.
#[derive(Clone)]
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        // A stream that is not read must not hold up others on this side.
        let mut builder = h2::client::Builder::new();
        let handshake = builder.initial_connection_window_size(1 << 20).handshake(stream);
        let (sender, conn) = handshake.await.unwrap();
        tokio::spawn(conn);
        Self { sender }
    }

    /// Sends a head; `is_end` if there is no body.
    pub(crate) async fn open(&self, req: Request<()>, is_end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = self.sender.clone();
        within(poll_fn(|cx| sender.poll_ready(cx))).await.unwrap();
        sender.send_request(req, is_end).unwrap()
    }

    /// Waits until the peer takes no further streams.
    pub(crate) async fn is_told_to_leave(&self) {
        let mut sender = self.sender.clone();
        while poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many streams the peer takes.
    pub(crate) fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Sends a request without a body, and reads all of the response.
    pub(crate) async fn ask(&self, req: Request<()>) -> Result<Answer, h2::Error> {
        let (response, _) = self.open(req, true).await;
        Answer::read(response).await
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) async fn read(response: ResponseFuture) -> Result<Self, h2::Error> {
        let (head, mut stream) = within(response).await?.into_parts();
        let body = read(&mut stream).await?;
        let trailers = within(stream.trailers()).await?;
        Ok(Self { head: Response::from_parts(head, ()), body, trailers })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

/// Reads data to its end.
pub(crate) async fn read(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = within(stream.data()).await {
        let data = data?;
        stream.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("in time")
}

/// Waits until something is so.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never was");
}

pub(crate) fn get(target: &str) -> Request<()> {
    Request::get(target).body(()).unwrap()
}

/// What goes to an endpoint by HTTP/2, whatever it is named.
pub(crate) fn routed(addr: SocketAddr, client: ClientConfig) -> Svc {
    routed_by(ServicePolicy::default(), addr, client)
}

/// The same by this policy.
pub(crate) fn routed_by(service: ServicePolicy, addr: SocketAddr, client: ClientConfig) -> Svc {
    let dtab: Dtab = format!("/svc => /$/inet/127.0.0.1/{}; /svc/none => !;", addr.port()).parse().unwrap();
    let policies = Uniform { service, client: ClientPolicy::default() };
    let builder = Mesh::builder().dtab(dtab).connect(HttpConnect::new(client)).policies(policies);
    let mesh = builder.proxy(true).build().unwrap();
    let identifier = H2Token::new("/svc".parse().unwrap(), ":authority").unwrap();
    Svc::new(mesh.router(Box::new(identifier) as Box<dyn Identifier>))
}

pub(crate) fn h2_client() -> ClientConfig {
    ClientConfig { wire: Wire::H2(H2Config::default()), ..ClientConfig::default() }
}

pub(crate) fn h2_server() -> ServerConfig {
    ServerConfig {
        addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        wire: Wire::H2(H2Config::default()),
        ..ServerConfig::default()
    }
}

/// A proxy in the background; it ends with the test.
pub(crate) fn serve(config: ServerConfig, svc: Svc) -> SocketAddr {
    let server = Server::bind(config).unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(svc, std::future::pending()));
    addr
}

/// An endpoint, and a client of a proxy in front of it.
pub(crate) async fn through() -> (Backend, Client) {
    let backend = Backend::new().await;
    let client = Client::connect(serve(h2_server(), routed(backend.addr, h2_client()))).await;
    (backend, client)
}

impl Client {
    /// Whether one request is answered.
    pub(crate) async fn ask_ok(&self, backend: &mut Backend) -> bool {
        let (response, _) = self.open(get("http://web/"), true).await;
        backend.accept().await.answer(200, "ok");
        Answer::read(response).await.is_ok_and(|rsp| rsp.body == b"ok")
    }
}

/// An endpoint that takes one connection, and one request on it, and is heard of no more; then it is as new.
pub(crate) struct Frozen {
    pub(crate) addr: SocketAddr,
    pub(crate) heard: Arc<tokio::sync::Notify>,
    serving: JoinHandle<()>,
}

impl Frozen {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let heard = Arc::<tokio::sync::Notify>::default();
        let freezes = Arc::clone(&heard);
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut conn = h2::server::handshake(stream).await.unwrap();
            let _request = conn.accept().await.unwrap().unwrap();
            freezes.notify_one();
            // From here on `conn` reads nothing, and stays open.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut conn = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = conn.accept().await {
                        respond.send_response(Response::new(()), true).unwrap();
                    }
                });
            }
            drop(conn);
        });
        Self { addr, heard, serving }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Serves the first router of a file, whose server has port 0.
#[cfg(feature = "config")]
pub(crate) fn serve_file(text: &str, registry: &linkerd_core::telemetry::Registry) -> SocketAddr {
    let config = linkerd_core::config::Config::parse("f", text).unwrap_or_else(|errors| panic!("{errors}"));
    let plan = config.build(registry).unwrap_or_else(|errors| panic!("{errors}"));
    let server = Server::bind(plan.routers[0].servers[0].clone()).unwrap();
    let addr = server.local_addr();
    let svc = plan.routers[0].service();
    tokio::spawn(async move {
        server.serve(svc, std::future::pending()).await;
        drop(plan);
    });
    addr
}
