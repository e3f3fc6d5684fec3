//! The order of things: build, bind, serve, and end on a signal.

use linkerd_cli::{Workers, flags::Flags, log::Log, signals};
use linkerd_core::{
    config::Config,
    proxy::{ConfigFile, Proxy, Reloader},
};

/// Runs a proxy until it is told to end; with `-validate` only builds it.
pub(crate) fn run(flags: &Flags, file: Option<ConfigFile>, config: &Config, log: &Log) -> Result<(), String> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let workers = Workers::of(flags, config.workers);
    workers.runtime()?.block_on(async {
        let mut proxy = Proxy::builder(config).logging(log.pages());
        if let Some(file) = file.clone() {
            proxy = proxy.source(move || file.load());
        }
        let proxy = proxy.build().map_err(|errors| errors.to_string())?;
        if flags.validate {
            return Ok(());
        }
        tracing::info!("linkerd {}", env!("CARGO_PKG_VERSION"));
        tracing::info!("workers: {}, {}", workers.count, workers.why);
        let proxy = proxy.bind().map_err(|errors| errors.to_string())?;
        tokio::spawn(hangups(proxy.reloader(), file.is_some()));
        if let Some(file) = file {
            tokio::spawn(proxy.reloader().follow(file));
        }
        tokio::spawn(signals(proxy.shutdown()));
        let drained = proxy.serve().await.map_err(|error| format!("the admin pages cannot be served: {error}"))?;
        if drained.aborted > 0 {
            tracing::warn!("{} connections were cut off: the grace period was over", drained.aborted);
        }
        Ok(())
    })
}

/// Opens the access logs again on each SIGHUP, for who moves them away, and reloads the configuration.
/// It is heard from this call on.
fn hangups(reloader: Reloader, has_file: bool) -> impl Future<Output = ()> + Send {
    use tokio::signal::unix::{SignalKind, signal};
    let hangup = signal(SignalKind::hangup());
    async move {
        let Ok(mut hangup) = hangup else {
            tracing::error!("SIGHUP cannot be heard");
            return;
        };
        while hangup.recv().await.is_some() {
            reloader.reopen_logs();
            if has_file {
                // Why it fails is logged where it does.
                let _ = reloader.reload().await;
            } else {
                tracing::warn!(
                    "SIGHUP: the access logs are opened again, but there is no file to reload: it was read from standard input"
                );
            }
        }
    }
}
