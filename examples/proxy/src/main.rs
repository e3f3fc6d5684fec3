//! `linkerd`: a proxy that takes Linkerd 1.x's configuration files.
//!
//! All of the engine is in `linkerd-core`; here are the command line, the signals, and the order of starting and ending.

mod flags;
mod log;
mod run;

use std::{
    io::{self, Read},
    process::ExitCode,
};

use flags::{Command, ConfigSource, USAGE};
use linkerd_core::{
    config::{Config, Errors, Problem},
    proxy::ConfigFile,
};

/// The command line is wrong: `EX_USAGE`.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let flags = match Command::parse(std::env::args().skip(1)) {
        Ok(Command::Run(flags)) => flags,
        Ok(Command::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Version) => {
            println!("linkerd {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprint!("linkerd: {mistake}\n\n{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let log = log::init(flags.log_level);
    let file = match &flags.config {
        ConfigSource::File(path) => Some(ConfigFile::new(path)),
        ConfigSource::Stdin => None,
    };
    let config = file.as_ref().map_or_else(from_stdin, ConfigFile::load);
    match config.map_err(|errors| errors.to_string()).and_then(|config| run::run(&flags, file, &config, &log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn from_stdin() -> Result<Config, Errors> {
    let mut bytes = Vec::new();
    // One byte more than may be: so that a longer one is told from one that just fits.
    let limit = linkerd_core::config::MAX_BYTES as u64 + 1;
    match io::stdin().lock().take(limit).read_to_end(&mut bytes) {
        Ok(_) => Config::parse_bytes("<stdin>", &bytes),
        Err(error) => Err(Problem::of_file("<stdin>", format!("cannot be read: {error}")).into()),
    }
}
