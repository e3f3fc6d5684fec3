//! Counters that a layer writes and anybody reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// How many requests needed how many more attempts, in powers of two.
#[derive(Debug, Default)]
pub(crate) struct PerRequest([Counter; PER_REQUEST_BUCKETS]);

/// How many counts the `per_request` statistics have.
///
/// The first counts requests that were sent once. The one at index `i` counts those that were sent again at least
/// 2^(i-1) times, but less than 2^i: 1, 2 to 3, 4 to 7, and so on. The last has no upper end: 128 times or more.
pub const PER_REQUEST_BUCKETS: usize = 9;

impl Counter {
    pub(crate) fn add_one(&self) {
        // Relaxed: a statistic, which orders nothing.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        // Relaxed: as above.
        self.0.load(Ordering::Relaxed)
    }
}

impl PerRequest {
    pub(crate) fn record(&self, again: u32) {
        let bucket = (u32::BITS - again.leading_zeros()) as usize;
        self.0[bucket.min(PER_REQUEST_BUCKETS - 1)].add_one();
    }

    /// Those that were sent once.
    pub(crate) fn first(&self) -> u64 {
        self.0[0].get()
    }

    pub(crate) fn get(&self) -> [u64; PER_REQUEST_BUCKETS] {
        std::array::from_fn(|i| self.0[i].get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        let per_request = PerRequest::default();
        for again in [0, 1, 2, 3, 4, 7, 8, 64, 127, 128, u32::MAX] {
            per_request.record(again);
        }
        assert_eq!(per_request.get(), [1, 1, 2, 2, 1, 0, 0, 2, 2]);
    }
}
