//! Connections on which nothing moves, on both sides.

use std::time::Duration;

use linkerd_core::http::{ClientConfig, ServerConfig, SocketOptions};
use tokio::time::timeout;

use super::peers::{Backend, Wire, endpoint, proxy};

const SOON: Duration = Duration::from_secs(10);

fn options(read_ms: Option<u64>, write_ms: Option<u64>) -> SocketOptions {
    let ms = |ms: Option<u64>| ms.map(Duration::from_millis);
    SocketOptions { read_timeout: ms(read_ms), write_timeout: ms(write_ms), ..SocketOptions::default() }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_left() {
    let (addr, _) = Backend::answering(["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let config = ServerConfig { socket: options(Some(200), None), ..ServerConfig::default() };
    let proxy = proxy(config, endpoint(addr, ClientConfig::default()));
    let mut client = Wire::connect(proxy.addr).await;
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.status(), 200);
    client.write("GET / HTT").await;
    assert!(timeout(SOON, client.is_closed()).await.unwrap());
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_has_failed() {
    let mut backend = Backend::new().await;
    let config = ClientConfig { socket: options(Some(200), None), ..ClientConfig::default() };
    let proxy = proxy(ServerConfig::default(), endpoint(backend.addr, config));
    let mut client = Wire::connect(proxy.addr).await;
    client.write("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let mut silent = backend.accept().await;
    assert!(silent.message(false).await.is_some());
    assert_eq!(timeout(SOON, client.message(false)).await.unwrap().unwrap().status(), 502);
    assert!(timeout(SOON, silent.is_closed()).await.unwrap());
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_left() {
    let mut backend = Backend::new().await;
    let config = ServerConfig { socket: options(None, Some(200)), ..ServerConfig::default() };
    let proxy = proxy(config, endpoint(backend.addr, ClientConfig::default()));
    let mut client = Wire::connect(proxy.addr).await;
    client.write("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let mut endless = backend.accept().await;
    assert!(endless.message(false).await.is_some());
    endless.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    // What nobody reads cannot be passed on, until it is given up.
    let chunk = vec![b'x'; 1 << 20];
    let filling = async {
        for _ in 0..1000 {
            if tokio::io::AsyncWriteExt::write_all(&mut endless.stream, &chunk).await.is_err() {
                return true;
            }
        }
        false
    };
    assert!(timeout(SOON, filling).await.unwrap());
}
