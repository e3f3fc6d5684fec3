//! The mux session protocol, as far as namerd and those who ask it need it.
//!
//! Many exchanges share a connection: each has a tag, and answers come in any order. Both sides may ping, and the server
//! asks its client to go elsewhere ([`Message::Tdrain`]) before it closes. After Finagle's mux; the messages have its
//! names.
//!
//! ```text
//!  client::Handle                             a call for each tag
//!        │                                             │
//!  client::run ── Input, Output ~~~ Input, Output ── server::serve
//!                 frames, fragments, heartbeats
//! ```

#[cfg(feature = "remote")]
pub(crate) mod client;
mod fragment;
mod frame;
mod heartbeat;
pub(crate) mod idl;
mod io;
#[cfg(feature = "namerd")]
pub(crate) mod server;
#[cfg(test)]
mod tests;
pub(crate) mod thrift;

use frame::{Init, Malformed, Message, Status};
use heartbeat::{Beat, Pulse};
#[cfg(feature = "namerd")]
pub(crate) use io::Bounds;
pub use io::Broken;
use io::{Input, Output};

/// The longest frame, and the longest message that is put together from fragments, in bytes without its length: 16 MiB.
pub(crate) const MAX_FRAME: usize = 16 << 20;

/// The tag of what is not one of many: handshakes, pings and drains.
pub(crate) const CONTROL_TAG: u32 = 1;

/// The highest tag; one bit more says that there are further fragments.
pub(crate) const MAX_TAG: u32 = 0x7f_ffff;

/// What a Finagle client asks by an error before it dares to send a `Tinit`. Whoever echoes it takes a `Tinit`.
pub(crate) const PROBE: &str = "tinit check";
