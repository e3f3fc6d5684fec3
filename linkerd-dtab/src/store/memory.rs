//! Tables that are lost when the process ends (`io.l5d.inMemory`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Change, DtabStore, Expect, Namespace, StoreError, Stored, Version, VersionedDtab};
use crate::{Activity, Dtab, Publisher};

/// A store in memory.
///
/// Versions count from 1 in each namespace, and again from 1 after it was deleted, as in namerd 1.7.5: eight bytes,
/// big-endian.
pub struct Memory {
    tables: Mutex<Tables>,
}

struct Tables {
    stored: BTreeMap<Namespace, Arc<VersionedDtab>>,
    names: Publisher<Arc<BTreeSet<Namespace>>>,
    // Of a namespace that is watched, or was until a little while ago.
    watched: HashMap<Namespace, Publisher<Stored>>,
}

impl Memory {
    /// A store with these tables, of version 1.
    pub fn new(tables: impl IntoIterator<Item = (Namespace, Dtab)>) -> Self {
        let first = |dtab| Arc::new(VersionedDtab { version: counted(1), dtab });
        let stored: BTreeMap<_, _> = tables.into_iter().map(|(name, dtab)| (name, first(dtab))).collect();
        let (names, _) = Activity::channel();
        names.ok(Arc::new(stored.keys().cloned().collect()));
        Self { tables: Mutex::new(Tables { stored, names, watched: HashMap::new() }) }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new([])
    }
}

impl Tables {
    fn set(&mut self, namespace: &Namespace, table: Stored) {
        let names = self.stored.len();
        match &table {
            Some(table) => self.stored.insert(namespace.clone(), Arc::clone(table)),
            None => self.stored.remove(namespace),
        };
        if self.stored.len() != names {
            self.names.ok(Arc::new(self.stored.keys().cloned().collect()));
        }
        if let Some(watched) = self.watched.get(namespace) {
            watched.ok(table);
        }
    }

    fn expect(&self, namespace: &Namespace, expect: &Expect) -> Result<(), StoreError> {
        match (self.stored.get(namespace), expect) {
            (_, Expect::Any) | (None, Expect::Absent) => Ok(()),
            (Some(_), Expect::Absent) => Err(StoreError::Exists(namespace.clone())),
            (None, Expect::Version(_)) => Err(StoreError::Missing(namespace.clone())),
            (Some(stored), Expect::Version(version)) if stored.version == *version => Ok(()),
            (Some(_), Expect::Version(_)) => Err(StoreError::Mismatch(namespace.clone())),
        }
    }
}

impl DtabStore for Memory {
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        self.tables().names.subscribe()
    }

    fn watch(&self, namespace: &Namespace) -> Activity<Stored> {
        let mut tables = self.tables();
        if let Some(watched) = tables.watched.get(namespace) {
            return watched.subscribe();
        }
        tables.watched.retain(|_, watched| !watched.is_closed());
        let (watched, activity) = Activity::channel();
        watched.ok(tables.stored.get(namespace).cloned());
        tables.watched.insert(namespace.clone(), watched);
        activity
    }

    fn put<'a>(&'a self, namespace: &'a Namespace, dtab: &'a Dtab, expect: &'a Expect) -> Change<'a, Version> {
        Box::pin(async move {
            let mut tables = self.tables();
            tables.expect(namespace, expect)?;
            let last = tables.stored.get(namespace).map_or(0, |stored| count(&stored.version));
            let version = counted(last + 1);
            let table = VersionedDtab { version: version.clone(), dtab: dtab.clone() };
            tables.set(namespace, Some(Arc::new(table)));
            Ok(version)
        })
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Change<'a, ()> {
        Box::pin(async move {
            let mut tables = self.tables();
            tables.expect(namespace, expect)?;
            if !tables.stored.contains_key(namespace) {
                return Err(StoreError::Missing(namespace.clone()));
            }
            tables.set(namespace, None);
            Ok(())
        })
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.tables().stored.keys()).finish()
    }
}

fn counted(count: u64) -> Version {
    Version::new(count.to_be_bytes())
}

fn count(version: &Version) -> u64 {
    version.as_bytes().try_into().map_or(0, u64::from_be_bytes)
}
