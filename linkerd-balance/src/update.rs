//! From the endpoints that discovery names to the next set.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, MutexGuard, atomic::Ordering},
    time::Instant,
};

use crate::{
    balance::Inner,
    breaker::after,
    health::Status,
    load::pause,
    member::{Member, Seed},
    set::{Node, Set, Slot, Stay, Tier, View},
    weight::{InvalidWeight, Weights},
};

/// Every endpoint of the set that is in use, by key, so that survivors of an update keep their state.
pub(crate) struct Nodes<K, S> {
    by_key: HashMap<K, Known<K, S>, Seed>,
    // Counts updates.
    turn: u64,
    // An update began and has not ended: what makes an endpoint, its load or its strategy panicked.
    unsettled: bool,
}

struct Known<K, S> {
    // None between its first mention in an update and that update's end.
    node: Option<Arc<Node<K, S>>>,
    // The last update that named it, and as which of its members.
    turn: u64,
    place: usize,
}

/// Of how many survivors the typical load is asked for: their median is as good as that of all.
const TYPICAL_OF: usize = 64;

impl<K: Eq + Hash + Clone + Send + Sync + 'static, S: Clone + Send + Sync + 'static> Inner<K, S> {
    pub(crate) fn update(&self, members: impl Iterator<Item = Member<K>>, now: Instant) -> Result<bool, InvalidWeight> {
        let members: Vec<Member<K>> = members.collect();
        for (index, member) in members.iter().enumerate() {
            if !(member.weight.is_finite() && member.weight > 0.0) {
                return Err(InvalidWeight { index, weight: member.weight });
            }
        }
        let counts = &self.counts;
        let mut nodes = self.lock();
        let current = self.set.load_full();
        nodes.settle(&current);
        nodes.turn += 1;
        nodes.unsettled = true;
        let turn = nodes.turn;

        // Newcomers get their node when it is known how they start.
        let mut found: Vec<Option<Arc<Node<K, S>>>> = Vec::with_capacity(members.len());
        let mut named: Vec<Member<K>> = Vec::with_capacity(members.len());
        let mut added = 0;
        for member in members {
            let place = named.len();
            match nodes.by_key.get_mut(&member.key) {
                // Each key once, with what was said of it last.
                Some(known) if known.turn == turn => {
                    named[known.place] = member;
                    continue;
                }
                Some(known) => {
                    (known.turn, known.place) = (turn, place);
                    found.push(known.node.clone());
                }
                None => {
                    nodes.by_key.insert(member.key.clone(), Known { node: None, turn, place });
                    added += 1;
                    found.push(None);
                }
            }
            named.push(member);
        }
        let slow = self.policy.slow_start.as_ref();
        let survivors = || found.iter().flatten();
        let (ramp_from, typical) = if added == 0 {
            (None, None)
        } else {
            let established = slow.is_some() && survivors().any(|node| node.ramp(slow, now) == 1.0);
            (established.then_some(now), typical(survivors(), now))
        };
        if let Some(ejections) = &self.ejections {
            // Before those that come: none of them may be denied for want of room that they bring along.
            ejections.resize(nodes.by_key.len());
        }
        let mut newcomer = |key: &K| {
            let node = Arc::new((self.new_node)(key, ramp_from));
            if let Some(typical) = typical {
                node.tracked.load.start_from(typical, now);
            }
            if let Some(known) = nodes.by_key.get_mut(key) {
                known.node = Some(Arc::clone(&node));
            }
            node
        };
        let slot =
            |(member, node): (Member<K>, Option<_>)| self.slot(node.unwrap_or_else(|| newcomer(&member.key)), member);
        let mut slots: Vec<Slot<K, S>> = named.into_iter().zip(found).map(slot).collect();
        if nodes.by_key.len() > slots.len() {
            let stays = self.stays(&current, &slots, now);
            nodes.retain(turn, &stays);
            slots.extend(stays);
        }
        let removed = (current.size + added).saturating_sub(slots.len());
        let is_new = self.replace(&current, slots, now);
        nodes.unsettled = false;
        // Relaxed: counts for people.
        counts.updates.fetch_add(1, Ordering::Relaxed);
        counts.adds.fetch_add(added as u64, Ordering::Relaxed);
        counts.removes.fetch_add(removed as u64, Ordering::Relaxed);
        drop(nodes);
        if is_new {
            let_go(current, pause);
        }
        Ok(is_new)
    }

    fn slot(&self, node: Arc<Node<K, S>>, member: Member<K>) -> Slot<K, S> {
        let rank = self.policy.tiers.rank(member.priority, member.zone.as_ref());
        Slot::new(node, member.weight, rank, member.zone)
    }

    /// Lets go of endpoints that stayed and have no reason to any more.
    pub(crate) fn prune(&self, now: Instant) {
        self.prune_locked(self.lock(), now);
    }

    /// The same, unless somebody changes the set just now: a pick does not wait for that.
    pub(crate) fn try_prune(&self, now: Instant) {
        if let Some(nodes) = self.try_lock() {
            self.prune_locked(nodes, now);
        }
    }

    fn prune_locked(&self, mut nodes: MutexGuard<'_, Nodes<K, S>>, now: Instant) {
        let current = self.set.load_full();
        if !current.has_stays {
            return;
        }
        nodes.settle(&current);
        let mut slots: Vec<_> = current.slots().filter(|slot| slot.stay == Stay::Member).cloned().collect();
        let stays = self.stays(&current, &slots, now);
        let turn = nodes.turn;
        nodes.retain(turn, &stays);
        slots.extend(stays);
        self.counts.removes.fetch_add(current.size.saturating_sub(slots.len()) as u64, Ordering::Relaxed);
        let is_new = self.replace(&current, slots, now);
        drop(nodes);
        if is_new {
            let_go(current, pause);
        }
    }

    /// Which of those that are not among `members` any more stay nevertheless.
    fn stays(&self, current: &Set<K, S>, members: &[Slot<K, S>], now: Instant) -> Vec<Slot<K, S>> {
        let policy = &self.policy;
        let works = |slot: &Slot<K, S>| works(slot, now);
        let waits = !policy.overlap.is_zero() && !members.is_empty() && !members.iter().any(works);
        if policy.probation == 0 && !waits {
            return Vec::new();
        }
        let kept: HashSet<_> = members.iter().map(|slot| Arc::as_ptr(&slot.node)).collect();
        let gone = current.slots().filter(|slot| !kept.contains(&Arc::as_ptr(&slot.node)) && works(slot));
        let mut on_probation = 0;
        let stay = |slot: &Slot<K, S>| {
            let stay = match slot.stay {
                _ if on_probation < policy.probation => {
                    on_probation += 1;
                    Stay::Probation
                }
                Stay::Overlap(until) if waits && now < until => Stay::Overlap(until),
                Stay::Member if waits => Stay::Overlap(after(now, policy.overlap)),
                _ => return None,
            };
            let mut slot = slot.clone();
            slot.stay = stay;
            Some(slot)
        };
        gone.filter_map(stay).collect()
    }

    /// Swaps in a set of these, if it is another one.
    fn replace(&self, current: &Set<K, S>, mut slots: Vec<Slot<K, S>>, now: Instant) -> bool {
        if let Some(ejections) = &self.ejections {
            ejections.resize(slots.len());
        }
        // Stable: within a tier the order of the update.
        slots.sort_by_key(|slot| slot.rank);
        let same = |(a, b): (&Slot<K, S>, &Slot<K, S>)| {
            Arc::ptr_eq(&a.node, &b.node) && a.weight == b.weight && a.rank == b.rank && a.stay == b.stay
        };
        if current.size == slots.len() && current.slots().zip(&slots).all(same) {
            return false;
        }
        self.counts.rebuilds.fetch_add(1, Ordering::Relaxed);
        // From the last one on; where there is one tier only, nothing is moved.
        let mut tiers = Vec::new();
        while let Some(rank) = slots.last().map(|slot| slot.rank) {
            let from = slots.partition_point(|slot| slot.rank < rank);
            tiers.push(if from == 0 { std::mem::take(&mut slots) } else { slots.split_off(from) });
        }
        let tiers = tiers.into_iter().rev().map(|slots| self.tier(current, slots, now)).collect();
        self.set.store(Arc::new(Set::new(tiers, now)));
        true
    }

    fn tier(&self, current: &Set<K, S>, slots: Vec<Slot<K, S>>, now: Instant) -> Tier<K, S> {
        let weights: Vec<_> = slots.iter().map(|slot| slot.weight).collect();
        // Checked when they came.
        let weights = Weights::new(&weights).unwrap_or_default();
        let was = current.tiers.iter().find(|tier| tier.rank == slots[0].rank);
        let strategy = was.map_or(&self.policy.strategy, |tier| &tier.strategy);
        let slow = self.policy.slow_start.as_ref();
        let mut tier = Tier::new(slots, weights, Arc::clone(strategy), slow);
        if let Some(was) = was {
            tier.seen.is_left.store(was.seen.is_left.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let prepared = strategy.rebuild(&View::new(&tier, slow, now, &[], &self.counts));
        if let Some(prepared) = prepared {
            tier.strategy = prepared;
        }
        tier
    }
}

impl<K, S> Set<K, S> {
    /// Whether somebody stays who has no reason to any more.
    #[cold]
    pub(crate) fn is_prunable(&self, now: Instant) -> bool {
        let members = || self.slots().filter(|slot| slot.stay == Stay::Member);
        let waits = || members().next().is_some() && !members().any(|slot| works(slot, now));
        let ends = |slot: &Slot<K, S>| match slot.stay {
            Stay::Member => false,
            Stay::Probation => !works(slot, now),
            Stay::Overlap(until) => !works(slot, now) || now >= until,
        };
        let overlaps = |slot: &Slot<K, S>| matches!(slot.stay, Stay::Overlap(_));
        self.slots().any(ends) || (self.slots().any(overlaps) && !waits())
    }
}

impl<K: Eq + Hash, S> Nodes<K, S> {
    /// Forgets what an update left that did not end: all that is not in the set.
    fn settle(&mut self, current: &Set<K, S>) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let used: HashMap<_, _> = current.slots().map(|slot| (Arc::as_ptr(&slot.node), slot.stay)).collect();
        let turn = self.turn;
        self.by_key.retain(|_, known| {
            let Some(node) = &known.node else { return false };
            let stay = used.get(&Arc::as_ptr(node));
            if stay.is_none() {
                node.health.retire();
                node.tracked.gone.set();
            }
            known.turn = if stay == Some(&Stay::Member) { turn } else { 0 };
            stay.is_some()
        });
    }

    /// Forgets those that the update of this turn did not name, but for these.
    fn retain(&mut self, turn: u64, stays: &[Slot<K, S>]) {
        let kept: HashSet<_> = stays.iter().map(|slot| Arc::as_ptr(&slot.node)).collect();
        let is_kept = |known: &Known<K, S>| known.node.as_ref().is_some_and(|node| kept.contains(&Arc::as_ptr(node)));
        self.by_key.retain(|_, known| {
            let stays = known.turn == turn || is_kept(known);
            if !stays && let Some(node) = &known.node {
                node.health.retire();
                node.tracked.gone.set();
            }
            stays
        });
    }
}

impl<K, S> Default for Nodes<K, S> {
    fn default() -> Self {
        Self { by_key: HashMap::default(), turn: 0, unsettled: false }
    }
}

/// Whether it is open, and not only by guess.
fn works<K, S>(slot: &Slot<K, S>, now: Instant) -> bool {
    slot.node.health.status(now) == Status::Open && !slot.node.health.is_due(now)
}

/// How often [`let_go`] looks.
const LOOKS: u32 = 256;

/// Drops a set that was replaced once the picks that were in it are done: to free thousands of endpoints is for whoever
/// changed the set, not for a request. A pick is over in less than a microsecond; one whose thread was taken off its
/// processor is not waited for long, and frees the set itself.
fn let_go<T>(set: Arc<T>, mut pause: impl FnMut(u32)) {
    for look in 0..LOOKS {
        if Arc::strong_count(&set) == 1 {
            break;
        }
        pause(look);
    }
    drop(set);
}

/// The median of what the endpoints in use are like.
fn typical<'a, K: 'a, S: 'a>(nodes: impl Iterator<Item = &'a Arc<Node<K, S>>> + Clone, now: Instant) -> Option<f64> {
    let step = nodes.clone().count().div_ceil(TYPICAL_OF).max(1);
    let known = nodes.step_by(step).filter(|node| node.health.status(now) == Status::Open);
    let mut known: Vec<f64> = known.filter_map(|node| node.tracked.load.typical(now)).collect();
    let middle = known.len().checked_sub(1)? / 2;
    let (_, median, _) = known.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_set_is_freed_by_whoever_replaced_it() {
        let set = Arc::new(1);
        let seen = Arc::downgrade(&set);
        let mut picks = vec![Arc::clone(&set), Arc::clone(&set)];
        let_go(set, |_| {
            let _done = picks.pop();
        });
        assert!(seen.upgrade().is_none() && picks.is_empty());
    }

    #[test]
    fn a_pick_that_hangs_is_not_waited_for() {
        let (set, mut looks) = (Arc::new(1), 0);
        let pick = Arc::clone(&set);
        let_go(set, |_| looks += 1);
        assert_eq!((looks, Arc::strong_count(&pick)), (LOOKS, 1));
    }
}
