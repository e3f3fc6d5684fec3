//! One after the other.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use self::turns::Turns;
use super::{Candidates, Draw, Strategy, effort};
use crate::{health::Status, member::Seed, rng::SplitMix};

mod turns;

/// Each endpoint in turn, by weight, whatever its load. Linkerd's `roundRobin`.
///
/// *Exact*: after any number of picks each endpoint was picked as often as its weight says, give or take less than one
/// pick, over all clones and threads together. *Smooth*: a heavy one's turns are spread, not in a row. Endpoints of the
/// same weight follow each other in an order drawn with the first pick, so that clients that start together do not walk
/// in step.
///
/// One whose turn it is and that is not open loses that turn and is owed nothing. The next one is asked, up to
/// [`max_effort`](Self::max_effort) times; then it is the turn of the open one that waits the longest for its weight,
/// found by looking at all, or if there is none of one with the best status. While none is open, picks look at all first
/// and charge nobody but whom they pick, so that those with the best status go on taking turns by weight.
///
/// Changes of the set keep everybody's place in the order. Weights are followed while an endpoint starts slowly: each
/// pick looks at one more, so a change is known after as many picks as there are endpoints.
///
/// # Cost
///
/// A pick holds one short lock, allocates nothing, and takes `O(log n)` steps for `n` endpoints: 0.10 µs for 10, 0.14 µs
/// for 1,000, 0.31 µs for 10,000, where [`P2c`](super::P2c) takes 0.08 µs. If `max_effort` is spent it looks at all with
/// the lock held. An update of the set takes `O(n)`, and holds the lock for a copy.
///
/// After Finagle's `RoundRobinBalancer` (Apache-2.0), which knew no weights; the order is that of Tijdeman's chairman
/// assignment (1980), which unlike nginx's smooth weighted round robin need not look at all, and unlike a queue of plain
/// deadlines bounds how far anybody is *ahead*.
#[derive(Debug)]
pub struct RoundRobin {
    max_effort: NonZeroUsize,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    // None before the first pick, which draws it.
    salt: Option<u64>,
    ids: Vec<u64>,
    // What weights are divided by, for them to be about 1.
    scale: f64,
    turns: Turns,
    // As of the last pick.
    none_open: bool,
}

/// No weight counts for less than this part of the mean: turns further apart than this many would be lost in rounding.
const LEAST: f64 = 1e-9;

impl RoundRobin {
    /// Asks five at most: Linkerd's `maxEffort`.
    pub const DEFAULT_MAX_EFFORT: NonZeroUsize = NonZeroUsize::new(5).unwrap();

    /// With the default effort.
    #[must_use]
    pub fn new() -> Self {
        Self { max_effort: Self::DEFAULT_MAX_EFFORT, state: Mutex::default() }
    }

    /// Asks at most so many before it looks at all endpoints, and not more than `2n + 8` of `n` endpoints.
    #[must_use]
    pub fn max_effort(mut self, turns: NonZeroUsize) -> Self {
        self.max_effort = turns;
        self
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for RoundRobin {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.prepare(nodes, draw);
        let State { scale, turns, none_open, .. } = &mut *state;
        let weight = |i| scaled(nodes.weight(i), *scale);
        turns.follow(weight);
        if *none_open {
            // To ask in turn would charge turns that nobody gets, always the same ones' if their number fits.
            turns.next();
            let best = soonest_of_best(nodes, turns);
            if nodes.status(best) != Status::Open {
                nodes.gave_up();
                turns.take(best, weight(best));
                return best;
            }
            *none_open = false;
        }
        for _ in 0..effort(self.max_effort, nodes.len()) {
            let i = turns.next();
            turns.take(i, weight(i));
            if nodes.status(i) == Status::Open {
                return i;
            }
        }
        nodes.gave_up();
        let best = soonest_of_best(nodes, turns);
        *none_open = nodes.status(best) != Status::Open;
        turns.take(best, weight(best));
        best
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        // A copy, so that picks from the set that is in use wait for no more than that.
        let before = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let state = Mutex::new(before.rebuilt(nodes));
        Some(Arc::new(Self { max_effort: self.max_effort, state }))
    }
}

impl State {
    /// Sees to it that the turns are those of these candidates, and their order drawn.
    fn prepare(&mut self, nodes: &dyn Candidates, draw: Draw) {
        if self.ids.len() != nodes.len() {
            // Somebody uses the strategy without preparing it.
            *self = self.rebuilt(nodes);
        }
        if self.salt.is_none() {
            self.salt = Some(draw.random);
            self.turns.shuffle(|i| tie(self.ids[i], draw.random));
        }
    }

    fn rebuilt(&self, nodes: &dyn Candidates) -> Self {
        let n = nodes.len();
        let before: HashMap<u64, f64, Seed> =
            self.ids.iter().enumerate().map(|(i, id)| (*id, self.turns.progress(i))).collect();
        let ids: Vec<u64> = (0..n).map(|i| nodes.id(i)).collect();
        // Divided before they are added: a sum of finite numbers may be infinite.
        let scale = (0..n).map(|i| nodes.full_weight(i) / n as f64).sum::<f64>();
        let turn = |(i, id): (usize, &u64)| {
            let progress = before.get(id).copied().unwrap_or(0.0);
            (scaled(nodes.weight(i), scale), progress, tie(*id, self.salt.unwrap_or(0)))
        };
        let turns = Turns::new(ids.iter().enumerate().map(turn));
        Self { salt: self.salt, ids, scale, turns, none_open: self.none_open }
    }
}

/// Of those with the best status the one that waits the longest for its weight.
fn soonest_of_best(nodes: &dyn Candidates, turns: &Turns) -> usize {
    let mut best = 0;
    let mut best_status = nodes.status(0);
    for i in 1..nodes.len() {
        let status = nodes.status(i);
        if status > best_status || (status == best_status && turns.is_sooner(i, best)) {
            (best, best_status) = (i, status);
        }
    }
    best
}

fn scaled(weight: f64, scale: f64) -> f64 {
    (weight / scale).max(LEAST)
}

fn tie(id: u64, salt: u64) -> u64 {
    SplitMix::new(id ^ salt).next()
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;
    use crate::strategy::testing::{Nodes, any_nodes};

    use Status::{Busy, Closed, Open};

    fn next(strategy: &dyn Strategy, nodes: &Nodes) -> usize {
        strategy.pick(nodes, Draw::new(7))
    }

    #[test]
    fn each_in_turn_in_an_order_that_chance_decides() {
        let nodes = Nodes::open(8);
        let order = |random| -> Vec<_> {
            let robin = RoundRobin::new();
            (0..24).map(|_| robin.pick(&nodes, Draw::new(random))).collect()
        };
        let seven = order(7);
        assert_eq!(seven[..8], seven[8..16]);
        let mut once = seven[..8].to_vec();
        once.sort_unstable();
        assert_eq!(once, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_ne!(seven, order(8), "clients do not walk in step");
    }

    #[test]
    fn who_is_not_open_loses_the_turn_and_is_owed_nothing() {
        let mut nodes = Nodes::weighted(&[1.0, 2.0, 1.0]);
        let robin = RoundRobin::new();
        nodes.status[1] = Busy;
        assert_eq!(nodes.picks(&robin, 100), [50, 0, 50]);
        nodes.status[1] = Open;
        let seen = nodes.picks(&robin, 100);
        assert!((49..=51).contains(&seen[1]), "{seen:?}");
        assert_eq!(nodes.gave_up.get(), 0);
    }

    #[test]
    fn weights_hold_among_few_open_ones_of_many() {
        let mut nodes = Nodes::new(&[Closed; 100]);
        nodes.weight[42] = 3.0;
        (nodes.status[42], nodes.status[77]) = (Open, Open);
        let robin = RoundRobin::new();
        let seen = nodes.picks(&robin, 1_000);
        assert!((745..=755).contains(&seen[42]) && (245..=255).contains(&seen[77]), "{seen:?}");
        assert!(nodes.gave_up.get() > 900);
        // And nobody is behind or ahead once all are open.
        nodes.status.fill(Open);
        let seen = nodes.picks(&robin, 1_020);
        assert!(seen.iter().enumerate().all(|(i, n)| i == 42 || (9..=11).contains(n)), "{seen:?}");
    }

    #[test]
    fn nothing_open_means_the_best_in_turn() {
        let nodes = Nodes::new(&[Closed, Busy, Closed, Busy]);
        assert_eq!(nodes.picks(&RoundRobin::new(), 100), [0, 50, 0, 50]);
    }

    #[test]
    fn with_none_open_all_take_turns_by_weight_however_many() {
        for status in [Busy, Closed] {
            for n in 1..=12 {
                let mut nodes = Nodes::new(&vec![status; n]);
                let seen = nodes.picks(&RoundRobin::new(), 60 * n);
                assert!(seen.iter().all(|s| (58..=62).contains(s)), "{status:?} {n}: {seen:?}");

                nodes.weight[n / 2] = 3.0;
                let seen = nodes.picks(&RoundRobin::new(), 60 * (n + 2));
                let is_fair = |(i, s): (usize, &usize)| s.abs_diff(if i == n / 2 { 180 } else { 60 }) <= 3;
                assert!(seen.iter().enumerate().all(is_fair), "{status:?} {n}: {seen:?}");
            }
        }
    }

    #[test]
    fn one_that_opens_is_found_and_the_round_goes_on() {
        let mut nodes = Nodes::new(&[Busy; 6]);
        let robin = RoundRobin::new();
        nodes.picks(&robin, 100);
        nodes.status[3] = Open;
        assert_eq!(nodes.picks(&robin, 10), [0, 0, 0, 10, 0, 0]);
        nodes.status.fill(Open);
        let seen = nodes.picks(&robin, 120);
        assert!(seen.iter().all(|s| (19..=21).contains(s)), "{seen:?}");
    }

    #[test]
    fn a_change_of_the_set_keeps_everybodys_place() {
        let nodes = Nodes::open(10);
        let mut robin = RoundRobin::new().rebuild(&nodes).unwrap();
        let mut seen: Vec<_> = (0..5).map(|_| nodes.id[next(&*robin, &nodes)]).collect();
        // One that was picked goes, one that was not stays: the round goes on where it was.
        let gone = nodes.id.iter().position(|id| *id == seen[0]).unwrap();
        let rest = nodes.without(gone);
        robin = robin.rebuild(&rest).unwrap();
        seen.extend((0..5).map(|_| rest.id[next(&*robin, &rest)]));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10, "nobody twice");
    }

    #[test]
    fn updates_at_every_pick_starve_nobody() {
        let mut nodes = Nodes::open(10);
        let mut robin: Arc<dyn Strategy> = Arc::new(RoundRobin::new());
        let mut seen = [0; 10];
        for n in 0..1_000 {
            nodes.weight[0] = 1.0 + f64::from(n % 2) / 100.0;
            robin = robin.rebuild(&nodes).unwrap();
            seen[next(&*robin, &nodes)] += 1;
        }
        assert!(seen.iter().all(|n| (95..=105).contains(n)), "{seen:?}");
    }

    #[test]
    fn a_weight_changed_live_counts_from_then_on() {
        let mut nodes = Nodes::open(4);
        let mut robin = RoundRobin::new().rebuild(&nodes).unwrap();
        nodes.picks(&*robin, 101);
        nodes.weight[2] = 7.0;
        robin = robin.rebuild(&nodes).unwrap();
        let seen = nodes.picks(&*robin, 100);
        assert!((69..=71).contains(&seen[2]), "{seen:?}");
    }

    #[test]
    fn a_weight_that_grows_without_a_new_set_is_followed() {
        let mut nodes = Nodes::open(10);
        nodes.started[4] = 0.01;
        let robin = RoundRobin::new().rebuild(&nodes).unwrap();
        assert!(nodes.picks(&*robin, 90)[4] <= 1);
        nodes.started[4] = 1.0;
        let seen = nodes.picks(&*robin, 200);
        assert!((18..=21).contains(&seen[4]), "{seen:?}");
    }

    #[test]
    fn every_weight_there_can_be_does_no_harm() {
        let nodes = Nodes::weighted(&[f64::MAX, f64::MAX, 5e-324, f64::MIN_POSITIVE, 1.0]);
        let seen = nodes.picks(&RoundRobin::new(), 1_000);
        assert!((499..=501).contains(&seen[0]) && (499..=501).contains(&seen[1]), "{seen:?}");
    }

    #[test]
    fn no_effort_is_much_greater_than_to_look_at_all() {
        // Would not be over otherwise.
        let nodes = Nodes::new(&[Closed, Busy, Closed]);
        assert_eq!(next(&RoundRobin::new().max_effort(NonZeroUsize::MAX), &nodes), 1);
        assert_eq!(nodes.gave_up.get(), 1);
    }

    proptest! {
        #[test]
        fn never_a_closed_or_busy_one_while_one_is_open(nodes in any_nodes(), random: u64) {
            let robin = RoundRobin::new();
            for n in 0..20 {
                prop_assert!(nodes.is_best(robin.pick(&nodes, Draw::new(random ^ n))));
            }
        }
    }
}
