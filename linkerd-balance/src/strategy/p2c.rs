//! The better of two.

use std::num::NonZeroUsize;

use super::{Candidates, Draw, Strategy, best_by_weight, effort};
use crate::{
    health::Status,
    rng::{self, SplitMix},
};

/// Power of two choices: draws two *distinct* endpoints and takes the better one.
///
/// Better is the better status, then the lower load. Endpoints are drawn in proportion to their weights. Of two with
/// different weights the one drawn first is kept, unless the other would be less loaded even with the request than the
/// first is without: otherwise small differences in load would decide, and weights would count for little.
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

/// One in so many picks is counted, as so many: a count that all threads share costs more than the rest of a pick.
const SAMPLE: u64 = 16;

impl P2c {
    /// Five pairs at most: Linkerd's `maxEffort`.
    pub const DEFAULT_MAX_EFFORT: NonZeroUsize = NonZeroUsize::new(5).unwrap();

    /// With the default effort.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_effort: Self::DEFAULT_MAX_EFFORT }
    }

    /// Draws at most this many pairs before it looks at all endpoints, and not more than `2n + 8` of `n` endpoints.
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
    fn name(&self) -> &'static str {
        "p2c"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        let mut rng = SplitMix::new(draw.random);
        let mut is_sampled = draw.random.is_multiple_of(SAMPLE);
        for _ in 0..effort(self.max_effort, nodes.len()) {
            let (a, b) = pair(nodes, &mut rng);
            if std::mem::take(&mut is_sampled) && nodes.load(a, 0) == 0.0 && nodes.load(b, 0) == 0.0 {
                nodes.both_idle(SAMPLE);
            }
            let (i, status) = nodes.better(a, b);
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

#[cfg(test)]
mod tests {
    use proptest::{collection, prop_assert, prop_oneof, proptest, strategy::Just};

    use super::*;
    use crate::strategy::testing::{Nodes, any_nodes};

    use Status::{Busy, Closed, Open};

    fn picks(nodes: &Nodes) -> Vec<usize> {
        nodes.picks(&P2c::new(), 10_000)
    }

    #[test]
    fn of_two_the_less_loaded_always_wins() {
        let mut two = Nodes::open(2);
        two.load = vec![3.0, 2.0];
        assert_eq!(picks(&two), [0, 10_000]);
    }

    #[test]
    fn the_most_loaded_of_many_never_wins() {
        let mut many = Nodes::open(5);
        many.load = vec![1.0, 1.0, 9.0, 1.0, 1.0];
        assert_eq!(picks(&many)[2], 0, "it is always compared with another one");
    }

    #[test]
    fn status_goes_before_load() {
        let mut two = Nodes::new(&[Busy, Open]);
        two.load = vec![0.0, 99.0];
        assert_eq!(picks(&two), [0, 10_000]);
    }

    #[test]
    fn among_different_weights_the_second_must_stay_better_with_the_request() {
        let mut two = Nodes::weighted(&[3.0, 1.0]);
        two.load = vec![2.0, 1.0];
        let light = picks(&two)[1];
        assert!((2_350..2_650).contains(&light), "{light}");
        two.load = vec![2.1, 1.0];
        assert_eq!(picks(&two)[1], 10_000);
    }

    #[test]
    fn fails_open_on_the_best_there_is() {
        let none = Nodes::new(&[Closed, Busy, Closed, Busy]);
        let seen = picks(&none);
        assert_eq!((seen[0], seen[2]), (0, 0));
        assert!((4_800..5_200).contains(&seen[1]), "{seen:?}");
        assert_eq!(none.gave_up.get(), 10_000);
    }

    #[test]
    fn pairs_without_load_are_counted_by_sample() {
        let count = |nodes: &Nodes| {
            let mut rng = SplitMix::new(7);
            for _ in 0..16_000 {
                P2c::new().pick(nodes, Draw::new(rng.next()));
            }
            nodes.both_idle.get()
        };
        let mut nodes = Nodes::open(2);
        assert!((14_000..18_000).contains(&count(&nodes)), "{}", nodes.both_idle.get());
        // One of a pair is enough.
        nodes = Nodes::open(2);
        nodes.load[1] = 0.5;
        assert_eq!(count(&nodes), 0);
    }

    #[test]
    fn gives_up_after_max_effort_and_not_before() {
        // The draw never hits the only open one, so all effort is spent.
        let stuck = Nodes::new(&[Busy, Busy, Open]);
        stuck.script.replace([0, 1].repeat(4));
        let p2c = P2c::new().max_effort(NonZeroUsize::new(3).unwrap());
        assert_eq!(p2c.pick(&stuck, Draw::new(1)), 2);
        assert_eq!((stuck.script.borrow().len(), stuck.gave_up.get()), (2, 1));
    }

    #[test]
    fn no_effort_is_much_greater_than_to_look_at_all() {
        let stuck = Nodes::new(&[Busy, Busy, Open]);
        stuck.script.replace([0, 1].repeat(100));
        assert_eq!(P2c::new().max_effort(NonZeroUsize::MAX).pick(&stuck, Draw::new(1)), 2);
        assert_eq!((stuck.script.borrow().len(), stuck.gave_up.get()), (200 - 2 * 14, 1));
    }

    proptest! {
        #[test]
        fn never_a_closed_or_busy_one_while_one_is_open(nodes in any_nodes(), random: u64) {
            prop_assert!(nodes.is_best(P2c::new().pick(&nodes, Draw::new(random))));
        }

        #[test]
        fn the_two_are_distinct(weight in collection::vec(prop_oneof![Just(1.0), 1e-9..1e9_f64], 2..20), seed: u64) {
            let nodes = Nodes::weighted(&weight);
            let (a, b) = pair(&nodes, &mut SplitMix::new(seed));
            prop_assert!(a != b && a < nodes.len() && b < nodes.len());
        }
    }
}
