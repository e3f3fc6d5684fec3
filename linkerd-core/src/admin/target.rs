//! Dtabs in URLs as people type them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A longer first line is passed on as it is.
const MAX_LINE: usize = 64 * 1024;

/// A connection whose first request may have `<`, `>` and `"` in its target, as in `?dtab=/svc=>/host`. HTTP forbids
/// that, and hyper answers it with 400; Linkerd 1.x takes it, and so its users type it.
///
/// Only the first: further ones on a connection come from programs, and finding them means to parse the rest.
#[pin_project]
#[derive(Debug)]
pub(crate) struct AnyTarget<T> {
    #[pin]
    inner: T,
    line: Line,
}

#[derive(Debug)]
enum Line {
    /// What was read of the first line so far.
    Reading(Vec<u8>),
    /// What is left to be handed on of the first line and what came with it.
    Read { bytes: Vec<u8>, at: usize },
    /// The rest goes by.
    Done,
}

impl<T> AnyTarget<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, line: Line::Reading(Vec::new()) }
    }
}

/// The same bytes with the first line encoded.
fn encode(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    let mut encoded = Vec::with_capacity(bytes.len() + 32);
    for byte in line {
        match byte {
            b'<' => encoded.extend(b"%3C"),
            b'>' => encoded.extend(b"%3E"),
            b'"' => encoded.extend(b"%22"),
            _ => encoded.push(*byte),
        }
    }
    encoded.extend(rest);
    encoded
}

impl<T: AsyncRead> AsyncRead for AnyTarget<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        loop {
            match this.line {
                Line::Done => return this.inner.poll_read(cx, buf),
                Line::Read { bytes, at } => {
                    let len = buf.remaining().min(bytes.len() - *at);
                    buf.put_slice(&bytes[*at..*at + len]);
                    *at += len;
                    if *at == bytes.len() {
                        *this.line = Line::Done;
                    }
                    return Poll::Ready(Ok(()));
                }
                Line::Reading(bytes) => {
                    let mut chunk = [0; 2048];
                    let mut chunk = ReadBuf::new(&mut chunk);
                    ready!(this.inner.as_mut().poll_read(cx, &mut chunk))?;
                    let chunk = chunk.filled();
                    bytes.extend(chunk);
                    let ended = chunk.is_empty();
                    if chunk.contains(&b'\n') || bytes.len() > MAX_LINE || ended {
                        let bytes = encode(bytes);
                        *this.line = if bytes.is_empty() { Line::Done } else { Line::Read { bytes, at: 0 } };
                        if ended && matches!(this.line, Line::Done) {
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
            }
        }
    }
}

impl<T: AsyncWrite> AsyncWrite for AnyTarget<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn through(writes: &[&[u8]]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(7);
        let mut server = AnyTarget::new(server);
        let mut read = Vec::new();
        let write = async {
            for bytes in writes {
                client.write_all(bytes).await.unwrap();
            }
            drop(client);
        };
        let ((), all) = tokio::join!(write, server.read_to_end(&mut read));
        all.unwrap();
        read
    }

    #[tokio::test]
    async fn only_the_first_line_is_encoded() {
        let sent: [&[u8]; 3] = [b"GET /?d=/a=", b"><\" HTTP/1.1\r\nx: <", b">\r\n\r\nGET /> "];
        let read = through(&sent).await;
        assert_eq!(read, b"GET /?d=/a=%3E%3C%22 HTTP/1.1\r\nx: <>\r\n\r\nGET /> ");
    }

    #[tokio::test]
    async fn what_has_no_line_ends_too() {
        assert_eq!(through(&[]).await, b"");
        assert_eq!(through(&[b"GET >"]).await, b"GET %3E");
        let long = vec![b'x'; 2 * MAX_LINE];
        assert_eq!(through(&[&long]).await, long);
    }
}
