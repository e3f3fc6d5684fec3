//! What a namerd has open, for metrics and for people.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Cache, Namerd, Used, shared::Shared};
use crate::{State, store::Namespace};

/// What a namerd has open now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// How many namespaces there are; `None` while that is not known.
    pub namespaces: Option<usize>,
    /// How many answers of the store were not believed, since the start: see [`DtabStore::doubts`](crate::store::DtabStore::doubts).
    pub doubts: u64,
    /// What peers have open, and what they were refused.
    pub used: Used,
    /// Bound names that are shared by those who watch them.
    pub bindings: Watches,
    /// Addresses that are.
    pub addrs: Watches,
    /// The tables that somebody watches, by namespace.
    pub tables: Vec<TableAge>,
}

/// How many watches of one kind are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watches {
    /// That somebody watches.
    pub active: usize,
    /// That are kept for a while.
    pub inactive: usize,
    /// How many there may be.
    pub limits: Cache,
}

/// How sure the table of a namespace is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TableAge {
    /// Whose table.
    pub namespace: Namespace,
    /// How long ago its store was last heard of; `None`: never.
    pub contact: Option<Duration>,
    /// Why it is not known, or may be stale.
    pub failure: Option<Arc<str>>,
}

impl Namerd {
    /// What is open now. Costs as much as there are tables and peers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let now = Instant::now();
        let mut tables: Vec<_> = self
            .inner
            .tables
            .active()
            .into_iter()
            .map(|(namespace, table)| {
                let snapshot = table.stored.snapshot();
                let failure = match (snapshot.state, snapshot.stale) {
                    (State::Failed(error), _) | (_, Some(error)) => Some(error.to_string().into()),
                    _ => None,
                };
                TableAge { namespace, contact: snapshot.contact.map(|contact| now.duration_since(contact)), failure }
            })
            .collect();
        tables.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        Stats {
            namespaces: self.namespaces().sample().ok().map(|names| names.len()),
            doubts: self.inner.store.doubts(),
            used: self.inner.counts.used(),
            bindings: watches(&self.inner.bindings),
            addrs: watches(&self.inner.addrs),
            tables,
        }
    }
}

fn watches<K: super::shared::Key, V: Clone + Send + Sync + 'static>(shared: &Shared<K, V>) -> Watches {
    let (active, inactive) = shared.len();
    Watches { active, inactive, limits: shared.limits() }
}
