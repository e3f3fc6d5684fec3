//! Where a request is and was, for those who do not hold it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use linkerd_retry::retry::MAX_LOGGED;

use super::endpoints::EndpointKey;
use crate::{AttemptLog, AttemptOutcome};

/// The places of one attempt at a request: of the attempt itself and of its hedge, who have to keep out of each other's
/// way, and of what is below a client layer, of which those above it know nothing else. A clone is the same trail.
#[derive(Clone)]
pub(crate) struct Trail {
    places: Arc<Places>,
    leg: Leg,
}

/// What the legs share.
#[derive(Default)]
pub(crate) struct Places(Mutex<Steps>);

/// One of the two at once that an attempt may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leg {
    /// The attempt itself.
    #[default]
    First,
    /// Its hedge.
    Hedge,
}

#[derive(Default)]
struct Steps {
    /// Where it came to nothing.
    been: Vec<EndpointKey>,
    /// Where each leg is.
    at: [Option<(EndpointKey, Instant)>; 2],
    /// What failed and is not written down elsewhere, in order.
    failed: AttemptLog,
    /// Whether one of these was the end of its leg.
    has_failed: bool,
    is_hedged: bool,
    /// Whether there is more than one place to go.
    has_elsewhere: bool,
}

impl Trail {
    /// Of a request that came to nothing at `been`.
    pub(super) fn new(been: &[EndpointKey]) -> Self {
        let steps = Steps { been: been.to_vec(), ..Steps::default() };
        Self { places: Arc::new(Places(Mutex::new(steps))), leg: Leg::First }
    }

    /// The same, as its hedge leaves it.
    pub(super) fn of_hedge(&self) -> Self {
        Self { places: Arc::clone(&self.places), leg: Leg::Hedge }
    }

    pub(crate) fn from_parts(places: Arc<Places>, leg: Leg) -> Self {
        Self { places, leg }
    }

    pub(crate) fn into_parts(self) -> (Arc<Places>, Leg) {
        (self.places, self.leg)
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg
    }

    /// Whether there was a hedge that got to an endpoint.
    pub(super) fn is_hedged(&self) -> bool {
        self.lock().is_hedged
    }

    /// Notes whether there was more than one place to go.
    pub(super) fn choose(&self, has_elsewhere: bool) {
        self.lock().has_elsewhere |= has_elsewhere;
    }

    pub(super) fn has_elsewhere(&self) -> bool {
        self.lock().has_elsewhere
    }

    /// Notes where this leg is, and since when.
    pub(super) fn arrive(&self, key: &EndpointKey, begun: Instant) {
        let mut places = self.lock();
        places.at[self.leg as usize] = Some((key.clone(), begun));
        places.is_hedged |= self.leg == Leg::Hedge;
    }

    /// Notes that this leg came to nothing where it was.
    pub(super) fn leave(&self) -> Option<SocketAddr> {
        let mut places = self.lock();
        let (key, _) = places.at[self.leg as usize].take()?;
        let addr = key.addr;
        note(&mut places.been, &key);
        Some(addr)
    }

    /// Adds to `tried` where either leg came to nothing, and where the other one is.
    pub(super) fn gather(&self, tried: &mut Vec<EndpointKey>) {
        let places = self.lock();
        let other = places.at[1 - self.leg as usize].as_ref();
        for key in places.been.iter().chain(other.map(|(key, _)| key)) {
            note(tried, key);
        }
    }

    /// Notes that this leg failed, which may not be the end of the attempt. A hedge that got to no endpoint was none.
    pub(super) fn fail(&self, outcome: AttemptOutcome, took: Duration) {
        let addr = self.leave();
        if self.leg == Leg::First || addr.is_some() {
            let mut places = self.lock();
            places.failed(self.leg, addr, outcome, took);
            places.has_failed = true;
        }
    }

    /// Notes that this leg came back from an endpoint, and may go to another.
    pub(super) fn came_back(&self, endpoint: Option<SocketAddr>, outcome: AttemptOutcome, took: Duration) {
        self.lock().failed(self.leg, endpoint, outcome, took);
    }

    /// Writes down what failed. Whether one of these was the end of its leg.
    pub(super) fn write_failed(&self, log: &mut AttemptLog) -> bool {
        let mut places = self.lock();
        log.append(std::mem::take(&mut places.failed));
        std::mem::take(&mut places.has_failed)
    }

    /// Writes down what is under way.
    pub(super) fn write_under_way(&self, now: Instant, log: &mut AttemptLog) {
        let at = std::mem::take(&mut self.lock().at);
        for (leg, (key, begun)) in [Leg::First, Leg::Hedge].into_iter().zip(at).filter_map(|(leg, at)| Some((leg, at?)))
        {
            log.push(Some(key.addr), AttemptOutcome::UnderWay, now.saturating_duration_since(begun));
            if leg == Leg::Hedge {
                log.mark_hedge();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        // Each operation leaves it whole.
        self.places.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Steps {
    fn failed(&mut self, leg: Leg, endpoint: Option<SocketAddr>, outcome: AttemptOutcome, took: Duration) {
        self.failed.push(endpoint, outcome, took);
        if leg == Leg::Hedge {
            self.failed.mark_hedge();
        }
    }
}

/// Adds a place, once.
pub(super) fn note(tried: &mut Vec<EndpointKey>, key: &EndpointKey) {
    if tried.contains(key) {
        return;
    }
    // So many are enough to avoid; the others have had time to recover.
    if tried.len() == MAX_LOGGED {
        tried.remove(0);
    }
    tried.push(key.clone());
}
