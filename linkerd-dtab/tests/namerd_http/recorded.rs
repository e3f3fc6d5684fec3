//! Replays the recorded cases.

use std::{collections::HashMap, fs, time::Duration};

use futures::FutureExt;
use http_body_util::BodyExt;
use linkerd_dtab::transport::Body;
use serde_json::Value;

use super::{PATIENCE, Said, Server, request};

/// What the ports of the recording's backends are here. Nobody connects.
const PORTS: [(&str, &str); 2] = [("{backend.x}", "34567"), ("{backend.y}", "34568")];

struct Watch {
    said: Said,
    body: Body,
}

fn recorded() -> Value {
    let mut text = include_str!("../data/namerd/http.json").to_owned();
    for (name, port) in PORTS {
        text = text.replace(name, port);
    }
    serde_json::from_str(&text).unwrap()
}

fn map(value: &Value) -> HashMap<String, String> {
    let text = |(name, value): (&String, &Value)| (name.clone(), value.as_str().unwrap().to_owned());
    value.as_object().unwrap().iter().map(text).collect()
}

fn server(suite: &Value) -> Server {
    let server = Server::new(map(&suite["namespaces"]));
    for (name, text) in map(&suite["files"]) {
        fs::write(server.file(&name), text).unwrap();
    }
    server
}

/// Each case on a server of its own, as if nothing was asked before.
async fn replay(suite: &Value, case: &Value) {
    let server = server(suite);
    let id = case["id"].as_str().unwrap();
    let mut saved = HashMap::new();
    let mut watches = HashMap::new();
    for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let at = format!("{id}, step {index}");
        let expected = &case["expect"]["steps"][index];
        let headers: Vec<(String, String)> = serde_json::from_value(step["headers"].clone()).unwrap_or_default();
        let fill = |text: &str| {
            saved.iter().fold(text.to_owned(), |text, (name, value): (&String, &String)| text.replace(name, value))
        };
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), fill(value))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if let Some(call) = step["call"].as_array() {
            let body = step["body"].as_str().unwrap_or("");
            let said = server.call(call[0].as_str().unwrap(), call[1].as_str().unwrap(), &headers, body).await;
            if let Some(name) = step["save"].as_str() {
                saved.insert(format!("{{port.{name}}}"), said.headers["etag"].clone());
            }
            match case["deviation"].as_str() {
                Some(deviation) => check_deviation(&at, deviation, &said),
                None => check(&at, expected, &said, call[0] == "HEAD"),
            }
        } else if let Some(watch) = step["watch"].as_array() {
            let rsp = server.send(request("GET", watch[1].as_str().unwrap(), &headers, "")).await;
            let (head, body) = rsp.into_parts();
            let said = Said::of(http::Response::from_parts(head, linkerd_dtab::transport::full(""))).await;
            watches.insert(watch[0].as_str().unwrap(), Watch { said, body });
        } else if let Some(name) = step["chunks"].as_str() {
            check_watch(&at, expected, watches.get_mut(name).unwrap(), case["ignore"][0] == "chunks").await;
        } else if let Some(file) = step["file"].as_array() {
            fs::write(server.file(file[0].as_str().unwrap()), file[1].as_str().unwrap()).unwrap();
        } else if let Some(file) = step["delete"].as_str() {
            fs::remove_file(server.file(file)).unwrap();
        } else {
            panic!("{at}: unknown step {step}");
        }
    }
}

fn check(at: &str, expected: &Value, said: &Said, is_head: bool) {
    assert_eq!(said.status, expected["status"], "{at}: {said:?}");
    check_headers(at, &expected["headers"], said);
    let body = expected["body"].as_str().unwrap();
    if !is_same(body, &said.body) {
        assert_eq!(said.body, body, "{at}");
    }
    if let Some(length) = expected["headers"]["content-length"][0].as_str() {
        let sent = if is_head { said.headers["content-length"].clone() } else { said.body.len().to_string() };
        assert_eq!(sent, length, "{at}");
    }
}

fn check_headers(at: &str, expected: &Value, said: &Said) {
    let mut sent = said.headers.clone();
    sent.remove("content-length");
    // Ours, where there is no text.
    sent.remove("warning");
    for (name, values) in expected.as_object().unwrap() {
        // Which of these there are is the connection's matter.
        if !["content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            assert_eq!(sent.remove(name).as_deref(), values[0].as_str(), "{at}: {name}");
        }
    }
    assert!(sent.is_empty(), "{at}: {sent:?}");
}

/// What was recorded is not to be copied: there is a text where there was none, or an answer.
fn check_deviation(at: &str, deviation: &str, said: &Said) {
    let status = match deviation {
        "POST must not need ?path=" => 200,
        "dtab loop: an error body, not an empty 500" => 500,
        _ => 400,
    };
    assert_eq!(said.status, status, "{at}: {said:?}");
    assert!(!said.body.is_empty(), "{at}");
}

async fn check_watch(at: &str, expected: &Value, watch: &mut Watch, any_documents: bool) {
    assert_eq!(watch.said.status, expected["status"], "{at}");
    check_headers(at, &expected["headers"], &watch.said);
    assert_eq!(expected["ended"], false, "{at}");
    for chunk in expected["chunks"].as_array().unwrap() {
        let next = tokio::time::timeout(PATIENCE, watch.body.frame()).await;
        let data = next.unwrap_or_else(|_| panic!("{at}: no {chunk}")).expect("a watch goes on").unwrap();
        let data = String::from_utf8(data.into_data().unwrap().to_vec()).unwrap();
        if !any_documents && !is_same(chunk.as_str().unwrap(), &data) {
            assert_eq!(data, chunk.as_str().unwrap(), "{at}");
        }
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    if let Some(more) = watch.body.frame().now_or_never() {
        panic!("{at}: {more:?}");
    }
}

/// The order in lists of names does not matter.
fn is_same(expected: &str, said: &str) -> bool {
    let names = |text: &str| {
        let mut names: Vec<String> = serde_json::from_str(text).ok()?;
        names.sort();
        Some(names)
    };
    expected == said || names(expected).is_some_and(|expected| Some(expected) == names(said))
}

/// Paused: what is waited for at most so long is waited for until the machine has done all that it can.
#[tokio::test(start_paused = true)]
async fn answers_as_namerd_did() {
    let suite = recorded();
    for case in suite["cases"].as_array().unwrap() {
        replay(&suite, case).await;
    }
}
