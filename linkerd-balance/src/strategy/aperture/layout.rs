//! Which endpoints an aperture of a given width is.

use crate::{
    health::Status,
    rng::SplitMix,
    strategy::{
        Candidates, spread,
        subset::{Peer, Slice},
    },
};

/// The endpoints of a set in the order in which one client takes them in.
///
/// Every width is a slice that begins at the first one. By hash a slice is so many whole endpoints; on a ring that all
/// peers share it is a multiple of one peer's part of the ring, so that all slices together cover it evenly.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) order: Vec<u32>,
    rank: Vec<u32>,
    // None: slices are whole endpoints.
    ring: Option<Ring>,
}

/// Where a peer begins on the ring. An endpoint has as many parts as there are peers, a peer as many as there are
/// endpoints.
#[derive(Clone, Copy, Debug)]
struct Ring {
    parts: u128,
    begin: u128,
}

/// A position for `id` that depends on nothing else but `seed`.
pub(in crate::strategy) fn position(seed: u64, id: u64) -> u64 {
    SplitMix::new(SplitMix::new(seed).next() ^ id).next()
}

/// Endpoints by their position, ties by their id.
pub(in crate::strategy) fn by_position(nodes: &dyn Candidates, seed: u64) -> Vec<u32> {
    let by_hash = (0..nodes.len()).map(|i| {
        let id = nodes.id(i);
        (position(seed, id), (id, i as u32))
    });
    spread::sorted(by_hash).into_iter().map(|(_, (_, i))| i).collect()
}

/// For each index its place in the order.
pub(in crate::strategy) fn ranks(order: &[u32]) -> Vec<u32> {
    let mut rank = vec![0; order.len()];
    for (place, &i) in (0..).zip(order) {
        rank[i as usize] = place;
    }
    rank
}

impl Layout {
    pub(super) fn by_hash(nodes: &dyn Candidates, seed: u64) -> Self {
        let order = by_position(nodes, seed);
        Self { rank: ranks(&order), ring: None, order }
    }

    pub(super) fn on_ring(nodes: &dyn Candidates, peer: Peer) -> Self {
        let mut order = by_position(nodes, 0);
        let at = peer.ordinal() as u128 * order.len() as u128;
        let parts = peer.total() as u128;
        order.rotate_left((at / parts) as usize);
        Self { rank: ranks(&order), ring: Some(Ring { parts, begin: at % parts }), order }
    }

    /// The slice for an aperture of `width` endpoints, and how many endpoints it meets.
    pub(super) fn slice(&self, width: usize) -> (Slice, usize) {
        let width = width.min(self.order.len());
        let Some(Ring { parts, begin }) = self.ring else { return (Slice::WHOLE, width) };
        let ring = self.order.len().max(1) as u128;
        let peers = (width as u128 * parts).div_ceil(ring);
        let end = begin + peers * ring;
        let meets = end.div_ceil(parts).min(self.order.len() as u128);
        (Slice { begin, end, parts, ring }, meets as usize)
    }

    /// The least width, not below `width`, with `width` open endpoints inside; with all that are open, if they are
    /// fewer.
    pub(super) fn cover(&self, nodes: &dyn Candidates, width: usize) -> usize {
        let (mut open, mut needed) = (0, 0);
        for (place, &i) in self.order.iter().enumerate() {
            if open >= width {
                break;
            }
            if nodes.status(i as usize) == Status::Open {
                (open, needed) = (open + 1, place + 1);
            }
        }
        width.max(needed)
    }

    /// Where endpoint `i` stands in the order.
    pub(super) fn rank(&self, i: usize) -> usize {
        self.rank.get(i).map_or(usize::MAX, |rank| *rank as usize)
    }
}
