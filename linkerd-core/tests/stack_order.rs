//! What a request passes, and in which order: seen from layers at each place, since a stack cannot be looked at.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use linkerd_core::{
    Body, Client, ClientPolicy, Error, HttpClassifier, HttpService, Mesh, MeshBuilder, ServicePolicy, Svc, Uniform,
    balance::Status,
    testing::{FakeNamer, Reply, Scripted},
};
use tower::{Layer, layer::layer_fn, service_fn};

const MS: Duration = Duration::from_millis(1);
const PLACES: [&str; 3] = ["path", "client", "endpoint"];

/// What passed: `path>` on the way down; on the way up `path<` with the outcome, or `path|` if it was dropped before.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Passing {
    log: Log,
    place: &'static str,
    outcome: Option<String>,
}

impl Passing {
    fn ended(mut self, rsp: Result<Response<Body>, Error>) -> Result<Response<Body>, Error> {
        self.outcome = Some(match &rsp {
            Ok(rsp) => rsp.status().as_str().to_owned(),
            Err(error) => error.kind().name().to_owned(),
        });
        rsp
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let end = self.outcome.take().map_or_else(|| "|".to_owned(), |outcome| format!("<{outcome}"));
        self.log.write(self.place, &end);
    }
}

impl Log {
    fn write(&self, place: &str, what: &str) {
        self.0.lock().unwrap().push(format!("{place}{what}"));
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap()).join(" ")
    }

    fn layer(&self, place: &'static str) -> impl Layer<Svc, Service: HttpService> + Send + Sync + 'static {
        let log = self.clone();
        layer_fn(move |inner: Svc| {
            let log = log.clone();
            service_fn(move |req| {
                log.write(place, ">");
                let passing = Passing { log: log.clone(), place, outcome: None };
                let rsp = inner.send(req);
                async move { passing.ended(rsp.await) }
            })
        })
    }

    /// A mesh with a layer at each place.
    fn mesh(&self) -> MeshBuilder {
        let [path, client, endpoint] = PLACES;
        Mesh::builder()
            .endpoint_layer(self.layer(endpoint))
            .path_layer(self.layer(path))
            .client_layer(self.layer(client))
    }
}

/// One name, its endpoints, and a mesh that knows both.
struct World {
    log: Log,
    mesh: Mesh,
    users: Client,
    endpoints: Scripted,
    addrs: Vec<SocketAddr>,
}

impl World {
    fn new(endpoints: u16, policies: Uniform, layers: impl FnOnce(MeshBuilder, &Log) -> MeshBuilder) -> Self {
        let (log, namer, scripted) = (Log::default(), FakeNamer::new(), Scripted::new());
        let addrs: Vec<_> = (1..=endpoints).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        namer.endpoints("/users", addrs.iter().copied());
        let mesh = log.mesh().namer("/#/fake", namer).connect(scripted.clone()).policies(policies);
        let mesh = layers(mesh.dtab("/svc => /#/fake".parse().unwrap()), &log).build().unwrap();
        let users = mesh.client("/svc/users").unwrap();
        Self { log, mesh, users, endpoints: scripted, addrs }
    }

    /// Every endpoint does this.
    fn script(&self, replies: &[Reply]) {
        for addr in &self.addrs {
            self.endpoints.script(*addr, replies.iter().cloned());
        }
    }

    async fn get(&self) -> Result<StatusCode, Error> {
        Ok(self.users.send(Request::get("/").body(()).unwrap()).await?.status())
    }

    fn status(&self) -> Status {
        self.mesh.clients()[0].endpoints[0].status
    }
}

fn service(service: ServicePolicy) -> Uniform {
    Uniform { service, ..Uniform::default() }
}

fn reads_are_retried() -> Uniform {
    service(ServicePolicy { classifier: Arc::new(HttpClassifier::RetryableRead5xx), ..ServicePolicy::default() })
}

#[tokio::test(start_paused = true)]
async fn the_path_is_outside_of_the_client_and_that_of_the_endpoint() {
    let world = World::new(1, Uniform::default(), |mesh, _| mesh);
    world.script(&[Reply::status(204)]);
    world.get().await.unwrap();
    assert_eq!(world.log.take(), "path> client> endpoint> endpoint<204 client<204 path<204");
}

#[tokio::test(start_paused = true)]
async fn of_two_at_one_place_the_later_is_outside() {
    let world = World::new(1, Uniform::default(), |mesh, log| {
        mesh.path_layer(log.layer("PATH")).client_layer(log.layer("CLIENT")).endpoint_layer(log.layer("ENDPOINT"))
    });
    world.script(&[Reply::status(204)]);
    world.get().await.unwrap();
    let passed = world.log.take();
    assert!(
        passed.starts_with("PATH> path> CLIENT> client> ENDPOINT> endpoint> endpoint<204 ENDPOINT<204"),
        "{passed}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_passes_the_client_and_the_endpoint_again_and_the_path_sees_what_it_left() {
    let world = World::new(1, reads_are_retried(), |mesh, _| mesh);
    world.script(&[Reply::status(503), Reply::status(200)]);
    world.get().await.unwrap();
    let (first, second) = ("client> endpoint> endpoint<503 client<503", "client> endpoint> endpoint<200 client<200");
    assert_eq!(world.log.take(), format!("path> {first} {second} path<200"));
}

#[tokio::test(start_paused = true)]
async fn a_requeue_passes_the_endpoint_alone() {
    let world = World::new(2, Uniform::default(), |mesh, _| mesh);
    let [first, second] = world.addrs[..] else { unreachable!("two were asked for") };
    // Whichever is picked first.
    for (unsent, well) in [(first, second), (second, first)] {
        world.endpoints.script(unsent, [Reply::unsent()]);
        world.endpoints.script(well, [Reply::status(200)]);
        let is_tried = |log: &str| log.contains("endpoint<connect");
        let mut passed = String::new();
        for _ in 0..20 {
            world.get().await.unwrap();
            passed = world.log.take();
            if is_tried(&passed) {
                break;
            }
        }
        let (failed, well) = ("endpoint> endpoint<connect", "endpoint> endpoint<200");
        assert_eq!(passed, format!("path> client> {failed} {well} client<200 path<200"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_is_below_the_path_and_above_the_retries() {
    let policy = ServicePolicy { total_timeout: Some(100 * MS), ..ServicePolicy::default() };
    let world = World::new(1, service(policy), |mesh, _| mesh);
    world.script(&[Reply::hang()]);
    world.get().await.unwrap_err();
    assert_eq!(world.log.take(), "path> client> endpoint> endpoint| client| path<total_timeout");
}

#[tokio::test(start_paused = true)]
async fn the_attempt_timeout_is_below_the_client_and_above_the_endpoint() {
    let client = ClientPolicy { attempt_timeout: Some(100 * MS), ..ClientPolicy::default() };
    let world = World::new(1, Uniform { client, ..reads_are_retried() }, |mesh, _| mesh);
    world.script(&[Reply::hang(), Reply::status(200)]);
    world.get().await.unwrap();
    let (first, second) =
        ("client> endpoint> endpoint| client<attempt_timeout", "client> endpoint> endpoint<200 client<200");
    assert_eq!(world.log.take(), format!("path> {first} {second} path<200"));
}

/// Every answer becomes one that the classifier calls a failure.
fn failing() -> impl Layer<Svc, Service: HttpService> + Send + Sync + 'static {
    layer_fn(|inner: Svc| {
        service_fn(move |req| {
            let rsp = inner.send(req);
            async move {
                rsp.await.map(|_| {
                    let mut rsp = Response::new(Body::empty());
                    *rsp.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    rsp
                })
            }
        })
    })
}

#[tokio::test(start_paused = true)]
async fn accrual_is_between_the_client_and_the_endpoint() {
    let below = World::new(1, Uniform::default(), |mesh, _| mesh.endpoint_layer(failing()));
    let above = World::new(1, Uniform::default(), |mesh, _| mesh.client_layer(failing()));
    for world in [&below, &above] {
        world.script(&[Reply::status(200)]);
        for _ in 0..5 {
            assert_eq!(world.get().await.unwrap(), 500);
        }
    }
    assert_ne!(below.status(), Status::Open, "what an endpoint layer makes of an answer is the endpoint's");
    assert_eq!(above.status(), Status::Open, "what a client layer makes of it is not");
}
