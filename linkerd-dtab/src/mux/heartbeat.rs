//! Noticing that the other side is gone.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::Heartbeat;

/// What is to be done about a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Ping,
    Dead,
}

/// When the next ping is due, or the answer to the last one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    every: Heartbeat,
    due: Instant,
    is_asked: bool,
    is_refused: bool,
}

impl Pulse {
    pub(super) fn new(every: Heartbeat, now: Instant) -> Self {
        const LEAST: Duration = Duration::from_millis(1);
        let every = Heartbeat { period: every.period.max(LEAST), timeout: every.timeout.max(LEAST) };
        Self { every, due: now + every.period, is_asked: false, is_refused: false }
    }

    /// When to call [`beat`](Self::beat); `None` if the peer refuses to answer pings.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_refused).then_some(self.due)
    }

    /// Something came from the peer, or it took something.
    pub(super) fn alive(&mut self, now: Instant) {
        // A steady flow of anything is as good as an answer, and pings go on by the clock: they keep paths open.
        if self.is_asked {
            self.is_asked = false;
            self.due = now + self.every.period;
        }
    }

    /// The peer does not know what a ping is.
    pub(super) fn refused(&mut self) {
        self.is_refused = true;
    }

    /// What to do at the [`due`](Self::due) time.
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        if self.is_asked {
            return Beat::Dead;
        }
        self.is_asked = true;
        self.due = now + self.every.timeout;
        Beat::Ping
    }

    /// For how long a dead peer was given.
    pub(super) fn timeout(&self) -> Duration {
        self.every.timeout
    }
}
