//! The task of one connection: reads and writes it, and finds out whether its peer is still there.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, client::Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

use super::{Status, Users};
use crate::http::{KeepAlive, io::Traffic};

/// Drives a connection until it ends.
pub(super) struct Driver<T> {
    conn: Connection<T, Bytes>,
    ping: Option<PingPong>,
    status: Arc<Status>,
    users: Users,
    doubt: Doubt,
    asking: Option<Asking>,
    idle: Option<(Pin<Box<Sleep>>, bool)>,
}

/// Whether the peer is still there.
///
/// It is asked by a ping, and only if somebody waits for an answer and nothing at all comes for a while; twice at most
/// until an answer comes, since many servers take more for an attack.
#[derive(Default)]
struct Doubt {
    tick: Option<Pin<Box<Sleep>>>,
    read: u64,
    heads: u64,
    quiet_ticks: u32,
    // For so many ticks nothing came after the last ping.
    unanswered: Option<u32>,
    pings: u32,
}

/// Asks the peer whether it is still there each time that nothing came for a while.
struct Asking {
    settings: KeepAlive,
    sleep: Pin<Box<Sleep>>,
    read: u64,
    is_asked: bool,
}

impl Asking {
    fn new(settings: KeepAlive) -> Self {
        Self { settings, sleep: Box::pin(sleep(settings.period)), read: 0, is_asked: false }
    }

    /// Whether it is gone.
    fn poll(&mut self, cx: &mut Context<'_>, traffic: &Traffic, ping: &mut PingPong) -> bool {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let read = traffic.read();
            let wait = if read != self.read {
                (self.read, self.is_asked) = (read, false);
                self.settings.period
            } else if self.is_asked {
                return true;
            } else {
                // One that is on its way still is as good.
                let _ = ping.send_ping(Ping::opaque());
                self.is_asked = true;
                self.settings.timeout
            };
            self.sleep.as_mut().reset(Instant::now() + wait);
        }
        // So that the next ping may be sent.
        let _ = ping.poll_pong(cx);
        false
    }
}

/// Nothing came for so long, or up to a tick more: the peer is asked.
#[cfg(feature = "config")]
pub(crate) const PING_AFTER: Duration = Doubt::TICK.saturating_mul(Doubt::QUIET);

/// Nothing came for so long, or up to a tick more: it is gone.
pub(crate) const SILENCE: Duration = Doubt::TICK.saturating_mul(Doubt::QUIET + Doubt::GONE);

impl Doubt {
    const TICK: Duration = Duration::from_millis(750);
    /// Nothing came for so many ticks: it is asked.
    const QUIET: u32 = 2;
    /// Nothing came for as many more: it is gone. Four seconds in all, at most.
    const GONE: u32 = 2;
    const MAX_PINGS: u32 = 2;

    /// Whether it is gone.
    fn poll(&mut self, cx: &mut Context<'_>, status: &Status, traffic: &Traffic, ping: &mut PingPong) -> bool {
        if status.awaiting() == 0 {
            self.tick = None;
            return false;
        }
        let tick = self.tick.get_or_insert_with(|| {
            (self.read, self.quiet_ticks, self.unanswered) = (traffic.read(), 0, None);
            Box::pin(sleep(Self::TICK))
        });
        while tick.as_mut().poll(cx).is_ready() {
            tick.as_mut().reset(Instant::now() + Self::TICK);
            if status.heads() != self.heads {
                (self.heads, self.pings) = (status.heads(), 0);
            }
            if traffic.read() != self.read {
                (self.read, self.quiet_ticks, self.unanswered) = (traffic.read(), 0, None);
                continue;
            }
            self.quiet_ticks += 1;
            if let Some(ticks) = &mut self.unanswered {
                *ticks += 1;
                if *ticks >= Self::GONE {
                    return true;
                }
            } else if self.quiet_ticks >= Self::QUIET && self.pings < Self::MAX_PINGS {
                // One that is on its way still is as good.
                let _ = ping.send_ping(Ping::opaque());
                self.pings += 1;
                self.unanswered = Some(0);
            }
        }
        // So that the next ping may be sent.
        let _ = ping.poll_pong(cx);
        false
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub(super) fn new(
        mut conn: Connection<T, Bytes>,
        status: Arc<Status>,
        users: Users,
        keep_alive: Option<KeepAlive>,
    ) -> Self {
        let ping = conn.ping_pong();
        let idle_time = users.upgrade().and_then(|users| users.idle_time());
        let idle = idle_time.map(|idle| (Box::pin(sleep(idle)), true));
        let asking = keep_alive.map(Asking::new);
        Self { conn, ping, status, users, doubt: Doubt::default(), asking, idle }
    }

    /// Takes over what the peer allows.
    fn settle(&self) {
        let status = &self.status;
        let limit = self.conn.max_concurrent_send_streams();
        let is_news = status.limit.swap(limit, Ordering::Relaxed) != limit;
        // The first thing that a peer sends are its settings.
        let is_first = status.traffic.read() > 0 && !status.is_settled.swap(true, Ordering::Relaxed);
        if (is_news || is_first)
            && let Some(users) = self.users.upgrade()
        {
            users.wake_all();
        }
    }

    /// Whether it has had no streams for as long as it may.
    fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((sleep, was_idle)) = &mut self.idle else { return false };
        let is_idle = self.status.streams() == 0;
        if is_idle
            && !*was_idle
            && let Some(idle_time) = self.users.upgrade().and_then(|users| users.idle_time())
        {
            sleep.as_mut().reset(Instant::now() + idle_time);
        }
        *was_idle = is_idle;
        sleep.as_mut().poll(cx).is_ready() && is_idle
    }

    fn end(&self) {
        self.status.close();
        if let Some(users) = self.users.upgrade() {
            users.reap();
            // They open another one.
            users.ended(&self.status);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.conn).poll(cx);
        this.settle();
        if let Poll::Ready(ended) = polled {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to an endpoint failed");
            }
            this.end();
            return Poll::Ready(());
        }
        if let Some(ping) = &mut this.ping
            && (this.doubt.poll(cx, &this.status, &this.status.traffic, ping)
                || this.asking.as_mut().is_some_and(|asking| asking.poll(cx, &this.status.traffic, ping)))
        {
            tracing::debug!("connection to an endpoint is dead: it did not answer a ping");
            // Before its streams break, whose requests ask why.
            this.status.is_silent.store(true, Ordering::Release);
            this.end();
            return Poll::Ready(());
        }
        if this.is_idle(cx) {
            this.idle = None;
            this.status.close();
            if let Some(users) = this.users.upgrade() {
                users.reap();
            }
        }
        Poll::Pending
    }
}
