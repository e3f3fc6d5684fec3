//! The proxy beside the least that a proxy on hyper can be: CPU time, instructions, latency and memory; and what
//! it does to requests that somebody reads all metrics.
//!
//! `just bench-e2e` builds both and prints the tables of `docs/performance.md`. All traffic is on loopback. The proxy has
//! one core to itself and one worker, load and endpoints share another; where there is no `taskset`, or one core alone,
//! nothing is pinned, and figures mean less. Instructions are counted if `valgrind` is there: they repeat, all else
//! depends on what the machine has to do beside. With its 2,000 destinations the last part needs 2,500 open files (`ulimit -n`).
//!
//! ```text
//! e2e [--rounds N] [--requests N] [--hosts N] [--only WORD] [--proxy PATH]
//! ```

#![allow(clippy::disallowed_methods, reason = "there is no paused clock, and who coordinates processes may block")]

mod endpoints;
mod floor;
mod load;
mod process;
mod report;
mod scrape;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::{net::TcpListener, runtime::Builder};

use load::Load;
use process::{Bench, has};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is spoken, on both sides but for TLS, which is the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Tls,
    H2c,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Tls => "tls",
            Self::H2c => "h2c",
        }
    }

    fn of(name: &str) -> Result<Self, BoxError> {
        let all = [Self::Http1, Self::Tls, Self::H2c];
        all.into_iter().find(|one| one.name() == name).ok_or_else(|| format!("no protocol is called {name}").into())
    }
}

fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("floor" | "endpoints" | "load") => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(part(&args))
        }
        Some("scrape") => scrape::part(&args),
        _ => run(&args),
    }
}

/// One of the processes of a run.
async fn part(args: &[String]) -> Result<(), BoxError> {
    let protocol = Protocol::of(args.get(2).map_or("", String::as_str))?;
    match args[0].as_str() {
        "floor" => {
            let endpoints: Vec<SocketAddr> = args[3..].iter().map(|addr| addr.parse()).collect::<Result<_, _>>()?;
            floor::serve(TcpListener::bind(&args[1]).await?, protocol, &endpoints).await
        }
        "endpoints" => {
            let addrs = endpoints::bind(args[1].parse()?, protocol).await?;
            println!("{}", addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            std::future::pending().await
        }
        _ => {
            let numbers: Vec<u64> = args[3..].iter().map(|arg| arg.parse()).collect::<Result<_, _>>()?;
            let [size, requests, rate, connections, names] = numbers[..] else { return Err("five numbers".into()) };
            let (size, connections, streams) = (size as usize, connections as usize, 16);
            let (to, asked) = (args[1].parse()?, Arc::default());
            Load { to, protocol, size, requests, rate, connections, streams, names, asked }.run().await
        }
    }
}

/// The whole: as the command line has it.
fn run(args: &[String]) -> Result<(), BoxError> {
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).map(String::as_str)
    };
    let number = |name, otherwise| option(name).map_or(Ok(otherwise), str::parse);
    let exe = std::env::current_exe()?;
    // Examples are one directory below.
    let beside = exe.parent().and_then(|dir| dir.parent()).ok_or("no directory")?.join("linkerd");
    let proxy = option("--proxy").map_or(beside, PathBuf::from).canonicalize();
    let proxy = proxy.map_err(|_| "there is no proxy to measure: `cargo build --release -p linkerd`")?;
    let dir = std::env::temp_dir().join(format!("linkerd-e2e-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    tls::issue(&dir)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let is_pinned = cores > 1 && has("taskset");
    let admin = ([127, 0, 0, 1], 0).into();
    let bench = Bench { proxy, dir: dir.clone(), is_pinned, names: report::NAMES, admin };
    let report = report::Plan {
        rounds: number("--rounds", 7)?,
        requests: number("--requests", 20_000)?,
        hosts: number("--hosts", 20_000)?,
        only: option("--only").unwrap_or_default().to_owned(),
    };
    let result = report.run(&bench);
    let _ = std::fs::remove_dir_all(dir);
    result
}
