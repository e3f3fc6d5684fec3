//! Each page of the admin port, and bad parameters of each that takes any.

use serde_json::{Value, json};

use crate::harness::{Conn, Folder, Linkerd, SIMPLE, server};

/// A proxy that has served a request for `web`.
async fn used() -> (Linkerd, helloworld::Running) {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;
    assert_eq!(linkerd.get("web").await.body, "web!");
    (linkerd, web)
}

#[tokio::test]
async fn each_page_answers() {
    let (linkerd, web) = used().await;
    for (page, text) in [
        ("/", "linkerd admin"),
        ("/admin", "/config.json"),
        ("/admin/ping", "pong"),
        ("/help", "<"),
        ("/logging", "root"),
        ("/files/css/dashboard.css", "{"),
        ("/bound-names.json", r#"["/#/io.l5d.fs/web"]"#),
        ("/logging.json", r#""level":"INFO""#),
        ("/admin/metrics.json", r#""rt/http/server/127.0.0.1/"#),
        ("/admin/metrics.json?pretty=true", "\n"),
        ("/admin/metrics.json?tree=true&q=rt/http", "service"),
        ("/admin/metrics/prometheus", "rt:service:requests{rt=\"http\", service=\"svc/web\"} 1"),
        ("/state.json", "/svc/web"),
        ("/namer_state/io.l5d.fs.json", "/web"),
    ] {
        let answer = linkerd.page(page).await;
        assert_eq!(answer.status, 200, "{page}: {answer:?}");
        assert!(answer.body.contains(text), "{page}: {answer:?}");
    }
    // Each page that the list has.
    for page in linkerd.page("/admin").await.body.lines().filter(|page| *page != "/admin/shutdown") {
        let expected = match page {
            "/delegator.json" => 400,
            "/admin/drain" => 405,
            _ => 200,
        };
        assert_eq!(linkerd.page(page).await.status, expected, "{page}");
    }
    assert_eq!(linkerd.page("/nope").await.status, 404);

    let clients = linkerd.json("/client_state.json").await;
    let addresses = json!([web.addr().to_string()]);
    assert_eq!(clients, json!({"/#/io.l5d.fs/web": {"state": "bound", "addresses": addresses}}));
    let config = linkerd.json("/config.json").await;
    assert_eq!(config["namers"], json!([{"kind": "io.l5d.fs", "rootDir": "disco"}]));
    assert_eq!(config["routers"][0]["servers"], json!([{"port": 0}]));
}

#[tokio::test]
async fn names_are_explained() {
    let (linkerd, web) = used().await;
    let explained = linkerd.json("/delegator.json?namespace=http&dtab=/svc=%3E/%23/io.l5d.fs&path=/svc/web").await;
    assert_eq!(explained["path"], "/svc/web", "{explained:#}");
    let text = explained.to_string();
    assert!(text.contains(r#""id":"/#/io.l5d.fs/web""#) && text.contains(&web.addr().port().to_string()), "{text}");

    let body = json!({"namespace": "http", "dtab": "/svc => /#/io.l5d.fs", "path": "/svc/web"}).to_string();
    let posted = linkerd.post("/delegator.json", "application/json", &body).await;
    assert_eq!(posted.status, 200, "{posted:?}");
    let posted: Value = serde_json::from_str(&posted.body).unwrap();
    assert!(posted.to_string().contains(r#""id":"/#/io.l5d.fs/web""#), "{posted:#}");
    // As in Linkerd, the table is what is asked for and nothing else.
    let bare = linkerd.json("/delegator.json?namespace=http&path=/svc/web").await;
    assert_eq!(bare, json!({"type": "neg", "path": "/svc/web"}));
    // Without a router there are no namers.
    let global = linkerd.json("/delegator.json?dtab=/svc=%3E/%23/io.l5d.fs&path=/svc/web").await;
    assert!(!global.to_string().contains("bound\":{\"addr\""), "{global:#}");
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let (linkerd, _web) = used().await;
    for (page, status, text) in [
        ("/delegator.json", 400, "path"),
        ("/delegator.json?path=nope", 400, "Invalid path: "),
        ("/delegator.json?path=/svc/web&dtab=/a", 400, "Invalid dtab: "),
        ("/delegator.json?path=/%FF&dtab=", 400, "path"),
        ("/admin/metrics.json?pretty=perhaps", 400, "perhaps"),
        ("/admin/metrics.json?tree=2", 400, "tree"),
        ("/admin/metrics.json?q=nope", 404, "nope"),
    ] {
        let answer = linkerd.page(page).await;
        assert_eq!(answer.status, status, "{page}: {answer:?}");
        assert!(answer.body.contains(text), "{page}: {answer:?}");
    }
    for (page, kind, body, status, text) in [
        ("/delegator.json", "text/plain", "{}", 415, ""),
        ("/delegator.json", "application/json", "{", 400, "Malformed delegation request: {"),
        ("/delegator.json", "application/json", r#"{"path": 1}"#, 400, "Malformed delegation request: "),
        ("/logging.json", "application/x-www-form-urlencoded", "logger=root", 400, "level"),
        ("/logging.json", "application/x-www-form-urlencoded", "logger=root&level=LOUD", 400, "LOUD"),
        ("/admin/shutdown?grace=soon", "text/plain", "", 400, "soon"),
    ] {
        let answer = linkerd.post(page, kind, body).await;
        assert_eq!(answer.status, status, "{page} {body}: {answer:?}");
        assert!(answer.body.contains(text), "{page} {body}: {answer:?}");
    }
    // It still works.
    assert_eq!(linkerd.get("web").await.body, "web!");
}

#[tokio::test]
async fn the_level_of_the_log_is_changed() {
    let (linkerd, _web) = used().await;
    let answer = linkerd.post("/logging.json", "application/x-www-form-urlencoded", "logger=root&level=debug").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(linkerd.json("/logging.json").await, json!([{"logger": "root", "level": "DEBUG"}]));
}

#[tokio::test]
async fn pages_are_hidden_as_the_file_says() {
    let folder = Folder::new();
    let security = "admin:\n  httpIdentifierPort: 0\n  security:\n    uiEnabled: false\n    controlEnabled: false\n    pathWhitelist: ['/config[.]json']\n    pathBlacklist: [/admin/ping]\n";
    let linkerd = Linkerd::start(&folder, &SIMPLE.replace("admin:\n", security)).await;
    for (page, status) in [
        ("/", 404),
        ("/delegator.json?path=/x", 404),
        ("/logging.json", 404),
        ("/config.json", 200),
        ("/admin/ping", 404),
    ] {
        assert_eq!(linkerd.page(page).await.status, status, "{page}");
    }
    assert_eq!(linkerd.post("/admin/shutdown", "text/plain", "").await.status, 404);
    assert_eq!(linkerd.page("/state.json").await.status, 200);
}

#[tokio::test]
async fn a_page_is_served_while_requests_wait() {
    let folder = Folder::new();
    let mut backend = crate::harness::held().await;
    folder.list("slow", &[backend.addr]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;
    let mut conn = Conn::open(linkerd.servers[0]).await;
    let request = http::Request::get("/").header("host", "slow").body(String::new()).unwrap();
    let answer = tokio::spawn(async move { conn.try_send(request).await });
    backend.arrived().await;

    let state = linkerd.json("/state.json").await.to_string();
    assert!(state.contains(r#""pending":1"#), "{state}");
    backend.answer.send(()).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().body, "late!");
}

#[tokio::test]
async fn namers_of_one_prefix_share_a_page() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let twice = "- kind: io.l5d.fs\n  rootDir: disco\n";
    assert!(SIMPLE.contains(twice), "{SIMPLE}");
    let linkerd = Linkerd::start(&folder, &SIMPLE.replace(twice, &twice.repeat(2))).await;
    assert_eq!(linkerd.get("web").await.body, "web!");
    assert_eq!(linkerd.json("/namer_state/io.l5d.fs.json").await["/web"]["state"], "ok");
}
