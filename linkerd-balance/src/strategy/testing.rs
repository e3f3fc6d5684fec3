//! Candidates that tests write as they like.

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use proptest::{prelude::*, strategy::Strategy as _};

use super::{Candidates, Draw, Strategy};
use crate::{
    health::Status::{self, Busy, Closed, Open},
    rng::SplitMix,
};

/// Endpoints whose every number is a field.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    pub(crate) id: Vec<u64>,
    pub(crate) status: Vec<Status>,
    pub(crate) load: Vec<f64>,
    pub(crate) pending: Vec<usize>,
    pub(crate) weight: Vec<f64>,
    /// How much of the weight counts by now, as while an endpoint starts slowly.
    pub(crate) started: Vec<f64>,
    pub(crate) excluded: Vec<usize>,
    pub(crate) now: Instant,
    pub(crate) gave_up: Cell<usize>,
    pub(crate) both_idle: Cell<u64>,
    /// What `draw` gives, last first, before chance does.
    pub(crate) script: RefCell<Vec<usize>>,
}

impl Nodes {
    /// Idle endpoints of weight 1 with ids that look like hashes.
    pub(crate) fn new(status: &[Status]) -> Self {
        let n = status.len();
        Self {
            id: (0..n as u64).map(|i| SplitMix::new(i).next()).collect(),
            status: status.to_vec(),
            load: vec![0.0; n],
            pending: vec![0; n],
            weight: vec![1.0; n],
            started: vec![1.0; n],
            excluded: Vec::new(),
            now: tokio::time::Instant::now().into_std(),
            gave_up: Cell::new(0),
            both_idle: Cell::new(0),
            script: RefCell::default(),
        }
    }

    pub(crate) fn open(n: usize) -> Self {
        Self::new(&vec![Open; n])
    }

    pub(crate) fn weighted(weights: &[f64]) -> Self {
        Self { weight: weights.to_vec(), ..Self::open(weights.len()) }
    }

    /// Without endpoint `i`.
    pub(crate) fn without(&self, i: usize) -> Self {
        let mut rest = self.clone();
        rest.id.remove(i);
        rest.status.remove(i);
        rest.load.remove(i);
        rest.pending.remove(i);
        rest.weight.remove(i);
        rest.started.remove(i);
        rest
    }

    /// How often each is picked in so many picks, with loads and statuses left as they are.
    pub(crate) fn picks(&self, strategy: &dyn Strategy, picks: usize) -> Vec<usize> {
        let mut seen = vec![0; self.len()];
        let mut rng = SplitMix::new(7);
        for _ in 0..picks {
            seen[strategy.pick(self, Draw::new(rng.next()))] += 1;
        }
        seen
    }

    /// Whether `i` is among the best there is.
    pub(crate) fn is_best(&self, i: usize) -> bool {
        Some(self.status(i)) == (0..self.len()).map(|i| self.status(i)).max()
    }
}

impl Candidates for Nodes {
    fn len(&self) -> usize {
        self.status.len()
    }

    fn status(&self, i: usize) -> Status {
        if self.excluded(i) { Closed } else { self.status[i] }
    }

    fn load(&self, i: usize, more: usize) -> f64 {
        self.load[i] + more as f64
    }

    fn weight(&self, i: usize) -> f64 {
        self.weight[i] * self.started[i]
    }

    fn full_weight(&self, i: usize) -> f64 {
        self.weight[i]
    }

    fn id(&self, i: usize) -> u64 {
        self.id[i]
    }

    fn pending(&self, i: usize) -> usize {
        self.pending[i]
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn excluded(&self, i: usize) -> bool {
        self.excluded.contains(&i)
    }

    fn draw(&self, random: u64) -> usize {
        if let Some(i) = self.script.borrow_mut().pop() {
            return i;
        }
        let all = |i| Some((Open, self.weight(i)));
        super::best_by_weight(self.len(), all, random).unwrap_or(0)
    }

    fn gave_up(&self) {
        self.gave_up.set(self.gave_up.get() + 1);
    }

    fn both_idle(&self, picks: u64) {
        self.both_idle.set(self.both_idle.get() + picks);
    }
}

/// Sets of 1 to 40 in any condition.
pub(crate) fn any_nodes() -> impl proptest::strategy::Strategy<Value = Nodes> {
    let status = prop_oneof![Just(Open), Just(Busy), Just(Closed)];
    let one = (status, 0.0..1e9_f64, 1e-3..1e3_f64, 0..50_usize, prop_oneof![3 => Just(1.0), 1 => 0.01..1.0]);
    prop::collection::vec(one, 1..40).prop_map(|set| {
        let mut nodes = Nodes::open(set.len());
        for (i, (status, load, weight, pending, started)) in set.into_iter().enumerate() {
            nodes.status[i] = status;
            nodes.load[i] = load;
            nodes.weight[i] = weight;
            nodes.pending[i] = pending;
            nodes.started[i] = started;
        }
        nodes
    })
}
