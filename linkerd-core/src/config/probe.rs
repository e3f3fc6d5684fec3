//! `probe`: asking endpoints how they are, rather than waiting for requests to show it.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};

use super::{
    decode::{At, Section},
    router::ProtocolKind,
};

/// A `probe` map: a request that is sent to each endpoint at intervals; its answer says whether it is well. An extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `kind` and its own key. Default: `http`.
    pub kind: ProbeKind,
    /// `host` header, `:authority` of h2. Default: the endpoint's address.
    pub host: Option<String>,
    /// `intervalMs` from the end of a probe of an endpoint to the next, at least 1 ms. Default: 5 s.
    pub interval: Duration,
    /// `timeoutMs` until a probe has failed, at least 1 ms. Default: 1 s.
    pub timeout: Duration,
    /// `healthy`: good probes in a row until an endpoint that was left alone is used again. At least 1. Default: 1.
    pub healthy: u32,
    /// `unhealthy`: bad probes in a row until it is left alone. At least 1. Default: 3.
    pub unhealthy: u32,
}

/// The kinds of probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// `http`: a GET; a 2xx says that it is well.
    Http {
        /// `path` and query that are asked for, `/health` for example. Required.
        path: String,
    },
    /// `grpc` (h2): gRPC's health check; `SERVING` says that it is well.
    Grpc {
        /// `service` that is asked for. Default: empty, which is the server as a whole.
        service: String,
    },
}

impl Probe {
    pub(super) fn decode(at: &At<'_>, protocol: ProtocolKind) -> Option<Self> {
        let mut s = Section::open(at, "probe")?;
        let kind = ProbeKind::decode(&mut s, protocol);
        let host = s.with("host", host);
        let interval = s.millis("intervalMs", 1).unwrap_or(Duration::from_secs(5));
        let timeout = s.millis("timeoutMs", 1).unwrap_or(Duration::from_secs(1));
        let healthy = s.count("healthy", 1).unwrap_or(1);
        let unhealthy = s.count("unhealthy", 1).unwrap_or(3);
        s.finish();
        Some(Self { kind: kind?, host, interval, timeout, healthy, unhealthy })
    }
}

impl ProbeKind {
    /// `None` means that a problem was recorded.
    fn decode(s: &mut Section<'_>, protocol: ProtocolKind) -> Option<Self> {
        if s.kind("kind", &["http", "grpc"], Some("http"))? == "http" {
            s.refuse("service", "is a key of the kind grpc, not of http");
            return s.require_with("path", path).map(|path| Self::Http { path });
        }
        s.refuse("path", "is a key of the kind http, not of grpc");
        let service = s.or("service", String::new());
        if protocol != ProtocolKind::H2 {
            s.problem("kind", "grpc is for the protocol h2");
            return None;
        }
        Some(Self::Grpc { service })
    }
}

fn path(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    // What parses may still lack its slash, or lose a fragment.
    let valid = text.starts_with('/') && !text.contains('#') && text.parse::<PathAndQuery>().is_ok();
    if valid { Some(text.to_owned()) } else { at.expected("the path of a URI, from its '/' on") }
}

fn host(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let valid = !text.contains('@') && text.parse::<Authority>().is_ok();
    if valid { Some(text.to_owned()) } else { at.expected("a host, with or without a port") }
}
