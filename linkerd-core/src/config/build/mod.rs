//! From a checked file to the engine: one mesh and one set of servers for each router.
//!
//! Sections are taken apart field by field, so that a new key is built, refused or dropped by a decision: what stands as
//! `_` is refused by [`check_supported`], warned of, belongs to another protocol, or says why it does nothing.

mod identifiers;
mod names;
mod policies;
mod server;
mod wire;

use std::sync::Arc;

use linkerd_dtab::{
    Dtab, Interpreter as Interprets, Path,
    interpreter::Local,
    namer::{Resolve, fs, inet::Inet},
};
use linkerd_retry::replay::ReplayMemory;

pub use self::server::socket_options;
use self::{
    identifiers::{of_h2, of_http},
    names::Mounted,
    policies::FilePolicies,
    server::server_config,
    wire::Wire,
};
use super::{
    BindingCache, Config, Errors, Problem, Protocol, ProtocolKind, RollPolicy, Router, Service, check_supported,
};
#[cfg(feature = "tls")]
use super::{Client, Scoped, Server, tls::Connectors};
use crate::{
    CacheSettings, Mesh,
    access_log::{AccessLog, AccessLogSettings, Roll},
    http::ServerConfig,
    identify::Identifier,
    telemetry::{Registry, RouterStats},
};
#[cfg(feature = "tls")]
use crate::{
    http,
    tls::{self, Alpn},
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
        let memory = ReplayMemory::new(self.retry_buffer_bytes);
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

struct Builder<'a> {
    config: &'a Config,
    registry: &'a Registry,
    memory: ReplayMemory,
    resolve: Arc<dyn Resolve>,
    fs_namers: Vec<(Path, fs::Namer)>,
    problems: Vec<Problem>,
}

impl Builder<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(self.config.problem(key, message));
    }

    fn router(&mut self, i: usize, router: &Router, namers: &Mounted) -> Option<RouterPlan> {
        let Router {
            protocol,
            label,
            servers,
            service,
            client,
            dtab,
            dst_prefix,
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
            Protocol::Http(http) => {
                let identifiers = self.identifiers(i, &http.identifiers, |one| of_http(one, dst_prefix))?;
                (identifiers, Wire::of(http), http.access_log.as_ref())
            }
            Protocol::H2(h2) => {
                let identifiers = self.identifiers(i, &h2.identifiers, |one| of_h2(one, dst_prefix))?;
                (identifiers, Wire::h2(h2), h2.access_log.as_ref())
            }
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

/// The file was checked, so the bounds hold.
pub(super) const CHECKED: &str = "checked when the file was read";

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
