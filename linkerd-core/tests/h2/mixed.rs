//! One version on one side, another one on the other.

use std::net::SocketAddr;

use http::Request;
use linkerd_core::{
    access_log::{AccessLog, AccessLogSettings},
    http::{ClientConfig, H2Config, ServerConfig, Wire},
    telemetry::{Registry, RouterStats},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::peers::{Backend, Client, h2_client, h2_server, routed, serve, until, within};

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

/// Asks to go on in HTTP/2.
const UPGRADE: &str = "GET /a%2Fb?c HTTP/1.1\r\nHost: web\r\nX-One: 1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                       HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";

/// The next frame: its head and what it holds.
async fn frame(stream: &mut TcpStream) -> ([u8; 9], Vec<u8>) {
    let mut head = [0; 9];
    within(stream.read_exact(&mut head)).await.unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    within(stream.read_exact(&mut payload)).await.unwrap();
    (head, payload)
}

/// Reads frames until one ends this stream: the data on it.
async fn data_of(stream: &mut TcpStream, id: u8) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..100 {
        let ([_, _, _, kind, flags, .., on], payload) = frame(stream).await;
        if on != id {
            continue;
        }
        assert!(kind <= 1, "DATA or HEADERS, and not {kind}: {payload:?}");
        if kind == 0 {
            data.extend_from_slice(&payload);
        }
        if flags & 1 == 1 {
            return data;
        }
    }
    panic!("no end of stream {id}");
}

/// Asks for it, and reads that it is so.
async fn upgraded(proxy: SocketAddr, req: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(req.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: h2c\r\n"), "{head}");
    stream
}

#[tokio::test]
async fn a_connection_is_upgraded_and_the_answer_is_on_stream_1() {
    for config in [h2_server(), either()] {
        let mut backend = Backend::new().await;
        let proxy = serve(config, routed(backend.addr, h2_client()));
        let mut stream = upgraded(proxy, UPGRADE).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let seen = backend.accept().await;
        assert_eq!(seen.head.uri(), "http://web/a%2Fb?c");
        assert_eq!(
            (&seen.head.headers()["x-one"], &seen.head.headers()["via"]),
            (&"1".parse().unwrap(), &"h2 linkerd".parse().unwrap())
        );
        for name in ["host", "connection", "upgrade", "http2-settings"] {
            assert!(!seen.head.headers().contains_key(name), "{name}");
        }
        seen.answer(200, "first");
        assert_eq!(data_of(&mut stream, 1).await, b"first");
        // GET http / of web, on stream 3.
        stream.write_all(b"\0\0\x08\x01\x05\0\0\0\x03\x82\x86\x84\x41\x03web").await.unwrap();
        backend.accept().await.answer(200, "second");
        assert_eq!(data_of(&mut stream, 3).await, b"second");
    }
}

#[tokio::test]
async fn the_settings_of_an_upgrade_hold_for_its_answer_and_are_acknowledged_once() {
    let mut backend = Backend::new().await;
    let proxy = serve(h2_server(), routed(backend.addr, h2_client()));
    // INITIAL_WINDOW_SIZE is 3: of an answer of 7 bytes, so many come before the window is opened.
    let mut stream = upgraded(proxy, &UPGRADE.replace("AAMAAABkAARAAAAAAAIAAAAA", "AAQAAAAD")).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    backend.accept().await.answer(200, "answers");
    let (mut acks, mut data) = (0, Vec::new());
    for _ in 0..100 {
        let ([_, _, _, kind, flags, .., on], payload) = frame(&mut stream).await;
        match (kind, on) {
            (0, 1) => {
                data.push(String::from_utf8(payload).unwrap());
                if flags & 1 == 1 {
                    break;
                }
                assert_eq!(data, ["ans"]);
                stream.write_all(b"\0\0\x04\x08\0\0\0\0\x01\0\0\x10\0").await.unwrap();
            }
            (4, 0) => acks += flags & 1,
            _ => {}
        }
    }
    assert_eq!((data.concat().as_str(), acks), ("answers", 1));
}

#[tokio::test]
async fn what_cannot_be_upgraded_is_served_as_http1_where_that_is_spoken() {
    let with_body = UPGRADE
        .replace("GET", "POST")
        .replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    for (req, upgrades) in [
        (UPGRADE.replace("AAMAAABkAARAAAAAAAIAAAAA", "AAM"), false),
        (UPGRADE.replace("Upgrade, HTTP2-Settings", "Upgrade"), false),
        (with_body, false),
        (UPGRADE.to_owned(), true),
    ] {
        let (addr, _seen) = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let proxy = serve(either(), routed(addr, ClientConfig::default()));
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(req.as_bytes()).await.unwrap();
        let mut rsp = [0; 12];
        within(stream.read_exact(&mut rsp)).await.unwrap();
        let expected = if upgrades { "HTTP/1.1 101" } else { "HTTP/1.1 200" };
        assert_eq!(std::str::from_utf8(&rsp).unwrap(), expected, "{req}");
    }
}

#[tokio::test]
async fn a_client_that_only_speaks_http1_is_told_what_is_spoken() {
    let backend = Backend::new().await;
    let proxy = serve(h2_server(), routed(backend.addr, h2_client()));
    let rsp = ask(proxy, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.to_lowercase();
    assert!(rsp.starts_with("http/1.1 426 ") && rsp.contains("\r\nupgrade: h2c\r\n"), "{rsp}");
}

#[tokio::test]
async fn what_the_server_says_of_the_protocol_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.log");
    let format = "{uri} {version} {status} {flag} {end}".parse().unwrap();
    let settings = AccessLogSettings { file: file.clone(), format, ..AccessLogSettings::default() };
    let log = AccessLog::open(settings, &RouterStats::new(&Registry::new(), "r")).unwrap();
    let mut backend = Backend::new().await;
    let config = ServerConfig { access_log: Some(log), ..h2_server() };
    let proxy = serve(config, routed(backend.addr, h2_client()));
    ask(proxy, "GET /old HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let mut stream = upgraded(proxy, UPGRADE).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    backend.accept().await.answer(200, "first");
    data_of(&mut stream, 1).await;
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    until(|| text().lines().count() == 3).await;
    let expected =
        ["/old HTTP/1.1 426 refused none", "/a%2Fb?c HTTP/1.1 101 upgraded none", "/a%2Fb?c HTTP/2.0 200 - complete"];
    assert_eq!(text().lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_not_waited_for_for_ever() {
    let backend = Backend::new().await;
    let proxy = serve(h2_server(), routed(backend.addr, h2_client()));
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    // It is accepted, and from here on time passes as soon as nothing else happens.
    super::peers::until(|| std::net::TcpStream::connect(proxy).is_ok()).await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let read = tokio::time::timeout(std::time::Duration::from_mins(1), stream.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    assert!(begun.elapsed() <= std::time::Duration::from_secs(40), "{:?}", begun.elapsed());
}

#[cfg(feature = "config")]
#[tokio::test]
async fn a_file_says_what_is_spoken() {
    use linkerd_core::config::Config;
    let wire = |keys: &str| {
        let text = format!("routers: [{{protocol: h2, servers: [{{port: 0{keys}}}], dtab: '/svc => /$/nil'}}]");
        let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
        config.build(&Registry::new()).unwrap().routers[0].servers[0].wire.clone()
    };
    assert_eq!(wire(""), Wire::H2(H2Config::default()));
    assert_eq!(wire(", http1: true"), Wire::Either(H2Config::default()));
    let keys = ", initialStreamWindowBytes: 1, headerTableBytes: 2, maxFrameBytes: 16385, maxHeaderListBytes: 4, \
                maxConcurrentStreamsPerConnection: 5, maxPendingResets: 6, maxErrorResets: 7, windowUpdateRatio: 0.5";
    let expected = H2Config {
        initial_stream_window_bytes: 1,
        header_table_bytes: 2,
        max_frame_bytes: 16385,
        max_header_list_bytes: 4,
        max_concurrent_streams: 5,
        max_pending_resets: 6,
        max_error_resets: 7,
        ..H2Config::default()
    };
    assert_eq!(wire(keys), Wire::H2(expected));
}

#[tokio::test]
async fn trailers_of_http2_say_nothing_that_a_head_may_not() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (addr, seen) = super::http1::Backend::answering([answer]).await;
    let to_http1 = Client::connect(serve(h2_server(), routed(addr, ClientConfig::default()))).await;
    let mut backend = Backend::new().await;
    let to_http2 = Client::connect(serve(h2_server(), routed(backend.addr, h2_client()))).await;
    let send = async |client: &Client| {
        let req = Request::post("http://web/").header("l5d-trailer", "x-t, x-forwarded-client-cert").body(()).unwrap();
        let (response, mut body) = client.open(req, false).await;
        body.send_data("hi".into(), false).unwrap();
        let said = [("x-forwarded-client-cert", "Hash=1"), ("x-t", "v"), ("l5d-ctx-deadline", "1 2")];
        let trailers = said.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        body.send_trailers(trailers.into_iter().collect()).unwrap();
        (response, body)
    };
    let (response, _body) = send(&to_http1).await;
    assert_eq!(within(response).await.unwrap().status(), 200);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!((seen[0].text(), &seen[0].trailers[..]), ("hi", &[("x-t".to_owned(), "v".to_owned())][..]));
    let (response, _body) = send(&to_http2).await;
    let mut came = backend.accept().await;
    assert_eq!(super::peers::read(&mut came.body).await.unwrap(), b"hi");
    let trailers = within(came.body.trailers()).await.unwrap().unwrap();
    assert_eq!((trailers.len(), &trailers["x-t"]), (1, &"v".parse().unwrap()));
    came.answer(200, "ok");
    assert_eq!(within(response).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_length_that_is_said_twice_is_one_and_two_are_none() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (addr, seen) = super::http1::Backend::answering([answer]).await;
    let client = Client::connect(serve(h2_server(), routed(addr, ClientConfig::default()))).await;
    for (second, is_one) in [("5", true), ("6", false), ("4", false)] {
        let req = Request::post("http://web/").header("content-length", "5").header("content-length", second);
        let (response, mut body) = client.open(req.body(()).unwrap(), false).await;
        // It may have been refused by now.
        let _ = body.send_data("hello".into(), true);
        let answered = within(response).await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        if is_one {
            assert_eq!(answered.unwrap().status(), 200);
            assert_eq!((seen[0].all("content-length"), seen[0].text()), (vec!["5"], "hello"));
        } else {
            assert_eq!(answered.unwrap_err().reason(), Some(h2::Reason::PROTOCOL_ERROR), "{second}");
            assert_eq!(seen, [], "{second}");
        }
    }
}

#[tokio::test]
async fn a_response_of_two_lengths_is_none() {
    let mut backend = Backend::new().await;
    let proxy = serve(either(), routed(backend.addr, h2_client()));
    for (second, status) in [("5", 200), ("6", 502)] {
        let asked = tokio::spawn(ask(proxy, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"));
        let mut seen = backend.accept().await;
        let rsp = http::Response::builder().header("content-length", "5").header("content-length", second);
        let mut body = seen.respond.send_response(rsp.body(()).unwrap(), false).unwrap();
        // It may have been refused by now.
        let _ = body.send_data("hello".into(), true);
        let rsp = within(asked).await.unwrap().to_lowercase();
        assert!(rsp.starts_with(&format!("http/1.1 {status} ")), "{rsp}");
        assert_eq!(rsp.matches("content-length").count(), 1, "{rsp}");
    }
}
