//! etcd, by both versions of its API.

use std::{future::ready, sync::Arc};

use linkerd_dtab::{
    State,
    store::{DtabStore, Etcd, Expect, etcd::Api},
};
use serde_json::{Value, json};

use crate::{
    fake::{self, Faulty, Kv},
    suite::{Done, Fault, Read, Rig, dtab, name, until, until_shows},
};

pub(crate) struct EtcdRig {
    server: fake::etcd::Etcd,
    faulty: Faulty,
    api: Api,
}

impl EtcdRig {
    pub(crate) fn new(api: Api) -> Self {
        let server = fake::etcd::Etcd::new();
        Self { faulty: Faulty::new(server.clone()), server, api }
    }

    fn key(&self, namespace: &str) -> String {
        match self.api {
            Api::V2 => format!("/namerd/dtabs/{}", namespace.replace('/', "%2F")),
            Api::V3 => format!("/namerd/dtabs/{namespace}"),
        }
    }
}

impl Rig for EtcdRig {
    fn open(&self) -> Arc<dyn DtabStore> {
        Arc::new(Etcd::new(self.faulty.clone()).with_api(self.api).open())
    }

    fn write<'a>(&'a self, namespace: &'a str, text: &'a str) -> Done<'a> {
        self.kv().put(&self.key(namespace), text.as_bytes());
        Box::pin(ready(()))
    }

    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a> {
        self.kv().delete(&self.key(namespace));
        Box::pin(ready(()))
    }

    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a> {
        let entry = self.kv().get(&self.key(namespace));
        Box::pin(ready(entry.map(|entry| String::from_utf8(entry.value).unwrap())))
    }

    fn kv(&self) -> &Kv {
        match self.api {
            Api::V2 => &self.server.v2,
            Api::V3 => &self.server.v3,
        }
    }

    fn faults(&self) -> Vec<Fault> {
        fake::HTTP_FAULTS.to_vec()
    }

    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        self.faulty.set(fault);
        Box::pin(ready(()))
    }
}

mod v3 {
    crate::conforms! { paused = true, super::EtcdRig::new(super::Api::V3) }
}

mod v2 {
    crate::conforms! { paused = true, super::EtcdRig::new(super::Api::V2) }
}

#[tokio::test(start_paused = true)]
async fn the_version_of_the_api_is_where_the_tables_are() {
    for (has_v2, has_tables, expected) in [(true, true, Api::V2), (true, false, Api::V3), (false, false, Api::V3)] {
        let mut server = fake::etcd::Etcd::new();
        server.has_v2 = has_v2;
        if has_tables {
            server.v2.put("/namerd/dtabs/old", b"/a => /b");
        }
        let faulty = Faulty::new(server.clone());
        faulty.set(Some(Fault::Away));
        let store = Etcd::new(faulty.clone()).open();
        let watch = store.watch(&name("new"));
        until(&watch, "failed", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
        faulty.set(None);
        until(&watch, "known", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
        store.put(&name("new"), &dtab("/a => /c"), &Expect::Any).await.unwrap();
        let is_in = |kv: &Kv| kv.get("/namerd/dtabs/new").is_some();
        assert_eq!((is_in(&server.v2), is_in(&server.v3)), (expected == Api::V2, expected == Api::V3));
        // It stays, whatever there is elsewhere later.
        server.v2.put("/namerd/dtabs/later", b"/a => /b");
        server.v3.put("/namerd/dtabs/later", b"/a => /b");
        store.put(&name("new"), &dtab("/a => /d"), &Expect::Any).await.unwrap();
        assert_eq!((is_in(&server.v2), is_in(&server.v3)), (expected == Api::V2, expected == Api::V3));
    }
}

#[tokio::test(start_paused = true)]
async fn history_that_is_compacted_away_is_read_anew() {
    for api in [Api::V3, Api::V2] {
        let rig = EtcdRig::new(api);
        let store = rig.open();
        let watch = store.watch(&name("a"));
        until(&watch, "absent", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
        for i in 0..5 {
            rig.faulty.set(Some(Fault::Away));
            rig.kv().change(|state| {
                state.put(&rig.key("a"), format!("/a => /{i}").as_bytes());
                state.changes.clear();
                state.forgotten = state.revision + 1;
            });
            rig.faulty.set(None);
            until_shows(&watch, &format!("/a => /{i}")).await;
        }
    }
}

/// What one answer cannot hold comes in several, all of one revision.
#[tokio::test(start_paused = true)]
async fn many_tables_come_in_pages() {
    let rig = EtcdRig::new(Api::V3);
    for i in 0..20 {
        rig.write(&format!("n-{i}"), "/a => /b").await;
    }
    rig.server.v3.put("/namerd/dtabs0", b"not below the prefix");
    rig.server.v3.put("/namerd/dtabs/no namespace", b"/a => /b");
    let names = rig.open().list();
    let all = until(&names, "listed", |snapshot| matches!(snapshot.state, State::Ok(_))).await;
    assert_eq!(all.state.ok().unwrap().len(), 20);
}

/// What an answer does not tell, though it says that there is more, is not gone.
#[tokio::test(start_paused = true)]
async fn half_an_answer_is_none() {
    let spoils: [fake::etcd::Spoil; 5] = [
        |range| range["kvs"] = Value::Null,
        |range| range["kvs"] = json!([]),
        |range| _ = range["kvs"].as_array_mut().map(Vec::pop),
        |range| {
            range["more"] = false.into();
        },
        // The second page only: one of an older revision.
        |range| {
            if range["more"].is_null() {
                range["header"]["revision"] = "1".into();
            }
        },
    ];
    let rig = EtcdRig::new(Api::V3);
    for i in 0..5 {
        rig.write(&format!("n-{i}"), "/a => /b").await;
    }
    let store = rig.open();
    let names = store.list();
    until(&names, "listed", |snapshot| matches!(&snapshot.state, State::Ok(names) if names.len() == 5)).await;
    for (i, spoil) in spoils.into_iter().enumerate() {
        *rig.server.spoil.lock().unwrap() = Some(spoil);
        rig.write("n-0", &format!("/a => /{i}")).await;
        let snapshot = until(&names, "stale", |snapshot| snapshot.stale.is_some()).await;
        assert_eq!(snapshot.state.ok().unwrap().len(), 5, "{i}");
        *rig.server.spoil.lock().unwrap() = None;
        until_shows(&store.watch(&name("n-0")), &format!("/a => /{i}")).await;
        until(&names, "well", |snapshot| snapshot.stale.is_none()).await;
    }
}

/// As namerd 1.7.5 leaves it there: its key, its text and its version.
#[tokio::test(start_paused = true)]
async fn tables_of_namerd_are_taken_over() {
    let rig = EtcdRig::new(Api::V2);
    let index = rig.server.v2.put("/namerd/dtabs/two", b"/svc=>/a & 2.00*/b");
    let store = rig.open();
    let version = until_shows(&store.watch(&name("two")), "/svc => /a & 2.00 * /b").await;
    assert_eq!(version.as_bytes(), index.to_string().as_bytes());
    store.put(&name("two"), &dtab("/a => /q"), &Expect::Version(version)).await.unwrap();
    assert_eq!(rig.read("two").await.unwrap(), "/a=>/q");
}
