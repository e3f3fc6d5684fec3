//! What is killed, cut off or out of its mind empties no routing, and nothing has to be restarted after it.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::{
    clients::{Clients, INTERFACES},
    harness::{Folder, Namerd},
    relay::Relay,
    store::{Says, Store},
};

/// A namerd, its store, and the network between them.
struct Rig {
    folder: Folder,
    config: String,
    store: Store,
    to_store: Relay,
    namerd: Option<Namerd>,
    clients: Clients,
}

fn to(port: u16) -> String {
    format!("/svc => /$/inet/127.0.0.1/{port}")
}

impl Rig {
    async fn new() -> Self {
        let (mut store, to_store) = (Store::new(), Relay::new().await);
        to_store.to(Some(store.start().await));
        let port = to_store.addr.port();
        let config = format!(
            "admin: {{port: 0}}\nstorage: {{kind: io.l5d.etcd, experimental: true, host: 127.0.0.1, port: {port}, api: v3}}\n{INTERFACES}"
        );
        let clients = Clients::new().await;
        let mut rig = Self { folder: Folder::new(), config, store, to_store, namerd: None, clients };
        rig.start_namerd().await;
        rig.namerd().ask("POST /api/1/dtabs/default", &[], &to(1)).await.expect(204);
        rig.clients.route_to(1).await;
        rig
    }

    fn namerd(&self) -> &Namerd {
        self.namerd.as_ref().expect("it runs")
    }

    async fn start_namerd(&mut self) {
        let namerd = self.namerd.insert(Namerd::start(&self.folder, &self.config).await);
        self.clients.find(Some(namerd));
    }

    async fn kill_namerd(&mut self) {
        let mut namerd = self.namerd.take().expect("it runs");
        namerd.signal("-KILL").await;
        namerd.ended().await;
        self.clients.find(None);
    }

    async fn start_store(&mut self) {
        let addr = self.store.start().await;
        self.to_store.to(Some(addr));
    }

    async fn kill_store(&mut self) {
        self.to_store.to(None);
        self.store.kill().await;
    }

    /// A change is made and heard of by everybody. The store may still be asked for at longer and longer intervals.
    async fn updates_to(&mut self, port: u16) {
        let mut last = None;
        for _ in 0..600 {
            let answer = self.namerd().ask("PUT /api/1/dtabs/default", &[], &to(port)).await;
            if answer.status == 204 {
                return self.clients.route_to(port).await;
            }
            last = Some(answer);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{last:?}");
    }
}

#[tokio::test]
async fn namerd_and_its_store_are_killed_and_come_back_in_any_order() {
    let mut rig = Rig::new().await;
    let mut port = 1;
    for (store_dies_first, store_comes_first) in [(true, true), (true, false), (false, true), (false, false)] {
        if store_dies_first {
            rig.kill_store().await;
            rig.kill_namerd().await;
        } else {
            rig.kill_namerd().await;
            rig.kill_store().await;
        }
        rig.clients.route_to(port).await;
        if store_comes_first {
            rig.start_store().await;
            rig.start_namerd().await;
        } else {
            rig.start_namerd().await;
            rig.clients.route_to(port).await;
            rig.start_store().await;
        }
        port += 1;
        rig.updates_to(port).await;
    }
    // One of them alone.
    rig.kill_namerd().await;
    rig.start_namerd().await;
    rig.updates_to(10).await;
    rig.kill_store().await;
    rig.clients.route_to(10).await;
    rig.start_store().await;
    rig.updates_to(11).await;
}

#[tokio::test]
async fn a_store_that_makes_no_sense_is_not_believed() {
    let mut rig = Rig::new().await;
    for (i, says) in [Says::Garbage, Says::Nothing, Says::HalfAPage, Says::Unavailable].into_iter().enumerate() {
        rig.store.say(says);
        // It is asked, and not believed.
        let answer = rig.namerd().ask("PUT /api/1/dtabs/default", &[], &to(99)).await;
        assert_ne!(answer.status, 204, "{says:?}: {answer:?}");
        let known = rig.namerd().ask("GET /api/1/dtabs/default", &[], "").await.expect(200);
        assert!(known.body.contains("127.0.0.1"), "{says:?}: {known:?}");
        rig.store.say(Says::What);
        let port = 10 + u16::try_from(i).unwrap();
        rig.updates_to(port).await;
    }
}

#[tokio::test]
async fn a_store_with_an_older_disk_is_followed_again() {
    let mut rig = Rig::new().await;
    let old = rig.store.copy();
    for port in 2..=5 {
        rig.updates_to(port).await;
    }
    rig.kill_store().await;
    rig.store.restore(&old);
    rig.start_store().await;
    rig.clients.route_to(1).await;
    rig.updates_to(6).await;
}

#[tokio::test]
async fn a_partition_between_namerd_and_its_clients_leaves_what_they_know() {
    let mut rig = Rig::new().await;
    rig.clients.cut(true);
    // Long enough for the connections to be given up: their checks take 2.3 s.
    rig.namerd().ask("PUT /api/1/dtabs/default", &[], &to(2)).await.expect(204);
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.clients.route_to(1).await;
    rig.clients.cut(false);
    rig.clients.route_to(2).await;
    rig.updates_to(3).await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_namerd_with_an_older_folder_of_tables_is_followed_again() {
    let folder = Folder::new();
    let config = format!("admin: {{port: 0}}\nstorage: {{kind: io.l5d.fs, directory: tables}}\n{INTERFACES}");
    let mut clients = Clients::new().await;
    let mut namerd = Namerd::start(&folder, &config).await;
    clients.find(Some(&namerd));
    namerd.ask("POST /api/1/dtabs/default", &[], &to(1)).await.expect(204);
    clients.route_to(1).await;
    copy(&folder.path("tables"), &folder.path("older"));
    namerd.ask("PUT /api/1/dtabs/default", &[], &to(2)).await.expect(204);
    clients.route_to(2).await;
    namerd.signal("-KILL").await;
    namerd.ended().await;
    fs::remove_dir_all(folder.path("tables")).unwrap();
    fs::rename(folder.path("older"), folder.path("tables")).unwrap();
    let namerd = Namerd::start(&folder, &config).await;
    clients.find(Some(&namerd));
    clients.route_to(1).await;
    namerd.ask("PUT /api/1/dtabs/default", &[], &to(3)).await.expect(204);
    clients.route_to(3).await;
}

/// Makes it so that the clock was wrong by years when the files below a folder were written.
fn date(folder: &Path, year: u32) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_hours(u64::from(year - 1970) * 365 * 24);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Not the folder of what was there before a file was begun anew.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let line = |line: &str| match serde_json::from_str::<Value>(line) {
            Ok(mut record) if record.get("at").is_some() => {
                record["at"] = format!("{year}-01-01T00:00:00.000Z").into();
                format!("{record}\n")
            }
            _ => format!("{line}\n"),
        };
        fs::write(&path, text.lines().map(line).collect::<String>()).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
    }
}

#[tokio::test]
async fn a_clock_that_was_stepped_changes_no_order_and_ends_no_watch() {
    let folder = Folder::new();
    let config = format!(
        "admin: {{port: 0}}\nstorage: {{kind: io.l5d.fs, directory: tables}}\nhistory: {{directory: history}}\n{INTERFACES}"
    );
    let mut clients = Clients::new().await;
    let mut namerd = Namerd::start(&folder, &config).await;
    clients.find(Some(&namerd));
    namerd.ask("POST /api/1/dtabs/default", &[], &to(1)).await.expect(204);
    clients.route_to(1).await;
    for (port, year) in [(2, 1990), (3, 2100)] {
        namerd.signal("-KILL").await;
        namerd.ended().await;
        date(&folder.path("tables"), year);
        date(&folder.path("history"), year);
        namerd = Namerd::start(&folder, &config).await;
        clients.find(Some(&namerd));
        namerd.ask("PUT /api/1/dtabs/default", &[], &to(port)).await.expect(204);
        clients.route_to(port).await;
    }
    // The first two are of 2100.
    let history = namerd.ask("GET /api/1/history/default", &[], "").await.expect(200).json();
    let seqs: Vec<_> = history.as_array().expect("a list").iter().map(|record| record["seq"].as_u64()).collect();
    assert_eq!(seqs, [Some(3), Some(2), Some(1)], "{history}");
    // A change in the folder that leaves the file as old as it was.
    let table = folder.path("tables").join("default.dtab");
    let modified = fs::metadata(&table).unwrap().modified().unwrap();
    fs::write(&table, to(4)).unwrap();
    File::options().write(true).open(&table).unwrap().set_modified(modified).unwrap();
    clients.route_to(4).await;
    namerd.ask("POST /api/1/rollback/default?to=1", &[], "").await.expect(204);
    clients.route_to(1).await;
}
