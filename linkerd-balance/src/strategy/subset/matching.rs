//! Subsets for all peers at once, so that each server is in about as many of them.

use super::Peer;
use crate::strategy::{
    Candidates,
    aperture::layout::{by_position, position},
    spread,
};

/// About how many pairs of a peer and a server are weighed at most, unless there are more servers: 4 MiB for as long as
/// an update takes. Peers beyond that are dealt out to several matchings.
const MAX_PAIRS: usize = 1 << 18;

/// All endpoints, those of this peer's subset first.
pub(super) fn matching(nodes: &dyn Candidates, size: usize, peer: Peer) -> Vec<u32> {
    let order = by_position(nodes, peer.ordinal() as u64);
    if size >= order.len() {
        return order;
    }
    let ids: Vec<u64> = (0..nodes.len()).map(|i| nodes.id(i)).collect();
    let (peers, own) = peers_of_one_matching(peer, ids.len());
    let mut chosen = vec![false; ids.len()];
    for &i in &assign(&ids, size, &peers)[own] {
        chosen[i as usize] = true;
    }
    let (mut inside, outside): (Vec<u32>, Vec<u32>) = order.into_iter().partition(|i| chosen[*i as usize]);
    inside.extend(outside);
    inside
}

/// The ordinals that are matched together with this peer's, and where it is among them.
fn peers_of_one_matching(peer: Peer, servers: usize) -> (Vec<u64>, usize) {
    let (ordinal, total) = (peer.ordinal(), peer.total());
    // In 128 bits there is room for any product.
    let pairs = total as u128 * coarse(servers) as u128;
    let matchings = pairs.div_ceil(MAX_PAIRS as u128).clamp(1, total as u128) as usize;
    let peers = (ordinal % matchings..total).step_by(matchings).map(|peer| peer as u64).collect();
    (peers, ordinal / matchings)
}

/// For each of the peers the indices of its servers: `size` of them, fewer than there are servers.
///
/// Every pair of a peer and a server has a number by hash. Beginning with the lowest, pairs are taken while the peer
/// has room: in a first pass only while the server is in fewer than `floor` subsets, in a second while it is in fewer
/// than `cap`. Since a pair yields only to lower numbers, a server that comes or goes moves little besides its own
/// pairs.
fn assign(ids: &[u64], size: usize, peers: &[u64]) -> Vec<Vec<u32>> {
    let pairs = (0_u32..)
        .zip(peers)
        .flat_map(|(row, &peer)| (0_u32..).zip(ids).map(move |(server, id)| (position(peer, *id), (row, server))));
    let wanted = peers.len() as u128 * size as u128;
    let mean = wanted.div_ceil(ids.len() as u128) as usize;
    // 0.85 of the mean, rounded: a tighter floor would be dearer to keep when servers come and go.
    let nominal = coarse(ids.len()) as u128;
    let floor = ((17 * wanted + 10 * nominal) / (20 * nominal)) as usize;
    let cap = (floor + floor / 2).max(mean + 1);
    let mut taken = Taken {
        size,
        rows: vec![Vec::with_capacity(size); peers.len()],
        degrees: vec![0; ids.len()],
        has_room: peers.len(),
    };
    // No server is in fewer than no subsets.
    let first = if floor == 0 { cap } else { floor };
    let mut refused = Vec::new();
    spread::each(ids.len() * peers.len(), pairs, |(_, pair)| {
        if taken.refuses(first, pair) {
            refused.push(pair);
        }
        taken.has_room > 0
    });
    // The last pass is for peers whose remaining servers are all at the cap, as happens where the mean is small.
    for limit in [cap, usize::MAX] {
        refused.retain(|pair| taken.refuses(limit, *pair));
    }
    taken.rows
}

/// What an assignment has come to so far.
struct Taken {
    size: usize,
    rows: Vec<Vec<u32>>,
    // In how many subsets each server is.
    degrees: Vec<usize>,
    // How many rows are not full.
    has_room: usize,
}

impl Taken {
    /// Takes a pair, if there is room in its row. True: not if its server is to be in no more subsets than this.
    fn refuses(&mut self, limit: usize, (row, server): (u32, u32)) -> bool {
        let (row, degree) = (&mut self.rows[row as usize], &mut self.degrees[server as usize]);
        if row.len() == self.size || *degree >= limit {
            return row.len() < self.size;
        }
        row.push(server);
        *degree += 1;
        self.has_room -= usize::from(row.len() == self.size);
        false
    }
}

/// `n`, but for all but its four highest bits: what follows from it changes only once in 6 to 12 % of growth.
fn coarse(n: usize) -> usize {
    let low = usize::BITS.saturating_sub(n.leading_zeros() + 4);
    let kept = n >> low << low;
    // In the middle of those that are now alike.
    kept + (1 << low >> 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const CLIENTS: usize = 200;
    const SERVERS: usize = 300;

    fn ids(seed: u64, n: usize) -> Vec<u64> {
        (0..n as u64).map(|i| position(seed, i)).collect()
    }

    fn all(ids: &[u64], size: usize, clients: usize) -> Vec<Vec<u32>> {
        let peers: Vec<u64> = (0..clients as u64).collect();
        assign(ids, size, &peers)
    }

    fn ratio(rows: &[Vec<u32>], servers: usize) -> f64 {
        let mut degrees = vec![0_u32; servers];
        rows.iter().flatten().for_each(|server| degrees[*server as usize] += 1);
        f64::from(*degrees.iter().max().unwrap()) / f64::from(*degrees.iter().min().unwrap())
    }

    /// Connections made anew, in parts of all there are. Both index the same servers.
    fn moved(before: &[Vec<u32>], after: &[Vec<u32>]) -> f64 {
        let new = |(before, after): (&Vec<u32>, &Vec<u32>)| {
            let before: HashSet<_> = before.iter().collect();
            after.iter().filter(|server| !before.contains(server)).count()
        };
        let new: usize = before.iter().zip(after).map(new).sum();
        new as f64 / after.iter().flatten().count() as f64
    }

    #[test]
    fn each_server_has_as_many_clients_and_one_more_or_less_moves_few() {
        for size in [12, 15, 20, 21, 25, 33, 50, 75, 100, 150] {
            let ids = ids(size as u64, SERVERS + 1);
            let fewer = all(&ids[..SERVERS - 1], size, CLIENTS);
            let rows = all(&ids[..SERVERS], size, CLIENTS);
            let more = all(&ids, size, CLIENTS);
            for (rows, servers) in [(&fewer, SERVERS - 1), (&rows, SERVERS), (&more, SERVERS + 1)] {
                assert!(rows.iter().all(|row| row.iter().collect::<HashSet<_>>().len() == size));
                assert!(ratio(rows, servers) <= 1.5, "{size} of {servers}: {}", ratio(rows, servers));
            }
            for (before, after, what) in [(&rows, &fewer, "removed"), (&rows, &more, "added")] {
                let moved = moved(before, after) * SERVERS as f64;
                assert!(moved <= 2.0, "{size}, one {what}: {moved}/N");
            }
        }
    }

    /// As it is defined.
    fn plainly(ids: &[u64], size: usize, peers: &[u64]) -> Vec<Vec<u32>> {
        let row = |(row, peer): (u32, &u64)| {
            (0_u32..).zip(ids).map(|(server, id)| (position(*peer, *id), row, server)).collect::<Vec<_>>()
        };
        let mut pairs: Vec<_> = (0_u32..).zip(peers).flat_map(row).collect();
        pairs.sort_unstable();
        let wanted = peers.len() * size;
        let nominal = coarse(ids.len());
        let floor = (17 * wanted + 10 * nominal) / (20 * nominal);
        let (mut rows, mut degrees) = (vec![Vec::new(); peers.len()], vec![0; ids.len()]);
        for limit in [floor, (floor + floor / 2).max(wanted.div_ceil(ids.len()) + 1), usize::MAX] {
            for (_, row, server) in &pairs {
                let (row, degree) = (&mut rows[*row as usize], &mut degrees[*server as usize]);
                if row.len() < size && *degree < limit && !row.contains(server) {
                    row.push(*server);
                    *degree += 1;
                }
            }
        }
        rows
    }

    #[test]
    fn what_is_left_out_of_the_sort_is_nothing_that_counts() {
        for (clients, servers, size) in [(1, 5, 4), (3, 300, 1), (7, 10, 9), (20, 300, 3), (20, 300, 100), (50, 60, 59)]
        {
            let (ids, peers) = (ids(7, servers), (0..clients as u64).collect::<Vec<_>>());
            assert_eq!(assign(&ids, size, &peers), plainly(&ids, size, &peers), "{clients} {servers} {size}");
        }
    }

    #[test]
    fn what_follows_from_the_number_of_servers_changes_seldom() {
        assert_eq!([0, 1, 15, 16, 17, 18].map(coarse), [0, 1, 15, 17, 17, 19]);
        let steps = (100..1_000).filter(|n| coarse(*n) != coarse(n + 1)).count();
        assert_eq!(steps, 27, "not in 900 steps, but in one of 6 to 12 %");
        assert!((288..320).all(|n| coarse(n) == 304));
    }

    #[test]
    fn many_peers_are_dealt_out_to_several_matchings() {
        let peers = |ordinal, total, servers| peers_of_one_matching(Peer::new(ordinal, total).unwrap(), servers);
        assert_eq!(peers(7, 200, 300), ((0..200).collect(), 7));
        let (these, own) = peers(1_234, 5_000, 1_000);
        assert!(these.len() * coarse(1_000) <= MAX_PAIRS && these.len() > 200, "{}", these.len());
        assert_eq!(these[own], 1_234);
        // Every peer finds itself, among the same ones as each of them does.
        for &peer in &these {
            assert_eq!(peers(peer as usize, 5_000, 1_000).0, these);
        }
        assert_eq!(peers(3, 9, usize::MAX), (vec![3], 0));
        assert_eq!(peers(3, usize::MAX, usize::MAX).0.first(), Some(&3));
    }

    #[test]
    fn sizes_too_small_to_be_even_are_filled_all_the_same() {
        for (clients, servers, size) in [(1, 5, 4), (3, 300, 1), (7, 10, 9), (200, 300, 1), (200, 300, 299)] {
            let rows = all(&ids(1, servers), size, clients);
            assert!(rows.iter().all(|row| row.iter().collect::<HashSet<_>>().len() == size), "{clients} {servers}");
        }
    }
}
