//! The sections `admin` and `usage`.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    decode::{At, Decode, Section},
    server::SocketOptions,
    tls::ServerTls,
    value::Pattern,
};

/// The `admin` section: where the admin pages are served, and which of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// `ip`: the address to listen on. Default: loopback.
    pub ip: IpAddr,
    /// `port`. Default: 9990.
    pub port: u16,
    /// `shutdownGraceMs`: how long open requests may take after a signal or `/admin/shutdown`. Default: 10 s.
    pub shutdown_grace: Duration,
    /// `tls`: serve the pages over TLS. Default: no.
    pub tls: Option<ServerTls>,
    /// `socketOptions` of the listening socket and of what it accepts.
    pub socket_options: SocketOptions,
    /// `workerThreads` that serve the pages, at least 1. Default: 2.
    pub worker_threads: usize,
    /// `httpIdentifierPort`: a second port that answers how requests would be identified. Default: none.
    pub http_identifier_port: Option<u16>,
    /// `security`: which pages are served. Default: all of them.
    pub security: Option<AdminSecurity>,
}

/// The `security` part of `admin`. A blacklisted path is hidden; else one whose category is enabled, or that is
/// whitelisted, is served; what is not served is 404.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminSecurity {
    /// `uiEnabled`: the pages for people. Default: true.
    pub ui_enabled: bool,
    /// `controlEnabled`: `/admin/shutdown` and `/logging.json`. Default: true.
    pub control_enabled: bool,
    /// `diagnosticsEnabled`: all other paths. Default: true.
    pub diagnostics_enabled: bool,
    /// `pathWhitelist`: paths that are served although their category is off. Default: none.
    pub path_whitelist: Vec<Pattern>,
    /// `pathBlacklist`: paths that are never served. Default: none.
    pub path_blacklist: Vec<Pattern>,
}

/// The `usage` section. Accepted for compatibility: nothing is ever sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `enabled`. Default: true. Has no effect.
    pub enabled: bool,
    /// `orgId`: free text. Has no effect.
    pub org_id: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 9990,
            shutdown_grace: Duration::from_secs(10),
            tls: None,
            socket_options: SocketOptions::default(),
            worker_threads: 2,
            http_identifier_port: None,
            security: None,
        }
    }
}

impl Default for AdminSecurity {
    fn default() -> Self {
        Self {
            ui_enabled: true,
            control_enabled: true,
            diagnostics_enabled: true,
            path_whitelist: Vec::new(),
            path_blacklist: Vec::new(),
        }
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self { enabled: true, org_id: None }
    }
}

impl Admin {
    /// Reads the section; `default` stands for what it does not say.
    pub(super) fn decode_or(at: &At<'_>, default: Self) -> Option<Self> {
        let mut s = Section::open(at, "admin")?;
        let admin = Self {
            ip: s.or("ip", default.ip),
            port: s.or("port", default.port),
            shutdown_grace: s.millis("shutdownGraceMs", 0).unwrap_or(default.shutdown_grace),
            tls: s.get("tls"),
            socket_options: s.or("socketOptions", default.socket_options),
            worker_threads: s.size("workerThreads", 1).unwrap_or(default.worker_threads),
            http_identifier_port: s.get("httpIdentifierPort"),
            security: s.get("security"),
        };
        s.finish();
        Some(admin)
    }
}

impl Decode for Admin {
    fn decode(at: &At<'_>) -> Option<Self> {
        Self::decode_or(at, Self::default())
    }
}

impl Decode for AdminSecurity {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "security")?;
        let security = Self {
            ui_enabled: s.or("uiEnabled", true),
            control_enabled: s.or("controlEnabled", true),
            diagnostics_enabled: s.or("diagnosticsEnabled", true),
            path_whitelist: s.or("pathWhitelist", Vec::new()),
            path_blacklist: s.or("pathBlacklist", Vec::new()),
        };
        s.finish();
        Some(security)
    }
}

impl Decode for Usage {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "usage")?;
        let usage = Self { enabled: s.or("enabled", true), org_id: s.get("orgId") };
        s.finish();
        Some(usage)
    }
}
