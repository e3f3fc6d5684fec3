//! `linkerd`: a proxy that takes Linkerd 1.x's configuration files.
//!
//! All of the engine is in `linkerd-core`; here are the command line, the signals, and the order of starting and ending.

mod run;

use std::process::ExitCode;

use linkerd_cli::{Program, end, flags::ConfigSource, from_stdin, log};
use linkerd_core::{config::Config, proxy::ConfigFile};

const PROGRAM: Program = Program {
    name: "linkerd",
    version: env!("CARGO_PKG_VERSION"),
    original: "Linkerd",
    signals: "\
HUP opens the access logs again and reloads the file, which is followed too; the first TERM or INT ends the process
when open requests have, or the grace period; the second ends it at once",
};

fn main() -> ExitCode {
    let flags = match PROGRAM.command_line() {
        Ok(flags) => flags,
        Err(status) => return status,
    };
    let log = log::init(flags.log_level);
    let file = match &flags.config {
        ConfigSource::File(path) => Some(ConfigFile::new(path)),
        ConfigSource::Stdin => None,
    };
    let config = file.as_ref().map_or_else(|| from_stdin(Config::parse_bytes), ConfigFile::load);
    end(config.map_err(|errors| errors.to_string()).and_then(|config| run::run(&flags, file, &config, &log)))
}
