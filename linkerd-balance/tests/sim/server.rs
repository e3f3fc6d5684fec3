//! An endpoint at work.

use std::collections::VecDeque;

use crate::{
    model::{Endpoint, Fault, Nanos, Streams, US, WarmUp},
    rng::Rng,
};

/// A connection that is refused is so after this.
const REFUSED_AFTER: Nanos = 100 * US;
/// An endpoint whose queue is full says so after this.
const REJECTED_AFTER: Nanos = 200 * US;

/// What an endpoint does with a request that reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The head comes after so long, the end of the body so long after that.
    Answer {
        head: Nanos,
        body: Nanos,
        success: bool,
    },
    /// It waits for a slot.
    Queued,
    /// It fails after so long, and never had a slot.
    Error {
        after: Nanos,
    },
    /// The head comes after so long, and that is all.
    Head {
        after: Nanos,
    },
    Never,
}

/// An endpoint at work.
#[derive(Debug)]
pub(crate) struct Server<R> {
    endpoint: Endpoint,
    fault: Option<Fault>,
    started: Nanos,
    busy: u32,
    queue: VecDeque<R>,
    rng: Rng,
}

impl<R: Copy> Server<R> {
    pub(crate) fn new(endpoint: Endpoint, rng: Rng) -> Self {
        Self { endpoint, fault: None, started: 0, busy: 0, queue: VecDeque::new(), rng }
    }

    /// Its process starts anew.
    pub(crate) fn start(&mut self, now: Nanos) {
        self.started = now;
    }

    /// Those that waited are lost if it died.
    pub(crate) fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
        if fault == Some(Fault::Dies) {
            self.queue.clear();
        }
    }

    pub(crate) fn accept(&mut self, req: R, now: Nanos) -> Reply {
        match self.fault {
            Some(Fault::Refuses | Fault::Dies) => Reply::Error { after: REFUSED_AFTER },
            Some(Fault::Hangs) => Reply::Never,
            Some(Fault::Stalls(after)) => Reply::Head { after },
            Some(Fault::Fails(after)) => Reply::Error { after },
            _ if self.busy < self.endpoint.slots => self.serve(now),
            _ if self.queue.len() < self.endpoint.queue as usize => {
                self.queue.push_back(req);
                Reply::Queued
            }
            _ => Reply::Error { after: REJECTED_AFTER },
        }
    }

    /// A slot is free again.
    pub(crate) fn release(&mut self) {
        self.busy -= 1;
    }

    /// The next that waited, if there is a slot for it.
    pub(crate) fn next_queued(&mut self) -> Option<R> {
        if self.busy < self.endpoint.slots { self.queue.pop_front() } else { None }
    }

    pub(crate) fn serve(&mut self, now: Nanos) -> Reply {
        self.busy += 1;
        let mut head = self.endpoint.service.draw(&mut self.rng);
        if let Some(WarmUp { lasts, factor }) = self.endpoint.warm_up {
            let left = lasts.saturating_sub(now - self.started);
            head += head * (factor - 1) * (left / US) / (lasts / US).max(1);
        }
        let mut success = true;
        match self.fault {
            Some(Fault::Slow(more)) => head += more,
            Some(Fault::Flaky(per_mille)) => success = !self.rng.chance(per_mille),
            _ => {}
        }
        let body = match self.endpoint.streams {
            Some(Streams { per_mille, mean }) if self.rng.chance(per_mille) => self.rng.gap(mean),
            _ => 0,
        };
        Reply::Answer { head, body, success }
    }
}
