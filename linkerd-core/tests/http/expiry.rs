//! What a caller gets when a timer is over: the table of `docs/timeouts.md`, row by row.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use http::Request;
use linkerd_core::{
    Body, ClientPolicy, LimitPolicy, Mesh, MeshBuilder, ServicePolicy, Svc, Uniform,
    http::{ClientConfig, HttpConnect, PoolConfig, ServerConfig, respond::ErrorLimits},
    retry::{
        Budget, BudgetSettings,
        limit::{RateSettings, WhenFull},
    },
    telemetry::{Reading, Registry, RouterStats},
    testing::{FakeNamer, Reply, Scripted},
};

use tokio::net::{TcpSocket, TcpStream};

use super::peers::{Backend, Message, Proxy, Wire, proxy};

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
const SOON: Duration = Duration::from_millis(30);

/// A server, a mesh behind it, and whatever endpoints are at `/users`.
pub(crate) struct Hop {
    pub(crate) namer: FakeNamer,
    pub(crate) endpoints: Scripted,
    registry: Registry,
    proxy: Proxy,
}

impl Hop {
    pub(crate) fn new(
        server: ServerConfig,
        service: ServicePolicy,
        client: ClientPolicy,
        more: impl FnOnce(MeshBuilder) -> MeshBuilder,
    ) -> Self {
        let (namer, endpoints, registry) = (FakeNamer::new(), Scripted::new(), Registry::new());
        let stats = RouterStats::new(&registry, "r");
        let builder = Mesh::builder()
            .namer("/#/fake", namer.clone())
            .connect(endpoints.clone())
            .dtab("/svc => /#/fake".parse().unwrap())
            .policies(Uniform { service, client })
            .metrics(stats.clone())
            .proxy(true);
        let mesh = more(builder).build().unwrap();
        namer.endpoints("/users", [ep()]);
        let client = mesh.client("/svc/users").unwrap();
        let error_limits = ErrorLimits { detail: true, ..ErrorLimits::default() };
        let config = ServerConfig { stats: Some(stats), error_limits, ..server };
        Self { namer, endpoints, registry, proxy: proxy(config, Svc::new(client)) }
    }

    pub(crate) async fn ask(&self, req: &str) -> Message {
        Wire::connect(self.proxy.addr).await.ask(req).await
    }

    /// The sum of the metrics whose names end so.
    pub(crate) fn count(&self, end: &str) -> u64 {
        let mut count = 0;
        self.registry.visit(|path, reading| {
            if let Reading::Counter(n) = reading
                && path.join("/").ends_with(end)
            {
                count += n;
            }
        });
        count
    }
}

pub(crate) fn ep() -> std::net::SocketAddr {
    ([10, 0, 0, 1], 80).into()
}

/// What the details of a failure say.
pub(crate) fn detail(rsp: &Message) -> serde_json::Value {
    serde_json::from_str(rsp.get("l5d-err-json").expect("details")).unwrap()
}

/// This answer, and this timer in its details.
fn assert_expired(rsp: &Message, status: u16, kind: &str, timer: &str, set_by: &str) {
    assert_eq!(rsp.status(), status, "{rsp:?}");
    let detail = detail(rsp);
    let said = (&detail["kind"], &detail["timer"]["name"], &detail["timer"]["setBy"]);
    assert_eq!(said, (&kind.into(), &timer.into(), &set_by.into()), "{detail}");
    assert!(!rsp.get("l5d-err").unwrap().is_empty() && rsp.get("l5d-retryable").is_none(), "{rsp:?}");
}

fn hanging(service: ServicePolicy, client: ClientPolicy) -> Hop {
    let hop = Hop::new(ServerConfig::default(), service, client, |builder| builder);
    hop.endpoints.script(ep(), [Reply::hang()]);
    hop
}

#[tokio::test]
async fn the_total_timeout_is_503() {
    let hop = hanging(ServicePolicy { total_timeout: Some(SOON), ..ServicePolicy::default() }, ClientPolicy::default());
    let rsp = hop.ask(GET).await;
    assert_expired(&rsp, 503, "total_timeout", "total", "service.totalTimeoutMs");
    assert!(rsp.text().starts_with("exceeded 30.milliseconds to "), "{}", rsp.text());
    let detail = detail(&rsp);
    assert_eq!(
        (&detail["timer"]["ms"], &detail["timeLeftMs"], &detail["retriesLeft"]),
        (&30.into(), &0.into(), &100.into())
    );
    assert_eq!(detail["attempts"][0]["outcome"], "without an answer");
    assert_eq!((hop.count("service/svc/users/timeouts/total"), hop.count("timeouts/total")), (1, 1));
}

#[tokio::test]
async fn the_attempt_timeout_is_503() {
    let client = ClientPolicy { attempt_timeout: Some(SOON), ..ClientPolicy::default() };
    let hop = hanging(ServicePolicy::default(), client);
    let rsp = hop.ask(GET).await;
    assert_expired(&rsp, 503, "attempt_timeout", "attempt", "client.requestAttemptTimeoutMs");
    assert_eq!(detail(&rsp)["mayHaveBeenProcessed"], true);
    assert_eq!(hop.count("client/#/fake/users/timeouts/attempt"), 1);
    assert_eq!(hop.count("service/svc/users/timeouts/attempt"), 1);
}

#[tokio::test]
async fn a_deadline_that_has_passed_on_arrival_is_503_and_reaches_nobody() {
    let hop = hanging(ServicePolicy::default(), ClientPolicy::default());
    let rsp = hop.ask("GET / HTTP/1.1\r\nHost: web\r\nl5d-ctx-deadline: 1 2\r\n\r\n").await;
    assert_expired(&rsp, 503, "deadline", "deadline", "l5d-ctx-deadline");
    let text = "the deadline of the request to /svc/users has passed: l5d-ctx-deadline left it 0.seconds when it came";
    assert_eq!(rsp.text(), text);
    assert_eq!((hop.endpoints.count(ep()), &detail(&rsp)["mayHaveBeenProcessed"]), (0, &false.into()));
    assert_eq!(hop.count("timeouts/deadline"), 1);
}

#[tokio::test]
async fn a_deadline_that_passes_during_a_request_is_503() {
    let hop = hanging(ServicePolicy::default(), ClientPolicy::default());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let soon = now + 100_000_000;
    let rsp = hop.ask(&format!("GET / HTTP/1.1\r\nHost: web\r\nl5d-ctx-deadline: {now} {soon}\r\n\r\n")).await;
    assert_expired(&rsp, 503, "deadline", "deadline", "l5d-ctx-deadline");
    let ms = detail(&rsp)["timer"]["ms"].as_u64().unwrap();
    assert!(ms <= 100, "{ms}");
}

#[tokio::test]
async fn the_time_of_a_grpc_call_is_503() {
    let hop = hanging(ServicePolicy::default(), ClientPolicy::default());
    let call = "POST / HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\ngrpc-timeout: 50m\r\n\r\n";
    let rsp = hop.ask(call).await;
    assert_expired(&rsp, 503, "deadline", "grpc_timeout", "grpc-timeout");
    assert_eq!((&detail(&rsp)["timer"]["ms"], hop.count("timeouts/grpc_timeout")), (&50.into(), 1));
}

#[tokio::test]
async fn a_wait_in_the_line_of_a_limit_is_503_and_may_be_sent_again() {
    let queue = WhenFull::Queue { capacity: 1, wait: SOON };
    let limit = LimitPolicy::concurrency(NonZeroUsize::MIN, queue);
    let service = ServicePolicy { limit: Some(limit), total_timeout: Some(10 * SOON), ..ServicePolicy::default() };
    let hop = Arc::new(hanging(service, ClientPolicy::default()));
    let inside = Arc::clone(&hop);
    let first = tokio::spawn(async move { inside.ask(GET).await });
    while hop.endpoints.count(ep()) == 0 {
        tokio::task::yield_now().await;
    }
    let rsp = hop.ask(GET).await;
    assert_eq!((rsp.status(), rsp.get("l5d-retryable")), (503, Some("true")));
    assert_eq!(rsp.get("retry-after"), None, "nobody knows");
    let timer = serde_json::json!({"name": "queue", "ms": 30, "setBy": "service.limit.queueWaitMs"});
    assert_eq!((&detail(&rsp)["kind"], &detail(&rsp)["timer"]), (&"overloaded".into(), &timer));
    assert_eq!((first.await.unwrap().status(), hop.endpoints.count(ep())), (503, 1));
}

#[tokio::test]
async fn who_is_shed_by_a_rate_is_told_when_to_come_back() {
    // In whole seconds, rounded up.
    for (per_min, said) in [(31, "2"), (61, "1")] {
        let requests = NonZeroU32::new(per_min).unwrap();
        let per = Duration::from_mins(1);
        let settings = RateSettings { requests, per, burst: NonZeroU32::MIN, ..RateSettings::default() };
        let limit = Some(LimitPolicy::rate(settings).unwrap());
        let service = ServicePolicy { limit, ..ServicePolicy::default() };
        let hop = Hop::new(ServerConfig::default(), service, ClientPolicy::default(), |builder| builder);
        hop.endpoints.script(ep(), [Reply::ok("")]);
        let rsp = hop.ask(GET).await;
        assert_eq!((rsp.status(), rsp.get("retry-after")), (200, None));
        let rsp = hop.ask(GET).await;
        assert_eq!((rsp.status(), rsp.get("l5d-retryable"), rsp.get("retry-after")), (503, Some("true"), Some(said)));
    }
}

#[tokio::test]
async fn the_time_of_a_server_is_503_and_tells_what_was_tried() {
    let server = ServerConfig { timeout: Some(SOON), ..ServerConfig::default() };
    let hop = Hop::new(server, ServicePolicy::default(), ClientPolicy::default(), |builder| builder);
    hop.endpoints.script(ep(), [Reply::hang()]);
    let rsp = hop.ask(GET).await;
    assert_expired(&rsp, 503, "attempt_timeout", "server", "servers.timeoutMs");
    let detail = detail(&rsp);
    assert_eq!((&detail["name"], &detail["attempts"][0]["endpoint"]), (&"/svc/users".into(), &"10.0.0.1:80".into()));
    assert_eq!(hop.count("/timeouts/server"), 2, "the service's and the server's");
}

#[tokio::test]
async fn the_binding_timeout_is_502_for_a_name_and_for_its_first_address() {
    let hop = Hop::new(ServerConfig::default(), ServicePolicy::default(), ClientPolicy::default(), |builder| {
        builder.binding_timeout(SOON).dtab("/svc => /#/fake/nowhere".parse().unwrap())
    });
    let rsp = hop.ask(GET).await;
    assert_expired(&rsp, 502, "binding", "binding", "bindingTimeoutMs");
    hop.namer.tree("/nowhere/users", "/somewhere");
    let rsp = hop.ask(GET).await;
    assert_expired(&rsp, 502, "binding", "binding", "bindingTimeoutMs");
    assert_eq!((hop.count("timeouts/binding"), detail(&rsp)["client"].as_str()), (2, Some("/#/fake/somewhere")));
}

/// Requests go to this endpoint, by these settings.
fn to(addr: std::net::SocketAddr, config: ClientConfig, service: ServicePolicy, client: ClientPolicy) -> Hop {
    let connect = HttpConnect::new(config);
    let hop = Hop::new(ServerConfig::default(), service, client, |builder| builder.connect(connect));
    hop.namer.endpoints("/users", [addr]);
    hop
}

#[tokio::test]
async fn the_connect_timeout_is_502() {
    // With room for one connection that is not accepted, which is taken.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let _first = TcpStream::connect(addr).await.unwrap();
    let config = ClientConfig { connect_timeout: SOON, ..ClientConfig::default() };
    let budget = Budget::new(BudgetSettings::share(0.0)).unwrap();
    let client = ClientPolicy { requeue_budget: budget, ..ClientPolicy::default() };
    let hop = to(addr, config, ServicePolicy::default(), client);
    let rsp = hop.ask(GET).await;
    assert_expired(&rsp, 502, "connect", "connect", "client.connectTimeout");
    assert!(rsp.text().starts_with("Unable to establish connection to 127.0.0.1:"), "{}", rsp.text());
    assert_eq!(detail(&rsp)["bytesWritten"], 0);
    assert_eq!(hop.count("client/#/fake/users/timeouts/connect"), 1);
}

#[tokio::test]
async fn a_wait_for_a_connection_ends_with_the_time_of_its_request_and_a_full_line_is_503() {
    let mut backend = Backend::new().await;
    let pool = PoolConfig { max_size: 1, max_waiters: 1, ..PoolConfig::default() };
    let service = ServicePolicy { total_timeout: Some(Duration::from_millis(300)), ..ServicePolicy::default() };
    let hop =
        Arc::new(to(backend.addr, ClientConfig { pool, ..ClientConfig::default() }, service, ClientPolicy::default()));
    let ask = || {
        let hop = Arc::clone(&hop);
        tokio::spawn(async move { hop.ask(GET).await })
    };
    let first = ask();
    let mut conn = backend.accept().await;
    conn.head().await.unwrap();
    let second = ask();
    let mut third = hop.ask(GET).await;
    if third.get("l5d-retryable").is_none() {
        // It came before the second.
        third = second.await.unwrap();
    } else {
        assert_expired(&second.await.unwrap(), 503, "total_timeout", "total", "service.totalTimeoutMs");
    }
    assert_eq!((third.status(), third.get("l5d-retryable")), (503, Some("true")));
    assert_eq!((&detail(&third)["kind"], &detail(&third)["timer"]), (&"overloaded".into(), &serde_json::Value::Null));
    assert_eq!(first.await.unwrap().status(), 503);
}

#[tokio::test]
async fn a_silence_in_the_middle_of_an_answer_breaks_it_off() {
    let hop = Hop::new(
        ServerConfig::default(),
        ServicePolicy { idle_timeout: Some(SOON), ..ServicePolicy::default() },
        ClientPolicy::default(),
        |builder| builder,
    );
    hop.endpoints.script(ep(), [Reply::ok("silent").streamed(Duration::from_mins(1))]);
    let rsp = hop.ask(GET).await;
    assert_eq!((rsp.status(), rsp.is_whole), (200, false));
    assert_eq!(hop.count("service/svc/users/idle_timeouts"), 1);
}

#[tokio::test]
async fn without_being_asked_for_no_details_are_told() {
    let failing = tower::service_fn(|_: Request<Body>| async {
        Err::<http::Response<Body>, _>(linkerd_core::Error::new(linkerd_core::ErrorKind::Closed))
    });
    let proxy = proxy(ServerConfig::default(), Svc::new(failing));
    let rsp = Wire::connect(proxy.addr).await.ask("GET / HTTP/1.1\r\nHost: web\r\nl5d-err-detail: true\r\n\r\n").await;
    assert_eq!((rsp.status(), rsp.get("l5d-err-json")), (502, None));
}

#[test]
fn every_row_of_the_page_on_timeouts_that_names_a_test_has_it() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let page = std::fs::read_to_string(tests.join("../../docs/timeouts.md")).unwrap();
    let named = page.lines().filter_map(|line| line.strip_suffix("` |")?.rsplit('`').next()?.split_once("::"));
    let mut rows = 0;
    for (file, test) in named {
        let source = |version| std::fs::read_to_string(tests.join(version).join(file).with_extension("rs"));
        let sources = ["http", "h2"].map(|version| source(version).unwrap_or_default());
        assert!(sources.concat().contains(&format!("fn {test}(")), "{file}::{test}");
        rows += 1;
    }
    assert_eq!(rows, 30);
}
