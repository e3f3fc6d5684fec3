//! How long the head of a request may take, over HTTP/1.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::server::conn::http1;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant as TokioInstant, Sleep, sleep_until},
};

use super::{Peer, Shared};
use crate::{http::io::forward, telemetry::Refused};

/// How far the head is that a connection reads.
#[derive(Debug, Default)]
pub(super) struct Head(AtomicU8);

impl Head {
    /// None is read: the one before is being served. Also where heads may take any time.
    const NONE: u8 = 0;
    /// Nothing of it has come.
    const AWAITED: u8 = 1;
    const BEGUN: u8 = 2;

    // Relaxed in all: by the task that polls the connection.
    fn is_awaited(&self) {
        self.0.store(Self::AWAITED, Ordering::Relaxed);
    }

    /// Something came: whether it is the beginning of a head.
    fn begins(&self) -> bool {
        let begins = self.0.load(Ordering::Relaxed) == Self::AWAITED;
        if begins {
            self.0.store(Self::BEGUN, Ordering::Relaxed);
        }
        begins
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::BEGUN
    }

    /// All of it is here.
    pub(super) fn is_here(&self) {
        self.0.store(Self::NONE, Ordering::Relaxed);
    }
}

/// The time that the rest of a head may take, counted from when it is first asked for.
pub(in crate::http) struct Late {
    shared: Arc<Shared>,
    since: Option<TokioInstant>,
    /// Left as it is when a time ends early: the next one sets it anew once it rings, so that nothing is armed for each.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Late {
    pub(in crate::http) fn of(peer: &Peer) -> Self {
        Self { shared: Arc::clone(&peer.shared), since: None, sleep: None }
    }

    /// Waits until it is over, which is counted.
    pub(in crate::http) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_unless(cx, || false)
    }

    /// The same; but if it is over and `is_excused`, it begins anew.
    pub(in crate::http) fn poll_unless(&mut self, cx: &mut Context<'_>, is_excused: impl FnOnce() -> bool) -> Poll<()> {
        ready!(self.poll_over(cx));
        self.rest();
        if is_excused() {
            // Somebody has to wake the task for the next time.
            let _ = self.poll_over(cx);
            return Poll::Pending;
        }
        self.shared.refused(Refused::LateHead);
        Poll::Ready(())
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.shared.config.header_read_timeout else { return Poll::Pending };
        let since = *self.since.get_or_insert_with(TokioInstant::now);
        let Some(end) = since.checked_add(limit) else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
        ready!(sleep.as_mut().poll(cx));
        if sleep.deadline() < end {
            sleep.as_mut().reset(end);
            return sleep.as_mut().poll(cx);
        }
        Poll::Ready(())
    }

    /// Counts anew from the next time on.
    pub(in crate::http) fn rest(&mut self) {
        self.since = None;
    }
}

/// A connection that ends, with a 408, if the rest of a head does not come in time.
///
/// hyper has a time for heads too, but counts it from the end of the answer before, which would close who is idle, and it
/// closes without a word. It is given a timer that never rings, and by asking for it tells when it begins to wait for a
/// head. What came with the request before, or while that was served, is not seen to begin: it counts from its next
/// byte on.
pub(in crate::http) struct HeadTimed<I> {
    inner: I,
    peer: Arc<Peer>,
    late: Late,
}

/// The answer to a head that did not come in time.
const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

impl<I> HeadTimed<I> {
    /// `inner`, served by `builder`, with the limit of the peer's server.
    pub(in crate::http) fn of(inner: I, peer: &Arc<Peer>, builder: &mut http1::Builder) -> Self {
        if peer.shared.config.header_read_timeout.is_some() || peer.spellings.is_some() {
            // Any time: it never is over.
            builder.timer(Timer::of(peer)).header_read_timeout(Duration::from_secs(1));
        }
        Self { inner, peer: Arc::clone(peer), late: Late::of(peer) }
    }
}

impl<I: AsyncWrite + Unpin> HeadTimed<I> {
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.late.poll(cx));
        // hyper reads a head when the answer before is out, so this is not in the middle of one; and it is short, so it goes
        // out at once, or nobody reads.
        let _ = Pin::new(&mut self.inner).poll_write(cx, LATE);
        let _ = Pin::new(&mut self.inner).poll_flush(cx);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the head of a request did not come in time"))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for HeadTimed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_pending() {
            return if self.peer.head.has_begun() { self.poll_late(cx).map(Err) } else { Poll::Pending };
        }
        if buf.filled().len() > before && self.peer.head.begins() {
            self.late.rest();
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for HeadTimed<I> {
    forward!(inner: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}

/// What hyper tells that it waits for a head.
struct Timer {
    peer: Arc<Peer>,
    now: Instant,
}

impl Timer {
    fn of(peer: &Arc<Peer>) -> Self {
        Self { peer: Arc::clone(peer), now: tokio::time::Instant::now().into_std() }
    }
}

impl hyper::rt::Timer for Timer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.now)
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.peer.head.is_awaited();
        if let Some(spellings) = &self.peer.spellings {
            spellings.await_request();
        }
        // Nothing is allocated for what has no size.
        Box::pin(Never)
    }

    fn now(&self) -> Instant {
        self.now
    }
}

struct Never;

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl hyper::rt::Sleep for Never {}
