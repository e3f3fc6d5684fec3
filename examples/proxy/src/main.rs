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

use flags::{Command, ConfigSource, Flags, USAGE};
use linkerd_core::config::{Config, Errors, Problem};

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
    match load(&flags).map_err(|errors| errors.to_string()).and_then(|config| run::run(&flags, &config, &log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn load(flags: &Flags) -> Result<Config, Errors> {
    match &flags.config {
        ConfigSource::File(path) => Config::load(path),
        ConfigSource::Stdin => {
            let mut bytes = Vec::new();
            // One byte more than may be: so that a longer one is told from one that just fits.
            let limit = linkerd_core::config::MAX_BYTES as u64 + 1;
            match io::stdin().lock().take(limit).read_to_end(&mut bytes) {
                Ok(_) => Config::parse_bytes("<stdin>", &bytes),
                Err(error) => Err(Problem::of_file("<stdin>", format!("cannot be read: {error}")).into()),
            }
        }
    }
}
