//! What an interface has done, for metrics.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Refused;

/// Counts what an interface does. A clone counts for the same; what nobody reads costs nothing.
#[derive(Clone, Default)]
pub struct Meter(Arc<Counters>);

#[derive(Default)]
struct Counters {
    sessions: AtomicU64,
    requests: AtomicU64,
    streams: AtomicU64,
    open_streams: AtomicU64,
    pings: AtomicU64,
    dead: AtomicU64,
    failures: [AtomicU64; Reason::ALL.len()],
}

/// What a [`Meter`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metered {
    /// Connections that became sessions; of HTTP there are none.
    pub sessions: u64,
    /// Requests, also those that failed.
    pub requests: u64,
    /// Those of them that were or are answered by more than one message, or wait for a change.
    pub streams: u64,
    /// Those that are open.
    pub open_streams: u64,
    /// Pings that were sent to see whether a client is alive, by thrift.
    pub pings: u64,
    /// Sessions that ended because no sign of life came.
    pub dead: u64,
}

/// Why a request failed, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It makes no sense.
    BadRequest,
    /// The peer may not ask so.
    Forbidden,
    /// There is no such thing.
    Missing,
    /// Something is not as the request says.
    Conflict,
    /// It is too long.
    TooLarge,
    /// There is too much of something.
    Limit,
    /// It took too long, to come in or to be answered.
    Late,
    /// What it needs has failed.
    Failed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::Missing,
        Self::Conflict,
        Self::TooLarge,
        Self::Limit,
        Self::Late,
        Self::Failed,
    ];

    /// Its name in metrics: `bad_request`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::Missing => "missing",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::Limit => "limit",
            Self::Late => "late",
            Self::Failed => "failed",
        }
    }
}

impl From<&Refused> for Reason {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::Forbidden { .. } | Refused::UnknownToken => Self::Forbidden,
            Refused::Limit { .. } => Self::Limit,
        }
    }
}

impl Meter {
    /// What was counted until now.
    #[must_use]
    pub fn read(&self) -> Metered {
        let Counters { sessions, requests, streams, open_streams, pings, dead, failures: _ } = &*self.0;
        let [sessions, requests, streams, open_streams, pings, dead] =
            [sessions, requests, streams, open_streams, pings, dead].map(|counter| counter.load(Ordering::Relaxed));
        Metered { sessions, requests, streams, open_streams, pings, dead }
    }

    /// How many requests failed for this.
    #[must_use]
    pub fn failures(&self, reason: Reason) -> u64 {
        self.0.failures[reason as usize].load(Ordering::Relaxed)
    }

    /// A connection became a session.
    pub fn session(&self) {
        add(&self.0.sessions);
    }

    pub(super) fn request(&self) {
        add(&self.0.requests);
    }

    pub(super) fn failed(&self, reason: Reason) {
        add(&self.0.failures[reason as usize]);
    }

    pub(super) fn ping(&self) {
        add(&self.0.pings);
    }

    /// A client gave no sign of life.
    pub(super) fn dead(&self) {
        add(&self.0.dead);
    }

    /// Counts a stream until it is dropped.
    pub(super) fn stream(&self) -> Streaming {
        add(&self.0.streams);
        add(&self.0.open_streams);
        Streaming(self.clone())
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A stream that is open.
#[derive(Debug)]
pub(super) struct Streaming(Meter);

#[cfg(feature = "mesh")]
impl Streaming {
    /// What it is counted by.
    pub(super) fn meter(&self) -> &Meter {
        &self.0
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.0.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}
