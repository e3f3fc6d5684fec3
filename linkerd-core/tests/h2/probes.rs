//! Endpoints that are asked how they are by gRPC's own health check.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use linkerd_core::{Body, BoxError, Svc, config::Config, proxy::Proxy};
use tonic_health::{
    ServingStatus::{self, NotServing, Serving},
    server::{HealthReporter, health_reporter},
};
use tower::{Service, service_fn};

use super::peers::{Client, get, h2_server, serve};

/// A server of gRPC's health check and of anything else.
struct Backend {
    addr: SocketAddr,
    health: HealthReporter,
    requests: Arc<AtomicUsize>,
}

impl Backend {
    fn new() -> Self {
        let (reporter, health) = health_reporter();
        let requests = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&requests);
        let svc = Svc::new(service_fn(move |req: Request<Body>| {
            let (mut health, count) = (health.clone(), Arc::clone(&count));
            async move {
                if req.uri().path() == "/grpc.health.v1.Health/Check" {
                    return Ok::<_, BoxError>(health.call(req).await?.map(Body::new));
                }
                count.fetch_add(1, Ordering::SeqCst);
                Ok(Response::new(Body::from("ok")))
            }
        }));
        Self { addr: serve(h2_server(), svc), health: reporter, requests }
    }

    async fn says(&self, service: &str, status: ServingStatus) {
        self.health.set_service_status(service, status).await;
    }

    fn take(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }
}

/// A client of a proxy that takes turns between these, and asks them like this.
async fn through(probe: &str, backends: &[Backend; 2]) -> (Client, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let lines = backends.each_ref().map(|backend| format!("127.0.0.1 {}\n", backend.addr.port()));
    std::fs::write(dir.path().join("web"), lines.concat()).unwrap();
    let text = format!(
        "admin: {{port: 0}}
namers: [{{kind: io.l5d.fs, rootDir: {dir}}}]
routers:
- protocol: h2
  dtab: /svc => /#/io.l5d.fs
  identifier: {{kind: io.l5d.header.token, header: ':authority'}}
  client:
    loadBalancer: {{kind: roundRobin}}
    failureAccrual:
      kind: none
      backoff: {{kind: constant, ms: 5}}
      probe: {{{probe}, intervalMs: 5, timeoutMs: 20000, unhealthy: 1}}
  servers: [{{port: 0}}]
",
        dir = dir.path().display()
    );
    let config = Config::parse("linkerd.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let proxy = Proxy::builder(&config).build().unwrap_or_else(|errors| panic!("{errors}")).bind().unwrap();
    let (_, addr) = proxy.servers().next().unwrap();
    tokio::spawn(proxy.serve());
    (Client::connect(addr).await, dir)
}

/// Sends requests until `is_so` of how many of ten went to the first one; all of them are answered.
async fn until(client: &Client, [first, second]: &[Backend; 2], is_so: impl Fn(usize) -> bool) {
    for _ in 0..2000 {
        first.take();
        second.take();
        for _ in 0..10 {
            assert_eq!(client.ask(get("http://web/")).await.unwrap().body, b"ok");
        }
        if is_so(first.take()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it never was");
}

#[tokio::test]
async fn an_endpoint_that_says_it_does_not_serve_is_left_alone_until_it_does() {
    let backends = [Backend::new(), Backend::new()];
    let (client, _dir) = through("kind: grpc", &backends).await;
    until(&client, &backends, |to_first| to_first == 5).await;
    backends[0].says("", NotServing).await;
    until(&client, &backends, |to_first| to_first == 0).await;
    backends[0].says("", Serving).await;
    until(&client, &backends, |to_first| to_first == 5).await;
}

#[tokio::test]
async fn a_service_is_asked_for_by_its_name_and_one_that_is_not_known_is_not_well() {
    let backends = [Backend::new(), Backend::new()];
    backends[1].says("acme.Users", Serving).await;
    let (client, _dir) = through("kind: grpc, service: acme.Users", &backends).await;
    until(&client, &backends, |to_first| to_first == 0).await;
    backends[0].says("acme.Users", Serving).await;
    until(&client, &backends, |to_first| to_first == 5).await;
}
