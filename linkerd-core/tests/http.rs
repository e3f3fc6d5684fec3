//! The HTTP/1.1 server and the client of an endpoint, back to back on loopback sockets.
#![cfg(feature = "server")]

#[path = "http/client.rs"]
mod client;
#[path = "http/context.rs"]
mod context;
#[path = "http/counted.rs"]
mod counted;
#[cfg(feature = "admin")]
#[path = "http/cuts.rs"]
mod cuts;
#[cfg(feature = "admin")]
#[path = "http/cuts_origin.rs"]
mod cuts_origin;
#[path = "http/expiry.rs"]
mod expiry;
#[path = "http/flavours.rs"]
mod flavours;
#[path = "http/forwarded.rs"]
mod forwarded;
#[path = "http/framing.rs"]
mod framing;
#[path = "http/limits.rs"]
mod limits;
#[path = "http/live.rs"]
mod live;
#[path = "http/overrides.rs"]
mod overrides;
#[path = "http/peers.rs"]
mod peers;
#[path = "http/relay.rs"]
mod relay;
#[path = "http/reuse.rs"]
mod reuse;
#[path = "http/server.rs"]
mod server;
#[path = "http/silence.rs"]
mod silence;
#[path = "http/spans.rs"]
mod spans;
#[path = "http/tunnel.rs"]
mod tunnel;
