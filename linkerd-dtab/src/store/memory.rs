//! Tables that are lost when the process ends (`io.l5d.inMemory`).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Change, DtabStore, Expect, Namespace, StoreError, Stored, Version, VersionedDtab,
    mirror::{Mirror, Reading},
};
use crate::{Activity, Dtab};

/// A store in memory.
///
/// Versions count from 1 in each namespace, and again from 1 after it was deleted, as in namerd 1.7.5: eight bytes,
/// big-endian.
#[derive(Debug)]
pub struct Memory {
    tables: Mirror,
    /// Held from looking at what is there to changing it.
    changes: Mutex<()>,
}

impl Memory {
    /// A store with these tables, of version 1.
    pub fn new(tables: impl IntoIterator<Item = (Namespace, Dtab)>) -> Self {
        let first = |dtab| Reading::Table(VersionedDtab { version: counted(1), dtab });
        let store = Self { tables: Mirror::new(), changes: Mutex::default() };
        store.tables.replace(tables.into_iter().map(|(name, dtab)| (name, first(dtab))).collect());
        store
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new([])
    }
}

impl DtabStore for Memory {
    fn list(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        self.tables.list()
    }

    fn watch(&self, namespace: &Namespace) -> Activity<Stored> {
        self.tables.watch(namespace)
    }

    fn put<'a>(&'a self, namespace: &'a Namespace, dtab: &'a Dtab, expect: &'a Expect) -> Change<'a, Version> {
        Box::pin(async move {
            let _changing = self.changes();
            let stored = self.tables.table(namespace);
            expect.check(namespace, stored.as_ref().map(|stored| &stored.version))?;
            let version = counted(1 + stored.map_or(0, |stored| count(&stored.version)));
            let table = VersionedDtab { version: version.clone(), dtab: dtab.clone() };
            self.tables.set(namespace, Reading::Table(table));
            Ok(version)
        })
    }

    fn delete<'a>(&'a self, namespace: &'a Namespace, expect: &'a Expect) -> Change<'a, ()> {
        Box::pin(async move {
            let _changing = self.changes();
            let stored = self.tables.table(namespace);
            expect.check(namespace, stored.as_ref().map(|stored| &stored.version))?;
            if stored.is_none() {
                return Err(StoreError::Missing(namespace.clone()));
            }
            self.tables.remove(namespace);
            Ok(())
        })
    }
}

fn counted(count: u64) -> Version {
    Version::new(count.to_be_bytes())
}

fn count(version: &Version) -> u64 {
    version.as_bytes().try_into().map_or(0, u64::from_be_bytes)
}
