//! The whole engine in memory: a fake namer above, scripted endpoints below, a paused clock.

mod admission;
mod balance;
mod balancing;
mod caches;
mod cancel;
mod diagnose;
mod grpc;
mod hedges;
#[cfg(feature = "server")]
mod hints;
mod late;
mod limits;
mod mesh;
mod naming;
mod replays;
mod requeues;
mod retries;
mod stats;
mod switch;

use std::{future::Future, net::SocketAddr, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use linkerd_core::{
    Body, Client, ClientPolicy, Error, HttpClassifier, Mesh, MeshBuilder, ServicePolicy, Uniform,
    http::RequestContext,
    telemetry::{Reading, Registry, RouterStats},
    testing::{FakeNamer, Scripted},
};
use tokio_test::task::{self, Spawn};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

type Outcome = Result<Response<Body>, Error>;

struct World {
    namer: FakeNamer,
    endpoints: Scripted,
    registry: Registry,
    mesh: Mesh,
}

/// An endpoint's address.
fn ep(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 80).into()
}

impl World {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(more: impl FnOnce(MeshBuilder) -> MeshBuilder) -> Self {
        let (namer, endpoints, registry) = (FakeNamer::new(), Scripted::new(), Registry::new());
        let builder = Mesh::builder()
            .namer("/#/fake", namer.clone())
            .connect(endpoints.clone())
            .dtab("/svc => /#/fake".parse().unwrap())
            .metrics(RouterStats::new(&registry, "r"));
        let mesh = more(builder).build().unwrap();
        Self { namer, endpoints, registry, mesh }
    }

    /// With these policies for all names.
    fn policies(service: ServicePolicy, client: ClientPolicy) -> Self {
        Self::with(|builder| builder.policies(Uniform { service, client }))
    }

    /// Which sends again what failed, by this classifier.
    fn retrying(classifier: HttpClassifier) -> Self {
        Self::policies(service(classifier), steady())
    }

    fn client(&self, path: &str) -> Client {
        self.mesh.client(path).unwrap()
    }

    /// What a metric below `rt/r` says; `None` if there is none.
    fn metric(&self, name: &str) -> Option<f64> {
        let mut found = None;
        self.registry.visit(|path, reading| {
            if path.join("/") == format!("rt/r/{name}") {
                found = Some(match reading {
                    Reading::Counter(count) => count as f64,
                    Reading::Gauge(value) => value,
                    Reading::Stat(summary) => summary.map_or(0.0, |summary| summary.count as f64),
                });
            }
        });
        found
    }

    /// The count of a metric; zero if there is none yet.
    fn count(&self, name: &str) -> u64 {
        self.metric(name).unwrap_or_default() as u64
    }

    fn service(&self, name: &str) -> u64 {
        self.count(&format!("service/svc/users/{name}"))
    }

    fn bound(&self, name: &str) -> u64 {
        self.count(&format!("client/#/fake/users/{name}"))
    }
}

/// A service whose failures are retried by `classifier`.
fn service(classifier: HttpClassifier) -> ServicePolicy {
    ServicePolicy { classifier: std::sync::Arc::new(classifier), ..ServicePolicy::default() }
}

/// Requests in flight and nothing else: what fails is not avoided for it, so that it fails enough.
fn in_flight() -> linkerd_core::balance::Policy {
    linkerd_core::balance::Policy::new(linkerd_core::balance::P2c::new(), || {
        linkerd_core::balance::LeastLoaded::new().failure_penalty(Duration::ZERO)
    })
}

/// A client that takes no endpoint out.
fn steady() -> ClientPolicy {
    ClientPolicy { accrual: linkerd_core::AccrualPolicy::off(), ..ClientPolicy::default() }
}

fn get() -> Request<&'static str> {
    Request::get("/").body("").unwrap()
}

/// A request with a local table.
fn overridden(dtab: &str) -> Request<&'static str> {
    let mut cx = RequestContext::default();
    cx.dtab = dtab.parse().unwrap();
    let mut req = get();
    req.extensions_mut().insert(cx);
    req
}

/// Sends in a future that is polled by hand.
fn sending(client: &Client, req: Request<&'static str>) -> Spawn<impl Future<Output = Outcome> + use<>> {
    let client = client.clone();
    task::spawn(async move { client.send(req).await })
}

async fn status(client: &Client) -> u16 {
    client.send(get()).await.unwrap().status().as_u16()
}

async fn error(client: &Client) -> Error {
    client.send(get()).await.unwrap_err()
}

async fn text(rsp: Response<Body>) -> String {
    String::from_utf8(rsp.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
