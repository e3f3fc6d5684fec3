//! The namerd.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use linkerd_core::{BoxError, config::namerd::Namerd, namerd::Host};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::Interpreter;

/// A namerd, on the same addresses each time it is started.
#[derive(Debug)]
pub(super) struct Control {
    /// As [`Interpreter::ALL`].
    addrs: Vec<SocketAddr>,
    running: Option<(JoinHandle<()>, SocketAddr)>,
}

impl Control {
    pub(super) fn start(dir: &Path) -> Result<Self, BoxError> {
        let mut control = Self { addrs: Interpreter::ALL.map(|_| ([127, 0, 9, 1], 0).into()).into(), running: None };
        control.restart(dir)?;
        Ok(control)
    }

    pub(super) fn restart(&mut self, dir: &Path) -> Result<(), BoxError> {
        self.kill();
        let config = Namerd::parse("namerd.yaml", &yaml(dir, &self.addrs))?;
        let host = Host::builder(&config).build()?.bind()?;
        self.addrs = host.interfaces().map(|(_, addr)| addr).collect();
        let admin = host.admin_addr();
        let serving = async {
            // What stops it shows by what does not happen then.
            let _ = host.serve().await;
        };
        self.running = Some((tokio::spawn(serving), admin));
        Ok(())
    }

    pub(super) fn kill(&mut self) {
        if let Some((serving, _)) = self.running.take() {
            serving.abort();
        }
    }

    pub(super) fn addr(&self, interpreter: Interpreter) -> SocketAddr {
        self.addrs[interpreter as usize]
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.addr(Interpreter::Http)
    }

    pub(super) fn admin(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|(_, admin)| *admin)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.kill();
    }
}

fn yaml(dir: &Path, addrs: &[SocketAddr]) -> String {
    // As JSON's, which YAML takes: a path may have any character.
    let [tables, disco] = ["tables", "disco"].map(|name| Value::from(dir.join(name).to_string_lossy()));
    let mut text = format!(
        "\
admin: {{ip: 127.0.9.1, port: 0}}
storage: {{kind: io.l5d.fs, directory: {tables}}}
namers:
- {{kind: io.l5d.fs, rootDir: {disco}}}
interfaces:
"
    );
    for (kind, addr) in ["io.l5d.thriftNameInterpreter", "io.l5d.httpController", "io.l5d.mesh"].iter().zip(addrs) {
        let _ = writeln!(text, "- {{kind: {kind}, ip: {}, port: {}}}", addr.ip(), addr.port());
    }
    text
}
