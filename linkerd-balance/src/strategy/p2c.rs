//! The better of two.

use std::num::NonZeroUsize;

use super::{Candidates, Draw, Strategy, best_by_weight};
use crate::{
    health::Status,
    rng::{self, SplitMix},
};

/// Power of two choices: draws two *distinct* endpoints and takes the better one.
///
/// Better is the better status, then the lower load. Endpoints are drawn in proportion to their weights; if the two
/// have different weights the one drawn first is kept unless it is more than twice as loaded, for otherwise small
/// differences in load would decide instead of the weights.
///
/// If the better one is not open, another two are drawn, up to [`max_effort`](Self::max_effort) times. After that the
/// pick is any open endpoint, found by looking at all of them, and if there is none it fails open: one of those with
/// the best status is used anyway.
///
/// After Finagle's `P2C` (Apache-2.0), which groups endpoints of equal weight and chooses within the group, and which
/// may end on a closed endpoint while one is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2c {
    max_effort: NonZeroUsize,
}

/// How much worse the first must be than a second of another weight to lose.
const MARGIN: f64 = 2.0;

impl P2c {
    /// Five pairs at most: Linkerd's `maxEffort`.
    pub const DEFAULT_MAX_EFFORT: NonZeroUsize = NonZeroUsize::new(5).unwrap();

    /// With the default effort.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_effort: Self::DEFAULT_MAX_EFFORT }
    }

    /// Draws at most this many pairs before it looks at all endpoints.
    #[must_use]
    pub const fn max_effort(mut self, pairs: NonZeroUsize) -> Self {
        self.max_effort = pairs;
        self
    }
}

impl Default for P2c {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for P2c {
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        let mut rng = SplitMix::new(draw.random);
        for _ in 0..self.max_effort.get() {
            let (a, b) = pair(nodes, &mut rng);
            let (i, status) = better(nodes, a, b);
            if status == Status::Open {
                return i;
            }
        }
        nodes.gave_up();
        let any = |i| Some((nodes.status(i), nodes.weight(i)));
        best_by_weight(nodes.len(), any, rng.next()).unwrap_or(0)
    }
}

/// Two that differ, each drawn by weight. There are at least two.
fn pair(nodes: &dyn Candidates, rng: &mut SplitMix) -> (usize, usize) {
    let first = nodes.draw(rng.next());
    for _ in 0..3 {
        let second = nodes.draw(rng.next());
        if second != first {
            return (first, second);
        }
    }
    // One endpoint has most of the weight: any of the others will do to compare it with.
    let others = nodes.len() - 1;
    let step = 1 + rng::below(rng.next(), others as u64) as usize;
    (first, (first + step) % nodes.len())
}

fn better(nodes: &dyn Candidates, first: usize, second: usize) -> (usize, Status) {
    let (s1, s2) = (nodes.status(first), nodes.status(second));
    if s1 != s2 {
        return if s1 > s2 { (first, s1) } else { (second, s2) };
    }
    let margin = if nodes.weight(first) == nodes.weight(second) { 1.0 } else { MARGIN };
    let second_wins = nodes.load(second) * margin < nodes.load(first);
    (if second_wins { second } else { first }, s1)
}
