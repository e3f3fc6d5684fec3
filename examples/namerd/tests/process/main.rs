//! The real program: its command line, its interfaces, its pages, its end. One binary, so that it is linked once.

mod api;
mod cli;
#[path = "../../../proxy/tests/process/client.rs"]
mod client;
mod clients;
mod fake;
mod faults;
#[path = "../../../proxy/tests/process/folder.rs"]
mod folder;
mod harness;
mod held;
mod life;
#[cfg(target_os = "linux")]
mod load;
mod meters;
#[path = "../../../proxy/tests/process/program.rs"]
mod program;
mod relay;
mod store;
mod tls;
