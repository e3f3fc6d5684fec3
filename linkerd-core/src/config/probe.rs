//! `probe`: asking endpoints how they are, rather than waiting for requests to show it.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};

use super::decode::{At, Decode, Section};

/// A `probe` map: a GET that is sent to each endpoint at intervals; a 2xx says that it is well. An extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `path` and query that are asked for, `/health` for example. Required.
    pub path: String,
    /// `host` header. Default: the endpoint's address.
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

impl Decode for Probe {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "probe")?;
        let path = s.require_with("path", path);
        let host = s.with("host", host);
        let interval = s.millis("intervalMs", 1).unwrap_or(Duration::from_secs(5));
        let timeout = s.millis("timeoutMs", 1).unwrap_or(Duration::from_secs(1));
        let healthy = s.count("healthy", 1).unwrap_or(1);
        let unhealthy = s.count("unhealthy", 1).unwrap_or(3);
        s.finish();
        Some(Self { path: path?, host, interval, timeout, healthy, unhealthy })
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
