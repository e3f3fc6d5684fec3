//! The store that a file asks for.

use std::sync::Arc;

use http::HeaderValue;
use linkerd_dtab::{
    Interpreter, Path,
    interpreter::Local,
    namer::Resolve,
    store::{Backoff, Consul, DtabStore, Etcd, Files, Memory, ZooKeeper, consul, etcd, zookeeper},
};

#[cfg(feature = "tls")]
use crate::tls::{self, Alpn, Connector};
use crate::{
    Mesh,
    config::{
        self, ClientTls, ConsistencyMode, ConsulAgent, Errors,
        namerd::{ConsulStorage, EtcdApi, EtcdStorage, Namerd, StorageKind, ZkStorage},
    },
    http::{ClientConfig, HttpConnect},
    telemetry::{Registry, RouterStats},
    transport::{ClientTransport, NameDial},
};

/// What cannot be built: the key of the storage, and why.
type Problem = (String, String);

/// What stores are reached by.
struct Reach<'a> {
    registry: &'a Registry,
    names: Arc<dyn Interpreter>,
}

/// Makes the store. Inside a tokio runtime.
///
/// # Errors
///
/// It is not built, or cannot be used.
pub(super) fn build(
    config: &Namerd,
    resolve: &Arc<dyn Resolve>,
    registry: &Registry,
) -> Result<Arc<dyn DtabStore>, Errors> {
    let names = Arc::new(Local::new(Vec::new(), Arc::clone(resolve)));
    let reach = Reach { registry, names };
    let problem = |(key, text): Problem| config.common.problem(&format!("storage.{key}"), text);
    reach.store(&config.storage.kind).map_err(|found| problem(found).into())
}

impl Reach<'_> {
    fn store(&self, kind: &StorageKind) -> Result<Arc<dyn DtabStore>, Problem> {
        Ok(match kind {
            StorageKind::InMemory { namespaces } => Arc::new(Memory::new(namespaces.iter().cloned())),
            StorageKind::Files { directory, create } => {
                let files = Files::new(directory);
                let begun = if *create { files.begin() } else { files.begin_if_new() };
                let cannot = |error| format!("cannot make the directory {}: {error}", directory.display());
                begun.map_err(|error| ("directory".to_owned(), cannot(error)))?;
                Arc::new(files.open())
            }
            StorageKind::Etcd(etcd) => Arc::new(self.etcd(etcd)?),
            StorageKind::Zk(zk) => Arc::new(self.zk(zk)?),
            StorageKind::Consul(consul) => Arc::new(self.consul(consul)?),
            #[cfg(feature = "k8s")]
            StorageKind::K8s { host, port, namespace } => {
                let transport = self.transport(host, *port, None)?;
                Arc::new(linkerd_dtab::store::Kubernetes::over(transport, namespace).open())
            }
            #[cfg(not(feature = "k8s"))]
            StorageKind::K8s { .. } => {
                return Err(("kind".to_owned(), "'io.l5d.k8s' is not supported: built without k8s".to_owned()));
            }
        })
    }

    fn etcd(&self, etcd: &EtcdStorage) -> Result<impl DtabStore + use<>, Problem> {
        let EtcdStorage { host, port, path_prefix, api } = etcd;
        let mut store = Etcd::new(self.transport(host, *port, None)?).with_prefix(path_prefix.clone());
        if let Some(api) = api {
            store = store.with_api(match api {
                EtcdApi::V2 => etcd::Api::V2,
                EtcdApi::V3 => etcd::Api::V3,
            });
        }
        Ok(store.open())
    }

    fn consul(&self, consul: &ConsulStorage) -> Result<impl DtabStore + use<>, Problem> {
        let ConsulStorage { path_prefix, agent } = consul;
        let ConsulAgent {
            host,
            port,
            token,
            datacenter,
            read_consistency_mode,
            write_consistency_mode: _, // Warned of.
            fail_fast: _,              // Warned of.
            backoff,
            tls,
        } = agent;
        let mut store = Consul::new(self.transport(host, *port, tls.as_ref())?).with_prefix(path_prefix.clone());
        if let Some(token) = token {
            let text = "must be what a header can hold".to_owned();
            let mut token = HeaderValue::try_from(token).map_err(|_| ("token".to_owned(), text))?;
            token.set_sensitive(true);
            store = store.with_token(token);
        }
        if let Some(datacenter) = datacenter {
            store = store.with_datacenter(datacenter);
        }
        if let Some(backoff) = backoff {
            store = store.with_backoff(pauses(backoff));
        }
        let consistency = match read_consistency_mode.unwrap_or_default() {
            ConsistencyMode::Default => consul::Consistency::Default,
            ConsistencyMode::Stale => consul::Consistency::Stale,
            ConsistencyMode::Consistent => consul::Consistency::Consistent,
        };
        Ok(store.with_consistency(consistency).open())
    }

    fn zk(&self, zk: &ZkStorage) -> Result<impl DtabStore + use<>, Problem> {
        let ZkStorage { zk_addrs, path_prefix, session_timeout, auth, acls } = zk;
        let dials = zk_addrs.iter().enumerate().map(|(i, addr)| {
            let name = Path::from_elements(["$", "inet", &addr.host, &addr.port.to_string()]);
            let name = name.map_err(|error| (format!("zkAddrs[{i}].host"), error.to_string()))?;
            Ok(NameDial::new(Arc::clone(&self.names), name))
        });
        let mut dials = dials.collect::<Result<Vec<_>, Problem>>()?.into_iter();
        let first = dials.next().ok_or_else(|| ("zkAddrs".to_owned(), "must be at least one address".to_owned()))?;
        let mut store = dials.fold(ZooKeeper::new(first), ZooKeeper::with_server);
        if let Some(auth) = auth {
            let auth = zookeeper::Auth { scheme: auth.scheme.clone(), auth: auth.auth.clone().into_bytes() };
            store = store.with_auth(auth);
        }
        let acls = acls.iter().enumerate().map(|(i, (scheme, id, perms))| {
            let perms = perms.parse().map_err(|error| (format!("acls[{i}].perms"), format!("{error}")));
            perms.map(|perms: zookeeper::Perms| zookeeper::Acl { scheme: scheme.clone(), id: id.clone(), perms })
        });
        let acls = acls.collect::<Result<Vec<_>, Problem>>()?;
        Ok(store.with_prefix(path_prefix.clone()).with_session_timeout(*session_timeout).with_acls(acls).open())
    }

    /// What leads to a server of HTTP.
    fn transport(&self, host: &str, port: u16, tls: Option<&ClientTls>) -> Result<ClientTransport, Problem> {
        let problem = |text: String| ("host".to_owned(), text);
        let header = HeaderValue::try_from(format!("{host}:{port}"));
        let header = header.map_err(|_| problem(format!("no host: {host}")))?;
        let connect = HttpConnect::new(self.client(tls)?);
        let mesh = Mesh::builder().interpreter(Arc::clone(&self.names)).connect(connect);
        let mesh = mesh.metrics(RouterStats::new(self.registry, "storage")).build();
        let mesh = mesh.map_err(|error| problem(error.to_string()))?;
        let client = mesh.client(&format!("/$/inet/{host}/{port}")).map_err(|error| problem(error.to_string()))?;
        Ok(ClientTransport::new(client).host(header))
    }

    #[cfg(feature = "tls")]
    fn client(&self, tls: Option<&ClientTls>) -> Result<ClientConfig, Problem> {
        let mut config = ClientConfig::default();
        if let Some(tls) = tls.filter(|tls| tls.enabled) {
            let connector = tls.connector(&[Alpn::Http1], &tls::Metrics::new(self.registry));
            let connector = connector.map_err(|error| ("tls".to_owned(), error.to_string()))?;
            config.tls = Some(match &tls.common_name {
                Some(name) => {
                    let name = Connector::check_name(name).map(|()| name);
                    connector.named(name.map_err(|error| ("tls.commonName".to_owned(), error.to_string()))?)
                }
                None => connector,
            });
        }
        Ok(config)
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, reason = "as with TLS")]
    fn client(&self, tls: Option<&ClientTls>) -> Result<ClientConfig, Problem> {
        match tls.filter(|tls| tls.enabled) {
            Some(_) => Err(("tls".to_owned(), "is not supported: built without TLS".to_owned())),
            None => Ok(ClientConfig::default()),
        }
    }
}

/// How long a store is left alone when it fails, as a `backoff` says.
fn pauses(backoff: &config::Backoff) -> Backoff {
    match *backoff {
        config::Backoff::Constant { pause } => Backoff { min: pause, max: pause },
        config::Backoff::EqualJittered { min, max }
        | config::Backoff::FullJittered { min, max }
        | config::Backoff::Jittered { min, max } => Backoff { min, max },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use linkerd_dtab::namer::Inet;
    use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

    use super::*;

    fn config(storage: &str) -> Namerd {
        let text = format!("storage: {{{storage}}}\ninterfaces: [{{kind: io.l5d.mesh}}]\n");
        Namerd::parse("n.yaml", &text).unwrap()
    }

    fn store(storage: &str) -> Result<Arc<dyn DtabStore>, Errors> {
        let resolve: Arc<dyn Resolve> = Arc::new(Inet::default());
        build(&config(storage), &resolve, &Registry::new())
    }

    /// The first bytes that the store of this file, with a free port for `PORT`, sends to its server.
    async fn first_bytes(storage: &str) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let store = store(&storage.replace("PORT", &port)).unwrap();
        let _list = store.list();
        let read = async {
            let mut bytes = vec![0; 4096];
            let len = listener.accept().await.unwrap().0.read(&mut bytes).await.unwrap();
            bytes.truncate(len);
            bytes
        };
        timeout(Duration::from_mins(1), read).await.expect("the server is asked")
    }

    #[tokio::test]
    async fn consul_is_asked_as_the_file_says() {
        let head = first_bytes(
            "kind: io.l5d.consul, host: 127.0.0.1, port: PORT, pathPrefix: /a/b, token: t0, datacenter: east, \
             readConsistencyMode: consistent",
        );
        let head = String::from_utf8(head.await).unwrap();
        assert!(head.starts_with("GET /v1/kv/a/b/?recurse=true&consistent&dc=east"), "{head}");
        assert!(head.contains("x-consul-token: t0\r\n"), "{head}");
    }

    #[tokio::test]
    async fn zookeeper_is_asked_for_sessions_as_long_as_the_file_says() {
        let storage = "kind: io.l5d.zk, zkAddrs: [{host: 127.0.0.1, port: PORT}], sessionTimeoutMs: 4660, \
                       authInfo: {scheme: digest, auth: 'a:b'}, acls: [{scheme: world, id: anyone, perms: rw}]";
        let bytes = first_bytes(storage).await;
        // The length, the protocol's version, the last change seen, the timeout.
        assert_eq!(bytes[16..20], 4660_u32.to_be_bytes(), "{bytes:?}");
    }

    #[cfg(feature = "k8s")]
    #[tokio::test]
    async fn kubernetes_is_asked_for_objects_of_the_namespace() {
        let head = first_bytes("kind: io.l5d.k8s, host: 127.0.0.1, port: PORT, namespace: l5d").await;
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("GET /apis/l5d.io/v1alpha1/namespaces/l5d/dtabs?"), "{head}");
    }

    #[cfg(not(feature = "k8s"))]
    #[tokio::test]
    async fn kubernetes_is_refused_where_it_is_not_built() {
        let Err(errors) = store("kind: io.l5d.k8s") else { panic!("built") };
        assert_eq!(errors.to_string(), "n.yaml:1:17: storage.kind: 'io.l5d.k8s' is not supported: built without k8s");
    }

    #[tokio::test]
    async fn what_cannot_be_built_is_named_with_its_key() {
        for (storage, key) in [
            ("kind: io.l5d.consul, token: \"a\\nb\"", "storage.token: must be what a header can hold"),
            ("kind: io.l5d.zk, zkAddrs: [{host: ''}]", "storage.zkAddrs[0].host: "),
            ("kind: io.l5d.etcd, experimental: true, host: 'a b'", "storage.host: "),
        ] {
            let Err(errors) = store(storage) else { panic!("{storage}: built") };
            assert!(errors.to_string().contains(key), "{errors}");
        }
    }

    #[tokio::test]
    async fn a_directory_of_tables_is_made_where_no_mount_can_be_missing() {
        let above = tempfile::tempdir().unwrap();
        let is_known = async |directory: &str, create: bool| {
            let directory = above.path().join(directory);
            let store =
                store(&format!("kind: io.l5d.fs, directory: '{}', create: {create}", directory.display())).unwrap();
            let known = timeout(Duration::from_mins(1), store.list().ready()).await.expect("an answer");
            known.map(|names| names.len()).map_err(|error| error.to_string())
        };
        // The one above is empty, as is one that is yet to be mounted: nothing is made.
        assert!(is_known("tables", false).await.is_err() && !above.path().join("tables").exists());
        std::fs::write(above.path().join("namerd.yaml"), "").unwrap();
        assert_eq!(is_known("tables", false).await, Ok(0));
        assert_eq!(is_known("tables", false).await, Ok(0));
        assert!(is_known("a/b/tables", false).await.is_err() && !above.path().join("a").exists());
        assert_eq!(is_known("a/b/tables", true).await, Ok(0));
        std::fs::create_dir(above.path().join("mount")).unwrap();
        let error = is_known("mount", false).await.unwrap_err();
        assert!(error.contains("/mount is empty") && error.contains("`create: true`"), "{error}");
        assert_eq!(is_known("mount", true).await, Ok(0));
    }

    #[test]
    fn keys_without_effect_are_warned_of() {
        let config = config("kind: io.l5d.consul, failFast: true, writeConsistencyMode: consistent");
        let warnings: Vec<_> = config.common.warnings().iter().map(ToString::to_string).collect();
        assert!(warnings[0].starts_with("n.yaml:1:42: storage.failFast: has no effect"), "{warnings:?}");
        assert!(warnings[1].contains("storage.writeConsistencyMode: has no effect"), "{warnings:?}");
    }

    #[test]
    fn a_constant_backoff_does_not_grow() {
        let pause = Duration::from_secs(3);
        assert_eq!(pauses(&config::Backoff::Constant { pause }), Backoff { min: pause, max: pause });
        let (min, max) = (Duration::from_millis(5), Duration::from_secs(9));
        assert_eq!(pauses(&config::Backoff::Jittered { min, max }), Backoff { min, max });
    }
}
