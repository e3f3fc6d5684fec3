//! One session with ZooKeeper, which lasts as long as its connection.
//!
//! There is nothing that a new session does not have after everything was read again, so that no session is taken up on
//! another connection: what the server keeps of it ends by itself.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    select,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Auth,
    wire::{AUTH, AUTH_XID, Fields, Frame, NOTICE_XID, PING, PING_XID, take_frame},
};
use crate::{
    Failure,
    store::follow::{failure, timed_out},
    transport::Io,
};

/// Requests that wait for the connection. More wait for their turn.
const MAX_QUEUED: usize = 64;
/// Requests that wait for their answers. The next is sent when one came.
const MAX_IN_FLIGHT: usize = 256;

/// A session. It ends when the last handle is dropped, or the connection is lost.
pub(super) struct Session {
    calls: mpsc::Sender<Call>,
    shared: Arc<Shared>,
    notices: watch::Receiver<u64>,
}

struct Shared {
    /// Nodes whose data was read and not changed since: the server tells once when one is.
    unchanged: Mutex<HashMap<String, (Bytes, i32)>>,
    /// Up to which transaction the last answer knew; zero before the first.
    position: AtomicU64,
    /// Why it ended.
    ended: Mutex<Option<Failure>>,
}

/// A request and who asked.
struct Call {
    frame: Frame,
    answer: Answer,
    /// The node whose data is to be kept until the server tells that it changed.
    keeps: Option<String>,
}

type Answer = oneshot::Sender<Result<Fields, CallError>>;

/// A request that was sent.
struct Asked {
    xid: i32,
    answer: Answer,
    keeps: Option<String>,
}

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(super) enum CallError {
    /// The server says so, by this number.
    Refused(i32),
    /// It was not answered.
    Lost(Failure),
}

struct Connection {
    io: Box<dyn Io>,
    read: BytesMut,
    shared: Arc<Shared>,
    notices: watch::Sender<u64>,
    in_flight: VecDeque<Asked>,
    next_xid: i32,
    last_heard: Instant,
    timeout: Duration,
}

impl Session {
    /// Begins a session on a connection. Whoever calls bounds the time.
    pub(super) async fn begin(io: Box<dyn Io>, wanted: Duration, auth: Option<&Auth>) -> Result<Self, Failure> {
        let shared =
            Arc::new(Shared { unchanged: Mutex::default(), position: AtomicU64::new(0), ended: Mutex::default() });
        let (notices, noticed) = watch::channel(0);
        let mut connection = Connection {
            io,
            read: BytesMut::new(),
            shared: Arc::clone(&shared),
            notices,
            in_flight: VecDeque::new(),
            next_xid: 1,
            last_heard: Instant::now(),
            timeout: wanted,
        };
        let wanted = i32::try_from(wanted.as_millis()).unwrap_or(i32::MAX);
        connection.write(Frame::greeting(wanted)).await?;
        let greeting = connection.frame().await?.greeting()?;
        let agreed = u64::try_from(greeting.timeout).ok().filter(|timeout| *timeout > 0);
        connection.timeout = Duration::from_millis(agreed.ok_or_else(|| failure("ZooKeeper refused a session"))?);
        if let Some(Auth { scheme, auth }) = auth {
            connection.write(Frame::ask(AUTH).numbered(AUTH_XID).int(0).text(scheme).bytes(auth)).await?;
            let head = connection.frame().await?.head()?;
            if head.xid != AUTH_XID || head.error != 0 {
                return Err(failure(format!("ZooKeeper refused to authenticate by {scheme}: {}", head.error)));
            }
        }
        let (calls, called) = mpsc::channel(MAX_QUEUED);
        tokio::spawn(connection.serve(called));
        Ok(Self { calls, shared, notices: noticed })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.calls.is_closed()
    }

    /// Up to which transaction the last answer knew.
    pub(super) fn position(&self) -> Option<u64> {
        // Relaxed: whoever asks has been woken by that answer, or a later one.
        Some(self.shared.position.load(Ordering::Relaxed)).filter(|position| *position > 0)
    }

    /// How many notices came.
    pub(super) fn notices(&self) -> u64 {
        *self.notices.borrow()
    }

    /// Waits until more notices than this came.
    pub(super) async fn noticed(&self, more_than: u64) -> Result<(), Failure> {
        let mut notices = self.notices.clone();
        let more = notices.wait_for(|count| *count > more_than).await.map(|_| ());
        more.map_err(|_| self.why())
    }

    /// The data of a node that was read and did not change.
    pub(super) fn unchanged(&self, path: &str) -> Option<(Bytes, i32)> {
        self.shared.unchanged().get(path).cloned()
    }

    /// Asks. Whoever calls bounds the time.
    pub(super) async fn call(&self, frame: Frame) -> Result<Fields, CallError> {
        self.send(frame, None).await
    }

    /// Asks for the data of a node, and keeps what is answered until it changes.
    pub(super) async fn call_and_keep(&self, frame: Frame, path: &str) -> Result<Fields, CallError> {
        self.send(frame, Some(path.to_owned())).await
    }

    async fn send(&self, frame: Frame, keeps: Option<String>) -> Result<Fields, CallError> {
        let (answer, answered) = oneshot::channel();
        self.calls.send(Call { frame, answer, keeps }).await.map_err(|_| CallError::Lost(self.why()))?;
        answered.await.unwrap_or_else(|_| Err(CallError::Lost(self.why())))
    }

    fn why(&self) -> Failure {
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone().unwrap_or_else(|| failure("the session with ZooKeeper ended"))
    }
}

impl Connection {
    async fn serve(mut self, mut calls: mpsc::Receiver<Call>) {
        let ended = self.run(&mut calls).await;
        *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner) = ended.err();
        // Those who wait ask why when their ends are dropped: only now.
    }

    /// Until nobody asks any more.
    async fn run(&mut self, calls: &mut mpsc::Receiver<Call>) -> Result<(), Failure> {
        // As other clients do: a third of the time without a word, and then a third for the answer.
        let third = self.timeout / 3;
        let mut ping_at = Instant::now() + third;
        loop {
            while let Some(frame) = take_frame(&mut self.read)? {
                self.heard(frame)?;
            }
            let silent_at = self.last_heard + 2 * third;
            let is_room = self.in_flight.len() < MAX_IN_FLIGHT;
            select! {
                read = self.io.read_buf(&mut self.read) => {
                    if read.map_err(|error| Arc::new(error) as Failure)? == 0 {
                        return Err(failure("ZooKeeper closed the connection"));
                    }
                    self.last_heard = Instant::now();
                }
                call = calls.recv(), if is_room => {
                    let Some(Call { frame, answer, keeps }) = call else { return Ok(()) };
                    let xid = self.next_xid;
                    // Below zero they have other meanings.
                    self.next_xid = xid.checked_add(1).unwrap_or(1);
                    self.in_flight.push_back(Asked { xid, answer, keeps });
                    self.write(frame.numbered(xid)).await?;
                    ping_at = Instant::now() + third;
                }
                () = sleep_until(ping_at) => {
                    self.write(Frame::ask(PING).numbered(PING_XID)).await?;
                    ping_at = Instant::now() + third;
                }
                () = sleep_until(silent_at) => return Err(timed_out("answer a ping", 2 * third)),
            }
        }
    }

    fn heard(&mut self, mut frame: Fields) -> Result<(), Failure> {
        let head = frame.head()?;
        match head.xid {
            PING_XID => {}
            NOTICE_XID => {
                self.shared.unchanged().remove(&frame.notice()?);
                self.notices.send_modify(|count| *count += 1);
            }
            xid => {
                let next = self.in_flight.pop_front();
                let Some(asked) = next.filter(|asked| asked.xid == xid) else {
                    return Err(failure("ZooKeeper answered something that was not asked"));
                };
                if let (Some(path), 0) = (asked.keeps, head.error) {
                    // Here, where notices are heard too: whoever asked might come to it after the next one.
                    self.shared.unchanged().insert(path, frame.copy().data()?);
                }
                if let Ok(position) = u64::try_from(head.position) {
                    self.shared.position.store(position, Ordering::Relaxed);
                }
                let answer = if head.error == 0 { Ok(frame) } else { Err(CallError::Refused(head.error)) };
                // Whoever asked may have lost patience.
                _ = asked.answer.send(answer);
            }
        }
        Ok(())
    }

    /// The next frame, before there is anything else to do.
    async fn frame(&mut self) -> Result<Fields, Failure> {
        loop {
            if let Some(frame) = take_frame(&mut self.read)? {
                return Ok(frame);
            }
            if self.io.read_buf(&mut self.read).await.map_err(|error| Arc::new(error) as Failure)? == 0 {
                return Err(failure("ZooKeeper closed the connection"));
            }
        }
    }

    async fn write(&mut self, frame: Frame) -> Result<(), Failure> {
        let written = timeout(self.timeout, async {
            self.io.write_all(&frame.finish()).await?;
            self.io.flush().await
        });
        match written.await {
            Ok(written) => written.map_err(|error| Arc::new(error) as Failure),
            Err(_) => Err(timed_out("take a request", self.timeout)),
        }
    }
}

impl Shared {
    fn unchanged(&self) -> MutexGuard<'_, HashMap<String, (Bytes, i32)>> {
        self.unchanged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("has_ended", &self.has_ended()).finish_non_exhaustive()
    }
}
