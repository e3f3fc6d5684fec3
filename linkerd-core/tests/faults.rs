//! Origins that fail on real sockets, in every way that there is: each request is answered, and nothing is left behind.
//!
//! In a process of its own, whose file descriptors can be counted.
#![cfg(all(feature = "admin", target_os = "linux"))]

#[path = "faults/h1.rs"]
mod h1;
#[path = "faults/h2.rs"]
mod h2;
#[allow(dead_code, reason = "the other tests of HTTP/2 use all of it")]
#[path = "h2/peers.rs"]
mod h2_peers;
#[path = "faults/leaks.rs"]
mod leaks;
#[path = "faults/origin.rs"]
mod origin;
#[allow(dead_code, reason = "the other tests of HTTP/1.1 use all of it")]
#[path = "http/peers.rs"]
mod peers;
