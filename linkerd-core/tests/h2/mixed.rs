//! One version on one side, another one on the other.

use std::net::SocketAddr;

use http::Request;
use linkerd_core::http::{ClientConfig, H2Config, ServerConfig, Wire};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::peers::{Backend, Client, h2_client, h2_server, routed, serve, within};

fn either() -> ServerConfig {
    ServerConfig { wire: Wire::Either(H2Config::default()), ..h2_server() }
}

/// Sends bytes of HTTP/1.1, and returns what comes until the connection ends.
async fn ask(addr: SocketAddr, req: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(req.as_bytes()).await.unwrap();
    let mut rsp = String::new();
    within(stream.read_to_string(&mut rsp)).await.unwrap();
    rsp
}

/// An endpoint that answers one request of HTTP/1.1, whatever it is, and tells what it was.
async fn origin(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let read = stream.read_buf(&mut seen).await.unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&seen));
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    (addr, seen)
}

#[tokio::test]
async fn one_port_serves_both_versions_and_reaches_endpoints_by_http2() {
    let mut backend = Backend::new().await;
    let proxy = serve(either(), routed(backend.addr, h2_client()));
    assert!(Client::connect(proxy).await.ask_ok(&mut backend).await);
    let req = "POST http://web/a%2Fb?c HTTP/1.1\r\nHost: other\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
               Keep-Alive: x\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let asked = tokio::spawn(ask(proxy, req));
    let mut seen = backend.accept().await;
    assert_eq!(seen.head.uri(), "http://web/a%2Fb?c");
    let headers = seen.head.headers();
    for name in ["host", "connection", "transfer-encoding", "keep-alive"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(headers["via"], "1.1 linkerd");
    assert_eq!(super::peers::read(&mut seen.body).await.unwrap(), b"hello");
    seen.answer(200, "world");
    let rsp = within(asked).await.unwrap();
    assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n") && rsp.contains("world"), "{rsp}");
}

#[tokio::test]
async fn a_request_of_http2_reaches_an_endpoint_of_http1() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\n\
                  X-Hop: 1\r\nTrailer: x-t\r\n\r\n2\r\nok\r\n0\r\nx-t: v\r\n\r\n";
    let (addr, seen) = origin(answer).await;
    let client = Client::connect(serve(h2_server(), routed(addr, ClientConfig::default()))).await;
    let req = Request::get("http://web/a?b").header("cookie", "a=1").header("cookie", "b=2").body(()).unwrap();
    let rsp = client.ask(req).await.unwrap();
    assert_eq!((rsp.head.status().as_u16(), &rsp.body[..]), (200, &b"ok"[..]));
    assert_eq!(rsp.trailers.as_ref().unwrap()["x-t"], "v");
    for name in ["transfer-encoding", "keep-alive", "connection", "x-hop", "trailer"] {
        assert_eq!(rsp.get(name), None, "{name}");
    }
    let seen = seen.await.unwrap();
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\n"), "{seen}");
    for line in ["host: web\r\n", "cookie: a=1; b=2\r\n", "via: h2 linkerd\r\n"] {
        assert!(seen.to_lowercase().contains(line), "{line} in {seen}");
    }
}

#[tokio::test]
async fn a_request_of_http1_goes_over_http2_between_two_proxies() {
    let (addr, seen) = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let inner = serve(h2_server(), routed(addr, ClientConfig::default()));
    let outer = serve(either(), routed(inner, h2_client()));
    let rsp = ask(outer, "GET /x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
    assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n") && rsp.ends_with("\r\n\r\nok"), "{rsp}");
    let seen = seen.await.unwrap().to_lowercase();
    assert!(seen.contains("via: 1.1 linkerd, h2 linkerd\r\n") && seen.contains("host: web\r\n"), "{seen}");
}

#[cfg(feature = "config")]
#[tokio::test]
async fn a_file_says_what_is_spoken() {
    use linkerd_core::{config::Config, telemetry::Registry};
    let wire = |keys: &str| {
        let text = format!("routers: [{{protocol: h2, servers: [{{port: 0{keys}}}], dtab: '/svc => /$/nil'}}]");
        let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
        config.build(&Registry::new()).unwrap().routers[0].servers[0].wire.clone()
    };
    assert_eq!(wire(""), Wire::H2(H2Config::default()));
    assert_eq!(wire(", http1: true"), Wire::Either(H2Config::default()));
    let keys = ", initialStreamWindowBytes: 1, headerTableBytes: 2, maxFrameBytes: 16385, maxHeaderListBytes: 4, \
                maxConcurrentStreamsPerConnection: 5, windowUpdateRatio: 0.5";
    let expected = H2Config {
        initial_stream_window_bytes: 1,
        header_table_bytes: 2,
        max_frame_bytes: 16385,
        max_header_list_bytes: 4,
        max_concurrent_streams: 5,
        ..H2Config::default()
    };
    assert_eq!(wire(keys), Wire::H2(expected));
}
