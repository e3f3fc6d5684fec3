//! What both sides of a connection say of how it is made secure.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::{Alpn, BadTls, names::Offer, watch::INTERVAL};

/// How handshakes are made, on either side.
#[derive(Clone, Debug)]
pub struct HandshakeSettings {
    /// Names of protocol versions; older ones are passed over, and what is none is an error. All: `TLSv1.2`, `TLSv1.3`.
    pub protocols: Option<Vec<String>>,
    /// Names of cipher suites, as a JVM or OpenSSL has them; what there is not is passed over, and what does not look like
    /// one is an error. All. A server that names some prefers the first.
    pub ciphers: Option<Vec<String>>,
    /// What may be spoken inside, the preferred one first. `http/1.1`.
    pub alpn: Vec<Alpn>,
    /// How long a handshake may take, once connected. 10 seconds.
    pub timeout: Duration,
    /// How often the files are looked at. 1 second.
    pub reload_interval: Duration,
    /// A root that vouched for a peer within this time is not taken out of a bundle that changes. None: it is, with a
    /// warning. At the start, and among the system's, none is missed.
    pub keep_used_roots: Option<Duration>,
    /// What time it is, for whether certificates are good: those of peers, and those of files that change. The system's.
    pub clock: Arc<dyn TimeProvider>,
}

impl Default for HandshakeSettings {
    fn default() -> Self {
        Self {
            protocols: None,
            ciphers: None,
            alpn: vec![Alpn::Http1],
            timeout: Duration::from_secs(10),
            reload_interval: INTERVAL,
            keep_used_roots: None,
            clock: Arc::new(DefaultTimeProvider),
        }
    }
}

impl HandshakeSettings {
    /// What may be chosen from.
    pub(super) fn offer(&self) -> Result<Offer, BadTls> {
        Offer::of(self.protocols.as_deref(), self.ciphers.as_deref())
    }

    /// What may be spoken inside, as rustls has it.
    pub(super) fn alpn_protocols(&self) -> Vec<Vec<u8>> {
        self.alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect()
    }
}

/// The time of a clock; one that does not know it is at the beginning of all.
pub(super) fn now(clock: &dyn TimeProvider) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(clock.current_time().map_or(0, |now| now.as_secs()))
}

/// In seconds from 1970.
pub(super) fn unix(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}
