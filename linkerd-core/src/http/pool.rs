//! The connections of one endpoint: idle ones last in, first out; those that stay idle [rest](super::resting).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    ClientConfig,
    case::Spellings,
    io::Traffic,
    resting::{Line, Resting},
};
use crate::{
    body::Payload,
    telemetry::{ClientStats, PoolStats},
};

/// The connections of one endpoint.
///
/// At most [`max_size`](super::PoolConfig::max_size) are open at a time; a request beyond that waits in line, one beyond
/// [`max_waiters`](super::PoolConfig::max_waiters) is refused. Dropping the pool closes the idle ones.
pub(crate) struct Pool {
    config: Arc<ClientConfig>,
    state: Mutex<State>,
    stats: Option<Arc<ClientStats>>,
    // Fewer are open than are to be kept.
    missing: Notify,
}

#[derive(Default)]
struct State {
    /// The latest at the end.
    idle: Vec<Idle>,
    /// Idle, in use, or being made.
    open: usize,
    waiters: VecDeque<oneshot::Sender<Grant>>,
    is_swept: bool,
    is_put_to_rest: bool,
}

struct Idle {
    conn: Kept,
    // Told only if the pool closes what is idle for too long: a look at the clock costs as much as the rest.
    since: Option<Instant>,
}

enum Kept {
    Awake {
        conn: Box<Conn>,
        /// What was read on it before it was last looked at; `None` if that was before it was idle.
        read: Option<u64>,
    },
    Resting(Resting),
}

/// A connection rests when it was idle for so long; twice as long at most.
const REST_AFTER: Duration = Duration::from_secs(1);

/// A connection to the endpoint, as hyper's task serves it.
pub(crate) struct Conn {
    pub(crate) sender: SendRequest<Payload>,
    pub(super) line: Line,
    pub(crate) traffic: Arc<Traffic>,
    /// If the case of names is kept.
    pub(crate) spellings: Option<Arc<Spellings>>,
    pub(crate) born: Instant,
    pub(crate) is_reused: bool,
    pub(crate) is_reusable: bool,
}

/// A place among the pool's connections. Dropping it gives it to the first in line.
pub(crate) struct Place {
    pool: Arc<Pool>,
    is_held: bool,
}

/// A connection in use. Dropping it closes it.
pub(crate) struct Live {
    // In a box, which lives as long as the connection: this rides on bodies.
    pub(crate) conn: Box<Conn>,
    place: Place,
}

/// What a request gets from the pool.
pub(crate) enum Grant {
    /// A connection that has served before.
    Live(Live),
    /// One that has, and rests.
    Resting(Resting, Place),
    /// The place for a new one.
    Place(Place),
}

/// What a request gets from the pool, and when.
pub(crate) enum Checkout {
    /// At once.
    Now(Grant),
    /// As soon as it is the first in line.
    Later(Turn),
}

/// A place in line.
pub(crate) struct Turn {
    grant: oneshot::Receiver<Grant>,
    stats: Option<Arc<ClientStats>>,
}

/// As many are waiting for a connection as may.
#[derive(Debug)]
pub(crate) struct TooManyWaiters;

impl Pool {
    pub(crate) fn new(config: Arc<ClientConfig>, stats: Option<Arc<ClientStats>>) -> Arc<Self> {
        Arc::new(Self { config, state: Mutex::default(), stats, missing: Notify::new() })
    }

    fn stats(&self) -> Option<&PoolStats> {
        self.stats.as_deref().map(|stats| &stats.pool)
    }

    fn uncached(&self, idle: usize) {
        if let Some(stats) = self.stats()
            && idle != 0
        {
            stats.cached.add(-i64::try_from(idle).unwrap_or(i64::MAX));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest idle connection that its peer has not closed, or else a place for a new one, or a place in line.
    pub(crate) fn checkout(self: &Arc<Self>) -> Result<Checkout, TooManyWaiters> {
        let mut dead = Vec::new(); // Closed after the lock is given back.
        let mut state = self.state();
        while let Some(Idle { conn, .. }) = state.idle.pop() {
            self.uncached(1);
            match conn {
                Kept::Awake { conn, .. } if conn.sender.is_ready() && !self.is_too_old(conn.born) => {
                    return Ok(Checkout::Now(Grant::Live(Live { conn, place: self.place() })));
                }
                Kept::Resting(conn) if !conn.is_closed() && !self.is_too_old(conn.born) => {
                    return Ok(Checkout::Now(Grant::Resting(conn, self.place())));
                }
                conn => dead.push(conn),
            }
            self.closed(&mut state, 1);
        }
        self.place_or_turn(state)
    }

    /// A place for a new connection, or a place in line: for who has just lost one that was idle, and may lose the next.
    pub(crate) fn checkout_new(self: &Arc<Self>) -> Result<Checkout, TooManyWaiters> {
        let mut dead = None; // Closed after the lock is given back.
        let mut state = self.state();
        if state.open >= self.config.pool.max_size && !state.idle.is_empty() {
            // The oldest makes room.
            dead = Some(state.idle.remove(0));
            state.open -= 1;
            self.uncached(1);
        }
        let checkout = self.place_or_turn(state);
        drop(dead);
        checkout
    }

    fn place_or_turn(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Result<Checkout, TooManyWaiters> {
        if state.open < self.config.pool.max_size {
            state.open += 1;
            return Ok(Checkout::Now(Grant::Place(self.place())));
        }
        if state.waiters.len() >= self.config.pool.max_waiters {
            // Those who gave up are only found here.
            state.waiters.retain(|waiter| !waiter.is_closed());
        }
        if state.waiters.len() >= self.config.pool.max_waiters {
            if let Some(stats) = self.stats() {
                stats.num_too_many_waiters.incr();
            }
            return Err(TooManyWaiters);
        }
        let (give, grant) = oneshot::channel();
        state.waiters.push_back(give);
        if let Some(stats) = self.stats() {
            stats.num_waited.incr();
            stats.waiters.incr();
        }
        Ok(Checkout::Later(Turn { grant, stats: self.stats.clone() }))
    }

    fn place(self: &Arc<Self>) -> Place {
        if let Some(stats) = self.stats() {
            stats.size.incr();
        }
        Place { pool: Arc::clone(self), is_held: true }
    }

    /// So many connections are no more.
    fn closed(&self, state: &mut State, connections: usize) {
        state.open -= connections;
        if state.open < self.kept() {
            self.missing.notify_one();
        }
    }

    /// How many are kept.
    fn kept(&self) -> usize {
        self.config.pool.min_size.min(self.config.pool.max_size)
    }

    pub(super) fn keeps_some(&self) -> bool {
        self.kept() > 0
    }

    /// Waits until fewer are open than are to be kept.
    pub(super) async fn missing(&self) {
        while self.state().open >= self.kept() {
            self.missing.notified().await;
        }
    }

    /// A place for one that is to be kept, if one is missing.
    pub(super) fn place_to_keep(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.state();
        if state.open >= self.kept() {
            return None;
        }
        state.open += 1;
        Some(self.place())
    }

    fn is_too_old(&self, born: Instant) -> bool {
        self.config.pool.max_age.is_some_and(|max| born.elapsed() >= max)
    }

    /// The first in line who still waits gets it; else it comes back.
    fn hand_over(&self, mut grant: Grant) -> Option<Grant> {
        loop {
            let Some(waiter) = self.state().waiters.pop_front() else { return Some(grant) };
            match waiter.send(grant) {
                Ok(()) => return None,
                Err(back) => grant = back,
            }
        }
    }

    /// Forgets the idle connections that have closed.
    pub(crate) fn reap(&self) {
        let mut state = self.state();
        let before = state.idle.len();
        state.idle.retain(|idle| !idle.conn.is_closed());
        let closed = before - state.idle.len();
        self.closed(&mut state, closed);
        self.uncached(closed);
    }

    /// Has those rest that were idle when this was last called. Whether there are others, for the next time.
    fn put_to_rest(self: &Arc<Self>) -> bool {
        let mut put = Vec::new(); // hyper is told after the lock is given back.
        let mut state = self.state();
        let mut are_others = false;
        for idle in &mut state.idle {
            let Kept::Awake { conn, read } = &mut idle.conn else { continue };
            if let Some(read) = *read
                && read == conn.traffic.read()
                && let Some(resting) = self.rest(conn)
            {
                if read != conn.traffic.read() {
                    resting.close();
                }
                put.push(std::mem::replace(&mut idle.conn, Kept::Resting(resting)));
                continue;
            }
            *read = Some(conn.traffic.read());
            are_others = true;
        }
        state.is_put_to_rest = are_others;
        drop(state);
        are_others
    }

    fn rest(self: &Arc<Self>, conn: &Conn) -> Option<Resting> {
        if !conn.sender.is_ready() {
            return None;
        }
        let pool = Arc::downgrade(self);
        Resting::begin(&conn.line, &conn.traffic, conn.born, move || {
            if let Some(pool) = pool.upgrade() {
                pool.reap();
            }
        })
    }

    /// Sends everybody who waits in line away, as if too many waited: the endpoint has left its set, and another one may
    /// serve them. Connections in use go on.
    pub(crate) fn dismiss(&self) {
        let waiters = std::mem::take(&mut self.state().waiters);
        drop(waiters);
    }

    /// Closes what has been idle for too long; returns when to look again, or `None` if nothing is idle.
    fn sweep(&self, idle_time: Duration) -> Option<Instant> {
        let mut state = self.state();
        let now = Instant::now();
        let spare = state.open.saturating_sub(self.config.pool.min_size);
        let ends = |idle: &Idle| idle.since.unwrap_or(now) + idle_time;
        let expired = state.idle.iter().take_while(|idle| now >= ends(idle)).count().min(spare);
        let closed: Vec<_> = state.idle.drain(..expired).collect();
        state.open -= closed.len();
        self.uncached(closed.len());
        let next = state.idle.first().map(|idle| ends(idle).max(now + Duration::from_millis(1)));
        // What is kept for `min_size` expires no earlier than it is given back again.
        let next = next.filter(|_| state.open > self.config.pool.min_size);
        state.is_swept = next.is_some();
        drop(state);
        next
    }
}

impl Kept {
    fn is_closed(&self) -> bool {
        match self {
            Self::Awake { conn, .. } => conn.sender.is_closed(),
            Self::Resting(conn) => conn.is_closed(),
        }
    }
}

impl Turn {
    /// Waits for it. `None`: the endpoint has left its set.
    pub(crate) async fn take(mut self) -> Option<Grant> {
        (&mut self.grant).await.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(stats) = &self.stats {
            stats.pool.waiters.decr();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let idle = state.idle.len();
        self.uncached(idle);
    }
}

impl Place {
    /// Puts a connection in its place.
    pub(crate) fn fill(self, conn: Conn) -> Live {
        Live { conn: Box::new(conn), place: self }
    }

    /// Lets go of it without giving it to anybody.
    fn leave(mut self) -> Arc<Pool> {
        self.is_held = false;
        Arc::clone(&self.pool)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(stats) = self.pool.stats() {
            stats.size.decr();
        }
        if self.is_held
            && let Some(Grant::Place(place)) = self.pool.hand_over(Grant::Place(self.pool.place()))
        {
            let pool = place.leave();
            pool.closed(&mut pool.state(), 1);
        }
    }
}

impl Live {
    pub(crate) fn stats(&self) -> Option<&ClientStats> {
        self.place.pool.stats.as_deref()
    }

    /// Gives the connection back once its response is read whole. One that can serve no other request is closed.
    pub(crate) fn give_back(mut self) {
        if !self.conn.is_reusable || self.conn.sender.is_closed() {
            return;
        }
        if self.conn.sender.is_ready() {
            return self.park();
        }
        // The request's body is still on its way, or hyper's task has not run since the response's end.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if self.conn.sender.ready().await.is_ok() {
                self.park();
            }
        });
    }

    fn park(mut self) {
        self.conn.is_reused = true;
        let pool = Arc::clone(&self.place.pool);
        let Some(Grant::Live(Self { conn, place })) = pool.hand_over(Grant::Live(self)) else { return };
        // The place goes with the connection.
        place.leave();
        if let Some(stats) = pool.stats() {
            stats.cached.incr();
        }
        let since = pool.config.pool.idle_time.map(|_| Instant::now());
        let mut state = pool.state();
        if state.idle.is_empty() {
            // Not four at once: most have one.
            state.idle.reserve_exact(1);
        }
        state.idle.push(Idle { conn: Kept::Awake { conn, read: None }, since });
        if !state.is_put_to_rest
            && let Ok(runtime) = Handle::try_current()
        {
            state.is_put_to_rest = true;
            runtime.spawn(rests(Arc::downgrade(&pool)));
        }
        if let Some(idle_time) = pool.config.pool.idle_time
            && !state.is_swept
            && let Ok(runtime) = Handle::try_current()
        {
            state.is_swept = true;
            runtime.spawn(sweeper(Arc::downgrade(&pool), idle_time));
        }
    }
}

/// For as long as there is one that may yet have to rest.
async fn rests(pool: Weak<Pool>) {
    let mut goes_on = true;
    while goes_on {
        tokio::time::sleep(REST_AFTER).await;
        goes_on = pool.upgrade().is_some_and(|pool| pool.put_to_rest());
    }
}

async fn sweeper(pool: Weak<Pool>, idle_time: Duration) {
    let mut next = Instant::now() + idle_time;
    loop {
        tokio::time::sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        match pool.sweep(idle_time) {
            Some(then) => next = then,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{Body, http::client::Client, svc::Call};

    /// A client of one endpoint, and where the endpoint accepts.
    async fn client() -> (Arc<Client>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (Arc::new(Client::new(listener.local_addr().unwrap(), Arc::default(), None)), listener)
    }

    /// One exchange, on this connection or a new one. It is returned.
    async fn exchange(client: &Arc<Client>, listener: &TcpListener, on: Option<TcpStream>) -> TcpStream {
        let req = Request::post("/").header("host", "web").body(Body::from("body")).unwrap();
        let answer = async {
            let mut stream = match on {
                Some(stream) => stream,
                None => listener.accept().await.unwrap().0,
            };
            let mut asked = Vec::new();
            while !asked.ends_with(b"body") {
                assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            stream
        };
        let (rsp, stream) = tokio::join!(Arc::clone(client).call(req), answer);
        assert_eq!(rsp.unwrap().status(), 200);
        stream
    }

    /// Waits until one rests, or none is left.
    async fn rested(pool: &Pool) {
        tokio::time::pause();
        for _ in 0..100 {
            tokio::time::advance(REST_AFTER).await;
            // What else has to be done is done.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let state = pool.state();
            if !state.idle.is_empty()
                && state.idle.iter().all(|idle| matches!(idle.conn, Kept::Resting(_)))
                && !state.is_put_to_rest
            {
                break;
            }
        }
        tokio::time::resume();
    }

    #[tokio::test]
    async fn an_idle_connection_rests_and_is_used_again() {
        let (client, listener) = client().await;
        let mut stream = exchange(&client, &listener, None).await;
        for _ in 0..3 {
            rested(&client.pool).await;
            {
                let state = client.pool.state();
                assert!(matches!(state.idle[..], [Idle { conn: Kept::Resting(_), .. }]) && state.open == 1);
            }
            stream = exchange(&client, &listener, Some(stream)).await;
            stream = exchange(&client, &listener, Some(stream)).await;
        }
    }

    #[tokio::test]
    async fn one_that_is_closed_while_it_rests_is_no_longer_there() {
        let (client, listener) = client().await;
        for _ in 0..3 {
            let stream = exchange(&client, &listener, None).await;
            rested(&client.pool).await;
            drop(stream);
            // Nobody asks for it meanwhile.
            for _ in 0..1000 {
                if client.pool.state().open == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(client.pool.state().idle.is_empty());
        }
    }

    #[tokio::test]
    async fn one_that_is_used_does_not_rest() {
        let (client, listener) = client().await;
        // By nobody else.
        client.pool.state().is_put_to_rest = true;
        let mut stream = exchange(&client, &listener, None).await;
        for _ in 0..5 {
            client.pool.put_to_rest();
            stream = exchange(&client, &listener, Some(stream)).await;
            assert!(client.pool.put_to_rest());
            assert!(matches!(client.pool.state().idle[..], [Idle { conn: Kept::Awake { .. }, .. }]));
        }
    }
}
