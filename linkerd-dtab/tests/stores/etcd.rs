//! etcd, by both versions of its API.

use std::{future::ready, sync::Arc};

use linkerd_dtab::store::{DtabStore, Etcd, etcd::Api};

use crate::{
    fake::{self, Faulty, Kv},
    suite::{Done, Fault, Read, Rig},
};

struct EtcdRig {
    server: fake::etcd::Etcd,
    faulty: Faulty,
    api: Api,
}

impl EtcdRig {
    fn new(api: Api) -> Self {
        let server = fake::etcd::Etcd::new();
        Self { faulty: Faulty::new(server.clone()), server, api }
    }

    fn kv(&self) -> &Kv {
        match self.api {
            Api::V2 => &self.server.v2,
            Api::V3 => &self.server.v3,
        }
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
