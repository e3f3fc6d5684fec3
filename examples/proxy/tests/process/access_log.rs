//! Access logs, as the program writes them.

use std::{fs, sync::Arc};

use serde_json::Value;

use crate::harness::{Folder, Linkerd, SIMPLE, eventually, server};

fn config(keys: &str) -> String {
    SIMPLE.replace("  servers:", &format!("  httpAccessLog: logs/access.log\n{keys}  servers:"))
}

/// The lines of the log, once there are so many.
async fn lines(folder: &Folder, count: usize) -> Vec<String> {
    let path = folder.path("logs/access.log");
    let read = async || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    };
    eventually("lines in the log", read).await
}

async fn world(keys: &str) -> (Arc<Folder>, Linkerd) {
    let folder = Folder::new();
    let linkerd = Linkerd::start(&folder, &config(keys)).await;
    (folder, linkerd)
}

#[tokio::test]
async fn a_line_is_as_linkerd_has_it_and_only_answers_have_one() {
    let (folder, linkerd) = world("").await;
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    assert_eq!(linkerd.get("nobody").await.status, 502);
    assert_eq!(linkerd.get_with("web", &[("referer", "http://r/"), ("user-agent", "ua/1")]).await.status, 200);
    assert_eq!(linkerd.get("web").await.status, 200);
    let lines = lines(&folder, 2).await;
    let (before, after) = lines[0].split_once('[').unwrap();
    let (time, after) = after.split_once(']').unwrap();
    assert_eq!((before, after), ("web 127.0.0.1 - - ", " \"GET / HTTP/1.1\" 200 4 \"http://r/\" \"ua/1\""));
    assert!(time.len() > "21/11/2026:13:02:39 ".len() && time.as_bytes()[10] == b':', "{time}");
    assert!(lines[1].ends_with(" 200 4 \"-\" \"-\""), "{lines:?}");
    assert_eq!(lines.len(), 2);
    let written = async || {
        let metrics = linkerd.json("/admin/metrics.json").await;
        (metrics["rt/http/access_log/lines"] == 2 && metrics["rt/http/access_log/dropped"] == 0).then_some(())
    };
    eventually("the metric", written).await;
}

#[tokio::test]
async fn in_json_every_request_has_a_line_that_says_where_it_went() {
    let (folder, linkerd) = world("  httpAccessLogFormat: json\n").await;
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    let trace = ("l5d-ctx-trace", "AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=");
    assert_eq!(linkerd.get_with("web", &[trace]).await.status, 200);
    assert_eq!(linkerd.get("nobody").await.status, 502);
    assert_eq!(linkerd.get_with("web", &[("l5d-dtab", "nonsense")]).await.status, 400);
    let lines: Vec<Value> = lines(&folder, 3).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [ok, nobody, nonsense] = &lines[..] else { panic!("{lines:?}") };
    let endpoint = web.addr().to_string();
    for (key, value) in [
        ("router", "http"),
        ("method", "GET"),
        ("uri", "/"),
        ("version", "HTTP/1.1"),
        ("host", "web"),
        ("end", "complete"),
        ("service", "/svc/web"),
        ("bound", "/#/io.l5d.fs/web"),
        ("endpoint", &endpoint),
        ("trace_id", "0000000000000003"),
    ] {
        assert_eq!(ok[key], value, "{key}: {ok}");
    }
    // The server's own, below the caller's.
    let span = ok["span_id"].as_str().unwrap();
    assert!(span.len() == 16 && span != "0000000000000001", "{ok}");
    assert_eq!(
        (&ok["status"], &ok["bytes"], &ok["attempts"], &ok["hedges"]),
        (&200.into(), &4.into(), &1.into(), &0.into())
    );
    assert!(ok["time"].as_str().unwrap().ends_with('Z') && ok["duration_ms"].is_u64() && ok["flag"].is_null(), "{ok}");
    assert_eq!((&nobody["status"], nobody["flag"].as_str().unwrap()), (&502.into(), "no_such_name"), "{nobody}");
    assert_eq!((&nobody["service"], &nobody["endpoint"]), (&"/svc/nobody".into(), &Value::Null), "{nobody}");
    assert_eq!((&nonsense["status"], nonsense["flag"].as_str().unwrap()), (&400.into(), "bad_header"), "{nonsense}");
}

#[tokio::test]
async fn a_form_of_ones_own_shows_where_the_last_attempt_failed() {
    let keys = "  httpAccessLogFormat: '{method} {host} {status} {flag} {service} {endpoint} {attempts} {end}'\n";
    let (folder, linkerd) = world(keys).await;
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    folder.list("gone", &[gone]);
    assert_eq!(linkerd.get("gone").await.status, 502);
    let first = &lines(&folder, 1).await[0];
    assert!(first.starts_with(&format!("GET gone 502 connect /svc/gone {gone} ")), "{first}");
    assert!(first.ends_with(" complete"), "{first}");
}

#[tokio::test]
async fn a_log_that_is_moved_away_is_opened_again() {
    let (folder, linkerd) = world("").await;
    let web = server("web").await;
    folder.list("web", &[web.addr()]);
    assert_eq!(linkerd.get("web").await.status, 200);
    lines(&folder, 1).await;
    fs::rename(folder.path("logs/access.log"), folder.path("moved")).unwrap();
    linkerd.signal("-HUP").await;
    // The signal takes its time.
    let opened = async || {
        linkerd.get("web").await;
        folder.path("logs/access.log").exists().then_some(())
    };
    eventually("a new log", opened).await;
    lines(&folder, 1).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_before_it_starts() {
    for (keys, says) in [
        ("  httpAccessLogFormat: '{metod}'\n", "httpAccessLogFormat: '{metod}' is no field; there are time, "),
        ("  httpAccessLogRollPolicy: sometimes\n", "httpAccessLogRollPolicy: must be never, hourly, "),
    ] {
        let folder = Folder::new();
        folder.write("linkerd.yaml", &config(keys));
        let output = folder.run(&["-validate", "linkerd.yaml"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{said}");
    }
    let folder = Folder::new();
    folder.write("logs", "a file");
    folder.write("linkerd.yaml", &config(""));
    let output = folder.run(&["-validate", "linkerd.yaml"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("routers[0].httpAccessLog: logs/access.log: "), "{said}");
}
