//! The admin pages against what Linkerd 1.7.5 was recorded to answer, and against bad input.

#![cfg(feature = "admin")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use linkerd_core::{
    Body, Mesh,
    admin::{Admin, Builder, InvalidPage, Logging, Router, Security, addr_state},
    config::Config,
    identify::HeaderToken,
    proxy::Proxy,
    span::{Recent, SpanKind, SpanLayer, Tracer},
    telemetry::{Prometheus, Registry, RouterStats},
};
use linkerd_dtab::{
    Activity, Addr, Bound, Dtab, Failure, Interpreter, Name, NameTree, Namer, Path, State, interpreter::Local,
    namer::Resolve,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{Layer, ServiceExt};

const DTAB: &str =
    "/svc => /#/io.l5d.fs ; /w => 3 * /svc/web & /svc/down ; /neg => ~ ; /fail => ! ; /empty => $ ; /loop => /loop";

/// A folder of names, as the fs namer would have it.
struct Disco;

struct Literal;

impl Namer for Disco {
    fn lookup(&self, path: &Path) -> Activity<NameTree<Name>> {
        let Some(name) = path.get(0) else { return Activity::value(NameTree::Neg) };
        let addr = match name {
            b"web" => Activity::value(Addr::of([local(9001)])),
            b"down" => Activity::value(Addr::of([local(9002)])),
            b"badf" => Activity::failed(failure("malformed address: what is this")),
            b"slow" => return Activity::channel().1,
            _ => return Activity::value(NameTree::Neg),
        };
        Activity::value(NameTree::Leaf(Name::Bound(Bound::new(path.take_first(1), path.drop_first(1), addr))))
    }
}

impl Resolve for Literal {
    fn resolve(&self, host: &str, port: &str) -> Activity<Addr> {
        Activity::value(Addr::of(format!("{host}:{port}").parse()))
    }

    fn resolve_once(&self, host: &str, port: &str) -> Activity<Addr> {
        self.resolve(host, port)
    }
}

fn failure(text: &str) -> Failure {
    Arc::new(std::io::Error::other(text.to_owned()))
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn interpreter() -> Arc<dyn Interpreter> {
    let fs: Arc<dyn Namer> = Arc::new(Disco);
    Arc::new(Local::new(vec![("/#/io.l5d.fs".parse().unwrap(), fs)], Arc::new(Literal)))
}

fn builder() -> Builder {
    let logging = Logging::new(
        || vec![("root".into(), "INFO".into())],
        |_, level| if ["DEBUG", "INFO"].contains(&level) { Ok(()) } else { Err("no such level".into()) },
    );
    let config = cases("admin").into_iter().find(|case| case["path"] == "/config.json").unwrap();
    Admin::builder(Registry::new())
        .config(serde_json::from_str(config["expect"]["body"].as_str().unwrap()).unwrap())
        .router(Router::new("http", DTAB.parse().unwrap(), interpreter()).server("127.0.0.1/4140"))
        .router(Router::new("path", "/svc/a=>/#/io.l5d.fs".parse().unwrap(), interpreter()))
        .global(Arc::new(Local::new(Vec::new(), Arc::new(Literal))))
        .bound_names(|| ["w500", "emptyf", "web", "w404", "down", "badf"].map(|n| format!("/#/io.l5d.fs/{n}")).into())
        .client_state(|| json!({"/#/io.l5d.fs/web": addr_state(&State::Ok(Addr::of([local(9001)])))}))
        .state("namers", || json!({}))
        .logging(logging)
        .shutdown(|_| ())
        .prometheus(Prometheus::DEFAULT_PATH, Prometheus::new())
}

fn cases(suite: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("data/admin/pages.json")).unwrap();
    all[suite].as_array().unwrap().clone()
}

async fn text(rsp: Response<Body>) -> String {
    String::from_utf8_lossy(&rsp.into_body().collect().await.unwrap().to_bytes()).into_owned()
}

async fn get(admin: &Admin, path: &str) -> (StatusCode, String) {
    let rsp = admin.send(Request::get(path).body(Body::empty()).unwrap()).await;
    (rsp.status(), text(rsp).await)
}

async fn post(admin: &Admin, path: &str, kind: &str, body: impl Into<Body>) -> (StatusCode, String) {
    let req = Request::post(path).header("content-type", kind).body(body.into()).unwrap();
    let rsp = admin.send(req).await;
    (rsp.status(), text(rsp).await)
}

/// Documents are compared by value, lists of strings as sets, and other texts as they are.
fn same(expected: &str, found: &str) -> bool {
    match (serde_json::from_str::<Value>(expected), serde_json::from_str::<Value>(found)) {
        (Ok(Value::Array(a)), Ok(Value::Array(b))) if a.iter().chain(&b).all(Value::is_string) => {
            let set = |list: &[Value]| list.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
            set(&a) == set(&b)
        }
        (Ok(a), Ok(b)) => a == b,
        _ => expected == found,
    }
}

async fn replay(suite: &str, admin: &Admin) {
    let cases = cases(suite);
    let mut wrong = Vec::new();
    for case in &cases {
        let id = case["id"].as_str().unwrap();
        // A target that HTTP forbids is the connection's business.
        let path = case["path"].as_str().unwrap().replace('>', "%3E");
        let mut req = Request::builder().method(case["method"].as_str().unwrap()).uri(path);
        for header in case["headers"].as_array().into_iter().flatten() {
            req = req.header(header[0].as_str().unwrap(), header[1].as_str().unwrap());
        }
        let body = case["body"].as_str().unwrap_or("").to_owned();
        let rsp = admin.send(req.body(body.into()).unwrap()).await;
        let expect = &case["expect"];
        if Some(u64::from(rsp.status().as_u16())) != expect["status"].as_u64() {
            wrong.push(format!("{id}: {}", rsp.status()));
        }
        for (name, values) in expect["headers"].as_object().unwrap() {
            let found: Vec<_> = rsp.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
            if json!(found) != *values {
                wrong.push(format!("{id}: {name} {found:?}"));
            }
        }
        let found = text(rsp).await;
        if let Some(expected) = expect["body"].as_str()
            && !same(expected, &found)
        {
            wrong.push(format!("{id}: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), cases.len());
}

#[tokio::test]
async fn pages_answer_as_recorded() {
    let recent = Arc::new(Recent::default().only(SpanKind::Server));
    replay("admin", &builder().requests(recent).build().unwrap()).await;
}

/// Serves a request to a mesh of this table, and keeps its span.
async fn serve_one(recent: &Arc<Recent>, req: http::request::Builder) {
    let mesh = Mesh::builder().dtab("/svc => /$/io.buoyant.http.status/204".parse().unwrap()).build().unwrap();
    let router = mesh.router(HeaderToken::host("/svc".parse().unwrap()));
    let svc = SpanLayer::new(Tracer::new(recent.clone()), "edge").layer(router);
    let _ = svc.oneshot(req.body(Body::empty()).unwrap()).await;
}

#[tokio::test]
async fn the_last_requests_are_shown_and_no_header_becomes_markup() {
    let recent = Arc::new(Recent::new(2.try_into().unwrap()).only(SpanKind::Server));
    let admin = builder().requests(recent.clone()).build().unwrap();
    assert!(get(&admin, "/requests").await.1.contains("none yet"));
    assert_eq!(get(&admin, "/requests.json").await, (StatusCode::OK, "[]".to_owned()));
    serve_one(&recent, Request::get("/first").header("host", "a")).await;
    serve_one(&recent, Request::get("/second?secret=1").header("host", "b")).await;
    serve_one(&recent, Request::get("/&'\"onload=\"x").header("host", "<b onload=\"x\">&'")).await;

    let (_, page) = get(&admin, "/requests").await;
    let columns = ["time", "source", "path", "service", "client", "address", "status", "latency"];
    let heads = format!("<th>{}</th></tr>", columns.join("</th><th>"));
    assert!(page.contains(&heads), "{page}");
    let texts: Vec<_> = page.split("<tr>").skip(2).collect();
    assert_eq!(texts.len(), 2, "the first one gave way: {page}");
    assert!(texts[0].contains("free\">/&amp;&#39;&quot;onload=&quot;x</td>"), "the newest first: {page}");
    assert!(texts[1].contains(">/second</td><td class=\"free\">/svc/b</td>") && !page.contains("secret"), "{page}");
    assert!(!page.contains("<script") && !page.contains("<b ") && !page.contains("\"onload"), "{page}");

    let rows: Value = serde_json::from_str(&get(&admin, "/requests.json").await.1).unwrap();
    let row = &rows[1];
    assert_eq!((&row["path"], &row["service"], &row["method"]), (&json!("/second"), &json!("/svc/b"), &json!("GET")));
    assert_eq!((&row["status"], &row["error"]), (&json!("204"), &json!("")));
    assert!(row["latencyMs"].as_f64().is_some_and(|ms| ms > 0.0), "{row}");
    assert!(row["time"].as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()), "{row}");
    assert!(rows[0]["service"].as_str().unwrap().starts_with("/svc/\\x3c"), "{rows}");
}

#[tokio::test]
async fn a_long_list_of_requests_ends_and_says_where_the_rest_is() {
    let recent = Arc::new(Recent::new(300.try_into().unwrap()));
    let admin = builder().requests(recent.clone()).build().unwrap();
    for _ in 0..300 {
        serve_one(&recent, Request::get(format!("/{}", "x".repeat(5000))).header("host", "a")).await;
    }
    let (_, page) = get(&admin, "/requests").await;
    assert_eq!(page.matches("<tr><td>").count(), 200);
    assert!(page.contains("and 100 more, see <a href=\"/requests.json\">"));
    assert!(page.len() < 200 * 1000, "{}", page.len());
    let rows: Value = serde_json::from_str(&get(&admin, "/requests.json").await.1).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 300);
    let twice = builder().requests(recent.clone()).requests(recent).build().unwrap_err();
    assert_eq!(twice, InvalidPage::Taken("/requests".to_owned()));
}

#[tokio::test]
async fn a_post_to_shutdown_is_heard() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    let admin = builder().shutdown(move |grace| log.lock().unwrap().push(grace)).build().unwrap();
    replay("admin-shutdown", &admin).await;
    let _ = get(&admin, "/admin/shutdown").await;
    let _ = post(&admin, "/admin/shutdown?grace=2.seconds", "text/plain", "").await;
    let (status, text) = post(&admin, "/admin/shutdown?grace=soon", "text/plain", "").await;
    assert_eq!(status, 400);
    assert_eq!(text, r#"invalid parameter grace: expected a duration such as 5.seconds, found "soon""#);
    assert_eq!(*heard.lock().unwrap(), [None, Some(Duration::from_secs(2))]);
}

#[tokio::test]
async fn control_and_diagnostics_can_be_hidden() {
    let security = Security::new().control(false).diagnostics(false).whitelist(["^/admin/ping$"]).unwrap();
    let admin = builder().security(security).build().unwrap();
    replay("admin-sec-noctl", &admin).await;
    assert_eq!(get(&admin, "/admin/ping").await, (StatusCode::OK, "pong".to_owned()));
    let (_, page) = get(&admin, "/").await;
    assert!(page.contains("\"/config.json\"") && !page.contains("client_state"));
}

#[tokio::test]
async fn the_ui_can_be_hidden_but_for_a_whitelist() {
    let security = Security::new().ui(false).whitelist(["/config.*"]).unwrap();
    let security = security.blacklist(["/admin/p.*", "/logging.json"]).unwrap();
    let admin = builder().security(security).build().unwrap();
    replay("admin-sec-noui", &admin).await;
    assert_eq!(get(&admin, "/admin/ping").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stays_pending_times_out() {
    let admin = builder().build().unwrap();
    let begun = tokio::time::Instant::now();
    let answer = get(&admin, "/delegator.json?namespace=http&dtab=/svc=%3E/%23/io.l5d.fs&path=/svc/slow").await;
    assert_eq!(answer, (StatusCode::SERVICE_UNAVAILABLE, "Request timed out.".to_owned()));
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn without_a_namespace_there_are_no_configured_namers() {
    let admin = builder().build().unwrap();
    let (status, body) = get(&admin, "/delegator.json?path=/%23/io.l5d.fs/web").await;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({"type": "neg", "path": "/#/io.l5d.fs/web"}));
}

#[tokio::test]
async fn bad_questions_to_the_delegator_are_named() {
    let admin = builder().build().unwrap();
    for (query, text) in [
        ("dtab=/a=%3E&path=/x", "Invalid dtab: "),
        ("dtab=/a=%3E/b&path=x", "Invalid path: '/' expected but 'x' found at '[x]'"),
        ("path=%ff", "invalid parameter path: not UTF-8 (%ff)"),
        ("dtab=/a=%3E/b", "Invalid path: parameter path is missing"),
    ] {
        let (status, body) = get(&admin, &format!("/delegator.json?{query}")).await;
        assert_eq!(status, 400, "{query}");
        assert!(body.starts_with(text), "{body}");
    }
    for body in
        ["", "[]", "{", r#"{"dtab":"","path":7}"#, r#"{"namespace":1,"dtab":"","path":"/x"}"#, r#"{"path":"/x"}"#]
    {
        let answer = post(&admin, "/delegator.json", "application/json", body).await;
        assert_eq!(answer, (StatusCode::BAD_REQUEST, format!("Malformed delegation request: {body}")));
    }
    let put = Request::put("/delegator.json").body(Body::empty()).unwrap();
    assert_eq!(admin.send(put).await.status(), 405);
}

#[tokio::test]
async fn a_body_has_a_bound() {
    let admin = builder().build().unwrap();
    let fits = format!(r#"{{"dtab":"","path":"/x","pad":"{}"}}"#, "x".repeat((1 << 20) - 32));
    assert_eq!(post(&admin, "/delegator.json", "application/json", fits.clone()).await.0, 200);
    for path in ["/delegator.json", "/logging.json"] {
        let kind = if path == "/delegator.json" { "application/json" } else { "application/x-www-form-urlencoded" };
        let (status, text) = post(&admin, path, kind, fits.clone() + &" ".repeat(64)).await;
        assert_eq!((status, &*text), (StatusCode::PAYLOAD_TOO_LARGE, "body is larger than 1048576 bytes"));
    }
}

#[tokio::test]
async fn levels_are_shown_and_set() {
    let set = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&set);
    let logging = Logging::new(
        || vec![("root".into(), "INFO".into())],
        move |logger, level| {
            if level == "LOUD" {
                return Err("no such level".into());
            }
            log.lock().unwrap().push(format!("{logger} {level}"));
            Ok(())
        },
    );
    let admin = builder().logging(logging).build().unwrap();
    let (_, levels) = get(&admin, "/logging.json").await;
    assert_eq!(levels, r#"[{"logger":"root","level":"INFO"}]"#);
    assert!(get(&admin, "/logging").await.1.contains("<option selected>INFO</option>"));
    let form = "application/x-www-form-urlencoded; charset=utf-8";
    assert_eq!(post(&admin, "/logging.json", form, "logger=root&level=debug").await.0, 200);
    assert_eq!(post(&admin, "/logging.json?logger=a&level=INFO", "text/plain", "").await.0, 200);
    assert_eq!(*set.lock().unwrap(), ["root DEBUG", "a INFO"]);
    let (status, text) = post(&admin, "/logging.json", form, "logger=root&level=loud").await;
    assert_eq!((status, &*text), (StatusCode::BAD_REQUEST, r#"invalid parameter level, "loud": no such level"#));
    let (status, text) = post(&admin, "/logging.json", form, "level=INFO").await;
    assert_eq!((status, &*text), (StatusCode::BAD_REQUEST, "parameter logger is missing"));
}

#[tokio::test]
async fn metrics_are_shown_whole_in_part_and_as_a_tree() {
    let registry = Registry::new();
    let router = RouterStats::new(&registry, "http");
    let service = router.service(&"/svc/web".parse().unwrap());
    service.requests.requests.incr();
    let admin = Admin::builder(registry).build().unwrap();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(json(&get(&admin, "/admin/metrics.json").await.1)["rt/http/service/svc/web/requests"], 1);
    assert_eq!(json(&get(&admin, "/admin/metrics.json?q=rt/http").await.1)["service/svc/web/requests"], 1);
    let tree = json(&get(&admin, "/admin/metrics.json?tree=true&q=rt").await.1);
    assert_eq!(tree["http"]["service"]["svc/web"]["requests"], json!({"counter": 1}));
    let (_, pretty) = get(&admin, "/admin/metrics.json?pretty=true").await;
    assert!(pretty.starts_with("{\n  \"rt/http/service/svc/web/failures\": 0,\n"), "{pretty}");
    let (status, text) = get(&admin, "/admin/metrics.json?q=a%22b").await;
    assert_eq!((status, &*text), (StatusCode::NOT_FOUND, r#"{"error": "No such subtree: a\"b"}"#));
    let (status, text) = get(&admin, "/admin/metrics.json?tree=si").await;
    assert_eq!(status, 400);
    assert_eq!(text, r#"invalid parameter tree: expected true or false, found "si""#);
}

#[tokio::test]
async fn the_first_page_shows_what_there_is_and_links_to_all() {
    let registry = Registry::new();
    let router = RouterStats::new(&registry, "http");
    let server = router.server(local(4140));
    server.requests.requests.add(41);
    let _client = router.client(&"/#/io.l5d.fs/<script>".parse().unwrap_or_else(|_| "/#/io.l5d.fs/a".parse().unwrap()));
    let dtab: Dtab = "/svc=>/#/io.l5d.fs".parse().unwrap();
    let admin = Admin::builder(registry)
        .router(Router::new("http", dtab, interpreter()).server("127.0.0.1/4140").server("127.0.0.1:4141"))
        .json("/namer_state/io.l5d.fs.json", || json!({"web": []}))
        .build()
        .unwrap();
    let (status, page) = get(&admin, "/").await;
    assert_eq!(status, 200);
    for part in [
        "<h2>http <small>http</small></h2>",
        "<td>127.0.0.1/4141</td>",
        "data-metric=\"rt/http/server/127.0.0.1/4140/requests\">41</td>",
        "/svc =&gt; /#/io.l5d.fs",
        "href=\"/namer_state/io.l5d.fs.json\"",
        "href=\"/admin/metrics.json\"",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let (_, index) = get(&admin, "/admin/index.txt").await;
    let paths: Vec<_> = index.lines().collect();
    assert!(paths.is_sorted());
    for path in paths {
        // A question without parameters is a bad one; it is there.
        let expected = if path == "/delegator.json" { 400 } else { 200 };
        assert_eq!(get(&admin, path).await.0, expected, "{path}");
    }
    assert_eq!(get(&admin, "/config.json").await.0, 404);
    assert_eq!(get(&admin, "/bound-names.json").await.1, "[]");
    assert_eq!(get(&admin, "/state.json").await.1, "{}");
}

#[tokio::test]
async fn the_playground_shows_how_a_router_binds_a_name() {
    let dtab: Dtab = "/svc=>/#/io.l5d.fs".parse().unwrap();
    let admin = Admin::builder(Registry::new()).router(Router::new("http", dtab, interpreter())).build().unwrap();
    let (status, empty) = get(&admin, "/delegator").await;
    assert_eq!(status, 200);
    assert!(empty.contains("<option selected>http</option>") && !empty.contains("<pre>"), "{empty}");
    assert!(empty.contains("/svc=&gt;/#/io.l5d.fs"), "its table: {empty}");
    // By its own table, and by another one.
    let (_, own) = get(&admin, "/delegator?router=http&path=/svc/web").await;
    assert!(own.contains("<pre>") && own.contains("/#/io.l5d.fs/web") && own.contains("127.0.0.1:9001"), "{own}");
    let (_, other) = get(&admin, "/delegator?router=http&path=/svc/web&dtab=/svc%3D%3E/%23/io.l5d.fs/down").await;
    assert!(other.contains("127.0.0.1:9002"), "{other}");
    for (query, says) in [
        ("path=svc", "Invalid path: "),
        ("path=/svc&dtab=/a", "Invalid dtab: "),
        ("router=%3Cb%3E&path=/svc", "There is no router &lt;b&gt;."),
    ] {
        let (status, page) = get(&admin, &format!("/delegator?{query}")).await;
        assert!(status == 200 && page.contains(says), "{query}: {page}");
    }
}

#[tokio::test]
async fn head_answers_the_length_and_no_body() {
    let admin = builder().build().unwrap();
    let rsp = admin.send(Request::head("/admin/ping").body(Body::empty()).unwrap()).await;
    assert_eq!(rsp.headers()["content-length"], "4");
    assert_eq!(text(rsp).await, "");
}

#[tokio::test]
async fn a_page_that_panics_is_an_answer() {
    let admin = builder().json("/bad.json", || panic!("not on purpose")).build().unwrap();
    assert_eq!(get(&admin, "/bad.json").await.0, 500);
    assert_eq!(get(&admin, "/admin/ping").await.0, 200);
}

#[test]
fn two_pages_cannot_be_at_one_path() {
    let taken = |path: &str| InvalidPage::Taken(path.to_owned());
    let build = |path: &str| builder().prometheus(path, Prometheus::new()).build().err();
    assert_eq!(build("/admin/ping"), Some(taken("/admin/ping")));
    assert_eq!(build(Prometheus::DEFAULT_PATH), Some(taken(Prometheus::DEFAULT_PATH)));
    assert_eq!(build("metrics"), Some(InvalidPage::NoSlash("metrics".to_owned())));
    assert_eq!(build("/metrics"), None);
}

#[tokio::test]
async fn breakers_are_forced_by_name_and_it_is_kept_who_did() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let admin = Admin::builder(Registry::new()).breakers(move |forced| {
        seen.lock()
            .unwrap()
            .push(format!("{:?} {} {:?} {:?}", forced.router, forced.client, forced.endpoint, forced.force));
        usize::from(forced.client.to_string() == "/#/io.l5d.fs/web") * 2
    });
    let admin = admin.build().unwrap();
    let post = async |query: &str| {
        let req = Request::post(format!("/admin/breakers?{query}")).body(Body::empty()).unwrap();
        let rsp = admin.send(req).await;
        let status = rsp.status().as_u16();
        let text = rsp.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(text.to_vec()).unwrap())
    };
    let web = "client=/%23/io.l5d.fs/web";
    let (status, text) =
        post(&format!("{web}&action=open&ttl=5.minutes&endpoint=10.0.0.1:80&by=ann&router=http")).await;
    let entry: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &entry["breakers"], &entry["ttlMs"], &entry["by"]),
        (200, &json!(2), &json!(300_000), &json!("ann"))
    );
    assert_eq!(post(&format!("{web}&action=closed")).await.0, 200);
    assert_eq!(post(&format!("{web}&action=reset")).await.0, 200);
    let expected = [
        r#"Some("http") /#/io.l5d.fs/web Some(10.0.0.1:80) Open(300s)"#,
        "None /#/io.l5d.fs/web None Closed(60s)",
        "None /#/io.l5d.fs/web None Reset",
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
    assert_eq!(post("client=/%23/io.l5d.fs/other&action=open").await.0, 404);
    for (query, named) in [
        ("action=open", "client"),
        ("client=web&action=open", "client"),
        (&*format!("{web}&action=shut"), "action"),
        (&*format!("{web}&action=open&ttl=25.hours"), "ttl"),
        (&*format!("{web}&action=open&ttl=0"), "ttl"),
        (&*format!("{web}&action=open&endpoint=here"), "endpoint"),
        (&*format!("{web}&action=open&endpiont=10.0.0.1:80"), "unknown parameter endpiont"),
    ] {
        let (status, text) = post(query).await;
        assert!(status == 400 && text.contains(named), "{query}: {status} {text}");
    }
    let rsp = admin.send(Request::get("/admin/breakers").body(Body::empty()).unwrap()).await;
    let audit: Value = serde_json::from_slice(&rsp.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(audit.as_array().unwrap().len(), 3);
    assert_eq!(audit[0], entry);
}

#[tokio::test]
async fn a_client_that_says_nothing_to_the_admin_pages_is_left_and_counted() {
    let text = "admin: {port: 0, socketOptions: {readTimeoutMs: 100, writeTimeoutMs: 60000}}\n\
        routers:\n- protocol: http\n  servers: [{port: 0}]\n";
    let proxy = Proxy::builder(&Config::parse("f", text).unwrap()).build().unwrap().bind().unwrap();
    let addr = proxy.admin_addr();
    tokio::spawn(proxy.serve());
    let mut silent = TcpStream::connect(addr).await.unwrap();
    let left = tokio::time::timeout(Duration::from_secs(30), silent.read(&mut [0])).await;
    assert_eq!(left.expect("it is left").unwrap(), 0);
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"GET /admin/metrics.json HTTP/1.0\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    client.read_to_string(&mut metrics).await.unwrap();
    assert!(metrics.contains(r#""admin/read_timeout":1,"#), "{metrics}");
    assert!(metrics.contains(r#""admin/write_timeout":0,"#), "{metrics}");
}
