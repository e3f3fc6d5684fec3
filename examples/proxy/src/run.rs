//! The order of things: build, bind, serve, and end on a signal.

use std::{net::SocketAddr, thread, time::Duration};

use linkerd_core::{
    admin::serve as admin_serve,
    config::{Config, Plan, socket_options},
    http::Server,
    telemetry::{Registry, process},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinSet,
};

use crate::{
    admin::{self, Pages},
    flags::Flags,
    log::Log,
};

/// Runs a proxy until it is told to end; with `-validate` only builds it.
pub(crate) fn run(flags: &Flags, config: &Config, log: Log) -> Result<(), String> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = runtime()?;
    let registry = Registry::new();
    process::register(&registry);
    let plan = runtime.block_on(async { config.build(&registry) }).map_err(|errors| errors.to_string())?;
    let (shutdown, ended) = watch::channel(None);
    let pages = runtime.block_on(async { admin::pages(config, &plan, &registry, &log, shutdown.clone()) })?;
    if flags.validate {
        return Ok(());
    }
    tracing::info!("linkerd {}", env!("CARGO_PKG_VERSION"));
    let admin = serve_admin(config, pages)?;
    let result = runtime.block_on(serve(plan, &registry, shutdown, ended, config.admin.shutdown_grace));
    // Told even when a port was taken and nothing was served.
    admin.end();
    result
}

/// One worker for each processor that the process may use.
fn runtime() -> Result<Runtime, String> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().build().map_err(|error| format!("the runtime does not start: {error}"))
}

async fn serve(
    plan: Plan,
    registry: &Registry,
    shutdown: watch::Sender<Option<Duration>>,
    ended: watch::Receiver<Option<Duration>>,
    grace: Duration,
) -> Result<(), String> {
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    for router in &plan.routers {
        for server in &router.servers {
            match Server::bind(server.clone()) {
                Ok(server) => bound.push((router, server)),
                Err(error) => {
                    problems.push(format!("router {}: cannot listen on {}: {error}", router.label, server.addr))
                }
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems.join("\n"));
    }
    let mut servers = JoinSet::new();
    for (router, server) in bound {
        tracing::info!("serving {} on {}", router.label, server.local_addr());
        servers.spawn(server.serve(router.service(), told(ended.clone())));
    }
    let rolling = registry.clone();
    let metrics = tokio::spawn(async move { rolling.drive().await });
    tokio::spawn(signals(shutdown, grace));
    tracing::info!("initialized");
    while let Some(drained) = servers.join_next().await {
        if let Ok(drained) = drained
            && drained.aborted > 0
        {
            tracing::warn!("{} connections were cut off: the grace period was over", drained.aborted);
        }
    }
    metrics.abort();
    Ok(())
}

/// Ends the program on the first SIGINT or SIGTERM.
async fn signals(shutdown: watch::Sender<Option<Duration>>, grace: Duration) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be heard");
        return;
    };
    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    tracing::info!("{name}: ending, with {grace:?} of grace");
    shutdown.send_replace(Some(grace));
}

async fn told(mut ended: watch::Receiver<Option<Duration>>) {
    // Gone is as good as told.
    let _ = ended.wait_for(Option::is_some).await;
}

/// The admin server, on threads of its own: however long a page takes, requests do not wait for it.
struct AdminServer {
    end: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

fn serve_admin(config: &Config, pages: Pages) -> Result<AdminServer, String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.admin.worker_threads.max(1))
        .thread_name("admin")
        .enable_all()
        .build()
        .map_err(|error| format!("the admin's runtime does not start: {error}"))?;
    let socket = socket_options(&config.admin.socket_options);
    let listen = |port| {
        let addr = SocketAddr::new(config.admin.ip, port);
        let listener = runtime.block_on(async { socket.listen(addr) });
        listener.map_err(|error| format!("admin: cannot listen on {addr}: {error}"))
    };
    let listener = listen(config.admin.port)?;
    let names = config.admin.http_identifier_port.map(listen).transpose()?;
    if let Ok(addr) = listener.local_addr() {
        tracing::info!("serving http admin on {addr}");
    }
    let (end, ended) = watch::channel(false);
    let told = |mut ended: watch::Receiver<bool>| async move { drop(ended.wait_for(|end| *end).await) };
    let serve = move || {
        runtime.block_on(async move {
            let names = names.map(|names| tokio::spawn(admin_serve(names, pages.names, told(ended.clone()))));
            admin_serve(listener, pages.admin, told(ended)).await;
            if let Some(names) = names {
                // A panic in there was printed already.
                let _ = names.await;
            }
        });
    };
    let thread = thread::Builder::new().name("admin".into()).spawn(serve);
    let thread = thread.map_err(|error| format!("the admin's thread does not start: {error}"))?;
    Ok(AdminServer { end, thread })
}

impl AdminServer {
    fn end(self) {
        self.end.send_replace(true);
        // A panic in there was printed already.
        let _ = self.thread.join();
    }
}
