//! What one peer may see, change and watch.

use std::{any::Any, collections::BTreeSet, fmt, net::SocketAddr, ops::Deref, sync::Arc};

#[cfg(feature = "mesh")]
use tokio::time::Instant;

use super::{
    HeldTable, Kind, Meter, Namerd, PastError, Pattern, Role,
    limits::{Permit, Reading, counted_by},
    shared::{Key, Shared},
};
use crate::{
    Activity, Addr, Bound, Delegation, Dtab, Interpreter, NameTree, Path,
    parse::{Place, places},
    store::{Namespace, StoreError, Stored},
};

/// The longest reason for a change that is kept, in characters.
pub const MAX_REASON: usize = 500;

/// Who asks.
///
/// Whoever accepts a connection puts one into the extensions of each request; an interface adds what the request itself
/// says (a token, a reason).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub addr: Option<SocketAddr>,
    /// The name that its certificate was verified for.
    pub name: Option<Arc<str>>,
    /// A bearer token of its requests, not verified yet.
    pub token: Option<Arc<str>>,
    /// It came in through a listener that allows no changes.
    pub is_read_only: bool,
    /// It is the program itself, for those who run it: it may read everything, whatever the roles are.
    pub is_operator: bool,
}

/// One peer's view of a [`Namerd`]. A clone is the same session; connections and single requests have one each.
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) namerd: Namerd,
    client: Arc<Client>,
    pub(super) why: Option<Arc<str>>,
    // What the tables that it is given were read from.
    text: Option<Arc<str>>,
    is_automatic: bool,
    // What it asks for is answered once, and counts as such.
    is_question: bool,
    meter: Meter,
}

#[derive(Debug)]
struct Client {
    peer: Peer,
    counted_by: Arc<str>,
    permit: Result<Permit, Refused>,
}

/// What a session counts as a client by, until it is dropped.
#[cfg(feature = "mesh")]
pub(super) struct Counted(#[expect(dead_code, reason = "held")] Arc<Client>);

/// A watch that counts against its session's limits until it is dropped.
pub struct Watched<T> {
    activity: Activity<T>,
    _permit: Permit,
    // What is shared by all who watch the same.
    _shared: Option<Box<dyn Any + Send + Sync>>,
}

/// The table that a name is bound under, of which it matters when it changed and not what it is.
#[cfg(feature = "mesh")]
pub(super) struct FollowedTable(HeldTable);

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
    /// It shows a token that is not known, and without one it may not.
    #[error("unknown token")]
    UnknownToken,
    /// A limit was reached. Who has most is named in the log.
    #[error("too many {what}: {limit} are allowed{}", if *.is_own { " to one peer" } else { "" })]
    Limit {
        /// What there are too many of.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
        /// The peer that is refused has them all itself.
        is_own: bool,
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
    /// The namespace is [protected](super::Protection::needs_version), and the change does not say which version it is based on.
    #[error("{0}")]
    NeedsVersion(String),
    /// There is nothing to go back to.
    #[error(transparent)]
    Past(PastError),
}

impl Session {
    pub(super) fn new(namerd: Namerd, peer: Peer) -> Self {
        let counted_by = counted_by(&peer);
        let permit = namerd.inner.counts.client(&counted_by);
        Self {
            namerd,
            client: Arc::new(Client { peer, counted_by, permit }),
            why: None,
            text: None,
            is_automatic: false,
            is_question: false,
            meter: Meter::default(),
        }
    }

    /// Who asks.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.client.peer
    }

    /// The same session, whose requests `meter` counts.
    #[must_use]
    pub fn metered(&self, meter: &Meter) -> Self {
        Self { meter: meter.clone(), ..self.clone() }
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Counts as this session's client, without the rest of it.
    #[cfg(feature = "mesh")]
    pub(super) fn counted(&self) -> Counted {
        Counted(Arc::clone(&self.client))
    }

    /// The same session, with a reason for the changes that it makes, which goes into the history. It is cut to
    /// [`MAX_REASON`] characters.
    #[must_use]
    pub fn because(&self, why: &str) -> Self {
        let why: String = why.trim().chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { why: (!why.is_empty()).then(|| why.into()), ..self.clone() }
    }

    /// The same session, for a table that was read from this text: what is wrong with its entries is told with the place where
    /// they begin there.
    #[must_use]
    pub fn of_text(&self, text: &str) -> Self {
        Self { text: Some(text.into()), ..self.clone() }
    }

    pub(super) fn places(&self) -> Vec<Place> {
        self.text.as_deref().map(places).unwrap_or_default()
    }

    /// The same session, for changes that are taken back by a program that watched them: the history has `auto-revert for`
    /// before who asks.
    #[must_use]
    pub fn automatic(&self) -> Self {
        Self { is_automatic: true, ..self.clone() }
    }

    /// The same session, for questions that are answered once: they do not count as watches, and do not need a place in a
    /// cache that is full.
    #[must_use]
    pub fn once(&self) -> Self {
        Self { is_question: true, ..self.clone() }
    }

    /// The namespaces that this peer may see.
    pub fn namespaces(&self) -> Result<Watched<Arc<BTreeSet<Namespace>>>, Refused> {
        self.may_do_something()?;
        let permit = self.permit(Kind::Namespaces)?;
        let mut activity = self.namerd.namespaces();
        if !self.namerd.inner.roles.is_open() {
            let (namerd, client) = (self.namerd.clone(), Arc::clone(&self.client));
            activity = activity.map(move |all: Arc<BTreeSet<_>>| {
                let may_see = |namespace: &&Namespace| namerd.inner.roles.of(&client.peer, namespace).is_some();
                Arc::new(all.iter().filter(may_see).cloned().collect())
            });
        }
        Ok(Watched { activity, _permit: permit, _shared: None })
    }

    /// The table of a namespace, `None` while there is no such namespace.
    pub fn dtab(&self, namespace: &Namespace) -> Result<Watched<Stored>, Refused> {
        self.may(namespace, Role::Read)?;
        let permit = self.permit(Kind::Dtab)?;
        let table = self.namerd.table(namespace);
        Ok(Watched { activity: table.value().stored.clone(), _permit: permit, _shared: Some(Box::new(table)) })
    }

    /// Binds `name` under the table of a namespace with `extra` on top of it. A namespace that does not exist has an empty
    /// table.
    pub fn bind(&self, namespace: &Namespace, extra: &Dtab, name: &Path) -> Result<Watched<NameTree<Bound>>, Refused> {
        Ok(self.binding(namespace, extra, name)?.0)
    }

    /// As [`bind`](Self::bind), with the table. A change of it is a change of the tree ([`Activity::changed`]) when the name
    /// has been bound under it, also if that leaves the tree what it was.
    #[cfg(feature = "mesh")]
    pub(super) fn bind_under(
        &self,
        namespace: &Namespace,
        extra: &Dtab,
        name: &Path,
    ) -> Result<(Watched<NameTree<Bound>>, FollowedTable), Refused> {
        let (watched, table) = self.binding(namespace, extra, name)?;
        Ok((watched, FollowedTable(table)))
    }

    fn binding(
        &self,
        namespace: &Namespace,
        extra: &Dtab,
        name: &Path,
    ) -> Result<(Watched<NameTree<Bound>>, HeldTable), Refused> {
        self.may(namespace, Role::Read)?;
        let permit = self.permit(Kind::Bind)?;
        // Thousands of names have the same, each as it came.
        let extra = if extra.is_empty() { Dtab::empty() } else { extra.clone() };
        let key = (self.namerd.inner.tables.kept(namespace), extra, name.clone());
        let bindings = &self.namerd.inner.bindings;
        let (binding, held) = self.shared(Kind::Bind, bindings, &key, || self.namerd.binding(&key))?;
        Ok((Watched { activity: binding.tree, _permit: permit, _shared: Some(held) }, binding.table))
    }

    /// Explains how [`bind`](Self::bind) gets where it does.
    pub fn delegate(&self, namespace: &Namespace, extra: &Dtab, name: &Path) -> Result<Watched<Delegation>, Refused> {
        self.may(namespace, Role::Read)?;
        let permit = self.permit(Kind::Delegate)?;
        let table = self.namerd.table(namespace);
        let activity = table.value().local.delegate(extra, name);
        Ok(Watched { activity, _permit: permit, _shared: Some(Box::new(table)) })
    }

    /// Where the replicas of a bound name are, by its id. The prefixes of transformers (`/%/...`) are left out.
    pub fn addr(&self, id: &Path) -> Result<Watched<Addr>, Refused> {
        self.may_do_something()?;
        let permit = self.permit(Kind::Addr)?;
        let addrs = &self.namerd.inner.addrs;
        let (activity, held) = self.shared(Kind::Addr, addrs, id, || self.namerd.addr(id))?;
        Ok(Watched { activity, _permit: permit, _shared: Some(held) })
    }

    fn permit(&self, kind: Kind) -> Result<Permit, Refused> {
        let (counts, peer) = (&self.namerd.inner.counts, &self.client.counted_by);
        if self.is_question { counts.question(peer) } else { counts.watch(peer, kind) }
    }

    /// Counts what is read of a request before it is known.
    pub(super) fn reading(&self) -> Reading {
        self.namerd.inner.counts.reading(&self.client.counted_by)
    }

    /// Allows what is in no namespace to who may read all of them, and counts it.
    pub(super) fn everything(&self) -> Result<Permit, Refused> {
        self.may_read_all()?;
        self.permit(Kind::Namespaces)
    }

    /// What is watched under `key`, or begins to be, and what keeps it.
    fn shared<K: Key, V: Clone + Send + Sync + 'static>(
        &self,
        kind: Kind,
        shared: &Shared<K, V>,
        key: &K,
        make: impl Fn() -> V,
    ) -> Result<(V, Box<dyn Any + Send + Sync>), Refused> {
        let (counts, peer) = (&self.namerd.inner.counts, &self.client.counted_by);
        if let Some(held) = shared.hold(key, Some(peer)) {
            return Ok((held.value().clone(), Box::new(held)));
        }
        counts.new_name(peer)?;
        match shared.hold_or_make(key, Some(peer), &make) {
            Ok(held) => Ok((held.value().clone(), Box::new(held))),
            Err(_) if self.is_question => {
                let own = make();
                Ok((own.clone(), Box::new(own)))
            }
            Err(full) => Err(counts.cache_is_full(peer, kind, full)),
        }
    }

    /// Refuses a peer that has less than `role` in a namespace.
    pub(super) fn may(&self, namespace: &Namespace, role: Role) -> Result<(), Refused> {
        self.is_counted()?;
        let peer = self.peer();
        let is_allowed = self.namerd.inner.roles.of(peer, namespace) >= Some(role);
        if is_allowed && (role == Role::Read || !peer.is_read_only) {
            return Ok(());
        }
        Err(self.forbidden(role, namespace.clone()))
    }

    /// Refuses a peer that may not read every namespace.
    pub(super) fn may_read_all(&self) -> Result<(), Refused> {
        self.is_counted()?;
        if self.namerd.inner.roles.reads_all(self.peer()) {
            return Ok(());
        }
        Err(self.forbidden(Role::Read, Namespace::any()))
    }

    /// Whether this peer may read all that a pattern may have.
    pub(super) fn reads(&self, namespaces: &Pattern) -> bool {
        self.namerd.inner.roles.reads(self.peer(), namespaces)
    }

    /// Refuses a peer that may not read this namespace, by its name as it was sent: what is no name is in none.
    pub(super) fn may_read(&self, namespace: &str) -> Result<(), Refused> {
        namespace.parse().map_or_else(|_| self.may_read_all(), |namespace| self.may(&namespace, Role::Read))
    }

    /// Refuses a peer that has no role at all.
    pub(super) fn may_do_something(&self) -> Result<(), Refused> {
        self.is_counted()?;
        if self.namerd.inner.roles.knows(self.peer()) {
            return Ok(());
        }
        Err(self.forbidden(Role::Read, Namespace::any()))
    }

    fn forbidden(&self, role: Role, namespace: Namespace) -> Refused {
        let (peer, roles) = (self.peer(), &self.namerd.inner.roles);
        if peer.token.is_some() && !roles.is_open() && roles.label(peer).is_none() {
            return Refused::UnknownToken;
        }
        Refused::Forbidden { who: self.who(), what: role.verb(), namespace }
    }

    fn is_counted(&self) -> Result<(), Refused> {
        self.client.permit.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// Who asks, for people: its name or that of its token, and its address.
    #[must_use]
    pub fn who(&self) -> String {
        let peer = self.peer();
        let who = match self.namerd.inner.roles.label(peer) {
            Some(label) => Peer { name: Some(Arc::clone(label)), ..peer.clone() }.to_string(),
            None => peer.to_string(),
        };
        if self.is_automatic { format!("auto-revert for {who}") } else { who }
    }
}

#[cfg(feature = "mesh")]
impl FollowedTable {
    /// When it last changed. `None`: it is not known yet.
    pub(super) fn since(&self) -> Option<Instant> {
        let stored = self.0.value().stored.snapshot();
        (!matches!(stored.state, crate::State::Pending)).then_some(stored.since)
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

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, name, token, is_read_only, is_operator } = self;
        let mut peer = f.debug_struct("Peer");
        peer.field("addr", addr).field("name", name).field("has_token", &token.is_some());
        peer.field("is_read_only", is_read_only).field("is_operator", is_operator).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.activity).finish()
    }
}
