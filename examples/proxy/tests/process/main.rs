//! The real program: its command line, its life, its traffic and its pages. One binary, so that it is linked once.

mod access_log;
mod admin;
mod balancing;
mod balancing_backend;
mod balancing_connections;
mod balancing_health;
mod balancing_picks;
mod balancing_sets;
mod certificates;
mod cli;
mod client;
mod examples;
#[cfg(target_os = "linux")]
mod files;
mod folder;
mod harness;
mod hedge_limit;
mod hops;
mod life;
mod live;
mod load;
mod overload;
mod program;
mod reload;
mod reload_streams;
mod shutdown;
#[cfg(target_os = "linux")]
mod slow_reader;
mod timeouts;
mod traces;
mod traffic;
#[cfg(target_os = "linux")]
mod upload;
