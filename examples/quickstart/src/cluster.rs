//! Three nodes, each with its own loopback network, and a namerd that all of them ask.
//!
//! ```text
//! who calls ──► external ──► hello ──► internal ──► world-v1, world-v2: as namerd's table `internal` says
//! 127.0.i.        1            11         1            21        31
//! ```
//!
//! Node 1 asks namerd by thrift, node 2 by HTTP, node 3 by gRPC.

mod control;
mod node;
mod table;

use std::{collections::BTreeMap, fmt::Write as _, fs, io, net::SocketAddr, path::PathBuf, time::Duration};

use helloworld::{Options, Running, serve};
use linkerd_core::BoxError;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use self::{control::Control, table::Tables};
pub use self::{
    node::{Interpreter, Node},
    table::Rule,
};

/// Which of the tables has the rule of [`RULE`].
pub const INTERNAL: &str = "internal";
/// The rule that a delivery changes.
pub const RULE: &str = "/host/world";

const INTERNAL_TABLE: &str =
    "/srv => /#/io.l5d.fs; /host => /srv; /tmp => /srv; /svc => /host; /host/world => /srv/world-v1";
const EXTERNAL_TABLE: &str = "/host => /#/io.l5d.fs/hello; /svc/* => /host";

/// How long something may take that is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// All of it. It ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    control: Control,
    tables: Tables,
    services: BTreeMap<String, Vec<Running>>,
    // Deleted after all that use it are gone.
    dir: TempDir,
}

impl Cluster {
    /// Starts it, with version 1 of `world` in use.
    ///
    /// # Errors
    ///
    /// What could not be started.
    pub async fn start() -> Result<Self, BoxError> {
        let dir = tempfile::Builder::new().prefix("delivery-").tempdir()?;
        // The folder of the tables is made by who keeps them: one that is empty may be a file system that is not mounted.
        fs::create_dir(dir.path().join("disco"))?;
        let control = Control::start(dir.path())?;
        let tables = Tables::at(control.http())?;
        tables.create(INTERNAL, INTERNAL_TABLE).await?;
        tables.create("external", EXTERNAL_TABLE).await?;
        let mut nodes = Vec::new();
        for interpreter in Interpreter::ALL {
            nodes.push(Node::start(interpreter, control.addr(interpreter))?);
        }
        let mut cluster = Self { nodes, control, tables, services: BTreeMap::new(), dir };
        cluster.deploy("world-v1", "world").await?;
        cluster
            .start_pods("hello", |node| Options {
                addr: format!("127.0.{}.11:0", node.number()),
                target: Some("world".into()),
                http_proxy: Some(node.internal().to_string()),
                ..Options::default()
            })
            .await?;
        for node in &cluster.nodes {
            eventually("an answer of each node", async || Ok(node.enter()?.get("/", None).await?.status == 200))
                .await?;
        }
        cluster.settle("/srv/world-v1").await?;
        Ok(cluster)
    }

    /// The nodes: one for each way to ask namerd.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where namerd's HTTP API is, which `namerctl` asks.
    #[must_use]
    pub fn namerd(&self) -> SocketAddr {
        self.control.http()
    }

    /// Where namerd's admin pages are, while it runs.
    #[must_use]
    pub fn namerd_admin(&self) -> Option<SocketAddr> {
        self.control.admin()
    }

    /// The folder in which each file lists the replicas of a service.
    #[must_use]
    pub fn disco(&self) -> PathBuf {
        self.dir.path().join("disco")
    }

    /// Starts a replica of a version of `world` on each node, which answers this.
    ///
    /// # Errors
    ///
    /// It is there already, or cannot be started.
    pub async fn deploy(&mut self, version: &str, text: &str) -> Result<(), BoxError> {
        let number: u8 =
            version.trim_start_matches("world-v").parse().map_err(|_| format!("{version} is no version"))?;
        // 21 for version 1, 31 for version 2, and so on.
        let host = number.checked_mul(10).and_then(|tens| tens.checked_add(11)).ok_or("too many versions")?;
        if self.services.contains_key(version) {
            return Err(format!("{version} is deployed already").into());
        }
        self.start_pods(version, |node| Options {
            addr: format!("127.0.{}.{host}:0", node.number()),
            text: text.into(),
            ..Options::default()
        })
        .await
    }

    async fn start_pods(&mut self, service: &str, options: impl Fn(&Node) -> Options) -> Result<(), BoxError> {
        let mut pods = Vec::new();
        for node in &self.nodes {
            let options = options(node);
            let pod_ip = options.addr.rsplit_once(':').map(|(host, _)| host.to_owned());
            pods.push(serve(Options { pod_ip, ..options }).await?);
        }
        self.services.insert(service.into(), pods);
        Ok(self.list(service)?)
    }

    /// Lists all replicas of a service again, or for the first time.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn list(&self, service: &str) -> io::Result<()> {
        let mut lines = String::new();
        for pod in self.services.get(service).into_iter().flatten() {
            let _ = writeln!(lines, "{} {}", pod.addr().ip(), pod.addr().port());
        }
        // By a rename, so that nobody reads half of it.
        let new = self.dir.path().join("new");
        fs::write(&new, lines)?;
        fs::rename(new, self.disco().join(service))
    }

    /// Takes a service from discovery. Its replicas go on running.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn unlist(&self, service: &str) -> io::Result<()> {
        fs::remove_file(self.disco().join(service))
    }

    /// Takes a service from discovery, lets its replicas finish what they have begun, and ends them.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub async fn remove(&mut self, service: &str) -> io::Result<()> {
        self.unlist(service)?;
        for pod in self.services.remove(service).unwrap_or_default() {
            pod.shutdown().await;
        }
        Ok(())
    }

    /// How many requests the replicas of a service were sent so far.
    #[must_use]
    pub fn requests(&self, service: &str) -> u64 {
        self.services.get(service).into_iter().flatten().map(Running::requests).sum()
    }

    /// What the rule is now.
    ///
    /// # Errors
    ///
    /// namerd does not tell.
    pub async fn rule(&self) -> Result<Rule, BoxError> {
        self.tables.rule(INTERNAL, RULE).await
    }

    /// Changes the rule, if nobody else has since it was read.
    ///
    /// # Errors
    ///
    /// namerd refuses it.
    pub async fn set_rule(&self, dst: &str) -> Result<(), BoxError> {
        self.tables.set(INTERNAL, RULE, dst).await
    }

    /// Waits until the proxies of all nodes follow this rule.
    ///
    /// # Errors
    ///
    /// They do not within a minute.
    pub async fn settle(&self, dst: &str) -> Result<(), BoxError> {
        let expected = table::bound(dst)?;
        for node in &self.nodes {
            let bound = async || {
                // One that nobody has asked for is not bound.
                let _ = node.inside()?.get("/", None).await;
                node.bound("/svc/world").await
            };
            let what = format!("{expected} on node {}", node.number());
            let waited =
                eventually(&what, async || Ok(bound().await?.is_some_and(|bound| table::first(&bound) == expected)))
                    .await;
            if let Err(late) = waited {
                return Err(format!("{late}: {:?} is", bound().await?).into());
            }
        }
        Ok(())
    }

    /// Waits until `world` answers with this text on all nodes.
    ///
    /// # Errors
    ///
    /// It does not within a minute.
    pub async fn answers(&self, text: &str) -> Result<(), BoxError> {
        for node in &self.nodes {
            let world = node.inside()?;
            let what = format!("{text:?} on node {}", node.number());
            eventually(&what, async || Ok(world.get("/", None).await?.body.starts_with(text))).await?;
        }
        Ok(())
    }

    /// Ends namerd as a crash does: its connections break, nothing is said.
    pub fn kill_namerd(&mut self) {
        self.control.kill();
    }

    /// Starts namerd again, where it was.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_namerd(&mut self) -> Result<(), BoxError> {
        self.control.restart(self.dir.path())
    }
}

/// Asks again and again until it holds.
async fn eventually(what: &str, ask: impl AsyncFn() -> Result<bool, BoxError>) -> Result<(), BoxError> {
    let asked = async {
        while !ask().await? {
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, asked).await.map_err(|_| format!("no {what} within {PATIENCE:?}"))?
}
