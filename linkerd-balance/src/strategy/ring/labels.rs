//! Numbers for endpoints which they keep from set to set.

use std::collections::HashMap;

use crate::{member::Seed, strategy::Candidates};

/// A label for each endpoint of a set, the same for as long as it is there: what is made of labels stays good when others
/// come and go.
#[derive(Debug, Default)]
pub(super) struct Labels {
    // By label: the endpoint's id.
    ids: Vec<u64>,
    // By label: the endpoint's place in the set; `FREE` if nobody has the label.
    places: Vec<u32>,
    // By place in the set: the label.
    by_place: Vec<u32>,
}

/// Who is not there any more: label and id. The label may be another one's by now.
pub(super) type Left = Vec<(u32, u64)>;

const FREE: u32 = u32::MAX;

impl Labels {
    pub(super) fn new(nodes: &dyn Candidates) -> Self {
        let n = nodes.len() as u32;
        let ids = (0..nodes.len()).map(|i| nodes.id(i)).collect();
        Self { ids, places: (0..n).collect(), by_place: (0..n).collect() }
    }

    /// Those of another set: who was in this one has the label that it had.
    pub(super) fn next(&self, nodes: &dyn Candidates) -> (Self, Left) {
        let mut next = Self {
            ids: self.ids.clone(),
            places: vec![FREE; self.places.len()],
            by_place: Vec::with_capacity(nodes.len()),
        };
        let (mut expected, mut strangers) = (0, Vec::new());
        for (place, i) in (0..).zip(0..nodes.len()) {
            let id = nodes.id(i);
            // Mostly it is the next one, or the one after that, as where one was removed.
            let is = |at: &usize| {
                let label = self.by_place.get(*at).map(|label| *label as usize);
                label.is_some_and(|label| self.ids[label] == id && next.places[label] == FREE)
            };
            let label = if let Some(at) = Some(expected).filter(is).or_else(|| Some(expected + 1).filter(is)) {
                expected = at + 1;
                let label = self.by_place[at];
                next.places[label as usize] = place;
                label
            } else {
                strangers.push(i);
                FREE
            };
            next.by_place.push(label);
        }
        let left = next.introduce(self, nodes, &strangers);
        (next, left)
    }

    /// Gives those a label that were not where they were expected. Who left.
    fn introduce(&mut self, before: &Self, nodes: &dyn Candidates, strangers: &[usize]) -> Left {
        let is_free = |next: &Self, label: u32| next.places[label as usize] == FREE;
        let missing: Vec<u32> = before.by_place.iter().copied().filter(|&label| is_free(self, label)).collect();
        let mut by_id: HashMap<u64, u32, Seed> =
            missing.iter().map(|&label| (before.ids[label as usize], label)).collect();
        let mut new = Vec::new();
        for &i in strangers {
            match by_id.remove(&nodes.id(i)) {
                Some(label) => self.set(label, i),
                None => new.push(i),
            }
        }
        let left = missing.into_iter().filter(|&label| is_free(self, label));
        let left = left.map(|label| (label, before.ids[label as usize])).collect();
        let free: Vec<u32> = if new.is_empty() {
            Vec::new()
        } else {
            (0..).zip(&self.places).filter(|(_, place)| **place == FREE).map(|(label, _)| label).collect()
        };
        let mut free = free.into_iter();
        for i in new {
            let label = free.next().unwrap_or_else(|| {
                self.ids.push(0);
                self.places.push(FREE);
                self.ids.len() as u32 - 1
            });
            self.ids[label as usize] = nodes.id(i);
            self.set(label, i);
        }
        left
    }

    fn set(&mut self, label: u32, place: usize) {
        self.places[label as usize] = place as u32;
        self.by_place[place] = label;
    }

    /// How many labels there are, those included that nobody has.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// By place in the set.
    pub(super) fn labels(&self) -> &[u32] {
        &self.by_place
    }

    pub(super) fn id(&self, label: u32) -> u64 {
        self.ids[label as usize]
    }

    /// Where in the set the endpoint with this label is.
    pub(super) fn place(&self, label: u32) -> usize {
        self.places[label as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategy::testing::Nodes;

    fn nodes(ids: &[u64]) -> Nodes {
        Nodes { id: ids.to_vec(), ..Nodes::open(ids.len()) }
    }

    proptest! {
        #[test]
        fn whoever_stays_keeps_its_label_and_nobody_shares_one(
            sets in prop::collection::vec(prop::collection::hash_set(0..40_u64, 0..30), 2..8),
        ) {
            let sets: Vec<Vec<u64>> = sets.into_iter().map(|set| set.into_iter().collect()).collect();
            let mut labels = Labels::new(&nodes(&sets[0]));
            for (before, set) in sets.iter().zip(&sets[1..]) {
                let (next, left) = labels.next(&nodes(set));
                let mut seen = std::collections::HashSet::new();
                for (place, id) in set.iter().enumerate() {
                    let label = next.labels()[place];
                    prop_assert!(seen.insert(label));
                    prop_assert_eq!((next.id(label), next.place(label)), (*id, place));
                    if let Some(was) = before.iter().position(|known| known == id) {
                        prop_assert_eq!(labels.labels()[was], label);
                    }
                }
                let mut gone: Vec<u64> = left.iter().map(|(_, id)| *id).collect();
                gone.sort_unstable();
                let mut expected: Vec<u64> = before.iter().copied().filter(|id| !set.contains(id)).collect();
                expected.sort_unstable();
                prop_assert_eq!(gone, expected);
                prop_assert!(left.iter().all(|(label, id)| labels.id(*label) == *id));
                labels = next;
            }
        }
    }

    #[test]
    fn two_that_share_an_id_by_accident_have_a_label_each() {
        let labels = Labels::new(&nodes(&[7, 7, 8]));
        for set in [[8, 7, 7], [7, 8, 7]] {
            let (next, left) = labels.next(&nodes(&set));
            let mut seen = next.labels().to_vec();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 3);
            assert!(left.len() <= 1, "one of the two may have the place of the other");
        }
        let (_, mut left) = labels.next(&nodes(&[8]));
        left.sort_unstable();
        assert_eq!(left, [(0, 7), (1, 7)]);
    }
}
