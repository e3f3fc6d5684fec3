//! The keys of whatever asks Consul's store.

use super::{decode::Section, namer::ConsistencyMode, retries::Backoff, tls::ClientTls};

/// How a Consul agent is reached, and what it is asked with.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulAgent {
    /// `host`. Default: `localhost`.
    pub host: String,
    /// `port`. Default: 8500.
    pub port: u16,
    /// `token`. Default: none.
    pub token: Option<String>,
    /// `datacenter`. Default: the agent's.
    pub datacenter: Option<String>,
    /// `readConsistencyMode`. Default: Consul's.
    pub read_consistency_mode: Option<ConsistencyMode>,
    /// `writeConsistencyMode`: without effect here, changes are made by the leader. Default: Consul's.
    pub write_consistency_mode: Option<ConsistencyMode>,
    /// `failFast`: without effect here. Default: false.
    pub fail_fast: bool,
    /// `backoff` between attempts, always jittered by half. Default: from 1 s to 1 min.
    pub backoff: Option<Backoff>,
    /// `tls`. Default: none.
    pub tls: Option<ClientTls>,
}

impl ConsulAgent {
    pub(super) fn decode(s: &mut Section<'_>) -> Self {
        Self {
            host: s.or("host", "localhost".to_owned()),
            port: s.or("port", 8500),
            token: s.get("token"),
            datacenter: s.get("datacenter"),
            read_consistency_mode: s.get("readConsistencyMode"),
            write_consistency_mode: s.get("writeConsistencyMode"),
            fail_fast: s.or("failFast", false),
            backoff: s.with("backoff", |at| Backoff::decode(at, Backoff::OF_LINKERD)),
            tls: s.get("tls"),
        }
    }
}
