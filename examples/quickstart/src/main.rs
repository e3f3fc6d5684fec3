//! A demonstration that runs by itself: `cargo run --release -p quickstart`.
//!
//! ```text
//! curl ──► proxy ──► hello ──► proxy ──► world-v1 (world) or world-v2 (earth): as the rules say
//! ```
//!
//! With `--delivery`, the delivery of a new version to three nodes with a namerd.

mod demo;
mod flags;
mod story;
mod world;

use std::process::ExitCode;

use flags::{Flags, USAGE};
use linkerd_core::BoxError;
use quickstart::cluster::Cluster;
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    let flags = match flags::parse(std::env::args().skip(1)) {
        Ok(Some(flags)) => flags,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprint!("quickstart: {mistake}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match if flags.delivery { delivery(flags) } else { run(flags) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("quickstart: {problem}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(flags: Flags) -> Result<(), BoxError> {
    let mut signals = Signals::new()?;
    let files = world::Files::new()?;
    files.write_rules("/srv/world-v1")?;
    let yaml = world::config(&files, flags);
    let proxy = world::proxy(&yaml)?;
    let (_, addr) = proxy.servers().next().ok_or("the proxy has no server")?;
    let admin = proxy.admin_addr();
    let shutdown = proxy.shutdown();
    let _services = world::services(&files, addr).await?;
    let serving = tokio::spawn(proxy.serve());

    demo::introduce(&files, &yaml, addr, admin);
    let shown = tokio::select! {
        shown = demo::show(&files, addr, admin) => shown.map_err(|failed| format!("not as it should be: {failed}")),
        () = signals.interrupted() => Err("interrupted".into()),
    };
    if flags.once {
        shutdown.begin(None);
        serving.await??;
        return Ok(shown?);
    }
    if let Err(failed) = shown {
        println!("\n{failed}");
    }
    demo::invite(&files, addr, admin);
    signals.interrupted().await;
    println!("\nending");
    shutdown.begin(None);
    serving.await??;
    Ok(())
}

#[tokio::main]
async fn delivery(flags: Flags) -> Result<(), BoxError> {
    let mut signals = Signals::new()?;
    let mut cluster = Cluster::start().await?;
    story::introduce(&cluster);
    let shown = tokio::select! {
        shown = story::show(&mut cluster) => shown.map_err(|failed| format!("not as it should be: {failed}")),
        () = signals.interrupted() => Err("interrupted".into()),
    };
    if flags.once || shown.is_err() {
        return Ok(shown?);
    }
    story::invite(&cluster);
    signals.interrupted().await;
    println!("\nending");
    Ok(())
}

/// Ctrl-C, and what means the same: heard from the start, so that none is lost between two waits.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    async fn interrupted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
