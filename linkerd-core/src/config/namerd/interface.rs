//! The entries of `interfaces`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use linkerd_dtab::{Path, store::Namespace};

use super::super::{
    access_log::{AccessLog, H2_LOG},
    conflict::{Claims, Listener},
    decode::{At, Section},
    router,
    server::SocketOptions,
    tls::ServerTls,
};
use super::{access::parsed, bounds::NameCache};

/// An interface: a port on which namerd is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// `ip`: the address to listen on. Default: loopback.
    pub ip: IpAddr,
    /// `port`. Default by kind: httpController 4180, mesh 4321, thriftNameInterpreter 4100, destination 8086.
    pub port: u16,
    /// `socketOptions` of the listening socket and of what it accepts.
    pub socket_options: SocketOptions,
    /// `tls`. Default: none, clear text.
    pub tls: Option<ServerTls>,
    /// `readOnly`: nothing can be changed through it. Default: false.
    ///
    /// Not a key of Linkerd 1.x.
    pub read_only: bool,
    /// `kind` and its own keys.
    pub kind: InterfaceKind,
}

/// The kinds of interfaces.
#[derive(Clone, Debug, PartialEq)]
pub enum InterfaceKind {
    /// `io.l5d.httpController`: the HTTP API, which `namerctl` asks.
    Http,
    /// `io.l5d.mesh`: gRPC.
    Mesh {
        /// `h2AccessLog` and its relatives. Default: none.
        access_log: Option<AccessLog>,
    },
    /// `io.l5d.thriftNameInterpreter`: thrift over mux.
    Thrift {
        /// `cache`: how many names are followed, for all interfaces together. Default: the file's `cache`.
        cache: Option<NameCache>,
    },
    /// `io.l5d.destination`: what Linkerd 2's proxies ask.
    Destination {
        /// `namespace` that names are bound in. Default: `default`.
        namespace: Namespace,
        /// `prefix` of the names. Default: `/svc`.
        prefix: Path,
    },
}

const KINDS: [(&str, u16); 4] = [
    ("io.l5d.httpController", 4180),
    ("io.l5d.mesh", 4321),
    ("io.l5d.thriftNameInterpreter", 4100),
    ("io.l5d.destination", 8086),
];

impl Interface {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// Its kind, as it is written.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            InterfaceKind::Http => KINDS[0].0,
            InterfaceKind::Mesh { .. } => KINDS[1].0,
            InterfaceKind::Thrift { .. } => KINDS[2].0,
            InterfaceKind::Destination { .. } => KINDS[3].0,
        }
    }

    pub(super) fn decode(at: &At<'_>, claims: &Claims) -> Option<Self> {
        let mut s = Section::open(at, "interface")?;
        let kind = s.kind("kind", &KINDS.map(|(kind, _)| kind), None)?;
        let port = KINDS.iter().find(|(name, _)| *name == kind).map_or(0, |(_, port)| *port);
        let (ip, port) = (s.or("ip", IpAddr::V4(Ipv4Addr::LOCALHOST)), s.or("port", port));
        let socket_options = s.or("socketOptions", SocketOptions::default());
        let tls = s.get("tls");
        let read_only = s.or("readOnly", false);
        let kind = match kind {
            "io.l5d.httpController" => Some(InterfaceKind::Http),
            "io.l5d.mesh" => Some(InterfaceKind::Mesh { access_log: AccessLog::decode(&mut s, H2_LOG) }),
            "io.l5d.thriftNameInterpreter" => Some(InterfaceKind::Thrift { cache: s.get("cache") }),
            _ => {
                let namespace = s.with("namespace", parsed).or_else(|| "default".parse().ok());
                let prefix = s.get("prefix").unwrap_or_else(|| super::super::announcer::path(&["svc"]));
                namespace.map(|namespace| InterfaceKind::Destination { namespace, prefix })
            }
        };
        s.finish();
        let reuse_port = socket_options.reuse_port;
        let what = "another interface";
        router::claim_port(at, claims, Listener { ip, port, reuse_port, what, at: at.node.at });
        Some(Self { ip, port, socket_options, tls, read_only, kind: kind? })
    }
}
