//! The etcd in memory that the tests of stores have.
#![allow(dead_code, reason = "they use the rest")]

#[path = "../../../../linkerd-dtab/tests/stores/fake/etcd.rs"]
pub(crate) mod etcd;
#[path = "../../../../linkerd-dtab/tests/stores/fake/kv.rs"]
mod kv;

pub(crate) use kv::Kv;
