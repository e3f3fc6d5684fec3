//! Updates of all kinds beside what they mean: who is in the set, in which order, who it was before, and who left.

use std::{
    cell::Cell,
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use linkerd_balance::{Balance, Draw, Member, Policy, Ring, Tiers};
use proptest::{collection::vec, prelude::*};

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A key of which several hash alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    name: u8,
    hashes: u8,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.name % self.hashes).hash(state);
    }
}

/// Each endpoint's service is the number of those that were made before it.
fn balance(policy: Policy) -> Balance<Key, u32> {
    let made = AtomicU32::new(0);
    Balance::new(policy, move |_: &Key, _| made.fetch_add(1, Ordering::Relaxed))
}

/// Those that left since it was looked at last.
fn told<K, S>(balance: &Balance<K, S>) -> Arc<Mutex<Vec<(K, S)>>>
where
    K: Eq + Hash + Copy + Send + Sync + 'static,
    S: Copy + Send + Sync + 'static,
{
    let left = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&left);
    balance.on_left(move |key, made| told.lock().unwrap().push((*key, *made)));
    left
}

/// What an update does to those that are there: keys and services, in their order.
#[derive(Default)]
struct Model {
    set: Vec<(Key, f64, u32)>,
    made: Cell<u32>,
}

impl Model {
    fn update(&mut self, members: &[(Key, f64)]) -> Vec<(Key, u32)> {
        let before: HashMap<u8, u32> = self.set.iter().map(|(key, _, made)| (key.name, *made)).collect();
        let mut next: Vec<(Key, f64, u32)> = Vec::new();
        for &(key, weight) in members {
            if let Some(known) = next.iter_mut().find(|(known, ..)| *known == key) {
                known.1 = weight;
                continue;
            }
            let made = before.get(&key.name).copied().unwrap_or_else(|| self.made.replace(self.made.get() + 1));
            next.push((key, weight, made));
        }
        let is_left = |(key, ..): &&(Key, f64, u32)| next.iter().all(|(next, ..)| next != key);
        let left = self.set.iter().filter(is_left).map(|(key, _, made)| (*key, *made)).collect();
        self.set = next;
        left
    }
}

/// Sets as discovery has them: any, the last one with a few changes, the last one in another order.
#[derive(Clone, Debug)]
enum Step {
    Any(Vec<(u8, u8)>),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Weigh(prop::sample::Index, u8),
    Turn(prop::sample::Index),
    Reverse,
    Twice(prop::sample::Index, u8),
    Same,
}

fn step() -> impl Strategy<Value = Step> {
    let weight = 1..4_u8;
    prop_oneof![
        1 => vec((0..60_u8, weight.clone()), 0..60).prop_map(Step::Any),
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, name)| Step::Insert(at, name)),
        4 => any::<prop::sample::Index>().prop_map(Step::Remove),
        2 => (any::<prop::sample::Index>(), weight.clone()).prop_map(|(at, weight)| Step::Weigh(at, weight)),
        1 => any::<prop::sample::Index>().prop_map(Step::Turn),
        1 => Just(Step::Reverse),
        1 => (any::<prop::sample::Index>(), weight).prop_map(|(at, weight)| Step::Twice(at, weight)),
        1 => Just(Step::Same),
    ]
}

fn apply(step: Step, members: &mut Vec<(Key, f64)>, hashes: u8) {
    let (key, len) = (|name| Key { name, hashes }, members.len());
    match step {
        Step::Any(any) => *members = any.into_iter().map(|(name, weight)| (key(name), weight.into())).collect(),
        Step::Insert(at, name) => members.insert(at.index(len + 1), (key(name), 1.0)),
        Step::Same => {}
        _ if members.is_empty() => {}
        Step::Remove(at) => drop(members.remove(at.index(len))),
        Step::Weigh(at, weight) => members[at.index(len)].1 = weight.into(),
        Step::Turn(at) => members.rotate_left(at.index(len)),
        Step::Reverse => members.reverse(),
        Step::Twice(at, weight) => members.push((members[at.index(len)].0, weight.into())),
    }
}

proptest! {
    #[test]
    fn updates_do_what_they_say(
        steps in vec(step(), 1..30),
        hashes in prop::sample::select(vec![1_u8, 7, 255]),
        ring: bool,
    ) {
        let policy = if ring { Policy::new(Ring::new(), linkerd_balance::PeakEwma::default) } else { Policy::default() };
        let (balance, mut model, mut members) = (balance(policy), Model::default(), Vec::new());
        let left = told(&balance);
        for step in steps {
            apply(step, &mut members, hashes);
            balance.update(members.iter().copied()).unwrap();
            let mut left = std::mem::take(&mut *left.lock().unwrap());
            let mut expected = model.update(&members);
            left.sort_unstable_by_key(|(_, made)| *made);
            expected.sort_unstable_by_key(|(_, made)| *made);
            prop_assert_eq!(left, expected);
            let services: Vec<_> = model.set.iter().map(|(key, _, made)| (*key, *made)).collect();
            prop_assert_eq!(balance.services(), services);
            let weights: Vec<_> = balance.endpoints(now()).iter().map(|info| (info.key, info.weight)).collect();
            prop_assert_eq!(weights, model.set.iter().map(|(key, weight, _)| (*key, *weight)).collect::<Vec<_>>());
            for random in [0, u64::MAX / 2, u64::MAX] {
                let picked = balance.try_acquire(Draw::new(random).with_key(random), now(), &[]);
                prop_assert_eq!(picked.is_err(), model.set.is_empty());
            }
        }
    }
}

#[test]
fn an_update_that_changes_nothing_is_none() {
    let key = |name| Key { name, hashes: 255 };
    let balance = balance(Policy::default().tiers(Tiers::new().local("here")));
    let members = || (0..9).map(|name| Member::new(key(name)).zone(if name % 2 == 0 { "here" } else { "there" }));
    balance.update(members()).unwrap();
    balance.update(members()).unwrap();
    let stats = balance.stats(now());
    assert_eq!((stats.updates, stats.rebuilds, stats.adds, stats.removes), (2, 1, 9, 0));
    // Another zone is a change, of that endpoint's.
    balance.update(members().map(|member| if member.key.name == 8 { member.zone("there") } else { member })).unwrap();
    let endpoints = balance.endpoints(now());
    let of = |name| endpoints.iter().find(|info| info.key.name == name).unwrap();
    assert_eq!((of(8).zone.as_deref(), of(8).tier, of(7).tier, of(6).tier), (Some("there"), 1, 1, 0));
    assert_eq!(balance.stats(now()).rebuilds, 2);
}

#[test]
fn who_stays_on_probation_has_not_left_until_it_fails() {
    let healths = std::sync::Arc::<std::sync::Mutex<HashMap<u8, linkerd_balance::Health>>>::default();
    let kept = std::sync::Arc::clone(&healths);
    let balance = Balance::new(Policy::default().probation(5), move |key: &u8, health| {
        kept.lock().unwrap().insert(*key, health.clone());
        *key
    });
    let left = told(&balance);
    let all = |keys: &[u8]| {
        balance.update(keys.iter().map(|key| (*key, 1.0))).unwrap();
        std::mem::take(&mut *left.lock().unwrap())
    };
    assert_eq!(all(&[1, 2, 3]), []);
    assert_eq!(all(&[1, 2]), []);
    assert_eq!(balance.len(), 3);
    healths.lock().unwrap()[&3].busy_until(now() + Duration::from_hours(1));
    assert_eq!(all(&[1, 2]), [(3, 3)]);
    assert_eq!(balance.len(), 2);
}
