//! Counts what happened.

use crate::{
    model::{Key, Nanos},
    watch::{Ended, Outcome, Picked, Watch},
};

/// Picks of each endpoint, and the ends of requests, from one instant to another.
#[derive(Debug)]
pub(crate) struct Tally {
    from: Nanos,
    to: Nanos,
    pub(crate) picks: Vec<u64>,
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    latencies: Vec<Nanos>,
}

impl Tally {
    /// Counts what is picked, and what began, from `from` to just before `to`.
    pub(crate) fn new(endpoints: usize, from: Nanos, to: Nanos) -> Self {
        Self { from, to, picks: vec![0; endpoints], successes: 0, failures: 0, latencies: Vec::new() }
    }

    pub(crate) fn total(&self) -> u64 {
        self.picks.iter().sum()
    }

    /// The share of picks that met `key`.
    pub(crate) fn share(&self, key: Key) -> f64 {
        self.picks[key as usize] as f64 / self.total().max(1) as f64
    }

    /// The latency that so many of a thousand requests did not exceed.
    pub(crate) fn percentile(&mut self, per_mille: usize) -> Nanos {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((self.latencies.len() * per_mille / 1000).min(last)).copied().unwrap_or(0)
    }
}

impl Watch for Tally {
    fn picked(&mut self, picked: Picked) {
        if (self.from..self.to).contains(&picked.now) {
            self.picks[picked.key as usize] += 1;
        }
    }

    fn ended(&mut self, ended: Ended) {
        if !(self.from..self.to).contains(&ended.begun) || ended.outcome == Outcome::Cancelled {
            return;
        }
        self.latencies.push(ended.now - ended.begun);
        if ended.outcome == Outcome::Success {
            self.successes += 1;
        } else {
            self.failures += 1;
        }
    }
}
