//! The connections to an endpoint.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use linkerd_core::{
    ErrorKind, Mesh, Timer,
    http::{ClientConfig, H2Config, HttpConnect, PoolConfig, Wire},
    telemetry::{Reading, Registry, RouterStats},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::peers::{Answer, Backend, Client, Frozen, get, h2_client, h2_server, routed, serve, until, within};

#[tokio::test]
async fn a_further_connection_is_opened_before_the_streams_run_out() {
    let mut backend = Backend::with(h2::server::Builder::new().max_concurrent_streams(10)).await;
    let client = Client::connect(serve(h2_server(), routed(backend.addr, h2_client()))).await;
    let mut asked = Vec::new();
    for _ in 0..100 {
        asked.push(client.open(get("http://web/"), true).await.0);
    }
    let mut seen = Vec::new();
    for _ in 0..100 {
        seen.push(backend.accept().await);
    }
    let connections = backend.connections.load(Ordering::SeqCst);
    assert!((10..=14).contains(&connections), "{connections}");
    for stream in seen {
        stream.answer(200, "");
    }
    for response in asked {
        assert_eq!(Answer::read(response).await.unwrap().head.status(), 200);
    }
}

/// An endpoint that counts the requests it gets, answers none, and says anew how many it takes.
struct Counting {
    addr: SocketAddr,
    seen: Arc<AtomicUsize>,
    limit: mpsc::Sender<u8>,
}

impl Counting {
    async fn new(first: u8) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<AtomicUsize>::default();
        let (limit, mut limits) = mpsc::channel::<u8>(1);
        let count = Arc::clone(&seen);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            from.read_exact(&mut [0; 24]).await.unwrap();
            // SETTINGS_MAX_CONCURRENT_STREAMS.
            to.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, first]).await.unwrap();
            tokio::spawn(async move {
                while let Some(limit) = limits.recv().await {
                    to.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, limit]).await.unwrap();
                }
            });
            let mut head = [0; 9];
            while from.read_exact(&mut head).await.is_ok() {
                let len = usize::from(head[1]) << 8 | usize::from(head[2]);
                from.read_exact(&mut vec![0; len]).await.unwrap();
                // HEADERS.
                count.fetch_add(usize::from(head[3] == 1), Ordering::SeqCst);
            }
        });
        Self { addr, seen, limit }
    }

    async fn has_seen(&self, count: usize) {
        until(|| self.seen.load(Ordering::SeqCst) >= count).await;
        assert_eq!(self.seen.load(Ordering::SeqCst), count);
    }
}

#[tokio::test]
async fn what_an_endpoint_takes_may_change_while_requests_wait() {
    let endpoint = Counting::new(1).await;
    let h2 = H2Config { max_connections: 1, ..H2Config::default() };
    let config = ClientConfig { wire: Wire::H2(h2), ..ClientConfig::default() };
    let client = Client::connect(serve(h2_server(), routed(endpoint.addr, config))).await;
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(client.open(get("http://web/"), true).await.0);
    }
    endpoint.has_seen(1).await;
    endpoint.limit.send(3).await.unwrap();
    endpoint.has_seen(3).await;
    // Fewer than there are: those go on, and no other begins.
    endpoint.limit.send(2).await.unwrap();
    drop(asked.drain(..2));
    endpoint.limit.send(5).await.unwrap();
    endpoint.has_seen(5).await;
}

#[tokio::test]
async fn an_endpoint_that_says_goodbye_finishes_what_it_began_and_gets_no_more() {
    let (mut backend, client) = super::peers::through().await;
    let (old, _) = client.open(get("http://web/old"), true).await;
    let seen = backend.accept().await;
    assert_eq!(seen.connection, 0);
    backend.say_goodbye();
    // The old one goes on, and what comes now goes over a new one.
    for _ in 0..5 {
        let (new, _) = client.open(Request::post("http://web/new").body(()).unwrap(), true).await;
        let stream = backend.accept().await;
        let connection = stream.connection;
        stream.answer(200, "new");
        assert_eq!(Answer::read(new).await.unwrap().body, b"new");
        if connection == 1 {
            seen.answer(200, "old");
            assert_eq!(Answer::read(old).await.unwrap().body, b"old");
            return;
        }
    }
    panic!("no further connection");
}

/// An endpoint that takes one request of so many, and says goodbye to the others before it looked at them; then one that
/// answers all.
async fn leave_out(listener: TcpListener, streams: usize) {
    const PREFACE: usize = 24;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The last stream is the first one; no error.
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let (mut conn, _) = listener.accept().await.unwrap();
    conn.read_exact(&mut [0; PREFACE]).await.unwrap();
    conn.write_all(&SETTINGS).await.unwrap();
    let mut asked = 0;
    while asked < streams {
        let mut head = [0; 9];
        conn.read_exact(&mut head).await.unwrap();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        conn.read_exact(&mut vec![0; len]).await.unwrap();
        // HEADERS
        asked += usize::from(head[3] == 1);
    }
    conn.write_all(&GOAWAY).await.unwrap();
    // `:status: 200`, and that is all.
    conn.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]).await.unwrap();
    let mut backend = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
    while let Some(Ok((_, mut respond))) = backend.accept().await {
        respond.send_response(http::Response::new(()), true).unwrap();
    }
}

#[tokio::test]
async fn who_is_left_out_of_a_goodbye_is_served_elsewhere_and_nobody_is_blamed() {
    // More than the failures in a row that close an endpoint.
    const STREAMS: usize = 8;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect(serve(h2_server(), routed(listener.local_addr().unwrap(), h2_client()))).await;
    tokio::spawn(leave_out(listener, STREAMS));
    let mut asked = Vec::new();
    for i in 0..STREAMS {
        asked.push(client.open(get(&format!("http://web/{i}")), true).await.0);
    }
    for response in asked {
        assert_eq!(within(Answer::read(response)).await.unwrap().head.status(), 200);
    }
}

#[tokio::test]
async fn a_connection_ends_when_it_is_idle_or_old_but_not_in_the_middle_of_a_stream() {
    for pool in [
        PoolConfig { idle_time: Some(Duration::from_millis(50)), ..PoolConfig::default() },
        PoolConfig { max_age: Some(Duration::from_millis(50)), ..PoolConfig::default() },
    ] {
        let mut backend = Backend::new().await;
        let config = ClientConfig { pool, ..h2_client() };
        let client = Client::connect(serve(h2_server(), routed(backend.addr, config))).await;
        let (long, _) = client.open(get("http://web/long"), true).await;
        let seen = backend.accept().await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        seen.answer(200, "long");
        assert_eq!(Answer::read(long).await.unwrap().body, b"long");
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(client.ask_ok(&mut backend).await);
        assert_eq!(backend.connections.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn who_waits_for_a_connection_that_cannot_be_opened_hears_why() {
    let gone = Backend::new().await.addr;
    until(|| std::net::TcpStream::connect(gone).is_err()).await;
    let client = Client::connect(serve(h2_server(), routed(gone, h2_client()))).await;
    let mut asked = Vec::new();
    for _ in 0..20 {
        asked.push(client.open(get("http://web/"), true).await.0);
    }
    for response in asked {
        assert_eq!(Answer::read(response).await.unwrap().head.status(), 502);
    }
}

#[tokio::test]
async fn a_connection_whose_peer_is_gone_is_found_out_within_five_seconds() {
    let endpoint = Frozen::new().await;
    let client = Client::connect(serve(h2_server(), routed(endpoint.addr, h2_client()))).await;
    let (lost, _) = client.open(Request::post("http://web/").body(()).unwrap(), true).await;
    within(endpoint.heard.notified()).await;
    // From here on time passes as soon as nothing else happens.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let error = Answer::read(lost).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "it may have been served");
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
    tokio::time::resume();
    assert_eq!(client.ask(get("http://web/")).await.unwrap().head.status(), 200);
}

#[tokio::test]
async fn an_error_says_that_the_silence_of_its_peer_is_why() {
    let endpoint = Frozen::new().await;
    let registry = Registry::new();
    let mesh = Mesh::builder()
        .dtab(format!("/svc => /$/inet/127.0.0.1/{}", endpoint.addr.port()).parse().unwrap())
        .connect(HttpConnect::new(h2_client()))
        .metrics(RouterStats::new(&registry, "r"));
    let mesh = mesh.build().unwrap();
    let client = mesh.client("/svc/web").unwrap();
    let lost = tokio::spawn(async move { client.send(Request::post("/").body("").unwrap()).await });
    within(endpoint.heard.notified()).await;
    tokio::time::pause();
    let error = lost.await.unwrap().unwrap_err();
    let timer = error.timer().unwrap();
    assert_eq!((error.kind(), timer.timer, timer.limit), (ErrorKind::Closed, Timer::Silence, Duration::from_secs(3)));
    assert_eq!(timer.set_by, "client.h2.silence");
    let expected = format!("no sign of life from {} for 3s, and no answer to a ping", endpoint.addr);
    assert_eq!(error.text(), expected);
    let mut counted = 0;
    registry.visit(|path, reading| {
        if path.ends_with(&["timeouts".into(), "silence".into()]) && reading == Reading::Counter(1) {
            counted += 1;
        }
    });
    assert_eq!(counted, 2, "of the name, and of its client");
    drop(mesh);
}

#[tokio::test]
async fn a_peer_that_is_slow_but_there_is_not_given_up() {
    let (mut backend, client) = super::peers::through().await;
    assert!(client.ask_ok(&mut backend).await);
    let (slow, _) = client.open(get("http://web/"), true).await;
    let seen = backend.accept().await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_mins(1)).await;
    tokio::time::resume();
    seen.answer(200, "ok");
    assert_eq!(Answer::read(slow).await.unwrap().body, b"ok");
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}
