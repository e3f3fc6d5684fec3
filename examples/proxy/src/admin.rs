//! The admin pages of one proxy.

use std::time::Duration;

use linkerd_core::{
    Svc,
    admin::{Admin, Identify, Router, Security, answer_state, mesh_clients, mesh_state, snapshot_state},
    config::{Config, Plan, TelemeterKind},
    telemetry::{Prometheus, Registry},
};
use tokio::sync::watch;

use crate::log::Log;

/// What is served to those who run the proxy.
pub(crate) struct Pages {
    /// On the admin port.
    pub(crate) admin: Svc,
    /// On the `httpIdentifierPort`.
    pub(crate) names: Svc,
}

/// The pages that a file asks for. `shutdown` is told when to end, and with which grace.
pub(crate) fn pages(
    config: &Config,
    plan: &Plan,
    registry: &Registry,
    log: &Log,
    shutdown: watch::Sender<Option<Duration>>,
) -> Result<Pages, String> {
    let grace = config.admin.shutdown_grace;
    let mut admin = Admin::builder(registry.clone())
        .config(config.to_json())
        .global(plan.system.clone())
        .logging(log.pages())
        .shutdown(move |asked| {
            shutdown.send_replace(Some(asked.unwrap_or(grace)));
        });
    for router in &plan.routers {
        let mut shown = Router::new(&router.label, router.dtab.clone(), router.interpreter.clone()).protocol("http");
        for server in &router.servers {
            shown = shown.server(server.addr.to_string());
        }
        let mesh = router.mesh.clone();
        admin = admin.router(shown).state(format!("rt/{}", router.label), move || mesh_state(&mesh));
    }
    let meshes: Vec<_> = plan.routers.iter().map(|router| router.mesh.clone()).collect();
    admin = admin.client_state(move || {
        let mut all = serde_json::Map::new();
        for mesh in &meshes {
            mesh_clients(mesh, &mut all);
        }
        all.into()
    });
    for (prefix, namer) in &plan.fs_namers {
        // `/#/io.l5d.fs` has its page at `/namer_state/io.l5d.fs.json`.
        let page = format!("/namer_state{}.json", prefix.drop_first(1));
        let namer = namer.clone();
        admin = admin.json(page, move || {
            let watched = namer.state().into_iter().map(|watched| {
                let state = snapshot_state(&watched.file.display().to_string(), &watched.tree, answer_state);
                (watched.path.to_string(), state)
            });
            serde_json::Value::Object(watched.collect())
        });
    }
    let namers = plan.fs_namers.clone();
    admin = admin.bound_names(move || {
        let named = namers.iter().flat_map(|(prefix, namer)| {
            namer.names().unwrap_or_default().into_iter().map(move |name| prefix.concat(&name).to_string())
        });
        named.collect()
    });
    for telemeter in &config.telemetry {
        if let TelemeterKind::Prometheus { path, prefix } = &telemeter.kind {
            admin = admin.prometheus(path, Prometheus::new().prefix(prefix));
        }
    }
    if let Some(security) = &config.admin.security {
        let texts =
            |patterns: &[linkerd_core::config::Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        let built = Security::new()
            .ui(security.ui_enabled)
            .control(security.control_enabled)
            .diagnostics(security.diagnostics_enabled)
            .whitelist(texts(&security.path_whitelist))
            .and_then(|built| built.blacklist(texts(&security.path_blacklist)));
        admin = admin.security(built.map_err(|error| format!("admin.security: {error}"))?);
    }
    let mut names = Identify::new();
    for router in &plan.routers {
        names = names.router(&router.label, router.identifier.clone(), router.dtab.clone());
    }
    let admin = admin.build().map_err(|error| format!("admin: {error}"))?;
    Ok(Pages { admin: admin.into_svc(), names: names.into_svc() })
}
