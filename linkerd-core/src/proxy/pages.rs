//! What a proxy shows of itself on its admin pages.

use std::{collections::BTreeMap, fmt, sync::Arc, thread, time::Duration};

use linkerd_dtab::Path;
use serde_json::json;
use tokio::{runtime::Handle, time::timeout};

use super::{
    Shutdown,
    reload::{Reloader, State},
    telemeters::Telemeters,
};
use crate::{
    Svc,
    admin::{
        Admin, Builder, Identify, InvalidPattern, Logging, Router, Security, answer_state, mesh_balancers,
        mesh_clients, mesh_state, snapshot_state, timeouts, watch_state,
    },
    config::{AdminSecurity, Config, Errors, Namerds, Pattern, Plan},
    http::Switch,
    namer::fs,
    telemetry::Registry,
};

/// What is served to those who run the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    /// On the admin port.
    pub(crate) admin: Svc,
    /// On the `httpIdentifierPort`.
    pub(crate) names: Svc,
}

/// The pages as they are at the time.
#[derive(Clone)]
pub(super) struct Switches {
    admin: Arc<Switch>,
    names: Arc<Switch>,
}

/// What pages show that is not of a configuration.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) registry: Registry,
    pub(super) logging: Option<Logging>,
    pub(super) shutdown: Shutdown,
    pub(super) reloader: Reloader,
    pub(super) state: Arc<State>,
    /// Of those who serve requests.
    pub(super) runtime: Handle,
    /// Whether there is something to reload from.
    pub(super) can_reload: bool,
}

/// How long those who serve requests may take to show that they live.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

impl Switches {
    pub(super) fn new(pages: Pages) -> Self {
        Self { admin: Switch::new(pages.admin), names: Switch::new(pages.names) }
    }

    /// What shows each time the pages of that time.
    pub(super) fn pages(&self) -> Pages {
        Pages { admin: self.admin.svc(), names: self.names.svc() }
    }

    pub(super) fn set(&self, pages: Pages) {
        self.admin.set(pages.admin);
        self.names.set(pages.names);
    }
}

impl Shown {
    /// Pages about the process, whatever its file says.
    fn process(&self) -> Builder {
        let mut admin = Admin::builder(self.registry.clone());
        let (shutdown, drain, ready) = (self.shutdown.clone(), self.shutdown.clone(), self.shutdown.clone());
        admin = admin
            .shutdown(move |grace| shutdown.begin(grace))
            .drain(move |drains| drain.drain(drains))
            .ready(move || ready.ready().map_err(str::to_owned));
        let runtime = self.runtime.clone();
        admin = admin.live(move || {
            let answer = runtime.spawn(async {});
            Box::pin(async move { matches!(timeout(ALIVE_WITHIN, answer).await, Ok(Ok(()))) })
        });
        if self.can_reload {
            let (state, reloader) = (Arc::clone(&self.state), self.reloader.clone());
            admin = admin.reload(
                move || state.to_json(),
                move || {
                    let reloader = reloader.clone();
                    Box::pin(async move {
                        let reloaded = reloader.reload().await.map_err(|error| error.to_string())?;
                        Ok(reloaded.to_json())
                    })
                },
            );
        }
        let (state, shutdown, runtime) = (Arc::clone(&self.state), self.shutdown.clone(), self.runtime.clone());
        admin = admin.json("/admin/process.json", move || {
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "phase": shutdown.phase().name(),
                "ready": shutdown.ready().is_ok(),
                "workers": runtime.metrics().num_workers(),
                "processors": thread::available_parallelism().ok().map(usize::from),
                "reload": state.to_json(),
            })
        });
        match &self.logging {
            Some(logging) => admin.logging(logging.clone()),
            None => admin,
        }
    }
}

impl fmt::Debug for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switches").finish_non_exhaustive()
    }
}

/// The pages that a file asks for.
///
/// # Errors
///
/// Pages that cannot be where the file puts them, patterns that match nothing that is a path.
pub(super) fn pages(config: &Config, plan: &Plan, shown: &Shown, telemeters: &Telemeters) -> Result<Pages, Errors> {
    let mut admin = shown.process().config(config.to_json()).global(plan.system.clone());
    let mut names = Identify::new();
    for router in &plan.routers {
        let mut shown = Router::new(&router.label, router.dtab.clone(), router.interpreter.clone()).protocol("http");
        for server in &router.servers {
            shown = shown.server(server.addr.to_string());
        }
        let mesh = router.mesh.clone();
        admin = admin.router(shown).state(format!("rt/{}", router.label), move || mesh_state(&mesh));
        names = names.router(&router.label, router.identifier.clone(), router.dtab.clone());
    }
    let meshes: Vec<_> = plan.routers.iter().map(|router| router.mesh.clone()).collect();
    admin = admin.client_state(move || {
        let mut all = serde_json::Map::new();
        for mesh in &meshes {
            mesh_clients(mesh, &mut all);
        }
        all.into()
    });
    let meshes: Vec<_> = plan.routers.iter().map(|router| (router.label.clone(), router.mesh.clone())).collect();
    let forced = meshes.clone();
    admin = admin.breakers(move |what| {
        let wanted = forced.iter().filter(|(label, _)| what.router.as_ref().is_none_or(|router| router == label));
        wanted.map(|(_, mesh)| mesh.force(&what.client, what.endpoint, what.force)).sum()
    });
    admin = admin.json("/admin/balancers.json", move || {
        meshes.iter().map(|(label, mesh)| (label.clone(), mesh_balancers(mesh))).collect()
    });
    let timers = timeouts(config);
    admin = admin.json("/admin/timeouts.json", move || timers.clone());
    admin = namers(admin, &plan.fs_namers);
    for router in &plan.routers {
        for namerds in &router.namerds {
            admin = interpreter(admin, &router.label, namerds);
        }
    }
    for (path, prometheus) in &telemeters.metrics {
        admin = admin.prometheus(path, prometheus.clone());
    }
    for recent in &telemeters.requests {
        admin = admin.requests(Arc::clone(recent));
    }
    if let Some(settings) = &config.admin.security {
        let security = security(settings).map_err(|error| config.problem("admin.security", error.to_string()))?;
        admin = admin.security(security);
    }
    // Telemeters' pages are the only ones that a file places, or asks for twice.
    let admin = admin.build().map_err(|error| config.problem("telemetry", error.to_string()))?;
    Ok(Pages { admin: admin.into_svc(), names: names.into_svc() })
}

/// What is known of the names that namerds bind.
fn interpreter(admin: Builder, label: &str, namerds: &Namerds) -> Builder {
    let Namerds { kind, namespace, remote } = namerds.clone();
    admin.json(format!("/{label}/interpreter_state/{kind}/{namespace}.json"), move || {
        let names = remote.names().into_iter().map(|(dtab, path, tree)| {
            let name = if dtab.is_empty() { path.to_string() } else { format!("{path} under {dtab}") };
            (name, watch_state(kind, &tree, |tree| tree.to_string().into()))
        });
        serde_json::Value::Object(names.collect())
    })
}

pub(crate) fn namers(mut admin: Builder, namers: &[(Path, fs::Namer)]) -> Builder {
    let mut by_prefix = BTreeMap::<&Path, Vec<fs::Namer>>::new();
    for (prefix, namer) in namers {
        by_prefix.entry(prefix).or_default().push(namer.clone());
    }
    for (prefix, namers) in by_prefix {
        // `/#/io.l5d.fs` has its page at `/namer_state/io.l5d.fs.json`, which all that are mounted there share.
        let page = format!("/namer_state{}.json", prefix.drop_first(1));
        admin = admin.json(page, move || {
            let watched = namers.iter().flat_map(fs::Namer::state).map(|watched| {
                let state = snapshot_state(&watched.file.display().to_string(), &watched.tree, answer_state);
                (watched.path.to_string(), state)
            });
            serde_json::Value::Object(watched.collect())
        });
    }
    let namers = namers.to_vec();
    admin.bound_names(move || {
        let named = namers.iter().flat_map(|(prefix, namer)| {
            namer.names().unwrap_or_default().into_iter().map(move |name| prefix.concat(&name).to_string())
        });
        named.collect()
    })
}

pub(crate) fn security(settings: &AdminSecurity) -> Result<Security, InvalidPattern> {
    let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let AdminSecurity { ui_enabled, control_enabled, diagnostics_enabled, path_whitelist, path_blacklist } = settings;
    Security::new()
        .ui(*ui_enabled)
        .control(*control_enabled)
        .diagnostics(*diagnostics_enabled)
        .whitelist(texts(path_whitelist))?
        .blacklist(texts(path_blacklist))
}
