//! A proxy on loopback: HTTP/1.1 keep-alive, answers of 1 KiB, client, proxy and endpoint on one thread.
//!
//! Beside it the same client straight to the endpoint: the difference is the proxy's, plus what the kernel takes for two
//! more passages. For numbers to compare with other proxies see the README.

use std::{convert::Infallible, net::SocketAddr};

use benches::{Static, path, run, runtime};
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use linkerd_core::{
    Mesh, Svc,
    http::{Server, ServerConfig},
    identify::HeaderToken,
};
use tokio::net::{TcpListener, TcpStream};

fn main() {
    run(&[e2e]);
}

async fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let answer = service_fn(|_: Request<Incoming>| {
                let body = Full::new(Bytes::from_static(&[b'x'; 1024]));
                std::future::ready(Ok::<_, Infallible>(Response::new(body)))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    addr
}

fn proxy(endpoint: SocketAddr) -> SocketAddr {
    let mesh = Mesh::builder()
        .namer("/#/static", Static::new([endpoint]))
        .dtab("/svc => /#/static".parse().expect("a table"))
        .proxy(true)
        .build()
        .expect("a mesh");
    let config = ServerConfig { addr: ([127, 0, 0, 1], 0).into(), ..ServerConfig::default() };
    let server = Server::bind(config).expect("a free port");
    let addr = server.local_addr();
    let svc = Svc::new(mesh.router(HeaderToken::host(path("/svc"))));
    tokio::spawn(server.serve(svc, std::future::pending()));
    addr
}

async fn connect(addr: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    stream.set_nodelay(true).expect("an open socket");
    let (sender, conn) = handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(conn);
    sender
}

async fn get(sender: &mut SendRequest<Empty<Bytes>>) {
    sender.ready().await.expect("an open connection");
    let req = Request::get("/").header("host", "web").body(Empty::new()).expect("a request");
    let rsp = sender.send_request(req).await.expect("a response");
    assert_eq!(rsp.status(), 200);
    assert_eq!(rsp.into_body().collect().await.expect("a body").to_bytes().len(), 1024);
}

fn e2e(c: &mut Criterion) {
    let runtime = runtime();
    let (direct, proxied) = runtime.block_on(async {
        let endpoint = endpoint().await;
        (endpoint, proxy(endpoint))
    });
    let mut group = c.benchmark_group("e2e");
    group.throughput(Throughput::Elements(1));
    for (name, addr) in [("direct", direct), ("proxied", proxied)] {
        let mut sender = runtime.block_on(connect(addr));
        group.bench_function(name, |b| b.iter(|| runtime.block_on(get(&mut sender))));
    }
    group.finish();
}
