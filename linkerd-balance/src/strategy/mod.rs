//! Which of the endpoints gets the next request.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Instant};

use crate::{
    health::Status,
    rng::{self, SplitMix},
};

mod aperture;
mod hashing;
mod heap;
mod maglev;
mod p2c;
mod random;
mod ring;
mod round_robin;
mod spread;
mod sticky_primary;
mod subset;
#[cfg(test)]
mod testing;

pub use self::{
    aperture::{Aperture, ApertureBuilder, ApertureMeter, ApertureWidth, InvalidAperture},
    hashing::InvalidHashing,
    heap::Heap,
    maglev::Maglev,
    p2c::P2c,
    random::Random,
    ring::Ring,
    round_robin::RoundRobin,
    sticky_primary::StickyPrimary,
    subset::{InvalidPeer, InvalidSubset, Peer, Subset},
};

/// The endpoints to choose from: one immutable set, its numbers as of one instant.
pub trait Candidates {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none. A strategy is never asked then.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether endpoint `i` should be used.
    fn status(&self, i: usize) -> Status;

    /// How loaded endpoint `i` would be with `more` requests in flight than it has, its weight already considered.
    /// Lower is better; see [`Load::score`](crate::Load::score).
    fn load(&self, i: usize, more: usize) -> f64;

    /// The weight of endpoint `i`, as a multiple of the mean of all: finite, above zero, so that sums of them are too. Less
    /// than the one it was given while it starts slowly.
    fn weight(&self, i: usize) -> f64;

    /// The weight that endpoint `i` was given, however slowly it starts: what to prepare by, for what is prepared stays
    /// until the set changes.
    fn full_weight(&self, i: usize) -> f64 {
        self.weight(i)
    }

    /// What endpoint `i` is called: the same number for the same key in every set, and in every process of the same
    /// build. Two endpoints share one by an accident of one in 2⁶⁴.
    fn id(&self, i: usize) -> u64;

    /// Requests in flight at endpoint `i`.
    fn pending(&self, i: usize) -> usize;

    /// Whether endpoint `i` looks closed to this pick only, because its request was there before. Strategies that
    /// remember must not take it for an outage.
    fn excluded(&self, i: usize) -> bool {
        let _ = i;
        false
    }

    /// As of when its numbers are.
    fn now(&self) -> Instant;

    /// An endpoint by chance, in proportion to the weights; `random` decides.
    fn draw(&self, random: u64) -> usize {
        let all = |i| Some((Status::Open, self.weight(i)));
        best_by_weight(self.len(), all, random).unwrap_or(0)
    }

    /// The better one of two, and its status: the better status, then the lower load; see [`P2c`]. It asks for all that
    /// this takes in one call.
    fn better(&self, first: usize, second: usize) -> (usize, Status) {
        let (s1, s2) = (self.status(first), self.status(second));
        if s1 != s2 {
            return if s1 > s2 { (first, s1) } else { (second, s2) };
        }
        let more = usize::from(self.weight(first) != self.weight(second));
        let second_wins = self.load(second, more) < self.load(first, 0);
        (if second_wins { second } else { first }, s1)
    }

    /// Told by a strategy that tried as often as it may and found no open endpoint. Counted, nothing more.
    fn gave_up(&self) {}

    /// Told by a strategy that compared two of which neither had any load. It is told once in a while, and stands for so
    /// many picks. Counted, nothing more.
    fn both_idle(&self, picks: u64) {
        let _ = picks;
    }
}

/// What decides a pick, apart from the endpoints: passed in, so that a pick can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Random bits. A strategy that needs more stretches these.
    pub random: u64,
    /// The same for requests that should meet the same endpoint, for strategies that hash. Others ignore it.
    pub key: Option<u64>,
}

impl Draw {
    /// Random bits of this thread's generator, no key.
    #[must_use]
    pub fn random() -> Self {
        Self::new(rng::thread())
    }

    /// These random bits, no key.
    #[must_use]
    pub const fn new(random: u64) -> Self {
        Self { random, key: None }
    }

    /// The same bits with a key.
    #[must_use]
    pub const fn with_key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }
}

/// Chooses an endpoint.
///
/// Pure: the same set and the same [`Draw`] give the same pick, unless the strategy is one that counts, such as round
/// robin. It is called for every request and must not allocate, wait, or panic.
///
/// One that honours [`status`](Candidates::status) and [`weight`](Candidates::weight) has what they carry without
/// knowing of it: circuit breaking, requests that avoid where they were before, slow starts.
///
#[doc = include_str!("custom.md")]
pub trait Strategy: fmt::Debug + Send + Sync + 'static {
    /// The index of the endpoint to use. `nodes` is never empty.
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize;

    /// What metrics call it: `p2c`. `custom` by default.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// What picks from this new set, if not `self`: for strategies that prepare something for each set, such as a hash
    /// ring. Set and strategy are swapped in together, so what was prepared is never used on another set.
    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        let _ = nodes;
        None
    }

    /// Whether picks may meet endpoint `i`, as things are: false for what lies outside of a subset. For people and
    /// metrics, and for those who connect ahead of requests.
    fn uses(&self, nodes: &dyn Candidates, i: usize) -> bool {
        let _ = (nodes, i);
        true
    }

    /// The subset that picks meet, where its width follows the load. For people and metrics.
    fn aperture(&self) -> Option<ApertureWidth> {
        None
    }
}

/// How often a strategy that may try `max_effort` times draws from so many, before it looks at all of them: hardly longer
/// than that takes.
pub(crate) fn effort(max_effort: NonZeroUsize, len: usize) -> usize {
    max_effort.get().min(len.saturating_mul(2).saturating_add(8))
}

/// One of the candidates with the best status, by chance in proportion to the weights. Looks at each of them twice.
///
/// `None` from `candidate` leaves that index out.
pub(crate) fn best_by_weight(
    len: usize,
    candidate: impl Fn(usize) -> Option<(Status, f64)>,
    random: u64,
) -> Option<usize> {
    let mut best: Option<(Status, f64)> = None;
    for (status, weight) in (0..len).filter_map(&candidate) {
        best = match best {
            Some((s, total)) if s == status => Some((s, total + weight)),
            Some((s, total)) if s > status => Some((s, total)),
            _ => Some((status, weight)),
        };
    }
    let (best, total) = best?;
    let mut left = rng::unit(SplitMix::new(random).next()) * total;
    let mut last = None;
    for i in 0..len {
        // A status may have changed since the first look: then the last one seen at `best` stands.
        let Some((status, weight)) = candidate(i) else { continue };
        if status < best {
            continue;
        }
        last = Some(i);
        if left < weight {
            break;
        }
        left -= weight;
    }
    last.or_else(|| (0..len).find(|&i| candidate(i).is_some()))
}
