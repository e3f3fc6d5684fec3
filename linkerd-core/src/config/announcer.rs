//! `announcers` of a router, and addresses of `ZooKeeper`.

use linkerd_dtab::Path;

use super::decode::{At, Decode, Section};

/// An announcer: tells others where the servers are. The one kind is `io.l5d.serversets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcer {
    /// `prefix` of names in `announce`, after `/#`. Default: `/io.l5d.serversets`.
    pub prefix: Path,
    /// `zkAddrs`. Required.
    pub zk_addrs: Vec<ZkAddr>,
    /// `pathPrefix` in `ZooKeeper`. Default: `/discovery`.
    pub path_prefix: Path,
}

/// The address of a `ZooKeeper` server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZkAddr {
    /// `host`. Required.
    pub host: String,
    /// `port`. Default: 2181; required by `io.l5d.zkLeader`.
    pub port: u16,
}

impl Decode for Announcer {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "announcer")?;
        s.kind("kind", &["io.l5d.serversets"], None)?;
        let prefix = s.get("prefix").unwrap_or_else(|| path(&["io.l5d.serversets"]));
        let zk_addrs = s.require_with("zkAddrs", zk_addrs);
        let path_prefix = s.get("pathPrefix").unwrap_or_else(|| path(&["discovery"]));
        s.finish();
        Some(Self { prefix, zk_addrs: zk_addrs?, path_prefix })
    }
}

/// At least one address.
pub(super) fn zk_addrs(at: &At<'_>) -> Option<Vec<ZkAddr>> {
    let addrs = at.list(ZkAddr::decode)?;
    if matches!(&at.node.value, super::node::Value::List(items) if items.is_empty()) {
        return at.expected("at least one address");
    }
    Some(addrs)
}

impl Decode for ZkAddr {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "zkAddr")?;
        let host = s.require("host");
        let port = s.or("port", 2181);
        s.finish();
        Some(Self { host: host?, port })
    }
}

/// A path of these elements, of which none is empty.
pub(super) fn path(elements: &[&str]) -> Path {
    Path::from_elements(elements).unwrap_or_default()
}
