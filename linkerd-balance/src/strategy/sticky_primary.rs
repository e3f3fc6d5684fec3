//! All to one, until it fails.

use std::{
    cmp::Reverse,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Candidates, Draw, Strategy, spread};
use crate::{
    health::Status,
    rng::{self, SplitMix},
};

/// Sends everything to one endpoint, the *primary*, as long as it is in the set and open; then another is the primary.
///
/// The next primary is the open one that is preferred most: the heaviest, and of equals the one with the highest
/// [id](Candidates::id), so that clients that see the same agree. [`in_order`](Self::in_order) prefers by the order of
/// the set instead. A request that was at the primary before is tried elsewhere without moving it. While none is open
/// the primary stays; a request goes to the most preferred with the best status, the primary first.
///
/// One that recovers is a stand-by, however much it is preferred, unless [`return_after`](Self::return_after) says
/// when to return: by itself nothing moves that works.
///
/// All traffic goes to one endpoint, so weights say no more than which, and a slow start means nothing.
///
/// Requests with a [key](Draw::key) have a primary for each key: the endpoint that wins a lottery held by key, id and
/// weight (rendezvous hashing: Thaler and Ravishankar 1998), or the next one while that is not open. Nothing is remembered
/// of keys, so a request returns as soon as its primary is open again, and removing one of N endpoints moves the keys of
/// that one alone. Unlike a ring it has no bound of load, and a pick looks at all endpoints.
///
/// # Cost
///
/// A pick looks at the primary alone, without a lock. While the primary is not the most preferred one and is to
/// return, or is not open, a short lock is held and endpoints are looked at in order of preference.
#[derive(Debug)]
pub struct StickyPrimary {
    in_order: bool,
    return_after: Option<Duration>,
    // Indices in the order of preference, and whose they are.
    order: Vec<usize>,
    ids: Vec<u64>,
    // Place of the primary in `order`; `NONE` before the first pick.
    primary: AtomicUsize,
    // Who moves the primary holds it.
    better: Mutex<Option<Better>>,
    // Whether a request had a key: then all endpoints may be somebody's.
    has_keys: AtomicBool,
}

/// One that is preferred to the primary, and open.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Better {
    id: u64,
    // The pick that found it open first.
    since: Instant,
}

const NONE: usize = usize::MAX;

impl StickyPrimary {
    /// Prefers the heaviest, never returns.
    #[must_use]
    pub fn new() -> Self {
        let primary = AtomicUsize::new(NONE);
        Self {
            in_order: false,
            return_after: None,
            order: Vec::new(),
            ids: Vec::new(),
            primary,
            better: Mutex::default(),
            has_keys: AtomicBool::new(false),
        }
    }

    /// Prefers endpoints as the set names them: the first is the primary, the second takes over, and so on.
    ///
    /// For lists that are written in that order. Clients agree only if they have the same list.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// Returns to a more preferred endpoint once all picks for so long found it open. Zero returns at once; `None`, the
    /// default, never.
    #[must_use]
    pub fn return_after(mut self, open_for: Option<Duration>) -> Self {
        self.return_after = open_for;
        self
    }

    fn better(&self) -> MutexGuard<'_, Option<Better>> {
        self.better.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first place in the order that is open, up to `end`.
    fn first_open(&self, nodes: &dyn Candidates, end: usize) -> Option<usize> {
        (0..end).find(|&place| nodes.status(self.order[place]) == Status::Open)
    }

    /// Which place is the primary's from now on, if any is open.
    fn decide(&self, nodes: &dyn Candidates, primary: usize, better: &mut Option<Better>) -> Option<usize> {
        let is_open = self.order.get(primary).is_some_and(|&i| nodes.status(i) == Status::Open);
        if !is_open {
            *better = None;
            return self.first_open(nodes, self.order.len());
        }
        let Some(return_after) = self.return_after else { return Some(primary) };
        let Some(place) = self.first_open(nodes, primary) else {
            *better = None;
            return Some(primary);
        };
        let (id, now) = (self.ids[place], nodes.now());
        let since = match *better {
            Some(better) if better.id == id => better.since,
            _ => now,
        };
        if now.saturating_duration_since(since) >= return_after {
            *better = None;
            return Some(place);
        }
        *better = Some(Better { id, since });
        Some(primary)
    }

    /// The primary of a key: of those with the best status, the one that wins.
    fn of_key(&self, nodes: &dyn Candidates, key: u64) -> usize {
        if !self.has_keys.load(Ordering::Relaxed) {
            self.has_keys.store(true, Ordering::Relaxed);
        }
        let luck = |i| {
            let random = rng::unit(SplitMix::new(key ^ nodes.id(i)).next());
            // Each wins as often as its weight says. Never a division by zero.
            nodes.weight(i) / -random.max(f64::MIN_POSITIVE).ln()
        };
        let mut best = (nodes.status(0), luck(0), 0);
        for i in 1..nodes.len() {
            let status = nodes.status(i);
            if status < best.0 {
                continue;
            }
            let luck = luck(i);
            if status > best.0 || luck > best.1 {
                best = (status, luck, i);
            }
        }
        if best.0 != Status::Open {
            nodes.gave_up();
        }
        best.2
    }

    /// For a request that cannot have the primary, or when none is open.
    fn instead(&self, nodes: &dyn Candidates, primary: usize) -> usize {
        let rank = |place: usize| (nodes.status(self.order[place]), place == primary, Reverse(place));
        let best = (0..self.order.len()).max_by_key(|&place| rank(place));
        best.map_or(0, |place| self.order[place])
    }
}

impl Default for StickyPrimary {
    fn default() -> Self {
        Self::new()
    }
}

impl Strategy for StickyPrimary {
    fn name(&self) -> &'static str {
        "sticky_primary"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() < 2 {
            return 0;
        }
        if let Some(key) = draw.key {
            return self.of_key(nodes, key);
        }
        if self.order.len() != nodes.len() {
            // Somebody uses the strategy without preparing it: then it remembers nothing.
            return self.rebuild(nodes).map_or(0, |prepared| prepared.pick(nodes, draw));
        }
        // Relaxed: the index stands alone.
        let primary = self.primary.load(Ordering::Relaxed);
        let i = self.order.get(primary).copied();
        let may_stay = primary == 0 || self.return_after.is_none();
        if let Some(i) = i
            && may_stay
            && nodes.status(i) == Status::Open
        {
            return i;
        }
        // What looks closed to a request that was there before tells nothing.
        if self.order.iter().any(|&i| nodes.excluded(i)) {
            return self.instead(nodes, primary);
        }
        let mut better = self.better();
        // Another pick may have moved it in the meantime.
        let primary = self.primary.load(Ordering::Relaxed);
        let Some(place) = self.decide(nodes, primary, &mut better) else {
            nodes.gave_up();
            return self.instead(nodes, primary);
        };
        self.primary.store(place, Ordering::Relaxed);
        self.order[place]
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        let mut order: Vec<_> = (0..nodes.len()).collect();
        if !self.in_order {
            let by_id = spread::sorted(order.into_iter().map(|i| (!nodes.id(i), i)));
            order = by_id.into_iter().map(|(_, i)| i).collect();
            // Stable, and mostly all weigh the same.
            order.sort_by(|&a, &b| nodes.full_weight(b).total_cmp(&nodes.full_weight(a)));
        }
        let ids: Vec<_> = order.iter().map(|&i| nodes.id(i)).collect();
        let better = self.better();
        let before = self.ids.get(self.primary.load(Ordering::Relaxed));
        let primary = before.and_then(|before| ids.iter().position(|id| id == before)).unwrap_or(NONE);
        let has_keys = AtomicBool::new(self.has_keys.load(Ordering::Relaxed));
        let (primary, better) = (AtomicUsize::new(primary), Mutex::new(*better));
        Some(Arc::new(Self { order, ids, primary, better, has_keys, ..*self }))
    }

    /// The primary alone, or who would be it; all where requests have keys.
    fn uses(&self, nodes: &dyn Candidates, i: usize) -> bool {
        if self.order.len() != nodes.len() || self.has_keys.load(Ordering::Relaxed) {
            return true;
        }
        let primary = self.primary.load(Ordering::Relaxed);
        let place = self.decide(nodes, primary, &mut self.better().clone());
        place.map_or_else(|| self.instead(nodes, primary), |place| self.order[place]) == i
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;
    use crate::strategy::testing::{Nodes, any_nodes};

    use Status::{Busy, Closed, Open};

    const S: Duration = Duration::from_secs(1);

    fn on(strategy: &StickyPrimary, nodes: &Nodes) -> Arc<dyn Strategy> {
        strategy.rebuild(nodes).expect("it prepares")
    }

    fn pick(strategy: &Arc<dyn Strategy>, nodes: &Nodes) -> usize {
        let i = strategy.pick(nodes, Draw::random());
        if nodes.excluded.is_empty() {
            let used: Vec<_> = (0..nodes.len()).filter(|&i| strategy.uses(nodes, i)).collect();
            assert_eq!(used, [i]);
        }
        i
    }

    #[test]
    fn the_heaviest_has_all_and_clients_agree_on_equals() {
        let mut nodes = Nodes::weighted(&[1.0, 3.0, 3.0]);
        nodes.id = vec![9, 5, 7];
        nodes.load[2] = 1e9;
        assert_eq!(nodes.picks(&*on(&StickyPrimary::new(), &nodes), 100), [0, 0, 100]);
        assert_eq!(nodes.picks(&StickyPrimary::new(), 100), [0, 0, 100], "unprepared too");
        assert_eq!(nodes.picks(&*on(&StickyPrimary::new().in_order(), &nodes), 100), [100, 0, 0]);
    }

    #[test]
    fn each_key_has_a_primary_by_weight_and_only_what_fails_moves() {
        let mut nodes = Nodes::weighted(&[1.0, 2.0, 1.0]);
        let sticky = on(&StickyPrimary::new(), &nodes);
        let of = |nodes: &Nodes| -> Vec<usize> {
            (0..4000).map(|key| sticky.pick(nodes, Draw::random().with_key(key * 7919))).collect()
        };
        let before = of(&nodes);
        assert_eq!(before, of(&nodes));
        let heaviest = before.iter().filter(|i| **i == 1).count();
        assert!((1850..2150).contains(&heaviest), "{heaviest} of 4000 for half of the weight");
        nodes.status[1] = Busy;
        let without = of(&nodes);
        assert!(before.iter().zip(&without).all(|(a, b)| if *a == 1 { *b != 1 } else { a == b }));
        nodes.status[1] = Open;
        assert_eq!(of(&nodes), before);
        assert!((0..3).all(|i| sticky.uses(&nodes, i)));
        nodes.status = vec![Closed, Busy, Closed];
        assert!(of(&nodes).iter().all(|i| *i == 1));
    }

    #[test]
    fn moves_when_the_primary_is_not_open_and_does_not_return() {
        let mut nodes = Nodes::open(3);
        let sticky = on(&StickyPrimary::new().in_order(), &nodes);
        assert_eq!(pick(&sticky, &nodes), 0);
        nodes.status[0] = Busy;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.status[0] = Open;
        nodes.now += 1_000 * S;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.status[1] = Closed;
        assert_eq!(pick(&sticky, &nodes), 0);
    }

    #[test]
    fn returns_when_told_to_after_it_was_open_all_that_time() {
        let mut nodes = Nodes::open(3);
        let sticky = on(&StickyPrimary::new().in_order().return_after(Some(10 * S)), &nodes);
        nodes.status[0] = Busy;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.status[0] = Open;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.now += 9 * S;
        nodes.status[0] = Busy;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.status[0] = Open;
        assert_eq!(pick(&sticky, &nodes), 1, "the time starts again");
        nodes.now += 9 * S;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.now += S;
        assert_eq!(pick(&sticky, &nodes), 0);
    }

    #[test]
    fn a_change_of_the_set_does_not_move_it_nor_forget_when_to_return() {
        let mut nodes = Nodes::open(3);
        let mut sticky = on(&StickyPrimary::new().in_order().return_after(Some(10 * S)), &nodes);
        nodes.status[0] = Busy;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.status[0] = Open;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes = nodes.without(2);
        sticky = sticky.rebuild(&nodes).unwrap();
        nodes.now += 9 * S;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.now += S;
        assert_eq!(pick(&sticky, &nodes), 0);

        let mut other = Nodes::open(4);
        other.id = vec![nodes.id[1], 77, nodes.id[0], 78];
        sticky = sticky.rebuild(&other).unwrap();
        assert_eq!(pick(&sticky, &other), 2, "by id, not by place");
        let rest = other.without(2);
        sticky = sticky.rebuild(&rest).unwrap();
        assert_eq!(pick(&sticky, &rest), 0, "it went");
    }

    #[test]
    fn a_retry_goes_elsewhere_and_moves_nothing() {
        let mut nodes = Nodes::open(3);
        let sticky = on(&StickyPrimary::new().in_order(), &nodes);
        assert_eq!(pick(&sticky, &nodes), 0);
        nodes.excluded = vec![0];
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.excluded = vec![];
        assert_eq!(pick(&sticky, &nodes), 0);
        nodes.status[0] = Closed;
        nodes.excluded = vec![1];
        assert_eq!(pick(&sticky, &nodes), 2);
        nodes.excluded = vec![];
        assert_eq!(pick(&sticky, &nodes), 1);
    }

    #[test]
    fn while_nothing_is_open_it_stays() {
        let mut nodes = Nodes::open(3);
        let sticky = on(&StickyPrimary::new().in_order(), &nodes);
        nodes.status[0] = Closed;
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.status = vec![Busy, Busy, Closed];
        assert_eq!(pick(&sticky, &nodes), 1);
        nodes.status = vec![Busy, Closed, Closed];
        assert_eq!(pick(&sticky, &nodes), 0);
        assert_eq!(nodes.gave_up.get(), 2);
        nodes.status = vec![Open, Open, Closed];
        assert_eq!(pick(&sticky, &nodes), 1, "it was never moved");
    }

    proptest! {
        #[test]
        fn never_a_closed_or_busy_one_while_one_is_open(nodes in any_nodes(), later in any_nodes()) {
            let mut sticky = on(&StickyPrimary::new().return_after(Some(Duration::ZERO)), &nodes);
            prop_assert!(nodes.is_best(pick(&sticky, &nodes)));
            sticky = sticky.rebuild(&later).unwrap();
            prop_assert!(later.is_best(pick(&sticky, &later)));
        }
    }
}
