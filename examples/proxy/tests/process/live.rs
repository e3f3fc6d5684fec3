//! Files that change while requests are served.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::Request;
use tokio::task::JoinSet;

use crate::harness::{Conn, Folder, Linkerd, SIMPLE, eventually, lines, replace, server};

/// Requests that are sent one after the other, by several clients, until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    a: AtomicUsize,
    b: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    pub(crate) fn start(addr: SocketAddr) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Seen>::default());
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            clients.spawn(async move {
                let mut conn = Conn::open(addr).await;
                while !stop.load(Ordering::SeqCst) {
                    let req = Request::get("/").header("host", "web").body(String::new()).unwrap();
                    match conn.try_send(req).await {
                        Ok(answer) if answer.body == "a!" => drop(seen.a.fetch_add(1, Ordering::SeqCst)),
                        Ok(answer) if answer.body == "b!" => drop(seen.b.fetch_add(1, Ordering::SeqCst)),
                        Ok(answer) => seen.failures.lock().unwrap().push(format!("{answer:?}")),
                        Err(error) => {
                            seen.failures.lock().unwrap().push(error.to_string());
                            conn = Conn::open(addr).await;
                        }
                    }
                }
            });
        }
        Self { stop, seen, clients }
    }

    /// Stops, and tells what failed and how many requests there were.
    pub(crate) async fn stop(self) -> (Vec<String>, usize) {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        let total = self.seen.a.load(Ordering::SeqCst) + self.seen.b.load(Ordering::SeqCst);
        let failures = std::mem::take(&mut *self.seen.failures.lock().unwrap());
        let total = total + failures.len();
        (failures, total)
    }
}

/// A hundred edits of the list of replicas, each seen by the traffic, and no request fails.
async fn edits(edit: impl Fn(&Folder, &str)) {
    let folder = Folder::new();
    let (a, b) = (server("a").await, server("b").await);
    folder.list("web", &[a.addr()]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;
    let load = Load::start(linkerd.servers[0]);

    for i in 0..100 {
        let (server, count) = if i % 2 == 0 { (&b, &load.seen.b) } else { (&a, &load.seen.a) };
        let before = count.load(Ordering::SeqCst);
        edit(&folder, &lines(&[server.addr()]));
        eventually("the edit", async || (count.load(Ordering::SeqCst) > before + 4).then_some(())).await;
    }

    let (failures, total) = load.stop().await;
    assert_eq!(failures, Vec::<String>::new(), "of {total}");
    assert!(total > 1000, "{total}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_over_a_hundred_edits_by_rename() {
    edits(|folder, text| replace(&folder.path("disco/web"), text)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_over_a_hundred_edits_in_place() {
    edits(|folder, text| fs::write(folder.path("disco/web"), text).unwrap()).await;
}

#[tokio::test]
async fn a_malformed_list_leaves_the_last_good_one() {
    let folder = Folder::new();
    let (a, b) = (server("a").await, server("b").await);
    folder.list("web", &[a.addr()]);
    let linkerd = Linkerd::start(&folder, SIMPLE).await;
    assert_eq!(linkerd.get("web").await.body, "a!");

    for bad in ["127.0.0.1 eighty\n", "localhost\n", "127.0.0.1 80 * heavy\n", "127.0.0.1 99999\n"] {
        folder.write("disco/web", bad);
        let error = eventually("the error", async || {
            let state = linkerd.json("/namer_state/io.l5d.fs.json").await.to_string();
            state.contains(bad.trim_end()).then_some(state)
        });
        let error = error.await;
        assert!(error.contains("\"stale\":true") && error.contains("disco/web"), "{error}");
        assert_eq!(linkerd.get("web").await.body, "a!", "{bad}");
    }
    fs::remove_file(folder.path("disco/web")).unwrap();
    folder.list("web", &[b.addr()]);
    eventually("the new list", async || (linkerd.get("web").await.body == "b!").then_some(())).await;
    let state = linkerd.json("/namer_state/io.l5d.fs.json").await.to_string();
    assert!(!state.contains("\"stale\":true"), "{state}");
}

#[tokio::test]
async fn broken_rules_leave_the_last_good_ones() {
    let folder = Folder::new();
    let (a, b) = (server("a").await, server("b").await);
    folder.list("a", &[a.addr()]);
    folder.list("b", &[b.addr()]);
    folder.write("rules.dtab", "/svc/web => /#/io.l5d.fs/a ;\n");
    let interpreter = "  interpreter:\n    kind: io.l5d.fs\n    dtabFile: rules.dtab\n  servers:";
    let config = SIMPLE.replace("  dtab: |\n    /svc => /#/io.l5d.fs;\n  servers:", interpreter);
    let linkerd = Linkerd::start(&folder, &config).await;
    assert_eq!(linkerd.get("web").await.body, "a!");

    folder.write("rules.dtab", "/svc/web => /#/io.l5d.fs/b ;\n/svc/other = /b ;\n");
    let warning = linkerd.logged("bad dtab file").await;
    assert!(warning.contains("rules.dtab"), "{warning}");
    assert_eq!(linkerd.get("web").await.body, "a!");

    folder.write("rules.dtab", "/svc/web => /#/io.l5d.fs/b ;\n");
    eventually("the new rules", async || (linkerd.get("web").await.body == "b!").then_some(())).await;
}
