//! From a checked file to the engine: one mesh and one set of servers for each router.
//!
//! Sections are taken apart field by field, so that a new key is built, refused or dropped by a decision: what stands as
//! `_` is refused by [`check_supported`], warned of, belongs to another protocol, or says why it does nothing.

mod identifiers;
mod names;
mod policies;
mod remote;
#[cfg(feature = "tls")]
mod secure;
mod server;
mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use linkerd_dtab::{
    Dtab, Interpreter as Interprets, Path,
    interpreter::Local,
    namer::{Resolve, fs, inet::Inet},
};
use linkerd_retry::replay::ReplayMemory;

pub use self::server::socket_options;
use self::{
    identifiers::{fixed_names, in_namespaces, of_h2, of_http},
    names::Mounted,
    policies::{FilePolicies, Made},
    server::server_config,
    wire::Wire,
};
use super::{BindingCache, Config, Errors, Problem, Protocol, ProtocolKind, Router, Service, check_supported};
use crate::{
    CacheSettings, Mesh,
    access_log::AccessLog,
    http::ServerConfig,
    identify::Identifier,
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
    /// What it was built from, for whoever builds the next one.
    config: Arc<Config>,
    namers: Mounted,
    resolve: Arc<dyn Resolve>,
    memory: ReplayMemory,
    shows_memory: Arc<AtomicBool>,
    #[cfg(feature = "tls")]
    secured: secure::Secured,
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
    /// Names that its identifier gives whatever a request says.
    pub fixed_names: Vec<Path>,
    /// The namerds that bind its names, if any do: one for each namespace.
    pub namerds: Vec<Namerds>,
    /// Whether it is one of the plan that was there before, and has all that it learned.
    pub is_kept: bool,
}

/// The namers of a file, built, and what answers for the hosts of system names.
#[cfg(feature = "namerd")]
pub(crate) struct BuiltNamers {
    pub(crate) mounted: Mounted,
    pub(crate) fs: Vec<(Path, fs::Namer)>,
    pub(crate) resolve: Arc<dyn Resolve>,
}

/// The namerds that bind the names of a router.
#[derive(Clone, Debug)]
pub struct Namerds {
    /// The kind of interpreter.
    pub kind: &'static str,
    /// Which of their tables.
    pub namespace: String,
    /// What asks them.
    pub remote: linkerd_dtab::interpreter::remote::Remote,
}

impl Config {
    /// Builds the namers alone. Inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Everything that the file uses and that is not built yet, or cannot be built.
    #[cfg(feature = "namerd")]
    pub(crate) fn build_namers(&self, registry: &Registry) -> Result<BuiltNamers, Errors> {
        if let Some(errors) = Errors::from_problems(check_supported(self)) {
            return Err(errors);
        }
        let resolve = Arc::new(Inet::default()) as Arc<dyn Resolve>;
        let memory = ReplayMemory::new(0);
        let (fs_namers, problems) = (Vec::new(), Vec::new());
        let mut builder = Builder {
            config: self,
            registry,
            memory,
            resolve,
            fs_namers,
            problems,
            before: None,
            #[cfg(feature = "tls")]
            secured: secure::Securing::default(),
        };
        let mounted = builder.namers();
        let Builder { resolve, fs_namers: fs, problems, .. } = builder;
        Errors::from_problems(problems).map_or(Ok(BuiltNamers { mounted, fs, resolve }), Err)
    }

    /// Builds everything but the sockets. Inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Everything that the file uses and that is not built yet, or cannot be built.
    pub fn build(&self, registry: &Registry) -> Result<Plan, Errors> {
        let plan = self.draft(None, registry)?;
        plan.begin(registry);
        Ok(plan)
    }

    /// Builds what takes the place of another plan.
    ///
    /// A router of which nothing but its servers is different is the same one: its names, connections, loads and what was
    /// learned of endpoints stay, if the namers are the same. So do access logs and certificates whose settings are.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); the other plan is as it was.
    pub fn rebuild(&self, before: &Plan, registry: &Registry) -> Result<Plan, Errors> {
        let plan = self.draft(Some(before), registry)?;
        plan.begin(registry);
        Ok(plan)
    }

    /// As [`build`](Self::build) or [`rebuild`](Self::rebuild), of a plan that is seen by nobody until it
    /// [begins](Plan::begin), or leaves nothing behind.
    pub(crate) fn draft(&self, before: Option<&Plan>, registry: &Registry) -> Result<Plan, Errors> {
        let attempt = registry.attempt();
        self.build_after(before, registry).inspect_err(|_| {
            // Nobody had a handle but what was built.
            attempt.undo();
        })
    }

    fn build_after(&self, before: Option<&Plan>, registry: &Registry) -> Result<Plan, Errors> {
        if let Some(errors) = Errors::from_problems(check_supported(self)) {
            return Err(errors);
        }
        let resolve =
            before.map_or_else(|| Arc::new(Inet::default()) as Arc<dyn Resolve>, |it| Arc::clone(&it.resolve));
        let system: Arc<dyn Interprets> = Arc::new(Local::new(Vec::new(), Arc::clone(&resolve)));
        // One for the process: its metrics go on.
        let memory = before.map_or_else(|| ReplayMemory::new(self.retry_buffer_bytes), |before| before.memory.clone());
        // From when it first began on.
        let shows_memory = before.map_or_else(Arc::default, |before| Arc::clone(&before.shows_memory));
        let before = before.map(|plan| Before { plan, same_namers: plan.config.namers == self.namers });
        let mut builder = Builder {
            config: self,
            registry,
            memory,
            resolve,
            fs_namers: Vec::new(),
            problems: Vec::new(),
            before,
            #[cfg(feature = "tls")]
            secured: secure::Securing::default(),
        };
        let namers = builder.namers();
        let routers: Vec<_> =
            self.routers.iter().enumerate().filter_map(|(i, router)| builder.router(i, router, &namers)).collect();
        #[cfg(feature = "tls")]
        let secured = builder.secured.take();
        let Builder { memory, resolve, fs_namers, problems, .. } = builder;
        if let Some(errors) = Errors::from_problems(problems) {
            return Err(errors);
        }
        let config = Arc::new(self.clone());
        Ok(Plan {
            routers,
            fs_namers,
            system,
            config,
            namers,
            resolve,
            memory,
            shows_memory,
            #[cfg(feature = "tls")]
            secured,
        })
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

impl Plan {
    /// Shows and opens what is to be seen from the outside, once all of it was accepted.
    pub(crate) fn begin(&self, registry: &Registry) {
        if self.config.keeps_streams() && !self.shows_memory.swap(true, Ordering::Relaxed) {
            show(&self.memory, registry);
        }
        #[cfg(feature = "tls")]
        self.secured.begin();
        for (router, built) in self.config.routers.iter().zip(&self.routers) {
            let stats = RouterStats::new(registry, &router.label);
            if router.originator {
                stats.originator();
            } else {
                stats.no_originator();
            }
            if let Some(Err(error)) = built.access_log.as_ref().map(AccessLog::start) {
                tracing::error!(%error, router = router.label, "the access log is not written: there is no thread for it");
            }
        }
    }
}

struct Builder<'a> {
    config: &'a Config,
    registry: &'a Registry,
    memory: ReplayMemory,
    resolve: Arc<dyn Resolve>,
    fs_namers: Vec<(Path, fs::Namer)>,
    problems: Vec<Problem>,
    before: Option<Before<'a>>,
    #[cfg(feature = "tls")]
    secured: secure::Securing,
}

/// The plan whose place is taken, and whether its names come from the same namers.
#[derive(Clone, Copy)]
struct Before<'a> {
    plan: &'a Plan,
    same_namers: bool,
}

impl<'a> Before<'a> {
    /// What the same router was built to, whatever it is of its servers.
    fn same(self, router: &Router) -> Option<&'a RouterPlan> {
        let is_same = |old: &Router| *old == Router { servers: old.servers.clone(), ..router.clone() };
        self.find(|old, _| self.same_namers && is_same(old))
    }

    /// The log of a router of this label and protocol whose settings are the same: of two for one file each would roll it.
    fn access_log(self, router: &Router, settings: &super::AccessLog) -> Option<AccessLog> {
        let is_same = |old: &Router| {
            let log = match &old.protocol {
                Protocol::Http(http) => http.access_log.as_ref(),
                Protocol::H2(h2) => h2.access_log.as_ref(),
                Protocol::Thrift(_) | Protocol::Mux | Protocol::ThriftMux(_) => None,
            };
            (&old.label, old.protocol.kind(), log) == (&router.label, router.protocol.kind(), Some(settings))
        };
        self.find(|old, _| is_same(old)).and_then(|built| built.access_log.clone())
    }

    fn find(self, is_it: impl Fn(&Router, &RouterPlan) -> bool) -> Option<&'a RouterPlan> {
        let both = self.plan.config.routers.iter().zip(&self.plan.routers);
        both.into_iter().find(|(old, built)| is_it(old, built)).map(|(_, built)| built)
    }
}

impl Builder<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(self.config.problem(key, message));
    }

    fn router(&mut self, i: usize, router: &Router, namers: &Mounted) -> Option<RouterPlan> {
        let wire = match &router.protocol {
            Protocol::Http(http) => Wire::of(http),
            Protocol::H2(h2) => Wire::h2(h2),
            Protocol::Thrift(_) | Protocol::Mux | Protocol::ThriftMux(_) => {
                self.problem(&format!("routers[{i}].protocol"), "is not supported yet");
                return None;
            }
        };
        let stats = RouterStats::new(self.registry, &router.label);
        let mut plan = match self.before.and_then(|before| before.same(router)) {
            Some(same) => RouterPlan {
                label: same.label.clone(),
                dtab: same.dtab.clone(),
                interpreter: Arc::clone(&same.interpreter),
                mesh: same.mesh.clone(),
                identifier: Arc::clone(&same.identifier),
                client: same.client.clone(),
                servers: Vec::new(),
                access_log: same.access_log.clone(),
                fixed_names: same.fixed_names.clone(),
                namerds: same.namerds.clone(),
                is_kept: true,
            },
            None => self.new_router(i, router, namers, wire, &stats)?,
        };
        let (grace, log) = (self.config.admin.shutdown_grace, plan.access_log.as_ref());
        let servers = &router.servers;
        let configs = servers
            .iter()
            .map(|server| ServerConfig { access_log: log.cloned(), ..server_config(server, &wire, &stats, grace) });
        plan.servers = configs.collect();
        #[cfg(feature = "tls")]
        {
            if plan.is_kept {
                self.keep_secured(&router.label);
            }
            self.secure(i, servers, &mut plan.servers);
        }
        Some(plan)
    }

    /// A router without its servers.
    fn new_router(
        &mut self,
        i: usize,
        router: &Router,
        namers: &Mounted,
        wire: Wire,
        stats: &RouterStats,
    ) -> Option<RouterPlan> {
        let Router {
            protocol,
            label,
            servers: _,
            service,
            client,
            dtab,
            dst_prefix,
            interpreter: _,
            announcers: _,
            originator: _, // Said when it begins.
            binding_timeout,
            switch_timeout,
            binding_cache: BindingCache { paths, trees, bounds, clients, idle_ttl },
            // Only another protocol has to be.
            experimental: _,
        } = router;
        #[cfg(not(feature = "compression"))]
        if matches!(protocol, Protocol::Http(http) if http.compression_level > 0) {
            self.problem(&format!("routers[{i}].compressionLevel"), "is not supported: built without compression");
        }
        let (interpreter, namerds) = self.interpreter(i, router, namers)?;
        let (identifier, access_log) = match protocol {
            Protocol::Http(http) => {
                let identifiers = self.identifiers(i, &http.identifiers, |one| of_http(one, dst_prefix))?;
                (identifiers, http.access_log.as_ref())
            }
            Protocol::H2(h2) => {
                let identifiers = self.identifiers(i, &h2.identifiers, |one| of_h2(one, dst_prefix))?;
                (identifiers, h2.access_log.as_ref())
            }
            // Refused.
            Protocol::Thrift(_) | Protocol::Mux | Protocol::ThriftMux(_) => return None,
        };
        #[cfg(feature = "tls")]
        let connectors = self.connectors(i, client, protocol.kind());
        let log = match access_log {
            Some(settings) => Some(self.access_log(i, settings, stats)?),
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
                services: Made::default(),
                clients: Made::default(),
            })
            .binding_timeout(*binding_timeout)
            .switch_timeout(*switch_timeout)
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
        let identifier = in_namespaces(&router.interpreter.kind, Arc::new(identifier));
        let client = mesh.router(Arc::clone(&identifier));
        Some(RouterPlan {
            label: label.clone(),
            dtab: dtab.clone(),
            interpreter,
            mesh,
            identifier,
            client,
            servers: Vec::new(),
            access_log: log,
            fixed_names: fixed_names(protocol, dst_prefix),
            namerds,
            is_kept: false,
        })
    }

    fn access_log(&mut self, i: usize, settings: &super::AccessLog, stats: &RouterStats) -> Option<AccessLog> {
        let router = &self.config.routers[i];
        if let Some(same) = self.before.and_then(|before| before.access_log(router, settings)) {
            return Some(same);
        }
        let is_h2 = router.protocol.kind() == ProtocolKind::H2;
        match AccessLog::prepare(settings.settings(is_h2), stats) {
            Ok(log) => Some(log),
            Err(error) => {
                let key = format!("routers[{i}].{}AccessLog", if is_h2 { "h2" } else { "http" });
                self.problem(&key, format!("{}: {error}", settings.file.display()));
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

impl Plan {
    /// What it was built from.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
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

    fn config(first: &str, servers: &str, top: &str) -> Config {
        let text = format!(
            "{top}
routers:
- protocol: http
  label: a
  {first}
  servers: [{servers}]
- protocol: http
  label: b
  servers: [{{port: 2}}]
"
        );
        Config::parse("f", &text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[tokio::test]
    async fn what_is_the_same_in_both_is_kept() {
        let registry = Registry::new();
        let first = config("originator: true", "{port: 1}", "");
        let before = first.build(&registry).unwrap();
        let kept = |plan: &Plan| plan.routers.iter().map(|router| router.is_kept).collect::<Vec<_>>();
        assert_eq!(kept(&before), [false, false]);
        before.routers[0].mesh.client("/svc/x").unwrap();
        let originator = registry.root().scope("rt").scope("a").gauge("originator");
        assert_eq!(originator.get(), 1);

        let servers = config("originator: true", "{port: 1, maxCallDepth: 7}, {port: 3}", "workers: 2");
        let servers = servers.rebuild(&before, &registry).unwrap();
        assert_eq!(kept(&servers), [true, true]);
        assert_eq!(servers.routers[0].servers.len(), 2);
        assert_eq!(servers.routers[0].servers[0].max_call_depth, 7);
        assert_eq!(servers.routers[0].mesh.paths().len(), 1);

        let dtab = config("dtab: /svc => /nowhere", "{port: 1}", "").rebuild(&servers, &registry).unwrap();
        assert_eq!(kept(&dtab), [false, true]);
        assert!(dtab.routers[0].mesh.paths().is_empty());
        assert_eq!(originator.get(), 0);

        // Names may come from elsewhere, in every router.
        let namer = "namers: [{kind: io.l5d.rewrite, prefix: /x, pattern: '/{a}', name: '/{a}'}]";
        let namers = config("dtab: /svc => /nowhere", "{port: 1}", namer).rebuild(&dtab, &registry).unwrap();
        assert_eq!(kept(&namers), [false, false]);
        let again = config("dtab: /svc => /nowhere", "{port: 1}", namer).rebuild(&namers, &registry).unwrap();
        assert_eq!(kept(&again), [true, true]);
    }

    #[tokio::test]
    async fn a_log_of_the_same_settings_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let log = |name: &str, more: &str| {
            config(&format!("httpAccessLog: {}\n  {more}", folder.path().join(name).display()), "{port: 1}", "")
        };
        let registry = Registry::new();
        let before = log("a.log", "").build(&registry).unwrap();
        let same = log("a.log", "dtab: /svc => /nowhere").rebuild(&before, &registry).unwrap();
        assert!(!same.routers[0].is_kept);
        let file = |plan: &Plan| plan.routers[0].access_log.clone().unwrap();
        assert!(file(&same).is_same(&file(&before)));
        let other = log("b.log", "").rebuild(&same, &registry).unwrap();
        assert!(!file(&other).is_same(&file(&same)));
    }
}
