//! `transformers` of namers and interpreters: what is done to bound names.

use std::net::IpAddr;

use linkerd_dtab::Path;

use super::decode::{At, Decode, Section};

/// A transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transformer {
    /// `prefix`: what goes in front of bound names, after `/%`. Default: by kind.
    pub prefix: Option<Path>,
    /// `kind` and its own keys.
    pub kind: TransformerKind,
}

/// The kinds of transformers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransformerKind {
    /// `io.l5d.port`: replaces the port of every endpoint.
    Port {
        /// `port`. Required.
        port: u16,
    },
    /// `io.l5d.localhost`: keeps the endpoints on this machine.
    Localhost,
    /// `io.l5d.specificHost`: keeps the endpoints with this address.
    SpecificHost {
        /// `host`. Required.
        host: IpAddr,
    },
    /// `io.l5d.k8s.localnode`: keeps the endpoints on this Kubernetes node.
    LocalNode {
        /// `hostNetwork`: compare node names, not /24 networks. Default: false.
        host_network: bool,
    },
    /// `io.l5d.k8s.daemonset`: replaces each endpoint by the daemonset's on the same node.
    DaemonSet {
        /// `namespace` of the daemonset. Required.
        namespace: String,
        /// `service` of the daemonset. Required.
        service: String,
        /// `port`: name of the service's port. Required.
        port: String,
        /// `k8sHost` of the API. Default: `localhost`.
        k8s_host: String,
        /// `k8sPort` of the API. Default: 8001.
        k8s_port: u16,
        /// `hostNetwork`: compare node names, not /24 networks. Default: false.
        host_network: bool,
    },
    /// `io.l5d.const`: this name, whatever was bound.
    Const {
        /// `path`. Required.
        path: Path,
    },
    /// `io.l5d.replace`: this name for each leaf.
    Replace {
        /// `path`. Required.
        path: Path,
    },
}

impl Decode for Transformer {
    fn decode(at: &At<'_>) -> Option<Self> {
        const KINDS: [&str; 7] = [
            "io.l5d.port",
            "io.l5d.localhost",
            "io.l5d.specificHost",
            "io.l5d.k8s.localnode",
            "io.l5d.k8s.daemonset",
            "io.l5d.const",
            "io.l5d.replace",
        ];
        let mut s = Section::open(at, "transformer")?;
        let kind = s.kind("kind", &KINDS, None)?;
        let prefix = s.get("prefix");
        let kind = match kind {
            "io.l5d.port" => s.require("port").map(|port| TransformerKind::Port { port }),
            "io.l5d.localhost" => Some(TransformerKind::Localhost),
            "io.l5d.specificHost" => s.require("host").map(|host| TransformerKind::SpecificHost { host }),
            "io.l5d.k8s.localnode" => Some(TransformerKind::LocalNode { host_network: s.or("hostNetwork", false) }),
            "io.l5d.k8s.daemonset" => daemon_set(&mut s),
            "io.l5d.const" => s.require("path").map(|path| TransformerKind::Const { path }),
            _ => s.require("path").map(|path| TransformerKind::Replace { path }),
        };
        s.finish();
        Some(Self { prefix, kind: kind? })
    }
}

fn daemon_set(s: &mut Section<'_>) -> Option<TransformerKind> {
    let namespace = s.require("namespace");
    let service = s.require("service");
    let port = s.require("port");
    let k8s_host = s.or("k8sHost", "localhost".to_owned());
    let k8s_port = s.or("k8sPort", 8001);
    let host_network = s.or("hostNetwork", false);
    Some(TransformerKind::DaemonSet {
        namespace: namespace?,
        service: service?,
        port: port?,
        k8s_host,
        k8s_port,
        host_network,
    })
}
