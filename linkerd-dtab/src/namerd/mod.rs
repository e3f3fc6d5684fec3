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

pub mod check;
mod compose;
mod history;
pub mod http;
mod limits;
mod lost;
#[cfg(feature = "mesh")]
pub mod mesh;
mod meter;
mod origins;
mod past;
mod pattern;
pub mod plan;
mod protect;
pub mod revert;
mod roles;
mod session;
mod shared;
mod shown;
mod stats;
pub mod thrift;
mod writes;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

pub use compose::{BadOwned, Composition, Owned, Part};
pub use history::{History, Keep, Record, diff};
pub use limits::{Kind, Limits, Used};
#[cfg(feature = "mesh")]
use meter::Streaming;
pub use meter::{Meter, Metered, Reason};
pub use past::{ComposedPast, PastError};
pub use pattern::{BadPattern, Pattern};
pub use protect::Protection;
pub use roles::{Grant, Role, Roles, Who};
#[cfg(feature = "mesh")]
use session::{Counted, FollowedTable};
pub use session::{MAX_REASON, Peer, Refused, Session, Watched, WriteError};
pub use shared::Cache;
pub use stats::{Stats, TableAge, Watches};
pub use writes::{Checked, Written};

use check::Checks;
use history::Recorder;
use limits::Counts;
use shared::{Held, Shared};

use crate::{
    Activity, Addr, Bound, Dtab, Interpreter, NameTree, Namer, Path,
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
    // In order of preference, each with the prefix that it is mounted at.
    namers: Vec<(Path, Arc<dyn Namer>)>,
    // Binds what has its whole table with it.
    bare: Local,
    roles: Roles,
    counts: Arc<Counts>,
    tables: Shared<Namespace, Table>,
    bindings: Shared<BindKey, Binding>,
    addrs: Shared<Path, Activity<Addr>>,
    protections: Vec<Protection>,
    compositions: Vec<Arc<Composition>>,
    // Held while one of the fragments is written.
    fragments: tokio::sync::Mutex<()>,
    plans: tokio::sync::Semaphore,
    checks: Checks,
    history: Arc<History>,
    recorder: OnceLock<Recorder>,
}

/// What a binding is found by: the namespace, the table on top of its own, the name.
type BindKey = (Namespace, Dtab, Path);

/// The table of a namespace, watched once for all.
#[derive(Clone)]
struct Table {
    stored: Activity<Stored>,
    // Binds names under it. A namespace that does not exist has an empty table.
    local: Arc<Local>,
    // What holds it for all of its names.
    held: Arc<Mutex<Weak<Held<Namespace, Table>>>>,
}

type HeldTable = Arc<Held<Namespace, Table>>;

/// A bound name, and the table that it is bound under, which is kept for as long.
#[derive(Clone)]
struct Binding {
    tree: Activity<NameTree<Bound>>,
    table: HeldTable,
}

/// A namerd before it is made.
pub struct Builder {
    store: Arc<dyn DtabStore>,
    namers: Vec<(Path, Arc<dyn Namer>)>,
    resolve: Arc<dyn Resolve>,
    roles: Roles,
    limits: Limits,
    bindings: Cache,
    addrs: Cache,
    protections: Vec<Protection>,
    compositions: Vec<Arc<Composition>>,
    roots: Vec<Path>,
    history: History,
}

/// How many tables are kept that nobody watches. Those that are watched are bounded by the watches.
const TABLES: Cache = Cache { active: usize::MAX, inactive: 1000, inactive_for: Duration::from_mins(10) };

impl Namerd {
    /// A namerd over this store. The others have defaults: no namers, the system's resolver, everything allowed to
    /// everybody within [`Limits`].
    pub fn builder(store: impl DtabStore) -> Builder {
        Builder {
            store: Arc::new(store),
            namers: Vec::new(),
            resolve: Arc::new(Inet::default()),
            roles: Roles::default(),
            limits: Limits::default(),
            bindings: Cache::default(),
            addrs: Cache::default(),
            protections: Vec::new(),
            compositions: Vec::new(),
            roots: Vec::new(),
            history: History::in_memory(Keep::default()),
        }
    }

    /// What `peer` may see, change and watch.
    ///
    /// The session counts as a client until its last clone is dropped; one client too many gets a session that is refused
    /// whatever it asks for.
    #[must_use]
    pub fn session(&self, peer: Peer) -> Session {
        let Inner { recorder, store, history, .. } = &*self.inner;
        if recorder.get().is_none()
            && let Some(new) = Recorder::start(Arc::clone(store), Arc::clone(history))
        {
            let _ = recorder.set(new);
        }
        Session::new(self.clone(), peer)
    }

    fn namers(&self) -> &[(Path, Arc<dyn Namer>)] {
        &self.inner.namers
    }

    /// Binds names that have their whole table with them.
    fn bare(&self) -> &Local {
        &self.inner.bare
    }

    /// The namespaces that there are.
    fn namespaces(&self) -> Activity<Arc<BTreeSet<Namespace>>> {
        let (list, compositions) = (self.inner.store.list(), self.inner.compositions.clone());
        if compositions.is_empty() {
            return list;
        }
        list.map(move |all| {
            let there = compositions.iter().filter(|composition| !composition.fragments(&all).is_empty());
            Arc::new(all.iter().chain(there.map(|composition| &composition.namespace)).cloned().collect())
        })
    }

    /// The table of a namespace, with what keeps it shared.
    fn table(&self, namespace: &Namespace) -> HeldTable {
        let make = || {
            let stored = match self.composition(namespace) {
                None => self.inner.store.watch(namespace),
                Some(composition) => {
                    let store = Arc::clone(&self.inner.store);
                    compose::follow(composition, store.list(), move |fragment| store.watch(fragment))
                }
            };
            Table::new(stored, &self.inner.bare)
        };
        let held = self.inner.tables.hold_or_make(namespace, None, make);
        let held = held.unwrap_or_else(|_| unreachable!("there is no limit on tables that are watched"));
        let shared = Arc::clone(&held.value().held);
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let held = Arc::new(held);
            *shared = Arc::downgrade(&held);
            held
        })
    }

    fn binding(&self, (namespace, extra, name): &BindKey) -> Binding {
        let table = self.table(namespace);
        let tree = table.value().local.bind(extra, name);
        Binding { tree, table }
    }

    /// Where the replicas of a bound name are, by its id. The prefixes of transformers (`/%/...`) are left out.
    fn addr(&self, id: &Path) -> Activity<Addr> {
        self.inner.bare.replicas(&without_transformers(id))
    }
}

impl Table {
    fn new(stored: Activity<Stored>, bare: &Local) -> Self {
        let dtab = stored.clone().map(|stored| stored.map_or_else(Dtab::empty, |stored| stored.dtab.clone()));
        Self { stored, local: Arc::new(bare.clone().with_dtab_retold(dtab)), held: Arc::default() }
    }
}

impl Builder {
    /// Adds a namer at `prefix` (`/#/io.l5d.fs`), which is asked after those that were added before.
    #[must_use]
    pub fn namer(mut self, prefix: Path, namer: impl Namer) -> Self {
        self.namers.push((prefix, Arc::new(namer)));
        self
    }

    /// Who answers for the hosts of system names such as `/$/inet/HOST/PORT`.
    #[must_use]
    pub fn resolve(mut self, resolve: impl Resolve) -> Self {
        self.resolve = Arc::new(resolve);
        self
    }

    /// Who may do what. By default everybody may do everything.
    #[must_use]
    pub fn roles(mut self, roles: Roles) -> Self {
        self.roles = roles;
        self
    }

    /// What peers may have open.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many bound names are watched and kept.
    #[must_use]
    pub fn bindings(mut self, cache: Cache) -> Self {
        self.bindings = cache;
        self
    }

    /// How many addresses of bound names are watched and kept.
    #[must_use]
    pub fn addrs(mut self, cache: Cache) -> Self {
        self.addrs = cache;
        self
    }

    /// Guards namespaces against changes made by mistake, in addition to what guards them already.
    #[must_use]
    pub fn protect(mut self, protection: Protection) -> Self {
        self.protections.push(protection);
        self
    }

    /// Adds a namespace that is made of others. The first of two with one name counts.
    #[must_use]
    pub fn compose(mut self, composition: Composition) -> Self {
        self.compositions.push(Arc::new(composition));
        self
    }

    /// How the names begin that clients ask for, such as `/svc`: a table with entries that these do not lead to is
    /// written with a warning. Without any, nothing is known of that.
    #[must_use]
    pub fn roots(mut self, roots: impl IntoIterator<Item = Path>) -> Self {
        self.roots = roots.into_iter().collect();
        self
    }

    /// Where changes are recorded. By default in memory, within [`Keep`]'s bounds.
    #[must_use]
    pub fn history(mut self, history: History) -> Self {
        self.history = history;
        self
    }

    /// The namerd.
    #[must_use]
    pub fn build(self) -> Namerd {
        let checks =
            Checks { namers: self.namers.iter().map(|(prefix, _)| prefix.clone()).collect(), roots: self.roots };
        let percent = self.limits.names_per_peer_percent.min(100);
        let share = |cache: Cache| (cache.active as u128 * percent as u128 / 100) as usize;
        let inner = Inner {
            protections: self.protections,
            compositions: self.compositions,
            fragments: tokio::sync::Mutex::default(),
            plans: tokio::sync::Semaphore::new(plan::MAX_PLANS),
            checks,
            history: Arc::new(self.history),
            recorder: OnceLock::new(),
            store: self.store,
            namers: self.namers.clone(),
            bare: Local::new(self.namers, self.resolve),
            roles: self.roles,
            counts: Counts::new(self.limits),
            tables: Shared::new(TABLES, 0),
            bindings: Shared::new(self.bindings, share(self.bindings)),
            addrs: Shared::new(self.addrs, share(self.addrs)),
        };
        Namerd { inner: Arc::new(inner) }
    }
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
        f.debug_struct("Namerd").field("binds", &self.inner.bare).finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}
