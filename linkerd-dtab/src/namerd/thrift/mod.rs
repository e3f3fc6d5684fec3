//! namerd's thriftmux interface (`io.l5d.thriftNameInterpreter`), which Linkerd's `io.l5d.namerd` interpreter asks.
//!
//! A caller that has an answer sends its stamp along, and is answered once there is another one: a call is a watch of the
//! next change. Stamps are made of what is answered, so they hold across connections, restarts and all namerds that say
//! the same. What changes and changes back between two calls is not told.
//!
//! Where namerd 1.7.5 differs: its `delegate` never answers a call with a stamp and refuses names whose entry is an empty
//! text, and its addresses have weights only beside an authority or a node.

mod calls;
mod explain;
#[cfg(test)]
mod tests;

use std::{future::Future, time::Duration};

use bytes::Bytes;

pub use crate::mux::Broken;

use super::{Reason, Session, limits::READ_TIMEOUT};
use crate::{
    mux::{Bounds, server},
    transport::{Heartbeat, Io},
};

/// The longest call, in bytes: 256 KiB. It has a name and a small table.
pub const MAX_CALL: usize = 256 << 10;

/// How many bytes the calls of a connection may have that wait for an answer.
const MAX_PENDING_BYTES: usize = 8 << 20;

/// How connections are served.
///
/// # Defaults
///
/// Pings every 5 s that may take 4 s, 10,000 calls a connection, and 4 s to leave, as namerd 1.7.5 gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How a client that is gone is noticed. One that has not said anything yet is not pinged, but given up as if it had
    /// been; one that refuses pings is left alone.
    pub heartbeat: Heartbeat,
    /// How many calls of a connection may wait for an answer, with 8 MiB in all. One more is refused, and may be made
    /// elsewhere.
    pub max_pending: usize,
    /// How long a client may take to leave once it was asked to, and how long the rest of its answers may take then.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { heartbeat: Heartbeat::default(), max_pending: 10_000, drain: Duration::from_secs(4) }
    }
}

/// Serves a connection, which is past the handshake if it has TLS.
///
/// When `drain` is ready, the client is asked to leave. Calls that wait for a change are then refused in a way that lets
/// them be made elsewhere, others are answered, and the connection is closed; after [`Settings::drain`] in any case.
///
/// At most 8 MiB of calls and about 1 MiB of answers are held in memory, and one answer more. A client that does not
/// read gets, once it does, what is so then, not what was so meanwhile.
///
/// A call may have [`MAX_CALL`] and ten seconds to come in whole, and all that are being read have what
/// [`Limits`](super::Limits) says. Of what is beyond these the client is told, and the connection is closed.
///
/// # Errors
///
/// The connection did not end by being closed.
///
/// # Cancel safety
///
/// When the future is dropped so is the connection, with all calls and watches.
pub async fn serve(
    io: impl Io,
    session: Session,
    settings: Settings,
    drain: impl Future<Output = ()> + Send,
) -> Result<(), Broken> {
    let Settings { heartbeat, max_pending, drain: grace } = settings;
    let settings = server::Settings { heartbeat, max_pending, max_pending_bytes: MAX_PENDING_BYTES, grace };
    let mut reading = session.reading();
    let may_hold = Box::new(move |bytes| reading.hold(bytes).map_err(|refused| refused.to_string()));
    let bounds = Bounds { max_message: MAX_CALL, within: READ_TIMEOUT, may_hold };
    let meter = session.meter().clone();
    meter.session();
    let pings = || meter.ping();
    let call = move |message: Bytes, leave| calls::answer(session.clone(), &message, leave);
    let served = server::serve(io, settings, bounds, call, pings, drain).await;
    match &served {
        Err(Broken::Dead(_)) => meter.dead(),
        Err(Broken::Refused(_)) => meter.failed(Reason::Limit),
        Err(Broken::Protocol(_)) => meter.failed(Reason::BadRequest),
        Err(Broken::Io(_)) | Ok(()) => {}
    }
    served
}
