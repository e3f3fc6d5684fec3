//! Stores whose servers are wrong, though they are well: each kind of server in memory.

macro_rules! doubts {
    ($($kind:ident: $rig:expr;)*) => {
        $(mod $kind {
            crate::conforms! {
                paused = true, $rig,
                a_store_that_went_back_is_believed_when_it_stays_so
                a_store_that_lost_its_disk_empties_nothing
                what_would_empty_all_is_doubted_for_ten_minutes
            }
        })*
    };
}

doubts! {
    etcd_v2: crate::etcd::EtcdRig::new(linkerd_dtab::store::etcd::Api::V2);
    etcd_v3: crate::etcd::EtcdRig::new(linkerd_dtab::store::etcd::Api::V3);
    consul: crate::consul::ConsulRig::new(linkerd_dtab::store::consul::Consistency::Default);
    zookeeper: crate::zookeeper::ZkRig::new();
}

#[cfg(feature = "k8s")]
doubts! { k8s: crate::k8s::KubeRig::new(); }
