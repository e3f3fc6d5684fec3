//! Servers that are changed while they serve.

use http::Response;
use linkerd_core::{
    Body, Svc,
    http::{Drained, Server, ServerConfig, ServerControl},
    telemetry::{Reading, Registry, RouterStats},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    peers::{Wire, log, logged},
    server::{gated, saying},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

struct Live {
    control: ServerControl,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Drained>,
}

fn live(config: &ServerConfig, svc: Svc) -> Live {
    let config = ServerConfig { addr: ([127, 0, 0, 1], 0).into(), ..config.clone() };
    let grace = config.grace;
    let server = Server::bind(config).unwrap().live(svc);
    let (stop, stopped) = oneshot::channel();
    let control = server.control();
    let ended = tokio::spawn(server.serve_until(async move {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        grace
    }));
    Live { control, stop, ended }
}

#[tokio::test]
async fn requests_on_open_connections_go_where_they_go_now_and_what_is_under_way_stays() {
    let (svc, arrived, gate) = gated();
    let config = ServerConfig::default();
    let live = live(&config, svc);
    let mut busy = Wire::connect(live.control.local_addr()).await;
    busy.write(GET).await;
    arrived.notified().await;
    let mut open = Wire::connect(live.control.local_addr()).await;

    live.control.replace(saying("new"), config);

    assert_eq!(open.ask(GET).await.text(), "new");
    gate.add_permits(1);
    assert_eq!(busy.message(false).await.unwrap().text(), "late");
    assert_eq!(busy.ask(GET).await.text(), "new");
    assert_eq!(Wire::connect(live.control.local_addr()).await.ask(GET).await.text(), "new");
}

#[tokio::test]
async fn connections_keep_the_settings_that_they_came_to() {
    let config = ServerConfig { max_call_depth: 1, ..ServerConfig::default() };
    let live = live(&config, saying("ok"));
    let mut open = Wire::connect(live.control.local_addr()).await;
    assert_eq!(open.ask(GET).await.status(), 200);

    live.control.replace(saying("ok"), ServerConfig { max_call_depth: 2, ..config });

    let passed_two = "GET / HTTP/1.1\r\nHost: web\r\nVia: 1.1 a, 1.1 b\r\n\r\n";
    assert_eq!(open.ask(passed_two).await.status(), 400);
    assert_eq!(Wire::connect(live.control.local_addr()).await.ask(passed_two).await.status(), 200);
}

#[tokio::test]
async fn one_limit_holds_for_requests_of_all_settings() {
    let (svc, arrived, gate) = gated();
    let config = ServerConfig { max_concurrent_requests: Some(1), ..ServerConfig::default() };
    let live = live(&config, svc);
    let mut busy = Wire::connect(live.control.local_addr()).await;
    busy.write(GET).await;
    arrived.notified().await;

    live.control.replace(saying("new"), config);

    assert_eq!(Wire::connect(live.control.local_addr()).await.ask(GET).await.status(), 503);
    gate.add_permits(1);
    assert_eq!(busy.message(false).await.unwrap().text(), "late");
    assert_eq!(Wire::connect(live.control.local_addr()).await.ask(GET).await.text(), "new");
}

#[tokio::test]
async fn who_is_asked_to_leave_is_answered_first() {
    let (svc, arrived, gate) = gated();
    let live = live(&ServerConfig::default(), svc);
    let mut busy = Wire::connect(live.control.local_addr()).await;
    busy.write(GET).await;
    arrived.notified().await;
    let mut idle = Wire::connect(live.control.local_addr()).await;

    live.control.ask_to_leave(true);

    gate.add_permits(100);
    let rsp = busy.message(false).await.unwrap();
    assert_eq!((rsp.text(), rsp.get("connection")), ("late", Some("close")));
    assert!(busy.is_closed().await);
    // Nobody is refused, whenever the connection came.
    for mut wire in [idle, Wire::connect(live.control.local_addr()).await] {
        let rsp = wire.ask(GET).await;
        assert_eq!((rsp.status(), rsp.get("connection")), (200, Some("close")));
        assert!(wire.is_closed().await);
    }
    idle = Wire::connect(live.control.local_addr()).await;
    live.control.ask_to_leave(false);
    for _ in 0..2 {
        assert_eq!(idle.ask(GET).await.get("connection"), None);
    }
    live.control.ask_to_leave(true);
    live.stop.send(()).unwrap();
    assert_eq!(live.ended.await.unwrap().aborted, 0);
    assert!(idle.is_closed().await);
}

#[tokio::test]
async fn what_was_replaced_is_gone_when_its_last_request_is() {
    let held = std::sync::Arc::new(());
    let seen = std::sync::Arc::downgrade(&held);
    let old = Svc::new(tower::service_fn(move |_| {
        let _held = std::sync::Arc::clone(&held);
        async { Ok::<_, linkerd_core::BoxError>(Response::new(Body::from("old"))) }
    }));
    let config = ServerConfig::default();
    let live = live(&config, old);
    let mut open = Wire::connect(live.control.local_addr()).await;
    assert_eq!(open.ask(GET).await.text(), "old");
    live.control.replace(saying("new"), config);
    assert!(seen.upgrade().is_none());
    assert_eq!(open.ask(GET).await.text(), "new");
}

/// What a gauge or counter of the only server of this router says.
fn gauge(registry: &Registry, label: &str, name: &str) -> Option<f64> {
    let mut found = None;
    registry.visit_in(&["rt", label, "server"], |path, reading| {
        let value = match reading {
            Reading::Gauge(value) => value,
            Reading::Counter(count) => count as f64,
            Reading::Stat(_) => return,
        };
        // Its own, and not one of a scope in it.
        if let [_, last] = path
            && **last == *name
        {
            found = Some(value);
        }
    });
    found
}

#[tokio::test]
async fn open_connections_count_in_the_router_that_a_server_is_of() {
    let registry = Registry::new();
    let of = |label| ServerConfig { stats: Some(RouterStats::new(&registry, label)), ..ServerConfig::default() };
    let live = live(&of("old"), saying("ok"));
    let mut open = Wire::connect(live.control.local_addr()).await;
    assert_eq!(open.ask(GET).await.text(), "ok");
    assert_eq!(gauge(&registry, "old", "connections"), Some(1.0));

    live.control.replace(saying("ok"), of("new"));

    // It is not there any more when nobody has its metrics.
    let is_none = |count: Option<f64>| count.is_none_or(|count| count == 0.0);
    assert!(is_none(gauge(&registry, "old", "connections")));
    assert_eq!(gauge(&registry, "new", "connections"), Some(1.0));
    let other = Wire::connect(live.control.local_addr()).await;
    let counts = async |label, expected: f64| {
        for _ in 0..2000 {
            if gauge(&registry, label, "connections") == Some(expected) {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        false
    };
    assert!(counts("new", 2.0).await);
    // Of the same router as before it is the same gauge.
    live.control.replace(saying("ok"), of("new"));
    assert_eq!(gauge(&registry, "new", "connections"), Some(2.0));
    drop((open, other));
    assert!(counts("new", 0.0).await);
    assert!(is_none(gauge(&registry, "old", "connections")));
}

#[tokio::test]
async fn requests_on_open_connections_count_in_the_router_that_a_server_is_of_when_they_begin() {
    let registry = Registry::new();
    let of = |label| ServerConfig { stats: Some(RouterStats::new(&registry, label)), ..ServerConfig::default() };
    let counts = |label, name| gauge(&registry, label, name).unwrap_or_default();
    let (svc, arrived, gate) = gated();
    let live = live(&of("first"), svc);
    let mut busy = Wire::connect(live.control.local_addr()).await;
    busy.write(GET).await;
    arrived.notified().await;
    let mut open = Wire::connect(live.control.local_addr()).await;

    live.control.replace(saying("second"), of("second"));
    assert_eq!(open.ask(GET).await.text(), "second");
    assert_eq!((counts("first", "requests"), counts("second", "requests")), (0.0, 1.0));
    assert_eq!((counts("first", "pending"), counts("second", "pending")), (1.0, 0.0));
    assert!(counts("second", "received_bytes") > 0.0 && counts("second", "sent_bytes") > 0.0);
    assert_eq!(counts("first", "sent_bytes"), 0.0);
    gate.add_permits(1);
    assert_eq!(busy.message(false).await.unwrap().text(), "late");
    assert_eq!((counts("first", "requests"), counts("first", "success")), (1.0, 1.0));

    // Twice, of which one is to the same router.
    live.control.replace(saying("third"), of("third"));
    live.control.replace(saying("third"), of("third"));
    for wire in [&mut open, &mut busy] {
        assert_eq!(wire.ask(GET).await.text(), "third");
    }
    let all = ["first", "second", "third"].map(|label| (counts(label, "requests"), counts(label, "pending")));
    assert_eq!(all, [(1.0, 0.0), (1.0, 0.0), (2.0, 0.0)]);
}

#[tokio::test]
async fn requests_on_open_connections_are_logged_where_all_are_now() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["old.log", "new.log"].map(|name| folder.path().join(name));
    let [old, new] = files.each_ref().map(|file| {
        let access_log = Some(log(file, "{uri}"));
        ServerConfig { access_log, ..ServerConfig::default() }
    });
    let live = live(&old, saying("ok"));
    let mut open = Wire::connect(live.control.local_addr()).await;
    for (config, uri) in [(new, "/old"), (ServerConfig::default(), "/new"), (old, "/nowhere")] {
        assert_eq!(open.ask(format!("GET {uri} HTTP/1.1\r\nHost: web\r\n\r\n")).await.status(), 200);
        live.control.replace(saying("ok"), config);
    }
    assert_eq!(open.ask("GET /again HTTP/1.1\r\nHost: web\r\n\r\n").await.status(), 200);
    assert_eq!(logged(&files[0], 2).await, ["/old", "/again"]);
    assert_eq!(logged(&files[1], 1).await, ["/new"]);
}
