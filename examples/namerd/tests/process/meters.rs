//! What interfaces count and log.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Folder, LONG, Namerd, SIMPLE};

#[tokio::test]
async fn each_interface_counts_what_it_is_asked_and_grpc_is_logged() {
    let folder = Folder::new();
    let config = format!(
        "{SIMPLE}- {{kind: io.l5d.mesh, port: 0, h2AccessLog: mesh.log}}\n\
         - {{kind: io.l5d.mesh, port: 0, ip: 127.0.0.2, h2AccessLog: mesh.json, h2AccessLogFormat: json}}\n\
         - {{kind: io.l5d.thriftNameInterpreter, port: 0}}\n"
    );
    let mut namerd = Namerd::start(&folder, &config).await;
    namerd.ask("GET /api/1/dtabs/default", &[], "").await.expect(200);
    namerd.ask("GET /api/1/dtabs/nope", &[], "").await.expect(404);
    let [_, mesh, json, thrift] = namerd.interfaces[..] else { panic!("{:?}", namerd.interfaces) };

    for addr in [mesh, json] {
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (mut client, conn) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(conn);
        // A path to be read, `/a`, and one that is none.
        for text in [*b"/a", *b"no"] {
            let body = [&[0, 0, 0, 0, 4, 0x0a, 2][..], &text].concat();
            let request = Request::post(format!("http://{addr}/io.linkerd.mesh.Codec/ReadPath"))
                .header("content-type", "application/grpc")
                .header("user-agent", "test/1")
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            let answer = timeout(LONG, client.send_request(request)).await.expect("an answer").unwrap();
            timeout(LONG, answer.into_body().collect()).await.expect("its end").unwrap();
        }
    }
    let mut mux = TcpStream::connect(thrift).await.unwrap();
    // A ping, and its answer.
    mux.write_all(&[0, 0, 0, 4, 65, 0, 0, 1]).await.unwrap();
    let mut pong = [0; 8];
    timeout(LONG, mux.read_exact(&mut pong)).await.expect("an answer").unwrap();

    let metrics = namerd.page("/admin/metrics.json").await.expect(200).json();
    for (name, expected) in [
        ("io.l5d.httpController/127.0.0.1/0/requests", 2.0),
        ("io.l5d.httpController/127.0.0.1/0/failures/missing", 1.0),
        ("io.l5d.httpController/127.0.0.1/0/streams/open", 0.0),
        ("io.l5d.mesh/127.0.0.1/0/sessions", 1.0),
        ("io.l5d.mesh/127.0.0.1/0/requests", 2.0),
        ("io.l5d.mesh/127.0.0.1/0/failures/bad_request", 1.0),
        ("io.l5d.mesh/127.0.0.2/0/requests", 2.0),
        ("io.l5d.thriftNameInterpreter/127.0.0.1/0/sessions", 1.0),
        ("io.l5d.thriftNameInterpreter/127.0.0.1/0/pings", 0.0),
    ] {
        assert_eq!(metrics[format!("iface/{name}")], expected, "{name}: {metrics}");
    }
    namerd.signal("-TERM").await;
    assert!(namerd.ended().await.success());
    let log = std::fs::read_to_string(folder.path("mesh.log")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].ends_with("\"POST /io.linkerd.mesh.Codec/ReadPath HTTP/2\" 200 - \"-\" \"test/1\""), "{log}");
    let log = std::fs::read_to_string(folder.path("mesh.json")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["uri"], &line["end"]), (&"/io.linkerd.mesh.Codec/ReadPath".into(), &"complete".into()), "{log}");
    assert_eq!(line["router"], "io.l5d.mesh");
}

#[tokio::test]
async fn an_access_log_that_cannot_be_made_is_named() {
    let folder = Folder::new();
    folder.write("file", "");
    folder.write("namerd.yaml", &format!("{SIMPLE}- {{kind: io.l5d.mesh, port: 0, h2AccessLog: file/mesh.log}}\n"));
    let output = folder.run(&["namerd.yaml"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("interfaces[1].h2AccessLog: file/mesh.log: "), "{said}");
}
