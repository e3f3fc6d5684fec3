//! The processes of a run, and what the kernel says of them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{BoxError, Protocol, tls};

/// Where a process runs: the proxy alone on one core, all others on another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Core {
    Proxy,
    Others,
}

/// A process, which is killed with this.
pub(super) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contestant {
    Ours,
    Floor,
    /// No proxy: straight to one endpoint.
    Direct,
}

/// What the processes of a run have in common.
#[derive(Clone)]
pub(super) struct Bench {
    /// The `linkerd` to measure.
    pub(super) proxy: PathBuf,
    /// Where they work.
    pub(super) dir: PathBuf,
    /// Whether `taskset` can pin processes, and there are two cores to pin them to.
    pub(super) is_pinned: bool,
    /// How many destinations there are beside the one that is measured, all with the same endpoints.
    pub(super) names: u64,
    /// Where the admin pages are; anywhere with port 0.
    pub(super) admin: SocketAddr,
}

impl Bench {
    /// Starts this program once more, as one of its parts.
    pub(super) fn part(&self, core: Core, args: &[String]) -> Result<Process, BoxError> {
        let exe = std::env::current_exe()?;
        self.start(core, exe.as_os_str().to_str().ok_or("a path that is no text")?, args)
    }

    /// The same, for what is to leave the processor to all others.
    pub(super) fn aside(&self, args: &[&str]) -> Result<Process, BoxError> {
        let exe = std::env::current_exe()?.display().to_string();
        let args = ["-n", "19", &exe].into_iter().chain(args.iter().copied());
        self.start(Core::Others, "nice", &args.map(str::to_owned).collect::<Vec<_>>())
    }

    /// Starts a proxy in front of these endpoints. `wrapper` is what runs it, if anything does.
    pub(super) fn proxy(
        &self,
        contestant: Contestant,
        protocol: Protocol,
        endpoints: &[SocketAddr],
        wrapper: &[String],
    ) -> Result<(Process, SocketAddr), BoxError> {
        // Free now, and hopefully still in a moment.
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = wrapper.to_vec();
        if contestant == Contestant::Ours {
            fs::create_dir_all(self.dir.join("disco"))?;
            let lines = endpoints.iter().map(|addr| format!("{} {}", addr.ip(), addr.port()));
            let lines = lines.collect::<Vec<_>>().join("\n");
            fs::write(self.dir.join("disco").join(tls::NAME), &lines)?;
            for name in 0..self.names {
                fs::write(self.dir.join(format!("disco/w{name}")), &lines)?;
            }
            fs::write(self.dir.join("linkerd.yaml"), self.config(addr, protocol))?;
            command.extend([self.proxy.display().to_string(), "linkerd.yaml".to_owned()]);
        } else {
            command.extend([std::env::current_exe()?.display().to_string(), "floor".to_owned()]);
            command.extend([addr.to_string(), protocol.name().to_owned()]);
            command.extend(endpoints.iter().map(ToString::to_string));
        }
        let process = self.start(Core::Proxy, &command[0], &command[1..])?;
        let until = Instant::now() + Duration::from_mins(1);
        while TcpStream::connect(addr).is_err() {
            if Instant::now() > until {
                return Err(format!("{contestant:?} does not listen").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok((process, addr))
    }

    /// One router with all that is on by default, and TLS if the load speaks it.
    fn config(&self, addr: SocketAddr, protocol: Protocol) -> String {
        // The default, if that is enough.
        let most = (self.names + 100).max(1000);
        let router = if protocol == Protocol::H2c { "h2" } else { "http" };
        let tls = match protocol {
            Protocol::Tls => format!("\n    tls: {{certPath: {}, keyPath: {}}}", tls::CERT, tls::KEY),
            _ => String::new(),
        };
        format!(
            "\
admin: {{ip: {}, port: {}}}
usage: {{enabled: false}}
telemetry:
- kind: io.l5d.prometheus
namers:
- kind: io.l5d.fs
  rootDir: disco
routers:
- protocol: {router}
  label: bench
  dtab: /svc => /#/io.l5d.fs
  bindingCache: {{paths: {most}, trees: {most}, bounds: {most}, clients: {most}}}
  servers:
  - ip: {}
    port: {}{tls}
",
            self.admin.ip(),
            self.admin.port(),
            addr.ip(),
            addr.port()
        )
    }

    fn start(&self, core: Core, program: &str, args: &[String]) -> Result<Process, BoxError> {
        let mut command = if self.is_pinned {
            let mut command = Command::new("taskset");
            command.args(["-c", if matches!(core, Core::Proxy) { "0" } else { "1" }, program]);
            command
        } else {
            Command::new(program)
        };
        command.args(args).current_dir(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{program} does not start: {error}"))?;
        let (stdin, stdout) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        Ok(Process { child, stdin, stdout: BufReader::new(stdout) })
    }
}

impl Process {
    /// What it says next, in words.
    pub(super) fn hear(&mut self) -> Result<Vec<String>, BoxError> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() { Err("a process ended early".into()) } else { Ok(words(&line)) }
    }

    /// Lets it go on.
    pub(super) fn go_on(&mut self) -> Result<(), BoxError> {
        Ok(writeln!(self.stdin)?)
    }

    /// How long its threads have run, in nanoseconds.
    pub(super) fn cpu(&self) -> Result<u64, BoxError> {
        self.cpu_of("")
    }

    /// The same, of those threads whose name begins so.
    pub(super) fn cpu_of(&self, name: &str) -> Result<u64, BoxError> {
        let mut all = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            let is_meant = |is: String| is.starts_with(name);
            if !fs::read_to_string(task.join("comm")).is_ok_and(is_meant) {
                continue;
            }
            // A thread may end meanwhile.
            let Ok(stat) = fs::read_to_string(task.join("schedstat")) else { continue };
            all += stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(all)
    }

    /// How much of its memory is in use, in KiB.
    pub(super) fn rss(&self) -> Result<u64, BoxError> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        rss.and_then(|rss| words(rss).first()?.parse().ok()).ok_or_else(|| "no VmRSS".into())
    }

    /// Ends it in order, so that what watches it can write what it saw.
    pub(super) fn end(mut self) -> Result<(), BoxError> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Whether a program is there.
pub(super) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path: PathBuf| Path::is_file(&path.join(program)))
}
