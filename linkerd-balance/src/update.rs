//! From the endpoints that discovery names to the next set.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, MutexGuard, atomic::Ordering},
    time::Instant,
};

use crate::{
    balance::Inner,
    breaker::after,
    health::Status,
    load::pause,
    member::{Member, stable_id},
    nodes::{Named, Nodes},
    set::{Set, Slot, Stay, Tier, View},
    stamp::Stamp,
    weight::{self, InvalidWeight, Weights},
};

/// Of how many survivors the typical load is asked for: their median is as good as that of all.
const TYPICAL_OF: usize = 64;

impl<K: Eq + Hash + Clone + Send + Sync + 'static, S: Clone + Send + Sync + 'static> Inner<K, S> {
    pub(crate) fn update(&self, members: impl Iterator<Item = Member<K>>, now: Instant) -> Result<bool, InvalidWeight> {
        let members: Vec<Member<K>> = members.collect();
        weight::check(members.iter().map(|member| member.weight))?;
        let mut nodes = self.lock();
        let current = self.set.load_full();
        nodes.settle(&current);
        nodes.unsettled = true;
        let rank = |member: &Member<K>| self.policy.tiers.rank(member.priority, member.zone.as_ref());
        let changed =
            |slot: &Slot<K, S>, member: &Member<K>| slot.with(member.weight, rank(member), member.zone.clone(), None);
        let mut named = nodes.name(members, changed);
        if let Some(ejections) = &self.ejections {
            // Before those that come: none of them may be denied for want of room that they bring along.
            ejections.resize(nodes.len());
        }
        let mut slots = self.with_newcomers(&mut nodes, &mut named, now);
        let (added, members) = (named.added, slots.len());
        let mut left = Vec::new();
        if nodes.len() > members {
            for stay in self.stays(&current, &slots, |slot| named.has(slot.label), now) {
                nodes.set(&stay);
                named.keep(stay.label);
                slots.push(stay);
            }
            left.extend(current.slots().filter(|slot| !named.has(slot.label)).cloned());
        }
        let has_stays = slots.len() > members;
        let is_new = self.replace(&current, slots, has_stays, now);
        nodes.end(named.labels, &left);
        // Relaxed: counts for people.
        self.counts.updates.fetch_add(1, Ordering::Relaxed);
        self.counts.adds.fetch_add(added as u64, Ordering::Relaxed);
        self.counts.removes.fetch_add(left.len() as u64, Ordering::Relaxed);
        drop(nodes);
        self.tell_left(&left);
        if is_new {
            let_go(current, pause);
        }
        Ok(is_new)
    }

    /// The slots of all that are named: those that have none get theirs.
    fn with_newcomers(&self, nodes: &mut Nodes<K, S>, named: &mut Named<K, S>, now: Instant) -> Vec<Arc<Slot<K, S>>> {
        let mut slots = std::mem::take(&mut named.slots);
        if named.added > 0 {
            // Behind one that is on its way up it is the newer one still.
            let is_joining = self.policy.slow_start.is_some() && slots.iter().any(Option::is_some);
            let ramp_from = is_joining.then(|| Stamp::of(now));
            let typical = typical(&slots, slots.len() - named.added, now);
            let new = slots.iter_mut().zip(&named.members).zip(&named.labels).filter(|((slot, _), _)| slot.is_none());
            for ((slot, member), &label) in new {
                let (id, rank) =
                    (stable_id(&member.key), self.policy.tiers.rank(member.priority, member.zone.as_ref()));
                let (tracked, svc) = (self.new_endpoint)(member.key.clone());
                if let Some(typical) = typical {
                    tracked.load.start_from(typical, now);
                }
                let (weight, zone, stay) = (member.weight, member.zone.clone(), None);
                let newcomer = Arc::new(Slot { tracked, svc, id, label, rank, weight, zone, stay, ramp_from });
                nodes.set(&newcomer);
                *slot = Some(newcomer);
            }
        }
        // In place.
        slots.into_iter().flatten().collect()
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
        let is_member = Slot::is_member;
        let mut slots: Vec<_> = current.slots().filter(|slot| is_member(slot)).cloned().collect();
        let stays = self.stays(&current, &slots, is_member, now);
        let kept: HashSet<_> = stays.iter().map(|slot| slot.label).collect();
        let leaves = |slot: &&Arc<Slot<K, S>>| !is_member(slot) && !kept.contains(&slot.label);
        let left: Vec<_> = current.slots().filter(leaves).cloned().collect();
        slots.extend(stays);
        for slot in &slots {
            nodes.set(slot);
        }
        let order = slots.iter().map(|slot| slot.label).collect();
        let is_new = self.replace(&current, slots, !kept.is_empty(), now);
        nodes.end(order, &left);
        self.counts.removes.fetch_add(left.len() as u64, Ordering::Relaxed);
        drop(nodes);
        self.tell_left(&left);
        if is_new {
            self.changed.notify_waiters();
            let_go(current, pause);
        }
    }

    /// Which of those that are not among the `members` any more stay nevertheless.
    fn stays(
        &self,
        current: &Set<K, S>,
        members: &[Arc<Slot<K, S>>],
        is_member: impl Fn(&Slot<K, S>) -> bool,
        now: Instant,
    ) -> Vec<Arc<Slot<K, S>>> {
        let policy = &self.policy;
        let waits = !policy.overlap.is_zero() && !members.is_empty() && !members.iter().any(|slot| slot.works(now));
        if policy.probation == 0 && !waits {
            return Vec::new();
        }
        let gone = current.slots().filter(|slot| !is_member(slot) && slot.works(now));
        let mut on_probation = 0;
        let stay = |slot: &Arc<Slot<K, S>>| {
            let known = slot.stay.as_deref().copied();
            let stay = match known {
                _ if on_probation < policy.probation => {
                    on_probation += 1;
                    Stay::Probation
                }
                Some(Stay::Overlap(until)) if waits && now < until => Stay::Overlap(until),
                None if waits => Stay::Overlap(after(now, policy.overlap)),
                _ => return None,
            };
            if known == Some(stay) {
                return Some(Arc::clone(slot));
            }
            Some(slot.with(slot.weight, slot.rank, slot.zone.clone(), Some(stay)))
        };
        gone.filter_map(stay).collect()
    }

    /// Swaps in a set of these, if it is another one.
    fn replace(&self, current: &Set<K, S>, mut slots: Vec<Arc<Slot<K, S>>>, has_stays: bool, now: Instant) -> bool {
        if let Some(ejections) = &self.ejections {
            ejections.resize(slots.len());
        }
        // Stable: within a tier the order of the update.
        if !slots.is_sorted_by_key(|slot| slot.rank) {
            slots.sort_by_key(|slot| slot.rank);
        }
        if current.is_of(&slots) {
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
        self.set.store(Arc::new(Set::new(tiers, has_stays, now)));
        true
    }

    fn tier(&self, current: &Set<K, S>, slots: Vec<Arc<Slot<K, S>>>, now: Instant) -> Tier<K, S> {
        let was = current.tiers.iter().find(|tier| tier.rank == slots[0].rank);
        let weights = match was {
            Some(was) if was.weighs_as(&slots) => Arc::clone(&was.weights),
            _ => Arc::new(Weights::new(slots.iter().map(|slot| slot.weight).collect())),
        };
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
        let members = || self.slots().filter(|slot| slot.is_member());
        let waits = || members().next().is_some() && !members().any(|slot| slot.works(now));
        let ends = |slot: &Arc<Slot<K, S>>| match slot.stay.as_deref() {
            None => false,
            Some(Stay::Probation) => !slot.works(now),
            Some(Stay::Overlap(until)) => !slot.works(now) || now >= *until,
        };
        let overlaps = |slot: &Arc<Slot<K, S>>| matches!(slot.stay.as_deref(), Some(Stay::Overlap(_)));
        self.slots().any(ends) || (self.slots().any(overlaps) && !waits())
    }
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

/// The median of what the endpoints are like that there are already.
fn typical<K, S>(slots: &[Option<Arc<Slot<K, S>>>], survivors: usize, now: Instant) -> Option<f64> {
    let step = survivors.div_ceil(TYPICAL_OF).max(1);
    let known = slots.iter().step_by(step).flatten().filter(|slot| slot.tracked.standing.status(now) == Status::Open);
    let mut known: Vec<f64> = known.filter_map(|slot| slot.tracked.load.typical(now)).collect();
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
