//! The engine's parts, put together in other ways than the engine's own.
//!
//! - [`parts`]: a client from `tower::ServiceBuilder`, without a mesh: naming, balancing, retries, and layers of others.
//! - [`mesh`]: a mesh with a layer at each of its three places.
//! - [`server`]: the proxy's server with a stack of one's own behind it.
//! - [`context`]: a service that hands on the context of what it serves.
//!
//! Each `run` checks what it shows, over real sockets, and tells it in a line. `docs/compose.md` says what is behind it.

pub mod context;
pub mod mesh;
pub mod parts;
pub mod record;
pub mod server;
pub mod upstream;
