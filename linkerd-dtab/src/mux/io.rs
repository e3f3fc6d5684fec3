//! The two directions of a connection.

use std::{fmt, io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{MAX_FRAME, MAX_TAG, Malformed, Message, fragment};

/// Above so many bytes that wait to be written nothing more is read or answered: 1 MiB. One answer may go beyond it.
const HIGH_WATER: usize = 1 << 20;

/// Why a connection ended otherwise than by being closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// It broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The peer does not keep to the protocol.
    #[error("the peer does not speak mux as it should: {0}")]
    Protocol(String),
    /// The peer asks for more than it may.
    #[error("the peer was refused: {0}")]
    Refused(String),
    /// The peer did not answer a ping, nor take or send anything else, for so long.
    #[error("the peer gave no sign of life for {0:?}")]
    Dead(Duration),
}

impl From<Malformed> for Broken {
    fn from(error: Malformed) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// What may be read.
pub(crate) struct Bounds {
    /// The longest message, in bytes.
    pub(crate) max_message: usize,
    /// How long one may take to come in whole.
    pub(crate) within: Duration,
    /// Asked whether so many bytes may be held of messages that are not whole, or why not.
    pub(crate) may_hold: Box<dyn FnMut(usize) -> Result<(), String> + Send>,
}

/// So much of an unfinished message is not asked for: most messages are no longer.
const FREE: usize = 4 << 10;

/// So much is read of what is not known yet: most calls are no longer, and connections that wait for one are many.
const LEAST: usize = 256;

/// Reads messages.
#[derive(Debug)]
pub(crate) struct Input<R> {
    io: R,
    buffer: BytesMut,
    fragments: fragment::Fragments,
    bounds: Option<Bounds>,
    // Since when there is a part of a frame.
    begun: Option<Instant>,
}

/// Writes messages.
#[derive(Debug)]
pub(crate) struct Output<W> {
    io: W,
    buffer: BytesMut,
    max_frame: usize,
    // Something was written and may still be in the buffers of a TLS session.
    is_unflushed: bool,
}

impl fmt::Debug for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounds").field("max_message", &self.max_message).finish_non_exhaustive()
    }
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(crate) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new(), fragments: fragment::Fragments::new(MAX_FRAME), bounds: None, begun: None }
    }

    /// As [`new`](Self::new), within bounds.
    pub(crate) fn bounded(io: R, bounds: Bounds) -> Self {
        let fragments = fragment::Fragments::new(bounds.max_message);
        Self { fragments, bounds: Some(bounds), ..Self::new(io) }
    }

    /// The next message; `None` at the end of the connection.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was read stays in the buffer.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Broken> {
        loop {
            while let Some(frame) = self.take_frame()? {
                if let Some(message) = self.fragments.add(frame)? {
                    return Ok(Some(message));
                }
            }
            self.is_allowed()?;
            self.buffer.reserve(self.wanted());
            let due = self.due();
            let read = self.io.read_buf(&mut self.buffer);
            let read = match due {
                None => read.await?,
                Some(due) => match timeout_at(due, read).await {
                    Ok(read) => read?,
                    Err(_) => return Err(Broken::Refused("a message took too long to come in whole".to_owned())),
                },
            };
            if read == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(Malformed::Short("a frame").into());
            }
        }
    }

    /// The tag of the frame that is being read, as far as that is known.
    pub(crate) fn tag(&self) -> Option<u32> {
        let head = (&*self.buffer).try_get_u64().ok()?;
        Some(head as u32 & MAX_TAG)
    }

    // Whether what is unfinished may be held, and more be read of it.
    fn is_allowed(&mut self) -> Result<(), Broken> {
        let Some(bounds) = &mut self.bounds else { return Ok(()) };
        let now = (!self.buffer.is_empty()).then(Instant::now);
        self.begun = now.map(|now| self.begun.unwrap_or(now));
        let held = self.buffer.len() + self.fragments.size();
        (bounds.may_hold)(if held > FREE { held } else { 0 }).map_err(Broken::Refused)
    }

    fn due(&self) -> Option<Instant> {
        let begun = self.begun.into_iter().chain(self.fragments.begun()).min()?;
        Some(begun + self.bounds.as_ref()?.within)
    }

    // As many bytes as the frame still has, but no more than a peer pays for by sending them.
    fn wanted(&self) -> usize {
        let size = (&*self.buffer).try_get_u32().unwrap_or_default() as usize + 4;
        size.saturating_sub(self.buffer.len()).clamp(LEAST, 1 << 16)
    }

    fn take_frame(&mut self) -> Result<Option<bytes::Bytes>, Broken> {
        let Ok(length) = (&*self.buffer).try_get_u32() else { return Ok(None) };
        let size = length as usize;
        if !(4..=MAX_FRAME).contains(&size) {
            return Err(Malformed::Length(length).into());
        }
        let max = self.bounds.as_ref().map_or(MAX_FRAME, |bounds| bounds.max_message);
        if size > max && self.buffer.len() >= 8 {
            return Err(Broken::Refused(format!("a message of {size} bytes, of at most {max}")));
        }
        if self.buffer.len() - 4 < size {
            return Ok(None);
        }
        self.buffer.advance(4);
        let frame = self.buffer.split_to(size).freeze();
        self.begun = None;
        if self.buffer.is_empty() {
            // A connection that waits for minutes keeps no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(Some(frame))
    }
}

impl<W: AsyncWrite + Unpin> Output<W> {
    pub(crate) fn new(io: W) -> Self {
        Self { io, buffer: BytesMut::new(), max_frame: MAX_FRAME, is_unflushed: false }
    }

    /// The other side wants no longer frames than this.
    pub(crate) fn limit(&mut self, max_frame: usize) {
        self.max_frame = max_frame.min(MAX_FRAME);
    }

    /// Queues a message.
    pub(crate) fn push(&mut self, message: &Message) {
        fragment::write(message, self.max_frame, &mut self.buffer);
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_done(&self) -> bool {
        self.buffer.is_empty() && !self.is_unflushed
    }

    /// Whether what waits to be written should become less first.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= HIGH_WATER
    }

    /// Writes some of what is queued, and says whether something is left: if so, and it goes on, the peer reads.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn write_some(&mut self) -> Result<bool, Broken> {
        if !self.buffer.is_empty() {
            if self.io.write_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            self.is_unflushed = true;
        }
        if !self.buffer.is_empty() {
            return Ok(true);
        }
        self.buffer = BytesMut::new();
        self.io.flush().await?;
        self.is_unflushed = false;
        Ok(false)
    }

    /// Writes all of it, and the end.
    pub(crate) async fn finish(&mut self) -> Result<(), Broken> {
        while !self.is_done() {
            self.write_some().await?;
        }
        Ok(self.io.shutdown().await?)
    }
}
