//! Connections that become something else than HTTP.

use std::time::Duration;

use linkerd_core::{
    http::{ClientConfig, PoolConfig, ServerConfig},
    telemetry::{Reading, Registry, RouterStats},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::peers::{Backend, Proxy, Wire, endpoint, log, logged, proxy};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: keep-alive, Upgrade\r\nKeep-Alive: 5\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: y\r\n\r\nhello";
const SOON: Duration = Duration::from_secs(10);

async fn read(wire: &mut Wire, len: usize) -> String {
    let mut bytes = vec![0; len];
    timeout(SOON, wire.stream.read_exact(&mut bytes)).await.expect("bytes in time").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Both ends of a tunnel, and what is between.
async fn tunnel(config: ServerConfig) -> (Wire, Wire, Proxy) {
    let mut backend = Backend::new().await;
    let pool = PoolConfig { max_size: 1, max_waiters: 0, ..PoolConfig::default() };
    let proxy = proxy(config, endpoint(backend.addr, ClientConfig { pool, ..ClientConfig::default() }));
    let mut client = Wire::connect(proxy.addr).await;
    client.write(ASK).await;
    let mut server = backend.accept().await;
    let req = server.message(false).await.unwrap();
    assert_eq!((req.get("connection"), req.get("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(req.get("sec-websocket-key"), Some("x"));
    server.write(SWITCH).await;
    let rsp = client.head().await.unwrap();
    assert_eq!((rsp.status(), rsp.get("connection"), rsp.get("upgrade")), (101, Some("upgrade"), Some("websocket")));
    assert_eq!(rsp.get("sec-websocket-accept"), Some("y"));
    // What came right behind the head is not lost.
    assert_eq!(client.rest(5).await, "hello");
    (client, server, proxy)
}

fn gauge(registry: &Registry, name: &str) -> Option<f64> {
    let mut found = None;
    registry.visit(|path, reading| {
        if path.last().is_some_and(|last| **last == *name) && path.iter().any(|part| **part == *"server") {
            found = match reading {
                Reading::Counter(count) => Some(count as f64),
                Reading::Gauge(value) => Some(value),
                Reading::Stat(_) => None,
            };
        }
    });
    found
}

#[tokio::test]
async fn bytes_go_both_ways_until_both_have_closed() {
    let registry = Registry::new();
    let stats = Some(RouterStats::new(&registry, "r"));
    let (mut client, mut server, proxy) = tunnel(ServerConfig { stats, ..ServerConfig::default() }).await;
    for _ in 0..3 {
        client.write("ping").await;
        assert_eq!(read(&mut server, 4).await, "ping");
        server.write("pong!").await;
        assert_eq!(read(&mut client, 5).await, "pong!");
    }
    assert_eq!((gauge(&registry, "tunnels"), gauge(&registry, "upgrades")), (Some(1.0), Some(1.0)));
    // Its connection is one of the pool's, and its request is still being served.
    assert_eq!(gauge(&registry, "pending"), Some(1.0));
    let mut other = Wire::connect(proxy.addr).await;
    assert_eq!(other.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.status(), 503);
    client.stream.shutdown().await.unwrap();
    assert_eq!(timeout(SOON, server.stream.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    // The other half is still open.
    server.write("last").await;
    assert_eq!(read(&mut client, 4).await, "last");
    drop(server);
    assert!(timeout(SOON, client.is_closed()).await.unwrap());
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((gauge(&registry, "tunnels"), gauge(&registry, "pending")), (Some(0.0), Some(0.0)));
    proxy.stop.send(()).unwrap();
    assert_eq!(timeout(SOON, proxy.ended).await.unwrap().unwrap().aborted, 0);
}

#[tokio::test]
async fn a_tunnel_ends_when_no_byte_passes_for_long() {
    let idle_time = Some(Duration::from_millis(200));
    let (mut client, mut server, _proxy) = tunnel(ServerConfig { idle_time, ..ServerConfig::default() }).await;
    assert!(timeout(SOON, client.is_closed()).await.unwrap());
    assert!(timeout(SOON, server.is_closed()).await.unwrap());
}

#[tokio::test]
async fn a_tunnel_has_the_grace_period_to_end() {
    let grace = Duration::from_millis(100);
    let (mut client, mut server, proxy) = tunnel(ServerConfig { grace, ..ServerConfig::default() }).await;
    proxy.stop.send(()).unwrap();
    client.write("ping").await;
    assert_eq!(read(&mut server, 4).await, "ping");
    assert_eq!(timeout(SOON, proxy.ended).await.unwrap().unwrap().aborted, 1);
    assert!(timeout(SOON, client.is_closed()).await.unwrap());
}

#[tokio::test]
async fn an_endpoint_need_not_switch() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno";
    let (addr, seen) = Backend::answering([answer]).await;
    let proxy = proxy(ServerConfig::default(), endpoint(addr, ClientConfig::default()));
    let mut client = Wire::connect(proxy.addr).await;
    for _ in 0..2 {
        let rsp = client.ask(ASK).await;
        assert_eq!((rsp.status(), rsp.text()), (200, "no"));
    }
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_not_passed_on_is_not_asked_for() {
    for (upgrades, ask) in [
        (false, ASK.to_owned()),
        (true, ASK.replace("websocket", "h2c")),
        (true, ASK.replace("keep-alive, Upgrade", "keep-alive")),
    ] {
        let (addr, seen) = Backend::answering([SWITCH]).await;
        let config = ServerConfig { upgrades, ..ServerConfig::default() };
        let proxy = proxy(config, endpoint(addr, ClientConfig::default()));
        let rsp = Wire::connect(proxy.addr).await.ask(&ask).await;
        // An endpoint that switches nevertheless is at fault.
        assert_eq!(rsp.status(), 502, "{ask}");
        let seen = seen.lock().unwrap();
        assert_eq!((seen[0].get("connection"), seen[0].get("upgrade")), (None, None), "{ask}");
    }
}

#[tokio::test]
async fn only_a_protocol_that_was_offered_becomes_a_tunnel() {
    for (offered, switched, is_tunnel) in [
        ("websocket", "Upgrade: websocket\r\n", true),
        ("websocket", "Upgrade: WebSocket\r\n", true),
        ("foo/2, websocket", "Upgrade: foo/2\r\n", true),
        ("tls/1.0, foo/2", "Upgrade: TLS/1.0, foo/2\r\n", true),
        ("websocket", "Upgrade: h2c\r\n", false),
        ("websocket", "Upgrade: web\r\n", false),
        ("websocket", "Upgrade: websocket, h2c\r\n", false),
        ("websocket", "Upgrade: websocket\r\nUpgrade: h2c\r\n", false),
        ("foo/2", "Upgrade: foo/1\r\n", false),
        ("websocket", "Upgrade:\r\n", false),
        ("websocket", "", false),
    ] {
        let mut backend = Backend::new().await;
        let proxy = proxy(ServerConfig::default(), endpoint(backend.addr, ClientConfig::default()));
        let mut client = Wire::connect(proxy.addr).await;
        client.write(ASK.replace("websocket", offered)).await;
        let mut server = backend.accept().await;
        assert_eq!(server.message(false).await.unwrap().get("upgrade"), Some(offered));
        server.write(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{switched}\r\nhello")).await;
        let rsp = client.head().await.unwrap();
        assert_eq!(rsp.status(), if is_tunnel { 101 } else { 502 }, "{offered}: {switched}");
        assert_eq!(rsp.get("l5d-err").is_none(), is_tunnel, "{offered}: {switched}");
        if !is_tunnel {
            // Whatever the endpoint says then is nobody's.
            assert!(server.is_closed().await, "{offered}: {switched}");
        }
    }
}

#[tokio::test]
async fn there_are_no_tunnels_to_anywhere() {
    let (addr, seen) = Backend::answering(["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let proxy = proxy(ServerConfig::default(), endpoint(addr, ClientConfig::default()));
    let rsp = Wire::connect(proxy.addr).await.ask("CONNECT web:443 HTTP/1.1\r\nHost: web:443\r\n\r\n").await;
    assert_eq!((rsp.status(), rsp.text()), (400, "CONNECT is not supported: there are no tunnels here"));
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_tunnel_has_a_line_in_the_log_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.log");
    let log = log(&file, "{method} {uri} {status} {flag} {end}");
    let (client, server, _proxy) = tunnel(ServerConfig { access_log: Some(log), ..ServerConfig::default() }).await;
    drop((client, server));
    assert_eq!(logged(&file, 1).await, ["GET /chat 101 - complete"]);
}
