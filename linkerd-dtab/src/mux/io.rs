//! The two directions of a connection.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{MAX_FRAME, Malformed, Message, fragment};

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
    /// The peer did not answer a ping, nor take or send anything else, for so long.
    #[error("the peer gave no sign of life for {0:?}")]
    Dead(Duration),
}

impl From<Malformed> for Broken {
    fn from(error: Malformed) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// Reads messages.
#[derive(Debug)]
pub(crate) struct Input<R> {
    io: R,
    buffer: BytesMut,
    fragments: fragment::Fragments,
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

impl<R: AsyncRead + Unpin> Input<R> {
    pub(crate) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new(), fragments: fragment::Fragments::default() }
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
            self.buffer.reserve(self.wanted());
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(Malformed::Short("a frame").into());
            }
        }
    }

    // As many bytes as the frame still has, but no more than a peer pays for by sending them.
    fn wanted(&self) -> usize {
        let size = (&*self.buffer).try_get_u32().unwrap_or_default() as usize + 4;
        size.saturating_sub(self.buffer.len()).clamp(1 << 10, 1 << 16)
    }

    fn take_frame(&mut self) -> Result<Option<bytes::Bytes>, Malformed> {
        let Ok(length) = (&*self.buffer).try_get_u32() else { return Ok(None) };
        let size = length as usize;
        if !(4..=MAX_FRAME).contains(&size) {
            return Err(Malformed::Length(length));
        }
        if self.buffer.len() - 4 < size {
            return Ok(None);
        }
        self.buffer.advance(4);
        let frame = self.buffer.split_to(size).freeze();
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
