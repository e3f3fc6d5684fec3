//! Requests through the program.

use std::collections::BTreeMap;

use http::Request;

use crate::harness::{Conn, Folder, Linkerd, SIMPLE, echo, eventually, server};

#[tokio::test]
async fn a_request_goes_where_the_dtab_says() {
    let folder = Folder::new();
    let (web, fallback) = (server("web").await, server("fallback").await);
    folder.list("web", &[web.addr()]);
    folder.list("default", &[fallback.addr()]);
    let rules = "/svc/* => /#/io.l5d.fs/default;\n    /svc => /#/io.l5d.fs;";
    let config = SIMPLE.replace("/svc => /#/io.l5d.fs;", rules);
    let linkerd = Linkerd::start(&folder, &config).await;

    assert_eq!(linkerd.get("web").await.body, "web!");
    assert_eq!(linkerd.get("other").await.body, "fallback!");
}

#[tokio::test]
async fn a_name_that_is_nowhere_is_502_and_a_request_without_one_400() {
    let folder = Folder::new();
    let linkerd = Linkerd::start(&folder, SIMPLE).await;

    let answer = linkerd.get("nobody").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.headers["l5d-err"].to_str().unwrap().contains("nobody"), "{answer:?}");
    let answer = linkerd.get("").await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.headers.contains_key("l5d-err"), "{answer:?}");
    for (name, value) in [("l5d-dtab", "/a =>"), ("l5d-ctx-dtab", "nonsense")] {
        let answer = linkerd.get_with("nobody", &[(name, value)]).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        // Linkerd's own text: the value with its place in brackets.
        assert!(answer.body.contains(" expected but "), "{answer:?}");
    }
}

#[tokio::test]
async fn it_is_a_proxy_for_http_proxy() {
    let folder = Folder::new();
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;

    // As `http_proxy=127.0.0.1:4140 curl http://web/` has it on the wire.
    let mut conn = Conn::open(linkerd.servers[0]).await;
    let answer = conn.get("http://web/path", "web", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "web!"));
    // The connection is kept.
    assert_eq!(conn.get("http://web/", "web", &[]).await.body, "web!");
    // Whom the target names is who is meant.
    assert_eq!(conn.get("http://web/", "elsewhere", &[]).await.body, "web!");
}

#[tokio::test]
async fn a_request_may_bring_rules_of_its_own() {
    let folder = Folder::new();
    let (old, new) = (server("old").await, server("new").await);
    folder.list("web", &[old.addr()]);
    folder.list("web-v2", &[new.addr()]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;

    let to_new = ("l5d-dtab", "/svc/web => /#/io.l5d.fs/web-v2");
    assert_eq!(linkerd.get("web").await.body, "old!");
    assert_eq!(linkerd.get_with("web", &[to_new]).await.body, "new!");
    assert_eq!(linkerd.get("web").await.body, "old!");
    let literal = format!("/svc/web => /$/inet/127.0.0.1/{}", new.addr().port());
    assert_eq!(linkerd.get_with("web", &[("l5d-dtab", &literal)]).await.body, "new!");
    assert_eq!(linkerd.get_with("web", &[("l5d-ctx-dtab", &literal)]).await.body, "new!");
}

#[tokio::test]
async fn weights_are_kept_and_change_with_the_file_of_rules() {
    let folder = Folder::new();
    let (old, new) = (server("old").await, server("new").await);
    folder.list("old", &[old.addr()]);
    folder.list("new", &[new.addr()]);
    folder.write("rules.dtab", "/svc => /#/io.l5d.fs ;\n/svc/web => /#/io.l5d.fs/old ;\n");
    let interpreter = "  interpreter:\n    kind: io.l5d.fs\n    dtabFile: rules.dtab\n  servers:";
    let config = SIMPLE.replace("  dtab: |\n    /svc => /#/io.l5d.fs;\n  servers:", interpreter);
    let linkerd = Linkerd::start(&folder, &config).await;
    let mut conn = Conn::open(linkerd.servers[0]).await;
    assert_eq!(conn.get("/", "web", &[]).await.body, "old!");

    folder.write("rules.dtab", "/svc/web => 1 * /#/io.l5d.fs/old & 3 * /#/io.l5d.fs/new ;\n");
    eventually("the new rules", async || (conn.get("/", "web", &[]).await.body == "new!").then_some(())).await;
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..400 {
        *counts.entry(conn.get("/", "web", &[]).await.body).or_default() += 1;
    }
    // 300 are expected: within six standard deviations.
    assert!((248..=352).contains(&counts["new!"]), "{counts:?}");
    assert_eq!(counts["new!"] + counts["old!"], 400, "{counts:?}");
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    let folder = Folder::new();
    folder.list("echo", &[echo().await]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;
    let mut conn = Conn::open(linkerd.servers[0]).await;

    for size in [0, 10, 6 * 1024, 1 << 20] {
        let body: String = (0..size).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        let req = Request::post("/").header("host", "echo").body(body.clone()).unwrap();
        let answer = conn.send(req).await;
        assert_eq!((answer.status.as_u16(), answer.body == body), (200, true), "{size}: {}", answer.body.len());
    }
}
