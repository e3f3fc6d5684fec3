//! Runs the program, and talks to it with a client that is not its own.

use std::{
    fs,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    process::Command,
    time::timeout,
};

pub(crate) use crate::program::LONG;
use crate::program::Program;

/// A file with tables in memory, on free ports.
pub(crate) const SIMPLE: &str = "\
admin: {port: 0}
storage:
  kind: io.l5d.inMemory
  namespaces: {default: '/svc => /$/inet/127.0.0.1'}
interfaces:
- {kind: io.l5d.httpController, port: 0}
";

/// A folder that the program runs in, with what it reads.
pub(crate) struct Folder(TempDir);

/// The program, initialized.
pub(crate) struct Namerd {
    program: Program,
    /// The interfaces, in the order of the file.
    pub(crate) interfaces: Vec<SocketAddr>,
}

/// A connection to an HTTP server.
pub(crate) struct Conn(SendRequest<Full<Bytes>>);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs the program to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Output {
        let run = self.command(args).stdin(Stdio::null()).output();
        timeout(LONG, run).await.expect("it ends").unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_namerd"));
        command.args(args).current_dir(self.0.path()).kill_on_drop(true).stderr(Stdio::piped());
        command
    }
}

impl Namerd {
    /// Starts the program with this file, and waits until it is initialized.
    pub(crate) async fn start(folder: &Folder, config: &str) -> Self {
        folder.write("namerd.yaml", config);
        let program = Program::start(folder.command(&["namerd.yaml"]), b"").await;
        Self { interfaces: program.servers.clone(), program }
    }

    /// Asks the first interface: `GET /api/1/dtabs` with a body of nothing, for instance.
    pub(crate) async fn ask(&self, what: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        Conn::open(self.interfaces[0]).await.ask(what, headers, body).await
    }

    /// Asks for a page.
    pub(crate) async fn page(&self, page: &str) -> Answer {
        Conn::open(self.admin).await.ask(&format!("GET {page}"), &[], "").await
    }
}

impl Deref for Namerd {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Namerd {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

impl Conn {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap()).await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, conn) = http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(conn);
        Self(sender)
    }

    pub(crate) async fn ask(&mut self, what: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let (head, body) = self.begin(what, headers, body).await.into_parts();
        let body = timeout(LONG, body.collect()).await.expect("an answer").unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// The same, without waiting for the end of the answer.
    pub(crate) async fn begin(&mut self, what: &str, headers: &[(&str, &str)], body: &str) -> http::Response<Incoming> {
        self.try_begin(what, headers, body).await.unwrap()
    }

    pub(crate) async fn try_begin(
        &mut self,
        what: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> hyper::Result<http::Response<Incoming>> {
        let (method, target) = what.split_once(' ').unwrap();
        let mut req = Request::builder().method(method).uri(target).header("host", "namerd");
        if !body.is_empty() {
            req = req.header("content-type", "application/dtab");
        }
        for (name, value) in headers {
            req = req.header(*name, *value);
        }
        let req = req.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        timeout(LONG, self.0.send_request(req)).await.expect("an answer")
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// What a program said on its standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
