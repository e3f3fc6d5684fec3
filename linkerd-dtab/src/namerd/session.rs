//! What one peer may see, change and watch.

use std::{collections::BTreeSet, fmt, net::SocketAddr, ops::Deref, sync::Arc};

use super::Namerd;
use crate::{
    Activity, Addr, Bound, Delegation, Dtab, NameTree, Path,
    store::{Expect, Namespace, StoreError, Stored, Version},
};

/// Who asks.
///
/// Whoever accepts a connection puts one into the extensions of each request; an interface adds what the request itself
/// says (a token, a reason).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub addr: Option<SocketAddr>,
    /// The name that its certificate was verified for.
    pub name: Option<Arc<str>>,
    /// A bearer token of its requests, not verified yet.
    pub token: Option<Arc<str>>,
    /// It came in through a listener that allows no changes.
    pub is_read_only: bool,
}

/// One peer's view of a [`Namerd`]. A clone is the same session; connections and single requests have one each.
#[derive(Clone, Debug)]
pub struct Session {
    namerd: Namerd,
    peer: Arc<Peer>,
}

/// A watch that counts against its session's limits until it is dropped.
#[derive(Debug)]
pub struct Watched<T> {
    activity: Activity<T>,
}

/// Why a peer does not get what it asks for.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It may not see or change this namespace.
    #[error("{who} may not {what} namespace {namespace}")]
    Forbidden {
        /// The peer.
        who: String,
        /// `read`, `write` or `administer`.
        what: &'static str,
        /// Which.
        namespace: Namespace,
    },
    /// A limit was reached.
    #[error("too many {what}: {limit} are allowed, and {offender} has the most")]
    Limit {
        /// What there are too many of.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
        /// Who has the most of them.
        offender: String,
    },
}

/// Why a table was not changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer may not.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store did not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table was refused: where in it, and why.
    #[error("{0}")]
    Rejected(String),
}

impl Session {
    pub(super) fn new(namerd: Namerd, peer: Peer) -> Self {
        Self { namerd, peer: Arc::new(peer) }
    }

    /// Who asks.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The namespaces that this peer may see.
    pub fn namespaces(&self) -> Result<Watched<Arc<BTreeSet<Namespace>>>, Refused> {
        Ok(Watched { activity: self.namerd.namespaces() })
    }

    /// The table of a namespace, `None` while there is no such namespace.
    pub fn dtab(&self, namespace: &Namespace) -> Result<Watched<Stored>, Refused> {
        Ok(Watched { activity: self.namerd.dtab(namespace) })
    }

    /// Binds `name` under the table of a namespace with `extra` on top of it. A namespace that does not exist has an empty
    /// table.
    pub fn bind(&self, namespace: &Namespace, extra: &Dtab, name: &Path) -> Result<Watched<NameTree<Bound>>, Refused> {
        Ok(Watched { activity: self.namerd.bind(namespace, extra, name) })
    }

    /// Explains how [`bind`](Self::bind) gets where it does.
    pub fn delegate(&self, namespace: &Namespace, extra: &Dtab, name: &Path) -> Result<Watched<Delegation>, Refused> {
        Ok(Watched { activity: self.namerd.delegate(namespace, extra, name) })
    }

    /// Where the replicas of a bound name are, by its id. The prefixes of transformers (`/%/...`) are left out.
    pub fn addr(&self, id: &Path) -> Result<Watched<Addr>, Refused> {
        Ok(Watched { activity: self.namerd.addr(id) })
    }

    /// Writes the table of a namespace; when this is answered, [`dtab`](Self::dtab) shows it or something newer.
    pub async fn put(&self, namespace: &Namespace, dtab: &Dtab, expect: &Expect) -> Result<Version, WriteError> {
        Ok(self.namerd.store().put(namespace, dtab, expect).await?)
    }

    /// Deletes a namespace.
    pub async fn delete(&self, namespace: &Namespace, expect: &Expect) -> Result<(), WriteError> {
        Ok(self.namerd.store().delete(namespace, expect).await?)
    }
}

impl<T> Deref for Watched<T> {
    type Target = Activity<T>;

    fn deref(&self) -> &Activity<T> {
        &self.activity
    }
}

impl<T> std::ops::DerefMut for Watched<T> {
    fn deref_mut(&mut self) -> &mut Activity<T> {
        &mut self.activity
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.addr) {
            (Some(name), Some(addr)) => write!(f, "{name} at {addr}"),
            (Some(name), None) => f.write_str(name),
            (None, Some(addr)) => addr.fmt(f),
            (None, None) => f.write_str("somebody"),
        }
    }
}
