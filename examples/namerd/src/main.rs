//! `namerd`: a control plane that takes namerd 1.x's configuration files.
//!
//! All of it is in `linkerd-core` and `linkerd-dtab`; here are the command line, the signals, and the order of starting and
//! ending.

use std::process::ExitCode;

use linkerd_cli::{
    Program, Workers, end,
    flags::{ConfigSource, Flags},
    from_stdin,
    log::{self, Log},
    signals,
};
use linkerd_core::{config::namerd::Namerd, namerd::Host};

const PROGRAM: Program = Program {
    name: "namerd",
    version: env!("CARGO_PKG_VERSION"),
    original: "namerd",
    signals: "the first TERM or INT ends the process when open requests have, or the grace period; the second ends it at once",
};

fn main() -> ExitCode {
    let flags = match PROGRAM.command_line() {
        Ok(flags) => flags,
        Err(status) => return status,
    };
    let log = log::init(flags.log_level);
    let config = match &flags.config {
        ConfigSource::File(path) => Namerd::load(path),
        ConfigSource::Stdin => from_stdin(Namerd::parse_bytes),
    };
    end(config.map_err(|errors| errors.to_string()).and_then(|config| run(&flags, &config, &log)))
}

/// Runs a namerd until it is told to end; with `-validate` only builds it.
fn run(flags: &Flags, config: &Namerd, log: &Log) -> Result<(), String> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let workers = Workers::of(flags, config.common.workers);
    workers.runtime()?.block_on(async {
        let host = Host::builder(config).logging(log.pages()).build().map_err(|errors| errors.to_string())?;
        if flags.validate {
            return Ok(());
        }
        tracing::info!("namerd {}", env!("CARGO_PKG_VERSION"));
        tracing::info!("workers: {}, {}", workers.count, workers.why);
        let host = host.bind().map_err(|errors| errors.to_string())?;
        tokio::spawn(signals(host.shutdown()));
        let drained = host.serve().await.map_err(|error| format!("the admin pages cannot be served: {error}"))?;
        if drained.aborted > 0 {
            tracing::info!("{} connections were still watching, and were ended", drained.aborted);
        }
        Ok(())
    })
}
