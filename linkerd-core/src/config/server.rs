//! The entries of `servers`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use linkerd_dtab::{Dtab, Path};

use super::{
    client::{H2Settings, Session},
    decode::{At, Decode, Section},
    router::ProtocolKind,
    tls::ServerTls,
    value::HeaderName,
};
use crate::http::{FlavourRule, MOST_HEADERS};

/// One server of a router: a port to listen on.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "the file has them")]
pub struct Server {
    /// `port`. Default by protocol: http 4140, h2 4142, thrift 4114, mux 4141, thriftmux 4144.
    pub port: u16,
    /// `ip`: the address to listen on. Default: loopback.
    pub ip: IpAddr,
    /// `label`: accepted, and visible nowhere, as in Linkerd 1.x.
    pub label: Option<String>,
    /// `tls`. Default: none, clear text.
    pub tls: Option<ServerTls>,
    /// `socketOptions` of the listening socket and of what it accepts.
    pub socket_options: SocketOptions,
    /// `maxConcurrentRequests`: more than these are rejected at once. At least 1. Default: unlimited.
    pub max_concurrent_requests: Option<usize>,
    /// `maxConnections` (http, h2): at so many open ones none is accepted until one ends. At least 1. Default: unlimited.
    ///
    /// Not a key of Linkerd 1.x.
    pub max_connections: Option<usize>,
    /// `maxHeaders` (http, h2): requests with more are answered with 431. From 1 to 16384. Default: over HTTP/1.1 100, or one
    /// for each 32 bytes of `maxHeadersKB` above 8; over HTTP/2 as many as fit in `maxHeaderListBytes`.
    ///
    /// Not a key of Linkerd 1.x.
    pub max_headers: Option<usize>,
    /// `headerReadTimeoutMs` (http, h2): how long the rest of a head may take once some of it has come; over HTTP/2 also what
    /// a connection begins with, and the rest of a frame. Default: 30 s; 0 is no limit.
    ///
    /// Not a key of Linkerd 1.x.
    pub header_read_timeout: Option<Duration>,
    /// `announce`: names under which to announce this server. Default: none.
    pub announce: Vec<Path>,
    /// `timeoutMs`: how long a request may take, until 503. Default: unlimited.
    pub timeout: Option<Duration>,
    /// `serverSession`: how long connections live.
    pub session: Session,
    /// `clearContext`: strip all `l5d-*` headers of requests and responses. Default: false.
    pub clear_context: bool,
    /// `perRequestPolicy` (http, h2): callers are trusted to say how long a request may take, how often it is retried, and
    /// that it matters more than others.
    /// Default: no, what says so is dropped; `{}` stands for its defaults.
    ///
    /// Not a key of Linkerd 1.x.
    pub per_request: Option<PerRequest>,
    /// `flavours` (http, h2): rules that are given to requests with a header, for them and all that they cause. Default: none.
    ///
    /// Not a key of Linkerd 1.x.
    pub flavours: Vec<FlavourRule>,
    /// `errorDetail` (http, h2): failures come with all that is known of them, in `l5d-err-json`. Default: false.
    ///
    /// Not a key of Linkerd 1.x.
    pub error_detail: bool,
    /// `addForwardedHeader` (http, h2). Default: none; `{}` stands for its defaults.
    pub add_forwarded_header: Option<AddForwardedHeader>,
    /// `timestampHeader` (http): a header to write the time of arrival to, in ms since 1970. Default: none.
    pub timestamp_header: Option<HeaderName>,
    /// `maxCallDepth` (http, h2): at most so many entries in `Via`. At least 1. Default: 1000.
    pub max_call_depth: usize,
    /// `upgrades` (http): forward `Upgrade` and tunnel after a 101. Default: true; false is Linkerd 1.7.5's way, where it
    /// goes no further.
    pub upgrades: bool,
    /// Window, frame and header sizes (h2).
    pub h2: H2Settings,
    /// `http1` (h2): clients may speak HTTP/1.1 too, on the same port. Default: false.
    ///
    /// Not a key of Linkerd 1.x.
    pub http1: bool,
    /// `maxConcurrentStreamsPerConnection` (h2): more are refused. At least 1. Default: 1000.
    pub max_concurrent_streams: u32,
    /// `maxPendingResets` (h2): a connection ends whose client has reset so many streams before they were looked at. At
    /// least 1. Default: 20.
    ///
    /// Not a key of Linkerd 1.x.
    pub max_pending_resets: usize,
    /// `maxErrorResets` (h2): a connection ends on which more than so many streams were reset for what its client did
    /// wrong. Default: 1024.
    ///
    /// Not a key of Linkerd 1.x.
    pub max_error_resets: usize,
    /// `thriftFramed` (thrift). Default: true.
    pub thrift_framed: bool,
}

/// The `socketOptions` map.
#[expect(clippy::struct_excessive_bools, reason = "options of the system, which are on or off")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// `noDelay`: `TCP_NODELAY`. Default: true.
    pub no_delay: bool,
    /// `reuseAddr`: `SO_REUSEADDR`. Default: true. Without effect in clients, as the next one and `backlog`.
    pub reuse_addr: bool,
    /// `reusePort`: `SO_REUSEPORT`. Default: false.
    pub reuse_port: bool,
    /// `writeTimeoutMs`: closes a connection on which a write takes longer. Default: unlimited.
    pub write_timeout: Option<Duration>,
    /// `readTimeoutMs`: closes a connection on which nothing is read for so long. Default: unlimited.
    pub read_timeout: Option<Duration>,
    /// `keepAlive`: `SO_KEEPALIVE`, with probes after 10 seconds of silence. Default: true, where Linkerd 1.x leaves it to
    /// the system.
    pub keep_alive: bool,
    /// `userTimeoutMs`: closes a connection on which something that was sent is not acknowledged for so long, on Linux.
    /// Default: 30 s; 0 leaves it to the system.
    ///
    /// Not a key of Linkerd 1.x.
    pub user_timeout: Option<Duration>,
    /// `backlog` of a listening socket, at least 1. Default: the system's.
    pub backlog: Option<u32>,
}

/// The `perRequestPolicy` map of a server: how far its callers may go.
///
/// ```yaml
/// perRequestPolicy:
///   maxTimeoutMs: 30000
///   maxRetries: 5
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerRequest {
    /// `maxTimeoutMs`: the longest timeout, at least 1 ms. Default: 60 s.
    pub max_timeout: Duration,
    /// `maxRetries`: the most retries. Default: 10.
    pub max_retries: u32,
    /// `criticality`: whether they may say that a request is `critical_plus`. Default: true.
    pub criticality: bool,
}

/// The `addForwardedHeader` map of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddForwardedHeader {
    /// `by`: how this side is called. Default: `requestRandom`.
    pub by: Labeler,
    /// `for`: how the other side is called. Default: `requestRandom`.
    pub for_: Labeler,
}

/// What stands for an address in `Forwarded`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labeler {
    /// `ip`: the address.
    Ip,
    /// `ip:port`: address and port.
    IpPort,
    /// `connectionRandom`: random, the same for all requests of a connection.
    ConnectionRandom,
    /// `requestRandom`: random.
    RequestRandom,
    /// `router`: the router's label.
    Router,
    /// `static`: the `label` given. Required.
    Static(String),
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            no_delay: true,
            reuse_addr: true,
            reuse_port: false,
            write_timeout: None,
            read_timeout: None,
            keep_alive: true,
            user_timeout: Some(Duration::from_secs(30)),
            backlog: None,
        }
    }
}

impl Default for PerRequest {
    fn default() -> Self {
        Self { max_timeout: Duration::from_mins(1), max_retries: 10, criticality: true }
    }
}

impl Default for AddForwardedHeader {
    fn default() -> Self {
        Self { by: Labeler::RequestRandom, for_: Labeler::RequestRandom }
    }
}

impl Server {
    pub(super) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

    /// A server with all defaults of its protocol.
    pub fn new(protocol: ProtocolKind) -> Self {
        Self {
            port: protocol.default_port(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            label: None,
            tls: None,
            socket_options: SocketOptions::default(),
            max_concurrent_requests: None,
            max_connections: None,
            max_headers: None,
            header_read_timeout: Some(Self::HEADER_READ_TIMEOUT),
            announce: Vec::new(),
            timeout: None,
            session: Session::default(),
            clear_context: false,
            per_request: None,
            flavours: Vec::new(),
            error_detail: false,
            add_forwarded_header: None,
            timestamp_header: None,
            max_call_depth: 1000,
            upgrades: true,
            http1: false,
            h2: H2Settings::default(),
            max_concurrent_streams: 1000,
            max_pending_resets: 20,
            max_error_resets: 1024,
            thrift_framed: true,
        }
    }

    /// The address to listen on.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    pub(super) fn decode(at: &At<'_>, protocol: ProtocolKind) -> Option<Self> {
        let mut s = Section::open(at, "server")?;
        let mut server = Self::new(protocol);
        server.port = s.or("port", server.port);
        server.ip = s.or("ip", server.ip);
        server.label = s.get("label");
        server.tls = s.get("tls");
        server.socket_options = s.or("socketOptions", server.socket_options);
        server.max_concurrent_requests = s.size("maxConcurrentRequests", 1);
        server.announce = s.or("announce", server.announce);
        server.timeout = s.millis("timeoutMs", 1);
        server.session = s.or("serverSession", server.session);
        server.clear_context = s.or("clearContext", false);
        if let ProtocolKind::Http | ProtocolKind::H2 = protocol {
            server.add_forwarded_header = s.get("addForwardedHeader");
            server.per_request = s.get("perRequestPolicy");
            server.flavours = s.with("flavours", |at| at.list(flavour)).unwrap_or_default();
            server.error_detail = s.or("errorDetail", false);
            if server.clear_context && server.per_request.is_some() {
                s.problem("perRequestPolicy", "excludes clearContext: a server trusts its callers, or it does not");
            }
            server.max_connections = s.size("maxConnections", 1);
            let headers = s.int("maxHeaders", 1..=i64::from(MOST_HEADERS));
            server.max_headers = headers.and_then(|headers| usize::try_from(headers).ok());
            server.header_read_timeout = match s.millis("headerReadTimeoutMs", 0) {
                None => server.header_read_timeout,
                Some(timeout) => Some(timeout).filter(|timeout| !timeout.is_zero()),
            };
            server.max_call_depth = s.size("maxCallDepth", 1).unwrap_or(server.max_call_depth);
        }
        match protocol {
            ProtocolKind::Http => {
                server.timestamp_header = s.with("timestampHeader", |at| {
                    let name = HeaderName::decode(at)?;
                    // `:path` is one in h2 alone.
                    if name.0.starts_with(':') { at.expected("the name of a header") } else { Some(name) }
                });
                server.upgrades = s.or("upgrades", true);
            }
            ProtocolKind::H2 => {
                server.h2 = H2Settings::decode(&mut s);
                server.http1 = s.or("http1", false);
                let streams = s.count("maxConcurrentStreamsPerConnection", 1);
                server.max_concurrent_streams = streams.unwrap_or(server.max_concurrent_streams);
                server.max_pending_resets = s.size("maxPendingResets", 1).unwrap_or(server.max_pending_resets);
                server.max_error_resets = s.size("maxErrorResets", 0).unwrap_or(server.max_error_resets);
            }
            ProtocolKind::Thrift | ProtocolKind::ThriftMux => {
                server.thrift_framed = s.or("thriftFramed", true);
            }
            ProtocolKind::Mux => {}
        }
        s.finish();
        Some(server)
    }
}

impl Decode for SocketOptions {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "socketOptions")?;
        let default = Self::default();
        let options = Self {
            no_delay: s.or("noDelay", default.no_delay),
            reuse_addr: s.or("reuseAddr", default.reuse_addr),
            reuse_port: s.or("reusePort", default.reuse_port),
            write_timeout: s.millis("writeTimeoutMs", 1),
            read_timeout: s.millis("readTimeoutMs", 1),
            keep_alive: s.or("keepAlive", default.keep_alive),
            user_timeout: match s.millis("userTimeoutMs", 0) {
                None => default.user_timeout,
                Some(timeout) => Some(timeout).filter(|timeout| !timeout.is_zero()),
            },
            backlog: s.count("backlog", 1),
        };
        s.finish();
        Some(options)
    }
}

/// `{name, header, value, ttlMs, dtab}`
fn flavour(at: &At<'_>) -> Option<FlavourRule> {
    let mut s = Section::open(at, "flavour")?;
    let name = s.require::<String>("name");
    let header = s.require_with("header", |at| {
        let name = HeaderName::decode(at)?;
        name.0.parse::<http::HeaderName>().ok().or_else(|| at.expected("the name of a header"))
    });
    let value = s.with("value", |at| {
        let text = at.text()?;
        http::HeaderValue::from_str(text).ok().or_else(|| at.expected("the value of a header"))
    });
    let ttl = s.millis("ttlMs", 1000).unwrap_or(Duration::from_mins(1));
    let dtab = s.require::<Dtab>("dtab");
    let rule = name.zip(header).zip(dtab).and_then(|((name, header), dtab)| {
        let rule = FlavourRule::new(&name, header, value, dtab, ttl);
        rule.map_err(|error| s.problem("name", error.to_string())).ok()
    });
    s.finish();
    rule
}

impl Decode for PerRequest {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "perRequestPolicy")?;
        let default = Self::default();
        let policy = Self {
            max_timeout: s.millis("maxTimeoutMs", 1).unwrap_or(default.max_timeout),
            max_retries: s.count("maxRetries", 0).unwrap_or(default.max_retries),
            criticality: s.or("criticality", default.criticality),
        };
        s.finish();
        Some(policy)
    }
}

impl Decode for AddForwardedHeader {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "addForwardedHeader")?;
        let default = Self::default();
        let header = Self { by: s.or("by", default.by), for_: s.or("for", default.for_) };
        s.finish();
        Some(header)
    }
}

impl Decode for Labeler {
    fn decode(at: &At<'_>) -> Option<Self> {
        const KINDS: [&str; 6] = ["ip", "ip:port", "connectionRandom", "requestRandom", "router", "static"];
        let mut s = Section::open(at, "labeler")?;
        let labeler = match s.kind("kind", &KINDS, None)? {
            "ip" => Self::Ip,
            "ip:port" => Self::IpPort,
            "connectionRandom" => Self::ConnectionRandom,
            "requestRandom" => Self::RequestRandom,
            "router" => Self::Router,
            _ => Self::Static(s.require("label").unwrap_or_default()),
        };
        s.finish();
        Some(labeler)
    }
}
