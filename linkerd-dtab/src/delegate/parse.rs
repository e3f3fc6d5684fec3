//! Bound trees, addresses and explanations from the JSON that a namerd answers with.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Map, Value};

use super::{Delegation, Entry, Node, Step};
use crate::{
    Activity, Addr, Bound, Dentry, Endpoint, Failure, NameTree, Path, State, Weighted, interpreter::remote::Leaf,
};

/// JSON that is none of the shapes that a namerd answers with. It may not nest deeper than 128 levels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) String);

/// What a namerd says of a name or an address that it could not find out about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Told(pub String);

type Parsed<T> = Result<T, Malformed>;

impl Delegation {
    /// An explanation from what [`to_json`](Self::to_json) makes of it, and Linkerd and namerd of theirs.
    ///
    /// Addresses are those that it has, and do not change. It has no steps that are not shown.
    pub fn from_json(json: &str) -> Parsed<Self> {
        Ok(Self::of_steps(node(&value(json.as_bytes())?)?))
    }
}

pub(crate) fn value(json: &[u8]) -> Parsed<Value> {
    serde_json::from_slice(json).map_err(|error| Malformed(error.to_string()))
}

/// A bound tree. Addresses that come with it are left out: they are watched by id.
pub(crate) fn tree(json: &Value) -> Parsed<NameTree<Leaf>> {
    let json = object(json)?;
    match text(json, "type")? {
        "neg" => Ok(NameTree::Neg),
        "fail" => Ok(NameTree::Fail),
        "empty" => Ok(NameTree::Empty),
        "leaf" => {
            let bound = object(member(json, "bound")?)?;
            Ok(NameTree::Leaf(Leaf { id: path(bound, "id")?, residual: path(bound, "path")? }))
        }
        "alt" => list(json, "alt")?.iter().map(tree).collect::<Parsed<_>>().map(NameTree::Alt),
        "union" => branches(json, tree, Weighted::new).map(NameTree::Union),
        kind => Err(Malformed(format!("unknown type of tree {kind:?}"))),
    }
}

/// An address, as it is known there.
pub(crate) fn addr(json: &Value) -> Parsed<State<Addr>> {
    let json = object(json)?;
    match text(json, "type")? {
        "neg" => Ok(State::Ok(Addr::Neg)),
        "pending" => Ok(State::Pending),
        "failed" => Ok(State::Failed(told(json, "cause"))),
        "bound" => {
            let endpoints = list(json, "addrs")?.iter().map(endpoint).collect::<Parsed<_>>()?;
            Ok(State::Ok(Addr::Bound(endpoints)))
        }
        kind => Err(Malformed(format!("unknown type of address {kind:?}"))),
    }
}

fn endpoint(json: &Value) -> Parsed<Endpoint> {
    let json = object(json)?;
    let ip = text(json, "ip")?;
    let ip: IpAddr = ip.parse().map_err(|_| Malformed(format!("ip is no address: {ip:?}")))?;
    let port = member(json, "port")?;
    let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| Malformed("port is no port".to_owned()))?;
    let mut endpoint = Endpoint::new((ip, port).into());
    let Some(Value::Object(meta)) = json.get("meta") else { return Ok(endpoint) };
    if let Some(weight) = meta.get("endpoint_addr_weight") {
        let weight = weight.as_f64().filter(|weight| weight.is_finite() && *weight >= 0.0);
        endpoint.weight = weight.ok_or_else(|| Malformed("endpoint_addr_weight is no weight".to_owned()))?;
    }
    let known = |name| meta.get(name).and_then(Value::as_str).map(Arc::from);
    endpoint.authority = known("authority");
    endpoint.node = known("nodeName");
    Ok(endpoint)
}

fn node(json: &Value) -> Parsed<Node> {
    let json = object(json)?;
    let child = |name| member(json, name).and_then(node).map(Box::new);
    let step = match text(json, "type")? {
        "neg" => Step::Neg,
        "fail" => Step::Fail,
        "empty" => Step::Empty,
        "exception" => Step::Failed(told(json, "message")),
        "delegate" => Step::Delegate { to: child("delegate")?, namers: None },
        "leaf" => Step::Leaf(bound(member(json, "bound")?)?),
        "alt" => Step::Alt(list(json, "alt")?.iter().map(node).collect::<Parsed<_>>()?),
        "union" => Step::Union(branches(json, node, |weight, node| (weight, node))?),
        "transformation" => {
            let name = text(json, "name")?.to_owned();
            Step::Transformed { name, bound: bound(member(json, "bound")?)?, to: child("tree")? }
        }
        kind => return Err(Malformed(format!("unknown type of node {kind:?}"))),
    };
    // What stands for a `~` or `!` that is written in a table.
    let path = match json.get("path").and_then(Value::as_str) {
        Some("~" | "!") | None => Path::empty(),
        Some(_) => path(json, "path")?,
    };
    let dentry = json.get("dentry").map(entry).transpose()?;
    Ok(Node { path, dentry, step })
}

fn bound(json: &Value) -> Parsed<Bound> {
    let json = object(json)?;
    let addr = match addr(member(json, "addr")?)? {
        State::Ok(addr) => Activity::value(addr),
        State::Failed(error) => Activity::failed(error),
        // It will not be known here.
        State::Pending => Activity::failed(Arc::new(Told("the address is not known".to_owned()))),
    };
    Ok(Bound::new(path(json, "id")?, path(json, "path")?, addr))
}

fn entry(json: &Value) -> Parsed<Entry> {
    let json = object(json)?;
    let bad = |name: &str, error: crate::ParseError| Malformed(format!("{name} of a dentry: {}", error.summary()));
    let prefix = text(json, "prefix")?.parse().map_err(|error| bad("prefix", error))?;
    let dst = text(json, "dst")?.parse().map_err(|error| bad("dst", error))?;
    Ok(Dentry { prefix, dst }.into())
}

fn branches<N, B>(
    json: &Map<String, Value>,
    parse: impl Fn(&Value) -> Parsed<N>,
    branch: impl Fn(f64, N) -> B,
) -> Parsed<Vec<B>> {
    let parse = |json: &Value| {
        let json = object(json)?;
        let weight = match member(json, "weight")? {
            Value::String(text) if text == "Infinity" => Some(f64::INFINITY),
            number => number.as_f64(),
        };
        let weight =
            weight.filter(|weight| *weight >= 0.0).ok_or_else(|| Malformed("weight is no weight".to_owned()))?;
        Ok(branch(weight, parse(member(json, "tree")?)?))
    };
    list(json, "union")?.iter().map(parse).collect()
}

fn told(json: &Map<String, Value>, name: &str) -> Failure {
    Arc::new(Told(json.get(name).and_then(Value::as_str).unwrap_or("no reason was given").to_owned()))
}

fn path(json: &Map<String, Value>, name: &str) -> Parsed<Path> {
    let text = text(json, name)?;
    text.parse().map_err(|error: crate::ParseError| Malformed(format!("{name} is no path: {}", error.summary())))
}

fn text<'a>(json: &'a Map<String, Value>, name: &str) -> Parsed<&'a str> {
    member(json, name)?.as_str().ok_or_else(|| Malformed(format!("{name} is no text")))
}

fn list<'a>(json: &'a Map<String, Value>, name: &str) -> Parsed<&'a [Value]> {
    member(json, name)?.as_array().map(Vec::as_slice).ok_or_else(|| Malformed(format!("{name} is no list")))
}

fn member<'a>(json: &'a Map<String, Value>, name: &str) -> Parsed<&'a Value> {
    json.get(name).ok_or_else(|| Malformed(format!("{name} is missing")))
}

fn object(json: &Value) -> Parsed<&Map<String, Value>> {
    json.as_object().ok_or_else(|| Malformed("an object is expected".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delegate::{addr_json, bound_json};

    #[test]
    fn an_explanation_comes_back_as_it_was() {
        let leaf = r#"{"type":"leaf","path":"/#/fs/one/r","dentry":{"prefix":"/svc","dst":"3.00*/#/fs/one & /#/fs/two"},"bound":{"addr":{"type":"bound","addrs":[{"ip":"127.0.0.1","port":1,"meta":{"authority":"a","nodeName":"n","endpoint_addr_weight":0.5}}],"meta":{}},"id":"/#/fs/one","path":"/r"}}"#;
        let exception = r#"{"type":"exception","path":"/x","message":"Max recursion level reached."}"#;
        let fail = r#"{"type":"fail","path":"!","dentry":{"prefix":"/x","dst":"!"}}"#;
        let neg = r#"{"type":"neg","path":"~","dentry":{"prefix":"/x","dst":"~"}}"#;
        let empty = r#"{"type":"empty","path":"/x"}"#;
        let nodes = [
            format!(r#"{{"type":"delegate","path":"/svc","delegate":{leaf}}}"#),
            format!(r#"{{"type":"alt","path":"/svc","alt":[{leaf},{exception},{fail},{neg},{empty}]}}"#),
            format!(
                r#"{{"type":"union","path":"/svc","union":[{{"weight":3.0,"tree":{leaf}}},{{"weight":"Infinity","tree":{neg}}}]}}"#
            ),
            format!(
                r#"{{"type":"transformation","path":"/svc","name":"n","bound":{{"addr":{{"type":"failed","cause":"no"}},"id":"/#/fs/two","path":"/"}},"tree":{leaf}}}"#
            ),
        ];
        for node in nodes {
            assert_eq!(Delegation::from_json(&node).unwrap().to_json().unwrap(), node);
        }
    }

    #[test]
    fn a_tree_and_its_address_come_back_as_they_were() {
        let json = r#"{"type":"union","union":[{"weight":3.0,"tree":{"type":"leaf","bound":{"addr":{"type":"neg"},"id":"/#/a","path":"/x"}}},{"weight":1.0,"tree":{"type":"alt","alt":[{"type":"neg"},{"type":"fail"},{"type":"empty"}]}}]}"#;
        let leaves = tree(&value(json.as_bytes()).unwrap()).unwrap();
        assert_eq!(leaves.to_string(), "3.00*/#/a[/x] & (~ | ! | $)");
        let bound = leaves.map(&mut |Leaf { id, residual }| Bound::new(id, residual, Activity::value(Addr::Neg)));
        assert_eq!(bound_json(&bound), json);
        for json in [
            r#"{"type":"neg"}"#,
            r#"{"type":"bound","addrs":[],"meta":{}}"#,
            r#"{"type":"bound","addrs":[{"ip":"::1","port":9,"meta":{}}],"meta":{}}"#,
        ] {
            let State::Ok(addr) = addr(&value(json.as_bytes()).unwrap()).unwrap() else { panic!("{json}") };
            assert_eq!(addr_json(&Activity::value(addr)), json);
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        let error = |json: &str| value(json.as_bytes()).and_then(|json| tree(&json)).unwrap_err().to_string();
        assert_eq!(error("[]"), "an object is expected");
        assert_eq!(error(r#"{"type":"what"}"#), "unknown type of tree \"what\"");
        assert_eq!(
            error(r#"{"type":"leaf","bound":{"id":"x","path":"/"}}"#),
            "id is no path: line 1, column 1: '/' expected but 'x' found"
        );
        assert_eq!(error(r#"{"type":"union","union":[{"weight":-1,"tree":{"type":"neg"}}]}"#), "weight is no weight");
        assert!(error(&r#"{"type":"alt","alt":["#.repeat(500)).contains("recursion limit"));
    }
}
