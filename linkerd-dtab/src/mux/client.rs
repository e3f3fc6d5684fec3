//! The client's side of a connection.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
    pin, select,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{Beat, Broken, CONTROL_TAG, Init, Input, MAX_FRAME, Message, Output, PROBE, Pulse, Status};
use crate::transport::Heartbeat;

/// How many requests may be without an answer; one more fails.
const MAX_PENDING: usize = 10_000;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// The server wants requests to be sent elsewhere: on another connection.
    #[error("the server is leaving")]
    Leaving,
    /// The connection is closed.
    #[error("{0}")]
    Closed(Arc<str>),
    #[error("the server refused the request")]
    Nacked,
    #[error("too many requests are pending")]
    Busy,
    #[error("the server says: {0}")]
    Failed(String),
}

/// Sends requests on a connection. A clone sends on the same one; when there is none left, it is closed.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    open: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    // There is something to do for the connection.
    todo: Notify,
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<u32, Pending>,
    // Tags that were used, below the next that never was.
    free: BinaryHeap<Reverse<u32>>,
    // What waits to be written: a request for each that is pending, and a discard.
    queue: VecDeque<Message>,
    queued_bytes: usize,
    calls: u64,
    end: Option<Unanswered>,
}

/// What the sender of a request waits for.
type Answer = oneshot::Receiver<Result<Bytes, Unanswered>>;

/// A request without an answer. Its tag is in use until there is one, also if nobody wants it any more.
#[derive(Debug)]
struct Pending {
    call: u64,
    answer: Option<oneshot::Sender<Result<Bytes, Unanswered>>>,
}

/// Gives a request up if it is dropped before there is an answer.
struct Discard<'a> {
    shared: &'a Shared,
    call: u64,
    tag: u32,
}

/// A connection past its handshake.
pub(crate) struct Connection<I> {
    input: Input<ReadHalf<I>>,
    output: Output<WriteHalf<I>>,
    shared: Arc<Shared>,
    heartbeat: Heartbeat,
}

/// Agrees on a session, as a Finagle client does: asks whether there are handshakes here, then shakes hands; a server
/// that knows of none is spoken to without. Whoever calls bounds the time.
pub(crate) async fn begin<I: AsyncRead + AsyncWrite>(
    io: I,
    heartbeat: Heartbeat,
) -> Result<(Handle, Connection<I>), Broken> {
    let (read, write) = tokio::io::split(io);
    let (mut input, mut output) = (Input::new(read), Output::new(write));
    let probe = Message::Rerr { tag: CONTROL_TAG, text: PROBE.into(), is_old: true };
    if let Message::Rerr { text, is_old: true, .. } = ask(&mut input, &mut output, &probe).await?
        && text == PROBE
    {
        let init = Message::Tinit { tag: CONTROL_TAG, init: Init::ours() };
        match ask(&mut input, &mut output, &init).await? {
            Message::Rinit { init, .. } if init.is_known() => {
                if let Some(max) = init.max_frame()? {
                    output.limit(max);
                }
            }
            Message::Rerr { text, .. } => {
                return Err(Broken::Protocol(String::from_utf8_lossy(&text).into_owned()));
            }
            _ => return Err(Broken::Protocol("no answer to a handshake".to_owned())),
        }
    }
    let shared = Arc::new(Shared::default());
    let handle = Handle { open: Arc::new(Open { shared: Arc::clone(&shared) }) };
    Ok((handle, Connection { input, output, shared, heartbeat }))
}

// Waits for an answer of the control tag; a ping meanwhile is answered.
async fn ask<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    input: &mut Input<R>,
    output: &mut Output<W>,
    message: &Message,
) -> Result<Message, Broken> {
    output.push(message);
    loop {
        while !output.is_done() {
            output.write_some().await?;
        }
        match input.next().await? {
            Some(Message::Tping { tag }) => output.push(&Message::Rping { tag }),
            Some(message @ (Message::Rerr { .. } | Message::Rinit { .. })) => return Ok(message),
            Some(_) => return Err(Broken::Protocol("no answer to a handshake".to_owned())),
            None => return Err(Broken::Protocol("the end of the connection during a handshake".to_owned())),
        }
    }
}

impl Handle {
    /// Whether requests can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.open.shared.state().end.is_none()
    }

    /// Sends a request and waits for the answer, for as long as it takes.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the server is told that nobody wants the answer.
    pub(crate) async fn call(&self, payload: Bytes) -> Result<Bytes, Unanswered> {
        let shared = &*self.open.shared;
        let (answer, call, tag) = shared.state().begin(payload)?;
        let _discard = Discard { shared, call, tag };
        shared.todo.notify_one();
        answer.await.unwrap_or_else(|_| Err(Unanswered::Closed("the connection was given up".into())))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.state().end.get_or_insert(Unanswered::Leaving);
        self.shared.todo.notify_one();
    }
}

impl Drop for Discard<'_> {
    fn drop(&mut self) {
        if self.shared.state().discard(self.call, self.tag) {
            self.shared.todo.notify_one();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, payload: Bytes) -> Result<(Answer, u64, u32), Unanswered> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        if self.pending.len() >= MAX_PENDING || self.queued_bytes + payload.len() > MAX_FRAME {
            return Err(Unanswered::Busy);
        }
        // All tags from the first after the control tag on are pending or free.
        let next = CONTROL_TAG + 1 + (self.pending.len() + self.free.len()) as u32;
        let tag = self.free.pop().map_or(next, |Reverse(tag)| tag);
        let (sender, answer) = oneshot::channel();
        self.calls += 1;
        self.pending.insert(tag, Pending { call: self.calls, answer: Some(sender) });
        self.queued_bytes += payload.len();
        self.queue.push_back(Message::Tdispatch { tag, payload });
        Ok((answer, self.calls, tag))
    }

    // Whether there was something to discard.
    fn discard(&mut self, call: u64, tag: u32) -> bool {
        match self.pending.get_mut(&tag) {
            Some(pending) if pending.call == call => pending.answer = None,
            _ => return false,
        }
        self.queue.push_back(Message::Tdiscarded { which: tag, reason: Bytes::from_static(b"nobody waits for it") });
        true
    }

    fn answer(&mut self, tag: u32, answer: Result<Bytes, Unanswered>) {
        let Some(pending) = self.pending.remove(&tag) else { return };
        self.free.push(Reverse(tag));
        if let Some(waiting) = pending.answer {
            // Whoever waited may just have stopped to.
            let _ = waiting.send(answer);
        }
    }

    fn end(&mut self, reason: &Unanswered) {
        self.end.get_or_insert_with(|| reason.clone());
        self.queue.clear();
        for pending in mem::take(&mut self.pending).into_values() {
            if let Some(waiting) = pending.answer {
                let _ = waiting.send(Err(reason.clone()));
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite> Connection<I> {
    /// Drives the connection until it ends or nobody has a [`Handle`] to it. Requests that have no answer then fail.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let reason = match self.drive().await {
            Ok(reason) => reason,
            Err(error) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                Unanswered::Closed(format!("{error}{}", source.unwrap_or_default()).into())
            }
        };
        shared.state().end(&reason);
    }

    async fn drive(&mut self) -> Result<Unanswered, Broken> {
        let mut pulse = Pulse::new(self.heartbeat, Instant::now());
        let mut lease: Option<Instant> = None;
        let timer = sleep_until(Instant::now());
        pin!(timer);
        loop {
            if self.dequeue() {
                // Nobody has a handle, so nothing is pending but what was discarded.
                self.say_goodbye().await?;
                return Ok(Unanswered::Leaving);
            }
            let due = pulse.due().into_iter().chain(lease).min();
            if let Some(due) = due
                && timer.deadline() != due
            {
                timer.as_mut().reset(due);
            }
            let has_room = !self.output.is_full();
            select! {
                message = self.input.next(), if has_room => {
                    pulse.alive(Instant::now());
                    match message? {
                        None => return Ok(Unanswered::Closed("namerd closed the connection".into())),
                        Some(Message::Tdrain { tag }) => {
                            // Those who wait ask elsewhere at once, however long the goodbye takes.
                            self.shared.state().end(&Unanswered::Leaving);
                            self.output.push(&Message::Rdrain { tag });
                            self.say_goodbye().await?;
                            return Ok(Unanswered::Leaving);
                        }
                        Some(Message::Tlease { millis }) => {
                            lease = Instant::now().checked_add(Duration::from_millis(millis));
                        }
                        Some(Message::Rerr { tag: CONTROL_TAG, .. }) => pulse.refused(),
                        Some(message) => self.take(message),
                    }
                }
                is_more = self.output.write_some(), if !self.output.is_done() => {
                    if is_more? {
                        pulse.alive(Instant::now());
                    }
                }
                () = self.shared.todo.notified() => {}
                () = &mut timer, if due.is_some() => {
                    let now = Instant::now();
                    if lease.is_some_and(|end| end <= now) {
                        return Ok(Unanswered::Leaving);
                    }
                    if pulse.due().is_some_and(|due| due <= now) {
                        match pulse.beat(now) {
                            Beat::Ping => self.output.push(&Message::Tping { tag: CONTROL_TAG }),
                            Beat::Dead => return Err(Broken::Dead(pulse.timeout())),
                        }
                    }
                }
            }
        }
    }

    // Whether the connection is no longer wanted.
    fn dequeue(&mut self) -> bool {
        let mut state = self.shared.state();
        while !self.output.is_full()
            && let Some(message) = state.queue.pop_front()
        {
            if let Message::Tdispatch { payload, .. } = &message {
                state.queued_bytes -= payload.len();
            }
            self.output.push(&message);
        }
        state.queue.is_empty() && state.end.is_some()
    }

    async fn say_goodbye(&mut self) -> Result<(), Broken> {
        // Bounded, for a server that does not read any more.
        tokio::time::timeout(self.heartbeat.timeout, self.output.finish()).await.unwrap_or(Ok(()))
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Rdispatch { tag, status, payload } => {
                let answer = match status {
                    Status::Ok => Ok(payload),
                    Status::Nack => Err(Unanswered::Nacked),
                    Status::Error => Err(Unanswered::Failed(String::from_utf8_lossy(&payload).into_owned())),
                };
                self.shared.state().answer(tag, answer);
            }
            Message::Rdiscarded { tag } => self.shared.state().answer(tag, Err(Unanswered::Nacked)),
            Message::Rerr { tag, text, .. } => {
                let text = String::from_utf8_lossy(&text).into_owned();
                self.shared.state().answer(tag, Err(Unanswered::Failed(text)));
            }
            Message::Tping { tag } => self.output.push(&Message::Rping { tag }),
            Message::Tdispatch { tag, .. } => self.output.push(&Message::unexpected(super::frame::kind::DISPATCH, tag)),
            Message::Unknown { kind, tag } if kind > 0 => self.output.push(&Message::unexpected(kind, tag)),
            _ => {}
        }
    }
}
