//! The HTTP/1.1 server and the client of an endpoint, back to back on loopback sockets.
#![cfg(feature = "server")]

#[path = "http/peers.rs"]
mod peers;

#[path = "http/relay.rs"]
mod relay;
