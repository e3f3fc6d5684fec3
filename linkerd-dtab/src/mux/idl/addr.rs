//! Addresses.

use std::net::{IpAddr, SocketAddr};

use super::{text, tree::nothing};
use crate::{
    Addr, Endpoint,
    mux::thrift::{Kind, Malformed, Reader, Writer},
};

pub(super) fn write(writer: &mut Writer<'_>, addr: &Addr) {
    match addr {
        Addr::Neg => nothing(writer, 2),
        Addr::Bound(endpoints) => {
            writer.field(1, Kind::Struct);
            writer.field(1, Kind::Set);
            writer.list(Kind::Struct, endpoints.len());
            endpoints.iter().for_each(|endpoint| write_endpoint(writer, endpoint));
            writer.end();
        }
    }
    writer.end();
}

fn write_endpoint(writer: &mut Writer<'_>, endpoint: &Endpoint) {
    match endpoint.addr.ip() {
        IpAddr::V4(ip) => text(writer, 1, &ip.octets()),
        IpAddr::V6(ip) => text(writer, 1, &ip.octets()),
    }
    writer.field(2, Kind::I32);
    writer.i32(endpoint.addr.port().into());
    let Endpoint { authority, node, weight, .. } = endpoint;
    if authority.is_some() || node.is_some() || *weight != 1.0 {
        writer.field(3, Kind::Struct);
        if let Some(authority) = authority {
            text(writer, 1, authority.as_bytes());
        }
        if let Some(node) = node {
            text(writer, 2, node.as_bytes());
        }
        if *weight != 1.0 {
            writer.field(3, Kind::Double);
            writer.double(*weight);
        }
        writer.end();
    }
    writer.end();
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Addr, Malformed> {
    let mut addr = None;
    reader.fields(|reader, id, kind| match (id, kind) {
        (1, Kind::Struct) => {
            let mut endpoints = Vec::new();
            reader.fields(|reader, id, kind| {
                let is_set = (id, kind) == (1, Kind::Set);
                if is_set {
                    endpoints = reader.list(Kind::Struct, read_endpoint)?;
                }
                Ok(is_set)
            })?;
            addr = Some(Addr::Bound(endpoints.into()));
            Ok(true)
        }
        (2, Kind::Struct) => {
            addr = Some(Addr::Neg);
            Ok(false)
        }
        _ => Ok(false),
    })?;
    addr.ok_or(Malformed::Field("address"))
}

fn read_endpoint(reader: &mut Reader<'_>) -> Result<Endpoint, Malformed> {
    let (mut ip, mut port) = (None, 0);
    let (mut authority, mut node, mut weight) = (None, None, 1.0);
    reader.fields(|reader, id, kind| {
        match (id, kind) {
            (1, Kind::Text) => ip = Some(read_ip(reader.bytes()?)?),
            (2, Kind::I32) => {
                let number = reader.i32()?;
                port = u16::try_from(number).map_err(|_| Malformed::Port(number))?;
            }
            (3, Kind::Struct) => reader.fields(|reader, id, kind| {
                match (id, kind) {
                    (1, Kind::Text) => authority = Some(reader.text()?),
                    (2, Kind::Text) => node = Some(reader.text()?),
                    (3, Kind::Double) => weight = reader.double()?,
                    _ => return Ok(false),
                }
                Ok(true)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if !(weight.is_finite() && weight >= 0.0) {
        return Err(Malformed::Weight(weight));
    }
    let mut endpoint = Endpoint::new(SocketAddr::new(ip.ok_or(Malformed::Field("ip"))?, port)).with_weight(weight);
    endpoint.authority = authority.map(Into::into);
    endpoint.node = node.map(Into::into);
    Ok(endpoint)
}

fn read_ip(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(ip) = <[u8; 4]>::try_from(bytes) {
        return Ok(ip.into());
    }
    <[u8; 16]>::try_from(bytes).map(Into::into).map_err(|_| Malformed::Ip(bytes.len()))
}
