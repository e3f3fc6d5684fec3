//! HTTP/1.1 and HTTP/2 on the wire: the client of one endpoint, the server, and what headers mean.

#[cfg(feature = "server")]
pub(crate) mod accept;
pub(crate) mod case;
#[cfg(feature = "server")]
mod census;
mod client;
#[cfg(all(feature = "server", feature = "compression"))]
mod compress;
pub mod connect;
pub mod context;
pub(crate) mod deadline;
#[cfg(feature = "server")]
pub(crate) mod detail;
mod dial;
#[cfg(feature = "server")]
mod drain;
mod flavour;
#[cfg(feature = "server")]
mod forwarded;
#[cfg(feature = "admin")]
pub(crate) mod graceful;
pub(crate) mod h2;
pub mod headers;
pub(crate) mod hint;
pub(crate) mod io;
mod kept;
#[cfg(feature = "server")]
mod live;
pub(crate) mod max_forwards;
pub(crate) mod overrides;
#[cfg(feature = "server")]
mod place;
pub(crate) mod pool;
#[cfg(feature = "server")]
mod reason;
mod receive;
#[cfg(feature = "server")]
pub mod respond;
mod resting;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod server;
mod silence;
#[cfg(feature = "server")]
mod spare;
mod trace;
#[cfg(feature = "server")]
pub(crate) mod trailers;
#[cfg(feature = "server")]
mod tunnel;

#[cfg(feature = "server")]
pub(crate) use client::origin_form;
#[cfg(all(feature = "server", feature = "compression"))]
#[cfg_attr(docsrs, doc(cfg(feature = "compression")))]
pub use compress::Compression;
pub use connect::{ClientConfig, Connect, HttpConnect, PoolConfig, SocketOptions};
pub use context::{RequestContext, Scheme};
pub use deadline::Deadline;
pub use flavour::{Flavour, FlavourRule, InvalidFlavour};
#[cfg(feature = "server")]
pub use forwarded::{Forwarded, ForwardedLabel};
pub use h2::{H2Config, KeepAlive, Wire};
#[cfg(feature = "config")]
pub(crate) use headers::MOST_HEADERS;
pub(crate) use kept::Kept;
#[cfg(feature = "server")]
pub use live::ServerControl;
#[cfg(feature = "admin")]
pub(crate) use live::Switch;
#[cfg(feature = "server")]
pub use overrides::PerRequest;
#[cfg(feature = "server")]
pub use server::{Drained, LiveServer, Server, ServerConfig};
pub use trace::{InvalidPropagation, Propagation, TraceFormat, TraceId};
