//! What a mesh knows, for people.

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
        let bound = path.tree.sample().ok().map(|tree| tree.map(&mut |bound| bound.id));
        if let Some(serving) = path.serving.filter(|serving| bound.as_ref() != Some(serving)) {
            shown["serving"] = serving.to_string().into();
        }
        if !path.local.is_empty() {
            shown["local"] = path.local.to_string().into();
        }
        if let Some(limit) = path.limit {
            shown["limit"] = json!({
                "kind": limit.kind,
                "limit": limit.limit,
                "inFlight": limit.in_flight,
                "queued": limit.queued,
                "shed": limit.shed,
            });
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
            json!({
                "addr": endpoint.addr.to_string(),
                "weight": endpoint.weight,
                "status": endpoint.status.to_string(),
                "pending": endpoint.pending,
                "load": endpoint.load,
            })
        });
        shown["endpoints"] = endpoints.collect();
        shown
    });
    json!({"paths": paths.collect::<Value>(), "clients": clients.collect::<Value>()})
}

/// The balancers of a mesh, as a member of `/admin/balancers.json`: for each client how it picks, and for each of its
/// endpoints its status, load and weight, and why it is used or not.
#[must_use]
pub fn mesh_balancers(mesh: &Mesh) -> Value {
    let clients = mesh.clients().into_iter().filter_map(|client| {
        let balancer = client.balancer?;
        let stats = balancer.stats;
        let tiers = balancer.tiers.iter().map(|tier| {
            json!({
                "priority": tier.priority,
                "zone": tier.zone.as_deref(),
                "size": tier.size,
                "open": tier.open,
                "pending": tier.in_flight,
                "share": tier.share,
                "why": tier.why.to_string(),
            })
        });
        let endpoints = client.endpoints.iter().map(|endpoint| {
            json!({
                "addr": endpoint.addr.to_string(),
                "status": endpoint.status.to_string(),
                "why": endpoint.why,
                "load": endpoint.load,
                "weight": endpoint.weight,
                "pending": endpoint.pending,
                "zone": endpoint.zone.as_deref(),
                "tier": endpoint.tier,
                "ramp": endpoint.ramp,
                "used": endpoint.is_used,
                "leaving": endpoint.is_leaving,
            })
        });
        let shown = json!({
            "algorithm": balancer.algorithm,
            "settings": balancer.settings.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()),
            "size": stats.size,
            "available": stats.available,
            "due": stats.due,
            "busy": stats.busy,
            "closed": stats.closed,
            "load": stats.load,
            "meanWeight": stats.mean_weight,
            "adds": stats.adds,
            "removes": stats.removes,
            "used": stats.in_use,
            "aperture": stats.aperture.map(|width| {
                json!({
                    "logical": width.logical,
                    "physical": width.physical,
                    "load": width.in_flight,
                    "widened": width.widened,
                    "narrowed": width.narrowed,
                    "slice": width.is_slice,
                })
            }),
            "leaving": stats.stays,
            "ejections": stats.ejections.map(|ejections| {
                json!({"ejected": ejections.ejected, "allowed": ejections.allowed, "denied": ejections.denied})
            }),
            "panic": {"active": stats.in_panic, "times": stats.panics, "refused": stats.refused},
            "tier": stats.tier,
            "spilled": stats.spilled,
            "tiers": tiers.collect::<Value>(),
            "endpoints": endpoints.collect::<Value>(),
        });
        Some((client.id.to_string(), shown))
    });
    Value::Object(clients.collect())
}

/// The clients of a mesh, as members of `/client_state.json`.
pub fn mesh_clients(mesh: &Mesh, all: &mut Map<String, Value>) {
    for client in mesh.clients() {
        if let Some(addr) = &client.addr {
            all.insert(client.id.to_string(), addr_state(&addr.sample()));
        }
    }
}
