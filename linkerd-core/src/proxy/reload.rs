//! Another configuration in the place of the one that there is.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::sleep,
};

use super::{
    BindErrors,
    file::ConfigFile,
    pages::{Pages, Shown, pages},
    telemeters::Telemeters,
};
use crate::{
    access_log::AccessLog,
    config::{self, Config, Errors, Plan, RouterPlan},
    telemetry::{Attempt, Counter, Gauge, Registry},
};

/// Where a configuration is read from, again and again.
#[derive(Clone)]
pub(super) struct Source(Arc<dyn Fn() -> Result<Config, Errors> + Send + Sync>);

/// How many may wait for a reload; those who come then wait to be among them.
const MAX_WAITING: usize = 16;
/// For how long a file must stay as it is to be believed: half of it may be written.
const SETTLE: Duration = Duration::from_millis(50);

/// Reloads the configuration of a proxy. A clone is for the same one.
#[derive(Clone, Debug)]
pub struct Reloader {
    requests: mpsc::Sender<Request>,
    state: Arc<State>,
}

/// Who wants to know how it goes.
pub(super) type Request = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// The labels of routers that stay as they are, with all that they learned.
    pub kept: Vec<String>,
    /// Those of routers that are new, or other than they were.
    pub built: Vec<String>,
    /// Those of routers that are gone.
    pub removed: Vec<String>,
    /// The addresses of servers that are new, or were about to close and stay after all.
    pub opened: Vec<SocketAddr>,
    /// Those of servers that end when their requests do, or after the grace period.
    pub closed: Vec<SocketAddr>,
    /// What is different in the file and stays as it was until the process is started again.
    pub pending: Vec<String>,
}

/// Why a configuration was not reloaded. What was there goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The proxy was built without a source.
    #[error("there is no file to read again")]
    NoSource,
    /// The file cannot be used: all its problems.
    #[error(transparent)]
    Invalid(#[from] Errors),
    /// New addresses cannot be listened on: all of them.
    #[error(transparent)]
    Bind(#[from] BindErrors),
    /// The proxy ends.
    #[error("the process ends")]
    Ending,
}

/// What of reloads is shown and used elsewhere.
#[derive(Debug)]
pub(super) struct State {
    reloads: Counter,
    failures: Counter,
    failed: Gauge,
    last: Mutex<Option<Value>>,
    logs: ArcSwap<Vec<AccessLog>>,
    settings: ArcSwap<Settings>,
    // What the process was started with: some of it stays.
    started: Arc<Config>,
}

/// What the file says of how it is reloaded and ended.
#[derive(Debug)]
struct Settings {
    reload: config::Reload,
    shutdown: config::Shutdown,
}

/// A configuration of which everything was built but the sockets.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) plan: Arc<Plan>,
    pub(super) pages: Pages,
    pub(super) telemeters: Arc<Telemeters>,
    /// What of it is shown, should nothing come of it.
    pub(super) attempt: Attempt,
}

impl Source {
    pub(super) fn new(source: impl Fn() -> Result<Config, Errors> + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Reloader {
    pub(super) fn new(state: Arc<State>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        (Self { requests, state }, waiting)
    }

    /// Reads the configuration again, and puts it in the place of the one that there is when all of it was built and
    /// bound: the next request of each connection goes by it, listeners of the same address are kept, and what is under
    /// way stays where it is until it ends. Otherwise nothing changes. The log and the metrics tell, too.
    ///
    /// # Errors
    ///
    /// Why nothing changed.
    ///
    /// # Cancel safety
    ///
    /// What was asked for is done all the same.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (tell, told) = oneshot::channel();
        self.requests.send(tell).await.map_err(|_| ReloadError::Ending)?;
        told.await.unwrap_or(Err(ReloadError::Ending))
    }

    /// Reloads whenever the file changes and stays so for a moment, as the `reload` section of the configuration says, until
    /// the proxy ends.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn follow(self, file: ConfigFile) {
        while !self.requests.is_closed() {
            let config::Reload { watch, interval, .. } = self.state.settings.load().reload.clone();
            sleep(interval).await;
            if !watch {
                continue;
            }
            let Some(digest) = changed(&file).await else { continue };
            sleep(SETTLE.min(interval)).await;
            if changed(&file).await != Some(digest) {
                continue;
            }
            tracing::info!("{} has changed", file.path().display());
            // Why it fails is logged where it does.
            drop(self.reload().await);
            // Also if nobody read it.
            file.set_seen(digest);
        }
    }

    /// Opens the access logs again, for who moves them away.
    pub fn reopen_logs(&self) {
        self.state.logs.load().iter().for_each(AccessLog::reopen);
    }
}

async fn changed(file: &ConfigFile) -> Option<u64> {
    let file = file.clone();
    spawn_blocking(move || file.changed()).await.ok().flatten()
}

impl State {
    pub(super) fn new(registry: &Registry, plan: &Plan) -> Self {
        let scope = registry.root().scope("config");
        Self {
            reloads: scope.counter("reloads"),
            failures: scope.counter("reload_failures"),
            failed: scope.gauge("reload_failed"),
            last: Mutex::default(),
            logs: ArcSwap::from_pointee(logs(plan)),
            settings: ArcSwap::from_pointee(Settings::of(plan)),
            started: Arc::clone(plan.config()),
        }
    }

    pub(super) fn shutdown(&self) -> config::Shutdown {
        self.settings.load().shutdown.clone()
    }

    /// Notes that this plan is what is served.
    pub(super) fn serves(&self, plan: &Plan) {
        self.logs.store(Arc::new(logs(plan)));
        self.settings.store(Arc::new(Settings::of(plan)));
    }

    /// What of this plan has to wait for the next start.
    pub(super) fn pending(&self, plan: &Plan) -> Vec<String> {
        pending(&self.started, plan.config())
    }

    /// Counts, logs and keeps how a reload went.
    pub(super) fn note(&self, result: &Result<Reloaded, ReloadError>) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let last = match result {
            Ok(reloaded) => {
                self.reloads.incr();
                self.failed.set(0);
                tracing::info!("the configuration was reloaded: {reloaded}");
                for pending in &reloaded.pending {
                    tracing::warn!("{pending} is used when the process is started again: until then it is as it was");
                }
                json!({"atMs": at, "ok": true, "changes": reloaded.to_json()})
            }
            Err(error) => {
                self.failures.incr();
                self.failed.set(1);
                tracing::error!("the configuration was not reloaded, what was there goes on:\n{error}");
                json!({"atMs": at, "ok": false, "error": error.to_string()})
            }
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// As pages show it.
    pub(super) fn to_json(&self) -> Value {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({"reloads": self.reloads.get(), "failures": self.failures.get(), "last": last})
    }
}

impl Settings {
    fn of(plan: &Plan) -> Self {
        let config = plan.config();
        Self { reload: config.reload.clone(), shutdown: config.shutdown.clone() }
    }
}

fn logs(plan: &Plan) -> Vec<AccessLog> {
    plan.routers.iter().filter_map(|router| router.access_log.clone()).collect()
}

/// Reads, checks and builds the next configuration, and waits for the names in use to be bound by it.
pub(super) async fn prepare(
    source: Source,
    before: Arc<Plan>,
    shown: Shown,
    telemeters: Arc<Telemeters>,
) -> Result<Prepared, ReloadError> {
    let old = Arc::clone(&before);
    // It reads files.
    let built = spawn_blocking(move || {
        let config = source.0()?;
        let attempt = shown.registry.attempt();
        let plan = config.draft(Some(&old), &shown.registry)?;
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        // What they have seen stays with them.
        let is_same = old.config().telemetry == config.telemetry;
        let telemeters = if is_same { telemeters } else { Arc::new(Telemeters::of(&config)) };
        match pages(&config, &plan, &shown, &telemeters) {
            Ok(pages) => Ok(Prepared { plan: Arc::new(plan), pages, telemeters, attempt }),
            Err(errors) => {
                give_up(plan, attempt);
                Err(errors)
            }
        }
    });
    // Only a runtime that ends, or a panic, gives no result.
    let prepared: Prepared = built.await.map_err(|_| ReloadError::Ending)?.map_err(ReloadError::Invalid)?;
    bind_ahead(&prepared.plan, Some(&before)).await;
    Ok(prepared)
}

/// Takes out what a configuration shows that does not come to be. In a tokio runtime: what it has bound ahead lets go of its
/// handles in tasks of its own.
pub(super) fn give_up<P>(plan: P, attempt: Attempt) {
    const TRIES: usize = 50;
    // Its handles first.
    drop(plan);
    tokio::spawn(async move {
        for _ in 0..TRIES {
            if attempt.undo() {
                return;
            }
            sleep(SETTLE).await;
        }
    });
}

/// Waits, for as long as the file says, until names are bound: those that a router always gives, and those that it gave
/// before.
pub(super) async fn bind_ahead(plan: &Plan, before: Option<&Plan>) {
    let within = plan.config().reload.bind;
    let routers = plan.routers.iter().filter(|router| !router.is_kept).map(|router| {
        let same = before.and_then(|before| before.routers.iter().find(|old| old.label == router.label));
        let used = same.map(|old| old.mesh.paths()).unwrap_or_default();
        let used = used.into_iter().filter(|state| state.local.is_empty()).map(|state| state.path);
        let names: Vec<_> = router.fixed_names.iter().cloned().chain(used).collect();
        async move {
            if !within.is_zero() {
                router.mesh.bind_ahead(names, within).await;
            }
        }
    });
    futures::future::join_all(routers).await;
}

impl Reloaded {
    /// What becomes of the routers of one plan with another.
    pub(super) fn between(before: &Plan, plan: &Plan) -> Self {
        let label = |router: &RouterPlan| router.label.clone();
        let (kept, built): (Vec<_>, Vec<_>) = plan.routers.iter().partition(|router| router.is_kept);
        let is_gone = |old: &&RouterPlan| plan.routers.iter().all(|router| router.label != old.label);
        Self {
            kept: kept.into_iter().map(label).collect(),
            built: built.into_iter().map(label).collect(),
            removed: before.routers.iter().filter(is_gone).map(label).collect(),
            ..Self::default()
        }
    }

    /// As pages show it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { kept, built, removed, opened, closed, pending } = self;
        json!({
            "kept": kept,
            "built": built,
            "removed": removed,
            "opened": opened.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "closed": closed.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "pending": pending,
        })
    }
}

/// What cannot be changed while the process runs, and is different.
fn pending(old: &Config, new: &Config) -> Vec<String> {
    // Field by field, so that a new key is not forgotten.
    let config::Admin {
        ip,
        port,
        shutdown_grace: _,
        tls,
        socket_options,
        worker_threads,
        http_identifier_port,
        security: _,
    } = &new.admin;
    let admin = &old.admin;
    let all = [
        ("admin.ip", *ip != admin.ip),
        ("admin.port", *port != admin.port),
        ("admin.tls", *tls != admin.tls),
        ("admin.socketOptions", *socket_options != admin.socket_options),
        ("admin.workerThreads", *worker_threads != admin.worker_threads),
        ("admin.httpIdentifierPort", *http_identifier_port != admin.http_identifier_port),
        ("workers", new.workers != old.workers),
        ("retryBufferBytes", new.retry_buffer_bytes != old.retry_buffer_bytes),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kept, built, removed, opened, closed, pending: _ } = self;
        let addrs = |addrs: &[SocketAddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        let all = [
            ("routers as they were", kept.clone()),
            ("routers built", built.clone()),
            ("routers removed", removed.clone()),
            ("servers opened", addrs(opened)),
            ("servers closed", addrs(closed)),
        ];
        let said = all.iter().filter(|(_, names)| !names.is_empty());
        for (i, (what, names)) in said.enumerate() {
            write!(f, "{}{what}: {}", if i == 0 { "" } else { "; " }, names.join(", "))?;
        }
        Ok(())
    }
}
