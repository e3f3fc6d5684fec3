//! Interpreters that ask a namerd.

use std::sync::Arc;

use http::HeaderValue;
use linkerd_dtab::{
    Interpreter as Interprets, Path,
    interpreter::remote::{Http, Mesh as Grpc, Pauses, Remote, Snapshots, Source, thrift::Thrift},
    transport::Heartbeat,
};

use super::Builder;
#[cfg(feature = "tls")]
use crate::tls::{Alpn, Connector};
use crate::{
    Mesh,
    config::{self, ClientTls, NamerdTls, SnapshotFile},
    http::{ClientConfig, H2Config, HttpConnect, KeepAlive, Wire},
    telemetry::RouterStats,
    transport::{ClientTransport, NameDial},
};

/// How a namerd is reached.
pub(super) struct Reach<'a> {
    pub(super) remote: &'a config::Remote,
    /// The router's.
    #[cfg(feature = "tls")]
    pub(super) label: &'a str,
    /// Whose names it binds: the scope of its metrics below `rt`.
    pub(super) scope: &'a str,
    /// Finds the namerds themselves.
    pub(super) names: Arc<dyn Interprets>,
    pub(super) builder: &'a Builder<'a>,
}

/// What cannot be built: the key of the interpreter, and why.
type Problem = (&'static str, String);

impl Reach<'_> {
    /// By thrift over mux.
    pub(super) fn thrift(&self, tls: Option<&NamerdTls>) -> Result<Remote, Problem> {
        #[cfg(feature = "tls")]
        let tls = tls.map(|tls| self.connector(&tls.as_client(), &[])).transpose()?;
        #[cfg(not(feature = "tls"))]
        refuse(tls.is_some())?;
        let heartbeat = self.heartbeat();
        self.build(&self.remote.namespace, |name| {
            let dial = NameDial::new(Arc::clone(&self.names), name.clone());
            #[cfg(feature = "tls")]
            let dial = match &tls {
                Some(tls) => dial.tls(tls.clone()),
                None => dial,
            };
            Ok(Arc::new(Thrift::new(dial, &*self.remote.namespace).heartbeat(heartbeat)))
        })
    }

    /// By HTTP.
    pub(super) fn http(&self, tls: Option<&ClientTls>) -> Result<Remote, Problem> {
        let namespace = &self.remote.namespace;
        let heartbeat = self.heartbeat();
        self.over(namespace, Wire::Http1, tls, |transport| {
            Arc::new(Http::new(transport, &**namespace).heartbeat(heartbeat))
        })
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat { period: self.remote.check_period, timeout: self.remote.check_timeout }
    }

    /// By gRPC.
    pub(super) fn grpc(&self, root: &Path, window_kb: u32, tls: Option<&ClientTls>) -> Result<Remote, Problem> {
        let keep_alive = KeepAlive { period: self.remote.check_period, timeout: self.remote.check_timeout };
        let wire = Wire::H2(H2Config {
            initial_stream_window_bytes: window_kb.saturating_mul(1024),
            keep_alive: Some(keep_alive),
            ..H2Config::default()
        });
        self.over(&root.to_string(), wire, tls, |transport| Arc::new(Grpc::new(transport, root.clone())))
    }

    fn over(
        &self,
        namespace: &str,
        wire: Wire,
        tls: Option<&ClientTls>,
        source: impl Fn(ClientTransport) -> Arc<dyn Source>,
    ) -> Result<Remote, Problem> {
        #[cfg_attr(not(feature = "tls"), allow(unused_mut))]
        let mut config = ClientConfig { wire, ..ClientConfig::default() };
        #[cfg(feature = "tls")]
        if let Some(tls) = tls.filter(|tls| tls.enabled) {
            let alpn = if matches!(config.wire, Wire::Http1) { Alpn::Http1 } else { Alpn::H2 };
            config.tls = Some(self.connector(tls, &[alpn])?);
        }
        #[cfg(not(feature = "tls"))]
        refuse(tls.is_some_and(|tls| tls.enabled))?;
        let mesh = Mesh::builder()
            .interpreter(Arc::clone(&self.names))
            .connect(HttpConnect::new(config))
            .metrics(RouterStats::new(self.builder.registry, self.scope))
            .build()
            .map_err(|error| ("kind", error.to_string()))?;
        self.build(namespace, |name| {
            let client = mesh.client(&name.to_string()).map_err(|error| ("dst", error.to_string()))?;
            // Who listens there is told by a name that any server takes.
            Ok(source(ClientTransport::new(client).host(HeaderValue::from_static("namerd"))))
        })
    }

    fn build(
        &self,
        namespace: &str,
        source: impl Fn(&Path) -> Result<Arc<dyn Source>, Problem>,
    ) -> Result<Remote, Problem> {
        let config::Remote {
            dst,
            fallbacks,
            snapshot,
            namespace: _,             // Given by each protocol.
            per_request_namespace: _, // One of these for each.
            retry_base: base,
            retry_max: max,
            check_period: _, // Of the connection.
            check_timeout: _,
        } = self.remote;
        let mut builder = Remote::builder(source(dst)?).pauses(Pauses { base: *base, max: *max });
        for name in fallbacks {
            builder = builder.or(source(name)?);
        }
        if let Some(SnapshotFile { file, max_age }) = snapshot {
            builder = builder.snapshots(Snapshots::new(file, format!("{dst} {namespace}")).max_age(*max_age));
        }
        Ok(builder.build())
    }

    #[cfg(feature = "tls")]
    fn connector(&self, tls: &ClientTls, alpn: &[Alpn]) -> Result<Connector, Problem> {
        let connector = self.builder.connector(self.label, self.scope.to_owned(), tls, alpn);
        let connector = connector.map_err(|error| ("tls", error.to_string()))?;
        let Some(name) = &tls.common_name else { return Ok(connector) };
        Connector::check_name(name).map_err(|error| ("tls.commonName", error.to_string()))?;
        Ok(connector.named(name))
    }
}

#[cfg(not(feature = "tls"))]
fn refuse(is_tls: bool) -> Result<(), Problem> {
    if is_tls { Err(("tls", "is not supported: built without TLS".to_owned())) } else { Ok(()) }
}
