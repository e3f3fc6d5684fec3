//! Linkerd 1.x's configuration file: from YAML or JSON to checked, typed values.
//!
//! ```text
//! text ──► tree of nodes with places ──► sections ──► Config
//!  yaml.rs, json.rs      node.rs          decode.rs    router.rs, server.rs, ...
//! ```
//!
//! Every key of Linkerd 1.7.5 is known here with its type, range and default; the few keys that Linkerd does not have
//! say so. All problems of a file are found at once, and each names file, line, column and key:
//!
//! ```
//! use linkerd_core::config::Config;
//!
//! let errors = Config::parse("linkerd.yaml", "
//! routers:
//! - protocol: http
//!   lable: web
//!   servers:
//!   - port: 70000
//! ").unwrap_err();
//! assert_eq!(errors.to_string(), "\
//! linkerd.yaml:4:3: routers[0].lable: unknown key; did you mean `label`?
//! linkerd.yaml:6:11: routers[0].servers[0].port: must be 0..65535, got 70000");
//! ```
//!
//! A file may use what is not built yet: that is a question of its own, answered by [`check_supported`].
//!
//! # Rules
//!
//! - A file that begins with `{` is JSON, any other is YAML. It holds one document, at most 4 MiB, nested at most 64
//!   deep, and at most 100,000 values once aliases are expanded. Merge keys (`<<`) are refused.
//! - A key that stands twice, is unknown, or has a value of another type or out of range is an error.
//! - A key without a value counts as absent.
//! - A number may be quoted, `yes`, `no`, `on` and `off` are booleans, and text may look like a number.
//! - Files and directories that are named have to exist, but for logs. Relative names are relative to the working
//!   directory. Nothing is opened, bound or resolved.

mod access_log;
mod accrual;
mod admin;
mod announcer;
mod balancer;
mod balancing;
mod build;
mod classifier;
mod client;
mod conflict;
mod consul;
mod decode;
mod error;
mod hash_on;
mod hedge;
mod hint;
mod identifier;
mod interpreter;
mod json;
mod life;
mod limit;
mod load;
mod name;
mod namer;
#[cfg(feature = "namerd")]
pub mod namerd;
mod node;
mod probe;
mod render;
mod retries;
mod router;
mod scoped;
mod server;
mod service;
mod set;
mod telemeter;
mod timers;
mod tls;
mod transformer;
mod unsupported;
mod value;
mod yaml;

use std::{fs, io, path::Path, sync::Arc};

use linkerd_retry::replay::ReplayMemory;

pub use access_log::{AccessLog, RollPolicy};
pub use accrual::{AccrualKind, FailureAccrual};
pub use admin::{Admin, AdminSecurity, Usage};
pub use announcer::{Announcer, ZkAddr};
pub use balancer::{ApertureOrder, BalancerKind, LoadBalancer};
#[cfg(feature = "namerd")]
pub(crate) use build::BuiltNamers;
pub use build::{Namerds, Plan, RouterPlan, socket_options};
pub use classifier::{Classifier, GrpcRetry};
pub use client::{Client, H2Settings, HostConnectionPool, RequestAuthorizer, Session};
pub use consul::ConsulAgent;
pub use error::{Errors, Position, Problem};
pub use hash_on::HashOn;
pub use identifier::{H2Identifier, HttpIdentifier, IngressIdentifier, IstioIdentifier};
pub use interpreter::{
    ConsulInterpreter, Interpreter, InterpreterKind, NamerdTls, PerRequestNamespace, Remote, SnapshotFile,
};
pub use life::{Reload, Shutdown};
pub use load::{LoadMetric, Measure};
pub use namer::{ConsistencyMode, Consul, HealthStatus, K8s, Marathon, Namer, NamerKind, TagWeight};
pub use probe::{Probe, ProbeKind};
pub use retries::{Backoff, Budget, Retries};
pub use router::{
    BindingCache, H2Router, HttpRouter, Protocol, ProtocolKind, Router, ThriftProtocol, ThriftRouter, TracePropagator,
};
pub use scoped::Scoped;
pub use server::{AddForwardedHeader, Labeler, PerRequest, Server, SocketOptions};
pub use service::{RetryBufferSize, Service, TotalTimeout};
pub use set::{Panic, PanicMode, SlowStart, Zones};
pub use telemeter::{LogLevel, Telemeter, TelemeterKind};
pub use timers::{TimerSetting, TimerSource};
pub use tls::{ClientTls, ServerTls, TlsIdentity};
pub use transformer::{Transformer, TransformerKind};
pub use unsupported::{NOT_BUILT, check_supported};
pub use value::{Directory, File, HeaderName, Pattern};

use conflict::{Claims, Listener};
use decode::{At, Cx, Decode, Section};
pub use node::MAX_BYTES;

use node::{Malformed, Node};

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `routers`, at least one, each with a label and servers of its own.
    pub routers: Vec<Router>,
    /// `namers`. Default: none. The last one is asked first.
    pub namers: Vec<Namer>,
    /// `telemetry`. Default: none.
    pub telemetry: Vec<Telemeter>,
    /// `admin`.
    pub admin: Admin,
    /// `usage`: accepted, nothing is sent.
    pub usage: Usage,
    /// `retryBufferBytes`: how much all bodies of the process together may keep, to be sent again. Default: 64 MiB.
    ///
    /// Not a key of Linkerd 1.x.
    pub retry_buffer_bytes: usize,
    /// `shutdown`: what comes before the end.
    pub shutdown: Shutdown,
    /// `reload`: how the file is followed.
    pub reload: Reload,
    /// `workers`: how many threads serve requests, from 1 to 1024. Default: one for each processor that the process may use.
    pub workers: Option<usize>,
    file: Arc<str>,
    tree: Node,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, or why it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Errors> {
        let (file, bytes) = read(path.as_ref())?;
        Self::parse_bytes(&file, &bytes)
    }

    /// Checks the bytes of a file; `file` is what problems call it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<Self, Errors> {
        Self::parse(file, text(file, bytes)?)
    }

    /// Checks the text of a file; `file` is what problems call it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it. If it is not even YAML or JSON, where that ends.
    pub fn parse(file: &str, text: &str) -> Result<Self, Errors> {
        let (sections, tree) = parse(file, text, Sections::decode)?;
        let Sections { routers, namers, telemetry, admin, usage, retry_buffer_bytes, shutdown, reload, workers } =
            sections;
        let file = file.into();
        Ok(Self { routers, namers, telemetry, admin, usage, retry_buffer_bytes, shutdown, reload, workers, file, tree })
    }

    /// The name of the file, as it was loaded.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file as JSON, for `/config.json`: what it says, without defaults.
    ///
    /// As in Linkerd 1.x, secrets (Consul's `token`) are shown as they are: the admin port is for operators.
    pub fn to_json(&self) -> serde_json::Value {
        render::to_json(&self.tree)
    }

    /// What is accepted but worth a warning at start-up: deprecated keys, and keys without effect.
    pub fn warnings(&self) -> Vec<Problem> {
        unsupported::notices(self)
    }

    /// A problem that was found later, at the place of `key` (`routers[0].servers[1].port`), or of the nearest key
    /// above it that is in the file.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let mut node = &self.tree;
        for step in key.split(['.', '[']) {
            let index = step.strip_suffix(']').and_then(|i| i.parse::<usize>().ok());
            let next = match (index, &node.value) {
                (Some(i), node::Value::List(items)) => items.get(i),
                _ => node.get(step),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        Problem { file: self.file.clone(), position: Some(node.at), key: key.to_owned(), message: message.into() }
    }
}

/// The name of a file, and what is in it.
fn read(path: &Path) -> Result<(String, Vec<u8>), Errors> {
    let unreadable = |e: io::Error| Errors::unreadable(path, &e);
    let file = path.display().to_string();
    // A directory or a device would otherwise give a puzzling error, or none at all.
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Problem::of_file(&file, format!("config is not a file: {file}")).into());
    }
    if meta.len() > MAX_BYTES as u64 {
        return Err(Problem::of_file(&file, too_large(meta.len())).into());
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    Ok((file, bytes))
}

/// The bytes of a file as text.
fn text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Errors> {
    std::str::from_utf8(bytes).map_err(|e| {
        let before = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
        let line = before.split('\n').count();
        Problem::of_file(file, format!("is not UTF-8: line {line} holds other bytes")).into()
    })
}

/// What a text says, by `decode`, and its tree.
fn parse<T>(file: &str, text: &str, decode: impl FnOnce(&At<'_>) -> Option<T>) -> Result<(T, Node), Errors> {
    if text.len() > MAX_BYTES {
        return Err(Problem::of_file(file, too_large(text.len() as u64)).into());
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let cx = Cx::new(file);
    let mut repeated = Vec::new();
    let parse = if text.trim_start().starts_with('{') { json::parse } else { yaml::parse };
    let parsed = parse(text, &mut repeated);
    for Malformed { at, message } in repeated {
        cx.record(at, String::new(), message);
    }
    let tree = match parsed {
        Ok(tree) => tree,
        Err(Malformed { at, message }) => {
            cx.record(at, String::new(), message);
            return Err(failed(cx));
        }
    };
    let decoded = decode(&At::root(&cx, &tree));
    match (Errors::from_problems(cx.into_problems()), decoded) {
        (None, Some(decoded)) => Ok((decoded, tree)),
        (Some(errors), _) => Err(errors),
        (None, None) => Err(Problem::of_file(file, "is not a configuration").into()),
    }
}

fn too_large(len: u64) -> String {
    format!("is too large: {len} bytes, of at most {MAX_BYTES}")
}

fn failed(cx: Cx) -> Errors {
    Errors::from_problems(cx.into_problems()).expect("a problem was recorded")
}

struct Sections {
    routers: Vec<Router>,
    namers: Vec<Namer>,
    telemetry: Vec<Telemeter>,
    admin: Admin,
    usage: Usage,
    retry_buffer_bytes: usize,
    shutdown: Shutdown,
    reload: Reload,
    workers: Option<usize>,
}

const NO_ROUTERS: &str = "At least one router must be specified in the configuration.";

impl Sections {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "file")?;
        let claims = Claims::default();
        let admin = s.with("admin", |at| {
            let admin = Admin::decode(at)?;
            claim_admin(at, &claims, &admin);
            Some(admin)
        });
        if !s.has("admin") {
            claim_admin(at, &claims, &Admin::default());
        }
        let given = s.has("routers");
        let routers = s.with("routers", |at| {
            let routers = at.list(|at| Router::decode(at, &claims))?;
            if matches!(&at.node.value, node::Value::List(items) if items.is_empty()) {
                at.problem(NO_ROUTERS);
            }
            Some(routers)
        });
        if !given {
            at.problem(NO_ROUTERS);
        }
        let sections = Self {
            routers: routers.unwrap_or_default(),
            namers: s.or("namers", Vec::new()),
            telemetry: s.or("telemetry", Vec::new()),
            admin: admin.unwrap_or_default(),
            usage: s.or("usage", Usage::default()),
            retry_buffer_bytes: s.size("retryBufferBytes", 0).unwrap_or(ReplayMemory::DEFAULT),
            shutdown: s.or("shutdown", Shutdown::default()),
            reload: s.or("reload", Reload::default()),
            workers: s.int("workers", 1..=life::MAX_WORKERS).map(|n| n as usize),
        };
        s.finish();
        Some(sections)
    }
}

fn claim_admin(at: &At<'_>, claims: &Claims, admin: &Admin) {
    let reuse_port = admin.socket_options.reuse_port;
    let listener = Listener { ip: admin.ip, port: admin.port, reuse_port, what: "the admin server", at: at.node.at };
    router::claim_port(at, claims, listener);
    if let Some(port) = admin.http_identifier_port {
        let what = "the identifier port";
        claims.port(at, Listener { ip: admin.ip, port, reuse_port, what, at: at.node.at });
    }
}
