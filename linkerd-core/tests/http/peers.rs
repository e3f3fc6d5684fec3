//! Both ends of a proxy: a client that speaks bytes, an endpoint that follows a script.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use linkerd_core::{
    Svc,
    access_log::{AccessLog, AccessLogSettings},
    dtab::Endpoint,
    http::{ClientConfig, Connect, Drained, HttpConnect, Server, ServerConfig},
    telemetry::{Registry, RouterStats},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// A connection on which messages are read one by one.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buf: Vec<u8>,
}

/// A message as it came: its head, its body without chunk framing, its trailers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) is_whole: bool,
}

impl Message {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buf: Vec::new() }
    }

    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect(addr).await.unwrap())
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.buf).await.unwrap_or(0) > 0
    }

    fn find(&self, what: &[u8]) -> Option<usize> {
        self.buf.windows(what.len()).position(|window| window == what)
    }

    /// The head of the next message; `None` if the connection ended.
    pub(crate) async fn head(&mut self) -> Option<Message> {
        let end = loop {
            if let Some(end) = self.find(b"\r\n\r\n") {
                break end;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buf[..end]).into_owned();
        self.buf.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap().to_owned();
        Some(Message { first, headers: lines.map(field).collect(), body: vec![], trailers: vec![], is_whole: true })
    }

    /// The next message; `None` if the connection ended before it. A response to `HEAD` has no body.
    pub(crate) async fn message(&mut self, is_head: bool) -> Option<Message> {
        let mut message = self.head().await?;
        let is_response = message.first.starts_with("HTTP/");
        let no_body = is_head || is_response && matches!(message.status(), 100..=199 | 204 | 304);
        if no_body {
            return Some(message);
        }
        if message.get("transfer-encoding").is_some() {
            self.chunks(&mut message).await;
        } else if let Some(len) = message.get("content-length") {
            let len = len.parse().unwrap();
            while self.buf.len() < len && self.more().await {}
            message.is_whole = self.buf.len() >= len;
            message.body = self.buf.drain(..len.min(self.buf.len())).collect();
        } else if is_response {
            while self.more().await {}
            message.body = std::mem::take(&mut self.buf);
        }
        Some(message)
    }

    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.find(b"\r\n") {
                let line = String::from_utf8_lossy(&self.buf[..end]).into_owned();
                self.buf.drain(..end + 2);
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next bytes, whatever they are.
    pub(crate) async fn rest(&mut self, len: usize) -> String {
        while self.buf.len() < len && self.more().await {}
        let len = len.min(self.buf.len());
        String::from_utf8(self.buf.drain(..len).collect()).unwrap()
    }

    async fn chunks(&mut self, message: &mut Message) {
        loop {
            let Some(size) = self.line().await else {
                message.is_whole = false;
                return;
            };
            let size = usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).unwrap();
            if size == 0 {
                break;
            }
            while self.buf.len() < size + 2 && self.more().await {}
            if self.buf.len() < size + 2 {
                message.is_whole = false;
                return;
            }
            message.body.extend(self.buf.drain(..size));
            self.buf.drain(..2);
        }
        while let Some(line) = self.line().await {
            if line.is_empty() {
                return;
            }
            message.trailers.push(field(&line));
        }
        message.is_whole = false;
    }

    /// Sends a request and reads its response.
    pub(crate) async fn ask(&mut self, req: impl AsRef<[u8]>) -> Message {
        let is_head = req.as_ref().starts_with(b"HEAD ");
        self.write(req).await;
        self.message(is_head).await.expect("a response")
    }

    /// Whether the peer closes without sending anything more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buf.is_empty() && !self.more().await
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').expect(line);
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

/// An endpoint: hands out the connections it accepts.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    conns: mpsc::Receiver<Wire>,
}

impl Backend {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tx, conns) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if tx.send(Wire::new(stream)).await.is_err() {
                    break;
                }
            }
        });
        Self { addr, conns }
    }

    pub(crate) async fn accept(&mut self) -> Wire {
        self.conns.recv().await.unwrap()
    }

    pub(crate) fn accepted(&mut self) -> Option<Wire> {
        self.conns.try_recv().ok()
    }

    /// One that answers with these in turn, over and over.
    pub(crate) async fn cycling<const N: usize>(answers: [&'static str; N]) -> (SocketAddr, Arc<Mutex<Vec<Message>>>) {
        Self::serving(answers, true).await
    }

    /// One that answers each request, on whatever connection, with the next of these; the last one is repeated.
    pub(crate) async fn answering<const N: usize>(
        answers: [&'static str; N],
    ) -> (SocketAddr, Arc<Mutex<Vec<Message>>>) {
        Self::serving(answers, false).await
    }

    async fn serving<const N: usize>(
        answers: [&'static str; N],
        over_and_over: bool,
    ) -> (SocketAddr, Arc<Mutex<Vec<Message>>>) {
        let mut backend = Self::new().await;
        let addr = backend.addr;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        tokio::spawn(async move {
            loop {
                let mut conn = backend.accept().await;
                let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
                tokio::spawn(async move {
                    while let Some(req) = conn.message(false).await {
                        log.lock().unwrap().push(req);
                        let answer = {
                            let mut answers = answers.lock().unwrap();
                            let answer = answers[0];
                            if over_and_over {
                                answers.rotate_left(1);
                            } else if answers.len() > 1 {
                                answers.pop_front();
                            }
                            answer
                        };
                        conn.write(answer).await;
                        let head = answer.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
                        if head.contains("connection: close") || head.starts_with("http/1.0") {
                            break;
                        }
                    }
                });
            }
        });
        (addr, seen)
    }
}

/// A server before an endpoint.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) ended: JoinHandle<Drained>,
}

pub(crate) fn endpoint(addr: SocketAddr, config: ClientConfig) -> Svc {
    HttpConnect::new(config).connect(&Endpoint::new(addr))
}

pub(crate) fn proxy(config: ServerConfig, svc: Svc) -> Proxy {
    let server = Server::bind(ServerConfig { addr: SocketAddr::from(([127, 0, 0, 1], 0)), ..config }).unwrap();
    let addr = server.local_addr();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(server.serve(svc, async {
        // A proxy that is merely dropped serves on until its test ends.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    }));
    Proxy { addr, stop, ended }
}

/// A proxy with all defaults before this endpoint, and a connection to it.
pub(crate) async fn through(addr: SocketAddr) -> (Wire, Proxy) {
    let proxy = proxy(ServerConfig::default(), endpoint(addr, ClientConfig::default()));
    (Wire::connect(proxy.addr).await, proxy)
}

/// A log of requests with lines of this form.
pub(crate) fn log(file: &Path, form: &str) -> AccessLog {
    let settings =
        AccessLogSettings { file: file.into(), format: form.parse().unwrap(), ..AccessLogSettings::default() };
    AccessLog::open(settings, &RouterStats::new(&Registry::new(), "log")).unwrap()
}

/// The lines of a log, once there are so many.
pub(crate) async fn logged(file: &Path, count: usize) -> Vec<String> {
    for _ in 0..6000 {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(str::to_owned).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no {count} lines in {}", file.display());
}
