//! What the programs `linkerd` and `namerd` have in common: the command line, the log, the threads and the signals.

#[path = "cli/flags.rs"]
pub mod flags;
#[path = "cli/log.rs"]
pub mod log;

use std::{
    io::{self, Read},
    process::{self, ExitCode},
    thread,
};

use linkerd_core::{
    config::{Errors, MAX_BYTES, Problem},
    proxy::Shutdown,
};
use tokio::runtime::{Builder, Runtime};

use self::flags::{Command, Flags};

/// The command line is wrong: `EX_USAGE`.
const EXIT_USAGE: u8 = 64;

/// What is different about the command lines of the programs.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What it is called.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Whose files it takes: `Linkerd` or `namerd`.
    pub original: &'static str,
    /// What it does when it gets which signal, in lines.
    pub signals: &'static str,
}

impl Program {
    /// What is printed for `-help`, and after a mistake.
    #[must_use]
    pub fn usage(&self) -> String {
        let Self { name, original, signals, .. } = self;
        format!(
            "\
usage: {name} [flags] <config>

  <config>           a file in {original} 1.x's YAML or JSON; - reads it from standard input

flags:
  -validate          build everything that the file says but the sockets, report every problem, and end
  -log.level LEVEL   OFF, ERROR, WARNING, INFO (default), DEBUG or TRACE
  -workers N         how many threads serve requests; before what the file says. Default: one for each processor that the
                     process may use, by its affinity and the quota of its control group
  -help              print this and end
  -version           print the version and end

signals: {signals}

exit status: 0 after a shutdown or a file without problems, 1 if the file or an address cannot be used, 64 after a
mistake on the command line
"
        )
    }

    /// Reads the command line; `Err` is how the program ends if it asks for no more than words.
    ///
    /// # Errors
    ///
    /// The exit status, after help, the version or a mistake.
    pub fn command_line(&self) -> Result<Flags, ExitCode> {
        let Self { name, version, .. } = self;
        match Command::parse(std::env::args().skip(1)) {
            Ok(Command::Run(flags)) => Ok(flags),
            Ok(Command::Help) => {
                print!("{}", self.usage());
                Err(ExitCode::SUCCESS)
            }
            Ok(Command::Version) => {
                println!("{name} {version}");
                Err(ExitCode::SUCCESS)
            }
            Err(mistake) => {
                eprint!("{name}: {mistake}\n\n{}", self.usage());
                Err(ExitCode::from(EXIT_USAGE))
            }
        }
    }
}

/// Reads a configuration from standard input, and has it checked by `parse`.
///
/// # Errors
///
/// It cannot be read, or what is wrong with it.
pub fn from_stdin<T>(parse: impl FnOnce(&str, &[u8]) -> Result<T, Errors>) -> Result<T, Errors> {
    let mut bytes = Vec::new();
    // One byte more than may be: so that a longer one is told from one that just fits.
    let limit = MAX_BYTES as u64 + 1;
    match io::stdin().lock().take(limit).read_to_end(&mut bytes) {
        Ok(_) => parse("<stdin>", &bytes),
        Err(error) => Err(Problem::of_file("<stdin>", format!("cannot be read: {error}")).into()),
    }
}

/// Ends a program: with what was wrong, if anything was.
#[must_use]
pub fn end(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// How many threads serve requests, and why so many.
#[derive(Clone, Copy, Debug)]
pub struct Workers {
    /// How many.
    pub count: usize,
    /// Why.
    pub why: &'static str,
}

impl Workers {
    /// As the command line says, else the file, else the machine.
    #[must_use]
    pub fn of(flags: &Flags, file: Option<usize>) -> Self {
        match (flags.workers, file) {
            (Some(count), _) => Self { count: count.get(), why: "as the command line says" },
            (None, Some(count)) => Self { count, why: "as the file says" },
            // Of affinity and the control group's quota, the lower.
            (None, None) => Self {
                count: thread::available_parallelism().map_or(1, usize::from),
                why: "as many as the processors that the process may use",
            },
        }
    }

    /// A runtime with so many.
    ///
    /// # Errors
    ///
    /// The system gives no threads.
    pub fn runtime(&self) -> Result<Runtime, String> {
        let mut builder = match self.count {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let built = builder.worker_threads(self.count).enable_all().build();
        built.map_err(|error| format!("the runtime does not start: {error}"))
    }
}

/// Ends what serves on the first SIGINT or SIGTERM, and the process on the second.
///
/// These are heard from this call on, not only once the future is polled: whoever is told that the program serves may end it
/// at that very moment.
pub fn signals(shutdown: Shutdown) -> impl Future<Output = ()> + Send {
    use tokio::signal::unix::{SignalKind, signal};
    let heard = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = heard else {
            tracing::error!("signals cannot be heard");
            return;
        };
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        // Not as an argument of what is logged: at a level that is not, nothing would be waited for.
        let signal = next().await;
        tracing::info!("{signal}: ending when open requests have, or the grace period");
        shutdown.begin(None);
        let signal = next().await;
        tracing::warn!("{signal}: ending at once");
        process::exit(1);
    }
}
