//! The store that a file asks for.

use std::sync::Arc;

use linkerd_dtab::store::{DtabStore, Memory};

use crate::config::{
    Errors,
    namerd::{Namerd, StorageKind},
};

/// Makes the store.
///
/// # Errors
///
/// It is not built, or cannot be used.
pub(super) fn build(config: &Namerd) -> Result<Arc<dyn DtabStore>, Errors> {
    match &config.storage.kind {
        StorageKind::InMemory { namespaces } => Ok(Arc::new(Memory::new(namespaces.iter().cloned()))),
        StorageKind::Files { .. }
        | StorageKind::Etcd(_)
        | StorageKind::Zk(_)
        | StorageKind::Consul(_)
        | StorageKind::K8s { .. } => Err(config.common.problem("storage.kind", "is not supported yet").into()),
    }
}
