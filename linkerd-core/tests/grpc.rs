//! gRPC through a proxy: tonic's client in front of it, tonic's server behind it.
#![cfg(feature = "server")]

use std::{
    future::ready,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use futures::{Stream, StreamExt, stream};
use http::{Uri, uri::PathAndQuery};
use linkerd_core::{
    Body, BoxError, ClientPolicy, GrpcClassifier, Mesh, Policies, ServicePolicy, Svc, Typed,
    dtab::{Dtab, Path},
    http::{ClientConfig, H2Config, HttpConnect, Server, ServerConfig, Wire},
    identify::H2Path,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_test::assert_ok;
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tower::service_fn;

/// Messages that are bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// What the server was asked, and how many of its calls are open.
#[derive(Clone, Default)]
struct Seen {
    calls: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

/// Counts a call as open until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Seen {
    fn open(&self) -> Open {
        self.open.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(&self.open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn joined(mut messages: Streaming<Bytes>) -> Result<Bytes, Status> {
    let mut whole = Vec::new();
    while let Some(message) = messages.message().await? {
        whole.extend_from_slice(&message);
    }
    Ok(whole.into())
}

async fn answer(seen: Seen, req: http::Request<Body>) -> Result<http::Response<tonic::body::Body>, BoxError> {
    let calls = seen.calls.fetch_add(1, Ordering::SeqCst) + 1;
    let method = req.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let mut grpc = tonic::server::Grpc::new(Raw);
    Ok(match method.as_str() {
        "Unary" => {
            let echo = service_fn(|req: Request<Bytes>| ready(Ok(Response::new(req.into_inner()))));
            grpc.unary(echo, req).await
        }
        // A head with a status in it, and nothing else.
        "Never" => Status::failed_precondition("not now").into_http(),
        "Second" if calls == 1 => Status::unavailable("once more").into_http(),
        "Second" => {
            let echo = service_fn(|req: Request<Bytes>| ready(Ok(Response::new(req.into_inner()))));
            grpc.unary(echo, req).await
        }
        "Join" => {
            let join = service_fn(|req: Request<Streaming<Bytes>>| async move {
                Ok(Response::new(joined(req.into_inner()).await?))
            });
            grpc.client_streaming(join, req).await
        }
        "Split" => {
            let split = service_fn(|req: Request<Bytes>| {
                let bytes = req.into_inner();
                let parts: Vec<_> = bytes.chunks(1).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
                ready(Ok(Response::new(Box::pin(stream::iter(parts)) as Messages)))
            });
            grpc.server_streaming(split, req).await
        }
        "Echo" => {
            let open = seen.open();
            let echo = service_fn(move |req: Request<Streaming<Bytes>>| {
                let open = Open(Arc::clone(&open.0));
                open.0.fetch_add(1, Ordering::SeqCst);
                let messages = req.into_inner().map(move |message| {
                    let _open = &open;
                    message
                });
                ready(Ok(Response::new(Box::pin(messages) as Messages)))
            });
            grpc.streaming(echo, req).await
        }
        _ => {
            let _open = seen.open();
            std::future::pending().await
        }
    })
}

fn h2() -> ClientConfig {
    ClientConfig { wire: Wire::H2(H2Config::default()), ..ClientConfig::default() }
}

fn serve(svc: Svc) -> SocketAddr {
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    let wire = Wire::H2(H2Config::default());
    let server = Server::bind(ServerConfig { addr, wire, ..ServerConfig::default() }).unwrap();
    let addr = server.local_addr();
    tokio::spawn(server.serve(svc, std::future::pending()));
    addr
}

fn dtab(addrs: &[SocketAddr]) -> Dtab {
    let ports: Vec<_> = addrs.iter().map(|addr| format!("/$/inet/127.0.0.1/{}", addr.port())).collect();
    format!("/svc => {}", ports.join(" & ")).parse().unwrap()
}

/// Tries calls again that the server was not available for.
struct RetriesCalls;

impl Policies for RetriesCalls {
    fn service(&self, _: &Path) -> ServicePolicy {
        ServicePolicy {
            classifier: Arc::new(GrpcClassifier::new()),
            retry_buffer_bytes: 16 * 1024,
            ..ServicePolicy::default()
        }
    }

    fn client(&self, _: &Path) -> ClientPolicy {
        ClientPolicy::default()
    }
}

/// Servers, and a client of a proxy in front of them that names calls by their service.
fn through(servers: usize) -> (Vec<Seen>, Grpc<Typed<tonic::body::Body>>) {
    let seen: Vec<_> = (0..servers).map(|_| Seen::default()).collect();
    let addrs: Vec<_> = seen
        .iter()
        .map(|seen| {
            let seen = seen.clone();
            serve(Svc::new(service_fn(move |req| {
                let answered = answer(seen.clone(), req);
                async move { Ok::<_, BoxError>(answered.await?.map(Body::new)) }
            })))
        })
        .collect();
    let mesh = Mesh::builder()
        .dtab(dtab(&addrs))
        .connect(HttpConnect::new(h2()))
        .policies(RetriesCalls)
        .proxy(true)
        .build()
        .unwrap();
    let proxy = serve(Svc::new(mesh.router(H2Path::new("/svc".parse().unwrap(), ":path", Some(1)).unwrap())));
    let mesh = Mesh::builder().dtab(dtab(&[proxy])).connect(HttpConnect::new(h2())).build().unwrap();
    let client = mesh.client("/svc/proxy").unwrap().with_body();
    (seen, Grpc::with_origin(client, Uri::from_static("http://proxy")))
}

fn method(name: &str) -> PathAndQuery {
    format!("/test.Echo/{name}").parse().unwrap()
}

#[tokio::test]
async fn all_four_kinds_of_calls_pass() {
    let (_seen, mut client) = through(1);
    let message = || Request::new(Bytes::from_static(b"hello"));
    assert_ok!(client.ready().await);
    let rsp = client.unary(message(), method("Unary"), Raw).await.unwrap();
    assert_eq!(rsp.get_ref(), "hello");
    assert_ok!(client.ready().await);
    let parts = stream::iter(["a", "b", "c"].map(Bytes::from_static_str));
    let rsp = client.client_streaming(Request::new(parts), method("Join"), Raw).await.unwrap();
    assert_eq!(rsp.get_ref(), "abc");
    assert_ok!(client.ready().await);
    let rsp = client.server_streaming(message(), method("Split"), Raw).await.unwrap();
    let parts: Vec<_> = rsp.into_inner().map(Result::unwrap).collect().await;
    assert_eq!(parts, ["h", "e", "l", "l", "o"]);
    assert_ok!(client.ready().await);
    let (give, take) = mpsc::channel::<Bytes>(1);
    let outgoing = stream::unfold(take, |mut take| async { take.recv().await.map(|message| (message, take)) });
    let mut back = client.streaming(Request::new(outgoing), method("Echo"), Raw).await.unwrap().into_inner();
    for message in ["one", "two"] {
        give.send(message.into()).await.unwrap();
        assert_eq!(back.message().await.unwrap().unwrap(), message);
    }
    drop(give);
    assert_eq!(back.message().await.unwrap(), None);
}

/// So that messages are made by a name.
trait FromStaticStr {
    fn from_static_str(text: &'static str) -> Self;
}

impl FromStaticStr for Bytes {
    fn from_static_str(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

#[tokio::test]
async fn a_status_in_place_of_a_body_arrives_and_unavailable_is_tried_again() {
    let (seen, mut client) = through(1);
    assert_ok!(client.ready().await);
    let status = client.unary(Request::new(Bytes::new()), method("Never"), Raw).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not now"));
    assert_eq!(seen[0].calls.swap(0, Ordering::SeqCst), 1);
    assert_ok!(client.ready().await);
    let rsp = client.unary(Request::new(Bytes::from_static(b"x")), method("Second"), Raw).await.unwrap();
    assert_eq!(rsp.get_ref(), "x");
    assert_eq!(seen[0].calls.load(Ordering::SeqCst), 2);
}

/// Waits until no call is open: how long that took.
async fn none_open(seen: &Seen) -> Duration {
    let begun = Instant::now();
    for _ in 0..2000 {
        if seen.open.load(Ordering::SeqCst) == 0 {
            return begun.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a call is still open");
}

#[tokio::test]
async fn a_call_that_is_cancelled_ends_at_the_server_at_once() {
    // In one of so many tries: the machine may be busy with something else for longer.
    const TRIES: usize = 5;
    let soon = |took: &[Duration]| took.iter().any(|took| *took < Duration::from_millis(100));
    let (seen, mut client) = through(1);
    let (mut unary, mut streaming) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        assert_ok!(client.ready().await);
        {
            let mut call = std::pin::pin!(client.unary(Request::new(Bytes::new()), method("Hang"), Raw));
            for _ in 0..2000 {
                let polled = call.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
                assert!(matches!(polled, Poll::Pending));
                if seen[0].open.load(Ordering::SeqCst) == 1 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(seen[0].open.load(Ordering::SeqCst), 1);
        }
        unary.push(none_open(&seen[0]).await);
        assert_ok!(client.ready().await);
        let endless = stream::pending::<Bytes>();
        let back = client.streaming(Request::new(endless), method("Echo"), Raw).await.unwrap();
        assert!(seen[0].open.load(Ordering::SeqCst) > 0);
        drop(back);
        streaming.push(none_open(&seen[0]).await);
    }
    assert!(soon(&unary), "{unary:?}");
    assert!(soon(&streaming), "{streaming:?}");
}

#[tokio::test]
async fn the_calls_of_one_client_go_to_all_servers() {
    let (seen, mut client) = through(3);
    for _ in 0..60 {
        assert_ok!(client.ready().await);
        client.unary(Request::new(Bytes::new()), method("Unary"), Raw).await.unwrap();
    }
    for seen in seen {
        let calls = seen.calls.load(Ordering::SeqCst);
        assert!(calls >= 5, "{calls}");
    }
}
