//! The servers on real sockets: chains, faults of the target, the proxy, connections.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use helloworld::{Options, Running, ServeError, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

fn local() -> Options {
    Options { addr: "127.0.0.1:0".into(), ..Options::default() }
}

fn before(target: &impl ToString) -> Options {
    Options { target: Some(target.to_string()), ..local() }
}

async fn start(options: Options) -> Running {
    serve(options).await.expect("starts")
}

/// What the server at `addr` sends back for these bytes, until it closes.
async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers in text");
    answer
}

async fn get(addr: SocketAddr, headers: &str) -> (String, String) {
    let answer = raw(addr, &format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    (head.to_owned(), body.to_owned())
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("is bound");
    (listener, addr)
}

/// Reads one request's head and answers it; gives the head back.
async fn serve_once(listener: &TcpListener, answer: &str) -> io::Result<String> {
    let (mut stream, _) = listener.accept().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(answer.as_bytes()).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[tokio::test]
async fn api_calls_hello_calls_world() {
    let world = start(Options { text: "world".into(), pod_ip: Some("10.0.1.5".into()), ..local() }).await;
    let hello = start(Options { pod_ip: Some("10.0.5.4".into()), ..before(&world.addr()) }).await;
    let api = start(Options { text: "api".into(), json: true, ..before(&hello.addr()) }).await;

    assert_eq!(get(world.addr(), "").await.1, "world (10.0.1.5)!");
    assert_eq!(get(hello.addr(), "").await.1, "Hello (10.0.5.4) world (10.0.1.5)!!");
    let (head, body) = get(api.addr(), "").await;
    assert_eq!(body, r#"{"api_result":"api Hello (10.0.5.4) world (10.0.1.5)!!"}"#);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{head}");
    assert_eq!((api.requests(), hello.requests(), world.requests()), (1, 2, 3));
}

#[tokio::test]
async fn a_head_request_gets_the_length_and_no_body() {
    let world = start(local()).await;
    let answer = raw(world.addr(), "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("\r\nContent-Length: 6\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn context_goes_along_and_nothing_else_does() {
    let (world, addr) = listener().await;
    let hello = start(before(&addr)).await;
    let headers =
        "L5D-CTX-Trace: abc\r\nl5d-ctx-dtab: /a=>/b\r\nl5d-ctx-dtab: /c=>/d\r\nl5d-dtab: /x=>/y\r\nCookie: a=b\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let (seen, (_, body)) = tokio::join!(serve_once(&world, answer), get(hello.addr(), headers));

    assert_eq!(body, "Hello hi!");
    let seen = seen.expect("is called");
    let mut lines: Vec<_> = seen.trim_end().lines().collect();
    lines[1..].sort_unstable();
    let agent = format!("user-agent: helloworld/{}", env!("CARGO_PKG_VERSION"));
    let host = format!("host: {addr}");
    let mut expected = [host.as_str(), "l5d-ctx-dtab: /a=>/b", "l5d-ctx-trace: abc", agent.as_str()];
    expected.sort_unstable();
    assert_eq!(lines[0], "GET / HTTP/1.1");
    assert_eq!(lines[1..], expected);
}

#[tokio::test]
async fn a_call_through_the_proxy_has_the_whole_url_and_the_targets_host() {
    let (proxy, addr) = listener().await;
    let hello = start(Options { http_proxy: Some(addr.to_string()), ..before(&"world") }).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nworld!";
    let (seen, (_, body)) = tokio::join!(serve_once(&proxy, answer), get(hello.addr(), ""));

    assert_eq!(body, "Hello world!!");
    let seen = seen.expect("is called");
    assert!(seen.starts_with("GET http://world/ HTTP/1.1\r\nhost: world\r\n"), "{seen}");
}

#[tokio::test]
async fn a_target_that_does_not_answer_200_makes_503() {
    let world = start(Options { failure_rate: 1.0, ..local() }).await;
    let hello = start(before(&world.addr())).await;
    let (head, body) = get(hello.addr(), "").await;
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    assert!(head.contains("\r\nX-Content-Type-Options: nosniff"), "{head}");
    assert_eq!(body, "invalid response 500\n");

    world.set_failure_rate(0.0).expect("a rate");
    assert_eq!(get(hello.addr(), "").await.1, "Hello Hello!!");
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_makes_503() {
    // Bound, so that nobody else gets the port, and not listening.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let addr = socket.local_addr().expect("is bound");
    let hello = start(before(&addr)).await;
    let refused = format!("dial tcp {addr}: connect: connection refused");
    assert_eq!(get(hello.addr(), "").await.1, format!("Get \"http://{addr}\": {refused}\n"));

    let hello = start(Options { http_proxy: Some(addr.to_string()), ..before(&"world") }).await;
    assert_eq!(get(hello.addr(), "").await.1, format!("Get \"http://world\": proxyconnect tcp: {refused}\n"));
}

#[tokio::test]
async fn a_target_that_breaks_off_makes_503() {
    let (world, addr) = listener().await;
    let hello = start(before(&addr)).await;
    let (_, (_, body)) = tokio::join!(serve_once(&world, ""), get(hello.addr(), ""));
    assert_eq!(body, format!("Get \"http://{addr}\": EOF\n"));

    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi";
    let (_, (_, body)) = tokio::join!(serve_once(&world, cut), get(hello.addr(), ""));
    assert_eq!(body, "unexpected EOF\n");

    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat((1 << 20) + 1));
    let (_, (_, body)) = tokio::join!(serve_once(&world, &long), get(hello.addr(), ""));
    assert_eq!(body, "response body is over 1048576 bytes\n");
}

#[tokio::test]
async fn one_connection_to_the_target_serves_calls_in_turn_and_is_replaced_when_closed() {
    let (world, addr) = listener().await;
    let hello = start(before(&addr)).await;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let accepted = tokio::spawn(async move {
        let mut connections = 0;
        // Two requests on the first connection, which then closes, and one on the next.
        for requests in [2, 1] {
            let (mut stream, _) = world.accept().await?;
            connections += 1;
            for _ in 0..requests {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(answer).await?;
            }
        }
        io::Result::Ok(connections)
    });
    for _ in 0..3 {
        assert_eq!(get(hello.addr(), "").await.1, "Hello hi!");
    }
    assert_eq!(accepted.await.expect("no panic").expect("no error"), 2);
}

#[tokio::test]
async fn a_client_that_closed_its_side_is_answered() {
    let world = start(local()).await;
    let mut stream = TcpStream::connect(world.addr()).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("takes the request");
    stream.shutdown().await.expect("closes one side");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    assert!(answer.ends_with("\r\n\r\nHello!"), "{answer}");
}

#[tokio::test]
async fn shutdown_lets_a_request_end_and_then_refuses() {
    let (world, target) = listener().await;
    let hello = start(before(&target)).await;
    let addr = hello.addr();
    let client = tokio::spawn(async move { get(addr, "").await.1 });
    // The request is under way once it has reached the target.
    let (mut call, _) = world.accept().await.expect("is called");
    let ended = tokio::spawn(hello.shutdown());
    call.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.expect("answers");

    assert_eq!(client.await.expect("no panic"), "Hello hi!");
    ended.await.expect("no panic");
    let err = TcpStream::connect(addr).await.expect_err("nobody listens");
    assert_eq!(err.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn shutdown_closes_idle_connections() {
    let world = start(local()).await;
    let mut idle = TcpStream::connect(world.addr()).await.expect("connects");
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("takes the request");
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.expect("answers");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    world.shutdown().await;
    idle.read_to_end(&mut Vec::new()).await.expect("is closed");
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_named() {
    for addr in ["7777", "localhost", "x:y", ":99999", ""] {
        let err = serve(Options { addr: addr.into(), ..Options::default() }).await.expect_err("does not start");
        assert_eq!(err.to_string(), format!("address {addr:?} is not host:port or :port"));
    }
    let world = start(local()).await;
    let taken = world.addr().to_string();
    let err = serve(Options { addr: taken.clone(), ..Options::default() }).await.expect_err("is taken");
    assert!(matches!(err, ServeError::Listen { .. }), "{err:?}");
    assert_eq!(err.to_string(), format!("cannot listen on {taken}"));
}
