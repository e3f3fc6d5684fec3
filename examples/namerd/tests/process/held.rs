//! A name whose last endpoint goes before its rule leads elsewhere: its requests wait, however the proxy asks namerd.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use helloworld::{Options, Running, serve};
use http::Request;
use linkerd_core::{
    config::Config,
    proxy::{self, Shutdown},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    clients::INTERFACES,
    harness::{Conn, Folder, LONG, Namerd, eventually},
};

/// So many ask each router, one request after the other.
const CLIENTS: usize = 4;

const KINDS: [(&str, &str); 3] = [
    ("io.l5d.namerd.http", "experimental: true, namespace: default"),
    ("io.l5d.mesh", "experimental: true, root: /default"),
    ("io.l5d.namerd", "namespace: default"),
];

/// A proxy with a router for each of [`KINDS`].
struct Proxy {
    admin: SocketAddr,
    routers: Vec<SocketAddr>,
    shutdown: Shutdown,
}

impl Proxy {
    fn start(namerd: &Namerd) -> Self {
        let mut file = "admin: {port: 0}\nrouters:\n".to_owned();
        for ((kind, keys), addr) in KINDS.iter().zip(&namerd.interfaces) {
            let dst = format!("/$/inet/{}/{}", addr.ip(), addr.port());
            // As long as this test may take, wherever it runs.
            _ = write!(
                file,
                "- protocol: http
  label: {kind}
  switchTimeoutMs: 600000
  interpreter: {{kind: {kind}, dst: {dst}, {keys}}}
  servers: [{{port: 0}}]
"
            );
        }
        let config = Config::parse("linkerd.yaml", &file).unwrap_or_else(|errors| panic!("{errors}"));
        let proxy = proxy::Proxy::builder(&config).build().unwrap_or_else(|errors| panic!("{errors}"));
        let proxy = proxy.bind().unwrap();
        let routers = proxy.servers().map(|(_, addr)| addr).collect();
        let (admin, shutdown) = (proxy.admin_addr(), proxy.shutdown());
        tokio::spawn(proxy.serve());
        Self { admin, routers, shutdown }
    }

    /// How many requests each router holds.
    async fn holding(&self) -> Vec<Option<f64>> {
        let metrics = Conn::open(self.admin).await.ask("GET /admin/metrics.json", &[], "").await.expect(200).json();
        let of = |kind| metrics[format!("rt/{kind}/bindcache/switch/holding")].as_f64();
        KINDS.iter().map(|(kind, _)| of(kind)).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.begin(None);
    }
}

/// What a client of a router was answered.
#[derive(Debug, Default)]
struct Answers {
    last: String,
    failed: Vec<String>,
}

/// Clients of all routers, until they are stopped.
struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<(JoinHandle<()>, watch::Receiver<Answers>)>,
}

async fn get(conn: &mut Conn) -> Result<String, String> {
    let request = Request::get("/").header("host", "web").body(String::new()).unwrap();
    match conn.try_send(request).await {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        other => Err(format!("{other:?}")),
    }
}

impl Load {
    async fn start(routers: &[SocketAddr]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for addr in routers.iter().flat_map(|addr| [*addr; CLIENTS]) {
            let (answers, seen) = watch::channel(Answers::default());
            let (mut conn, is_over) = (Conn::open(addr).await, Arc::clone(&is_over));
            let asking = tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    match get(&mut conn).await {
                        Ok(text) => answers.send_modify(|answers| answers.last = text),
                        Err(failed) => answers.send_modify(|answers| answers.failed.push(failed)),
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            });
            clients.push((asking, seen));
        }
        Self { is_over, clients }
    }

    /// Waits until all were answered with this.
    async fn answered(&mut self, text: &str) {
        for (_, seen) in &mut self.clients {
            let answered = timeout(LONG, seen.wait_for(|answers| answers.last.starts_with(text))).await.is_ok();
            assert!(answered, "not {text:?}, but {:?}", *seen.borrow());
        }
    }

    /// Ends it: nothing failed.
    async fn unharmed(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for (asking, seen) in self.clients {
            timeout(LONG, asking).await.expect("it ends").unwrap();
            assert!(seen.borrow().failed.is_empty(), "{seen:?}");
        }
    }
}

async fn service(text: &str) -> Running {
    serve(Options { addr: "127.0.0.1:0".into(), text: text.into(), ..Options::default() }).await.unwrap()
}

/// Lists these as the replicas of a service, in place of what there was.
fn list(folder: &Folder, service: &str, replicas: &[&Running]) {
    let lines = replicas.iter().map(|replica| format!("{} {}\n", replica.addr().ip(), replica.addr().port()));
    folder.write("new-list", &lines.collect::<String>());
    fs::rename(folder.path("new-list"), folder.path("disco").join(service)).unwrap();
}

#[tokio::test]
async fn a_rule_that_is_changed_after_its_last_endpoint_went_fails_no_request() {
    let folder = Folder::new();
    fs::create_dir(folder.path("disco")).unwrap();
    let (old, new) = (service("old").await, service("new").await);
    list(&folder, "old", &[&old]);
    list(&folder, "new", &[&new]);
    let config = format!(
        "admin: {{port: 0}}
storage: {{kind: io.l5d.inMemory, namespaces: {{default: '/svc/web => /#/io.l5d.fs/old'}}}}
namers: [{{kind: io.l5d.fs, rootDir: disco}}]
{INTERFACES}"
    );
    let namerd = Namerd::start(&folder, &config).await;
    let proxy = Proxy::start(&namerd);
    let mut load = Load::start(&proxy.routers).await;
    load.answered("old").await;

    list(&folder, "old", &[]);
    let all = vec![Some(CLIENTS as f64); KINDS.len()];
    eventually("the hold", async || (proxy.holding().await == all).then_some(())).await;
    old.shutdown().await;
    namerd.ask("PUT /api/1/dtabs/default", &[], "/svc/web => /#/io.l5d.fs/new").await.expect(204);
    load.answered("new").await;
    load.unharmed().await;
}
