//! Long messages in several frames, each with a bit in its tag that says whether there are more.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::{MAX_TAG, Malformed, Message, frame::kind};

/// What an unfinished message costs beside its bytes, so that many empty ones reach the bound too.
const OVERHEAD: usize = 64;

/// Puts messages together.
#[derive(Debug)]
pub(super) struct Fragments {
    // Each with when it was begun.
    unfinished: HashMap<(i8, u32), (Instant, BytesMut)>,
    size: usize,
    // Of all that is unfinished.
    max: usize,
}

impl Fragments {
    pub(super) fn new(max: usize) -> Self {
        Self { unfinished: HashMap::new(), size: 0, max }
    }

    /// How much is unfinished.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Since when something is.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.unfinished.values().map(|(begun, _)| *begun).min()
    }

    /// Takes a frame without its length, of at least four bytes, and returns the message that it ends.
    pub(super) fn add(&mut self, mut frame: Bytes) -> Result<Option<Message>, Malformed> {
        let mut head = frame.split_to(4);
        let (kind, tag) = (bytes::Buf::get_i8(&mut head), bytes::Buf::get_uint(&mut head, 3) as u32);
        let has_more = tag > MAX_TAG;
        let tag = tag & MAX_TAG;
        let key = (kind, tag);
        if has_more {
            if kind.unsigned_abs() != kind::DISPATCH.unsigned_abs() {
                return Err(Malformed::Fragment(kind));
            }
            self.size += frame.len();
            let (_, unfinished) = self.unfinished.entry(key).or_insert_with(|| {
                self.size += OVERHEAD;
                (Instant::now(), BytesMut::new())
            });
            if self.size > self.max {
                return Err(Malformed::Fragments);
            }
            unfinished.put_slice(&frame);
            return Ok(None);
        }
        if let Some(mut message) = self.take(key) {
            if message.len() + frame.len() > self.max {
                return Err(Malformed::Fragments);
            }
            message.put_slice(&frame);
            frame = message.freeze();
        }
        let message = Message::decode(kind, tag, frame)?;
        if let Message::Tdiscarded { which, .. } = message {
            self.take((kind::DISPATCH, which));
        }
        Ok(Some(message))
    }

    fn take(&mut self, key: (i8, u32)) -> Option<BytesMut> {
        // Nearly always there is none.
        if self.unfinished.is_empty() {
            return None;
        }
        let (_, message) = self.unfinished.remove(&key)?;
        self.size -= message.len() + OVERHEAD;
        Some(message)
    }
}

/// Appends a message, in frames of at most `max` bytes (without their length) if it is of a kind that may be cut.
pub(super) fn write(message: &Message, max: usize, out: &mut BytesMut) {
    let start = out.len();
    out.put_u32(0);
    message.encode(out);
    let size = out.len() - start - 4;
    let may_be_cut = matches!(message, Message::Tdispatch { .. } | Message::Rdispatch { .. });
    if size <= max || !may_be_cut {
        out[start..start + 4].copy_from_slice(&(size as u32).to_be_bytes());
        return;
    }
    let whole = out.split_off(start);
    let (head, body) = whole[4..].split_at(4);
    let mut rest = body;
    while !rest.is_empty() {
        let (part, next) = rest.split_at(rest.len().min(max - 4));
        rest = next;
        out.put_u32(part.len() as u32 + 4);
        let more = if rest.is_empty() { 0 } else { 0x80 };
        out.put_slice(&[head[0], head[1] | more, head[2], head[3]]);
        out.put_slice(part);
    }
}
