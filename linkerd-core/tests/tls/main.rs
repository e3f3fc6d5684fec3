//! TLS on either side, on loopback sockets.
#![cfg(all(feature = "admin", any(feature = "ring", feature = "aws-lc-rs")))]

mod by_file;
mod carried;
mod client;
mod clients;
mod expiry;
mod files;
mod h2;
mod pki;
mod refused;
mod reload;
mod resume;
mod roots;
mod routers;
mod server;
