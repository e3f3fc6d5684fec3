//! Kubernetes objects.

use std::{
    future::ready,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use linkerd_dtab::{
    Dtab, State,
    store::{DtabStore, Expect, Kubernetes, StoreError},
};
use serde_json::{Value, json};

use crate::{
    fake::{self, Faulty},
    suite::{Done, Fault, Read, Rig, dtab, name, until, until_shows},
};

pub(crate) struct KubeRig {
    server: fake::k8s::Kubernetes,
    faulty: Faulty,
}

impl KubeRig {
    pub(crate) fn new() -> Self {
        let server = fake::k8s::Kubernetes::new();
        Self { faulty: Faulty::new(server.clone()), server }
    }

    fn put(&self, namespace: &str, dentries: &Value) {
        let object = json!({
            "apiVersion": "l5d.io/v1alpha1", "kind": "DTab",
            "metadata": {"name": namespace, "labels": {"team": "web"}}, "dentries": dentries,
        });
        self.server.kv.put(namespace, object.to_string().as_bytes());
    }
}

impl Rig for KubeRig {
    fn open(&self) -> Arc<dyn DtabStore> {
        Arc::new(Kubernetes::over(self.faulty.clone(), "mesh").open())
    }

    /// What is no table becomes one part of one that is none.
    fn write<'a>(&'a self, namespace: &'a str, text: &'a str) -> Done<'a> {
        let dentries = match text.parse::<Dtab>() {
            Ok(dtab) => dtab
                .entries()
                .iter()
                .map(|entry| json!({"prefix": entry.prefix.to_string(), "dst": entry.dst.to_string()}))
                .collect(),
            Err(_) => json!([{"prefix": "/a", "dst": text}]),
        };
        self.put(namespace, &dentries);
        Box::pin(ready(()))
    }

    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a> {
        self.server.kv.delete(namespace);
        Box::pin(ready(()))
    }

    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a> {
        let entry = self.server.kv.get(namespace);
        Box::pin(ready(entry.map(|entry| String::from_utf8(entry.value).unwrap())))
    }

    fn counts_what_changes_nothing(&self) -> bool {
        false
    }

    fn kv(&self) -> &fake::Kv {
        &self.server.kv
    }

    fn faults(&self) -> Vec<Fault> {
        fake::HTTP_FAULTS.to_vec()
    }

    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        self.faulty.set(fault);
        Box::pin(ready(()))
    }
}

crate::conforms! {
    paused = true, KubeRig::new(),
    a_table_is_created_changed_and_deleted
    changes_are_made_only_to_what_is_expected
    of_two_writers_one_succeeds
    no_update_is_lost
    who_writes_reads_it_at_once
    changes_of_others_are_seen
    a_table_that_could_not_be_read_is_not_written
    a_small_share_is_kept
    what_is_no_table_leaves_the_last_good_one
    a_store_that_is_away_at_the_start_is_found_later
    what_was_read_outlives_every_fault
    a_watch_outlives_the_store_value
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_known_is_no_empty_store() {
    let rig = KubeRig::new();
    rig.write("a", "/a => /b").await;
    rig.server.has_kind.store(false, Relaxed);
    let store = rig.open();
    let (watch, names) = (store.watch(&name("a")), store.list());
    let failed = until(&names, "failed", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
    assert!(matches!(&failed.state, State::Failed(why) if why.to_string().contains("CustomResourceDefinition")));
    rig.server.has_kind.store(true, Relaxed);
    until_shows(&watch, "/a => /b").await;
    rig.server.has_kind.store(false, Relaxed);
    until(&watch, "stale", |snapshot| snapshot.stale.is_some()).await;
    assert!(matches!(watch.sample(), State::Ok(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn an_object_keeps_what_is_not_the_table() {
    let rig = KubeRig::new();
    rig.write("a", "/a => /b").await;
    let store = rig.open();
    let version = until_shows(&store.watch(&name("a")), "/a => /b").await;
    store.put(&name("a"), &dtab("/a => 1 * /c & 2 * /d"), &Expect::Version(version)).await.unwrap();
    let object: Value = serde_json::from_str(&rig.read("a").await.unwrap()).unwrap();
    assert_eq!(object["metadata"]["labels"]["team"], "web");
    assert_eq!(object["dentries"], json!([{"prefix": "/a", "dst": "/c & 2.00*/d"}]));
}

#[tokio::test(start_paused = true)]
async fn an_object_without_parts_is_an_empty_table_and_one_with_others_is_none() {
    let rig = KubeRig::new();
    rig.put("null", &Value::Null);
    rig.put("odd", &json!([null]));
    let store = rig.open();
    until_shows(&store.watch(&name("null")), "").await;
    let odd = store.watch(&name("odd"));
    until(&odd, "failed", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_kubernetes_does_not_take_is_refused() {
    let store = KubeRig::new().open();
    for bad in ["team/web", "A", "a_b"] {
        let refused = store.put(&name(bad), &dtab("/a => /b"), &Expect::Any).await;
        assert!(matches!(&refused, Err(StoreError::Unfit { .. })), "{refused:?}");
        let refused = store.delete(&name(bad), &Expect::Any).await;
        assert!(matches!(&refused, Err(StoreError::Missing(_))), "{refused:?}");
        until(&store.watch(&name(bad)), "absent", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn objects_come_in_pages_and_expired_watches_are_begun_anew() {
    let rig = KubeRig::new();
    for i in 0..10 {
        rig.write(&format!("n-{i}"), "/a => /b").await;
    }
    let store = rig.open();
    let (names, watch) = (store.list(), store.watch(&name("n-9")));
    let all = until(&names, "listed", |snapshot| matches!(snapshot.state, State::Ok(_))).await;
    assert_eq!(all.state.ok().unwrap().len(), 10);
    rig.server.kv.change(|state| {
        let object = String::from_utf8(state.entries["n-9"].value.clone()).unwrap();
        state.put("n-9", object.replace("/b", "/c").as_bytes());
        state.forgotten = state.revision + 1;
    });
    until_shows(&watch, "/a => /c").await;
}
