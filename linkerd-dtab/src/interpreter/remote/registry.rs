//! Watches that all who ask the same share.

use std::{
    collections::HashMap,
    hash::Hash,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Activity, Publisher};

/// As many names, or ids, are watched as may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot watch {asked}: {limit} {what} are watched already")]
pub struct TooManyWatches {
    /// What was asked for.
    pub asked: String,
    /// `names` or `ids`.
    pub what: &'static str,
    /// How many may be watched.
    pub limit: usize,
}

/// What is watched, by what was asked.
pub(super) struct Registry<K, V> {
    watches: Mutex<HashMap<K, Arc<Publisher<V>>>>,
    what: &'static str,
    max: NonZeroUsize,
}

/// A watch in its registry. When it is dropped it is not there any more.
pub(super) struct Registered<K: Eq + Hash, V> {
    registry: Arc<Registry<K, V>>,
    key: K,
    published: Arc<Publisher<V>>,
}

impl<K: Clone + Eq + Hash + ToString, V: Clone + Send + Sync + 'static> Registry<K, V> {
    pub(super) fn new(what: &'static str, max: NonZeroUsize) -> Self {
        Self { watches: Mutex::default(), what, max }
    }

    /// What is known about `key`; `start` is called if nobody watches it yet.
    pub(super) fn watch(self: &Arc<Self>, key: K, start: impl FnOnce(Registered<K, V>)) -> Activity<V> {
        let mut watches = self.lock();
        if let Some(known) = watches.get(&key) {
            return known.subscribe();
        }
        if watches.len() >= self.max.get() {
            let error = TooManyWatches { asked: key.to_string(), what: self.what, limit: self.max.get() };
            return Activity::failed(Arc::new(error));
        }
        let (publisher, activity) = Activity::channel();
        let published = Arc::new(publisher);
        watches.insert(key.clone(), Arc::clone(&published));
        drop(watches);
        start(Registered { registry: Arc::clone(self), key, published });
        activity
    }

    pub(super) fn all(&self) -> Vec<(K, Activity<V>)> {
        self.lock().iter().map(|(key, published)| (key.clone(), published.subscribe())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Publisher<V>>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash + ToString, V: Clone + Send + Sync + 'static> Registered<K, V> {
    pub(super) fn published(&self) -> &Publisher<V> {
        &self.published
    }

    /// Ends the watch if nobody follows it. Somebody may have begun to a moment ago.
    pub(super) fn release(&self) -> bool {
        let mut watches = self.registry.lock();
        let is_closed = self.published.is_closed();
        if is_closed {
            remove(&mut watches, &self.key, &self.published);
        }
        is_closed
    }
}

impl<K: Eq + Hash, V> Drop for Registered<K, V> {
    fn drop(&mut self) {
        let mut watches = self.registry.watches.lock().unwrap_or_else(PoisonError::into_inner);
        remove(&mut watches, &self.key, &self.published);
    }
}

/// Removes a watch, unless another one has taken its place.
fn remove<K: Eq + Hash, V>(watches: &mut HashMap<K, Arc<Publisher<V>>>, key: &K, published: &Arc<Publisher<V>>) {
    if watches.get(key).is_some_and(|known| Arc::ptr_eq(known, published)) {
        watches.remove(key);
    }
}
