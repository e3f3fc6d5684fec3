//! How much peers may ask for, each and together, and who asks for most.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Peer, Refused, shared::Full};

/// For how long at the allowed rate new names may come at once, in seconds.
const BURST_SECS: u32 = 10;

/// How many peers are remembered that have nothing open.
const MAX_IDLE_PEERS: usize = 10_000;

/// How long a request may take to come in whole, from its first byte.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How many peers are named of which there was too much. Further ones are one.
const MAX_OFFENDERS: usize = 20;
const OTHERS: &str = "others";

/// How often the log says that there is too much of something.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What peers may have open, each and together. What is over a limit is refused. Who has most then is named in the log and
/// in [`Used`], not to who is refused.
///
/// A peer is whoever has the same verified name; without one, whoever has the same IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once: connections, and requests of protocols that have no other session. 10,000 by default.
    pub clients: usize,
    /// The same of one peer. 2,500 by default.
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
    /// How much of each [`Cache`](super::Cache) is a peer's, in percent of [`active`](super::Cache::active). Beyond it a peer
    /// gets what nobody else uses, but for as much as one such share: that is kept for those who have less than theirs. 25
    /// by default; 0 keeps nothing back.
    pub names_per_peer_percent: usize,
    /// Questions at once that are answered once and are no watches. They do not need a place in a cache that is full.
    /// 2,000 by default.
    pub questions: usize,
    /// The same of one peer. 500 by default.
    pub questions_per_peer: usize,
    /// Bytes of requests that are being read at once. 64 MiB by default.
    pub reading_bytes: usize,
    /// The same of one peer. 16 MiB by default.
    pub reading_bytes_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 10_000,
            clients_per_peer: 2_500,
            watches: 200_000,
            watches_per_peer: 50_000,
            new_names_per_sec: 5_000,
            new_names_per_sec_per_peer: 1_000,
            names_per_peer_percent: 25,
            questions: 2_000,
            questions_per_peer: 500,
            reading_bytes: 64 << 20,
            reading_bytes_per_peer: 16 << 20,
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
    // By who had most when something was refused.
    offenders: BTreeMap<Arc<str>, u64>,
    logged: BTreeMap<&'static str, Instant>,
}

/// What one peer has open.
#[derive(Clone, Copy, Debug)]
struct Usage {
    clients: usize,
    watches: [usize; Kind::ALL.len()],
    questions: usize,
    reading: usize,
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
    Question,
}

/// What is being read of a request, which counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Reading {
    counts: Arc<Counts>,
    peer: Arc<str>,
    held: usize,
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
    /// Questions that are no watches.
    pub questions: usize,
    /// Bytes of requests that are being read.
    pub reading_bytes: usize,
    /// Refusals since the start, by what there was too much of.
    pub refused: BTreeMap<&'static str, u64>,
    /// The same by the peer that had most then: twenty of them, and `others`.
    pub offenders: BTreeMap<Arc<str>, u64>,
    /// The peer with most watches, and how many they are.
    pub most: Option<(Arc<str>, usize)>,
}

impl Default for Usage {
    fn default() -> Self {
        Self { clients: 0, watches: Default::default(), questions: 0, reading: 0, names_until: Instant::now() }
    }
}

impl Usage {
    fn all_watches(&self) -> usize {
        self.watches.iter().sum()
    }

    fn is_idle(&self, now: Instant) -> bool {
        let open = self.clients + self.all_watches() + self.questions + self.reading;
        open == 0 && self.names_until <= now
    }

    fn count(&mut self, of: Of) -> &mut usize {
        match of {
            Of::Client => &mut self.clients,
            Of::Watch(kind) => &mut self.watches[kind as usize],
            Of::Question => &mut self.questions,
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

    /// Counts a question that is answered once.
    pub(super) fn question(self: &Arc<Self>, peer: &Arc<str>) -> Result<Permit, Refused> {
        let Limits { questions, questions_per_peer, .. } = self.limits;
        self.permit(peer, Of::Question, "questions", (questions, questions_per_peer), |usage| usage.questions)
    }

    /// Counts what will be read of a request.
    pub(super) fn reading(self: &Arc<Self>, peer: &Arc<str>) -> Reading {
        Reading { counts: Arc::clone(self), peer: Arc::clone(peer), held: 0 }
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
        open.may_have_more(peer, what, 1, (limit, per_peer), used)?;
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
            return Err(open.refuse_own(WHAT, limits.new_names_per_sec_per_peer as usize, peer));
        }
        if !open.all.pay(now, limits.new_names_per_sec) {
            let ahead = |usage: &Usage| usage.names_until.duration_since(now).as_millis() as usize;
            let offender = open.most(ahead).unwrap_or_else(|| Arc::clone(peer));
            return Err(open.refuse(WHAT, limits.new_names_per_sec as usize, &offender));
        }
        Ok(())
    }

    /// Refuses what a cache of `limit` active ones has no place for, or none for this peer beyond its share.
    pub(super) fn cache_is_full(&self, peer: &Arc<str>, kind: Kind, full: Full) -> Refused {
        let mut open = self.open();
        let limit = match full {
            Full::OfAll(limit) => limit,
            Full::OfPeer(share) => return open.refuse_own(kind.name(), share, peer),
        };
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
            questions: open.all.questions,
            reading_bytes: open.all.reading,
            refused: open.refused.clone(),
            offenders: open.offenders.clone(),
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

    /// Something of a peer ended, by which it may be one to forget.
    fn ended(&mut self, peer: &Arc<str>, ended: impl FnOnce(&mut Usage)) {
        if let Some(usage) = self.peers.get_mut(peer) {
            ended(usage);
            if usage.is_idle(Instant::now()) {
                self.peers.remove(peer);
            }
        }
    }

    /// Who has most, if anybody has any.
    fn most(&self, of: impl Fn(&Usage) -> usize) -> Option<Arc<str>> {
        let (peer, usage) = self.peers.iter().max_by_key(|(_, usage)| of(usage))?;
        (of(usage) > 0).then(|| Arc::clone(peer))
    }

    /// Refuses `more` of what all peers may have `limit` of, and each `per_peer`.
    fn may_have_more(
        &mut self,
        peer: &Arc<str>,
        what: &'static str,
        more: usize,
        (limit, per_peer): (usize, usize),
        used: impl Fn(&Usage) -> usize,
    ) -> Result<(), Refused> {
        if used(self.peer(peer)).saturating_add(more) > per_peer {
            return Err(self.refuse_own(what, per_peer, peer));
        }
        if used(&self.all).saturating_add(more) > limit {
            let offender = self.most(&used).unwrap_or_else(|| Arc::clone(peer));
            return Err(self.refuse(what, limit, &offender));
        }
        Ok(())
    }

    /// Refuses what there is too much of in all.
    fn refuse(&mut self, what: &'static str, limit: usize, offender: &Arc<str>) -> Refused {
        self.count_refusal(what, limit, offender);
        Refused::Limit { what, limit, is_own: false }
    }

    /// Refuses what the peer itself has too much of.
    fn refuse_own(&mut self, what: &'static str, limit: usize, peer: &Arc<str>) -> Refused {
        self.count_refusal(what, limit, peer);
        Refused::Limit { what, limit, is_own: true }
    }

    fn count_refusal(&mut self, what: &'static str, limit: usize, offender: &Arc<str>) {
        *self.refused.entry(what).or_default() += 1;
        let is_named = self.offenders.contains_key(offender) || self.offenders.len() < MAX_OFFENDERS;
        let named = if is_named { Arc::clone(offender) } else { OTHERS.into() };
        *self.offenders.entry(named).or_default() += 1;
        let now = Instant::now();
        if self.logged.get(what).is_none_or(|last| now.duration_since(*last) >= LOG_EVERY) {
            self.logged.insert(what, now);
            tracing::warn!(peer = &**offender, limit, "refusing: too many {what}, and this peer has the most");
        }
    }
}

impl Reading {
    /// Lets `bytes` count instead of what did before. When more is refused, that goes on to count.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Refused> {
        if bytes == self.held {
            return Ok(());
        }
        let mut open = self.counts.open();
        if let Some(more) = bytes.checked_sub(self.held) {
            let Limits { reading_bytes, reading_bytes_per_peer, .. } = self.counts.limits;
            let limits = (reading_bytes, reading_bytes_per_peer);
            open.may_have_more(&self.peer, "bytes being read", more, limits, |usage| usage.reading)?;
        }
        open.all.reading = open.all.reading - self.held + bytes;
        let usage = open.peer(&self.peer);
        usage.reading = usage.reading - self.held + bytes;
        self.held = bytes;
        Ok(())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.held > 0 {
            let mut open = self.counts.open();
            open.all.reading -= self.held;
            open.ended(&self.peer, |usage| usage.reading -= self.held);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.counts.open();
        *open.all.count(self.of) -= 1;
        open.ended(&self.peer, |usage| *usage.count(self.of) -= 1);
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
