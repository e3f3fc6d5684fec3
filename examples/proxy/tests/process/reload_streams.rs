//! Reloads under load: no request fails, and what is open stays open.
//!
//! `RELOADS` is how many there are: `just reloads` has 500.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    harness::{Conn, Folder, LONG, Linkerd, server},
    live::Load,
};

async fn within<F: Future>(future: F) -> F::Output {
    timeout(LONG, future).await.expect("in time")
}

/// An endpoint that switches protocols with whoever asks, and says what it hears.
async fn switching() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    addr
}

async fn head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
}

/// An endpoint of HTTP/2 that sends back what comes, on each stream for as long as it is open.
async fn echoing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut conn = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((req, mut respond))) = conn.accept().await {
                    tokio::spawn(async move {
                        let mut body = req.into_body();
                        let mut answer = respond.send_response(Response::new(()), false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            answer.send_data(data, false).unwrap();
                        }
                        answer.send_data(Bytes::new(), true).unwrap();
                    });
                }
            });
        }
    });
    addr
}

fn config(to: &str, servers: usize) -> String {
    let more = "  - port: 0\n".repeat(servers);
    format!(
        "\
admin: {{port: 0}}
reload: {{watch: false}}
namers:
- {{kind: io.l5d.fs, rootDir: disco}}
routers:
- protocol: http
  dtab: /svc => /#/io.l5d.fs; /svc/web => /#/io.l5d.fs/{to};
  servers:
{more}- protocol: h2
  dtab: /svc => /#/io.l5d.fs; /svc/unused => /#/io.l5d.fs/{to};
  servers:
  - port: 0
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_survives_reloads_and_no_request_fails() {
    let reloads = std::env::var("RELOADS").map_or(50, |reloads| reloads.parse().unwrap());
    let folder = Folder::new();
    let (a, b) = (server("a").await, server("b").await);
    for (name, addr) in [("a", a.addr()), ("b", b.addr()), ("chat", switching().await), ("echo", echoing().await)] {
        folder.list(name, &[addr]);
    }
    let linkerd = Linkerd::start(&folder, &config("a", 1)).await;
    let [http, h2] = linkerd.servers[..] else { panic!("{:?}", linkerd.servers) };

    let mut chat = TcpStream::connect(http).await.unwrap();
    chat.write_all(b"GET / HTTP/1.1\r\nHost: chat\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    head(&mut chat).await;
    let (mut streams, conn) = h2::client::handshake(TcpStream::connect(h2).await.unwrap()).await.unwrap();
    tokio::spawn(conn);
    let request = || Request::post("http://echo/").header("te", "trailers").body(()).unwrap();
    let (response, mut sends) = streams.send_request(request(), false).unwrap();
    let mut echo = within(response).await.unwrap().into_body();
    let mut open = Conn::open(http).await;
    let load = Load::start(http);

    for i in 0..reloads {
        let to = if i % 2 == 0 { "b" } else { "a" };
        let answer = linkerd.reload(&config(to, 1 + i % 2)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // From now on, and on connections that were open before.
        assert_eq!(open.get("/", "web", &[]).await.body, format!("{to}!"), "reload {i}");
        let word = format!("{i:08}");
        chat.write_all(word.as_bytes()).await.unwrap();
        let mut heard = [0; 8];
        within(chat.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, word.as_bytes());
        sends.send_data(word.clone().into(), false).unwrap();
        let data = within(echo.data()).await.unwrap().unwrap();
        echo.flow_control().release_capacity(data.len()).unwrap();
        assert_eq!(data, word.as_bytes());
        // And new streams of the same connection are served.
        let (response, mut ends) = streams.send_request(request(), false).unwrap();
        ends.send_data(Bytes::new(), true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
    }

    let (failures, total) = load.stop().await;
    assert_eq!(failures, Vec::<String>::new(), "of {total}");
    assert!(total > reloads, "{total}");
    assert_eq!(linkerd.metric("config/reloads").await, Some(reloads as f64));
    sends.send_data(Bytes::new(), true).unwrap();
    assert!(within(echo.data()).await.is_none_or(|last| last.unwrap().is_empty()));
    drop(chat);
    // What was replaced does not pile up.
    let threads = async || linkerd.metric("jvm/fd_count").await.filter(|files| *files < 150.0);
    crate::harness::eventually("closed files", threads).await;
    tokio::time::sleep(Duration::ZERO).await;
}
