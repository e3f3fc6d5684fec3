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

/// One more in a [`Gauge`], until it is dropped.
#[derive(Debug)]
#[must_use = "it counts until it is dropped"]
pub struct Entered<'a>(&'a Gauge);

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

    /// Catches up with a count that is kept elsewhere. It never goes back.
    pub(crate) fn advance_to(&self, count: u64) {
        // Relaxed: as in `incr`.
        self.0.fetch_max(count, Ordering::Relaxed);
    }

    /// Whether nobody else has it.
    #[cfg(feature = "config")]
    pub(super) fn is_free(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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

    /// Whether nobody else has it.
    #[cfg(feature = "config")]
    pub(super) fn is_free(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Sets the number to a count; one that is too large for a gauge to the largest there is.
    pub(crate) fn set_count(&self, count: u64) {
        self.set(i64::try_from(count).unwrap_or(i64::MAX));
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

    /// Adds one until what is returned is dropped.
    pub fn enter(&self) -> Entered<'_> {
        self.incr();
        Entered(self)
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> i64 {
        // Relaxed: see `set`.
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.decr();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_the_same_number() {
        let counter = Counter::default();
        counter.clone().add(3);
        assert_eq!(counter.get(), 3);
        let gauge = Gauge::default();
        gauge.clone().set(5);
        let entered = gauge.enter();
        assert_eq!(gauge.get(), 6);
        drop(entered);
        assert_eq!(gauge.get(), 5);
    }
}
