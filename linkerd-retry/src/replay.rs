//! Bodies that can be sent again, though they are still being received.
//!
//! A request with such a body is retried like any other, if copies are asked whether they are whole. Here beside a layer of
//! `tower_http`, which answers an attempt that takes too long:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::{BodyExt, Full};
//! use linkerd_retry::{ResponseClass, replay::{ReplayBody, ReplayMemory}, retry::{ClonedWhile, RetryLayer}};
//! use std::{future, time::Duration};
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//! use tower_http::timeout::TimeoutLayer;
//!
//! type Upload = Request<ReplayBody<Full<Bytes>>>;
//!
//! async fn store(req: Upload) -> Result<Response<Full<Bytes>>, BoxError> {
//!     # use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
//!     # static STUCK: AtomicBool = AtomicBool::new(true);
//!     let body = req.into_body().collect().await?.to_bytes();
//!     # if STUCK.swap(false, Relaxed) {
//!     #   return future::pending().await;
//!     # }
//!     Ok(Response::new(Full::new(body)))
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let put_again = |req: &Upload, rsp: Result<&Response<Full<Bytes>>, &BoxError>| match rsp {
//!     Ok(rsp) if !rsp.status().is_server_error() => ResponseClass::Success,
//!     _ => ResponseClass::Failure { retryable: req.method() == "PUT" },
//! };
//! let svc = ServiceBuilder::new()
//!     .layer(RetryLayer::new(put_again).copy_with(ClonedWhile(|req: &Upload| req.body().is_whole())))
//!     .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1)))
//!     .service(service_fn(store));
//! let memory = ReplayMemory::default();
//! let body = ReplayBody::new(Full::new(Bytes::from_static(b"hello")), 64 * 1024, &memory);
//! // The first attempt is stuck.
//! let rsp = svc.oneshot(Request::put("/").body(body)?).await?;
//! assert_eq!(rsp.into_body().collect().await?.to_bytes(), "hello");
//! # Ok(())
//! # }
//! ```

mod memory;

use std::{
    error, fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use self::memory::Held;
pub use self::memory::ReplayMemory;

/// How many frames of a body are kept, whatever their length. A frame costs more than its length shows, because what it
/// was received into is kept with it.
pub const MAX_FRAMES: usize = 4096;

/// A body of which clones send the same again.
///
/// Clone it for every attempt that may be made, before the attempt before it begins. Whichever was begun last reads from
/// the body itself, after it has sent what was read before; an earlier one that still wants more fails with
/// [`ReplayError::Superseded`]. So an attempt may be given up for another at any point of the body, also by a server that
/// answers early, and nothing waits for the end of it.
///
/// What is read is kept while there is a clone that may need it, within the cap of this body and the [memory](ReplayMemory)
/// of all. No byte is copied: what is kept is another handle to the same [`Bytes`]. A body that turns out to be too long
/// streams on all the same and what was kept of it is freed, but [`is_whole`](Self::is_whole) is false from then on. If it
/// is known from its size hint to be too long, nothing of it is kept in the first place. When the last clone but one is
/// gone, the rest just passes through.
///
/// Trailers are kept with the body, and count.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full};
/// use linkerd_retry::replay::{ReplayBody, ReplayMemory};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let memory = ReplayMemory::new(64 * 1024 * 1024);
/// let body = ReplayBody::new(Full::new(Bytes::from_static(b"hello")), 64 * 1024, &memory);
/// let again = body.clone();
/// assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
/// assert!(again.is_whole());
/// assert_eq!(again.collect().await.unwrap().to_bytes(), "hello");
/// # }
/// ```
#[derive(Debug)]
pub struct ReplayBody<B> {
    shared: Arc<Shared<B>>,
    /// Which one to begin it was: 0 if it has not begun.
    turn: u64,
    /// How many of the kept frames it has sent.
    sent: usize,
    trailers_sent: bool,
}

/// Why a body that was to be sent again was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError<E> {
    /// The body itself failed.
    Body(E),
    /// A later attempt has taken it over.
    Superseded,
    /// Its beginning was not kept, so it can only be sent once.
    Lost,
}

#[derive(Debug)]
struct Shared<B> {
    cap: usize,
    /// No lock is held but for one poll, and by one attempt at a time.
    state: Mutex<State<B>>,
}

#[derive(Debug)]
struct State<B> {
    body: B,
    /// All data that was read, if it is `whole`; else nothing.
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    held: Held,
    whole: bool,
    ended: bool,
    /// Who began last: 0 if nobody has.
    turn: u64,
    /// How many frames that one has sent, while it is there.
    sent: Option<usize>,
    /// Whom to tell when another begins.
    waker: Option<Waker>,
    clones: usize,
}

impl<B> ReplayBody<B> {
    /// Makes a body that can be sent again as long as it has `cap` bytes at most, and `memory` has room.
    #[must_use]
    pub fn new(body: B, cap: usize, memory: &ReplayMemory) -> Self {
        let state = State {
            body,
            frames: Vec::new(),
            trailers: None,
            held: memory.hold(),
            whole: true,
            ended: false,
            turn: 0,
            sent: None,
            waker: None,
            clones: 1,
        };
        Self::of(Arc::new(Shared { cap, state: Mutex::new(state) }))
    }

    /// Whether all that was read of the body is kept, so that a clone of it which has not begun can send the whole. A body
    /// that nobody has begun to read is whole, whatever its length.
    pub fn is_whole(&self) -> bool {
        self.lock().whole
    }

    fn of(shared: Arc<Shared<B>>) -> Self {
        Self { shared, turn: 0, sent: 0, trailers_sent: false }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.shared.lock()
    }
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        // If the body panicked, it is as if it had failed: it is for the next poll of it to say.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> State<B> {
    /// Hands the body to another, and tells the one that had it.
    fn begin(&mut self) -> u64 {
        self.turn += 1;
        self.sent = Some(0);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.turn
    }

    /// Frees what is kept. From here on the body can only go on.
    fn lose(&mut self) {
        self.whole = false;
        self.frames = Vec::new();
        self.trailers = None;
        self.held.free();
        self.sent = self.sent.map(|_| 0);
    }

    /// Whether nobody but who is reading can want what is kept, and that one has had it.
    fn is_done_with(&self) -> bool {
        self.clones == 1 && self.sent == Some(self.frames.len()) && self.trailers.is_none()
    }

    /// Whether `len` more bytes are within the limits, with `more` known to come. If so, they are reserved, and what it
    /// costs to keep them.
    fn has_room(&mut self, len: usize, more: u64, cap: usize) -> bool {
        let needed = self.held.bytes().saturating_add(len);
        let needed = u64::try_from(needed).unwrap_or(u64::MAX).saturating_add(more);
        if self.frames.len() >= MAX_FRAMES || needed > cap as u64 {
            self.held.memory().note_too_long();
            return false;
        }
        self.held.reserve(len)
    }
}

impl<B: Body<Data = Bytes>> State<B> {
    fn keep_data(&mut self, data: &Bytes, cap: usize) {
        if !self.whole || data.is_empty() {
            return;
        }
        if self.clones > 1 && self.has_room(data.len(), self.body.size_hint().lower(), cap) {
            self.frames.push(data.clone());
            self.sent = Some(self.frames.len());
        } else {
            self.lose();
        }
    }

    fn keep_trailers(&mut self, trailers: &HeaderMap, cap: usize) {
        let len = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if self.whole && self.clones > 1 && self.has_room(len, 0, cap) {
            self.trailers = Some(trailers.clone());
        } else {
            self.lose();
        }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = ReplayError<B::Error>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        let state = &mut *state;
        if this.turn == 0 {
            if !state.whole {
                return Poll::Ready(Some(Err(ReplayError::Lost)));
            }
            this.turn = state.begin();
        }
        if this.turn != state.turn {
            return Poll::Ready(Some(Err(ReplayError::Superseded)));
        }
        if let Some(data) = state.frames.get(this.sent) {
            let data = data.clone();
            this.sent += 1;
            state.sent = Some(this.sent);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if state.ended {
            let trailers = if this.trailers_sent { None } else { state.trailers.clone() };
            this.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if !state.frames.is_empty() && state.is_done_with() {
            state.lose();
            this.sent = 0;
        }
        let Poll::Ready(frame) = Pin::new(&mut state.body).poll_frame(cx) else {
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                state.lose();
                state.ended = true;
                return Poll::Ready(Some(Err(ReplayError::Body(error))));
            }
            None => {
                state.ended = true;
                return Poll::Ready(None);
            }
        };
        if let Some(data) = frame.data_ref() {
            state.keep_data(data, this.shared.cap);
            state.ended = state.body.is_end_stream();
        } else if let Some(trailers) = frame.trailers_ref() {
            state.keep_trailers(trailers, this.shared.cap);
            state.ended = true;
            this.trailers_sent = true;
        }
        this.sent = state.frames.len();
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.lock();
        let current = if self.turn == 0 { state.whole } else { self.turn == state.turn };
        let rest =
            if state.ended { self.trailers_sent || state.trailers.is_none() } else { state.body.is_end_stream() };
        current && self.sent >= state.frames.len() && rest
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.lock();
        let kept = state.frames.get(self.sent..).unwrap_or_default().iter().map(|data| data.remaining() as u64).sum();
        let mut hint = if state.ended { SizeHint::with_exact(0) } else { state.body.size_hint() };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(hint.lower().saturating_add(kept));
        hint
    }
}

impl<B> Clone for ReplayBody<B> {
    /// Another one that begins at the beginning.
    fn clone(&self) -> Self {
        self.lock().clones += 1;
        Self::of(self.shared.clone())
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.clones -= 1;
        if self.turn != 0 && self.turn == state.turn {
            state.sent = None;
            state.waker = None;
        } else if state.whole && state.is_done_with() {
            state.lose();
        }
    }
}

impl<E> fmt::Display for ReplayError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body(_) => "the body failed",
            Self::Superseded => "another attempt has taken the body over",
            Self::Lost => "the body was too long to be kept, and cannot be sent again",
        })
    }
}

impl<E: error::Error + 'static> error::Error for ReplayError<E> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Body(error) => Some(error),
            Self::Superseded | Self::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests;
