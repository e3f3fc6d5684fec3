//! Subsets for all peers at once, so that each server is in about as many of them.

use super::Peer;
use crate::strategy::{
    Candidates,
    aperture::layout::{by_position, position},
};

/// All endpoints, those of this peer's subset first.
pub(super) fn matching(nodes: &dyn Candidates, size: usize, peer: Peer) -> Vec<u32> {
    let order = by_position(nodes, peer.ordinal() as u64);
    if size >= order.len() {
        return order;
    }
    let ids: Vec<u64> = (0..nodes.len()).map(|i| nodes.id(i)).collect();
    let mut chosen = vec![false; ids.len()];
    for &i in &assign(&ids, size, peer.total())[peer.ordinal()] {
        chosen[i as usize] = true;
    }
    let (mut inside, outside): (Vec<u32>, Vec<u32>) = order.into_iter().partition(|i| chosen[*i as usize]);
    inside.extend(outside);
    inside
}

struct Limits { floor: f64, cap: f64 }

/// For each of `total` peers the indices of its servers.
fn assign(ids: &[u64], size: usize, total: usize) -> Vec<Vec<u32>> {
    let floor: f64 = std::env::var("FLOOR").ok().and_then(|x| x.parse().ok()).unwrap_or(0.85);
    let cap: f64 = std::env::var("CAP").ok().and_then(|x| x.parse().ok()).unwrap_or(1.12);
    assign_with(ids, size, total, Limits { floor, cap })
}

fn assign_with(ids: &[u64], size: usize, total: usize, lim: Limits) -> Vec<Vec<u32>> {
    let mut pairs: Vec<(u64, u32, u32)> = Vec::with_capacity(ids.len() * total);
    for c in 0..total as u32 {
        for (j, &id) in (0..).zip(ids) {
            pairs.push((position(u64::from(c), id), c, j));
        }
    }
    pairs.sort_unstable();
    let mean = total as f64 * size as f64 / ids.len() as f64;
    let unit = |j: u32| crate::rng::unit(position(u64::MAX, ids[j as usize]));
    let floors: Vec<usize> = (0..ids.len() as u32).map(|j| (mean * lim.floor + unit(j)).floor() as usize).collect();
    let caps: Vec<usize> = (0..ids.len() as u32).map(|j| (mean * lim.cap + unit(j)).floor() as usize).collect();
    let mut rows = vec![Vec::new(); total];
    let mut degree = vec![0_usize; ids.len()];
    for limit in [Some(&floors), Some(&caps), None] {
        pairs.retain(|&(_, c, j)| {
            let row = &mut rows[c as usize];
            if row.len() >= size { return false; }
            if limit.is_some_and(|l| degree[j as usize] >= l[j as usize]) { return true; }
            row.push(j);
            degree[j as usize] += 1;
            false
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn explore() {
        for (fl, cp) in [(0.85, 1.12), (0.9, 1.1), (0.8, 1.15), (0.9, 1.2), (0.87, 1.15), (0.0, 9.0)] {
        for size in [6, 10, 15, 20, 30, 50, 75, 100, 150] {
            let lim = || Limits { floor: fl, cap: cp };
            let mut worst: f64 = 0.0; let mut churn: f64 = 0.0; let mut sum = 0.0;
            let runs = 3;
            for seed in 0..runs {
                let ids: Vec<u64> = (0..300).map(|i| position(seed, i)).collect();
                let rows = assign_with(&ids, size, 200, lim());
                let mut d = vec![0; 300];
                rows.iter().flatten().for_each(|j| d[*j as usize] += 1);
                worst = worst.max(f64::from(*d.iter().max().unwrap()) / f64::from(*d.iter().min().unwrap()));
                let fewer = assign_with(&ids[..299], size, 200, lim());
                let moved: usize = rows.iter().zip(&fewer).map(|(a, b)| { let a: HashSet<_> = a.iter().collect(); b.iter().filter(|j| !a.contains(j)).count() }).sum();
                let c = moved as f64 / (200 * size) as f64 * 300.0;
                churn = churn.max(c); sum += c;
            }
            println!("fl {fl} cp {cp} size {size}: ratio {worst:.2} churn/N max {churn:.2} mean {:.2}", sum / runs as f64);
        }}
    }
}
