//! HTTP/2 on both sides of a proxy, frame by frame.
#![cfg(feature = "server")]

#[path = "h2/conns.rs"]
mod conns;
#[path = "http/counted.rs"]
mod counted;
#[cfg(feature = "config")]
#[path = "h2/counts.rs"]
mod counts;
#[path = "h2/faults.rs"]
mod faults;
#[path = "h2/framing.rs"]
mod framing;
#[allow(dead_code, reason = "the tests of HTTP/1.1 use all of it")]
#[path = "http/peers.rs"]
mod http1;
#[path = "h2/interim.rs"]
mod interim;
#[path = "h2/limits.rs"]
mod limits;
#[path = "h2/live.rs"]
mod live;
#[cfg(feature = "config")]
#[path = "h2/log.rs"]
mod log;
#[path = "h2/mixed.rs"]
mod mixed;
#[path = "h2/peers.rs"]
mod peers;
#[cfg(feature = "config")]
#[path = "h2/probes.rs"]
mod probes;
#[path = "h2/relay.rs"]
mod relay;
