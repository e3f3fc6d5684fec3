//! `storage`: where tables are kept.

use std::{path::PathBuf, time::Duration};

use linkerd_dtab::{
    Dtab,
    store::{KeyPrefix, Namespace},
};

use super::super::{
    announcer::{ZkAddr, zk_addrs},
    consul::ConsulAgent,
    decode::{At, Decode, Section},
};

/// The `storage` map.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// `experimental`: required to be true by `io.l5d.etcd`. Default: false.
    pub experimental: bool,
    /// `kind` and its own keys.
    pub kind: StorageKind,
}

/// The kinds of storage.
#[derive(Clone, Debug, PartialEq)]
pub enum StorageKind {
    /// `io.l5d.inMemory`: lost when the process ends.
    InMemory {
        /// `namespaces`: the tables that there are at the start. Default: none.
        namespaces: Vec<(Namespace, Dtab)>,
    },
    /// `io.l5d.fs`: a directory of files.
    ///
    /// Not a kind of Linkerd 1.x.
    Files {
        /// `directory`. Required; made if it does not exist, below a directory that is in use.
        directory: PathBuf,
        /// `create`: whether it is made, and an empty one taken, wherever it is. Default: false.
        create: bool,
    },
    /// `io.l5d.etcd` (experimental).
    Etcd(EtcdStorage),
    /// `io.l5d.zk`.
    Zk(Box<ZkStorage>),
    /// `io.l5d.consul`.
    Consul(Box<ConsulStorage>),
    /// `io.l5d.k8s`: custom resources `dtabs.l5d.io`.
    K8s {
        /// `host` of the API. Default: `localhost`.
        host: String,
        /// `port` of the API. Default: 8001.
        port: u16,
        /// `namespace` of Kubernetes. Default: `default`.
        namespace: String,
    },
}

/// The keys of `io.l5d.etcd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStorage {
    /// `host`. Default: `localhost`.
    pub host: String,
    /// `port`. Default: 2379.
    pub port: u16,
    /// `pathPrefix` of keys. Default: `/namerd/dtabs`.
    pub path_prefix: KeyPrefix,
    /// `api`. Default: `v2` where the server has it and there is something below the prefix, else `v3`.
    ///
    /// Not a key of Linkerd 1.x, which knows v2 alone.
    pub api: Option<EtcdApi>,
}

/// Values of `api`: which of etcd's APIs is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdApi {
    /// `v2`: the keys of namerd 1.x.
    V2,
    /// `v3`: by its JSON gateway.
    V3,
}

/// The keys of `io.l5d.zk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZkStorage {
    /// `zkAddrs`. Required.
    pub zk_addrs: Vec<ZkAddr>,
    /// `pathPrefix` of nodes. Default: `/dtabs`.
    pub path_prefix: KeyPrefix,
    /// `sessionTimeoutMs`, at least 1 ms. Default: 10 s.
    pub session_timeout: Duration,
    /// `authInfo`. Default: none.
    pub auth: Option<ZkAuth>,
    /// `acls` of nodes that are made: scheme, id, and which of `crwda`. Default: everybody may do everything.
    pub acls: Vec<(String, String, String)>,
}

/// The `authInfo` map: who a client of `ZooKeeper` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZkAuth {
    /// `scheme`. Required.
    pub scheme: String,
    /// `auth`. Required.
    pub auth: String,
}

/// The keys of `io.l5d.consul`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulStorage {
    /// `pathPrefix` of keys. Default: `/namerd/dtabs`.
    pub path_prefix: KeyPrefix,
    /// The rest.
    pub agent: ConsulAgent,
}

const KINDS: [&str; 6] = ["io.l5d.inMemory", "io.l5d.fs", "io.l5d.etcd", "io.l5d.zk", "io.l5d.consul", "io.l5d.k8s"];

impl Decode for Storage {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "storage")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let experimental = s.or("experimental", false);
        if kind == "io.l5d.etcd" && !experimental {
            s.at().experimental("The io.l5d.etcd storage", "");
        }
        let kind = match kind {
            "io.l5d.inMemory" => {
                Some(StorageKind::InMemory { namespaces: s.with("namespaces", namespaces).unwrap_or_default() })
            }
            "io.l5d.fs" => {
                let directory: Option<String> = s.require("directory");
                let create = s.or("create", false);
                directory.map(|directory| StorageKind::Files { directory: directory.into(), create })
            }
            "io.l5d.etcd" => Some(StorageKind::Etcd(etcd(&mut s))),
            "io.l5d.zk" => zk(&mut s).map(|zk| StorageKind::Zk(Box::new(zk))),
            "io.l5d.consul" => Some(StorageKind::Consul(Box::new(consul(&mut s)))),
            _ => Some(StorageKind::K8s {
                host: s.or("host", "localhost".to_owned()),
                port: s.or("port", 8001),
                namespace: s.or("namespace", "default".to_owned()),
            }),
        };
        s.finish();
        Some(Self { experimental, kind: kind? })
    }
}

fn namespaces(at: &At<'_>) -> Option<Vec<(Namespace, Dtab)>> {
    at.entries(|name, at| {
        let namespace = match name.parse() {
            Ok(namespace) => Some(namespace),
            Err(error) => {
                at.problem(format!("{error}"));
                None
            }
        };
        let dtab = Dtab::decode(at);
        Some((namespace?, dtab?))
    })
}

/// What keys begin with.
fn prefix(s: &mut Section<'_>, default: &str) -> KeyPrefix {
    let given = s.with("pathPrefix", |at| match at.text()?.parse() {
        Ok(prefix) => Some(prefix),
        Err(error) => {
            at.problem(format!("{error}"));
            None
        }
    });
    given.unwrap_or_else(|| default.parse().expect("a valid prefix"))
}

fn etcd(s: &mut Section<'_>) -> EtcdStorage {
    EtcdStorage {
        host: s.or("host", "localhost".to_owned()),
        port: s.or("port", 2379),
        path_prefix: prefix(s, "/namerd/dtabs"),
        api: s.has("api").then(|| s.kind("api", &["v2", "v3"], None)).flatten().map(|api| match api {
            "v2" => EtcdApi::V2,
            _ => EtcdApi::V3,
        }),
    }
}

fn zk(s: &mut Section<'_>) -> Option<ZkStorage> {
    let zk_addrs = s.require_with("zkAddrs", zk_addrs);
    let path_prefix = prefix(s, "/dtabs");
    let session_timeout = s.millis("sessionTimeoutMs", 1).unwrap_or(Duration::from_secs(10));
    let auth = s.get("authInfo");
    let acls = s.with("acls", |at| at.list(acl)).unwrap_or_default();
    Some(ZkStorage { zk_addrs: zk_addrs?, path_prefix, session_timeout, auth, acls })
}

impl Decode for ZkAuth {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "authInfo")?;
        let (scheme, auth) = (s.require("scheme"), s.require("auth"));
        s.finish();
        Some(Self { scheme: scheme?, auth: auth? })
    }
}

fn acl(at: &At<'_>) -> Option<(String, String, String)> {
    let mut s = Section::open(at, "acl")?;
    let (scheme, id) = (s.require("scheme"), s.require("id"));
    let perms = s.require_with("perms", |at| {
        let perms = at.text()?;
        if perms.is_empty() || !perms.chars().all(|perm| "crwda".contains(perm)) {
            return at.expected("some of c, r, w, d and a");
        }
        Some(perms.to_owned())
    });
    s.finish();
    Some((scheme?, id?, perms?))
}

fn consul(s: &mut Section<'_>) -> ConsulStorage {
    ConsulStorage { path_prefix: prefix(s, "/namerd/dtabs"), agent: ConsulAgent::decode(s) }
}
