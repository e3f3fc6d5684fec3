//! A bounded cache of things that end when they are no longer used.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::telemetry::CacheStats;

/// Shares one value per key, up to a number of keys.
///
/// A value is idle when nothing but the cache holds it. When the cache is full the entry that was idle for longest
/// makes room; if none is idle, the caller gets a value of its own that nobody else will see (a *one-shot*), rather than
/// an error. After Finagle's `ServiceFactoryCache`.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
    capacity: usize,
    /// Whether a value that nobody holds may be let go of.
    is_at_rest: fn(&V, Instant) -> bool,
    stats: CacheStats,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: Instant,
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub(crate) fn new(capacity: usize, stats: CacheStats) -> Self {
        Self::resting(capacity, stats, |_, _| true)
    }

    /// One whose values are idle only once they are at rest. That is asked under the cache's lock.
    pub(crate) fn resting(capacity: usize, stats: CacheStats, is_at_rest: fn(&V, Instant) -> bool) -> Self {
        Self { entries: Mutex::default(), capacity, is_at_rest, stats }
    }

    /// The value of `key`, if there is one.
    pub(crate) fn get(&self, key: &K, now: Instant) -> Option<Arc<V>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        entry.used = now;
        Some(Arc::clone(&entry.value))
    }

    /// The value of `key`, made if there is none.
    ///
    /// `make` runs under the cache's lock, so that a key has one value: it must not block or come back here.
    pub(crate) fn get_or_make(&self, key: &K, now: Instant, make: impl FnOnce() -> V) -> Arc<V> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.used = now;
            return Arc::clone(&entry.value);
        }
        let value = Arc::new(make());
        self.insert(&mut entries, key, now, &value);
        value
    }

    /// The same, and none where that would be a one-shot.
    pub(crate) fn get_or_make_kept(&self, key: &K, now: Instant, make: impl FnOnce() -> V) -> Option<Arc<V>> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.used = now;
            return Some(Arc::clone(&entry.value));
        }
        if !self.make_room(&mut entries, now) {
            return None;
        }
        let value = Arc::new(make());
        entries.insert(key.clone(), Entry { value: Arc::clone(&value), used: now });
        Some(value)
    }

    /// The same for what takes long to make: `make` runs without the lock. Of two that are made at once for one key the
    /// first to be done stays.
    pub(crate) fn get_or_make_apart(&self, key: &K, now: Instant, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(value) = self.get(key, now) {
            return value;
        }
        let value = Arc::new(make());
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.used = now;
            return Arc::clone(&entry.value);
        }
        self.insert(&mut entries, key, now, &value);
        value
    }

    fn insert(&self, entries: &mut HashMap<K, Entry<V>>, key: &K, now: Instant, value: &Arc<V>) {
        if self.make_room(entries, now) {
            entries.insert(key.clone(), Entry { value: Arc::clone(value), used: now });
        }
    }

    fn make_room(&self, entries: &mut HashMap<K, Entry<V>>, now: Instant) -> bool {
        self.stats.misses.incr();
        if entries.len() < self.capacity {
            return true;
        }
        let idle = entries.iter().filter(|(_, entry)| self.is_idle(entry, now));
        let Some(idle) = idle.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else {
            self.stats.oneshots.incr();
            return false;
        };
        entries.remove(&idle);
        self.stats.evicts.incr();
        true
    }

    /// Whether there is room for another value, or would be made.
    pub(crate) fn has_room(&self, now: Instant) -> bool {
        let entries = self.lock();
        entries.len() < self.capacity || entries.values().any(|entry| self.is_idle(entry, now))
    }

    fn is_idle(&self, entry: &Entry<V>, now: Instant) -> bool {
        Arc::strong_count(&entry.value) == 1 && (self.is_at_rest)(&entry.value, now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<V>>> {
        // Each operation leaves it whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of what was idle for longer than `ttl`: counted from when it was last asked for, so that what one cache
    /// lets go of takes along what only it used in the next.
    pub(crate) fn sweep(&self, now: Instant, ttl: Duration) {
        let mut entries = self.lock();
        entries.retain(|_, entry| {
            let keep = now.saturating_duration_since(entry.used) <= ttl || !self.is_idle(entry, now);
            if !keep {
                self.stats.expires.incr();
            }
            keep
        });
    }

    /// Lets go of these, used or not: who uses one keeps it.
    pub(crate) fn let_go(&self, which: impl Fn(&V) -> bool) {
        self.lock().retain(|_, entry| !which(&entry.value));
    }

    /// Every value there is.
    pub(crate) fn values(&self) -> Vec<Arc<V>> {
        let entries = self.lock();
        entries.values().map(|entry| Arc::clone(&entry.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Registry, RouterStats};

    fn at(secs: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(|| tokio::time::Instant::now().into_std()) + Duration::from_secs(secs)
    }

    fn cache(capacity: usize) -> Cache<&'static str, i32> {
        Cache::new(capacity, RouterStats::new(&Registry::new(), "test").bind_cache().path.clone())
    }

    #[test]
    fn a_full_cache_lets_go_of_the_longest_idle() {
        let cache = cache(2);
        drop(cache.get_or_make(&"a", at(0), || 1));
        drop(cache.get_or_make(&"b", at(1), || 2));
        drop(cache.get_or_make(&"a", at(2), || 3));
        drop(cache.get_or_make(&"c", at(3), || 4));
        assert_eq!(cache.stats.evicts.get(), 1);
        assert_eq!(*cache.get_or_make(&"a", at(4), || 9), 1, "a was used after b");
        assert_eq!(cache.stats.misses.get(), 3);
    }

    #[test]
    fn a_cache_full_of_busy_entries_gives_one_shots() {
        let cache = cache(1);
        let busy = cache.get_or_make(&"a", at(0), || 1);
        assert_eq!(*cache.get_or_make(&"b", at(1), || 2), 2);
        assert_eq!(*cache.get_or_make(&"b", at(2), || 3), 3, "a one-shot is not kept");
        assert_eq!(cache.stats.oneshots.get(), 2);
        assert_eq!(cache.values(), [busy]);
    }

    #[test]
    fn what_takes_long_is_made_without_the_lock_and_once_kept() {
        let cache = cache(2);
        let outer = cache.get_or_make_apart(&"a", at(0), || {
            // Would hang were the lock held.
            assert_eq!(*cache.get_or_make_apart(&"b", at(0), || 2), 2);
            assert_eq!(*cache.get_or_make_apart(&"a", at(0), || 1), 1, "the first to be done");
            9
        });
        assert_eq!(*outer, 1, "the first to be done stays");
        assert_eq!(cache.stats.misses.get(), 2);
    }

    #[test]
    fn a_sweep_spares_what_is_in_use() {
        let cache = cache(9);
        let busy = cache.get_or_make(&"a", at(0), || 1);
        drop(cache.get_or_make(&"b", at(0), || 2));
        cache.sweep(at(100), Duration::from_secs(10));
        assert_eq!(cache.values().len(), 1);
        assert_eq!(cache.stats.expires.get(), 1);
        drop(busy);
        assert!(cache.get(&"a", at(105)).is_some());
        cache.sweep(at(115), Duration::from_secs(10));
        assert_eq!(cache.values().len(), 1, "it was asked for ten seconds ago");
        cache.sweep(at(116), Duration::from_secs(10));
        assert!(cache.values().is_empty());
    }

    #[test]
    fn what_is_not_at_rest_stays_and_others_get_none() {
        let cache = Cache::resting(1, CacheStats::detached(), |secs: &u64, now| now >= at(*secs));
        drop(cache.get_or_make_kept(&"a", at(0), || 20));
        assert!(cache.get_or_make_kept(&"b", at(1), || 0).is_none() && !cache.has_room(at(1)));
        cache.sweep(at(19), Duration::from_secs(10));
        assert_eq!(cache.values().len(), 1);
        assert!(cache.has_room(at(20)));
        assert_eq!(*cache.get_or_make_kept(&"b", at(20), || 0).unwrap(), 0);
    }
}
