//! The API server of Kubernetes, as far as objects of one kind need it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use linkerd_dtab::transport::{Body, Sending, Transport, full};
use serde_json::{Value, json};

use super::{
    Kv,
    kv::{Entry, State},
};

const PATH: &str = "/apis/l5d.io/v1alpha1/namespaces/mesh/dtabs";

/// A clone is the same server.
#[derive(Clone)]
pub(crate) struct Kubernetes {
    /// Objects by name, as they are without their versions.
    pub(crate) kv: Kv,
    /// Whether it knows objects of this kind.
    pub(crate) has_kind: Arc<AtomicBool>,
}

impl Kubernetes {
    pub(crate) fn new() -> Self {
        Self { kv: Kv::new(), has_kind: Arc::new(AtomicBool::new(true)) }
    }
}

impl Transport for Kubernetes {
    fn send(&self, request: Request<Body>) -> Sending {
        let server = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            if !server.has_kind.load(Relaxed) {
                return Ok(status(404, "NotFound"));
            }
            let query: BTreeMap<_, _> =
                head.uri.query().unwrap_or_default().split('&').filter_map(|field| field.split_once('=')).collect();
            let name = head.uri.path().strip_prefix(PATH).unwrap().trim_start_matches('/');
            Ok(match (head.method, name) {
                (Method::GET, "") if query.contains_key("watch") => {
                    watch(server.kv, query["resourceVersion"].parse().unwrap())
                }
                (Method::GET, "") => list(&server.kv.state(), query.get("continue").copied()),
                (Method::GET, name) => match server.kv.get(name) {
                    Some(entry) => Response::new(full(shown(&entry).to_string())),
                    None => status(404, "NotFound"),
                },
                (Method::POST, "") => server.kv.change(|state| {
                    let name = body["metadata"]["name"].as_str().unwrap();
                    if state.entries.contains_key(name) {
                        status(409, "AlreadyExists")
                    } else {
                        put(state, name, &body)
                    }
                }),
                (Method::PUT, name) => server.kv.change(|state| match state.entries.get(name) {
                    None => status(404, "NotFound"),
                    Some(entry) if !is_version(&body["metadata"]["resourceVersion"], entry) => status(409, "Conflict"),
                    // What changes nothing is not counted.
                    Some(entry) if shown(entry) == body => Response::new(full(body.to_string())),
                    Some(_) => put(state, name, &body),
                }),
                (Method::DELETE, name) => server.kv.change(|state| {
                    let expected = &body["preconditions"]["resourceVersion"];
                    match state.entries.get(name) {
                        None => status(404, "NotFound"),
                        Some(entry) if !expected.is_null() && !is_version(expected, entry) => status(409, "Conflict"),
                        Some(_) => {
                            state.delete(name);
                            status(200, "")
                        }
                    }
                }),
                (method, name) => panic!("{method} {name}"),
            })
        })
    }
}

fn status(code: u16, reason: &str) -> Response<Body> {
    let word = if code == 200 { "Success" } else { "Failure" };
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": word, "reason": reason, "code": code, "message": "so it is"});
    Response::builder().status(code).body(full(status.to_string())).unwrap()
}

fn is_version(version: &Value, entry: &Entry) -> bool {
    version.as_str() == Some(&entry.revision.to_string())
}

fn shown(entry: &Entry) -> Value {
    let mut object: Value = serde_json::from_slice(&entry.value).unwrap();
    object["metadata"]["resourceVersion"] = entry.revision.to_string().into();
    object
}

fn put(state: &mut State, name: &str, object: &Value) -> Response<Body> {
    assert_eq!((&object["apiVersion"], &object["kind"]), (&json!("l5d.io/v1alpha1"), &json!("DTab")));
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    state.put(name, object.to_string().as_bytes());
    Response::new(full(shown(&state.entries[name]).to_string()))
}

/// Three objects at a time.
fn list(state: &State, after: Option<&str>) -> Response<Body> {
    let rest: Vec<_> =
        state.entries.iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after)).collect();
    let items: Vec<_> = rest.iter().take(3).map(|(_, entry)| shown(entry)).collect();
    let more = rest.get(3).map_or("", |_| rest[2].0.as_str());
    let list = json!({
        "kind": "DTabList", "apiVersion": "l5d.io/v1alpha1",
        "metadata": {"resourceVersion": state.revision.to_string(), "continue": more}, "items": items,
    });
    Response::new(full(list.to_string()))
}

fn watch(kv: Kv, from: u64) -> Response<Body> {
    let bookmark = json!({"type": "BOOKMARK", "object": {"kind": "DTab", "apiVersion": "l5d.io/v1alpha1", "metadata": {"resourceVersion": "1"}}});
    let object = json!({"apiVersion": "l5d.io/v1alpha1", "kind": "DTab", "metadata": {"name": "some"}});
    let events = stream::unfold((kv, 0), move |(kv, step)| {
        let (bookmark, object) = (bookmark.clone(), object.clone());
        async move {
            let event = match step {
                0 => bookmark,
                _ if kv.changed("", from + 1).await => json!({"type": "MODIFIED", "object": object}),
                _ => {
                    json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}})
                }
            };
            let line = Bytes::from(format!("{event}\n"));
            (step < 2).then_some((Ok(Frame::data(line)), (kv, step + 1)))
        }
    });
    Response::new(StreamBody::new(events).boxed_unsync())
}
