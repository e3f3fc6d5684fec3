//! HTTP/2 through TLS, on either side and between two proxies.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    pki::{Pki, der, provider},
    routers::proxy,
};

/// A request as an endpoint of HTTP/2 saw it, its body included.
struct Seen {
    head: Request<()>,
    body: Vec<u8>,
}

/// An endpoint that speaks HTTP/2 through TLS, to who offers it by ALPN, and answers with a body and a trailer.
async fn endpoint(pki: &Pki) -> (SocketAddr, mpsc::Receiver<Seen>) {
    let files = pki.issue("endpoint", &["endpoint"]);
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der(&files.cert)], key)
        .unwrap();
    // An offer of anything else alone fails.
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (give, seen) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (give, accept) = (give.clone(), acceptor.accept(stream));
            tokio::spawn(async move {
                let Ok(stream) = accept.await else { return };
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let mut conn = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((req, mut respond))) = conn.accept().await {
                    let give = give.clone();
                    tokio::spawn(async move {
                        let (parts, mut from) = req.into_parts();
                        let mut body = Vec::new();
                        while let Some(data) = from.data().await {
                            body.extend_from_slice(&data.unwrap());
                        }
                        give.send(Seen { head: Request::from_parts(parts, ()), body }).await.unwrap();
                        let mut to = respond.send_response(Response::new(()), false).unwrap();
                        to.send_data(Bytes::from_static(b"answer"), false).unwrap();
                        let trailers = [(http::HeaderName::from_static("x-end"), "1".parse().unwrap())];
                        to.send_trailers(trailers.into_iter().collect()).unwrap();
                    });
                }
            });
        }
    });
    (addr, seen)
}

#[tokio::test]
async fn both_sides_of_a_router_agree_on_http2_by_alpn() {
    let pki = Pki::new();
    pki.issue("proxy", &["localhost"]);
    let (addr, mut seen) = endpoint(&pki).await;
    let addrs = proxy(
        &pki,
        &format!(
            "routers:
- protocol: h2
  dtab: /svc => /$/inet/127.0.0.1/{}
  client:
    tls: {{commonName: endpoint, trustCertsBundle: '{{dir}}/ca.pem'}}
  servers:
  - port: 0
    ip: 127.0.0.1
    tls: {{certPath: '{{dir}}/proxy.pem', keyPath: '{{dir}}/proxy.key'}}
",
            addr.port()
        ),
    )
    .await;
    let connect = async |alpn: &[&[u8]]| {
        let stream = TcpStream::connect(addrs[0]).await.unwrap();
        TlsConnector::from(pki.raw(alpn)).connect("localhost".try_into().unwrap(), stream).await
    };
    let stream = connect(&[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, conn) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(conn);
    let mut sender = sender.ready().await.unwrap();
    let req = Request::post("https://web/a").header("te", "trailers").body(()).unwrap();
    let (response, mut to) = sender.send_request(req, false).unwrap();
    to.send_data(Bytes::from_static(b"question"), true).unwrap();
    let (head, mut from) = response.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    assert_eq!(from.data().await.unwrap().unwrap(), "answer");
    assert!(from.data().await.is_none());
    assert_eq!(from.trailers().await.unwrap().unwrap()["x-end"], "1");
    let seen = seen.recv().await.unwrap();
    assert_eq!((&seen.body[..], seen.head.uri().path()), (&b"question"[..], "/a"));
    // Somebody who speaks nothing that is spoken here.
    assert!(connect(&[b"http/1.1"]).await.is_err());
}

#[tokio::test]
async fn who_agrees_on_http2_has_to_begin_with_it_in_time() {
    let pki = Pki::new();
    pki.issue("proxy", &["localhost"]);
    let text = "routers:
- protocol: h2
  servers:
  - port: 0
    ip: 127.0.0.1
    headerReadTimeoutMs: 50
    tls: {certPath: '{dir}/proxy.pem', keyPath: '{dir}/proxy.key'}
";
    let addrs = proxy(&pki, text).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // And half a frame of settings.
    let settings = [&preface[..], &[0, 0, 6, 4]].concat();
    for begun in [&b""[..], &preface[..10], preface, &settings] {
        let mut stream = super::pki::shake(addrs[0], "localhost", &pki.raw(&[b"h2"])).await.unwrap().stream;
        stream.write_all(begun).await.unwrap();
        let mut said = Vec::new();
        let end = stream.read_to_end(&mut said);
        tokio::time::timeout(std::time::Duration::from_secs(20), end).await.expect("in time").unwrap();
        // A GOAWAY with ENHANCE_YOUR_CALM is the last.
        assert_eq!(said[said.len() - 17..], [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11], "{begun:?}");
    }
}

/// An origin of HTTP/1.1 that asks for the body of its one request before it answers, and hands out what it was.
async fn origin() -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        // The end of a chunked body with a trailer.
        while !String::from_utf8_lossy(&seen).contains("\r\n0\r\n") || !seen.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
        }
        let answer = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\nX-Rsp: 1\r\n\r\n\
                      3\r\none\r\n3\r\ntwo\r\n0\r\nx-end: down\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    (addr, seen)
}

#[tokio::test]
async fn http1_goes_over_http2_and_tls_between_two_proxies_with_all_that_it_means() {
    let pki = Pki::new();
    pki.issue("incoming", &["incoming"]);
    let (origin, seen) = origin().await;
    let inner = proxy(
        &pki,
        &format!(
            "routers:
- protocol: h2
  label: incoming
  dtab: /svc/web => /$/inet/127.0.0.1/{}
  client: {{http1: true}}
  servers:
  - port: 0
    ip: 127.0.0.1
    tls: {{certPath: '{{dir}}/incoming.pem', keyPath: '{{dir}}/incoming.key'}}
",
            origin.port()
        ),
    )
    .await[0];
    let outer = proxy(
        &pki,
        &format!(
            "routers:
- protocol: h2
  label: outgoing
  dtab: /svc/web => /$/inet/127.0.0.1/{}
  client:
    tls: {{commonName: incoming, trustCertsBundle: '{{dir}}/ca.pem'}}
  servers: [{{port: 0, ip: 127.0.0.1, http1: true}}]
",
            inner.port()
        ),
    )
    .await[0];
    let mut stream = TcpStream::connect(outer).await.unwrap();
    // The target counts, and not the host.
    let head = "POST http://web/a%2Fb?c=%20 HTTP/1.1\r\nHost: other\r\nExpect: 100-continue\r\nConnection: close\r\n\
                TE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nX-One: 1\r\nX-One: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await.unwrap());
    }
    assert_eq!(String::from_utf8(said).unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: up\r\n\r\n").await.unwrap();
    let mut rsp = String::new();
    stream.read_to_string(&mut rsp).await.unwrap();
    let seen = seen.await.unwrap().to_lowercase();
    assert!(seen.starts_with("post /a%2fb?c=%20 http/1.1\r\n"), "{seen}");
    for line in ["host: web\r\n", "x-one: 1\r\n", "x-one: 2\r\n", "transfer-encoding: chunked\r\n"] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    assert!(!seen.contains("expect"), "{seen}");
    let body: String = seen.split("\r\n\r\n").nth(1).unwrap().split("\r\n").skip(1).step_by(2).collect();
    assert!(body.starts_with("hello world"), "{seen}");
    let rsp = rsp.to_lowercase();
    assert!(rsp.starts_with("http/1.1 201 created\r\n") && rsp.contains("x-rsp: 1\r\n"), "{rsp}");
    assert!(rsp.contains("one") && rsp.contains("two") && !rsp.contains("l5d-trailer"), "{rsp}");
    assert!(rsp.ends_with("0\r\nx-end: down\r\n\r\n") || rsp.contains("x-end: down\r\n"), "{rsp}");
}
