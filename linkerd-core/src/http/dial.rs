//! Opening a connection to an endpoint, and counting it, whatever is spoken on it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{ClientConfig, io::Traffic};
use crate::{BoxError, telemetry::ClientStats};

/// Begins to speak a protocol on a connection, in the clear or not.
pub(super) trait Speak {
    type Conn;

    fn begin<I>(&self, stream: I) -> impl Future<Output = Result<Self::Conn, BoxError>> + Send
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static;
}

/// No connection was there in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {0:?}")]
pub(super) struct ConnectElapsed(pub(super) Duration);

/// Opens a connection.
pub(super) async fn open<S: Speak>(
    speak: &S,
    addr: SocketAddr,
    config: &ClientConfig,
    stats: Option<&ClientStats>,
) -> Result<S::Conn, BoxError> {
    let connecting = Connecting::begin(stats);
    let result = dial(speak, addr, config, stats).await;
    connecting.end(&result);
    result
}

async fn dial<S: Speak>(
    speak: &S,
    addr: SocketAddr,
    config: &ClientConfig,
    #[cfg_attr(not(feature = "tls"), allow(unused_variables))] stats: Option<&ClientStats>,
) -> Result<S::Conn, BoxError> {
    let timeout = config.connect_timeout;
    let connected = tokio::time::timeout(timeout, config.socket.connect(addr)).await;
    let stream = connected.map_err(|_| ConnectElapsed(timeout))??;
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        // Boxed: what connects in the clear has no room for it.
        let connected = Box::pin(tls.connect(addr.ip(), stream)).await;
        let (stream, _) = connected.inspect_err(|error| insecure(addr, error, stats))?;
        return speak.begin(stream).await;
    }
    speak.begin(stream).await
}

/// Counts that there is no TLS with an endpoint, in `tls/handshake_failures` of its client and by its reason, and says why:
/// to callers it is one more endpoint that cannot be reached. Says it of the first, the second, the fourth of a client, and
/// so on.
#[cfg(feature = "tls")]
fn insecure(addr: SocketAddr, error: &crate::tls::HandshakeError, stats: Option<&ClientStats>) {
    let Some(stats) = stats else {
        tracing::debug!(%addr, %error, "no TLS with an endpoint");
        return;
    };
    let scope = stats.scope();
    let tls = scope.scope("tls");
    let failures = tls.counter("handshake_failures");
    failures.incr();
    tls.scope("handshake_failures").counter(error.reason()).incr();
    if failures.get().is_power_of_two() {
        let why = error.whole();
        tracing::warn!(%addr, client = ?scope, failures = failures.get(), why, "no TLS with an endpoint");
    }
}

/// Why there was no connection after all, if the endpoint refused this side's certificate once it had the handshake's end:
/// it looked at nothing that was sent. Counted once for each connection.
pub(super) fn refused(addr: SocketAddr, traffic: &Traffic, stats: Option<&ClientStats>) -> Option<BoxError> {
    #[cfg(feature = "tls")]
    if let Some((error, is_first)) = traffic.refusal() {
        if is_first {
            insecure(addr, &error, stats);
        }
        return Some(error.into());
    }
    #[cfg(not(feature = "tls"))]
    let _ = (addr, traffic, stats);
    None
}

/// Counts an attempt to connect, however it ends.
struct Connecting<'a> {
    stats: Option<&'a ClientStats>,
    begun: Instant,
}

impl<'a> Connecting<'a> {
    fn begin(stats: Option<&'a ClientStats>) -> Self {
        Self { stats, begun: Instant::now() }
    }

    fn end<T, E>(mut self, result: &Result<T, E>) {
        let Some(stats) = self.stats.take() else { return };
        match result {
            Ok(_) => {
                stats.connects.incr();
                stats.connect_latency_ms.record_ms(self.begun.elapsed());
            }
            Err(_) => stats.failed_connect_latency_ms.record_ms(self.begun.elapsed()),
        }
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if let Some(stats) = self.stats {
            stats.cancelled_connects.incr();
        }
    }
}

/// Counts an open connection.
pub(super) struct Open {
    stats: Arc<ClientStats>,
    since: Instant,
}

impl Open {
    pub(super) fn new(stats: Arc<ClientStats>, since: Instant) -> Self {
        stats.connections.incr();
        Self { stats, since }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stats.connections.decr();
        self.stats.connection_duration.record_ms(self.since.elapsed());
    }
}
