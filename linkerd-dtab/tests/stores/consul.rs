//! Consul's keys and values.

use std::{future::ready, sync::Arc, time::Duration};

use http::HeaderValue;
use linkerd_dtab::{
    State,
    store::{Consul, DtabStore, Expect, consul::Consistency},
};

use crate::{
    fake::{self, Faulty, Kv},
    suite::{Done, Fault, Read, Rig, dtab, name, until, until_shows},
};

pub(crate) struct ConsulRig {
    kv: Kv,
    faulty: Faulty,
    consistency: Consistency,
}

impl ConsulRig {
    pub(crate) fn new(consistency: Consistency) -> Self {
        let kv = Kv::new();
        Self { faulty: Faulty::new(fake::consul::Consul(kv.clone())), kv, consistency }
    }
}

fn key(namespace: &str) -> String {
    format!("namerd/dtabs/{namespace}")
}

impl Rig for ConsulRig {
    fn open(&self) -> Arc<dyn DtabStore> {
        let consul = Consul::new(self.faulty.clone()).with_datacenter("dc-1").with_consistency(self.consistency);
        Arc::new(consul.with_token(HeaderValue::from_static("secret")).open())
    }

    fn write<'a>(&'a self, namespace: &'a str, text: &'a str) -> Done<'a> {
        self.kv.put(&key(namespace), text.as_bytes());
        Box::pin(ready(()))
    }

    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a> {
        self.kv.delete(&key(namespace));
        Box::pin(ready(()))
    }

    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a> {
        let entry = self.kv.get(&key(namespace));
        Box::pin(ready(entry.map(|entry| String::from_utf8(entry.value).unwrap())))
    }

    fn kv(&self) -> &fake::Kv {
        &self.kv
    }

    fn faults(&self) -> Vec<Fault> {
        fake::HTTP_FAULTS.to_vec()
    }

    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        self.faulty.set(fault);
        Box::pin(ready(()))
    }
}

crate::conforms! { paused = true, ConsulRig::new(Consistency::Default) }

#[tokio::test(start_paused = true)]
async fn an_index_that_goes_back_is_begun_anew() {
    let rig = ConsulRig::new(Consistency::Stale);
    let store = rig.open();
    for i in 0..10 {
        store.put(&name("a"), &dtab(&format!("/a => /{i}")), &Expect::Any).await.unwrap();
    }
    let watch = store.watch(&name("a"));
    until_shows(&watch, "/a => /9").await;
    // As after a backup was restored.
    rig.kv.change(|state| {
        state.entries.clear();
        state.changes.clear();
        state.revision = 2;
        state.put(&key("a"), b"/a => /restored");
    });
    until_shows(&watch, "/a => /restored").await;
    store.put(&name("a"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
    until_shows(&watch, "/a => /b").await;
}

/// As some time after a key was deleted, when Consul forgets that it was.
#[tokio::test(start_paused = true)]
async fn an_index_that_goes_back_without_a_change_is_believed() {
    let rig = ConsulRig::new(Consistency::Default);
    let store = rig.open();
    let before = store.put(&name("a"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
    store.put(&name("b"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
    store.delete(&name("b"), &Expect::Any).await.unwrap();
    rig.kv.change(|state| state.revision = 2);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(until_shows(&store.watch(&name("a")), "/a => /b").await, before);
    store.put(&name("a"), &dtab("/a => /c"), &Expect::Any).await.unwrap();
    assert_eq!(store.doubts(), 0);
}

/// A list of no keys is a 404 of Consul's; `[]` is somebody else's.
#[tokio::test(start_paused = true)]
async fn an_empty_list_is_no_answer() {
    let rig = ConsulRig::new(Consistency::Default);
    rig.write("a", "/a => /b").await;
    let store = rig.open();
    let watch = store.watch(&name("a"));
    until_shows(&watch, "/a => /b").await;
    rig.kv.change(|state| state.is_mute = true);
    let stale = until(&watch, "stale", |snapshot| snapshot.stale.is_some()).await;
    assert!(stale.stale.unwrap().to_string().contains("list of no keys"));
    // Not after ten minutes either.
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(matches!(watch.sample(), State::Ok(Some(_))));
}
