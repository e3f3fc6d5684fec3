//! The endpoints of a balancer at one moment, and how strategies see them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    health::{Health, Status},
    lease::Tracked,
    strategy::{Candidates, Strategy},
    weight::Weights,
};

/// Swapped whole: nodes, their weights, and a strategy that was made for just these.
pub(crate) struct Set<K, S> {
    pub(crate) nodes: Vec<Slot<K, S>>,
    pub(crate) weights: Weights,
    pub(crate) strategy: Arc<dyn Strategy>,
}

pub(crate) struct Slot<K, S> {
    pub(crate) node: Arc<Node<K, S>>,
    pub(crate) weight: f64,
}

pub(crate) struct Node<K, S> {
    // Not the node itself: a body that is still being read must not keep a removed endpoint's stack alive.
    pub(crate) tracked: Arc<Tracked<K>>,
    pub(crate) id: u64,
    pub(crate) health: Health,
    pub(crate) svc: S,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) adds: AtomicU64,
    pub(crate) removes: AtomicU64,
    pub(crate) updates: AtomicU64,
    pub(crate) rebuilds: AtomicU64,
    pub(crate) max_effort_exhausted: AtomicU64,
}

/// A set as one pick sees it.
pub(crate) struct View<'a, K, S> {
    set: &'a Set<K, S>,
    now: Instant,
    exclude: &'a [K],
    counts: &'a Counts,
}

impl<K, S> Set<K, S> {
    pub(crate) fn view<'a>(&'a self, now: Instant, exclude: &'a [K], counts: &'a Counts) -> View<'a, K, S> {
        View { set: self, now, exclude, counts }
    }
}

impl<K: Eq, S> View<'_, K, S> {
    pub(crate) fn is_excluded(&self, i: usize) -> bool {
        !self.exclude.is_empty() && self.exclude.contains(&self.set.nodes[i].node.tracked.key)
    }
}

impl<K: Eq, S> Candidates for View<'_, K, S> {
    fn len(&self) -> usize {
        self.set.nodes.len()
    }

    fn status(&self, i: usize) -> Status {
        // Excluded ones look closed, so that every strategy avoids them without knowing of them.
        if self.is_excluded(i) { Status::Closed } else { self.set.nodes[i].node.health.status(self.now) }
    }

    fn load(&self, i: usize, more: usize) -> f64 {
        self.set.nodes[i].node.tracked.load.score(self.now, self.set.weights.relative(i), more)
    }

    fn weight(&self, i: usize) -> f64 {
        self.set.nodes[i].weight
    }

    fn draw(&self, random: u64) -> usize {
        self.set.weights.draw(random)
    }

    fn id(&self, i: usize) -> u64 {
        self.set.nodes[i].node.id
    }

    fn pending(&self, i: usize) -> usize {
        self.set.nodes[i].node.tracked.load.pending()
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn gave_up(&self) {
        self.counts.max_effort_exhausted.fetch_add(1, Ordering::Relaxed);
    }
}
