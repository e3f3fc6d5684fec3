//! The connections of one endpoint: idle ones last in, first out.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::{PoolConfig, io::Traffic};
use crate::{
    Body,
    telemetry::{ClientStats, PoolStats},
};

/// The connections of one endpoint.
///
/// At most [`PoolConfig::max_size`] are open at a time; a request beyond that waits in line, one beyond
/// [`PoolConfig::max_waiters`] is refused. Dropping the pool closes the idle ones.
pub(crate) struct Pool {
    config: PoolConfig,
    state: Mutex<State>,
    stats: Option<Arc<ClientStats>>,
}

#[derive(Default)]
struct State {
    /// The latest at the end.
    idle: Vec<Idle>,
    /// Idle, in use, or being made.
    open: usize,
    waiters: VecDeque<oneshot::Sender<Pooled>>,
    is_swept: bool,
}

struct Idle {
    conn: Conn,
    // Told only if the pool closes what is idle for too long: a look at the clock costs as much as the rest.
    since: Option<Instant>,
}

/// A connection to the endpoint, as hyper's task serves it.
pub(crate) struct Conn {
    pub(crate) sender: SendRequest<Body>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) born: Instant,
    pub(crate) is_reused: bool,
    pub(crate) is_reusable: bool,
}

/// A place among the pool's connections, and the connection if it is made. Dropping it closes the connection and gives
/// the place to the first in line.
pub(crate) struct Pooled {
    pool: Arc<Pool>,
    pub(crate) conn: Option<Conn>,
    holds_place: bool,
}

/// What a request gets from the pool.
pub(crate) enum Checkout {
    /// A connection, or the place for one.
    Now(Pooled),
    /// The same as soon as it is the first in line.
    Later(Turn),
}

/// A place in line.
pub(crate) struct Turn {
    pooled: oneshot::Receiver<Pooled>,
    stats: Option<Arc<ClientStats>>,
}

/// As many are waiting for a connection as may.
#[derive(Debug)]
pub(crate) struct TooManyWaiters;

impl Pool {
    pub(crate) fn new(config: PoolConfig, stats: Option<Arc<ClientStats>>) -> Arc<Self> {
        Arc::new(Self { config, state: Mutex::default(), stats })
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
        while let Some(Idle { mut conn, .. }) = state.idle.pop() {
            self.uncached(1);
            if conn.sender.is_ready() && !self.is_too_old(&conn) {
                conn.is_reused = true;
                return Ok(Checkout::Now(self.pooled(Some(conn))));
            }
            state.open -= 1;
            dead.push(conn);
        }
        if state.open < self.config.max_size {
            state.open += 1;
            return Ok(Checkout::Now(self.pooled(None)));
        }
        if state.waiters.len() >= self.config.max_waiters {
            // Those who gave up are only found here.
            state.waiters.retain(|waiter| !waiter.is_closed());
        }
        if state.waiters.len() >= self.config.max_waiters {
            if let Some(stats) = self.stats() {
                stats.num_too_many_waiters.incr();
            }
            return Err(TooManyWaiters);
        }
        let (give, pooled) = oneshot::channel();
        state.waiters.push_back(give);
        if let Some(stats) = self.stats() {
            stats.num_waited.incr();
            stats.waiters.incr();
        }
        Ok(Checkout::Later(Turn { pooled, stats: self.stats.clone() }))
    }

    fn pooled(self: &Arc<Self>, conn: Option<Conn>) -> Pooled {
        if let Some(stats) = self.stats() {
            stats.size.incr();
        }
        Pooled { pool: Arc::clone(self), conn, holds_place: true }
    }

    fn is_too_old(&self, conn: &Conn) -> bool {
        self.config.max_age.is_some_and(|max| conn.born.elapsed() >= max)
    }

    /// The first in line who still waits gets it; else it comes back.
    fn hand_over(&self, mut pooled: Pooled) -> Option<Pooled> {
        loop {
            let Some(waiter) = self.state().waiters.pop_front() else { return Some(pooled) };
            match waiter.send(pooled) {
                Ok(()) => return None,
                Err(back) => pooled = back,
            }
        }
    }

    /// Forgets the idle connections that have closed.
    pub(crate) fn reap(&self) {
        let mut state = self.state();
        let before = state.idle.len();
        state.idle.retain(|idle| !idle.conn.sender.is_closed());
        let closed = before - state.idle.len();
        state.open -= closed;
        self.uncached(closed);
    }

    /// Closes what has been idle for too long; returns when to look again, or `None` if nothing is idle.
    fn sweep(&self, idle_time: Duration) -> Option<Instant> {
        let mut state = self.state();
        let now = Instant::now();
        let spare = state.open.saturating_sub(self.config.min_size);
        let ends = |idle: &Idle| idle.since.unwrap_or(now) + idle_time;
        let expired = state.idle.iter().take_while(|idle| now >= ends(idle)).count().min(spare);
        let closed: Vec<_> = state.idle.drain(..expired).collect();
        state.open -= closed.len();
        self.uncached(closed.len());
        let next = state.idle.first().map(|idle| ends(idle).max(now + Duration::from_millis(1)));
        // What is kept for `min_size` expires no earlier than it is given back again.
        let next = next.filter(|_| state.open > self.config.min_size);
        state.is_swept = next.is_some();
        drop(state);
        next
    }
}

impl Turn {
    /// Waits for it. `None` never comes: whoever waits keeps the pool alive.
    pub(crate) async fn take(mut self) -> Option<Pooled> {
        (&mut self.pooled).await.ok()
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

impl Pooled {
    /// Gives the connection back once its response is read whole. One that can serve no other request is closed.
    pub(crate) fn give_back(mut self) {
        let Some(conn) = &mut self.conn else { return };
        if !conn.is_reusable || conn.sender.is_closed() {
            return;
        }
        if conn.sender.is_ready() {
            return self.park();
        }
        // The request's body is still on its way, or hyper's task has not run since the response's end.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Some(conn) = &mut self.conn
                && conn.sender.ready().await.is_ok()
            {
                self.park();
            }
        });
    }

    fn park(self) {
        let pool = Arc::clone(&self.pool);
        let Some(mut pooled) = pool.hand_over(self) else { return };
        let Some(conn) = pooled.conn.take() else { return };
        // The place goes with the connection.
        pooled.holds_place = false;
        if let Some(stats) = pool.stats() {
            stats.cached.incr();
        }
        let since = pool.config.idle_time.map(|_| Instant::now());
        let mut state = pool.state();
        state.idle.push(Idle { conn, since });
        if let Some(idle_time) = pool.config.idle_time
            && !state.is_swept
            && let Ok(runtime) = Handle::try_current()
        {
            state.is_swept = true;
            runtime.spawn(sweeper(Arc::downgrade(&pool), idle_time));
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(stats) = self.pool.stats() {
            stats.size.decr();
        }
        self.conn = None;
        if !self.holds_place {
            return;
        }
        self.holds_place = false;
        let place = self.pool.pooled(None);
        if let Some(mut place) = self.pool.hand_over(place) {
            place.holds_place = false;
            self.pool.state().open -= 1;
        }
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
