//! Runs the program, and talks to it with a client that is not its own.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};

use crate::program::Program;
pub(crate) use crate::{
    client::{Answer, Conn},
    folder::Folder,
    program::LONG,
};

/// What is tried.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_namerd");

/// A file with tables in memory, on free ports.
pub(crate) const SIMPLE: &str = "\
admin: {port: 0}
storage:
  kind: io.l5d.inMemory
  namespaces: {default: '/svc => /$/inet/127.0.0.1'}
interfaces:
- {kind: io.l5d.httpController, port: 0}
";

/// The program, initialized.
pub(crate) struct Namerd {
    program: Program,
    /// The interfaces, in the order of the file.
    pub(crate) interfaces: Vec<SocketAddr>,
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self::empty()
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
    pub(crate) async fn ask(&mut self, what: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.try_send(request(what, headers, body)).await.unwrap()
    }

    /// The same, without waiting for the end of the answer.
    pub(crate) async fn begin(&mut self, what: &str, headers: &[(&str, &str)], body: &str) -> http::Response<Incoming> {
        self.try_begin(request(what, headers, body)).await.unwrap()
    }
}

/// `GET /api/1/dtabs`, for instance.
pub(crate) fn request(what: &str, headers: &[(&str, &str)], body: &str) -> Request<String> {
    let (method, target) = what.split_once(' ').unwrap();
    let mut req = Request::builder().method(method).uri(target).header("host", "namerd");
    if !body.is_empty() {
        req = req.header("content-type", "application/dtab");
    }
    for (name, value) in headers {
        req = req.header(*name, *value);
    }
    req.body(body.to_owned()).unwrap()
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

/// Asks again and again until the answer is `Some`.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, asked).await.unwrap_or_else(|_| panic!("{what} did not come to be"))
}

/// What a program said on its standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
