//! HTTP/2 on both sides of a proxy, frame by frame.
#![cfg(feature = "server")]

#[path = "h2/conns.rs"]
mod conns;
#[path = "h2/faults.rs"]
mod faults;
#[path = "h2/live.rs"]
mod live;
#[path = "h2/mixed.rs"]
mod mixed;
#[path = "h2/peers.rs"]
mod peers;
#[path = "h2/relay.rs"]
mod relay;
