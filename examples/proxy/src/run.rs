//! The order of things: build, bind, serve, and end on a signal.

use std::{process, thread};

use linkerd_core::{
    access_log::AccessLog,
    config::Config,
    proxy::{Proxy, Shutdown},
};
use tokio::runtime::{Builder, Runtime};

use crate::{flags::Flags, log::Log};

/// Runs a proxy until it is told to end; with `-validate` only builds it.
pub(crate) fn run(flags: &Flags, config: &Config, log: &Log) -> Result<(), String> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    runtime()?.block_on(async {
        let proxy = Proxy::builder(config).logging(log.pages()).build().map_err(|errors| errors.to_string())?;
        if flags.validate {
            return Ok(());
        }
        tracing::info!("linkerd {}", env!("CARGO_PKG_VERSION"));
        let proxy = proxy.bind().map_err(|errors| errors.to_string())?;
        tokio::spawn(reopening(proxy.access_logs()));
        tokio::spawn(signals(proxy.shutdown()));
        let drained = proxy.serve().await.map_err(|error| format!("the admin pages cannot be served: {error}"))?;
        if drained.aborted > 0 {
            tracing::warn!("{} connections were cut off: the grace period was over", drained.aborted);
        }
        Ok(())
    })
}

/// One worker for each processor that the process may use.
fn runtime() -> Result<Runtime, String> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().build().map_err(|error| format!("the runtime does not start: {error}"))
}

/// Opens the access logs again on each SIGHUP, for who moves them away.
async fn reopening(logs: Vec<AccessLog>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::error!("SIGHUP cannot be heard");
        return;
    };
    while hangup.recv().await.is_some() {
        logs.iter().for_each(AccessLog::reopen);
    }
}

/// Ends the proxy on the first SIGINT or SIGTERM, and the process on the second.
async fn signals(shutdown: Shutdown) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be heard");
        return;
    };
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    };
    tracing::info!("{}: ending when open requests have, or the grace period", next().await);
    shutdown.begin(None);
    tracing::warn!("{}: ending at once", next().await);
    process::exit(1);
}
