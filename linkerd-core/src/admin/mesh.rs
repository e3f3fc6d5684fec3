//! What a mesh knows, for people.

use linkerd_balance::Status;
use serde_json::{Map, Value, json};

use super::{addr_state, watch_state};
use crate::Mesh;

/// Every watch of a mesh, as `/state.json` shows it: its names and what they are bound to, its clients and their
/// endpoints.
#[must_use]
pub fn mesh_state(mesh: &Mesh) -> Value {
    let paths = mesh.paths().into_iter().map(|path| {
        let mut shown = watch_state("interpreter", &path.tree, |tree| tree.to_string().into());
        shown["path"] = path.path.to_string().into();
        if !path.local.is_empty() {
            shown["local"] = path.local.to_string().into();
        }
        shown
    });
    let clients = mesh.clients().into_iter().map(|client| {
        let id = client.id.to_string();
        let mut shown = match &client.addr {
            Some(addr) => watch_state("namer", addr, |addr| addr_state(&linkerd_dtab::State::Ok(addr.clone()))),
            None => json!({"source": "system"}),
        };
        shown["id"] = id.into();
        let endpoints = client.endpoints.iter().map(|endpoint| {
            let status = match endpoint.status {
                Status::Open => "open",
                Status::Busy => "busy",
                Status::Closed => "closed",
            };
            json!({
                "addr": endpoint.addr.to_string(),
                "weight": endpoint.weight,
                "status": status,
                "pending": endpoint.pending,
                "load": endpoint.load,
            })
        });
        shown["endpoints"] = endpoints.collect();
        shown
    });
    json!({"paths": paths.collect::<Value>(), "clients": clients.collect::<Value>()})
}

/// The clients of a mesh, as members of `/client_state.json`.
pub fn mesh_clients(mesh: &Mesh, all: &mut Map<String, Value>) {
    for client in mesh.clients() {
        if let Some(addr) = &client.addr {
            all.insert(client.id.to_string(), addr_state(&addr.sample()));
        }
    }
}
