//! History, differences, going back, plans and checks.

use linkerd_dtab::namerd::{Composition, Part};
use serde_json::{Value, json};

use super::{Server, next};

const DTAB: (&str, &str) = ("content-type", "application/dtab");

fn server() -> Server {
    let server = Server::new([("default".to_owned(), "/svc => /#/io.l5d.fs".to_owned())]);
    for (name, line) in [("web", "127.0.0.1 8001"), ("web-v2", "127.0.0.1 8002")] {
        std::fs::write(server.file("disco").join(name), format!("{line}\n")).unwrap();
    }
    server
}

impl Server {
    async fn json(&self, method: &str, target: &str, body: &str) -> Value {
        let said = self.call(method, target, &[DTAB], body).await;
        assert_eq!((said.status, &*said.headers["content-type"]), (200, "application/json"), "{}", said.body);
        serde_json::from_str(&said.body).unwrap()
    }
}

#[tokio::test]
async fn changes_are_shown_with_their_reason_and_undone() {
    let server = server();
    let reason = ("l5d-reason", "deploy 7");
    assert_eq!(server.call("PUT", "/api/1/dtabs/default", &[DTAB, reason], "/svc => /b").await.status, 204);
    assert_eq!(server.call("DELETE", "/api/1/dtabs/default", &[], "").await.status, 204);
    let history = server.json("GET", "/api/1/history/default", "").await;
    let shown = |key: &str| history.as_array().unwrap().iter().map(|record| record[key].clone()).collect::<Vec<_>>();
    assert_eq!(shown("seq"), [3, 2, 1]);
    assert_eq!(shown("why"), [Value::Null, json!("deploy 7"), json!("found at the start")]);
    assert_eq!(shown("who"), ["somebody", "somebody", "outside"]);
    assert_eq!(
        shown("dtab"),
        [Value::Null, json!([{"prefix": "/svc", "dst": "/b"}]), json!([{"prefix": "/svc", "dst": "/#/io.l5d.fs"}])]
    );
    assert_eq!(server.json("GET", "/api/1/history/default?limit=1", "").await.as_array().unwrap().len(), 1);
    assert_eq!(server.json("GET", "/api/1/history/nobody", "").await, json!([]));

    let said = server.call("GET", "/api/1/diff/default?from=1&to=2", &[], "").await;
    assert_eq!((said.status, &*said.body), (200, "- /svc => /#/io.l5d.fs ;\n+ /svc => /b ;\n"));
    let said = server.call("GET", "/api/1/diff/default?from=2", &[], "").await;
    assert_eq!((said.status, &*said.body), (200, "- /svc => /b ;\n"), "the newest, by which it was deleted");
    let missing = "the history of namespace default has no record 9: there are 1 to 3";
    for (method, target, status, text) in [
        ("GET", "diff/default?to=1", 400, "the parameter from is missing"),
        ("GET", "diff/default?from=1&to=x", 400, "invalid parameter to: 'x' is no number"),
        ("GET", "diff/default?from=1&to=9", 404, missing),
        ("GET", "diff/default?from=9", 404, missing),
        ("GET", "diff/nobody?from=0", 404, "the history of namespace nobody has no record 0: there are none"),
        ("GET", "diff/nobody?from=0&to=0", 404, "the history of namespace nobody has no record 0: there are none"),
        ("POST", "rollback/nobody?to=0", 404, "the history of namespace nobody has no record 0: there are none"),
        ("POST", "rollback/default?to=9", 404, missing),
    ] {
        let said = server.call(method, &format!("/api/1/{target}"), &[], "").await;
        assert_eq!((said.status, &*said.body), (status, text), "{target}");
    }

    assert_eq!(server.call("POST", "/api/1/rollback/default?to=1", &[], "").await.status, 204);
    let said = server.call("GET", "/api/1/dtabs/default", &[("accept", "application/dtab")], "").await;
    assert_eq!(said.body, "/svc=>/#/io.l5d.fs\n");
    let other = server.call("POST", "/api/1/rollback/default?to=2", &[("if-match", "AAAAAAAAAAk=")], "").await;
    assert_eq!(other.status, 412);
    let tag = ("if-match", &*said.headers["etag"]);
    assert_eq!(server.call("POST", "/api/1/rollback/default?to=2", &[tag], "").await.status, 204);
}

#[tokio::test]
async fn the_changes_of_a_composed_namespace_are_those_of_its_parts() {
    let part = |fragments: &str| Part { fragments: fragments.parse().unwrap(), owns: Vec::new() };
    let composition = Composition { namespace: "all".parse().unwrap(), parts: vec![part("base"), part("team/*")] };
    let server = Server::with([], |namerd| namerd.compose(composition));
    for (name, table) in [("team/web", "/svc/web => /a"), ("base", "/svc => /b")] {
        assert_eq!(server.call("PUT", &format!("/api/1/dtabs/{name}"), &[DTAB], table).await.status, 204);
    }
    let said = server.call("GET", "/api/1/history/all", &[], "").await;
    let note = "299 namerd \"namespace all is made of base + team/*: these are the changes of its parts\"";
    assert_eq!((said.status, &*said.headers["warning"]), (200, note));
    let changes: Value = serde_json::from_str(&said.body).unwrap();
    let shown = |change: &Value| format!("{} {}", change["namespace"].as_str().unwrap(), change["seq"]);
    assert_eq!(changes.as_array().unwrap().iter().map(shown).collect::<Vec<_>>(), ["base 1", "team/web 1"]);
    assert_eq!(server.json("GET", "/api/1/history/all?limit=1", "").await.as_array().unwrap().len(), 1);
    assert_eq!(server.json("GET", "/api/1/history/base", "").await[0].get("namespace"), None);
    let made_of =
        "namespace all is made of base + team/*, and has no changes of its own: ask for those of one of these";
    for (method, target) in [
        ("GET", "diff/all?from=1&to=2"),
        ("GET", "diff/all?from=0"),
        ("GET", "diff/all?from=0&to=0"),
        ("POST", "rollback/all?to=0"),
        ("POST", "rollback/all?to=1"),
    ] {
        let said = server.call(method, &format!("/api/1/{target}"), &[], "").await;
        assert_eq!((said.status, &*said.body), (404, made_of), "{target}");
    }
}

#[tokio::test]
async fn a_write_answers_with_the_version_that_results_and_a_rollback_says_if_a_program_made_it() {
    let server = server();
    for (method, namespace) in [("PUT", "default"), ("POST", "new")] {
        let wanted = ("prefer", "etag");
        let said = server.call(method, &format!("/api/1/dtabs/{namespace}"), &[DTAB, wanted], "/svc => /b").await;
        let now = server.call("GET", &format!("/api/1/dtabs/{namespace}"), &[], "").await;
        assert_eq!((said.status, &said.headers["etag"]), (204, &now.headers["etag"]));
    }
    for (query, who) in [("", "somebody"), ("&automatic=true", "auto-revert for somebody")] {
        let said = server.call("POST", &format!("/api/1/rollback/default?to=1{query}"), &[], "").await;
        let now = server.call("GET", "/api/1/dtabs/default", &[], "").await;
        assert_eq!((said.status, &said.headers["etag"]), (204, &now.headers["etag"]));
        assert_eq!(server.json("GET", "/api/1/history/default?limit=1", "").await[0]["who"], who);
    }
    let said = server.call("POST", "/api/1/rollback/default?to=0", &[], "").await;
    assert_eq!((said.status, said.headers.contains_key("etag")), (204, false), "there is no such table any more");
}

#[tokio::test]
async fn a_plan_is_shown_with_shares_and_endpoints() {
    let server = server();
    // A plan waits for what it does not know, but not for ever: the files are read before.
    let mut known = Vec::new();
    for (name, port) in [("web", 8001), ("web-v2", 8002)] {
        let mut addr = server.watch(&format!("/api/1/addr/default?path=/%23/io.l5d.fs/{name}&watch=true")).await;
        while !next(&mut addr).await.unwrap().contains(&format!("\"port\":{port},")) {}
        known.push(addr);
    }
    let table = "/svc => /#/io.l5d.fs; /svc/web => 1 * /#/io.l5d.fs/web-v2 & 3 * /#/io.l5d.fs/web";
    let plan = server.json("POST", "/api/1/plan/default?names=/svc/web,/svc/other", table).await;
    let share = |id: &str, share: f64, port: u16| json!({"id": format!("/#/io.l5d.fs/{id}"), "share": share, "endpoints": [format!("127.0.0.1:{port}")]});
    let expected = json!({
        "namespace": "default",
        "names": [{
            "name": "/svc/web",
            "moved": 0.25,
            "before": [share("web", 1.0, 8001)],
            "after": [share("web", 0.75, 8001), share("web-v2", 0.25, 8002)],
        }],
        "looked_at": 2,
        "errors": [],
        "warnings": [],
    });
    assert_eq!(plan, expected);
    assert_eq!(server.call("POST", "/api/1/plan/default?names=x", &[DTAB], table).await.status, 400);
    assert_eq!(server.call("POST", "/api/1/plan/default", &[DTAB], "/svc").await.status, 400);
}

#[tokio::test]
async fn what_is_odd_about_a_table_is_told_before_and_when_it_is_written() {
    let server = server();
    let found = server.json("POST", "/api/1/check/default", "/loop => /loop").await;
    let warning = "entry 1 at line 1, column 1 (/loop=>/loop): names go round: /loop -> /loop";
    assert_eq!(found, json!({"errors": [], "warnings": [warning]}));
    let said = server.call("PUT", "/api/1/dtabs/default", &[DTAB], "/loop => /loop").await;
    assert_eq!((said.status, &*said.headers["warning"]), (204, &*format!("299 namerd \"{warning}\"")));
    let found = server.json("POST", "/api/1/check/default", "/svc => /a;\n/x -> /b").await;
    let error = found["errors"][0].as_str().unwrap();
    assert!(error.ends_with("(line 2, column 4)"), "{error}");

    let lines = "# what goes round\n/svc => /a;\n  /x => /y; /y => /x";
    let warning = "entry 2 at line 3, column 3 (/x=>/y): names go round: /x -> /y -> /x";
    let found = server.json("POST", "/api/1/check/default", lines).await;
    assert_eq!(found["warnings"][0], warning);
    let found = server.json("POST", "/api/1/plan/default", lines).await;
    assert_eq!(found["warnings"][0], warning);
    let said = server.call("PUT", "/api/1/dtabs/default", &[DTAB], lines).await;
    assert!(said.headers["warning"].contains(warning), "{said:?}");
    // In JSON there are no lines to count.
    let json = ("content-type", "application/json");
    let checked = async |body| server.call("POST", "/api/1/check/default", &[json], body).await.body;
    let found = checked("[{\"prefix\":\"/loop\",\"dst\":\"/loop\"}]").await;
    assert!(found.contains("\"entry 1 (/loop=>/loop): names go round"), "{found}");
    // What a write has no text for is told, too.
    let found = checked("[{\"prefix\":\"/a\",\"dst\":\"/b\",\"dts\":1}]").await;
    assert_eq!(found, "{\"errors\":[\"dentry 1 has an unknown member dts\"],\"warnings\":[]}\n");
}

#[tokio::test]
async fn a_table_that_branches_too_much_is_warned_of() {
    let server = server();
    let doubles: Vec<_> = (0..13).map(|n| format!("/n{n} => /n{} & /n{}", n + 1, n + 1)).collect();
    let found = server.json("POST", "/api/1/check/default", &doubles.join(";")).await;
    let text =
        "entry 1 at line 1, column 1 (/n0=>/n1 & /n1): /n0 may take more than 10000 lookups, and is not bound then";
    assert_eq!(found, json!({"errors": [], "warnings": [text]}));
    let found = server.json("POST", "/api/1/check/default", &doubles[1..].join(";")).await;
    assert_eq!(found, json!({"errors": [], "warnings": []}));
}

#[tokio::test]
async fn each_endpoint_has_its_method() {
    let server = server();
    for (endpoint, other) in
        [("history", "POST"), ("diff", "PUT"), ("rollback", "GET"), ("plan", "GET"), ("check", "DELETE")]
    {
        let said = server.call(other, &format!("/api/1/{endpoint}/default"), &[DTAB], "").await;
        assert_eq!(said.status, 405, "{endpoint}");
        assert!(["GET, HEAD", "POST"].contains(&&*said.headers["allow"]));
    }
    assert_eq!(server.call("GET", "/api/1/history/a%20b", &[], "").await.status, 400);
}
