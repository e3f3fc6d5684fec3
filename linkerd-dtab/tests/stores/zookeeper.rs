//! ZooKeeper's nodes.

use std::{future::ready, sync::Arc};

use linkerd_dtab::{
    State,
    store::{
        DtabStore, Expect, StoreError, ZooKeeper,
        zookeeper::{Acl, Auth},
    },
};

use crate::{
    fake,
    suite::{Done, Fault, Read, Rig, dtab, name, until, until_shows},
};

pub(crate) struct ZkRig(fake::zookeeper::ZooKeeper);

impl ZkRig {
    pub(crate) fn new() -> Self {
        Self(fake::zookeeper::ZooKeeper::new())
    }
}

fn node(namespace: &str) -> String {
    format!("/dtabs/{}", namespace.replace('/', "%2F"))
}

fn auth(auth: &str) -> Auth {
    Auth { scheme: "digest".into(), auth: auth.into() }
}

impl Rig for ZkRig {
    fn open(&self) -> Arc<dyn DtabStore> {
        Arc::new(ZooKeeper::new(self.0.clone()).with_server(self.0.clone()).with_auth(auth("namerd:secret")).open())
    }

    fn write<'a>(&'a self, namespace: &'a str, text: &'a str) -> Done<'a> {
        if self.0.kv.get("/dtabs").is_none() {
            self.0.kv.put("/dtabs", b"");
        }
        self.0.kv.put(&node(namespace), text.as_bytes());
        Box::pin(ready(()))
    }

    fn erase<'a>(&'a self, namespace: &'a str) -> Done<'a> {
        self.0.kv.delete(&node(namespace));
        Box::pin(ready(()))
    }

    fn read<'a>(&'a self, namespace: &'a str) -> Read<'a> {
        let entry = self.0.kv.get(&node(namespace));
        Box::pin(ready(entry.map(|entry| String::from_utf8(entry.value).unwrap())))
    }

    fn kv(&self) -> &fake::Kv {
        &self.0.kv
    }

    fn faults(&self) -> Vec<Fault> {
        fake::HTTP_FAULTS.to_vec()
    }

    fn set(&self, fault: Option<Fault>) -> Done<'_> {
        self.0.set(fault);
        Box::pin(ready(()))
    }
}

crate::conforms! { paused = true, ZkRig::new() }

#[tokio::test(start_paused = true)]
async fn who_is_not_let_in_knows_nothing() {
    let rig = ZkRig::new();
    rig.write("a", "/a => /b").await;
    let store = ZooKeeper::new(rig.0.clone()).with_auth(auth("namerd:wrong")).open();
    let watch = store.watch(&name("a"));
    let failed = until(&watch, "failed", |snapshot| matches!(snapshot.state, State::Failed(_))).await;
    assert!(
        matches!(&failed.state, State::Failed(why) if why.to_string().contains("authenticate by digest")),
        "{failed:?}"
    );
    let refused = store.put(&name("a"), &dtab("/a => /c"), &Expect::Any).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn versions_are_the_nodes_own() {
    let rig = ZkRig::new();
    let acl = Acl { scheme: "world".into(), id: "anyone".into(), perms: "crwd".parse().unwrap() };
    let store = ZooKeeper::new(rig.0.clone()).with_prefix("/a/b/c".parse().unwrap()).with_acls([acl]).open();
    for version in 0_u8..3 {
        let put = store.put(&name("x"), &dtab("/a => /b"), &Expect::Any).await.unwrap();
        assert_eq!(put.as_bytes(), [0, 0, 0, version]);
    }
    assert!(rig.0.kv.get("/a/b/c/x").is_some());
}

/// A session that is never broken: changes are told by watches, and each is told once.
#[tokio::test(start_paused = true)]
async fn each_change_in_one_session_is_seen() {
    let rig = ZkRig::new();
    rig.write("a", "/a => /0").await;
    rig.write("b", "/b => /0").await;
    let store = rig.open();
    let (a, b) = (store.watch(&name("a")), store.watch(&name("b")));
    for i in 1..20 {
        rig.write("a", &format!("/a => /{i}")).await;
        until_shows(&a, &format!("/a => /{i}")).await;
        if i % 3 == 0 {
            rig.erase("b").await;
            until(&b, "gone", |snapshot| matches!(snapshot.state, State::Ok(None))).await;
            rig.write("b", &format!("/b => /{i}")).await;
        }
        until_shows(&b, &format!("/b => /{}", i / 3 * 3)).await;
    }
}
