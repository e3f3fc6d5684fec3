//! Runs the program, and talks to it with a client that is not its own.

use std::{
    fs,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
    time::Duration,
};

use helloworld::{Options, Running, serve};
use http::{Request, Response};
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use crate::program::Program;
pub(crate) use crate::{
    client::{Answer, Conn},
    folder::Folder,
    program::LONG,
};

/// What is tried.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_linkerd");

/// The program, initialized.
pub(crate) struct Linkerd {
    program: Program,
    // It is read while the program runs.
    pub(crate) folder: Arc<Folder>,
}

impl Folder {
    /// With an empty folder `disco` in it.
    pub(crate) fn new() -> Arc<Self> {
        let folder = Self::empty();
        fs::create_dir(folder.path("disco")).unwrap();
        Arc::new(folder)
    }

    /// Lists these as the replicas of a service.
    pub(crate) fn list(&self, service: &str, replicas: &[SocketAddr]) {
        self.write(&format!("disco/{service}"), &lines(replicas));
    }
}

/// The lines of an endpoint file.
pub(crate) fn lines(replicas: &[SocketAddr]) -> String {
    let line = |addr: &SocketAddr| [addr.ip().to_string(), " ".to_owned(), addr.port().to_string(), "\n".to_owned()];
    replicas.iter().flat_map(line).collect()
}

impl Linkerd {
    /// Starts the program with this file, and waits until it is initialized.
    pub(crate) async fn start(folder: &Arc<Folder>, config: &str) -> Self {
        folder.write("linkerd.yaml", config);
        Self::start_with(folder, &["linkerd.yaml"], b"").await
    }

    /// Starts the program with these arguments and this standard input.
    pub(crate) async fn start_with(folder: &Arc<Folder>, args: &[&str], input: &[u8]) -> Self {
        Self::start_by(folder, folder.command(args), input).await
    }

    /// Starts the program with this file, and lets it have so many files open.
    pub(crate) async fn start_with_files(folder: &Arc<Folder>, config: &str, files: u32) -> Self {
        folder.write("linkerd.yaml", config);
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files} && exec \"$0\" linkerd.yaml");
        command.args(["-c", &script, PROGRAM]);
        command.current_dir(folder.root());
        Self::start_by(folder, command, b"").await
    }

    async fn start_by(folder: &Arc<Folder>, command: Command, input: &[u8]) -> Self {
        Self { program: Program::start(command, input).await, folder: Arc::clone(folder) }
    }

    /// A GET to the first server.
    pub(crate) async fn get(&self, host: &str) -> Answer {
        self.get_with(host, &[]).await
    }

    pub(crate) async fn get_with(&self, host: &str, headers: &[(&str, &str)]) -> Answer {
        Conn::open(self.servers[0]).await.get("/", host, headers).await
    }

    /// An admin page.
    pub(crate) async fn page(&self, page: &str) -> Answer {
        Conn::open(self.admin).await.get(page, "admin", &[]).await
    }

    /// Another method than GET of an admin page.
    pub(crate) async fn send(&self, method: &str, page: &str) -> Answer {
        let req = Request::builder().method(method).uri(page).header("host", "admin");
        Conn::open(self.admin).await.send(req.body(String::new()).unwrap()).await
    }

    /// Puts another file in the place of the one that it was started with, and has it reloaded.
    pub(crate) async fn reload(&self, config: &str) -> Answer {
        replace(&self.folder.path("linkerd.yaml"), config);
        self.send("POST", "/admin/reload").await
    }

    /// A metric: a counter or a gauge.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        self.json("/admin/metrics.json").await.get(name).and_then(serde_json::Value::as_f64)
    }

    /// A POST to an admin page.
    pub(crate) async fn post(&self, page: &str, kind: &str, body: &str) -> Answer {
        let req = Request::post(page).header("host", "admin").header("content-type", kind);
        Conn::open(self.admin).await.send(req.body(body.to_owned()).unwrap()).await
    }

    pub(crate) async fn json(&self, page: &str) -> serde_json::Value {
        let answer = self.page(page).await;
        assert_eq!(answer.status, 200, "{page}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }
}

impl Deref for Linkerd {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Linkerd {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

impl Conn {
    pub(crate) async fn get(&mut self, target: &str, host: &str, headers: &[(&str, &str)]) -> Answer {
        let mut req = Request::get(target).header("host", host);
        for (name, value) in headers {
            req = req.header(*name, *value);
        }
        self.send(req.body(String::new()).unwrap()).await
    }

    pub(crate) async fn send(&mut self, req: Request<String>) -> Answer {
        self.try_send(req).await.unwrap()
    }
}

/// A server that answers this to everything.
pub(crate) async fn server(text: &str) -> Running {
    serve(Options { addr: "127.0.0.1:0".into(), text: text.into(), ..Options::default() }).await.unwrap()
}

/// A server that answers each request with its body.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(async |req: Request<Incoming>| Ok::<_, hyper::Error>(Response::new(req.into_body())));
            tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    addr
}

/// A server that holds its one request until it is told to answer it.
pub(crate) struct Held {
    pub(crate) addr: SocketAddr,
    arrived: oneshot::Receiver<()>,
    pub(crate) answer: oneshot::Sender<()>,
}

pub(crate) async fn held() -> Held {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (arrive, arrived) = oneshot::channel();
    let (answer, told) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        arrive.send(()).unwrap();
        if told.await.is_ok() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nlate!").await.unwrap();
        }
        // Until the other side closes it.
        let _ = stream.read(&mut [0]).await;
    });
    Held { addr, arrived, answer }
}

impl Held {
    pub(crate) async fn arrived(&mut self) {
        timeout(LONG, &mut self.arrived).await.expect("the request arrives").unwrap();
    }
}

/// Asks again and again until the answer is `Some`.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < LONG, "{what} did not come to be");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Replaces a file as `mv` does.
pub(crate) fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// A file with one router, on free ports.
pub(crate) const SIMPLE: &str = "\
admin:
  port: 0
telemetry:
- kind: io.l5d.prometheus
namers:
- kind: io.l5d.fs
  rootDir: disco
routers:
- protocol: http
  dtab: |
    /svc => /#/io.l5d.fs;
  servers:
  - port: 0
";
