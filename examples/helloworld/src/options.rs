//! What a server is told, and what can be wrong with it.

use std::{io, time::Duration};

/// How a server answers. The defaults are those of the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Where to listen: `host:port`, or `:port` for every interface. Port 0 takes a free one. `:7777` by default.
    pub addr: String,
    /// The text of the answer. `Hello` by default.
    pub text: String,
    /// The service to call before answering, as in `http://<target>`. None by default.
    pub target: Option<String>,
    /// How long to wait before anything else. With 10 s or more the connection is closed without an answer. 0 by default.
    pub latency: Duration,
    /// The share of requests to fail, from 0 to 1. 0 by default.
    pub failure_rate: f64,
    /// Answer `{"api_result":"..."}` in place of plain text.
    pub json: bool,
    /// The address to show in the answer. None by default.
    pub pod_ip: Option<String>,
    /// The proxy for calls to the target: `host:port`, or an `http://` URL. Calls to `localhost` and to loopback
    /// addresses never use it. None by default.
    pub http_proxy: Option<String>,
    /// Targets to call without the proxy: names, domains, addresses and networks, separated by commas, or `*`.
    pub no_proxy: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addr: ":7777".into(),
            text: "Hello".into(),
            target: None,
            latency: Duration::ZERO,
            failure_rate: 0.0,
            json: false,
            pod_ip: None,
            http_proxy: None,
            no_proxy: None,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address to listen on is not `host:port` or `:port`.
    #[error("address {addr:?} is not host:port or :port")]
    Address {
        /// What was given.
        addr: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// What was given.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// The target does not make a URL.
    #[error("target {target:?} {problem}")]
    Target {
        /// What was given.
        target: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The proxy is not one that can be used.
    #[error("http_proxy {proxy:?} {problem}")]
    Proxy {
        /// What was given.
        proxy: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The failure rate is not a share.
    #[error("failure rate {0} is not between 0.0 and 1.0")]
    FailureRate(f64),
}
