//! What a concurrency limit's lock protects: who is in, who waits, and who is next.

use std::{cmp::Reverse, collections::BTreeMap, task::Waker, time::Instant};

use super::{
    Criticality, Shares,
    adaptive::{Adaptive, Outcome},
};

/// A place in the queue. The first is the next to go, the last the first to be displaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    class: Reverse<Criticality>,
    number: u64,
}

/// What became of somebody who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// A permit is theirs, and is counted as in flight.
    Granted,
    Displaced,
}

/// The answer to somebody who would wait if need be.
#[derive(Debug)]
pub(super) enum Entry {
    Entered,
    /// In the queue, and who was put out of it for that.
    Queued(Place, Option<Waker>),
    QueueFull,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limit: usize,
    pub(super) in_flight: usize,
    shares: Shares,
    adaptive: Option<Adaptive>,
    next: u64,
    waiting: BTreeMap<Place, Waker>,
    /// Waited and do not know yet. At most one for each waiter that is alive.
    settled: BTreeMap<Place, Settled>,
}

impl State {
    pub(super) fn new(limit: usize, shares: Shares, adaptive: Option<Adaptive>) -> Self {
        let (waiting, settled) = (BTreeMap::new(), BTreeMap::new());
        Self { limit, in_flight: 0, shares, adaptive, next: 0, waiting, settled }
    }

    /// The same limit with nothing in flight.
    pub(super) fn fresh(&self, shares: Shares) -> Self {
        Self::new(self.limit, shares, self.adaptive.clone())
    }

    pub(super) fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// Lets one of `class` in, if there is room and nobody waits who would be first. If not, a limit that adapts is told.
    pub(super) fn try_enter(&mut self, class: Criticality) -> bool {
        let entered = self.enter_if_free(class);
        if let Some(adaptive) = self.adaptive.as_mut().filter(|_| !entered) {
            adaptive.on_full(self.in_flight);
        }
        entered
    }

    /// The same, and it is told nothing.
    pub(super) fn enter_if_free(&mut self, class: Criticality) -> bool {
        let behind = self.waiting.first_key_value().is_some_and(|(first, _)| first.class.0 >= class);
        let enters = !behind && self.has_room(class);
        if enters {
            self.enter();
        }
        enters
    }

    /// Lets one of `class` in or puts it behind those of its class and above, and before those below.
    pub(super) fn enter_or_queue(&mut self, class: Criticality, waker: &Waker, capacity: usize) -> Entry {
        if self.try_enter(class) {
            return Entry::Entered;
        }
        let place = Place { class: Reverse(class), number: self.next };
        let mut displaced = None;
        if self.waiting.len() >= capacity {
            let last = self.waiting.last_entry().filter(|last| last.key().class > place.class);
            let Some(last) = last else { return Entry::QueueFull };
            let (last, waker) = last.remove_entry();
            self.settled.insert(last, Settled::Displaced);
            displaced = Some(waker);
        }
        self.next += 1;
        self.waiting.insert(place, waker.clone());
        Entry::Queued(place, displaced)
    }

    /// What became of the one at `place`, once; or their new waker is noted.
    pub(super) fn settle(&mut self, place: Place, waker: &Waker) -> Option<Settled> {
        if let Some(noted) = self.waiting.get_mut(&place) {
            noted.clone_from(waker);
            return None;
        }
        self.settled.remove(&place)
    }

    /// Ends a wait, whatever became of it, and says what.
    pub(super) fn leave_queue(&mut self, place: Place) -> Option<Settled> {
        self.waiting.remove(&place);
        self.settled.remove(&place)
    }

    /// Lets the next one in, if there is room, and hands out their waker.
    pub(super) fn grant(&mut self) -> Option<Waker> {
        let class = self.waiting.first_key_value()?.0.class.0;
        // Shares do not fall with the class: if the first has no room, nobody has.
        if !self.has_room(class) {
            return None;
        }
        let (place, waker) = self.waiting.pop_first()?;
        self.settled.insert(place, Settled::Granted);
        self.enter();
        Some(waker)
    }

    pub(super) fn exit(&mut self) {
        self.in_flight -= 1;
    }

    pub(super) fn observe(&mut self, outcome: Outcome, began: Instant, now: Instant) {
        if let Some(adaptive) = &mut self.adaptive {
            self.limit = adaptive.on_end(outcome, began, now);
        }
    }

    fn enter(&mut self) {
        self.in_flight += 1;
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.on_start(self.in_flight);
        }
    }

    fn has_room(&self, class: Criticality) -> bool {
        (self.in_flight as u128) < self.shares.of(self.limit as u128, class)
    }
}
