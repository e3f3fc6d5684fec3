//! `interpreter`: who binds names.

use std::{path::PathBuf, time::Duration};

use linkerd_dtab::Path;

use super::{
    consul::ConsulAgent,
    decode::{At, Decode, Section},
    tls::ClientTls,
    transformer::Transformer,
    value::{File, HeaderName},
};

/// An `interpreter` map.
#[derive(Clone, Debug, PartialEq)]
pub struct Interpreter {
    /// `experimental`: required to be true by some kinds. Default: false.
    pub experimental: bool,
    /// `transformers`, in the order in which they are applied. Default: none.
    pub transformers: Vec<Transformer>,
    /// `kind` and its own keys. Default: `default`.
    pub kind: InterpreterKind,
}

/// The kinds of interpreters.
#[derive(Clone, Debug, PartialEq)]
pub enum InterpreterKind {
    /// `default`: the router's dtab and the file's namers.
    Default,
    /// `io.l5d.fs`: also the dtab in a file, below the router's.
    Fs {
        /// `dtabFile`. Required; must exist.
        dtab_file: File,
    },
    /// `io.l5d.k8s.configMap` (experimental): also the dtab in a Kubernetes `ConfigMap`.
    ConfigMap {
        /// `host` of the API. Default: `localhost`.
        host: String,
        /// `port` of the API. Default: 8001.
        port: u16,
        /// `namespace` of the `ConfigMap`. Default: `default`.
        namespace: String,
        /// `name` of the `ConfigMap`. Required.
        name: String,
        /// `filename`: the key in it. Required.
        filename: String,
    },
    /// `io.l5d.consul.interpreter`: a dtab in Consul's store.
    Consul(Box<ConsulInterpreter>),
    /// `io.l5d.namerd`: namerd by thrift.
    Namerd {
        /// How to reach it. Retries: 5 s to 60 s.
        remote: Remote,
        /// `tls`. Default: none.
        tls: Option<NamerdTls>,
    },
    /// `io.l5d.namerd.http` (experimental): namerd by HTTP.
    NamerdHttp {
        /// How to reach it. Retries: 5 s to 60 s.
        remote: Remote,
        /// `tls`. Default: none.
        tls: Option<ClientTls>,
    },
    /// `io.l5d.mesh`: namerd by gRPC.
    Mesh {
        /// How to reach it; `root` (default `/default`) stands for `namespace`. Retries: 1 s to 60 s.
        remote: Remote,
        /// `root`. Default: `/default`.
        root: Path,
        /// `tls`. Default: none.
        tls: Option<ClientTls>,
        /// `initialStreamWindowSizeKB`, at least 1. Default: 10240.
        initial_stream_window_size_kb: u32,
    },
}

/// The keys of `io.l5d.consul.interpreter`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulInterpreter {
    /// `namespace`: the name of the dtab. Default: `default`.
    pub namespace: String,
    /// `pathPrefix` in the store. Default: `/namerd/dtabs`.
    pub path_prefix: Path,
    /// The rest.
    pub agent: ConsulAgent,
}

/// How to reach a namerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `dst`: its name, such as `/$/inet/127.1/4100`. Required.
    pub dst: Path,
    /// `fallbacks`: the names of others that are asked in this order while those before do not answer. Default: none.
    ///
    /// Not a key of Linkerd 1.x.
    pub fallbacks: Vec<Path>,
    /// `snapshot`: a file that keeps what is known, to begin with while nobody answers. Default: none.
    ///
    /// Not a key of Linkerd 1.x.
    pub snapshot: Option<SnapshotFile>,
    /// `namespace`: which of its dtabs. Default: `default`.
    pub namespace: String,
    /// `perRequestNamespace`: a header by which requests choose another namespace. Default: none.
    ///
    /// Not a key of Linkerd 1.x.
    pub per_request_namespace: Option<PerRequestNamespace>,
    /// `retry.baseSeconds`: the pause before the first retry, at least 1 s.
    pub retry_base: Duration,
    /// `retry.maxSeconds`: the longest pause, not less than the first. Default: a minute, or the first if that is longer; of
    /// Linkerd 1.x ten minutes.
    pub retry_max: Duration,
    /// `failureThreshold.minPeriodMs` between checks of the connection; of namerd itself by `io.l5d.namerd.http`. Default: 5 s.
    pub check_period: Duration,
    /// `failureThreshold.closeTimeoutMs`: how long a check may take. Default: 4 s, of `io.l5d.mesh` 6 s.
    pub check_timeout: Duration,
}

/// The `snapshot` map of an interpreter that asks a namerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// `file`. Required; its folder has to be there when it is written. No other interpreter may have the same.
    pub file: PathBuf,
    /// `maxAgeSeconds`: for how long what was known counts. Default: a day.
    pub max_age: Duration,
}

/// The `perRequestNamespace` map of an interpreter that asks a namerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerRequestNamespace {
    /// `header`. Required.
    pub header: HeaderName,
    /// `allow`: the namespaces that it may say, from 1 to 32; of `io.l5d.mesh` single elements of a root. Each has watches
    /// and connections of its own. Required.
    pub allow: Vec<String>,
}

/// The `tls` map of `io.l5d.namerd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamerdTls {
    /// `commonName` to verify. Required.
    pub common_name: String,
    /// `caCert`: whom to trust, PEM. Default: the system's roots.
    pub ca_cert: Option<PathBuf>,
}

impl Default for Interpreter {
    fn default() -> Self {
        Self { experimental: false, transformers: Vec::new(), kind: InterpreterKind::Default }
    }
}

const KINDS: [&str; 7] = [
    "default",
    "io.l5d.fs",
    "io.l5d.k8s.configMap",
    "io.l5d.consul.interpreter",
    "io.l5d.namerd",
    "io.l5d.namerd.http",
    "io.l5d.mesh",
];

const EXPERIMENTAL: [&str; 2] = ["io.l5d.k8s.configMap", "io.l5d.namerd.http"];

impl Decode for Interpreter {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "interpreter")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let experimental = s.or("experimental", false);
        let transformers = s.or("transformers", Vec::new());
        if EXPERIMENTAL.contains(&kind) && !experimental {
            s.at().experimental(&format!("The {kind} interpreter"), "");
        }
        let kind = match kind {
            "default" => Some(InterpreterKind::Default),
            "io.l5d.fs" => s.require("dtabFile").map(|dtab_file| InterpreterKind::Fs { dtab_file }),
            "io.l5d.k8s.configMap" => config_map(&mut s),
            "io.l5d.consul.interpreter" => Some(InterpreterKind::Consul(Box::new(ConsulInterpreter::decode(&mut s)))),
            "io.l5d.namerd" => {
                let remote = Remote::decode(&mut s, false);
                let tls = s.get("tls");
                remote.map(|remote| InterpreterKind::Namerd { remote, tls })
            }
            "io.l5d.namerd.http" => {
                let remote = Remote::decode(&mut s, false);
                let tls = s.get("tls");
                remote.map(|remote| InterpreterKind::NamerdHttp { remote, tls })
            }
            _ => mesh(&mut s),
        };
        s.finish();
        Some(Self { experimental, transformers, kind: kind? })
    }
}

fn config_map(s: &mut Section<'_>) -> Option<InterpreterKind> {
    let host = s.or("host", "localhost".to_owned());
    let port = s.or("port", 8001);
    let namespace = s.or("namespace", "default".to_owned());
    let name = s.require("name");
    let filename = s.require("filename");
    Some(InterpreterKind::ConfigMap { host, port, namespace, name: name?, filename: filename? })
}

fn mesh(s: &mut Section<'_>) -> Option<InterpreterKind> {
    let remote = Remote::decode(s, true);
    let root = s.get("root").unwrap_or_else(|| super::announcer::path(&["default"]));
    let tls = s.get("tls");
    let initial_stream_window_size_kb = s.count("initialStreamWindowSizeKB", 1).unwrap_or(10240);
    Some(InterpreterKind::Mesh { remote: remote?, root, tls, initial_stream_window_size_kb })
}

/// Between two attempts to reach a namerd: a change that is made while it is away is seen no later after it is back.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

impl Remote {
    fn decode(s: &mut Section<'_>, mesh: bool) -> Option<Self> {
        let (base, timeout) = if mesh { (1, 6) } else { (5, 4) };
        let dst = s.require("dst");
        let fallbacks = s.or("fallbacks", Vec::new());
        let snapshot = s.get("snapshot");
        let namespace = if mesh { None } else { s.get("namespace") };
        let per_request_namespace = s.get("perRequestNamespace");
        let retry = s.with("retry", |at| {
            let mut s = Section::open(at, "retry")?;
            let given = s.seconds("baseSeconds", 1);
            let valid = given.is_some() || !s.has("baseSeconds");
            let base = given.unwrap_or(Duration::from_secs(base));
            let max = s.seconds("maxSeconds", 1).unwrap_or(LONGEST_PAUSE.max(base));
            if valid && max < base {
                let (base, max) = (base.as_secs(), max.as_secs());
                s.problem("maxSeconds", format!("must not be less than baseSeconds {base}, got {max}"));
            }
            s.finish();
            Some((base, max))
        });
        let check = s.with("failureThreshold", |at| {
            let mut s = Section::open(at, "failureThreshold")?;
            let period = s.millis("minPeriodMs", 1);
            let timeout = s.millis("closeTimeoutMs", 1);
            s.finish();
            Some((period, timeout))
        });
        let (period, close) = check.unwrap_or_default();
        let (retry_base, retry_max) = retry.unwrap_or((Duration::from_secs(base), LONGEST_PAUSE));
        Some(Self {
            dst: dst?,
            fallbacks,
            snapshot,
            per_request_namespace,
            namespace: namespace.unwrap_or_else(|| "default".to_owned()),
            retry_base,
            retry_max,
            check_period: period.unwrap_or(Duration::from_secs(5)),
            check_timeout: close.unwrap_or(Duration::from_secs(timeout)),
        })
    }
}

impl ConsulInterpreter {
    fn decode(s: &mut Section<'_>) -> Self {
        Self {
            namespace: s.or("namespace", "default".to_owned()),
            path_prefix: s.get("pathPrefix").unwrap_or_else(|| super::announcer::path(&["namerd", "dtabs"])),
            agent: ConsulAgent::decode(s),
        }
    }
}

/// Each has connections of its own.
const MAX_NAMESPACES: usize = 32;

impl InterpreterKind {
    /// How a namerd is reached, if one is asked.
    pub fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Namerd { remote, .. } | Self::NamerdHttp { remote, .. } | Self::Mesh { remote, .. } => Some(remote),
            Self::Default | Self::Fs { .. } | Self::ConfigMap { .. } | Self::Consul(_) => None,
        }
    }

    /// The namespace whose dtab it uses, if a namerd has it.
    pub(crate) fn namespace(&self) -> Option<String> {
        match self {
            Self::Mesh { root, .. } => Some(root.to_string().trim_start_matches('/').to_owned()),
            _ => self.remote().map(|remote| remote.namespace.clone()),
        }
    }

    /// The same for another namespace. What is known of it has a file of its own, beside the one of `self`.
    pub(crate) fn in_namespace(&self, other: &str) -> Self {
        let mut kind = self.clone();
        if let Self::Mesh { root, .. } = &mut kind {
            *root = super::announcer::path(&[other]);
        }
        if let Self::Namerd { remote, .. } | Self::NamerdHttp { remote, .. } | Self::Mesh { remote, .. } = &mut kind {
            other.clone_into(&mut remote.namespace);
            if let Some(snapshot) = &mut remote.snapshot {
                snapshot.file.as_mut_os_string().push(format!(".{other}"));
            }
        }
        kind
    }
}

impl Decode for PerRequestNamespace {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "perRequestNamespace")?;
        let header: Option<HeaderName> = s.require("header");
        if let Some(HeaderName(header)) = header.as_ref().filter(|header| header.0.starts_with(':')) {
            s.problem("header", format!("must not be a pseudo-header, got {header}"));
        }
        let allow = s.require_with("allow", |at| at.list(namespace));
        if let Some(count) = allow.as_ref().map(Vec::len).filter(|count| !(1..=MAX_NAMESPACES).contains(count)) {
            s.problem("allow", format!("must have from 1 to {MAX_NAMESPACES} namespaces, got {count}"));
        }
        s.finish();
        Some(Self { header: header?, allow: allow? })
    }
}

/// A namespace that a file name may end with.
fn namespace(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=100).contains(&text.len()) && text.bytes().all(is_plain) && text.bytes().any(|byte| byte != b'.') {
        Some(text.to_owned())
    } else {
        at.expected("a namespace of at most 100 letters, digits, '-', '_' and '.'")
    }
}

impl Decode for SnapshotFile {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "snapshot")?;
        let file: Option<String> = s.require("file");
        let max_age = s.seconds("maxAgeSeconds", 1).unwrap_or(Duration::from_hours(24));
        s.finish();
        Some(Self { file: file?.into(), max_age })
    }
}

impl Decode for NamerdTls {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "namerd tls")?;
        let common_name = s.require("commonName");
        let ca_cert = s.get("caCert");
        s.finish();
        Some(Self { common_name: common_name?, ca_cert })
    }
}
