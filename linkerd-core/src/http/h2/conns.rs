//! The connections of one endpoint: each carries many streams, and a further one is opened before they are full.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use linkerd_dtab::Failure;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    task::AbortHandle,
    time::Instant,
};

use super::H2Config;
use crate::{
    BoxError, Error, ErrorKind, Timer,
    error::SharedFailure,
    http::{
        ClientConfig,
        dial::{self, ConnectElapsed, Open, Speak, open},
        io::{Counted, Traffic},
    },
    telemetry::ClientStats,
};

mod drive;

#[cfg(feature = "config")]
pub(crate) use drive::PING_AFTER;
pub(crate) use drive::SILENCE;

/// So many connections may turn out to be closed, one after the other, before a request is given back.
pub(super) const MAX_CLOSED: usize = 4;

/// The connections of one endpoint.
///
/// The first request opens one. While one is being opened, or has not said yet how many streams its peer allows, no other
/// one is; requests that find no stream wait in line.
pub(super) struct Conns {
    addr: SocketAddr,
    config: Arc<ClientConfig>,
    h2: H2Config,
    stats: Option<Arc<ClientStats>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    conns: Vec<Conn>,
    is_opening: bool,
    waiters: VecDeque<oneshot::Sender<Result<(), Arc<Unopened>>>>,
}

pub(super) struct Conn {
    sender: SendRequest<Bytes>,
    status: Arc<Status>,
}

/// What is known of a connection, for those who choose one and for the task that drives it.
#[derive(Debug)]
pub(super) struct Status {
    streams: AtomicUsize,
    /// How many there may be.
    limit: AtomicUsize,
    /// Whether its peer has said so.
    is_settled: AtomicBool,
    /// It takes no further streams.
    is_over: AtomicBool,
    /// It was given up, because its peer showed no sign of life.
    is_silent: AtomicBool,
    /// How many requests wait for the head of their response.
    awaiting: AtomicUsize,
    /// How many heads of responses came.
    heads: AtomicU64,
    dies: Option<Instant>,
    traffic: Arc<Traffic>,
}

/// A stream that may be opened, or is. Dropping it makes room for another one.
pub(crate) struct Slot {
    status: Arc<Status>,
    conns: Arc<Conns>,
    // Sends what is left of the request.
    pipe: Option<AbortHandle>,
}

/// A request that waits for the head of its response.
pub(super) struct Awaiting<'a>(&'a Status);

/// A place in line.
struct Turn {
    turn: oneshot::Receiver<Result<(), Arc<Unopened>>>,
    conns: Arc<Conns>,
}

/// Why a connection could not be opened, for all who wait for it.
#[derive(Clone, Debug)]
struct Unopened {
    why: Failure,
    timeout: Option<Duration>,
}

/// A stream, or a wait for one.
enum Found {
    Stream(SendRequest<Bytes>, Slot),
    Wait(Turn),
}

// Relaxed in all that follows: counts and hints; what they are about has locks of its own.
impl Status {
    fn new(max_age: Option<Duration>, traffic: Arc<Traffic>) -> Self {
        Self {
            streams: AtomicUsize::new(0),
            // Until the peer says how many it takes, one.
            limit: AtomicUsize::new(1),
            is_settled: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            awaiting: AtomicUsize::new(0),
            heads: AtomicU64::new(0),
            dies: max_age.map(|age| Instant::now() + jittered(age)),
            traffic,
        }
    }

    fn is_usable(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed) && self.dies.is_none_or(|dies| Instant::now() < dies)
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Whether four fifths of its streams are taken, or nobody knows yet.
    fn is_nearly_full(&self) -> bool {
        self.streams().saturating_mul(5) >= self.limit().saturating_mul(4)
    }

    fn awaiting(&self) -> usize {
        self.awaiting.load(Ordering::Relaxed)
    }

    fn heads(&self) -> u64 {
        self.heads.load(Ordering::Relaxed)
    }

    /// No further request goes out on it.
    pub(super) fn close(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Up to a tenth less, so that those that were opened together do not end together.
fn jittered(age: Duration) -> Duration {
    let part = crate::random::next() as f64 / u64::MAX as f64;
    age.mul_f64(1.0 - part / 10.0)
}

impl Conns {
    pub(super) fn new(
        addr: SocketAddr,
        config: Arc<ClientConfig>,
        h2: H2Config,
        stats: Option<Arc<ClientStats>>,
    ) -> Arc<Self> {
        Arc::new(Self { addr, config, h2, stats, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream on a connection, which may be a new one.
    pub(super) async fn stream(self: &Arc<Self>) -> Result<(SendRequest<Bytes>, Slot), Error> {
        let mut closed = 0;
        loop {
            match self.find()? {
                Found::Stream(sender, slot) => return Ok((sender, slot)),
                Found::Wait(mut turn) => match (&mut turn.turn).await {
                    // An endpoint may close each connection as soon as it is open: nobody tries for ever.
                    Ok(Ok(())) if self.has_none() => {
                        closed += 1;
                        if closed == MAX_CLOSED {
                            return Err(Error::new(ErrorKind::Closed).with_never_sent(true));
                        }
                    }
                    Ok(Ok(())) => {}
                    Ok(Err(unopened)) => return Err(unopened.error()),
                    // The endpoint has left its set.
                    Err(_) => return Err(Error::new(ErrorKind::Overloaded)),
                },
            }
        }
    }

    /// Whether there is no connection that takes streams, now or later.
    fn has_none(&self) -> bool {
        !self.state().conns.iter().any(|conn| conn.status.is_usable())
    }

    fn find(self: &Arc<Self>) -> Result<Found, Error> {
        let mut dead = Vec::new(); // Closed after the lock is given back.
        let mut state = self.state();
        if state.conns.iter().any(|conn| !conn.status.is_usable()) {
            dead.extend(state.conns.extract_if(.., |conn| !conn.status.is_usable()));
        }
        self.open_ahead(&mut state);
        let free = state.conns.iter().filter(|conn| conn.status.streams() < conn.status.limit());
        if let Some(conn) = free.min_by_key(|conn| conn.status.streams()) {
            conn.status.streams.fetch_add(1, Ordering::Relaxed);
            let slot = Slot { status: Arc::clone(&conn.status), conns: Arc::clone(self), pipe: None };
            return Ok(Found::Stream(conn.sender.clone(), slot));
        }
        let max_waiters = self.config.pool.max_waiters;
        if state.waiters.len() >= max_waiters {
            // Those who gave up are only found here.
            state.waiters.retain(|waiter| !waiter.is_closed());
        }
        if state.waiters.len() >= max_waiters {
            if let Some(stats) = &self.stats {
                stats.pool.num_too_many_waiters.incr();
            }
            return Err(Error::new(ErrorKind::Overloaded));
        }
        let (give, turn) = oneshot::channel();
        state.waiters.push_back(give);
        Ok(Found::Wait(Turn { turn, conns: Arc::clone(self) }))
    }

    /// Opens a connection if those that there are fill up.
    fn open_ahead(self: &Arc<Self>, state: &mut State) {
        let knows_all = state.conns.iter().all(|conn| conn.status.is_settled.load(Ordering::Relaxed));
        let is_wanted = state.conns.iter().all(|conn| conn.status.is_nearly_full());
        if state.is_opening || !knows_all || !is_wanted || state.conns.len() >= self.h2.max_connections.max(1) {
            return;
        }
        state.is_opening = true;
        let conns = Arc::clone(self);
        tokio::spawn(async move {
            let opened = conns.open().await;
            let mut state = conns.state();
            state.is_opening = false;
            match opened {
                Ok(conn) => {
                    state.conns.push(conn);
                    state.wake_all(&Ok(()));
                }
                Err(unopened) => state.is_unopened(unopened),
            }
        });
    }

    /// Who waited for a connection that has ended looks again, but if it was refused: that is as if it had not been opened.
    fn ended(&self, status: &Status) {
        let refused = self.refused(status);
        let mut state = self.state();
        match refused {
            Some(why) => state.is_unopened(Unopened { why: why.into(), timeout: None }),
            None => state.wake_all(&Ok(())),
        }
    }

    fn refused(&self, status: &Status) -> Option<BoxError> {
        dial::refused(self.addr, &status.traffic, self.stats.as_deref())
    }

    async fn open(self: &Arc<Self>) -> Result<Conn, Unopened> {
        open(self, self.addr, &self.config, self.stats.as_deref()).await.map_err(|error| {
            let timeout = error.is::<ConnectElapsed>().then_some(self.config.connect_timeout);
            Unopened { why: error.into(), timeout }
        })
    }

    #[cfg(feature = "tls")]
    pub(super) fn forwards_client_cert(&self) -> bool {
        self.config.forward_client_cert
    }

    /// How long a connection may have no streams before it is closed.
    fn idle_time(&self) -> Option<Duration> {
        self.config.pool.idle_time
    }

    /// Sends everybody who waits in line away: the endpoint has left its set, and another one may serve them.
    pub(super) fn dismiss(&self) {
        let waiters = std::mem::take(&mut self.state().waiters);
        drop(waiters);
    }

    /// The first in line looks again.
    fn wake_one(&self) {
        let mut state = self.state();
        while let Some(waiter) = state.waiters.pop_front() {
            if waiter.send(Ok(())).is_ok() {
                break;
            }
        }
    }

    fn wake_all(&self) {
        self.state().wake_all(&Ok(()));
    }

    /// Lets go of the connections that take no further streams: they end with their last one.
    fn reap(&self) {
        let dead: Vec<_> = self.state().conns.extract_if(.., |conn| !conn.status.is_usable()).collect();
        drop(dead);
    }
}

impl Speak for Arc<Conns> {
    type Conn = Conn;

    async fn begin<I>(&self, stream: I) -> Result<Conn, BoxError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (stream, traffic) = Counted::of(stream, &self.config.socket, self.stats.as_deref());
        let (sender, conn): (_, Connection<_, Bytes>) = self.h2.client().handshake(stream).await?;
        let status = Arc::new(Status::new(self.config.pool.max_age, traffic));
        let open = self.stats.clone().map(|stats| Open::new(stats, Instant::now()));
        let driver = drive::Driver::new(conn, Arc::clone(&status), Arc::downgrade(self), self.h2.keep_alive);
        tokio::spawn(async move {
            driver.await;
            drop(open);
        });
        Ok(Conn { sender, status })
    }
}

impl State {
    /// Who can wait for a stream that ends goes on to.
    fn is_unopened(&mut self, why: Unopened) {
        if !self.conns.iter().any(|conn| conn.status.is_usable()) {
            self.wake_all(&Err(Arc::new(why)));
        }
    }

    fn wake_all(&mut self, said: &Result<(), Arc<Unopened>>) {
        for waiter in self.waiters.drain(..) {
            // Those who gave up do not hear it.
            let _ = waiter.send(said.clone());
        }
    }
}

impl H2Config {
    fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(1)
            .initial_window_size(self.initial_stream_window_bytes)
            .initial_connection_window_size(self.connection_window(self.max_concurrent_streams))
            .header_table_size(self.header_table_bytes)
            .max_frame_size(self.max_frame_bytes)
            .max_header_list_size(self.max_header_list_bytes);
        builder
    }
}

impl Slot {
    /// The connection cannot be used.
    pub(super) fn close(&self) {
        self.status.close();
    }

    /// Why nothing that was sent was looked at, if the peer refused the connection.
    pub(super) fn refused(&self) -> Option<Error> {
        let why = self.conns.refused(&self.status)?;
        Some(Error::new(ErrorKind::Connect).with_source(why))
    }

    /// Why there is no response, if it is for a refusal or a silence of the peer.
    pub(super) fn explain(&self, error: Error) -> Error {
        if let Some(refused) = self.refused() {
            return refused;
        }
        // Acquire: it is said before the stream breaks, and asked after that.
        if !self.status.is_silent.load(Ordering::Acquire) {
            return error;
        }
        let text = format!("no sign of life from {} for {SILENCE:?}, and no answer to a ping", self.conns.addr);
        error.with_timer(Timer::Silence.after(SILENCE)).with_text(text)
    }

    /// Stops sending the request when this ends before the response does.
    pub(super) fn sends_by(&mut self, pipe: AbortHandle) {
        self.pipe = Some(pipe);
    }

    pub(super) fn await_head(&self) -> Awaiting<'_> {
        self.status.awaiting.fetch_add(1, Ordering::Relaxed);
        Awaiting(&self.status)
    }

    /// The response is whole. What is left of the request may still be wanted.
    pub(crate) fn complete(mut self) {
        self.pipe = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.abort();
        }
        self.status.streams.fetch_sub(1, Ordering::Relaxed);
        self.conns.wake_one();
    }
}

impl Awaiting<'_> {
    /// It came.
    pub(super) fn came(self) {
        self.0.heads.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.awaiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // It was this one's turn, and it is gone.
        if let Ok(Ok(())) = self.turn.try_recv() {
            self.conns.wake_one();
        }
    }
}

impl Unopened {
    fn error(&self) -> Error {
        let error = Error::new(ErrorKind::Connect).with_source(SharedFailure(Arc::clone(&self.why)));
        match self.timeout {
            Some(timeout) => error.with_timer(Timer::Connect.after(timeout)),
            None => error,
        }
    }
}

/// What a connection's task knows of those who use it.
type Users = Weak<Conns>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_age_do_not_end_together() {
        let age = Duration::from_mins(10);
        let ages: Vec<_> = (0..200).map(|_| jittered(age)).collect();
        assert!(ages.iter().all(|jittered| *jittered <= age && *jittered >= age.mul_f64(0.9)), "{ages:?}");
        let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        assert!(most.saturating_sub(*least) > age / 20, "{least:?} to {most:?}");
    }
}
