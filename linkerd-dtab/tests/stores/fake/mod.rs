//! Servers in memory, which speak the protocols of stores as far as stores use them, and fail when they are told to.

mod faulty;
mod kv;

pub(crate) mod consul;
pub(crate) mod etcd;
#[cfg(feature = "k8s")]
pub(crate) mod k8s;
pub(crate) mod zookeeper;

pub(crate) use faulty::Faulty;
pub(crate) use kv::{Backup, Kv};

use crate::suite::Fault;

/// All that can go wrong with a server that speaks HTTP.
pub(crate) const HTTP_FAULTS: [Fault; 7] =
    [Fault::Away, Fault::Hangs, Fault::Resets, Fault::Halves, Fault::Babbles, Fault::Refuses, Fault::Blank];
