//! `linkerd`: a proxy that takes Linkerd 1.x's configuration files.
//!
//! All of the engine is in `linkerd-core`; here are the command line, the signals, and the order of starting and ending.

mod run;

use std::process::ExitCode;

use linkerd_cli::{command_line, end, flags::ConfigSource, from_stdin, log};
use linkerd_core::{config::Config, proxy::ConfigFile};

/// What is printed for `-help`, and after a mistake.
const USAGE: &str = "\
usage: linkerd [flags] <config>

  <config>           a file in Linkerd 1.x's YAML or JSON; - reads it from standard input

flags:
  -validate          build everything that the file says but the sockets, report every problem, and end
  -log.level LEVEL   OFF, ERROR, WARNING, INFO (default), DEBUG or TRACE
  -workers N         how many threads serve requests; before what the file says. Default: one for each processor that the
                     process may use, by its affinity and the quota of its control group
  -help              print this and end
  -version           print the version and end

signals: HUP opens the access logs again and reloads the file, which is followed too; the first TERM or INT ends the process
when open requests have, or the grace period; the second ends it at once

exit status: 0 after a shutdown or a file without problems, 1 if the file or an address cannot be used, 64 after a
mistake on the command line
";

fn main() -> ExitCode {
    let flags = match command_line("linkerd", env!("CARGO_PKG_VERSION"), USAGE) {
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
