//! What many watch at once, kept for a while after the last of them has gone.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

/// How many watches of one kind are kept.
///
/// One that somebody watches is active, and inactive after that; it is then let go when it has been inactive for long, or
/// when others have been inactive for less long and there are too many.
///
/// # Defaults
///
/// Those of Linkerd's `cache` section: 1,000 active, 100 inactive for ten minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// At most so many are watched. Another one is refused, and the refusal names who watches most.
    pub active: usize,
    /// At most so many are kept though nobody watches them. 0: none.
    pub inactive: usize,
    /// For how long they are.
    pub inactive_for: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self { active: 1000, inactive: 100, inactive_for: Duration::from_mins(10) }
    }
}

/// Values by key, each made once for all who hold it.
pub(super) struct Shared<K, V> {
    entries: Arc<Mutex<Entries<K, V>>>,
}

/// Why no more may be active: as many are as may be, or the peer has its share and there is nothing beside those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    OfAll(usize),
    OfPeer(usize),
}

/// Who holds something. `None`: the program itself, which has no share.
pub(super) type Holder<'a> = Option<&'a Arc<str>>;

/// A value that is held. It is active until the last that holds it is dropped.
pub(super) struct Held<K: Key, V: Clone + Send + Sync + 'static> {
    key: K,
    value: V,
    holder: Option<Arc<str>>,
    entries: Weak<Mutex<Entries<K, V>>>,
}

/// What a value can be found by.
pub(super) trait Key: Clone + Eq + Hash + Send + Sync + 'static {}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Key for K {}

struct Entries<K, V> {
    limits: Cache,
    // Of each peer, of `limits.active`.
    share: usize,
    by_key: HashMap<K, Entry<V>>,
    // How many each holds, of which each counts once.
    by_peer: HashMap<Arc<str>, usize>,
    // Those that nobody holds, oldest first.
    idle: BTreeMap<u64, (K, Instant)>,
    next_idle: u64,
    is_swept: bool,
}

struct Entry<V> {
    value: V,
    holders: usize,
    by_peer: Holders,
    idle: Option<u64>,
}

/// How often each peer holds something. Most of what there is one peer has: a table of hashes has room for four at least.
#[derive(Default)]
enum Holders {
    #[default]
    None,
    One(Arc<str>, usize),
    #[expect(clippy::box_collection, reason = "it is as large as all else that there is of most")]
    Many(Box<HashMap<Arc<str>, usize>>),
}

impl<K: Key, V: Clone + Send + Sync + 'static> Shared<K, V> {
    /// `share`: how many of those that may be active are each peer's.
    pub(super) fn new(limits: Cache, share: usize) -> Self {
        let entries = Entries {
            limits,
            share,
            by_key: HashMap::new(),
            by_peer: HashMap::new(),
            idle: BTreeMap::new(),
            next_idle: 0,
            is_swept: false,
        };
        Self { entries: Arc::new(Mutex::new(entries)) }
    }

    /// The value of `key` if there is one; one that is inactive only if one more may be active.
    pub(super) fn hold(&self, key: &K, holder: Holder<'_>) -> Option<Held<K, V>> {
        let value = lock(&self.entries).hold(key, holder)?;
        Some(self.held(key, holder, value))
    }

    /// The value of `key`, made by `make` unless there is one.
    pub(super) fn hold_or_make(
        &self,
        key: &K,
        holder: Holder<'_>,
        make: impl FnOnce() -> V,
    ) -> Result<Held<K, V>, Full> {
        if let Some(held) = self.hold(key, holder) {
            return Ok(held);
        }
        lock(&self.entries).has_room(holder)?;
        // Not under the lock: it takes as long as a table makes it take. Of two at once the first is kept.
        let made = make();
        let value = lock(&self.entries).insert(key, holder, made);
        Ok(self.held(key, holder, value))
    }

    /// This key as it is kept, so that its contents are not there twice, or as it is.
    pub(super) fn kept(&self, key: &K) -> K {
        let entries = lock(&self.entries);
        entries.by_key.get_key_value(key).map_or(key, |(kept, _)| kept).clone()
    }

    /// How many are held, and how many are not.
    pub(super) fn len(&self) -> (usize, usize) {
        let entries = lock(&self.entries);
        (entries.active(), entries.idle.len())
    }

    /// The keys and values that are held.
    pub(super) fn active(&self) -> Vec<(K, V)> {
        let entries = lock(&self.entries);
        let active = entries.by_key.iter().filter(|(_, entry)| entry.holders > 0);
        active.map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    /// The first `limit` of those that are held and wanted, in this order, which they are not sorted by: no more are cloned.
    pub(super) fn first_active(
        &self,
        limit: usize,
        is_wanted: impl Fn(&K) -> bool,
        order: impl Fn(&K, &K) -> Ordering,
    ) -> Vec<(K, V)> {
        let entries = lock(&self.entries);
        let active = entries.by_key.iter().filter(|(key, entry)| entry.holders > 0 && is_wanted(key));
        let mut active: Vec<_> = active.collect();
        if active.len() > limit {
            active.select_nth_unstable_by(limit, |(a, _), (b, _)| order(a, b));
            active.truncate(limit);
        }
        active.into_iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    pub(super) fn limits(&self) -> Cache {
        lock(&self.entries).limits
    }

    fn held(&self, key: &K, holder: Holder<'_>, value: V) -> Held<K, V> {
        Held { key: key.clone(), value, holder: holder.cloned(), entries: Arc::downgrade(&self.entries) }
    }
}

impl<K: Key, V: Clone> Entries<K, V> {
    fn active(&self) -> usize {
        self.by_key.len() - self.idle.len()
    }

    /// Whether one more may be active for this peer. What is left of the last share is for those who have less than theirs.
    fn has_room(&self, holder: Holder<'_>) -> Result<(), Full> {
        let (active, limit) = (self.active(), self.limits.active);
        if active >= limit {
            return Err(Full::OfAll(limit));
        }
        let has_share = |peer| self.by_peer.get(peer).copied().unwrap_or_default() >= self.share;
        if active >= limit - self.share && holder.is_some_and(has_share) {
            return Err(Full::OfPeer(self.share));
        }
        Ok(())
    }

    fn hold(&mut self, key: &K, holder: Holder<'_>) -> Option<V> {
        let is_idle = self.by_key.get(key)?.idle.is_some();
        if is_idle && self.has_room(holder).is_err() { None } else { self.add_holder(key, holder) }
    }

    fn add_holder(&mut self, key: &K, holder: Holder<'_>) -> Option<V> {
        let entry = self.by_key.get_mut(key)?;
        if let Some(idle) = entry.idle.take() {
            self.idle.remove(&idle);
        }
        entry.holders += 1;
        if let Some(peer) = holder
            && entry.by_peer.add(peer)
        {
            *self.by_peer.entry(Arc::clone(peer)).or_default() += 1;
        }
        Some(entry.value.clone())
    }

    fn insert(&mut self, key: &K, holder: Holder<'_>, made: V) -> V {
        if let Some(value) = self.add_holder(key, holder) {
            return value;
        }
        let entry = Entry { value: made.clone(), holders: 0, by_peer: Holders::None, idle: None };
        self.by_key.insert(key.clone(), entry);
        self.add_holder(key, holder);
        made
    }

    /// One holder less. What is let go is returned, to be dropped without the lock.
    fn release(&mut self, key: &K, holder: Holder<'_>, now: Instant) -> Vec<V> {
        let Some(entry) = self.by_key.get_mut(key) else { return Vec::new() };
        entry.holders = entry.holders.saturating_sub(1);
        if let Some(peer) = holder
            && entry.by_peer.take(peer)
        {
            take_one(&mut self.by_peer, peer);
        }
        if entry.holders == 0 && entry.idle.is_none() {
            entry.by_peer = Holders::None;
            entry.idle = Some(self.next_idle);
            self.idle.insert(self.next_idle, (key.clone(), now));
            self.next_idle += 1;
        }
        self.sweep(now)
    }

    fn sweep(&mut self, now: Instant) -> Vec<V> {
        let mut gone = Vec::new();
        let mut idle = self.idle.len();
        while let Some(oldest) = self.idle.first_entry() {
            let is_expired = now.duration_since(oldest.get().1) >= self.limits.inactive_for;
            if !is_expired && idle <= self.limits.inactive {
                break;
            }
            idle -= 1;
            let (key, _) = oldest.remove();
            gone.extend(self.by_key.remove(&key).map(|entry| entry.value));
        }
        gone
    }

    /// Whether there is something to sweep, and nobody does.
    fn begin_to_sweep(&mut self) -> bool {
        let begins = !self.is_swept && !self.idle.is_empty();
        self.is_swept |= begins;
        begins
    }

    fn next_expiry(&self) -> Option<Instant> {
        let (_, since) = self.idle.first_key_value()?.1;
        Some(*since + self.limits.inactive_for)
    }
}

impl<K: Key, V: Clone + Send + Sync + 'static> Held<K, V> {
    pub(super) fn value(&self) -> &V {
        &self.value
    }
}

impl<K: Key, V: Clone + Send + Sync + 'static> Drop for Held<K, V> {
    fn drop(&mut self) {
        let Some(entries) = self.entries.upgrade() else { return };
        let gone = lock(&entries).release(&self.key, self.holder.as_ref(), Instant::now());
        // Outside a runtime what is inactive goes when others come after it.
        if let Ok(runtime) = Handle::try_current()
            && lock(&entries).begin_to_sweep()
        {
            runtime.spawn(sweep(Arc::downgrade(&entries)));
        }
        drop(gone);
    }
}

/// Lets go what has been inactive for long, and ends when there is nothing that could be.
async fn sweep<K: Key, V: Clone + Send + Sync + 'static>(entries: Weak<Mutex<Entries<K, V>>>) {
    loop {
        let Some(strong) = entries.upgrade() else { return };
        let (gone, next) = {
            let mut entries = lock(&strong);
            let gone = entries.sweep(Instant::now());
            let next = entries.next_expiry();
            entries.is_swept = next.is_some();
            (gone, next)
        };
        drop((gone, strong));
        let Some(next) = next else { return };
        tokio::time::sleep_until(next).await;
    }
}

impl Holders {
    /// One more of this peer's. True: it is the first.
    fn add(&mut self, peer: &Arc<str>) -> bool {
        match self {
            Self::None => *self = Self::One(Arc::clone(peer), 1),
            Self::One(one, times) if one == peer => {
                *times += 1;
                return false;
            }
            Self::One(one, times) => {
                let both = [(Arc::clone(one), *times), (Arc::clone(peer), 1)];
                *self = Self::Many(Box::new(both.into()));
            }
            Self::Many(many) => {
                let times = many.entry(Arc::clone(peer)).or_default();
                *times += 1;
                return *times == 1;
            }
        }
        true
    }

    /// One less. True: it was the last.
    fn take(&mut self, peer: &Arc<str>) -> bool {
        match self {
            Self::None => false,
            Self::One(one, times) => {
                let is_last = one == peer && *times == 1;
                if is_last {
                    *self = Self::None;
                } else if one == peer {
                    *times -= 1;
                }
                is_last
            }
            Self::Many(many) => take_one(many, peer),
        }
    }
}

/// One less of this peer's. True: it was the last.
fn take_one(by_peer: &mut HashMap<Arc<str>, usize>, peer: &Arc<str>) -> bool {
    let Some(times) = by_peer.get_mut(peer) else { return false };
    *times -= 1;
    let is_last = *times == 0;
    if is_last {
        by_peer.remove(peer);
    }
    is_last
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Key, V: Clone + Send + Sync + 'static> fmt::Debug for Shared<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (active, inactive) = self.len();
        f.debug_struct("Shared").field("active", &active).field("inactive", &inactive).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn shared(active: usize, inactive: usize) -> Shared<u8, Arc<u8>> {
        Shared::new(Cache { active, inactive, inactive_for: Duration::from_secs(10) }, active / 4)
    }

    fn hold(shared: &Shared<u8, Arc<u8>>, key: u8) -> Option<Held<u8, Arc<u8>>> {
        shared.hold_or_make(&key, None, || Arc::new(key)).ok()
    }

    #[tokio::test]
    async fn the_last_share_is_kept_for_those_who_have_less_than_theirs() {
        let shared = shared(8, 0);
        let [greedy, other, third] = ["greedy", "other", "third"].map(Arc::<str>::from);
        let hold = |peer: &Arc<str>, key| shared.hold_or_make(&key, Some(peer), || Arc::new(key));
        // What nobody else uses is for whoever asks.
        let mut held: Vec<_> = (0..6).map(|key| hold(&greedy, key).unwrap()).collect();
        held.push(hold(&greedy, 0).unwrap());
        assert_eq!(hold(&greedy, 6).err(), Some(Full::OfPeer(2)));
        let others = (hold(&other, 0).unwrap(), hold(&other, 6).unwrap());
        assert_eq!(hold(&other, 7).err(), Some(Full::OfPeer(2)), "what is shared counts, too");
        let last = hold(&third, 7).unwrap();
        assert_eq!(hold(&third, 8).err(), Some(Full::OfAll(8)));
        drop((others, last));
        held.truncate(1);
        assert_eq!(shared.len(), (1, 0));
        assert!((1..6).all(|key| hold(&greedy, key).is_ok()));
        drop(held);
        assert!(lock(&shared.entries).by_peer.is_empty(), "who holds nothing is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn what_many_hold_is_made_once_and_kept_for_a_while() {
        let shared = shared(10, 10);
        let (one, two) = (hold(&shared, 1).unwrap(), hold(&shared, 1).unwrap());
        assert!(Arc::ptr_eq(one.value(), two.value()));
        let value = Arc::downgrade(one.value());
        drop(one);
        advance(Duration::from_mins(1)).await;
        assert_eq!(shared.len(), (1, 0), "it is still held");
        drop(two);
        assert_eq!(shared.len(), (0, 1));
        tokio::task::yield_now().await;
        advance(Duration::from_secs(9)).await;
        tokio::task::yield_now().await;
        assert!(value.strong_count() > 0);
        advance(Duration::from_secs(2)).await;
        tokio::task::yield_now().await;
        assert_eq!((shared.len(), value.strong_count()), ((0, 0), 0), "nobody has to ask for it to go");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_again_is_active_again() {
        let shared = shared(10, 10);
        drop(hold(&shared, 1));
        let held = hold(&shared, 1).unwrap();
        advance(Duration::from_mins(1)).await;
        tokio::task::yield_now().await;
        assert_eq!(shared.len(), (1, 0));
        drop(held);
        assert_eq!(shared.len(), (0, 1));
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_inactive_ones_goes_first() {
        let shared = shared(10, 2);
        for key in 1..=3 {
            drop(hold(&shared, key));
        }
        assert_eq!(shared.len(), (0, 2));
        assert!(shared.hold(&1, None).is_none());
        assert!(shared.hold(&2, None).is_some() && shared.hold(&3, None).is_some());
    }

    #[tokio::test]
    async fn the_first_of_those_that_are_wanted_are_given() {
        let shared = shared(100, 10);
        let _held: Vec<_> = (0..20).rev().map(|key| hold(&shared, key).unwrap()).collect();
        drop(hold(&shared, 30));
        let first = |limit| {
            let mut keys: Vec<_> = shared.first_active(limit, |key| key % 2 == 0, Ord::cmp).into_iter().collect();
            keys.sort_unstable();
            keys.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(first(3), [0, 2, 4]);
        assert_eq!(first(10), first(50));
        assert_eq!((first(0).len(), first(50).len()), (0, 10), "one that nobody holds is not active");
    }

    #[tokio::test]
    async fn no_more_become_active_than_may_be() {
        let shared = shared(2, 10);
        drop(hold(&shared, 3));
        let _held = (hold(&shared, 1).unwrap(), hold(&shared, 2).unwrap());
        assert!(hold(&shared, 4).is_none(), "a new one");
        assert!(hold(&shared, 3).is_none(), "an inactive one");
        assert!(hold(&shared, 1).is_some(), "one that is active already");
        assert_eq!(shared.len(), (2, 1));
    }
}
