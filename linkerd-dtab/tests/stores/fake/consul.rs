//! Consul's keys and values.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use linkerd_dtab::transport::{Body, Sending, Transport, full};
use serde_json::{Value, json};

use super::{
    Kv,
    kv::{Entry, State},
};

/// A clone is the same server.
#[derive(Clone)]
pub(crate) struct Consul(pub(crate) Kv);

impl Transport for Consul {
    fn send(&self, request: Request<Body>) -> Sending {
        let kv = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let query: BTreeMap<_, _> = head
                .uri
                .query()
                .unwrap_or_default()
                .split('&')
                .map(|field| field.split_once('=').unwrap_or((field, "")))
                .collect();
            assert_eq!(query.get("dc"), Some(&"dc-1"));
            assert_eq!(head.headers["x-consul-token"], "secret");
            if head.uri.path() == "/v1/txn" {
                assert_eq!(head.method, Method::PUT);
                let steps: Vec<Value> = serde_json::from_slice(&body).unwrap();
                return Ok(match kv.change(|state| commit(state, &steps)) {
                    Ok(results) => Response::new(full(json!({"Results": results, "Errors": null}).to_string())),
                    Err(what) => {
                        let errors = json!({"Results": null, "Errors": [{"OpIndex": 0, "What": what}]});
                        Response::builder().status(409).body(full(errors.to_string())).unwrap()
                    }
                });
            }
            assert_eq!(head.method, Method::GET);
            let key = head.uri.path().strip_prefix("/v1/kv/").unwrap();
            if let Some(index) = query.get("index") {
                let wait: u64 = query["wait"].strip_suffix('s').unwrap().parse().unwrap();
                let changed = kv.changed(key, index.parse::<u64>().unwrap() + 1);
                _ = tokio::time::timeout(Duration::from_secs(wait), changed).await;
            } else {
                assert!(query.contains_key("consistent"), "{query:?}");
            }
            let state = kv.state();
            let is_asked = |name: &str| if query.contains_key("recurse") { name.starts_with(key) } else { name == key };
            let entries: Vec<_> = state
                .entries
                .iter()
                .filter(|(name, _)| is_asked(name))
                .map(|(name, entry)| shown(name, entry))
                .collect();
            let rsp = Response::builder().header("x-consul-index", state.revision);
            if state.is_mute {
                return Ok(rsp.body(full("[]")).unwrap());
            }
            if entries.is_empty() {
                return Ok(rsp.status(404).body(full("")).unwrap());
            }
            Ok(rsp.body(full(Value::from(entries).to_string())).unwrap())
        })
    }
}

fn shown(key: &str, entry: &Entry) -> Value {
    let value = if entry.value.is_empty() { Value::Null } else { BASE64_STANDARD.encode(&entry.value).into() };
    json!({"LockIndex": 0, "Key": key, "Flags": 0, "Value": value, "CreateIndex": 1, "ModifyIndex": entry.revision})
}

fn commit(state: &mut State, steps: &[Value]) -> Result<Vec<Value>, String> {
    let mut results = Vec::new();
    for step in steps {
        let step = &step["KV"];
        let key = step["Key"].as_str().unwrap();
        let is = state.entries.get(key).map_or(0, |entry| entry.revision);
        let is_met = step["Index"].as_u64().is_none_or(|index| index == is);
        match step["Verb"].as_str().unwrap() {
            "get" if is == 0 => return Err(format!("key {key:?} doesn't exist")),
            "get" => {}
            "set" | "cas" if is_met => {
                let value = BASE64_STANDARD.decode(step["Value"].as_str().unwrap()).unwrap();
                state.put(key, &value);
            }
            "delete" | "delete-cas" if is_met => {
                state.delete(key);
                continue;
            }
            _ => return Err("failed to set key, index is stale".into()),
        }
        let mut result = shown(key, &state.entries[key]);
        result["Value"] = Value::Null;
        results.push(json!({ "KV": result }));
    }
    Ok(results)
}
