//! A node: the proxy that calls enter by, and the one that its services call through.

use std::net::SocketAddr;

use linkerd_core::{
    BoxError,
    config::Config,
    proxy::{Proxy, Shutdown},
};
use serde_json::Value;

use crate::traffic::Traffic;

/// How a proxy asks namerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpreter {
    /// `io.l5d.namerd`.
    Thrift,
    /// `io.l5d.namerd.http`.
    Http,
    /// `io.l5d.mesh`.
    Mesh,
}

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    interpreter: Interpreter,
    external: Served,
    internal: Served,
}

/// A proxy that serves until it is dropped.
#[derive(Debug)]
struct Served {
    addr: SocketAddr,
    admin: SocketAddr,
    shutdown: Shutdown,
}

impl Interpreter {
    /// All, in the order of the nodes.
    pub const ALL: [Self; 3] = [Self::Thrift, Self::Http, Self::Mesh];

    fn yaml(self, namespace: &str, namerd: SocketAddr) -> String {
        let (kind, keys) = match self {
            Self::Thrift => ("io.l5d.namerd", format!("namespace: {namespace}")),
            Self::Http => ("io.l5d.namerd.http", format!("namespace: {namespace}\n    experimental: true")),
            Self::Mesh => ("io.l5d.mesh", format!("root: /{namespace}")),
        };
        format!(
            "kind: {kind}\n    {keys}\n    dst: /$/inet/{}/{}\n    retry: {{baseSeconds: 1, maxSeconds: 1}}",
            namerd.ip(),
            namerd.port()
        )
    }
}

impl Node {
    pub(super) fn start(interpreter: Interpreter, namerd: SocketAddr) -> Result<Self, BoxError> {
        let serve = |namespace| Served::start(namespace, interpreter, namerd);
        Ok(Self { interpreter, external: serve("external")?, internal: serve("internal")? })
    }

    /// From 1.
    #[must_use]
    pub fn number(&self) -> usize {
        number(self.interpreter)
    }

    /// How its proxies ask namerd.
    #[must_use]
    pub fn interpreter(&self) -> Interpreter {
        self.interpreter
    }

    /// Where calls enter.
    #[must_use]
    pub fn external(&self) -> SocketAddr {
        self.external.addr
    }

    /// What its services call through.
    #[must_use]
    pub fn internal(&self) -> SocketAddr {
        self.internal.addr
    }

    /// The admin pages of what its services call through.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.internal.admin
    }

    /// Requests from outside, which `hello` answers.
    ///
    /// # Errors
    ///
    /// The client cannot be built.
    pub fn enter(&self) -> Result<Traffic, BoxError> {
        Traffic::to(self.external(), "hello")
    }

    /// Requests to `world`, as the node's services send them.
    ///
    /// # Errors
    ///
    /// The client cannot be built.
    pub fn inside(&self) -> Result<Traffic, BoxError> {
        Traffic::to(self.internal(), "world")
    }

    /// Where requests for a name go in its inner proxy, if it is asked for.
    pub(super) async fn bound(&self, path: &str) -> Result<Option<String>, BoxError> {
        let state = Traffic::to(self.admin(), "admin")?.get("/state.json", None).await?;
        Ok(find(&serde_json::from_str(&state.body)?, path))
    }
}

fn number(interpreter: Interpreter) -> usize {
    interpreter as usize + 1
}

/// Where the requests of a name go that has no rules of its own.
fn find(state: &Value, path: &str) -> Option<String> {
    match state {
        Value::Object(members) if members.get("path").is_some_and(|found| found == path) => {
            if members.contains_key("local") {
                return None;
            }
            // While what it is bound to is not ready, its requests go elsewhere.
            Some(members.get("serving").or_else(|| members.get("value"))?.as_str()?.to_owned())
        }
        Value::Object(members) => members.values().find_map(|member| find(member, path)),
        Value::Array(items) => items.iter().find_map(|item| find(item, path)),
        _ => None,
    }
}

impl Served {
    fn start(namespace: &str, interpreter: Interpreter, namerd: SocketAddr) -> Result<Self, BoxError> {
        let ip = format!("127.0.{}.1", number(interpreter));
        let yaml = format!(
            "\
admin: {{ip: {ip}, port: 0, shutdownGraceMs: 2000}}
telemetry:
- kind: io.l5d.prometheus
routers:
- protocol: http
  label: {namespace}
  interpreter:
    {}
  servers:
  - {{ip: {ip}, port: 0}}
",
            interpreter.yaml(namespace, namerd)
        );
        let config = Config::parse("linkerd.yaml", &yaml)?;
        let proxy = Proxy::builder(&config).build()?.bind()?;
        let (_, addr) = proxy.servers().next().ok_or("the proxy has no server")?;
        let (admin, shutdown) = (proxy.admin_addr(), proxy.shutdown());
        tokio::spawn(async move {
            // What stops it shows by requests that fail.
            let _ = proxy.serve().await;
        });
        Ok(Self { addr, admin, shutdown })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.begin(None);
    }
}
