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
    // By id: half the size of a key, and hashed already.
    labels: HashMap<u64, u32, Seed>,
    // Of those whose id another one has: by an accident of one in 2⁶⁴.
    twins: HashMap<K, u32, Seed>,
    // Labels as they were named last. Discovery names most of them again, in the same order: those are not looked up.
    order: Vec<u32>,
    /// An update began and has not ended: what makes an endpoint, its load or its strategy panicked.
    pub(crate) unsettled: bool,
}

/// What an update names, each key once, with what was said of it last.
pub(crate) struct Named<K> {
    pub(crate) members: Vec<Member<K>>,
    /// Theirs.
    pub(crate) labels: Vec<u32>,
    // By label: the place among the members.
    places: Vec<u32>,
    /// How many have no slot yet.
    pub(crate) added: usize,
}

const NOWHERE: u32 = u32::MAX;

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
    /// Finds out who these are. Those that are not known have a label from now on, and no slot until one is
    /// [set](Self::set).
    pub(crate) fn name(&mut self, members: Vec<Member<K>>) -> Named<K> {
        let more = members.len().saturating_sub(self.len());
        self.slots.reserve_exact(more.saturating_sub(self.free.len()));
        self.labels.reserve(more);
        let mut places = Vec::with_capacity(self.slots.len() + more);
        places.resize(self.slots.len(), NOWHERE);
        let labels = Vec::with_capacity(members.len());
        let mut named = Named { members, labels, places, added: 0 };
        // Where in the order the next one is expected, and where each one is: made when first asked for.
        let (mut expected, mut positions) = (0, Vec::new());
        let mut end = 0;
        for at in 0..named.members.len() {
            let key = &named.members[at].key;
            let label = if let Some(position) = self.is_at(expected, key) {
                expected = position + 1;
                self.order[position]
            } else if let Some(label) = self.find(key, &named) {
                if positions.is_empty() {
                    positions = self.positions();
                }
                if let Some(&position) = positions.get(label as usize).filter(|position| **position != NOWHERE) {
                    expected = position as usize + 1;
                }
                label
            } else {
                named.added += 1;
                self.add(key)
            };
            if named.places.len() <= label as usize {
                named.places.push(NOWHERE);
            }
            match &mut named.places[label as usize] {
                place if *place == NOWHERE => {
                    *place = end as u32;
                    named.labels.push(label);
                    named.members.swap(end, at);
                    end += 1;
                }
                // What was said last is what counts; what was said before is left behind.
                place => named.members.swap(*place as usize, at),
            }
        }
        named.members.truncate(end);
        named
    }

    /// Whether this is the next one of the order, or the one after that, as where one was removed.
    fn is_at(&self, expected: usize, key: &K) -> Option<usize> {
        let next = self.order.get(expected..)?.iter().take(2);
        next.enumerate().find_map(|(ahead, &label)| {
            let slot = self.slot(label)?;
            (slot.tracked.key == *key).then_some(expected + ahead)
        })
    }

    fn find(&self, key: &K, named: &Named<K>) -> Option<u32> {
        let is_key = |label: &u32| match self.slot(*label) {
            Some(slot) => slot.tracked.key == *key,
            None => named.place(*label).is_some_and(|place| named.members[place].key == *key),
        };
        let label = self.labels.get(&stable_id(key)).copied().filter(is_key);
        label.or_else(|| if self.twins.is_empty() { None } else { self.twins.get(key).copied() })
    }

    fn positions(&self) -> Vec<u32> {
        let mut positions = vec![NOWHERE; self.slots.len()];
        for (position, &label) in (0..).zip(&self.order) {
            positions[label as usize] = position;
        }
        positions
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
        if *self.labels.entry(id).or_insert(label) != label {
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
        if self.labels.get(&slot.id) == Some(&slot.label) {
            self.labels.remove(&slot.id);
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

impl<K> Named<K> {
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
