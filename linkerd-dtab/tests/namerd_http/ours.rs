//! What the recording does not tell.

use std::{fs, time::Duration};

use bytes::Bytes;
use futures::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use linkerd_dtab::{
    namerd::{Grant, Limits, Meter, Protection, Reason, Role, Roles, Who, http::MAX_BODY},
    transport::Body,
};

use super::{Server, next, request};

const DTAB: (&str, &str) = ("content-type", "application/dtab");

fn server() -> Server {
    Server::new([("default".to_owned(), "/svc => /#/io.l5d.fs".to_owned())])
}

impl Server {
    async fn status(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        self.call(method, target, headers, body).await.status
    }
}

#[tokio::test]
async fn a_read_of_what_is_known_has_no_body() {
    let server = server();
    let tag = server.call("GET", "/api/1/dtabs/default", &[], "").await.headers["etag"].clone();
    for (given, status) in
        [(tag.clone(), 304), (format!("\"{tag}\""), 304), ("*".to_owned(), 304), ("x".to_owned(), 200)]
    {
        for method in ["GET", "HEAD"] {
            let said = server.call(method, "/api/1/dtabs/default", &[("if-none-match", &given)], "").await;
            assert_eq!(said.status, status, "{given}");
            assert_eq!(said.headers["etag"], tag);
            assert_eq!(said.body.is_empty(), status == 304 || method == "HEAD");
        }
    }
    assert_eq!(server.status("GET", "/api/1/dtabs/nope", &[("if-none-match", "*")], "").await, 404);
}

#[tokio::test]
async fn a_write_may_depend_on_what_is_there() {
    let server = server();
    let put = async |headers: &[(&str, &str)]| server.status("PUT", "/api/1/dtabs/new", headers, "/a => /b").await;
    assert_eq!(put(&[DTAB, ("if-none-match", "*")]).await, 204);
    assert_eq!(put(&[DTAB, ("if-none-match", "*")]).await, 412);
    assert_eq!(put(&[DTAB, ("if-none-match", "\"x\"")]).await, 400);
    assert_eq!(put(&[DTAB, ("if-match", "AAAAAAAAAAk=")]).await, 412);
    assert_eq!(put(&[DTAB, ("if-match", "AAAAAAAAAAE=")]).await, 204);
    assert_eq!(put(&[DTAB, ("if-match", "AAAAAAAAAAE=")]).await, 412);
    assert_eq!(put(&[DTAB, ("if-match", "AAAAAAAAAAI="), ("if-none-match", "*")]).await, 400);
}

#[tokio::test]
async fn a_delete_may_depend_on_what_is_there() {
    let server = server();
    let delete = async |name: &str, condition: &[(&str, &str)]| {
        let headers = [&[("prefer", "respond-async, handling=strict")], condition].concat();
        server.status("DELETE", &format!("/api/1/dtabs/{name}"), &headers, "").await
    };
    for refused in [("if-match", "AAAAAAAAAAk="), ("if-match", "*"), ("if-match", "!!!"), ("if-none-match", "*")] {
        assert_eq!(delete("default", &[refused]).await, 412, "{refused:?}");
    }
    assert_eq!(delete("default", &[("if-none-match", "\"x\"")]).await, 400);
    assert_eq!(server.status("GET", "/api/1/dtabs/default", &[], "").await, 200);
    assert_eq!(delete("nope", &[("if-match", "AAAAAAAAAAE=")]).await, 404);
    assert_eq!(delete("default", &[("if-match", "\"AAAAAAAAAAE=\"")]).await, 204);
    assert_eq!(delete("default", &[("if-match", "AAAAAAAAAAE=")]).await, 404);
}

#[tokio::test]
async fn a_delete_says_which_conditions_it_did_not_heed() {
    let server = server();
    let warning = "299 namerd \"If-Match and If-None-Match of a DELETE are heeded only with Prefer: handling=strict: \
                   it was deleted whatever its version was\"";
    let delete = async |headers: &[(&str, &str)]| {
        server.status("PUT", "/api/1/dtabs/gone", &[DTAB], "/a => /b").await;
        let said = server.call("DELETE", "/api/1/dtabs/gone", headers, "").await;
        assert_eq!(said.status, 204, "{headers:?}");
        said.headers.get("warning").cloned()
    };
    assert_eq!(delete(&[("if-match", "AAAAAAAAAAk=")]).await.as_deref(), Some(warning));
    assert_eq!(delete(&[("if-none-match", "*"), ("prefer", "etag")]).await.as_deref(), Some(warning));
    assert_eq!(delete(&[]).await, None);
    assert_eq!(delete(&[("prefer", "handling=strict")]).await, None);
}

#[tokio::test]
async fn a_delete_that_needs_a_version_says_how_to_send_it() {
    let table = [("prod".to_owned(), "/svc => /host".to_owned())];
    let server = Server::with(table, |namerd| {
        let mut protection = Protection::new("prod".parse().unwrap());
        protection.needs_version = true;
        namerd.protect(protection)
    });
    let tag = server.call("GET", "/api/1/dtabs/prod", &[], "").await.headers["etag"].clone();
    let strict = ("prefer", "handling=strict");
    for headers in [&[][..], &[("if-match", &*tag)], &[strict]] {
        let said = server.call("DELETE", "/api/1/dtabs/prod", headers, "").await;
        let text = "namespace prod is protected: a deletion has to say which version it deletes \
                    (If-Match, in a DELETE together with Prefer: handling=strict)";
        assert_eq!((said.status, &*said.body), (428, text), "{headers:?}");
    }
    assert_eq!(server.status("PUT", "/api/1/dtabs/prod", &[DTAB], "/a => /b").await, 428);
    assert_eq!(server.status("DELETE", "/api/1/dtabs/prod", &[("if-match", &tag), strict], "").await, 204);
}

/// No verb takes a version and does not heed it, but for `DELETE` as it was recorded.
#[tokio::test]
async fn no_condition_is_ignored() {
    let server = server();
    let (old, now) = (("if-match", "AAAAAAAAAAk="), ("if-match", "AAAAAAAAAAE="));
    let ask = async |method: &str, target: &str, condition: (&str, &str)| {
        server.status(method, &format!("/api/1/{target}"), &[DTAB, condition], "/a => /b").await
    };
    for method in ["GET", "HEAD"] {
        assert_eq!(ask(method, "dtabs/default", old).await, 412);
        assert_eq!(ask(method, "dtabs/default", now).await, 200);
        assert_eq!(ask(method, "dtabs/nope", now).await, 404);
    }
    // What is to be created has no version yet.
    assert_eq!(ask("POST", "dtabs/new", now).await, 412);
    assert_eq!(ask("POST", "dtabs/new", ("if-none-match", "*")).await, 204);
    assert_eq!(ask("PUT", "dtabs/new", ("if-match", "AAAAAAAAAAE=")).await, 204);
    assert_eq!(ask("POST", "rollback/new?to=1", old).await, 412);
    assert_eq!(ask("POST", "rollback/new?to=1", ("if-none-match", "*")).await, 412);
    assert_eq!(ask("POST", "rollback/new?to=1", ("if-match", "AAAAAAAAAAI=")).await, 204);
    assert_eq!(ask("DELETE", "dtabs/new", ("if-match", "AAAAAAAAAAM=")).await, 204);
    assert_eq!(ask("POST", "rollback/new?to=1", ("if-none-match", "*")).await, 204);
}

#[tokio::test]
async fn a_small_share_is_told_whole() {
    let server = server();
    let canary = "/svc=>0.001*/$/inet/127.0.0.1/1 & 0.999*/$/inet/127.0.0.1/2";
    assert_eq!(server.status("PUT", "/api/1/dtabs/c", &[DTAB], canary).await, 204);
    let text = server.call("GET", "/api/1/dtabs/c", &[("accept", "application/dtab")], "").await;
    assert_eq!(text.body, format!("{canary}\n"));
    for target in ["dtabs/c", "history/c", "delegate/c?path=/svc", "bind/c?path=/svc"] {
        let said = server.call("GET", &format!("/api/1/{target}"), &[], "").await;
        assert!(said.body.contains("0.001"), "{target}: {said:?}");
    }
    assert_eq!(server.status("DELETE", "/api/1/dtabs/c", &[], "").await, 204);
    assert_eq!(server.status("POST", "/api/1/rollback/c?to=1", &[], "").await, 204);
    let diff = server.call("GET", "/api/1/diff/c?from=2&to=3", &[], "").await;
    assert_eq!(diff.body, "+ /svc => 0.001*/$/inet/127.0.0.1/1 & 0.999*/$/inet/127.0.0.1/2 ;\n");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let server = server();
    let cases: [(&str, &str, Option<&str>, &str, &str); 11] = [
        (
            "PUT",
            "dtabs/a%20b",
            Some("application/dtab"),
            "/a => /b",
            "invalid namespace 'a b': only letters, digits, '-', '_', '.' and '/' are allowed",
        ),
        (
            "PUT",
            "dtabs/bad",
            Some("application/dtab"),
            "nope",
            "'/' expected but 'n' found at '[n]ope' (line 1, column 1)",
        ),
        ("PUT", "dtabs/bad", Some("text/plain"), "/a => /b; /c = /d", "(line 1, column 15)"),
        ("POST", "dtabs/bad", Some("text/plain"), "/a => /b | ", " found at '/a => /b | []' (line 1, column 12)"),
        ("PUT", "dtabs/bad", Some("application/dtab"), "/a => /b;\n/c = /d", "(line 2, column 5)"),
        ("PUT", "dtabs/bad", Some("application/json"), "{}", "it is not a list of dentries"),
        (
            "PUT",
            "dtabs/bad",
            Some("application/json"),
            "[{\"prefix\":\"/a\",\"dst\":\"b\"}]",
            "dentry 1: dst: simple expected but 'b' found at '[b]' (line 1, column 1)",
        ),
        ("GET", "bind/a%20b?path=/x", None, "", "invalid namespace 'a b'"),
        ("GET", "bind/default?path=/x&dtab=x", None, "", "Invalid dtab: '/' expected"),
        ("GET", "bind/?path=/x&watch=true", None, "", "there is none"),
        ("GET", "bind/default?path=%FF", None, "", "invalid parameter path: '%FF' is not UTF-8"),
    ];
    for (method, target, kind, body, text) in cases {
        let headers: Vec<_> = kind.into_iter().map(|kind| ("content-type", kind)).collect();
        let said = server.call(method, &format!("/api/1/{target}"), &headers, body).await;
        assert_eq!(said.status, 400, "{target}: {said:?}");
        assert!(said.body.contains(text), "{target}: {said:?}");
    }
    let long = "#".repeat(MAX_BODY + 1);
    assert_eq!(server.status("PUT", "/api/1/dtabs/bad", &[DTAB], &long).await, 413);
    let said = server.call("GET", "/api/1/dtabs", &[], "").await;
    assert_eq!(said.body, "[\"default\"]\n");
}

#[tokio::test]
async fn the_name_of_a_namespace_may_have_segments() {
    let server = server();
    for target in ["/api/1/dtabs/team/web", "/api/1/dtabs/team%2Fapi"] {
        assert_eq!(server.status("PUT", target, &[DTAB], "/a => /b").await, 204);
    }
    let said = server.call("GET", "/api/1/dtabs/", &[], "").await;
    assert_eq!(said.body, "[\"default\",\"team/api\",\"team/web\"]\n");
    assert_eq!(server.status("DELETE", "/api/1/dtabs/team/api", &[], "").await, 204);
}

#[tokio::test]
async fn a_slow_reader_gets_the_last_state_only() {
    let server = server();
    let put = async |dtab: String| assert_eq!(server.status("PUT", "/api/1/dtabs/w", &[DTAB], &dtab).await, 204);
    put("/a => /0".to_owned()).await;
    let mut body = server.watch("/api/1/dtabs/w?watch=TRUE").await;
    assert_eq!(next(&mut body).await.unwrap(), "[{\"prefix\":\"/a\",\"dst\":\"/0\"}]\n");
    for i in 1..=50 {
        put(format!("/a => /{i}")).await;
    }
    assert_eq!(next(&mut body).await.unwrap(), "[{\"prefix\":\"/a\",\"dst\":\"/50\"}]\n");
}

#[tokio::test]
async fn a_table_that_is_not_there_is_waited_for_and_an_equal_one_is_news() {
    let server = server();
    let mut body = server.watch("/api/1/dtabs/later?watch=t").await;
    for _ in 0..2 {
        assert_eq!(server.status("PUT", "/api/1/dtabs/later", &[DTAB], "/a => /b").await, 204);
        assert_eq!(next(&mut body).await.unwrap(), "[{\"prefix\":\"/a\",\"dst\":\"/b\"}]\n");
    }
    // A deletion says nothing, what comes after it does.
    assert_eq!(server.status("DELETE", "/api/1/dtabs/later", &[], "").await, 204);
    assert_eq!(server.status("PUT", "/api/1/dtabs/later", &[DTAB], "/a => /c").await, 204);
    assert_eq!(next(&mut body).await.unwrap(), "[{\"prefix\":\"/a\",\"dst\":\"/c\"}]\n");
}

#[tokio::test]
async fn an_equal_tree_is_no_news() {
    let server = server();
    let put = async |dtab: &str| assert_eq!(server.status("PUT", "/api/1/dtabs/w", &[DTAB], dtab).await, 204);
    put("/svc => /$/inet/127.0.0.1/1").await;
    let mut body = server.watch("/api/1/bind/w?path=/svc&watch=true").await;
    assert!(next(&mut body).await.unwrap().contains("127.0.0.1/1"));
    put("/x => /y ; /svc => /$/inet/127.0.0.1/1").await;
    put("/svc => /$/inet/127.0.0.1/2").await;
    assert!(next(&mut body).await.unwrap().contains("127.0.0.1/2"));
}

#[tokio::test]
async fn a_name_that_cannot_be_bound_ends_its_watch_with_the_reason() {
    let server = Server::new([("w".to_owned(), "/a => /b ; /b => /a".to_owned())]);
    let mut body = server.watch("/api/1/bind/w?path=/a&watch=true").await;
    let text = next(&mut body).await.unwrap();
    assert!(text.starts_with("Max recursion level: 100 reached in Namer lookup: /"), "{text}");
    assert!(text.contains("/a -> /b") || text.contains("/b -> /a"), "{text}");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn a_resolved_leaf_is_followed() {
    let server = server();
    fs::write(server.file("disco/web"), "127.0.0.1 1\n").unwrap();
    let mut body = server.watch("/api/1/resolve/default?path=/svc/web&watch=true").await;
    assert!(next(&mut body).await.unwrap().contains("\"port\":1,"));
    fs::write(server.file("disco/web"), "127.0.0.1 2\n").unwrap();
    assert!(next(&mut body).await.unwrap().contains("\"port\":2,"));
}

#[tokio::test]
async fn a_failed_address_is_a_document_and_goes_by() {
    let server = server();
    fs::write(server.file("disco/web"), "what is this\n").unwrap();
    let mut body = server.watch("/api/1/addr/default?path=/%23/io.l5d.fs/web&watch=true").await;
    let failed = "{\"type\":\"failed\",\"cause\":\"malformed address: what is this\"}\n";
    assert_eq!(next(&mut body).await.unwrap(), failed);
    fs::write(server.file("disco/web"), "127.0.0.1 2\n").unwrap();
    assert!(next(&mut body).await.unwrap().contains("\"port\":2,"));
}

#[tokio::test]
async fn an_explanation_is_followed() {
    let server = server();
    let mut body = server.watch("/api/1/delegate/default?path=/svc/web&watch=true").await;
    assert!(next(&mut body).await.unwrap().contains("\"type\":\"neg\""));
    assert_eq!(server.status("PUT", "/api/1/dtabs/default", &[DTAB], "/svc => !").await, 204);
    assert!(next(&mut body).await.unwrap().contains("\"type\":\"fail\""));
}

#[tokio::test]
async fn bound_names_are_listed() {
    let server = server();
    assert_eq!(server.call("GET", "/api/1/bound-names", &[], "").await.body, "[]\n");
    fs::write(server.file("disco/web"), "127.0.0.1 1\n").unwrap();
    assert_eq!(server.call("GET", "/api/1/bound-names", &[], "").await.body, "[\"/#/io.l5d.fs/web\"]\n");
    for _ in 0..2 {
        let mut body = server.watch("/api/1/bound-names?watch=true").await;
        assert_eq!(next(&mut body).await.unwrap(), "[\"/#/io.l5d.fs/web\"]\n");
    }
}

/// What names no parameter in its text, which is that of namerd 1.7.5, does so in a `Warning`, with line and column.
#[tokio::test]
async fn what_does_not_parse_is_told_with_its_parameter_and_place() {
    let server = server();
    let path = "Invalid path: web / '/' expected but 'w' found at '[w]eb'";
    let path_at = |of: &str| format!("{of} path: line 1, column 1: '/' expected but 'w' found");
    for endpoint in ["bind/default", "addr/default", "resolve/default", "delegate/default", "delegate", "bind/"] {
        let said = server.call("GET", &format!("/api/1/{endpoint}?path=web&dtab="), &[], "").await;
        let warning = format!("299 namerd \"{}\"", path_at("parameter"));
        assert_eq!((said.status, &*said.body, &*said.headers["warning"]), (400, path, &*warning), "{endpoint}");
    }
    let dtab = "Invalid dtab: '=' expected but '-' found at '/a=>/b;/c [-]>/d'";
    let dtab_at = |of: &str| format!("{of} dtab: line 1, column 11: '=' expected but '-' found");
    for endpoint in ["bind/default", "resolve/default", "delegate/default", "delegate"] {
        let target = format!("/api/1/{endpoint}?path=/web&dtab=/a%3D%3E/b%3B/c+-%3E/d");
        let said = server.call("GET", &target, &[], "").await;
        let warning = format!("299 namerd \"{}\"", dtab_at("parameter"));
        assert_eq!((said.status, &*said.body, &*said.headers["warning"]), (400, dtab, &*warning), "{endpoint}");
    }
    let json = ("content-type", "application/json");
    let malformed = |text: &str| format!("Malformed delegation request: {text}");
    for (body, text, warning) in [
        (r#"{"dtab":"","path":"web"}"#, path.to_owned(), Some(path_at("member"))),
        (r#"{"dtab":"/a=>/b;/c ->/d","path":"/web"}"#, dtab.to_owned(), Some(dtab_at("member"))),
        (
            "{\"dtab\":\"\",\n 7}",
            malformed("{\"dtab\":\"\",\n 7}"),
            Some("the body is no JSON: key must be a string at line 2 column 2".into()),
        ),
        ("[]", malformed("it is no object"), None),
        (r#"{"path":"/web"}"#, malformed("the member dtab is missing"), None),
        (r#"{"dtab":null,"path":"/web"}"#, malformed("the member dtab is missing"), None),
        (r#"{"dtab":""}"#, malformed("the member path is missing"), None),
        (r#"{"dtab":"","path":7}"#, malformed("the member path is no text"), None),
        (r#"{"dtab":"","path":"/web","namespace":{}}"#, malformed("the member namespace is no text"), None),
    ] {
        let said = server.call("POST", "/api/1/delegate", &[json], body).await;
        let warning = warning.map(|warning| format!("299 namerd \"{warning}\""));
        assert_eq!((said.status, &said.body, said.headers.get("warning")), (400, &text, warning.as_ref()), "{body}");
    }
    let said = server.call("POST", "/api/1/plan/default?names=/a,web", &[DTAB], "").await;
    let warning = "299 namerd \"parameter names: line 1, column 1: '/' expected but 'w' found\"";
    assert_eq!((said.status, &*said.body, &*said.headers["warning"]), (400, path, warning));
    let said = server.call("GET", "/api/1/bind/default?%FF=1", &[], "").await;
    assert_eq!((said.status, &*said.body), (400, "invalid parameter %FF: '%FF' is not UTF-8"));
}

#[tokio::test]
async fn what_is_long_is_not_sent_back_whole() {
    let server = server();
    let json = ("content-type", "application/json");
    let table = format!("# {}\n/a -> /b", "x".repeat(100_000));
    let place = "line 2, column 4: '=' expected but '-' found";
    let asked = format!(r#"{{"dtab":"{}","path":"/a"}}"#, table.replace('\n', "\\n"));
    let entry = format!(r#"[{{"prefix":"/a","dst":"{}"}}]"#, table.replace('\n', "\\n"));
    let nulls = format!("[{}]", vec!["null"; 20_000].join(","));
    let long = "z".repeat(100_000);
    for (method, target, kind, body, text) in [
        ("PUT", "dtabs/bad", DTAB, &*table, place),
        ("POST", "check/bad", DTAB, &*table, place),
        ("POST", "delegate", json, &*asked, place),
        ("PUT", "dtabs/bad", json, &*entry, "dentry 1: dst: line 2, column 4: "),
        ("PUT", "dtabs/bad", json, &*nulls, "... (100001 bytes)"),
        ("POST", "delegate", json, &*long, "zzz... (100000 bytes)"),
    ] {
        let said = server.call(method, &format!("/api/1/{target}"), &[kind], body).await;
        assert!(said.status == 400 || target.starts_with("check"), "{target}: {}", said.status);
        assert!(said.body.contains(text) && said.body.len() < 5_000, "{target}: {:.300}", said.body);
    }
    let said = server.call("GET", &format!("/api/1/bind/default?path={}", "z".repeat(50_000)), &[], "").await;
    assert!(
        said.body.ends_with("zz... (50000 bytes) / line 1, column 1: '/' expected but 'z' found"),
        "{}",
        said.body.len()
    );
}

#[tokio::test]
async fn a_write_without_a_name_is_no_list() {
    let server = server();
    for (method, target, allow) in [
        ("PUT", "/api/1/dtabs/", "GET, HEAD"),
        ("POST", "/api/1/dtabs/", "GET, HEAD"),
        ("DELETE", "/api/1/dtabs/", "GET, HEAD"),
        ("PUT", "/api/1/dtabs", "GET, HEAD, POST"),
        ("DELETE", "/api/1/dtabs", "GET, HEAD, POST"),
        ("PATCH", "/api/1/dtabs", "GET, HEAD, POST"),
    ] {
        let said = server.call(method, target, &[DTAB], "/a => /b").await;
        assert_eq!((said.status, &*said.headers["allow"]), (405, allow), "{method} {target}");
        assert_eq!(said.body, "the name of a namespace is missing: /api/1/dtabs/NAME", "{method} {target}");
    }
    for (method, target) in [("GET", "/api/1/dtabs/"), ("HEAD", "/api/1/dtabs/"), ("HEAD", "/api/1/dtabs")] {
        let said = server.call(method, target, &[], "").await;
        assert_eq!((said.status, &*said.headers["content-type"]), (200, "application/json"), "{method} {target}");
    }
}

#[tokio::test]
async fn what_only_has_one_way_says_which() {
    let server = server();
    let said = server.call("PUT", "/api/1/delegate", &[], "").await;
    assert_eq!((said.status, &*said.headers["allow"]), (405, "GET, HEAD, POST"));
    let said = server.call("POST", "/api/1/delegate", &[("content-type", "text/plain")], "{}").await;
    assert_eq!((said.status, &*said.body), (415, "the Content-Type has to be application/json and nothing else"));
    let said = server.call("GET", "/api/1/bind/default?path=/$/nope/x", &[], "").await;
    assert_eq!((said.status, &*said.body), (500, "/$/nope/x has an unknown system namer: nope"));
    assert_eq!(server.status("GET", "/api/1/nope/default", &[], "").await, 404);
}

#[tokio::test]
async fn tokens_decide_what_may_be_seen_and_changed() {
    let grant = |label: &str, namespaces: &str, role| Grant {
        who: Who::Token { label: label.into(), secret: format!("{label}-secret").into() },
        namespaces: namespaces.parse().unwrap(),
        role,
    };
    let roles = Roles::new([grant("ops", "*", Role::Write), grant("web", "team/*", Role::Read)]);
    let tables = ["team/web", "default"].map(|name| (name.to_owned(), "/a => /b".to_owned()));
    let server = Server::with(tables, |namerd| namerd.roles(roles));
    let (ops, web) = (("authorization", "Bearer ops-secret"), ("authorization", "bearer web-secret"));
    let put = async |headers: &[(&str, &str)]| server.status("PUT", "/api/1/dtabs/team/web", headers, "/a => /c").await;
    assert_eq!(put(&[DTAB, ops]).await, 204);
    assert_eq!(put(&[DTAB, web]).await, 403);
    assert_eq!(put(&[DTAB]).await, 403);
    assert_eq!(server.call("GET", "/api/1/dtabs", &[web], "").await.body, "[\"team/web\"]\n");
    let refused = server.call("GET", "/api/1/dtabs/default", &[web], "").await;
    assert_eq!(
        (refused.status, refused.body.contains("web may not read namespace default")),
        (403, true),
        "{refused:?}"
    );
    // Nothing is for those who may see nothing.
    let all = [
        "dtabs",
        "dtabs/default",
        "bind/default?path=/a",
        "bind/?path=/a",
        "resolve/default?path=/a",
        "addr/x?path=/a",
    ];
    for target in all.into_iter().chain(["delegate/default?path=/a", "delegate?path=/a", "bound-names"]) {
        for target in [
            format!("/api/1/{target}"),
            format!("/api/1/{target}{}watch=1", if target.contains('?') { '&' } else { '?' }),
        ] {
            for (headers, refused) in [(&[][..], 403), (&[("authorization", "Bearer n0body")], 401)] {
                let said = server.call("GET", &target, headers, "").await;
                let status = said.status;
                assert!(status == refused || (status == 400 && target.ends_with("watch=1")), "{target}: {status}");
                if status == 401 {
                    assert_eq!(said.body, "unknown token", "{target}");
                    assert_eq!(said.headers["www-authenticate"], "Bearer error=\"invalid_token\"", "{target}");
                } else {
                    assert_eq!(said.headers.get("www-authenticate"), None, "{target}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_watch_counts_until_its_body_is_dropped() {
    let limits = Limits { watches_per_peer: 1, ..Limits::default() };
    let server = Server::with([("default".to_owned(), "/a => /b".to_owned())], |namerd| namerd.limits(limits));
    let body = server.watch("/api/1/dtabs/default?watch=true").await;
    let refused = server.call("GET", "/api/1/dtabs?watch=true", &[], "").await;
    assert_eq!((refused.status, &*refused.body), (429, "too many watches: 1 are allowed to one peer"));
    assert_eq!(server.status("GET", "/api/1/dtabs", &[], "").await, 200, "what is asked once needs no place");
    drop(body);
    drop(server.watch("/api/1/dtabs?watch=true").await);
}

/// Each name leads twice to the next: a walk that looks at what it leads to once for each way there never ends.
#[test]
fn a_table_that_doubles_is_answered_in_time() {
    let (done, answered) = std::sync::mpsc::sync_channel(2);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let doubling = (0..60).map(|n| format!("/b{n}=>/b{m}|/b{m};", m = n + 1)).collect::<Vec<_>>().concat();
            let server =
                Server::with([("default".to_owned(), format!("{doubling}/b60=>/$/inet/127.0.0.1/1"))], |it| it);
            for target in ["/api/1/bind/default?path=/b0", "/api/1/resolve/default?path=/b0"] {
                let said = server.call("GET", target, &[], "").await;
                let _ = done.send(said.status);
            }
        });
    });
    for _ in 0..2 {
        let status = answered.recv_timeout(std::time::Duration::from_mins(1)).expect("no answer");
        assert!(status == 200 || status == 500 || status == 503, "{status}");
    }
}

/// Pieces of a body that never ends, or one after which nothing comes.
fn endless(piece: &'static [u8], is_silent: bool) -> Body {
    let pieces = stream::unfold((), move |()| async move {
        if is_silent {
            std::future::pending::<()>().await;
        }
        Some((Ok(Frame::data(Bytes::from_static(piece))), ()))
    });
    StreamBody::new(pieces).boxed_unsync()
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_for_who_may_send_it_only_and_not_for_ever() {
    let grant = |who, role| Grant { who, namespaces: "*".parse().unwrap(), role };
    let writer = Who::Token { label: "writer".into(), secret: "s".into() };
    let roles = Roles::new([grant(Who::Anyone, Role::Read), grant(writer, Role::Write)]);
    let server = Server::with([("default".to_owned(), String::new())], |builder| builder.roles(roles));
    let send = async |method: &str, target: &str, headers: &[(&str, &str)], body| {
        let (head, _) = request(method, target, headers, "").into_parts();
        let rsp = server.send(Request::from_parts(head, body)).await;
        let text = rsp.status().as_u16();
        (text, String::from_utf8(rsp.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    let token = ("authorization", "Bearer s");
    // None of these waits for the body.
    for (method, target, headers, status) in [
        ("PUT", "/api/1/dtabs/default", &[DTAB][..], 403),
        ("PUT", "/api/1/dtabs/default", &[token], 400),
        ("PUT", "/api/1/dtabs/a%20b", &[DTAB, token], 400),
        ("DELETE", "/api/1/dtabs/default", &[], 403),
        ("PUT", "/nowhere", &[DTAB], 404),
        ("POST", "/api/1/dtabs", &[], 200),
        ("POST", "/api/1/delegate", &[DTAB], 415),
    ] {
        let begun = tokio::time::Instant::now();
        assert_eq!(send(method, target, headers, endless(b"", true)).await.0, status, "{method} {target}");
        assert_eq!(begun.elapsed().as_secs(), 0);
    }
    let (status, text) = send("PUT", "/api/1/dtabs/default", &[DTAB, token], endless(b"", true)).await;
    assert_eq!((status, &*text), (408, "the body did not come within 10s"));
    let (status, text) = send("PUT", "/api/1/dtabs/default", &[DTAB, token], endless(&[b'#'; 4096], false)).await;
    assert_eq!((status, &*text), (413, "the body has more than 1048576 bytes"));
    let json = ("content-type", "application/json");
    let (status, text) = send("POST", "/api/1/delegate", &[json], endless(b" ", false)).await;
    assert_eq!((status, &*text), (413, "the body has more than 262144 bytes"));
}

#[tokio::test]
async fn all_that_is_being_read_has_a_bound() {
    let limits = Limits { reading_bytes: 200, reading_bytes_per_peer: 100, ..Limits::default() };
    let server = Server::with([("default".to_owned(), String::new())], |builder| builder.limits(limits));
    let put = async |length: usize| server.call("PUT", "/api/1/dtabs/default", &[DTAB], &" ".repeat(length)).await;
    let said = put(101).await;
    assert_eq!((said.status, &*said.body), (429, "too many bytes being read: 100 are allowed to one peer"));
    for _ in 0..5 {
        assert_eq!(put(100).await.status, 204, "what was read does not count any more");
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_all_the_time_is_told_though_an_address_is_not_known() {
    let server = server();
    let put = async |dtab: String| assert_eq!(server.status("PUT", "/api/1/dtabs/w", &[DTAB], &dtab).await, 204);
    let table = |n: u32| format!("/svc => /$/inet/pending/1 & /$/inet/127.0.0.1/{n}");
    put(table(1)).await;
    let mut body = server.watch("/api/1/bind/w?path=/svc&watch=true").await;
    let begun = tokio::time::Instant::now();
    let mut told = None;
    for n in 2..=60 {
        put(table(n)).await;
        if let Ok(document) = tokio::time::timeout(Duration::from_millis(100), next(&mut body)).await {
            told = document.map(|document| (document, begun.elapsed()));
            break;
        }
    }
    let (document, after) = told.expect("a document, while changes go on");
    // 2 s, and what a write takes to say what names lose by it, before this is looked at again.
    assert!(document.contains("/$/inet/127.0.0.1/") && after <= Duration::from_millis(3200), "{after:?} {document}");
    // From then on it is not waited for as long.
    put(table(1000)).await;
    let begun = tokio::time::Instant::now();
    while !next(&mut body).await.unwrap().contains("/1000") {}
    assert!(begun.elapsed() <= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn names_that_are_in_no_namespace_are_for_who_may_read_all() {
    let grant = |who, namespaces: &str| Grant { who, namespaces: namespaces.parse().unwrap(), role: Role::Read };
    let token = |name: &str| Who::Token { label: name.into(), secret: name.into() };
    let roles = Roles::new([grant(token("web"), "team/web"), grant(token("ops"), "*")]);
    let server = Server::with([("team/web".to_owned(), String::new())], |builder| builder.roles(roles));
    for (target, web) in [
        ("/api/1/bound-names", 403),
        ("/api/1/bind/?path=/$/inet/127.0.0.1/1", 403),
        ("/api/1/resolve/?path=/$/inet/127.0.0.1/1", 403),
        ("/api/1/delegate?path=/$/inet/127.0.0.1/1&dtab=", 403),
        ("/api/1/addr/default?path=/$/inet/127.0.0.1/1", 403),
        ("/api/1/addr/?path=/$/inet/127.0.0.1/1", 403),
        ("/api/1/addr/team/web?path=/$/inet/127.0.0.1/1", 200),
        ("/api/1/bind/team/web?path=/$/inet/127.0.0.1/1", 200),
    ] {
        for (token, status) in [("Bearer web", web), ("Bearer ops", 200), ("Bearer x", 401)] {
            assert_eq!(server.status("GET", target, &[("authorization", token)], "").await, status, "{target} {token}");
        }
    }
}

#[tokio::test]
async fn what_is_asked_is_counted() {
    let meter = Meter::default();
    let server = server();
    let server = Server { controller: server.controller.clone().metered(meter.clone()), ..server };
    assert_eq!(server.status("GET", "/api/1/dtabs/default", &[], "").await, 200);
    assert_eq!(server.status("GET", "/api/1/dtabs/nope", &[], "").await, 404);
    assert_eq!(server.status("PUT", "/api/1/dtabs/bad", &[DTAB], "x").await, 400);
    let body = server.watch("/api/1/dtabs/default?watch=true").await;
    let read = meter.read();
    assert_eq!((read.requests, read.streams, read.open_streams), (4, 1, 1));
    let failures = Reason::ALL.map(|reason| meter.failures(reason));
    assert_eq!((failures.iter().sum::<u64>(), meter.failures(Reason::Missing)), (2, 1));
    assert_eq!(meter.failures(Reason::BadRequest), 1);
    drop(body);
    assert_eq!(meter.read().open_streams, 0);
}
