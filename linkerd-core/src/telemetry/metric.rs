//! Handles that a request touches: a counter and a gauge.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

/// A number that only grows. A clone counts on the same number.
///
/// `Counter::default()` is one that nobody reads: what an engine without a registry counts on.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// A whole number that goes up and down. A clone shows the same number.
///
/// For what is not whole, or costs too much to keep up to date, there is [`Scope::gauge_fn`](super::Scope::gauge_fn).
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Counter {
    /// Adds one.
    pub fn incr(&self) {
        self.add(1);
    }

    /// Adds `n`. Wraps at 2^64.
    pub fn add(&self, n: u64) {
        // Relaxed: a count orders nothing else.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        // Relaxed: see `add`.
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// Sets the number.
    pub fn set(&self, value: i64) {
        // Relaxed: a gauge orders nothing else.
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        // Relaxed: see `set`.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn incr(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn decr(&self) {
        self.add(-1);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> i64 {
        // Relaxed: see `set`.
        self.0.load(Ordering::Relaxed)
    }
}
