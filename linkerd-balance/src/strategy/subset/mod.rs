//! A strategy within a subset of fixed size.

use std::sync::Arc;

use self::matching::matching;
pub(super) use self::within::{Heaviest, Slice, Within};
use super::{
    Candidates, Draw, Strategy,
    aperture::layout::{by_position, ranks},
    best_by_weight,
};
use crate::health::Status;

mod matching;
mod within;

/// One of several clients that know their number: the index of a `StatefulSet`'s pod, for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    ordinal: usize,
    total: usize,
}

/// There is no such peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no peer {ordinal} among {total}, counted from 0")]
pub struct InvalidPeer {
    /// Which one.
    pub ordinal: usize,
    /// Of how many.
    pub total: usize,
}

/// There is no such subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subset has at least 1 endpoint, not {0}")]
pub struct InvalidSubset(pub usize);

/// Any other strategy within a subset of fixed size, so that not every client connects to every server.
///
/// Which endpoints these are follows from their ids and from who the client is, in every process alike. If none of them
/// is open, picks go to the next ones in the client's order, `size` at a time, until some are; if none is open at all,
/// the subset fails open. Beyond that a subset neither widens nor narrows: see [`Aperture`](super::Aperture).
///
/// # How evenly servers are used
///
/// By [`client`](Self::new) number nobody has to know of anybody else, and that has its price: clients choose
/// independently, so a server is in as many subsets as chance wants, and no other way to choose could change that. With
/// `c` clients, of which each takes the share `p` of the servers, it is in `c·p`, give or take `√(c·p·(1-p))`. Among
/// some hundred servers the most and the least used are three such steps from the mean; the one has at most 1.5 times
/// the connections of the other if `c·p/(1-p)` is 225 or more. Of 300 servers 200 clients need 160 each for that; with
/// 20 each they find servers with five times the connections of others. A server that comes or goes moves its own
/// connections, nothing else.
///
/// By [`peer`](Self::of_peer) every client works out the subsets of all, and gives each server to about as many: from
/// 0.8 to 1.33 times the mean, at most 1.5 times as many to one as to another, if that mean is 7 or more: if each of
/// 200 clients takes at least 11 of 300 servers. A server that comes or goes moves one to two times its own
/// connections, if the mean is 8 or more; a peer that comes or goes moves fewer than half a percent of those of others.
/// But the bounds are steps: where the number of servers passes one, every 6 to 12 % of growth, or the number of peers
/// does, up to a tenth of all connections move at once.
///
/// # Costs
///
/// A pick costs what the inner strategy's does. An update sorts all endpoints, 0.3 ms for 10,000; by peer it looks at
/// the pairs of a peer and an endpoint, some 2¹⁸ at most, which takes milliseconds: if there are more, peers are dealt out to groups that share the servers each for
/// itself, and the mean that counts above is that within a group.
///
/// By client it is gRPC's random subsetting (proposal A68) with rendezvous hashing (Thaler and Ravishankar, 1998). By
/// peer it has the aims of Google's deterministic subsetting ("Site Reliability Engineering", chapter 20), but takes
/// pairs of peer and server greedily by hash, with bounds for each, instead of shuffling servers: for a shuffle of one
/// more is another one.
#[derive(Clone, Debug)]
pub struct Subset {
    size: usize,
    choice: Choice,
    inner: Arc<dyn Strategy>,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Client(u64),
    Peer(Peer),
}

/// A subset of one set.
#[derive(Debug)]
struct Bound {
    subset: Subset,
    // All endpoints; the first `size` of them are the subset.
    order: Vec<u32>,
    rank: Vec<u32>,
    heaviest: Heaviest,
}

impl Peer {
    /// Peer `ordinal` of `total`, counted from 0.
    ///
    /// # Errors
    ///
    /// An `ordinal` that is not below `total`; so no peers at all.
    pub const fn new(ordinal: usize, total: usize) -> Result<Self, InvalidPeer> {
        if ordinal < total { Ok(Self { ordinal, total }) } else { Err(InvalidPeer { ordinal, total }) }
    }

    /// Which one it is, from 0.
    #[must_use]
    pub const fn ordinal(self) -> usize {
        self.ordinal
    }

    /// How many there are.
    #[must_use]
    pub const fn total(self) -> usize {
        self.total
    }
}

impl Subset {
    /// `inner` within the `size` endpoints that rank highest for this client by rendezvous hashing.
    ///
    /// # Errors
    ///
    /// A `size` of zero.
    pub fn new(size: usize, client_id: u64, inner: impl Strategy) -> Result<Self, InvalidSubset> {
        Self::choose(size, Choice::Client(client_id), Arc::new(inner))
    }

    /// `inner` within the `size` endpoints that are this peer's when all endpoints are shared out evenly.
    ///
    /// # Errors
    ///
    /// A `size` of zero.
    pub fn of_peer(size: usize, peer: Peer, inner: impl Strategy) -> Result<Self, InvalidSubset> {
        Self::choose(size, Choice::Peer(peer), Arc::new(inner))
    }

    fn choose(size: usize, choice: Choice, inner: Arc<dyn Strategy>) -> Result<Self, InvalidSubset> {
        if size == 0 {
            return Err(InvalidSubset(size));
        }
        Ok(Self { size, choice, inner })
    }

    fn bind(&self, nodes: &dyn Candidates) -> Bound {
        let order = match self.choice {
            Choice::Client(id) => by_position(nodes, id),
            Choice::Peer(peer) => matching(nodes, self.size, peer),
        };
        let bound = Bound { subset: self.clone(), rank: ranks(&order), order, heaviest: Heaviest::default() };
        let inner = self.inner.rebuild(&bound.within(nodes));
        Bound { subset: Self { inner: inner.unwrap_or_else(|| Arc::clone(&self.inner)), ..self.clone() }, ..bound }
    }
}

impl Strategy for Subset {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    /// Picks of all, until it was made for a set.
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        self.inner.pick(nodes, draw)
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        Some(Arc::new(self.bind(nodes)))
    }
}

impl Strategy for Bound {
    fn name(&self) -> &'static str {
        self.subset.name()
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() != self.order.len() {
            return self.subset.pick(nodes, draw);
        }
        let within = self.within(nodes);
        let i = within.outer(self.subset.inner.pick(&within, draw) % within.len());
        if nodes.status(i) == Status::Open {
            return i;
        }
        let open = self.order.chunks(self.subset.size).find_map(|next| {
            let any = |j: usize| Some((nodes.status(next[j] as usize), nodes.weight(next[j] as usize)));
            let i = next[best_by_weight(next.len(), any, draw.random)?] as usize;
            (nodes.status(i) == Status::Open).then_some(i)
        });
        open.unwrap_or(i)
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        self.subset.rebuild(nodes)
    }

    fn uses(&self, nodes: &dyn Candidates, i: usize) -> bool {
        let Some(rank) = self.rank.get(i) else { return false };
        let within = self.within(nodes);
        let rank = *rank as usize;
        rank < within.members.len() && self.subset.inner.uses(&within, rank)
    }
}

impl Bound {
    fn within<'a>(&'a self, all: &'a dyn Candidates) -> Within<'a> {
        let members = &self.order[..self.subset.size.min(self.order.len())];
        Within { all, members, slice: Slice::WHOLE, heaviest: &self.heaviest, quiet: false }
    }
}
