//! The bytes that a real namerd sent, read by hyper.

use std::sync::Mutex;

use ::http::{HeaderValue, Request, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use linkerd_dtab::{
    interpreter::remote::Http,
    transport::{Body, Sending, Transport},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// A connection of its own for each request, of which the test is the other end.
#[derive(Clone)]
struct Wire(Arc<Mutex<Vec<DuplexStream>>>);

impl Transport for Wire {
    fn send(&self, mut request: Request<Body>) -> Sending {
        let (ours, theirs) = duplex(64 * 1024);
        self.0.lock().unwrap().push(theirs);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("namerd"));
        Box::pin(async move {
            let broken = |error: hyper::Error| Arc::new(error) as Failure;
            let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.map_err(broken)?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await.map_err(broken)?;
            Ok(response.map(|body| body.map_err(broken).boxed_unsync()))
        })
    }
}

/// The namerd's side of one request.
struct Namerd {
    io: DuplexStream,
    documents: std::vec::IntoIter<String>,
}

impl Namerd {
    async fn accept(wire: &Wire, recorded: &serde_json::Value) -> Self {
        until("a request", || !wire.0.lock().unwrap().is_empty()).await;
        let mut io = wire.0.lock().unwrap().remove(0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(io.read_u8().await.unwrap()));
        }
        let target = recorded["target"].as_str().unwrap().replace("watch=1", "watch=true");
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{head}");
        io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let documents: Vec<String> = serde_json::from_value(recorded["documents"].clone()).unwrap();
        Self { io, documents: documents.into_iter() }
    }

    async fn next(&mut self) {
        let document = self.documents.next().unwrap();
        let chunk = format!("{:x}\r\n{document}\r\n", document.len());
        self.io.write_all(chunk.as_bytes()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_real_namerd_said_is_followed() {
    let session: serde_json::Value = serde_json::from_str(include_str!("../data/namerd/http-session.json")).unwrap();
    let wire = Wire(Arc::default());
    let remote = Remote::builder(Http::new(wire.clone(), "default")).pauses(PAUSES).build();
    let dtab = "/extra => /svc".parse().unwrap();
    let mut tree = remote.bind(&dtab, &path("/svc/web"));

    let mut names = Namerd::accept(&wire, &session[0]).await;
    names.next().await;
    becomes(&mut tree, "/#/io.l5d.fs/web").await;
    let web = addr(&tree);
    let mut of_web = Namerd::accept(&wire, &session[1]).await;
    of_web.next().await;
    until("one address", || web.sample().ok() == Some(at(37611))).await;
    of_web.next().await;
    until("two addresses", || web.sample().ok().is_some_and(|addr| addr.endpoints().len() == 2)).await;

    names.next().await;
    becomes(&mut tree, "/#/io.l5d.fs/other").await;
    let other = addr(&tree);
    let mut of_other = Namerd::accept(&wire, &session[4]).await;
    for expected in [at(40313), Addr::Neg, at(40313)] {
        of_other.next().await;
        until("another address", || other.sample().ok().as_ref() == Some(&expected)).await;
    }

    // The namerd goes away.
    drop((names, of_web, of_other));
    until("staleness", || tree.snapshot().stale.is_some() && other.snapshot().stale.is_some()).await;
    assert_eq!((shown(&tree), other.sample().ok()), ("/#/io.l5d.fs/other".to_owned(), Some(at(40313))));
}
