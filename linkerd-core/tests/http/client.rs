//! The client of an endpoint: its connections, and what it says when they fail.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use linkerd_core::{
    Body, Error, ErrorKind, Mesh, MeshBuilder, Svc,
    dtab::Endpoint,
    http::{ClientConfig, Connect, HttpConnect, PoolConfig},
    telemetry::{Registry, RouterStats},
};

use super::peers::{Backend, Message, Wire, endpoint};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn client(addr: SocketAddr) -> Svc {
    endpoint(addr, ClientConfig::default())
}

/// The same client below an engine, which keeps the only copy of a request.
fn engine(addr: SocketAddr) -> Svc {
    meshed(addr, PoolConfig::default(), |mesh| mesh)
}

/// And with layers in between, which may have changed the request.
fn layered(addr: SocketAddr) -> Svc {
    let stamp = tower::util::MapRequestLayer::new(|mut req: Request<Body>| {
        req.headers_mut().append("x-layer", http::HeaderValue::from_static("1"));
        req
    });
    meshed(addr, PoolConfig::default(), move |mesh| mesh.endpoint_layer(stamp))
}

fn meshed(addr: SocketAddr, pool: PoolConfig, layers: impl FnOnce(MeshBuilder) -> MeshBuilder) -> Svc {
    let dtab = format!("/svc => /$/inet/{}/{}", addr.ip(), addr.port());
    let connect = HttpConnect::new(ClientConfig { pool, ..ClientConfig::default() });
    let mesh = layers(Mesh::builder().dtab(dtab.parse().unwrap()).connect(connect)).build().unwrap();
    Svc::new(mesh.client("/svc").unwrap())
}

fn pooled(addr: SocketAddr, pool: PoolConfig) -> Svc {
    endpoint(addr, ClientConfig { pool, ..ClientConfig::default() })
}

fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(path).header("host", "web").body(body.into()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    request(Method::GET, path, "")
}

fn path(message: &Message) -> &str {
    message.first.split(' ').nth(1).unwrap()
}

async fn text(rsp: Response<Body>) -> String {
    String::from_utf8(rsp.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Sends a request that the endpoint answers on the given connection.
async fn exchange(svc: &Svc, conn: &mut Wire, path: &str) {
    let sent = tokio::spawn(svc.send(get(path)));
    let seen = conn.message(false).await.expect("a request");
    assert_eq!(self::path(&seen), path);
    conn.write(OK).await;
    assert_eq!(text(sent.await.unwrap().unwrap()).await, "ok");
}

/// Opens `N` connections that are idle after that; the last one was used last.
async fn idle<const N: usize>(svc: &Svc, backend: &mut Backend) -> [Wire; N] {
    let mut conns = Vec::new();
    let mut sent = Vec::new();
    for _ in 0..N {
        sent.push(tokio::spawn(svc.send(get("/"))));
        let mut conn = backend.accept().await;
        conn.message(false).await.unwrap();
        conns.push(conn);
    }
    for (conn, sent) in conns.iter_mut().zip(sent) {
        conn.write(OK).await;
        text(sent.await.unwrap().unwrap()).await;
    }
    conns.try_into().unwrap_or_else(|_| unreachable!())
}

/// Lets the tasks of connections see what the kernel has for them.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_connection_that_was_used_last_is_used_first() {
    let mut backend = Backend::new().await;
    let svc = client(backend.addr);
    let [mut first, mut second] = idle(&svc, &mut backend).await;
    exchange(&svc, &mut second, "/a").await;
    exchange(&svc, &mut second, "/b").await;
    let busy = tokio::spawn(svc.send(get("/busy")));
    assert_eq!(path(&second.message(false).await.unwrap()), "/busy");
    exchange(&svc, &mut first, "/c").await;
    assert!(backend.accepted().is_none());
    busy.abort();
}

#[tokio::test]
async fn an_idle_connection_that_closed_is_not_used_whatever_the_method() {
    let mut backend = Backend::new().await;
    let svc = client(backend.addr);
    let [first, second] = idle(&svc, &mut backend).await;
    drop((first, second));
    settle().await;
    let sent = tokio::spawn(svc.send(request(Method::POST, "/", "body")));
    let mut conn = backend.accept().await;
    assert_eq!(conn.message(false).await.unwrap().text(), "body");
    conn.write(OK).await;
    assert_eq!(sent.await.unwrap().unwrap().status(), 200);
}

/// Sends a request on a used connection, which the endpoint closes without an answer.
async fn lost(
    client: fn(SocketAddr) -> Svc,
    method: Method,
    body: &'static str,
    reply: &str,
) -> (Backend, tokio::task::JoinHandle<Result<Response<Body>, Error>>) {
    let mut backend = Backend::new().await;
    let svc = client(backend.addr);
    let [mut conn] = idle(&svc, &mut backend).await;
    let mut req = request(method, "/lost", body);
    req.extensions_mut().insert(7_u8);
    let sent = tokio::spawn(svc.send(req));
    conn.message(false).await.unwrap();
    conn.write(reply).await;
    drop(conn);
    (backend, sent)
}

const BODIES: [(Method, &str); 2] = [(Method::GET, ""), (Method::PUT, "body")];

#[tokio::test]
async fn an_idempotent_request_that_a_used_connection_lost_is_sent_once_more() {
    let clients = [(client as fn(_) -> _, 0), (engine, 0), (layered, 1)];
    for ((client, stamps), (method, body)) in clients.iter().flat_map(|client| BODIES.map(|body| (client, body))) {
        let (mut backend, sent) = lost(*client, method, body, "").await;
        let mut conn = backend.accept().await;
        let again = conn.message(false).await.unwrap();
        assert_eq!((path(&again), again.text()), ("/lost", body));
        assert_eq!(again.all("x-layer").len(), *stamps);
        drop(conn);
        // Not a third time: that connection was fresh.
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Closed, false));
        assert!(backend.accepted().is_none());
    }
}

#[tokio::test]
async fn the_second_time_goes_out_on_a_new_connection() {
    for (max_size, is_meshed) in [(2, false), (2, true), (usize::MAX, false), (usize::MAX, true)] {
        let mut backend = Backend::new().await;
        let pool = PoolConfig { max_size, ..PoolConfig::default() };
        let svc = if is_meshed { meshed(backend.addr, pool, |mesh| mesh) } else { pooled(backend.addr, pool) };
        let [mut first, mut second] = idle(&svc, &mut backend).await;
        let sent = tokio::spawn(svc.send(get("/lost")));
        second.message(false).await.unwrap();
        drop(second);
        // Where one was lost, another that is just as old may be.
        let mut third = backend.accept().await;
        assert_eq!(path(&third.message(false).await.unwrap()), "/lost");
        third.write(OK).await;
        assert_eq!(sent.await.unwrap().unwrap().status(), 200);
        if max_size == 2 {
            exchange(&svc, &mut third, "/next").await;
        } else {
            let busy = tokio::spawn(svc.send(get("/busy")));
            third.message(false).await.unwrap();
            exchange(&svc, &mut first, "/next").await;
            busy.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_their_own_answers() {
    const CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n";
    const LAST: &str = "HTTP/1.0 200 OK\r\n\r\nok";
    let (addr, seen) = Backend::cycling([OK, CLOSE, OK, CHUNKS, LAST]).await;
    let svc = pooled(addr, PoolConfig { max_size: 4, ..PoolConfig::default() });
    let clients = (0..16).map(|client| {
        let svc = svc.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let rsp = svc.send(get(&format!("/{client}/{n}"))).await.unwrap();
                assert_eq!(text(rsp).await, "ok");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 16 * 50);
}

#[tokio::test]
async fn no_other_request_is_sent_twice() {
    // Not idempotent; or the response had begun.
    let cases = [(Method::POST, ""), (Method::GET, "HTTP/1.1 200")];
    let clients = [client as fn(_) -> _, engine, layered];
    for (client, (method, reply)) in clients.iter().flat_map(|client| cases.clone().map(|case| (client, case))) {
        let (mut backend, sent) = lost(*client, method, "", reply).await;
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Closed, false));
        assert!(backend.accepted().is_none());
    }
}

#[tokio::test]
async fn a_fresh_connection_that_fails_is_the_callers_business() {
    let mut backend = Backend::new().await;
    let sent = tokio::spawn(client(backend.addr).send(get("/")));
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    drop(conn);
    let error = sent.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Closed, false));
    assert!(backend.accepted().is_none());
}

#[tokio::test]
async fn a_request_that_could_not_be_sent_comes_back_whole() {
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut req = request(Method::POST, "/x", "body");
    req.extensions_mut().insert("kept");
    let mut error = client(refused).send(req).await.unwrap_err();
    assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Connect, true));
    let req = error.take_request().unwrap();
    assert_eq!((req.method(), req.uri().path()), (&Method::POST, "/x"));
    assert_eq!(req.extensions().get(), Some(&"kept"));
    assert_eq!(req.into_body().collect().await.unwrap().to_bytes(), "body");
    assert!(error.take_request().is_none());
}

#[tokio::test]
async fn a_full_pool_lets_some_wait_and_refuses_the_rest() {
    let mut backend = Backend::new().await;
    let svc = pooled(backend.addr, PoolConfig { max_size: 1, max_waiters: 1, ..PoolConfig::default() });
    let busy = tokio::spawn(svc.send(get("/busy")));
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    let waiting = tokio::spawn(svc.send(get("/waits")));
    tokio::task::yield_now().await;
    let mut error = svc.send(get("/refused")).await.unwrap_err();
    assert_eq!((error.kind(), error.never_sent()), (ErrorKind::Overloaded, true));
    assert_eq!(error.take_request().unwrap().uri().path(), "/refused");

    // One that gave up makes room in line.
    waiting.abort();
    let _ = waiting.await;
    let waiting = tokio::spawn(svc.send(get("/waits")));
    tokio::task::yield_now().await;
    conn.write(OK).await;
    assert_eq!(text(busy.await.unwrap().unwrap()).await, "ok");
    assert_eq!(path(&conn.message(false).await.unwrap()), "/waits");
    conn.write(OK).await;
    assert_eq!(text(waiting.await.unwrap().unwrap()).await, "ok");
    assert!(backend.accepted().is_none());
}

#[tokio::test]
async fn a_connection_that_closes_gives_its_place_to_who_waits() {
    let mut backend = Backend::new().await;
    let svc = pooled(backend.addr, PoolConfig { max_size: 1, ..PoolConfig::default() });
    let busy = tokio::spawn(svc.send(get("/busy")));
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    let waiting = tokio::spawn(svc.send(get("/waits")));
    tokio::task::yield_now().await;
    conn.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(text(busy.await.unwrap().unwrap()).await, "ok");
    let mut conn = backend.accept().await;
    assert_eq!(path(&conn.message(false).await.unwrap()), "/waits");
    conn.write(OK).await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_response_dropped_half_way_closes_its_connection() {
    let mut backend = Backend::new().await;
    let svc = client(backend.addr);
    let sent = tokio::spawn(svc.send(get("/")));
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    conn.write("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nabc").await;
    let rsp = sent.await.unwrap().unwrap();
    drop(rsp);
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn a_streamed_response_gives_its_connection_back_at_its_end() {
    let mut backend = Backend::new().await;
    let svc = client(backend.addr);
    let sent = tokio::spawn(svc.send(get("/")));
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut rsp = sent.await.unwrap().unwrap();
    assert_eq!(rsp.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    // Not before.
    let other = tokio::spawn(svc.send(get("/other")));
    let mut second = backend.accept().await;
    second.message(false).await.unwrap();
    conn.write("0\r\n\r\n").await;
    assert!(rsp.body_mut().frame().await.is_none());
    settle().await;
    exchange(&svc, &mut conn, "/again").await;
    other.abort();
}

#[tokio::test]
async fn an_early_response_keeps_its_connection_until_the_request_is_sent() {
    let mut backend = Backend::new().await;
    let svc = client(backend.addr);
    let (body, receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(1).into_body();
    let sent = tokio::spawn(svc.send(request(Method::POST, "/early", receiver)));
    let mut conn = backend.accept().await;
    conn.head().await.unwrap();
    conn.write(OK).await;
    assert_eq!(text(sent.await.unwrap().unwrap()).await, "ok");
    let other = tokio::spawn(svc.send(get("/other")));
    let mut second = backend.accept().await;
    assert_eq!(path(&second.message(false).await.unwrap()), "/other");
    body.send("late".into()).await.unwrap();
    drop(body);
    assert_eq!(conn.line().await.as_deref(), Some("4"));
    assert_eq!(conn.line().await.as_deref(), Some("late"));
    assert_eq!(conn.line().await.as_deref(), Some("0"));
    assert_eq!(conn.line().await.as_deref(), Some(""));
    settle().await;
    exchange(&svc, &mut conn, "/again").await;
    other.abort();
}

#[tokio::test]
async fn a_short_answer_that_is_cut_is_a_failure_and_a_long_one_breaks_off() {
    for len in [10, 100_000] {
        let mut backend = Backend::new().await;
        let sent = tokio::spawn(client(backend.addr).send(get("/")));
        let mut conn = backend.accept().await;
        conn.message(false).await.unwrap();
        conn.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\nabc")).await;
        drop(conn);
        let result = sent.await.unwrap();
        if len == 10 {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
        } else {
            assert!(result.unwrap().into_body().collect().await.is_err());
        }
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_bad_response() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 0\r\n\r\n", "r".repeat(9000));
    for answer in [
        "NOT HTTP AT ALL\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        &long,
    ] {
        let mut backend = Backend::new().await;
        let sent = tokio::spawn(client(backend.addr).send(get("/")));
        let mut conn = backend.accept().await;
        conn.message(false).await.unwrap();
        conn.write(answer).await;
        let error = sent.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.never_sent()), (ErrorKind::BadResponse, false), "{answer:.80}");
        assert!(conn.is_closed().await, "{answer:.80}");
    }
}

#[tokio::test]
async fn idle_connections_end_after_their_time_but_for_the_least_number() {
    let mut backend = Backend::new().await;
    let idle_time = Some(Duration::from_millis(30));
    let svc = pooled(backend.addr, PoolConfig { min_size: 1, idle_time, ..PoolConfig::default() });
    let [mut first, mut second, mut third] = idle(&svc, &mut backend).await;
    assert!(first.is_closed().await);
    assert!(second.is_closed().await);
    exchange(&svc, &mut third, "/kept").await;
}

#[tokio::test]
async fn a_connection_past_its_age_serves_no_further_request() {
    let mut backend = Backend::new().await;
    let svc = pooled(backend.addr, PoolConfig { max_age: Some(Duration::ZERO), ..PoolConfig::default() });
    let [mut first] = idle(&svc, &mut backend).await;
    let [_second] = idle(&svc, &mut backend).await;
    assert!(first.is_closed().await);
}

#[tokio::test]
async fn the_idle_connections_of_a_dropped_client_close() {
    let mut backend = Backend::new().await;
    let svc = client(backend.addr);
    let [mut conn] = idle(&svc, &mut backend).await;
    drop(svc);
    assert!(conn.is_closed().await);
}

#[tokio::test]
async fn a_targets_authority_becomes_the_host() {
    let (addr, seen) = Backend::answering([OK]).await;
    let svc = client(addr);
    let req = Request::builder().uri("http://users:80/a?b").body(Body::empty()).unwrap();
    svc.send(req).await.unwrap();
    let req = Request::builder().uri("http://users/").header("host", "own").body(Body::empty()).unwrap();
    svc.send(req).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].first.as_str(), seen[0].all("host")), ("GET /a?b HTTP/1.1", vec!["users:80"]));
    assert_eq!(seen[1].all("host"), ["own"]);
}

/// A body that is sent as it is given.
trait IntoStream {
    fn into_body(self) -> (tokio::sync::mpsc::Sender<bytes::Bytes>, Body);
}

impl IntoStream for (tokio::sync::mpsc::Sender<bytes::Bytes>, tokio::sync::mpsc::Receiver<bytes::Bytes>) {
    fn into_body(self) -> (tokio::sync::mpsc::Sender<bytes::Bytes>, Body) {
        let (sender, receiver) = self;
        let frames = futures::stream::unfold(receiver, |mut receiver| async {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes)), receiver))
        });
        (sender, Body::new(http_body_util::StreamBody::new(frames)))
    }
}

#[tokio::test]
async fn connections_are_counted() {
    let registry = Registry::new();
    let stats = Arc::new(RouterStats::new(&registry, "http").client(&"/#/io.l5d.fs/web".parse().unwrap()));
    let mut backend = Backend::new().await;
    let pool = PoolConfig { max_size: 1, max_waiters: 1, ..PoolConfig::default() };
    let connect = HttpConnect::new(ClientConfig { pool, ..ClientConfig::default() });
    let svc = connect.connect_counted(&Endpoint::new(backend.addr), &stats);
    let pool = || {
        let pool = &stats.pool;
        (stats.connections.get(), pool.size.get(), pool.cached.get(), pool.waiters.get())
    };

    let busy = tokio::spawn(svc.send(get("/busy")));
    let mut conn = backend.accept().await;
    conn.message(false).await.unwrap();
    let waiting = tokio::spawn(svc.send(get("/waits")));
    tokio::task::yield_now().await;
    assert_eq!(pool(), (1, 1, 0, 1));
    svc.send(get("/refused")).await.unwrap_err();
    assert_eq!((stats.pool.num_waited.get(), stats.pool.num_too_many_waiters.get()), (1, 1));
    waiting.abort();
    let _ = waiting.await;
    conn.write(OK).await;
    text(busy.await.unwrap().unwrap()).await;
    settle().await;
    assert_eq!(pool(), (1, 0, 1, 0));
    assert_eq!((stats.connects.get(), stats.received_bytes.get()), (1, OK.len() as u64));
    assert!(stats.sent_bytes.get() > 0);
    drop(svc);
    assert!(conn.is_closed().await);
    settle().await;
    assert_eq!(pool(), (0, 0, 0, 0));

    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let svc = connect.connect_counted(&Endpoint::new(refused), &stats);
    svc.send(get("/")).await.unwrap_err();
    assert_eq!((stats.connects.get(), pool()), (1, (0, 0, 0, 0)));
}
