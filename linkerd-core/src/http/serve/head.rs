//! How long the head of a request may take, over HTTP/1.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::server::conn::http1;
use memchr::memchr_iter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant as TokioInstant, Sleep, sleep_until},
};

use super::{Peer, Shared};
use crate::{http::io::forward, telemetry::Refused};

/// How far the head is that a connection reads, and what is read behind it.
///
/// hyper reads as much as there is, so when it begins to wait for a head it may hold a part of one. It does not tell, but
/// what was read does: without a body, or if that is chunked, a message ends with a blank line, and no part of a head does;
/// with a length, what was read behind the head is longer than that.
#[derive(Debug, Default)]
pub(super) struct Head {
    stage: AtomicU8,
    /// What was read last, since nothing of a head had come: up to three bytes, and [whether](SEEN) there was more than
    /// ends of lines.
    tail: AtomicU32,
    /// So much was read since the end of the head, if that was seen.
    behind: AtomicU64,
    /// The length of the body.
    len: AtomicU64,
}

// Relaxed in all: by the task that polls the connection.
impl Head {
    /// None is read: the one before is being served. Also where heads may take any time.
    const NONE: u8 = 0;
    /// Nothing of it has come.
    const AWAITED: u8 = 1;
    /// A part of it came before it was awaited.
    const HELD: u8 = 2;
    const BEGUN: u8 = 3;

    const UNKNOWN: u64 = u64::MAX;

    fn is_awaited(&self) {
        let is_held = match self.len.load(Ordering::Relaxed) {
            0 => !is_blank(self.tail.load(Ordering::Relaxed)),
            // Unknown is more, too: who sends a body behind another request, and then nothing, is taken for late.
            len => {
                !ends_lines(self.tail.load(Ordering::Relaxed), self.behind.load(Ordering::Relaxed).saturating_sub(len))
            }
        };
        if !is_held {
            self.tail.store(0, Ordering::Relaxed);
        }
        self.stage.store(if is_held { Self::HELD } else { Self::AWAITED }, Ordering::Relaxed);
        self.behind.store(Self::UNKNOWN, Ordering::Relaxed);
    }

    /// Something came: whether it is the beginning of a head.
    fn reads(&self, bytes: &[u8]) -> bool {
        let stage = self.stage.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        let behind = match self.behind.load(Ordering::Relaxed) {
            Self::UNKNOWN if stage == Self::NONE => Self::UNKNOWN,
            Self::UNKNOWN => end_of_head(tail, bytes).map_or(Self::UNKNOWN, |end| (bytes.len() - end) as u64),
            behind => behind + bytes.len() as u64,
        };
        self.behind.store(behind, Ordering::Relaxed);
        self.tail.store(with(tail, bytes), Ordering::Relaxed);
        let begins = stage == Self::AWAITED;
        if begins {
            self.stage.store(Self::BEGUN, Ordering::Relaxed);
        }
        begins
    }

    /// Whether its time runs, and whether it begins to.
    fn has_begun(&self) -> Option<bool> {
        match self.stage.load(Ordering::Relaxed) {
            Self::BEGUN => Some(false),
            Self::HELD => {
                self.stage.store(Self::BEGUN, Ordering::Relaxed);
                Some(true)
            }
            _ => None,
        }
    }

    /// All of it is here; its body has this length, if it has any and says so.
    pub(super) fn is_here(&self, len: Option<u64>) {
        self.stage.store(Self::NONE, Ordering::Relaxed);
        self.len.store(len.unwrap_or(0), Ordering::Relaxed);
    }
}

/// There was more than ends of lines.
const SEEN: u32 = 1 << 24;

/// The last bytes of what was read, and of these.
fn with(tail: u32, bytes: &[u8]) -> u32 {
    let last = &bytes[bytes.len().saturating_sub(3)..];
    let is_seen = tail & SEEN != 0 || ends_of_lines(bytes) < bytes.len();
    let last = last.iter().fold(tail, |tail, &byte| tail << 8 | u32::from(byte)) & (SEEN - 1);
    if is_seen { last | SEEN } else { last }
}

/// Whether what was read ends with a blank line, or is nothing.
fn is_blank(tail: u32) -> bool {
    let [_, bytes @ ..] = tail.to_be_bytes();
    matches!(bytes, [_, b'\n', b'\n'] | [b'\n', b'\r', b'\n'] | [0, 0, 0])
}

/// Whether the last so many bytes that were read are ends of lines, which may stand before a message.
fn ends_lines(tail: u32, count: u64) -> bool {
    let [_, bytes @ ..] = tail.to_be_bytes();
    usize::try_from(count)
        .is_ok_and(|count| count <= bytes.len() && ends_of_lines(&bytes[bytes.len() - count..]) == count)
}

/// How many of the first bytes are ends of lines.
fn ends_of_lines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

/// Where the head ends of which these are the next bytes, behind those.
fn end_of_head(tail: u32, bytes: &[u8]) -> Option<usize> {
    let [_, before @ ..] = tail.to_be_bytes();
    // Lines before a message are not part of it.
    let begin = if tail & SEEN == 0 { ends_of_lines(bytes) } else { 0 };
    let byte = |at: usize, back: usize| match at.checked_sub(back) {
        Some(at) => bytes[at],
        None => before[before.len() + at - back],
    };
    memchr_iter(b'\n', &bytes[begin..])
        .map(|at| begin + at)
        .find(|&at| matches!((byte(at, 2), byte(at, 1)), (_, b'\n') | (b'\n', b'\r')))
        .map(|at| at + 1)
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
/// head. The time of what came with the request before, or while that was served, begins then.
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
            let Some(begins) = self.peer.head.has_begun() else { return Poll::Pending };
            if begins {
                self.late.rest();
            }
            return self.poll_late(cx).map(Err);
        }
        let read = &buf.filled()[before..];
        if !read.is_empty() && self.peer.head.reads(read) {
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
