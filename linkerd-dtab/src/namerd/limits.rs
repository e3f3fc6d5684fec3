//! How much peers may ask for, each and together, and who asks for most.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Peer, Refused};

/// For how long at the allowed rate new names may come at once, in seconds.
const BURST_SECS: u32 = 10;

/// How many peers are remembered that have nothing open.
const MAX_IDLE_PEERS: usize = 10_000;

/// What peers may have open, each and together. What is over a limit is refused, and who has most is named.
///
/// A peer is whoever has the same verified name; without one, whoever has the same IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once: connections, and requests of protocols that have no other session. 10,000 by default.
    pub clients: usize,
    /// The same of one peer. 5,000 by default.
    pub clients_per_peer: usize,
    /// Watches at once; unlike [`Cache::active`](super::Cache::active) each counts that shares one. 200,000 by default.
    pub watches: usize,
    /// The same of one peer. 50,000 by default.
    pub watches_per_peer: usize,
    /// Names and ids a second that nobody else watches, in the long run; ten times as many may come at once. 5,000 by
    /// default, 0 is none.
    pub new_names_per_sec: u32,
    /// The same of one peer. 1,000 by default.
    pub new_names_per_sec_per_peer: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 10_000,
            clients_per_peer: 5_000,
            watches: 200_000,
            watches_per_peer: 50_000,
            new_names_per_sec: 5_000,
            new_names_per_sec_per_peer: 1_000,
        }
    }
}

/// What a watch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The list of namespaces.
    Namespaces,
    /// A table.
    Dtab,
    /// A bound name.
    Bind,
    /// An explanation.
    Delegate,
    /// The addresses behind an id.
    Addr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Namespaces, Self::Dtab, Self::Bind, Self::Delegate, Self::Addr];

    /// Its name in metrics and refusals: `bindings`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "watches of namespaces",
            Self::Dtab => "watches of tables",
            Self::Bind => "bindings",
            Self::Delegate => "explanations",
            Self::Addr => "watches of addresses",
        }
    }
}

/// What is open, by peer.
pub(super) struct Counts {
    limits: Limits,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    peers: HashMap<Arc<str>, Usage>,
    all: Usage,
    refused: BTreeMap<&'static str, u64>,
}

/// What one peer has open.
#[derive(Clone, Copy, Debug)]
struct Usage {
    clients: usize,
    watches: [usize; Kind::ALL.len()],
    // When the new names so far are all paid for.
    names_until: Instant,
}

/// Something that counts until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    counts: Arc<Counts>,
    peer: Arc<str>,
    of: Of,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    Client,
    Watch(Kind),
}

/// What is open now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Used {
    /// How many peers have something open.
    pub peers: usize,
    /// Sessions.
    pub clients: usize,
    /// Watches by kind.
    pub watches: BTreeMap<Kind, usize>,
    /// Refusals since the start, by what there was too much of.
    pub refused: BTreeMap<&'static str, u64>,
    /// The peer with most watches, and how many they are.
    pub most: Option<(Arc<str>, usize)>,
}

impl Default for Usage {
    fn default() -> Self {
        Self { clients: 0, watches: Default::default(), names_until: Instant::now() }
    }
}

impl Usage {
    fn all_watches(&self) -> usize {
        self.watches.iter().sum()
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.clients == 0 && self.all_watches() == 0 && self.names_until <= now
    }

    fn count(&mut self, of: Of) -> &mut usize {
        match of {
            Of::Client => &mut self.clients,
            Of::Watch(kind) => &mut self.watches[kind as usize],
        }
    }

    /// Pays for one more name. False: there are too many, by a leaky bucket of ten seconds.
    fn pay(&mut self, now: Instant, per_sec: u32) -> bool {
        if per_sec == 0 {
            return false;
        }
        let until = self.names_until.max(now) + Duration::from_secs(1) / per_sec;
        let fits = until.duration_since(now) <= Duration::from_secs(BURST_SECS.into());
        if fits {
            self.names_until = until;
        }
        fits
    }
}

impl Counts {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// Counts a session.
    pub(super) fn client(self: &Arc<Self>, peer: &Arc<str>) -> Result<Permit, Refused> {
        let Limits { clients, clients_per_peer, .. } = self.limits;
        self.permit(peer, Of::Client, "clients", (clients, clients_per_peer), |usage| usage.clients)
    }

    /// Counts a watch.
    pub(super) fn watch(self: &Arc<Self>, peer: &Arc<str>, kind: Kind) -> Result<Permit, Refused> {
        let Limits { watches, watches_per_peer, .. } = self.limits;
        self.permit(peer, Of::Watch(kind), "watches", (watches, watches_per_peer), Usage::all_watches)
    }

    fn permit(
        self: &Arc<Self>,
        peer: &Arc<str>,
        of: Of,
        what: &'static str,
        (limit, per_peer): (usize, usize),
        used: impl Fn(&Usage) -> usize,
    ) -> Result<Permit, Refused> {
        let mut open = self.open();
        if used(&open.all) >= limit {
            let offender = open.most(&used).unwrap_or_else(|| Arc::clone(peer));
            return Err(open.refuse(what, limit, &offender));
        }
        if used(open.peer(peer)) >= per_peer {
            return Err(open.refuse(what, per_peer, peer));
        }
        *open.all.count(of) += 1;
        *open.peer(peer).count(of) += 1;
        Ok(Permit { counts: Arc::clone(self), peer: Arc::clone(peer), of })
    }

    /// Counts a name that was not watched yet.
    pub(super) fn new_name(&self, peer: &Arc<str>) -> Result<(), Refused> {
        const WHAT: &str = "new names a second";
        let (now, limits) = (Instant::now(), self.limits);
        let mut open = self.open();
        let fits = open.peer(peer).pay(now, limits.new_names_per_sec_per_peer);
        if !fits {
            return Err(open.refuse(WHAT, limits.new_names_per_sec_per_peer as usize, peer));
        }
        if !open.all.pay(now, limits.new_names_per_sec) {
            let ahead = |usage: &Usage| usage.names_until.duration_since(now).as_millis() as usize;
            let offender = open.most(ahead).unwrap_or_else(|| Arc::clone(peer));
            return Err(open.refuse(WHAT, limits.new_names_per_sec as usize, &offender));
        }
        Ok(())
    }

    /// Refuses what a cache of `limit` active ones has no place for.
    pub(super) fn cache_is_full(&self, peer: &Arc<str>, kind: Kind, limit: usize) -> Refused {
        let mut open = self.open();
        let offender = open.most(|usage| usage.watches[kind as usize]).unwrap_or_else(|| Arc::clone(peer));
        open.refuse(kind.name(), limit, &offender)
    }

    /// What is open now.
    pub(super) fn used(&self) -> Used {
        let open = self.open();
        let now = Instant::now();
        let most = open.most(Usage::all_watches);
        Used {
            peers: open.peers.values().filter(|usage| !usage.is_idle(now)).count(),
            clients: open.all.clients,
            watches: Kind::ALL.into_iter().map(|kind| (kind, open.all.watches[kind as usize])).collect(),
            refused: open.refused.clone(),
            most: most.map(|peer| (Arc::clone(&peer), open.peers[&peer].all_watches())),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn peer(&mut self, peer: &Arc<str>) -> &mut Usage {
        if !self.peers.contains_key(peer) && self.peers.len() >= MAX_IDLE_PEERS {
            // Those with something open stay: their number is limited by how much may be open.
            let now = Instant::now();
            self.peers.retain(|_, usage| !usage.is_idle(now));
        }
        self.peers.entry(Arc::clone(peer)).or_default()
    }

    /// Who has most, if anybody has any.
    fn most(&self, of: impl Fn(&Usage) -> usize) -> Option<Arc<str>> {
        let (peer, usage) = self.peers.iter().max_by_key(|(_, usage)| of(usage))?;
        (of(usage) > 0).then(|| Arc::clone(peer))
    }

    fn refuse(&mut self, what: &'static str, limit: usize, offender: &str) -> Refused {
        *self.refused.entry(what).or_default() += 1;
        Refused::Limit { what, limit, offender: offender.to_owned() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.counts.open();
        *open.all.count(self.of) -= 1;
        if let Some(usage) = open.peers.get_mut(&self.peer) {
            *usage.count(self.of) -= 1;
            if usage.is_idle(Instant::now()) {
                open.peers.remove(&self.peer);
            }
        }
    }
}

/// What a peer is counted by.
pub(super) fn counted_by(peer: &Peer) -> Arc<str> {
    match (&peer.name, peer.addr) {
        _ if peer.is_operator => "the program itself".into(),
        (Some(name), _) => Arc::clone(name),
        (None, Some(addr)) => addr.ip().to_string().into(),
        (None, None) => "somebody".into(),
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.used().fmt(f)
    }
}
