//! From the endpoints that discovery names to the next set.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use crate::{
    balance::Inner,
    health::Status,
    member::Member,
    set::{Node, Set, Slot, Stay, Tier, View},
    weight::{InvalidWeight, Weights},
};

/// Every endpoint of the set that is in use, by key, so that survivors of an update keep their state.
pub(crate) type Nodes<K, S> = HashMap<K, Arc<Node<K, S>>>;

/// Of how many survivors the typical load is asked for: their median is as good as that of all.
const TYPICAL_OF: usize = 64;

impl<K: Eq + Hash + Clone + Send + Sync + 'static, S: Clone + Send + Sync + 'static> Inner<K, S> {
    pub(crate) fn update(&self, members: impl Iterator<Item = Member<K>>, now: Instant) -> Result<bool, InvalidWeight> {
        let members = distinct(members)?;
        let counts = &self.counts;
        let mut nodes = self.lock();
        let current = self.set.load_full();

        let mut slots = Vec::with_capacity(members.len());
        let mut added = 0;
        for Member { key, weight, zone, priority } in members {
            let rank = self.policy.tiers.rank(priority, zone.as_ref());
            // Newcomers get their node when it is known how they start.
            slots.push(if let Some(node) = nodes.get(&key) {
                Ok(Slot { node: Arc::clone(node), weight, rank, zone, stay: Stay::Member })
            } else {
                added += 1;
                Err((key, weight, rank, zone))
            });
        }
        let survivors: Vec<_> = slots.iter().filter_map(|slot| slot.as_ref().ok().map(|slot| &slot.node)).collect();
        let slow = self.policy.slow_start.as_ref();
        let established = |node: &&Arc<Node<K, S>>| node.ramp(slow, now) == 1.0;
        let ramp_from = (slow.is_some() && survivors.iter().any(established)).then_some(now);
        let typical = if added == 0 { None } else { typical(&survivors, now) };

        let mut slots: Vec<Slot<K, S>> = (slots.into_iter())
            .map(|slot| {
                slot.unwrap_or_else(|(key, weight, rank, zone)| {
                    let node = Arc::new((self.new_node)(&key, ramp_from));
                    if let Some(typical) = typical {
                        node.tracked.load.start_from(typical, now);
                    }
                    nodes.insert(key, Arc::clone(&node));
                    Slot { node, weight, rank, zone, stay: Stay::Member }
                })
            })
            .collect();
        let members = slots.len();
        if nodes.len() > members {
            let stays = self.stays(&current, &slots, now);
            slots.extend(stays);
            // Whoever is in no slot is gone.
            let kept: std::collections::HashSet<_> = slots.iter().map(|slot| Arc::as_ptr(&slot.node)).collect();
            nodes.retain(|_, node| kept.contains(&Arc::as_ptr(node)));
        }
        let before = current.slots().count() + added;
        // Relaxed: counts for people.
        counts.updates.fetch_add(1, Ordering::Relaxed);
        counts.adds.fetch_add(added as u64, Ordering::Relaxed);
        counts.removes.fetch_add((before - slots.len()) as u64, Ordering::Relaxed);
        Ok(self.replace(&current, slots, now))
    }

    /// Lets go of endpoints that stayed and have no reason to any more.
    pub(crate) fn prune(&self, now: Instant) -> bool {
        let mut nodes = self.lock();
        let current = self.set.load_full();
        if !current.has_stays {
            return false;
        }
        let mut slots: Vec<_> = current.slots().filter(|slot| slot.stay == Stay::Member).cloned().collect();
        let stays = self.stays(&current, &slots, now);
        slots.extend(stays);
        let kept: std::collections::HashSet<_> = slots.iter().map(|slot| Arc::as_ptr(&slot.node)).collect();
        let before = nodes.len();
        nodes.retain(|_, node| kept.contains(&Arc::as_ptr(node)));
        self.counts.removes.fetch_add((before - nodes.len()) as u64, Ordering::Relaxed);
        self.replace(&current, slots, now)
    }

    /// Which of those that are not among `members` any more stay nevertheless.
    fn stays(&self, current: &Set<K, S>, members: &[Slot<K, S>], now: Instant) -> Vec<Slot<K, S>> {
        let policy = &self.policy;
        let works = |slot: &Slot<K, S>| slot.node.health.status(now) == Status::Open && !slot.node.health.is_due(now);
        let waits = !policy.overlap.is_zero() && !members.is_empty() && !members.iter().any(&works);
        if policy.probation == 0 && !waits {
            return Vec::new();
        }
        let kept: std::collections::HashSet<_> = members.iter().map(|slot| Arc::as_ptr(&slot.node)).collect();
        let gone = current.slots().filter(|slot| !kept.contains(&Arc::as_ptr(&slot.node)) && works(slot));
        let mut on_probation = 0;
        let stay = |slot: &Slot<K, S>| {
            let stay = match slot.stay {
                _ if on_probation < policy.probation => {
                    on_probation += 1;
                    Stay::Probation
                }
                Stay::Overlap(until) if waits && now < until => Stay::Overlap(until),
                Stay::Member if waits => Stay::Overlap(now.checked_add(policy.overlap)?),
                _ => return None,
            };
            Some(Slot { stay, ..slot.clone() })
        };
        gone.filter_map(stay).collect()
    }

    /// Swaps in a set of these, if it is another one.
    fn replace(&self, current: &Set<K, S>, mut slots: Vec<Slot<K, S>>, now: Instant) -> bool {
        // Stable: within a tier the order of the update.
        slots.sort_by_key(|slot| slot.rank);
        let same = |(a, b): (&Slot<K, S>, &Slot<K, S>)| {
            Arc::ptr_eq(&a.node, &b.node) && a.weight == b.weight && a.rank == b.rank && a.stay == b.stay
        };
        if current.size == slots.len() && current.slots().zip(&slots).all(same) {
            return false;
        }
        self.counts.rebuilds.fetch_add(1, Ordering::Relaxed);
        let mut tiers: Vec<Tier<K, S>> = Vec::new();
        let mut rest = slots.into_iter().peekable();
        while let Some(first) = rest.next() {
            let rank = first.rank;
            let mut tier = vec![first];
            while let Some(slot) = rest.next_if(|slot| slot.rank == rank) {
                tier.push(slot);
            }
            tiers.push(self.tier(current, tier, now));
        }
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

/// Each key once, with what was said of it last, in the order of their first coming.
fn distinct<K: Eq + Hash + Clone>(members: impl Iterator<Item = Member<K>>) -> Result<Vec<Member<K>>, InvalidWeight> {
    let size = members.size_hint().0;
    let mut distinct: Vec<Member<K>> = Vec::with_capacity(size);
    let mut seen = HashMap::with_capacity(size);
    for (index, member) in members.enumerate() {
        if !(member.weight.is_finite() && member.weight > 0.0) {
            return Err(InvalidWeight { index, weight: member.weight });
        }
        if let Some(&i) = seen.get(&member.key) {
            distinct[i] = member;
        } else {
            seen.insert(member.key.clone(), distinct.len());
            distinct.push(member);
        }
    }
    Ok(distinct)
}

/// The median of what the endpoints in use are like.
fn typical<K, S>(nodes: &[&Arc<Node<K, S>>], now: Instant) -> Option<f64> {
    let step = nodes.len().div_ceil(TYPICAL_OF).max(1);
    let mut known: Vec<f64> = (nodes.iter().step_by(step))
        .filter(|node| node.health.status(now) == Status::Open)
        .filter_map(|node| node.tracked.load.typical(now))
        .collect();
    let middle = known.len().checked_sub(1)? / 2;
    let (_, median, _) = known.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}
