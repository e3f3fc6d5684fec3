//! A strategy within a subset of fixed size.

use std::sync::Arc;

use self::matching::matching;
pub(super) use self::within::{Heaviest, Slice, Within};
use super::{
    Candidates, Draw, Strategy,
    aperture::layout::{by_position, ranks},
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
        let i = within.outer(self.subset.inner.pick(&within, draw) % within.members.len());
        if nodes.status(i) == Status::Open {
            return i;
        }
        let open = |i: &&u32| nodes.status(**i as usize) == Status::Open;
        self.order.iter().find(open).map_or(i, |i| *i as usize)
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
