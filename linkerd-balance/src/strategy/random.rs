//! Chance alone.

use std::num::NonZeroUsize;

use super::{Candidates, Draw, Strategy, best_by_weight, effort};
use crate::{health::Status, rng::SplitMix};

/// An open endpoint by chance, in proportion to the weights. Load plays no part.
///
/// Draws up to [`max_effort`](Self::max_effort) times; after that it looks at all endpoints and draws from the open
/// ones, or if there is none from those with the best status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    max_effort: NonZeroUsize,
}

impl Random {
    /// Five draws at most, as [`P2c`](super::P2c) has it.
    pub const DEFAULT_MAX_EFFORT: NonZeroUsize = NonZeroUsize::new(5).unwrap();

    /// With the default effort.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_effort: Self::DEFAULT_MAX_EFFORT }
    }

    /// Draws at most so many times before it looks at all endpoints, and not more than `2n + 8` times of `n` endpoints.
    #[must_use]
    pub const fn max_effort(mut self, draws: NonZeroUsize) -> Self {
        self.max_effort = draws;
        self
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        let mut rng = SplitMix::new(draw.random);
        for _ in 0..effort(self.max_effort, nodes.len()) {
            let i = nodes.draw(rng.next());
            if nodes.status(i) == Status::Open {
                return i;
            }
        }
        nodes.gave_up();
        let any = |i| Some((nodes.status(i), nodes.weight(i)));
        best_by_weight(nodes.len(), any, rng.next()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;
    use crate::strategy::testing::{Nodes, any_nodes};

    use Status::{Busy, Closed, Open};

    #[test]
    fn open_ones_share_by_weight_whatever_their_load() {
        let mut nodes = Nodes::weighted(&[1.0, 3.0, 6.0]);
        nodes.status[2] = Busy;
        nodes.load[1] = 1e9;
        let seen = nodes.picks(&Random::new(), 10_000);
        assert!((2_350..2_650).contains(&seen[0]), "{seen:?}");
        assert_eq!(seen[2], 0);
    }

    #[test]
    fn looks_at_all_after_max_effort_and_not_before() {
        let nodes = Nodes::new(&[Closed, Busy, Open]);
        nodes.script.replace([0, 1].repeat(4));
        let random = Random::new().max_effort(NonZeroUsize::new(3).unwrap());
        assert_eq!(random.pick(&nodes, Draw::new(1)), 2);
        assert_eq!((nodes.script.borrow().len(), nodes.gave_up.get()), (5, 1));
    }

    #[test]
    fn no_effort_is_much_greater_than_to_look_at_all() {
        let nodes = Nodes::new(&[Closed, Busy, Open]);
        nodes.script.replace([0, 1].repeat(100));
        assert_eq!(Random::new().max_effort(NonZeroUsize::MAX).pick(&nodes, Draw::new(1)), 2);
        assert_eq!((nodes.script.borrow().len(), nodes.gave_up.get()), (200 - 14, 1));
    }

    proptest! {
        #[test]
        fn never_a_closed_or_busy_one_while_one_is_open(nodes in any_nodes(), random: u64) {
            prop_assert!(nodes.is_best(Random::new().pick(&nodes, Draw::new(random))));
        }
    }
}
