//! What is counted of streams, on both sides of a proxy.

use std::{net::SocketAddr, time::Duration};

use h2::Reason;
use http::Request;
use linkerd_core::telemetry::{Reading, Registry};

use super::peers::{Answer, Backend, Client, get, serve_file};

struct World {
    backend: Backend,
    client: Client,
    proxy: SocketAddr,
    registry: Registry,
}

impl World {
    async fn new() -> Self {
        let (backend, registry) = (Backend::new().await, Registry::new());
        let port = backend.addr.port();
        let text = format!(
            "routers: [{{protocol: h2, dtab: '/svc => /$/inet/127.0.0.1/{port}', servers: [{{port: 0, ip: 127.0.0.1}}]}}]"
        );
        let proxy = serve_file(&text, &registry);
        Self { backend, client: Client::connect(proxy).await, proxy, registry }
    }

    /// A counter or a gauge of the server or the client; 0 if there is none.
    fn value(&self, side: &str, name: &str) -> u64 {
        let at = if side == "server" {
            format!("server/{}", self.proxy)
        } else {
            format!("client/$/inet/{}", self.backend.addr)
        };
        let full = format!("rt/h2/{}/{name}", at.replace(':', "/"));
        let mut value = 0;
        self.registry.visit(|path, reading| {
            if path.join("/") == full {
                value = match reading {
                    Reading::Counter(count) => count,
                    Reading::Gauge(gauge) => gauge as u64,
                    Reading::Stat(_) => panic!("{full} is a distribution"),
                };
            }
        });
        value
    }

    /// Waits until the values of both sides are these.
    async fn expect(&self, expected: &[(&str, &str, u64)]) {
        let unlike = || {
            let unlike = expected.iter().filter(|(side, name, value)| self.value(side, name) != *value);
            unlike.map(|(side, name, _)| format!("{side} {name}: {}", self.value(side, name))).collect::<Vec<_>>()
        };
        for _ in 0..1000 {
            if unlike().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?}", unlike());
    }
}

#[tokio::test]
async fn both_halves_and_the_whole_are_counted_with_their_bytes() {
    let mut world = World::new().await;
    let (response, mut to) = world.client.open(Request::post("http://web/").body(()).unwrap(), false).await;
    let mut seen = world.backend.accept().await;
    world.expect(&[("server", "open_streams", 1), ("client", "open_streams", 1)]).await;
    to.send_data("12345".into(), false).unwrap();
    to.send_trailers(http::HeaderMap::new()).unwrap();
    assert_eq!(super::peers::read(&mut seen.body).await.unwrap(), b"12345");
    seen.answer(200, "answer!");
    Answer::read(response).await.unwrap();
    for (side, towards, back) in [("server", "remote", "local"), ("client", "local", "remote")] {
        world
            .expect(&[
                (side, "open_streams", 0),
                (side, "request/stream/stream_success", 1),
                (side, "response/stream/stream_success", 1),
                (side, "stream/stream_success", 1),
                (side, &format!("stream/{towards}/data/bytes"), 5),
                (side, &format!("stream/{towards}/data/frames"), 1),
                (side, &format!("stream/{towards}/trailers"), 1),
                (side, &format!("stream/{back}/data/bytes"), 7),
                (side, &format!("stream/{back}/trailers"), 0),
                (side, "request/stream/stream_failures", 0),
                (side, "response/stream/stream_failures", 0),
                (side, "stream/stream_failures", 0),
                (side, "stream/local/reset", 0),
                (side, "stream/remote/reset", 0),
            ])
            .await;
    }
}

#[tokio::test]
async fn a_reset_is_counted_where_it_comes_from_and_where_it_goes_to() {
    let mut world = World::new().await;
    let (response, _) = world.client.open(get("http://web/"), true).await;
    world.backend.accept().await.respond.send_reset(Reason::INTERNAL_ERROR);
    assert!(Answer::read(response).await.is_err());
    world
        .expect(&[
            ("client", "stream/remote/reset", 1),
            ("client", "response/stream/stream_failures", 1),
            ("client", "stream/stream_failures", 1),
            ("server", "stream/local/reset", 1),
            ("server", "stream/stream_failures", 1),
            ("client", "stream/local/reset", 0),
            ("server", "stream/remote/reset", 0),
        ])
        .await;
    // And from the client to the endpoint, in the middle of the answer.
    let (response, _) = world.client.open(get("http://web/"), true).await;
    let mut seen = world.backend.accept().await;
    let _open = seen.head();
    drop(super::peers::within(response).await.unwrap());
    world
        .expect(&[
            ("server", "stream/remote/reset", 1),
            ("server", "response/stream/stream_failures", 1),
            ("client", "stream/local/reset", 1),
            ("client", "response/stream/stream_failures", 2),
            ("server", "open_streams", 0),
            ("client", "open_streams", 0),
        ])
        .await;
}
