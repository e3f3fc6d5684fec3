//! The addresses of bound names.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{Malformed, proto};
use crate::{Addr, Endpoint, State};

use proto::{
    endpoint::{AddressFamily, Meta},
    replicas::{Bound, Failed, Neg, Pending, Result as Outcome},
};

// Linkerd's names.
const NODE: &str = "nodeName";
const AUTHORITY: &str = "authority";
const WEIGHT: &str = "endpoint_addr_weight";
// Ours.
const ZONE: &str = "zone";

/// What is known of a bound name's replicas.
pub(crate) fn write_replicas(state: &State<Addr>) -> proto::Replicas {
    let outcome = match state {
        State::Pending => Outcome::Pending(Pending {}),
        State::Failed(error) => Outcome::Failed(Failed { message: error.to_string() }),
        State::Ok(Addr::Neg) => Outcome::Neg(Neg {}),
        State::Ok(Addr::Bound(endpoints)) => {
            let endpoints = endpoints.iter().map(write_endpoint).collect();
            Outcome::Bound(Bound { endpoints, metadata: BTreeMap::new() })
        }
    };
    proto::Replicas { result: Some(outcome) }
}

/// The same of a peer; what failed there has failed here.
pub(crate) fn read_replicas(replicas: &proto::Replicas) -> Result<State<Addr>, Malformed> {
    Ok(match replicas.result.as_ref().ok_or(Malformed::Missing("what is known of replicas"))? {
        Outcome::Neg(Neg {}) => State::Ok(Addr::Neg),
        Outcome::Pending(Pending {}) => State::Pending,
        Outcome::Failed(Failed { message }) => State::Failed(super::remote_failure(message)),
        Outcome::Bound(Bound { endpoints, .. }) => {
            State::Ok(Addr::Bound(endpoints.iter().map(read_endpoint).collect::<Result<_, _>>()?))
        }
    })
}

fn write_endpoint(endpoint: &Endpoint) -> proto::Endpoint {
    let (family, address) = match endpoint.addr.ip() {
        IpAddr::V4(ip) => (AddressFamily::Inet4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::Inet6, ip.octets().to_vec()),
    };
    let mut metadata = BTreeMap::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value);
        }
    };
    let text = |value: &Option<std::sync::Arc<str>>| value.as_deref().map(str::to_owned);
    put(NODE, text(&endpoint.node));
    put(AUTHORITY, text(&endpoint.authority));
    put(ZONE, text(&endpoint.zone));
    // With a decimal point always, as Java prints it.
    put(WEIGHT, (endpoint.weight != 1.0).then(|| format!("{:?}", endpoint.weight)));
    proto::Endpoint {
        inet_af: Some(family.into()),
        address,
        port: Some(endpoint.addr.port().into()),
        meta: Some(Meta { node_name: text(&endpoint.node) }),
        metadata,
    }
}

fn read_endpoint(endpoint: &proto::Endpoint) -> Result<Endpoint, Malformed> {
    let port = endpoint.port.unwrap_or_default();
    let port = u16::try_from(port).map_err(|_| Malformed::Port(port))?;
    let mut read = Endpoint::new(SocketAddr::new(read_ip(&endpoint.address)?, port));
    let metadata = |key: &str| endpoint.metadata.get(key).filter(|value| !value.is_empty());
    if let Some(weight) = metadata(WEIGHT) {
        let weight: f64 = weight.parse().map_err(|_| Malformed::Weight(f64::NAN))?;
        if !weight.is_finite() || weight < 0.0 {
            return Err(Malformed::Weight(weight));
        }
        read.weight = weight;
    }
    let meta_node = endpoint.meta.as_ref().and_then(|meta| meta.node_name.as_ref()).filter(|name| !name.is_empty());
    read.node = meta_node.or_else(|| metadata(NODE)).map(|name| name.as_str().into());
    read.authority = metadata(AUTHORITY).map(|authority| authority.as_str().into());
    read.zone = metadata(ZONE).map(|zone| zone.as_str().into());
    Ok(read)
}

// By its length, whatever its family says.
fn read_ip(address: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(address) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(address).map_err(|_| Malformed::Address(address.len()))?;
    Ok(Ipv6Addr::from(v6).into())
}
