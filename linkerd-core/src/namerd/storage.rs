//! The store that a file asks for.

use std::{fs, sync::Arc};

use http::HeaderValue;
use linkerd_dtab::store::{DtabStore, Etcd, Files, Memory, etcd};

use crate::{
    Mesh,
    config::{
        Errors, Problem,
        namerd::{EtcdApi, EtcdStorage, Namerd, StorageKind},
    },
    telemetry::{Registry, RouterStats},
    transport::ClientTransport,
};

/// Makes the store. Inside a tokio runtime.
///
/// # Errors
///
/// It is not built, or cannot be used.
pub(super) fn build(config: &Namerd, registry: &Registry) -> Result<Arc<dyn DtabStore>, Errors> {
    let built: Result<Arc<dyn DtabStore>, Problem> = match &config.storage.kind {
        StorageKind::InMemory { namespaces } => Ok(Arc::new(Memory::new(namespaces.iter().cloned()))),
        StorageKind::Files { directory } => match fs::create_dir_all(directory) {
            Ok(()) => Ok(Arc::new(Files::new(directory).open())),
            Err(error) => {
                let text = format!("cannot make the directory {}: {error}", directory.display());
                Err(config.common.problem("storage.directory", text))
            }
        },
        StorageKind::Etcd(EtcdStorage { host, port, path_prefix, api }) => transport(config, registry, host, *port)
            .map(|transport| {
                let mut store = Etcd::new(transport).with_prefix(path_prefix.clone());
                if let Some(api) = api {
                    store = store.with_api(match api {
                        EtcdApi::V2 => etcd::Api::V2,
                        EtcdApi::V3 => etcd::Api::V3,
                    });
                }
                Arc::new(store.open()) as Arc<dyn DtabStore>
            }),
        StorageKind::Zk(_) | StorageKind::Consul(_) | StorageKind::K8s { .. } => {
            Err(config.common.problem("storage.kind", "is not supported yet"))
        }
    };
    built.map_err(Errors::from)
}

/// What leads to a server of HTTP.
fn transport(config: &Namerd, registry: &Registry, host: &str, port: u16) -> Result<ClientTransport, Problem> {
    let problem = |text: String| config.common.problem("storage.host", text);
    let header = HeaderValue::try_from(format!("{host}:{port}")).map_err(|_| problem(format!("no host: {host}")))?;
    let mesh = Mesh::builder().metrics(RouterStats::new(registry, "storage")).build();
    let mesh = mesh.map_err(|error| problem(error.to_string()))?;
    let client = mesh.client(&format!("/$/inet/{host}/{port}")).map_err(|error| problem(error.to_string()))?;
    Ok(ClientTransport::new(client).host(header))
}
