//! A bounded cache of things that end when they are no longer used.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Shares one value per key, up to a number of keys.
///
/// A value is idle when nothing but the cache holds it. When the cache is full the entry that was idle for longest
/// makes room; if none is idle, the caller gets a value of its own that nobody else will see (a *one-shot*), rather than
/// an error. After Finagle's `ServiceFactoryCache`.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
    capacity: usize,
    counts: CacheCounts,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: Instant,
}

/// What a cache did so far.
#[derive(Debug, Default)]
pub(crate) struct CacheCounts {
    pub(crate) misses: AtomicU64,
    pub(crate) evicts: AtomicU64,
    pub(crate) expires: AtomicU64,
    pub(crate) oneshots: AtomicU64,
}

impl CacheCounts {
    pub(crate) fn incr(counter: &AtomicU64) {
        // Relaxed: a number for people, it orders nothing.
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Mutex::default(), capacity, counts: CacheCounts::default() }
    }

    /// The value of `key`, made if there is none.
    ///
    /// `make` runs under the cache's lock, so that a key has one value: it must not block or come back here.
    pub(crate) fn get_or_make(&self, key: &K, now: Instant, make: impl FnOnce() -> V) -> Arc<V> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(key) {
            entry.used = now;
            return Arc::clone(&entry.value);
        }
        CacheCounts::incr(&self.counts.misses);
        let value = Arc::new(make());
        if entries.len() >= self.capacity {
            let Some(idle) = longest_idle(&entries) else {
                CacheCounts::incr(&self.counts.oneshots);
                return value;
            };
            entries.remove(&idle);
            CacheCounts::incr(&self.counts.evicts);
        }
        entries.insert(key.clone(), Entry { value: Arc::clone(&value), used: now });
        value
    }

    /// Lets go of what was idle for longer than `ttl`.
    pub(crate) fn sweep(&self, now: Instant, ttl: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            if Arc::strong_count(&entry.value) > 1 {
                // In use until now at least.
                entry.used = now;
                return true;
            }
            let keep = now.saturating_duration_since(entry.used) <= ttl;
            if !keep {
                CacheCounts::incr(&self.counts.expires);
            }
            keep
        });
    }

    /// Every value there is.
    pub(crate) fn values(&self) -> Vec<Arc<V>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| Arc::clone(&entry.value)).collect()
    }

    pub(crate) fn counts(&self) -> &CacheCounts {
        &self.counts
    }
}

fn longest_idle<K: Eq + Hash + Clone, V>(entries: &HashMap<K, Entry<V>>) -> Option<K> {
    let idle = entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.value) == 1);
    idle.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(|| tokio::time::Instant::now().into_std()) + Duration::from_secs(secs)
    }

    fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    #[test]
    fn a_full_cache_lets_go_of_the_longest_idle() {
        let cache = Cache::new(2);
        drop(cache.get_or_make(&"a", at(0), || 1));
        drop(cache.get_or_make(&"b", at(1), || 2));
        drop(cache.get_or_make(&"a", at(2), || 3));
        drop(cache.get_or_make(&"c", at(3), || 4));
        assert_eq!(count(&cache.counts().evicts), 1);
        assert_eq!(*cache.get_or_make(&"a", at(4), || 9), 1, "a was used after b");
        assert_eq!(count(&cache.counts().misses), 3);
    }

    #[test]
    fn a_cache_full_of_busy_entries_gives_one_shots() {
        let cache = Cache::new(1);
        let busy = cache.get_or_make(&"a", at(0), || 1);
        assert_eq!(*cache.get_or_make(&"b", at(1), || 2), 2);
        assert_eq!(*cache.get_or_make(&"b", at(2), || 3), 3, "a one-shot is not kept");
        assert_eq!(count(&cache.counts().oneshots), 2);
        assert_eq!(cache.values(), [busy]);
    }

    #[test]
    fn a_sweep_spares_what_is_in_use() {
        let cache = Cache::new(9);
        let busy = cache.get_or_make(&"a", at(0), || 1);
        drop(cache.get_or_make(&"b", at(0), || 2));
        cache.sweep(at(100), Duration::from_secs(10));
        assert_eq!(cache.values(), [busy]);
        assert_eq!(count(&cache.counts().expires), 1);
        cache.sweep(at(105), Duration::from_secs(10));
        assert_eq!(cache.values().len(), 1, "it was in use at the last sweep");
        cache.sweep(at(111), Duration::from_secs(10));
        assert!(cache.values().is_empty());
    }
}
