//! The server's side of a connection.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    io::ErrorKind,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    future::{AbortHandle, Abortable, Aborted},
    stream::{FuturesUnordered, StreamExt as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    pin, select,
    time::{Instant, sleep_until, timeout},
};

use super::{Beat, Bounds, Broken, CONTROL_TAG, Init, Input, Malformed, Message, Output, PROBE, Pulse, Status};
use crate::transport::Heartbeat;

/// How a connection is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How a client that is gone is noticed.
    pub(crate) heartbeat: Heartbeat,
    /// How many requests may be without an answer; one more is refused.
    pub(crate) max_pending: usize,
    /// How many bytes they may have in all.
    pub(crate) max_pending_bytes: usize,
    /// How long a client may take to leave once it was asked to.
    pub(crate) grace: Duration,
}

/// What becomes of a request: its answer, or `None` if it may be sent elsewhere.
pub(crate) type Answer = Option<Bytes>;
pub(crate) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Tells the requests of a connection when those that wait for something new had better be sent elsewhere.
///
/// Only for calls of this connection: when the client agrees, each is polled. Waiting so takes no memory, and calls that
/// wait are many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leave(Arc<AtomicBool>);

impl Leave {
    /// Waits until the client has agreed to leave.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn agreed(&self) {
        poll_fn(|_| if self.has_agreed() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    // Relaxed in both: one task has all of them.
    fn has_agreed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn agree(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves a connection until the client closes it, or `drain` is ready and the client has left.
///
/// `bounds` are of what it sends, `pings` counts those that are sent to it.
pub(crate) async fn serve<I: AsyncRead + AsyncWrite>(
    io: I,
    settings: Settings,
    bounds: Bounds,
    call: impl Fn(Bytes, Leave) -> Answering,
    pings: impl Fn(),
    drain: impl Future<Output = ()>,
) -> Result<(), Broken> {
    match drive(io, settings, bounds, call, pings, drain).await {
        // Who goes away does not always wait for what is said to it.
        Err(Broken::Io(error)) if is_closed(error.kind()) => Ok(()),
        end => end,
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

async fn drive<I: AsyncRead + AsyncWrite>(
    io: I,
    settings: Settings,
    bounds: Bounds,
    call: impl Fn(Bytes, Leave) -> Answering,
    pings: impl Fn(),
    drain: impl Future<Output = ()>,
) -> Result<(), Broken> {
    let (read, write) = tokio::io::split(io);
    let mut connection = Connection::new(Output::new(write), settings, call);
    let mut input = Input::bounded(read, bounds);
    let timer = sleep_until(Instant::now());
    pin!(drain, timer);
    while !connection.is_over() {
        let due = connection.due();
        if let Some(due) = due
            && timer.deadline() != due
        {
            timer.as_mut().reset(due);
        }
        let has_room = !connection.output.is_full();
        select! {
            message = input.next(), if has_room => match message {
                Ok(Some(message)) => connection.take(message)?,
                Ok(None) => return Ok(()),
                Err(Broken::Refused(reason)) => return connection.refuse(input.tag(), reason).await,
                Err(error) => return Err(error),
            },
            Some(answer) = connection.calls.next(), if has_room => connection.answered(answer),
            is_more = connection.output.write_some(), if !connection.output.is_done() => {
                // What the peer takes while more is waiting is a sign of life; the rest may be in buffers on the way.
                if is_more? {
                    connection.pulse.alive(Instant::now());
                }
            }
            () = &mut timer, if due.is_some() => connection.on_time(Instant::now(), &pings)?,
            () = &mut drain, if connection.leaving.is_none() => connection.drain(),
        }
    }
    // Whoever does not read any more keeps nobody waiting.
    timeout(settings.grace, connection.output.finish()).await.unwrap_or(Ok(()))
}

struct Connection<W, C> {
    output: Output<W>,
    settings: Settings,
    call: C,
    calls: FuturesUnordered<Tagged>,
    tags: HashMap<u32, Pending>,
    pending_bytes: usize,
    pulse: Pulse,
    session: Begin,
    // Until when the client may leave, once it was asked to.
    leaving: Option<Instant>,
    leave: Leave,
}

/// A request on its way to its answer. Not boxed once more: there are many.
struct Tagged {
    tag: u32,
    call: Abortable<Answering>,
}

impl Future for Tagged {
    type Output = (u32, Result<Answer, Aborted>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let tag = self.tag;
        Pin::new(&mut self.call).poll(cx).map(|answer| (tag, answer))
    }
}

/// A request without an answer.
struct Pending {
    abort: AbortHandle,
    size: usize,
}

/// How far a session has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// Nothing came yet.
    Silent,
    /// It was asked whether there are handshakes here.
    Probed,
    /// There was a handshake, or there will be none.
    Begun,
}

impl<W: AsyncWrite + Unpin, C: Fn(Bytes, Leave) -> Answering> Connection<W, C> {
    fn new(output: Output<W>, settings: Settings, call: C) -> Self {
        Self {
            output,
            settings,
            call,
            calls: FuturesUnordered::new(),
            tags: HashMap::new(),
            pending_bytes: 0,
            pulse: Pulse::new(settings.heartbeat, Instant::now()),
            session: Begin::Silent,
            leaving: None,
            leave: Leave::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.leaving.is_some() && self.leave.has_agreed() && self.tags.is_empty()
    }

    fn due(&self) -> Option<Instant> {
        self.pulse.due().into_iter().chain(self.leaving).min()
    }

    /// Says why nothing more is read, as far as the peer still reads, and that is the end.
    async fn refuse(&mut self, tag: Option<u32>, reason: String) -> Result<(), Broken> {
        let tag = tag.unwrap_or(CONTROL_TAG);
        self.output.push(&Message::Rerr { tag, text: reason.clone().into(), is_old: false });
        let _ = timeout(self.settings.grace, self.output.finish()).await;
        Err(Broken::Refused(reason))
    }

    fn on_time(&mut self, now: Instant, pings: impl Fn()) -> Result<(), Broken> {
        if self.leaving.is_some_and(|until| until <= now) {
            self.tags.clear();
            self.agreed();
            return Ok(());
        }
        if self.pulse.due().is_none_or(|due| due > now) {
            return Ok(());
        }
        match self.pulse.beat(now) {
            // Who connects has to speak first: a ping could come in the middle of a handshake.
            Beat::Ping if self.session != Begin::Begun => {}
            Beat::Ping => {
                pings();
                self.output.push(&Message::Tping { tag: CONTROL_TAG });
            }
            Beat::Dead => return Err(Broken::Dead(self.pulse.timeout())),
        }
        Ok(())
    }

    fn agreed(&mut self) {
        self.leave.agree();
        // What is new in a set is polled.
        self.calls = mem::take(&mut self.calls).into_iter().collect();
    }

    fn drain(&mut self) {
        self.leaving = Some(Instant::now() + self.settings.grace);
        self.output.push(&Message::Tdrain { tag: CONTROL_TAG });
    }

    fn take(&mut self, message: Message) -> Result<(), Broken> {
        self.pulse.alive(Instant::now());
        match message {
            Message::Rerr { tag, text, is_old: true } if text == PROBE && self.session != Begin::Begun => {
                self.session = Begin::Probed;
                self.output.push(&Message::Rerr { tag, text, is_old: true });
                return Ok(());
            }
            Message::Tinit { tag, init } => self.begin(tag, &init)?,
            Message::Tdispatch { tag, payload } => self.dispatch(tag, payload)?,
            Message::Tdiscarded { which, .. } => {
                // If it is not there, the answer is on its way and serves as one to this.
                if let Some(call) = self.remove(which) {
                    call.abort.abort();
                    self.output.push(&Message::Rdiscarded { tag: which });
                }
            }
            Message::Tping { tag } => self.output.push(&Message::Rping { tag }),
            Message::Tdrain { tag } => self.output.push(&Message::Rdrain { tag }),
            Message::Rdrain { .. } if self.leaving.is_some() => self.agreed(),
            Message::Rerr { tag: CONTROL_TAG, .. } => self.pulse.refused(),
            Message::Unknown { kind, tag } if kind > 0 => self.output.push(&Message::unexpected(kind, tag)),
            // Answers to what was not asked.
            Message::Rdispatch { .. }
            | Message::Rinit { .. }
            | Message::Rping { .. }
            | Message::Rdrain { .. }
            | Message::Rdiscarded { .. }
            | Message::Tlease { .. }
            | Message::Rerr { .. }
            | Message::Unknown { .. } => {}
        }
        self.session = Begin::Begun;
        Ok(())
    }

    fn begin(&mut self, tag: u32, init: &Init) -> Result<(), Malformed> {
        // Finagle's server takes it for something else if there was no probe, and nothing is to be agreed on.
        let is_out_of_the_blue = self.session == Begin::Silent && init.headers.is_empty();
        if is_out_of_the_blue || self.session == Begin::Begun {
            self.output.push(&Message::unexpected(super::frame::kind::INIT, tag));
            return Ok(());
        }
        if !init.is_known() {
            let text = format!("unsupported version {}, expected 1", init.version).into();
            self.output.push(&Message::Rerr { tag, text, is_old: false });
            return Ok(());
        }
        if let Some(max) = init.max_frame()? {
            self.output.limit(max);
        }
        self.output.push(&Message::Rinit { tag, init: Init::ours() });
        Ok(())
    }

    fn dispatch(&mut self, tag: u32, payload: Bytes) -> Result<(), Broken> {
        if self.tags.contains_key(&tag) {
            return Err(Broken::Protocol(format!("two requests with tag {tag}")));
        }
        let size = payload.len();
        // One of any size is taken.
        let has_room = self.tags.len() < self.settings.max_pending
            && (self.tags.is_empty() || self.pending_bytes + size <= self.settings.max_pending_bytes);
        if self.leaving.is_some() || !has_room {
            self.output.push(&Message::Rdispatch { tag, status: Status::Nack, payload: Bytes::new() });
            return Ok(());
        }
        let (abort, registration) = AbortHandle::new_pair();
        let call = Abortable::new((self.call)(payload, self.leave.clone()), registration);
        self.calls.push(Tagged { tag, call });
        self.tags.insert(tag, Pending { abort, size });
        self.pending_bytes += size;
        Ok(())
    }

    fn remove(&mut self, tag: u32) -> Option<Pending> {
        let call = self.tags.remove(&tag)?;
        self.pending_bytes -= call.size;
        Some(call)
    }

    fn answered(&mut self, (tag, answer): (u32, Result<Answer, Aborted>)) {
        // The tag of one that was discarded may be in use again.
        let Ok(answer) = answer else { return };
        self.remove(tag);
        let (status, payload) = match answer {
            Some(payload) => (Status::Ok, payload),
            None => (Status::Nack, Bytes::new()),
        };
        self.output.push(&Message::Rdispatch { tag, status, payload });
    }
}
