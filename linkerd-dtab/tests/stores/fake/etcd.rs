//! etcd, by both versions of its API.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use linkerd_dtab::transport::{Body, Sending, Transport, full};
use serde_json::{Value, json};

use super::{Kv, kv::State};

pub(crate) type Spoil = fn(&mut Value);

/// A clone is the same server.
#[derive(Clone)]
pub(crate) struct Etcd {
    pub(crate) v3: Kv,
    pub(crate) v2: Kv,
    pub(crate) has_v2: bool,
    /// What is wrong with its answers to a range.
    pub(crate) spoil: Arc<Mutex<Option<Spoil>>>,
}

impl Etcd {
    pub(crate) fn new() -> Self {
        Self { v3: Kv::new(), v2: Kv::new(), has_v2: true, spoil: Arc::default() }
    }
}

impl Transport for Etcd {
    fn send(&self, request: Request<Body>) -> Sending {
        let server = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let path = head.uri.path().to_owned();
            if let Some(key) = path.strip_prefix("/v2/keys").filter(|_| server.has_v2) {
                let query = head.uri.query().unwrap_or_default();
                return Ok(v2(&server.v2, &head.method, &unescaped(key), &fields(query), &body).await);
            }
            assert_eq!(
                head.headers.get("content-type").map(http::HeaderValue::as_bytes),
                path.starts_with("/v3").then_some(&b"application/json"[..])
            );
            Ok(match path.as_str() {
                "/v3/kv/range" => {
                    let mut range = range(&server.v3.state(), &parsed(&body));
                    if let Some(spoil) = *server.spoil.lock().unwrap() {
                        spoil(&mut range);
                    }
                    answer(&range)
                }
                "/v3/kv/txn" => answer(&server.v3.change(|state| txn(state, &parsed(&body)))),
                "/v3/watch" => watch(server.v3.clone(), &parsed(&body)),
                _ => Response::builder().status(404).body(full("404 page not found\n")).unwrap(),
            })
        })
    }
}

fn parsed(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn answer(value: &Value) -> Response<Body> {
    Response::new(full(value.to_string()))
}

fn key(value: &Value) -> String {
    String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

fn range(state: &State, req: &Value) -> Value {
    let from = key(&req["key"]);
    let end = if req["range_end"].is_null() { format!("{from}\0") } else { key(&req["range_end"]) };
    let limit = match number(&req["limit"]) {
        0 => usize::MAX,
        // Few, so that tests have pages.
        limit => (limit as usize).min(3),
    };
    let all: Vec<_> = state.entries.range(from..end).collect();
    let kvs: Vec<_> = all
        .iter()
        .take(limit)
        .map(|(key, entry)| {
            json!({
                "key": BASE64_STANDARD.encode(key),
                "value": BASE64_STANDARD.encode(&entry.value),
                "mod_revision": entry.revision.to_string(),
            })
        })
        .collect();
    let mut answer = json!({"header": {"revision": state.revision.to_string()}});
    if !kvs.is_empty() {
        answer["kvs"] = kvs.into();
        answer["count"] = all.len().to_string().into();
    }
    if all.len() > limit {
        answer["more"] = true.into();
    }
    answer
}

fn txn(state: &mut State, req: &Value) -> Value {
    let holds = req["compare"].as_array().unwrap().iter().all(|compare| {
        assert_eq!(compare["target"], "MOD");
        let is = state.entries.get(&key(&compare["key"])).map_or(0, |entry| entry.revision);
        let than = number(&compare["mod_revision"]);
        match compare["result"].as_str().unwrap() {
            "EQUAL" => is == than,
            "GREATER" => is > than,
            other => panic!("{other}"),
        }
    });
    let mut responses = Vec::new();
    for step in req[if holds { "success" } else { "failure" }].as_array().unwrap() {
        let (kind, step) = step.as_object().unwrap().iter().next().unwrap();
        responses.push(match kind.as_str() {
            "request_put" => {
                let value = BASE64_STANDARD.decode(step["value"].as_str().unwrap()).unwrap();
                state.put(&key(&step["key"]), &value);
                json!({"response_put": {}})
            }
            "request_delete_range" => {
                state.delete(&key(&step["key"]));
                json!({"response_delete_range": {}})
            }
            "request_range" => json!({"response_range": range(state, step)}),
            other => panic!("{other}"),
        });
    }
    let mut answer = json!({"header": {"revision": state.revision.to_string()}, "responses": responses});
    if holds {
        answer["succeeded"] = true.into();
    }
    answer
}

fn watch(kv: Kv, req: &Value) -> Response<Body> {
    let req = &req["create_request"];
    let (prefix, from) = (key(&req["key"]), number(&req["start_revision"]));
    let created = json!({"result": {"header": {}, "created": true}});
    let messages = stream::unfold((kv, 0), move |(kv, step)| {
        let (prefix, created) = (prefix.clone(), created.clone());
        async move {
            let message = match step {
                0 => created,
                _ if kv.changed(&prefix, from).await => json!({"result": {"header": {}, "events": [{"kv": {}}]}}),
                _ => json!({"result": {"canceled": true, "compact_revision": "1"}}),
            };
            let line = Bytes::from(format!("{message}\n"));
            (step < 2).then_some((Ok(Frame::data(line)), (kv, step + 1)))
        }
    });
    Response::new(StreamBody::new(messages).boxed_unsync())
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
            rest = &rest[2..];
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let fields = text.split('&').filter_map(|field| field.split_once('='));
    fields.map(|(name, value)| (name.to_owned(), unescaped(value))).collect()
}

async fn v2(kv: &Kv, method: &Method, key: &str, query: &BTreeMap<String, String>, body: &Bytes) -> Response<Body> {
    let fault = |status: u16, code: u64| {
        let index = kv.state().revision;
        let fault = json!({"errorCode": code, "message": "no", "cause": key, "index": index});
        Response::builder().status(status).header("x-etcd-index", index).body(full(fault.to_string())).unwrap()
    };
    let node = |key: &str, entry: &super::kv::Entry| json!({"key": key, "value": String::from_utf8_lossy(&entry.value), "modifiedIndex": entry.revision, "createdIndex": 1});
    let below = format!("{key}/");
    if query.contains_key("wait") {
        let is_told = kv.changed(&below, query["waitIndex"].parse().unwrap()).await;
        return if is_told { answer(&json!({"action": "set", "node": {"key": key}})) } else { fault(400, 401) };
    }
    if *method == Method::GET {
        let state = kv.state();
        if let Some(entry) = state.entries.get(key) {
            return answer(&json!({"action": "get", "node": node(key, entry)}));
        }
        let nodes: Vec<_> = state
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(&below))
            .map(|(key, entry)| node(key, entry))
            .collect();
        let index = state.revision;
        drop(state);
        if nodes.is_empty() {
            return fault(404, 100);
        }
        let listing = json!({"action": "get", "node": {"key": key, "dir": true, "nodes": nodes}});
        return Response::builder().header("x-etcd-index", index).body(full(listing.to_string())).unwrap();
    }
    let form = fields(std::str::from_utf8(body).unwrap());
    let done = kv.change(|state| {
        let is = state.entries.get(key).map(|entry| entry.revision);
        if let Some(expected) = query.get("prevIndex") {
            let expected: u64 = expected.parse().unwrap();
            match is {
                None => return Err((404, 100)),
                Some(is) if is != expected => return Err((412, 101)),
                Some(_) => {}
            }
        }
        if query.get("prevExist").is_some_and(|exists| exists == "false") && is.is_some() {
            return Err((412, 105));
        }
        if *method == Method::PUT {
            state.put(key, form["value"].as_bytes());
            return Ok(node(key, &state.entries[key]));
        }
        assert_eq!(*method, Method::DELETE);
        if is.is_none() {
            return Err((404, 100));
        }
        let index = state.delete(key);
        Ok(json!({"key": key, "modifiedIndex": index, "createdIndex": 1}))
    });
    match done {
        Ok(node) => answer(&json!({"action": "set", "node": node})),
        Err((status, code)) => fault(status, code),
    }
}
