//! `namers`: where names become addresses.

use std::time::Duration;

use linkerd_dtab::{Captures, Path, PathMatcher};

use super::{
    announcer::{ZkAddr, path, zk_addrs},
    decode::{At, Decode, MAX_INT, Section},
    tls::ClientTls,
    transformer::Transformer,
    value::Directory,
};

/// An entry of `namers`. Of two with one prefix the later is asked first.
#[derive(Clone, Debug, PartialEq)]
pub struct Namer {
    /// `prefix`: it answers names below `/#` and this. Default: `/` and its kind; required by `io.l5d.rewrite`.
    pub prefix: Path,
    /// `experimental`: required to be true by some kinds. Default: false.
    pub experimental: bool,
    /// `transformers`, in the order in which they are applied. Default: none.
    pub transformers: Vec<Transformer>,
    /// `kind` and its own keys.
    pub kind: NamerKind,
}

/// The kinds of namers.
#[derive(Clone, Debug, PartialEq)]
pub enum NamerKind {
    /// `io.l5d.fs`: a directory with one file of addresses for each name.
    Fs {
        /// `rootDir`. Required; must exist.
        root_dir: Directory,
    },
    /// `io.l5d.rewrite`: other names.
    Rewrite {
        /// `pattern` that names have to match. Required.
        pattern: PathMatcher,
        /// `name` that they become, with `{captures}` of the pattern. Required.
        name: String,
    },
    /// `io.l5d.k8s`: Kubernetes endpoints.
    K8s(K8s),
    /// `io.l5d.k8s.external` (experimental): load balancers of Kubernetes services.
    K8sExternal(K8s),
    /// `io.l5d.k8s.ns`: Kubernetes endpoints of one namespace.
    K8sNs {
        /// As of `io.l5d.k8s`.
        k8s: K8s,
        /// `envVar` that holds the namespace. Default: `POD_NAMESPACE`.
        env_var: String,
    },
    /// `io.l5d.consul`: the Consul catalog.
    Consul(Box<Consul>),
    /// `io.l5d.serversets`: `ZooKeeper` serversets.
    Serversets {
        /// `zkAddrs`. Required.
        zk_addrs: Vec<ZkAddr>,
    },
    /// `io.l5d.zkLeader`: the leader of a `ZooKeeper` election.
    ZkLeader {
        /// `zkAddrs`, with ports. Required.
        zk_addrs: Vec<ZkAddr>,
    },
    /// `io.l5d.curator` (experimental): Curator's service discovery.
    Curator {
        /// `zkAddrs`. Required.
        zk_addrs: Vec<ZkAddr>,
        /// `basePath`. Default: `/`.
        base_path: Path,
    },
    /// `io.l5d.marathon`: Marathon apps.
    Marathon(Box<Marathon>),
    /// `io.l5d.dnssrv` (experimental): DNS SRV records.
    DnsSrv {
        /// `refreshIntervalSeconds`, at least 1. Default: 5 s.
        refresh_interval: Duration,
        /// `dnsHosts`. Default: the system's.
        dns_hosts: Vec<String>,
    },
    /// `io.l5d.rancher` (experimental): Rancher services.
    Rancher {
        /// `portMappings` from names to ports, over http 80 and https 443.
        port_mappings: Vec<(String, u16)>,
        /// `maxWait` of a poll, in seconds. Default: 30 s.
        max_wait: Duration,
    },
}

/// The keys of `io.l5d.k8s` and its relatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8s {
    /// `host` of the API. Default: `localhost`.
    pub host: String,
    /// `port` of the API. Default: 8001.
    pub port: u16,
    /// `labelSelector`: the label whose value is one more element of a name. Default: none.
    pub label_selector: Option<String>,
}

/// The keys of `io.l5d.consul`.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "the file has them")]
pub struct Consul {
    /// `host`. Default: `localhost`.
    pub host: String,
    /// `port`. Default: 8500.
    pub port: u16,
    /// `includeTag`: names hold a tag. Default: false.
    pub include_tag: bool,
    /// `useHealthCheck`: only healthy instances. Default: false.
    pub use_health_check: bool,
    /// `healthStatuses` that count as healthy. Default: passing.
    pub health_statuses: Vec<HealthStatus>,
    /// `token`. Default: none.
    pub token: Option<String>,
    /// `setHost`: requests carry the service's Consul name as host. Default: false.
    pub set_host: bool,
    /// `consistencyMode`. Default: `default`.
    pub consistency_mode: ConsistencyMode,
    /// `failFast`. Default: false.
    pub fail_fast: bool,
    /// `preferServiceAddress` over the node's. Default: true.
    pub prefer_service_address: bool,
    /// `weights` by tag. Default: none.
    pub weights: Vec<TagWeight>,
    /// `tls`. Default: none.
    pub tls: Option<ClientTls>,
    /// `transferMetadata`: keep the metadata of services and nodes. Default: false.
    pub transfer_metadata: bool,
    /// `fixedLengthStreamedAfterKB`. Default: 5120.
    pub fixed_length_streamed_after_kb: u32,
}

/// The state of a Consul instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// `passing`.
    Passing,
    /// `warning`.
    Warning,
    /// `critical`.
    Critical,
    /// `maintenance`.
    Maintenance,
}

/// How consistent Consul's answers are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsistencyMode {
    /// `default`.
    #[default]
    Default,
    /// `stale`: any server may answer.
    Stale,
    /// `consistent`: the leader asks its peers first.
    Consistent,
}

/// An entry of Consul's `weights`.
#[derive(Clone, Debug, PartialEq)]
pub struct TagWeight {
    /// `tag`. Required.
    pub tag: String,
    /// `weight`, not negative. Required.
    pub weight: f64,
}

/// The keys of `io.l5d.marathon`.
#[derive(Clone, Debug, PartialEq)]
pub struct Marathon {
    /// `host`. Default: `marathon.mesos`.
    pub host: String,
    /// `port`. Default: 80.
    pub port: u16,
    /// `dst`: a name to reach it by, instead of host and port. Default: none.
    pub dst: Option<Path>,
    /// `uriPrefix` of its API. Default: none.
    pub uri_prefix: Option<String>,
    /// `ttlMs` between polls, at least 1 ms. Default: 5 s.
    pub ttl: Duration,
    /// `jitterMs` of polls. Default: 50 ms.
    pub jitter: Duration,
    /// `tls`. Default: none.
    pub tls: Option<ClientTls>,
    /// `useHealthCheck`: only healthy tasks. Default: false.
    pub use_health_check: bool,
}

const KINDS: [&str; 12] = [
    "io.l5d.fs",
    "io.l5d.rewrite",
    "io.l5d.k8s",
    "io.l5d.k8s.external",
    "io.l5d.k8s.ns",
    "io.l5d.consul",
    "io.l5d.serversets",
    "io.l5d.zkLeader",
    "io.l5d.curator",
    "io.l5d.marathon",
    "io.l5d.dnssrv",
    "io.l5d.rancher",
];

const EXPERIMENTAL: [&str; 4] = ["io.l5d.k8s.external", "io.l5d.curator", "io.l5d.dnssrv", "io.l5d.rancher"];

impl Decode for Namer {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "namer")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let experimental = s.or("experimental", false);
        let transformers = s.or("transformers", Vec::new());
        let prefix: Option<Path> = if kind == "io.l5d.rewrite" {
            s.require("prefix")
        } else {
            s.get("prefix").or_else(|| Some(path(&[kind])))
        };
        if EXPERIMENTAL.contains(&kind) && !experimental {
            let prefix = prefix.as_ref().map(ToString::to_string).unwrap_or_default();
            s.at().experimental(&format!("The /#{prefix} namer"), "");
        }
        let kind = match kind {
            "io.l5d.fs" => s.require("rootDir").map(|root_dir| NamerKind::Fs { root_dir }),
            "io.l5d.rewrite" => rewrite(&mut s),
            "io.l5d.k8s" => Some(NamerKind::K8s(K8s::decode(&mut s))),
            "io.l5d.k8s.external" => Some(NamerKind::K8sExternal(K8s::decode(&mut s))),
            "io.l5d.k8s.ns" => {
                let k8s = K8s::decode(&mut s);
                Some(NamerKind::K8sNs { k8s, env_var: s.or("envVar", "POD_NAMESPACE".to_owned()) })
            }
            "io.l5d.consul" => Some(NamerKind::Consul(Box::new(Consul::decode(&mut s)))),
            "io.l5d.serversets" => {
                s.require_with("zkAddrs", zk_addrs).map(|zk_addrs| NamerKind::Serversets { zk_addrs })
            }
            "io.l5d.zkLeader" => {
                s.require_with("zkAddrs", zk_addrs_with_ports).map(|zk_addrs| NamerKind::ZkLeader { zk_addrs })
            }
            "io.l5d.curator" => {
                let base_path = s.or("basePath", Path::empty());
                s.require_with("zkAddrs", zk_addrs).map(|zk_addrs| NamerKind::Curator { zk_addrs, base_path })
            }
            "io.l5d.marathon" => Some(NamerKind::Marathon(Box::new(Marathon::decode(&mut s)))),
            "io.l5d.dnssrv" => {
                let refresh_interval = s.seconds("refreshIntervalSeconds", 1).unwrap_or(Duration::from_secs(5));
                Some(NamerKind::DnsSrv { refresh_interval, dns_hosts: s.or("dnsHosts", Vec::new()) })
            }
            _ => {
                let mapping = |name: &str, at: &At<'_>| Some((name.to_owned(), u16::decode(at)?));
                let port_mappings = s.with("portMappings", |at| at.entries(mapping)).unwrap_or_default();
                let max_wait = s.seconds("maxWait", 1).unwrap_or(Duration::from_secs(30));
                Some(NamerKind::Rancher { port_mappings, max_wait })
            }
        };
        s.finish();
        Some(Self { prefix: prefix?, experimental, transformers, kind: kind? })
    }
}

fn rewrite(s: &mut Section<'_>) -> Option<NamerKind> {
    let pattern: Option<PathMatcher> = s.require("pattern");
    let name: Option<String> = s.require("name");
    if let (Some(pattern), Some(name)) = (&pattern, &name) {
        // With any value for each capture it has to be a path.
        let filled = pattern.names().map(|name| (name, "x")).collect::<Captures>().substitute(name);
        if let Err(error) = filled.parse::<Path>() {
            let names: Vec<_> = pattern.names().map(|name| format!("{{{name}}}")).collect();
            s.problem("name", format!("is not a path: {error}, with x for the captures ({})", names.join(", ")));
        }
    }
    Some(NamerKind::Rewrite { pattern: pattern?, name: name? })
}

fn zk_addrs_with_ports(at: &At<'_>) -> Option<Vec<ZkAddr>> {
    let addrs = zk_addrs(at);
    at.list(|at| {
        if at.node.get("port").is_none() {
            at.problem("port must be specified");
        }
        Some(())
    });
    addrs
}

impl K8s {
    fn decode(s: &mut Section<'_>) -> Self {
        Self {
            host: s.or("host", "localhost".to_owned()),
            port: s.or("port", 8001),
            label_selector: s.get("labelSelector"),
        }
    }
}

impl Consul {
    fn decode(s: &mut Section<'_>) -> Self {
        Self {
            host: s.or("host", "localhost".to_owned()),
            port: s.or("port", 8500),
            include_tag: s.or("includeTag", false),
            use_health_check: s.or("useHealthCheck", false),
            health_statuses: s.or("healthStatuses", vec![HealthStatus::Passing]),
            token: s.get("token"),
            set_host: s.or("setHost", false),
            consistency_mode: s.or("consistencyMode", ConsistencyMode::Default),
            fail_fast: s.or("failFast", false),
            prefer_service_address: s.or("preferServiceAddress", true),
            weights: s.or("weights", Vec::new()),
            tls: s.get("tls"),
            transfer_metadata: s.or("transferMetadata", false),
            fixed_length_streamed_after_kb: s.count("fixedLengthStreamedAfterKB", 0).unwrap_or(5120),
        }
    }
}

impl Decode for HealthStatus {
    fn decode(at: &At<'_>) -> Option<Self> {
        match at.text()? {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            "maintenance" => Some(Self::Maintenance),
            _ => at.expected("passing, warning, critical or maintenance"),
        }
    }
}

impl Decode for ConsistencyMode {
    fn decode(at: &At<'_>) -> Option<Self> {
        match at.text()? {
            "default" => Some(Self::Default),
            "stale" => Some(Self::Stale),
            "consistent" => Some(Self::Consistent),
            _ => at.expected("default, stale or consistent"),
        }
    }
}

impl Decode for TagWeight {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "weight")?;
        let tag = s.require("tag");
        let weight = s.require_with("weight", |at| at.number("at least 0", |x| x >= 0.0));
        s.finish();
        Some(Self { tag: tag?, weight: weight? })
    }
}

impl Marathon {
    fn decode(s: &mut Section<'_>) -> Self {
        Self {
            host: s.or("host", "marathon.mesos".to_owned()),
            port: s.or("port", 80),
            dst: s.get("dst"),
            uri_prefix: s.get("uriPrefix"),
            ttl: s.millis("ttlMs", 1).unwrap_or(Duration::from_secs(5)),
            jitter: s
                .int("jitterMs", 0..=MAX_INT)
                .map_or(Duration::from_millis(50), |n| Duration::from_millis(n as u64)),
            tls: s.get("tls"),
            use_health_check: s.or("useHealthCheck", false),
        }
    }
}
