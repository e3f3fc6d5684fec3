//! Which endpoints there are, and who of them an update names.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use crate::{
    member::{Member, Seed, stable_id},
    set::{Set, Slot},
};

/// Every endpoint of the set that is in use, so that survivors of an update keep their state. Each has a label as long
/// as it is there.
pub(crate) struct Nodes<K, S> {
    // By label. None: free, or between its first mention in an update and that update's end. As many as there were at
    // most.
    slots: Vec<Option<Arc<Slot<K, S>>>>,
    free: Vec<u32>,
    // By half of the id: a fraction of a key, and hashed already.
    labels: HashMap<u32, u32, Seed>,
    // Of those that have it in common with another one: of ten thousand there is one in a hundred sets.
    twins: HashMap<K, u32, Seed>,
    // Labels as they were named last. Discovery names most of them again, in the same order: those are not looked up.
    order: Vec<u32>,
    /// An update began and has not ended: what makes an endpoint, its load or its strategy panicked.
    pub(crate) unsettled: bool,
}

/// What an update names, each key once, with what was said of it last.
pub(crate) struct Named<K, S> {
    pub(crate) members: Vec<Member<K>>,
    /// Theirs. None: it has none yet.
    pub(crate) slots: Vec<Option<Arc<Slot<K, S>>>>,
    /// Theirs, and after them those of others that are kept.
    pub(crate) labels: Vec<u32>,
    // By label: the place among the members.
    places: Vec<u32>,
    /// How many have no slot yet.
    pub(crate) added: usize,
}

const NOWHERE: u32 = u32::MAX;

const fn half(id: u64) -> u32 {
    (id >> 32) as u32
}

impl<K, S> Nodes<K, S> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn slot(&self, label: u32) -> Option<&Arc<Slot<K, S>>> {
        self.slots[label as usize].as_ref()
    }

    pub(crate) fn set(&mut self, slot: &Arc<Slot<K, S>>) {
        self.slots[slot.label as usize] = Some(Arc::clone(slot));
    }
}

impl<K: Eq + Hash + Clone, S> Nodes<K, S> {
    /// Finds out who these are, and takes their slots; where a member says something else of an endpoint than its slot
    /// does, the one that `changed` makes of both. Those that are not known have a label from now on, and no slot until
    /// one is [set](Self::set).
    pub(crate) fn name(
        &mut self,
        members: Vec<Member<K>>,
        changed: impl Fn(&Slot<K, S>, &Member<K>) -> Arc<Slot<K, S>>,
    ) -> Named<K, S> {
        let more = members.len().saturating_sub(self.len());
        self.slots.reserve_exact(more.saturating_sub(self.free.len()));
        self.labels.reserve(more);
        let mut places = Vec::with_capacity(self.slots.len() + more);
        places.resize(self.slots.len(), NOWHERE);
        let (slots, labels) = (Vec::with_capacity(members.len()), Vec::with_capacity(members.len()));
        let mut named = Named { members, slots, labels, places, added: 0 };
        // Where in the order the next one is expected, and where each one is: made when first asked for.
        let (mut expected, mut positions) = (0, Vec::new());
        let mut at = 0;
        while at < named.members.len() {
            let same = self.take_same(&mut named, at, expected);
            (at, expected) = (at + same, expected + same);
            let Some(Member { key, .. }) = named.members.get(at) else { break };
            let label = if let Some(position) = self.is_at(expected, key) {
                expected = position + 1;
                self.order[position]
            } else if let Some(label) = self.find(key, &named) {
                expected = self.position(label, &mut positions).map_or(expected, |position| position + 1);
                label
            } else {
                named.added += 1;
                named.places.push(NOWHERE);
                self.add(key)
            };
            let place = named.take_place(label, at);
            let member = &named.members[place];
            let slot = match self.slot(label) {
                Some(slot) if slot.is_as(member) => Some(Arc::clone(slot)),
                Some(slot) => {
                    let slot = changed(slot, member);
                    self.set(&slot);
                    Some(slot)
                }
                None => None,
            };
            if place < named.slots.len() {
                named.slots[place] = slot;
            } else {
                named.slots.push(slot);
            }
            at += 1;
        }
        named.members.truncate(named.labels.len());
        named
    }

    /// Takes as many as are named just as they were, in the same order: mostly all. How many these are.
    fn take_same(&self, named: &mut Named<K, S>, at: usize, expected: usize) -> usize {
        // Behind a key that was named twice places differ.
        if named.labels.len() != at {
            return 0;
        }
        let rest = self.order.get(expected..).unwrap_or_default();
        let mut same = 0;
        for ((member, &label), place) in named.members[at..].iter().zip(rest).zip(at as u32..) {
            let Some(slot) = self.slot(label) else { break };
            let known = &mut named.places[label as usize];
            if slot.tracked.key != member.key || !slot.is_as(member) || *known != NOWHERE {
                break;
            }
            *known = place;
            named.slots.push(Some(Arc::clone(slot)));
            same += 1;
        }
        named.labels.extend_from_slice(&rest[..same]);
        same
    }

    /// Whether this is the next one of the order, or the one after that, as where one was removed.
    #[inline]
    fn is_at(&self, expected: usize, key: &K) -> Option<usize> {
        let is = |at: &usize| {
            let label = self.order.get(*at);
            label.and_then(|label| self.slot(*label)).is_some_and(|slot| slot.tracked.key == *key)
        };
        Some(expected).filter(is).or_else(|| Some(expected + 1).filter(is))
    }

    #[cold]
    fn find(&self, key: &K, named: &Named<K, S>) -> Option<u32> {
        let is_key = |label: &u32| match self.slot(*label) {
            Some(slot) => slot.tracked.key == *key,
            None => named.place(*label).is_some_and(|place| named.members[place].key == *key),
        };
        let label = self.labels.get(&half(stable_id(key))).copied().filter(is_key);
        label.or_else(|| if self.twins.is_empty() { None } else { self.twins.get(key).copied() })
    }

    /// Where in the order it is; `positions` by label, once it was asked for any.
    fn position(&self, label: u32, positions: &mut Vec<u32>) -> Option<usize> {
        if positions.is_empty() {
            positions.resize(self.slots.len(), NOWHERE);
            for (position, &label) in (0..).zip(&self.order) {
                positions[label as usize] = position;
            }
        }
        let position = positions.get(label as usize).filter(|position| **position != NOWHERE)?;
        Some(*position as usize)
    }

    fn add(&mut self, key: &K) -> u32 {
        let label = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.enter(stable_id(key), key, label);
        label
    }

    fn enter(&mut self, id: u64, key: &K, label: u32) {
        if *self.labels.entry(half(id)).or_insert(label) != label {
            self.twins.insert(key.clone(), label);
        }
    }

    /// The update ends with these, and without those that left.
    pub(crate) fn end(&mut self, order: Vec<u32>, left: &[Arc<Slot<K, S>>]) {
        (self.order, self.unsettled) = (order, false);
        for slot in left {
            self.remove(slot);
            slot.leave();
        }
    }

    fn remove(&mut self, slot: &Slot<K, S>) {
        if self.labels.get(&half(slot.id)) == Some(&slot.label) {
            self.labels.remove(&half(slot.id));
        } else {
            self.twins.remove(&slot.tracked.key);
        }
        self.slots[slot.label as usize] = None;
        self.free.push(slot.label);
    }

    /// Forgets what an update left that did not end: all that is not in the set.
    pub(crate) fn settle(&mut self, current: &Set<K, S>) {
        if !self.unsettled {
            return;
        }
        let left = std::mem::take(self);
        self.slots.resize_with(left.slots.len(), || None);
        for slot in current.slots() {
            self.set(slot);
            self.enter(slot.id, &slot.tracked.key, slot.label);
            self.order.push(slot.label);
        }
        self.free = (0..).zip(&self.slots).filter(|(_, slot)| slot.is_none()).map(|(label, _)| label).collect();
        left.slots.iter().flatten().filter(|slot| self.slot(slot.label).is_none()).for_each(|slot| slot.leave());
    }
}

impl<K, S> Named<K, S> {
    /// The place of the member at `at`, which has this label. What was said of it before is left behind.
    #[inline]
    fn take_place(&mut self, label: u32, at: usize) -> usize {
        let place = &mut self.places[label as usize];
        if *place == NOWHERE {
            *place = self.labels.len() as u32;
            self.labels.push(label);
        }
        let place = *place as usize;
        if place != at {
            self.members.swap(place, at);
        }
        place
    }

    /// Takes this one for named, after all others.
    pub(crate) fn keep(&mut self, label: u32) {
        self.places[label as usize] = self.labels.len() as u32;
        self.labels.push(label);
    }

    /// Whether it names this one.
    pub(crate) fn has(&self, label: u32) -> bool {
        self.place(label).is_some()
    }

    fn place(&self, label: u32) -> Option<usize> {
        let place = self.places.get(label as usize).filter(|place| **place != NOWHERE)?;
        Some(*place as usize)
    }
}

impl<K, S> Default for Nodes<K, S> {
    fn default() -> Self {
        let (labels, twins) = (HashMap::default(), HashMap::default());
        Self { slots: Vec::new(), free: Vec::new(), labels, twins, order: Vec::new(), unsettled: false }
    }
}
