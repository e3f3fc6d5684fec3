//! The order of things: build, bind, serve, and end on a signal.

use std::{process, thread};

use linkerd_core::{
    config::Config,
    proxy::{ConfigFile, Proxy, Reloader, Shutdown},
};
use tokio::runtime::{Builder, Runtime};

use crate::{flags::Flags, log::Log};

/// Runs a proxy until it is told to end; with `-validate` only builds it.
pub(crate) fn run(flags: &Flags, file: Option<ConfigFile>, config: &Config, log: &Log) -> Result<(), String> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let workers = Workers::of(flags, config);
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

/// How many threads serve requests, and why so many.
struct Workers {
    count: usize,
    why: &'static str,
}

impl Workers {
    fn of(flags: &Flags, config: &Config) -> Self {
        match (flags.workers, config.workers) {
            (Some(count), _) => Self { count: count.get(), why: "as the command line says" },
            (None, Some(count)) => Self { count, why: "as the file says" },
            // Of affinity and the control group's quota, the lower.
            (None, None) => Self {
                count: thread::available_parallelism().map_or(1, usize::from),
                why: "as many as the processors that the process may use",
            },
        }
    }

    fn runtime(&self) -> Result<Runtime, String> {
        let mut builder = match self.count {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let built = builder.worker_threads(self.count).enable_all().build();
        built.map_err(|error| format!("the runtime does not start: {error}"))
    }
}

/// Opens the access logs again on each SIGHUP, for who moves them away, and reloads the configuration.
async fn hangups(reloader: Reloader, has_file: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
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
