//! From a checked file to the engine: one mesh and one set of servers for each router.
//!
//! Sections are taken apart field by field, so that a new key is built, refused or dropped by a decision: what stands as
//! `_` is refused by [`check_supported`], warned of, belongs to another protocol, or says why it does nothing.

use std::{net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

use linkerd_dtab::{
    Dtab, Interpreter as Interprets, Namer as Names, Path,
    interpreter::{Local, fs::DtabFile},
    namer::{self, Resolve, fs, inet::Inet},
    transformer::{self, TransformedInterpreter, TransformedNamer, Transformer as Transforms},
};
use linkerd_retry::{Backoff as RetryBackoff, Budget as RetryBudget, BudgetSettings, replay::ReplayMemory};

use serde_json::json;

#[cfg(feature = "tls")]
use super::tls::Connectors;
use super::{
    AddForwardedHeader, Backoff, BindingCache, Budget, Classifier, Client, Config, Errors, H2Identifier, H2Router,
    H2Settings, HostConnectionPool, HttpIdentifier, HttpRouter, Interpreter, InterpreterKind, Labeler, Namer,
    NamerKind, Problem, Protocol, Retries, RollPolicy, Router, Scoped, Server, Service, Session, Transformer,
    TransformerKind, balancing, check_supported, router::ProtocolKind,
};
#[cfg(feature = "tls")]
use crate::tls::{self, Alpn};
use crate::{
    CacheSettings, ClientPolicy, Mesh, Policies, ServicePolicy,
    access_log::{AccessLog, AccessLogSettings, Roll},
    http::{
        self, ClientConfig, Forwarded, ForwardedLabel, H2Config, HttpConnect, PerRequest, PoolConfig, Propagation,
        ServerConfig, SocketOptions, respond::ErrorLimits,
    },
    identify::{self, Identifier},
    telemetry::{Registry, RouterStats},
};

/// A file that was built: everything but the sockets is there.
pub struct Plan {
    /// The routers, in the order of the file.
    pub routers: Vec<RouterPlan>,
    /// The fs namers, by the prefix that each is mounted at.
    pub fs_namers: Vec<(Path, fs::Namer)>,
    /// Binds names with the system namers alone, for explanations outside of any router.
    pub system: Arc<dyn Interprets>,
}

/// One router, before it listens.
pub struct RouterPlan {
    /// Its label.
    pub label: String,
    /// The table that its names are bound under, but for what an interpreter has of its own.
    pub dtab: Dtab,
    /// Binds its names.
    pub interpreter: Arc<dyn Interprets>,
    /// Its names, bindings and clients.
    pub mesh: Mesh,
    /// Names its requests.
    pub identifier: Arc<dyn Identifier>,
    /// Sends each request where its identifier says.
    pub client: crate::Client,
    /// What is to listen, and how.
    pub servers: Vec<ServerConfig>,
    /// Where its requests are logged.
    pub access_log: Option<AccessLog>,
}

/// The policies of a router, as its file has them.
#[derive(Debug)]
struct FilePolicies {
    service: Scoped<Service>,
    client: Scoped<Client>,
    wire: Wire,
    memory: ReplayMemory,
    #[cfg(feature = "tls")]
    connectors: Connectors,
}

/// What the servers and the clients of a router have in common.
#[derive(Clone, Copy, Debug)]
struct Wire {
    max_header_bytes: usize,
    max_initial_line_bytes: usize,
    max_error_bytes: usize,
    aggregate_up_to: usize,
    propagation: Propagation,
    aggregate_unknown: bool,
    #[cfg(feature = "compression")]
    compression: crate::http::Compression,
    protocol: ProtocolKind,
}

impl Config {
    /// Builds everything but the sockets. Inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Everything that the file uses and that is not built yet, or cannot be built.
    pub fn build(&self, registry: &Registry) -> Result<Plan, Errors> {
        if let Some(errors) = Errors::from_problems(check_supported(self)) {
            return Err(errors);
        }
        let resolve: Arc<dyn Resolve> = Arc::new(Inet::default());
        let system: Arc<dyn Interprets> = Arc::new(Local::new(Vec::new(), Arc::clone(&resolve)));
        let memory = ReplayMemory::default();
        if self.keeps_streams() {
            show(&memory, registry);
        }
        let mut builder =
            Builder { config: self, registry, memory, resolve, fs_namers: Vec::new(), problems: Vec::new() };
        let namers = builder.namers();
        let routers: Vec<_> =
            self.routers.iter().enumerate().filter_map(|(i, router)| builder.router(i, router, &namers)).collect();
        match Errors::from_problems(builder.problems) {
            Some(errors) => Err(errors),
            None => Ok(Plan { routers, fs_namers: builder.fs_namers, system }),
        }
    }

    /// Whether any service keeps bodies that stream.
    fn keeps_streams(&self) -> bool {
        let keeps = |router: &Router| {
            let protocol = router.protocol.kind();
            // Without settings there is no service, and the defaults hold.
            let default = Service::default().request_buffer_bytes(protocol);
            let mut services = router.service.iter();
            default > 0
                || services.any(|(_, service)| {
                    let kept = service.retries.buffer_bytes;
                    kept.unwrap_or_else(|| service.request_buffer_bytes(protocol)) > 0
                })
        };
        self.routers.iter().any(keeps)
    }
}

/// A transformer with a prefix of its own, if the file gives it one.
macro_rules! prefixed {
    ($built:expr, $prefix:expr) => {
        match $prefix {
            Some(prefix) => Arc::new($built.with_prefix(prefix)) as Arc<dyn Transforms>,
            None => Arc::new($built) as Arc<dyn Transforms>,
        }
    };
}

struct Builder<'a> {
    config: &'a Config,
    registry: &'a Registry,
    memory: ReplayMemory,
    resolve: Arc<dyn Resolve>,
    fs_namers: Vec<(Path, fs::Namer)>,
    problems: Vec<Problem>,
}

/// Namers in order of preference, each with the prefix that it is mounted at.
type Mounted = Vec<(Path, Arc<dyn Names>)>;

impl Builder<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(self.config.problem(key, message));
    }

    /// The file's namers, the last one first: it is asked first.
    fn namers(&mut self) -> Mounted {
        let mut mounted = Mounted::new();
        for (i, namer) in self.config.namers.iter().enumerate() {
            if let Some((prefix, built)) = self.namer(i, namer, &mounted) {
                mounted.insert(0, (prefix, built));
            }
        }
        mounted
    }

    fn namer(&mut self, i: usize, namer: &Namer, before: &Mounted) -> Option<(Path, Arc<dyn Names>)> {
        // Whether it had to be `experimental` was checked.
        let Namer { prefix, experimental: _, transformers, kind } = namer;
        let prefix = under("#", prefix);
        let built: Arc<dyn Names> = match kind {
            NamerKind::Fs { root_dir } => {
                let fs = fs::Namer::new(&root_dir.0).with_resolver(Arc::clone(&self.resolve));
                self.fs_namers.push((prefix.clone(), fs.clone()));
                Arc::new(fs)
            }
            NamerKind::Rewrite { pattern, name } => Arc::new(namer::rewrite::Namer::new(pattern.pattern(), name)),
            _ => {
                self.problem(&format!("namers[{i}].kind"), "is not supported yet");
                return None;
            }
        };
        if transformers.is_empty() {
            return Some((prefix, built));
        }
        // A constant is bound by the other namers, without any table.
        let global: Arc<dyn Interprets> = Arc::new(Local::new(before.clone(), Arc::clone(&self.resolve)));
        let key = format!("namers[{i}].transformers");
        let transformers = self.transformers(&key, transformers, &global)?;
        Some((prefix.clone(), Arc::new(TransformedNamer::new(prefix, built, transformers))))
    }

    fn transformers(
        &mut self,
        key: &str,
        transformers: &[Transformer],
        global: &Arc<dyn Interprets>,
    ) -> Option<Vec<Arc<dyn Transforms>>> {
        let mut built: Vec<Arc<dyn Transforms>> = Vec::new();
        for (i, Transformer { prefix, kind }) in transformers.iter().enumerate() {
            let key = format!("{key}[{i}]");
            let one: Arc<dyn Transforms> = match kind {
                TransformerKind::Port { port } => {
                    let Some(port) = NonZeroU16::new(*port) else {
                        self.problem(&format!("{key}.port"), "must be from 1 to 65535, got 0");
                        return None;
                    };
                    prefixed!(transformer::Port::new(port), prefix)
                }
                TransformerKind::Localhost => match transformer::Localhost::new() {
                    Ok(localhost) => prefixed!(localhost, prefix),
                    Err(error) => {
                        self.problem(&key, format!("the addresses of this host are unknown: {error}"));
                        return None;
                    }
                },
                TransformerKind::SpecificHost { host } => {
                    prefixed!(transformer::SpecificHost::new(*host), prefix)
                }
                TransformerKind::Const { path } => {
                    prefixed!(transformer::Const::new(path.clone(), Arc::clone(global)), prefix)
                }
                TransformerKind::Replace { path } => {
                    prefixed!(transformer::Replace::new(path.clone(), Arc::clone(global)), prefix)
                }
                TransformerKind::LocalNode { .. } | TransformerKind::DaemonSet { .. } => {
                    self.problem(&format!("{key}.kind"), "is not supported yet");
                    return None;
                }
            };
            built.push(one);
        }
        Some(built)
    }

    fn interpreter(&mut self, i: usize, router: &Router, namers: &Mounted) -> Option<Arc<dyn Interprets>> {
        // Whether it had to be `experimental` was checked.
        let Interpreter { experimental: _, transformers, kind } = &router.interpreter;
        let local = Local::new(namers.clone(), Arc::clone(&self.resolve));
        let global: Arc<dyn Interprets> = Arc::new(local.clone());
        let bare: Arc<dyn Interprets> = match kind {
            InterpreterKind::Default => Arc::clone(&global),
            InterpreterKind::Fs { dtab_file } => Arc::new(local.with_dtab(DtabFile::watch(&dtab_file.0))),
            _ => {
                self.problem(&format!("routers[{i}].interpreter.kind"), "is not supported yet");
                return None;
            }
        };
        if transformers.is_empty() {
            return Some(bare);
        }
        let key = format!("routers[{i}].interpreter.transformers");
        let transformers = self.transformers(&key, transformers, &global)?;
        Some(Arc::new(TransformedInterpreter::new(bare, transformers)))
    }

    fn router(&mut self, i: usize, router: &Router, namers: &Mounted) -> Option<RouterPlan> {
        let Router {
            protocol,
            label,
            servers,
            service,
            client,
            dtab,
            // Of the identifiers.
            dst_prefix: _,
            interpreter: _,
            announcers: _,
            originator,
            binding_timeout,
            binding_cache: BindingCache { paths, trees, bounds, clients, idle_ttl },
            // Only another protocol has to be.
            experimental: _,
        } = router;
        #[cfg(not(feature = "compression"))]
        if matches!(protocol, Protocol::Http(http) if http.compression_level > 0) {
            self.problem(&format!("routers[{i}].compressionLevel"), "is not supported: built without compression");
        }
        let interpreter = self.interpreter(i, router, namers)?;
        let (identifier, wire, access_log) = match protocol {
            Protocol::Http(http) => (self.identifiers(i, router, http)?, Wire::of(http), http.access_log.as_ref()),
            Protocol::H2(h2) => (self.h2_identifiers(i, router, h2)?, Wire::h2(h2), h2.access_log.as_ref()),
            Protocol::Thrift(_) | Protocol::Mux | Protocol::ThriftMux(_) => {
                self.problem(&format!("routers[{i}].protocol"), "is not supported yet");
                return None;
            }
        };
        let stats = RouterStats::new(self.registry, label);
        if *originator {
            stats.originator();
        }
        #[cfg(feature = "tls")]
        let connectors = self.connectors(i, client, protocol.kind());
        let log = match access_log {
            Some(settings) => Some(self.access_log(i, settings, &stats)?),
            None => None,
        };
        let mut mesh = Mesh::builder()
            .interpreter(Arc::clone(&interpreter))
            .dtab(dtab.clone())
            .policies(FilePolicies {
                service: service.clone(),
                client: client.clone(),
                wire,
                memory: self.memory.clone(),
                #[cfg(feature = "tls")]
                connectors,
            })
            .binding_timeout(*binding_timeout)
            .caches(CacheSettings {
                paths: *paths,
                trees: *trees,
                bounds: *bounds,
                clients: *clients,
                idle_ttl: *idle_ttl,
            })
            .metrics(stats.clone())
            .proxy(true);
        if let Some(log) = &log {
            mesh = mesh.access_log(log.clone());
        }
        let mesh = match mesh.build() {
            Ok(mesh) => mesh,
            Err(error) => {
                self.problem(&format!("routers[{i}]"), error.to_string());
                return None;
            }
        };
        let identifier: Arc<dyn Identifier> = Arc::new(identifier);
        let client = mesh.router(Arc::clone(&identifier));
        let grace = self.config.admin.shutdown_grace;
        let configs = servers
            .iter()
            .map(|server| ServerConfig { access_log: log.clone(), ..server_config(server, &wire, &stats, grace) });
        let configs = configs.collect();
        #[cfg(feature = "tls")]
        let configs = self.secure(i, servers, configs);
        Some(RouterPlan {
            label: label.clone(),
            dtab: dtab.clone(),
            interpreter,
            mesh,
            identifier,
            client,
            servers: configs,
            access_log: log,
        })
    }

    /// What makes the connections of a router's clients secure.
    #[cfg(feature = "tls")]
    fn connectors(&mut self, i: usize, client: &Scoped<Client>, protocol: ProtocolKind) -> Connectors {
        let alpn: &[_] = match protocol {
            ProtocolKind::H2 if client.iter().any(|(_, client)| client.http1 == Some(true)) => &[],
            ProtocolKind::H2 => &[Alpn::H2],
            _ => &[Alpn::Http1],
        };
        let Self { config, registry, problems, .. } = self;
        let problem =
            |key: &str, message| problems.push(config.problem(&format!("routers[{i}].client.{key}"), message));
        Connectors::build(client, alpn, || tls::Metrics::new(registry), problem)
    }

    /// Puts what makes connections secure into the servers that ask for it.
    #[cfg(feature = "tls")]
    fn secure(&mut self, i: usize, servers: &[Server], mut configs: Vec<ServerConfig>) -> Vec<ServerConfig> {
        for (j, (server, config)) in servers.iter().zip(&mut configs).enumerate() {
            let Some(tls) = &server.tls else { continue };
            let alpn: &[_] = match config.wire {
                http::Wire::Http1 => &[Alpn::Http1],
                http::Wire::H2(_) => &[Alpn::H2],
                http::Wire::Either(_) => &[Alpn::H2, Alpn::Http1],
            };
            match tls.acceptor(alpn, &tls::Metrics::new(self.registry)) {
                Ok(acceptor) => config.tls = Some(acceptor),
                Err(error) => self.problem(&format!("routers[{i}].servers[{j}].tls"), error.to_string()),
            }
        }
        configs
    }

    fn access_log(&mut self, i: usize, settings: &super::AccessLog, stats: &RouterStats) -> Option<AccessLog> {
        let is_h2 = self.config.routers[i].protocol.kind() == ProtocolKind::H2;
        let super::AccessLog { file, roll_policy, append, format, rotate_count } = settings;
        let roll = match *roll_policy {
            RollPolicy::Never => Roll::Never,
            RollPolicy::Hourly => Roll::Hourly,
            RollPolicy::Daily => Roll::Daily,
            RollPolicy::Weekly(day) => Roll::Weekly(day),
            RollPolicy::MaxSize(bytes) => Roll::Size(bytes),
        };
        let settings = AccessLogSettings {
            file: file.clone(),
            roll,
            append: *append,
            keep: *rotate_count,
            format: format.clone(),
            is_h2,
        };
        match AccessLog::open(settings, stats) {
            Ok(log) => Some(log),
            Err(error) => {
                let key = format!("routers[{i}].{}AccessLog", if is_h2 { "h2" } else { "http" });
                self.problem(&key, format!("{}: {error}", file.display()));
                None
            }
        }
    }

    fn identifiers(&mut self, i: usize, router: &Router, http: &HttpRouter) -> Option<Vec<Box<dyn Identifier>>> {
        let prefix = || router.dst_prefix.clone();
        let mut built: Vec<Box<dyn Identifier>> = Vec::new();
        for identifier in &http.identifiers {
            let named: Result<Box<dyn Identifier>, String> = match identifier {
                HttpIdentifier::HeaderToken { header } => identify::HeaderToken::new(prefix(), &header.0)
                    .map(|identifier| Box::new(identifier) as _)
                    .map_err(|_| format!("'{header}' cannot be the name of a header")),
                HttpIdentifier::Header { header } => identify::HeaderPath::new(prefix(), &header.0)
                    .map(|identifier| Box::new(identifier) as _)
                    .map_err(|_| format!("'{header}' cannot be the name of a header")),
                HttpIdentifier::MethodAndHost { http_uri_in_dst } => {
                    Ok(Box::new(identify::MethodAndHost::new(prefix(), *http_uri_in_dst)))
                }
                HttpIdentifier::Path { segments, consume } => {
                    Ok(Box::new(identify::PathSegments::new(prefix(), *segments, *consume)))
                }
                HttpIdentifier::Static { path } => Ok(Box::new(identify::Fixed::new(&prefix(), path))),
                HttpIdentifier::Ingress(_) | HttpIdentifier::Istio(_) | HttpIdentifier::IstioIngress(..) => {
                    Err("is not supported yet".to_owned())
                }
            };
            match named {
                Ok(identifier) => built.push(identifier),
                Err(problem) => {
                    self.problem(&format!("routers[{i}].identifier"), problem);
                    return None;
                }
            }
        }
        Some(built)
    }

    fn h2_identifiers(&mut self, i: usize, router: &Router, h2: &H2Router) -> Option<Vec<Box<dyn Identifier>>> {
        let H2Router { identifiers, access_log: _, trace_propagator: _ } = h2;
        let prefix = || router.dst_prefix.clone();
        let mut built: Vec<Box<dyn Identifier>> = Vec::new();
        for identifier in identifiers {
            let named: Result<Box<dyn Identifier>, String> = match identifier {
                H2Identifier::HeaderToken { header } => identify::H2Token::new(prefix(), &header.0)
                    .map(|identifier| Box::new(identifier) as _)
                    .map_err(|_| format!("'{header}' cannot be the name of a header")),
                H2Identifier::HeaderPath { header, segments } => identify::H2Path::new(prefix(), &header.0, *segments)
                    .map(|identifier| Box::new(identifier) as _)
                    .map_err(|_| format!("'{header}' cannot be the name of a header")),
                H2Identifier::Ingress(_) | H2Identifier::Istio(_) | H2Identifier::IstioIngress(..) => {
                    Err("is not supported yet".to_owned())
                }
            };
            match named {
                Ok(identifier) => built.push(identifier),
                Err(problem) => {
                    self.problem(&format!("routers[{i}].identifier"), problem);
                    return None;
                }
            }
        }
        Some(built)
    }
}

/// What the bodies take that all routers keep to send them again: `retries/buffer`.
fn show(memory: &ReplayMemory, registry: &Registry) {
    let scope = registry.root().scope("retries").scope("buffer");
    let (held, cap) = (scope.gauge("held_bytes"), scope.gauge("cap_bytes"));
    let (refused, too_long) = (scope.gauge("refused"), scope.gauge("too_long"));
    let memory = memory.clone();
    registry.on_read(move || {
        held.set_count(memory.held() as u64);
        cap.set_count(memory.cap() as u64);
        refused.set_count(memory.refused());
        too_long.set_count(memory.too_long());
        true
    });
}

/// `/mark/...path`
fn under(mark: &str, path: &Path) -> Path {
    let mut builder = linkerd_dtab::PathBuilder::default();
    // One character is no empty element.
    let _ = builder.push(mark.as_bytes());
    builder.extend(path);
    builder.build()
}

impl Wire {
    fn of(http: &HttpRouter) -> Self {
        let HttpRouter {
            // Built once, for all servers.
            identifiers: _,
            access_log: _,
            max_headers_kb,
            max_initial_line_kb,
            max_err_response_kb,
            streaming_enabled,
            aggregate_up_to_kb,
            stream_after_content_length_kb,
            compression_level,
            trace_propagator,
        } = http;
        // Refused, or the default.
        #[cfg(not(feature = "compression"))]
        let _ = compression_level;
        Self {
            max_header_bytes: max_headers_kb * 1024,
            max_initial_line_bytes: max_initial_line_kb * 1024,
            max_error_bytes: max_err_response_kb * 1024,
            propagation: trace_propagator.propagation(),
            aggregate_up_to: 1024
                * if *streaming_enabled { stream_after_content_length_kb } else { aggregate_up_to_kb },
            aggregate_unknown: !streaming_enabled,
            #[cfg(feature = "compression")]
            compression: crate::http::Compression::from_level(*compression_level),
            protocol: ProtocolKind::Http,
        }
    }

    /// What bounds heads and bodies there are keys of HTTP/2's own, or none.
    fn h2(h2: &H2Router) -> Self {
        Self {
            max_header_bytes: usize::MAX,
            max_initial_line_bytes: usize::MAX,
            max_error_bytes: ErrorLimits::default().max_body_bytes,
            aggregate_up_to: 0,
            aggregate_unknown: false,
            propagation: h2.trace_propagator.propagation(),
            #[cfg(feature = "compression")]
            compression: crate::http::Compression::Off,
            protocol: ProtocolKind::H2,
        }
    }

    /// How many bytes of headers a message may have.
    fn head_bytes(&self, h2: &H2Settings) -> usize {
        let h2_bytes = h2.max_header_list_bytes.unwrap_or(H2Config::default().max_header_list_bytes);
        if self.protocol == ProtocolKind::H2 { h2_bytes as usize } else { self.max_header_bytes }
    }

    /// What is spoken, with these settings if they are about it.
    fn speaks(&self, h2: &H2Settings, max_concurrent_streams: Option<u32>) -> http::Wire {
        if self.protocol != ProtocolKind::H2 {
            return http::Wire::Http1;
        }
        let H2Settings {
            initial_stream_window_bytes,
            header_table_bytes,
            max_frame_bytes,
            max_header_list_bytes,
            // Warned of.
            window_update_ratio: _,
        } = *h2;
        let default = H2Config::default();
        http::Wire::H2(H2Config {
            initial_stream_window_bytes: initial_stream_window_bytes.unwrap_or(default.initial_stream_window_bytes),
            header_table_bytes: header_table_bytes.unwrap_or(default.header_table_bytes),
            max_frame_bytes: max_frame_bytes.unwrap_or(default.max_frame_bytes),
            max_header_list_bytes: max_header_list_bytes.unwrap_or(default.max_header_list_bytes),
            max_concurrent_streams: max_concurrent_streams.unwrap_or(default.max_concurrent_streams),
            ..default
        })
    }
}

fn server_config(server: &Server, wire: &Wire, stats: &RouterStats, grace: Duration) -> ServerConfig {
    let Server {
        port,
        ip,
        label: _,
        tls: _, // Of the builder, which tells what is wrong with it.
        socket_options: options,
        max_concurrent_requests,
        announce: _,
        timeout,
        session: Session { life_time, idle_time },
        clear_context,
        per_request,
        flavours,
        error_detail,
        add_forwarded_header,
        timestamp_header,
        max_call_depth,
        upgrades,
        h2,
        http1,
        max_concurrent_streams,
        thrift_framed: _,
    } = server;
    ServerConfig {
        addr: SocketAddr::new(*ip, *port),
        socket: socket_options(options),
        wire: match (wire.speaks(h2, Some(*max_concurrent_streams)), http1) {
            (http::Wire::H2(config), true) => http::Wire::Either(config),
            (spoken, _) => spoken,
        },
        max_initial_line_bytes: wire.max_initial_line_bytes.min(wire.head_bytes(h2)),
        max_header_bytes: wire.head_bytes(h2),
        error_limits: ErrorLimits {
            // Those of h2 are cut by nobody.
            max_header_bytes: wire.max_header_bytes,
            max_body_bytes: wire.max_error_bytes,
            detail: *error_detail,
        },
        aggregate_up_to: wire.aggregate_up_to,
        aggregate_unknown: wire.aggregate_unknown,
        max_call_depth: *max_call_depth,
        max_concurrent_requests: *max_concurrent_requests,
        timeout: *timeout,
        clear_context: *clear_context,
        per_request: per_request.as_ref().map(|bounds| PerRequest {
            max_timeout: bounds.max_timeout,
            max_retries: bounds.max_retries,
            criticality: bounds.criticality,
        }),
        propagation: wire.propagation,
        flavours: flavours.clone(),
        timestamp_header: timestamp_header.as_ref().map(|name| name.0.parse().expect(CHECKED)),
        forwarded: add_forwarded_header.as_ref().map(|header| forwarded(header, stats.label())),
        upgrades: *upgrades,
        idle_time: *idle_time,
        life_time: *life_time,
        #[cfg(feature = "compression")]
        compression: wire.compression,
        grace,
        stats: Some(stats.clone()),
        ..ServerConfig::default()
    }
}

fn forwarded(header: &AddForwardedHeader, router: &str) -> Forwarded {
    let label = |labeler: &Labeler| match labeler {
        Labeler::Ip => ForwardedLabel::Ip,
        Labeler::IpPort => ForwardedLabel::IpPort,
        Labeler::ConnectionRandom => ForwardedLabel::ConnectionRandom,
        Labeler::RequestRandom => ForwardedLabel::RequestRandom,
        Labeler::Router => ForwardedLabel::Fixed(router.to_owned()),
        Labeler::Static(label) => ForwardedLabel::Fixed(label.clone()),
    };
    Forwarded { by: label(&header.by), for_: label(&header.for_) }
}

/// The socket options of a section, as the engine has them.
pub fn socket_options(options: &super::SocketOptions) -> SocketOptions {
    let super::SocketOptions {
        no_delay,
        reuse_addr,
        reuse_port,
        write_timeout,
        read_timeout,
        keep_alive,
        user_timeout,
        backlog,
    } = *options;
    let backlog = backlog.unwrap_or(SocketOptions::default().backlog);
    SocketOptions { no_delay, keep_alive, user_timeout, reuse_addr, reuse_port, backlog, read_timeout, write_timeout }
}

impl Policies for FilePolicies {
    fn service(&self, path: &Path) -> ServicePolicy {
        let service = self.service.for_path(path);
        let Service {
            total_timeout: _, // By its method: it may be unlimited in so many words.
            retries: Retries { budget: retry_budget, backoff, max_attempts, hints, buffer_bytes },
            response_classifier,
            enforce_deadline: _, // By its method, which knows the default.
            idle_timeout,
            hedge,
            limit,
            classification_timeout,
            retry_buffer_size: _, // By its methods, which know the protocol.
        } = &service;
        ServicePolicy {
            total_timeout: service.total_timeout(),
            retry_budget: budget(&retry_budget.clone().unwrap_or_default()),
            backoff: backoff.as_ref().map_or_else(RetryBackoff::none, retry_backoff),
            max_attempts: *max_attempts,
            hedge: *hedge,
            limit: *limit,
            classifier: Classifier::build(response_classifier.as_ref(), self.wire.protocol),
            enforce_deadline: service.enforces_deadline(),
            retry_buffer_bytes: buffer_bytes.unwrap_or_else(|| service.request_buffer_bytes(self.wire.protocol)),
            replay_memory: self.memory.clone(),
            idle_timeout: *idle_timeout,
            retry_hints: hints.unwrap_or(false),
            classification_timeout: classification_timeout.unwrap_or(ServicePolicy::CLASSIFICATION_TIMEOUT),
            response_buffer_bytes: service.response_buffer_bytes(),
        }
    }

    fn client(&self, id: &Path) -> ClientPolicy {
        let settings = self.client.for_path(id);
        #[cfg(feature = "tls")]
        let tls = settings.tls().and_then(|tls| self.connectors.of(tls));
        let Client {
            tls: _, // By its method: it may be off.
            load_balancer,
            failure_accrual,
            fail_fast,
            requeue_budget,
            request_attempt_timeout,
            host_connection_pool,
            session,
            socket_options: options,
            request_authorizers: _,
            forward_client_cert,
            h2,
            http1,
            thrift_framed: _,
            attempt_ttwitter_upgrade: _,
        } = settings;
        // Refused, if it is on.
        #[cfg(not(feature = "tls"))]
        let _ = forward_client_cert;
        let HostConnectionPool { min_size, max_size, idle_time, max_waiters } =
            host_connection_pool.clone().unwrap_or_default();
        let Session { life_time, idle_time: session_idle_time } = session.unwrap_or_default();
        let config = ClientConfig {
            wire: if http1 == Some(true) { http::Wire::Http1 } else { self.wire.speaks(&h2, None) },
            pool: PoolConfig {
                min_size,
                max_size: max_size.unwrap_or(usize::MAX),
                idle_time: [idle_time, session_idle_time].into_iter().flatten().min(),
                max_age: life_time,
                max_waiters: max_waiters.unwrap_or(usize::MAX),
            },
            socket: options.as_ref().map(socket_options).unwrap_or_default(),
            max_header_bytes: self.wire.head_bytes(&h2),
            aggregate_up_to: self.wire.aggregate_up_to,
            #[cfg(feature = "tls")]
            tls,
            #[cfg(feature = "tls")]
            forward_client_cert: forward_client_cert.unwrap_or(false),
            aggregate_unknown: self.wire.aggregate_unknown,
            ..ClientConfig::default()
        };
        let shown = [
            ("failFast", json!(fail_fast.unwrap_or(false))),
            ("requeueBudget", balancing::shown_budget(&requeue_budget.clone().unwrap_or_default())),
            ("hostConnectionPool", balancing::shown_pool(&host_connection_pool.clone().unwrap_or_default())),
        ];
        let (load_balancer, failure_accrual) = (load_balancer.unwrap_or_default(), failure_accrual.unwrap_or_default());
        let settings = balancing::shown(&load_balancer, &failure_accrual, shown);
        ClientPolicy {
            balancer: balancing::balancer(&load_balancer, &failure_accrual),
            accrual: balancing::accrual(&failure_accrual),
            requeue_budget: budget(&requeue_budget.unwrap_or_default()),
            attempt_timeout: request_attempt_timeout,
            connect: Some(Arc::new(HttpConnect::new(config))),
            hash_on: balancing::hash_on(&load_balancer.kind),
            fail_fast: fail_fast.unwrap_or(false),
            hints: load_balancer.hints,
            settings: Some(settings.into()),
        }
    }
}

/// The file was checked, so the bounds hold.
pub(super) const CHECKED: &str = "checked when the file was read";

fn budget(budget: &Budget) -> RetryBudget {
    let Budget { ttl, min_retries_per_sec: min_per_sec, percent_can_retry: percent } = *budget;
    RetryBudget::new(BudgetSettings { ttl, min_per_sec, percent }).expect(CHECKED)
}

fn retry_backoff(backoff: &Backoff) -> RetryBackoff {
    match *backoff {
        Backoff::Constant { pause } => RetryBackoff::constant(pause),
        Backoff::Jittered { min, max } => RetryBackoff::decorrelated(min, max).expect(CHECKED),
    }
}

impl RouterPlan {
    /// What the servers serve.
    pub fn service(&self) -> crate::Svc {
        crate::Svc::new(self.client.clone())
    }
}

impl std::fmt::Debug for RouterPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterPlan").field("label", &self.label).field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("routers", &self.routers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(protocol: ProtocolKind, service: &str) -> ServicePolicy {
        let name = if protocol == ProtocolKind::H2 { "h2" } else { "http" };
        let text = format!("routers: [{{protocol: {name}, servers: [{{}}], service: {{{service}}}}}]");
        let config = Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"));
        let Router { service, client, .. } = config.routers[0].clone();
        let wire = Wire {
            max_header_bytes: 0,
            max_initial_line_bytes: 0,
            max_error_bytes: 0,
            propagation: Propagation::DEFAULT,
            aggregate_up_to: 0,
            aggregate_unknown: false,
            #[cfg(feature = "compression")]
            compression: crate::http::Compression::default(),
            protocol,
        };
        let policies = FilePolicies {
            service,
            client,
            wire,
            memory: ReplayMemory::default(),
            #[cfg(feature = "tls")]
            connectors: Connectors::default(),
        };
        policies.service(&"/svc/web".parse().unwrap())
    }

    #[test]
    fn each_labeler_is_what_it_says() {
        let text = "
routers:
- protocol: http
  servers:
  - addForwardedHeader: {by: {kind: router}, for: {kind: static, label: x}}
  - {port: 1, addForwardedHeader: {}}
";
        let config = Config::parse("f", text).unwrap();
        let built = |i: usize| forwarded(config.routers[0].servers[i].add_forwarded_header.as_ref().unwrap(), "edge");
        let fixed = |label: &str| ForwardedLabel::Fixed(label.to_owned());
        assert_eq!(built(0), Forwarded { by: fixed("edge"), for_: fixed("x") });
        let random = ForwardedLabel::RequestRandom;
        assert_eq!(built(1), Forwarded { by: random.clone(), for_: random });
    }

    #[test]
    fn a_service_of_h2_keeps_requests_and_holds_back_responses() {
        let sizes = |protocol, keys| {
            let policy = policy(protocol, keys);
            (policy.retry_buffer_bytes, policy.response_buffer_bytes, policy.classification_timeout.as_millis())
        };
        let (h2, http) = (ProtocolKind::H2, ProtocolKind::Http);
        assert_eq!(sizes(h2, ""), (16383, 16383, 100));
        assert_eq!(sizes(h2, "classificationTimeoutMs: 0, retryBufferSize: {requestBytes: 1}"), (1, 16383, 0));
        assert_eq!(sizes(h2, "retryBufferSize: {requestBytes: 0, responseBytes: 2}"), (0, 2, 100));
        assert_eq!(sizes(h2, "retries: {bufferBytes: 3}, retryBufferSize: {requestBytes: 1}").0, 3);
        assert_eq!((sizes(http, "").0, sizes(http, "retries: {bufferBytes: 3}").0), (0, 3));
    }
}
