//! Some of the endpoints, as if there were no others.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::{
    health::Status,
    rng::{self, SplitMix},
    strategy::{Candidates, best_by_weight},
};

/// The candidates of a subset: `members` are indices of `all`, in the subset's own order.
pub(in crate::strategy) struct Within<'a> {
    pub(in crate::strategy) all: &'a dyn Candidates,
    pub(in crate::strategy) members: &'a [u32],
    pub(in crate::strategy) slice: Slice,
    pub(in crate::strategy) heaviest: &'a Heaviest,
    /// Not to report that no open endpoint was found: somebody looks further.
    pub(in crate::strategy) quiet: bool,
}

/// How much of each member is meant: all of it, but for the ends of a slice of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::strategy) struct Slice {
    /// In parts of an endpoint, counted from the begin of the first member: where the slice begins, and ends.
    pub(in crate::strategy) begin: u128,
    pub(in crate::strategy) end: u128,
    /// How many parts an endpoint has.
    pub(in crate::strategy) parts: u128,
    /// How many endpoints the ring has.
    pub(in crate::strategy) ring: u128,
}

/// The greatest weight met, for drawing by rejection. Weights may change at any time, so it follows them.
#[derive(Debug, Default)]
pub(in crate::strategy) struct Heaviest(AtomicU64);

/// How often a draw is rejected before the weights are added up instead.
const MAX_REJECTIONS: usize = 12;

impl Within<'_> {
    /// Candidate `j` in the numbering of all endpoints.
    pub(in crate::strategy) fn outer(&self, j: usize) -> usize {
        self.members[j] as usize
    }
}

impl Candidates for Within<'_> {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn status(&self, j: usize) -> Status {
        self.all.status(self.outer(j))
    }

    fn load(&self, j: usize, more: usize) -> f64 {
        let (i, share) = (self.outer(j), self.slice.share(j));
        if share == 1.0 {
            return self.all.load(i, more);
        }
        // Half an endpoint is as loaded with one request as a whole one with two. Scores are asked for in whole
        // requests: what lies between two of them is on the line through them.
        let pending = self.all.pending(i);
        let wanted = (pending + more) as f64 / share - pending as f64;
        let (below, between) = (wanted.floor(), wanted.fract());
        let (low, high) = (self.all.load(i, below as usize), self.all.load(i, below as usize + 1));
        low + between * (high - low)
    }

    fn weight(&self, j: usize) -> f64 {
        // Not zero, however thin the slice and small the weight.
        (self.all.weight(self.outer(j)) * self.slice.share(j)).max(f64::MIN_POSITIVE)
    }

    fn full_weight(&self, j: usize) -> f64 {
        (self.all.full_weight(self.outer(j)) * self.slice.share(j)).max(f64::MIN_POSITIVE)
    }

    fn excluded(&self, j: usize) -> bool {
        self.all.excluded(self.outer(j))
    }

    fn id(&self, j: usize) -> u64 {
        self.all.id(self.outer(j))
    }

    fn pending(&self, j: usize) -> usize {
        self.all.pending(self.outer(j))
    }

    fn now(&self) -> Instant {
        self.all.now()
    }

    fn draw(&self, random: u64) -> usize {
        let mut rng = SplitMix::new(random);
        for _ in 0..MAX_REJECTIONS {
            let j = rng::below(rng.next(), self.len() as u64) as usize;
            let weight = self.weight(j);
            if rng::unit(rng.next()) * self.heaviest.at_least(weight) < weight {
                return j;
            }
        }
        // As exact as the way above, only slower.
        let weight = |j| Some((Status::Open, self.weight(j)));
        best_by_weight(self.len(), weight, rng.next()).unwrap_or(0)
    }

    fn gave_up(&self) {
        if !self.quiet {
            self.all.gave_up();
        }
    }

    fn both_idle(&self, picks: u64) {
        self.all.both_idle(picks);
    }
}

impl Slice {
    /// All of each member.
    pub(in crate::strategy) const WHOLE: Self = Self { begin: 0, end: u128::MAX, parts: 1, ring: u128::MAX };

    /// How much of member `j` is inside, above zero, at most 1.
    pub(in crate::strategy) fn share(&self, j: usize) -> f64 {
        let (low, high) = (j as u128 * self.parts, (j as u128 + 1) * self.parts);
        if low >= self.begin && high <= self.end {
            return 1.0;
        }
        let mut inside = high.min(self.end).saturating_sub(low.max(self.begin));
        if j == 0 {
            // The end of a slice that went round the ring lies in the member where it began.
            inside += self.end.saturating_sub(self.ring.saturating_mul(self.parts));
        }
        inside.clamp(1, self.parts) as f64 / self.parts as f64
    }
}

impl Heaviest {
    pub(in crate::strategy) fn set(&self, weight: f64) {
        self.0.store(weight.to_bits(), Ordering::Relaxed);
    }

    /// The greatest weight met, this one included.
    fn at_least(&self, weight: f64) -> f64 {
        // The bits of numbers above zero compare as the numbers do. Relaxed: the number stands alone.
        let bits = self.0.load(Ordering::Relaxed);
        if bits < weight.to_bits() {
            self.0.fetch_max(weight.to_bits(), Ordering::Relaxed);
            return weight;
        }
        f64::from_bits(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_slice_are_parts_of_endpoints() {
        // From the middle of the first endpoint for two and a quarter: four parts each.
        let slice = Slice { begin: 2, end: 11, parts: 4, ring: 9 };
        assert_eq!([0, 1, 2].map(|j| slice.share(j)), [0.5, 1.0, 0.75]);
    }

    #[test]
    fn a_slice_that_comes_round_has_both_ends_in_one_endpoint() {
        let slice = Slice { begin: 3, end: 14, parts: 4, ring: 3 };
        assert_eq!([0, 1, 2].map(|j| slice.share(j)), [0.75, 1.0, 1.0]);
        let whole = Slice { begin: 3, end: 15, parts: 4, ring: 3 };
        assert_eq!([0, 1, 2].map(|j| whole.share(j)), [1.0; 3]);
        assert_eq!(Slice::WHOLE.share(9_999), 1.0);
    }

    #[test]
    fn the_heaviest_follows_upwards_by_itself() {
        let heaviest = Heaviest::default();
        assert_eq!(heaviest.at_least(2.0), 2.0);
        assert_eq!(heaviest.at_least(1.0), 2.0);
        assert_eq!(heaviest.at_least(3.0), 3.0);
        heaviest.set(1.0);
        assert_eq!(heaviest.at_least(0.5), 1.0);
    }
}
