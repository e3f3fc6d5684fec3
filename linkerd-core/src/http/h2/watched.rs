//! A client's connection frame by frame, beneath `h2`: that says nothing of what it refuses by itself, and has no time for
//! anything to end.
//!
//! There is one time for what a client has begun, or has to begin with: the preface and the first frame, each block of headers,
//! each frame. A frame of data is the body of a request, which has the times of that request: it has this one too only
//! while nothing is served on the connection, when nobody waits for it but the frames behind it.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use h2::{Reason, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    http::{
        io::forward,
        serve::{Late, Peer},
    },
    telemetry::Refused,
};

/// A connection that is looked at as it goes by.
pub(super) struct Watched<I> {
    inner: I,
    seen: Seen,
    read: Frames,
    written: Frames,
    /// The first frame has come.
    has_begun: bool,
    late: Late,
    peer: Arc<Peer>,
}

/// What was seen of it.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// How many streams are being served.
    serving: AtomicUsize,
}

/// A stream that is being served.
pub(super) struct Turn(Arc<Shared>);

#[derive(Default)]
struct State {
    /// The last stream that the client opened,
    last: u32,
    /// and those that are not handed over yet: h2 has them, or has refused them.
    opened: VecDeque<u32>,
    /// A block of headers has begun and not ended.
    is_in_headers: bool,
    /// Something takes too long.
    is_late: bool,
}

/// How many streams are remembered that h2 has said nothing of: the oldest are forgotten, and what becomes of those is not
/// counted.
const MOST_OPENED: usize = 1024;

impl Seen {
    /// The server has this stream now, and serves it until the turn is dropped.
    pub(super) fn accepted(&self, id: StreamId) -> Turn {
        self.state().take(u32::from(id));
        // Relaxed here and below: a count, which orders nothing.
        self.0.serving.fetch_add(1, Ordering::Relaxed);
        Turn(Arc::clone(&self.0))
    }

    /// Whether the rest of something takes too long.
    pub(super) fn is_late(&self) -> bool {
        self.state().is_late
    }

    fn is_serving(&self) -> bool {
        self.0.serving.load(Ordering::Relaxed) > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    fn open(&mut self, id: u32) {
        if id > self.last {
            self.last = id;
            if self.opened.len() == MOST_OPENED {
                self.opened.pop_front();
            }
            self.opened.push_back(id);
        }
    }

    /// Whether the stream was not handed over; from now on it is not among those.
    fn take(&mut self, id: u32) -> bool {
        // The first, mostly.
        let at = self.opened.iter().position(|&opened| opened == id);
        at.is_some_and(|at| self.opened.remove(at).is_some())
    }

    /// What the client sends. Whether something is whole by it: a frame, or the block of headers that it is of.
    fn came(&mut self, frame: Frame, part: Part) -> bool {
        match (frame.kind, part) {
            (Frame::HEADERS, Part::Begin) => {
                self.open(frame.stream);
                self.is_in_headers = true;
            }
            (Frame::HEADERS | Frame::CONTINUATION, Part::End) if frame.flags & Frame::END_HEADERS != 0 => {
                self.is_in_headers = false;
            }
            _ => {}
        }
        part == Part::End && !self.is_in_headers
    }

    /// What h2 says by itself, if that is what it does.
    fn went(&mut self, frame: Frame) -> Option<Refused> {
        match frame.kind {
            // Of 431 alone.
            Frame::HEADERS if self.take(frame.stream) => Some(Refused::HeadersTooLarge),
            Frame::RST_STREAM if self.take(frame.stream) => Some(match frame.reason {
                Some(Reason::REFUSED_STREAM) => Refused::TooManyStreams,
                _ => Refused::BadRequest,
            }),
            Frame::GO_AWAY if !self.is_late => match frame.reason? {
                Reason::NO_ERROR => None,
                Reason::ENHANCE_YOUR_CALM => Some(Refused::Flood),
                _ => Some(Refused::BadRequest),
            },
            _ => None,
        }
    }
}

impl<I> Watched<I> {
    /// `late` may count already.
    pub(super) fn of(inner: I, peer: &Arc<Peer>, late: Late) -> (Self, Seen) {
        let seen = Seen::default();
        let watched = Self {
            inner,
            seen: seen.clone(),
            read: Frames::behind(PREFACE_LEN),
            written: Frames::behind(0),
            has_begun: false,
            late,
            peer: Arc::clone(peer),
        };
        (watched, seen)
    }

    fn see_read(&mut self, bytes: &[u8]) {
        let mut state = self.seen.state();
        let mut is_whole = false;
        self.read.go(bytes, |frame, part| is_whole |= state.came(frame, part));
        if is_whole {
            self.has_begun = true;
            self.late.rest();
        }
    }

    /// Nothing more is there to be read: whether something should have come by now.
    fn check_late(&mut self, cx: &mut Context<'_>) {
        let mut state = self.seen.state();
        let is_awaited = !self.has_begun || state.is_in_headers || self.read.is_within();
        if !is_awaited || state.is_late {
            return;
        }
        let is_excused = || self.read.is_within_data() && self.seen.is_serving();
        // Whoever polls the connection asks for it next.
        state.is_late = self.late.poll_unless(cx, is_excused).is_ready();
    }

    /// Whether something was written, and nothing but whole frames.
    pub(super) fn may_write_frame(&self) -> bool {
        self.written.has_ended && !self.written.is_within()
    }

    fn see_written(&mut self, bytes: &[u8]) {
        let mut state = self.seen.state();
        self.written.go(bytes, |frame, part| {
            if matches!(part, Part::Begin)
                && let Some(why) = state.went(frame)
            {
                self.peer.shared.refused(why);
            }
        });
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if polled.is_pending() {
            this.check_late(cx);
        } else {
            this.see_read(&buf.filled()[before..]);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    forward!(inner: is_write_vectored, poll_flush, poll_shutdown);

    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = polled {
            self.see_written(&buf[..n]);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut left)) = polled {
            for buf in bufs {
                let n = left.min(buf.len());
                self.see_written(&buf[..n]);
                left -= n;
            }
        }
        polled
    }
}

const PREFACE_LEN: usize = 24;
const HEAD_LEN: usize = 9;
/// Of a GOAWAY, up to the end of its code.
const MOST_PAYLOAD: usize = 8;

/// Goes along frames: of their payloads it looks at a few bytes at most.
struct Frames {
    head: [u8; HEAD_LEN + MOST_PAYLOAD],
    /// So much of it is here.
    filled: usize,
    /// Then so much is not looked at.
    skip: usize,
    /// One has come to its end.
    has_ended: bool,
}

/// A frame, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Of a `RST_STREAM` or `GOAWAY`.
    reason: Option<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Begin,
    End,
}

impl Frame {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const GO_AWAY: u8 = 7;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;
}

impl Frames {
    fn behind(skip: usize) -> Self {
        Self { head: [0; HEAD_LEN + MOST_PAYLOAD], filled: 0, skip, has_ended: false }
    }

    /// Whether there is more to come of what has begun.
    fn is_within(&self) -> bool {
        self.filled > 0 || self.skip > 0
    }

    /// Whether that is known to be a frame of data.
    fn is_within_data(&self) -> bool {
        self.filled >= HEAD_LEN && self.head[3] == Frame::DATA
    }

    fn go(&mut self, mut bytes: &[u8], mut see: impl FnMut(Frame, Part)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
            } else {
                let n = (self.wanted() - self.filled).min(bytes.len());
                self.head[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
                self.filled += n;
                bytes = &bytes[n..];
                // How much is wanted is known with the kind.
                if self.filled < self.wanted() {
                    continue;
                }
                self.skip = self.len() + HEAD_LEN - self.filled;
                see(self.frame(), Part::Begin);
            }
            if self.skip == 0 && self.filled > 0 {
                see(self.frame(), Part::End);
                self.filled = 0;
                self.has_ended = true;
            }
        }
    }

    fn wanted(&self) -> usize {
        let payload = match (self.filled >= HEAD_LEN).then_some(self.head[3]) {
            Some(Frame::RST_STREAM) => 4,
            Some(Frame::GO_AWAY) => MOST_PAYLOAD,
            _ => 0,
        };
        HEAD_LEN + if payload == 0 { 0 } else { payload.min(self.len()) }
    }

    fn len(&self) -> usize {
        usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2])
    }

    fn frame(&self) -> Frame {
        let number = |at: usize| {
            let bytes = self.head[..self.filled].get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        let kind = self.head[3];
        let code = match kind {
            Frame::RST_STREAM => number(HEAD_LEN),
            Frame::GO_AWAY => number(HEAD_LEN + 4),
            _ => None,
        };
        let stream = number(5).unwrap_or_default() & (u32::MAX >> 1);
        Frame { kind, flags: self.head[4], stream, reason: code.map(Reason::from) }
    }
}
