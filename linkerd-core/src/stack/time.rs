//! The time of a request: the clock, and when its time is over.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use linkerd_retry::Deadline;

use crate::{ErrorKind, Timer};

/// When the time of a whole request is over, and by which timer.
pub(super) type Limit = (Instant, Timer);

/// Whether a limit on the time of a whole request ended it: what is dropped then has failed, and was not cancelled.
#[derive(Debug)]
pub(crate) struct Expired {
    timer: Timer,
    deadline: Deadline,
    has: AtomicBool,
}

/// The same, as it goes through client layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due(Limit);

/// The time, as tokio's clock has it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// `timeout` after `arrived`; a time too far away to be expressed is thirty years from then.
pub(crate) fn after(arrived: Instant, timeout: Duration) -> tokio::time::Instant {
    const FAR: Duration = Duration::from_hours(24 * 365 * 30);
    arrived.checked_add(timeout).unwrap_or_else(|| arrived + FAR).into()
}

impl Expired {
    pub(super) fn new((until, timer): Limit) -> Self {
        Self { timer, deadline: Deadline::at(until), has: AtomicBool::new(false) }
    }

    /// The limit did end the request.
    pub(super) fn expire(&self) {
        // Relaxed: see `kind`.
        self.has.store(true, Ordering::Relaxed);
    }

    /// When nothing may begin any more.
    pub(super) fn due(&self) -> Due {
        Due((self.deadline.instant(), self.timer))
    }

    /// By when the request must be over.
    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The limit that ended the request, if one did.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        // Relaxed: written and read by the one task that polls the request.
        let kind = if self.timer == Timer::Total { ErrorKind::TotalTimeout } else { ErrorKind::Deadline };
        self.has.load(Ordering::Relaxed).then_some(kind)
    }
}

impl Due {
    /// The limit, if it is over.
    pub(super) fn over(self, now: Instant) -> Option<Limit> {
        let Self(limit) = self;
        (limit.0 <= now).then_some(limit)
    }
}
