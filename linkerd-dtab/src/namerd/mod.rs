//! namerd: the tables of a whole fleet in one place, and the names bound under them.
//!
//! A [`Namerd`] has a [store](crate::store) of tables by namespace and the namers that their names lead to. Its
//! interfaces are services over one such value and open no sockets; each asks on behalf of a [`Peer`] through a
//! [`Session`], which is where it is decided what that peer may see, change and watch.
//!
//! ```text
//!  http  mesh  thrift            one service each, without sockets
//!    └─────┼─────┘
//!       Session                  who asks: roles, limits, watches that are counted
//!          │
//!       Namerd ── shared watches ── Local (one for each namespace) ── namers
//!          │
//!       DtabStore                memory, files, etcd, ZooKeeper, Consul, Kubernetes
//! ```

#[cfg(feature = "mesh")]
pub mod mesh;
mod session;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

pub use session::{Peer, Refused, Session, Watched, WriteError};

use crate::{
    Activity, Addr, Bound, Delegation, Dtab, Interpreter, NameTree, Namer, Path,
    interpreter::Local,
    namer::{Inet, Resolve},
    store::{DtabStore, Namespace, Stored},
};

/// Tables by namespace, and the names bound under them. A clone is the same namerd.
#[derive(Clone)]
pub struct Namerd {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn DtabStore>,
    namers: Vec<(Path, Arc<dyn Namer>)>,
    resolve: Arc<dyn Resolve>,
    // Binds what has its whole table with it.
    bare: OnceLock<Local>,
}

/// A namerd before it is made.
pub struct Builder {
    inner: Inner,
}

impl Namerd {
    /// A namerd over this store. The others have defaults: no namers, the system's resolver.
    pub fn builder(store: impl DtabStore) -> Builder {
        Builder {
            inner: Inner {
                store: Arc::new(store),
                namers: Vec::new(),
                resolve: Arc::new(Inet::default()),
                bare: OnceLock::new(),
            },
        }
    }

    /// What `peer` may see, change and watch.
    #[must_use]
    pub fn session(&self, peer: Peer) -> Session {
        Session::new(self.clone(), peer)
    }

    pub(crate) fn store(&self) -> &Arc<dyn DtabStore> {
        &self.inner.store
    }

    /// The namespaces that there are.
    pub(crate) fn namespaces(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        self.inner.store.list()
    }

    /// The table of a namespace.
    pub(crate) fn dtab(&self, namespace: &Namespace) -> Activity<Stored> {
        self.inner.store.watch(namespace)
    }

    /// Binds `name` under the table of a namespace with `extra` on top of it. A namespace that does not exist has an empty
    /// table.
    pub(crate) fn bind(&self, namespace: &Namespace, extra: &Dtab, name: &Path) -> Activity<NameTree<Bound>> {
        self.local(namespace).bind(extra, name)
    }

    /// Explains how [`bind`](Self::bind) gets where it does.
    pub(crate) fn delegate(&self, namespace: &Namespace, extra: &Dtab, name: &Path) -> Activity<Delegation> {
        self.local(namespace).delegate(extra, name)
    }

    /// Where the replicas of a bound name are, by its id. The prefixes of transformers (`/%/...`) are left out.
    pub(crate) fn addr(&self, id: &Path) -> Activity<Addr> {
        let bare = self.inner.bare.get_or_init(|| self.bare());
        let id = without_transformers(id);
        let tree = bare.bind(&Dtab::empty(), &id);
        tree.flat_map(move |tree| match tree {
            NameTree::Leaf(bound) => bound.addr,
            NameTree::Empty => Activity::value(Addr::of([])),
            NameTree::Neg => Activity::value(Addr::Neg),
            NameTree::Fail | NameTree::Alt(_) | NameTree::Union(_) => {
                Activity::failed(Arc::new(NotConcrete { id: id.clone() }))
            }
        })
    }

    fn bare(&self) -> Local {
        Local::new(self.inner.namers.clone(), Arc::clone(&self.inner.resolve))
    }

    fn local(&self, namespace: &Namespace) -> Local {
        let table = self.dtab(namespace).map(|stored| stored.map_or_else(Dtab::empty, |stored| stored.dtab.clone()));
        self.bare().with_dtab(table)
    }
}

impl Builder {
    /// Adds a namer at `prefix` (`/#/io.l5d.fs`), which is asked after those that were added before.
    #[must_use]
    pub fn namer(mut self, prefix: Path, namer: impl Namer) -> Self {
        self.inner.namers.push((prefix, Arc::new(namer)));
        self
    }

    /// Who answers for the hosts of system names such as `/$/inet/HOST/PORT`.
    #[must_use]
    pub fn resolve(mut self, resolve: impl Resolve) -> Self {
        self.inner.resolve = Arc::new(resolve);
        self
    }

    /// The namerd.
    #[must_use]
    pub fn build(self) -> Namerd {
        Namerd { inner: Arc::new(self.inner) }
    }
}

/// A path that was taken for the id of a bound name leads to several, or fails. The text is Linkerd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id} is not a concrete bound id")]
struct NotConcrete {
    id: Path,
}

/// What is left of an id behind the prefixes of transformers: from the first element that begins with `#` or `$`.
fn without_transformers(id: &Path) -> Path {
    if id.get(0) != Some(b"%") {
        return id.clone();
    }
    let is_root = |element: &[u8]| element.starts_with(b"#") || element.starts_with(b"$");
    match id.iter().position(is_root) {
        Some(begin) => id.drop_first(begin),
        None => id.clone(),
    }
}

impl fmt::Debug for Namerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<_> = self.inner.namers.iter().map(|(prefix, _)| prefix).collect();
        f.debug_struct("Namerd").field("namers", &prefixes).finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}
