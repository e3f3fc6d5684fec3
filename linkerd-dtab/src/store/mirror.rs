//! What a store has last said of its tables, shared by all who watch it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Namespace, Stored, VersionedDtab};
use crate::{Activity, Failure, Publisher, State};

/// Namespaces and their tables, as they were last read.
///
/// Nothing but a reading takes anything away: a failure marks what is known as stale.
pub(super) struct Mirror {
    inner: Mutex<Inner>,
}

/// What was read of one namespace.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// A table.
    Table(VersionedDtab),
    /// Something that is none.
    Bad(Failure),
}

struct Inner {
    known: BTreeMap<Namespace, Known>,
    /// Whether all namespaces were read at least once.
    is_whole: bool,
    /// Why the last attempt to read them failed.
    stale: Option<Failure>,
    /// Why some are kept that the store lacks.
    doubt: Option<Failure>,
    names: Publisher<Arc<BTreeSet<Namespace>>>,
    // Of a namespace that is watched, or was until a little while ago.
    watched: HashMap<Namespace, Publisher<Stored>>,
}

#[derive(Default)]
struct Known {
    /// The last good one.
    table: Option<Arc<VersionedDtab>>,
    /// Why there is no newer one.
    bad: Option<Failure>,
    /// Why it is kept, though the store lacks it.
    lost: Option<Failure>,
}

/// What is kept though the store lacks it: all but these, for this reason.
pub(super) struct Kept<'a> {
    pub(super) but: &'a HashSet<Namespace>,
    pub(super) why: &'a Failure,
}

impl Mirror {
    pub(super) fn new() -> Self {
        let (names, _) = Activity::channel();
        let inner =
            Inner { known: BTreeMap::new(), is_whole: false, stale: None, doubt: None, names, watched: HashMap::new() };
        Self { inner: Mutex::new(inner) }
    }

    /// The namespaces that there are.
    pub(super) fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        self.inner().names.subscribe()
    }

    /// The table of a namespace.
    pub(super) fn watch(&self, namespace: &Namespace) -> Activity<Stored> {
        let mut inner = self.inner();
        if let Some(watched) = inner.watched.get(namespace) {
            return watched.subscribe();
        }
        inner.watched.retain(|_, watched| !watched.is_closed());
        let (watched, activity) = Activity::channel();
        inner.watched.insert(namespace.clone(), watched);
        inner.publish(namespace);
        activity
    }

    /// The last good table of a namespace.
    pub(super) fn table(&self, namespace: &Namespace) -> Stored {
        self.inner().known.get(namespace).and_then(|known| known.table.clone())
    }

    /// All namespaces were read: there are these and no others. `true` if that is news.
    pub(super) fn replace(&self, readings: BTreeMap<Namespace, Reading>) -> bool {
        self.take(readings, None)
    }

    /// All namespaces were read; some that are not among them may be kept. `true` if that is news.
    pub(super) fn take(&self, readings: BTreeMap<Namespace, Reading>, kept: Option<&Kept<'_>>) -> bool {
        let mut inner = self.inner();
        let before = inner.known.len();
        inner.known.retain(|name, known| {
            if readings.contains_key(name) {
                return true;
            }
            known.lost = kept.filter(|kept| !kept.but.contains(name)).map(|kept| Arc::clone(kept.why));
            known.lost.is_some()
        });
        let mut is_news = !inner.is_whole || inner.known.len() < before;
        for (namespace, reading) in readings {
            is_news |= inner.learn(&namespace, reading);
        }
        inner.is_whole = true;
        inner.stale = None;
        inner.doubt = kept.map(|kept| Arc::clone(kept.why));
        inner.publish_all();
        is_news
    }

    /// What these readings would change; `deleted` are no loss.
    #[cfg(any(feature = "etcd", feature = "consul", feature = "zookeeper", feature = "k8s"))]
    pub(super) fn compare(
        &self,
        readings: &BTreeMap<Namespace, Reading>,
        deleted: &HashSet<Namespace>,
    ) -> super::doubt::Difference {
        let inner = self.inner();
        let lost = inner.known.keys().filter(|name| !readings.contains_key(*name));
        let (lost, gone): (Vec<_>, Vec<_>) = lost.partition(|name| !deleted.contains(*name));
        let is_known = |(name, reading): (&Namespace, &Reading)| {
            inner.known.get(name).is_some_and(|known| match reading {
                Reading::Table(table) => known.table.as_deref() == Some(table),
                Reading::Bad(_) => known.bad.is_some(),
            })
        };
        super::doubt::Difference {
            is_same: lost.is_empty() && gone.is_empty() && readings.iter().all(is_known),
            is_empty: readings.is_empty(),
            kept: inner.known.len() - lost.len() - gone.len(),
            lost: lost.len(),
        }
    }

    /// One namespace was read.
    pub(super) fn set(&self, namespace: &Namespace, reading: Reading) {
        let mut inner = self.inner();
        inner.learn(namespace, reading);
        inner.publish_names();
        inner.publish(namespace);
    }

    /// One namespace is gone.
    pub(super) fn remove(&self, namespace: &Namespace) {
        let mut inner = self.inner();
        inner.known.remove(namespace);
        inner.publish_names();
        inner.publish(namespace);
    }

    /// The store could not be read.
    pub(super) fn failed(&self, error: Failure) {
        let mut inner = self.inner();
        inner.stale = Some(error);
        inner.publish_all();
    }

    /// The store was heard of and has nothing new.
    #[cfg(feature = "files")]
    pub(super) fn contact(&self) {
        let mut inner = self.inner();
        inner.stale = None;
        inner.publish_all();
    }

    /// Whether anybody watches.
    pub(super) fn is_watched(&self) -> bool {
        let inner = self.inner();
        !inner.names.is_closed() || inner.watched.values().any(|watched| !watched.is_closed())
    }

    /// The namespaces that are watched.
    #[cfg(feature = "files")]
    pub(super) fn watched(&self) -> Vec<Namespace> {
        let inner = self.inner();
        inner.watched.iter().filter(|(_, watched)| !watched.is_closed()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether there is such a namespace, be its table good or bad.
    #[cfg(any(feature = "files", feature = "etcd", feature = "consul", feature = "zookeeper", feature = "k8s"))]
    pub(super) fn knows(&self, namespace: &Namespace) -> bool {
        self.inner().known.contains_key(namespace)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here leaves it half changed when it panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes note of a reading; `true` if it is news.
    fn learn(&mut self, namespace: &Namespace, reading: Reading) -> bool {
        let is_new = !self.known.contains_key(namespace);
        let known = self.known.entry(namespace.clone()).or_default();
        known.lost = None;
        match reading {
            Reading::Table(table) => {
                known.bad = None;
                if known.table.as_deref() == Some(&table) {
                    return is_new;
                }
                known.table = Some(Arc::new(table));
                true
            }
            Reading::Bad(error) => {
                let was_good = known.bad.is_none();
                if was_good {
                    let is_kept = known.table.is_some();
                    tracing::warn!(%namespace, %error, is_kept, "a store has something else than a table");
                }
                known.bad = Some(error);
                was_good
            }
        }
    }

    fn publish_all(&self) {
        self.publish_names();
        for namespace in self.watched.keys() {
            self.publish(namespace);
        }
    }

    fn publish_names(&self) {
        if self.is_whole {
            // Most of the time there is nothing new, and nothing to copy.
            let is_same = matches!(self.names.sample(), State::Ok(names) if names.iter().eq(self.known.keys()));
            if is_same {
                self.names.contact();
            } else {
                self.names.ok(Arc::new(self.known.keys().cloned().collect()));
            }
        }
        if let Some(error) = self.stale.as_ref().or(self.doubt.as_ref()) {
            self.names.failed(Arc::clone(error));
        }
    }

    fn publish(&self, namespace: &Namespace) {
        let Some(watched) = self.watched.get(namespace) else { return };
        let known = self.known.get(namespace);
        let table = known.and_then(|known| known.table.clone());
        let bad = known.and_then(|known| known.bad.as_ref().or(known.lost.as_ref()));
        // What was never read as a table is not absent.
        if table.is_some() || (bad.is_none() && self.is_whole) {
            watched.ok_if_changed(table, PartialEq::eq);
        }
        if let Some(error) = bad.or(self.stale.as_ref()) {
            watched.failed(Arc::clone(error));
        }
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.inner().known.keys()).finish()
    }
}
