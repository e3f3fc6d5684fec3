//! The metrics of a server.

#[cfg(feature = "server")]
use std::sync::Arc;
use std::sync::OnceLock;

use super::{RefusedStats, Seldom, TimeoutStats};
#[cfg(feature = "server")]
use crate::telemetry::StreamStats;
use crate::telemetry::{Counter, Gauge, RequestStats, Scope, Stat, StatusStats};

/// `rt/<label>/server/<ip>/<port>`.
#[derive(Debug)]
pub struct ServerStats {
    /// Requests, and what became of them.
    pub requests: RequestStats,
    /// Responses by status.
    pub status: StatusStats,
    /// Connections accepted.
    pub connects: Counter,
    /// Connections open.
    pub connections: Gauge,
    /// How long connections were open, in milliseconds.
    pub connection_duration: Stat,
    /// Bytes read, heads included.
    pub received_bytes: Counter,
    /// Bytes written, heads included.
    pub sent_bytes: Counter,
    /// Requests refused so that the caller may try again.
    pub nacks: Counter,
    /// Requests refused so that the caller may not try again.
    pub nonretryable_nacks: Counter,
    /// Requests refused for a header's name.
    pub rejected_invalid_header_names: Counter,
    /// Requests refused for a header's value.
    pub rejected_invalid_header_values: Counter,
    /// Requests that the time of the server ended.
    pub timeouts: TimeoutStats,
    /// What was refused before there was a request.
    pub refused: RefusedStats,
    dropped_trailers: Seldom,
    handshake_failures: Seldom,
    accept_pauses: Seldom,
    full_pauses: Seldom,
    idle_time: Seldom,
    life_time: Seldom,
    upgrades: Seldom,
    tunnels: OnceLock<Gauge>,
    flavoured: Seldom,
    flavours_expired: Seldom,
    flavours_refused: Seldom,
    #[cfg(feature = "server")]
    streams: OnceLock<Arc<StreamStats>>,
}

impl ServerStats {
    /// Resolves the handles of a scope.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        Self {
            requests: RequestStats::new(scope),
            status: StatusStats::new(scope),
            connects: scope.counter("connects"),
            connections: scope.gauge("connections"),
            connection_duration: scope.stat("connection_duration"),
            received_bytes: scope.counter("received_bytes"),
            sent_bytes: scope.counter("sent_bytes"),
            nacks: scope.counter("nacks"),
            nonretryable_nacks: scope.counter("nonretryable_nacks"),
            rejected_invalid_header_names: scope.counter("rejected_invalid_header_names"),
            rejected_invalid_header_values: scope.counter("rejected_invalid_header_values"),
            timeouts: TimeoutStats::new(scope),
            refused: RefusedStats::new(scope),
            dropped_trailers: Seldom::new(scope, "dropped_trailers"),
            handshake_failures: Seldom::new(&scope.scope("tls"), "handshake_failures"),
            accept_pauses: Seldom::new(scope, "accept_pauses"),
            full_pauses: Seldom::new(scope, "full_pauses"),
            idle_time: Seldom::new(scope, "idle_time"),
            life_time: Seldom::new(scope, "life_time"),
            upgrades: Seldom::new(scope, "upgrades"),
            tunnels: OnceLock::new(),
            flavoured: Seldom::new(scope, "flavoured"),
            flavours_expired: Seldom::new(scope, "flavours_expired"),
            flavours_refused: Seldom::new(scope, "flavours_refused"),
            #[cfg(feature = "server")]
            streams: OnceLock::new(),
        }
    }

    /// Counts a connection whose TLS handshake failed or took too long, in `tls/handshake_failures`, and in
    /// `tls/handshake_failures/<reason>`: both are there from the first on. The reasons have to be few.
    pub fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.add(1);
        self.handshake_failures.scope.scope("handshake_failures").counter(reason).incr();
    }

    /// Counts a time that no connection is accepted, for want of file descriptors mostly, in `accept_pauses`, which is there
    /// from the first on.
    pub fn accept_paused(&self) {
        self.accept_pauses.add(1);
    }

    /// Counts a time that no connection is accepted, because as many are open as may be, in `full_pauses`, which is there
    /// from the first on.
    pub fn accept_full(&self) {
        self.full_pauses.add(1);
    }

    /// Counts a connection that was idle for as long as it may be, in `idle_time`, which is there from the first on.
    pub fn was_idle(&self) {
        self.idle_time.add(1);
    }

    /// Counts a connection that is as old as it may be, in `life_time`, which is there from the first on.
    pub fn grew_old(&self) {
        self.life_time.add(1);
    }

    /// Counts a request with a flavour, in `flavoured`, which is there from the first on.
    pub fn flavoured(&self) {
        self.flavoured.add(1);
    }

    /// Counts a request whose flavour had expired, in `flavours_expired`, which is there from the first on.
    pub fn flavour_expired(&self) {
        self.flavours_expired.add(1);
    }

    /// Counts a request whose flavour was none, or an outsider's, in `flavours_refused`, which is there from the first on.
    pub fn flavour_refused(&self) {
        self.flavours_refused.add(1);
    }

    /// Counts a message whose trailers are not passed on, in `dropped_trailers`, which is there from the first on: a
    /// request that was read whole, or a response that announced trailers to a client that takes none. Trailers that
    /// nobody announced are dropped by hyper, unseen.
    pub fn trailers_dropped(&self) {
        self.dropped_trailers.add(1);
    }

    /// The counter of connections that ended because nothing moved: `read_timeout`, `write_timeout`. There if it is
    /// configured.
    #[cfg(feature = "server")]
    pub(crate) fn timeout(&self, name: &str) -> Counter {
        self.dropped_trailers.scope.counter(name)
    }

    /// What is counted of streams, which is there from the first one of HTTP/2 on.
    #[cfg(feature = "server")]
    pub(crate) fn streams(&self) -> &Arc<StreamStats> {
        self.streams.get_or_init(|| Arc::new(StreamStats::new(&self.dropped_trailers.scope)))
    }

    /// Counts a connection that became a tunnel, in `upgrades`; the gauge of those that are open is `tunnels`. Both are
    /// there from the first on.
    pub fn tunnel(&self) -> Gauge {
        self.upgrades.add(1);
        self.tunnels().clone()
    }

    /// The gauge alone.
    pub(crate) fn tunnels(&self) -> &Gauge {
        self.tunnels.get_or_init(|| self.upgrades.scope.gauge("tunnels"))
    }
}
