//! What the demonstration runs: services, the files that list them, the rules, and the proxy before them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use helloworld::{Options, Running, serve};
use linkerd_core::{
    BoxError,
    config::Config,
    proxy::{Bound, Proxy},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::flags::Flags;

/// How many replicas each version of `world` has.
const REPLICAS: usize = 3;

/// A folder with the demonstration's files, gone when it is dropped.
pub(crate) struct Files {
    dir: TempDir,
}

/// Services that run.
pub(crate) struct Services {
    // They end when they are dropped.
    _running: Vec<Running>,
}

impl Files {
    pub(crate) fn new() -> std::io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("quickstart-").tempdir()?;
        fs::create_dir(dir.path().join("disco"))?;
        Ok(Self { dir })
    }

    /// The folder in which each file lists the replicas of a service.
    pub(crate) fn disco(&self) -> PathBuf {
        self.dir.path().join("disco")
    }

    /// The file with the rules.
    pub(crate) fn rules(&self) -> PathBuf {
        self.dir.path().join("rules.dtab")
    }

    /// Writes the rules, with `world` being what `target` says.
    pub(crate) fn write_rules(&self, target: &str) -> std::io::Result<()> {
        let text = format!(
            "# Read from the last line to the first.\n\
             /srv        => /#/io.l5d.fs ;   # a service is a file in disco/\n\
             /host       => /srv ;           # a host is the service of its name,\n\
             /host/world => {target} ;  # but for this one\n\
             /svc        => /host ;          # a request is for its Host header's host\n"
        );
        replace(&self.rules(), &text)
    }

    fn list(&self, service: &str, replicas: &[Running]) -> std::io::Result<()> {
        let lines: String = replicas.iter().map(|replica| line(replica.addr())).collect();
        replace(&self.disco().join(service), &lines)
    }
}

/// By a rename, so that nobody reads half of it.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, file)
}

fn line(addr: SocketAddr) -> String {
    format!("{} {}\n", addr.ip(), addr.port())
}

/// The file that the proxy is configured by.
pub(crate) fn config(files: &Files, flags: Flags) -> String {
    // As JSON's, which YAML takes: a path may have any character.
    let [disco, rules] = [files.disco(), files.rules()].map(|path| Value::from(path.to_string_lossy()));
    let Flags { port, admin_port, .. } = flags;
    format!(
        "\
admin:
  ip: 127.0.0.1
  port: {admin_port}
  shutdownGraceMs: 2000
telemetry:
- kind: io.l5d.prometheus
namers:
- kind: io.l5d.fs
  rootDir: {disco}
routers:
- protocol: http
  label: demo
  interpreter:
    kind: io.l5d.fs
    dtabFile: {rules}
  servers:
  - ip: 127.0.0.1
    port: {port}
"
    )
}

/// Builds and binds the proxy: what `linkerd FILE` does.
pub(crate) fn proxy(yaml: &str) -> Result<Bound, BoxError> {
    let config = Config::parse("quickstart.yaml", yaml)?;
    Ok(Proxy::builder(&config).build()?.bind()?)
}

/// Starts `world` in two versions, `hello`, which calls it, and `api`, which calls `hello`; all calls go through the proxy.
pub(crate) async fn services(files: &Files, proxy: SocketAddr) -> Result<Services, BoxError> {
    let local = |text: &str| Options { addr: "127.0.0.1:0".into(), text: text.into(), ..Options::default() };
    let calling = |text: &str, target: &str| Options {
        target: Some(target.into()),
        http_proxy: Some(proxy.to_string()),
        ..local(text)
    };
    let mut running = Vec::new();
    for (service, options, replicas) in [
        ("world-v1", local("world"), REPLICAS),
        ("world-v2", local("earth"), REPLICAS),
        ("hello", calling("Hello", "world"), 1),
        ("api", Options { json: true, ..calling("api", "hello") }, 1),
    ] {
        let mut started = Vec::new();
        for _ in 0..replicas {
            started.push(serve(options.clone()).await?);
        }
        files.list(service, &started)?;
        running.append(&mut started);
    }
    Ok(Services { _running: running })
}
