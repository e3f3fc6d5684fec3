//! What strategies that hash have in common: the key, room, slow starts, and a way out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Candidates, Draw, spread};
use crate::{
    health::Status,
    rng::{self, SplitMix},
};

/// A parameter of [`Ring`](super::Ring) or [`Maglev`](super::Maglev) is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHashing {
    /// A load factor that is not above one lets no endpoint take more than the mean, so some request fits nowhere.
    #[error("load factor {0} is not a finite number above one")]
    LoadFactor(f64),
    /// A ring has from 1 to 65,536 points for an endpoint.
    #[error("{0} points for an endpoint are not from 1 to 65536")]
    Points(usize),
    /// A ring has from 1 to 2²⁴ points in all.
    #[error("a ring of at most {0} points is not from 1 to 16777216")]
    RingSize(usize),
    /// A table has a prime number of entries, from 2 to 5,000,011.
    #[error("a table of {0} entries is not of a prime size from 2 to 5000011")]
    TableSize(usize),
}

/// How many candidates a key is offered, in its own order, before all are looked at.
pub(super) const EFFORT: usize = 64;

pub(super) const DEFAULT_LOAD_FACTOR: f64 = 1.25;

/// The hash of what decides where a request goes: its key, or chance for one that has none.
pub(super) fn position(draw: Draw) -> u64 {
    SplitMix::new(draw.key.unwrap_or(draw.random)).next()
}

/// The endpoint of a key: the first of its candidates that is open and has room.
///
/// If [`EFFORT`] candidates bring none it is, of all those that have the best status and room, the one with the highest
/// score for this key (rendezvous hashing): the same for every client that sees the same.
pub(super) fn pick(nodes: &dyn Candidates, key: u64, room: &Room, candidates: impl Iterator<Item = usize>) -> usize {
    let mut open = false;
    for i in candidates.take(EFFORT) {
        if nodes.status(i) != Status::Open {
            continue;
        }
        open = true;
        if has_started(nodes, i, key) && room.is_in(nodes, i, || room.mean(nodes)) {
            return i;
        }
    }
    if !open {
        nodes.gave_up();
    }
    rendezvous(nodes, key, room)
}

/// Whether `i` takes this key while it starts slowly. Keys that it takes it keeps.
fn has_started(nodes: &dyn Candidates, i: usize, key: u64) -> bool {
    let started = nodes.weight(i) / nodes.full_weight(i);
    started >= 1.0 || rng::unit(SplitMix::new(key ^ nodes.id(i)).next()) < started
}

fn rendezvous(nodes: &dyn Candidates, key: u64, room: &Room) -> usize {
    let mean = room.refresh(nodes);
    let score = |i| {
        let unit = rng::unit(SplitMix::new(key ^ nodes.id(i)).next());
        // Exponential races: the higher the weight, the nearer to zero, and each wins in proportion to its weight.
        unit.max(f64::MIN_POSITIVE).ln() / nodes.weight(i)
    };
    let rank = |i| (nodes.status(i), room.is_in(nodes, i, || mean), score(i));
    let mut best = (0, rank(0));
    for i in 1..nodes.len() {
        let rank = rank(i);
        if rank > best.1 {
            best = (i, rank);
        }
    }
    best.0
}

/// Bounds what is in flight at one endpoint to a multiple of the mean, after Mirrokni, Thorup and Zadimoghaddam (2016).
///
/// An endpoint has room while it has fewer requests in flight than `factor` times its share, by weight, of those in
/// flight at all open endpoints and the one to come, rounded up. So one of the open endpoints always has room.
#[derive(Debug)]
pub(super) struct Room {
    factor: Option<f64>,
    // Requests in flight for each unit of weight, the one to come among them: an `f64`.
    mean: AtomicU64,
    // When and for how many picks `mean` is good, in sets where adding up takes long.
    until: AtomicU64,
    picks: AtomicI64,
    epoch: Instant,
}

/// Sets of up to so many are added up for each pick.
const SMALL: usize = 64;
/// In larger ones a sum is good for so long,
const GOOD_FOR: Duration = Duration::from_millis(1);
/// and for one pick for so many endpoints.
const SHARE: usize = 16;

impl Room {
    pub(super) fn new(factor: Option<f64>, now: Instant) -> Self {
        Self { factor, mean: AtomicU64::new(0), until: AtomicU64::new(0), picks: AtomicI64::new(0), epoch: now }
    }

    pub(super) fn checked(factor: Option<f64>) -> Result<Option<f64>, InvalidHashing> {
        match factor {
            Some(factor) if !(factor.is_finite() && factor > 1.0) => Err(InvalidHashing::LoadFactor(factor)),
            _ => Ok(factor),
        }
    }

    fn is_in(&self, nodes: &dyn Candidates, i: usize, mean: impl Fn() -> f64) -> bool {
        let Some(factor) = self.factor else { return true };
        let pending = nodes.pending(i);
        // Rounded up, a share is at least one.
        pending == 0 || (pending as f64) < (factor * nodes.weight(i) * mean()).ceil()
    }

    fn mean(&self, nodes: &dyn Candidates) -> f64 {
        // Relaxed here and below: a mean that is late by a moment, or added up twice, is as good.
        let fresh = nodes.len() > SMALL
            && self.since_epoch(nodes.now()) < self.until.load(Ordering::Relaxed)
            && self.picks.fetch_sub(1, Ordering::Relaxed) > 0;
        if fresh { f64::from_bits(self.mean.load(Ordering::Relaxed)) } else { self.refresh(nodes) }
    }

    fn refresh(&self, nodes: &dyn Candidates) -> f64 {
        let (mut pending, mut weight) = (1.0, 0.0);
        for i in (0..nodes.len()).filter(|&i| nodes.status(i) == Status::Open) {
            pending += nodes.pending(i) as f64;
            weight += nodes.weight(i);
        }
        // Nothing open: everything has room.
        let mean = if weight > 0.0 { pending / weight } else { f64::INFINITY };
        self.mean.store(mean.to_bits(), Ordering::Relaxed);
        self.picks.store(i64::try_from(nodes.len() / SHARE).unwrap_or(i64::MAX), Ordering::Relaxed);
        let until = self.since_epoch(nodes.now()).saturating_add(GOOD_FOR.as_nanos() as u64);
        self.until.store(until, Ordering::Relaxed);
        mean
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

/// The endpoints of a set in the order of their ids, in which every client has them, and what was prepared of them.
#[derive(Debug)]
pub(super) struct Prepared<T> {
    // Ids and full weights.
    by_id: Vec<(u64, f64)>,
    // From the place in `by_id` to the one in the set.
    index: Vec<u32>,
    table: Arc<T>,
}

impl<T> Prepared<T> {
    /// Prepares a table of the endpoints' ids and full weights, unless `before` has it already.
    pub(super) fn new(nodes: &dyn Candidates, before: Option<&Self>, table: impl FnOnce(&[(u64, f64)]) -> T) -> Self {
        let order = spread::sorted((0..nodes.len()).map(|i| (nodes.id(i), i as u32)));
        let by_id: Vec<_> = order.iter().map(|&(id, i)| (id, nodes.full_weight(i as usize))).collect();
        let index = order.into_iter().map(|(_, i)| i).collect();
        let table = match before {
            Some(before) if before.by_id == by_id => Arc::clone(&before.table),
            _ => Arc::new(table(&by_id)),
        };
        Self { by_id, index, table }
    }

    /// The table, and from places in it to those in the set; none if it was made for a set of another size.
    pub(super) fn of<'a>(
        this: Option<&'a Self>,
        nodes: &dyn Candidates,
    ) -> Option<(&'a T, impl Fn(u32) -> usize + 'a)> {
        let this = this.filter(|this| this.index.len() == nodes.len())?;
        Some((&*this.table, |place| this.index[place as usize] as usize))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;
    use crate::strategy::{
        Maglev, Ring, Strategy,
        testing::{Nodes, any_nodes},
    };

    use Status::{Busy, Closed, Open};

    const KEYS: u64 = 100_000;

    fn unbounded() -> [Arc<dyn Strategy>; 2] {
        // Entries as the documentation recommends them for 100 endpoints.
        let maglev = Maglev::new().load_factor(None).unwrap().table_size(655_373).unwrap();
        [Arc::new(Ring::new().load_factor(None).unwrap()), Arc::new(maglev)]
    }

    fn bounded() -> [Arc<dyn Strategy>; 2] {
        [Arc::new(Ring::new()), Arc::new(Maglev::new())]
    }

    fn on(strategy: &Arc<dyn Strategy>, nodes: &Nodes) -> Arc<dyn Strategy> {
        strategy.rebuild(nodes).expect("hashing prepares")
    }

    fn pick(strategy: &Arc<dyn Strategy>, nodes: &Nodes, key: u64) -> usize {
        // Chance must not matter where there is a key.
        strategy.pick(nodes, Draw::new(rng::thread()).with_key(key))
    }

    /// To which id each key goes.
    fn owners(strategy: &Arc<dyn Strategy>, nodes: &Nodes) -> Vec<u64> {
        (0..KEYS).map(|key| nodes.id[pick(strategy, nodes, key)]).collect()
    }

    fn moved(before: &[u64], after: &[u64]) -> f64 {
        before.iter().zip(after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64
    }

    #[test]
    fn one_of_n_that_comes_or_goes_moves_little_more_than_its_share() {
        for strategy in unbounded() {
            for n in [10, 100] {
                let all = Nodes::open(n);
                let before = owners(&on(&strategy, &all), &all);
                for gone in [0, n / 3, n - 1] {
                    let rest = all.without(gone);
                    let after = owners(&on(&strategy, &rest), &rest);
                    // The same two sets, so it is the same when one comes.
                    let moved = moved(&before, &after);
                    assert!(moved > 0.5 / n as f64, "{} {n}: {moved}", strategy.name());
                    assert!(moved <= 1.2 / n as f64, "{} {n}: {moved}", strategy.name());
                }
            }
        }
    }

    #[test]
    fn on_a_ring_only_the_keys_of_the_one_that_went_move() {
        let [ring, _] = unbounded();
        let all = Nodes::open(10);
        let (before, rest) = (owners(&on(&ring, &all), &all), all.without(3));
        let after = owners(&on(&ring, &rest), &rest);
        assert!(before.iter().zip(&after).all(|(a, b)| a == b || *a == all.id[3]));
    }

    #[test]
    fn clients_agree_whatever_the_order_they_know_endpoints_in() {
        for strategy in unbounded().into_iter().chain(bounded()) {
            let nodes = Nodes::weighted(&[1.0, 2.0, 3.0, 4.0, 5.0]);
            let mut other = nodes.clone();
            other.id.reverse();
            other.weight.reverse();
            assert_eq!(owners(&on(&strategy, &nodes), &nodes), owners(&on(&strategy, &other), &other));
        }
    }

    #[test]
    fn a_set_in_another_order_is_not_prepared_again() {
        let nodes = Nodes::open(3);
        let mut other = nodes.clone();
        other.id.reverse();
        let first = Prepared::new(&nodes, None, |_| 1);
        let second = Prepared::new(&other, Some(&first), |_| 2);
        assert_eq!(*second.table, 1);
        assert!(first.index.iter().zip(&second.index).all(|(a, b)| *b == 2 - a));
        other.weight[0] = 2.0;
        assert_eq!(*Prepared::new(&other, Some(&first), |_| 2).table, 2);
    }

    #[test]
    fn while_one_is_not_open_others_have_its_keys_and_it_gets_them_back() {
        for strategy in unbounded() {
            let mut nodes = Nodes::open(10);
            let strategy = on(&strategy, &nodes);
            let before = owners(&strategy, &nodes);
            for status in [Busy, Closed] {
                nodes.status[4] = status;
                let without = owners(&strategy, &nodes);
                assert!(before.iter().zip(&without).all(|(a, b)| (a == b) == (*a != nodes.id[4])));
            }
            assert_eq!(nodes.gave_up.get(), 0);
            nodes.status[4] = Open;
            assert_eq!(before, owners(&strategy, &nodes));
        }
    }

    #[test]
    fn one_open_of_many_is_found() {
        for strategy in unbounded().into_iter().chain(bounded()) {
            let mut nodes = Nodes::new(&[Closed; 500]);
            nodes.status[123] = Open;
            let strategy = on(&strategy, &nodes);
            assert!((0..100).all(|key| pick(&strategy, &nodes, key) == 123));
            assert!(nodes.gave_up.get() > 50);
        }
    }

    #[test]
    fn a_popular_key_fills_one_endpoint_after_the_other_and_none_beyond_its_bound() {
        for strategy in bounded() {
            for n in [2, 10, 200] {
                let mut nodes = Nodes::open(n);
                for i in (0..n).step_by(3) {
                    nodes.weight[i] = 2.0;
                }
                nodes.status[1] = if n > 2 { Closed } else { Open };
                let strategy = on(&strategy, &nodes);
                let weight: f64 = (0..n).filter(|&i| nodes.status[i] == Open).map(|i| nodes.weight[i]).sum();
                for m in 1..=2_000_u32 {
                    let i = pick(&strategy, &nodes, 7);
                    assert_eq!(nodes.status[i], Open);
                    nodes.pending[i] += 1;
                    let bound = (1.25 * f64::from(m) * nodes.weight[i] / weight).ceil() as usize;
                    assert!(nodes.pending[i] <= bound, "{} of {bound} at {m} of {n}", nodes.pending[i]);
                }
                assert_eq!(nodes.gave_up.get(), 0, "all this time some were open");
            }
        }
    }

    #[test]
    fn in_a_large_set_a_sum_is_old_for_a_millisecond_at_most() {
        let [ring, _] = bounded();
        let mut nodes = Nodes::open(200);
        nodes.pending.fill(10);
        let ring = on(&ring, &nodes);
        let home = pick(&ring, &nodes, 7);
        nodes.pending.fill(0);
        nodes.pending[home] = 10;
        assert_eq!(pick(&ring, &nodes, 7), home, "as if all were loaded still");
        nodes.now += GOOD_FOR;
        assert_ne!(pick(&ring, &nodes, 7), home);

        nodes.pending.fill(10);
        nodes.now += GOOD_FOR;
        assert_eq!(pick(&ring, &nodes, 7), home);
        nodes.pending.fill(0);
        nodes.pending[home] = 10;
        let picks = (0..200).take_while(|_| pick(&ring, &nodes, 7) == home).count();
        assert!(picks <= 200 / SHARE, "or for {picks} picks");
    }

    #[test]
    fn without_a_bound_a_key_stays_where_it_is() {
        for strategy in unbounded() {
            let mut nodes = Nodes::open(10);
            let strategy = on(&strategy, &nodes);
            let home = pick(&strategy, &nodes, 7);
            nodes.pending[home] = 1_000_000;
            assert_eq!(pick(&strategy, &nodes, 7), home);
        }
    }

    #[test]
    fn one_that_starts_slowly_takes_its_keys_bit_by_bit_and_keeps_them() {
        for strategy in unbounded() {
            let mut nodes = Nodes::open(10);
            nodes.started[3] = 0.1;
            let strategy = on(&strategy, &nodes);
            let keys = |nodes: &Nodes| {
                let owners = owners(&strategy, nodes);
                owners.iter().map(|id| *id == nodes.id[3]).collect::<Vec<_>>()
            };
            let mut before = vec![false; KEYS as usize];
            for started in [0.1, 0.3, 1.0] {
                nodes.started[3] = started;
                let now = keys(&nodes);
                let share = now.iter().filter(|its| **its).count() as f64 / KEYS as f64;
                assert!((share / (0.1 * started) - 1.0).abs() < 0.15, "{share} at {started}");
                assert!(before.iter().zip(&now).all(|(before, now)| *now || !before));
                before = now;
            }
        }
    }

    #[test]
    fn requests_without_a_key_are_spread() {
        for strategy in unbounded() {
            let nodes = Nodes::open(4);
            let seen = nodes.picks(&*on(&strategy, &nodes), 10_000);
            assert!(seen.iter().all(|n| (2_100..2_900).contains(n)), "{seen:?}");
        }
    }

    #[test]
    fn unprepared_it_hashes_with_each() {
        for strategy in unbounded() {
            let all = Nodes::weighted(&[1.0, 1.0, 2.0]);
            let (before, rest) = (owners(&strategy, &all), all.without(0));
            let share = before.iter().filter(|id| **id == all.id[2]).count();
            assert!((49_000..51_000).contains(&share), "{share}");
            let after = owners(&strategy, &rest);
            assert!(before.iter().zip(&after).all(|(a, b)| a == b || *a == all.id[0]));
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        for bad in [1.0, 0.0, -2.0, f64::NAN, f64::INFINITY] {
            let message = format!("load factor {bad} is not a finite number above one");
            assert_eq!(Ring::new().load_factor(Some(bad)).unwrap_err().to_string(), message);
            assert_eq!(Maglev::new().load_factor(Some(bad)).unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn never_a_closed_or_busy_one_while_one_is_open(nodes in any_nodes(), key: u64) {
            let ring: Arc<dyn Strategy> = Arc::new(Ring::new().points(8).unwrap());
            for strategy in [ring, Arc::new(Maglev::new().table_size(1_009).unwrap())] {
                prop_assert!(nodes.is_best(pick(&strategy, &nodes, key)));
                prop_assert!(nodes.is_best(pick(&on(&strategy, &nodes), &nodes, key)));
            }
        }
    }
}
