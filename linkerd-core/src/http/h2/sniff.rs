//! Which version a client speaks, by its first bytes.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::io::forward;

/// How every connection of HTTP/2 begins, and no request of HTTP/1 may.
const PREFACE: [u8; 4] = *b"PRI ";

/// A connection of which the first bytes were looked at.
#[derive(Debug)]
pub(in crate::http) struct Sniffed<I> {
    inner: I,
    start: [u8; PREFACE.len()],
    /// So many bytes of the start were read,
    filled: usize,
    /// and so many of them again.
    taken: usize,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Start {
    /// As HTTP/2 does.
    H2,
    /// As a request of HTTP/1 does that has no body, mostly, and may ask to go on in HTTP/2: `GET`, `HEAD`, `OPTIONS`.
    Request,
    Other,
}

/// Reads until it is known what the connection begins with, or nothing is there and `is_over`, which is told whether
/// something came before.
pub(in crate::http) async fn sniff<I>(
    inner: I,
    mut is_over: impl FnMut(&mut Context<'_>, bool) -> bool,
) -> io::Result<Option<(Sniffed<I>, Start)>>
where
    I: AsyncRead + Unpin,
{
    let mut sniffed = Sniffed { inner, start: [0; PREFACE.len()], filled: 0, taken: 0 };
    while sniffed.filled < PREFACE.len() && sniffed.may_be_h2() {
        let read = poll_fn(|cx| match sniffed.poll_start(cx) {
            Poll::Pending if is_over(cx, sniffed.filled > 0) => Poll::Ready(Ok(None)),
            polled => polled.map_ok(Some),
        });
        match read.await? {
            None => return Ok(None),
            Some(0) => break,
            Some(read) => sniffed.filled += read,
        }
    }
    let start = match sniffed.start[0] {
        b'P' if sniffed.filled == PREFACE.len() && sniffed.may_be_h2() => Start::H2,
        b'G' | b'H' | b'O' => Start::Request,
        _ => Start::Other,
    };
    Ok(Some((sniffed, start)))
}

impl<I: AsyncRead + Unpin> Sniffed<I> {
    fn may_be_h2(&self) -> bool {
        PREFACE.starts_with(&self.start[..self.filled])
    }

    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(&mut self.start[self.filled..]);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Sniffed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let start = &this.start[this.taken..this.filled];
        if start.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let len = start.len().min(buf.remaining());
        buf.put_slice(&start[..len]);
        this.taken += len;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Sniffed<I> {
    forward!(inner: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_tell_and_are_read_again() {
        for (text, expected) in [
            ("PRI * HTTP/2.0\r\n", Start::H2),
            ("PRINT / HTTP/1.1\r\n", Start::Other),
            ("GET / HTTP/1.1\r\n", Start::Request),
            ("PRI", Start::Other),
            ("", Start::Other),
        ] {
            // Byte by byte, as it may come.
            let (mut to, from) = tokio::io::duplex(1);
            let write = async move { drop(tokio::io::AsyncWriteExt::write_all(&mut to, text.as_bytes()).await) };
            let read = async {
                let (mut sniffed, start) = sniff(from, |_, _| false).await.unwrap().unwrap();
                let mut all = String::new();
                sniffed.read_to_string(&mut all).await.unwrap();
                (all, start)
            };
            let ((), read) = tokio::join!(write, read);
            assert_eq!(read, (text.to_owned(), expected));
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_waits_for_nobody_and_loses_nobody() {
        let (mut to, from) = tokio::io::duplex(8);
        tokio::io::AsyncWriteExt::write_all(&mut to, b"GET").await.unwrap();
        assert_eq!(sniff(from, |_, _| true).await.unwrap().unwrap().1, Start::Request);
        let (_to, from) = tokio::io::duplex(1);
        assert!(sniff(from, |_, _| true).await.unwrap().is_none());
    }
}
