//! The least loaded of all.

use super::{Candidates, Draw, Strategy};
use crate::{
    health::Status,
    rng::{self, SplitMix},
};

/// Least loaded of all: looks at every endpoint and takes the best one. Linkerd's `heap`.
///
/// Better is the better status, then the lower load; of equals one is drawn in proportion to the weights. Where the
/// weights of the best differ, load alone would make them count for little while there is little to do: then one is
/// drawn by weight from those that no other would undercut *with* the request, and replaced by the least loaded of its
/// own weight. With two endpoints that is what [`P2c`](super::P2c) does.
///
/// # Cost
///
/// One look at each endpoint, three where weights differ, and no lock: 0.2 to 0.3 µs for 10 endpoints, 1.4 to 2.8 µs
/// for 100, more than 20 µs for 1,000, whose numbers no longer fit a near cache. [`P2c`](super::P2c) takes 0.08 µs
/// whatever their number, and its queues are hardly longer: use that for large sets.
///
/// After Finagle's `HeapBalancer` (Apache-2.0) in what it picks, not how: that one keeps a heap of request counts, which
/// each start *and* end of a request reorders under one lock that all share. A scan sees loads that change with time
/// alone, as peak EWMA does, which no heap could, and Finagle's knew no weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heap;

impl Heap {
    /// There is nothing to set.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Strategy for Heap {
    fn name(&self) -> &'static str {
        "heap"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        let mut rng = SplitMix::new(draw.random);
        let best = Best::of(nodes, &mut rng);
        if best.status != Status::Open {
            nodes.gave_up();
        }
        if best.same_weight {
            return best.least.chosen;
        }
        let mut drawn = Lottery::new(best.least.chosen);
        for i in best.peers(nodes) {
            if nodes.load(i, 0) <= best.undercut {
                drawn.offer(i, nodes.weight(i), &mut rng);
            }
        }
        let weight = nodes.weight(drawn.chosen);
        let mut least = Least::new(drawn.chosen);
        for i in best.peers(nodes).filter(|&i| nodes.weight(i) == weight) {
            least.offer(i, nodes.load(i, 0), weight, &mut rng);
        }
        least.chosen
    }
}

/// What one look at all tells of those with the best status.
struct Best {
    status: Status,
    weight: f64,
    same_weight: bool,
    least: Least,
    // The least load that any of them would have with one request more.
    undercut: f64,
}

impl Best {
    fn of(nodes: &dyn Candidates, rng: &mut SplitMix) -> Self {
        let start = |status, i| Self {
            status,
            weight: nodes.weight(i),
            same_weight: true,
            least: Least::new(i),
            undercut: f64::INFINITY,
        };
        let mut best = start(nodes.status(0), 0);
        for i in 0..nodes.len() {
            let status = nodes.status(i);
            if status < best.status {
                continue;
            }
            if status > best.status {
                best = start(status, i);
            }
            let weight = nodes.weight(i);
            best.same_weight &= weight == best.weight;
            best.least.offer(i, nodes.load(i, 0), weight, rng);
            best.undercut = best.undercut.min(nodes.load(i, 1));
        }
        best
    }

    fn peers<'a>(&'a self, nodes: &'a dyn Candidates) -> impl Iterator<Item = usize> + 'a {
        (0..nodes.len()).filter(|&i| nodes.status(i) >= self.status)
    }
}

/// The least loaded so far; of equals, one by weight.
struct Least {
    load: f64,
    ties: Lottery,
    chosen: usize,
}

impl Least {
    const fn new(first: usize) -> Self {
        Self { load: f64::INFINITY, ties: Lottery::new(first), chosen: first }
    }

    fn offer(&mut self, i: usize, load: f64, weight: f64, rng: &mut SplitMix) {
        if load < self.load {
            self.load = load;
            self.ties = Lottery { total: weight, chosen: i };
        } else if load == self.load {
            self.ties.offer(i, weight, rng);
        }
        self.chosen = self.ties.chosen;
    }
}

/// One of those offered, each by chance in proportion to its weight, however many there will be.
struct Lottery {
    total: f64,
    chosen: usize,
}

impl Lottery {
    const fn new(none: usize) -> Self {
        Self { total: 0.0, chosen: none }
    }

    fn offer(&mut self, i: usize, weight: f64, rng: &mut SplitMix) {
        self.total += weight;
        if rng::unit(rng.next()) * self.total < weight {
            self.chosen = i;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;
    use crate::strategy::testing::{Nodes, any_nodes};

    use Status::{Busy, Closed, Open};

    fn picks(nodes: &Nodes) -> Vec<usize> {
        nodes.picks(&Heap::new(), 10_000)
    }

    #[test]
    fn the_least_loaded_of_all_always_wins() {
        let mut nodes = Nodes::open(5);
        nodes.load = vec![3.0, 2.0, 1.0, 2.0, 1.5];
        assert_eq!(picks(&nodes), [0, 0, 10_000, 0, 0]);
    }

    #[test]
    fn equals_share_evenly() {
        let mut nodes = Nodes::open(5);
        nodes.load[3] = 1.0;
        let seen = picks(&nodes);
        assert_eq!(seen[3], 0);
        assert!([0, 1, 2, 4].iter().all(|&i| (2_300..2_700).contains(&seen[i])), "{seen:?}");
    }

    #[test]
    fn status_goes_before_load() {
        let mut nodes = Nodes::new(&[Busy, Closed, Open]);
        nodes.load = vec![0.0, 0.0, 99.0];
        assert_eq!(picks(&nodes), [0, 0, 10_000]);
        nodes.status[2] = Closed;
        assert_eq!(picks(&nodes), [10_000, 0, 0], "busy is better than closed");
        assert_eq!(nodes.gave_up.get(), 10_000);
    }

    #[test]
    fn an_idle_light_one_does_not_take_what_a_heavy_one_can_bear() {
        let mut two = Nodes::weighted(&[3.0, 1.0]);
        two.load = vec![1.0, 0.0];
        let seen = picks(&two);
        assert!((7_300..7_700).contains(&seen[0]), "{seen:?}");
        two.load = vec![1.1, 0.0];
        assert_eq!(picks(&two), [0, 10_000], "but with the request it would still be less loaded");
    }

    #[test]
    fn of_one_weight_only_the_least_loaded_is_taken() {
        let mut nodes = Nodes::weighted(&[3.0, 1.0, 1.0]);
        nodes.load = vec![0.0, 0.5, 0.2];
        let seen = picks(&nodes);
        assert_eq!(seen[1], 0);
        assert!((5_800..6_200).contains(&seen[0]), "{seen:?}");
    }

    #[test]
    fn loads_that_are_no_numbers_do_no_harm() {
        let mut nodes = Nodes::weighted(&[3.0, 1.0, 1.0]);
        nodes.load = vec![f64::NAN, f64::INFINITY, f64::NAN];
        assert_eq!(picks(&nodes).iter().sum::<usize>(), 10_000);
    }

    proptest! {
        #[test]
        fn never_a_closed_or_busy_one_while_one_is_open(nodes in any_nodes(), random: u64) {
            prop_assert!(nodes.is_best(Heap::new().pick(&nodes, Draw::new(random))));
        }

        #[test]
        fn never_one_while_another_would_be_less_loaded_even_with_the_request(nodes in any_nodes(), random: u64) {
            let i = Heap::new().pick(&nodes, Draw::new(random));
            let least = (0..nodes.len()).filter(|&i| nodes.is_best(i)).map(|i| nodes.load(i, 1)).fold(f64::MAX, f64::min);
            prop_assert!(nodes.load(i, 0) <= least);
        }
    }
}
