//! Endpoints as a strategy sees them, and random bits.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use linkerd_balance::{Candidates, Draw, Status, Strategy};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SEC: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) ids: Vec<u64>,
    pub(crate) status: Vec<Status>,
    pub(crate) weight: Vec<f64>,
    pub(crate) pending: Vec<usize>,
    pub(crate) now: Instant,
    pub(crate) gave_up: Cell<usize>,
}

impl World {
    /// `n` endpoints, open, idle, of weight 1.
    pub(crate) fn new(n: usize) -> Self {
        Self {
            // Any numbers that differ.
            ids: (0..n as u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xABCD).collect(),
            status: vec![Status::Open; n],
            weight: vec![1.0; n],
            pending: vec![0; n],
            now: tokio::time::Instant::now().into_std(),
            gave_up: Cell::new(0),
        }
    }

    /// Ids of those in use.
    pub(crate) fn used(&self, strategy: &dyn Strategy) -> Vec<u64> {
        let mut used: Vec<_> = (0..self.len()).filter(|i| strategy.uses(self, *i)).map(|i| self.ids[i]).collect();
        used.sort_unstable();
        used
    }

    /// Without endpoint `i`.
    pub(crate) fn without(&self, i: usize) -> Self {
        let mut fewer = self.clone();
        fewer.ids.remove(i);
        fewer.status.remove(i);
        fewer.weight.remove(i);
        fewer.pending.remove(i);
        fewer
    }

    pub(crate) fn bind(&self, strategy: &dyn Strategy) -> Arc<dyn Strategy> {
        strategy.rebuild(self).expect("made for each set")
    }
}

impl Candidates for World {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn status(&self, i: usize) -> Status {
        self.status[i]
    }

    fn load(&self, i: usize, more: usize) -> f64 {
        (self.pending[i] + more) as f64 / self.weight[i]
    }

    fn weight(&self, i: usize) -> f64 {
        self.weight[i]
    }

    fn id(&self, i: usize) -> u64 {
        self.ids[i]
    }

    fn pending(&self, i: usize) -> usize {
        self.pending[i]
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn gave_up(&self) {
        self.gave_up.set(self.gave_up.get() + 1);
    }
}

/// Random bits that are the same in every run: xorshift64*, so that they owe nothing to the crate's own generator.
pub(crate) fn draws() -> impl Iterator<Item = Draw> {
    let mut x = 0x2545_F491_4F6C_DD1D_u64;
    std::iter::repeat_with(move || {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        Draw::new(x.wrapping_mul(0x2545_F491_4F6C_DD1D))
    })
}

/// The sum over those with any expectation, to be compared with the 99 % point of its degrees of freedom.
pub(crate) fn chi_square(seen: &[u32], weights: &[f64]) -> f64 {
    let (picks, total) = (f64::from(seen.iter().sum::<u32>()), weights.iter().sum::<f64>());
    let term = |(seen, weight): (&u32, &f64)| {
        let expected = picks * weight / total;
        (f64::from(*seen) - expected).powi(2) / expected
    };
    seen.iter().zip(weights).map(term).sum()
}

/// Of a number of connections for each server, the most by the least.
pub(crate) fn ratio(connections: &[u32]) -> f64 {
    f64::from(*connections.iter().max().unwrap()) / f64::from(*connections.iter().min().unwrap())
}

/// Connections made anew, times `n`, in parts of all there are.
pub(crate) fn moved(before: &[Vec<u64>], after: &[Vec<u64>], n: usize) -> f64 {
    let new = |(before, after): (&Vec<u64>, &Vec<u64>)| after.iter().filter(|id| !before.contains(id)).count();
    let new: usize = before.iter().zip(after).map(new).sum();
    new as f64 / after.iter().flatten().count() as f64 * n as f64
}

/// How many of these have each of the servers.
pub(crate) fn connections(world: &World, used: &[Vec<u64>]) -> Vec<u32> {
    let of = |id| used.iter().filter(|used| used.contains(id)).count() as u32;
    world.ids.iter().map(of).collect()
}
