//! Flavours of requests, over five hops on loopback sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use linkerd_core::{
    Mesh, Svc,
    http::{FlavourRule, ServerConfig},
    identify::HeaderToken,
    span::{Recent, SpanKind, SpanLayer, Tracer},
    telemetry::{Registry, RouterStats},
};
use tower::Layer;

use super::peers::{Backend, Proxy, Wire, proxy};

const CANARY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary";
const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain";
const HOPS: usize = 5;

/// An edge that trusts nobody, and four hops behind it that trust it. At each of them a request leaves the chain for the
/// plain endpoint, unless a rule of its own says otherwise.
struct Chain {
    hops: Vec<Proxy>,
    registry: Registry,
    recent: Arc<Recent>,
}

impl Chain {
    async fn new() -> Self {
        let (registry, recent) = (Registry::new(), Arc::new(Recent::default()));
        let (plain, _) = Backend::answering([PLAIN]).await;
        let (mut next, _) = Backend::answering([CANARY]).await;
        let mut hops = Vec::new();
        for hop in (0..HOPS).rev() {
            let label = format!("hop{hop}");
            let stats = Some(RouterStats::new(&registry, &label));
            let config = if hop == 0 {
                ServerConfig { stats, clear_context: true, flavours: vec![rule()], ..ServerConfig::default() }
            } else {
                ServerConfig { stats, ..ServerConfig::default() }
            };
            let inet = |addr: SocketAddr| format!("/$/inet/127.0.0.1/{}", addr.port());
            let dtab = format!("/canary => {}; /svc/* => {}", inet(next), inet(plain));
            let mesh = Mesh::builder().dtab(dtab.parse().unwrap()).proxy(true).build().unwrap();
            let router = mesh.router(HeaderToken::host("/svc".parse().unwrap()));
            let spans = SpanLayer::new(Tracer::new(recent.clone()), label);
            let proxy = proxy(config, Svc::new(spans.layer(router)));
            next = proxy.addr;
            hops.insert(0, proxy);
        }
        Self { hops, registry, recent }
    }

    /// Who answers a request with these headers that is sent to this hop.
    async fn ask(&self, hop: usize, headers: &str) -> String {
        let req = format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        Wire::connect(self.hops[hop].addr).await.ask(req).await.text().to_owned()
    }

    fn count(&self, hop: usize, name: &str) -> u64 {
        let addr = self.hops[hop].addr;
        let server = self.registry.root().scope("rt").scope(&format!("hop{hop}")).scope("server");
        server.scope(&format!("{}/{}", addr.ip(), addr.port())).counter(name).get()
    }
}

fn rule() -> FlavourRule {
    let (header, value) = (HeaderName::from_static("x-canary"), HeaderValue::from_static("yes"));
    let dtab = "/svc/x => /canary".parse().unwrap();
    FlavourRule::new("canary", header, Some(value), dtab, Duration::from_mins(1)).unwrap()
}

#[tokio::test]
async fn a_flavour_that_the_edge_gives_holds_at_every_hop_and_nobody_else_has_it() {
    let chain = Chain::new().await;
    assert_eq!(chain.ask(0, "x-canary: yes\r\n").await, "canary");
    let spans = chain.recent.spans();
    let flavoured = spans.iter().filter(|span| span.tag("flavour") == Some("canary"));
    assert_eq!(flavoured.filter(|span| span.kind == SpanKind::Server).count(), HOPS);
    for _ in 0..20 {
        assert_eq!(chain.ask(0, "").await, "plain");
        assert_eq!(chain.ask(0, "x-canary: no\r\n").await, "plain");
    }
    for hop in 0..HOPS {
        assert_eq!(chain.count(hop, "flavoured"), 1, "{hop}");
    }
}

#[tokio::test]
async fn an_outsiders_flavour_is_refused_and_a_trusted_ones_is_not() {
    let chain = Chain::new().await;
    let flavour = "l5d-ctx-flavour: canary 4000000000 /svc/x=>/canary\r\n";
    assert_eq!(chain.ask(0, flavour).await, "plain");
    assert_eq!((chain.count(0, "flavours_refused"), chain.count(0, "flavoured")), (1, 0));
    assert_eq!(chain.ask(1, flavour).await, "canary");
    assert_eq!(chain.ask(1, &format!("{flavour}l5d-dtab: /svc/x => /svc/y\r\n")).await, "plain", "its own rules win");
    assert_eq!(chain.ask(1, &flavour.repeat(2)).await, "plain");
    assert_eq!(chain.count(1, "flavours_refused"), 1);
}

#[tokio::test]
async fn a_flavour_expires() {
    let chain = Chain::new().await;
    assert_eq!(chain.ask(1, "l5d-ctx-flavour: canary 1500000000 /svc/x=>/canary\r\n").await, "plain");
    assert_eq!((chain.count(1, "flavours_expired"), chain.count(1, "flavoured")), (1, 0));
}
