//! The entries of `routers`.

use std::time::Duration;

use linkerd_dtab::{Dtab, Path};

use super::{
    access_log::{AccessLog, H2_LOG, Keys},
    announcer::{Announcer, path},
    client::Client,
    conflict::{Claims, Listener},
    decode::{At, Decode, Section},
    identifier::{H2Identifier, HttpIdentifier, one_or_more},
    interpreter::{Interpreter, InterpreterKind},
    scoped::Scoped,
    server::Server,
    service::Service,
};
use crate::{
    http::{Propagation, TraceFormat},
    mesh::SWITCH_TIMEOUT,
};

/// One router: what listens, how requests are named, and how names are bound and talked to.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// `protocol` and the keys that it alone has. Required.
    pub protocol: Protocol,
    /// `label`: its name in metrics and logs, unique in the file. Default: the protocol's name.
    pub label: String,
    /// `servers`, at least one.
    pub servers: Vec<Server>,
    /// `service`: settings by logical name.
    pub service: Scoped<Service>,
    /// `client`: settings by bound name.
    pub client: Scoped<Client>,
    /// `dtab`. Default: empty.
    pub dtab: Dtab,
    /// `dstPrefix` of all names. Default: `/svc`.
    pub dst_prefix: Path,
    /// `interpreter`. Default: the kind `default`.
    pub interpreter: Interpreter,
    /// `announcers`. Default: none.
    pub announcers: Vec<Announcer>,
    /// `originator`: a gauge says that requests begin here. Default: false.
    pub originator: bool,
    /// `bindingTimeoutMs`: how long a request waits for its name to be bound, at least 1 ms. Default: 10 s.
    pub binding_timeout: Duration,
    /// `switchTimeoutMs`: how long a name whose rule has changed keeps its requests where they went, while nothing that it
    /// is newly bound to can be connected to. 0 changes at once. Default: 2 s.
    pub switch_timeout: Duration,
    /// `bindingCache`: how many bindings are kept.
    pub binding_cache: BindingCache,
    /// `experimental`: required to be true by thriftmux. Default: false.
    pub experimental: bool,
}

/// The `bindingCache` map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingCache {
    /// `paths`: logical names, at least 1. Default: 1000.
    pub paths: usize,
    /// `trees`: trees of bound names, at least 1. Default: 1000.
    pub trees: usize,
    /// `bounds`: bound names with residual paths, at least 1. Default: 1000.
    pub bounds: usize,
    /// `clients`: bound names, at least 1. Default: 1000.
    pub clients: usize,
    /// `idleTtlSecs`: how long one is kept unused, at least 1 s. Default: 600 s.
    pub idle_ttl: Duration,
}

/// A router's protocol without its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolKind {
    /// `http`: HTTP/1.0 and 1.1.
    Http,
    /// `h2`: HTTP/2.
    H2,
    /// `thrift`.
    Thrift,
    /// `mux`.
    Mux,
    /// `thriftmux` (experimental).
    ThriftMux,
}

/// A router's protocol and the keys that it alone has.
#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    /// `http`: HTTP/1.0 and 1.1.
    Http(HttpRouter),
    /// `h2`: HTTP/2.
    H2(H2Router),
    /// `thrift`.
    Thrift(ThriftRouter),
    /// `mux`.
    Mux,
    /// `thriftmux` (experimental).
    ThriftMux(ThriftRouter),
}

/// The keys of routers of protocol `http`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRouter {
    /// `identifier`: one, or several of which the first that knows a name decides. Default: `io.l5d.header.token`.
    pub identifiers: Vec<HttpIdentifier>,
    /// `httpAccessLog` and its relatives. Default: none.
    pub access_log: Option<AccessLog>,
    /// `maxHeadersKB`: of all headers together, at least 1. Default: 8.
    pub max_headers_kb: usize,
    /// `maxInitialLineKB`: of the request line, at least 1. Default: 4. What is above 64 has no effect.
    pub max_initial_line_kb: usize,
    /// `maxErrResponseKB`: of the body of an error made here, at least 1. Default: 5120.
    pub max_err_response_kb: usize,
    /// `streamingEnabled`. Default: true; false holds every body in memory until it is complete.
    pub streaming_enabled: bool,
    /// `aggregateUpToKB`: with `streamingEnabled: false`, a body that is longer is streamed after all. At least 1. Default:
    /// 131072, 128 MiB.
    ///
    /// Not a key of Linkerd 1.x, which holds whatever comes.
    pub aggregate_up_to_kb: usize,
    /// `streamAfterContentLengthKB`: longer bodies are streamed. Not with `streamingEnabled: false`. Default: 5.
    pub stream_after_content_length_kb: usize,
    /// `compressionLevel`: -1 compresses text, 0 nothing, 1 to 9 everything with this effort. Default: -1.
    ///
    /// Without the feature `compression` nothing is compressed, and a file that asks for 1 to 9 cannot be built.
    pub compression_level: i8,
    /// `preserveHeaderCase`: names of headers are passed on in the case that they came in. Default: true, as in Linkerd 1.x, of
    /// which it is no key; false passes them on in lower case, which takes less work.
    pub preserve_header_case: bool,
    /// `tracePropagator`. Default: `io.l5d.default`.
    pub trace_propagator: TracePropagator,
}

/// The keys of routers of protocol `h2`.
#[derive(Clone, Debug, PartialEq)]
pub struct H2Router {
    /// `identifier`: one, or several of which the first that knows a name decides. Default: `io.l5d.header.token`.
    pub identifiers: Vec<H2Identifier>,
    /// `h2AccessLog` and its relatives. Default: none.
    pub access_log: Option<AccessLog>,
    /// `maxInitialLineKB`: of the request line, or what would be one, at least 1. Default: a server's `maxHeaderListBytes`. What
    /// is above 64 has no effect.
    ///
    /// Not a key of Linkerd 1.x, in routers of this protocol.
    pub max_initial_line_kb: Option<usize>,
    /// `tracePropagator`. Default: `io.l5d.default`.
    pub trace_propagator: TracePropagator,
}

/// The keys of routers of protocol `thrift` and `thriftmux`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThriftRouter {
    /// `thriftProtocol`. Default: `binary`.
    pub thrift_protocol: ThriftProtocol,
    /// `thriftMethodInDst`: names hold the method. Default: false.
    pub thrift_method_in_dst: bool,
}

/// How thrift messages are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThriftProtocol {
    /// `binary`.
    #[default]
    Binary,
    /// `compact`.
    Compact,
}

/// How traces are carried from hop to hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TracePropagator {
    /// `io.l5d.default`: `l5d-ctx-trace`.
    #[default]
    Default,
    /// `io.l5d.zipkin`: `x-b3-*`.
    Zipkin,
    /// `io.l5d.formats`, which Linkerd 1 does not have: these are read, the first first, and those are written.
    Formats {
        /// `read`. Default: `w3c`, `b3`, `b3single`, `l5d`.
        read: Vec<TraceFormat>,
        /// `write`, at least one. Required.
        write: Vec<TraceFormat>,
    },
}

impl Default for BindingCache {
    fn default() -> Self {
        Self { paths: 1000, trees: 1000, bounds: 1000, clients: 1000, idle_ttl: Duration::from_mins(10) }
    }
}

impl Default for HttpRouter {
    fn default() -> Self {
        Self {
            identifiers: vec![HttpIdentifier::default()],
            access_log: None,
            max_headers_kb: 8,
            max_initial_line_kb: 4,
            max_err_response_kb: 5120,
            streaming_enabled: true,
            aggregate_up_to_kb: 128 * 1024,
            stream_after_content_length_kb: 5,
            compression_level: -1,
            preserve_header_case: true,
            trace_propagator: TracePropagator::Default,
        }
    }
}

impl Default for H2Router {
    fn default() -> Self {
        Self {
            identifiers: vec![H2Identifier::default()],
            access_log: None,
            max_initial_line_kb: None,
            trace_propagator: TracePropagator::Default,
        }
    }
}

impl ProtocolKind {
    /// The protocol's name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::H2 => "h2",
            Self::Thrift => "thrift",
            Self::Mux => "mux",
            Self::ThriftMux => "thriftmux",
        }
    }

    /// The port of a server that says none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 4140,
            Self::H2 => 4142,
            Self::Thrift => 4114,
            Self::Mux => 4141,
            Self::ThriftMux => 4144,
        }
    }
}

impl Protocol {
    /// The protocol without its keys.
    pub fn kind(&self) -> ProtocolKind {
        match self {
            Self::Http(_) => ProtocolKind::Http,
            Self::H2(_) => ProtocolKind::H2,
            Self::Thrift(_) => ProtocolKind::Thrift,
            Self::Mux => ProtocolKind::Mux,
            Self::ThriftMux(_) => ProtocolKind::ThriftMux,
        }
    }
}

impl Router {
    pub(super) fn decode(at: &At<'_>, claims: &Claims) -> Option<Self> {
        let mut s = Section::open(at, "router")?;
        let kind = protocol_kind(&mut s)?;
        let label = s.get("label").unwrap_or_else(|| kind.name().to_owned());
        claim_label(&mut s, claims, &label);
        let servers = servers(&mut s, kind, claims, &label);
        let service = s.with("service", |at| Scoped::decode(at, kind)).unwrap_or_default();
        let client = s.with("client", |at| Scoped::decode(at, kind)).unwrap_or_default();
        let dtab = s.or("dtab", Dtab::default());
        let dst_prefix = s.get("dstPrefix").unwrap_or_else(|| path(&["svc"]));
        let interpreter = s.or("interpreter", Interpreter::default());
        claim_snapshots(&mut s, claims, &label, &interpreter.kind);
        let announcers = s.or("announcers", Vec::new());
        let originator = s.or("originator", false);
        let binding_timeout = s.millis("bindingTimeoutMs", 1).unwrap_or(Duration::from_secs(10));
        let switch_timeout = s.millis("switchTimeoutMs", 0).unwrap_or(SWITCH_TIMEOUT);
        let binding_cache = s.or("bindingCache", BindingCache::default());
        let experimental = s.or("experimental", false);
        if kind == ProtocolKind::ThriftMux && !experimental {
            at.experimental("The thriftmux protocol", " on each router");
        }
        let protocol = match kind {
            ProtocolKind::Http => Protocol::Http(HttpRouter::decode(&mut s)),
            ProtocolKind::H2 => Protocol::H2(H2Router::decode(&mut s)),
            ProtocolKind::Thrift => Protocol::Thrift(ThriftRouter::decode(&mut s)),
            ProtocolKind::Mux => Protocol::Mux,
            ProtocolKind::ThriftMux => Protocol::ThriftMux(ThriftRouter::decode(&mut s)),
        };
        s.finish();
        Some(Self {
            protocol,
            label,
            servers,
            service,
            client,
            dtab,
            dst_prefix,
            interpreter,
            announcers,
            originator,
            binding_timeout,
            switch_timeout,
            binding_cache,
            experimental,
        })
    }
}

fn protocol_kind(s: &mut Section<'_>) -> Option<ProtocolKind> {
    let name = s.kind("protocol", &["http", "h2", "thrift", "mux", "thriftmux"], None)?;
    Some(match name {
        "http" => ProtocolKind::Http,
        "h2" => ProtocolKind::H2,
        "thrift" => ProtocolKind::Thrift,
        "mux" => ProtocolKind::Mux,
        _ => ProtocolKind::ThriftMux,
    })
}

fn claim_label(s: &mut Section<'_>, claims: &Claims, label: &str) {
    let claimed = s.with("label", |at| {
        claims.label(at, label);
        Some(())
    });
    if claimed.is_none() {
        claims.label(s.at(), label);
    }
}

fn claim_snapshots(s: &mut Section<'_>, claims: &Claims, label: &str, kind: &InterpreterKind) {
    let file = |kind: &InterpreterKind| kind.remote()?.snapshot.as_ref().map(|snapshot| snapshot.file.clone());
    let Some(own) = file(kind) else { return };
    let others = kind.remote().and_then(|remote| remote.per_request_namespace.as_ref());
    let others = others.into_iter().flat_map(|others| &others.allow);
    let files: Vec<_> = others.filter_map(|other| file(&kind.in_namespace(other))).chain([own]).collect();
    s.with("interpreter", |at| {
        Section::open(at, "interpreter")?.with("snapshot", |at| {
            Section::open(at, "snapshot")?.with("file", |at| {
                claims.snapshots(at, label, files);
                Some(())
            })
        })
    });
}

fn servers(s: &mut Section<'_>, kind: ProtocolKind, claims: &Claims, label: &str) -> Vec<Server> {
    let read = |at: &At<'_>| {
        let server = Server::decode(at, kind)?;
        let listener = Listener {
            ip: server.ip,
            port: server.port,
            reuse_port: server.socket_options.reuse_port,
            what: "the server",
            at: at.node.at,
        };
        claim_port(at, claims, listener);
        Some(server)
    };
    let given = s.has("servers");
    let servers = s.with("servers", |at| {
        let servers = at.list(read)?;
        if matches!(&at.node.value, super::node::Value::List(items) if items.is_empty()) {
            at.problem(format!("router '{label}' has no servers"));
        }
        Some(servers)
    });
    if !given {
        s.problem("servers", format!("router '{label}' has no servers"));
    }
    servers.unwrap_or_default()
}

/// Takes the port of the map `at`, unless one was given that is not a port.
pub(super) fn claim_port(at: &At<'_>, claims: &Claims, listener: Listener) {
    let Some(mut s) = Section::open(at, "listener") else {
        return;
    };
    if s.has("port") {
        let port = listener.port;
        s.with("port", |at| (at.whole() == Some(i64::from(port))).then(|| claims.port(at, listener)));
    } else {
        claims.port(at, listener);
    }
}

const HTTP_LOG: Keys = Keys {
    file: "httpAccessLog",
    roll_policy: "httpAccessLogRollPolicy",
    append: "httpAccessLogAppend",
    format: "httpAccessLogFormat",
    rotate_count: "httpAccessLogRotateCount",
};

impl HttpRouter {
    fn decode(s: &mut Section<'_>) -> Self {
        let default = Self::default();
        let stream_after = s.size("streamAfterContentLengthKB", 0);
        let router = Self {
            identifiers: s.with("identifier", one_or_more).unwrap_or(default.identifiers),
            access_log: AccessLog::decode(s, HTTP_LOG),
            max_headers_kb: s.size("maxHeadersKB", 1).unwrap_or(default.max_headers_kb),
            max_initial_line_kb: s.size("maxInitialLineKB", 1).unwrap_or(default.max_initial_line_kb),
            max_err_response_kb: s.size("maxErrResponseKB", 1).unwrap_or(default.max_err_response_kb),
            streaming_enabled: s.or("streamingEnabled", true),
            aggregate_up_to_kb: s.size("aggregateUpToKB", 1).unwrap_or(default.aggregate_up_to_kb),
            stream_after_content_length_kb: stream_after.unwrap_or(default.stream_after_content_length_kb),
            compression_level: s.int("compressionLevel", -1..=9).map_or(default.compression_level, |n| n as i8),
            preserve_header_case: s.or("preserveHeaderCase", default.preserve_header_case),
            trace_propagator: s.or("tracePropagator", default.trace_propagator),
        };
        if !router.streaming_enabled && s.has("streamAfterContentLengthKB") {
            s.problem("streamAfterContentLengthKB", "cannot be set together with streamingEnabled: false");
        }
        if router.streaming_enabled && s.has("aggregateUpToKB") {
            s.problem("aggregateUpToKB", "has to be set together with streamingEnabled: false");
        }
        router
    }
}

impl H2Router {
    fn decode(s: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            identifiers: s.with("identifier", one_or_more).unwrap_or(default.identifiers),
            access_log: AccessLog::decode(s, H2_LOG),
            max_initial_line_kb: s.size("maxInitialLineKB", 1),
            trace_propagator: s.or("tracePropagator", default.trace_propagator),
        }
    }
}

impl ThriftRouter {
    fn decode(s: &mut Section<'_>) -> Self {
        let protocol = s.with("thriftProtocol", |at| match at.text()? {
            "binary" => Some(ThriftProtocol::Binary),
            "compact" => Some(ThriftProtocol::Compact),
            _ => at.expected("binary or compact"),
        });
        Self { thrift_protocol: protocol.unwrap_or_default(), thrift_method_in_dst: s.or("thriftMethodInDst", false) }
    }
}

impl Decode for TracePropagator {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "tracePropagator")?;
        let propagator = match s.kind("kind", &["io.l5d.default", "io.l5d.zipkin", "io.l5d.formats"], None)? {
            "io.l5d.zipkin" => Self::Zipkin,
            "io.l5d.formats" => Self::formats(&mut s),
            _ => Self::Default,
        };
        s.finish();
        Some(propagator)
    }
}

impl TracePropagator {
    fn formats(s: &mut Section<'_>) -> Self {
        const READ: [TraceFormat; 4] = [TraceFormat::W3c, TraceFormat::B3, TraceFormat::B3Single, TraceFormat::L5d];
        let read = s.with("read", formats).unwrap_or_else(|| READ.into());
        let write = s.require_with("write", |at| {
            let write = formats(at)?;
            if write.is_empty() {
                return at.expected("a list of at least one format");
            }
            Some(write)
        });
        Self::Formats { read, write: write.unwrap_or_default() }
    }

    /// What servers are told.
    pub(super) fn propagation(&self) -> Propagation {
        match self {
            Self::Default => Propagation::DEFAULT,
            Self::Zipkin => Propagation::ZIPKIN,
            // What is none was a problem of the file.
            Self::Formats { read, write } => Propagation::new(read, write).unwrap_or_default(),
        }
    }
}

/// A list of formats, each once.
fn formats(at: &At<'_>) -> Option<Vec<TraceFormat>> {
    let mut seen = Vec::new();
    at.list(|at| {
        let name = at.text()?;
        let Some(format) = TraceFormat::ALL.into_iter().find(|format| format.name() == name) else {
            return at.expected("l5d, b3, b3single or w3c");
        };
        if seen.contains(&format) {
            at.problem(format!("stands there twice: {name}"));
            return None;
        }
        seen.push(format);
        Some(format)
    })
}

impl Decode for BindingCache {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "bindingCache")?;
        let default = Self::default();
        let cache = Self {
            paths: s.size_or("paths", 1, default.paths),
            trees: s.size_or("trees", 1, default.trees),
            bounds: s.size_or("bounds", 1, default.bounds),
            clients: s.size_or("clients", 1, default.clients),
            idle_ttl: s.seconds_or("idleTtlSecs", 1, default.idle_ttl),
        };
        s.finish();
        Some(cache)
    }
}
