//! What a table would change: which names lead elsewhere, and how much of the traffic that is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use futures::{
    future::join,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::time::Instant;

use super::{
    Checked, Namerd, Owned, Role, Session, WriteError, lost,
    writes::{whole, with},
};
use crate::{Bound, Distribution, Dtab, NameTree, Path, State, store::Namespace};

/// How long names and addresses are waited for. What is unknown then is shown as such.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// So many plans are made at once; others wait.
pub(super) const MAX_PLANS: usize = 2;

/// At most so many names are planned for.
pub const MAX_NAMES: usize = 20_000;

/// What a table would change.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// The names that would lead elsewhere, those that move most first.
    pub moves: Vec<Move>,
    /// How many names were looked at.
    pub names: usize,
    /// What a write would be refused for, and what it would warn of.
    pub checked: Checked,
    /// What becomes of names in namespaces that the peer may not read, which [`moves`](Self::moves) has not.
    pub elsewhere: Elsewhere,
    /// What the planned fragment may define in these namespaces, where that is limited. Empty: that is not told, or it may
    /// define everything in each.
    pub owns: Vec<Owned>,
}

/// What is told of names in namespaces that one may not read, but changes by a fragment of theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Elsewhere {
    /// The change is of no such namespace.
    #[default]
    None,
    /// How many there are.
    Counted(Count),
    /// Nothing: it would be refused, or is asked by who may not make it. What is told to those would tell them which
    /// names others use.
    Untold,
}

/// How many names a change moves. One that clients have under several tables of their own counts with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Count {
    /// So many lead elsewhere, with all of their traffic or a part.
    pub moved: usize,
    /// So many of these find no endpoint any more.
    pub lost: usize,
    /// So many of these find none for a part of their traffic.
    pub partly_lost: usize,
    /// So many of those that move begin with what the fragment [owns](Plan::owns).
    pub own: usize,
}

/// What becomes of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Whose table it is bound under: the one that is planned, or one that it is a fragment of.
    pub namespace: Namespace,
    /// The table on top of it that its clients have.
    pub extra: Dtab,
    /// The name.
    pub name: Path,
    /// Which share of its traffic goes elsewhere than before, from 0 to 1.
    pub moved: f64,
    /// Where it goes now, by id.
    pub before: Vec<Share>,
    /// Where it would go.
    pub after: Vec<Share>,
    /// Which share of its traffic would find no endpoint that finds one now, from 0 to 1. What is not known in time is
    /// taken to be well.
    pub lost: f64,
    /// Under how many tables this name is bound: in the namespaces that change, with each table that its clients have on
    /// top of it. [`Plan::moves`] has those of them that move.
    pub tables: usize,
}

/// A part of a name's traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Where it goes; `None`: it fails, as there is no such name or nobody knows.
    pub id: Option<Path>,
    /// Which share, from 0 to 1.
    pub share: f64,
    /// The replicas behind the id, as far as they are known.
    pub endpoints: Vec<SocketAddr>,
}

/// The shares of the traffic that a bound tree stands for, by id. A tree that is not known leads nowhere.
#[must_use]
pub fn shares(tree: Option<&NameTree<Bound>>) -> Vec<Share> {
    let Some(tree) = tree else { return vec![Share { id: None, share: 1.0, endpoints: Vec::new() }] };
    let distribution = Distribution::new(tree);
    let mut by_id: BTreeMap<Path, (f64, Vec<SocketAddr>)> = BTreeMap::new();
    for (bound, share) in distribution.leaves() {
        by_id.entry(bound.id.clone()).or_insert_with(|| (0.0, endpoints(bound))).0 += share;
    }
    let bound = by_id.into_iter().map(|(id, (share, endpoints))| Share { id: Some(id), share, endpoints });
    let nowhere = distribution.unavailable();
    let none = (nowhere > 0.0).then_some(Share { id: None, share: nowhere, endpoints: Vec::new() });
    bound.chain(none).filter(|share| share.share > 0.0).collect()
}

/// Which share of a name's traffic goes elsewhere: what is not common to both, from 0 to 1.
#[must_use]
pub fn moved(before: &[Share], after: &[Share]) -> f64 {
    let now: HashMap<_, _> = before.iter().map(|share| (&share.id, share.share)).collect();
    let stays: f64 = after.iter().map(|share| now.get(&share.id).map_or(0.0, |now| now.min(share.share))).sum();
    // Sums of shares are one but for rounding.
    if stays > 1.0 - 1e-9 { 0.0 } else { 1.0 - stays }
}

impl Plan {
    /// Which share of the whole traffic would go elsewhere, given how much each name has (in any one unit, such as requests
    /// a second). `None` if there is no traffic.
    ///
    /// Traffic of names that do not change counts as staying, and so does that of names [`elsewhere`](Self::elsewhere). Where clients of one name have several tables of their own,
    /// its traffic is taken to be spread over these evenly, those that do not move included.
    #[must_use]
    pub fn moved_traffic(&self, traffic: &HashMap<Path, f64>) -> Option<f64> {
        let all: f64 = traffic.values().filter(|rate| rate.is_finite()).sum();
        let moves = self.moves.iter().filter_map(|found| {
            let rate = traffic.get(&found.name)? * found.moved / found.tables.max(1) as f64;
            rate.is_finite().then_some(rate)
        });
        let moves: f64 = moves.sum();
        (all > 0.0).then(|| moves / all)
    }
}

impl Session {
    /// What would change if `dtab` were written, for the names that are watched now and for `names`, at most
    /// [`MAX_NAMES`] of them. Nothing is written.
    ///
    /// A table that is a fragment changes the namespaces that it is part of, and their names are planned for, too: those of a
    /// namespace that this peer may not read are only counted, and only if it may make the change. Names and addresses that are not known within five seconds are taken to lead nowhere.
    pub async fn plan(&self, namespace: &Namespace, dtab: &Dtab, names: &[Path]) -> Result<Plan, WriteError> {
        self.may(namespace, Role::Read)?;
        let checked = self.check_table(namespace, dtab).await?;
        // A few at a time: each may bind thousands of names that nobody has bound before.
        let _turn = self.namerd.inner.plans.acquire().await;
        let mut plan = Plan { checked, ..Plan::default() };
        let is_told = plan.checked.errors.is_empty() && self.may_write(namespace);
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut left = MAX_NAMES;
        let mut tables: HashMap<Path, usize> = HashMap::new();
        for affected in self.namerd.affected(namespace, dtab).await? {
            let is_hidden = self.may(&affected.namespace, Role::Read).is_err();
            if is_hidden && !is_told {
                plan.elsewhere = Elsewhere::Untold;
                continue;
            }
            // Names that the peer thinks of are none that others use.
            let live = self.namerd.live(&affected.namespace, if is_hidden { &[] } else { names }, left);
            left -= live.len();
            if is_hidden {
                let moves = self.namerd.moves(&affected, live, deadline).await;
                plan.elsewhere.count(&moves, &affected.owns);
                plan.owns
                    .extend(affected.owns.into_iter().filter(|owned| !plan.owns.contains(owned)).collect::<Vec<_>>());
                continue;
            }
            plan.names += live.len();
            for live in &live {
                *tables.entry(live.name.clone()).or_default() += 1;
            }
            plan.moves.extend(self.namerd.moves(&affected, live, deadline).await);
        }
        for found in &mut plan.moves {
            found.tables = tables.get(&found.name).copied().unwrap_or(1);
        }
        let order = |a: &Move, b: &Move| b.moved.total_cmp(&a.moved).then_with(|| a.name.cmp(&b.name));
        plan.moves.sort_by(order);
        plan.checked.warnings.extend(lost::warning(namespace, &plan.moves));
        plan.checked.warnings.extend(plan.elsewhere.warning());
        Ok(plan)
    }
}

impl Elsewhere {
    /// Adds what becomes of the names of one namespace, in which the fragment owns these prefixes.
    pub(super) fn count(&mut self, moves: &[Move], owns: &[Owned]) {
        let mut count = if let Self::Counted(count) = *self { count } else { Count::default() };
        for found in moves {
            count.moved += 1;
            count.own += usize::from(owns.iter().any(|owned| owned.begins(&found.name)));
            count.lost += usize::from(lost::is_whole(found.lost));
            count.partly_lost += usize::from(found.lost > 0.0 && !lost::is_whole(found.lost));
        }
        *self = Self::Counted(count);
    }
}

/// A name that is bound, or that is asked about.
pub(super) struct Live {
    extra: Dtab,
    pub(super) name: Path,
}

/// A namespace whose table becomes another one.
pub(super) struct Affected {
    pub(super) namespace: Namespace,
    /// The table as it is, be it that tasks have names bound by an older one yet. `None`: nobody knows.
    before: Option<Dtab>,
    after: Dtab,
    /// What the fragment may define in it, where that is limited.
    pub(super) owns: Vec<Owned>,
}

impl Namerd {
    /// The namespaces whose table becomes another one, and which. One with another part that cannot be read stays as it is.
    pub(super) async fn affected(&self, namespace: &Namespace, dtab: &Dtab) -> Result<Vec<Affected>, WriteError> {
        let before = match self.composition(namespace) {
            Some(composition) => {
                let fragments = self.fragments(composition, None).await.ok();
                fragments.filter(|fragments| fragments.unread.is_empty()).map(|fragments| whole(&fragments.known))
            }
            None => self.current(namespace).await.map(|stored| stored.map_or_else(Dtab::empty, |now| now.dtab.clone())),
        };
        let own = Affected { namespace: namespace.clone(), before, after: dtab.clone(), owns: Vec::new() };
        let mut affected = vec![own];
        for composition in self.composing(namespace) {
            let fragments = self.fragments(composition, Some(namespace)).await?;
            if !fragments.unread.is_empty() {
                continue;
            }
            // Of a part that could not be read, and now can be, nobody knows where names of the whole lead.
            affected.push(Affected {
                namespace: composition.namespace.clone(),
                before: (!fragments.is_repaired).then(|| whole(&fragments.known)),
                after: whole(&with(composition, &fragments.known, namespace, dtab)),
                owns: composition.owned(namespace),
            });
        }
        Ok(affected)
    }

    /// The names that are bound under a namespace now, with the tables on top of it, and `names` without one.
    pub(super) fn live(&self, namespace: &Namespace, names: &[Path], limit: usize) -> Vec<Live> {
        // Of thousands of names, no more are copied than are looked at.
        let watched =
            self.inner.bindings.first_active(limit, |(bound, ..)| bound == namespace, |(.., a), (.., b)| a.cmp(b));
        let watched = watched.into_iter().map(|((_, extra, name), _)| Live { extra, name });
        let given = names.iter().map(|name| Live { extra: Dtab::empty(), name: name.clone() });
        let mut live: Vec<_> = watched.chain(given).collect();
        let mut seen = HashSet::new();
        live.retain(|live| seen.insert((live.extra.clone(), live.name.clone())));
        live.sort_by(|a, b| a.name.cmp(&b.name));
        live.truncate(limit);
        live
    }

    /// What becomes of these names if the table of their namespace becomes another one: those that move.
    pub(super) async fn moves(&self, affected: &Affected, live: Vec<Live>, deadline: Instant) -> Vec<Move> {
        let Affected { namespace, before, after, .. } = affected;
        let mut planned: FuturesUnordered<_> = live
            .into_iter()
            .map(|Live { extra, name }| async {
                let (before, after) = {
                    let bound = async |table: Option<&Dtab>| match table {
                        Some(table) => self.bare().settled(&table.concat(&extra), &name, deadline).await,
                        None => State::Pending,
                    };
                    join(bound(before.as_ref()), bound(Some(after))).await
                };
                let lost = lost::lost(&before, &after);
                let [before, after] = [before, after].map(|tree| shares(tree.ok().as_ref()));
                let moved = moved(&before, &after);
                Move { namespace: namespace.clone(), extra, name, moved, before, after, lost, tables: 1 }
            })
            .collect();
        let mut moves = Vec::new();
        while let Some(planned) = planned.next().await {
            if planned.moved > 0.0 {
                moves.push(planned);
            }
        }
        moves
    }
}

fn endpoints(bound: &Bound) -> Vec<SocketAddr> {
    match bound.addr.sample() {
        State::Ok(addr) => addr.endpoints().iter().map(|endpoint| endpoint.addr).collect(),
        State::Pending | State::Failed(_) => Vec::new(),
    }
}
