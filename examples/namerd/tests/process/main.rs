//! The real program: its command line, its interfaces, its pages, its end. One binary, so that it is linked once.

mod api;
mod cli;
mod clients;
mod fake;
mod faults;
mod harness;
mod life;
#[cfg(target_os = "linux")]
mod load;
mod meters;
#[path = "../../../proxy/tests/process/program.rs"]
mod program;
mod relay;
mod store;
mod tls;
