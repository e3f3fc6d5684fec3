//! Connections of clients that name no authority, and say so.

mod authority;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use authority::{CONTINUATION, DATA, END_HEADERS, HEAD, HEADERS, Head};

/// What every client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest block of headers that is looked into, with the heads of its frames: what a frame has by default.
const MAX_BLOCK: usize = (16 << 10) + HEAD;

/// How often h2 is told that nothing is there before the next frame of a request: whoever drives it asks once more when it
/// has taken what there is.
const PAUSES: u8 = 2;

/// How much is read ahead.
const READ_AHEAD: usize = 1 << 10;

/// The server's side of a connection over HTTP/2, on which an empty `:authority` is taken out of requests.
///
/// A Linkerd's gRPC client sends one; h2 takes it for a malformed URI, and means by a request without an `:authority` what
/// such a client means. Everything else passes as it came, and so does what is not HTTP/2. A block of headers of more than
/// 16 KiB is not looked into, nor is a field touched that goes into the table of the header compression.
///
/// What requests came with at once is given a frame at a time, each when there was time to do something about the last one:
/// h2 has room, for as long as a connection lives, for as many frames as ever waited at once.
///
/// Goes around the cleartext: of a TLS connection, its stream.
#[pin_project]
#[derive(Debug)]
pub struct Io<T> {
    #[pin]
    inner: T,
    at: At,
    held: Held,
    ahead: Rest,
    // What is read next.
    out: Rest,
    // A frame of a request was given since there was nothing to read.
    is_busy: bool,
    // How often nothing is there before `out` is.
    pauses: u8,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum At {
    /// The preface, after so many bytes.
    Preface(usize),
    /// What is held until it is whole.
    Held,
    /// So many bytes that pass.
    Passing(usize),
    /// What is left alone: no HTTP/2, or the end.
    Anything,
}

/// What is left of some bytes, whose room is given back with the last of them: connections are many, and mostly idle.
#[derive(Debug, Default)]
struct Rest {
    bytes: Vec<u8>,
    begin: usize,
}

/// The head of a frame, or the frames of a block of headers.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    // Where the last frame begins.
    frame: usize,
}

/// What comes next.
enum Next {
    /// So many bytes have to be read.
    Read(usize),
    /// This is given, and so many bytes behind it pass.
    Give(Vec<u8>, usize),
}

impl<T: AsyncRead> Io<T> {
    /// Wraps a connection, from its first byte on.
    pub fn new(inner: T) -> Self {
        let (at, held) = (At::Preface(0), Held::default());
        Self { inner, at, held, ahead: Rest::default(), out: Rest::default(), is_busy: false, pauses: 0 }
    }

    /// The connection.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl Rest {
    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, begin: 0 }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }

    fn consume(&mut self, count: usize) {
        self.begin += count;
        if self.begin == self.bytes.len() {
            *self = Self::default();
        }
    }

    /// As much of it as there is room for. False: there is nothing.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let some = self.get().len().min(buf.remaining());
        buf.put_slice(&self.get()[..some]);
        self.consume(some);
        some > 0
    }
}

impl Held {
    fn next(&mut self) -> Next {
        let Some(head) = Head::of(&self.bytes[self.frame..]) else {
            return Next::Read(self.frame + HEAD - self.bytes.len());
        };
        let end = self.frame + HEAD + head.len;
        let expected = if self.frame == 0 { HEADERS } else { CONTINUATION };
        if head.kind != expected || end > MAX_BLOCK {
            let rest = end - self.bytes.len();
            return Next::Give(self.take(), rest);
        }
        if self.bytes.len() < end {
            return Next::Read(end - self.bytes.len());
        }
        if head.flags & END_HEADERS == 0 {
            self.frame = end;
            return Next::Read(HEAD);
        }
        Next::Give(authority::without_empty(self.take()), 0)
    }

    fn take(&mut self) -> Vec<u8> {
        self.frame = 0;
        mem::take(&mut self.bytes)
    }
}

/// Whether this is kept until somebody asks for it.
fn is_of_request(frames: &[u8]) -> bool {
    Head::of(frames).is_some_and(|head| [DATA, HEADERS].contains(&head.kind))
}

impl<T: AsyncRead> AsyncRead for Io<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if *this.pauses > 0 {
                *this.pauses -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.out.give(buf) {
                return Poll::Ready(Ok(()));
            }
            let read = match *this.at {
                At::Anything if this.ahead.give(buf) => return Poll::Ready(Ok(())),
                At::Anything => return this.inner.poll_read(cx, buf),
                At::Preface(seen) => (PREFACE.len() - seen).min(buf.remaining()),
                At::Passing(rest) => rest.min(buf.remaining()),
                At::Held => match this.held.next() {
                    Next::Read(bytes) => bytes,
                    Next::Give(bytes, passing) => {
                        if is_of_request(&bytes) && mem::replace(this.is_busy, true) {
                            *this.pauses = PAUSES;
                        }
                        *this.out = Rest::of(bytes);
                        *this.at = if passing == 0 { At::Held } else { At::Passing(passing) };
                        continue;
                    }
                },
            };
            if this.ahead.get().is_empty() {
                let mut bytes = [0; READ_AHEAD];
                let mut bytes = ReadBuf::new(&mut bytes);
                if this.inner.as_mut().poll_read(cx, &mut bytes)?.is_pending() {
                    *this.is_busy = false;
                    return Poll::Pending;
                }
                *this.ahead = Rest::of(bytes.filled().to_vec());
            }
            let bytes = this.ahead.get();
            let bytes = &bytes[..read.min(bytes.len())];
            let read = bytes.len();
            if read == 0 {
                *this.at = At::Anything;
                *this.out = Rest::of(this.held.take());
                continue;
            }
            let passes = match *this.at {
                At::Held | At::Anything => {
                    this.held.bytes.extend_from_slice(bytes);
                    false
                }
                At::Preface(seen) => {
                    let is_preface = PREFACE[seen..].starts_with(bytes);
                    *this.at = match seen + read {
                        _ if !is_preface => At::Anything,
                        seen if seen == PREFACE.len() => At::Held,
                        seen => At::Preface(seen),
                    };
                    true
                }
                At::Passing(rest) => {
                    *this.at = if rest == read { At::Held } else { At::Passing(rest - read) };
                    true
                }
            };
            if passes {
                buf.put_slice(bytes);
            }
            this.ahead.consume(read);
            if passes {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite> AsyncWrite for Io<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}
