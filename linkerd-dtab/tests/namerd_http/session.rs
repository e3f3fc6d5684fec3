//! A session of a real Linkerd and a real namerd, byte for byte, with ours in the namerd's place.

use std::fs;

use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};

use super::{PATIENCE, Server};

/// A connection of the Linkerd.
struct Connection {
    io: DuplexStream,
    // What the namerd sent.
    documents: std::vec::IntoIter<String>,
}

impl Connection {
    /// Sends what the Linkerd sent, which had no `Host`, and reads the head of the response.
    async fn open(server: &Server, recorded: &serde_json::Value) -> Self {
        let (mut io, theirs) = duplex(64 * 1024);
        let service = TowerToHyperService::new(server.controller.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
        let headers: Vec<(String, String)> = serde_json::from_value(recorded["headers"].clone()).unwrap();
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let target = recorded["target"].as_str().unwrap();
        let request = format!("GET {target} HTTP/1.1\r\n{}\r\n", headers.concat());
        io.write_all(request.as_bytes()).await.unwrap();
        let documents: Vec<String> = serde_json::from_value(recorded["documents"].clone()).unwrap();
        let mut connection = Self { io, documents: documents.into_iter() };
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(connection.read(1).await[0]));
        }
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        connection
    }

    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        timeout(PATIENCE, self.io.read_exact(&mut bytes)).await.expect("bytes").unwrap();
        bytes
    }

    /// Reads what the namerd sent next: one chunk a document.
    async fn next(&mut self) {
        let document = self.documents.next().unwrap();
        let chunk = format!("{:X}\r\n{document}\r\n", document.len());
        let sent = String::from_utf8(self.read(chunk.len()).await).unwrap();
        // hyper writes lengths in capitals, which Netty does not.
        assert_eq!(sent, chunk);
    }

    fn is_at_its_end(&self) {
        assert_eq!(self.documents.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_real_linkerd_sees_what_it_saw() {
    const WEB: &str = "127.0.0.1 37611\n";
    const OTHER: &str = "127.0.0.1 40313\n";
    let session: serde_json::Value = serde_json::from_str(include_str!("../data/namerd/http-session.json")).unwrap();
    let server = Server::new([("default".to_owned(), "/svc => /#/io.l5d.fs".to_owned())]);
    let (web, other) = (server.file("disco/web"), server.file("disco/other"));
    fs::write(&web, WEB).unwrap();
    fs::write(&other, OTHER).unwrap();

    let mut connections = Vec::new();
    for recorded in &session.as_array().unwrap()[..5] {
        let mut connection = Connection::open(&server, recorded).await;
        connection.next().await;
        connections.push(connection);
    }
    let [bind_web, addr_web, _, bind_override, addr_other] = &mut connections[..] else { unreachable!() };

    fs::write(&web, format!("{WEB}{OTHER}")).unwrap();
    addr_web.next().await;

    let dtab = "/svc => /#/io.l5d.fs ; /svc/web => /#/io.l5d.fs/other";
    let put = server.call("PUT", "/api/1/dtabs/default", &[("content-type", "application/dtab")], dtab).await;
    assert_eq!(put.status, 204);
    bind_web.next().await;

    fs::remove_file(&other).unwrap();
    addr_other.next().await;
    bind_web.next().await;
    bind_override.next().await;

    fs::write(&other, OTHER).unwrap();
    addr_other.next().await;
    bind_web.next().await;
    bind_override.next().await;

    for connection in &connections {
        connection.is_at_its_end();
    }
    let target = session[5]["target"].as_str().unwrap();
    let explained = server.call("GET", target, &[], "").await;
    assert_eq!(Some(&*explained.body), session[5]["documents"][0].as_str());
}
