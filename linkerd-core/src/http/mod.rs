//! HTTP/1.1 on the wire: the client of one endpoint, the server, and what headers mean.

mod client;
mod connect;
pub mod context;
pub mod headers;
mod io;
mod pool;
#[cfg(feature = "server")]
mod drain;
#[cfg(feature = "server")]
pub mod respond;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod serve;
mod trace;

pub use connect::{ClientConfig, Connect, HttpConnect, PoolConfig, SocketOptions};
pub use context::{Deadline, RequestContext, Scheme};
#[cfg(feature = "server")]
pub use server::{Drained, Server, ServerConfig};
pub use trace::TraceId;
