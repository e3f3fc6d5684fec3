//! HTTP/2 on the wire: the client of one endpoint, the server, and what resets mean.
//!
//! By the `h2` crate itself: `hyper` hides the peer's limits, pings and the codes of resets.

mod client;
mod conns;
mod fault;
pub(crate) mod interim;
mod pipe;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod sniff;
mod stream;
#[cfg(feature = "server")]
mod upgrade;
#[cfg(feature = "server")]
mod watched;

pub(crate) use client::Client;
pub(crate) use conns::Slot;
#[cfg(feature = "config")]
pub(crate) use conns::{PING_AFTER, SILENCE};
#[cfg(feature = "server")]
pub(super) use server::serve;
#[cfg(feature = "server")]
pub(super) use sniff::{Start, sniff};
pub(crate) use stream::Stream;
#[cfg(feature = "server")]
pub(super) use upgrade::Upgrade;

use std::time::Duration;

use http::{
    HeaderMap, HeaderName,
    header::{Entry, PROXY_AUTHENTICATE, TRAILER},
};

/// How connections are set up that speak HTTP/2.
///
/// # Defaults
///
/// Those of RFC 9113, and Linkerd 1's where it names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct H2Config {
    /// How many bytes of a stream the peer may send before they are read: its flow-control window. At most 2^31 - 1.
    /// 65535. Nothing is kept back of the connection's own window, which is large enough for all streams together, so
    /// that a stream that nobody reads holds up no other.
    pub initial_stream_window_bytes: u32,
    /// How many bytes of headers the peer may remember on our behalf. 4096.
    pub header_table_bytes: u32,
    /// The longest frame that the peer may send, from 16384 to 16777215. 16384.
    pub max_frame_bytes: u32,
    /// The most bytes of headers, 32 for each header on top of its own; above it a request is answered with 431, and a
    /// response is a protocol error. 8 KiB.
    pub max_header_list_bytes: u32,
    /// How many streams a client of a server may have open at a time; more are refused. At least 1. 1000.
    pub max_concurrent_streams: u32,
    /// How many streams a client of a server may have reset that the server has not looked at yet; at so many the
    /// connection ends with `ENHANCE_YOUR_CALM`. 20.
    pub max_pending_resets: usize,
    /// How many streams of a connection of a server are reset for what the client did wrong; above it the connection ends
    /// with `ENHANCE_YOUR_CALM`. 1024.
    pub max_error_resets: usize,
    /// How many connections a client opens to one endpoint. A further one is opened when those that there are have
    /// four fifths of the streams that their peer allows; at this many, requests wait for a stream. At least 1. 64.
    pub max_connections: usize,
    /// How often a client asks by a ping whether an endpoint is still there on which nothing comes, whatever it waits for.
    /// Never; one that is waited for is asked in any case.
    pub keep_alive: Option<KeepAlive>,
}

/// How connections of HTTP/2 are found dead on which nothing is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// After how long without a byte the peer is asked. At least 1 ms.
    pub period: Duration,
    /// For how long it may then say nothing at all. At least 1 ms.
    pub timeout: Duration,
}

/// What a server speaks with its clients, or a client with its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wire {
    /// HTTP/1.1, and 1.0.
    #[default]
    Http1,
    /// HTTP/2, from the first byte on.
    H2(H2Config),
    /// Of a server: either, as each client begins. A client of an endpoint, which begins itself, speaks HTTP/2.
    Either(H2Config),
}

/// Whether there is a header that has no place on a stream, as Linkerd 1 has it. The others of that kind h2 refuses
/// itself.
fn is_of_a_connection(headers: &HeaderMap) -> bool {
    headers.contains_key(TRAILER) || headers.contains_key(PROXY_AUTHENTICATE)
}

/// How a `Trailer` is called on a stream, where no header may have that name; without one, the next hop of HTTP/1.1 could
/// not pass the trailers on.
const L5D_TRAILER: HeaderName = HeaderName::from_static("l5d-trailer");

/// Brings what a message says of its trailers into the form that goes out on a stream.
fn hide_trailer(headers: &mut HeaderMap) {
    rename(headers, TRAILER, &L5D_TRAILER);
}

/// Brings what a message on a stream says of its trailers back.
fn show_trailer(headers: &mut HeaderMap) {
    rename(headers, L5D_TRAILER, &TRAILER);
}

fn rename(headers: &mut HeaderMap, from: HeaderName, to: &HeaderName) {
    let Entry::Occupied(entry) = headers.entry(from) else { return };
    let values: Vec<_> = entry.remove_entry_mult().1.collect();
    for value in values {
        headers.append(to, value);
    }
}

impl Default for H2Config {
    fn default() -> Self {
        Self {
            initial_stream_window_bytes: 65_535,
            header_table_bytes: 4096,
            max_frame_bytes: 16 * 1024,
            max_header_list_bytes: 8 * 1024,
            max_concurrent_streams: 1000,
            max_pending_resets: 20,
            max_error_resets: 1024,
            max_connections: 64,
            keep_alive: None,
        }
    }
}

impl H2Config {
    const MAX_WINDOW: u32 = (1 << 31) - 1;

    /// Room for as many full streams as there may be.
    fn connection_window(&self, streams: u32) -> u32 {
        let all = u64::from(self.initial_stream_window_bytes) * u64::from(streams.max(1));
        u32::try_from(all).unwrap_or(u32::MAX).clamp(65_535, Self::MAX_WINDOW)
    }
}
