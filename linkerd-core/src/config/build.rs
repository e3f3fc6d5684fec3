//! From a checked file to the engine: one mesh and one set of servers for each router.

use std::{net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

use linkerd_balance::{LeastLoaded, P2c, PeakEwma, Policy, accrual::Backoff as AccrualBackoff};
use linkerd_dtab::{
    Dtab, Interpreter as Interprets, Namer as Names, Path,
    interpreter::{Local, fs::DtabFile},
    namer::{self, Resolve, fs, inet::Inet},
    transformer::{self, TransformedInterpreter, TransformedNamer, Transformer as Transforms},
};
use linkerd_retry::{Backoff as RetryBackoff, Budget as RetryBudget, BudgetSettings};

use super::{
    AccrualKind, Backoff, BalancerKind, Budget, Classifier, Client, Config, Errors, HttpIdentifier, HttpRouter,
    InterpreterKind, Namer, NamerKind, Problem, Protocol, Router, Scoped, Server, Service, Transformer,
    TransformerKind, check_supported,
};
use crate::{
    AccrualPolicy, CacheSettings, ClientPolicy, HttpClassifier, Mesh, Policies, ServicePolicy,
    http::{ClientConfig, HttpConnect, PoolConfig, ServerConfig, SocketOptions, respond::ErrorLimits},
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
    /// How error bodies and headers are cut.
    pub max_header_bytes: usize,
    /// The `compressionLevel`.
    pub compression_level: i8,
}

/// The policies of a router, as its file has them.
#[derive(Debug)]
struct FilePolicies {
    service: Scoped<Service>,
    client: Scoped<Client>,
    http: HttpRouter,
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
        let mut builder = Builder { config: self, registry, resolve, fs_namers: Vec::new(), problems: Vec::new() };
        let namers = builder.namers();
        let routers: Vec<_> =
            self.routers.iter().enumerate().filter_map(|(i, router)| builder.router(i, router, &namers)).collect();
        match Errors::from_problems(builder.problems) {
            Some(errors) => Err(errors),
            None => Ok(Plan { routers, fs_namers: builder.fs_namers, system }),
        }
    }
}

/// A transformer with the `prefix` of its section, if it has one.
macro_rules! prefixed {
    ($built:expr, $section:expr) => {
        match &$section.prefix {
            Some(prefix) => Arc::new($built.with_prefix(prefix)) as Arc<dyn Transforms>,
            None => Arc::new($built) as Arc<dyn Transforms>,
        }
    };
}

struct Builder<'a> {
    config: &'a Config,
    registry: &'a Registry,
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
        let prefix = under("#", &namer.prefix);
        let built: Arc<dyn Names> = match &namer.kind {
            NamerKind::Fs { root_dir } => {
                let fs = fs::Namer::new(&root_dir.0).with_resolver(Arc::clone(&self.resolve));
                self.fs_namers.push((prefix.clone(), fs.clone()));
                Arc::new(fs)
            }
            NamerKind::Rewrite { pattern, name } => Arc::new(namer::rewrite::Namer::new(pattern.as_str(), name)),
            _ => {
                self.problem(&format!("namers[{i}].kind"), "is not supported yet");
                return None;
            }
        };
        if namer.transformers.is_empty() {
            return Some((prefix, built));
        }
        // A constant is bound by the other namers, without any table.
        let global: Arc<dyn Interprets> = Arc::new(Local::new(before.clone(), Arc::clone(&self.resolve)));
        let key = format!("namers[{i}].transformers");
        let transformers = self.transformers(&key, &namer.transformers, &global)?;
        Some((prefix.clone(), Arc::new(TransformedNamer::new(prefix, built, transformers))))
    }

    fn transformers(
        &mut self,
        key: &str,
        transformers: &[Transformer],
        global: &Arc<dyn Interprets>,
    ) -> Option<Vec<Arc<dyn Transforms>>> {
        let mut built: Vec<Arc<dyn Transforms>> = Vec::new();
        for (i, transformer) in transformers.iter().enumerate() {
            let key = format!("{key}[{i}]");
            let one: Arc<dyn Transforms> = match &transformer.kind {
                TransformerKind::Port { port } => {
                    let Some(port) = NonZeroU16::new(*port) else {
                        self.problem(&format!("{key}.port"), "must be from 1 to 65535, got 0");
                        return None;
                    };
                    prefixed!(transformer::Port::new(port), transformer)
                }
                TransformerKind::Localhost => match transformer::Localhost::new() {
                    Ok(localhost) => prefixed!(localhost, transformer),
                    Err(error) => {
                        self.problem(&key, format!("the addresses of this host are unknown: {error}"));
                        return None;
                    }
                },
                TransformerKind::SpecificHost { host } => {
                    prefixed!(transformer::SpecificHost::new(*host), transformer)
                }
                TransformerKind::Const { path } => {
                    prefixed!(transformer::Const::new(path.clone(), Arc::clone(global)), transformer)
                }
                TransformerKind::Replace { path } => {
                    prefixed!(transformer::Replace::new(path.clone(), Arc::clone(global)), transformer)
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
        let local = Local::new(namers.clone(), Arc::clone(&self.resolve));
        let global: Arc<dyn Interprets> = Arc::new(local.clone());
        let bare: Arc<dyn Interprets> = match &router.interpreter.kind {
            InterpreterKind::Default => Arc::clone(&global),
            InterpreterKind::Fs { dtab_file } => Arc::new(local.with_dtab(DtabFile::watch(&dtab_file.0))),
            _ => {
                self.problem(&format!("routers[{i}].interpreter.kind"), "is not supported yet");
                return None;
            }
        };
        let transformers = &router.interpreter.transformers;
        if transformers.is_empty() {
            return Some(bare);
        }
        let key = format!("routers[{i}].interpreter.transformers");
        let transformers = self.transformers(&key, transformers, &global)?;
        Some(Arc::new(TransformedInterpreter::new(bare, transformers)))
    }

    fn router(&mut self, i: usize, router: &Router, namers: &Mounted) -> Option<RouterPlan> {
        let Protocol::Http(http) = &router.protocol else {
            self.problem(&format!("routers[{i}].protocol"), "is not supported yet");
            return None;
        };
        let interpreter = self.interpreter(i, router, namers)?;
        let identifier = self.identifiers(i, router, http)?;
        let stats = RouterStats::new(self.registry, &router.label);
        if router.originator {
            stats.originator();
        }
        let policies =
            FilePolicies { service: router.service.clone(), client: router.client.clone(), http: http.clone() };
        let cache = &router.binding_cache;
        let mesh = Mesh::builder()
            .interpreter(Arc::clone(&interpreter))
            .dtab(router.dtab.clone())
            .policies(policies)
            .binding_timeout(router.binding_timeout)
            .caches(CacheSettings {
                paths: cache.paths,
                trees: cache.trees,
                bounds: cache.bounds,
                clients: cache.clients,
                idle_ttl: cache.idle_ttl,
            })
            .metrics(stats.clone())
            .proxy(true)
            .build();
        let mesh = match mesh {
            Ok(mesh) => mesh,
            Err(error) => {
                self.problem(&format!("routers[{i}]"), error.to_string());
                return None;
            }
        };
        let identifier: Arc<dyn Identifier> = Arc::new(identifier);
        let client = mesh.router(Arc::clone(&identifier));
        let grace = self.config.admin.shutdown_grace;
        let servers = router.servers.iter().map(|server| server_config(server, http, &stats, grace)).collect();
        Some(RouterPlan {
            label: router.label.clone(),
            dtab: router.dtab.clone(),
            interpreter,
            mesh,
            identifier,
            client,
            servers,
            max_header_bytes: http.max_headers_kb * 1024,
            compression_level: http.compression_level,
        })
    }

    fn identifiers(&mut self, i: usize, router: &Router, http: &HttpRouter) -> Option<Vec<Box<dyn Identifier>>> {
        let prefix = || router.dst_prefix.clone();
        let mut built: Vec<Box<dyn Identifier>> = Vec::new();
        for identifier in &http.identifiers {
            let key = format!("routers[{i}].identifier");
            let invalid = |header| format!("'{header}' cannot be the name of a header");
            built.push(match identifier {
                HttpIdentifier::HeaderToken { header } => match identify::HeaderToken::new(prefix(), &header.0) {
                    Ok(identifier) => Box::new(identifier),
                    Err(_) => {
                        self.problem(&key, invalid(header));
                        return None;
                    }
                },
                HttpIdentifier::Header { header } => match identify::HeaderPath::new(prefix(), &header.0) {
                    Ok(identifier) => Box::new(identifier),
                    Err(_) => {
                        self.problem(&key, invalid(header));
                        return None;
                    }
                },
                HttpIdentifier::MethodAndHost { http_uri_in_dst } => {
                    Box::new(identify::MethodAndHost::new(prefix(), *http_uri_in_dst))
                }
                HttpIdentifier::Path { segments, consume } => {
                    Box::new(identify::PathSegments::new(prefix(), *segments, *consume))
                }
                HttpIdentifier::Static { path } => Box::new(identify::Fixed::new(&prefix(), path)),
                HttpIdentifier::Ingress(_) | HttpIdentifier::Istio(_) | HttpIdentifier::IstioIngress(..) => {
                    self.problem(&key, "is not supported yet");
                    return None;
                }
            });
        }
        Some(built)
    }
}

/// `/mark/...path`
fn under(mark: &str, path: &Path) -> Path {
    let mut builder = linkerd_dtab::PathBuilder::default();
    // One character is no empty element.
    let _ = builder.push(mark.as_bytes());
    builder.extend(path);
    builder.build()
}

fn server_config(server: &Server, http: &HttpRouter, stats: &RouterStats, grace: Duration) -> ServerConfig {
    let max_header_bytes = http.max_headers_kb * 1024;
    ServerConfig {
        addr: SocketAddr::new(server.ip, server.port),
        socket: socket_options(&server.socket_options),
        max_initial_line_bytes: http.max_initial_line_kb * 1024,
        max_header_bytes,
        error_limits: ErrorLimits { max_header_bytes, max_body_bytes: http.max_err_response_kb * 1024 },
        aggregate_up_to: aggregate_up_to(http),
        max_call_depth: server.max_call_depth,
        max_concurrent_requests: server.max_concurrent_requests,
        timeout: server.timeout,
        clear_context: server.clear_context,
        // Checked when the identifiers were: a name that no header can have is a problem there.
        timestamp_header: server.timestamp_header.as_ref().and_then(|name| name.0.parse().ok()),
        idle_time: server.session.idle_time,
        life_time: server.session.life_time,
        grace,
        stats: Some(stats.clone()),
        ..ServerConfig::default()
    }
}

fn aggregate_up_to(http: &HttpRouter) -> usize {
    if http.streaming_enabled { http.stream_after_content_length_kb * 1024 } else { usize::MAX }
}

/// The socket options of a section, as the engine has them.
pub fn socket_options(options: &super::SocketOptions) -> SocketOptions {
    let default = SocketOptions::default();
    SocketOptions {
        no_delay: options.no_delay,
        keep_alive: options.keep_alive,
        reuse_addr: options.reuse_addr,
        reuse_port: options.reuse_port,
        backlog: options.backlog.unwrap_or(default.backlog),
    }
}

impl Policies for FilePolicies {
    fn service(&self, path: &Path) -> ServicePolicy {
        let service = self.service.for_path(path);
        ServicePolicy {
            total_timeout: service.total_timeout(),
            retry_budget: budget(&service.budget()),
            backoff: service.retries.backoff.as_ref().map_or_else(RetryBackoff::none, retry_backoff),
            classifier: Arc::new(classifier(service.response_classifier.as_ref())),
            enforce_deadline: service.enforces_deadline(),
        }
    }

    fn client(&self, id: &Path) -> ClientPolicy {
        let client = self.client.for_path(id);
        let pool = client.host_connection_pool.clone().unwrap_or_default();
        let session = client.session.clone().unwrap_or_default();
        let config = ClientConfig {
            pool: PoolConfig {
                min_size: pool.min_size,
                max_size: pool.max_size.unwrap_or(usize::MAX),
                idle_time: [pool.idle_time, session.idle_time].into_iter().flatten().min(),
                max_age: session.life_time,
                max_waiters: pool.max_waiters.unwrap_or(usize::MAX),
            },
            socket: client.socket_options.as_ref().map(socket_options).unwrap_or_default(),
            max_header_bytes: self.http.max_headers_kb * 1024,
            aggregate_up_to: aggregate_up_to(&self.http),
            ..ClientConfig::default()
        };
        ClientPolicy {
            balancer: balancer(&client.load_balancer().kind),
            accrual: accrual(&client.failure_accrual.clone().unwrap_or_default()),
            requeue_budget: budget(&client.requeue_budget.clone().unwrap_or_default()),
            attempt_timeout: client.request_attempt_timeout,
            connect: Some(Arc::new(HttpConnect::new(config))),
        }
    }
}

fn classifier(classifier: Option<&Classifier>) -> HttpClassifier {
    match classifier {
        None | Some(Classifier::NonRetryable5xx | Classifier::Grpc { .. }) => HttpClassifier::NonRetryable5xx,
        Some(Classifier::RetryableRead5xx) => HttpClassifier::RetryableRead5xx,
        Some(Classifier::RetryableIdempotent5xx) => HttpClassifier::RetryableIdempotent5xx,
        Some(Classifier::RetryableAll5xx) => HttpClassifier::RetryableAll5xx,
        Some(Classifier::AllSuccessful) => HttpClassifier::AllSuccessful,
    }
}

/// The file was checked, so the bounds hold.
const CHECKED: &str = "checked when the file was read";

fn budget(budget: &Budget) -> RetryBudget {
    RetryBudget::new(BudgetSettings {
        ttl: budget.ttl,
        min_per_sec: budget.min_retries_per_sec,
        percent: budget.percent_can_retry,
    })
    .expect(CHECKED)
}

fn retry_backoff(backoff: &Backoff) -> RetryBackoff {
    match *backoff {
        Backoff::Constant { pause } => RetryBackoff::constant(pause),
        Backoff::Jittered { min, max } => RetryBackoff::decorrelated(min, max).expect(CHECKED),
    }
}

fn accrual(accrual: &super::FailureAccrual) -> AccrualPolicy {
    let failures = match accrual.kind {
        AccrualKind::ConsecutiveFailures { failures } => std::num::NonZeroU32::new(failures),
        AccrualKind::Off | AccrualKind::SuccessRate { .. } | AccrualKind::SuccessRateWindowed { .. } => None,
    };
    let backoff = match accrual.backoff {
        None => AccrualBackoff::default(),
        Some(Backoff::Constant { pause }) => AccrualBackoff::constant(pause).expect(CHECKED),
        Some(Backoff::Jittered { min, max }) => AccrualBackoff::jittered(min, max).expect(CHECKED),
    };
    AccrualPolicy { consecutive_failures: failures, backoff }
}

fn balancer(kind: &BalancerKind) -> Policy {
    let p2c = |effort| P2c::new().max_effort(std::num::NonZeroUsize::new(effort).expect(CHECKED));
    match *kind {
        BalancerKind::P2c { max_effort } => Policy::new(p2c(max_effort), LeastLoaded::new),
        BalancerKind::Ewma { max_effort, decay_time } => {
            Policy::new(p2c(max_effort), move || PeakEwma::new(decay_time))
        }
        // Refused as not supported yet.
        BalancerKind::Aperture { .. } | BalancerKind::Heap | BalancerKind::RoundRobin { .. } => Policy::least_loaded(),
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
