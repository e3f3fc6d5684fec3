//! A namerd that keeps tables in memory, writes down what it is asked, and says what it is told to say.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use linkerd_dtab::Dtab;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Asked {
    /// A header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// An answer that does not depend on the tables.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Said {
    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    pub(crate) fn status(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Says something, or leaves it to the tables.
struct Saying(Box<dyn FnMut() -> Option<Said> + Send>);

impl fmt::Debug for Saying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Saying").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Each table's version and text.
    tables: BTreeMap<String, (u64, Dtab)>,
    history: Vec<Value>,
    asked: Vec<Asked>,
    said: Vec<(String, Saying)>,
    /// What somebody else writes right before the next write, in this order.
    others: Vec<(String, Dtab)>,
    version: u64,
}

/// A namerd that ends with this.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn dtab(text: &str) -> Dtab {
    text.parse().expect("a table")
}

/// The version as namerd shows it: base64 of something.
pub(crate) fn version(number: u64) -> String {
    format!("VERSION{number}=")
}

fn entries(dtab: &Dtab) -> Value {
    dtab.entries().iter().map(|e| json!({ "prefix": e.prefix.to_string(), "dst": e.dst.to_string() })).collect()
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("is bound");
        let state = Arc::<Mutex<State>>::default();
        let served = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        Self { addr, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What answers connections made another way.
    pub(crate) fn serve(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        tokio::spawn(serve(io, Arc::clone(&self.state)));
    }

    /// Puts a table there; its version.
    pub(crate) fn put(&self, name: &str, text: &str) -> String {
        version(self.state.lock().expect("no panic").write(name, Some(dtab(text))))
    }

    /// What is there now, in its canonical form.
    pub(crate) fn table(&self, name: &str) -> Option<String> {
        self.state.lock().expect("no panic").tables.get(name).map(|(_, dtab)| dtab.to_string())
    }

    /// Another writes this right before the next write.
    pub(crate) fn race(&self, name: &str, text: &str) {
        self.state.lock().expect("no panic").others.push((name.into(), dtab(text)));
    }

    /// Says this whenever a method and path, with its query, begin like this. The newest such counts.
    pub(crate) fn say(&self, line: &str, said: Said) {
        self.say_by(line, move || Some(said.clone()));
    }

    /// The same, where each time has its own answer; without one it is what it would be.
    pub(crate) fn say_by(&self, line: &str, said: impl FnMut() -> Option<Said> + Send + 'static) {
        self.state.lock().expect("no panic").said.insert(0, (line.into(), Saying(Box::new(said))));
    }

    /// What it was asked since the last time, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().expect("no panic").asked)
    }

    /// The same as methods and paths.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }

    /// The only thing that it was asked.
    pub(crate) fn one(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<Mutex<State>>) {
    let service = service_fn(|req: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (head, body) = req.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let path = head.uri.path_and_query().expect("a path").to_string();
            let body = String::from_utf8_lossy(&body).into_owned();
            let asked = Asked { method: head.method, path, headers: head.headers, body };
            Ok::<_, Infallible>(state.lock().expect("no panic").answer(&asked))
        }
    });
    // A client that goes away is no failure of the test.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

fn response(said: Said) -> Response<Full<Bytes>> {
    let mut rsp = Response::builder().status(said.status);
    for (name, value) in said.headers {
        rsp = rsp.header(name, value);
    }
    rsp.body(Full::from(said.body)).expect("an answer")
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Response<Full<Bytes>> {
        let line = asked.line();
        self.asked.push(asked.clone());
        let saying = self.said.iter_mut().find(|(start, _)| line.starts_with(&**start));
        if let Some(said) = saying.and_then(|(_, Saying(said))| said()) {
            return response(said);
        }
        let path = asked.path.split('?').next().expect("a path");
        let path: Vec<_> = path.split('/').skip(1).collect();
        response(match (&asked.method, &path[..]) {
            (&Method::GET, ["api", "1", "dtabs"]) => {
                Said::ok(json!(self.tables.keys().collect::<Vec<_>>()).to_string() + "\n")
            }
            (&Method::GET, ["api", "1", "dtabs", name]) => match self.tables.get(*name) {
                None => Said::status(404, ""),
                Some((at, dtab)) => Said::ok(entries(dtab).to_string() + "\n").with("etag", &version(*at)),
            },
            (&Method::GET, ["api", "1", "history", name]) => {
                let of: Vec<_> = self.history.iter().rev().filter(|change| change["namespace"] == *name).collect();
                Said::ok(json!(of).to_string())
            }
            (_, ["api", "1", "dtabs", name]) => self.change(name, asked),
            (&Method::POST, ["api", "1", "rollback", name]) => self.rollback(name, asked),
            _ => Said::status(404, ""),
        })
    }

    fn change(&mut self, name: &str, asked: &Asked) -> Said {
        if !self.others.is_empty() {
            let (other, dtab) = self.others.remove(0);
            self.write(&other, Some(dtab));
        }
        let at = self.tables.get(name).map(|(at, _)| *at);
        let matches = asked.header("if-match");
        match (&asked.method, at) {
            (&Method::POST, Some(_)) => return Said::status(409, ""),
            (&Method::DELETE, None) => return Said::status(404, ""),
            (&Method::PUT, None) if !matches.is_empty() => return Said::status(404, ""),
            (_, Some(at)) if !matches.is_empty() && matches != version(at) => return Said::status(412, ""),
            _ => {}
        }
        if asked.method == Method::DELETE {
            self.write(name, None);
            return Said::status(204, "");
        }
        let table = match asked.header(header::CONTENT_TYPE.as_str()) {
            "application/dtab" => asked.body.parse::<Dtab>().map_err(|error| error.to_string()),
            "application/json" => of_json(&asked.body),
            other => Err(format!("Invalid Content-Type \"{other}\". ")),
        };
        match table {
            Err(reason) => Said::status(StatusCode::BAD_REQUEST.as_u16(), reason),
            Ok(table) => {
                self.write(name, Some(table));
                Said::status(204, "")
            }
        }
    }

    fn rollback(&mut self, name: &str, asked: &Asked) -> Said {
        let at = self.tables.get(name).map(|(at, _)| version(*at)).unwrap_or_default();
        if asked.header("if-match") != at {
            return Said::status(412, "");
        }
        let to: u64 =
            asked.path.split_once("?to=").and_then(|(_, to)| to.split('&').next()?.parse().ok()).expect("a number");
        let Some(change) = self.history.iter().find(|change| change["seq"] == to) else { return Said::status(404, "") };
        let table = of_json(&change["dtab"].to_string()).expect("a table");
        self.write(name, Some(table));
        Said::status(204, "")
    }

    fn write(&mut self, name: &str, dtab: Option<Dtab>) -> u64 {
        self.version += 1;
        let at = self.version;
        self.history.push(json!({
            "namespace": name, "seq": at, "version": version(at), "at": "2026-11-22T03:00:00Z", "who": "me", "why": null,
            "dtab": dtab.as_ref().map(entries),
        }));
        match dtab {
            Some(dtab) => drop(self.tables.insert(name.into(), (at, dtab))),
            None => drop(self.tables.remove(name)),
        }
        at
    }
}

fn of_json(body: &str) -> Result<Dtab, String> {
    let table: Vec<BTreeMap<String, String>> = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let text: Vec<_> = table.iter().map(|entry| format!("{} => {};", entry["prefix"], entry["dst"])).collect();
    text.concat().parse().map_err(|error: linkerd_dtab::ParseError| error.to_string())
}
